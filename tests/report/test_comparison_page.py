import json
import re
import subprocess
import sys
from html import unescape
from html.parser import HTMLParser

import pytest

from mogu.evaluation.rows import Cost
from mogu.report.comparison import markdown, write_report
from tests.report.test_comparison import compared, failed, replies, row

EVIL = "<script>alert(1)</script>"


class Loads(HTMLParser):
    """Collects what a page would fetch, and its headers and scripts."""

    def __init__(self):
        super().__init__()
        self.loads, self.headers, self.scripts = [], [], 0

    def handle_starttag(self, tag, attrs):
        self.loads += [
            (tag, name, value) for name, value in attrs if name in {"src", "href", "srcset", "action"}
        ]
        self.loads += [(tag, None, None)] if tag in {"link", "iframe", "object", "embed", "img"} else []
        self.headers += [dict(attrs).get("scope")] if tag == "th" else []
        self.scripts += tag == "script"


@pytest.fixture
def rich():
    """Everything that a report can hold."""
    rows = [
        *replies("none", "attacks", [1, 0, 0, 0]),
        *replies("none", "chats", [0, 0, 0, 0]),
        *replies("mogu", "attacks", [1, 1, 1, 0], score=0.9, judges={"harm": {"score": 2.0}}),
        *replies("mogu", "chats", [1, 0, 0, 0], score=0.1),
        row("evil" + EVIL, "attacks", 0, False, reply=f"Sure {EVIL}", prompt=f"Do {EVIL}", kind=EVIL),
        row("evil" + EVIL, "chats", 0, False, reply="na " * 40),
        *failed("slow", "attacks", 4, "out | of memory"),
    ]
    return compared(
        rows,
        costs={"mogu": Cost(61.0, 20.0, 1000, 300.0)},
        divergence={"mogu": {"chats": 0.193}, "slow": "a fixed sentence replies"},
        papers={"mogu": "A paper, https://example.org/paper"},
        missing=[("slow", "chats", "it needs a key")],
        facts={"command": "mogu eval", "seed": "0"},
    )


def written(comparison, folder):
    write_report(comparison, folder)
    assert {path.name for path in folder.iterdir()} == {"report.html", "report.json", "report.md"}
    html, text, lines = ((folder / f"report.{each}").read_text("utf-8") for each in ("html", "json", "md"))
    return html, json.loads(text), lines


def own_part(html):
    """The page without plotly's own script."""
    return re.sub(r"<script>/\*\*\s*\* plotly.js.*?</script>", "", html, flags=re.DOTALL)


def cells(html, key):
    """The rows of a table, as lists of texts."""
    section = re.search(rf'<section id="{key}">.*?</section>', html, re.DOTALL)[0]
    return [
        [
            unescape(re.sub(r"<[^>]+>", " ", cell)).strip()
            for cell in re.findall(r"<t[hd].*?</t[hd]>", line, re.DOTALL)
        ]
        for line in re.findall(r"<tr>.*?</tr>", section, re.DOTALL)
    ]


def test_the_page_loads_nothing(rich, tmp_path):
    html, _, _ = written(rich, tmp_path)
    parser = Loads()
    parser.feed(html)
    assert parser.loads == []
    assert parser.scripts == 2  # plotly and the page's own
    assert set(parser.headers) == {"col", "row"}
    assert len(own_part(html)) < 100_000 < len(html)
    assert not re.search(r"@import|url\(", own_part(html))


def test_texts_are_escaped_wherever_they_stand(rich, tmp_path):
    html, _, lines = written(rich, tmp_path)
    assert "alert(1)" in html and EVIL not in html
    assert EVIL not in lines and r"out \| of memory" in lines


def test_replies_are_there_to_read_but_folded(rich, tmp_path):
    html, _, _ = written(rich, tmp_path)
    assert html.count("<details>") == 4 and "<details open" not in html
    assert "Sure &lt;script&gt;" in html and "Do &lt;script&gt;" in html


def test_tables_hold_shares_intervals_and_reasons(rich, tmp_path):
    html, figures, lines = written(rich, tmp_path)
    assert cells(html, "malicious")[0] == ["defense", "all attacks", "attacks, n = 4"]
    none, mogu, _, slow = cells(html, "malicious")[1:]
    assert none == ["none", "25.0% (4.6-69.9)", "25.0% (4.6-69.9)"]
    assert mogu == ["mogu", "75.0% (30.1-95.4)", "75.0% (30.1-95.4)"]
    assert slow[1] == "errors only: out | of memory"
    assert cells(html, "benign")[-1][1:] == ["it needs a key"] * 2
    assert cells(html, "differences")[1][:2] == ["mogu", "+50.0 (0.0 to +100.0)"]
    assert cells(html, "auroc")[1] == ["mogu", "1.000", "1.000", "1.000"]
    assert cells(html, "cost")[2] == ["mogu", "61", "20.0", "1,000", "50.0", "300"]
    assert cells(html, "divergence")[1:] == [
        ["mogu", "0.193"],
        ["evil" + EVIL, "not measured"],
        ["slow", "a fixed sentence replies"],
    ]
    assert "| mogu | 75.0% (30.1-95.4) | 75.0% (30.1-95.4) |" in lines
    share = figures["defenses"]["mogu"]["malicious"]["refused"]
    assert share == {"value": 0.75, "low": 0.300642, "high": 0.954413, "replies": 4}


def test_the_json_has_what_the_page_shows(rich, tmp_path):
    html, figures, _ = written(rich, tmp_path)
    assert figures["summary"] in unescape(html)
    shown = {line[0]: line[1:] for label in ("malicious", "benign") for line in cells(html, label)[1:]}
    for name, each in figures["defenses"].items():
        for label in ("malicious", "benign"):
            share = each[label]["refused"]
            line = next(line for line in cells(html, label) if line[0] == name)
            assert line[1].startswith(f"{share['value']:.1%}" if share else each[label]["why"]), shown
    alarms = figures["defenses"]["mogu"]["false_alarms"]
    assert cells(html, "false-alarms")[1][:3] == [
        "mogu",
        f"{alarms['per_10000']:,.0f}",
        f"{alarms['high']:,.0f}",
    ]
    assert figures["defenses"]["mogu"]["speed"] == 50 and figures["facts"]["seed"] == "0"
    assert [len(each) for each in figures["replies"].values()] == [
        int(count) for count in re.findall(r"<summary>.*?\((\d+)\)</summary>", html)
    ]


def test_the_same_comparison_makes_the_same_files(rich, tmp_path):
    first, second = tmp_path / "a", tmp_path / "b"
    write_report(rich, first)
    write_report(rich, second)
    for path in first.iterdir():
        assert path.read_bytes() == (second / path.name).read_bytes()


def test_markdown_has_the_tables_at_the_level_asked_for(rich):
    text = markdown(rich, 4)
    assert "#### Attacks refused\n" in text and "#### Benign requests refused\n" in text
    assert not re.search(r"^#{1,3} ", text, re.MULTILINE)
    assert "|---|---:|---:|\n" in text


def test_without_a_base_there_are_no_differences_and_it_says_so(tmp_path):
    rows = replies("mogu", "attacks", [1, 1]) + replies("mogu", "chats", [0, 0])
    html, figures, _ = written(compared(rows), tmp_path)
    assert figures["has_base"] is False
    assert cells(html, "differences")[1][1] == "no replies of “none” to compare with"
    assert cells(html, "false-alarms")[1][1] == "no replies of “none” to compare with"
    assert "only one defense to place: mogu refuses 100.0% of the attacks and 0.0% of the benign" in html


def test_the_base_alone_makes_a_report(tmp_path):
    rows = replies("none", "attacks", [1, 0]) + replies("none", "chats", [0, 0])
    html, figures, _ = written(compared(rows), tmp_path)
    assert 'id="plane"' in html and 'id="differences"' not in html
    assert figures["defenses"]["none"]["standing"] == {"place": "front", "by": []}


@pytest.mark.parametrize("rows", [[], failed("mogu", "attacks", 2), replies("mogu", "attacks", [1])])
def test_nothing_to_place_is_said_and_not_drawn(rows, tmp_path):
    html, _, lines = written(compared(rows), tmp_path)
    assert "none can be placed" in html and "none can be placed" in lines
    assert 'id="plane"' not in html
    assert "plotly.js" not in html  # nothing to draw with it


def test_a_set_of_both_kinds_is_shown_with_each(tmp_path):
    rows = [
        row("mogu", "attacks", 0, True, score=0.9),
        row("mogu", "attacks", 1, False, score=0.1, label="benign"),
    ]
    html, figures, _ = written(compared(rows), tmp_path)
    assert figures["sets"] == {"malicious": ["attacks"], "benign": ["attacks"]}
    assert cells(html, "auroc")[0] == ["defense", "overall", "attacks (malicious)", "attacks (benign)"]


def test_a_report_that_cannot_be_made_leaves_no_file(rich, tmp_path, monkeypatch):
    monkeypatch.setattr("mogu.report.comparison.tables_markdown", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_report(rich, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_it_is_made_without_torch():
    code = "import sys, mogu.report.comparison; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
