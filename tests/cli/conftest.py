import sys

import pytest

from mogu.adapter.folder import save_adapter
from mogu.cli import main
from mogu.models import load_model
from tests.adapter.adapters import config_of, gated, random_adapter
from tests.tiny import save_tiny


@pytest.fixture(scope="session")
def adapter_folder(tmp_path_factory):
    """A tiny hardened model with random parts, as `mogu train` leaves one."""
    folder = tmp_path_factory.mktemp("cli")
    loaded = load_model(save_tiny(folder / "base"))
    adapter = random_adapter(loaded.model)
    config = config_of(adapter).model_copy(update={"base": loaded.identity})
    save_adapter(folder / "adapter", adapter, config)
    return folder / "adapter"


@pytest.fixture(scope="session")
def sequence_folder(adapter_folder):
    """The same model, hardened by sequence routing."""
    loaded = load_model(adapter_folder.parent / "base")
    adapter = random_adapter(loaded.model)
    config = gated(adapter).model_copy(update={"base": loaded.identity})
    save_adapter(adapter_folder.parent / "sequence", adapter, config)
    return adapter_folder.parent / "sequence"


@pytest.fixture(scope="session")
def usable_folder(adapter_folder):
    """The same model, hardened by sequence routing with the usable variant."""
    loaded = load_model(adapter_folder.parent / "base")
    adapter = random_adapter(loaded.model)
    update = {"base": loaded.identity, "parts": ["safe", "usable", "gate"]}
    save_adapter(adapter_folder.parent / "usable", adapter, gated(adapter).model_copy(update=update))
    return adapter_folder.parent / "usable"


@pytest.fixture
def mogu(capsys, monkeypatch):
    """Runs a command line in this process; gives exit code, standard output and standard error."""
    monkeypatch.setenv("COLUMNS", "200")

    def run(*arguments, stdin=None):
        if stdin is not None:
            monkeypatch.setattr(sys, "stdin", stdin)
        with pytest.raises(SystemExit) as left:
            main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return left.value.code, captured.out, captured.err

    return run
