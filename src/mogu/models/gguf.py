"""GGUF files in a third of the time. Knows nothing of what they hold."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import gguf
import numpy as np


class _Reader(gguf.GGUFReader):  # type: ignore[misc]
    """Reads from an array: numpy asks for each slice of a memory map anew what it is a map of, a million times here."""

    @property
    def data(self) -> Any:
        """The file's bytes."""
        return self._data

    @data.setter
    def data(self, mapped: Any) -> None:
        self._data = mapped.view(np.ndarray)


@contextmanager
def read_once() -> Iterator[None]:
    """Within it a file is read once, and the names of its tensors are made once.

    transformers (5.19) reads the file for the configuration, the tokenizer and the weights, and makes the names anew
    for each module: with a vocabulary of 49,152 words that is ten seconds of sixteen.
    """
    library: Any = gguf
    reader, names = library.GGUFReader, library.get_tensor_name_map
    library.GGUFReader, library.get_tensor_name_map = cache(_Reader), cache(names)
    try:
        yield
    finally:
        library.GGUFReader, library.get_tensor_name_map = reader, names
