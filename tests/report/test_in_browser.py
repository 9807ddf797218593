"""The pages as a reader sees them: at a desk and on a phone, in light and dark, with their screenshots."""

from dataclasses import replace

import pytest
from playwright.sync_api import expect

from mogu.evaluation.rows import Cost
from mogu.generation.reply import RoutingTrace
from mogu.report.comparison import write_report
from mogu.report.routing import gate_page, routing_page
from mogu.report.spread import spread_page
from tests.browser import WIDTHS, opened
from tests.report.test_comparison import compared, failed, replies

LOOKS = [(device, scheme) for device in WIDTHS for scheme in ("light", "dark")]
LONG = "a_set_of_requests_whose_name_is_long"


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """A comparison with as many defenses, and as long names, as there are in life."""
    rows = []
    for number, name in enumerate(("none", "mogu", "safe_decoding", "retokenization", "self_reminder")):
        bits = [int(key < 2 + 3 * number) for key in range(20)]
        score = None if name == "none" else 0.9
        rows += replies(name, "attacks", bits, score=score)
        rows += [replace(row, set=LONG) for row in replies(name, "more attacks", bits[::-1], score=score)]
        rows += replies(name, "chats", bits[::-1], score=score and 0.1, reply="na " * 60)
        rows += replies(name, "look-alikes", [int(key < number) for key in range(20)], score=score and 0.3)
    rows += failed("slow", "attacks", 20, "the endpoint answered 429 eight times and was given up")
    folder = tmp_path_factory.mktemp("report")
    write_report(
        compared(
            rows,
            costs={"mogu": Cost(61.0, 20.0, 1000, 300.0)},
            divergence={"mogu": {"chats": 0.193}},
            papers={
                "mogu": "A paper with a long title, its authors and their journal, https://example.org/paper"
            },
            missing=[("slow", "chats", "it needs a key")],
            facts={"command": "mogu eval runs/demo/adapter --output runs/report --data data", "seed": "0"},
        ),
        folder,
    )
    return (folder / "report.html").as_uri()


@pytest.mark.parametrize(("device", "scheme"), LOOKS)
def test_the_comparison_is_readable(browser, report, device, scheme, tmp_path):
    with opened(browser, report, device, scheme) as page:
        plane = page.locator("#plane .main-svg").first
        expect(plane).to_be_visible()
        assert plane.bounding_box()["width"] <= WIDTHS[device]
        expect(page.locator("#plane .annotation-text")).to_have_count(5)  # "slow" has no point
        page.screenshot(path=tmp_path / "comparison.png", full_page=True)

        boxes = page.locator(".scroll")
        assert boxes.count() > 8
        for box in boxes.all():
            place = box.bounding_box()
            assert place["x"] >= 0 and place["x"] + place["width"] <= WIDTHS[device]
        # No text sticks out of its cell, and none is too small to read.
        assert page.evaluate(
            """[...document.querySelectorAll(".scroll :is(th, td)")].every(cell =>
                cell.scrollWidth <= cell.clientWidth && parseFloat(getComputedStyle(cell).fontSize) >= 12)"""
        )
    assert (tmp_path / "comparison.png").stat().st_size > 10_000


@pytest.mark.parametrize("device", WIDTHS)
def test_replies_are_folded_until_they_are_asked_for(browser, report, device, tmp_path):
    with opened(browser, report, device) as page:
        kinds = page.locator("details")
        assert kinds.count() == 4
        assert page.locator("blockquote:visible").count() == 0
        kinds.first.locator("summary").click()
        expect(kinds.first.locator("blockquote").first).to_be_visible()
        assert page.locator("details[open]").count() == 1
        page.screenshot(path=tmp_path / "replies.png", full_page=True)


def test_on_a_phone_a_table_keeps_its_names_in_sight_when_it_is_moved(browser, report):
    with opened(browser, report, "phone") as page:
        box = page.locator("#malicious .scroll")
        name = box.get_by_role("rowheader", name="retokenization")
        before = name.bounding_box()
        assert box.evaluate("box => { box.scrollLeft = 200; return box.scrollLeft }") > 0
        assert name.bounding_box()["x"] == pytest.approx(before["x"], abs=2)


def test_a_long_name_of_a_set_breaks_between_its_words_only(browser, report):
    with opened(browser, report, "desktop") as page:
        heading = page.locator("#auroc th", has_text=LONG)
        assert heading.inner_text().replace("\n", "") == LONG
        lines = heading.evaluate(
            """heading => {
                const lines = {}, range = document.createRange();
                for (const text of heading.childNodes) if (text.nodeType === Node.TEXT_NODE)
                    for (let i = 0; i < text.length; i++) {
                        range.setStart(text, i); range.setEnd(text, i + 1);
                        const top = Math.round(range.getBoundingClientRect().top);
                        lines[top] = (lines[top] ?? "") + text.data[i];
                    }
                return Object.values(lines);
            }"""
        )
        assert len(lines) > 1
        assert all(line.endswith("_") for line in lines[:-1])


TOKENS = ["<|im_start|>", "user", "\n", *(f" word{number}" for number in range(60)), "Sure", ",", " here"]
PROMPT = len(TOKENS) - 3


SAFE = [[(layer + index) % 10 / 10 for index in range(len(TOKENS))] for layer in range(12)]
TRACE = RoutingTrace(
    TOKENS,
    PROMPT,
    layers=list(range(12)),
    safe=SAFE,
    usable=[[1 - weight for weight in row] for row in SAFE],
    routed=[True] * len(TOKENS),
)


def gate():
    rising = [0.0] * 3 + [number / 70 for number in range(len(TOKENS) - 3)]
    trace = replace(
        TRACE,
        gate=rising,
        threshold=0.77,
        reply_threshold=0.9,
        routed=[index >= PROMPT for index in range(len(TOKENS))],
    )
    return gate_page(trace, answerer="the base", title="A prompt that is so long that it does not fit " * 5)


def routing():
    return routing_page(TRACE, title="A prompt")


def spread():
    return spread_page(
        {"malicious": [0.9, 0.99], "look-alikes in frames": [0.1, 0.5]}, "Spread", "the weight"
    )


@pytest.mark.parametrize("made", [gate, routing, spread])
@pytest.mark.parametrize(("device", "scheme"), LOOKS)
def test_the_pictures_fit_the_screen(browser, made, device, scheme, tmp_path):
    file = tmp_path / f"{made.__name__}.html"
    file.write_text(made(), encoding="utf-8")
    with opened(browser, file.as_uri(), device, scheme) as page:
        expect(page.locator("h1")).to_be_visible()
        page.screenshot(path=file.with_suffix(".png"), full_page=True)
    assert file.with_suffix(".png").stat().st_size > 10_000


def test_a_word_and_a_cell_that_are_pointed_at_tell_their_figures(browser, tmp_path):
    for made in (gate, routing):
        (tmp_path / f"{made.__name__}.html").write_text(made(), encoding="utf-8")
    with opened(browser, (tmp_path / "gate.html").as_uri(), "desktop") as page:
        page.get_by_text("word35", exact=True).hover()
        expect(page.locator("#readout")).to_have_text("“·word35”: 0.50")
    with opened(browser, (tmp_path / "routing.html").as_uri(), "desktop") as page:
        page.locator("tbody tr").nth(3).locator("td").nth(4).hover()
        expect(page.locator("#readout")).to_have_text("layer 2, “·word1”: safe 0.60, usable 0.40")
