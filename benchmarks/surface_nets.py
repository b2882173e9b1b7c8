"""Surface nets against scikit-image's marching cubes on the same volumes, two threads, minimum of several runs.

Run: python benchmarks/surface_nets.py [--threads 2] [--repeats 10]
"""

from __future__ import annotations

import argparse
import platform
import time
from collections.abc import Callable

import numba
import numpy as np
from numpy.typing import NDArray
from skimage.measure import marching_cubes

from obverse.surface.extract import surface_nets


def bumpy_sphere(size: int) -> NDArray[np.float32]:
    """Samples [size, size, size] of a sphere of radius 0.35 with waves of 0.04, positive inside."""
    axis = np.linspace(-0.5, 0.5, size, dtype=np.float32)
    x, y, z = np.meshgrid(axis, axis, axis, indexing="ij", sparse=True)
    radius = np.sqrt(x * x + y * y + z * z)
    return (0.35 + 0.04 * np.sin(20 * x) * np.sin(20 * y) * np.sin(20 * z) - radius).astype(np.float32)


def noise(size: int) -> NDArray[np.float32]:
    """White noise [size, size, size]: most cells are mixed, many are ambiguous."""
    return np.random.default_rng(0).standard_normal((size, size, size)).astype(np.float32)


def seconds(run: Callable[[], object], repeats: int) -> float:
    best = float("inf")
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        best = min(best, time.perf_counter() - start)
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=10)
    options = parser.parse_args()
    numba.set_num_threads(min(options.threads, numba.config.NUMBA_NUM_THREADS))
    surface_nets(bumpy_sphere(16))
    print(f"{platform.processor() or platform.machine()}, {numba.get_num_threads()} threads, best of {options.repeats}")
    print(f"{'volume':>16} {'faces':>9} {'ours ms':>9} {'skimage ms':>11} {'ratio':>7}")
    cases = [("bumpy", bumpy_sphere, 128), ("bumpy", bumpy_sphere, 256), ("noise", noise, 64)]
    for name, make, size in cases:
        volume = make(size)
        ours = seconds(lambda v=volume: surface_nets(v), options.repeats)
        theirs = seconds(lambda v=volume: marching_cubes(v, 0.0), options.repeats)
        faces = len(surface_nets(volume)[1])
        print(f"{name + f' {size}^3':>16} {faces:9d} {1e3 * ours:9.2f} {1e3 * theirs:11.2f} {theirs / ours:7.1f}")


if __name__ == "__main__":
    main()
