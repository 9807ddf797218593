import hashlib
import json
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from mogu.adapter.folder import read_config
from mogu.data.requests import split_of
from mogu.errors import MoguError
from mogu.generation import MoguModel
from mogu.training import token_routing
from mogu.training.calibration import calibrate
from mogu.training.pipeline import train
from tests.tiny import LAYERS
from tests.training.pipelines import (
    PARTS,
    Stop,
    kill_when,
    parts_of,
    run_to_end,
    settings_of,
    start,
    stop_at,
    train_on,
)

TRAINED = ("safe", "usable", "routers")


STAGES = [
    "load model",
    "base replies",
    "record activations",
    "fit routers",
    "safe",
    "usable",
    "routers",
    "calibrate",
]


@pytest.fixture(scope="module")
def trained(files, tmp_path_factory):
    """An adapter trained without interruption, and what was heard of it."""
    heard = []
    output = tmp_path_factory.mktemp("trained") / "adapter"
    train_on(files, output, progress=lambda *step: heard.append(step))
    return output, heard


def test_the_adapter_loads_and_answers(trained):
    model = MoguModel.from_pretrained(trained[0], device="cpu")
    talks = [[{"role": "user", "content": "Describe the sea to me."}]]
    base, mogu = (model.reply(talks, mode=mode, max_new_tokens=4)[0] for mode in ("base", "mogu"))
    assert base.safe_weight == 0 < mogu.safe_weight < 1
    assert 0 < mogu.usable_weight < 1
    assert not Path(f"{trained[0]}.training").exists()


def test_all_parts_were_trained(trained):
    for part in PARTS:
        assert all(value.abs().max() > 0 for value in load_file(trained[0] / part).values())
        assert all(value.dtype == torch.float32 for value in load_file(trained[0] / part).values())


def test_the_config_says_how_it_came_about(files, trained):
    config = read_config(trained[0])
    assert config.base.name == str(files / "model")
    assert config.parts == ["safe", "usable", "routers"]
    # The upper half of three layers.
    assert config.projections == [f"model.layers.{n}.self_attn.o_proj" for n in (1, 2)]
    assert config.training == settings_of().model_dump()
    assert (config.rank, config.lora_alpha) == (2, 16)
    assert (config.routed_tokens, config.routed_prompt_tokens) == (3, 1)
    assert config.metrics.keys() == {
        "safe",
        "usable",
        "routers",
        "operating_point",
        "operating_points",
        "seconds",
    }
    assert config.metrics["seconds"].keys() == set(STAGES)
    assert config.metrics["operating_point"]["offset"] in [
        offset for offset, _, _ in config.metrics["operating_points"]
    ]
    # Sixteen rows in batches of four for a variant, twenty for the routers.
    assert [config.metrics[name]["steps"] for name in TRAINED] == [4, 4, 5]


def test_every_stage_is_reported_from_its_first_step_to_its_last(trained):
    heard = trained[1]
    assert list(dict.fromkeys(name for name, _, _ in heard)) == STAGES
    for stage in STAGES[1:]:
        steps = [(done, total) for name, done, total in heard if name == stage]
        assert steps[-1][0] == steps[-1][1]
        assert [done for done, _ in steps] == sorted({done for done, _ in steps})


@pytest.mark.parametrize(
    ("stage", "step"),
    [("base replies", 15), ("record activations", 8), ("fit routers", 3), ("calibrate", 5)],
)
def test_a_training_that_was_stopped_between_checkpoints_goes_on(files, trained, tmp_path, stage, step):
    with pytest.raises(Stop):
        train_on(files, tmp_path / "adapter", progress=stop_at(stage, step))
    assert not (tmp_path / "adapter").exists()
    train_on(files, tmp_path / "adapter")
    assert parts_of(tmp_path / "adapter") == parts_of(trained[0])


def train_slowly(files: Path, output: Path) -> None:
    """In a process of its own: so slow that a kill meets it within the stage that it is meant for."""
    torch.set_num_threads(1)
    train_on(files, output, progress=lambda name, *_: time.sleep(0.1 * (name in TRAINED)))


def test_a_training_killed_in_every_stage_comes_to_the_same_result(files, tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    work = tmp_path / "killed.training"
    run_to_end(train_slowly, files, whole)
    for stage in TRAINED:
        process = start(train_slowly, files, killed)
        kill_when(lambda stage=stage: any((work / stage).glob("checkpoint-*/trainer_state.json")), process)
        assert not (work / f"{stage}.safetensors").exists() and not killed.exists()
    run_to_end(train_slowly, files, killed)
    assert read_config(killed).metrics["seconds"].keys() == set(STAGES)
    assert parts_of(killed) == parts_of(whole)
    assert not work.exists()


def test_the_papers_preset_trains_and_saves_folded_routers(files, tmp_path):
    settings = settings_of("paper")
    assert (settings.router_form, settings.variant_objective) == ("paper", "ratio")
    folder = train_on(files, tmp_path / "adapter", settings)
    shapes = {name: tuple(value.shape) for name, value in load_file(folder / PARTS[2]).items()}
    names = [f"model.layers.{n}.self_attn.o_proj" for n in range(LAYERS)]
    assert shapes == {f"{name}.vectors": (2, 32) for name in names} | {f"{name}.bias": (2,) for name in names}
    model = MoguModel.from_pretrained(folder, device="cpu")
    assert model.reply([[{"role": "user", "content": "Hi"}]], max_new_tokens=4)[0].safe_weight > 0
    history = read_config(folder).metrics["safe"]["history"]
    assert all({"eval_loss", "eval_wanted", "eval_unwanted"} <= entry.keys() for entry in history)


def test_the_corpus_is_trained_on_where_no_files_are_given(files, tmp_path):
    folder = train_on(files, tmp_path / "adapter", malicious=None, benign=None)
    config = MoguModel.from_pretrained(folder, device="cpu").config
    assert config.parts == ["safe", "usable", "routers"]
    assert [(each.label, each.source, each.rows) for each in config.data] == [
        ("malicious", "corpus", 16),
        ("benign", "corpus", 20),
    ]


@pytest.mark.parametrize(
    "options", [{"dtype": "bfloat16"}, {"settings": settings_of(gradient_checkpointing=True)}]
)
def test_bfloat16_and_gradient_checkpointing_are_options(files, tmp_path, options):
    folder = train_on(files, tmp_path / "adapter", **options)
    for part in PARTS:
        assert all(torch.isfinite(value).all() for value in load_file(folder / part).values())
        assert all(value.dtype == torch.float32 for value in load_file(folder / part).values())


def test_the_same_seed_gives_the_same_adapter_which_only_a_whole_one_replaces(files, trained, tmp_path):
    folder = train_on(files, tmp_path / "adapter")
    assert parts_of(folder) == parts_of(trained[0])
    with pytest.raises(Stop):
        train_on(files, folder, settings_of(seed=1), progress=stop_at("calibrate", 1))
    assert parts_of(folder) == parts_of(trained[0])
    train_on(files, folder, settings_of(seed=1))
    assert parts_of(folder) != parts_of(trained[0])


def test_an_output_that_is_no_adapter_is_refused_before_anything_is_loaded(tmp_path):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").write_text("x")
    with pytest.raises(MoguError, match=r"would be replaced, but it holds chapter\.tex"):
        train("no/model", tmp_path / "thesis", settings_of())


def test_data_is_checked_before_the_model_is_loaded(files, tmp_path):
    with pytest.raises(MoguError, match="there is no such file"):
        train("no/model", tmp_path / "adapter", settings_of(), malicious=str(tmp_path / "none.jsonl"))


def test_unfinished_work_of_another_training_is_not_gone_on_with(files, tmp_path):
    with pytest.raises(Stop):
        train_on(files, tmp_path / "adapter", progress=stop_at("record activations", 4))
    template = tmp_path / "chat.jinja"
    template.write_text("{{ messages[0]['content'] }}")
    for change in (
        {"settings": settings_of(seed=1)},
        {"benign": None},
        {"dtype": "bfloat16"},
        {"projection": "mlp.down_proj"},
        {"chat_template": template},
    ):
        with pytest.raises(MoguError, match=r"adapter\.training holds an unfinished training with another"):
            train_on(files, tmp_path / "adapter", **change)
    assert train_on(files, tmp_path / "adapter") == tmp_path / "adapter"


@pytest.mark.parametrize("split", ["train", "validation"])
@pytest.mark.parametrize("label", ["malicious", "benign"])
def test_a_split_without_requests_is_refused(files, tmp_path, label, split):
    texts = [text for n in range(400) if split_of(text := f"Thing {n}") != split][:10]
    (tmp_path / "few.jsonl").write_text("\n".join(json.dumps({"prompt": text}) for text in texts))
    with pytest.raises(MoguError, match=f"few.jsonl leaves no {label} request for {split}; give at least 20"):
        train_on(files, tmp_path / "adapter", **{label: str(tmp_path / "few.jsonl")})
    assert not (tmp_path / "adapter.training").exists()


def test_a_divergence_leaves_the_work_and_no_adapter(files, tmp_path):
    with pytest.raises(MoguError, match="variant_learning_rate"):
        train_on(files, tmp_path / "adapter", settings_of(variant_learning_rate=1e38))
    assert not (tmp_path / "adapter").exists()
    assert (tmp_path / "adapter.training" / "stamp.json").exists()


CHOICE = {"router_loss_weight": None, "benign_refusal_budget": 0.5}
CHOICE_STAGES = [
    *STAGES[:6],
    *(f"{stage}-{weight}" for weight in (1, 2, 4) for stage in ("routers", "calibrate")),
]


def refuse_most_with_two(adapter, stage, *rest):
    """Calibrates, and scripts what the operating points do."""
    best, *others = calibrate(adapter, stage, *rest)
    refused = {1.0: 0.5, 2.0: 0.75, 4.0: 0.625}[stage.settings.router_loss_weight]
    return [best._replace(refused=refused, newly_refused=0.25), *others]


@pytest.fixture(scope="module")
def chosen(files, tmp_path_factory):
    """An adapter whose lambda was chosen, and what was heard of it."""
    heard = []
    output = tmp_path_factory.mktemp("chosen") / "adapter"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(token_routing, "calibrate", refuse_most_with_two)
        train_on(files, output, settings_of(**CHOICE), progress=lambda name, *_: heard.append(name))
    return output, heard


def test_the_chosen_lambda_gives_what_it_gives_alone(files, chosen, tmp_path, monkeypatch):
    config = read_config(chosen[0])
    assert list(dict.fromkeys(chosen[1])) == CHOICE_STAGES
    assert config.metrics["seconds"].keys() == set(CHOICE_STAGES)
    assert config.training == settings_of(**CHOICE).model_dump()
    assert config.metrics["router_loss_weight"] == 2
    points = config.metrics["router_loss_weights"]
    assert {weight: (point["refused"], point["newly_refused"]) for weight, point in points.items()} == {
        "1": (0.5, 0.25),
        "2": (0.75, 0.25),
        "4": (0.625, 0.25),
    }
    assert config.metrics["operating_point"] == points["2"]
    monkeypatch.setattr(token_routing, "calibrate", refuse_most_with_two)
    histories = []
    for weight in (1.0, 2.0, 4.0):
        settings = settings_of(**CHOICE | {"router_loss_weight": weight})
        alone = train_on(files, tmp_path / str(weight), settings)
        metrics = read_config(alone).metrics
        assert metrics["operating_point"] == points[f"{weight:g}"]
        assert "router_loss_weight" not in metrics and "router_loss_weights" not in metrics
        same = weight == 2
        assert (parts_of(alone) == parts_of(chosen[0])) == same
        assert (metrics["routers"] == config.metrics["routers"]) == same
        assert (metrics["operating_points"] == config.metrics["operating_points"]) or not same
        histories.append(metrics["routers"]["history"])
    assert histories[0] != histories[1] != histories[2] != histories[0]


def test_the_papers_routers_may_have_their_lambda_chosen(files, tmp_path, monkeypatch):
    monkeypatch.setattr(token_routing, "calibrate", refuse_most_with_two)
    settings = [settings_of("paper", **CHOICE | {"router_loss_weight": weight}) for weight in (None, 2.0)]
    free, given = (train_on(files, tmp_path / str(n), each) for n, each in enumerate(settings))
    assert parts_of(free) == parts_of(given)


def test_lambda_is_chosen_by_what_calibration_finds(files, tmp_path):
    config = read_config(train_on(files, tmp_path / "adapter", settings_of(**CHOICE)))
    points = config.metrics["router_loss_weights"]
    assert points.keys() == {"1", "2", "4"}
    best = f"{config.metrics['router_loss_weight']:g}"
    assert config.metrics["operating_point"] == points[best]
    assert points[best]["newly_refused"] <= 0.5
    allowed = {weight: point for weight, point in points.items() if point["newly_refused"] <= 0.5}
    most = max(point["refused"] for point in allowed.values())
    assert best == min(weight for weight, point in allowed.items() if point["refused"] == most)


def test_a_choice_of_lambda_that_was_stopped_comes_to_the_same_result(files, chosen, tmp_path, monkeypatch):
    monkeypatch.setattr(token_routing, "calibrate", refuse_most_with_two)
    settings = settings_of(**CHOICE)
    for stage, step in (("routers-1", 3), ("calibrate-1", 2), ("routers-2", 4), ("calibrate-4", 17)):
        heard = []

        def stop(name, done, total, stage=stage, step=step, heard=heard):
            heard.append(name)
            if (name, done) == (stage, step):
                raise Stop

        with pytest.raises(Stop):
            train_on(files, tmp_path / "adapter", settings, progress=stop)
        assert heard[-1] == stage and not (tmp_path / "adapter").exists()
        # Candidates that are finished are not trained again.
        assert ("routers-1" in heard) == (stage in ("routers-1", "calibrate-1"))
    heard = []
    train_on(files, tmp_path / "adapter", settings, progress=lambda name, *_: heard.append(name))
    assert set(heard) == {"load model", "record activations", "calibrate-1", "calibrate-2", "calibrate-4"}
    assert parts_of(tmp_path / "adapter") == parts_of(chosen[0])
    one, other = (read_config(folder).metrics for folder in (tmp_path / "adapter", chosen[0]))
    for metrics in (one, other):
        del metrics["seconds"]
    assert one == other


def choose_slowly(files: Path, output: Path, stage: str) -> None:
    """In a process of its own: it leaves a file and waits to be killed at a stage's first step."""
    torch.set_num_threads(1)
    token_routing.calibrate = refuse_most_with_two

    def progress(name, done, total):
        if name == stage:
            output.with_name(f"in {stage}").touch()
            time.sleep(600)

    train_on(files, output, settings_of(**CHOICE), progress=progress)


def test_a_choice_of_lambda_that_was_killed_between_candidates_comes_to_the_same_result(files, tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    for stage, finished in (("calibrate-1", 1), ("routers-4", 2)):
        process = start(choose_slowly, files, killed, stage)
        kill_when(lambda stage=stage: (tmp_path / f"in {stage}").exists(), process)
        assert len(list((tmp_path / "killed.training").glob("routers-*.safetensors"))) == finished
        assert not killed.exists()
    for output in (whole, killed):
        run_to_end(choose_slowly, files, output, "")
    assert parts_of(killed) == parts_of(whole)
    assert read_config(killed).metrics["router_loss_weight"] == 2


def digest_of(texts) -> str:
    lines = sorted(json.dumps([{"content": text, "role": "user"}]) for text in texts)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def test_the_config_says_what_it_was_trained_on(files, trained, tmp_path):
    # Of 40 texts of each label, those that are for training fill 8 and 12 places, those for validation up to 8.
    data = {each.label: each for each in read_config(trained[0]).data}
    assert [each.source for each in data.values()] == ["malicious.jsonl", "benign.jsonl"]
    validation = {
        label: sum(split_of(text.format(f"thing {n}")) == "validation" for n in range(40))
        for label, text in (("malicious", "Harm {} now."), ("benign", "Describe {} to me."))
    }
    assert data["malicious"].rows == 8 + min(8, validation["malicious"])
    assert data["benign"].rows == 12 + min(8, validation["benign"])

    # In files of other names and another order the same rows are the same data.
    settings = settings_of(malicious_requests=40, benign_requests=40, validation_requests=40, wrapped_share=0)
    requests = {label: (files / f"{label}.jsonl").read_text().split("\n") for label in data}
    for label, rows in requests.items():
        (tmp_path / f"{label} again.jsonl").write_text("\n".join(reversed(rows)))
    again = train_on(
        files,
        tmp_path / "again",
        settings,
        **{label: str(tmp_path / f"{label} again.jsonl") for label in requests},
    )
    assert [each.model_dump() for each in read_config(again).data] == [
        {
            "label": label,
            "source": f"{label} again.jsonl",
            "sha256": digest_of(json.loads(row)["prompt"] for row in requests[label]),
            "rows": 40,
        }
        for label in ("malicious", "benign")
    ]
