"""Sequence routing equals the written procedure, which reads every row alone and anew for each token."""

import pytest
import torch

from mogu.adapter import gate
from mogu.adapter.gate import looks_at
from mogu.chat import batch_left_pad
from mogu.errors import MoguError
from tests.generation.gated import BARRED, BEGINNINGS, BREAK, PROMPTS, STARTS, by_hand, gated
from tests.generation.hardened import FAMILIES, GREEDY, NO_END, WAYS_TO_CACHE, replies, seen_logits
from tests.tiny import tiny_model


@pytest.fixture(autouse=True)
def _looks_often(monkeypatch):
    """The replies of these tests are shorter than what lies between two looks."""
    monkeypatch.setattr(gate, "READ_EVERY", 2)


def middle(mogu) -> float:
    """A threshold that some of the prompts reach."""
    scores = sorted(by_hand(mogu, prompt, new=1).score for prompt in PROMPTS)
    return (scores[1] + scores[2]) / 2


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("reply_threshold", [None, 0.0])
@pytest.mark.parametrize("usable", [False, True])
def test_a_cached_left_padded_batch_equals_its_rows_alone_and_uncached(family, reply_threshold, usable):
    mogu = gated(family, reply_threshold, usable)
    threshold = middle(mogu)
    ids, mask = batch_left_pad(PROMPTS, 0)
    with seen_logits(mogu) as seen:
        output = mogu.generate(ids, mask, threshold=threshold, **GREEDY, **NO_END)
    for row, prompt in enumerate(PROMPTS):
        written = by_hand(mogu, prompt, threshold)
        assert output[row, ids.shape[1] :].tolist() == written.tokens
        torch.testing.assert_close(
            torch.stack([step[row] for step in seen]), written.logits, rtol=0, atol=1e-9
        )


@pytest.mark.parametrize("family", FAMILIES)
def test_rows_below_the_threshold_are_the_base_bit_for_bit_beside_refused_ones(family):
    mogu = gated(family)
    ids, mask = batch_left_pad(PROMPTS, 0)
    threshold = middle(mogu)
    settings = {**GREEDY, **NO_END, "output_logits": True, "return_dict_in_generate": True}
    base = tiny_model(family).generate(ids, attention_mask=mask, **settings)
    output = mogu.generate(ids, mask, threshold=threshold, **settings)
    below = [row for row, prompt in enumerate(PROMPTS) if by_hand(mogu, prompt, new=1).score < threshold]
    assert len(below) == 2
    for row in below:
        assert torch.equal(output.sequences[row], base.sequences[row])
        assert all(torch.equal(a[row], b[row]) for a, b in zip(output.logits, base.logits, strict=True))
    everything = mogu.generate(ids, mask, threshold=1.0, **settings)
    assert torch.equal(everything.sequences, base.sequences)


def test_with_a_usable_variant_no_answered_reply_begins_as_refusals_do():
    mogu = gated(usable=True)
    assert all(row[0] not in BARRED for row in replies(mogu, [PROMPTS[0]], threshold=1.0))
    base, written = (by_hand(gated(usable=usable), PROMPTS[0], threshold=1.0) for usable in (False, True))
    assert written.tokens != base.tokens  # the variant acts
    assert torch.equal(written.logits[0], base.logits[0])  # from the first token of the reply on
    assert replies(mogu, PROMPTS, threshold=0.0) == replies(gated(), PROMPTS, threshold=0.0)


def test_no_opener_of_the_caller_talks_a_request_down():
    mogu = gated()
    prompt = PROMPTS[0]
    alone = by_hand(mogu, prompt, new=1).score
    openers = [[token] for token in range(100, 160)]
    scores = [by_hand(mogu, [*prompt, *opener], new=1).score for opener in openers]
    assert min(scores) == alone < max(scores)
    calm = [*prompt, *openers[scores.index(alone)]]
    threshold = alone - 1e-9
    assert replies(mogu, [calm, PROMPTS[2]], threshold=threshold)[0][:2] == BREAK


def test_refused_rows_begin_as_refusals_do_and_begun_ones_with_a_break():
    mogu = gated()
    rows = replies(mogu, PROMPTS, threshold=0.0)
    assert [row[0] in STARTS for row in rows] == [True, False, True, True]
    assert rows[1][:2] == BREAK and rows[1][2] in STARTS
    usual = {beginning[0]: beginning for beginning in BEGINNINGS}.get(rows[1][2])
    assert usual and rows[1][2 : 2 + len(usual)] == usual, "goes on as refusals usually do"
    assert rows == replies(mogu, PROMPTS, mode="safe")


@pytest.mark.parametrize("usable", [False, True])
@pytest.mark.parametrize("reply_threshold", [None, 0.0])
@pytest.mark.parametrize("settings", WAYS_TO_CACHE, ids=str)
@pytest.mark.parametrize("family", ["llama", "gemma3_text", "gpt2"])
def test_every_way_to_cache_equals_the_default(family, settings, reply_threshold, usable):
    mogu = gated(family, reply_threshold, usable)
    threshold = middle(mogu)
    assert replies(mogu, PROMPTS, threshold=threshold, **settings) == replies(
        mogu, PROMPTS, threshold=threshold
    )


@pytest.mark.parametrize("usable", [False, True])
@pytest.mark.parametrize("reply_threshold", [None, 0.0])
@pytest.mark.parametrize("settings", [{}, {"prefill_chunk_size": 4}], ids=str)
def test_beams_of_a_batch_equal_each_row_alone(settings, reply_threshold, usable):
    mogu = gated(reply_threshold=reply_threshold, usable=usable)
    beams = {"num_beams": 3, "num_return_sequences": 2, "threshold": middle(mogu)}
    together = replies(mogu, PROMPTS, **beams, **settings)
    assert together == [row for prompt in PROMPTS for row in replies(mogu, [prompt], **beams)]


def test_a_refusal_that_is_written_is_not_begun_again():
    mogu = gated(reply_threshold=0.0)
    rows = replies(mogu, PROMPTS, threshold=0.0)
    assert rows == [by_hand(mogu, prompt, threshold=0.0).tokens for prompt in PROMPTS]


def test_sampled_sequences_of_a_refused_prompt_are_all_refusals():
    mogu = gated()
    torch.manual_seed(0)
    rows = replies(mogu, [PROMPTS[0]], threshold=0.0, do_sample=True, num_return_sequences=8, temperature=2.0)
    assert {row[0] for row in rows} <= set(STARTS) and len({row[0] for row in rows}) > 1
    assert len({tuple(row) for row in rows}) > 4


def test_a_reply_tells_its_score_and_who_wrote_it():
    mogu = gated()
    talk = [{"role": "user", "content": "hello there"}]
    (refused,) = mogu.reply([talk], threshold=0.0, max_new_tokens=4, **NO_END)
    (answered,) = mogu.reply([talk], threshold=1.0, max_new_tokens=4, **NO_END)
    assert (refused.safe_weight, refused.usable_weight) == (1.0, 0.0)
    assert (answered.safe_weight, answered.usable_weight) == (0.0, 1.0)
    assert refused.score == answered.score and 0 < refused.score < 1
    (base,) = mogu.reply([talk], mode="base", max_new_tokens=4, **NO_END)
    assert base.score is None and base.text == answered.text


def test_a_switch_in_mid_reply_counts_from_where_it_is():
    mogu = gated(reply_threshold=0.0)
    ids, mask = batch_left_pad(PROMPTS, 0)
    shares = set()
    for threshold in torch.linspace(0.05, 0.95, 30).tolist():
        rows = [by_hand(mogu, prompt, threshold) for prompt in PROMPTS]
        assert replies(mogu, PROMPTS, threshold=threshold) == [row.tokens for row in rows]
        generated = mogu.generator.generate(
            ids,
            mask,
            mogu_request(threshold),
            {**GREEDY, **NO_END, "return_dict_in_generate": True},
        )
        columns = [ids.shape[1] + GREEDY["max_new_tokens"] - 1] * len(PROMPTS)
        shares |= {safe for safe, _ in generated.row_weights(columns)}
    assert len(shares) > 2  # some rows switched at the prompt, some later, some never


def mogu_request(threshold):
    from mogu.generation.request import RoutingRequest

    return RoutingRequest("mogu", None, "reuse", threshold)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"routed_tokens": 3}, "belong to token routing"),
        ({"handoff": "refill"}, "belong to token routing"),
        ({"threshold": 1.5}, "give a probability"),
        ({"prompt_lookup_num_tokens": 2}, "drafts would be read before the gate decides"),
        ({"num_beams": 2, "use_cache": False}, "leave use_cache on"),
        ({"mode": "usable"}, "needs usable, which the adapter does not hold"),
    ],
)
def test_what_does_not_belong_to_sequence_routing_is_refused(arguments, message):
    with pytest.raises(MoguError, match=message):
        gated().generate(torch.tensor([PROMPTS[0]]), max_new_tokens=2, **arguments)


def test_a_trace_shows_how_the_probability_grows():
    mogu = gated()
    talk = [{"role": "user", "content": "hello there"}]
    trace = mogu.trace(talk, reply="no no")
    (reply,) = mogu.reply([talk], max_new_tokens=1, **NO_END)
    assert len(trace.gate) == len(trace.tokens)
    assert trace.gate[trace.prompt_length - 1] == pytest.approx(reply.score, abs=1e-9)
    flagged = reply.score >= 0.5
    assert trace.routed == [False] * trace.prompt_length + [flagged] * (
        len(trace.tokens) - trace.prompt_length
    )


def test_a_trace_follows_the_threshold_that_is_asked_for():
    mogu = gated()
    talk = [{"role": "user", "content": "hello there"}]
    for threshold, flagged in ((0.0, True), (1.0, False)):
        trace = mogu.trace(talk, threshold=threshold, max_new_tokens=4)
        assert (trace.threshold, trace.reply_threshold) == (threshold, None)
        written = len(trace.tokens) - trace.prompt_length
        assert trace.routed == [False] * trace.prompt_length + [flagged] * written
    assert mogu.trace(talk, reply="no").threshold == 0.5


def test_only_a_gate_that_reads_replies_switches_a_trace_in_mid_reply():
    talk = [{"role": "user", "content": "hello there"}]
    reply = "a longer reply that says this and that, and one thing more"
    start = gated().trace(talk, reply=reply).prompt_length
    running = gated().trace(talk, reply=reply).gate
    threshold = (running[start - 1] + max(running[start:-1])) / 2
    assert running[start - 1] < threshold, "the text is chosen so that the score rises in the reply"
    first = next(index for index in range(start + 1, len(running), 2) if running[index] >= threshold)
    whole = gated().trace(talk, reply=reply, threshold=threshold)
    assert not any(whole.routed)
    switched = gated(reply_threshold=0.0).trace(talk, reply=reply, threshold=threshold)
    assert switched.reply_threshold == threshold
    assert switched.routed == [index > first for index in range(len(running))]


@pytest.mark.parametrize("usable", [False, True])
def test_a_trace_reads_the_states_that_the_reply_was_written_with(usable):
    mogu = gated(reply_threshold=0.0, usable=usable)
    talk = [{"role": "user", "content": "hello there"}]
    (reply,) = mogu.reply([talk], threshold=1.0, max_new_tokens=12)
    trace = mogu.trace(talk, threshold=1.0, max_new_tokens=12)
    begins, new = trace.prompt_length, reply.tokens
    assert not any(trace.routed) and len(trace.tokens) == begins + new
    # A reply's last token is not read.
    looked = [trace.gate[begins - 1], *(trace.gate[begins + n - 1] for n in range(1, new) if looks_at(n))]
    assert reply.score == pytest.approx(max(looked), abs=1e-9)
    assert max(looked) > looked[0], "the talk is chosen so that the score rises in the reply"
    assert mogu.adapter.routing.routed is None


def test_between_two_looks_a_reply_goes_on():
    mogu = gated(reply_threshold=0.0)
    threshold = middle(mogu)
    often = [by_hand(mogu, prompt, threshold).tokens for prompt in PROMPTS]
    gate.READ_EVERY = 5  # the fixture puts it back
    seldom = [by_hand(mogu, prompt, threshold).tokens for prompt in PROMPTS]
    assert replies(mogu, PROMPTS, threshold=threshold) == seldom != often


@pytest.mark.parametrize("reply_threshold", [None, 0.0])
def test_layers_are_watched_while_they_are_read_and_no_longer(reply_threshold):
    mogu = gated(reply_threshold=reply_threshold)
    layers = mogu.model.get_decoder().layers
    watched = []
    with torch.no_grad():
        hook = mogu.model.register_forward_pre_hook(
            lambda *_: watched.append(sum(len(layer._forward_hooks) for layer in layers))
        )
        replies(mogu, PROMPTS, threshold=1.0, max_new_tokens=3)
    hook.remove()
    reads = len(mogu.config.gate.layers)
    assert watched == ([reads, 0, 0] if reply_threshold is None else [reads] * 3)
    assert sum(len(layer._forward_hooks) for layer in layers) == 0


def test_a_prompt_of_which_the_gate_makes_no_number_is_refused():
    mogu = gated()
    bias = mogu.adapter.gate.bias
    kept = bias.clone()
    with torch.no_grad():
        bias.fill_(torch.nan)
        try:
            (row,) = replies(mogu, [PROMPTS[0]], threshold=1.0)
        finally:
            bias.copy_(kept)
    assert row == replies(mogu, [PROMPTS[0]], threshold=0.0)[0]
