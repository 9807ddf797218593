"""A hardened model as EleutherAI's lm-eval harness knows models: it writes, or says how likely a text is.

How likely a continuation is, is told by generation too: it is made to write it, and each token's share noted.
"""

import logging
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from math import inf
from typing import Any, Literal, TypeVar

import torch
from lm_eval.models.huggingface import HFLM
from lm_eval.models.utils_hf import stop_sequences_criteria
from torch import Tensor
from tqdm import tqdm
from transformers import LogitsProcessor

from mogu.adapter.gate import READ_EVERY
from mogu.chat import batch_left_pad
from mogu.generation import MoguModel
from mogu.generation.generator import Generated, RoutedGenerator
from mogu.generation.request import RoutingRequest

T = TypeVar("T")

_Pair = tuple[list[int], list[int]]
"""The ids of a context and of its continuation."""

_Answer = tuple[float, bool]
"""A continuation's log-probability, and whether each of its tokens is the likeliest."""

_Request = tuple[tuple[str, str] | None, list[int], list[int]]
"""Two texts, or None for a part of a text that stands for itself, and their ids."""


class MoguLM(HFLM):
    """A hardened model as the harness knows models.

    Where the routed model differs from the base, a continuation's likelihood is that of the routed model when it is
    made to write the continuation: with sequence routing from where the gate has turned it into a refusal, the first
    tokens of refusals forced. Everything else is the base's, of the same forwards as in mode `base`. So are texts
    without a prompt (perplexities): nothing says what they would reply to.

    Args:
        mogu: its one model in memory serves all instances.
        mode: who answers.
        batch_size: rows that are read or answered together.
        threshold: of sequence routing, the probability from which on a reply is a refusal; None for the adapter's.

    Attributes:
        flagged: of sequence routing, the contexts for which the safe variant wrote, or would have written, some of
            what was asked for.
    """

    def __init__(
        self,
        mogu: MoguModel,
        mode: Literal["base", "mogu"],
        batch_size: int = 32,
        threshold: float | None = None,
    ) -> None:
        logger = logging.getLogger(HFLM.__module__)
        logger.disabled = True  # it warns of models that are loaded already, which is the point here
        try:
            super().__init__(mogu.model, backend="causal", tokenizer=mogu.tokenizer, batch_size=batch_size)
        finally:
            logger.disabled = False
        self.flagged: set[str] = set()
        self._gate = mogu.config.gate
        self._request = RoutingRequest(mode, threshold=threshold)
        self._generator = RoutedGenerator(mogu.adapter, mogu.config)
        # Whether what the gate lets pass is the base's.
        self._base_passes = self._gate is not None and "usable" not in mogu.config.parts
        self._contexts: Sequence[str] = ()

    def _loglikelihood_tokens(
        self, requests: list[_Request], disable_tqdm: bool = False, override_bs: int | None = None
    ) -> list[_Answer]:
        answers: list[_Answer] = super()._loglikelihood_tokens(requests, disable_tqdm, override_bs)
        if self._request.mode == "base" or any(texts is None for texts, *_ in requests):
            return answers
        pairs = [
            (context[-(self.max_length + 1 - len(continuation)) :], continuation)
            for _, context, continuation in requests
        ]
        chosen = sorted(self._suspects(pairs), key=lambda index: len(pairs[index][0] + pairs[index][1]))
        batches = list(self._batches(chosen))
        for batch in tqdm(batches, desc="Following routed rows", disable=disable_tqdm or not batches):
            for index, (answer, safe) in zip(batch, self._follow([pairs[i] for i in batch]), strict=True):
                if safe > 0 or not self._base_passes:
                    answers[index] = answer
                self._flag(requests[index][0][0], safe)  # type: ignore[index]  # no request is rolling
        return answers

    def _suspects(self, pairs: Sequence[_Pair]) -> list[int]:
        """Those of which the routed model may write something else than the base."""
        if self._gate is None or not self._base_passes:
            return list(range(len(pairs)))
        thresholds = self._gate.thresholds(self._request.threshold)
        scores: dict[tuple[int, ...], float] = {}
        # Choices share their context.
        for batch in self._batches(sorted({tuple(context) for context, _ in pairs}, key=len)):
            # One token: no more than the contexts is read.
            read = self._generate(*self._padded(batch), max_new_tokens=1)
            scores.update(zip(batch, read.row_scores(len(batch)), strict=True))  # type: ignore[arg-type]
        unread = inf if thresholds.reply is None else READ_EVERY
        return [
            index
            for index, (context, continuation) in enumerate(pairs)
            if scores[tuple(context)] >= thresholds.prompt or len(continuation) > unread
        ]

    def _follow(self, pairs: Sequence[_Pair]) -> list[tuple[_Answer, float]]:
        """Lets the continuations be written; the answers, and the safe variant's mean weight in each."""
        ids, mask = self._padded([context for context, _ in pairs])
        lengths = [len(continuation) for _, continuation in pairs]
        padding = self.tokenizer.pad_token_id
        wanted = torch.tensor(
            [[*reply, *[padding] * (max(lengths) - len(reply))] for _, reply in pairs], device=self.device
        )
        generated = self._generate(
            ids,
            mask,
            max_new_tokens=max(lengths),
            num_beams=1,
            eos_token_id=None,
            logits_processor=[_Dictation(wanted, ids.shape[1])],
            output_logits=True,
        )
        logits = torch.stack(
            generated.output.logits, dim=1
        )  # (rows, tokens, vocabulary), before the dictation
        shares = logits.log_softmax(-1).gather(2, wanted[..., None])[..., 0]
        likeliest = logits.argmax(-1) == wanted
        # A continuation's last token is written, but not read.
        weights = generated.row_weights([ids.shape[1] + length - 1 for length in lengths])
        return [
            ((float(shares[row, :length].sum()), bool(likeliest[row, :length].all())), safe)
            for row, (length, (safe, _)) in enumerate(zip(lengths, weights, strict=True))
        ]

    def tok_batch_encode(self, strings: Sequence[str], *args: Any, **settings: Any) -> tuple[Tensor, Tensor]:
        """Encode prompts as the harness does; they are those that are answered next."""
        self._contexts = strings
        encoded: tuple[Tensor, Tensor] = super().tok_batch_encode(strings, *args, **settings)
        return encoded

    def _model_generate(
        self,
        context: Tensor,
        max_length: int,
        stop: list[str],
        *,
        attention_mask: Tensor,
        **settings: Any,
    ) -> Tensor:
        rows, width = context.shape
        if not settings.get("do_sample"):
            settings.pop("temperature", None)  # the harness says 0, which transformers warns of
        generated = self._generate(
            context,
            attention_mask,
            max_new_tokens=max_length - width,
            stopping_criteria=stop_sequences_criteria(self.tokenizer, stop, width, rows),
            **settings,
        )
        ids: Tensor = generated.output.sequences
        written = [self._written(row, stop) for row in ids[:, width:].tolist()]
        weights = generated.row_weights([width + length - 1 for length in written])
        for text, (safe, _) in zip(self._contexts, weights, strict=True):
            self._flag(text, safe)
        return ids

    def _written(self, row: list[int], stop: Sequence[str]) -> int:
        """How many of a row's tokens stand up to its first stop; a batch goes on until all rows have had one."""

        def stopped(length: int) -> bool:
            text = self.tokenizer.decode(row[:length])
            return any(each in text for each in stop)

        return min(bisect_left(range(len(row) + 1), True, key=stopped), len(row))

    def _generate(self, ids: Tensor, mask: Tensor, **settings: Any) -> Generated:
        settings = {"do_sample": False, "pad_token_id": self.tokenizer.pad_token_id} | settings
        return self._generator.generate(
            ids, mask, self._request, settings | {"return_dict_in_generate": True}
        )

    def _padded(self, prompts: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        ids, mask = batch_left_pad(prompts, self.tokenizer.pad_token_id)
        return ids.to(self.device), mask.to(self.device)

    def _batches(self, rows: Sequence[T]) -> Iterator[Sequence[T]]:
        return (rows[start : start + self.batch_size] for start in range(0, len(rows), self.batch_size))

    def _flag(self, context: str, safe: float) -> None:
        if self._gate is not None and safe > 0:
            self.flagged.add(context)


class _Dictation(LogitsProcessor):
    """Leaves each row one next token: that of the reply which it is made to write.

    Args:
        replies: ``(rows, tokens)`` of ids.
        start: how many tokens the prompts have.
    """

    def __init__(self, replies: Tensor, start: int) -> None:
        self._replies = replies
        self._start = start

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        wanted = self._replies[:, input_ids.shape[1] - self._start, None]
        return torch.full_like(scores, -inf).scatter(1, wanted, 0.0)
