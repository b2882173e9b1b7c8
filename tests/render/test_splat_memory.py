"""Memory that is used again: never while something looks at it, and not without bound."""

from __future__ import annotations

import gc

import numpy as np
import pytest
import torch

from obverse.render import splat_memory as memory

LARGE = memory.FRESH // 4  # float32 values of the smallest array that is kept


@pytest.fixture(autouse=True)
def _nothing_kept(monkeypatch):
    monkeypatch.setattr(memory, "_free", [])


def test_an_array_starts_at_a_cache_line_and_can_be_written_to():
    for shape in (3, (0, 4), (5, LARGE)):
        made = memory.empty(shape, np.float32)
        made[:] = 1
        assert made.ctypes.data % memory.LINE == 0 or made.size == 0
        assert made.flags.c_contiguous
        assert made.shape == (shape if isinstance(shape, tuple) else (shape,))


def test_memory_is_used_again_once_nothing_looks_at_it():
    first = memory.empty((LARGE, 3), np.float32)
    at = first.ctypes.data
    del first
    gc.collect()
    assert memory.empty((LARGE, 3), np.int32).ctypes.data == at


def test_memory_is_not_used_again_while_a_view_or_a_tensor_looks_at_it():
    for hold in (lambda made: made[5:7, 1], torch.from_numpy, lambda made: torch.from_numpy(made)[3]):
        made = memory.empty((LARGE, 3), np.float32)
        made[:] = 7
        at, held = made.ctypes.data, hold(made)
        del made
        gc.collect()
        other = memory.empty((LARGE, 3), np.float32)
        assert other.ctypes.data != at
        other[:] = 0
        assert (held == 7).all()


def test_little_is_kept(monkeypatch):
    monkeypatch.setattr(memory, "KEPT", 5 * 4 * LARGE)
    several = [memory.empty(LARGE, np.float32) for _ in range(20)]
    del several
    gc.collect()
    memory.empty(1, np.float32)  # small ones are not kept and clear nothing
    memory.empty(3 * LARGE, np.float32)
    gc.collect()
    assert sum(block.nbytes for block in memory._free) <= 5 * 4 * LARGE + 4 * 4 * LARGE


def test_about_the_same_size_shares_memory():
    assert memory._rounded(1_000_000) == memory._rounded(1_010_000)
    assert all(size <= memory._rounded(size) <= 1.25 * size + memory.LINE for size in range(1, 100_000, 77))
