"""What the gate learns from, computed once by the base: the choice of layers, and their hidden states."""

import random
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from mogu.adapter.gate import normalised
from mogu.data.pairs import in_last_turn
from mogu.data.requests import Request
from mogu.training.gate_fit import Reading, separability
from mogu.training.loop import Progress
from mogu.training.preparation import Prompt
from mogu.training.recording import Recorder
from mogu.turns import TurnMarks

LAYERS = 2
"""Layers that a gate reads."""

LOWEST_LAYER = 0.3
"""Share of the layers, from below, that are no candidates: they hold words rather than meaning."""

APART = 0.1
"""The least distance between two layers that are read, as a share of all: neighbours say the same."""

NOISE_TOKENS = (8, 24)
"""Length of a random suffix."""

READ_TOKENS = 2_000
"""Tokens of one batch."""


def with_noise(requests: Sequence[Request], tokenizer: PreTrainedTokenizerBase, seed: int) -> list[Request]:
    """The same requests; those of the group `noise` with random tokens behind, as suffix attacks put them there.

    Args:
        requests: of any group.
        tokenizer: whose vocabulary the tokens are from.
        seed: of the tokens.
    """
    return [_noisy(request, tokenizer, seed) if request.group == "noise" else request for request in requests]


def _noisy(request: Request, tokenizer: PreTrainedTokenizerBase, seed: int) -> Request:
    rng = random.Random(f"{seed}/{request.id}")
    tokens = [rng.randrange(tokenizer.vocab_size) for _ in range(rng.randint(*NOISE_TOKENS))]
    text = f"{request.text} {tokenizer.decode(tokens, skip_special_tokens=True)}"
    return in_last_turn(request, text)


def choose_layers(
    recorder: Recorder, marks: TurnMarks, prompts: Sequence[Prompt], seed: int, progress: Progress
) -> tuple[list[int], list[float]]:
    """The layers where benign and malicious requests separate best, apart from one another (MoGU v2).

    Args:
        recorder: of the base.
        marks: of the chat template.
        prompts: of both labels, such as those of validation.
        seed: of the folds.
        progress: called after each batch.

    Returns:
        The layers in ascending order, and the AUROC of every layer (0 for those that are no candidates).
    """
    count = len(recorder.layers)
    candidates = list(range(int(count * LOWEST_LAYER), count))
    pooled: dict[int, torch.Tensor] = {}
    for batch in _batches(prompts, marks, progress):
        hidden = recorder.hidden([prompts[i].ids for i in batch.rows], batch.starts, candidates)
        for row, states in zip(batch.rows, hidden, strict=True):
            even = normalised(states.float())
            pooled[row] = torch.cat((even.mean(1), even[:, -1]), dim=-1).cpu()  # (layers, 2 features)
    stacked = torch.stack([pooled[row] for row in range(len(prompts))]).numpy()
    malicious = np.array([prompt.request.label == "malicious" for prompt in prompts])
    scores = [0.0] * count
    for index, layer in enumerate(candidates):
        scores[layer] = round(separability(stacked[:, index], malicious, seed), 4)
    chosen: list[int] = []
    for layer in sorted(candidates, key=lambda layer: -scores[layer]):
        if len(chosen) < LAYERS and all(abs(layer - other) >= APART * count for other in chosen):
            chosen.append(layer)
    return sorted(chosen), scores


def read_conversations(
    recorder: Recorder,
    marks: TurnMarks,
    prompts: Sequence[Prompt],
    layers: Sequence[int],
    progress: Progress,
) -> list[Reading]:
    """What some layers hold of each prompt, from where the gate begins to read.

    Args:
        recorder: of the base.
        marks: of the chat template.
        prompts: to read.
        layers: indices of the decoder layers.
        progress: called after each batch.
    """
    readings: dict[int, Reading] = {}
    for batch in _batches(prompts, marks, progress):
        hidden = recorder.hidden([prompts[i].ids for i in batch.rows], batch.starts, layers)
        for row, states in zip(batch.rows, hidden, strict=True):
            prompt, kept = prompts[row], normalised(states.float()).half().cpu()
            request = prompt.request
            readings[row] = Reading(
                kept,
                request.label == "malicious",
                request.twins or request.id,
                request.group,
                attack=request.kind == "jailbreak_frame" or request.group == "noise",
                reply=prompt.reply,
            )
    return [readings[row] for row in range(len(prompts))]


class _Batch(NamedTuple):
    rows: list[int]
    starts: list[int]


def _batches(prompts: Sequence[Prompt], marks: TurnMarks, progress: Progress) -> Iterator[_Batch]:
    """Batches of like lengths, and where the gate begins to read each of their prompts."""
    order = sorted(range(len(prompts)), key=lambda row: len(prompts[row].ids))
    done = 0
    while done < len(order):
        count = 1
        while (
            done + count < len(order) and (count + 1) * len(prompts[order[done + count]].ids) <= READ_TOKENS
        ):
            count += 1
        rows = order[done : done + count]
        yield _Batch(rows, [_reading_start(marks, prompts[row]) for row in rows])
        done += count
        progress(done, len(order))


def _reading_start(marks: TurnMarks, prompt: Prompt) -> int:
    """Where the gate begins to read a prompt, whatever its reply holds."""
    return marks.reading_start(prompt.ids[: len(prompt.ids) - prompt.reply])
