"""The user's own requests: JSONL, CSV or a Hugging Face dataset -> `Request`s. Knows no model, no corpus."""

import csv
import io
import json
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from mogu.chat import Message, check_conversation
from mogu.data.requests import Label, Request, normalised, split_of
from mogu.errors import MoguError

logger = logging.getLogger(__name__)

# Where a row's text is looked for, in this order, unless the user names the field.
TEXT_FIELDS = ("prompt", "text", "instruction", "goal", "question", "request", "messages")

# A source that ends like this is meant as a file even where none exists; other endings occur in dataset ids.
FILE_SUFFIXES = (".jsonl", ".csv", ".json", ".tsv", ".txt", ".parquet", ".xlsx", ".gz", ".zip")

FEWEST = 8
"""Different requests from which something can be learned, at least."""


class SourceRow(NamedTuple):
    """One row as its source has it.

    Attributes:
        place: file and line, or dataset and row: where to look for a mistake.
        fields: its values by name.
    """

    place: str
    fields: Mapping[str, Any]


def read_requests(
    source: str | Path, label: Label, *, field: str | None = None, minimum: int = FEWEST
) -> list[Request]:
    """Reads the requests of one label from a file or a dataset.

    A row holds its text as a string, or as a list of messages with a user's among them, and may name its
    `category`. Rows that are equal but for case and white space are read once. The text decides the split.

    Args:
        source: A `.jsonl` or `.csv` file (UTF-8; a CSV file starts with a header), or a Hugging Face dataset:
            `id`, `id:split` or `id/config:split`, where a local folder with data files may stand for `id`.
            Without a split it is `train`.
        label: What all the rows are.
        field: The field with the text; by default the first of `TEXT_FIELDS` that a row has.
        minimum: Fewest different requests to accept.

    Returns:
        The requests, in the order of the source.

    Raises:
        MoguError: The source or one of its rows cannot be read; the message names file and line.
    """
    requests: dict[str, Request] = {}
    count = 0
    for count, row in enumerate(source_rows(str(source)), start=1):  # noqa: B007
        request = _request(row, label, field)
        conversation = "\n".join(message["content"] for message in request.messages)
        requests.setdefault(normalised(conversation), request)
    if duplicates := count - len(requests):
        logger.warning("%s: %d of %d rows are duplicates and left out.", source, duplicates, count)
    if len(requests) < minimum:
        raise MoguError(
            f"{source}: {len(requests)} different requests, but at least {minimum} are needed. Add more rows."
        )
    return list(requests.values())


def source_name(source: str) -> str:
    """What to call a source elsewhere: a file or folder by its name, without its place; a dataset as it was given.

    Args:
        source: As `read_requests` takes it.
    """
    path = Path(source).expanduser()
    if path.is_file():
        return path.name
    name, colon, split = source.partition(":")
    folder = Path(name).expanduser()
    return f"{folder.resolve().name}{colon}{split}" if name and folder.is_dir() else source


def _request(row: SourceRow, label: Label, field: str | None) -> Request:
    present = [name for name, value in row.fields.items() if value is not None]
    name = next((name for name in ([field] if field else TEXT_FIELDS) if name in present), None)
    if name is None:
        wanted = f"field '{field}'" if field else f"one of the fields {', '.join(TEXT_FIELDS)}"
        raise MoguError(f"{row.place}: needs {wanted}, but has {', '.join(present) or 'no fields'}.")
    value = row.fields[name]
    if isinstance(value, str) and name != "messages":
        value = [Message(role="user", content=value)]
    elif not isinstance(value, list):
        raise MoguError(f"{row.place}: '{name}' is {type(value).__name__}, not a text or a list of messages.")
    try:
        messages = check_conversation(value)
    except MoguError as error:
        raise MoguError(f"{row.place}: {error}") from error
    text = next((message["content"] for message in reversed(messages) if message["role"] == "user"), "")
    if not text.strip():
        raise MoguError(f"{row.place}: the text in '{name}' is empty. Write a request or remove the row.")
    return Request(
        id=row.place,
        text=text,
        messages=messages,
        label=label,
        category=str(row.fields.get("category") or ""),
        split=split_of(text),
    )


def source_rows(source: str) -> Iterator[SourceRow]:
    """The rows of a file, folder or hub data set, as `read_requests` takes them; errors as there."""
    path = Path(source).expanduser()
    suffix = path.suffix.lower()
    if path.is_file():
        if suffix not in (".jsonl", ".csv"):
            raise MoguError(
                f"{source}: cannot read '{suffix or path.name}' files. Give a .jsonl or .csv file."
            )
        text = read_text(path)
        return jsonl_rows(source, text) if suffix == ".jsonl" else csv_rows(source, text)
    name, _, split = source.partition(":")
    folder = Path(name).expanduser()
    if name and folder.is_dir():
        return _dataset_rows(source, str(folder), None, split or "train")
    if not name or suffix in FILE_SUFFIXES or name.startswith((".", "/", "~")):
        raise MoguError(f"{source or 'An empty name'}: there is no such file or folder. Check the path.")
    owner, *rest = name.split("/", 2)
    return _dataset_rows(source, "/".join([owner, *rest[:1]]), "".join(rest[1:]) or None, split or "train")


def read_text(path: Path) -> str:
    """The text of a file.

    Raises:
        MoguError: If it cannot be read, is not UTF-8 or is empty.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise MoguError(f"{path}: cannot be read ({error.strerror}).") from error
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise MoguError(f"{path}:{line}: not UTF-8 ({error.reason}). Save the file as UTF-8.") from error
    if not text.strip():
        raise MoguError(f"{path}: the file is empty.")
    return text


def jsonl_rows(source: str, text: str) -> Iterator[SourceRow]:
    """The objects of JSON lines; a MoguError names a line that is none."""
    # Not splitlines(): JSON strings may hold line separators other than "\n" as they are.
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            fields = json.loads(line)
        except json.JSONDecodeError as error:
            raise MoguError(
                f"{source}:{number}: not JSON ({error.msg}, column {error.colno}). Write one object a line."
            ) from error
        if not isinstance(fields, dict):
            raise MoguError(f"{source}:{number}: {type(fields).__name__}, not an object with named fields.")
        yield SourceRow(f"{source}:{number}", fields)


def csv_rows(source: str, text: str) -> Iterator[SourceRow]:
    """The rows of CSV with a header; a MoguError names a row that does not fit it."""
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    try:
        for fields in reader:
            if None in fields:
                raise MoguError(
                    f"{source}:{reader.line_num}: more cells than the header has. Quote texts with commas."
                )
            yield SourceRow(f"{source}:{reader.line_num}", fields)
    except csv.Error as error:
        raise MoguError(f"{source}:{reader.reader.line_num}: not CSV ({error}). Check the quotes.") from error


def _dataset_rows(source: str, path: str, config: str | None, split: str) -> Iterator[SourceRow]:
    try:
        import datasets
    except ImportError as error:
        raise MoguError(
            f'{source}: no such file, and reading a dataset needs a package: pip install "mogu-llm[hub]"'
        ) from error
    try:
        rows = datasets.load_dataset(path, config, split=split)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        # What datasets says of a file that it cannot read stands in the error's cause.
        cause = error.__cause__ if isinstance(error, datasets.exceptions.DatasetGenerationError) else None
        reason = str(cause or error).strip().partition("\n")[0].rstrip(".")
        raise MoguError(
            f"{source}: no such file, and no dataset that can be loaded: {reason}. "
            "Give a .jsonl or .csv file, or a dataset as id, id:split or id/config:split."
        ) from error
    for number, fields in enumerate(rows, start=1):
        yield SourceRow(f"{source} row {number}", fields)
