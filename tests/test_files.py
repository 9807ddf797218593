import os

import pytest

from mogu.files import read_grown_jsonl, write_atomic, write_jsonl


def test_text_is_written_as_utf8_with_its_line_ends_and_bytes_as_they_are(tmp_path):
    path = tmp_path / "new" / "folder" / "a.txt"
    write_atomic(path, "é\r\nb\n")
    assert path.read_bytes() == b"\xc3\xa9\r\nb\n"
    write_atomic(path, b"\xff\x00")
    assert path.read_bytes() == b"\xff\x00"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("step", ["fsync", "rename"])
def test_a_write_that_fails_half_way_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, step):
    path = tmp_path / "a.txt"
    write_atomic(path, "old")

    def fail(*arguments):
        raise OSError("no space left")

    monkeypatch.setattr(*(os, "fsync") if step == "fsync" else (type(path), "replace"), fail)
    with pytest.raises(OSError, match="no space left"):
        write_atomic(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_jsonl_has_one_object_a_line(tmp_path):
    path = tmp_path / "a.jsonl"
    write_jsonl(path, [{"text": "zwei\nZeilen, ß"}, {"n": 1}])
    assert path.read_text(encoding="utf-8") == '{"text": "zwei\\nZeilen, ß"}\n{"n": 1}\n'


def test_rows_that_fail_half_way_leave_the_old_file(tmp_path):
    path = tmp_path / "a.jsonl"
    write_jsonl(path, [{"n": 0}])

    def rows():
        yield {"n": 1}
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_jsonl(path, rows())
    assert path.read_text() == '{"n": 0}\n'
    assert list(tmp_path.iterdir()) == [path]


def test_a_grown_file_loses_the_line_that_was_cut_off_and_nothing_else(tmp_path):
    file = tmp_path / "rows.jsonl"
    assert read_grown_jsonl(file) == []
    whole = '{"text": "one\u2028line"}\n{"text": "two"}\n'
    file.write_text(whole + '{"text": "thr', encoding="utf-8")
    assert read_grown_jsonl(file) == [{"text": "one\u2028line"}, {"text": "two"}]
    assert file.read_text(encoding="utf-8") == whole
