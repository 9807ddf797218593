import torch
from transformers import DynamicCache

from mogu.serving.engine.cache import COLUMNS, RowCache

HEADS, FEATURES = 2, 3


def prefilled(lengths, value):
    """A cache padded on the left, in which row r holds value + r + column / 1000, and NaN on padding."""
    width = max(lengths)
    held = torch.full((len(lengths), HEADS, width, FEATURES), torch.nan)
    for row, length in enumerate(lengths):
        for column in range(length):
            held[row, :, width - length + column] = value + row + column / 1000
    cache = DynamicCache()
    for layer in range(2):
        cache.update(held, -held, layer)
    return cache, [width - length for length in lengths]


def written(cache, token):
    """What the rows hold after one more token each, without what is behind it."""
    lengths = cache.lengths
    cache.next_columns(torch.device("cpu"))
    state = torch.full((len(lengths), HEADS, 1, FEATURES), token)
    for layer in range(2):
        keys, values = cache.update(state, -state, layer)
    assert torch.equal(keys, -values) and keys.shape[2] == max(lengths) + 1
    assert cache.get_seq_length() == max(lengths)
    assert not keys.isnan().any()
    return [keys[row, 0, : length + 1, 0] for row, length in enumerate(lengths)]


def expected(value, length, *tokens):
    return torch.cat((value + torch.arange(length) / 1000, torch.tensor(tokens)))


def assert_rows(rows, *wanted):
    for row, want in zip(rows, wanted, strict=True):
        torch.testing.assert_close(row, want)


def test_rows_join_are_written_and_leave():
    cache = RowCache()
    cache.join(*prefilled([3, 5], 10.0))
    assert_rows(written(cache, 1.0), expected(10, 3, 1.0), expected(11, 5, 1.0))
    cache.join(*prefilled([9, 2], 20.0))
    assert cache.lengths == [4, 6, 9, 2]
    assert_rows(
        written(cache, 2.0),
        expected(10, 3, 1.0, 2.0),
        expected(11, 5, 1.0, 2.0),
        expected(20, 9, 2.0),
        expected(21, 2, 2.0),
    )
    cache.keep([3, 1])  # the longest row leaves, and the last one takes the first place
    assert_rows(written(cache, 3.0), expected(21, 2, 2.0, 3.0), expected(11, 5, 1.0, 2.0, 3.0))
    cache.keep([])
    assert cache.lengths == [] and cache.layers == []


def test_room_grows_with_the_rows_and_is_given_back():
    cache = RowCache()
    cache.join(*prefilled([3], 10.0))
    for step in range(2 * COLUMNS):
        rows = written(cache, float(step))
    assert_rows(rows, expected(10, 3, *map(float, range(2 * COLUMNS))))
    room = cache.layers[0].keys.shape
    assert room[0] == 1 and 2 * COLUMNS + 3 <= room[2] <= 4 * COLUMNS
    cache.join(*prefilled([1] * 8, 20.0))
    assert cache.layers[0].keys.shape[0] == 16
    cache.keep([8])
    cache.join(*prefilled([2], 30.0))
    assert cache.layers[0].keys.shape[:3] == (2, HEADS, COLUMNS)
    assert_rows(written(cache, 0.5), expected(27, 1, 0.5), expected(30, 2, 0.5))


def test_what_overflowed_in_a_place_never_reaches_the_next_row_there():
    cache = RowCache()
    cache.join(*prefilled([6, 2], 10.0))
    cache.next_columns(torch.device("cpu"))
    overflowed = torch.ones(2, HEADS, 1, FEATURES)
    overflowed[1] = torch.nan
    for layer in range(2):
        cache.update(overflowed, -overflowed, layer)
    cache.keep([0])
    cache.join(*prefilled([1], 20.0))
    rows = written(cache, 2.0)  # which sees no NaN anywhere
    assert_rows(rows, expected(10, 6, 1.0, 2.0), expected(20, 1, 2.0))
