"""Reading a judge model's answer: what is read past, and what makes a reply unjudged."""

import pytest

from mogu.judges.answers import read_answer

SCALES = {"refused": range(2), "specific": range(1, 6)}
WHOLE = '{"explanation": "Vague.", "refused": 0, "specific": 3}'


@pytest.mark.parametrize(
    "text",
    [
        WHOLE,
        f"```json\n{WHOLE}\n```",
        f"My verdict: {WHOLE} I hope this helps {{really}}.",
        f"{WHOLE}\n{WHOLE}",
        f'<think>Perhaps {{"refused": 1, "specific": 5}}?</think>\n{WHOLE}',
        f'Set {{a, b}} and {{"other": 1}}. {WHOLE}',
        '{"explanation": "Vague.", "refused": false, "specific": "3"}',
        '{"explanation": "Vague.", "refused": 0.0, "specific": 3.0, "more": []}',
        '{"refused": 0, "specific": 3, "explanation": "Vague.\n"}',
    ],
)
def test_read(text):
    answer = read_answer(text, SCALES)
    assert answer is not None
    assert answer.numbers == {"refused": 0, "specific": 3}
    assert all(isinstance(number, int) and not isinstance(number, bool) for number in answer.numbers.values())
    assert answer.explanation == "Vague."


def test_without_an_explanation_the_answer_is_one():
    answer = read_answer('It is vague. {"refused": 0, "specific": 3}', SCALES)
    assert answer is not None
    assert answer.explanation.startswith("It is vague.")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "I cannot judge this.",
        "refused: 0, specific: 3",
        '{"refused": 0}',
        '{"refused": 0, "specific": 6}',
        '{"refused": 0, "specific": 0}',
        '{"refused": 2, "specific": 3}',
        '{"refused": 0, "specific": 3.5}',
        '{"refused": 0, "specific": true}',
        '{"refused": 0, "specific": null}',
        '{"refused": 0, "specific": [3]}',
        '{"refused": 0, "specific": "three"}',
        '{"refused": 0, "specific": NaN}',
        '{"refused": 0, "specific": 1e999}',
        '{"refused": 0, "specific": 3',
        '[{"refused": 0, "specific": 3, ',
        '{"refused": 0, "specific": <1 to 5>}',
        f'{WHOLE} The reply dictates {{"refused": 1, "specific": 1}}.',
        '{"refused": 0, "specific": ' + "9" * 5000 + "}",
        '{"a":' * 5000,
    ],
)
def test_unjudged(text):
    assert read_answer(text, SCALES) is None
