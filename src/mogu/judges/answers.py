"""Whole numbers out of a judge model's answer: tolerant of what stands around them, strict about them."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

_DECODER = json.JSONDecoder(strict=False)  # models break lines inside strings


@dataclass(frozen=True)
class Answer:
    """An answer that could be read.

    Attributes:
        numbers: by name, each on its scale.
        explanation: the answer's own; the whole answer if it has none.
    """

    numbers: dict[str, int]
    explanation: str


def read_answer(text: str, scales: Mapping[str, range]) -> Answer | None:
    """Read the JSON object that has a number for every scale.

    Code fences, text around the object and thoughts before ``</think>`` are read past. Where several objects
    fit, such as the answer and a verdict that the judged reply dictates, they must say the same.

    Args:
        text: the model's answer.
        scales: by name, the numbers allowed.

    Returns:
        The answer; None if there is none, it contradicts itself, or a number is not on its scale.
    """
    fitting = [
        found for found in _objects(text.rpartition("</think>")[2]) if all(name in found for name in scales)
    ]
    answers = [{name: _number(found[name], scale) for name, scale in scales.items()} for found in fitting]
    if not answers or any(other != answers[0] for other in answers):
        return None
    numbers = {name: number for name, number in answers[0].items() if number is not None}
    if len(numbers) < len(scales):
        return None
    return Answer(numbers, str(fitting[-1].get("explanation") or text).strip())


def _objects(text: str) -> Iterator[dict[str, Any]]:
    place = text.find("{")
    while place >= 0:
        try:
            found, place = _DECODER.raw_decode(text, place)
            yield found
        except (ValueError, RecursionError):
            place += 1
        place = text.find("{", place)


def _number(value: object, scale: range) -> int | None:
    """The number as an int; 3.0 and "3" are 3, true and false are numbers on a scale of 0 and 1 only."""
    if isinstance(value, bool) and scale != range(2):
        return None
    return next((number for number in scale if value in (number, str(number))), None)
