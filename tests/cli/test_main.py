import errno
import subprocess
import sys
import time

import pytest

from mogu.errors import MoguError
from mogu.files import write_jsonl
from mogu.generation import MoguModel

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
    for command in ("train", "chat", "generate", "inspect", "info", "serve", "ui", "demo", "--debug"):
        assert command in done.stdout
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize("command", ["train", "chat", "generate", "inspect", "info", "serve", "ui", "demo"])
def test_every_command_has_help(mogu, command):
    code, out, _ = mogu(command, "--help")
    assert code == 0
    assert f"mogu {command}" in out


@pytest.mark.parametrize("command", ["chat", "generate", "inspect"])
def test_the_threshold_is_an_option_from_0_to_1(mogu, command):
    assert "--threshold" in mogu(command, "--help")[1]
    for value in ("-0.1", "1.01", "high"):
        code, _, err = mogu(command, "x", "--threshold", value)
        assert code == 2
        assert "Invalid value for '--threshold'" in err


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


def test_what_the_system_refuses_is_one_line_and_code_2(mogu, failing):
    failing(PermissionError(errno.EACCES, "Permission denied", "/secret"))
    assert mogu("info", "x") == (2, "", "error: /secret: Permission denied\n")
    failing(OSError(errno.ENOSPC, "No space left on device"))
    assert mogu("info", "x")[2] == "error: No space left on device\n"
    failing(OSError("Can't load it.\nReally."))
    assert mogu("info", "x")[::2] == (
        2,
        "error: OSError: Can't load it.; run with --debug for the traceback\n",
    )


def test_an_output_that_is_a_folder_is_named_and_not_the_temporary_file(mogu, adapter_folder, tmp_path):
    given = ["--prompt", "Hi", "--output", tmp_path, "--max-new-tokens", 1]
    code, _, err = mogu("inspect", adapter_folder, *given)
    assert (code, err.splitlines()[-1]) == (2, f"error: {tmp_path}: Is a directory")


@pytest.mark.parametrize(
    "arguments",
    [
        ("chat",),
        ("inspect", "--prompt", "Hi", "--output", "page.html"),
        ("generate", "--input", "in.jsonl", "--output", "out.jsonl", "--max-new-tokens", "1"),
    ],
)
def test_code_of_a_model_may_run_where_it_is_allowed(mogu, adapter_folder, tmp_path, monkeypatch, arguments):
    seen = []

    def from_pretrained(folder, **options):
        seen.append(options["trust_remote_code"])
        raise MoguError("seen")

    monkeypatch.chdir(tmp_path)
    write_jsonl(tmp_path / "in.jsonl", [{"prompt": "Hi"}])
    monkeypatch.setattr(MoguModel, "from_pretrained", from_pretrained)
    command, *rest = arguments
    assert mogu(command, adapter_folder, *rest)[0] == 2
    assert mogu(command, adapter_folder, *rest, "--trust-remote-code")[0] == 2
    assert seen == [False, True]


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
