import pytest
import torch

from mogu.generation import RoutedSpan, routed_positions

LENGTHS = torch.tensor([5, 3])
POSITIONS = torch.arange(8).repeat(2, 1)


@pytest.mark.parametrize(
    ("m", "k", "first", "second"),
    [
        (3, None, range(7), range(5)),
        (3, 2, range(3, 7), range(1, 5)),
        (1, 1, range(4, 5), range(2, 3)),
        (2, 4, range(1, 6), range(4)),
        (2, 0, range(5, 6), range(3, 4)),
        (1, 0, (), ()),
        (0, None, (), ()),
        (0, 2, (), ()),
        (None, 1, range(4, 8), range(2, 8)),
    ],
)
def test_routed_are_the_last_k_prompt_tokens_and_the_first_m_minus_one_of_the_reply(m, k, first, second):
    routed = routed_positions(POSITIONS, RoutedSpan.of_prompts(LENGTHS, m, k))
    assert [row.nonzero().flatten().tolist() for row in routed] == [list(first), list(second)]


def test_padding_is_never_routed():
    span = RoutedSpan.of_prompts(torch.tensor([2]), None, None)
    assert routed_positions(torch.tensor([[-2, -1, 0, 1]]), span).tolist() == [[False, False, True, True]]


def test_the_copies_of_a_row_stand_one_after_the_other():
    span = RoutedSpan.of_prompts(LENGTHS, 1, 1)
    routed = routed_positions(torch.arange(8).repeat(6, 1), span)
    assert routed.nonzero()[:, 1].tolist() == [4, 4, 4, 2, 2, 2]
