"""Named prompt sets that defenses are compared on: published ones, and the project's own test split.

A defense that refuses a style refuses harmless people who write in it: every attack style of the project's own has a
benign twin. A new set is one file and one line here.
"""

from mogu.errors import MoguError, no_such
from mogu.evaluation.sets.advbench import ADVBENCH
from mogu.evaluation.sets.base import PromptSet, Sample
from mogu.evaluation.sets.documents import OWN_DOCUMENTS, OWN_DOCUMENTS_BENIGN
from mogu.evaluation.sets.frames import OWN_FRAMES, OWN_FRAMES_BENIGN, OWN_INNOCENT_FRAMES
from mogu.evaluation.sets.harmbench import HARMBENCH
from mogu.evaluation.sets.jailbreakbench import JAILBREAKBENCH
from mogu.evaluation.sets.justeval import JUSTEVAL
from mogu.evaluation.sets.orbench import ORBENCH
from mogu.evaluation.sets.own import (
    OWN_ASKED_AGAIN,
    OWN_CHATS,
    OWN_CRESCENDO,
    OWN_DIRECT,
    OWN_EVERYDAY,
    OWN_FOLLOWUPS,
    OWN_LANGUAGES,
    OWN_LANGUAGES_BENIGN,
    OWN_LOOKALIKES,
)
from mogu.evaluation.sets.prefilled import PREFILLED, PREFILLED_BENIGN
from mogu.evaluation.sets.sap import SAP
from mogu.evaluation.sets.wild import WILD, WILD_BENIGN
from mogu.evaluation.sets.xstest import XSTEST_SAFE, XSTEST_UNSAFE

__all__ = ["SETS", "PromptSet", "Sample", "parse"]

SETS: dict[str, PromptSet] = {
    prompts.name: prompts
    for prompts in (
        ADVBENCH,
        HARMBENCH,
        JAILBREAKBENCH,
        JUSTEVAL,
        ORBENCH,
        SAP,
        XSTEST_SAFE,
        XSTEST_UNSAFE,
        WILD,
        WILD_BENIGN,
        OWN_DIRECT,
        OWN_EVERYDAY,
        OWN_LOOKALIKES,
        OWN_FRAMES,
        OWN_FRAMES_BENIGN,
        OWN_INNOCENT_FRAMES,
        PREFILLED,
        PREFILLED_BENIGN,
        OWN_DOCUMENTS,
        OWN_DOCUMENTS_BENIGN,
        OWN_LANGUAGES,
        OWN_LANGUAGES_BENIGN,
        OWN_CRESCENDO,
        OWN_CHATS,
        OWN_ASKED_AGAIN,
        OWN_FOLLOWUPS,
    )
}
"""All sets by name: published ones, templates from the wild, the project's own with each twin behind its attack."""


def parse(spec: str) -> tuple[PromptSet, str | None]:
    """The set that a user names, and where it lies: ``name``, or ``name=PATH`` as in ``advbench=data/advbench.json``.

    Returns:
        The set, and the location that its `load` takes.

    Raises:
        MoguError: there is no set of this name, or no path after the equals sign.
    """
    name, equals, location = (part.strip() for part in spec.partition("="))
    if name not in SETS:
        raise no_such("prompt set", name, SETS)
    if equals and not location:
        raise MoguError(
            f"'{spec}' names no file or folder after the equals sign. Write {name}=PATH or {name}"
        )
    return SETS[name], location or None
