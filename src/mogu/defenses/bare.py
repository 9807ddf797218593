"""The base without the adapter under test, for defenses that put something else into it."""

from collections.abc import Iterator
from contextlib import contextmanager

from transformers import PreTrainedModel

from mogu.adapter.attach import Adapter


@contextmanager
def bare_base(adapter: Adapter) -> Iterator[PreTrainedModel]:
    """Within it the base has its own modules, none wrapped; after it the very same wrappers stand there again.

    So a defense does not depend on which layers the adapter under test wraps.
    """
    adapter.detach()
    try:
        yield adapter.model
    finally:
        for name, layer in adapter.layers.items():
            adapter.model.set_submodule(name, layer)
