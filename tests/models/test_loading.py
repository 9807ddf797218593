import json
import logging
import shutil
import sys
import time
import warnings

import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    BertConfig,
    BertForMaskedLM,
    T5Config,
    T5ForConditionalGeneration,
)
from transformers.utils import logging as transformers_logging

from mogu.errors import MoguError
from mogu.models import load_model
from mogu.models.source import Source
from tests.tiny import CHAT_TEMPLATE, HEADS, HIDDEN, IM_END, MERGES, save_tiny, tiny_model, tiny_tokenizer

TOKENS = torch.tensor([[0, 17, 42, 99, 200]])
CHAT = [
    {"role": "user", "content": "Hello"},
    {"role": "assistant", "content": "Hi"},
    {"role": "user", "content": "Go"},
]


@pytest.fixture
def folder(tmp_path):
    return save_tiny(tmp_path / "model")


def write_gguf(path, model, tokenizer):
    """Write a tiny Llama the way llama.cpp's converter does."""
    config = model.config
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("tiny")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_vocab_size(config.vocab_size)
    vocabulary = sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().get)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(vocabulary)
    writer.add_token_types([gguf.TokenType.CONTROL] * 2 + [gguf.TokenType.NORMAL] * (len(vocabulary) - 2))
    writer.add_token_merges([" ".join(pair) for pair in MERGES])
    writer.add_eos_token_id(IM_END)
    writer.add_chat_template(CHAT_TEMPLATE)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    for name, tensor in model.state_dict().items():
        array = tensor.numpy()
        if (projection := name.split(".")[-2]) in heads:
            rows = array.reshape(heads[projection], 2, -1, array.shape[1])
            array = rows.swapaxes(1, 2).reshape(array.shape)
        writer.add_tensor(names.get_name(name, try_suffixes=(".weight",)), array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture
def gguf_file(tmp_path):
    (tmp_path / "gguf").mkdir()
    return write_gguf(tmp_path / "gguf" / "tiny.gguf", tiny_model(dtype=torch.float32), tiny_tokenizer())


def test_a_folder_is_loaded_frozen_and_equal_to_what_was_saved(folder):
    loaded = load_model(folder)
    assert torch.equal(loaded.model(TOKENS).logits, tiny_model(dtype=torch.float32)(TOKENS).logits)
    assert not loaded.model.training
    assert not any(parameter.requires_grad for parameter in loaded.model.parameters())
    assert loaded.tokenizer.padding_side == "left"
    assert loaded.tokenizer("the thing").input_ids == tiny_tokenizer()("the thing").input_ids
    assert (loaded.identity.name, loaded.identity.revision) == (str(folder), None)
    assert loaded.identity.model_type == "llama"


@pytest.mark.parametrize("family", ["gemma3", "gpt2", "mixtral"])
def test_other_classes_load_too(tmp_path, family):
    loaded = load_model(save_tiny(tmp_path, family))
    assert torch.equal(loaded.model(TOKENS).logits, tiny_model(family, dtype=torch.float32)(TOKENS).logits)


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [
        ("auto", torch.float32),
        ("float32", torch.float32),
        ("bfloat16", torch.bfloat16),
        ("float16", torch.float16),
    ],
)
def test_dtypes(folder, dtype, expected):
    tiny_model(dtype=torch.bfloat16).save_pretrained(folder)
    assert load_model(folder, dtype=dtype, device="cpu").model.dtype == expected


def test_a_normal_load_prints_nothing_and_leaves_no_global_state(folder, gguf_file, capfd):
    # Saving shows a bar, which is none of loading's business.
    capfd.readouterr()
    before = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled(), sys.stderr
    filters = list(warnings.filters)
    load_model(folder)
    load_model(gguf_file)
    assert capfd.readouterr() == ("", "")
    after = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled(), sys.stderr
    assert after == before
    assert warnings.filters == filters


def test_the_fingerprint_is_of_the_content_alone(folder, tmp_path):
    identity = load_model(folder).identity
    copied = tmp_path / "copy"
    shutil.copytree(folder, copied)
    assert load_model(copied, dtype="bfloat16").identity.fingerprint == identity.fingerprint
    weights = load_file(copied / "model.safetensors")
    weights["model.norm.weight"] += 1e-3
    save_file(weights, copied / "model.safetensors", metadata={"format": "pt"})
    assert load_model(copied).identity.fingerprint != identity.fingerprint


def test_the_fingerprint_of_a_large_file_reads_a_sample_to_its_very_end(tmp_path):
    path = tmp_path / "model.safetensors"
    with path.open("wb") as file:
        file.truncate(2 << 30)  # sparse: takes no room
    started = time.perf_counter()
    first = Source(tmp_path, [path]).fingerprint()
    assert time.perf_counter() - started < 0.5
    with path.open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"x")
    assert Source(tmp_path, [path]).fingerprint() != first


@pytest.mark.parametrize("what", ["file", "folder"])
def test_gguf_gives_a_plain_model(gguf_file, what, tmp_path):
    loaded = load_model(gguf_file if what == "file" else gguf_file.parent)
    reference = tiny_model(dtype=torch.float32)
    assert torch.allclose(loaded.model(TOKENS).logits, reference(TOKENS).logits, atol=1e-5)
    assert not hasattr(loaded.model.config, "quantization_config")
    assert getattr(loaded.model, "hf_quantizer", None) is None
    assert not loaded.model.is_quantized
    assert not hasattr(loaded.model, "quantization_method")
    assert {parameter.dtype for parameter in loaded.model.parameters()} == {torch.float32}
    assert loaded.tokenizer("the thing").input_ids == tiny_tokenizer()("the thing").input_ids
    assert loaded.tokenizer.chat_template == CHAT_TEMPLATE
    loaded.model.save_pretrained(tmp_path / "saved")
    saved = AutoModelForCausalLM.from_pretrained(tmp_path / "saved")
    assert torch.equal(saved(TOKENS).logits, loaded.model(TOKENS).logits)
    assert load_model(gguf_file, dtype="bfloat16").model.dtype == torch.bfloat16


def test_a_gguf_file_is_read_once(gguf_file, monkeypatch):
    read, opened = [], gguf.GGUFReader.__init__

    def open_file(self, path, *rest):
        read.append(path)
        opened(self, path, *rest)
        assert type(self.data) is np.ndarray  # slices of a memory map would cost more than the reading

    whole = gguf.GGUFReader
    monkeypatch.setattr(whole, "__init__", open_file)
    load_model(gguf_file)
    assert len(read) == 1
    assert gguf.GGUFReader is whole


def test_gguf_folder_with_several_files_lists_them(gguf_file):
    shutil.copy(gguf_file, gguf_file.with_name("other.gguf"))
    with pytest.raises(MoguError, match=r"several GGUF files.*other\.gguf, tiny\.gguf"):
        load_model(gguf_file.parent)


def test_pad_token_defaults_to_eos(folder):
    config = json.loads((folder / "tokenizer_config.json").read_text())
    del config["pad_token"]
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    assert load_model(folder).tokenizer.pad_token == "<|im_end|>"


def render(folder, **options):
    return load_model(folder, **options).tokenizer.apply_chat_template(
        CHAT, add_generation_prompt=True, tokenize=False
    )


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (
            "vicuna-7b",
            "A chat between a curious user and an artificial intelligence assistant. "
            "The assistant gives helpful, detailed, and polite answers to the user's questions. "
            "USER: Hello ASSISTANT: Hi<|im_end|> USER: Go ASSISTANT:",
        ),
        ("Baichuan2-7B-Chat", "<reserved_106>Hello<reserved_107>Hi<reserved_106>Go<reserved_107>"),
        ("falcon-7b-instruct", "User: Hello\n\nAssistant: Hi\n\nUser: Go\n\nAssistant:"),
    ],
)
def test_templates_by_rule(folder, tmp_path, name, expected, caplog):
    (folder / "chat_template.jinja").unlink()
    assert render(folder.rename(tmp_path / name)) == expected
    assert not caplog.records


def test_an_unknown_model_without_template_gets_the_plain_form_and_a_warning(folder, caplog):
    (folder / "chat_template.jinja").unlink()
    with caplog.at_level(logging.WARNING):
        assert render(folder) == "User: Hello\n\nAssistant: Hi\n\nUser: Go\n\nAssistant:"
    assert "--chat-template" in caplog.text


def test_the_warning_of_a_missing_template_reaches_the_terminal(folder, capsys, monkeypatch):
    (folder / "chat_template.jinja").unlink()
    monkeypatch.setattr(logging.getLogger("mogu"), "handlers", [logging.lastResort])
    load_model(folder)
    assert capsys.readouterr().err == (
        f"{folder} has no chat template: using a plain 'User: ... Assistant:' form; "
        "give the right one with --chat-template FILE\n"
    )


def test_a_template_starts_with_bos_where_the_tokenizer_adds_one(folder):
    (folder / "chat_template.jinja").unlink()
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    tokenizer["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [
            {"SpecialToken": {"id": "<|im_start|>", "type_id": 0}},
            {"Sequence": {"id": "A", "type_id": 0}},
        ],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {"<|im_start|>": {"id": "<|im_start|>", "ids": [0], "tokens": ["<|im_start|>"]}},
    }
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    config = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(config | {"bos_token": "<|im_start|>"}))
    assert render(folder).startswith("<|im_start|>User: Hello")


def test_the_template_option_is_used(folder, tmp_path):
    template = tmp_path / "chat.jinja"
    template.write_text("{% for message in messages %}[{{ message['content'] }}]{% endfor %}")
    assert render(folder, chat_template=template) == "[Hello][Hi][Go]"
    assert render(folder, chat_template=template.read_text()) == "[Hello][Hi][Go]"


def test_a_template_that_does_not_parse_or_exist_is_refused(folder, tmp_path):
    template = tmp_path / "chat.jinja"
    with pytest.raises(MoguError, match="cannot read the chat template"):
        load_model(folder, chat_template=template)
    template.write_text("{% for message in messages %}")
    with pytest.raises(MoguError, match="does not render"):
        load_model(folder, chat_template=template)


def test_a_local_model_is_named_by_its_absolute_path(gguf_file, monkeypatch):
    monkeypatch.chdir(gguf_file.parent)
    assert load_model("tiny.gguf").identity.name == str(gguf_file)
    monkeypatch.setenv("HOME", str(gguf_file.parent.parent))
    assert load_model("~/gguf").identity.name == str(gguf_file.parent)


@pytest.mark.parametrize("name", ["./missing", "/missing/model", "a/b/c", "model.gguf/"])
def test_a_path_that_does_not_exist(name):
    with pytest.raises(MoguError, match="no such file or folder"):
        load_model(name)


def test_an_unreachable_hub_says_to_give_a_folder(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(MoguError, match=r"hub cannot be reached.*give a local folder"):
        load_model("nobody/nothing-of-that-name")


def test_a_hub_model_is_downloaded_once_and_named_by_its_commit(folder, tmp_path, monkeypatch):
    commit = "0123456789abcdef"
    snapshot = folder.rename(tmp_path / commit)
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **__: str(snapshot))
    identity = load_model("owner/tiny", revision="main").identity
    assert (identity.name, identity.revision) == ("owner/tiny", commit)


def test_a_revision_of_a_local_folder_is_refused(folder):
    with pytest.raises(MoguError, match="only be given with a hub id"):
        load_model(folder, revision="main")


def test_unknown_dtype_and_device(folder):
    with pytest.raises(MoguError, match="'int4' is none of auto, float32"):
        load_model(folder, dtype="int4")
    with pytest.raises(MoguError, match="'gpu' is no device"):
        load_model(folder, device="gpu")


def test_a_folder_without_weights_or_config(folder, tmp_path):
    with pytest.raises(MoguError, match="holds no weights"):
        load_model(tmp_path)
    (folder / "config.json").unlink()
    with pytest.raises(MoguError, match=r"no config\.json"):
        load_model(folder)


def test_a_file_that_is_no_gguf(folder):
    with pytest.raises(MoguError, match=r"is a file but no \.gguf"):
        load_model(folder / "model.safetensors")


def test_no_tokenizer(folder):
    (folder / "tokenizer.json").unlink()
    with pytest.raises(MoguError, match="has no tokenizer"):
        load_model(folder)


def test_no_end_token(folder):
    config = json.loads((folder / "tokenizer_config.json").read_text())
    del config["eos_token"]
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    with pytest.raises(MoguError, match="no end-of-sequence token"):
        load_model(folder)


def test_sentencepiece_missing_names_the_extra(folder, monkeypatch):
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer.model").write_bytes(b"")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MoguError, match=r'pip install "mogu-llm\[sentencepiece\]"'):
        load_model(folder)


def test_an_encoder_decoder_is_refused(folder):
    config = T5Config(d_model=HIDDEN, d_kv=8, d_ff=16, num_layers=1, num_heads=HEADS, vocab_size=300)
    T5ForConditionalGeneration(config).save_pretrained(folder)
    with pytest.raises(MoguError, match="encoder-decoder"):
        load_model(folder)


def test_a_masked_language_model_is_refused(folder):
    config = BertConfig(
        hidden_size=HIDDEN, num_hidden_layers=1, num_attention_heads=HEADS, intermediate_size=16
    )
    BertForMaskedLM(config).save_pretrained(folder)
    with pytest.raises(MoguError, match="no causal language model but a BertForMaskedLM"):
        load_model(folder)


def test_code_in_the_checkpoint_names_the_option(folder):
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "made_up", "auto_map": {"AutoConfig": "made_up.Config"}}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(MoguError, match="--trust-remote-code"):
        load_model(folder)


def test_an_unknown_model_type(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "made_up"}))
    with pytest.raises(MoguError, match="made_up"):
        load_model(folder)


def test_a_truncated_weights_file(folder):
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    with pytest.raises(MoguError, match="cannot load"):
        load_model(folder)


def test_a_truncated_gguf(gguf_file):
    gguf_file.write_bytes(gguf_file.read_bytes()[:3000])
    with pytest.raises(MoguError, match="cannot load"):
        load_model(gguf_file)


def test_a_missing_weight_is_not_left_random(folder):
    weights = load_file(folder / "model.safetensors")
    del weights["lm_head.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(MoguError, match=r"incomplete: 1 weights.*lm_head"):
        load_model(folder)


def test_a_weight_of_another_shape(folder):
    weights = load_file(folder / "model.safetensors")
    weights["lm_head.weight"] = weights["lm_head.weight"][:10].contiguous()
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(MoguError, match=r"cannot load|incomplete"):
        load_model(folder)


def test_a_config_that_is_no_json(folder):
    (folder / "config.json").write_text("{")
    with pytest.raises(MoguError, match="is no JSON"):
        load_model(folder)
