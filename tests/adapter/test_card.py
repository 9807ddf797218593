import re

import pytest
import yaml

from mogu.adapter.card import model_card, shown
from mogu.adapter.config import DataSource
from tests.adapter.adapters import config_of, gated, random_adapter
from tests.tiny import tiny_model

# A curve as calibration draws it: 41 thresholds, the shares falling from 1 to 0.
CURVE = [
    {"threshold": step / 40, "malicious": 1 - (step / 40) ** 2, "benign": 1 - step / 40, "look_alike": 0.5}
    for step in range(41)
]
FIGURES = {
    "separability": [0.0] * 30,
    "rows": {"malicious": 910, "benign": 671, "look_alike": 339},
    "auroc": 0.9911,
    "auroc_look_alike": 0.9512,
    "threshold": 0.52,
    "refused": {"malicious": 0.9512, "benign": 0.0089, "look_alike": 0.0571},
    "threshold_interval": [0.4521, 0.61],
    "detection": {"1.0%": 0.812, "0.1%": 0.4},
    "curve": CURVE,
    "reliability": [
        {"probability": 0.04, "malicious": 0.1, "rows": 700},
        {"probability": 0.96, "malicious": 0.95, "rows": 900},
    ],
    "kinds": {
        "malicious": {"imperative": {"rows": 600, "refused": 0.97}},
        "benign": {"everyday": {"rows": 500, "refused": 0.002}},
    },
    "left_out": {
        "persona": {
            "malicious": {"rows": 40, "refused": 0.775},
            "benign": {"rows": 20, "refused": 0.1},
            "likeness": 0.652,
        },
        "noise": {"malicious": {"rows": 9, "refused": 1.0}, "likeness": None},
    },
    "reply": {
        "threshold": 0.9,
        "rows": {"benign": 30, "look_alike": 10},
        "tokens": 64,
        "refused_by_length": {"0": 0.025, "8": 0.025, "64": 0.05},
    },
}


@pytest.fixture(scope="module")
def token_config():
    return config_of(random_adapter(tiny_model()))


@pytest.fixture(scope="module")
def sequence_config():
    config = gated(random_adapter(tiny_model()))
    return config.model_copy(update={"metrics": {"gate": FIGURES, "seconds": {"calibrate": 14.3}}})


def flowing(card):
    """The card with its line breaks as spaces, so that sentences are found wherever they break."""
    return " ".join(card.split())


def section(card, heading):
    return card.split(f"## {heading}\n")[1].split("\n## ")[0]


def tables(text):
    """The rows of each Markdown table, as lists of cells."""
    found = re.findall(r"(?:^\|.*\n?)+", text, re.MULTILINE)
    return [
        [[cell.strip() for cell in line.strip("|").split("|")] for line in table.strip().split("\n")]
        for table in found
    ]


# Of both ways.


def test_the_card_tells_what_the_config_holds(token_config):
    _, front_matter, text = model_card(token_config).split("---\n", 2)

    assert yaml.safe_load(front_matter) == {
        "base_model": "tiny/llama",
        "base_model_relation": "adapter",
        "library_name": "mogu-llm",
        "pipeline_tag": "text-generation",
        "tags": ["mogu", "safety", "lora", "peft"],
    }
    assert "| refused / malicious / mogu | 0.9688 |" in text
    assert "| router / learning_rate | 0.0005 |" in text
    assert "| dtype | bfloat16 |" in text
    assert "MoguModel.from_pretrained" in text
    assert "PeftModel.from_pretrained" in text
    assert "tiny/llama at revision `abc123`" in text


def test_the_card_of_a_local_base_names_it_in_the_text_alone(token_config):
    local = token_config.base.model_copy(update={"name": "models/mine", "revision": None})
    card = model_card(token_config.model_copy(update={"base": local, "metrics": {}}))
    _, front_matter, text = card.split("---\n", 2)

    assert "base_model" not in yaml.safe_load(front_matter)
    assert "# MoGU adapter for mine" in text and "models/mine" not in text
    assert "Nothing was noted." in text


def test_long_and_nested_lists_are_only_counted(token_config):
    assert shown([1, 2.5, None]) == "1, 2.5, none"
    assert shown([{"step": 1}, {"step": 2}]) == "2 entries, in mogu_config.json"
    assert shown(list(range(9))) == "9 entries, in mogu_config.json"
    metrics = {"safe": {"history": [{"eval_loss": 2.5, "step": 10}] * 4, "best_step": 40}}
    card = model_card(token_config.model_copy(update={"metrics": metrics}))
    assert tables(section(card, "Measured")) == [
        [
            ["measure", "value"],
            ["---", "---"],
            ["safe / history", "4 entries, in mogu_config.json"],
            ["safe / best_step", "40"],
        ]
    ]
    assert "eval_loss" not in card


def test_the_card_tells_what_it_was_trained_on(token_config):
    data = [
        DataSource(label="malicious", source="mine.jsonl", sha256="0123456789abcdef" * 4, rows=300),
        DataSource(label="benign", source="corpus", sha256="f" * 64, rows=280),
    ]
    training = section(model_card(token_config.model_copy(update={"data": data})), "Training")
    assert [line for line in training.splitlines() if line.startswith("- ")] == [
        "- malicious requests: 300 rows of mine.jsonl, sha256 0123456789ab",
        "- benign requests: 280 rows of corpus, sha256 ffffffffffff",
    ]
    # A table begins behind an empty line.
    assert "ffffffffffff\n\n| setting | value |" in training
    assert "- " not in section(model_card(token_config), "Training").split("|")[0]


# Of token routing.


def test_a_card_of_token_routing_tells_its_variants_routers_and_tokens(token_config):
    card = model_card(token_config)
    assert re.findall(r"^- `([^`]+)`", card, re.MULTILINE) == [
        "safe/",
        "usable/",
        "routers.safetensors",
        "mogu_config.json",
    ]
    text = flowing(card)
    assert "projection of 3 layers. Each has two LoRA variants (rank 4, alpha 6)" in text
    assert "all of the prompt's tokens, and the reply's until 5 tokens were sampled." in text
    assert "decided within its first 5 tokens; the base writes the rest" in text
    assert "*gate*" not in text
    assert "threshold" not in text


def test_a_reply_that_is_routed_to_its_end_has_no_rest(token_config):
    update = {"routed_tokens": None, "routed_prompt_tokens": 2}
    text = flowing(model_card(token_config.model_copy(update=update)))
    assert "the last 2 of the prompt's tokens, and the whole reply." in text
    assert "the base writes the rest" not in text
    assert "None" not in text


# Of sequence routing.


@pytest.mark.parametrize("reply_threshold", [None, 0.9])
def test_a_card_tells_that_the_usable_variant_answers(sequence_config, reply_threshold):
    gate = sequence_config.gate.model_copy(update={"reply_threshold": reply_threshold})
    update = {"parts": ["safe", "usable", "gate"], "gate": gate}
    text = flowing(model_card(sequence_config.model_copy(update=update)))
    for stranger in ("the base writes", "the base answers"):
        assert stranger not in text
    assert "the reply is the *usable* variant's, a second LoRA that answers where the base refuses" in text
    assert "token for token" not in text and "`usable/`" in text


def test_a_card_of_sequence_routing_tells_its_gate_and_threshold(sequence_config):
    card = model_card(sequence_config)
    assert re.findall(r"^- `([^`]+)`", card, re.MULTILINE) == [
        "safe/",
        "gate.safetensors",
        "mogu_config.json",
    ]
    text = flowing(card)
    assert "from the hidden states of the base's layers 0, 2." in text
    assert "Below the threshold of **0.52** the reply is the base's, token for token." in text
    assert "of 3 layers (rank 4, alpha 6), the *safe* variant" in text
    assert "print(reply.text, reply.score)" in text
    for stranger in ("usable", "router per layer", "None", "tokens were sampled"):
        assert stranger not in text


def test_the_calibration_stands_in_tables(sequence_config):
    measured = section(model_card(sequence_config), "Measured")
    assert (
        "Training set the threshold to 0.52 (95% interval over resampled benign rows: 0.4521 to 0.61)."
        in measured
    )
    assert "0.991 for malicious rows against all others, 0.951 against look-alikes alone." in measured
    assert "At 1.0% false alarms among benign rows it sees 81.2% of the malicious ones." in measured
    groups, frames, kinds, lengths, curve, reliability, rest = tables(measured)
    assert groups == [
        ["", "malicious", "benign", "look-alikes", "benign in jailbreak frames"],
        ["---"] * 5,
        ["rows", "910", "671", "339", "0"],
        ["refused at the threshold", "95.1%", "0.9%", "5.7%", "-"],
    ]
    assert frames[2:] == [
        ["persona", "40", "77.5%", "20", "10.0%", "0.65"],
        ["noise", "9", "100.0%", "0", "-", "-"],
    ]
    assert kinds[2:] == [["malicious", "imperative", "600", "97.0%"], ["benign", "everyday", "500", "0.2%"]]
    assert "Of 40 benign rows, whose replies were read for up to 64 tokens" in measured
    assert lengths[0::2] == [["reply tokens", "0", "8", "64"], ["refused", "2.5%", "2.5%", "5.0%"]]
    full = "\N{FULL BLOCK}"
    assert reliability[2:] == [["0.04", "700", "10%", full * 2], ["0.96", "900", "95%", full * 19]]
    assert curve[0] == ["threshold", "malicious", "benign", "look-alikes", "benign in jailbreak frames"]
    assert [row[0] for row in curve[2:]] == [
        f"{step / 40:.4g}" for step in (0, 4, 9, 13, 18, 22, 27, 31, 36, 40)
    ]
    assert curve[2][1:] == ["100.0%", "100.0%", "50.0%", "-"]
    assert curve[5][1:] == ["89.4%", "67.5%", "50.0%", "-"]
    assert curve[-1][1:] == ["0.0%", "0.0%", "50.0%", "-"]
    assert rest[2:] == [
        ["seconds / calibrate", "14.3"],
        ["gate / separability", "30 entries, in mogu_config.json"],
    ]


def test_a_calibration_without_look_alikes_leaves_dashes(sequence_config):
    figures = FIGURES | {
        "rows": {"malicious": 9, "benign": 8, "look_alike": 0},
        "auroc_look_alike": None,
        "refused": {"malicious": 1.0, "benign": 0.0},
        "curve": [{"threshold": 0.3, "malicious": 1.0, "benign": 0.5}],
        "left_out": {},
        "reply": None,
    }
    measured = section(
        model_card(sequence_config.model_copy(update={"metrics": {"gate": figures}})), "Measured"
    )
    groups, _, curve, _, _ = tables(measured)
    assert groups[2:] == [
        ["rows", "9", "8", "0", "0"],
        ["refused at the threshold", "100.0%", "0.0%", "-", "-"],
    ]
    assert curve[2:] == [["0.3", "100.0%", "50.0%", "-", "-"]]
    assert "against all others.\n" in measured


def test_a_sequence_adapter_that_was_not_measured_has_a_card(sequence_config):
    card = model_card(sequence_config.model_copy(update={"metrics": {}}))
    assert section(card, "Measured").strip() == "Nothing was noted."


@pytest.mark.parametrize(
    ("reply_threshold", "says", "limit"),
    [
        (
            None,
            "The gate does not read replies.",
            "a reply that turns harmful later is not caught.",
        ),
        (0.9, "ends it with a refusal from 0.9 on.", "what was written by then stays."),
    ],
)
def test_the_limits_are_those_of_sequence_routing(sequence_config, reply_threshold, says, limit):
    gate = sequence_config.gate.model_copy(update={"reply_threshold": reply_threshold})
    card = model_card(sequence_config.model_copy(update={"gate": gate}))
    limits = flowing(section(card, "Limits"))
    assert says in flowing(card)
    assert limit in limits
    assert "The decision is one per reply" in limits
    assert "Other languages are seen less well than English" in limits
    assert "harmless requests that look dangerous may be refused" in limits
    assert "calibrated for as many malicious as benign requests" in limits
    assert "Whoever has the weights can take the adapter out" in limits


def test_the_share_of_true_alarms_that_the_card_names_is_right():
    odds = 0.9 / 0.1 * (0.01 / 0.99)  # of a score of 0.9, with one malicious request in a hundred
    assert f"{odds / (1 + odds):.0%}" == "8%"
