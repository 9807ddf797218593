"""Base models: loading them, naming them, and finding their attention output projections."""

from mogu.models.families import PROJECTIONS, Projection, decoder_layers, find_projections
from mogu.models.loading import DTYPES, LoadedModel, ModelIdentity, load_model

__all__ = [
    "DTYPES",
    "PROJECTIONS",
    "LoadedModel",
    "ModelIdentity",
    "Projection",
    "decoder_layers",
    "find_projections",
    "load_model",
]
