import itertools

import pytest
import torch

from mogu.adapter.folder import read_config
from mogu.data.requests import Request
from mogu.generation import MoguModel
from mogu.judges.refusal import holds_refusal
from mogu.share import Share
from mogu.training import over_refusal
from mogu.training.over_refusal import base_refusals, glad_examples, needs_usable
from mogu.training.preparation import BegunReply, Prompt
from mogu.training.stage import ReplyKind, UsableStage
from tests.tiny import tiny_tokenizer
from tests.training.pipelines import Stop, parts_of, sequence_settings, stop_at, train_on
from tests.training.prepared import prepared

REFUSAL, ANSWER = "I'm sorry, but I can't help with that.", "It is a town by the sea."


def prompt_of(label="benign", group="", text="Describe a town."):
    request = Request("row", text, [{"role": "user", "content": text}], label, group=group)
    return Prompt(request, [5, 6, 7])


def begun(text):
    ids = tiny_tokenizer()(text)["input_ids"] if text else []
    return BegunReply(ids, 0)


def test_the_bases_refusals_are_counted_among_benign_requests_in_no_frame():
    rows = [
        (prompt_of(), REFUSAL),
        (prompt_of(), ANSWER),
        (prompt_of(), REFUSAL[:16]),  # as far as it was written
        (prompt_of(), ANSWER),
        (prompt_of(), ""),
        (prompt_of("malicious"), REFUSAL),
        (prompt_of(group="persona"), REFUSAL),
    ]
    prompts, texts = zip(*rows, strict=True)
    found = base_refusals(tiny_tokenizer(), prompts, [begun(text) for text in texts])
    assert (found.value, found.replies) == (0.5, 4)
    assert base_refusals(tiny_tokenizer(), prompts[4:], [begun(text) for text in texts[4:]]) is None


def test_replies_no_longer_than_an_opener_are_not_counted():
    replies = [BegunReply(begun(text).ids[:8], 0) for text in (REFUSAL, ANSWER)]
    assert base_refusals(tiny_tokenizer(), [prompt_of()] * 2, replies) is None
    replies += [begun(REFUSAL), BegunReply(begun(ANSWER).ids[:9], 0)]
    found = base_refusals(tiny_tokenizer(), [prompt_of()] * 4, replies)
    assert (found.value, found.replies) == (0.5, 2)


@pytest.mark.parametrize(
    ("hits", "needed"),
    [(0, False), (2, False), (6, True), (50, True)],
)
def test_the_usable_variant_is_trained_where_the_base_refuses_clearly_too_much(hits, needed):
    assert needs_usable(Share.of(hits, 50), sequence_settings(benign_refusal_budget=0.03)) is needed


@pytest.mark.parametrize("given", [True, False])
def test_the_settings_win(given):
    settings = sequence_settings(usable_variant=given)
    assert [needs_usable(refused, settings) for refused in (None, Share.of(9, 9))] == [given, given]
    assert not needs_usable(None, sequence_settings())


def test_it_learns_the_bases_replies_and_openers_where_the_base_refuses(tmp_path, monkeypatch):
    made = prepared(preset="default", dtype=None)
    tokenizer = tiny_tokenizer()
    replies = {str(row): tokenizer(text)["input_ids"] for row, text in enumerate((ANSWER, REFUSAL, ""))}
    monkeypatch.setattr(over_refusal, "base_replies", lambda *_: replies)
    prompts = [prompt_of(text=text) for text in ("Name a town.", "Write a poem.", "Count.")]
    examples = glad_examples(
        made.recorder, tokenizer, prompts, made.settings, tmp_path, lambda done, total: None
    )
    glad = [tokenizer.decode(example.replies[ReplyKind.GLAD]) for example in examples]
    assert glad[0] == ANSWER
    assert not any(holds_refusal(text) for text in glad)
    assert "a poem" in glad[1] and len(glad[2]) > 5
    assert not any(example.malicious for example in examples)


PARTS = ["safe/adapter_model.safetensors", "usable/adapter_model.safetensors", "gate.safetensors"]


def test_a_training_with_it_saves_and_uses_it_and_goes_on_where_it_was(files, tmp_path):
    settings = sequence_settings(usable_variant=True)
    whole = train_on(files, tmp_path / "whole", settings)
    config = read_config(whole)
    assert config.parts == ["safe", "usable", "gate"]
    assert {"usable", "base_refuses_benign"} < config.metrics.keys()
    assert config.metrics["usable"]["in_adapter"]
    model = MoguModel.from_pretrained(whole, device="cpu")
    talk = [{"role": "user", "content": "Describe the sea to me."}]
    (answered,) = model.reply([talk], threshold=1.0, max_new_tokens=4)
    assert (answered.safe_weight, answered.usable_weight) == (0.0, 1.0)
    (alone,) = model.reply([talk], mode="usable", max_new_tokens=4)
    assert alone.tokens > 0
    with pytest.raises(Stop):
        train_on(files, tmp_path / "stopped", settings, progress=stop_at("usable", 2))
    assert parts_of(train_on(files, tmp_path / "stopped", settings), PARTS) == parts_of(whole, PARTS)


def test_one_that_training_has_not_made_better_is_left_out(files, tmp_path, monkeypatch, caplog):
    losses, validations = UsableStage.losses, itertools.count(1.0)

    def worse_and_worse(self, batch):
        return losses(self, batch) | {"wanted": torch.tensor(next(validations))}

    monkeypatch.setattr(UsableStage, "losses", worse_and_worse)
    folder = train_on(files, tmp_path / "adapter", sequence_settings(usable_variant=True))
    config = read_config(folder)
    assert config.parts == ["safe", "gate"] and not (folder / "usable").exists()
    usable = config.metrics["usable"]
    assert (usable["best_step"], usable["in_adapter"]) == (0, False)
    assert "the adapter goes without the usable variant: what is not refused is the base's" in caplog.messages
    model = MoguModel.from_pretrained(folder, device="cpu")
    talk = [{"role": "user", "content": "Describe the sea to me."}]
    base, answered = (
        model.reply([talk], max_new_tokens=4, **options)[0]
        for options in ({"mode": "base"}, {"threshold": 1.0})
    )
    assert answered.text == base.text
