"""What an adapter folder says of itself, in `mogu_config.json`. Knows no tensors and no paths."""

import hashlib
import platform
from importlib.metadata import version
from typing import Any, Final, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field

from mogu.models import ModelIdentity
from mogu.turns import TurnMarks

FORMAT_VERSION: Final = 1
"""The newest layout of the folder that this version reads, and the one that it writes."""

PACKAGES: Final = ("torch", "transformers", "peft", "accelerate", "tokenizers", "safetensors", "scikit-learn")
"""What the result of a training depends on beside this package."""

PartName = Literal["safe", "usable", "routers", "gate"]
"""What a folder may hold: the two variants, the routers of token routing, the gate of sequence routing."""


class Thresholds(NamedTuple):
    """The probabilities, 0 to 1, from which on a gate refuses.

    Attributes:
        prompt: At the prompt's end.
        reply: At a token of the reply; None where replies are not read.
    """

    prompt: float
    reply: float | None

    def refuse(self, at_end: float, at_most: float) -> bool:
        """Whether a reply is refused, by the probability at the prompt's end and the highest one up to its own end."""
        return at_end >= self.prompt or (self.reply is not None and at_most >= self.reply)


class GateConfig(BaseModel):
    """What sequence routing needs beside tensors.

    Attributes:
        layers: Indices of the decoder layers whose outputs the gate reads.
        threshold: Calibrated probability, 0 to 1, from which on a reply is a refusal.
        reply_threshold: The same, while the reply is written; None does not read replies.
        marks: What the chat template writes between turns.
        break_ids: Token ids of the paragraph break that ends a reply which had begun.
        refusal_starts: Token ids that refusals begin with.
        refusal_beginnings: Token ids that refusals usually begin with, longer ones, at most one for each first token: a
            refusal behind a reply that had begun goes on as they do.
        barred_starts: Those of them that no answer begins with; none begins the usable variant's replies.
    """

    model_config = ConfigDict(extra="forbid")

    layers: list[int] = Field(min_length=1)
    threshold: float = Field(ge=0, le=1)
    reply_threshold: float | None = Field(default=None, ge=0, le=1)
    marks: TurnMarks
    break_ids: list[int]
    refusal_starts: list[int] = Field(min_length=1)
    refusal_beginnings: list[list[int]] = []
    barred_starts: list[int] = []

    def thresholds(self, chosen: float | None) -> Thresholds:
        """What is in force when a threshold is chosen in place of the gate's own; a reply is not read more sternly.

        Args:
            chosen: A probability, 0 to 1; None for the gate's own.
        """
        prompt = self.threshold if chosen is None else chosen
        return Thresholds(prompt, None if self.reply_threshold is None else max(prompt, self.reply_threshold))


class DataSource(BaseModel):
    """Where training had requests of one label from.

    Attributes:
        label: Whether they are to be refused (`malicious`) or answered (`benign`).
        source: `corpus`, or the name of a file or folder without its place, or a data set's id as it was given.
        sha256: Hex digest of their conversations, those of validation among them: each as JSON on a line, sorted.
        rows: How many there are.
    """

    model_config = ConfigDict(extra="forbid")

    label: Literal["malicious", "benign"]
    source: str
    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    rows: int = Field(ge=1)


class AdapterConfig(BaseModel):
    """The configuration of an adapter.

    Attributes:
        format_version: Layout of the folder.
        mogu_version: The version that wrote it.
        base: The model that it was trained on, and fits alone.
        parts: What the folder holds.
        chat_template: Text of the template that renders every prompt, in training as in use; None leaves the base
            tokenizer's own.
        projections: Names of the wrapped modules, in layer order.
        rank: LoRA rank of both variants.
        lora_alpha: LoRA scaling times rank.
        weights: How the weights of the variants come about: from each layer's router for each `token`, or from the gate
            for the whole `sequence`.
        routed_tokens: Of token routing, how many reply tokens are sampled from routed logits (the paper's m); 0 is the
            base, None the whole reply.
        routed_prompt_tokens: Of token routing, how many of the last prompt tokens are routed; None is all (paper).
        gate: Of sequence routing, how it decides.
        data: What it was trained on; empty where the folder does not say.
        training: Every setting of the training.
        dtype: The base's in training, such as `bfloat16`; None if it was not trained.
        projection: Path of the projection in a decoder layer, if it was given by hand.
        versions: Package versions at training time, by name.
        metrics: What was measured, nested as the measurer likes; shown in the model card.
        created: ISO date.
    """

    model_config = ConfigDict(extra="forbid")

    format_version: Literal[1] = FORMAT_VERSION
    mogu_version: str
    base: ModelIdentity
    parts: list[PartName]
    chat_template: str | None = None
    projections: list[str] = Field(min_length=1)
    rank: int = Field(ge=1)
    lora_alpha: float = Field(gt=0)
    weights: Literal["token", "sequence"]
    routed_tokens: int | None = Field(None, ge=0)
    routed_prompt_tokens: int | None = Field(None, ge=0)
    gate: GateConfig | None = None
    data: list[DataSource] = []
    training: dict[str, Any]
    dtype: str | None = None
    projection: str | None = None
    versions: dict[str, str]
    metrics: dict[str, Any]
    created: str

    @property
    def answerer(self) -> str:
        """Who writes what sequence routing does not refuse, as people are told."""
        return "the usable variant" if "usable" in self.parts else "the base"

    @property
    def sha256(self) -> str:
        """A digest of all that is said here: it tells one training or calibration from another."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()


def package_versions() -> dict[str, str]:
    """The versions, here and now, of everything that the result of a training depends on."""
    packages = {name: version(name) for name in PACKAGES}
    return {"python": platform.python_version(), "mogu": version("mogu-llm")} | packages
