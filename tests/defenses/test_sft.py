import pytest

from mogu.defenses import examples, finetune, sft
from mogu.defenses.sft import SupervisedFinetuning
from tests.defenses.counting import Heard
from tests.defenses.hosts import tiny_host
from tests.defenses.states import State
from tests.defenses.talks import TALKS


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    monkeypatch.setattr(sft, "REFUSALS", 4)
    monkeypatch.setattr(sft, "BENIGN", 4)
    monkeypatch.setattr(examples, "REPLY_TOKENS", 6)
    monkeypatch.setattr(finetune, "BATCH", 2)


def test_it_is_trained_once_and_speaks_while_it_is_entered(tmp_path):
    host, heard = tiny_host(tmp_path), Heard()
    said, state = host.base_replies(TALKS, 8), State(host.mogu.model)
    SupervisedFinetuning(host).prepare(heard)
    assert heard.calls == [(2, 4), (4, 4), (1, 4), (2, 4), (3, 4), (4, 4)]
    again = SupervisedFinetuning(host)
    again.prepare(heard)
    assert len(heard.calls) == 6
    with again:
        answers = again.reply(TALKS, 8)
        assert answers == host.base_replies(TALKS, 8)
    state.assert_same()
    assert [answer.text for answer in answers] != [answer.text for answer in said]
    assert host.base_replies(TALKS, 8) == said
    with again:
        assert again.reply(TALKS, 8) == answers
        assert again.reply([], 8) == []


def test_another_seed_is_another_training(tmp_path):
    host = tiny_host(tmp_path)
    SupervisedFinetuning(host).prepare(Heard())
    host.seed, heard = 1, Heard()
    SupervisedFinetuning(host).prepare(heard)
    assert heard.calls[-1] == (4, 4)


def test_it_learns_from_both_labels_in_frames_and_without(tmp_path, monkeypatch):
    monkeypatch.setattr(sft, "BENIGN", 40)
    monkeypatch.setattr(sft, "WRAPPED", 0.25)
    defense = SupervisedFinetuning(tiny_host(tmp_path))
    malicious, benign = defense._requests("malicious", 20), defense._requests("benign", 40)
    assert [sum(row.kind.endswith("_frame") for row in rows) for rows in (malicious, benign)] == [5, 10]
    assert {row.kind for row in malicious} >= {"jailbreak_frame", "imperative"}
    assert {row.kind for row in benign} >= {"jailbreak_frame", "innocent_frame", "everyday", "look_alike"}
