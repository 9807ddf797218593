import gc
import json

import pytest
import torch

from tests.tiny import save_tiny, tiny_tokenizer
from tests.training.loops import new_stage, run, state_of


@pytest.fixture(scope="package", autouse=True)
def _quick_collections():
    """Every Trainer collects garbage; what the imports have left is most of what it would look through."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A tiny model, and as many malicious and benign requests as make both splits."""
    folder = tmp_path_factory.mktemp("pipeline")
    save_tiny(folder / "model")
    for label, text in (("malicious", "Harm {} now."), ("benign", "Describe {} to me.")):
        rows = [json.dumps({"prompt": text.format(f"thing {n}"), "category": "drugs"}) for n in range(40)]
        (folder / f"{label}.jsonl").write_text("\n".join(rows))
    return folder


@pytest.fixture
def tokenizer():
    return tiny_tokenizer()


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    stage = new_stage()
    before = state_of(stage)
    metrics = run(stage, tmp_path_factory.mktemp("whole"))
    after = state_of(stage)
    assert not any(torch.equal(before[name], after[name]) for name in before)
    return after, metrics
