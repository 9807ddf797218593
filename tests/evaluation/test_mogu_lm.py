import pytest
import torch
from lm_eval.api.instance import Instance

from mogu.evaluation.mogu_lm import MoguLM
from mogu.generation.request import RoutingRequest
from tests.generation.gated import BREAK, HEADER, STARTS, gated
from tests.generation.hardened import hardened

LONG = " and then the other one sings a song on a road"
PAIRS = [
    ("What is there?", " the thing"),
    ("What is there?", " a song"),
    ("Tell me of the oldest of stones", LONG),
    ("How", "ever"),
    ("", " nothing"),
    ("It ends", "<|im_end|> and goes on"),
]
# A reply that waits to be begun: the template's header, which is letters here.
WAITING = ("Say it: " + gated().tokenizer.decode(HEADER), " no more")


def asked(pairs, kind="loglikelihood"):
    return [Instance(kind, {}, pair, 0) for pair in pairs]


def likelihoods(lm, pairs):
    return lm.loglikelihood(asked(pairs), disable_tqdm=True)


def encoded(mogu, context, continuation):
    if not context:
        return [mogu.tokenizer.eos_token_id], mogu.tokenizer.encode(continuation)
    whole = mogu.tokenizer.encode(context + continuation)
    length = len(mogu.tokenizer.encode(context))
    return whole[:length], whole[length:]


@torch.no_grad()
def by_hand(mogu, pair, switch=None, usable=False):
    """One forward of both texts: routed behind the token ``switch``, which the refusal's first tokens follow."""
    context, continuation = encoded(mogu, *pair)
    ids = torch.tensor([[*context, *continuation[:-1]]])
    place = torch.arange(ids.shape[1])[None]
    safe = place > (ids.shape[1] if switch is None else switch)
    mogu.adapter.routing.routed = place >= len(context) if usable else safe
    mogu.adapter.routing.weights = torch.stack((safe, ~safe), dim=-1).float()
    logits = mogu.model(input_ids=ids, use_cache=False).logits[0]
    mogu.adapter.routing.routed = mogu.adapter.routing.weights = None
    if switch is not None:
        begun = switch >= len(context) or context[-2:] != HEADER
        forced = [[token] for token in BREAK] * begun + [STARTS]
        for step, tokens in enumerate(forced[: len(ids[0]) - switch]):
            logits[switch + step, tokens] += 30.0
    logits = logits[len(context) - 1 :]
    chosen = logits.log_softmax(-1)[range(len(continuation)), continuation]
    return chosen.sum().item(), logits.argmax(-1).tolist() == continuation


def scores(mogu, pairs):
    """The gate's probability for each context."""
    found = []
    for pair in pairs:
        ids = torch.tensor([encoded(mogu, *pair)[0]])
        found += MoguLM(mogu, "mogu")._generate(ids, torch.ones_like(ids), max_new_tokens=1).row_scores(1)
    return found


def close(found, wanted):
    assert [value for value, _ in found] == pytest.approx([value for value, _ in wanted], abs=1e-4)
    assert [greedy for _, greedy in found] == [greedy for _, greedy in wanted]


def test_the_base_is_the_models_own_logits():
    mogu = gated()
    lm = MoguLM(mogu, "base", batch_size=4)
    close(likelihoods(lm, PAIRS), [by_hand(mogu, pair) for pair in PAIRS])
    assert not lm.flagged


def test_what_the_gate_lets_pass_is_the_base_exactly():
    mogu = gated()
    lm = MoguLM(mogu, "mogu", batch_size=4, threshold=1)
    assert likelihoods(lm, PAIRS) == likelihoods(MoguLM(mogu, "base", batch_size=4), PAIRS)
    assert not lm.flagged


def test_flagged_contexts_are_continued_by_the_safe_variant():
    mogu = gated()
    pairs = [*PAIRS, WAITING]
    lm = MoguLM(mogu, "mogu", batch_size=4, threshold=0)
    found = likelihoods(lm, pairs)
    close(found, [by_hand(mogu, pair, len(encoded(mogu, *pair)[0]) - 1) for pair in pairs])
    base = likelihoods(MoguLM(mogu, "base"), pairs)
    assert all(abs(one - other) > 1 for (one, _), (other, _) in zip(found, base, strict=True))
    assert lm.flagged == {context for context, _ in pairs}


def test_rows_are_flagged_one_by_one():
    mogu = gated()
    probabilities = scores(mogu, PAIRS)
    *_, lower, higher = sorted(set(probabilities))
    lm = MoguLM(mogu, "mogu", batch_size=4, threshold=(lower + higher) / 2)
    found, base = likelihoods(lm, PAIRS), likelihoods(MoguLM(mogu, "base", batch_size=4), PAIRS)
    hit = [probability == higher for probability in probabilities]
    assert [one != other for one, other in zip(found, base, strict=True)] == hit
    assert lm.flagged == {context for (context, _), flagged in zip(PAIRS, hit, strict=True) if flagged}


@pytest.mark.parametrize("look", [1, 2])
def test_the_gate_may_turn_a_long_continuation(look):
    mogu = gated(reply_threshold=0.0)
    pairs = [("the", LONG), ("the", " is")]
    context, continuation = encoded(mogu, *pairs[0])
    read = mogu.generator.read(torch.tensor([context + continuation]), len(context), RoutingRequest()).running
    # It looks after every eighth token, and this text gives it more to suspect at each look.
    suspicion = [read[len(context) - 1], *read[len(context) + 7 :: 8]]
    assert suspicion == sorted(suspicion)
    lm = MoguLM(mogu, "mogu", threshold=(suspicion[look - 1] + suspicion[look]) / 2)
    turned, short = likelihoods(lm, pairs)
    close([turned], [by_hand(mogu, pairs[0], len(context) + 8 * look - 1)])
    assert lm.flagged == {"the"}
    assert short == likelihoods(MoguLM(mogu, "base"), pairs)[1]


def test_the_usable_variant_continues_what_is_not_refused():
    mogu = gated(usable=True)
    lm = MoguLM(mogu, "mogu", threshold=1)
    close(likelihoods(lm, PAIRS), [by_hand(mogu, pair, usable=True) for pair in PAIRS])
    assert not lm.flagged


@torch.no_grad()
def test_token_routing_routes_the_first_tokens_of_the_continuation():
    mogu = hardened(routed_tokens=3, routed_prompt_tokens=2)
    wanted = []
    for pair in PAIRS:
        context, continuation = encoded(mogu, *pair)
        ids = torch.tensor([[*context, *continuation[:-1]]])
        place = torch.arange(ids.shape[1])[None]
        mogu.adapter.routing.routed = (place >= len(context) - 2) & (place < len(context) + 2)
        logits = mogu.model(input_ids=ids, use_cache=False).logits[0, len(context) - 1 :]
        mogu.adapter.routing.routed = None
        chosen = logits.log_softmax(-1)[range(len(continuation)), continuation]
        wanted.append((chosen.sum().item(), logits.argmax(-1).tolist() == continuation))
    lm = MoguLM(mogu, "mogu", batch_size=4)
    close(likelihoods(lm, PAIRS), wanted)
    assert not lm.flagged


def test_a_likely_continuation_is_told_as_one():
    mogu = gated()
    context = "What is there?"
    ids = torch.tensor([mogu.tokenizer.encode(context)])
    lm = MoguLM(mogu, "mogu", threshold=0)
    reply = mogu.generate(
        ids, threshold=0, max_new_tokens=5, do_sample=False, eos_token_id=None, pad_token_id=0
    )[0, ids.shape[1] :].tolist()
    ((answer, _),) = lm._follow([(ids[0].tolist(), reply)])
    assert answer[1]


def test_contexts_are_cut_from_the_left_as_the_harness_does():
    mogu = gated()
    pair = ("What is there in the oldest of all houses on the road?", " the thing")
    base, routed = MoguLM(mogu, "base"), MoguLM(mogu, "mogu", threshold=0)
    base._max_length = routed._max_length = 12
    context, continuation = encoded(mogu, *pair)
    kept = mogu.tokenizer.decode(context[-(13 - len(continuation)) :])
    assert likelihoods(base, [pair])[0][0] == pytest.approx(
        likelihoods(MoguLM(mogu, "base"), [(kept, pair[1])])[0][0]
    )
    assert likelihoods(routed, [pair])[0][0] == pytest.approx(
        likelihoods(MoguLM(mogu, "mogu", threshold=0), [(kept, pair[1])])[0][0]
    )


def test_texts_without_a_prompt_are_the_bases():
    texts = asked([(LONG,), ("Ho",)], "loglikelihood_rolling")
    for mogu, threshold in ((gated(), 0), (hardened(), None)):
        lm = MoguLM(mogu, "mogu", threshold=threshold)
        found = lm.loglikelihood_rolling(texts, disable_tqdm=True)
        assert found == MoguLM(mogu, "base").loglikelihood_rolling(texts, disable_tqdm=True)
        assert not lm.flagged


@pytest.mark.parametrize("mode", ["base", "mogu"])
def test_texts_are_written_as_generate_writes_them(mode):
    mogu = gated()
    contexts = list(dict.fromkeys(context for context, _ in PAIRS if context))
    probabilities = scores(mogu, [(context, "") for context in contexts])
    threshold = sum(sorted(probabilities)[1:3]) / 2
    settings = {"until": ["\n\n\n"], "max_gen_toks": 6, "do_sample": False}
    lm = MoguLM(mogu, mode, batch_size=3, threshold=threshold)
    found = lm.generate_until(
        asked([(context, settings) for context in contexts], "generate_until"), disable_tqdm=True
    )
    for context, text in zip(contexts, found, strict=True):
        ids = mogu.tokenizer([context], return_tensors="pt")
        written = mogu.generate(
            **{name: ids[name] for name in ("input_ids", "attention_mask")},
            mode=mode,
            threshold=threshold,
            max_new_tokens=6,
            do_sample=False,
            pad_token_id=mogu.tokenizer.pad_token_id,
        )
        assert text == mogu.tokenizer.decode(
            written[0, ids["input_ids"].shape[1] :], skip_special_tokens=True
        )
    above = {context for context, each in zip(contexts, probabilities, strict=True) if each > threshold}
    assert lm.flagged == (above if mode == "mogu" else set())


def test_a_row_ends_at_its_first_stop():
    lm = MoguLM(gated(), "base")
    row = lm.tokenizer.encode("one two; three; four")
    assert lm.tokenizer.decode(row[: lm._written(row, [";", "<|im_end|>"])]) == "one two;"
    assert lm._written(row, ["five"]) == len(row)
