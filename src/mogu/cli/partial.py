"""Results of an unfinished run, kept beside its output. Knows nothing of what they mean."""

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mogu.errors import MoguError

Result = dict[str, Any]


class PartialFile:
    """A JSONL file of numbered results behind a line that says which run they belong to.

    Args:
        output: The file that the run will write; the results lie beside it with `.partial` behind the name.
        run: What the results depend on, JSON-serialisable.

    Attributes:
        path: Where the results lie.
        results: The results so far by their number.

    Raises:
        MoguError: The results that lie there belong to another run.
    """

    def __init__(self, output: Path, run: Mapping[str, Any]) -> None:
        self.path = output.with_name(output.name + ".partial")
        self.results: dict[int, Result] = {}
        content = self.path.read_bytes() if self.path.exists() else b""
        header, *lines = list(_whole_lines(content)) or [(0, None)]
        end, found = header
        self._header = "" if found is not None else json.dumps(run) + "\n"  # what is still to be written
        if found is None:
            self.path.unlink(missing_ok=True)
            return
        self._check(found, run)
        for end, line in lines:  # noqa: B007
            self.results[line["row"]] = line["result"]
        # What a killed run left half-written would spoil the next line.
        os.truncate(self.path, end)

    def append(self, results: Mapping[int, Result]) -> None:
        """Adds results; they stay even if the machine stops the moment after.

        The file is made with the first ones: a run that comes to nothing leaves nothing.

        Raises:
            MoguError: Another run has begun the file in the meantime.
        """
        self.results |= results
        lines = [json.dumps({"row": row, "result": result}) + "\n" for row, result in results.items()]
        self.path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with self.path.open("x" if self._header else "a", encoding="utf-8") as file:
                file.write(self._header + "".join(lines))
                file.flush()
                os.fsync(file.fileno())
        except FileExistsError as error:
            raise MoguError(
                f"{self.path} was begun by another run meanwhile; wait until it has ended"
            ) from error
        self._header = ""

    def remove(self) -> None:
        """Removes the file: the run is finished."""
        self.path.unlink()

    def _check(self, found: Any, run: Mapping[str, Any]) -> None:
        known = found if isinstance(found, dict) else {}
        differing = [key for key, value in run.items() if known.get(key) != value]
        if differing:
            raise MoguError(
                f"{self.path} holds results of a run with another {', '.join(differing)}. "
                "Give the same arguments to go on with it, or remove that file to start anew."
            )


def _whole_lines(content: bytes) -> Iterator[tuple[int, Any]]:
    """Yields where each line ends and what it holds, up to the first one that is not whole."""
    end = 0
    for line in content.splitlines(keepends=True):
        end += len(line)
        try:
            value = json.loads(line)
        except ValueError:
            return
        if not line.endswith(b"\n"):
            return
        yield end, value
