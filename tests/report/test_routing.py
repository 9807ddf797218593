import re

import pytest

from mogu.generation.reply import RoutingTrace
from mogu.report.routing import gate_page, routing_page

# Two layers, four tokens of which the middle two are routed; the reply begins at the third.
TOKENS = ["Hi", "\n", " <b>", " you"]
SAFE = [[0.0, 0.2, 1.0, 0.5], [0.0, 0.4, 0.9, 0.5]]
USABLE = [[1.0, 0.8, 0.0, 0.5], [1.0, 0.6, 0.1, 0.5]]
ROUTED = [False, True, True, False]


def page(title="Say <hi> & go", **changes):
    values = {
        "tokens": TOKENS,
        "prompt_length": 2,
        "layers": [7, 8],
        "safe": SAFE,
        "usable": USABLE,
        "routed": ROUTED,
    }
    return routing_page(RoutingTrace(**values | changes), title=title)


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


# Sequence routing. Two tokens that the gate does not read, three of the prompt that it does, and a reply.
WORDS = ["<s>", "user", "Make", " a", " <b>", "Sure", ",", " no"]
GATE = [0.0, 0.0, 0.1, 0.55, 0.8, 0.6, 0.92, 0.99]


def gate(answerer="the base", title="Make <it>", **changes):
    values = {
        "tokens": WORDS,
        "prompt_length": 5,
        "gate": GATE,
        "threshold": 0.52,
        "reply_threshold": None,
        "routed": [False] * 5 + [True] * 3,
        "layers": [],
        "safe": [],
        "usable": [],
    }
    return gate_page(RoutingTrace(**values | changes), answerer=answerer, title=title)


def words(html):
    """The shaded words with their classes."""
    return re.findall(r'<span class="(s[^"]*)">([^<]*)</span>', html)


def sentence(html):
    """What stands below the heading."""
    return " ".join(re.sub("<[^>]*>", "", html.split("</h1>")[1].split("</p>")[0]).split())


def headings(html):
    return re.findall(r"<i>([^<]+)</i>([^<]*)", html)


PROMPT_WORDS = [("s2", "Make"), ("s11 above", " a"), ("s16 above", " &lt;b&gt;")]


def test_the_words_that_the_gate_reads_are_shaded_and_marked_from_the_threshold_on():
    html = gate()
    assert words(html) == PROMPT_WORDS
    assert headings(html)[0] == ("prompt", "&lt;s&gt;user")
    for level in range(21):
        assert f".s{level}, body" in html


def test_a_refusal_is_told_in_one_sentence():
    html = gate()
    assert sentence(html) == (
        "Refused: the gate's probability at the prompt's end, 0.80, reaches the threshold of 0.52."
    )
    assert headings(html)[1] == ("reply, by the safe variant", "Sure, no")
    assert 'aria-label="probability 0.80, threshold 0.52"' in html
    assert "--at: 80.0%" in html
    assert "--at: 52.0%" in html


def test_a_score_that_is_the_threshold_refuses():
    assert sentence(gate(threshold=0.8)).startswith("Refused:")
    assert words(gate(threshold=0.8))[-1] == ("s16 above", " &lt;b&gt;")


def test_a_reply_of_the_base_is_told_in_one_sentence():
    html = gate(threshold=0.9, routed=[False] * 8)
    assert sentence(html) == (
        "The base's reply: the gate's probability at the prompt's end, 0.80, is below the threshold of 0.90."
    )
    assert headings(html)[1] == ("reply, by the base", "Sure, no")
    assert words(html) == [("s2", "Make"), ("s11", " a"), ("s16", " &lt;b&gt;")]


def test_a_gate_that_reads_replies_shades_them_up_to_where_it_refuses():
    html = gate(threshold=0.85, reply_threshold=0.9, routed=[False] * 7 + [True])
    assert sentence(html) == (
        "Refused in mid-reply: the gate's probability at the prompt's end, 0.80, is below the threshold of "
        "0.85, but in the reply it reaches 0.92, and 0.90 is enough there."
    )
    assert words(html)[3:] == [("s12", "Sure"), ("s18 above", ",")]
    assert headings(html)[1:] == [("reply, by the base", ""), ("reply, by the safe variant", " no")]
    assert "and then each token that the base writes" in html


def test_where_the_usable_variant_answers_the_page_says_so():
    html = gate(threshold=0.9, reply_threshold=0.995, routed=[False] * 8, answerer="the usable variant")
    assert sentence(html).startswith("The usable variant's reply:")
    assert headings(html)[1] == ("reply, by the usable variant", "")
    assert "and then each token that the usable variant writes" in html
    assert "the base" not in html


def test_a_reply_that_is_read_to_its_end_is_shaded_to_its_end():
    html = gate(threshold=0.85, reply_threshold=0.995, routed=[False] * 8)
    assert sentence(html).startswith("The base's reply:")
    assert words(html)[3:] == [("s12", "Sure"), ("s18", ","), ("s20", " no")]


def test_what_a_refusal_says_is_not_read():
    assert words(gate(reply_threshold=0.9)) == PROMPT_WORDS


def test_each_shaded_word_can_be_read_off():
    assert 'const readings = [["Make", 0.1], ["\\u00b7a", 0.55], ["\\u00b7\\u003cb\\u003e", 0.8]];' in gate()


def test_the_page_of_a_gate_is_escaped_and_needs_nothing_from_the_network():
    html = gate(tokens=["<script>", "</script>", "<img>", "&", *WORDS[4:]], title="</title><script>")
    assert html.count("<script>") == html.count("</script>") == 1
    assert "<img>" not in html
    assert not re.search(r"https?:|src=|@import|<link", html)


@pytest.mark.parametrize("changes", [{"gate": GATE[:1]}, {"routed": [True]}])
def test_lists_of_another_length_are_refused(changes):
    with pytest.raises(ValueError, match="has 1 values for 8 tokens"):
        gate(**changes)
