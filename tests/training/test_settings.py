import pytest
from pydantic import ValidationError

from mogu.errors import MoguError
from mogu.training.settings import PRESETS, TrainingSettings


def test_every_preset_is_valid():
    assert list(PRESETS) == ["default", "token", "paper", "full", "quick"]
    for name in PRESETS:
        assert TrainingSettings.preset(name).seed == 0
    assert TrainingSettings.preset("default") == TrainingSettings()


def test_the_papers_preset_is_the_papers():
    settings = TrainingSettings.preset("paper")
    assert (settings.malicious_requests, settings.benign_requests, settings.wrapped_share) == (300, 300, 0)
    assert settings.routing == "token"
    assert (settings.rank, settings.lora_alpha, settings.layer_share) == (8, 16, 1)
    assert (settings.routed_tokens, settings.routed_prompt_tokens) == (5, None)
    assert (settings.variant_objective, settings.variant_learning_rate) == ("ratio", 5e-5)
    assert (settings.router_form, settings.router_start) == ("paper", "random")
    assert (settings.router_learning_rate, settings.router_loss_weight) == (5e-4, 2)
    assert (settings.router_distance, settings.batch_size) == ("l1", 8)


AMOUNTS = {
    "malicious_requests",
    "benign_requests",
    "variant_requests",
    "validation_requests",
    "read_reply_tokens",
}


def beside_the_default(name):
    """The default's values, the preset's, and the names of those that differ."""
    default, preset = TrainingSettings().model_dump(), TrainingSettings.preset(name).model_dump()
    return default, preset, {name for name in default if default[name] != preset[name]}


def test_the_quick_preset_is_the_default_on_less_data():
    default, quick, changed = beside_the_default("quick")
    assert changed == AMOUNTS | {"batch_size", "evaluations"}
    assert all(quick[name] < default[name] for name in changed)
    assert default["routing"] == "sequence"


def test_the_full_preset_is_the_default_on_more_data():
    default, full, changed = beside_the_default("full")
    assert changed == AMOUNTS
    assert all(full[name] > default[name] for name in changed)


def test_an_unknown_preset_names_those_that_there_are():
    with pytest.raises(MoguError, match="no preset 'fast'; there are: default, token, paper, full, quick"):
        TrainingSettings.preset("fast")


@pytest.mark.parametrize(
    "wrong",
    [
        {"malicious_requests": 7},
        {"wrapped_share": 1.1},
        {"reply_tokens": 1},
        {"rank": 0},
        {"layer_share": 0},
        {"routing": "both"},
        {"variant_objective": "both"},
        {"variant_learning_rate": 0},
        {"router_distance": "l2"},
        {"router_loss_weight": -1.0},
        {"benign_refusal_budget": -0.1},
        {"look_alike_refusal_budget": 1.5},
        {"framed_refusal_budget": -0.01},
        {"framed_refusal_budget": None},
        {"read_reply_tokens": 7},
        {"seed": -1},
        {"learning_rate": 1e-3},
        {"router_form": "paper"},
    ],
    ids=str,
)
def test_what_cannot_be_is_refused(wrong):
    with pytest.raises(ValidationError):
        TrainingSettings(**wrong)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        *(
            (given, f"routing='sequence' makes no use of {', '.join(given)}: only routing='token' does")
            for given in (
                {"wrapped_share": 0.1},
                {"routed_tokens": 5},
                {"routed_prompt_tokens": 1},
                {"routed_prompt_tokens": None},
                {"variant_objective": "ratio"},
                {"router_form": "paper", "router_start": "random"},
                {"router_epochs": 2},
                {"router_learning_rate": 1e-3},
                {"router_loss_weight": 2.0},
                {"weigh_by_kind": False},
                {"router_distance": "squared"},
            )
        ),
        *(
            (
                PRESETS["token"] | given,
                f"routing='token' makes no use of {', '.join(given)}: only routing='sequence' does",
            )
            for given in (
                {"usable_variant": False},
                {"look_alike_refusal_budget": 0.1},
                {"framed_refusal_budget": 0.1, "read_reply_tokens": None},
            )
        ),
        ({"benign_refusal_budget": None}, "routing='sequence' needs a benign_refusal_budget"),
        ({"routing": "token"}, "routing='token' needs routed_tokens: try 24, or 5 as in the paper"),
        ({"routing": "token", "routed_tokens": 5}, "needs routed_prompt_tokens of 1 or more"),
        (
            PRESETS["token"] | {"benign_refusal_budget": None},
            "router_loss_weight is chosen within benign_refusal_budget: give one of the two",
        ),
    ],
    ids=str,
)
def test_settings_of_the_other_way_of_routing_are_refused(changes, message):
    with pytest.raises(ValidationError, match=message):
        TrainingSettings(**changes)


def test_jailbreak_frames_may_be_refused_most_often_and_replies_are_read_unless_it_is_said():
    settings = TrainingSettings()
    assert settings.benign_refusal_budget is not None and settings.read_reply_tokens is not None
    budgets = [
        settings.benign_refusal_budget,
        settings.look_alike_refusal_budget,
        settings.framed_refusal_budget,
    ]
    assert 0 < budgets[0] < budgets[1] < budgets[2] <= 0.2
    assert TrainingSettings(read_reply_tokens=None).read_reply_tokens is None
    assert TrainingSettings(read_reply_tokens=8).read_reply_tokens == 8


def test_both_ways_of_routing_take_their_own_settings():
    assert TrainingSettings(benign_refusal_budget=0.0, look_alike_refusal_budget=0.2).routing == "sequence"
    token = TrainingSettings(routing="token", routed_tokens=5, routed_prompt_tokens=None)
    assert (token.routed_tokens, token.routed_prompt_tokens) == (5, None)
    assert TrainingSettings.preset("token").benign_refusal_budget == 0.03


def test_of_the_other_way_the_defaults_may_be_written_out():
    for name in PRESETS:
        settings = TrainingSettings.preset(name)
        assert TrainingSettings.model_validate(settings.model_dump()) == settings


@pytest.mark.parametrize("name", ["default", "token", "full", "quick"])
def test_lambda_is_chosen_on_validation_unless_it_is_given(name):
    assert TrainingSettings.preset(name).router_loss_weight is None
    given = TrainingSettings.model_validate(
        PRESETS["token"] | {"router_loss_weight": 0.5, "benign_refusal_budget": None}
    )
    assert (given.router_loss_weight, given.benign_refusal_budget) == (0.5, None)


@pytest.mark.parametrize("name", PRESETS)
def test_what_a_preset_says_is_not_the_default_already(name):
    default = TrainingSettings().model_dump()
    assert {key for key, value in PRESETS[name].items() if value == default[key]} == set()


def test_the_papers_routers_cannot_start_at_a_fit():
    with pytest.raises(ValidationError, match="router_start='fit' needs router_form='folded'"):
        TrainingSettings(router_form="paper", router_start="fit")
    settings = TrainingSettings.model_validate(
        PRESETS["token"] | {"router_form": "paper", "router_start": "random"}
    )
    assert settings.router_form == "paper"


def test_every_setting_says_what_it_is():
    assert all(field.description for field in TrainingSettings.model_fields.values())
