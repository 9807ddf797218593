"""Generation equals the written procedure, which reads every row alone and anew for each token."""

import pytest
import torch
from transformers import StaticCache

from mogu.chat import batch_left_pad
from tests.generation.hardened import (
    FAMILIES,
    GREEDY,
    NEW,
    NO_END,
    PROMPTS,
    WAYS_TO_CACHE,
    by_hand,
    hardened,
    replies,
    seen_logits,
)
from tests.tiny import tiny_model


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("k", [None, 2])
def test_a_cached_left_padded_batch_equals_its_rows_alone_and_uncached(family, k):
    mogu = hardened(family, routed_prompt_tokens=k)
    ids, mask = batch_left_pad(PROMPTS, 0)
    with seen_logits(mogu) as seen:
        output = mogu.generate(ids, mask, **GREEDY, **NO_END)
    for row, prompt in enumerate(PROMPTS):
        written = by_hand(mogu, prompt, m=3)
        assert output[row, ids.shape[1] :].tolist() == written.tokens
        logits = torch.stack([step[row] for step in seen])
        torch.testing.assert_close(logits, written.logits, rtol=0, atol=1e-9)
        assert written.tokens != by_hand(mogu, prompt, m=0).tokens  # or the test would prove nothing


@pytest.mark.parametrize("family", FAMILIES)
def test_no_routed_token_is_the_base_token_for_token(family):
    ids, mask = batch_left_pad(PROMPTS, 0)
    base = tiny_model(family).generate(ids, attention_mask=mask, **GREEDY, **NO_END)
    assert torch.equal(hardened(family).generate(ids, mask, routed_tokens=0, **GREEDY, **NO_END), base)
    assert torch.equal(hardened(family).generate(ids, mask, mode="base", **GREEDY, **NO_END), base)


@pytest.mark.parametrize("m", [1, 2, 5, 100])
def test_each_row_counts_its_own_routed_tokens(m):
    mogu = hardened()
    assert replies(mogu, PROMPTS, routed_tokens=m) == [by_hand(mogu, prompt, m).tokens for prompt in PROMPTS]


@pytest.mark.parametrize(("mode", "weights"), [("safe", (1.0, 0.0)), ("usable", (0.0, 1.0))])
@pytest.mark.parametrize("k", [None, 1])
def test_a_variant_alone_equals_given_weights_to_the_end_of_the_reply(mode, weights, k):
    mogu = hardened(routed_prompt_tokens=k)
    given = torch.tensor([[weights]])
    expected = [by_hand(mogu, prompt, m=100, weights=given).tokens for prompt in PROMPTS]
    assert replies(mogu, PROMPTS, mode=mode) == expected
    assert expected != replies(mogu, PROMPTS, mode="base")


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("m", [1, 3])
def test_refill_equals_the_base_reading_prompt_and_routed_tokens_again(family, m):
    mogu = hardened(family)
    expected = [by_hand(mogu, prompt, m, refill=True).tokens for prompt in PROMPTS]
    assert replies(mogu, PROMPTS, routed_tokens=m, handoff="refill") == expected
    assert replies(mogu, PROMPTS, routed_tokens=m, handoff="refill", use_cache=False) == expected


def test_refill_beyond_the_reply_and_within_chunks_equals_reuse():
    mogu = hardened()
    assert replies(mogu, PROMPTS, routed_tokens=NEW, handoff="refill") == replies(
        mogu, PROMPTS, routed_tokens=NEW
    )
    chunked = replies(mogu, PROMPTS, handoff="refill", prefill_chunk_size=4)
    assert chunked == replies(mogu, PROMPTS, handoff="refill")


@pytest.mark.parametrize("family", ["llama", "gemma3_text", "gpt2"])
@pytest.mark.parametrize("settings", WAYS_TO_CACHE, ids=str)
def test_every_way_to_cache_equals_the_default(family, settings):
    mogu = hardened(family)
    assert replies(mogu, PROMPTS, **settings) == replies(mogu, PROMPTS)


@pytest.mark.parametrize("family", ["llama", "gemma3_text"])
def test_a_static_cache_object_equals_the_default(family):
    mogu = hardened(family)
    cache = StaticCache(config=mogu.model.config, max_cache_len=32)
    assert replies(mogu, PROMPTS, past_key_values=cache) == replies(mogu, PROMPTS)


@pytest.mark.parametrize("settings", [{}, {"use_cache": False}, {"prefill_chunk_size": 4}], ids=str)
def test_beams_of_a_batch_equal_each_row_alone(settings):
    mogu = hardened()
    beams = {"num_beams": 3, "num_return_sequences": 2}
    together = replies(mogu, PROMPTS, **beams, **settings)
    assert together == [row for prompt in PROMPTS for row in replies(mogu, [prompt], **beams)]
    assert together != replies(mogu, PROMPTS, **beams, mode="base")


def test_the_best_beam_scores_what_its_tokens_score_routed():
    mogu = hardened()
    settings = {**GREEDY, **NO_END, "num_beams": 3, "return_dict_in_generate": True, "output_scores": True}
    output = mogu.generate(torch.tensor(PROMPTS[:1]), **settings)
    prompt, reply = PROMPTS[0], output.sequences[0, len(PROMPTS[0]) :].tolist()
    total = sum(
        by_hand(mogu, prompt + reply[:n], m=max(0, 3 - n), new=1).logits[0].log_softmax(-1)[token].item()
        if n < 3
        else forced(mogu, prompt, reply, n).log_softmax(-1)[token].item()
        for n, token in enumerate(reply)
    )
    assert output.sequences_scores[0].item() == pytest.approx(total / NEW, abs=1e-5)


def forced(mogu, prompt, reply, n):
    """Logits after `n` given reply tokens of which the first two were read routed."""
    position = torch.arange(len(prompt) + n)[None]
    mogu.adapter.routing.routed = position < len(prompt) + 2
    try:
        with torch.no_grad():
            return mogu.model(input_ids=torch.tensor([prompt + reply[:n]]), use_cache=False).logits[0, -1]
    finally:
        mogu.adapter.routing.routed = None


def test_sampling_repeats_with_its_seed_and_several_sequences_are_routed_each():
    mogu = hardened()
    settings = {"do_sample": True, "num_return_sequences": 3, "temperature": 3.0}

    def sample():
        torch.manual_seed(3)
        ids, mask = batch_left_pad(PROMPTS, 0)
        with seen_logits(mogu) as seen:
            return mogu.generate(ids, mask, **{**GREEDY, **NO_END, **settings}), torch.stack(seen, dim=1)

    sequences, logits = sample()
    assert torch.equal(sample()[0], sequences)
    for index, row in enumerate(sequences[:, -NEW:].tolist()):
        prompt = PROMPTS[index // 3]
        for n in (0, 2, 5):
            torch.testing.assert_close(logits[index, n], forced(mogu, prompt, row, n), rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    "settings", [{"prompt_lookup_num_tokens": 4}, {"assistant_model": "another"}], ids=str
)
@pytest.mark.parametrize("m", [3, 5])
@pytest.mark.parametrize("family", ["llama", "gemma3_text"])
def test_assisted_decoding_equals_greedy(settings, m, family):
    mogu = hardened(family)
    if "assistant_model" in settings:
        # The base itself: right after the hand-off, wrong before, so drafts are accepted and rejected.
        settings = {"assistant_model": tiny_model(family)}
    prompt = [*PROMPTS[0], *PROMPTS[0], 5, 9]
    expected = [by_hand(mogu, prompt, m, new=16).tokens]
    assert replies(mogu, [prompt], routed_tokens=m, max_new_tokens=16, **settings) == expected


def test_a_conversation_goes_on_from_a_cache():
    mogu = hardened()
    ids = torch.tensor(PROMPTS[:1])
    first = mogu.generate(ids, mode="base", return_dict_in_generate=True, **GREEDY, **NO_END)
    longer = torch.cat([first.sequences, torch.tensor([[3, 4, 5]])], dim=1)
    continued = mogu.generate(longer, past_key_values=first.past_key_values, **GREEDY, **NO_END)
    # What the cache holds was read by the base: only the last tokens, which it lacks, are routed.
    last = hardened(routed_prompt_tokens=4)
    assert continued.tolist() == last.generate(longer, **GREEDY, **NO_END).tolist()


def test_processors_criteria_and_output_objects_go_through():
    mogu = hardened()
    ids, mask = batch_left_pad(PROMPTS, 0)
    greedy = by_hand(mogu, PROMPTS[2], m=3).tokens
    output = mogu.generate(
        ids,
        mask,
        suppress_tokens=[greedy[1]],
        logits_processor=[lambda _, scores: scores.index_fill(1, torch.tensor([greedy[0]]), -torch.inf)],
        stopping_criteria=[lambda seen, _: torch.full((3,), seen.shape[1] == ids.shape[1] + 4)],
        return_dict_in_generate=True,
        output_logits=True,
        **GREEDY,
        **NO_END,
    )
    assert output.sequences.shape[1] == ids.shape[1] + 4 == ids.shape[1] + len(output.logits)
    assert not {greedy[0], greedy[1]} & set(output.sequences[2, ids.shape[1] :].tolist())
    torch.testing.assert_close(
        output.logits[0][2].double(), by_hand(mogu, PROMPTS[2], m=3).logits[0], rtol=0, atol=1e-5
    )


@pytest.mark.parametrize("handoff", ["reuse", "refill"])
def test_a_row_that_ends_while_routed_stays_ended_and_the_others_go_on(handoff):
    mogu = hardened("gemma3_text")
    end = by_hand(mogu, PROMPTS[0], m=3).tokens[1]
    ended = replies(mogu, PROMPTS[:2], eos_token_id=end, pad_token_id=0, handoff=handoff)
    expected = [
        by_hand(mogu, prompt, m=3, refill=handoff == "refill", end=end).tokens for prompt in PROMPTS[:2]
    ]
    assert [len(row) for row in expected] == [2, NEW]
    assert ended == [expected[0] + [0] * (NEW - 2), expected[1]]


def test_an_image_tower_is_no_obstacle():
    mogu = hardened("gemma3")
    assert replies(mogu, PROMPTS) == [by_hand(mogu, prompt, m=3).tokens for prompt in PROMPTS]
