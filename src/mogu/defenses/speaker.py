"""A language model that continues prompts of token ids: all of its reply, or which of two words that begins with."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from mogu.chat import Message, batch_left_pad, batches_of_like_lengths, encode_chat
from mogu.generation import Mode, MoguModel
from mogu.generation.reply import end_and_pad_ids, written_length

LOOKED_AT = 4
"""How many tokens of a reply may come up to the word that is looked for: line breaks, "Safety:"."""


class Verdict(NamedTuple):
    """Which of two words a reply begins with.

    Attributes:
        share: p(word) / (p(word) + p(other)), 0 to 1, at the token where the reply says one of them, or at its first
            token if it says neither.
        tokens: how many tokens were generated up to there.
    """

    share: float
    tokens: int


class _Batch(NamedTuple):
    """Which prompts, what was written after them ``(prompts, steps)``, and each step's logits if asked for."""

    rows: list[int]
    written: Tensor
    logits: tuple[Tensor, ...] | None


class Speaker:
    """A model that continues prompts greedily, in batches of like lengths.

    Args:
        model: the language model.
        tokenizer: its tokenizer, with a chat template.
        generate: called as the model's own `generate`, which it is by default.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        generate: Callable[..., Any] | None = None,
    ) -> None:
        self.tokenizer = tokenizer
        self._device = model.device
        self._generate: Any = model.generate if generate is None else generate
        self._ends, self._pad = end_and_pad_ids(model.generation_config, tokenizer)

    @classmethod
    def of(cls, mogu: MoguModel, mode: Mode = "base") -> "Speaker":
        """A hardened model in one of its modes."""
        return cls(mogu.model, mogu.tokenizer, partial(mogu.generate, mode=mode))

    def write(self, prompts: Sequence[list[int]], max_new_tokens: int, batch_size: int) -> list[list[int]]:
        """The reply to each prompt, in their order: token ids, the end token included."""
        replies: dict[int, list[int]] = {}
        for batch in self._batches(prompts, max_new_tokens, batch_size):
            for row, ids in zip(batch.rows, batch.written.tolist(), strict=True):
                replies[row] = ids[: written_length(ids, self._ends, self._pad)]
        return [replies[row] for row in range(len(prompts))]

    def first_logits(self, prompts: Sequence[list[int]], batch_size: int) -> Tensor:
        """Logits ``(prompts, vocabulary)`` float32 of each reply's first token, on the CPU."""
        rows: dict[int, Tensor] = {}
        for batch in self._batches(prompts, 1, batch_size, output_logits=True):
            assert batch.logits is not None
            rows.update(zip(batch.rows, batch.logits[0].float().cpu(), strict=True))
        return torch.stack([rows[row] for row in range(len(prompts))])

    def weigh(self, prompts: Sequence[list[int]], word: str, other: str, batch_size: int) -> list[Verdict]:
        """Which of two words the reply to each prompt begins with, in the prompts' order.

        Args:
            prompts: token ids up to where the reply begins.
            word: lower case; it counts capitalised and in capitals too, with and without a space before it.
            other: likewise; it must begin with another letter.
            batch_size: prompts at a time.
        """
        words, others = self._beginnings(word), self._beginnings(other)
        # A token that begins both, such as a space of its own, says nothing.
        ids, other_ids = (
            torch.tensor(sorted(some), device=self._device) for some in (words - others, others - words)
        )
        verdicts: dict[int, Verdict] = {}
        for batch in self._batches(prompts, LOOKED_AT, batch_size, output_logits=True):
            assert batch.logits is not None
            said = torch.isin(batch.written, torch.cat([ids, other_ids]))
            steps = said.int().argmax(dim=1)  # the first step that says one, 0 if none does
            logits = torch.stack(batch.logits, dim=1)[
                torch.arange(len(steps), device=self._device), steps
            ].float()
            shares = torch.sigmoid(logits[:, ids].logsumexp(1) - logits[:, other_ids].logsumexp(1))
            found = map(Verdict, shares.tolist(), (steps + 1).tolist())
            verdicts.update(zip(batch.rows, found, strict=True))
        return [verdicts[row] for row in range(len(prompts))]

    def _batches(
        self, prompts: Sequence[list[int]], max_new_tokens: int, batch_size: int, **settings: Any
    ) -> Iterator[_Batch]:
        for rows in batches_of_like_lengths(prompts, batch_size):
            ids, mask = batch_left_pad([prompts[row] for row in rows], self._pad)
            output = self._generate(
                ids.to(self._device),
                attention_mask=mask.to(self._device),
                max_new_tokens=max_new_tokens,
                do_sample=False,
                eos_token_id=self._ends,
                pad_token_id=self._pad,
                return_dict_in_generate=True,
                **settings,
            )
            yield _Batch(rows, output.sequences[:, ids.shape[1] :], output.get("logits"))

    def _beginnings(self, word: str) -> set[int]:
        """The tokens that a reply may begin with to say a word."""
        asked = [Message(role="user", content="Hello")]
        spellings = (word, word.capitalize(), word.upper())
        openers = [space + spelling for space in ("", " ") for spelling in spellings]
        chats = [encode_chat(self.tokenizer, asked, opener) for opener in openers]
        return {chat.ids[chat.reply_start] for chat in chats}
