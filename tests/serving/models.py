"""The tiny gated model with the marks of its chat template, and engines that write with it."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from mogu.generation import MoguModel
from mogu.serving.engine.loop import Engine
from mogu.turns import TurnMarks
from tests.generation.gated import gated
from tests.serving.http.live import Live, served


def chat_model(reply_threshold: float | None = None) -> MoguModel:
    """A float64 model whose gate knows where the turns of the tiny tokenizer's template are."""
    model = gated(reply_threshold=reply_threshold)
    gate = model.config.gate.model_copy(update={"marks": TurnMarks.of(model.tokenizer)})
    config = model.config.model_copy(update={"gate": gate})
    return MoguModel(model.model, model.tokenizer, model.adapter, config)


@contextmanager
def served_model(model: MoguModel, *, engine: dict[str, Any] | None = None, **options: Any) -> Iterator[Live]:
    """Serve a model; `engine` goes to its engine, the other options to the app."""
    writer = Engine(model, **(engine or {}))
    writer.start()
    try:
        with served(writer, model.tokenizer, **options) as live:
            yield live
    finally:
        writer.close(0)
