"""Where the commands print: results to the one stream, progress, warnings and errors to the other."""

import re
from collections.abc import Iterable, Iterator

from rich.cells import cell_len
from rich.console import Console
from rich.logging import RichHandler

out = Console()
err = Console(stderr=True)

# On the console of the bars, so that a warning does not tear them.
log_handler = RichHandler(console=err, show_time=False, show_path=False)


def tell(console: Console, line: str) -> None:
    """Prints a line as it is: no markup, no colours, no breaks where the terminal ends."""
    console.print(line, markup=False, highlight=False, soft_wrap=True)


def wrapped(pieces: Iterable[str], width: int) -> Iterator[str]:
    """Breaks lines between words, where a terminal would break them within one.

    Args:
        pieces: A text as it is written; each ends where a word does, or between signs that are words of their own.
        width: Of a line, in cells.
    """
    column, gap = 0, ""
    for part in (part for piece in pieces for part in re.findall(r"\n|[^\S\n]+|\S+", piece)):
        if part == "\n":
            yield part
            column, gap = 0, ""
        elif part.isspace():
            # Written with the next word only: at the end of a line it would begin the next one.
            gap += part.replace("\t", "    ")
        else:
            if column and column + cell_len(gap + part) > width:
                yield "\n"
                column, gap = 0, ""
            yield gap + part
            column += cell_len(gap + part)
            gap = ""


def printable(text: str) -> str:
    """Leaves out the control characters that a model may write, which would steer the terminal."""
    return "".join(character for character in text if character.isprintable() or character in "\n\t")
