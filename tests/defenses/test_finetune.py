import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from mogu.chat import encode_chat
from mogu.defenses import finetune
from mogu.defenses.bare import bare_base
from mogu.defenses.examples import Example
from mogu.defenses.finetune import linear_modules, reply_loss, train_lora, with_lora
from mogu.errors import TrainingDivergedError
from tests.defenses.counting import Heard
from tests.defenses.hosts import tiny_host
from tests.defenses.states import State
from tests.defenses.talks import TALKS, user
from tests.generation.hardened import FAMILIES
from tests.tiny import IM_END, LAYERS

EXAMPLES = [
    Example([user("Name an ant")], "the ant", ended=True),
    Example([user("Name a stone, and another")], "no", ended=True),
    Example([user("Sing")], "in the", ended=False),
]
LINEARS = {"llama": 7, "gpt2": 4, "falcon_7b": 4, "gemma3_text": 7, "qwen3": 7}


@pytest.fixture(autouse=True)
def _small_batches(monkeypatch):
    monkeypatch.setattr(finetune, "BATCH", 2)
    monkeypatch.setattr(finetune, "EPOCHS", 4)


def rows_of(host):
    return [finetune._encode(host.mogu.tokenizer, example) for example in EXAMPLES]


@pytest.mark.parametrize("family", FAMILIES)
def test_all_linear_modules_of_the_layers_are_found_and_no_others(tmp_path, family):
    adapter = tiny_host(tmp_path, family).mogu.adapter
    with bare_base(adapter) as model:
        found = linear_modules(model)
        layers = {name.split(".")[2] for name in found}
    assert len(found) == LINEARS[family] * LAYERS
    assert layers == {"0", "1", "2"}
    assert set(adapter.layers) < set(found)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_lora_learns_and_leaves_the_base_bit_for_bit(tmp_path, family):
    host, heard = tiny_host(tmp_path, family), Heard()
    said = host.base_replies(TALKS, 8)
    state, rows = State(host.mogu.model), rows_of(host)
    with torch.no_grad():
        before = reply_loss(host.mogu.model, rows).item()
    train_lora(host, tmp_path / "lora", EXAMPLES, heard)
    state.assert_same()
    assert heard.calls == [(step, 8) for step in range(1, 9)]
    with with_lora(host, tmp_path / "lora"), torch.no_grad():
        assert reply_loss(host.mogu.model, rows).item() < before - 0.5
        assert host.base_replies(TALKS, 8) != said
    state.assert_same()
    assert host.base_replies(TALKS, 8) == said


@torch.no_grad()
def test_the_loss_is_that_of_reply_tokens_alone(tmp_path):
    host = tiny_host(tmp_path)
    losses = []
    for example in EXAMPLES:
        chat = encode_chat(host.mogu.tokenizer, example.messages, example.reply)
        ids = [*chat.ids, IM_END] if example.ended else chat.ids
        shares = host.mogu.model(input_ids=torch.tensor([ids])).logits[0].float().log_softmax(-1)
        losses += [-shares[place - 1, ids[place]] for place in range(chat.reply_start, len(ids))]
    # "the ant" and its end, "no" and its end, "in the" without one
    assert len(losses) == (5 + 1) + (2 + 1) + 2
    found = reply_loss(host.mogu.model, rows_of(host))
    torch.testing.assert_close(found, torch.stack(losses).mean(), rtol=1e-5, atol=0)


def test_gradients_taken_a_few_examples_at_a_time_are_those_of_the_batch(tmp_path):
    host = tiny_host(tmp_path)
    model, rows = host.mogu.model, rows_of(host)
    weight = model.get_input_embeddings().weight
    assert len(rows) > finetune.AT_ONCE
    found = []
    weight.requires_grad_(True)
    try:
        for backward in (lambda: reply_loss(model, rows), lambda: finetune._gradients_of(model, rows)):
            loss = backward()
            if isinstance(loss, torch.Tensor):
                loss.backward()
            found.append((float(torch.as_tensor(loss).detach()), weight.grad.clone()))
            weight.grad = None
    finally:
        weight.requires_grad_(False)
    (whole, of_whole), (parts, of_parts) = found
    assert parts == pytest.approx(whole)
    torch.testing.assert_close(of_parts, of_whole)


def test_a_killed_training_leaves_no_folder_and_the_base_as_it_was(tmp_path):
    host, folder = tiny_host(tmp_path), tmp_path / "lora"
    state = State(host.mogu.model)
    with pytest.raises(KeyboardInterrupt):
        train_lora(host, folder, EXAMPLES, Heard(stop_at=3))
    state.assert_same()
    assert not folder.exists()
    (tmp_path / ".lora.new").mkdir()  # of a run that was killed while it saved
    train_lora(host, folder, EXAMPLES, Heard())
    assert [path.name for path in tmp_path.iterdir()] == ["lora"]


def test_the_same_seed_gives_the_same_lora_and_another_one_another(tmp_path):
    host = tiny_host(tmp_path)
    loras = {}
    for name, seed in (("one", 0), ("same", 0), ("other", 1)):
        host.seed = seed
        train_lora(host, tmp_path / name, EXAMPLES, Heard())
        loras[name] = load_file(tmp_path / name / "adapter_model.safetensors")
    assert len(loras["one"]) == 2 * LINEARS["llama"] * LAYERS
    assert all(torch.equal(tensor, loras["same"][name]) for name, tensor in loras["one"].items())
    assert not all(torch.equal(tensor, loras["other"][name]) for name, tensor in loras["one"].items())


def test_it_does_not_depend_on_which_layers_the_adapter_under_test_wraps(tmp_path):
    host = tiny_host(tmp_path)
    train_lora(host, tmp_path / "one", EXAMPLES, Heard())
    (name, *_) = host.mogu.adapter.layers
    layer = host.mogu.adapter.layers.pop(name)
    host.mogu.model.set_submodule(name, layer.projection)
    try:
        train_lora(host, tmp_path / "other", EXAMPLES, Heard())
    finally:
        host.mogu.adapter.layers = {name: layer} | host.mogu.adapter.layers
        host.mogu.model.set_submodule(name, layer)
    one, other = (load_file(tmp_path / f / "adapter_model.safetensors") for f in ("one", "other"))
    assert one.keys() == other.keys()
    assert all(torch.equal(tensor, other[key]) for key, tensor in one.items())


def test_a_loss_that_is_no_number_ends_the_training(tmp_path, monkeypatch):
    host = tiny_host(tmp_path)
    state = State(host.mogu.model)
    monkeypatch.setattr(finetune, "reply_loss", lambda *_: nn.Parameter(torch.tensor(float("nan"))))
    with pytest.raises(TrainingDivergedError, match="the loss is nan at step 1"):
        train_lora(host, tmp_path / "lora", EXAMPLES, Heard())
    state.assert_same()
    assert not (tmp_path / "lora").exists()
