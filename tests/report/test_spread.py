import re

from rich.console import Console

from mogu.report.spread import PAGE_BINS, TERMINAL_BINS, spread_lines, spread_page

GROUPS = {"malicious": [0.99, 1.0, 0.96], "look-alike <3": [0.0, 0.01, 0.5], "none": []}


def bars(html):
    """For each group, its bars as (bin, height)."""
    plots = re.findall(r"<svg.*?</svg>", html, re.DOTALL)
    bar = r'x="(\d+)\.06" y="[\d.]+" width=".88" height="([\d.]+)"'
    return [[(int(x), float(height)) for x, height in re.findall(bar, plot)] for plot in plots]


def lines(groups, threshold=None):
    console = Console(width=100, color_system=None)
    with console.capture() as capture:
        console.print(spread_lines(groups, "weight", threshold))
    return capture.get().splitlines()


def test_bars_are_the_counts_of_each_bin_over_the_highest():
    last = PAGE_BINS - 1
    assert bars(spread_page(GROUPS, "Spread", "the weight")) == [
        [(last - 1, 0.5), (last, 1.0)],
        [(0, 1.0), (PAGE_BINS // 2, 0.5)],
        [],
    ]


def test_medians_and_counts_are_written():
    html = spread_page(GROUPS, "Spread & more", "the weight")
    assert "median 0.99, n = 3" in html
    assert 'style="left: 99.0%"' in html
    assert "no inputs" in html
    assert "<h1>Spread &amp; more</h1>" in html
    assert "look-alike &lt;3" in html
    assert not re.search(r"https?:|src=|@import|<link", html)


def test_the_terminal_shows_one_line_for_each_kind():
    shown = [line.rstrip() for line in lines(GROUPS) if line.strip()]
    assert len(shown) == 2 + len(GROUPS)
    assert shown[2].split() == ["malicious", "█", "0.99", "3"]
    assert "█" + " " * (TERMINAL_BINS // 2 - 1) + "▄" in shown[3]
    assert shown[4].split() == ["none", "0"]


def test_a_bin_with_a_single_input_is_seen():
    assert "▁" in lines({"benign": [0.1] * 1000 + [0.9]})[3]


def test_a_threshold_is_drawn_and_written():
    html = spread_page(GROUPS, "Spread", "the weight", 0.8)
    assert html.count('class="threshold" style="left: 80.0%"') == len(GROUPS)
    assert "over the weight, from 0 to 1" in html and "0.80, an input is refused" in html
    assert "Refused from 0.80 on." in "\n".join(lines(GROUPS, 0.8))
    assert 'class="threshold"' not in spread_page(GROUPS, "Spread", "the weight")
    assert "Refused" not in "\n".join(lines(GROUPS))
