"""A start for the routers: one logistic fit a layer on what the base's projections read.

The router loss of the paper asks for (1, 0) on malicious and (0, 1) on benign tokens. Before the variants are trained,
with their ``B`` at zero, every layer reads the base's activations, and the weights that come nearest to that are a
logistic regression on them: seconds of work that spare the gradient the way from 0.5. Training then adapts the routers
to what they read once the variants act.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn

from mogu.adapter.attach import Adapter
from mogu.adapter.layer import SAFE, USABLE
from mogu.adapter.router import FoldedRouter
from mogu.training.loop import Progress, batches_of
from mogu.training.stage import RouterStage

REPLY_TOKENS = 2
"""Reply tokens that the fit reads: what a refusal begins with is plain after the first ones."""

REPLY_TOKEN_WEIGHT = 0.05
"""Weight of a reply token against 1 of a prompt token: the reply's own words give its label away."""

INVERSE_PENALTY = 0.005
"""sklearn's C, on standardised activations: features outnumber requests, so the fit is held short."""


def fit_routers(adapter: Adapter, stage: RouterStage, rows: Sequence[int], progress: Progress) -> None:
    """Set every folded router to the logistic fit on some examples.

    Args:
        adapter: with untrained variants, so that all layers read the base's activations.
        stage: which holds the examples.
        rows: indices of the examples to fit on.
        progress: called after each batch and layer.
    """
    examples = [stage.examples[row].shortened(REPLY_TOKENS + 1) for row in rows]
    examples.sort(key=lambda example: len(example.prompt))
    size = stage.settings.batch_size
    batches = [
        batch
        for label in (True, False)
        for batch in batches_of([example for example in examples if example.malicious == label], size)
    ]
    steps = len(batches) + len(adapter.layers)
    inputs: dict[str, list[Tensor]] = {name: [] for name in adapter.layers}
    labels: list[Tensor] = []
    importance: list[Tensor] = []
    for done, batch in enumerate(batches, start=1):
        malicious = batch[0].malicious
        with _seen(adapter) as seen, torch.no_grad():
            routed = stage.read(batch, weights=torch.tensor([0.0, 1.0])).routed.cpu()
        prompt = torch.zeros_like(routed)
        for row, example in enumerate(batch):
            prompt[row, : len(example.prompt) - example.record.prefix.length] = True
        for name, x in seen.items():
            inputs[name].append(x.cpu()[routed].float())
        labels.append(torch.full((int(routed.sum()),), malicious))
        each = torch.tensor([example.importance for example in batch])[:, None].expand_as(routed)
        importance.append(each[routed] * torch.where(prompt[routed], 1.0, REPLY_TOKEN_WEIGHT))
        progress(done, steps)
    y, sample_weight = torch.cat(labels).numpy(), torch.cat(importance).numpy()
    for done, (name, layer) in enumerate(adapter.layers.items(), start=len(batches) + 1):
        router = layer.router
        assert isinstance(router, FoldedRouter)
        vector, bias = _logistic(torch.cat(inputs.pop(name)).numpy(), y, sample_weight)
        with torch.no_grad():
            router.vectors[SAFE].copy_(vector)
            router.vectors[USABLE].copy_(-vector)
            router.bias[SAFE], router.bias[USABLE] = bias, -bias
        progress(done, steps)


@contextmanager
def _seen(adapter: Adapter) -> Iterator[dict[str, Tensor]]:
    """What each routed projection reads in the forward that runs within."""
    seen: dict[str, Tensor] = {}

    def watch(name: str, layer: nn.Module) -> torch.utils.hooks.RemovableHandle:
        return layer.register_forward_pre_hook(lambda _, args: seen.__setitem__(name, args[0]))

    hooks = [watch(name, layer) for name, layer in adapter.layers.items()]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def _logistic(x: np.ndarray, y: np.ndarray, sample_weight: np.ndarray) -> tuple[Tensor, float]:
    """Vector ``(features,)`` and bias of a logistic regression, in the coordinates of ``x`` ``(rows, features)``."""
    mean, spread = x.mean(0), x.std(0) + 1e-6
    fit = LogisticRegression(C=INVERSE_PENALTY, max_iter=100, tol=1e-2)
    fit.fit((x - mean) / spread, y, sample_weight=sample_weight)
    vector = fit.coef_[0] / spread
    return torch.from_numpy(vector), float(fit.intercept_[0] - vector @ mean)
