"""Hears of progress, and says what it heard."""


class Heard:
    """A progress callback that keeps its calls, and may stop the work at a step."""

    def __init__(self, stop_at: int | None = None) -> None:
        self.calls: list[tuple[int, int]] = []
        self._stop_at = stop_at

    def __call__(self, done: int, total: int) -> None:
        self.calls.append((done, total))
        if done == self._stop_at:
            raise KeyboardInterrupt
