"""How much memory this process has held, and that what is free goes back."""

import ctypes
import gc
import re
import resource
import sys
from contextlib import suppress
from pathlib import Path

import torch

MIB = 1024 * 1024
_STATUS = Path("/proc/self/status")
_RESET = Path("/proc/self/clear_refs")


def reset_peak_memory() -> None:
    """Let `peak_memory` count from here on; without a GPU, and where it may not, it counts from the start still."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    else:
        with suppress(OSError):  # not Linux, or one that does not let it
            _RESET.write_text("5", encoding="ascii")


def release_memory() -> None:
    """Hand back what nobody holds: some of it is in cycles, and glibc keeps gigabytes that a training has freed."""
    gc.collect()
    with suppress(AttributeError, OSError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)


def peak_memory() -> float:
    """The most memory that this process has held, in MiB: of the GPU if there is one, else resident."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / MIB
    if _STATUS.exists():
        # getrusage would do, but Linux lets a new process start with the peak of the one that started it.
        found = re.search(r"VmHWM:\s+(\d+) kB", _STATUS.read_text(encoding="ascii"))
        if found:
            return int(found[1]) / 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / MIB if sys.platform == "darwin" else peak / 1024
