import io
import re
from pathlib import Path

from rich.console import Console

from mogu import training
from mogu.cli.progress import STAGES, StageBars


def shown(calls, *, terminal=False):
    """What is printed when each call (second, name, done, total) comes at its time."""
    now = 0.0
    console = Console(
        file=io.StringIO(), force_terminal=terminal, width=100, color_system=None, get_time=lambda: now
    )
    with StageBars(console) as bars:
        for now, *step in calls:  # noqa: B007
            bars(*step)
    return console.file.getvalue()


def test_outside_a_terminal_a_line_comes_now_and_then_and_at_the_end():
    calls = [(20 + second, "record", second, 60) for second in range(1, 61)]
    lines = shown(calls).splitlines()
    assert lines[0] == "record: 1 of 60"
    assert lines[1:] == [
        "record: 16 of 60, about 44 s left",
        "record: 31 of 60, about 29 s left",
        "record: 46 of 60, about 14 s left",
        "record: 60 of 60",
    ]


def test_each_stage_has_lines_of_its_own():
    calls = [(1, "rows", 2, 2), (2, "usable [x]", 1, 1)]
    assert shown(calls) == "rows: 2 of 2\nusable [x]: 1 of 1\n"


def test_a_stage_of_training_says_what_it_does_and_for_which_candidate():
    calls = [(1, "safe", 2, 2), (2, "routers-2", 1, 1), (3, "look-alikes", 1, 1)]
    assert shown(calls).splitlines() == [
        "Training the safe variant: 2 of 2",
        "Training the routers (2): 1 of 1",
        "look-alikes: 1 of 1",
    ]


def test_every_stage_of_training_is_named():
    sources = "".join(file.read_text(encoding="utf-8") for file in Path(training.__path__[0]).glob("*.py"))
    named = set(re.findall(r'run\.(?:stage|train_variant)\("([^"]+)"', sources))
    assert {"load model", "safe", "fit gate"} <= named <= STAGES.keys()


def test_in_a_terminal_each_stage_has_a_bar_and_an_estimate():
    text = shown([(1, "safe", 1, 4), (2, "safe", 2, 4), (3, "usable", 1, 1)], terminal=True)
    last = text.split("Training the safe variant")[-1]
    assert "2/4" in last
    assert "Training the usable variant" in last
    assert "1/1" in last
    assert "left" in last
