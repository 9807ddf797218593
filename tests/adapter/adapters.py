"""Adapters with random parts in tiny models: what the tests of this folder and of generation run on."""

import torch
from transformers import PreTrainedModel

from mogu.adapter.attach import Adapter, attach, new_gate
from mogu.adapter.config import AdapterConfig, GateConfig, PartName, package_versions
from mogu.models import ModelIdentity, find_projections
from mogu.turns import TurnMarks

RANK = 4
ALPHA = 6.0  # a scaling that is neither 1 nor a whole number
IDENTITY = ModelIdentity(
    name="tiny/llama", revision="abc123", fingerprint="0123456789abcdef", model_type="llama"
)


def random_adapter(model: PreTrainedModel, seed: int = 1, skip: int = 0) -> Adapter:
    """Wrap all layers but the first `skip`, and fill the new parts with noise."""
    adapter = attach(model, find_projections(model)[skip:], RANK, ALPHA)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for layer in adapter.layers.values():
            for part in (layer.safe, layer.usable, layer.router):
                for parameter in part.parameters():
                    parameter.copy_(0.5 * torch.randn(parameter.shape, generator=generator))
    return adapter


def config_of(adapter: Adapter, parts: tuple[PartName, ...] = ("safe", "usable", "routers")) -> AdapterConfig:
    return AdapterConfig(
        mogu_version="0.1.0",
        base=IDENTITY,
        parts=list(parts),
        projections=list(adapter.layers),
        rank=RANK,
        lora_alpha=ALPHA,
        weights="token",
        routed_tokens=5,
        routed_prompt_tokens=None,
        dtype="bfloat16",
        training={"preset": "paper", "router": {"learning_rate": 5e-4}},
        versions=package_versions(),
        metrics={"refused": {"malicious": {"base": 0.03125, "mogu": 0.96875}}},
        created="2025-01-31",
    )


def gated(adapter: Adapter, seed: int = 3) -> AdapterConfig:
    """Give an adapter a random gate of its first and last layer; its config, of sequence routing."""
    layers = [0, 2]
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in new_gate(adapter, layers).parameters():
            parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator))
    gate = GateConfig(
        layers=layers,
        threshold=0.52,
        marks=TurnMarks(preamble=[], border=[], header=[]),
        break_ids=[12],
        refusal_starts=[70, 80],
    )
    update = {"weights": "sequence", "routed_tokens": None, "routed_prompt_tokens": 0, "gate": gate}
    return config_of(adapter, ("safe", "gate")).model_copy(update=update)


def token_ids(rows: int = 3, width: int = 7, seed: int = 2) -> torch.Tensor:
    return torch.randint(2, 250, (rows, width), generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def logits(model: PreTrainedModel, ids: torch.Tensor) -> torch.Tensor:
    return model(input_ids=ids, use_cache=False).logits
