import pytest

from mogu.adapter.folder import save_adapter
from mogu.defenses.base import Answer
from mogu.defenses.mogu import MoguDefense
from mogu.errors import AdapterError
from mogu.generation import MoguModel
from tests.adapter.adapters import config_of, random_adapter
from tests.defenses.gated_host import gated_host
from tests.defenses.hosts import tiny_host
from tests.defenses.states import State
from tests.defenses.talks import TALKS
from tests.tiny import tiny_model, tiny_tokenizer


def replies(mogu):
    # Batches of like lengths, as the host's are.
    conversations, openers = [t.messages for t in TALKS], [t.opener for t in TALKS]
    return mogu.reply(conversations, opener=openers, max_new_tokens=6, batch_size=2)


@pytest.fixture
def other(tmp_path):
    """The folder of another adapter of the same base, of token routing, and its model made by itself."""

    def make(host, **changes):
        adapter = random_adapter(tiny_model())
        config = config_of(adapter).model_copy(update={"base": host.mogu.config.base} | changes)
        save_adapter(tmp_path / "other", adapter, config)
        adapter.freeze()
        return str(tmp_path / "other"), MoguModel(adapter.model, tiny_tokenizer(), adapter, config)

    return make


def test_sequence_routing_flags_what_the_safe_variant_wrote(tmp_path):
    host = gated_host(tmp_path)
    with MoguDefense(host) as defense:
        answers = defense.reply(TALKS, 6)
        assert defense.reply([], 6) == []
    expected = replies(host.mogu)
    assert answers == [Answer(r.text, r.tokens, r.safe_weight > 0, r.score) for r in expected]
    assert sum(answer.flagged for answer in answers) == 1


def test_token_routing_scores_by_the_weight_of_the_safe_variant(tmp_path):
    host = tiny_host(tmp_path)
    with MoguDefense(host) as defense:
        answers = defense.reply(TALKS, 6)
    weights = [reply.safe_weight for reply in replies(host.mogu)]
    assert [answer.score for answer in answers] == weights
    assert [answer.flagged for answer in answers] == [weight > 0.5 for weight in weights]


def test_another_adapter_of_the_same_base_takes_the_place_of_the_one_under_test(tmp_path, other):
    host = gated_host(tmp_path)
    folder, alone = other(host)
    said, routed, state = host.base_replies(TALKS, 6), replies(host.mogu), State(host.mogu.model)
    defense = MoguDefense(host, folder)
    for _ in range(2):
        with defense:
            answers = defense.reply(TALKS, 6)
            assert host.base_replies(TALKS, 6) == said
        state.assert_same()
        assert [answer.text for answer in answers] == [reply.text for reply in replies(alone)]
        assert [answer.text for answer in answers] != [answer.text for answer in said]
        assert replies(host.mogu) == routed


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"chat_template": "{{ messages }}"}, "was trained with another chat template"),
        ({"base": None}, "was made for tiny/llama"),
    ],
)
def test_an_adapter_that_does_not_fit_leaves_the_one_under_test_in_place(tmp_path, other, changes, message):
    host = gated_host(tmp_path)
    state = State(host.mogu.model)
    if "base" in changes:
        changes["base"] = config_of(random_adapter(tiny_model())).base
    folder, _ = other(host, **changes)
    with pytest.raises(AdapterError, match=message), MoguDefense(host, folder):
        pass
    state.assert_same()
    assert len(replies(host.mogu)) == 3


def test_another_adapter_is_told_by_its_content(tmp_path, other):
    host = tiny_host(tmp_path)
    folder, _ = other(host)
    first = MoguDefense(host, folder).identity
    other(host, routed_tokens=3)
    assert MoguDefense(host).identity == ""
    assert first and MoguDefense(host, folder).identity not in ("", first)
