import json
import sys

import pytest
from lm_eval.tasks import TaskManager

TASK = """
task: tiny_choice
dataset_path: json
dataset_kwargs: {{data_files: {{test: {folder}/rows.jsonl}}, cache_dir: {folder}/cache}}
test_split: test
output_type: multiple_choice
doc_to_text: question
doc_to_choice: ["one", "the other"]
doc_to_target: 1
metric_list:
  - {{metric: acc, aggregation: mean, higher_is_better: true}}
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A folder with one task of three rows; the harness's own, which take seconds to read, are left out."""
    rows = [{"question": "Who?"}, {"question": "Which road?"}, {"question": "How?"}]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (tmp_path / "task.yaml").write_text(TASK.format(folder=tmp_path), encoding="utf-8")
    monkeypatch.setattr("datasets.config.HF_DATASETS_OFFLINE", True)
    monkeypatch.setattr(
        "mogu.evaluation.capability.TaskManager",
        lambda include_path: TaskManager(include_path=include_path, include_defaults=False),
    )
    return tmp_path


def test_tasks_compare_the_base_and_mogu(mogu, sequence_folder, own):
    given = ["--tasks", "tiny_choice", "--include-path", own, "--output", own / "out", "--limit", 2]
    code, out, err = mogu("eval", sequence_folder, *given)
    assert code == 0, err
    head, _, line = out.splitlines()
    assert [each.strip() for each in head.split("|")[1:4]] == ["task", "metric", "rows"]
    assert [each.strip() for each in line.split("|")[1:4]] == ["tiny_choice", "acc", "2"]
    assert out.strip() in (own / "out" / "capability.md").read_text(encoding="utf-8")
    facts = json.loads((own / "out" / "capability.json").read_text(encoding="utf-8"))["facts"]
    assert facts["adapter"].startswith(str(sequence_folder))
    assert not (own / "out" / "report.html").exists()


def test_an_unknown_task_is_one_line(mogu, sequence_folder, own):
    given = ["--tasks", "tiny_choise", "--include-path", own, "--output", own / "out"]
    code, out, err = mogu("eval", sequence_folder, *given)
    assert (code, out) == (2, "")
    assert err == "error: tiny_choise is no task of lm-eval; did you mean tiny_choice?\n"


def test_without_the_harness_it_says_how_to_get_it(mogu, sequence_folder, tmp_path, monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == "lm_eval"]:
        monkeypatch.setitem(sys.modules, name, None)
    for name in ("mogu.evaluation.capability", "mogu.evaluation.mogu_lm"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    code, out, err = mogu("eval", sequence_folder, "--tasks", "arc_easy", "--output", tmp_path)
    assert (code, out) == (2, "")
    assert err.startswith("error: lm_eval")
    assert err.endswith("is not installed; get it with: pip install 'mogu-llm[capability]'\n")
