import json
from importlib.metadata import version
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file

from mogu.adapter import folder as adapter_folder
from mogu.adapter.config import DataSource, package_versions
from mogu.adapter.folder import check_target, load_adapter, read_config, save_adapter
from mogu.adapter.layer import SAFE, USABLE
from mogu.adapter.router import Router
from mogu.errors import AdapterError
from tests.adapter.adapters import IDENTITY, config_of, gated, logits, random_adapter, token_ids
from tests.tiny import FAMILIES, tiny_model

FILES = {
    "README.md",
    "mogu_config.json",
    "routers.safetensors",
    "safe/adapter_config.json",
    "safe/adapter_model.safetensors",
    "usable/adapter_config.json",
    "usable/adapter_model.safetensors",
}


def files_in(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def routed_logits(adapter, ids, weights=None):
    adapter.routing.routed, adapter.routing.weights = torch.ones(ids.shape, dtype=torch.bool), weights
    try:
        return logits(adapter.model, ids)
    finally:
        adapter.routing.routed = adapter.routing.weights = None


@pytest.fixture
def saved(tmp_path) -> Path:
    adapter = random_adapter(tiny_model())
    save_adapter(tmp_path / "adapter", adapter, config_of(adapter))
    return tmp_path / "adapter"


def edit_config(folder: Path, **changes) -> None:
    file = folder / "mogu_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def edit_tensors(file: Path, edit) -> None:
    tensors = load_file(file)
    edit(tensors)
    save_file(tensors, file)


def assert_refused(folder: Path, *parts: str, model=None, identity=IDENTITY, **options) -> None:
    """Loading raises one line that has all of the parts, and leaves the model as it was."""
    model = model or tiny_model()
    names = list(dict(model.named_modules()))
    with pytest.raises(AdapterError) as caught:
        load_adapter(folder, model, identity, **options)
    message = str(caught.value)
    assert "\n" not in message
    for part in parts:
        assert part in message
    assert list(dict(model.named_modules())) == names


# What is written, and that it comes back.


@pytest.mark.parametrize("family", FAMILIES)
def test_a_saved_adapter_comes_back(family, tmp_path):
    ids = token_ids()
    adapter = random_adapter(tiny_model(family), skip=1)
    config = config_of(adapter)
    before = routed_logits(adapter, ids)
    save_adapter(tmp_path / "adapter", adapter, config)
    loaded, read = load_adapter(tmp_path / "adapter", tiny_model(family), IDENTITY)

    assert read == config
    assert list(loaded.layers) == list(adapter.layers)
    assert torch.equal(routed_logits(loaded, ids), before)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("variant", "index"), [("safe", SAFE), ("usable", USABLE)])
def test_each_variant_is_an_ordinary_peft_adapter(family, variant, index, tmp_path):
    ids = token_ids()
    adapter = random_adapter(tiny_model(family), skip=1)
    save_adapter(tmp_path / "adapter", adapter, config_of(adapter))
    weights = torch.zeros(1, 1, 2)
    weights[..., index] = 1
    peft_model = PeftModel.from_pretrained(tiny_model(family), tmp_path / "adapter" / variant).eval()

    torch.testing.assert_close(
        logits(peft_model, ids), routed_logits(adapter, ids, weights), rtol=0, atol=1e-9
    )
    assert (logits(peft_model, ids) - logits(adapter.model, ids)).abs().max() > 1e-3


def test_the_papers_router_is_folded_when_saved(tmp_path):
    ids = token_ids()
    adapter = random_adapter(tiny_model())
    for layer in adapter.layers.values():
        layer.router = Router(layer.router.vectors.shape[1]).double()
    before = routed_logits(adapter, ids)
    save_adapter(tmp_path / "adapter", adapter, config_of(adapter))
    loaded, _ = load_adapter(tmp_path / "adapter", tiny_model())
    name = next(iter(adapter.layers))
    tensors = load_file(tmp_path / "adapter" / "routers.safetensors")

    assert tensors[f"{name}.vectors"].shape == (2, 32)
    assert tensors[f"{name}.bias"].shape == (2,)
    assert len(tensors) == 2 * len(adapter.layers)
    torch.testing.assert_close(routed_logits(loaded, ids), before, rtol=0, atol=1e-9)


def test_an_adapter_fits_its_base_in_another_dtype(saved):
    loaded, _ = load_adapter(saved, tiny_model(dtype=torch.bfloat16), IDENTITY)
    layer = next(iter(loaded.layers.values()))

    assert layer.safe.A.dtype == torch.bfloat16
    assert layer.router.bias.dtype == torch.float32


def test_the_files_are_these_and_none_is_pickled(saved):
    assert files_in(saved) == FILES
    for name in FILES:
        if name.endswith(".safetensors"):
            load_file(saved / name)
        else:
            (saved / name).read_text(encoding="utf-8")


def test_saving_again_writes_the_same_bytes(saved):
    before = {name: (saved / name).read_bytes() for name in FILES}
    adapter = random_adapter(tiny_model())
    save_adapter(saved, adapter, config_of(adapter))

    assert {name: (saved / name).read_bytes() for name in FILES} == before


def test_only_the_parts_of_the_config_are_written(tmp_path):
    adapter = random_adapter(tiny_model())
    save_adapter(tmp_path / "adapter", adapter, config_of(adapter, ("safe",)))
    loaded, _ = load_adapter(tmp_path / "adapter", tiny_model(), parts=["safe"])

    assert files_in(tmp_path / "adapter") == {name for name in FILES if "usable" not in name} - {
        "routers.safetensors"
    }
    for name, layer in loaded.layers.items():
        assert torch.equal(layer.safe.B, adapter.layers[name].safe.B)
        assert not layer.usable.B.any()


def test_the_peft_config_names_base_and_modules(saved):
    settings = json.loads((saved / "safe" / "adapter_config.json").read_text())

    assert settings["base_model_name_or_path"] == "tiny/llama"
    assert settings["revision"] == "abc123"
    assert (settings["r"], settings["lora_alpha"], settings["fan_in_fan_out"]) == (4, 6.0, False)
    assert settings["target_modules"] == [f"model.layers.{index}.self_attn.o_proj" for index in range(3)]


def test_a_config_of_another_adapter_is_not_written(tmp_path):
    config = config_of(random_adapter(tiny_model()))
    with pytest.raises(ValueError, match="projections"):
        save_adapter(tmp_path / "adapter", random_adapter(tiny_model(), skip=1), config)
    assert not any(tmp_path.iterdir())


# The config.


def test_a_missing_folder(tmp_path):
    with pytest.raises(AdapterError, match=r"nowhere is not a folder"):
        read_config(tmp_path / "nowhere")


def test_what_a_killed_save_left_is_named(saved):
    old = saved.rename(saved.with_name(".adapter.old"))
    with pytest.raises(AdapterError) as caught:
        read_config(saved)
    assert str(caught.value) == f"{saved} is not there, but an interrupted save left {old}: rename it"


def test_the_versions_are_of_everything_that_a_training_depends_on():
    found = package_versions()
    assert list(found) == [
        "python",
        "mogu",
        "torch",
        "transformers",
        "peft",
        "accelerate",
        "tokenizers",
        "safetensors",
        "scikit-learn",
    ]
    assert (found["torch"], found["mogu"]) == (torch.__version__, version("mogu-llm"))


def test_a_folder_without_a_config_is_told_by_its_files(tmp_path):
    (tmp_path / "adapter_config.json").touch()
    (tmp_path / "adapter_model.safetensors").touch()
    assert_refused(tmp_path, "no mogu_config.json", "adapter_config.json, adapter_model.safetensors")


@pytest.mark.parametrize("content", [b"{", b"\xff\xfe", b""])
def test_a_config_that_is_no_json(saved, content):
    (saved / "mogu_config.json").write_bytes(content)
    assert_refused(saved, "mogu_config.json is no JSON")


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"rnk": 8}, ["rnk: Extra inputs are not permitted"]),
        ({"rank": 0, "lora_alpha": "x"}, ["rank: Input should be greater", "lora_alpha: Input should be a"]),
        ({"parts": ["safe", "brain"]}, ["parts.1", "'safe', 'usable', 'routers' or 'gate'"]),
        ({"projections": []}, ["projections"]),
    ],
)
def test_a_config_that_is_not_valid(saved, changes, parts):
    edit_config(saved, **changes)
    assert_refused(saved, "mogu_config.json is not valid", *parts)


def test_what_an_adapter_was_trained_on_comes_back(saved, tmp_path):
    adapter = random_adapter(tiny_model())
    data = [DataSource(label="benign", source="mine.csv", sha256="0" * 64, rows=30)]
    save_adapter(tmp_path / "other", adapter, config_of(adapter).model_copy(update={"data": data}))
    assert read_config(tmp_path / "other").data == data
    # Folders that were written before the data was noted.
    file = saved / "mogu_config.json"
    config = json.loads(file.read_text())
    assert config.pop("data") == []
    file.write_text(json.dumps(config))
    assert read_config(saved).data == []


def test_a_config_that_is_no_object(saved):
    (saved / "mogu_config.json").write_text("[]")
    assert_refused(saved, "not valid", "dictionary")


def test_a_newer_format(saved):
    edit_config(saved, format_version=2, mogu_version="9.1", something_new=True)
    assert_refused(saved, "format 2", "mogu 9.1", "pip install --upgrade mogu-llm")


def test_another_base(saved):
    other = IDENTITY.model_copy(update={"name": "tiny/other", "fingerprint": "f" * 64})
    assert_refused(saved, "tiny/llama (llama, fingerprint 0123456789ab)", "tiny/other", identity=other)


def test_the_same_base_under_another_name(saved):
    moved = IDENTITY.model_copy(update={"name": "/elsewhere/llama", "revision": None})
    assert load_adapter(saved, tiny_model(), moved)[1].base == IDENTITY


# The tensors.


def test_a_missing_tensor(saved):
    name = "base_model.model.model.layers.1.self_attn.o_proj.lora_A.weight"
    edit_tensors(saved / "safe" / "adapter_model.safetensors", lambda tensors: tensors.pop(name))
    assert_refused(saved, "safe/adapter_model.safetensors lacks", name)


def test_an_extra_tensor(saved):
    edit_tensors(saved / "routers.safetensors", lambda tensors: tensors.update(surprise=torch.zeros(1)))
    assert_refused(saved, "routers.safetensors holds surprise")


def test_a_wrong_shape(saved):
    name = "model.layers.0.self_attn.o_proj.bias"
    edit_tensors(saved / "routers.safetensors", lambda tensors: tensors.update({name: torch.zeros(3)}))
    assert_refused(saved, name, "(3,)", "(2,)")


def test_a_rank_that_is_not_the_files(saved):
    edit_config(saved, rank=8)
    assert_refused(saved, "lora_A.weight has shape (4, 32)", "(8, 32)")


@pytest.mark.parametrize("size", [0, 7, 100, -1])
def test_a_truncated_file(saved, size):
    file = saved / "usable" / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:size])
    assert_refused(saved, str(file), "damaged or cut short")


@pytest.mark.parametrize("name", [name for name in FILES if name.endswith(".safetensors")])
def test_a_missing_file(saved, name):
    (saved / name).unlink()
    assert_refused(saved, name, "is not there")


def test_a_part_that_is_asked_for_and_not_there(tmp_path):
    adapter = random_adapter(tiny_model())
    save_adapter(tmp_path / "adapter", adapter, config_of(adapter, ("safe", "usable")))
    parts = ["safe", "usable", "routers"]
    assert_refused(tmp_path / "adapter", "holds safe, usable, but not routers", parts=parts)


def test_a_model_without_the_projections(saved):
    assert_refused(
        saved, "tiny/llama", "model.layers.0.self_attn.o_proj", "GPT2LMHeadModel", model=tiny_model("gpt2")
    )


def test_a_model_with_fewer_layers(saved):
    model = tiny_model()
    model.config.num_hidden_layers = 2
    del model.model.layers[2]
    assert_refused(saved, "wraps model.layers.2.self_attn.o_proj, which", model=model)


def test_a_model_that_has_an_adapter(saved):
    assert_refused(saved, "has an adapter already", model=random_adapter(tiny_model()).model)


# The gate of sequence routing.


@pytest.fixture
def saved_gate(tmp_path) -> Path:
    adapter = random_adapter(tiny_model(), skip=1)
    save_adapter(tmp_path / "adapter", adapter, gated(adapter))
    return tmp_path / "adapter"


@torch.no_grad()
def gate_logits(adapter) -> torch.Tensor:
    generator = torch.Generator().manual_seed(8)
    hidden = [torch.randn(3, 5, 32, generator=generator, dtype=torch.float64) for _ in adapter.gate.layers]
    return adapter.gate(adapter.gate.token_scores(hidden), torch.ones(3, 5, dtype=torch.bool))


@pytest.mark.parametrize("family", FAMILIES)
def test_an_adapter_of_sequence_routing_comes_back(family, tmp_path):
    ids, weights = token_ids(), torch.tensor([[[1.0, 0.0]]])
    adapter = random_adapter(tiny_model(family), skip=1)
    config = gated(adapter)
    save_adapter(tmp_path / "adapter", adapter, config)
    loaded, read = load_adapter(tmp_path / "adapter", tiny_model(family), IDENTITY)

    assert read == config and read.gate == config.gate
    assert loaded.gate.layers == adapter.gate.layers == (0, 2)
    assert torch.equal(gate_logits(loaded), gate_logits(adapter))
    assert torch.equal(routed_logits(loaded, ids, weights), routed_logits(adapter, ids, weights))
    assert not any(layer.usable.B.any() for layer in loaded.layers.values())


def test_its_files_are_the_safe_variant_and_the_gate(saved_gate):
    tensors = load_file(saved_gate / "gate.safetensors")

    assert files_in(saved_gate) == {
        "README.md",
        "mogu_config.json",
        "gate.safetensors",
        "safe/adapter_config.json",
        "safe/adapter_model.safetensors",
    }
    one = ["inner", "inner_bias", "vectors", "offsets", "frame", "bias"]
    assert tensors.keys() == {f"probes.{n}.{name}" for n in range(2) for name in one} | {
        "mix",
        "bias",
        "frame_bias",
        "lift",
    }
    check_target(saved_gate)


def test_a_gate_keeps_its_precision_in_a_bfloat16_model(tmp_path):
    adapter = random_adapter(tiny_model(dtype=torch.bfloat16))
    save_adapter(tmp_path / "adapter", adapter, gated(adapter))
    loaded, _ = load_adapter(tmp_path / "adapter", tiny_model(dtype=torch.bfloat16))

    assert loaded.layers["model.layers.0.self_attn.o_proj"].safe.A.dtype == torch.bfloat16
    for one, other in zip(loaded.gate.parameters(), adapter.gate.parameters(), strict=True):
        assert one.dtype == torch.float32 and torch.equal(one, other)


def test_an_adapter_of_token_routing_has_no_gate(saved):
    assert load_adapter(saved, tiny_model())[0].gate is None


@pytest.mark.parametrize("name", ["gate.safetensors", "safe/adapter_model.safetensors"])
def test_a_missing_file_of_sequence_routing(saved_gate, name):
    (saved_gate / name).unlink()
    assert_refused(saved_gate, name, "is not there")


@pytest.mark.parametrize("size", [0, 7, 100, -1])
def test_a_truncated_gate(saved_gate, size):
    file = saved_gate / "gate.safetensors"
    file.write_bytes(file.read_bytes()[:size])
    assert_refused(saved_gate, str(file), "damaged or cut short")


@pytest.mark.parametrize(
    ("name", "shape", "parts"),
    [
        ("mix", (3, 4), ["mix has shape (3, 4)", "(2, 4)"]),
        ("probes.1.inner", (256, 48), ["probes.1.inner has shape (256, 48)", "(256, 32)"]),
        ("bias", (1,), ["bias has shape (1,)", "()"]),
    ],
)
def test_a_wrong_shape_in_the_gate(saved_gate, name, shape, parts):
    edit_tensors(saved_gate / "gate.safetensors", lambda tensors: tensors.update({name: torch.zeros(shape)}))
    assert_refused(saved_gate, "gate.safetensors", *parts)


def test_a_gate_that_lacks_a_tensor_or_holds_another(saved_gate):
    file = saved_gate / "gate.safetensors"
    edit_tensors(file, lambda tensors: tensors.update(surprise=torch.zeros(1)))
    assert_refused(saved_gate, "gate.safetensors holds surprise")
    edit_tensors(file, lambda tensors: (tensors.pop("surprise"), tensors.pop("mix")))
    assert_refused(saved_gate, "gate.safetensors lacks mix")


def test_a_gate_of_other_layers_than_the_configs(saved_gate):
    gate = json.loads((saved_gate / "mogu_config.json").read_text())["gate"]
    edit_config(saved_gate, gate=gate | {"layers": [0, 1, 2]})
    assert_refused(saved_gate, "gate.safetensors lacks probes.2.")


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"threshold": 1.5}, "gate.threshold: Input should be less than or equal to 1"),
        ({"layers": []}, "gate.layers: List should have at least 1 item"),
        ({"refusal_starts": []}, "gate.refusal_starts: List should have at least 1 item"),
        ({"marks": {"header": [1]}}, "gate.marks.preamble: Field required"),
        ({"mood": 1}, "gate.mood: Extra inputs are not permitted"),
    ],
)
def test_a_gate_config_that_is_not_valid(saved_gate, changes, part):
    gate = json.loads((saved_gate / "mogu_config.json").read_text())["gate"]
    edit_config(saved_gate, gate=gate | changes)
    assert_refused(saved_gate, "mogu_config.json is not valid", part)


# Saving is all or nothing.


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
