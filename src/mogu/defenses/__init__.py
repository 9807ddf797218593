"""Defenses by name, and how one is made. A new one is one file and one line here."""

from mogu.defenses.base import Defense, Host
from mogu.defenses.detect_input import DetectInput
from mogu.defenses.gate_refusal import GateRefusal
from mogu.defenses.guard import Guard
from mogu.defenses.icd import InContextDefense
from mogu.defenses.mogu import MoguDefense
from mogu.defenses.none import NoDefense
from mogu.defenses.retokenization import Retokenization
from mogu.defenses.safe_decoding import SafeDecoding
from mogu.defenses.safety_prompt import SafetyPrompt
from mogu.defenses.self_examine import SelfExamine
from mogu.defenses.self_reminder import SelfReminder
from mogu.defenses.sft import SupervisedFinetuning
from mogu.defenses.steering import RefusalSteering
from mogu.errors import no_such

DEFENSES: dict[str, type[Defense]] = {
    "none": NoDefense,
    "mogu": MoguDefense,
    "sft": SupervisedFinetuning,
    "detect_input": DetectInput,
    "self_reminder": SelfReminder,
    "retokenization": Retokenization,
    "self_examine": SelfExamine,
    "icd": InContextDefense,
    "safe_decoding": SafeDecoding,
    "safety_prompt": SafetyPrompt,
    "gate_refusal": GateRefusal,
    "steering": RefusalSteering,
    "guard": Guard,
}
"""The base, MoGU, the seven that its paper compares with, and today's."""


def defense_of(spec: str) -> type[Defense]:
    """The defense that a user names: ``name``, or ``name:argument`` such as ``guard:PATH``.

    Raises:
        MoguError: If there is none of this name.
    """
    name = spec.partition(":")[0]
    if name not in DEFENSES:
        raise no_such("defense", name, DEFENSES)
    return DEFENSES[name]


def make_defense(spec: str, host: Host) -> Defense:
    """Make the defense that a user names, as `defense_of` takes it.

    Raises:
        MoguError: If there is none of this name, or it lacks what it needs.
    """
    return defense_of(spec)(host, spec.partition(":")[2])
