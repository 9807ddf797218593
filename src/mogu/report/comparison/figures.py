"""All figures of a comparison: what report.json holds and every table and plot shows."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple

from mogu.evaluation.rows import Cost
from mogu.report.comparison.front import Standing
from mogu.report.comparison.intervals import Difference
from mogu.report.comparison.judging import Contrast
from mogu.share import Share

Label = Literal["malicious", "benign"]
LABELS: Final[tuple[Label, ...]] = ("malicious", "benign")

BASE = "none"
"""The defense that the others are compared with."""

OURS = "mogu"
"""The defense that thresholds are for."""

STREAM = 10_000
"""Benign prompts in the stream that false alarms are counted in."""


class Measure(NamedTuple):
    """What another judge gave: the mean, None if it judged nothing, and how many it judged and did not."""

    mean: float | None
    judged: int
    unjudged: int


@dataclass(frozen=True)
class Cell:
    """The replies of one defense to one set, or to several that weigh equally.

    Shares and means are None where there is nothing to take them of. Those of lengths and of repetition are
    over all replies, refusals among them.

    Attributes:
        sets: the sets with replies that it is made of.
        replies: there are.
        errors: prompts without a reply.
        why: why there are no replies; empty if there are some.
        refused: share that still refuses at its end.
        opens: share that opens with a refusal's keywords.
        opens_only: replies with keywords that do not refuse to their end.
        holds_only: replies that refuse to their end without keywords.
        flagged: share of replies in which the defense stepped in.
        difference: `refused` less the base's, over the prompts that both answered; None for the base itself.
        measures: what other judges gave, by judge and name.
        tokens: mean length.
        repetition: mean share of repeated 4-grams of words, 0 to 1.
        broken: share that is empty or mostly repeats itself.
        identical: share that is the base's, character for character; None for the base itself.
    """

    sets: int
    replies: int
    errors: int
    why: str = ""
    refused: Share | None = None
    opens: Share | None = None
    opens_only: int = 0
    holds_only: int = 0
    flagged: Share | None = None
    difference: Difference | None = None
    measures: Mapping[str, Measure] | None = None
    tokens: float | None = None
    repetition: float | None = None
    broken: float | None = None
    identical: float | None = None


class FalseAlarms(NamedTuple):
    """Benign prompts at which a defense stepped in or that it refused, though the base did not refuse.

    Every prompt counts once, so that the sets are mixed by their sizes.

    Attributes:
        per_10000: of 10,000 benign prompts.
        high: upper end of the 95% Wilson interval of it.
        refused: those of them that were refused, of 10,000.
        prompts: that it was counted on.
    """

    per_10000: float
    high: float
    refused: float
    prompts: int


class Separation(NamedTuple):
    """How well a defense's score tells malicious prompts from benign ones: AUROCs, 0 to 1.

    Attributes:
        overall: mean over all pairs of a malicious and a benign set.
        malicious: each malicious set against the benign sets, which weigh equally.
        benign: each benign set against the malicious sets.
    """

    overall: float
    malicious: dict[str, float]
    benign: dict[str, float]


@dataclass(frozen=True)
class Defended:
    """One defense.

    Attributes:
        paper: where it was described; empty if nobody said.
        cost: what it cost; None if unknown.
        speed: tokens per second; None if unknown.
        malicious: all malicious sets together.
        benign: all benign sets together.
        sets: the cells, by label and set.
        false_alarms: None without a base to compare with.
        scores: by label and set, in ascending order; sets without scores are missing.
        separation: None where it gave no scores to one of the two labels.
        divergence: by benign set, mean KL(base || defense) of the reply's first token, in nats; or why there is none.
        standing: on the front or not; None without refusals of both labels.
    """

    paper: str
    cost: Cost | None
    speed: float | None
    malicious: Cell
    benign: Cell
    sets: dict[Label, dict[str, Cell]]
    false_alarms: FalseAlarms | None
    scores: dict[Label, dict[str, list[float]]]
    separation: Separation | None
    divergence: dict[str, float] | str
    standing: Standing | None

    def pooled(self, label: Label) -> Cell:
        """All sets of one label together."""
        return self.malicious if label == "malicious" else self.benign


class Missing(NamedTuple):
    """Prompts of a set that a defense has no replies to, and why; ``prompts`` is None for all of them."""

    defense: str
    set: str
    why: str
    prompts: int | None


@dataclass(frozen=True)
class Figures:
    """All figures.

    Attributes:
        defenses: by name, the base first.
        sets: names of the sets of each label.
        has_base: whether there is a base to compare with.
        contrasts: by label, how the other judges' measures go with refusals, over all defenses.
        missing: everything that has no reply.
        facts: settings and versions, for people to read.
    """

    defenses: dict[str, Defended]
    sets: dict[Label, list[str]]
    has_base: bool
    contrasts: dict[Label, dict[str, Contrast]]
    missing: list[Missing]
    facts: dict[str, str]

    def titles(self, label: Label) -> dict[str, str]:
        """By set of the label, its name, with the label where there is such a set of the other one."""
        both = set(self.sets["malicious"]) & set(self.sets["benign"])
        return {name: f"{name} ({label})" if name in both else name for name in self.sets[label]}
