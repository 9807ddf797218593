"""A save that fails or is killed loses nothing."""

from pathlib import Path

import pytest
import torch

from mogu.adapter import folder as adapter_folder
from mogu.adapter.folder import check_target, load_adapter, save_adapter
from mogu.errors import AdapterError
from tests.adapter.adapters import config_of, random_adapter
from tests.adapter.folders import FILES, files_in
from tests.tiny import tiny_model


def fail(*_, **__):
    raise KeyboardInterrupt


@pytest.mark.parametrize("step", ["model_card", "write_atomic", "save"])
def test_an_interrupted_save_leaves_the_old_adapter(saved, step, monkeypatch):
    before = {name: (saved / name).read_bytes() for name in FILES}
    monkeypatch.setattr(adapter_folder, step, fail)
    adapter = random_adapter(tiny_model(), seed=5)
    with pytest.raises(KeyboardInterrupt):
        save_adapter(saved, adapter, config_of(adapter))

    assert {name: (saved / name).read_bytes() for name in FILES} == before
    assert [path.name for path in saved.parent.iterdir()] == ["adapter"]


def test_an_interrupted_first_save_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(adapter_folder, "model_card", fail)
    adapter = random_adapter(tiny_model())
    with pytest.raises(KeyboardInterrupt):
        save_adapter(tmp_path / "adapter", adapter, config_of(adapter))

    assert not any(tmp_path.iterdir())


def test_a_failed_rename_puts_the_old_adapter_back(saved, monkeypatch):
    rename = Path.rename
    monkeypatch.setattr(Path, "rename", lambda a, b: fail() if a.name == ".adapter.new" else rename(a, b))
    adapter = random_adapter(tiny_model(), seed=5)
    with pytest.raises(KeyboardInterrupt):
        save_adapter(saved, adapter, config_of(adapter))

    assert files_in(saved) == FILES
    assert [path.name for path in saved.parent.iterdir()] == ["adapter"]


def test_leftovers_of_a_killed_save_are_cleaned(saved):
    for name in (".adapter.new", ".adapter.old"):
        (saved.parent / name).mkdir()
        (saved.parent / name / "README.md").touch()
    adapter = random_adapter(tiny_model(), seed=5)
    save_adapter(saved, adapter, config_of(adapter))

    assert [path.name for path in saved.parent.iterdir()] == ["adapter"]
    loaded, _ = load_adapter(saved, tiny_model())
    assert all(torch.equal(loaded.layers[n].safe.A, layer.safe.A) for n, layer in adapter.layers.items())


def test_a_save_killed_between_the_renames_loses_nothing(saved, monkeypatch):
    saved.rename(saved.with_name(".adapter.old"))
    monkeypatch.setattr(adapter_folder, "model_card", fail)
    adapter = random_adapter(tiny_model(), seed=5)
    with pytest.raises(KeyboardInterrupt):
        save_adapter(saved, adapter, config_of(adapter))

    assert files_in(saved) == FILES


def test_a_folder_of_someone_else_is_not_replaced(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    adapter = random_adapter(tiny_model())
    with pytest.raises(AdapterError, match=r"would be replaced, but it holds thesis\.txt"):
        save_adapter(tmp_path, adapter, config_of(adapter))

    assert (tmp_path / "thesis.txt").read_text() == "years of work"


def test_check_target(saved, tmp_path):
    check_target(saved)
    check_target(tmp_path / "new")
    (tmp_path / "empty").mkdir()
    check_target(tmp_path / "empty")

    (saved / "notes.txt").touch()
    with pytest.raises(AdapterError, match=r"notes\.txt"):
        check_target(saved)
    with pytest.raises(AdapterError, match="is a file"):
        check_target(saved / "notes.txt")
