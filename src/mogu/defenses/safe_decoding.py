"""SafeDecoding: the first reply tokens are drawn towards a model that was trained to refuse, the base goes on."""

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any, Self

import torch
from torch import Tensor
from transformers import DynamicCache

from mogu.chat import batch_left_pad, batches_of_like_lengths, encode_chat
from mogu.defenses.base import Answer, Defense, Host, Progress, Talk
from mogu.defenses.examples import REFUSALS, english_requests, refusal_examples
from mogu.defenses.finetune import train_lora, with_lora
from mogu.errors import MoguError
from mogu.generation.reply import end_and_pad_ids, written_length


class SafeDecoding(Defense):
    """The algorithm of the paper (sections 4.2 and 4.3), batched.

    An expert, the base with a LoRA trained on refusals to malicious requests, reads along for the first m reply tokens.
    Each of them is the one of the highest probability ``p_base + alpha (p_expert - p_base)`` among the tokens that both
    rank high. Then the base goes on from its own cache.

    Attributes:
        first_tokens: m; 0 is the base.
        alpha: how far probabilities are drawn towards the expert's and beyond; from 0, where the base's first choice
            among the common tokens is taken.
        common: c, how many common tokens there are to choose from, at least.
    """

    paper = "SafeDecoding, Xu et al. 2024, arXiv 2402.08983"
    trained = True
    first_tokens = 2
    alpha = 3.0
    common = 5

    def __init__(self, host: Host, argument: str = "") -> None:
        super().__init__(host, argument)
        self._folder = host.work / f"safe_decoding-{host.seed}"
        self._inside = ExitStack()
        self._lora: Any = None

    def prepare(self, progress: Progress) -> None:
        """Train the expert, unless its folder is there."""
        if not self._folder.exists():
            seed = self.host.seed
            requests = english_requests("malicious", "train", REFUSALS, seed)
            train_lora(self.host, self._folder, refusal_examples(requests, seed), progress)

    def __enter__(self) -> Self:
        self._lora = self._inside.enter_context(with_lora(self.host, self._folder))
        return self

    def __exit__(self, *_: object) -> None:
        self._lora = None
        self._inside.close()

    def reply(self, talks: Sequence[Talk], max_new_tokens: int) -> list[Answer]:
        """Answer in batches of like lengths; flagged are replies that begin with other tokens than the base's."""
        prompts = [encode_chat(self.host.mogu.tokenizer, talk.messages, talk.opener).ids for talk in talks]
        answers: dict[int, Answer] = {}
        for rows in batches_of_like_lengths(prompts, self.host.batch_size):
            written = self._answer([prompts[row] for row in rows], max_new_tokens)
            answers.update(zip(rows, written, strict=True))
        return [answers[row] for row in range(len(talks))]

    def first_logits(self, talks: Sequence[Talk]) -> Tensor:
        """There are none: it draws from a few tokens only.

        Raises:
            MoguError: always.
        """
        raise MoguError("without bound: it draws from a few common tokens")

    def _answer(self, prompts: list[list[int]], max_new_tokens: int) -> list[Answer]:
        mogu = self.host.mogu
        end, pad = end_and_pad_ids(mogu.model.generation_config, mogu.tokenizer)
        ids, mask = (tensor.to(mogu.model.device) for tensor in batch_left_pad(prompts, pad))
        width = ids.shape[1]
        text_config = mogu.model.config.get_text_config(decoder=True)
        base_cache, expert_cache = (DynamicCache(config=text_config) for _ in range(2))

        def go_on(cache: DynamicCache, **settings: Any) -> Any:
            """What is generated next, after what is new to the cache has been read."""
            return mogu.generate(
                ids,
                mask,
                mode="base",
                past_key_values=cache,
                do_sample=False,
                eos_token_id=end,
                pad_token_id=pad,
                return_dict_in_generate=True,
                **settings,
            )

        changed = torch.zeros_like(ids[:, :0], dtype=torch.bool)  # (rows, steps)
        for _ in range(min(self.first_tokens, max_new_tokens)):
            expert = go_on(expert_cache, max_new_tokens=1, output_scores=True).scores[0]
            with self._lora.disable_adapter():
                base = go_on(base_cache, max_new_tokens=1, output_scores=True).scores[0]
            token = safe_tokens(base, expert, self.alpha, self.common)[:, None]
            changed = torch.cat((changed, token != base.argmax(-1, keepdim=True)), dim=1)
            ids, mask = torch.cat((ids, token), dim=1), torch.cat((mask, torch.ones_like(token)), dim=1)
        if rest := max_new_tokens - changed.shape[1]:
            with self._lora.disable_adapter():
                ids = go_on(base_cache, max_new_tokens=rest).sequences
        answers = []
        for row, steps in zip(ids[:, width:].tolist(), changed.tolist(), strict=True):
            # A row may have ended among the first tokens: what was written behind its end is cut off.
            length = written_length(row, end, pad)
            text = str(mogu.tokenizer.decode(row[:length], skip_special_tokens=True))
            answers.append(Answer(text, length, flagged=any(steps[:length])))
        return answers


def safe_tokens(base: Tensor, expert: Tensor, alpha: float, common: int) -> Tensor:
    """The next token of each row: the most probable one of the paper's distribution over its sample space.

    Args:
        base: ``(rows, vocabulary)``, logits.
        expert: the same shape.
        alpha: from 0.
        common: the sample space are the tokens common to the first k of both, with the smallest k that makes them at
            least so many.

    Returns:
        ``(rows,)`` token ids.
    """
    # A token is common to the first k of both once the worse of its two ranks is below k.
    worse = torch.maximum(_ranks(base), _ranks(expert))
    outside = worse > worse.kthvalue(common, dim=-1, keepdim=True).values
    base_share, expert_share = base.softmax(-1), expert.softmax(-1)
    drawn = base_share + alpha * (expert_share - base_share)
    # The paper sets negative values to 0 and makes the sum 1, which moves the highest nowhere.
    return drawn.masked_fill(outside, -torch.inf).argmax(-1)


def _ranks(scores: Tensor) -> Tensor:
    """The place of each token in its row, 0 for the most probable."""
    return scores.argsort(dim=-1, descending=True, stable=True).argsort(dim=-1)
