"""Where the time and the memory of one `obverse create` go, in a process of its own each time.

    python benchmarks/stages.py [PHOTO ...] [--repeats 5]

Prints a Markdown table of the median over the repeats: seconds of each stage, the process's peak resident memory up to
the end of it, and for the whole command the wall time from before Python starts until after it ends. Kernels are
compiled by a first run that is not counted.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

MUG = Path(__file__).parent.parent / "examples" / "mug.jpg"


def run(photo: Path) -> tuple[dict, float]:
    """One cold command → its report and its wall seconds."""
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        command = [sys.executable, "-m", "obverse", "create", str(photo), "-o", str(Path(folder) / "out"), "-q"]
        subprocess.run(command, check=True)
        seconds = time.perf_counter() - start
        return json.loads((Path(folder) / "out" / "report.json").read_text()), seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", nargs="*", type=Path, default=[MUG])
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    for photo in options.photos:
        run(photo)
        runs = [run(photo) for _ in range(options.repeats)]
        names = [row["name"] for row in runs[0][0]["stages"]]
        source = runs[0][0]["input"]
        print(f"\n{photo.name}, {source['width']}×{source['height']}, {options.repeats} cold processes\n")
        print("| stage | seconds | peak memory so far, MB |\n|---|---|---|")
        inside = 0.0
        for i, name in enumerate(names):
            seconds = statistics.median(report["stages"][i]["seconds"] for report, _ in runs)
            peak = statistics.median(report["stages"][i]["peak_mb"] or 0 for report, _ in runs)
            inside += seconds
            print(f"| {name} | {seconds:.2f} | {peak:.0f} |")
        wall = statistics.median(seconds for _, seconds in runs)
        print(f"| start, imports, end | {wall - inside:.2f} | |")
        children = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024 / 1e6
        fastest, slowest = min(s for _, s in runs), max(s for _, s in runs)
        print(f"| **whole command** | **{wall:.2f}** ({fastest:.2f} to {slowest:.2f}) | **{children:.0f}** |")


if __name__ == "__main__":
    main()
