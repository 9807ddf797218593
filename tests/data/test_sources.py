import builtins
import json

import pytest

from mogu.chat import Message
from mogu.data.requests import split_of
from mogu.data.sources import TEXT_FIELDS, read_requests, source_name
from mogu.errors import MoguError
from mogu.files import write_jsonl

TEXTS = [f"request number {number}" for number in range(8)]


def jsonl(path, rows):
    write_jsonl(path, rows)
    return path


def texts(requests):
    return [request.text for request in requests]


@pytest.fixture
def dataset_cache(tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)


def test_jsonl_rows_become_requests(tmp_path):
    rows = [{"text": text, "category": "fraud"} for text in TEXTS]
    path = jsonl(tmp_path / "a.jsonl", rows)
    requests = read_requests(path, "malicious")
    assert texts(requests) == TEXTS
    first = requests[0]
    assert first.id == f"{path}:1"
    assert first.messages == [Message(role="user", content=TEXTS[0])]
    assert (first.label, first.category, first.kind) == ("malicious", "fraud", "")
    assert first.split == split_of(TEXTS[0])


def test_a_source_is_named_without_its_place(tmp_path, monkeypatch):
    file = jsonl(tmp_path / "a.jsonl", [{"text": text} for text in TEXTS])
    monkeypatch.chdir(tmp_path)
    assert source_name(str(file)) == source_name("a.jsonl") == "a.jsonl"
    assert source_name(str(tmp_path)) == source_name(".") == tmp_path.name
    assert source_name(f"{tmp_path}:test") == f"{tmp_path.name}:test"
    assert source_name("owner/prompts/hard:test") == "owner/prompts/hard:test"
    monkeypatch.setenv("HOME", str(tmp_path))
    assert source_name("~/a.jsonl") == "a.jsonl"


def test_csv_rows_become_requests_and_keep_commas_and_lines(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text(
        'category,goal\r\nx,"one, two\nthree ""four"""\r\n,five\r\n', encoding="utf-8-sig", newline=""
    )
    requests = read_requests(str(path), "benign", minimum=2)
    assert texts(requests) == ['one, two\nthree "four"', "five"]
    assert [request.category for request in requests] == ["x", ""]
    assert requests[1].id == f"{path}:4"


@pytest.mark.parametrize("field", TEXT_FIELDS[:-1])
def test_the_text_field_is_found(tmp_path, field):
    path = jsonl(tmp_path / "a.jsonl", [{"id": 1, field: "hello", "zzz": "no"}])
    assert texts(read_requests(path, "benign", minimum=1)) == ["hello"]


def test_a_named_field_comes_before_the_usual_ones(tmp_path):
    path = jsonl(tmp_path / "a.jsonl", [{"prompt": "no", "mine": "hello"}])
    assert texts(read_requests(path, "benign", field="mine", minimum=1)) == ["hello"]


def test_conversations_stay_whole(tmp_path):
    messages = [
        Message(role="user", content="Tell me a story."),
        Message(role="assistant", content="Once upon a time"),
        Message(role="user", content="Go on."),
    ]
    other = [Message(role="user", content="Count to ten."), messages[1], messages[2]]
    path = jsonl(tmp_path / "a.jsonl", [{"messages": messages}, {"messages": other}, {"messages": messages}])
    requests = read_requests(path, "benign", minimum=1)
    assert [request.messages for request in requests] == [messages, other]
    assert texts(requests) == ["Go on.", "Go on."]


def test_duplicates_are_left_out_and_counted(tmp_path, caplog):
    path = jsonl(tmp_path / "a.jsonl", [{"text": "Hello  you"}, {"text": "hello you\n"}, {"text": "bye"}])
    assert texts(read_requests(path, "benign", minimum=2)) == ["Hello  you", "bye"]
    assert "1 of 3 rows are duplicates" in caplog.text


def test_lines_end_only_at_newlines(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "a\u2028b"}\r\n\r\n{"text": "c\x85d"}', encoding="utf-8", newline="")
    requests = read_requests(path, "benign", minimum=2)
    assert texts(requests) == ["a\u2028b", "c\x85d"]
    assert requests[1].id == f"{path}:3"


def test_the_split_is_stable_and_ignores_case_and_white_space():
    assert [split_of(text) for text in TEXTS[2:5]] == ["train", "validation", "train"]
    assert split_of("Request  Number 1\n") == split_of("request number 1")
    share = sum(split_of(f"text {number}") == "validation" for number in range(2000)) / 2000
    assert share == pytest.approx(0.2, abs=0.02)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b'{"text": "a"}\n{"text": \n', r"a\.jsonl:2: not JSON \(.*\)\. Write one object a line"),
        ("a.jsonl", b'["a"]\n', r"a\.jsonl:1: list, not an object"),
        (
            "a.jsonl",
            b'\n{"answer": "a", "n": 1}\n',
            r"a\.jsonl:2: needs one of the fields prompt, .* has answer, n\.",
        ),
        ("a.jsonl", b"{}\n", r"a\.jsonl:1: needs .* has no fields"),
        ("a.jsonl", b'{"text": "a"}\n{"text": " "}\n', r"a\.jsonl:2: the text in 'text' is empty"),
        ("a.jsonl", b'{"text": 5}\n', r"a\.jsonl:1: 'text' is int"),
        ("a.jsonl", b'{"text": "\\ud800"}\n', r"a\.jsonl:1: .*surrogate"),
        ("a.jsonl", b'{"messages": []}\n', r"a\.jsonl:1: The conversation is empty"),
        ("a.jsonl", b'{"messages": "a"}\n', r"a\.jsonl:1: 'messages' is str, not a text or a list"),
        (
            "a.jsonl",
            b'{"messages": [{"role": "tool", "content": "a"}]}\n',
            r"a\.jsonl:1: the text in 'messages' is",
        ),
        ("a.jsonl", b'{"text": "a"}\n{"text": "\xe9"}\n', r"a\.jsonl:2: not UTF-8"),
        ("a.jsonl", b" \n\n", r"a\.jsonl: the file is empty"),
        ("a.jsonl", b'{"text": "a"}\n', r"a\.jsonl: 1 different requests, but at least 8"),
        ("a.csv", b"", r"a\.csv: the file is empty"),
        ("a.csv", b"text,category\n", r"a\.csv: 0 different requests"),
        ("a.csv", b"answer,n\na,b\n", r"a\.csv:2: needs one of .* has answer, n\."),
        ("a.csv", b"text\na\nb,c\n", r"a\.csv:3: more cells than the header"),
        ("a.csv", b'text\n"a\n', r"a\.csv:2: not CSV"),
        ("a.csv", b"id,text\n1\n", r"a\.csv:2: needs one of .* has id\."),
        ("a.parquet", b"x", r"a\.parquet: cannot read '\.parquet' files\. Give a \.jsonl or \.csv"),
        ("noending", b"x", r"noending: cannot read 'noending' files"),
    ],
)
def test_mistakes_are_told_with_file_and_line(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(MoguError, match=message) as raised:
        read_requests(path, "benign")
    assert str(path) in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_named_field_that_is_missing_is_told(tmp_path):
    path = jsonl(tmp_path / "a.jsonl", [{"text": "a"}])
    with pytest.raises(MoguError, match=r":1: needs field 'mine', but has text\."):
        read_requests(path, "benign", field="mine")


@pytest.mark.parametrize("name", ["missing.jsonl", "missing.CSV", "missing.txt", "folder"])
def test_a_missing_file_is_told(tmp_path, name):
    with pytest.raises(MoguError, match="there is no such file or folder"):
        read_requests(tmp_path / name, "benign")


@pytest.mark.usefixtures("dataset_cache")
class TestDatasets:
    @pytest.fixture
    def folder(self, tmp_path):
        folder = tmp_path / "dataset"
        folder.mkdir()
        jsonl(folder / "train.jsonl", [{"question": text, "category": "x"} for text in TEXTS])
        jsonl(folder / "test.jsonl", [{"question": f"test {text}", "category": "x"} for text in TEXTS])
        return folder

    def test_the_train_split_is_read_by_default(self, folder):
        requests = read_requests(folder, "benign")
        assert texts(requests) == TEXTS
        assert requests[1].id == f"{folder} row 2"
        assert (requests[1].category, requests[1].split) == ("x", split_of(TEXTS[1]))

    def test_a_split_can_be_named(self, folder):
        requests = read_requests(f"{folder}:test", "benign")
        assert texts(requests) == [f"test {text}" for text in TEXTS]
        assert requests[0].category == "x"

    def test_conversations_are_read(self, tmp_path):
        messages = [Message(role="user", content="hello")]
        (tmp_path / "chats").mkdir()
        jsonl(tmp_path / "chats" / "train.jsonl", [{"messages": messages}])
        assert read_requests(tmp_path / "chats", "benign", minimum=1)[0].messages == messages

    def test_a_wrong_split_is_told(self, folder):
        with pytest.raises(MoguError, match=r"dataset:nope: no such file, and no dataset .*nope.*id:split"):
            read_requests(f"{folder}:nope", "benign")

    def test_files_that_do_not_fit_together_are_told(self, folder):
        jsonl(folder / "train.jsonl", [{"question": "a", "category": None}])
        with pytest.raises(
            MoguError, match=r"dataset: no such file, and no dataset .*loaded: .*cast.*\. Give"
        ):
            read_requests(folder, "benign")

    def test_an_empty_folder_is_told(self, tmp_path):
        (tmp_path / "nothing").mkdir()
        with pytest.raises(MoguError, match="no dataset that can be loaded"):
            read_requests(tmp_path / "nothing", "benign")

    def test_a_row_without_text_is_told_by_number(self, tmp_path):
        (tmp_path / "bad").mkdir()
        jsonl(tmp_path / "bad" / "train.jsonl", [{"question": "a"}, {"question": None}])
        with pytest.raises(MoguError, match=r"bad row 2: needs one of the fields"):
            read_requests(tmp_path / "bad", "benign")


@pytest.mark.parametrize(
    ("source", "arguments"),
    [
        ("name", ("name", None, "train")),
        ("owner/name", ("owner/name", None, "train")),
        ("owner/name:test", ("owner/name", None, "test")),
        ("owner/name/small:test[:10]", ("owner/name", "small", "test[:10]")),
        ("owner/name.v1", ("owner/name.v1", None, "train")),
    ],
)
def test_dataset_ids_are_taken_apart(monkeypatch, source, arguments):
    datasets = pytest.importorskip("datasets")
    calls = []

    def load_dataset(path, name, split):
        calls.append((path, name, split))
        return [{"text": "a"}]

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    read_requests(source, "benign", minimum=1)
    assert calls == [arguments]


def test_a_missing_package_answers_with_its_install_line(monkeypatch):
    real_import = builtins.__import__

    def without_datasets(name, *arguments, **options):
        if name == "datasets":
            raise ImportError(name)
        return real_import(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", without_datasets)
    with pytest.raises(MoguError, match=r'pip install "mogu-llm\[hub\]"'):
        read_requests("owner/name", "benign")


def test_an_empty_source_is_told():
    with pytest.raises(MoguError, match="An empty name"):
        read_requests("", "benign")


def test_rows_are_json_that_comes_back(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in ["ß 你好", "b"]))
    assert texts(read_requests(path, "benign", minimum=2)) == ["ß 你好", "b"]
