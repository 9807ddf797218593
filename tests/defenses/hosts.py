"""A host on a tiny hardened model."""

from pathlib import Path

from mogu.defenses.base import Host
from tests.generation.hardened import hardened


def tiny_host(tmp_path: Path, family: str = "llama") -> Host:
    """A host whose model is kept between tests; batches of two, so that a few talks are more than one batch."""
    return Host(hardened(family), tmp_path, batch_size=2)
