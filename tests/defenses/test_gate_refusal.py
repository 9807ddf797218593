import pytest

from mogu.defenses.base import Answer
from mogu.defenses.fixed import REFUSAL
from mogu.defenses.gate_refusal import GateRefusal
from mogu.errors import MoguError
from tests.defenses.gated_host import gated_host
from tests.defenses.hosts import tiny_host
from tests.defenses.states import State
from tests.defenses.talks import TALKS


def test_what_the_gate_flags_is_refused_with_a_fixed_sentence(tmp_path):
    host = gated_host(tmp_path)
    state = State(host.mogu.model)
    with GateRefusal(host) as defense:
        answers = defense.reply(TALKS, 5)
        assert defense.reply([], 5) == []
    state.assert_same()
    routed = host.mogu.reply([t.messages for t in TALKS], opener=[t.opener for t in TALKS], max_new_tokens=5)
    plain = host.base_replies(TALKS, 5)
    flagged = [reply.safe_weight > 0 for reply in routed]
    assert sum(flagged) == 1
    for answer, reply, base, refused in zip(answers, routed, plain, flagged, strict=True):
        assert answer.score == pytest.approx(reply.score)
        said = (REFUSAL, 0) if refused else (base.text, base.tokens)
        assert answer == Answer(*said, refused, answer.score)


def test_an_adapter_without_a_gate_is_turned_down(tmp_path):
    with pytest.raises(MoguError, match="the adapter has no gate: give one of sequence routing"):
        GateRefusal(tiny_host(tmp_path))
