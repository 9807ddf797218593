"""Against the written formula: embedding, RMS norm, W_pack, rotary attention, gated MLP, NormHead."""

import io
import json

import pytest
import sentencepiece
import torch
from safetensors.torch import save_file
from torch.nn.functional import silu

from mogu.errors import MoguError
from mogu.models import find_projections, load_model

HIDDEN, INNER, HEADS, LAYERS, EPS = 16, 24, 2, 2, 1e-6
TOKENS = [3, 195, 40, 17, 99, 196]
SENTENCES = ["the quick brown fox jumps over the lazy dog", "a lazy dog sleeps  all day", "Hello, world! 123"]
TEXTS = ["the lazy dog", " two  spaces", "<reserved_106>Hello<reserved_107>", "naïve 💡 12"]


def config(vocab_size):
    return {
        "architectures": ["BaichuanForCausalLM"],
        "auto_map": {"AutoModelForCausalLM": "modeling_baichuan.BaichuanForCausalLM"},
        "model_type": "baichuan",
        "vocab_size": vocab_size,
        "hidden_size": HIDDEN,
        "intermediate_size": INNER,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "max_position_embeddings": 64,
        "model_max_length": 64,
        "hidden_act": "silu",
        "rms_norm_eps": EPS,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "tie_word_embeddings": False,
        "torch_dtype": "float32",
        "z_loss_weight": 0,
    }


def weights(vocab_size):
    shapes = {"model.embed_tokens.weight": (vocab_size, HIDDEN), "lm_head.weight": (vocab_size, HIDDEN)}
    for layer in range(LAYERS):
        shapes |= {
            f"model.layers.{layer}.self_attn.W_pack.weight": (3 * HIDDEN, HIDDEN),
            f"model.layers.{layer}.self_attn.o_proj.weight": (HIDDEN, HIDDEN),
            f"model.layers.{layer}.mlp.gate_proj.weight": (INNER, HIDDEN),
            f"model.layers.{layer}.mlp.up_proj.weight": (INNER, HIDDEN),
            f"model.layers.{layer}.mlp.down_proj.weight": (HIDDEN, INNER),
        }
    generator = torch.Generator().manual_seed(0)
    state = {name: 0.3 * torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    norms = [
        f"model.layers.{layer}.{side}_layernorm"
        for layer in range(LAYERS)
        for side in ("input", "post_attention")
    ]
    for norm in [*norms, "model.norm"]:
        state[f"{norm}.weight"] = 1 + 0.1 * torch.randn(HIDDEN, generator=generator)
    return state


def written_formula(state, tokens, norm_head):
    """The logits of Baichuan-7B's own modelling code in float64, (sequence, vocabulary)."""
    state = {name: tensor.double() for name, tensor in state.items()}
    size = HIDDEN // HEADS
    angles = torch.outer(
        torch.arange(len(tokens)).double(), 10_000.0 ** -(torch.arange(0, size, 2).double() / size)
    )
    cos, sin = angles.cos().repeat(1, 2), angles.sin().repeat(1, 2)  # (sequence, size)

    def norm(x, name):
        return x / (x.square().mean(-1, keepdim=True) + EPS).sqrt() * state[f"{name}.weight"]

    def rotate(x):
        return x * cos + torch.cat((-x[..., size // 2 :], x[..., : size // 2]), -1) * sin

    causal = torch.full((len(tokens), len(tokens)), -torch.inf, dtype=torch.double).triu(1)
    x = state["model.embed_tokens.weight"][tokens]
    for layer in (f"model.layers.{index}" for index in range(LAYERS)):
        packed = norm(x, f"{layer}.input_layernorm") @ state[f"{layer}.self_attn.W_pack.weight"].T
        query, key, value = packed.unflatten(-1, (3, HEADS, size)).permute(
            1, 2, 0, 3
        )  # (heads, sequence, size)
        scores = rotate(query) @ rotate(key).transpose(1, 2) / size**0.5 + causal
        mixed = (scores.softmax(-1) @ value).transpose(0, 1).flatten(1)
        x = x + mixed @ state[f"{layer}.self_attn.o_proj.weight"].T
        y = norm(x, f"{layer}.post_attention_layernorm")
        gate, up, down = (state[f"{layer}.mlp.{name}_proj.weight"] for name in ("gate", "up", "down"))
        x = x + (silu(y @ gate.T) * (y @ up.T)) @ down.T
    head = state["lm_head.weight"]
    if norm_head:
        head = head / head.norm(dim=1, keepdim=True)
    return norm(x, "model.norm") @ head.T


def train_sentencepiece(folder, add_dummy_prefix=False):
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(SENTENCES * 20),
        model_writer=model,
        model_type="bpe",
        vocab_size=330,
        byte_fallback=True,
        add_dummy_prefix=add_dummy_prefix,
        remove_extra_whitespaces=False,
        normalization_rule_name="identity",
        user_defined_symbols=["<reserved_106>", "<reserved_107>"],
        hard_vocab_limit=False,
        minloglevel=2,
    )
    (folder / "tokenizer.model").write_bytes(model.getvalue())
    # As the hub's folder has it: the class is code that is not run.
    tokenizer_config = {
        "add_bos_token": False,
        "add_eos_token": False,
        "auto_map": {"AutoTokenizer": ["tokenization_baichuan.BaichuanTokenizer", None]},
        "tokenizer_class": "BaichuanTokenizer",
        "bos_token": {"__type": "AddedToken", "content": "<s>", "single_word": True},
        "eos_token": {"__type": "AddedToken", "content": "</s>", "single_word": True},
        "pad_token": {"__type": "AddedToken", "content": "<unk>", "single_word": True},
        "unk_token": {"__type": "AddedToken", "content": "<unk>", "single_word": True},
        "use_fast": False,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer_config))
    return sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())


def save_checkpoint(folder, vocab_size=125_696, form="bin", **changes):
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config(vocab_size) | changes))
    train_sentencepiece(folder)
    state = weights(vocab_size)
    if form == "bin":
        torch.save(state, folder / "pytorch_model.bin")
    elif form == "sharded bin":
        names = sorted(state)
        for shard in range(2):
            part = {name: state[name] for name in names[shard::2]}
            torch.save(part, folder / f"pytorch_model-0000{shard + 1}-of-00002.bin")
    else:
        save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    return state


def logits(loaded):
    return loaded.model.double()(torch.tensor([TOKENS])).logits[0]


@pytest.mark.parametrize("form", ["bin", "sharded bin", "safetensors"])
def test_baichuan2_equals_the_written_formula(tmp_path, form):
    state = save_checkpoint(tmp_path / "Baichuan2-7B-Chat", form=form)
    loaded = load_model(tmp_path / "Baichuan2-7B-Chat")
    # Llama's norms and rotary frequencies, and NormHead's division, are done in float32 in every dtype.
    torch.testing.assert_close(
        logits(loaded), written_formula(state, TOKENS, norm_head=True), atol=1e-5, rtol=0
    )
    assert [x.name for x in find_projections(loaded.model)] == [
        f"model.layers.{layer}.self_attn.o_proj" for layer in range(LAYERS)
    ]


def test_baichuan_7b_has_no_norm_head(tmp_path):
    state = save_checkpoint(tmp_path / "Baichuan-7B", vocab_size=640)
    expected = written_formula(state, TOKENS, norm_head=False)
    torch.testing.assert_close(logits(load_model(tmp_path / "Baichuan-7B")), expected, atol=1e-5, rtol=0)
    assert (written_formula(state, TOKENS, norm_head=True) - expected).abs().max() > 0.1


def test_the_dtype_is_the_one_asked_for(tmp_path):
    save_checkpoint(tmp_path / "model", vocab_size=640)
    assert load_model(tmp_path / "model", dtype="bfloat16").model.dtype == torch.bfloat16


def test_the_13b_is_refused_with_the_reason(tmp_path):
    save_checkpoint(tmp_path / "model", vocab_size=640)
    path = tmp_path / "model" / "config.json"
    path.write_text(json.dumps({k: v for k, v in config(640).items() if k != "max_position_embeddings"}))
    with pytest.raises(MoguError, match=r"13B.*ALiBi"):
        load_model(tmp_path / "model")


def test_a_missing_shard_is_an_error(tmp_path):
    save_checkpoint(tmp_path / "model", vocab_size=640, form="sharded bin")
    (tmp_path / "model" / "pytorch_model-00002-of-00002.bin").unlink()
    with pytest.raises(MoguError, match="incomplete"):
        load_model(tmp_path / "model")


def test_generation_defaults_come_with_the_checkpoint(tmp_path):
    save_checkpoint(tmp_path / "model", vocab_size=640)
    (tmp_path / "model" / "generation_config.json").write_text(
        '{"repetition_penalty": 1.05, "user_token_id": 195}'
    )
    assert load_model(tmp_path / "model").model.generation_config.repetition_penalty == 1.05


@pytest.mark.parametrize("add_dummy_prefix", [False, True])
def test_the_tokenizer_equals_sentencepiece(tmp_path, add_dummy_prefix):
    folder = tmp_path / "model"
    save_checkpoint(folder, vocab_size=640)
    reference = train_sentencepiece(folder, add_dummy_prefix)
    tokenizer = load_model(folder).tokenizer
    # A text that begins with a space gets no second one from transformers where a prefix is added.
    for text in TEXTS[:1] if add_dummy_prefix else TEXTS:
        assert tokenizer(text).input_ids == reference.encode(text), text
    assert tokenizer.decode(tokenizer("the lazy dog").input_ids) == "the lazy dog"


def test_roles_are_single_tokens_and_there_is_no_bos(tmp_path):
    save_checkpoint(tmp_path / "Baichuan2-7B-Chat", vocab_size=640)
    tokenizer = load_model(tmp_path / "Baichuan2-7B-Chat").tokenizer
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": "the dog"}], add_generation_prompt=True, tokenize=False
    )
    ids = tokenizer(text).input_ids
    user, assistant = tokenizer.convert_tokens_to_ids(["<reserved_106>", "<reserved_107>"])
    assert (ids[0], ids[-1]) == (user, assistant)
    assert {"<reserved_106>", "<reserved_107>"} <= set(tokenizer.all_special_tokens)
    assert (tokenizer.eos_token, tokenizer.pad_token, tokenizer.padding_side) == ("</s>", "<unk>", "left")
