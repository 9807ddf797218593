"""Best-of-N jailbreaking: the same request in many random spellings."""

import random
import re

from mogu.evaluation.attacks.base import Attack
from mogu.evaluation.attacks.trial import Trial, Try, last_text, reworded

STRENGTH = 0.4
"""How strong the changes are, 0 to 1 (the paper's sigma)."""

_LONG_WORD = re.compile(r"[^\W\d_]{4,}")
_PRINTABLE = range(32, 127)


class BestOfN(Attack):
    """Spellings of the request, drawn until one is not refused (paper, section 2 and appendix A)."""

    name = "best_of_n"
    paper = "Best-of-N Jailbreaking, Hughes et al. 2024, arXiv 2412.03556"
    default_budget = 16

    def attack(self, trial: Trial, rng: random.Random) -> Try:
        """Ask as many spellings at once as the host answers at once."""
        talk = trial.request.talk
        while trial.left and not trial.broken:
            count = min(trial.left, self.host.batch_size)
            trial.ask([reworded(talk, respelled(last_text(talk), rng)) for _ in range(count)])
        return trial.best()


def respelled(text: str, rng: random.Random) -> str:
    """The text with inner letters of words shuffled, capitals changed and characters moved to their neighbours."""
    often, seldom = STRENGTH**0.5, STRENGTH**3  # as the paper has them

    def shuffled(word: re.Match[str]) -> str:
        inner = word[0][1:-1]
        drawn = "".join(rng.sample(inner, len(inner))) if rng.random() < often else inner
        return word[0][0] + drawn + word[0][-1]

    text = _LONG_WORD.sub(shuffled, text)
    text = "".join(each.swapcase() if rng.random() < often else each for each in text)
    return "".join(_neighbour(each, rng) if rng.random() < seldom else each for each in text)


def _neighbour(character: str, rng: random.Random) -> str:
    """The character before or after a printable one in ASCII; others stay, and so does what would leave it."""
    code = ord(character) + rng.choice((-1, 1))
    return chr(code) if ord(character) in _PRINTABLE and code in _PRINTABLE else character
