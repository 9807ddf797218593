"""How far defenses move the first token of a reply."""

from collections.abc import Mapping, Sequence
from functools import cached_property

import torch
from torch import Tensor

from mogu.defenses.base import Defense, Host, Talk
from mogu.errors import MoguError


class FirstTokens:
    """The first tokens of replies to the talks of some sets.

    Args:
        host: the base.
        talks: by set, at least one each.
    """

    def __init__(self, host: Host, talks: Mapping[str, Sequence[Talk]]) -> None:
        self._host = host
        self._talks = talks

    @cached_property
    def of_base(self) -> dict[str, Tensor] | str:
        """By set the base's logits ``(talks, vocabulary)``, or why there are none.

        To be asked for first while no defense is in the base.
        """
        return self._logits(self._host)

    def divergence(self, defense: Defense) -> dict[str, float] | str:
        """By set the mean KL(base || defense) in nats, or why there is none.

        Args:
            defense: entered; `of_base` has been asked for before.
        """
        base = self.of_base
        if isinstance(base, str):
            return base
        logits = self._logits(defense)
        if isinstance(logits, str):
            return logits
        values = {name: divergence(base[name], logits[name]) for name in logits}
        return {name: sum(each) / len(each) for name, each in values.items()}

    def _logits(self, who: Host | Defense) -> dict[str, Tensor] | str:
        try:
            return {name: who.first_logits(talks) for name, talks in self._talks.items()}
        except MoguError as error:
            return str(error)


def divergence(base: Tensor, other: Tensor) -> list[float]:
    """KL(base || other) of each row in nats.

    Args:
        base: logits ``(rows, vocabulary)``.
        other: the same shape.
    """
    return [_divergence(*pair) for pair in zip(base, other, strict=True)]


def _divergence(base: Tensor, other: Tensor) -> float:
    shares, others = (logits.double().log_softmax(-1) for logits in (base, other))
    return float(torch.nn.functional.kl_div(others, shares, reduction="sum", log_target=True))
