"""Compiled kernels and threads: how every Numba kernel of the package is declared and run.

Two rules are kept here so that kernels need not know them. Numba's OpenMP layer spins at its barriers, which makes
small kernels up to fifty times slower beside one busy process; unless the user chose a layer, the work-queue layer is
used, which waits politely and survives fork. And the work queue must not be entered from two Python threads at once,
so parallel kernels are called through a lock.
"""

from __future__ import annotations

import functools
import logging
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba
from llvmlite import ir
from numba import extending, types
from numba.core import cgutils

numba_config: Any = numba.config
intrinsic: Any = extending.intrinsic

if not {"NUMBA_THREADING_LAYER", "OMP_WAIT_POLICY"} & set(os.environ):
    numba_config.THREADING_LAYER = "workqueue"

logger = logging.getLogger("obverse")
_lock = threading.RLock()
_announced = False


def kernel(*, parallel: bool = False, fastmath: bool = False) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Decorate a function to be compiled by Numba on first use and kept on disk for later processes.

    What comes back takes any scalars: NumPy's are no float or int to type checkers, and are to a kernel.

    Args:
        parallel: the function contains ``prange`` loops. Such a kernel is called from Python only.
        fastmath: let the compiler reorder arithmetic; inputs must be finite.
    """

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        compiled: Any = numba.njit(cache=True, nogil=True, parallel=parallel, fastmath=fastmath)(function)
        if not parallel:
            return compiled

        @functools.wraps(function)
        def call(*args: Any) -> Any:
            with _lock:
                _announce(compiled)
                return compiled(*args)

        call.dispatcher = compiled  # type: ignore[attr-defined]
        return call

    return decorate


def set_threads(count: int | None) -> int:
    """Use ``count`` threads in Numba and torch (None: every core this process may run on) → the number set."""
    import torch

    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
    count = max(1, min(count or available, numba_config.NUMBA_NUM_THREADS))
    numba.set_num_threads(count)
    torch.set_num_threads(count)
    return count


def _announce(compiled: Any) -> None:
    """Say once that kernels are being compiled, if the first one called is not in the cache."""
    global _announced
    if _announced or compiled.signatures:
        return
    _announced = True
    cache = getattr(compiled, "_cache", None)
    index = getattr(getattr(cache, "_cache_file", None), "_index_path", None)
    if index is None or not Path(index).exists():
        logger.info("compiling kernels for this machine, once: about half a minute")


@intrinsic
def wide_vectors(_: Any) -> Any:
    """Let the compiler use 512-bit vectors in the kernel or ``prange`` body that calls this, if the processor has them.

    LLVM prefers 256 bits on most processors that have 512, which halves the speed of arithmetic on whole vectors.
    Does nothing elsewhere.
    """

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        # llvmlite admits only attributes that take no value; its writer prints whatever the set holds.
        set.add(builder.function.attributes, '"prefer-vector-width"="512"')
        return context.get_dummy_value()

    return types.void(), emit


@intrinsic
def prefetch(_: Any, array: Any, index: Any) -> Any:
    """Start to fetch the cache line where row ``index`` of ``array`` begins; the row must exist."""

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        rows = context.make_array(signature.args[0])(context, builder, arguments[0])
        offset = builder.mul(arguments[1], cgutils.unpack_tuple(builder, rows.strides)[0])
        address = builder.gep(builder.bitcast(rows.data, ir.IntType(8).as_pointer()), [offset])
        number = ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [address.type, number, number, number])
        fetch = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
        builder.call(fetch, [address, number(0), number(3), number(1)])  # to read, kept in all caches, data
        return context.get_dummy_value()

    return types.void(array, types.intp), emit
