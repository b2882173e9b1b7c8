"""Simplification of one surface to a tenth, against fast-simplification: time, error, triangle shape, and the proof.

Run: python benchmarks/simplify.py [--faces 200000] [--target 20000] [--repeats 3]
Needs: pip install fast-simplification
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import fast_simplification
import numpy as np
from numpy.typing import NDArray

from obverse.surface.decimate import decimate
from obverse.surface.extract import surface_nets
from obverse.surface.repair import check_faces

Mesh = tuple[NDArray, NDArray]


def insideness(x: NDArray, y: NDArray, z: NDArray) -> NDArray:
    """A sphere of radius 0.35 with waves of 0.04, about the distance to its surface and positive inside."""
    return 0.35 + 0.04 * np.sin(20 * x) * np.sin(20 * y) * np.sin(20 * z) - np.sqrt(x * x + y * y + z * z)


def surface(faces: int) -> Mesh:
    """The surface with about ``faces`` faces, in a unit cube."""
    size = int(110 * (faces / 50_000) ** 0.5)
    axis = np.linspace(-0.5, 0.5, size)
    volume = insideness(*np.meshgrid(axis, axis, axis, indexing="ij", sparse=True)).astype(np.float32)
    vertices, triangles = surface_nets(volume)
    return (vertices / (size - 1) - 0.5).astype(np.float32), triangles


def report(name: str, run: Callable[[], Mesh], repeats: int) -> float:
    best = float("inf")
    for _ in range(repeats):
        start = time.perf_counter()
        points, faces = run()
        best = min(best, time.perf_counter() - start)
    points = np.asarray(points, np.float64)
    corners = points[faces]
    error = np.abs(insideness(*corners.mean(axis=1).T))
    longest = np.linalg.norm(corners - np.roll(corners, 1, axis=1), axis=2).max(axis=1)
    area = np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1)
    shape = np.quantile(area / longest**2 / 0.866, [0, 0.01, 0.5])
    faults = ", ".join(check_faces(points, np.asarray(faces)).faults()) or "watertight"
    print(
        f"{name:>20} {1e3 * best:8.0f} ms {len(faces):7d} faces, error mean {error.mean():.2e} max {error.max():.2e}, "
        f"shape (1 is equilateral) worst {shape[0]:.3f} 1% {shape[1]:.3f} median {shape[2]:.3f}, {faults}"
    )
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--faces", type=int, default=200_000)
    parser.add_argument("--target", type=int, default=20_000)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    vertices, faces = surface(options.faces)
    print(f"{len(faces)} faces to {options.target}, one thread, best of {options.repeats}")
    decimate(*surface(2_000), 500)
    ours = report("obverse", lambda: decimate(vertices, faces, options.target), options.repeats)
    peer = report(
        "fast-simplification",
        lambda: fast_simplification.simplify(vertices, faces, target_count=options.target),
        options.repeats,
    )
    print(f"obverse takes {ours / peer:.1f} times as long")


if __name__ == "__main__":
    main()
