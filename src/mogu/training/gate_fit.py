"""Fits the gate on hidden states that the base computed once: seconds of work, so it can be fitted again and again.

Each layer's probe learns by itself, every way of pooling with a loss of its own, so that one that is strong on the
training data cannot hide the others: those generalise differently to attacks that nobody has seen. Knows tensors and
labels, no model.
"""

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedKFold
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from mogu.adapter.gate import Gate, Probe, looks_at
from mogu.training.loop import Progress

EPOCHS = 12
PROBE_RATE_TIMES_WIDTH = 2.3
"""Learning rate at the start, times the size of a hidden state."""

BATCH_ROWS = 16
BATCH_TOKENS = 12_000
WEIGHT_DECAY = 0.3
DROPOUT = 0.4
"""Share of the features that a row is read without in training: no probe may lean on a few."""

FRAME_PENALTY = 0.01
"""Inverse strength of the penalty on what tells an attack's frame: it must know frames of other groups too."""

UNIT_DROPOUT = 0.2
"""The same of the hidden layer's units."""


@dataclass(frozen=True)
class Reading:
    """One conversation as the gate reads it.

    Attributes:
        hidden: ``(layers, tokens, features)`` float16, of root mean square 1, on the CPU.
        malicious: its label.
        request: names the request, which may stand in several frames and have several readings, and its twin under
            the other label with it.
        frame: the group of frames that it stands in, such as `persona`; empty if it stands in none.
        attack: whether that frame is one of attacks, whatever the label.
        reply: how many of the tokens, the last ones, are the base's reply.
    """

    hidden: Tensor
    malicious: bool
    request: str = ""
    frame: str = ""
    attack: bool = False
    reply: int = 0

    @cached_property
    def mean(self) -> Tensor:
        """``(layers, features)`` float32, the mean over the tokens."""
        return self.hidden.float().mean(1)


class Evidence(NamedTuple):
    """What a gate says of some readings, or of one at several places.

    Attributes:
        logit: ``(rows,)``, without the lift.
        frame: ``(rows,)``, the probability of an attack's frame, 0 to 1.
    """

    logit: np.ndarray
    frame: np.ndarray

    def lifted(self, lift: float) -> np.ndarray:
        """The logits with a lift."""
        return self.logit + lift * self.frame


def fit_gate(
    readings: Sequence[Reading],
    layers: Sequence[int],
    seed: int,
    device: torch.device,
    progress: Progress = lambda done, total: None,
) -> Gate:
    """A gate whose logit is the mean of all pooled scores; calibration makes log-odds of it.

    Args:
        readings: to learn from; their layers are those of `layers`.
        layers: indices of the decoder layers.
        seed: of initial values, order and dropout.
        device: where to compute.
        progress: called after each pass over the readings, of all layers.
    """
    gate = Gate(readings[0].hidden.shape[-1], layers).to(device)
    for index, probe in enumerate(gate.probes):
        assert isinstance(probe, Probe)
        generator = torch.Generator().manual_seed(seed)
        mean, spread = _statistics(readings, index)
        batches = list(_batches(readings, index, mean, spread, device))
        _fit_probe(
            probe,
            batches,
            generator,
            lambda done, index=index: progress(index * EPOCHS + done, len(layers) * EPOCHS),  # type: ignore[misc]
        )
        with torch.no_grad():
            # The probe learned on standardised features; folded, it reads them as they are.
            probe.inner.div_(spread.to(device))
            probe.inner_bias.sub_(probe.inner @ mean.to(device))
    _fit_frame(gate, readings)
    return gate


@torch.no_grad()
def _fit_frame(gate: Gate, readings: Sequence[Reading]) -> None:
    """Teach the gate what an attack's frame looks like, from the mean states of all layers."""
    attack = np.array([reading.attack for reading in readings])
    if attack.all() or not attack.any():
        gate.frame_bias.fill_(float("inf") if attack.all() else float("-inf"))
        return
    means = np.stack([reading.mean.flatten().numpy() for reading in readings])
    centre, spread = means.mean(0), means.std(0) + 1e-6
    fit = LogisticRegression(C=FRAME_PENALTY, max_iter=300, class_weight="balanced")
    fit.fit((means - centre) / spread, attack)
    weights = fit.coef_[0] / spread
    for probe, part in zip(gate.probes, np.split(weights, len(gate.layers)), strict=True):
        assert isinstance(probe, Probe)
        probe.frame.copy_(torch.from_numpy(part))
    gate.frame_bias.fill_(float(fit.intercept_[0] - weights @ centre))


@dataclass
class _Batch:
    x: Tensor  # (rows, tokens, features), padded on the left
    read: Tensor  # (rows, tokens) bool
    label: Tensor  # (rows, 1)


def _fit_probe(
    probe: Probe, batches: list[_Batch], generator: torch.Generator, on_epoch: Callable[[int], None]
) -> None:
    features = probe.inner.shape[1]
    with torch.no_grad():
        probe.inner.copy_(torch.randn(probe.inner.shape, generator=generator) / features**0.5)
        probe.vectors.copy_(torch.randn(probe.vectors.shape, generator=generator) * 0.05)
    rate = PROBE_RATE_TIMES_WIDTH / features
    optimizer = torch.optim.AdamW(probe.parameters(), lr=rate, weight_decay=WEIGHT_DECAY, betas=(0.9, 0.99))
    steps = EPOCHS * len(batches)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / steps)
    for epoch in range(1, EPOCHS + 1):
        for index in torch.randperm(len(batches), generator=generator).tolist():
            batch = batches[index]
            x = _dropped(batch.x, DROPOUT, generator)
            units = _dropped(F.gelu(F.linear(x, probe.inner, probe.inner_bias)), UNIT_DROPOUT, generator)
            # The last score, the frame's, is fitted by itself.
            scores = F.pad(F.linear(units, probe.vectors, probe.offsets), (0, 1))
            pooled = probe.pool(scores, batch.read)  # (rows, 4)
            loss = F.binary_cross_entropy_with_logits(pooled, batch.label.expand_as(pooled))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        on_epoch(epoch)


def _dropped(x: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """``(rows, tokens, features)`` with other features left out in each row, the same for all its tokens."""
    kept = torch.rand(x.shape[0], 1, x.shape[2], generator=generator) >= share
    return x * (kept.to(x) / (1 - share))


def _statistics(readings: Sequence[Reading], index: int) -> tuple[Tensor, Tensor]:
    """Mean and spread ``(features,)`` over the tokens of one layer."""
    total = torch.zeros(readings[0].hidden.shape[-1], dtype=torch.float64)
    squares, count = total.clone(), 0
    for reading in readings:
        x = reading.hidden[index].double()
        total += x.sum(0)
        squares += x.square().sum(0)
        count += x.shape[0]
    mean = total / count
    spread = (squares / count - mean.square()).clamp(min=0).sqrt() + 1e-3
    return mean.float(), spread.float()


def _batches(
    readings: Sequence[Reading], index: int, mean: Tensor, spread: Tensor, device: torch.device
) -> Iterator[_Batch]:
    """Batches of like lengths, standardised."""
    for rows in _by_length(readings):
        x, read = _stacked([readings[row].hidden[index] for row in rows])
        x = torch.where(read[..., None], (x - mean) / spread, 0.0)
        label = torch.tensor([[float(readings[row].malicious)] for row in rows])
        yield _Batch(x.to(device), read.to(device), label.to(device))


def _by_length(readings: Sequence[Reading]) -> Iterator[list[int]]:
    """Indices of readings in batches of like lengths."""
    batch: list[int] = []
    for row in sorted(range(len(readings)), key=lambda row: readings[row].hidden.shape[1]):
        batch.append(row)
        if len(batch) >= BATCH_ROWS or len(batch) * readings[row].hidden.shape[1] >= BATCH_TOKENS:
            yield batch
            batch = []
    if batch:
        yield batch


def _stacked(rows: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """``(tokens, features)`` each to float32 ``(rows, width, features)``, padded on the left, and the mask."""
    x = pad_sequence(list(rows), batch_first=True, padding_side="left").float()
    lengths = torch.tensor([row.shape[0] for row in rows])
    return x, torch.arange(x.shape[1]) >= x.shape[1] - lengths[:, None]


@torch.no_grad()
def evidence_of(gate: Gate, readings: Sequence[Reading]) -> Evidence:
    """What the gate says of some readings, in their order."""
    device = gate.bias.device
    logit, frame = np.zeros(len(readings)), np.zeros(len(readings))
    for rows in _by_length(readings):
        layers = []
        for index in range(len(gate.layers)):
            x, read = _stacked([readings[row].hidden[index] for row in rows])
            layers.append(x.to(device))
        logits, frames = gate.evidence(gate.token_scores(layers), read.to(device))
        logit[rows], frame[rows] = logits.cpu().numpy(), frames.cpu().numpy()
    return Evidence(logit, frame)


@torch.no_grad()
def running_evidence(gate: Gate, reading: Reading) -> Evidence:
    """``(1 + looks,)`` each, what the gate says at the prompt's end and at each look at the reply."""
    layers = [states[None].float().to(gate.bias.device) for states in reading.hidden]
    scores = gate.token_scores(layers)
    prompt = scores.shape[2] - reading.reply
    ends = [prompt, *(prompt + read for read in range(1, reading.reply + 1) if looks_at(read))]
    everything = torch.ones(1, scores.shape[2], dtype=torch.bool, device=scores.device)
    found = [gate.evidence(scores[:, :, :end], everything[:, :end]) for end in ends]
    return Evidence(*(np.array([float(each) for each in part]) for part in zip(*found, strict=True)))


def left_out(
    readings: Sequence[Reading],
    layers: Sequence[int],
    folds: int,
    seed: int,
    device: torch.device,
    progress: Progress = lambda done, total: None,
) -> Iterator[tuple[Gate, list[int]]]:
    """Gates that have not seen some readings, and which; over all folds each reading once.

    A reading in a frame goes to a gate that has seen no frame of that group: attacks of a kind that training never
    saw. No gate has seen the request of a reading that it is for, in whatever frame, nor its twin: one that had would
    know the words by the other label.

    Args:
        readings: as for :func:`fit_gate`.
        layers: indices of the decoder layers.
        folds: gates that are fitted.
        seed: of the folds and the fits.
        device: where to compute.
        progress: called after each fold.
    """
    rng = random.Random(seed)
    fold_of: dict[tuple[str, str], int] = {}
    for keys in (
        sorted({("frame", reading.frame) for reading in readings if reading.frame}),
        sorted({("request", reading.request) for reading in readings if not reading.frame}),
    ):
        rng.shuffle(keys)
        fold_of |= {key: index % folds for index, key in enumerate(keys)}
    places = [
        fold_of["frame", reading.frame] if reading.frame else fold_of["request", reading.request]
        for reading in readings
    ]
    for fold in range(folds):
        held = [index for index, place in enumerate(places) if place == fold]
        unseen = {readings[index].request for index in held}
        rest = [
            reading
            for reading, place in zip(readings, places, strict=True)
            if place != fold and reading.request not in unseen
        ]
        if len({reading.malicious for reading in rest}) < 2:
            # So few requests that they stand in every fold: other readings of one may be seen then.
            rest = [reading for reading, place in zip(readings, places, strict=True) if place != fold]
        yield fit_gate(rest, layers, seed, device), held
        progress(fold + 1, folds)


def likeness_to_others(readings: Sequence[Reading], frame: str) -> float | None:
    """How near the malicious readings in frames of a group come to malicious ones outside of it.

    Returns:
        The median cosine similarity, -1 to 1, of the first layer's mean state to its nearest neighbour's, both less the
        mean of all: near 1, the group is a copy of what training has seen. None without rows on both sides.
    """
    malicious = [reading for reading in readings if reading.malicious]
    if not malicious:
        return None
    means = torch.stack([reading.mean[0] for reading in malicious])
    unit = F.normalize(means - means.mean(0), dim=-1)
    inside = torch.tensor([reading.frame == frame for reading in malicious])
    if not bool(inside.any()) or bool(inside.all()):
        return None
    return float((unit[inside] @ unit[~inside].T).amax(1).median())


def separability(pooled: np.ndarray, malicious: np.ndarray, seed: int) -> float:
    """How well a layer tells the labels apart: cross-validated AUROC of a linear map of pooled states (MoGU v2).

    Args:
        pooled: ``(rows, features)``.
        malicious: ``(rows,)`` bool.
        seed: of the folds.
    """
    x = (pooled - pooled.mean(0)) / (pooled.std(0) + 1e-6)
    scores = np.zeros(len(pooled))
    for rest, held in StratifiedKFold(3, shuffle=True, random_state=seed).split(x, malicious):
        fit = LogisticRegression(C=0.003, max_iter=200, tol=1e-2).fit(x[rest], malicious[rest])
        # Without the intercept: it says how many of the rest were malicious, which differs from fold to fold.
        scores[held] = x[held] @ fit.coef_[0]
    return float(roc_auc_score(malicious, scores))
