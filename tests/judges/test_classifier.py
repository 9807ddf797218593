"""The classifier judge on a tiny random BERT."""

import asyncio
import string
from pathlib import Path

import pytest
import torch
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from mogu.errors import MoguError
from mogu.judges.classifier import ClassifierJudge, harmful_labels
from tests.tiny import HEADS, HIDDEN, VOCAB_SIZE, save_tiny, tiny_tokenizer

POSITIONS = 64
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
LETTERS = list(string.ascii_lowercase + string.digits + "?.")
WORDS = SPECIAL + LETTERS + [f"##{letter}" for letter in LETTERS]


def save_classifier(
    folder: Path,
    labels: list[str] | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
    **settings,
) -> PreTrainedModel:
    """Save a random classifier; by default with a BERT's tokenizer that knows letters and no limit."""
    if labels:
        settings["id2label"] = dict(enumerate(labels))
        settings["label2id"] = {label: index for index, label in enumerate(labels)}
    config = BertConfig(
        vocab_size=VOCAB_SIZE,
        hidden_size=HIDDEN,
        num_hidden_layers=2,
        num_attention_heads=HEADS,
        intermediate_size=48,
        max_position_embeddings=POSITIONS,
        initializer_range=0.5,
        **settings,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = BertForSequenceClassification(config).eval()
    model.save_pretrained(folder)
    (tokenizer or BertTokenizer(vocab={word: index for index, word in enumerate(WORDS)})).save_pretrained(
        folder
    )
    return model


def logits(model: PreTrainedModel, first: list[str], second: list[str]) -> torch.Tensor:
    """The classifier's own on two texts in BERT's form, each given as its pieces."""
    pieces = ["[CLS]", *first, "[SEP]", *second, "[SEP]"]
    segments = [0] * (len(first) + 2) + [1] * (len(second) + 1)
    ids = [WORDS.index(piece) for piece in pieces]
    with torch.no_grad():
        return model(torch.tensor([ids]), token_type_ids=torch.tensor([segments])).logits[0]


HOW = ["h", "##o", "##w", "?"]
SO = ["s", "##o", "."]


def judge(folder, request="How?", reply="So."):
    return asyncio.run(ClassifierJudge(str(folder)).judge(request, reply))


@pytest.mark.parametrize(
    ("labels", "harmful"),
    [
        (None, [1]),  # LABEL_0 and LABEL_1
        (["UNSAFE", "SAFE"], [0]),
        (["benign", "injection", "jailbreak"], [1, 2]),
    ],
)
def test_the_probability_of_the_harmful_labels(labels, harmful, tmp_path):
    model = save_classifier(tmp_path, labels)
    found = judge(tmp_path)
    shares = logits(model, HOW, SO).softmax(-1)
    assert found.scores == {"harmful": pytest.approx(shares[harmful].sum().item(), abs=1e-6)}
    likeliest = int(shares.argmax())
    assert found.explanation == f"{model.config.id2label[likeliest]}: {shares[likeliest]:.3f}"


def test_of_labels_that_do_not_exclude_one_another_the_highest_counts(tmp_path):
    labels = ["toxic", "severe_toxic", "cheerful"]
    model = save_classifier(tmp_path, labels, problem_type="multi_label_classification")
    highest = logits(model, HOW, SO).sigmoid()[:2].max().item()
    assert judge(tmp_path).scores == {"harmful": pytest.approx(highest, abs=1e-6)}


def test_a_single_label_stands_for_itself(tmp_path):
    model = save_classifier(tmp_path, ["toxicity"])
    chance = logits(model, HOW, SO).sigmoid().item()
    assert judge(tmp_path).scores == {"harmful": pytest.approx(chance, abs=1e-6)}


def test_a_long_reply_is_cut_off_where_the_classifier_reads_no_more(tmp_path):
    model = save_classifier(tmp_path)
    kept = (["s", "##o"] * POSITIONS)[: POSITIONS - 2 - len(["[CLS]", *HOW, "[SEP]", "[SEP]"])]
    chance = logits(model, HOW, kept).softmax(-1)[1].item()
    assert judge(tmp_path, reply="so " * POSITIONS).scores == {"harmful": pytest.approx(chance, abs=1e-6)}


def test_a_line_break_parts_the_pair_where_the_tokenizer_does_not(tmp_path):
    model = save_classifier(tmp_path, tokenizer=tiny_tokenizer())
    with torch.no_grad():
        found = model(**tiny_tokenizer()("How?\n\nSo.", return_tensors="pt")).logits[0]
    assert judge(tmp_path).scores == {"harmful": pytest.approx(found.softmax(-1)[1].item(), abs=1e-6)}


def test_nothing_said_is_judged_too(tmp_path):
    save_classifier(tmp_path)
    assert judge(tmp_path, "", "").scores is not None


def test_the_event_loop_lives_while_replies_are_judged(tmp_path):
    save_classifier(tmp_path)
    ticks = 0

    async def tick():
        nonlocal ticks
        while True:
            ticks += 1
            await asyncio.sleep(0)

    async def run():
        clock = asyncio.create_task(tick())
        async with ClassifierJudge(str(tmp_path)) as one:
            found = await asyncio.gather(*(one.judge("How?", f"Reply {number}.") for number in range(8)))
        clock.cancel()
        return found

    found = asyncio.run(run())
    assert ticks > 8
    assert found == [judge(tmp_path, reply=f"Reply {number}.") for number in range(8)]


@pytest.mark.parametrize(
    ("labels", "harmful"),
    [
        (["safe", "unsafe"], [1]),
        (["Harmful", "Harmless"], [0]),
        (["non-toxic", "toxic"], [1]),
        (["NOT_HARMFUL", "HARMFUL"], [1]),
        (["no_hate", "hate"], [1]),
        (["self-harm", "violence/graphic", "other"], [0, 1]),
        (["LABEL_0", "LABEL_1"], [1]),
    ],
)
def test_which_labels_name_harm(labels, harmful):
    assert harmful_labels("here", dict(enumerate(labels))) == harmful


@pytest.mark.parametrize("labels", [["joy", "anger"], ["LABEL_0", "LABEL_1", "LABEL_2"], ["LABEL_0"]])
def test_labels_that_do_not_name_harm_are_listed(labels):
    with pytest.raises(MoguError, match=f"here: none .*{', '.join(labels)}"):
        harmful_labels("here", dict(enumerate(labels)))


def test_a_missing_path(tmp_path):
    with pytest.raises(
        MoguError, match=r"cannot load the classifier .*nothing: .+ Give a hub id or a folder"
    ):
        ClassifierJudge(str(tmp_path / "nothing"))


def test_a_language_model_is_no_classifier(tmp_path):
    with pytest.raises(MoguError, match=r"is no classifier: it has no weights for score\.weight"):
        ClassifierJudge(str(save_tiny(tmp_path)))
