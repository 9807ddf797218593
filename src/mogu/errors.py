"""The errors that a user can mend: one clear line each. The command line prints them and exits with 2."""

from collections.abc import Collection
from difflib import get_close_matches


class MoguError(Exception):
    """Bad input: the message says what was given, what is allowed and what to try."""


def no_such(what: str, name: str, known: Collection[str]) -> MoguError:
    """The error for a name that a table does not have: near ones, and all that there are.

    Args:
        what: kind of thing that is named, such as "defense".
        name: as the user gave it.
        known: all names.
    """
    near = get_close_matches(name, known, n=3)
    hint = f" Did you mean {' or '.join(near)}?" if near else ""
    return MoguError(f"There is no {what} '{name}'.{hint} There are: {', '.join(known)}.")


class AdapterError(MoguError):
    """An adapter folder that does not hold what it must, or does not fit the model."""


class TrainingDivergedError(MoguError):
    """The loss became NaN or infinite, or training made nothing better; the unfinished work stays on disk."""
