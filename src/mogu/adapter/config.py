"""What an adapter folder says of itself, in `mogu_config.json`. Knows no tensors and no paths."""

import platform
from importlib.metadata import version
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from mogu.models import ModelIdentity

FORMAT_VERSION: Final = 1
"""The newest layout of the folder that this version reads, and the one that it writes."""

PartName = Literal["safe", "usable", "routers"]
"""What a folder may hold: the two variants, and the routers of token routing."""


class AdapterConfig(BaseModel):
    """The configuration of an adapter.

    Attributes:
        format_version: Layout of the folder.
        mogu_version: The version that wrote it.
        base: The model that it was trained on, and fits alone.
        parts: What the folder holds.
        projections: Names of the wrapped modules, in layer order.
        rank: LoRA rank of both variants.
        lora_alpha: LoRA scaling times rank.
        routed_tokens: How many reply tokens are sampled from routed logits (the paper's m); 0 is the base.
        routed_prompt_tokens: How many of the last prompt tokens are routed; None is all, as in the paper.
        weights: How the weights of the variants come about.
        training: Every setting of the training.
        versions: Package versions at training time, by name.
        metrics: What was measured, nested as the measurer likes; shown in the model card.
        created: ISO date.
    """

    model_config = ConfigDict(extra="forbid")

    format_version: Literal[1] = FORMAT_VERSION
    mogu_version: str
    base: ModelIdentity
    parts: list[PartName]
    projections: list[str] = Field(min_length=1)
    rank: int = Field(ge=1)
    lora_alpha: float = Field(gt=0)
    routed_tokens: int = Field(ge=0)
    routed_prompt_tokens: int | None = Field(ge=0)
    weights: Literal["token"] = "token"
    training: dict[str, Any]
    versions: dict[str, str]
    metrics: dict[str, Any]
    created: str


def package_versions() -> dict[str, str]:
    """The versions, here and now, of everything that the result of a training depends on."""
    packages = {"mogu": "mogu-llm"} | {name: name for name in ("torch", "transformers", "peft")}
    return {"python": platform.python_version()} | {name: version(dist) for name, dist in packages.items()}
