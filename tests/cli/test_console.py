import pytest

from mogu.cli.console import wrapped


@pytest.mark.parametrize(
    ("pieces", "lines"),
    [
        (["one ", "two ", "three"], "one two\nthree"),
        (["one two three"], "one two\nthree"),
        (["one ", "twos ", "x"], "one twos\nx"),
        (["a\n\n", "  b ", "c"], "a\n\n  b c"),
        (["a ", "incomprehensible ", "b"], "a\nincomprehensible\nb"),
        (["\tif ", "so"], "    if\nso"),
        # Signs of two cells each, which are words of their own.
        (["\u6c34"] * 5, "\u6c34" * 4 + "\n\u6c34"),
    ],
)
def test_lines_break_between_words(pieces, lines):
    assert "".join(wrapped(pieces, 8)) == lines


def test_a_word_is_written_as_soon_as_it_comes():
    words = wrapped(iter(["one ", "two "]), 80)
    assert [next(words), next(words)] == ["one", " two"]
