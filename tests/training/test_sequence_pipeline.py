import json
import shutil
import time
from collections import Counter
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from mogu.adapter.folder import read_config
from mogu.adapter.gate import READ_EVERY
from mogu.data.mixture import SHARES
from mogu.errors import MoguError
from mogu.generation import MoguModel
from mogu.training import gate_fit, pipeline, sequence_routing
from mogu.training.pipeline import train
from mogu.turns import TurnMarks
from tests.tiny import LAYERS, VOCAB_SIZE, tiny_tokenizer
from tests.training.pipelines import (
    Stop,
    kill_when,
    parts_of,
    run_to_end,
    sequence_settings,
    settings_of,
    start,
    stop_at,
    train_on,
)

GATE_EPOCHS = 3


@pytest.fixture(scope="module", autouse=True)
def _short_fits():
    """Most of what a tiny training takes is the fit of its gates."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gate_fit, "EPOCHS", GATE_EPOCHS)
        yield


SEQUENCE_PARTS = ["safe/adapter_model.safetensors", "gate.safetensors"]
SEQUENCE_STAGES = [
    "load model",
    "base replies",
    "record activations",
    "safe",
    "choose layers",
    "read conversations",
    "calibrate",
    "fit gate",
]


def sequence_requests(files):
    """What a training of sequence routing on the files learns from and is validated on."""
    given = [str(files / f"{label}.jsonl") for label in ("malicious", "benign")]
    return [
        row
        for split in ("train", "validation")
        for row in pipeline._requests(split, sequence_settings(), *given)
    ]


def test_what_the_mixture_adds_to_the_users_requests_is_the_corpus_data(files, gated):
    data = read_config(gated[0]).data
    used = Counter(
        (row.label, "corpus" if row.id.startswith("corpus/") else f"{row.label}.jsonl")
        for row in sequence_requests(files)
    )
    assert {(each.label, each.source): each.rows for each in data} == used
    # Of 24 rows for training and 12 for validation, a share are conversations and documents of the corpus.
    for label, shares in SHARES.items():
        added = [shares["conversation"], shares.get("document", 0)]
        assert used[label, "corpus"] == sum(round(count * share) for count in (24, 12) for share in added) > 0
    assert len({each.sha256 for each in data}) == 4


@pytest.fixture(scope="module")
def gated(files, tmp_path_factory):
    """An adapter of sequence routing trained without interruption, and what was heard of it."""
    heard = []
    output = tmp_path_factory.mktemp("gated") / "adapter"
    train_on(files, output, sequence_settings(), progress=lambda *step: heard.append(step))
    return output, heard


def test_sequence_routing_trains_a_safe_variant_and_a_gate(gated):
    config = read_config(gated[0])
    assert (config.weights, config.parts) == ("sequence", ["safe", "gate"])
    assert config.metrics["seconds"].keys() == set(SEQUENCE_STAGES)
    assert list(dict.fromkeys(name for name, _, _ in gated[1])) == SEQUENCE_STAGES
    figures = config.metrics["gate"]
    assert figures["threshold"] == config.gate.threshold
    settings = sequence_settings()
    assert figures["refused"]["benign"] <= settings.benign_refusal_budget
    assert figures["refused"].get("look_alike", 0) <= settings.look_alike_refusal_budget
    assert figures["refused"].get("framed", 0) <= settings.framed_refusal_budget
    assert set(config.gate.layers) < set(range(LAYERS))
    for part in SEQUENCE_PARTS:
        assert all(torch.isfinite(value).all() for value in load_file(gated[0] / part).values())


def test_the_gate_is_told_by_kind_and_by_group_of_frames(files, gated):
    figures = read_config(gated[0]).metrics["gate"]
    requests = sequence_requests(files)
    assert figures["left_out"].keys() == {row.group for row in requests if row.group}
    framed = Counter((row.group, row.label) for row in requests if row.group)
    for group, each in figures["left_out"].items():
        for label in each.keys() - {"likeness"}:
            # Those whose replies were read stand there twice.
            assert framed[group, label] <= each[label]["rows"] <= 2 * framed[group, label]
        assert each["likeness"] is None or -1 <= each["likeness"] <= 1
    for label, kinds in figures["kinds"].items():
        assert kinds.keys() == {row.kind for row in requests if row.label == label}
    counted = {
        label: sum(each["rows"] for each in kinds.values()) for label, kinds in figures["kinds"].items()
    }
    rows = figures["rows"]
    assert counted == {"malicious": rows["malicious"], "benign": sum(rows.values()) - rows["malicious"]}
    assert sum(each["rows"] for each in figures["reliability"]) == sum(rows.values())


def test_the_gate_reads_replies_no_more_sternly_than_prompts(gated):
    config = read_config(gated[0])
    reply = config.metrics["gate"]["reply"]
    assert config.gate.threshold <= config.gate.reply_threshold == reply["threshold"] <= 1
    # Of 16 requests that the variant learns from and up to 24 for validation, every fourth is read in full.
    assert 2 <= sum(reply["rows"].values()) <= 5
    assert "malicious" not in reply["rows"]
    assert reply["tokens"] == 63 // READ_EVERY * READ_EVERY
    shares = list(reply["refused_by_length"].values())
    assert shares == sorted(shares)
    model = MoguModel.from_pretrained(gated[0], device="cpu")
    assert model.config.gate.thresholds(None) == (config.gate.threshold, reply["threshold"])


def test_a_gate_reads_prompts_only_where_the_settings_say_so(files, gated, tmp_path):
    folder = train_on(files, tmp_path / "adapter", sequence_settings(read_reply_tokens=None))
    config, read = read_config(folder), read_config(gated[0])
    assert config.gate.reply_threshold is None and "reply" not in config.metrics["gate"]
    # It has learned from the beginnings of replies all the same.
    assert config.metrics["gate"]["rows"] == read.metrics["gate"]["rows"]
    assert config.metrics["gate"].keys() == read.metrics["gate"].keys() - {"reply"}
    (reply,) = MoguModel.from_pretrained(folder, device="cpu").reply(
        [[{"role": "user", "content": "Hi"}]], threshold=1.0, max_new_tokens=12
    )
    assert reply.safe_weight == 0 and 0 < reply.score < 1


def test_a_tokenizer_that_no_refusal_begins_under_is_refused_before_any_stage(files, tmp_path, monkeypatch):
    monkeypatch.setattr(sequence_routing, "corpus_refusals", lambda: {"en": ["Theft is wrong."]})
    heard = []
    with pytest.raises(MoguError, match="refusals do not commonly begin with any token"):
        train_on(
            files,
            tmp_path / "adapter",
            sequence_settings(),
            progress=lambda name, *_: heard.append(name),
        )
    assert set(heard) == {"load model"}


def test_a_base_whose_replies_end_at_once_has_a_gate_that_reads_prompts_only(files, tmp_path, caplog):
    shutil.copytree(files / "model", tmp_path / "model")
    defaults = tmp_path / "model" / "generation_config.json"
    defaults.write_text(
        json.dumps(json.loads(defaults.read_text()) | {"eos_token_id": list(range(VOCAB_SIZE))})
    )
    data = {label: str(files / f"{label}.jsonl") for label in ("malicious", "benign")}
    folder = train(tmp_path / "model", tmp_path / "adapter", sequence_settings(), **data, device="cpu")
    config = read_config(folder)
    assert config.gate.reply_threshold is None and "reply" not in config.metrics["gate"]
    # Nothing was read twice.
    assert sum(config.metrics["gate"]["rows"].values()) == len(sequence_requests(files))
    assert (
        "the gate reads prompts only: the base has replied to no benign request with more than 8 tokens"
        in caplog.messages
    )


def test_an_adapter_of_sequence_routing_loads_and_decides(gated):
    model = MoguModel.from_pretrained(gated[0], device="cpu")
    talks = [[{"role": "user", "content": "Harm thing 3 now."}]]
    base, answered, refused = (
        model.reply(talks, max_new_tokens=4, **options)[0]
        for options in ({"mode": "base"}, {"threshold": 1.0}, {"threshold": 0.0})
    )
    assert answered.text == base.text and 0 < answered.score < 1
    assert refused.safe_weight == 1 and refused.score == answered.score


def test_a_gate_training_that_was_stopped_in_every_stage_comes_to_the_same_result(files, gated, tmp_path):
    for stage in SEQUENCE_STAGES[1:]:
        heard = []

        def stop(name, done, total, stage=stage, heard=heard):
            heard.append(name)
            if name == stage and 2 * done >= total:
                raise Stop

        with pytest.raises(Stop):
            train_on(files, tmp_path / "adapter", sequence_settings(), progress=stop)
        assert heard[-1] == stage and not (tmp_path / "adapter").exists()
        # What is finished is not done again.
        assert ("safe" in heard) == (stage in ("safe", "choose layers"))
    train_on(files, tmp_path / "adapter", sequence_settings())
    assert parts_of(tmp_path / "adapter", SEQUENCE_PARTS) == parts_of(gated[0], SEQUENCE_PARTS)
    assert read_config(tmp_path / "adapter").gate == read_config(gated[0]).gate
    assert not (tmp_path / "adapter.training").exists()


def test_a_finished_gate_is_read_again_where_only_the_save_was_missed(files, gated, tmp_path, monkeypatch):
    monkeypatch.setattr(pipeline, "save_adapter", stop_at_once)
    with pytest.raises(Stop):
        train_on(files, tmp_path / "adapter", sequence_settings())
    monkeypatch.undo()
    heard = []
    train_on(files, tmp_path / "adapter", sequence_settings(), progress=lambda name, *_: heard.append(name))
    assert set(heard) == {"load model", "record activations"}
    assert parts_of(tmp_path / "adapter", SEQUENCE_PARTS) == parts_of(gated[0], SEQUENCE_PARTS)
    one, other = (read_config(folder) for folder in (tmp_path / "adapter", gated[0]))
    assert (one.gate, one.metrics["gate"]) == (other.gate, other.metrics["gate"])


def stop_at_once(*_, **__):
    raise Stop


def train_gate_slowly(files: Path, output: Path, stage: str) -> None:
    """In a process of its own: it leaves a file and waits to be killed in the middle of a stage."""
    torch.set_num_threads(1)
    gate_fit.EPOCHS = GATE_EPOCHS

    def progress(name, done, total):
        if name == stage and 2 * done >= total:
            output.with_name(f"in {stage}").touch()
            time.sleep(600)

    train_on(files, output, sequence_settings(), progress=progress)


def test_a_gate_training_that_was_killed_comes_to_the_same_result(files, tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    for stage in ("base replies", "safe", "fit gate"):
        process = start(train_gate_slowly, files, killed, stage)
        kill_when(lambda stage=stage: (tmp_path / f"in {stage}").exists(), process)
        assert not killed.exists()
    for output in (whole, killed):
        run_to_end(train_gate_slowly, files, output, "")
    assert parts_of(killed, SEQUENCE_PARTS) == parts_of(whole, SEQUENCE_PARTS)
    assert read_config(killed).gate == read_config(whole).gate
    assert not (tmp_path / "killed.training").exists()


def test_the_gates_config_says_how_it_decides(files, gated):
    config = read_config(gated[0])
    tokenizer = tiny_tokenizer()
    assert config.gate.marks == TurnMarks.of(tokenizer)
    assert tokenizer.decode(config.gate.break_ids) == "\n\n"
    assert tokenizer.convert_tokens_to_ids("I") in config.gate.refusal_starts
    assert config.gate.refusal_starts == sorted(set(config.gate.refusal_starts))
    assert {ids[0] for ids in config.gate.refusal_beginnings} <= set(config.gate.refusal_starts)
    assert "I'm sorry, but I can't".startswith(tokenizer.decode(config.gate.refusal_beginnings[0]))
    assert (config.routed_tokens, config.routed_prompt_tokens) == (None, 0)
    assert config.training == sequence_settings().model_dump()
    assert config.projections == [f"model.layers.{n}.self_attn.o_proj" for n in (1, 2)]
    rows = config.metrics["gate"]["rows"]
    # All requests, and half of those of the safe variant: the ones to which the base's reply had begun.
    requests = Counter(row.label for row in sequence_requests(files))
    added = {"malicious": rows["malicious"] - requests["malicious"]}
    added["benign"] = sum(rows.values()) - rows["malicious"] - requests["benign"]
    assert all(4 <= count <= 10 for count in added.values()), added
    assert config.metrics["safe"]["steps"] == 4


@pytest.mark.parametrize(
    "options",
    [
        {"malicious": None, "benign": None},
        {"dtype": "bfloat16"},
        {"settings": sequence_settings(gradient_checkpointing=True)},
    ],
    ids=["corpus", "bfloat16", "gradient checkpointing"],
)
def test_sequence_routing_trains_with_other_options(files, tmp_path, options):
    folder = train_on(files, tmp_path / "adapter", **{"settings": sequence_settings(), **options})
    for part in SEQUENCE_PARTS:
        tensors = load_file(folder / part)
        assert all(torch.isfinite(value).all() for value in tensors.values())
        assert all(value.dtype == torch.float32 for value in tensors.values())
    (reply,) = MoguModel.from_pretrained(folder, device="cpu").reply(
        [[{"role": "user", "content": "Hi"}]], threshold=0.0, max_new_tokens=2
    )
    assert reply.safe_weight == 1


def test_a_template_that_takes_user_and_assistant_in_turns_only_is_trained_with(files, tmp_path):
    template = tmp_path / "chat.jinja"
    template.write_text(
        "{% for message in messages %}{% if message['role'] != ('user', 'assistant')[loop.index0 % 2] %}"
        "{{ raise_exception('Conversation roles must alternate') }}{% endif %}"
        "{{ message['role'] + ':' + message['content'] + '<|im_end|>' }}{% endfor %}{{ 'assistant:' }}"
    )
    options = {"malicious": None, "benign": None, "chat_template": template}
    settings = sequence_settings(malicious_requests=60, benign_requests=60, variant_requests=8)
    folder = train_on(files, tmp_path / "adapter", settings, **options)
    assert read_config(folder).chat_template == template.read_text()


def test_the_same_seed_gives_the_same_gate_and_another_another(files, gated, tmp_path):
    again, other = (train_on(files, tmp_path / str(seed), sequence_settings(seed=seed)) for seed in (0, 1))
    assert parts_of(again, SEQUENCE_PARTS) == parts_of(gated[0], SEQUENCE_PARTS)
    assert parts_of(other, SEQUENCE_PARTS) != parts_of(gated[0], SEQUENCE_PARTS)


def test_unfinished_work_of_the_other_way_of_routing_is_not_gone_on_with(files, tmp_path):
    with pytest.raises(Stop):
        train_on(files, tmp_path / "adapter", sequence_settings(), progress=stop_at("record activations", 4))
    for settings in (settings_of(), sequence_settings(look_alike_refusal_budget=0.5)):
        with pytest.raises(MoguError, match=r"adapter\.training holds an unfinished training with another"):
            train_on(files, tmp_path / "adapter", settings)


def test_a_divergence_of_the_safe_variant_leaves_the_work_and_no_adapter(files, tmp_path):
    with pytest.raises(MoguError, match="variant_learning_rate"):
        train_on(files, tmp_path / "adapter", sequence_settings(variant_learning_rate=1e38))
    assert not (tmp_path / "adapter").exists()
    assert (tmp_path / "adapter.training" / "replies-opener.jsonl").exists()
