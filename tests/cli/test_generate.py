import json

import pytest

from mogu.cli.partial import PartialFile
from mogu.errors import MoguError
from mogu.files import write_jsonl
from mogu.generation import MoguModel
from mogu.generation.reply import Reply

ROWS = [
    {"id": 1, "prompt": "Hi"},
    {"id": 2, "messages": [{"role": "user", "content": "Tell me the longest story"}]},
    {"id": 3, "prompt": "What is it?", "response": "an old one", "ü": "ö"},
    {"id": 4, "prompt": "Go"},
    {"id": 5, "prompt": "Sing a song"},
]


def read(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture
def files(tmp_path):
    write_jsonl(tmp_path / "in.jsonl", ROWS)
    return tmp_path / "in.jsonl", tmp_path / "out.jsonl"


@pytest.fixture
def generate(mogu, adapter_folder, files):
    def run(*more, source=files[0], output=files[1]):
        given = ["--input", source, "--output", output, "--max-new-tokens", 4, "--batch-size", 2]
        return mogu("generate", adapter_folder, *given, *more)

    return run


@pytest.fixture
def batches(monkeypatch):
    """The first user texts of every batch that is generated; set `fail_after` to be interrupted."""

    class Batches(list):
        fail_after = None

    seen = Batches()
    reply = MoguModel.reply

    def spy(self, conversations, **settings):
        if len(seen) == seen.fail_after:
            raise KeyboardInterrupt
        seen.append([turns[0]["content"] for turns in conversations])
        return reply(self, conversations, **settings)

    monkeypatch.setattr(MoguModel, "reply", spy)
    return seen


def test_rows_come_back_in_order_with_what_the_model_replies(generate, files, adapter_folder):
    code, out, err = generate()
    assert (code, out) == (0, f"5 rows: {files[1]}\n")
    assert "rows: 5 of 5" in err
    rows = read(files[1])
    added = ("response", "safe_weight", "usable_weight", "score")
    assert [{k: v for k, v in row.items() if k not in added} for row in rows] == [
        {k: v for k, v in row.items() if k != "response"} for row in ROWS
    ]
    conversations = [row.get("messages") or [{"role": "user", "content": row["prompt"]}] for row in ROWS]
    replies = MoguModel.from_pretrained(adapter_folder).reply(conversations, max_new_tokens=4, batch_size=1)
    for row, reply in zip(rows, replies, strict=True):
        assert row["response"] == reply.text
        assert row["score"] is None
        assert row["safe_weight"] == pytest.approx(reply.safe_weight, abs=1e-5)
        assert row["usable_weight"] == pytest.approx(reply.usable_weight, abs=1e-5)
    assert [path.name for path in files[1].parent.iterdir() if "out" in path.name] == ["out.jsonl"]


def test_every_mode_has_the_same_batches_and_its_own_weights(generate, files, batches):
    weights = {}
    for mode in ("mogu", "base", "usable", "safe"):
        assert generate("--mode", mode)[0] == 0
        weights[mode] = [(row["safe_weight"], row["usable_weight"]) for row in read(files[1])]
    longest_first = [["Tell me the longest story", "What is it?"], ["Sing a song", "Hi"], ["Go"]]
    assert batches == longest_first * 4
    assert weights["base"] == weights["usable"] == [(0, 1)] * 5
    assert weights["safe"] == [(1, 0)] * 5
    assert all(0 < safe < 1 and 0 < usable < 1 for safe, usable in weights["mogu"])


def test_an_interrupted_run_goes_on_to_the_same_file(generate, files, batches):
    generate()
    whole = files[1].read_bytes()
    files[1].unlink()
    batches.clear()
    batches.fail_after = 2
    code, _, err = generate()
    assert code == 130
    assert not files[1].exists()
    partial = files[1].with_name("out.jsonl.partial")
    assert len(read(partial)) == 1 + 4
    # As a process killed while it writes leaves it.
    with partial.open("a") as file:
        file.write('{"row": 0, "resu')
    batches.clear()
    batches.fail_after = None
    code, _, err = generate()
    assert code == 0
    assert f"4 of 5 rows are kept from {partial}" in err
    assert batches == [["Go"]]
    assert files[1].read_bytes() == whole
    assert not partial.exists()


def test_a_batch_of_which_a_row_was_lost_is_generated_whole(generate, files, batches):
    batches.fail_after = 2
    generate()
    partial = files[1].with_name("out.jsonl.partial")
    partial.write_text("".join(partial.read_text().splitlines(keepends=True)[:-1]))
    batches.clear()
    batches.fail_after = None
    generate()
    assert batches == [["Sing a song", "Hi"], ["Go"]]


def test_a_run_that_was_killed_before_its_last_step_needs_no_model(generate, files, batches):
    batches.fail_after = 2
    generate()
    batches.fail_after = None
    partial = files[1].with_name("out.jsonl.partial")
    with partial.open("a") as file:
        result = {"response": "x", "safe_weight": 0.5, "usable_weight": 0.5}
        file.write(json.dumps({"row": 3, "result": result}) + "\n")
    batches.clear()
    assert generate()[0] == 0
    assert batches == []
    assert read(files[1])[3] == ROWS[3] | result


def test_results_of_another_run_are_refused(generate, files, batches):
    batches.fail_after = 1
    generate()
    write_jsonl(files[0], ROWS[:3])
    code, _, err = generate("--mode", "safe", "--max-new-tokens", 5)
    assert code == 2
    assert "out.jsonl.partial holds results of a run with another input, mode, max-new-tokens." in err


@pytest.fixture
def by_sequence(mogu, sequence_folder, files):
    """Runs the command with a sequence adapter; every option but the threshold stays the same."""

    def run(*more):
        given = ["--input", files[0], "--output", files[1], "--max-new-tokens", 4, "--batch-size", 2]
        return mogu("generate", sequence_folder, *given, *more)

    return run


def test_the_threshold_decides_which_rows_are_refused(by_sequence, files):
    assert by_sequence("--threshold", 0)[0] == 0
    rows = read(files[1])
    scores = sorted(row["score"] for row in rows)
    assert [(row["safe_weight"], row["usable_weight"]) for row in rows] == [(1, 0)] * 5
    middle = (scores[2] + scores[3]) / 2
    assert by_sequence("--threshold", middle)[0] == 0
    again = read(files[1])
    assert [row["score"] for row in again] == pytest.approx([row["score"] for row in rows], abs=1e-5)
    assert [row["safe_weight"] for row in again] == [float(row["score"] >= middle) for row in rows]
    assert sum(row["safe_weight"] for row in again) == 2


def test_results_of_another_threshold_are_refused(by_sequence, files, batches):
    batches.fail_after = 1
    by_sequence("--threshold", 0.25)
    partial = files[1].with_name("out.jsonl.partial")
    assert read(partial)[0]["threshold"] == 0.25
    code, _, err = by_sequence("--threshold", 0.75)
    assert code == 2
    assert "holds results of a run with another threshold." in err
    assert "holds results of a run with another threshold." in by_sequence()[2]
    batches.fail_after = None
    assert by_sequence("--threshold", 0.25)[0] == 0
    assert not partial.exists()


def test_a_token_adapter_refuses_a_threshold_and_leaves_no_file(generate, files):
    code, _, err = generate("--threshold", 0.5)
    assert code == 2
    assert "threshold belongs to sequence routing; this adapter routes token by token" in err
    assert [path.name for path in files[1].parent.iterdir()] == ["in.jsonl"]


@pytest.mark.parametrize("content", ["", '{"input"'])
def test_a_partial_file_without_a_whole_first_line_is_begun_anew(generate, files, content):
    files[1].with_name("out.jsonl.partial").write_text(content)
    assert generate()[0] == 0
    assert len(read(files[1])) == 5


def test_a_run_without_results_leaves_nothing_behind(generate, files, batches):
    batches.fail_after = 0
    assert generate()[0] == 130
    assert [path.name for path in files[1].parent.iterdir()] == ["in.jsonl"]


def test_of_two_runs_at_once_the_second_to_have_results_ends(tmp_path):
    first, second = (PartialFile(tmp_path / "out.jsonl", {"mode": mode}) for mode in ("mogu", "base"))
    first.append({0: {"response": "a"}})
    with pytest.raises(MoguError, match="was begun by another run meanwhile"):
        second.append({0: {"response": "b"}})
    first.append({1: {"response": "c"}})
    assert PartialFile(tmp_path / "out.jsonl", {"mode": "mogu"}).results == {
        0: {"response": "a"},
        1: {"response": "c"},
    }


def test_a_partial_file_that_is_something_else_stays(generate, files):
    partial = files[1].with_name("out.jsonl.partial")
    partial.write_text("[1]\n")
    assert generate()[0] == 2
    assert partial.read_text() == "[1]\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"prompt": "a"}\n\n{"text": "b"}\n', "in.jsonl:3: A row has either 'prompt' or 'messages'"),
        (b'{"prompt": "a"}\n{"prompt": \n', "in.jsonl:2: not JSON (Expecting value"),
        (b'["a"]\n', "in.jsonl:1: not an object with named fields"),
        (b'{"prompt": "a", "note": "\\ud800"}\n', "in.jsonl:1: 'utf-8' codec can't encode"),
        (b"\xff\n", "in.jsonl: not UTF-8"),
        (b"\n", "in.jsonl: there are no rows"),
    ],
)
def test_rows_that_cannot_be_read_are_named(generate, files, content, message):
    files[0].write_bytes(content)
    code, _, err = generate()
    assert code == 2
    assert message in err
    assert not files[1].with_name("out.jsonl.partial").exists()


def test_the_input_must_exist_and_not_be_the_output(generate, files):
    code, _, err = generate(source=files[0].with_name("absent.jsonl"))
    assert code == 2
    assert "absent.jsonl: cannot be read (No such file or directory)" in err
    code, _, err = generate(output=files[0])
    assert code == 2
    assert "is the input too" in err


def test_the_longest_reply_has_a_default(mogu, adapter_folder, files, monkeypatch):
    lengths = []

    def reply(self, conversations, *, max_new_tokens, **settings):
        lengths.append(max_new_tokens)
        return [Reply("x", 1, 0.5, 0.5)] * len(conversations)

    monkeypatch.setattr(MoguModel, "reply", reply)
    code, _, err = mogu("generate", adapter_folder, "--input", files[0], "--output", files[1])
    assert (code, lengths) == (0, [256]), err
    assert "[default: 256]" in mogu("generate", "--help")[1]


def test_a_folder_that_is_no_adapter_is_refused(mogu, files):
    given = ["--input", files[0], "--output", files[1], "--max-new-tokens", 4]
    assert mogu("generate", files[0].parent, *given)[0] == 2


def test_the_base_may_lie_elsewhere(generate, adapter_folder, tmp_path):
    moved = tmp_path / "moved"
    (adapter_folder.parent / "base").rename(moved)
    try:
        code, _, err = generate()
        assert code == 2
        assert "base" in err
        assert generate("--base", moved)[0] == 0
    finally:
        moved.rename(adapter_folder.parent / "base")
