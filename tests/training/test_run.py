"""How long stages took, over all processes that worked at them."""

import pytest

from mogu.training.run import Run


@pytest.fixture
def clock(monkeypatch):
    now = [100.0]
    monkeypatch.setattr("mogu.training.run.time.perf_counter", lambda: now[0])
    return now


def worked(run, clock, name, *steps):
    """A stage whose steps take so many seconds each; it is killed where one is None."""
    with run.stage(name) as step:
        for done, seconds in enumerate(steps, start=1):
            if seconds is None:
                raise KeyboardInterrupt
            clock[0] += seconds
            step(done, len(steps))


def test_a_killed_stage_counts_from_where_it_was(tmp_path, clock):
    heard = []
    run = Run(tmp_path, lambda *step: heard.append(step))
    worked(run, clock, "first", 2, 3)
    with pytest.raises(KeyboardInterrupt):
        worked(run, clock, "second", 4, None)
    clock[0] += 1000  # nobody works
    later = Run(tmp_path, run.progress)
    worked(later, clock, "second", 5)
    assert later.seconds == {"first": 5.0, "second": 9.0}
    assert heard == [("first", 1, 2), ("first", 2, 2), ("second", 1, 2), ("second", 1, 1)]


def test_nothing_is_written_before_the_folder_of_unfinished_work_is_made(tmp_path, clock):
    run = Run(tmp_path / "work", lambda *_: None)
    worked(run, clock, "load model", 2)
    assert run.seconds == {"load model": 2.0} and not run.work.exists()
    run.work.mkdir()
    worked(run, clock, "first", 1)
    assert Run(run.work, run.progress).seconds == {"load model": 2.0, "first": 1.0}
