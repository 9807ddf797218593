"""Conversations in, replies out."""

import json
import sys

import pytest
import torch

from mogu.adapter.folder import save_adapter
from mogu.chat import encode_chat
from mogu.errors import AdapterError, MoguError
from mogu.generation import MoguModel
from mogu.models import load_model
from tests.generation.hardened import GREEDY, NO_END, PROMPTS, by_hand, hardened, replies
from tests.tiny import IM_END, save_tiny

NEW = 8
TEXTS = ["Tell me about the sea, please.", "Hi", "on the other hand <|im_end|>", "the ring"]
CHATS = [[{"role": "user", "content": text}] for text in TEXTS]


def expected(mogu, chat, opener="", **kwargs):
    prompt = encode_chat(mogu.tokenizer, chat, opener).ids
    written = by_hand(mogu, prompt, m=3, new=NEW, end=IM_END, **kwargs)
    return (
        mogu.tokenizer.decode(written.tokens, skip_special_tokens=True),
        len(written.tokens),
        written.weights,
    )


@pytest.mark.parametrize("batch_size", [1, 3, 16])
@pytest.mark.parametrize("opener", ["", "Sure, "])
def test_replies_come_in_order_each_as_if_alone(batch_size, opener):
    mogu = hardened()
    done = []
    answers = mogu.reply(
        CHATS, max_new_tokens=NEW, batch_size=batch_size, opener=opener, on_batch=done.append
    )
    for chat, answer in zip(CHATS, answers, strict=True):
        text, tokens, weights = expected(mogu, chat, opener)
        assert (answer.text, answer.tokens) == (text, tokens)
        assert (answer.safe_weight, answer.usable_weight) == pytest.approx(weights, abs=1e-6)
    assert sum(done) == len(CHATS) and max(done) <= batch_size


@pytest.mark.parametrize("batch_size", [1, 4])
def test_what_a_row_reads_behind_its_end_does_not_count(batch_size):
    mogu = hardened()
    prompts = [encode_chat(mogu.tokenizer, chat).ids for chat in CHATS]
    end = by_hand(mogu, prompts[1], m=3).tokens[0]
    answer = mogu.reply(CHATS, max_new_tokens=NEW, batch_size=batch_size, eos_token_id=end)[1]
    written = by_hand(mogu, prompts[1], m=1, new=1)
    assert answer.tokens == 1
    assert (answer.safe_weight, answer.usable_weight) == pytest.approx(written.weights, abs=1e-6)


@pytest.mark.parametrize(("mode", "weights"), [("base", (0, 1)), ("usable", (0, 1)), ("safe", (1, 0))])
def test_other_modes_have_fixed_weights(mode, weights):
    answers = hardened().reply(CHATS, mode=mode, max_new_tokens=2)
    assert {(answer.safe_weight, answer.usable_weight) for answer in answers} == {weights}
    unrouted = hardened().reply(CHATS[:1], routed_tokens=0, max_new_tokens=2)[0]
    assert (unrouted.safe_weight, unrouted.usable_weight) == (0, 1)


def test_with_beams_the_weights_are_the_returned_sequence_s():
    mogu = hardened()
    together = mogu.reply(CHATS, max_new_tokens=NEW, num_beams=3)
    alone = [mogu.reply([chat], max_new_tokens=NEW, num_beams=3)[0] for chat in CHATS]
    for one, other in zip(together, alone, strict=True):
        assert (one.text, one.tokens) == (other.text, other.tokens)
        assert one.safe_weight == pytest.approx(other.safe_weight, abs=1e-6)


def test_replies_are_greedy_unless_sampling_is_asked_for():
    mogu = hardened()
    mogu.model.generation_config.do_sample = True
    try:
        assert mogu.reply(CHATS[:1], max_new_tokens=NEW)[0].text == expected(mogu, CHATS[0])[0]
        torch.manual_seed(0)
        sampled = mogu.reply(CHATS[:1], max_new_tokens=NEW, do_sample=True, temperature=5.0)[0]
        assert sampled.text != expected(mogu, CHATS[0])[0]
    finally:
        mogu.model.generation_config.do_sample = None


def test_no_conversation_no_reply_and_bad_arguments():
    mogu = hardened()
    assert mogu.reply([]) == []
    with pytest.raises(MoguError, match="batch_size is 0"):
        mogu.reply(CHATS, batch_size=0)
    with pytest.raises(MoguError, match="num_return_sequences"):
        mogu.reply(CHATS, num_return_sequences=2)


def spaced(ids, scores):
    """Makes every third token a space: streamers hold text back until a word ends."""
    space = hardened().tokenizer.convert_tokens_to_ids("Ġ")
    return scores if ids.shape[1] % 3 else scores.index_fill(1, torch.tensor([space]), torch.inf)


@pytest.mark.parametrize("handoff", ["reuse", "refill"])
def test_a_stream_gives_the_reply_piece_by_piece(handoff):
    mogu = hardened()
    settings = {"max_new_tokens": 40, "handoff": handoff, "logits_processor": [spaced]}
    stream = mogu.stream(CHATS[0], **settings)
    assert stream.reply is None
    pieces = list(stream)
    whole = mogu.reply(CHATS[:1], **settings)[0]
    assert "".join(pieces) == whole.text
    assert len(pieces) > 5
    assert stream.reply == whole


class Collector:
    """A streamer that keeps what it is given."""

    def __init__(self):
        self.puts, self.ends = [], 0

    def put(self, value):
        self.puts.append(value.tolist())

    def end(self):
        self.ends += 1


@pytest.mark.parametrize("handoff", ["reuse", "refill"])
def test_a_streamer_sees_the_prompt_once_and_one_end(handoff):
    mogu = hardened()
    streamer = Collector()
    output = mogu.generate(torch.tensor(PROMPTS[:1]), handoff=handoff, streamer=streamer, **GREEDY, **NO_END)
    assert streamer.puts[0] == PROMPTS[:1]
    assert [token for put in streamer.puts[1:] for token in put] == output[0, len(PROMPTS[0]) :].tolist()
    assert streamer.ends == 1


def test_leaving_a_stream_stops_the_generation():
    mogu = hardened()
    steps = []
    stream = mogu.stream(
        CHATS[0],
        max_new_tokens=1500,
        eos_token_id=1000,
        logits_processor=[spaced],
        stopping_criteria=[lambda ids, _: steps.append(1) or torch.zeros(len(ids), dtype=torch.bool)],
    )
    for _ in stream:
        break
    assert len(steps) < 1500
    assert stream.reply is not None and stream.reply.tokens == len(steps)
    assert replies(mogu, PROMPTS[:1]) == [by_hand(mogu, PROMPTS[0], m=3).tokens]  # free for the next one


def test_an_error_in_a_stream_reaches_its_reader():
    def fail(*_):
        raise RuntimeError("a processor failed")

    mogu = hardened()
    with pytest.raises(RuntimeError, match="a processor failed"):
        list(mogu.stream(CHATS[0], logits_processor=[fail]))
    with pytest.raises(MoguError, match="routed_tokens is -2"):
        list(mogu.stream(CHATS[0], routed_tokens=-2))
    assert mogu.adapter.routing.routed is None


def test_one_generation_at_a_time():
    mogu = hardened()
    stream = iter(mogu.stream(CHATS[0], max_new_tokens=1500, logits_processor=[spaced]))
    next(stream)
    with pytest.raises(MoguError, match="generating already"):
        mogu.reply(CHATS[:1])
    with pytest.raises(MoguError, match="generating already"):
        mogu.trace(CHATS[0], reply="the ring")
    stream.close()
    assert len(mogu.reply(CHATS[:1], max_new_tokens=2)) == 1


def test_a_trace_shows_each_layer_s_weight_of_each_token():
    mogu = hardened()
    prompt = encode_chat(mogu.tokenizer, CHATS[1]).ids
    trace = mogu.trace(CHATS[1], reply="the ring")
    assert "".join(trace.tokens[trace.prompt_length :]) == "the ring"
    assert trace.prompt_length == len(prompt)
    assert trace.layers == [0, 1, 2]
    assert trace.routed == [index < len(prompt) + 2 for index in range(len(trace.tokens))]
    routed = [layer[: len(prompt) + 2] for layer in trace.safe]
    assert all(0 < weight < 1 for layer in routed for weight in layer)
    assert trace.safe[0][-1] == 0 and trace.usable[0][-1] == 1


@pytest.mark.parametrize("m", [0, 1, 5])
def test_a_trace_has_as_many_routed_tokens_as_asked_for(m):
    mogu = hardened()
    trace = mogu.trace(CHATS[1], reply="the ring", routed_tokens=m)
    routed = trace.prompt_length + m - 1 if m else 0
    assert trace.routed == [index < routed for index in range(len(trace.tokens))]


def test_a_trace_without_a_reply_takes_the_model_s_own():
    mogu = hardened()
    trace = mogu.trace(CHATS[1], max_new_tokens=NEW)
    ids = encode_chat(mogu.tokenizer, CHATS[1]).ids
    answer = by_hand(mogu, ids, m=3, new=NEW, end=IM_END)
    assert trace.tokens[len(ids) :] == [mogu.tokenizer.decode([token]) for token in answer.tokens]
    mean = torch.tensor(trace.safe)[:, torch.tensor(trace.routed)].mean().item()
    assert mean == pytest.approx(answer.weights[0], abs=1e-6)


def test_a_trace_of_an_adapter_that_routes_nothing():
    trace = hardened(routed_tokens=0).trace(CHATS[1], reply="a")
    assert not any(trace.routed)
    assert {weight for layer in trace.usable for weight in layer} == {1.0}


def test_from_pretrained_brings_base_and_adapter_together(tmp_path):
    save_tiny(tmp_path / "base")
    save_tiny(tmp_path / "other", "qwen3")
    base = load_model(tmp_path / "base")
    mogu = hardened()
    config = mogu.config.model_copy(update={"base": base.identity})
    save_adapter(tmp_path / "adapter", mogu.adapter, config)

    loaded = MoguModel.from_pretrained(tmp_path / "adapter", device="cpu")
    ids = torch.tensor(PROMPTS[:1])
    weights = [m.adapter.layers["model.layers.0.self_attn.o_proj"].router.vectors for m in (mogu, loaded)]
    torch.testing.assert_close(weights[0].float(), weights[1])
    assert loaded.config == config
    assert (
        loaded.generate(ids, **GREEDY, **NO_END).tolist() == mogu.generate(ids, **GREEDY, **NO_END).tolist()
    )

    (tmp_path / "base").rename(tmp_path / "moved")
    moved = MoguModel.from_pretrained(tmp_path / "adapter", base=tmp_path / "moved", device="cpu")
    assert moved.generate(ids, **GREEDY, **NO_END).tolist() == mogu.generate(ids, **GREEDY, **NO_END).tolist()
    with pytest.raises(AdapterError):
        MoguModel.from_pretrained(tmp_path / "adapter", base=tmp_path / "other")


def test_the_adapters_template_comes_before_what_the_base_has_or_lacks(tmp_path, caplog):
    save_tiny(tmp_path / "base")
    identity = load_model(tmp_path / "base").identity
    (tmp_path / "base" / "chat_template.jinja").unlink()
    mogu = hardened()
    template = "{{ '<' + messages[0]['content'] + '>' }}"
    config = mogu.config.model_copy(update={"base": identity, "chat_template": template})
    save_adapter(tmp_path / "adapter", mogu.adapter, config)
    loaded = MoguModel.from_pretrained(tmp_path / "adapter", device="cpu")
    assert loaded.tokenizer.apply_chat_template(CHATS[0][:1], tokenize=False) == f"<{CHATS[0][0]['content']}>"
    assert not caplog.records


def test_a_base_with_code_of_its_own_loads_where_that_may_run(tmp_path, monkeypatch):
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr(sys, "path", sys.path.copy())
    base = save_tiny(tmp_path / "base")
    (base / "own.py").write_text(
        "from transformers import LlamaConfig, LlamaForCausalLM\n"
        "class OwnConfig(LlamaConfig):\n    model_type = 'own'\n"
        "class OwnForCausalLM(LlamaForCausalLM):\n    config_class = OwnConfig\n"
    )
    code = {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.OwnForCausalLM"}
    own = json.loads((base / "config.json").read_text()) | {"model_type": "own", "auto_map": code}
    (base / "config.json").write_text(json.dumps(own))
    mogu = hardened()
    identity = load_model(base, trust_remote_code=True).identity
    save_adapter(tmp_path / "adapter", mogu.adapter, mogu.config.model_copy(update={"base": identity}))
    with pytest.raises(MoguError, match="--trust-remote-code"):
        MoguModel.from_pretrained(tmp_path / "adapter", device="cpu")
    loaded = MoguModel.from_pretrained(tmp_path / "adapter", device="cpu", trust_remote_code=True)
    assert type(loaded.model).__name__ == "OwnForCausalLM"
    ids = torch.tensor(PROMPTS[:1])
    assert (
        loaded.generate(ids, **GREEDY, **NO_END).tolist() == mogu.generate(ids, **GREEDY, **NO_END).tolist()
    )
