from pathlib import Path

import pytest

from mogu.adapter.folder import save_adapter
from tests.adapter.adapters import config_of, random_adapter
from tests.tiny import tiny_model


@pytest.fixture
def saved(tmp_path) -> Path:
    adapter = random_adapter(tiny_model())
    save_adapter(tmp_path / "adapter", adapter, config_of(adapter))
    return tmp_path / "adapter"
