import re

import pytest

from mogu.report.routing import routing_page

# Two layers, four tokens of which the middle two are routed; the reply begins at the third.
TOKENS = ["Hi", "\n", " <b>", " you"]
SAFE = [[0.0, 0.2, 1.0, 0.5], [0.0, 0.4, 0.9, 0.5]]
USABLE = [[1.0, 0.8, 0.0, 0.5], [1.0, 0.6, 0.1, 0.5]]
ROUTED = [False, True, True, False]


def page(**changes):
    values = {
        "tokens": TOKENS,
        "prompt_length": 2,
        "layers": [7, 8],
        "safe": SAFE,
        "usable": USABLE,
        "routed": ROUTED,
        "title": "Say <hi> & go",
    }
    return routing_page(**values | changes)


def rows(html):
    """The cells' classes by row heading."""
    found = re.findall(r"<tr[^>]*><th>([^<]+)</th>((?:<td[^>]*>)+)</tr>", html)
    return {name: re.findall(r'class="([^"]*)"', cells) for name, cells in found}


def test_each_routed_cell_has_the_shades_of_its_weights():
    assert rows(page()) == {
        "mean": ["s6 u14", "s19 u1 begin"],
        "7": ["s4 u16", "s20 u0 begin"],
        "8": ["s8 u12", "s18 u2 begin"],
    }


def test_every_shade_that_a_cell_may_have_is_defined():
    html = page()
    for level in range(21):
        assert f".s{level}, body:has(#usable:checked) .u{level} {{ --weight: {level * 5}%; }}" in html


def test_the_figures_of_the_whole_count_the_routed_tokens_only():
    text = " ".join(page().split())
    assert "2 of 4 tokens are routed, in 2 layers." in text
    assert "safe 0.62, usable 0.38." in text


def test_only_routed_tokens_are_coloured_in_the_text():
    html = page()
    assert '<span class="s6 u14">⏎\n</span>' in html
    assert '<span class="s19 u1"> &lt;b&gt;</span>' in html
    assert '<p class="text"><i>prompt</i>Hi<span' in html
    assert "</span> you</p>" in html


def test_what_the_user_wrote_is_escaped_everywhere():
    html = page(tokens=["<script>", "</script>", "<img>", "&"], title="</title><script>")
    assert html.count("<script>") == html.count("</script>") == 1
    assert "<img>" not in html


def test_the_page_needs_nothing_from_the_network():
    assert not re.search(r"https?:|src=|@import|<link", page())


def test_without_routed_tokens_there_is_the_text_alone():
    html = page(routed=[False] * 4)
    assert "the base model alone wrote the reply" in html
    assert "<table>" not in html
    assert "Hi\n &lt;b&gt; you</p>" in html.replace("<i>reply</i>", "")


def test_weights_a_little_outside_the_range_take_the_last_shade():
    assert rows(page(safe=[[0, -0.1, 1.001, 0]] * 2))["7"] == ["s0 u16", "s20 u0 begin"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"safe": SAFE[:1]}, "safe has the shape"),
        ({"usable": [[1.0] * 3] * 2}, "usable has the shape"),
        ({"routed": [True]}, "routed has 1 values for 4 tokens"),
    ],
)
def test_lists_that_do_not_fit_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        page(**changes)
