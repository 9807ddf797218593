import sys
import weakref

import pytest
import torch

from mogu.evaluation import memory
from mogu.evaluation.memory import peak_memory, release_memory, reset_peak_memory

linux_cpu = pytest.mark.skipif(
    sys.platform != "linux" or torch.cuda.is_available(), reason="reads what Linux says of this process"
)
MIB_HELD = 256


def hold():
    """Holds some memory for a moment: its pages are touched, and given back."""
    block = bytearray(MIB_HELD * memory.MIB)
    block[:: 4096 // 2] = b"1" * len(block[:: 4096 // 2])


@linux_cpu
def test_the_peak_stays_until_it_is_reset():
    reset_peak_memory()
    before = peak_memory()
    assert before > 0
    hold()
    risen = peak_memory()
    assert risen >= before + MIB_HELD - 32
    assert peak_memory() == pytest.approx(risen, abs=32)
    reset_peak_memory()
    assert peak_memory() < risen - MIB_HELD / 2


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU counts its own")
def test_where_the_system_tells_nothing_it_counts_from_the_start(monkeypatch, tmp_path):
    monkeypatch.setattr(memory, "_STATUS", tmp_path / "none")
    monkeypatch.setattr(memory, "_RESET", tmp_path / "none" / "there")
    reset_peak_memory()
    assert 0 < peak_memory() < 1024 * 1024


def test_what_only_a_cycle_holds_is_released():
    class Cycle:
        def __init__(self):
            self.own = self

    held = weakref.ref(Cycle())
    release_memory()
    assert held() is None


@linux_cpu
def test_what_was_freed_goes_back_to_the_system():
    blocks = [torch.ones(64, 1024) for _ in range(4 * MIB_HELD)]  # small enough to come from the heap
    last = torch.ones(64, 1024)  # what lies above the heap's holes keeps it from shrinking by itself
    reset_peak_memory()
    with_blocks = peak_memory()
    del blocks
    release_memory()
    reset_peak_memory()
    assert peak_memory() < with_blocks - MIB_HELD / 2
    assert last[0, 0] == 1
