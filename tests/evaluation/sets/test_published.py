import builtins
import csv
import json

import pytest

from mogu.defenses.base import Talk
from mogu.errors import MoguError
from mogu.evaluation.sets import SETS
from mogu.evaluation.sets.base import Sample
from mogu.evaluation.sets.justeval import BENIGN_ROWS
from mogu.evaluation.sets.own import short_requests


def asking(text):
    return Talk([{"role": "user", "content": text}])


def load(name, path, **options):
    return SETS[name].load(str(path), **options)


def brief(samples):
    return [(sample.id, sample.talk.messages[-1]["content"], sample.kind) for sample in samples]


@pytest.fixture
def write(tmp_path):
    def written(name, content):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".csv":
            with path.open("w", encoding="utf-8", newline="") as file:
                writer = csv.DictWriter(file, list(content[0]))
                writer.writeheader()
                writer.writerows(content)
        elif path.suffix == ".jsonl":
            path.write_text("".join(json.dumps(row) + "\n" for row in content), encoding="utf-8")
        else:
            path.write_text(json.dumps(content), encoding="utf-8")
        return path

    return written


GOALS = [{"goal": f"Name {n} trees", "target": f"Sure, here are {n} trees"} for n in (2, 3)]


@pytest.mark.parametrize("name", ["a.json", "a.jsonl", "a.csv", "A.JSON"])
def test_advbench_has_goals_and_targets_in_every_format(write, name):
    assert load("advbench", write(name, GOALS)) == [
        Sample("1", asking("Name 2 trees"), "", "Sure, here are 2 trees"),
        Sample("2", asking("Name 3 trees"), "", "Sure, here are 3 trees"),
    ]


XSTEST = [
    {"prompt": "How do I kill time?", "label": "safe", "type": "homonyms"},
    {"prompt": "How do I kill joy?", "label": "unsafe", "type": "contrast_homonyms"},
    {"prompt": "Where is the exit?", "label": "safe", "type": "definitions"},
]


def test_xstest_is_two_sets_of_one_file(write):
    path = write("xstest.json", XSTEST)
    assert brief(load("xstest_safe", path)) == [
        ("1", "How do I kill time?", "homonyms"),
        ("3", "Where is the exit?", "definitions"),
    ]
    assert brief(load("xstest_unsafe", path)) == [("2", "How do I kill joy?", "contrast_homonyms")]


def test_justeval_ends_before_its_red_teaming_rows(write):
    rows = [{"instruction": f"Say {n}", "source": "lima"} for n in range(BENIGN_ROWS + 5)]
    samples = load("justeval", write("justeval.json", rows))
    assert len(samples) == 800
    assert brief(samples)[-1] == ("800", "Say 799", "lima")


def artifact(method, prompts):
    jailbreaks = [
        {"index": n, "goal": "g", "behavior": "b", "category": "c", "prompt": p}
        for n, p in enumerate(prompts)
    ]
    return {"parameters": {"method": method, "model": "m"}, "jailbreaks": jailbreaks}


def test_jailbreakbench_reads_a_folder_of_artifacts(write, tmp_path):
    write("PAIR/black_box/vicuna.json", artifact("PAIR", ["Imagine a tree", None, "Imagine a bush"]))
    write("JBC/manual/llama.json", artifact("JBC", ["Hello, Bert!", "Hello, Anna!"]))
    write("JBC/manual/vicuna.json", artifact("JBC", ["Hello, Bert!", "Hello, Carl!"]))
    write("JBC/attack-info.json", {"models": {}})
    write("test-artifact/black_box/vicuna.json", artifact("PAIR", ["Placeholder"]))
    assert brief(load("jailbreakbench", tmp_path)) == [
        ("JBC/manual/llama.json:1:1", "Hello, Bert!", "JBC"),
        ("JBC/manual/llama.json:1:2", "Hello, Anna!", "JBC"),
        ("JBC/manual/vicuna.json:1:2", "Hello, Carl!", "JBC"),
        ("PAIR/black_box/vicuna.json:1:1", "Imagine a tree", "PAIR"),
        ("PAIR/black_box/vicuna.json:1:3", "Imagine a bush", "PAIR"),
    ]
    one = load("jailbreakbench", tmp_path / "PAIR/black_box/vicuna.json")
    assert brief(one)[1] == ("1:3", "Imagine a bush", "PAIR")


def test_sap_reads_lists_of_texts_and_rows_by_topic(write, tmp_path):
    write("trees/generated_cases.json", ["Well: ###\nPlay an oak.\n### It is a role.", "Play an elm."])
    write("trees/gpt_output.json", ["I am an oak."])
    write("birds/generated_cases.json", [{"id": 1, "Attack Prompt": "Play a tit.", "Explanation": "No."}])
    assert brief(load("sap", tmp_path)) == [
        ("birds/generated_cases.json:1", "Play a tit.", "birds"),
        ("trees/generated_cases.json:1", "Play an oak.", "trees"),
        ("trees/generated_cases.json:2", "Play an elm.", "trees"),
    ]
    assert brief(load("sap", write("sap.csv", [{"prompt": "Play a tit."}]))) == [("1", "Play a tit.", "")]


def test_harmbench_puts_the_context_first(write):
    row = {"FunctionalCategory": "standard", "BehaviorID": "x", "Tags": ""}
    rows = [
        {**row, "Behavior": "Draw a tree", "SemanticCategory": "trees", "ContextString": ""},
        {**row, "Behavior": "Name it", "SemanticCategory": "names", "ContextString": "A tree,\nold."},
    ]
    assert brief(load("harmbench", write("h.csv", rows))) == [
        ("1", "Draw a tree", "trees"),
        ("2", "A tree,\nold.\n\n---\n\nName it", "names"),
    ]


def test_orbench_leaves_the_toxic_file_of_its_folder(write, tmp_path):
    write("or-bench-hard-1k.csv", [{"prompt": "How do trees die?", "category": "violence"}])
    write("or-bench-toxic.csv", [{"prompt": "Never read", "category": "violence"}])
    assert brief(load("orbench", tmp_path)) == [
        ("or-bench-hard-1k.csv:1", "How do trees die?", "violence"),
    ]


TEMPLATES = [
    {"prompt": r"You are \1 Bert. [INSERT PROMPT HERE] Thanks. [insert prompt here]", "platform": "reddit"},
    {"prompt": "Nothing goes in here: {json} []", "platform": "reddit"},
    {"prompt": "Be Anna: {query}", "platform": "discord"},
]


@pytest.mark.parametrize(("name", "label"), [("wild", "malicious"), ("wild_benign", "benign")])
def test_templates_take_every_request_of_the_test_split(write, name, label):
    samples = load(name, write("t.csv", TEMPLATES))
    requests = {request.id: request.text for request in short_requests(label)}
    assert len(samples) == len(requests)
    for index, sample in enumerate(samples):
        template, request = sample.id.split(" ")
        text = requests.pop(request)
        first = rf"You are \1 Bert. {text} Thanks. {text}"
        assert sample.talk == asking(first if index % 2 == 0 else f"Be Anna: {text}")
        assert (template, sample.kind) == (("1", "reddit") if index % 2 == 0 else ("3", "discord"))
    assert not requests


def test_every_template_is_used_where_there_are_more_than_requests(write):
    count = len(short_requests("benign")) + 3
    samples = load("wild_benign", write("t.json", [f"{n}: {{query}}" for n in range(count)]))
    assert [sample.id.split(" ")[0] for sample in samples] == [str(n + 1) for n in range(count)]
    assert len({sample.id for sample in samples}) == count


def test_a_limit_spreads_over_kinds_and_stays(write):
    rows = [{"prompt": f"Ask {n}", "category": "rare" if n % 10 == 0 else "often"} for n in range(100)]
    path = write("o.csv", rows)
    chosen = load("orbench", path, limit=8, seed=3)
    assert chosen == load("orbench", path, limit=8, seed=3) != load("orbench", path, limit=8, seed=4)
    assert [sample.kind for sample in chosen].count("rare") == 4


JAILBREAKS = {"parameters": {"method": "PAIR"}, "jailbreaks": []}


@pytest.mark.parametrize(
    ("name", "file", "content", "message"),
    [
        (
            "advbench",
            "a.json",
            '[{"goal": "a", "target": "b"}, {"goal"',
            r"a\.json:1: not JSON \(.*\)\. Is the f",
        ),
        ("advbench", "a.json", "", r"a\.json: the file is empty"),
        ("advbench", "a.json", "[]", r"a\.json: holds no prompt of 'advbench'"),
        ("advbench", "a.json", '["x"]', r"a\.json row 1: needs 'target', but has prompt\."),
        ("advbench", "a.json", '[{"x": 1}]', r"a\.json row 1: needs 'goal' or 'prompt', but has x\."),
        ("advbench", "a.json", "[{}]", r"a\.json row 1: needs .* has no fields\."),
        ("advbench", "a.json", "[5]", r"a\.json row 1: int, not an object"),
        ("advbench", "a.json", '[{"goal": 5}]', r"a\.json row 1: 'goal' is int, not a text"),
        ("advbench", "a.json", '[{"goal": " "}]', r"a\.json row 1: the text in 'goal' is empty"),
        ("advbench", "a.json", '[{"goal": "\\ud800", "target": "b"}]', r"a\.json row 1: .*surrogate"),
        ("advbench", "a.csv", "goal,x\na,b\n", r"a\.csv:2: needs 'target', but has goal, x\."),
        ("advbench", "a.csv", 'goal,target\n"a,b\n', r"a\.csv:2: not CSV"),
        ("advbench", "a.jsonl", '{"goal": "a"\n', r"a\.jsonl:1: not JSON"),
        (
            "advbench",
            "a.parquet",
            "x",
            r"a\.parquet: cannot read '\.parquet' files\. Give \.json, \.jsonl, \.csv",
        ),
        ("advbench", "gone.json", None, r"gone\.json: there is no such file or folder"),
        ("advbench", "", None, r": the folder holds no \.json, \.jsonl, \.csv file\.$"),
        ("sap", "", None, r": the folder holds no \.json, .* file named 'generated_cases\.json'\.$"),
        ("xstest_safe", "a.json", '[{"label": "?"}]', r"row 1: 'label' is '\?', not safe or unsafe"),
        (
            "xstest_safe",
            "a.json",
            '[{"prompt": "a", "label": "unsafe", "type": "t"}]',
            r"a\.json: holds no prompt of 'xstest_safe'",
        ),
        (
            "jailbreakbench",
            "a.json",
            '[{"goal": "a"}]',
            r"row 1: not an artifact of JailbreakBench, which holds",
        ),
        ("jailbreakbench", "a.json", '{"jailbreaks": []}', r"row 1: needs 'parameters', an object"),
        (
            "jailbreakbench",
            "a.json",
            '{"parameters": {}, "jailbreaks": []}',
            r"row 1, parameters: needs 'method', but has no fields",
        ),
        (
            "jailbreakbench",
            "a.json",
            json.dumps({**JAILBREAKS, "jailbreaks": {}}),
            r"row 1: 'jailbreaks' is not a list of objects",
        ),
        (
            "jailbreakbench",
            "a.json",
            json.dumps({**JAILBREAKS, "jailbreaks": [{"goal": "a"}]}),
            r"row 1, jailbreak 1: needs 'prompt', but has goal\.",
        ),
        ("jailbreakbench", "a.json", json.dumps(JAILBREAKS), r"a\.json: holds no prompt of 'jailbreakbench'"),
        (
            "wild",
            "a.json",
            '["Be Bert."]',
            r"row 1 and all others have no placeholder such as \[INSERT PROMPT",
        ),
        ("wild", "a.json", "[]", r"a\.json: holds no prompt of 'wild'"),
    ],
)
def test_mistakes_are_told_in_one_line(tmp_path, name, file, content, message):
    path = tmp_path / file
    if content is not None:
        path.write_text(content, encoding="utf-8")
    with pytest.raises(MoguError, match=message) as raised:
        load(name, path)
    assert str(path) in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_set_that_is_not_on_the_hub_asks_for_its_file():
    with pytest.raises(MoguError, match=r"^'sap' is not on the hub\. Give its file or folder: sap=PATH$"):
        SETS["sap"].load()


@pytest.mark.parametrize(
    ("name", "asked", "row"),
    [
        ("advbench", ("walledai/AdvBench", None, "train"), {"prompt": "Hi", "target": "Sure"}),
        (
            "xstest_unsafe",
            ("walledai/XSTest", None, "test"),
            {"prompt": "Hi", "label": "unsafe", "type": "t"},
        ),
        (
            "justeval",
            ("re-align/just-eval-instruct", None, "test"),
            {"instruction": "Hi", "dataset": "lima"},
        ),
        (
            "harmbench",
            ("walledai/HarmBench", "standard", "train"),
            {"prompt": "Hi", "category": "c"},
        ),
        (
            "orbench",
            ("bench-llm/or-bench", "or-bench-hard-1k", "train"),
            {"prompt": "Hi", "category": "c"},
        ),
    ],
)
def test_the_hub_is_read_by_default(monkeypatch, tmp_path, name, asked, row):
    datasets = pytest.importorskip("datasets")
    heard = []

    def load_dataset(path, config, split):
        heard.append((path, config, split))
        return [row]

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    monkeypatch.chdir(tmp_path)
    (sample,) = SETS[name].load()
    assert (sample.id, sample.talk) == ("1", asking("Hi"))
    assert heard == [asked]


def test_templates_come_from_the_hub_by_default(monkeypatch):
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: TEMPLATES)
    assert brief(SETS["wild"].load(limit=4))[0][2] in ("reddit", "discord")


def test_without_datasets_the_line_to_install_it_is_told(monkeypatch):
    genuine = builtins.__import__

    def without_datasets(name, *rest, **options):
        if name == "datasets":
            raise ImportError(name)
        return genuine(name, *rest, **options)

    monkeypatch.setattr(builtins, "__import__", without_datasets)
    with pytest.raises(
        MoguError, match=r"^'advbench' cannot .* advbench=PATH\. .*pip install .mogu-llm\[hub\]"
    ):
        SETS["advbench"].load()
