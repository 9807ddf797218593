"""The rows of a comparison: one reply of one defense, with what every judge said of it. Needs no torch."""

from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True)
class Row:
    """One reply.

    Attributes:
        defense: who replied, as the user named it.
        set: name of the prompt set, such as ``advbench``.
        label: what the prompt is.
        id: of the prompt within its set; the same under every defense, and of a live attack's set that of the request.
        kind: what kind of prompt it is within its set, such as a group of frames; empty if the set has none.
        prompt: the last turn that waits for a reply.
        opener: how the caller began the reply; empty if not.
        reply: the reply's text, without the opener.
        tokens: tokens that were generated for it.
        seconds: that it took: its part of its batch's.
        flagged: whether the defense stepped in.
        score: how malicious the defense took the talk to be, 0 to 1; None where it has no opinion.
        verdicts: by judge, what it says by name, such as ``{"refusal": {"opens": 1.0, "holds": 0.0}}``; a judge
            that was not asked about such prompts, or could not parse its answer, is missing.
        error: why there is no reply; None if there is one.
    """

    defense: str
    set: str
    label: Literal["malicious", "benign"]
    id: str
    kind: str
    prompt: str
    opener: str
    reply: str
    tokens: int
    seconds: float = 0.0
    flagged: bool = False
    score: float | None = None
    verdicts: dict[str, dict[str, float]] = field(default_factory=dict)
    error: str | None = None


@dataclass(frozen=True)
class Cost:
    """What a defense cost in one run.

    Attributes:
        training_seconds: of all that was trained for it, in this run and in those before; None if nothing is.
        reply_seconds: of all replies.
        tokens: generated in them.
        memory: peak MiB of the process while it ran, less that before; None where it is unknown.
    """

    training_seconds: float | None
    reply_seconds: float
    tokens: int
    memory: float | None


@dataclass(frozen=True)
class Comparison:
    """Everything that a report shows.

    Attributes:
        rows: all replies.
        costs: by defense.
        papers: by defense, where it was described.
        divergence: by defense and benign set, the mean KL(base || defense) of the reply's first token, in nats; or of
            a defense why there is none.
        missing: by defense and set, why the cell is empty; both names, then the reason.
        facts: settings, seeds, versions, machine, and the command that reproduces it, for people to read.
    """

    rows: list[Row]
    costs: dict[str, Cost]
    papers: dict[str, str]
    divergence: dict[str, dict[str, float] | str]
    missing: list[tuple[str, str, str]]
    facts: dict[str, str]
