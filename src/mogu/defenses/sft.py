"""Supervised fine-tuning: the plainest trained defense, which the MoGU paper compares with."""

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Self

from mogu.defenses.base import Answer, Defense, Host, Progress, Talk
from mogu.defenses.examples import benign_examples, refusal_examples
from mogu.defenses.finetune import train_lora, with_lora


class SupervisedFinetuning(Defense):
    """A LoRA trained to refuse malicious requests and to answer benign ones as the base does; no routing.

    The MoGU paper's SFT (section 4), on the examples of `mogu.defenses.examples`.
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
            examples = [*refusal_examples(self.host.seed), *benign_examples(self.host, progress)]
            train_lora(self.host, self._folder, examples, progress)

    def __enter__(self) -> Self:
        self._inside.enter_context(with_lora(self.host, self._folder))
        return self

    def __exit__(self, *_: object) -> None:
        self._inside.close()

    def reply(self, talks: Sequence[Talk], max_new_tokens: int) -> list[Answer]:
        """What the fine-tuned base says; it does not tell when it steps in."""
        return self.host.base_replies(talks, max_new_tokens)
