"""Our charts against xatlas on the same meshes: time, ratio, charts and share of the texture used, in one run.

Run: python benchmarks/charts.py [--faces 10000 50000] [--repeats 5] [--size 1024] [FILE ...]

Meshes are a bumpy ball, a torus and a thin flat shape, simplified to the number of faces asked for; files of any kind
trimesh reads are measured besides, as they are. Times are the best of several runs, with one run before them that
compiles. xatlas runs once where it takes longer than a second.
"""

from __future__ import annotations

import argparse
import platform
import time
from collections.abc import Callable

import fast_simplification
import numpy as np
import trimesh

from obverse.surface.charts import Atlas, unwrap


def bumpy(level: int) -> trimesh.Trimesh:
    """A ball with bumps of about a tenth of its size."""
    ball = trimesh.creation.icosphere(level)
    p = np.asarray(ball.vertices)
    bumps = np.sin(9 * p[:, 0]) * np.sin(9 * p[:, 1] + 1) * np.sin(9 * p[:, 2] + 2)
    fine = np.sin(21 * p[:, 0] + 9 * p[:, 2]) * np.sin(18 * p[:, 1])
    return trimesh.Trimesh(p * (0.42 + 0.05 * bumps + 0.02 * fine)[:, None], ball.faces, process=False)


def flat(level: int) -> trimesh.Trimesh:
    """A thin shape with a wavy outline."""
    ball = trimesh.creation.icosphere(level)
    p = np.asarray(ball.vertices) * [0.5, 0.4, 0.04]
    p[:, :2] *= (1 + 0.15 * np.cos(5 * np.arctan2(p[:, 1], p[:, 0])))[:, None]
    return trimesh.Trimesh(p, ball.faces, process=False)


def torus(level: int) -> trimesh.Trimesh:
    """A ring."""
    count = 9 * 2**level
    return trimesh.creation.torus(0.35, 0.14, major_sections=count, minor_sections=count // 2)


def with_faces(make: Callable[[int], trimesh.Trimesh], faces: int) -> trimesh.Trimesh:
    level = next(level for level in range(3, 9) if len(make(level).faces) >= faces)
    mesh = make(level)
    vertices, triangles = fast_simplification.simplify(
        np.asarray(mesh.vertices, np.float32), np.asarray(mesh.faces, np.int32), target_count=faces
    )
    return trimesh.Trimesh(vertices, triangles, process=False)


def timed(run: Callable[[], Atlas], repeats: int) -> tuple[float, Atlas]:
    best, answer = float("inf"), None
    for _ in range(repeats):
        start = time.perf_counter()
        answer = run()
        best = min(best, time.perf_counter() - start)
        if best > 1:
            break
    assert answer is not None
    return best, answer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*")
    parser.add_argument("--faces", type=int, nargs="*", default=[10_000, 50_000])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--size", type=int, default=1024)
    options = parser.parse_args()
    cases = [(f"{make.__name__}", with_faces(make, n)) for n in options.faces for make in (bumpy, torus, flat)]
    cases += [(name, trimesh.load(name, force="mesh")) for name in options.files]
    unwrap(trimesh.creation.icosphere(2), size=options.size)
    print(f"{platform.processor() or platform.machine()}, texture {options.size}, best of {options.repeats}")
    head = (
        "mesh",
        "faces",
        "ours ms",
        "xatlas ms",
        "ratio",
        "ours used",
        "xatlas used",
        "ours charts",
        "xatlas charts",
    )
    print(" ".join(f"{title:>13}" for title in head))
    for name, mesh in cases:
        ours, a = timed(lambda m=mesh: unwrap(m, size=options.size), options.repeats)
        theirs, b = timed(lambda m=mesh: unwrap(m, size=options.size, atlas="xatlas"), options.repeats)
        row = (name[-13:], len(mesh.faces), f"{ours * 1e3:.0f}", f"{theirs * 1e3:.0f}", f"{theirs / ours:.1f}")
        row += (f"{a.utilisation:.3f}", f"{b.utilisation:.3f}", a.charts, b.charts)
        print(" ".join(f"{value:>13}" for value in row), flush=True)


if __name__ == "__main__":
    main()
