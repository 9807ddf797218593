"""Files that are whole or absent: written to a temporary name and renamed. Knows nothing of their meaning."""

import json
import os
import secrets
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any


def write_atomic(path: Path, content: str | bytes) -> None:
    """Writes a file so that a reader, or a process killed half-way, sees the old content or the new one.

    Args:
        path: Where to write; missing parent folders are made.
        content: Text (written as UTF-8, line ends untouched) or bytes.

    Raises:
        OSError: The file cannot be written; what stood there before stays.
    """
    data = content.encode("utf-8") if isinstance(content, str) else content
    path.parent.mkdir(parents=True, exist_ok=True)
    # The same folder: a rename is atomic only within one file system.
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_jsonl(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Writes one JSON object a line, atomically: an exception from `rows` leaves the old file as it was.

    Args:
        path: Where to write.
        rows: JSON-serialisable rows, in order.
    """
    write_atomic(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def read_grown_jsonl(path: Path) -> list[dict[str, Any]]:
    """The rows of a JSONL file that grows by whole lines; what a killed run left half-written is taken out of it.

    Args:
        path: The file; no rows if it is not there.
    """
    if not path.exists():
        return []
    # Not splitlines(): JSON strings may hold line separators other than "\n" as they are.
    *whole, cut_off = path.read_text(encoding="utf-8").split("\n")
    if cut_off:
        write_atomic(path, "".join(line + "\n" for line in whole))
    return [json.loads(line) for line in whole]
