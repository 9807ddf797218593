import subprocess
import sys
import time

import pytest

from mogu.errors import MoguError

HEAVY = ("torch", "transformers", "jinja2", "numpy")


def raising(error):
    def read_config(folder):
        raise error

    return read_config


@pytest.fixture
def failing(monkeypatch):
    """Makes `mogu info` fail with an error."""
    from mogu.adapter import folder

    return lambda error: monkeypatch.setattr(folder, "read_config", raising(error))


def test_help_answers_in_under_a_second_and_names_every_command():
    start = time.perf_counter()
    code = (
        "import sys; from mogu.cli import main\ntry: main(['--help'])\n"
        f"finally: print([name for name in {HEAVY} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert time.perf_counter() - start < 1
    for command in ("train", "chat", "generate", "inspect", "info", "demo", "--debug"):
        assert command in done.stdout
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize("command", ["train", "chat", "generate", "inspect", "info", "demo"])
def test_every_command_has_help(mogu, command):
    code, out, _ = mogu(command, "--help")
    assert code == 0
    assert f"mogu {command}" in out


def test_a_mistake_of_the_user_is_one_line_and_code_2(mogu, failing):
    failing(MoguError("no [bold]adapter[/bold] here; give another folder"))
    code, out, err = mogu("info", "x")
    assert (code, out) == (2, "")
    assert err == "error: no [bold]adapter[/bold] here; give another folder\n"


def test_any_other_error_is_one_line_and_code_1(mogu, failing):
    failing(RuntimeError("first line\nsecond line"))
    assert mogu("info", "x")[::2] == (
        1,
        "error: RuntimeError: first line; run with --debug for the traceback\n",
    )
    failing(AssertionError())
    assert mogu("info", "x")[2] == "error: AssertionError: no message; run with --debug for the traceback\n"


@pytest.mark.parametrize("arguments", [("--debug", "info", "x"), ("info", "x", "--debug")])
def test_debug_shows_the_traceback_wherever_it_stands(mogu, failing, arguments):
    failing(MoguError("no adapter"))
    code, _, err = mogu(*arguments)
    assert code == 2
    assert "Traceback" in err
    assert "in read_config" in err
    assert err.endswith("error: no adapter\n")


def test_an_interrupt_leaves_with_130(mogu, failing):
    failing(KeyboardInterrupt())
    assert mogu("info", "x")[0] == 130


def test_a_line_that_is_no_command_leaves_with_2(mogu):
    assert mogu("frobnicate")[0] == 2
    assert mogu("info")[0] == 2
    assert mogu("generate", "x", "--mode", "evil")[0] == 2
