"""A tiny model hardened by sequence routing, and the written procedure that its generation must equal."""

from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

from mogu.adapter.attach import attach, new_gate
from mogu.adapter.config import GateConfig
from mogu.adapter.gate import HEADS, WINDOW, Gate, looks_at
from mogu.generation import MoguModel
from mogu.models import find_projections
from mogu.turns import TurnMarks
from tests.generation.hardened import NEW, RANK, as_mogu
from tests.tiny import tiny_model

HEADER = [60, 61]
BORDER = [70, 71]
PREAMBLE = [50, 51]
BREAK = [33, 34]
STARTS = [11, 22, 44]
BARRED = [11, 44]
BEGINNINGS = [[11, 150, 9], [22, 8]]

# One ends with a reply that has begun, one holds an earlier turn, one begins with the template's preamble.
PROMPTS = [
    [5, 9, 17, 40, 8, 77, *HEADER],
    [31, 7, 200, *HEADER, 90],
    [12, 90, 3, *HEADER, 4, *BORDER, 5, 6, 99, 150, 44, *HEADER],
    [*PREAMBLE, 8, 14, 15, 92, 65, 35, 89, 79, 3, 23, 84, 62, 64, *HEADER],
]


@cache
def gated(family: str = "llama", reply_threshold: float | None = None, usable: bool = False) -> MoguModel:
    """A float64 model with a random gate, whose threshold some of the prompts reach; kept: nothing changes it."""
    model = tiny_model(family)
    projections = find_projections(model)
    count = len(projections)
    gate = GateConfig(
        layers=[0, count - 1],
        threshold=0.5,
        reply_threshold=reply_threshold,
        marks=TurnMarks(preamble=PREAMBLE, border=BORDER, header=HEADER),
        break_ids=BREAK,
        refusal_starts=STARTS,
        refusal_beginnings=BEGINNINGS,
        barred_starts=BARRED if usable else [],
    )
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(7)
        adapter = attach(model, projections[1:], rank=RANK, lora_alpha=RANK)
        for layer in adapter.layers.values():
            layer.safe.B.normal_(std=0.7)
            if usable:
                layer.usable.B.normal_(std=0.7, generator=torch.Generator().manual_seed(1))
        for probe in new_gate(adapter, gate.layers).probes:
            probe.inner.normal_(std=0.1)
            probe.inner_bias.normal_(std=0.1)
            probe.vectors.normal_(std=0.1)
            probe.offsets.normal_(std=0.3)
            probe.frame.normal_(std=0.3)
        adapter.gate.lift.fill_(0.4)
    adapter.freeze()
    parts = ["safe", "gate", "usable"] if usable else ["safe", "gate"]
    return as_mogu(family, adapter, parts=parts, weights="sequence", routed_prompt_tokens=0, gate=gate)


class Written(NamedTuple):
    """What the written procedure gives: ids of the reply, logits ``(tokens, vocab)``, the prompt's score."""

    tokens: list[int]
    logits: Tensor
    score: float


def score_by_hand(gate: Gate, hidden: list[Tensor]) -> float:
    """The formula in words: `hidden` holds, for each layer, the states ``(tokens, features)`` that are read."""
    logit, frame = gate.bias.item(), gate.frame_bias.item()
    for layer, probe, states in zip(range(len(hidden)), gate.probes, hidden, strict=True):
        rows = [row / row.square().mean().sqrt() for row in states]
        units = [torch.nn.functional.gelu(probe.inner @ row + probe.inner_bias) for row in rows]
        scores = torch.stack([probe.vectors @ each + probe.offsets for each in units])
        queries, values, peaks = (scores[:, HEADS * i : HEADS * (i + 1)] for i in range(3))
        window, last = scores[:, -2], scores[:, -1]
        attention = sum((queries[:, h].softmax(0) * values[:, h]).sum() for h in range(HEADS))
        width = min(WINDOW, len(rows))
        highest = max(window[i : i + width].mean() for i in range(len(rows) - width + 1))
        pooled = torch.stack([attention, highest, peaks.max(0).values.sum(), last[-1]]) + probe.bias
        logit += (pooled * gate.mix[layer]).sum().item()
        frame += sum((probe.frame @ row).item() for row in rows) / len(rows)
    logit += gate.lift.item() * torch.sigmoid(torch.tensor(frame, dtype=torch.float64)).item()
    return 1 / (1 + torch.exp(torch.tensor(-logit, dtype=torch.float64)).item())


def reading_start(prompt: list[int]) -> int:
    ends = [i + 2 for i in range(len(prompt) - 1) if prompt[i : i + 2] == BORDER]
    return ends[-1] if ends else 2 * (prompt[:2] == PREAMBLE)


@torch.no_grad()
def by_hand(mogu: MoguModel, prompt: list[int], threshold: float = 0.5, new: int = NEW) -> Written:
    """Greedy decoding of one row that reads the whole sequence anew for every token."""
    adapter = mogu.adapter
    usable = "usable" in mogu.config.parts
    ids = list(prompt)
    score, switch, logits = -1.0, None, []
    for _ in range(new):
        position = torch.arange(len(ids))[None]
        safe = position > switch if switch is not None else torch.zeros_like(position, dtype=torch.bool)
        routed = position >= len(prompt) if usable else safe
        adapter.routing.routed = routed if routed.any() else None
        adapter.routing.weights = torch.stack((safe, ~safe), dim=-1).float()
        seen = {}
        layers = mogu.model.get_decoder()
        stack = next(getattr(layers, name) for name in ("layers", "h") if hasattr(layers, name))
        hooks = [
            layer.register_forward_hook(
                lambda _, __, out, i=i, seen=seen: seen.__setitem__(
                    i, out[0] if isinstance(out, tuple) else out
                )
            )
            for i, layer in enumerate(stack)
        ]
        step = mogu.model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1].clone()
        for hook in hooks:
            hook.remove()
        adapter.routing.routed = adapter.routing.weights = None
        now = score_by_hand(adapter.gate, [seen[i][0, reading_start(prompt) :] for i in adapter.gate.layers])
        if score < 0:
            header = next(
                (i for i in range(len(ids), reading_start(ids) + 1, -1) if ids[i - 2 : i] == HEADER), len(ids)
            )
            score = max(
                score_by_hand(
                    adapter.gate, [seen[i][0, reading_start(prompt) : end] for i in adapter.gate.layers]
                )
                for end in (header, len(ids))
            )
            now = score
            switch = len(ids) - 1 if now >= threshold else None
        elif (
            switch is None
            and mogu.config.gate.reply_threshold is not None
            and looks_at(len(ids) - len(prompt))
        ):
            switch = len(ids) - 1 if now >= max(threshold, mogu.config.gate.reply_threshold) else None
        logits.append(step.clone())
        if switch is not None:
            begun = switch >= len(prompt) or prompt[-2:] != HEADER
            forced = [[token] for token in BREAK] * begun + [STARTS]
            said = ids[switch + 1 + len(BREAK) :]
            for beginning in BEGINNINGS:
                if begun and said[:1] == beginning[:1]:
                    forced += [[token] for token in beginning[1:]]
            if len(ids) - 1 - switch < len(forced):
                step[forced[len(ids) - 1 - switch]] += 30.0
        elif usable and len(ids) == len(prompt) and prompt[-2:] == HEADER:
            step[BARRED] -= 30.0
        ids.append(int(step.argmax()))
    return Written(ids[len(prompt) :], torch.stack(logits), score)
