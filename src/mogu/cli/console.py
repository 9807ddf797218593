"""Where the commands print: results to the one stream, progress, warnings and errors to the other."""

from rich.console import Console
from rich.logging import RichHandler

out = Console()
err = Console(stderr=True)

# On the console of the bars, so that a warning does not tear them.
log_handler = RichHandler(console=err, show_time=False, show_path=False)


def tell(console: Console, line: str) -> None:
    """Prints a line as it is: no markup, no colours, no breaks where the terminal ends."""
    console.print(line, markup=False, highlight=False, soft_wrap=True)


def printable(text: str) -> str:
    """Leaves out the control characters that a model may write, which would steer the terminal."""
    return "".join(character for character in text if character.isprintable() or character in "\n\t")
