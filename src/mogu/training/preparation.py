"""Requests to training examples: the base's own replies, and what it computes once of every prompt and reply."""

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple, TypeVar

import torch
from transformers import PreTrainedTokenizerBase

from mogu.chat import Message, encode_chat, folded
from mogu.data.pairs import importance_of, opener_to, refusal_to
from mogu.data.requests import Request
from mogu.errors import MoguError
from mogu.files import read_grown_jsonl
from mogu.training.loop import Progress, batches_of
from mogu.training.recording import Record, Recorder
from mogu.training.settings import TrainingSettings
from mogu.training.stage import Example

T = TypeVar("T")


class Prompt(NamedTuple):
    """A request and its token ids up to where the reply begins, or on into the reply.

    Attributes:
        request: the request.
        ids: its token ids.
        reply: how many of them, the last ones, are the base's reply.
    """

    request: Request
    ids: list[int]
    reply: int = 0


def encode_requests(tokenizer: PreTrainedTokenizerBase, requests: Sequence[Request]) -> list[Prompt]:
    """The prompts of some requests, in their order.

    Where a template refuses a system message, or two user turns in a row, they are one turn.
    """
    return [Prompt(request, _encode_tolerantly(tokenizer, request.messages)) for request in requests]


def _encode_tolerantly(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message]) -> list[int]:
    try:
        return encode_chat(tokenizer, messages).ids
    except MoguError:
        turns = folded(messages)
        if turns == messages:
            raise
        return encode_chat(tokenizer, turns).ids


def base_replies(
    recorder: Recorder,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Prompt],
    tokens: int,
    batch_size: int,
    kept: Path,
    progress: Progress,
) -> dict[str, list[int]]:
    """The base's own greedy reply to each prompt, the glad reply to a benign request.

    Args:
        recorder: of the base, or of the wrapped model with routing off.
        tokenizer: its tokenizer.
        prompts: what to reply to.
        tokens: length at most.
        batch_size: prompts at a time.
        kept: a file that takes each batch as it is done; what is in it already is not generated again.
        progress: called after each batch.

    Returns:
        Token ids by request id, the end token included where the reply ended.
    """
    model = recorder.model
    replies: dict[str, list[int]] = {row["id"]: row["ids"] for row in read_grown_jsonl(kept)}
    ordered = sorted(prompts, key=lambda prompt: len(prompt.ids))
    end = model.generation_config.eos_token_id
    if end is None:  # some models have no generation config, or one that leaves it out
        end = tokenizer.eos_token_id
    ends = set(end) if isinstance(end, list) else {end}
    for start in range(0, len(ordered), batch_size):
        batch = ordered[start : start + batch_size]
        if all(prompt.request.id in replies for prompt in batch):
            continue
        # A batch is generated whole or not at all, so that a run that goes on pads as one that was not killed.
        beginning = recorder.begin([prompt.ids for prompt in batch])
        generated = model.generate(  # type: ignore[operator]
            **beginning._asdict(),
            max_new_tokens=tokens,
            do_sample=False,
            temperature=None,
            top_p=None,
            top_k=None,
            eos_token_id=end,
            pad_token_id=tokenizer.pad_token_id,
        )[:, beginning.input_ids.shape[1] :]
        with kept.open("a", encoding="utf-8") as file:
            for prompt, row in zip(batch, generated.tolist(), strict=True):
                length = next((i + 1 for i, token in enumerate(row) if token in ends), len(row))
                replies[prompt.request.id] = row[:length]
                file.write(json.dumps({"id": prompt.request.id, "ids": row[:length]}) + "\n")
        progress(start + len(batch), len(ordered))
    return replies


BEGUN_TOKENS = {"start": (0, 0), "opener": (1, 8), "middle": (9, 64)}
"""Where the safe variant must be able to begin: tokens of the base's reply before it, by place (at least, at most)."""

PLACES = ("start", "opener", "start", "middle")
"""Where each request's refusal begins, in turn."""

REPLY_BATCH = 48
"""Prompts at a time when the base writes its own replies: decoding gains more from large batches than training."""


def number_prompts(prompts: Sequence[Prompt]) -> list[Prompt]:
    """The same prompts with their places as ids: one request may stand in several frames, all under its own."""
    return [
        prompt._replace(request=replace(prompt.request, id=str(row))) for row, prompt in enumerate(prompts)
    ]


class BegunReply(NamedTuple):
    """The base's own reply to a prompt, and how much of it stands when a refusal begins.

    Attributes:
        ids: token ids of the reply, without an end token; empty if the refusal begins at once.
        begun: how many of them stand before the refusal.
    """

    ids: list[int]
    begun: int

    @property
    def said(self) -> list[int]:
        """What stands before the refusal."""
        return self.ids[: self.begun]


def begun_replies(
    recorder: Recorder,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Prompt],
    settings: TrainingSettings,
    work: Path,
    progress: Progress,
) -> list[BegunReply]:
    """What the base has already said when the refusal of each prompt begins: nothing, an opener, or more.

    Args:
        recorder: of the base, or of the wrapped model with routing off.
        tokenizer: its tokenizer.
        prompts: of both labels.
        settings: the seed, and how much of a reply the gate reads.
        work: a folder that takes the base's replies as they are done.
        progress: called after each batch.

    Returns:
        The replies, in the order of the prompts: long ones where the refusal begins in the middle.
    """
    rng = random.Random(settings.seed)
    places = [PLACES[index % len(PLACES)] for index in range(len(prompts))]
    replies = [BegunReply([], 0) for _ in prompts]
    numbered = number_prompts(prompts)
    waiting = {place: [i for i, at in enumerate(places) if at == place] for place in ("opener", "middle")}
    done, total = 0, sum(map(len, waiting.values()))
    for place, rows in waiting.items():
        least, most = BEGUN_TOKENS[place]
        longest = max(most, settings.read_reply_tokens or 0) if place == "middle" else most
        written = base_replies(
            recorder,
            tokenizer,
            [numbered[row] for row in rows],
            longest,
            REPLY_BATCH,
            work / f"replies-{place}.jsonl",
            lambda some, _, done=done: progress(done + some, total),  # type: ignore[misc]
        )
        done += len(rows)
        for row in rows:
            reply = written[str(row)][:-1]  # the last token may be the end
            replies[row] = BegunReply(reply, min(len(reply), rng.randint(least, most)))
    return replies


@torch.no_grad()
def record_refusals(
    recorder: Recorder,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Prompt],
    begun: Sequence[BegunReply],
    break_ids: list[int],
    settings: TrainingSettings,
    progress: Progress,
) -> list[Example]:
    """Examples whose only reply is a refusal, behind what the base has already said, in the order of the prompts.

    Args:
        recorder: of the wrapped model, with routing off.
        tokenizer: encodes refusals.
        prompts: of both labels.
        begun: what the base has said.
        break_ids: what stands between that and the refusal.
        settings: the seed of the wordings, the batch size.
        progress: called after each batch.
    """
    heads, refusals = [], []
    for prompt, reply in zip(prompts, begun, strict=True):
        said = reply.said
        rng = random.Random(f"{settings.seed}/{prompt.request.id}/{prompt.request.text}")
        refusal = [*_encode(tokenizer, refusal_to(prompt.request, rng)), tokenizer.eos_token_id]
        heads.append([*prompt.ids, *said])
        refusals.append([*break_ids, *refusal] if said else refusal)
    records = _records(recorder, heads, [(refusal,) for refusal in refusals], settings, progress)
    return [
        Example(head, (refusal,), prompt.request.label == "malicious", record)
        for prompt, head, refusal, record in zip(prompts, heads, refusals, records, strict=True)
    ]


@torch.no_grad()
def record_examples(
    recorder: Recorder,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Prompt],
    glad: dict[str, list[int]],
    settings: TrainingSettings,
    progress: Progress,
) -> list[Example]:
    """The examples of some prompts, in their order.

    Args:
        recorder: of the wrapped model, with routing off.
        tokenizer: encodes refusals and openers.
        prompts: of malicious and benign requests.
        glad: the base's replies to the benign ones, by request id.
        settings: the seed of the wordings, the routed prompt tokens, the batch size.
        progress: called after each batch.
    """
    end = [tokenizer.eos_token_id]
    replies: list[tuple[list[int], list[int]]] = []
    for prompt in prompts:
        request = prompt.request
        rng = random.Random(f"{settings.seed}/{request.id}/{request.text}")
        refusal = _encode(tokenizer, refusal_to(request, rng)) + end
        opener = (
            _encode(tokenizer, opener_to(request, rng)) if request.label == "malicious" else glad[request.id]
        )
        replies.append((refusal, opener))
    records = _records(recorder, [prompt.ids for prompt in prompts], replies, settings, progress)
    return [
        Example(
            prompt.ids,
            reply,
            prompt.request.label == "malicious",
            record,
            importance_of(prompt.request) if settings.weigh_by_kind else 1.0,
        )
        for prompt, reply, record in zip(prompts, replies, records, strict=True)
    ]


def _records(
    recorder: Recorder,
    heads: Sequence[list[int]],
    replies: Sequence[tuple[list[int], ...]],
    settings: TrainingSettings,
    progress: Progress,
) -> list[Record]:
    """What the base computes of each head and its replies, in their order; recorded in batches of like lengths."""
    routed = None if settings.gradient_checkpointing else settings.routed_prompt_tokens
    order = sorted(range(len(heads)), key=lambda row: len(heads[row]))
    records: dict[int, Record] = {}
    for rows in batches_of(order, settings.batch_size):
        found = recorder.record([heads[row] for row in rows], [replies[row] for row in rows], routed)
        records.update(zip(rows, found, strict=True))
        progress(len(records), len(order))
    return [records[row] for row in range(len(heads))]


def first_of_each_label(rows: Sequence[T], malicious: Callable[[T], bool], most: int | None) -> list[T]:
    """The first rows of each label, malicious ones before; the rows of a label are in random order.

    Args:
        rows: of both labels.
        malicious: says the label of a row.
        most: how many of each label; None for all.
    """
    return [row for label in (True, False) for row in [row for row in rows if malicious(row) == label][:most]]


def _encode(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False)["input_ids"]
