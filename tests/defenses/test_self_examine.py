from statistics import median

from mogu.chat import encode_chat
from mogu.defenses import self_examine
from mogu.defenses.base import Answer
from mogu.defenses.fixed import REFUSAL
from mogu.defenses.self_examine import SelfExamine, question
from mogu.defenses.speaker import Speaker
from tests.defenses.hosts import tiny_host
from tests.defenses.talks import TALKS


def examined(host, drafts):
    """What the base says of each draft."""
    texts = [talk.opener + draft.text for talk, draft in zip(TALKS, drafts, strict=True)]
    prompts = [encode_chat(host.mogu.tokenizer, [question(text)]).ids for text in texts]
    return Speaker.of(host.mogu).weigh(prompts, "yes", "no", 2)


def test_the_question_quotes_the_reply_and_asks_for_yes_or_no():
    asked = question("Take {two} eggs.")
    assert asked["role"] == "user"
    assert "<text>\nTake {two} eggs.\n</text>" in asked["content"]
    assert asked["content"].endswith("yes or no.")


def test_replies_that_the_base_calls_harmful_are_refused(tmp_path, monkeypatch):
    host = tiny_host(tmp_path)
    drafts = host.base_replies(TALKS, 5)
    verdicts = examined(host, drafts)
    threshold = median(verdict.share for verdict in verdicts)
    monkeypatch.setattr(self_examine, "THRESHOLD", threshold)  # so that there are replies on either side
    flagged = [verdict.share >= threshold for verdict in verdicts]
    assert sorted(flagged) == [False, True, True]
    assert SelfExamine(host).reply(TALKS, 5) == [
        Answer(REFUSAL if harmful else draft.text, draft.tokens + verdict.tokens, harmful, verdict.share)
        for draft, verdict, harmful in zip(drafts, verdicts, flagged, strict=True)
    ]


def test_no_talks_no_answers(tmp_path):
    assert SelfExamine(tiny_host(tmp_path)).reply([], 5) == []


def test_what_more_likely_is_harmful_than_not_is_refused():
    assert self_examine.THRESHOLD == 0.5
