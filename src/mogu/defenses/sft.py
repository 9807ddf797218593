"""Supervised fine-tuning: the plainest trained defense, which the MoGU paper compares with."""

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Self

from torch import Tensor

from mogu.data.pairs import wrap_share
from mogu.data.requests import Label, Request
from mogu.defenses.base import Answer, Defense, Host, Progress, Talk
from mogu.defenses.examples import REFUSALS, benign_examples, english_requests, refusal_examples
from mogu.defenses.finetune import train_lora, with_lora

BENIGN = 2 * REFUSALS
"""Benign requests, three of five of which look dangerous. With no more than the refusals, a small base refused half of
all benign requests."""

WRAPPED = 0.12
"""Share of the requests of either label that is put into frames, as the presets of token routing do."""


class SupervisedFinetuning(Defense):
    """A LoRA trained to refuse malicious requests and to answer benign ones as the base does; no routing.

    The MoGU paper's SFT (section 4). As there it learns what MoGU learns, here from fewer requests: direct ones and
    such in frames, refusals and the base's own replies.
    """

    paper = "SFT baseline of MoGU, Du et al. 2024, arXiv 2405.14488"
    trained = True

    def __init__(self, host: Host, argument: str = "") -> None:
        super().__init__(host, argument)
        self._folder = host.work / f"sft-{host.seed}"
        self._inside = ExitStack()

    def prepare(self, progress: Progress) -> None:
        """Train the LoRA, unless its folder is there."""
        if not self._folder.exists():
            refused, answered = self._requests("malicious", REFUSALS), self._requests("benign", BENIGN)
            examples = [
                *refusal_examples(refused, self.host.seed),
                *benign_examples(self.host, answered, progress),
            ]
            train_lora(self.host, self._folder, examples, progress)

    def _requests(self, label: Label, count: int) -> list[Request]:
        seed = self.host.seed
        return wrap_share(english_requests(label, "train", count, seed), WRAPPED, "train", seed)

    def __enter__(self) -> Self:
        self._inside.enter_context(with_lora(self.host, self._folder))
        return self

    def __exit__(self, *_: object) -> None:
        self._inside.close()

    def first_logits(self, talks: Sequence[Talk]) -> Tensor:
        """The fine-tuned base's."""
        return self.host.first_logits(talks)

    def reply(self, talks: Sequence[Talk], max_new_tokens: int) -> list[Answer]:
        """What the fine-tuned base says; it does not tell when it steps in."""
        return self.host.base_replies(talks, max_new_tokens)
