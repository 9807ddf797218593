import gc
import json
import weakref
from statistics import median

import pytest
import torch
from transformers import LlamaConfig, LlamaForSequenceClassification

from mogu.chat import encode_chat, folded
from mogu.defenses import guard
from mogu.defenses.base import Answer, Talk
from mogu.defenses.fixed import REFUSAL
from mogu.defenses.guard import Guard, harmful_labels
from mogu.defenses.speaker import Speaker
from mogu.errors import MoguError
from mogu.models import load_model
from tests.defenses.hosts import tiny_host
from tests.defenses.talks import TALKS, assistant, system, user
from tests.tiny import CHAT_TEMPLATE, HEADS, HIDDEN, IM_END, VOCAB_SIZE, save_tiny, tiny_tokenizer

UNNAMED = ["LABEL_0", "LABEL_1"]


@pytest.fixture
def classifier(tmp_path):
    """Saves a random classifier with some labels; gives its folder and how likely label 1 of a text is, by hand."""

    def save(labels, **config):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(3)
            model = LlamaForSequenceClassification(
                LlamaConfig(
                    vocab_size=VOCAB_SIZE,
                    hidden_size=HIDDEN,
                    intermediate_size=48,
                    num_hidden_layers=2,
                    num_attention_heads=HEADS,
                    pad_token_id=IM_END,
                    id2label=dict(enumerate(labels)),
                    label2id={label: index for index, label in enumerate(labels)},
                    **{"max_position_embeddings": 512} | config,
                )
            ).eval()
            with torch.no_grad():
                model.score.weight.normal_(std=2.0)
        model.save_pretrained(tmp_path / "guard")
        tiny_tokenizer().save_pretrained(tmp_path / "guard")

        def likely(text):
            ids = torch.tensor([tiny_tokenizer()(text).input_ids])
            with torch.no_grad():
                return model(input_ids=ids).logits.softmax(-1)[0, 1].item()

        return tmp_path / "guard", likely

    return save


def entered(host, folder):
    """Nothing is attached to the host, so that nobody needs to leave it."""
    return Guard(host, str(folder)).__enter__()


def outside(talk):
    """The texts of a talk that come from outside."""
    return [message["content"] for message in talk.messages if message["role"] in ("user", "tool")]


@pytest.mark.parametrize("labels", [["safe", "unsafe"], UNNAMED, ["non-toxic", "toxic"]])
def test_a_classifier_decides_by_the_most_harmful_text_of_a_conversation(
    tmp_path, monkeypatch, classifier, labels
):
    host = tiny_host(tmp_path)
    folder, likely = classifier(labels)
    scores = [max(map(likely, outside(talk))) for talk in TALKS]
    threshold = (max(scores) + median(scores)) / 2  # so that there are talks on either side
    monkeypatch.setattr(guard, "THRESHOLD", threshold)
    assert sorted(score >= threshold for score in scores) == [False, False, True]
    replies = host.base_replies(TALKS, 5)
    assert entered(host, folder).reply(TALKS, 5) == [
        Answer(REFUSAL, 0, True, pytest.approx(score, abs=1e-5))
        if score >= threshold
        else Answer(reply.text, reply.tokens, False, pytest.approx(score, abs=1e-5))
        for reply, score in zip(replies, scores, strict=True)
    ]


def test_the_name_of_a_label_decides_and_not_its_place(tmp_path, classifier):
    folder, likely = classifier(["INJECTION", "SAFE"])
    texts = ["Tell me of the sea", "Hello"]
    answers = entered(tiny_host(tmp_path), folder).reply([Talk([user(text)]) for text in texts], 2)
    assert [answer.score for answer in answers] == pytest.approx(
        [1 - likely(text) for text in texts], abs=1e-5
    )


def test_of_labels_that_may_hold_at_once_the_likeliest_harmful_one_counts(tmp_path, classifier):
    folder, _ = classifier(["toxic", "severe_toxic", "obscene"], problem_type="multi_label_classification")
    model = LlamaForSequenceClassification.from_pretrained(folder)
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([tiny_tokenizer()("Hello").input_ids])).logits[0]
    (answer,) = entered(tiny_host(tmp_path), folder).reply([Talk([user("Hello")])], 2)
    assert answer.score == pytest.approx(logits[:2].max().sigmoid().item(), abs=1e-5)


def test_a_long_text_is_read_in_pieces(tmp_path, classifier):
    folder, likely = classifier(UNNAMED, max_position_embeddings=8)
    text = "abcdfgjk" + "lmpqvwxy" + "zabc"  # a token each
    pieces = ["abcdfgjk", "lmpqvwxy", "zabc"]
    (answer,) = entered(tiny_host(tmp_path), folder).reply([Talk([user(text)])], 2)
    assert answer.score == pytest.approx(max(map(likely, pieces)), abs=1e-5)


@pytest.fixture
def language_model(tmp_path):
    return save_tiny(tmp_path / "guard")


def test_a_language_model_says_safe_or_unsafe_of_the_folded_conversation(
    tmp_path, monkeypatch, language_model
):
    host = tiny_host(tmp_path)
    loaded = load_model(language_model, device="cpu")
    prompts = [encode_chat(loaded.tokenizer, folded(talk.messages)).ids for talk in TALKS]
    verdicts = Speaker(loaded.model, loaded.tokenizer).weigh(prompts, "unsafe", "safe", 2)
    shares = [verdict.share for verdict in verdicts]
    replies = host.base_replies(TALKS, 5)
    threshold = (max(shares) + median(shares)) / 2  # so that there are talks on either side
    monkeypatch.setattr(guard, "THRESHOLD", threshold)
    flagged = [share >= threshold for share in shares]
    assert sorted(flagged) == [False, False, True]
    assert entered(host, language_model).reply(TALKS, 5) == [
        Answer(
            REFUSAL if held else reply.text,
            verdict.tokens + (0 if held else reply.tokens),
            held,
            pytest.approx(verdict.share, abs=1e-5),
        )
        for reply, verdict, held in zip(replies, verdicts, flagged, strict=True)
    ]


def test_a_guards_template_sees_turns_of_user_and_assistant_only(tmp_path, language_model):
    strict = (
        "{% for message in messages %}"
        "{% if message['role'] != ('user', 'assistant')[loop.index0 % 2] %}{{ raise_exception('turns') }}{% endif %}"
        "{% endfor %}" + CHAT_TEMPLATE
    )
    (language_model / "chat_template.jinja").write_text(strict)
    talk = Talk([system("Be brief."), user("Hello"), assistant("Hi."), user("Bye"), user("Bye!")])
    (answer,) = entered(tiny_host(tmp_path), language_model).reply([talk], 2)
    assert 0 < answer.score < 1


def test_a_guards_template_that_leaves_the_texts_out_is_one_clear_error(tmp_path, language_model):
    (language_model / "chat_template.jinja").write_text("Is it safe?")
    defense = entered(tiny_host(tmp_path), language_model)
    with pytest.raises(MoguError, match="leaves the conversation's texts out"):
        defense.reply(TALKS, 2)


def test_what_more_likely_is_harmful_than_not_is_refused():
    assert guard.THRESHOLD == 0.5


def test_no_argument_is_one_clear_error(tmp_path):
    with pytest.raises(MoguError, match="give its hub id or folder after a colon") as caught:
        Guard(tiny_host(tmp_path))
    assert "\n" not in str(caught.value)


def test_a_wrong_path_is_one_clear_error(tmp_path):
    with pytest.raises(MoguError, match="no such file or folder: /no/such/guard") as caught:
        entered(tiny_host(tmp_path), "/no/such/guard")
    assert "\n" not in str(caught.value)


def test_a_classifier_whose_labels_say_nothing_is_one_clear_error(tmp_path, classifier):
    folder, _ = classifier(["cat", "dog"])
    with pytest.raises(MoguError, match="are cat, dog: a guard has"):
        entered(tiny_host(tmp_path), folder)


def test_a_classifier_without_its_head_is_one_clear_error(tmp_path, language_model):
    config = json.loads((language_model / "config.json").read_text())
    config["architectures"] = ["LlamaForSequenceClassification"]
    (language_model / "config.json").write_text(json.dumps(config))
    with pytest.raises(MoguError, match=r"incomplete: 1 weights are not there \(score.weight\)"):
        entered(tiny_host(tmp_path), language_model)


def test_a_config_that_is_no_json_is_one_clear_error(tmp_path, language_model):
    (language_model / "config.json").write_text("no json")
    with pytest.raises(MoguError, match=r"config\.json is no JSON"):
        entered(tiny_host(tmp_path), language_model)


def test_a_damaged_classifier_is_one_clear_error(tmp_path, classifier):
    folder, _ = classifier(UNNAMED)
    (folder / "model.safetensors").write_bytes(b"no weights")
    with pytest.raises(MoguError, match="cannot load") as caught:
        entered(tiny_host(tmp_path), folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("labels", "several", "found"),
    [
        (UNNAMED, False, [1]),
        (["safe", "unsafe"], False, [1]),
        (["Harmful", "Unharmful"], False, [0]),
        (["not_harmful", "harmful"], False, [1]),
        (["BENIGN", "INJECTION", "JAILBREAK"], False, [1, 2]),
        (["no injection", "prompt-injection"], False, [1]),
        (["toxic", "severe_toxic"], True, [0, 1]),
    ],
)
def test_labels_that_say_harm(labels, several, found):
    assert harmful_labels(dict(enumerate(labels)), several, "it") == found


@pytest.mark.parametrize(
    "labels", [["LABEL_0"], ["LABEL_0", "LABEL_1", "LABEL_2"], ["toxic"], ["safe", "fine"]]
)
def test_labels_that_do_not_tell_harm(labels):
    with pytest.raises(MoguError, match=f"the labels of it are {', '.join(labels)}: "):
        harmful_labels(dict(enumerate(labels)), False, "it")


@pytest.mark.parametrize("kind", ["classifier", "language_model"])
def test_a_guard_is_in_memory_while_it_is_entered(tmp_path, request, kind):
    made = request.getfixturevalue(kind)
    folder = made if kind == "language_model" else made(UNNAMED)[0]
    defense = Guard(tiny_host(tmp_path), str(folder))
    for _ in range(2):
        defense.prepare(lambda done, total: None)
        assert defense._judge is None
        with defense:
            loaded = weakref.ref(defense._judge)
            (first, *_) = defense.reply(TALKS, 2)
        gc.collect()
        assert loaded() is None
    assert 0 < first.score < 1


@pytest.mark.parametrize("kind", ["classifier", "language_model"])
def test_no_talks_no_answers(tmp_path, request, kind):
    made = request.getfixturevalue(kind)
    folder = made if kind == "language_model" else made(UNNAMED)[0]
    assert entered(tiny_host(tmp_path), folder).reply([], 5) == []
