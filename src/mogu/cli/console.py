"""Where the commands print: results to the one stream, progress and errors to the other."""

from rich.console import Console

out = Console()
err = Console(stderr=True)


def printable(text: str) -> str:
    """Leaves out the control characters that a model may write, which would steer the terminal."""
    return "".join(character for character in text if character.isprintable() or character in "\n\t")
