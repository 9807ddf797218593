"""The errors that a user can mend: one clear line each. The command line prints them and exits with 2."""


class MoguError(Exception):
    """Bad input: the message says what was given, what is allowed and what to try."""


class AdapterError(MoguError):
    """An adapter folder that does not hold what it must, or does not fit the model."""


class TrainingDivergedError(MoguError):
    """The loss became NaN or infinite, or training made nothing better; the unfinished work stays on disk."""
