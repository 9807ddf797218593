import math

import pytest
import torch

from mogu.adapter.attach import attach, new_gate
from mogu.adapter.gate import HEADS, POOLINGS, SCORES, WIDTH, WINDOW, Gate, Probe, normalised
from mogu.models import find_projections
from tests.adapter.adapters import ALPHA, RANK
from tests.tiny import HIDDEN, tiny_model

FEATURES = 6
# Longer than the window, as long as it, one shorter, and a single token.
LENGTHS = [WINDOW + 7, WINDOW, WINDOW - 1, 3, 1]


def random_gate(layers=(1, 4), dtype=torch.float64, seed=0) -> Gate:
    gate = Gate(FEATURES, layers).to(dtype)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in gate.parameters():
            parameter.copy_(0.7 * torch.randn(parameter.shape, generator=generator))
    return gate


def random_rows(layers=2, lengths=LENGTHS, seed=1):
    """For each row the hidden states ``(tokens, features)`` of each layer, of very different norms."""
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for length in lengths:
        norms = 10 ** (4 * torch.rand(layers, length, 1, generator=generator, dtype=torch.float64) - 1)
        states = torch.randn(layers, length, FEATURES, generator=generator, dtype=torch.float64)
        rows.append(list(states * norms))
    return rows


def batch_of(rows, width, filling=0.0, dtype=torch.float64):
    """Hidden states ``(batch, width, features)`` of each layer, padded on the left, and the mask."""
    hidden = [torch.full((len(rows), width, FEATURES), filling, dtype=dtype) for _ in rows[0]]
    read = torch.zeros(len(rows), width, dtype=torch.bool)
    for row, states in enumerate(rows):
        for layer, x in enumerate(states):
            hidden[layer][row, width - len(x) :] = x
        read[row, width - len(states[0]) :] = True
    return hidden, read


def logits_of(gate, rows, width=None, filling=0.0, dtype=torch.float64):
    hidden, read = batch_of(rows, width or max(len(row[0]) for row in rows), filling, dtype)
    with torch.no_grad():
        return gate(gate.token_scores(hidden), read)


def gelu(x: float) -> float:
    return x * (1 + math.erf(x / math.sqrt(2))) / 2


def scores_by_hand(probe: Probe, states) -> list[list[float]]:
    """``SCORES`` numbers a token, in plain Python."""
    inner, inner_bias, vectors, offsets, frame = (
        x.tolist() for x in (probe.inner, probe.inner_bias, probe.vectors, probe.offsets, probe.frame)
    )
    scores = []
    for token in states.tolist():
        size = math.sqrt(sum(x * x for x in token) / len(token))
        even = [x / size for x in token]
        units = [
            gelu(sum(w * x for w, x in zip(weights, even, strict=True)) + bias)
            for weights, bias in zip(inner, inner_bias, strict=True)
        ]
        scores.append(
            [
                sum(w * x for w, x in zip(weights, units, strict=True)) + bias
                for weights, bias in zip(vectors, offsets, strict=True)
            ]
            + [sum(w * x for w, x in zip(frame, even, strict=True))]
        )
    return scores


def pooled_by_hand(probe: Probe, scores: list[list[float]]) -> list[float]:
    count = len(scores)
    attention = 0.0
    for head in range(HEADS):
        weights = [math.exp(token[head]) for token in scores]
        values = [token[HEADS + head] for token in scores]
        attention += sum(w * v for w, v in zip(weights, values, strict=True)) / sum(weights)
    width = min(WINDOW, count)
    window = max(
        sum(token[3 * HEADS] for token in scores[start : start + width]) / width
        for start in range(count - width + 1)
    )
    maximum = sum(max(token[2 * HEADS + head] for token in scores) for head in range(HEADS))
    last = scores[-1][3 * HEADS + 1]
    return [a + b for a, b in zip((attention, window, maximum, last), probe.bias.tolist(), strict=True)]


def by_hand(gate: Gate, states) -> float:
    logit, frame = gate.bias.item(), gate.frame_bias.item()
    for probe, weights, x in zip(gate.probes, gate.mix.tolist(), states, strict=True):
        scores = scores_by_hand(probe, x)
        logit += sum(w * p for w, p in zip(weights, pooled_by_hand(probe, scores), strict=True))
        frame += sum(token[-1] for token in scores) / len(scores)
    return logit + gate.lift.item() / (1 + math.exp(-frame))


def test_the_scores_of_a_token_are_named():
    assert POOLINGS == ("attention", "window", "maximum", "last")
    assert (HEADS, WINDOW, SCORES) == (4, 10, 15)


def test_the_logit_equals_the_written_formula():
    gate, rows = random_gate(), random_rows()
    expected = [by_hand(gate, states) for states in rows]
    assert max(expected) - min(expected) > 1
    for states, logit in zip(rows, expected, strict=True):
        assert logits_of(gate, [states]).item() == pytest.approx(logit, abs=1e-9)


def test_each_pooling_equals_the_written_formula():
    gate, rows = random_gate(), random_rows()
    hidden, read = batch_of(rows, max(LENGTHS))
    with torch.no_grad():
        scores = gate.token_scores(hidden)
        found = torch.stack([probe.pool(s, read) for probe, s in zip(gate.probes, scores, strict=True)])
    assert found.shape == (2, len(rows), 4)
    for row, states in enumerate(rows):
        for layer, (probe, x) in enumerate(zip(gate.probes, states, strict=True)):
            expected = pooled_by_hand(probe, scores_by_hand(probe, x))
            assert found[layer, row].tolist() == pytest.approx(expected, abs=1e-9)


def test_what_looks_like_an_attacks_frame_is_lifted():
    gate, rows = random_gate(), random_rows()
    hidden, read = batch_of(rows, max(LENGTHS))
    with torch.no_grad():
        scores = gate.token_scores(hidden)
        logit, frame = gate.evidence(scores, read)
        assert ((frame > 0) & (frame < 1)).all() and frame.max() - frame.min() > 0.1
        gate.lift.fill_(3.0)
        torch.testing.assert_close(gate(scores, read), logit + 3 * frame, rtol=0, atol=1e-12)
        for bias, certain in ((float("inf"), 1.0), (float("-inf"), 0.0)):
            gate.frame_bias.fill_(bias)
            assert (gate.evidence(scores, read)[1] == certain).all()


@pytest.mark.parametrize("filling", [0.0, 1.0, -300.0])
@pytest.mark.parametrize("more", [0, 1, WINDOW, 40])
def test_padding_changes_nothing_whatever_stands_there(more, filling):
    gate, rows = random_gate(), random_rows()
    alone = torch.cat([logits_of(gate, [states]) for states in rows])
    together = logits_of(gate, rows, max(LENGTHS) + more, filling)
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-9)


def test_a_row_shorter_than_the_window_takes_the_mean_of_all_its_tokens():
    probe = random_gate().probes[0]
    scores = torch.zeros(1, 3, SCORES, dtype=torch.float64)
    scores[0, :, 3 * HEADS] = torch.tensor([1.0, 5.0, 9.0])
    read = torch.tensor([[False, True, True]])
    window = probe.pool(scores, read)[0, 1] - probe.bias[1]
    assert window.item() == pytest.approx(7.0)


def test_the_window_is_the_highest_of_ten_tokens_in_a_row():
    probe = random_gate().probes[0]
    scores = torch.zeros(1, 25, SCORES, dtype=torch.float64)
    scores[0, 8:18, 3 * HEADS] = 2.0  # ten in a row
    scores[0, 20, 3 * HEADS] = 15.0  # alone: 1.5 on average
    read = torch.ones(1, 25, dtype=torch.bool)
    # The best stretch begins at 11 and holds seven twos and the fifteen.
    assert (probe.pool(scores, read)[0, 1] - probe.bias[1]).item() == pytest.approx((7 * 2 + 15) / 10)
    scores[0, 20, 3 * HEADS] = 0.0
    assert (probe.pool(scores, read)[0, 1] - probe.bias[1]).item() == pytest.approx(2.0)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e5])
def test_the_norm_of_a_state_does_not_count(scale):
    gate, (states, *_) = random_gate(), random_rows()
    scaled = [x * scale for x in states]
    torch.testing.assert_close(logits_of(gate, [scaled]), logits_of(gate, [states]), rtol=0, atol=1e-6)
    assert normalised(states[0]).square().mean(-1).tolist() == pytest.approx([1.0] * LENGTHS[0], abs=1e-9)


def test_a_state_of_zeros_gives_a_number():
    gate = random_gate()
    assert torch.isfinite(logits_of(gate, [[torch.zeros(4, FEATURES, dtype=torch.float64)] * 2])).all()
    assert torch.equal(normalised(torch.zeros(2, 3)), torch.zeros(2, 3))


def test_half_precision_states_are_scored_in_the_gates_dtype():
    gate, rows = random_gate(dtype=torch.float32), random_rows()
    hidden, read = batch_of(rows, max(LENGTHS))
    half = [x.bfloat16() for x in hidden]
    with torch.no_grad():
        scores = gate.token_scores(half)
        assert scores.dtype == gate(scores, read).dtype == torch.float32
        assert torch.equal(scores, gate.token_scores([x.float() for x in half]))


def test_a_new_gate_is_undecided_and_reads_its_layers():
    gate = Gate(FEATURES, [2, 5, 7])
    assert gate.layers == (2, 5, 7) and len(gate.probes) == 3
    assert gate.mix.flatten().tolist() == pytest.approx([1 / 12] * 12)
    assert logits_of(gate, random_rows(layers=3), dtype=torch.float32).tolist() == [0.0] * len(LENGTHS)


def test_the_layers_must_be_all_there():
    gate = random_gate()
    with pytest.raises(ValueError, match="zip"):
        gate.token_scores([torch.zeros(1, 2, FEATURES, dtype=torch.float64)])


def test_gradients_reach_every_parameter():
    gate, rows = random_gate(), random_rows()
    hidden, read = batch_of(rows, max(LENGTHS))
    gate(gate.token_scores(hidden), read).square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in gate.parameters())


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [(torch.bfloat16, torch.float32), (torch.float32, torch.float32), (torch.float64, torch.float64)],
)
@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma3"])
def test_an_adapter_gets_a_gate_that_fits_its_model(family, dtype, expected):
    model = tiny_model(family, dtype)
    adapter = attach(model, find_projections(model), RANK, ALPHA)
    assert adapter.gate is None
    gate = new_gate(adapter, [0, 2])
    assert adapter.gate is gate and gate.layers == (0, 2)
    shapes = {name: tuple(parameter.shape) for name, parameter in gate.named_parameters()}
    one = {
        "inner": (WIDTH, HIDDEN),
        "inner_bias": (WIDTH,),
        "vectors": (SCORES - 1, WIDTH),
        "offsets": (SCORES - 1,),
        "frame": (HIDDEN,),
        "bias": (4,),
    }
    probes = {f"probes.{n}.{name}": shape for n in range(2) for name, shape in one.items()}
    assert shapes == probes | {"mix": (2, 4), "bias": (), "frame_bias": (), "lift": ()}
    assert {parameter.dtype for parameter in gate.parameters()} == {expected}
