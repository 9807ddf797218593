"""No defense: the base itself, which every other one is compared with."""

from collections.abc import Sequence

from torch import Tensor

from mogu.defenses.base import Answer, Defense, Talk


class NoDefense(Defense):
    """The base model as it is."""

    paper = "the undefended base model"

    def reply(self, talks: Sequence[Talk], max_new_tokens: int) -> list[Answer]:
        """What the base says."""
        return self.host.base_replies(talks, max_new_tokens)

    def first_logits(self, talks: Sequence[Talk]) -> Tensor:
        """The base's."""
        return self.host.first_logits(talks)
