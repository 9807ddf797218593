"""MoGU: make an open language model safer without making it less useful (arXiv 2405.14488)."""

from typing import TYPE_CHECKING, Any

from mogu.errors import AdapterError, MoguError, TrainingDivergedError

if TYPE_CHECKING:
    from mogu.generation import MoguModel, Reply

__all__ = ["AdapterError", "MoguError", "MoguModel", "Reply", "TrainingDivergedError"]


def __getattr__(name: str) -> Any:
    # Generation imports torch, which takes seconds: `mogu --help` and an error's import do without.
    if name in ("MoguModel", "Reply"):
        from mogu import generation

        return getattr(generation, name)
    raise AttributeError(f"module 'mogu' has no attribute {name!r}")
