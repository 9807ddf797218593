import re

from rich.console import Console

from mogu.report.spread import PAGE_BINS, TERMINAL_BINS, spread_lines, spread_page

GROUPS = {"malicious": [0.99, 1.0, 0.96], "look-alike <3": [0.0, 0.01, 0.5], "none": []}


def bars(html):
    """For each group, its bars as (bin, height)."""
    plots = re.findall(r"<svg.*?</svg>", html, re.DOTALL)
    bar = r'x="(\d+)\.06" y="[\d.]+" width=".88" height="([\d.]+)"'
    return [[(int(x), float(height)) for x, height in re.findall(bar, plot)] for plot in plots]


def lines(groups):
    console = Console(width=100, color_system=None)
    with console.capture() as capture:
        console.print(spread_lines(groups))
    return capture.get().splitlines()


def test_bars_are_the_counts_of_each_bin_over_the_highest():
    last = PAGE_BINS - 1
    assert bars(spread_page(GROUPS, "Spread")) == [
        [(last - 1, 0.5), (last, 1.0)],
        [(0, 1.0), (PAGE_BINS // 2, 0.5)],
        [],
    ]


def test_medians_and_counts_are_written():
    html = spread_page(GROUPS, "Spread & more")
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
