"""A defended model as an Inspect model provider: every task that is written for Inspect runs on it unchanged.

    inspect eval inspect_evals/xstest --model mogu/runs/demo/adapter
    inspect eval my_task.py --model mogu/runs/demo/adapter -M defense=self_reminder

Requests that wait at the same time are answered in batches, in a thread of its own; a defense is not asked by two
threads at once.
"""

import asyncio
import queue
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from inspect_ai.model import (
    ChatMessage,
    GenerateConfig,
    ModelAPI,
    ModelOutput,
    ModelUsage,
    modelapi,
)
from inspect_ai.tool import ToolChoice, ToolInfo

from mogu.chat import Message
from mogu.defenses import make_defense
from mogu.defenses.base import Answer, Defense, Host, Talk
from mogu.errors import MoguError
from mogu.generation import MoguModel

MOST_TOKENS = 256
"""Length of a reply if the task gives none."""

IN_FLIGHT = 4
"""Batches' worth of requests that wait at once: like lengths among them go together."""

PATIENCE = 0.05
"""Seconds that a batch waits for further requests."""


@modelapi(name="mogu")
class DefendedModel(ModelAPI):
    """A defense on its base.

    Args:
        model_name: folder of the adapter.
        base_url: has no meaning here.
        api_key: has no meaning here.
        config: as Inspect gives it.
        defense: name of a defense, or one that its caller has made and entered.
        heard: called after each batch with the number of its requests.
        batch_size: of a defense that is given by its name.
        base: other place of the base model; None for where it was in training.
        device: as `load_model` takes it.
        dtype: as `load_model` takes it.
    """

    def __init__(
        self,
        model_name: str,
        base_url: str | None = None,
        api_key: str | None = None,
        config: GenerateConfig = GenerateConfig(),  # noqa: B008 - as Inspect's own providers have it
        *,
        defense: str | Defense = "mogu",
        heard: Callable[[int], None] = lambda replies: None,
        batch_size: int = 32,
        base: str | None = None,
        device: str | None = None,
        dtype: str = "auto",
    ) -> None:
        super().__init__(model_name, base_url, api_key, [], config)
        self._opened = ExitStack()
        if isinstance(defense, str):
            mogu = MoguModel.from_pretrained(model_name, base=base, device=device, dtype=dtype)
            work = Path(self._opened.enter_context(tempfile.TemporaryDirectory()))
            defense = make_defense(defense, Host(mogu, work, batch_size))
            defense.prepare(lambda done, total: None)
            self._opened.enter_context(defense)
        self._batches = _Batches(defense, heard)
        self._opened.callback(self._batches.close)

    async def generate(
        self,
        input: list[ChatMessage],
        tools: list[ToolInfo],
        tool_choice: ToolChoice,
        config: GenerateConfig,
    ) -> ModelOutput:
        """Answer one conversation greedily; a last assistant's message is how the reply begins.

        Raises:
            MoguError: If tools, sampling or several replies are asked for, or the conversation cannot be encoded.
        """
        _check(tools, config)
        talk = Talk.of([Message(role=message.role, content=message.text) for message in input])
        answer, seconds = await asyncio.wrap_future(self._batches.ask(talk, config.max_tokens or MOST_TOKENS))
        text = _until(answer.text, config.stop_seqs or [])
        output = ModelOutput.from_content(self.model_name, text)
        output.usage = ModelUsage(output_tokens=answer.tokens, total_tokens=answer.tokens)
        output.metadata = {"flagged": answer.flagged, "score": answer.score, "seconds": seconds}
        return output

    def max_connections(self) -> int:
        """How many requests may wait at once."""
        return IN_FLIGHT * self._batches.defense.host.batch_size

    def close(self) -> None:
        """Leave the base as it was, and end the thread; a defense that was given stays as it is."""
        self._opened.close()


def _check(tools: list[ToolInfo], config: GenerateConfig) -> None:
    if tools:
        raise MoguError("the task gives tools; this provider answers with text only")
    if config.temperature:
        raise MoguError(f"temperature is {config.temperature}; replies are greedy here: give 0 or none")
    if (config.num_choices or 1) > 1:
        raise MoguError(f"num_choices is {config.num_choices}; replies are greedy here, so give 1")


def _until(text: str, stops: list[str]) -> str:
    """The text up to the first of the stop sequences."""
    places = [place for stop in stops if (place := text.find(stop)) >= 0]
    return text[: min(places, default=len(text))]


@dataclass
class _Waiting:
    talk: Talk
    max_new_tokens: int
    reply: Future[tuple[Answer, float]]


class _Batches:
    """Answers requests of many callers in batches, in a thread of its own."""

    def __init__(self, defense: Defense, heard: Callable[[int], None]) -> None:
        self.defense = defense
        self._heard = heard
        self._waiting: queue.Queue[_Waiting | None] = queue.Queue()
        self._most = IN_FLIGHT * defense.host.batch_size
        self._thread: threading.Thread | None = None

    def ask(self, talk: Talk, max_new_tokens: int) -> Future[tuple[Answer, float]]:
        """The answer that will come, and the seconds that it took: its part of its batch's."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, daemon=True, name="mogu-batches")
            self._thread.start()
        request = _Waiting(talk, max_new_tokens, Future())
        self._waiting.put(request)
        return request.reply

    def close(self) -> None:
        """End the thread when it has answered what waits."""
        if self._thread is not None:
            self._waiting.put(None)
            self._thread.join()
            self._thread = None

    def _run(self) -> None:
        while (first := self._waiting.get()) is not None:
            gathered, ends = self._gather(first)
            # One that was cancelled need not be answered; the others cannot be cancelled from here on.
            batch = [each for each in gathered if each.reply.set_running_or_notify_cancel()]
            for length in dict.fromkeys(request.max_new_tokens for request in batch):
                self._answer([request for request in batch if request.max_new_tokens == length], length)
            if ends:
                return

    def _gather(self, first: _Waiting) -> tuple[list[_Waiting], bool]:
        """What waits now and comes soon after, and whether the thread ends with it."""
        batch = [first]
        while len(batch) < self._most:
            try:
                request = self._waiting.get(timeout=PATIENCE)
            except queue.Empty:
                return batch, False
            if request is None:
                return batch, True
            batch.append(request)
        return batch, False

    def _answer(self, batch: list[_Waiting], max_new_tokens: int) -> None:
        start = time.perf_counter()
        try:
            answers = self.defense.reply([request.talk for request in batch], max_new_tokens)
            answered = list(zip(batch, answers, strict=True))
            self._heard(len(batch))
        except Exception as error:
            if len(batch) == 1:
                batch[0].reply.set_exception(error)
                return
            for request in batch:  # one that cannot be answered must not take the others with it
                self._answer([request], max_new_tokens)
        else:
            seconds = (time.perf_counter() - start) / len(batch)
            for request, answer in answered:
                request.reply.set_result((answer, seconds))
