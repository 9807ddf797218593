"""The table of judges, and how they are made from the names that a user gives."""

from collections.abc import Sequence

from mogu.errors import MoguError
from mogu.judges.asking import AskingJudge
from mogu.judges.base import Judge
from mogu.judges.classifier import ClassifierJudge
from mogu.judges.endpoint import Endpoint, EndpointOptions
from mogu.judges.harmfulness import HarmfulnessJudge
from mogu.judges.refusals import RefusalJudge
from mogu.judges.rubric import StrongRejectJudge
from mogu.judges.usability import UsabilityJudge

JUDGES: dict[str, type[Judge]] = {
    judge.name: judge
    for judge in (RefusalJudge, StrongRejectJudge, HarmfulnessJudge, UsabilityJudge, ClassifierJudge)
}
"""All judges by name."""


def make_judges(
    names: Sequence[str], endpoint: EndpointOptions | None = None, device: str = "cpu"
) -> list[Judge]:
    """Make the judges that a user named. They share one endpoint, so they are closed together.

    Args:
        names: of `JUDGES`; a classifier's path stands after a colon, as in ``classifier:unitary/toxic-bert``.
        endpoint: for those that ask a model.
        device: for a classifier.

    Returns:
        The judges, in the order of their names.

    Raises:
        MoguError: If a name is unknown or given twice, or a judge lacks what it needs.
    """
    parts = [name.partition(":") for name in names]
    kinds = [_kind(name, argument) for name, _, argument in parts]
    for kind in kinds:
        if kinds.count(kind) > 1:
            raise MoguError(f"the judge {kind.name} is named more than once")
    asks = any(issubclass(kind, AskingJudge) for kind in kinds)
    shared = Endpoint(endpoint) if endpoint and asks else None
    return [
        _make(kind, argument, shared, device) for kind, (_, _, argument) in zip(kinds, parts, strict=True)
    ]


def _make(kind: type[Judge], argument: str, endpoint: Endpoint | None, device: str) -> Judge:
    if issubclass(kind, ClassifierJudge):
        return kind(argument, device)
    if issubclass(kind, AskingJudge):
        if endpoint is None:
            raise MoguError(
                f"the judge {kind.name} asks a model: give an endpoint's address and the model's name"
            )
        return kind(endpoint)
    return kind()


def _kind(name: str, argument: str) -> type[Judge]:
    kind = JUDGES.get(name)
    if kind is None:
        raise MoguError(f"no judge is called {name!r}; there are {', '.join(JUDGES)}")
    if bool(argument) != (kind is ClassifierJudge):
        wants = "needs a hub id or folder after a colon" if kind is ClassifierJudge else "takes no colon"
        raise MoguError(f"the judge {name} {wants}")
    return kind
