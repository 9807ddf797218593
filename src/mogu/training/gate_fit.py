"""Fits the gate on hidden states that the base computed once: seconds of work, so it can be fitted again and again.

Each layer's probe learns by itself, every way of pooling with a loss of its own, so that one that is strong on the
training data cannot hide the others: those generalise differently to attacks that nobody has seen. Knows tensors and
labels, no model.
"""

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedKFold
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from mogu.adapter.gate import Gate, Probe
from mogu.training.loop import RATE_TIMES_WIDTH, Progress

EPOCHS = 20
BATCH_ROWS = 32
BATCH_TOKENS = 12_000
WEIGHT_DECAY = 0.3
DROPOUT = 0.4
"""Share of the features that a row is read without in training: no probe may lean on a few."""

UNIT_DROPOUT = 0.2
"""The same of the hidden layer's units."""


@dataclass(frozen=True)
class Reading:
    """One conversation as the gate reads it.

    Attributes:
        hidden: ``(layers, tokens, features)`` float16, of root mean square 1, on the CPU.
        malicious: its label.
        group: readings of one group are left out together, such as those of one request in several frames.
    """

    hidden: Tensor
    malicious: bool
    group: str = ""


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
    return gate


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
    rate = RATE_TIMES_WIDTH / features
    optimizer = torch.optim.AdamW(probe.parameters(), lr=rate, weight_decay=WEIGHT_DECAY, betas=(0.9, 0.99))
    steps = EPOCHS * len(batches)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / steps)
    for epoch in range(1, EPOCHS + 1):
        for index in torch.randperm(len(batches), generator=generator).tolist():
            batch = batches[index]
            x = _dropped(batch.x, DROPOUT, generator)
            units = _dropped(F.gelu(F.linear(x, probe.inner, probe.inner_bias)), UNIT_DROPOUT, generator)
            pooled = probe.pool(F.linear(units, probe.vectors, probe.offsets), batch.read)  # (rows, 4)
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
        x, read = _stacked([reading.hidden[index] for reading in rows])
        x = torch.where(read[..., None], (x - mean) / spread, 0.0)
        label = torch.tensor([[float(reading.malicious)] for reading in rows])
        yield _Batch(x.to(device), read.to(device), label.to(device))


def _by_length(readings: Sequence[Reading]) -> Iterator[list[Reading]]:
    batch: list[Reading] = []
    for reading in sorted(readings, key=lambda reading: reading.hidden.shape[1]):
        batch.append(reading)
        if len(batch) >= BATCH_ROWS or len(batch) * reading.hidden.shape[1] >= BATCH_TOKENS:
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
def gate_logits(gate: Gate, readings: Sequence[Reading]) -> np.ndarray:
    """``(readings,)``, the gate's logits."""
    device = gate.bias.device
    logits = {}
    for rows in _by_length(readings):
        layers = []
        for index in range(len(gate.layers)):
            x, read = _stacked([reading.hidden[index] for reading in rows])
            layers.append(x.to(device))
        scores = gate(gate.token_scores(layers), read.to(device))
        logits.update({id(row): float(score) for row, score in zip(rows, scores, strict=True)})
    return np.array([logits[id(reading)] for reading in readings])


def out_of_fold(
    readings: Sequence[Reading],
    layers: Sequence[int],
    folds: int,
    seed: int,
    device: torch.device,
    progress: Progress = lambda done, total: None,
) -> np.ndarray:
    """``(readings,)``, logits of gates that were fitted without the reading's group.

    Args:
        readings: as for :func:`fit_gate`.
        layers: indices of the decoder layers.
        folds: gates that are fitted.
        seed: of the folds and the fits.
        device: where to compute.
        progress: called after each fold.
    """
    groups = sorted({reading.group for reading in readings})
    random.Random(seed).shuffle(groups)
    logits = np.zeros(len(readings))
    for fold in range(folds):
        left_out = set(groups[fold::folds])
        held = [index for index, reading in enumerate(readings) if reading.group in left_out]
        rest = [reading for reading in readings if reading.group not in left_out]
        gate = fit_gate(rest, layers, seed, device)
        logits[held] = gate_logits(gate, [readings[index] for index in held])
        progress(fold + 1, folds)
    return logits


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
