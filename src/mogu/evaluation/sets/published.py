"""Sets that others have published: their rows, from the hub, a file or a folder. Knows no particular set."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from mogu.chat import Message, check_conversation
from mogu.data.sources import SourceRow, csv_rows, jsonl_rows, read_text, source_rows
from mogu.defenses.base import Talk
from mogu.errors import MoguError
from mogu.evaluation.sets.base import PromptSet, Sample


class Row(NamedTuple):
    """One row of a published set.

    Attributes:
        id: its number in its file; in a folder with the file's path in front.
        place: where to look for a mistake.
        fields: what stands in it.
    """

    id: str
    place: str
    fields: Mapping[str, Any]

    def text(self, *names: str) -> str:
        """The text in the first of these fields that the row has; a mistake if it has none or the text is blank."""
        present = [name for name, value in self.fields.items() if value is not None]
        name = next((name for name in names if name in present), None)
        if name is None:
            wanted = " or ".join(f"'{name}'" for name in names)
            raise MoguError(f"{self.place}: needs {wanted}, but has {', '.join(present) or 'no fields'}.")
        value = self.fields[name]
        if not isinstance(value, str):
            raise MoguError(f"{self.place}: '{name}' is {type(value).__name__}, not a text.")
        if not value.strip():
            raise MoguError(f"{self.place}: the text in '{name}' is empty.")
        return value

    def optional(self, *names: str) -> str:
        """The text in the first of these fields that holds one; else an empty one."""
        values = (self.fields.get(name) for name in names)
        return next((value for value in values if isinstance(value, str) and value.strip()), "")

    def asking(self, text: str, kind: str = "", target: str = "") -> Sample:
        """The sample in which a user asks this."""
        try:
            messages = check_conversation([Message(role="user", content=text)])
        except MoguError as error:
            raise MoguError(f"{self.place}: {error}") from error
        return Sample(self.id, Talk(messages), kind, target)


@dataclass(frozen=True, kw_only=True)
class PublishedSet(PromptSet):
    """A set that is read from rows.

    Attributes:
        read: makes the samples of the rows.
        files: names of the files in a folder that belong to the set, as `Path.glob` takes them.
    """

    read: Callable[[Sequence[Row]], Iterable[Sample]]
    files: str = "*"

    def samples(self, location: str | None) -> list[Sample]:
        """The whole set, in the order of its rows."""
        samples = list(self.read(self._rows(location)))
        if not samples:
            raise MoguError(f"{location or self.hub}: holds no prompt of '{self.name}'.")
        return samples

    def _rows(self, location: str | None) -> list[Row]:
        if location is not None:
            return path_rows(location, self.files)
        if self.hub is None:
            raise MoguError(f"'{self.name}' is not on the hub. Give its file or folder: {self.name}=PATH")
        try:
            return _numbered(source_rows(self.hub))
        except MoguError as error:
            raise MoguError(
                f"'{self.name}' cannot be read from the hub. A copy is given as {self.name}=PATH. {error}"
            ) from error


def path_rows(location: str, files: str = "*") -> list[Row]:
    """The rows of a file, or of a folder's files in the order of their paths.

    Args:
        location: a `.json`, `.jsonl` or `.csv` file (UTF-8), or a folder with such files in it or below. A JSON file
            holds a list of objects or of texts, which become the field `prompt`, or one object, which is one row.
        files: which files of a folder, as `Path.glob` takes them.

    Raises:
        MoguError: there is no such place, or it cannot be read.
    """
    path = Path(location).expanduser()
    if path.is_file():
        return _numbered(_file_rows(path))
    if not path.is_dir():
        raise MoguError(f"{location}: there is no such file or folder. Check the path.")
    found = sorted(file for file in path.rglob(files) if file.suffix.lower() in READERS and file.is_file())
    if not found:
        wanted = f" named '{files}'" if files != "*" else ""
        raise MoguError(f"{location}: the folder holds no {', '.join(READERS)} file{wanted}.")
    return [
        row for file in found for row in _numbered(_file_rows(file), f"{file.relative_to(path).as_posix()}:")
    ]


def _numbered(rows: Iterable[SourceRow], before: str = "") -> list[Row]:
    return [Row(f"{before}{number}", row.place, row.fields) for number, row in enumerate(rows, start=1)]


def _file_rows(file: Path) -> Iterator[SourceRow]:
    reader = READERS.get(file.suffix.lower())
    if reader is None:
        raise MoguError(f"{file}: cannot read '{file.suffix or file.name}' files. Give {', '.join(READERS)}.")
    return reader(str(file), read_text(file))


def _json_rows(source: str, text: str) -> Iterator[SourceRow]:
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise MoguError(
            f"{source}:{error.lineno}: not JSON ({error.msg}, column {error.colno}). Is the file whole?"
        ) from error
    for number, item in enumerate(value if isinstance(value, list) else [value], start=1):
        fields = {"prompt": item} if isinstance(item, str) else item
        if not isinstance(fields, dict):
            raise MoguError(f"{source} row {number}: {type(item).__name__}, not an object with named fields.")
        yield SourceRow(f"{source} row {number}", fields)


READERS: dict[str, Callable[[str, str], Iterator[SourceRow]]] = {
    ".json": _json_rows,
    ".jsonl": jsonl_rows,
    ".csv": csv_rows,
}
"""How a file is read, by its ending: its name and text to rows."""
