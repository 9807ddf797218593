import json
from math import sqrt
from statistics import stdev

import pytest
from lm_eval.tasks import TaskManager

from mogu.errors import MoguError
from mogu.evaluation.capability import Figure, Result, capability, find_tasks, write_capability
from mogu.evaluation.mogu_lm import MoguLM
from tests.evaluation.test_mogu_lm import asked
from tests.generation.gated import gated
from tests.generation.hardened import hardened

QUESTIONS = [
    "Who is it?",
    "What is there in the oldest of houses?",
    "How many?",
    "On which road?",
    "Why",
    "the",
]
CHOICES = ["bqx", "qzb", "xbq", "zxz"]

CHOICE = """
task: tiny_choice
tag: tiny
dataset_path: json
dataset_kwargs: {{data_files: {{test: {rows}}}, cache_dir: {cache}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_choice: choices
target_delimiter: ""
doc_to_target: label
metric_list:
  - {{metric: acc, aggregation: mean, higher_is_better: true}}
"""
WRITTEN = """
task: tiny_written
dataset_path: json
dataset_kwargs: {{data_files: {{test: {rows}}}, cache_dir: {cache}}}
test_split: test
output_type: generate_until
doc_to_text: "{{{{question}}}}"
doc_to_target: answer
generation_kwargs: {{until: ["\\n"], max_gen_toks: 4, do_sample: false}}
filter_list:
  - name: whole
    filter: [{{function: take_first}}]
metric_list:
  - {{metric: exact_match, aggregation: mean, higher_is_better: true}}
"""
GROUP = """
group: tiny_group
task: [tiny_choice, tiny_written]
aggregate_metric_list:
  - {metric: acc, weight_by_size: true, filter_list: [none]}
"""


def likeliest(lm, question):
    chances = lm.loglikelihood(asked([(question, choice) for choice in CHOICES]), disable_tqdm=True)
    return chances.index(max(chances))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Tasks whose right answers are the base's own, so that it loses where MoGU says something else."""
    folder = tmp_path_factory.mktemp("tasks")
    lm = MoguLM(gated(), "base")
    rows = []
    for question in QUESTIONS:
        settings = {"until": ["\n"], "max_gen_toks": 4, "do_sample": False}
        (answer,) = lm.generate_until(asked([(question, settings)], "generate_until"), disable_tqdm=True)
        row = {"question": question, "choices": CHOICES, "answer": answer}
        rows.append({**row, "label": likeliest(lm, question)})
    file = folder / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    for name, text in (("choice", CHOICE), ("written", WRITTEN)):
        (folder / f"{name}.yaml").write_text(text.format(rows=file, cache=folder / "cache"), encoding="utf-8")
    (folder / "group.yaml").write_text(GROUP, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def manager(folder):
    return TaskManager(include_path=str(folder), include_defaults=False)


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_OFFLINE", True)


def measured(mogu, names, manager, **settings):
    results = capability(mogu, names, manager=manager, batch_size=4, **settings)
    return {(result.task, result.metric): result for result in results}


def test_nothing_flagged_changes_nothing(manager):
    found = measured(gated(), ["tiny_choice", "tiny_written"], manager, threshold=1)
    assert set(found) == {("tiny_choice", "acc"), ("tiny_written", "exact_match (whole)")}
    for result in found.values():
        assert result.base == result.mogu == Figure(1.0, 0.0)
        assert result.difference == Figure(0.0, 0.0)
        assert (result.rows, result.flagged) == (len(QUESTIONS), 0)


def test_differences_are_paired_and_flagged_rows_counted(manager):
    mogu = gated()
    found = measured(mogu, ["tiny_choice", "tiny_written"], manager, threshold=0)
    routed, base = MoguLM(mogu, "mogu", threshold=0), MoguLM(mogu, "base")
    kept = [float(likeliest(routed, question) == likeliest(base, question)) for question in QUESTIONS]
    assert 0 < sum(kept) < len(kept)
    acc = found["tiny_choice", "acc"]
    assert acc.mogu.value == pytest.approx(sum(kept) / len(kept))
    assert acc.difference.value == pytest.approx(sum(kept) / len(kept) - 1)
    assert acc.difference.error == pytest.approx(stdev(kept) / sqrt(len(kept)))
    assert found["tiny_written", "exact_match (whole)"].mogu.value == 0
    assert all(result.flagged == len(QUESTIONS) for result in found.values())


def test_limit_takes_the_first_rows(manager):
    (result,) = capability(gated(), ["tiny_choice"], manager=manager, limit=2, threshold=0)
    assert (result.rows, result.flagged) == (2, 2)


def test_groups_are_the_rows_of_their_tasks(manager):
    found = measured(gated(), ["tiny_group"], manager, threshold=0)
    group, task = found["tiny_group", "acc"], found["tiny_choice", "acc"]
    assert (group.rows, group.flagged) == (2 * len(QUESTIONS), 2 * len(QUESTIONS))
    assert group.difference.value == task.difference.value


def test_token_routing_flags_nothing(manager):
    (result,) = capability(hardened(), ["tiny_choice"], manager=manager, limit=2)
    assert result.flagged is None


def test_the_report(tmp_path):
    results = [
        Result("arc", "acc", 40, Figure(0.5, 0.08), Figure(0.475, 0.079), Figure(-0.025, 0.025), 1),
        Result(
            "wiki",
            "perplexity",
            3,
            Figure(12345.6, None),
            Figure(float("inf"), None),
            Figure(0.0, None),
            None,
        ),
    ]
    table = write_capability(results, {"adapter": "runs/x"}, tmp_path)
    assert table.splitlines() == [
        "| task | metric     | rows |            base |            MoGU |       difference | flagged |",
        "| ---- | ---------- | ---: | --------------: | --------------: | ---------------: | ------: |",
        "| arc  | acc        |   40 | 0.5000 (0.0800) | 0.4750 (0.0790) | -0.0250 (0.0250) |       1 |",
        "| wiki | perplexity |    3 |       1.235e+04 |             inf |          +0.0000 |         |",
    ]
    text = (tmp_path / "capability.md").read_text(encoding="utf-8")
    assert table in text
    assert "- adapter: runs/x\n" in text
    plain = json.loads((tmp_path / "capability.json").read_text(encoding="utf-8"))
    assert plain["facts"].keys() == {"adapter", "lm-eval"}
    assert plain["results"][0]["difference"] == {"value": -0.025, "error": 0.025}
    assert plain["results"][1]["mogu"]["value"] is None


def test_unknown_tasks_are_named_with_what_is_near(folder, monkeypatch):
    # Reading all of the harness's own tasks takes seconds.
    monkeypatch.setattr(
        "mogu.evaluation.capability.TaskManager",
        lambda include_path: TaskManager(include_path=include_path, include_defaults=False),
    )
    assert "tiny_choice" in find_tasks(["tiny_choice", "tiny"], folder).all_tasks
    with pytest.raises(MoguError, match=r"tiny_choise is no task of lm-eval; did you mean tiny_choice"):
        find_tasks(["tiny_choise"], folder)
    with pytest.raises(MoguError, match="qqqq is no task of lm-eval; `lm-eval ls tasks` lists them"):
        find_tasks(["qqqq"], folder)
    with pytest.raises(MoguError, match="nowhere is no folder"):
        find_tasks(["tiny_choice"], folder / "nowhere")
