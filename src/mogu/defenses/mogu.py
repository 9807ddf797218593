"""MoGU itself: the adapter under test, or another one of the same base."""

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Self

from torch import Tensor

from mogu.adapter.folder import load_adapter, read_config
from mogu.defenses.bare import bare_base
from mogu.defenses.base import Answer, Defense, Host, Talk, first_logits
from mogu.errors import AdapterError
from mogu.generation import MoguModel


class MoguDefense(Defense):
    """A MoGU adapter's routing; with an argument, that of the adapter in this folder, made for the same base.

    The other adapter takes the place of the one under test while the defense is entered: there is one base in memory.

    Raises:
        AdapterError: if the argument is no adapter's folder, or that adapter needs another chat template.
    """

    paper = "MoGU, Du et al. 2024, arXiv 2405.14488, and this project's sequence routing"

    def __init__(self, host: Host, argument: str = "") -> None:
        super().__init__(host, argument)
        self._mogu = host.mogu
        self._inside = ExitStack()
        if argument and read_config(Path(argument)).chat_template != host.mogu.config.chat_template:
            raise AdapterError(
                f"{argument} was trained with another chat template than the adapter under test: compare it alone"
            )

    @property
    def identity(self) -> str:
        """The hash of the other adapter's configuration."""
        return read_config(Path(self.argument)).sha256 if self.argument else ""

    def __enter__(self) -> Self:
        """Attach the other adapter, if there is one.

        Raises:
            AdapterError: if its folder is damaged, or is not of this base; the one under test is attached then.
        """
        if self.argument:
            with ExitStack() as inside:
                mogu = self.host.mogu
                model = inside.enter_context(bare_base(mogu.adapter))
                adapter, config = load_adapter(Path(self.argument), model, mogu.config.base)
                inside.callback(adapter.detach)
                self._mogu = MoguModel(model, mogu.tokenizer, adapter, config)
                self._inside = inside.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._inside.close()
        self._mogu = self.host.mogu

    def reply(self, talks: Sequence[Talk], max_new_tokens: int) -> list[Answer]:
        """Replies with routing.

        Flagged are those of which the safe variant wrote a part, or in token routing those whose routed tokens give it
        more than half the weight, which is then their score.
        """
        mogu = self._mogu
        replies = mogu.reply(
            [talk.messages for talk in talks],
            opener=[talk.opener for talk in talks],
            max_new_tokens=max_new_tokens,
            batch_size=self.host.batch_size,
        )
        if mogu.config.weights == "token":
            return [Answer(r.text, r.tokens, r.safe_weight > 0.5, r.safe_weight) for r in replies]
        return [Answer(r.text, r.tokens, r.safe_weight > 0, r.score) for r in replies]

    def first_logits(self, talks: Sequence[Talk]) -> Tensor:
        """Those of the routed model."""
        return first_logits(self._mogu, talks, "mogu", self.host.batch_size)
