"""How the splat renderer's time grows with Gaussians, image side and views: a table, fitted exponents, a picture.

Run: python benchmarks/splat_growth.py [--threads 2] [--repeats 5] [-o growth.png]

The scene is the bumpy sphere of ``splats.py``. One quantity grows while the others stay at 30,000 Gaussians, 256² and
one view. An exponent k is the slope of log time over log quantity between its two largest values, time ∝ quantityᵏ:
below 1 where fixed costs still count. Times are minima. The picture needs matplotlib.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import Any

from obverse.parallel import set_threads
from splats import bumpy_sphere, timed, views

BASE = {"Gaussians": 30_000, "image side": 256, "views": 1}
STEPS = {
    "Gaussians": (1_000, 3_000, 10_000, 30_000, 100_000, 300_000, 1_000_000),
    "image side": (64, 128, 256, 512, 1024, 2048),
    "views": (1, 2, 4, 8, 16, 32),
}


def measure(what: str, repeats: int) -> list[tuple[int, float, float]]:
    """Quantity, milliseconds forward, milliseconds backward, for each step."""
    rows = []
    for value in STEPS[what]:
        case = {**BASE, what: value}
        took = timed(bumpy_sphere(case["Gaussians"]), views(case["image side"], case["views"]), repeats)
        print(f"| {what} | {value:,} | {took.forward:.1f} | {took.backward:.1f} |", flush=True)
        rows.append((value, took.forward, took.backward))
    return rows


def exponents(rows: list[tuple[int, float, float]]) -> tuple[float, float]:
    """Slopes of log time over log quantity between the last two steps, forward and backward."""
    (x0, *before), (x1, *after) = rows[-2:]
    forward, backward = (math.log(b / a) / math.log(x1 / x0) for a, b in zip(before, after, strict=True))
    return forward, backward


def draw(found: dict[str, list[tuple[int, float, float]]], path: Path) -> None:
    """One panel per quantity, both axes logarithmic."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(1, len(found), figsize=(10, 3.2), sharey=True, layout="constrained")
    for panel, (what, rows) in zip(panels, found.items(), strict=True):
        values = [row[0] for row in rows]
        for i, (name, color) in enumerate((("forward", "#1f6f8b"), ("backward", "#c8553d")), start=1):
            panel.loglog(values, [row[i] for row in rows], "o-", color=color, markersize=4, label=name)
        ideal: list[Any] = [rows[-1][2] * value / values[-1] for value in values]
        panel.loglog(values, ideal, ":", color="gray", linewidth=1, label="proportional")
        panel.set_xlabel(what)
        panel.grid(alpha=0.3)
    panels[0].set_ylabel("milliseconds")
    panels[0].legend(frameon=False)
    partial = path.with_suffix(".partial.png")
    figure.savefig(partial, dpi=90)
    partial.replace(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("-o", "--output", type=Path, help="write the picture here (.png)")
    options = parser.parse_args()
    threads = set_threads(options.threads)
    print(f"{threads} threads, minimum of {options.repeats}, ms\n")
    print("| what grows | to | forward | backward |\n|---|---|---|---|")
    found = {what: measure(what, options.repeats) for what in STEPS}
    print("\n| time grows with | forward | backward |\n|---|---|---|")
    for what, rows in found.items():
        forward, backward = exponents(rows)
        print(f"| {what} | {forward:.2f} | {backward:.2f} |")
    if options.output:
        draw(found, options.output)


if __name__ == "__main__":
    main()
