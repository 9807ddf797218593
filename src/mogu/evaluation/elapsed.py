"""How long a piece of work took, over all processes that worked at it: one that was killed counts, too."""

import json
import time
from pathlib import Path

from mogu.files import write_atomic


class Elapsed:
    """Seconds of one piece of work, from where those that a file keeps end.

    Args:
        file: JSON, one object; need not be there.

    Attributes:
        whole: whether the file says that the work was done to its end.
    """

    def __init__(self, file: Path) -> None:
        kept = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
        self.whole: bool = kept.get("whole", False)
        self._file = file
        self._before: float = kept.get("seconds", 0.0)
        self._start = time.perf_counter()

    @property
    def seconds(self) -> float:
        """By now; those of the file alone if the work is done."""
        return round(self._before + (0 if self.whole else time.perf_counter() - self._start), 1)

    def keep(self, *, whole: bool = False) -> None:
        """Write them down.

        Args:
            whole: whether the work is done; they do not grow any more then.
        """
        seconds = self.seconds
        write_atomic(self._file, json.dumps({"seconds": seconds, "whole": whole}))
        if whole:
            self._before, self.whole = seconds, True
