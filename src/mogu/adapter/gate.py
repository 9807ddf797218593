"""The gate of sequence routing: one decision per reply, from the base's hidden states of the conversation.

A small network with one hidden layer scores each token. What decides is how scores are pooled over the sequence, each
way seeing another kind of request: *attention* weighs tokens by learned queries, *window* takes the highest mean over
ten tokens in a row, *maximum* the highest single token, *last* the token before the reply. Several layers are read; a
weighted sum of all pooled scores is the logit of "malicious". To it comes a lift where the conversation looks like the
frame of an attack, which the mean state shows: there a request that is half suspicious is suspicious enough.

Knows tensors only: which tokens are read is the caller's rule.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

HEADS = 4
"""Heads of attention pooling, and of the maximum (MultiMax, arXiv 2601.11516)."""

WINDOW = 10
"""Tokens of the rolling mean whose highest value counts."""

POOLINGS = ("attention", "window", "maximum", "last")
SCORES = 3 * HEADS + 3
"""Scores of a token in one layer: queries and values of attention, the heads of the maximum, window, last, frame."""

WIDTH = 256
"""Units of the hidden layer. Linear scores miss a fifth of the wrapped requests that these see."""


READ_EVERY = 8
"""Reply tokens between two looks: looking at each would cost more than the layers that are read."""


def looks_at(reply_tokens: int) -> bool:
    """Whether a gate that reads replies looks when so many tokens of one have been read."""
    return reply_tokens % READ_EVERY == 0


class Probe(nn.Module):
    """The token scores of one layer and their pooling.

    Args:
        features: size of a hidden state.

    Attributes:
        inner: ``(WIDTH, features)``, applied to hidden states of root mean square 1.
        inner_bias: ``(WIDTH,)``, added before the non-linearity.
        vectors: ``(SCORES - 1, WIDTH)``, of all scores but the last.
        offsets: ``(SCORES - 1,)``, added to them.
        frame: ``(features,)``, of the last score, which is linear.
        bias: ``(4,)``, added to the pooled scores.
    """

    def __init__(self, features: int) -> None:
        super().__init__()
        self.inner = nn.Parameter(torch.zeros(WIDTH, features))
        self.inner_bias = nn.Parameter(torch.zeros(WIDTH))
        self.vectors = nn.Parameter(torch.zeros(SCORES - 1, WIDTH))
        self.offsets = nn.Parameter(torch.zeros(SCORES - 1))
        self.frame = nn.Parameter(torch.zeros(features))
        self.bias = nn.Parameter(torch.zeros(len(POOLINGS)))

    def token_scores(self, hidden: Tensor) -> Tensor:
        """``(..., features)`` to ``(..., SCORES)``, in float32 at least."""
        even = normalised(hidden.to(self.inner.dtype))
        units = F.gelu(F.linear(even, self.inner, self.inner_bias))
        return torch.cat(
            (F.linear(units, self.vectors, self.offsets), F.linear(even, self.frame[None])), dim=-1
        )

    def pool(self, scores: Tensor, read: Tensor) -> Tensor:
        """Pooled scores of some rows.

        Args:
            scores: ``(batch, seq, SCORES)``.
            read: ``(batch, seq)`` bool, the tokens that count: in each row one stretch, at least one token, that ends
                with the last column.

        Returns:
            ``(batch, 4)``, in the order of `POOLINGS`.
        """
        lowest = torch.finfo(scores.dtype).min
        queries, values, peaks, rest, _ = scores.split((HEADS, HEADS, HEADS, 2, 1), dim=-1)
        outside = ~read[..., None]
        attention = queries.masked_fill(outside, lowest).softmax(1)
        pooled = (
            (attention * values).sum((1, 2)),
            _highest_window(rest[..., 0], read),
            peaks.masked_fill(outside, lowest).amax(1).sum(-1),
            rest[:, -1, 1],
        )
        return torch.stack(pooled, dim=-1) + self.bias


def framed(scores: Tensor, read: Tensor) -> Tensor:
    """``(batch,)``, the mean of the last token score; arguments as :meth:`Probe.pool` takes them."""
    return (scores[..., -1] * read).sum(1) / read.sum(1)


class Gate(nn.Module):
    """The probes of some layers and the weighted sum that makes them one logit.

    Args:
        features: size of a hidden state.
        layers: indices of the decoder layers whose outputs are read, in ascending order.

    Attributes:
        mix: ``(layers, 4)``, the weights of the pooled scores.
        bias: ``()``, added to the sum.
        frame_bias: ``()``, added to what the layers say of the frame; the sigmoid of the sum is its probability.
        lift: ``()``, times that probability is added to the logit.
    """

    def __init__(self, features: int, layers: Sequence[int]) -> None:
        super().__init__()
        self.layers = tuple(layers)
        self.probes = nn.ModuleList(Probe(features) for _ in layers)
        self.mix = nn.Parameter(torch.full((len(layers), len(POOLINGS)), 1 / len(layers) / len(POOLINGS)))
        self.bias = nn.Parameter(torch.zeros(()))
        self.frame_bias = nn.Parameter(torch.zeros(()))
        self.lift = nn.Parameter(torch.zeros(()))

    def token_scores(self, hidden: Sequence[Tensor]) -> Tensor:
        """Hidden states ``(batch, seq, features)`` of each layer to ``(layers, batch, seq, SCORES)``."""
        device = self.bias.device
        return torch.stack(
            [probe.token_scores(x).to(device) for probe, x in zip(self._probes(), hidden, strict=True)]
        )

    def forward(self, scores: Tensor, read: Tensor) -> Tensor:
        """Token scores ``(layers, batch, seq, SCORES)`` and the mask ``(batch, seq)`` to logits ``(batch,)``."""
        logit, frame = self.evidence(scores, read)
        return logit + self.lift * frame

    def evidence(self, scores: Tensor, read: Tensor) -> tuple[Tensor, Tensor]:
        """The logits without their lift, and the probability of an attack's frame, ``(batch,)`` each."""
        pooled = torch.stack([probe.pool(s, read) for probe, s in zip(self._probes(), scores, strict=True)])
        frame = torch.stack([framed(each, read) for each in scores]).sum(0)
        return (
            torch.einsum("lbk,lk->b", pooled, self.mix) + self.bias,
            torch.sigmoid(frame + self.frame_bias),
        )

    def _probes(self) -> list[Probe]:
        return [probe for probe in self.probes if isinstance(probe, Probe)]


def normalised(hidden: Tensor) -> Tensor:
    """Hidden states with root mean square 1: the norm of attention sinks, which is huge, tells nothing."""
    return hidden * hidden.square().mean(-1, keepdim=True).clamp(min=1e-12).rsqrt()


def _highest_window(scores: Tensor, read: Tensor) -> Tensor:
    """``(batch, seq)`` to ``(batch,)``: the highest mean over `WINDOW` read tokens in a row, all of a shorter row."""
    width = min(WINDOW, scores.shape[1])
    sums = _windows(scores * read, width)
    counts = _windows(read.to(scores.dtype), width)
    whole = counts >= read.sum(1, keepdim=True).clamp(max=width)
    return (sums / counts.clamp(min=1)).masked_fill(~whole, torch.finfo(scores.dtype).min).amax(1)


def _windows(values: Tensor, width: int) -> Tensor:
    return values.unfold(1, width, 1).sum(-1)
