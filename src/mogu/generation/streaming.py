"""A reply piece by piece: generation in a thread, its text in an iterator. Knows nothing of models."""

from collections.abc import Callable, Iterator
from threading import Event, Thread
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase, StoppingCriteria, TextIteratorStreamer

from mogu.generation.reply import Reply


class _Stop(StoppingCriteria):
    """Ends every row once the event is set."""

    def __init__(self, event: Event) -> None:
        self._event = event

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        return torch.full((input_ids.shape[0],), self._event.is_set(), device=input_ids.device)


class ReplyStream:
    """Iterate over it for the pieces of the reply's text; each iteration generates anew.

    Leaving the iteration early stops the generation, and an error in it is raised to whoever iterates.

    Args:
        tokenizer: decodes the pieces.
        write: runs the generation with a streamer and a stopping criterion.

    Attributes:
        reply: the reply with its weights, as far as it was written, once an iteration has ended.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        write: Callable[[TextIteratorStreamer, StoppingCriteria], Reply],
    ) -> None:
        self.reply: Reply | None = None
        self._tokenizer = tokenizer
        self._write = write

    def __iter__(self) -> Iterator[str]:
        self.reply = None
        streamer = TextIteratorStreamer(self._tokenizer, skip_prompt=True, skip_special_tokens=True)
        stop = Event()
        errors: list[BaseException] = []

        def work() -> None:
            try:
                self.reply = self._write(streamer, _Stop(stop))
            except BaseException as error:
                errors.append(error)
            finally:
                # After an error nobody has ended the text yet; what comes after its end is never read.
                streamer.text_queue.put(streamer.stop_signal)

        thread = Thread(target=work, daemon=True)
        thread.start()
        try:
            yield from filter(None, streamer)
        finally:
            stop.set()
            thread.join()
        if errors:
            raise errors[0]
