"""Live attacks by name, and how one is made: searches against the defended model itself. A new one is one file and one
line here.

What a search finds becomes one more prompt set of the defense that it was found for (`as_prompts`): it is answered and
judged as all others are.
"""

from mogu.defenses.base import Host
from mogu.errors import MoguError, no_such
from mogu.evaluation.attacks.autodan import AutoDAN
from mogu.evaluation.attacks.base import Attack, Effort
from mogu.evaluation.attacks.best_of_n import BestOfN
from mogu.evaluation.attacks.found import Found, as_prompts
from mogu.evaluation.attacks.gcg import GCG
from mogu.evaluation.attacks.pair import PAIR
from mogu.judges.endpoint import EndpointOptions

__all__ = ["ATTACKS", "Attack", "Effort", "Found", "as_prompts", "make_attack"]

ATTACKS: dict[str, type[Attack]] = {kind.name: kind for kind in (BestOfN, GCG, AutoDAN, PAIR)}
"""All attacks by name."""


def make_attack(
    spec: str, host: Host, attacker: EndpointOptions | None = None, *, judged: bool = False
) -> Attack:
    """Make the attack that a user names: ``name``, or ``name:budget`` such as ``gcg:64``.

    Args:
        spec: the name, and how many replies of the defended model each request may cost, 1 or more.
        host: the base; its seed is the attack's.
        attacker: the model that proposes rewordings, for the attack that has one.
        judged: whether that model also judges replies that do not refuse.

    Raises:
        MoguError: If there is no attack of this name, its budget is no number, or it lacks what it needs.
    """
    name, colon, number = (part.strip() for part in spec.partition(":"))
    if name not in ATTACKS:
        raise no_such("attack", name, ATTACKS)
    kind = ATTACKS[name]
    if colon and not (number.isascii() and number.isdigit()):
        raise MoguError(f"'{spec}' names no budget: write {name}:{kind.default_budget}, or {name}")
    budget = int(number) if colon else kind.default_budget
    if not issubclass(kind, PAIR):
        return kind(host, budget, host.seed)
    if attacker is None:
        raise MoguError(f"the attack {name} asks a model: give an endpoint's address and the model's name")
    return kind(host, budget, host.seed, attacker, judged=judged)
