import pytest
import torch

from mogu.chat import batch_left_pad
from mogu.generation.request import RoutingRequest
from tests.generation.hardened import GREEDY, NEW, NO_END, PROMPTS, by_hand, hardened, replies


def used_weights(mogu, prompts, **settings):
    """Token weights of a generation, and the replies."""
    ids, mask = batch_left_pad(prompts, 0)
    settings = {**GREEDY, **NO_END, "return_dict_in_generate": True, **settings}
    output, forwards = mogu.generator.generate(ids, mask, RoutingRequest(), settings)
    used = forwards.token_weights(output.get("beam_indices"))
    return used, output.sequences[:, ids.shape[1] :].tolist()


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"use_cache": False},
        {"prefill_chunk_size": 4},
        {"cache_implementation": "static"},
        {"num_beams": 3},
        {"num_beams": 3, "num_return_sequences": 3},
        {"num_beams": 3, "use_cache": False},
        {"num_beams": 3, "prefill_chunk_size": 4},
        {"do_sample": True, "num_return_sequences": 3},
    ],
    ids=str,
)
@pytest.mark.parametrize("k", [None, 2])
def test_the_weights_are_those_of_the_returned_sequence_read_at_once(settings, k):
    mogu = hardened(routed_tokens=4, routed_prompt_tokens=k)
    used, rows = used_weights(mogu, PROMPTS, **settings)
    width = max(map(len, PROMPTS))
    copies = len(rows) // len(PROMPTS)
    for index, row in enumerate(rows):
        prompt = PROMPTS[index // copies]
        alone = mogu.generator.read(torch.tensor([prompt + row]), len(prompt), RoutingRequest()).used
        padding = width - len(prompt)
        seen = used.routed.shape[1] - padding
        assert not used.routed[index, :padding].any()
        assert torch.equal(used.routed[index, padding:], alone.routed[0, :seen])
        torch.testing.assert_close(
            used.weights[:, index, padding:], alone.weights[:, 0, :seen], rtol=0, atol=1e-6
        )


def test_assisted_decoding_counts_no_rejected_draft():
    mogu = hardened()
    prompt = PROMPTS[0] * 2
    used, rows = used_weights(mogu, [prompt], prompt_lookup_num_tokens=4)
    alone = mogu.generator.read(torch.tensor([prompt + rows[0]]), len(prompt), RoutingRequest()).used
    seen = min(used.routed.shape[1], len(prompt) + NEW)
    torch.testing.assert_close(used.weights[:, :, :seen], alone.weights[:, :, :seen], rtol=0, atol=1e-6)


def test_a_row_never_changes_the_weights_of_another():
    mogu = hardened()
    first, _ = used_weights(mogu, [PROMPTS[0], PROMPTS[1]])
    second, _ = used_weights(mogu, [PROMPTS[0], [9, 8, 7]])
    torch.testing.assert_close(first.weights[:, 0], second.weights[:, 0], rtol=0, atol=1e-7)
    assert not torch.allclose(first.weights[:, 1], second.weights[:, 1])


def test_after_the_hand_off_the_layers_do_nothing():
    mogu = hardened(routed_prompt_tokens=1)
    weights = []
    hook = mogu.model.register_forward_hook(lambda *_: weights.append(mogu.adapter.last_weights()))
    try:
        replies(mogu, PROMPTS, routed_tokens=3, prefill_chunk_size=4)
    finally:
        hook.remove()
    # Three chunks of the prompt, of which only the last holds its last token, then six more tokens.
    assert [w is not None for w in weights] == [False, False, True, True, True, False, False, False, False]


def test_routing_is_off_after_an_error():
    mogu = hardened()

    def fail(*_):
        raise RuntimeError("a processor failed")

    for mode in ("mogu", "safe"):
        with pytest.raises(RuntimeError, match="a processor failed"):
            replies(mogu, PROMPTS, mode=mode, logits_processor=[fail])
        routing = mogu.adapter.routing
        assert routing.routed is None and routing.weights is None
        assert not mogu.model._forward_hooks and not mogu.model._forward_pre_hooks
    assert replies(mogu, PROMPTS[:1], mode="base") == [by_hand(mogu, PROMPTS[0], m=0).tokens]


def test_beams_that_end_early_keep_their_own_weights():
    mogu = hardened(routed_tokens=100)
    settings = {"num_beams": 4, "num_return_sequences": 4, "use_cache": False, "pad_token_id": 0}
    _, rows = used_weights(mogu, PROMPTS[:1], **settings)
    end = rows[0][2]
    used, rows = used_weights(mogu, PROMPTS[:1], **settings, eos_token_id=end)
    lengths = [row.index(end) + 1 if end in row else NEW for row in rows]
    assert len(set(lengths)) > 1
    for index, (row, length) in enumerate(zip(rows, lengths, strict=True)):
        alone = mogu.generator.read(
            torch.tensor([PROMPTS[0] + row[:length]]), len(PROMPTS[0]), RoutingRequest()
        ).used
        read = len(PROMPTS[0]) + length - 1
        torch.testing.assert_close(
            used.weights[:, index, :read], alone.weights[:, 0, :read], rtol=0, atol=1e-6
        )


def test_the_model_is_never_compiled(monkeypatch):
    mogu = hardened()
    seen = []
    monkeypatch.setattr(
        mogu.model, "_valid_auto_compile_criteria", lambda _, config: seen.append(config.disable_compile)
    )
    replies(mogu, PROMPTS, cache_implementation="static", disable_compile=False)
    assert seen == [True]
