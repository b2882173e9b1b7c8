"""Hostile inputs: a clear error or a valid asset for each, never a traceback, never a partial file.

    python benchmarks/fuzz.py [--count 2000] [--seed 0] [--only NUMBER]

Seeds are photos drawn here and encoded in every format Pillow writes; they are truncated, flipped, spliced, given
wrong extensions, impossible sizes and impossible contents, and go through the command line's own entry point. Model
files written by obverse are damaged in the same ways and go through ``convert``. The full disk, the read-only folder
and the interrupt are real ones, in processes of their own. A failure prints its case; seed and number repeat it.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import io
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
from PIL import Image

from obverse import create
from obverse.apps import cli
from obverse.create import Settings
from obverse.errors import EXIT_CODES, ObverseError
from obverse.formats.meshes import MESH_FORMATS
from obverse.formats.splats import SPLAT_FORMATS

SMALL = ["--resolution", "32", "--faces", "500", "--texture", "256", "--gaussians", "200", "--formats", "glb,ply"]
TINY = Settings(resolution=32, faces=500, texture=256, gaussians=200)
SUFFIXES = (".jpg", ".png", ".webp", ".bmp", ".tiff", ".gif", ".ppm", ".tga", ".ico", ".jp2", ".avif")


def drawing(rng: np.random.Generator, *, alpha: bool) -> np.ndarray:
    """Some blobs on some background, [H, W, 3 or 4] uint8."""
    h, w = (int(rng.integers(40, 200)) for _ in range(2))
    y, x = np.mgrid[0:h, 0:w]
    inside = np.zeros((h, w), bool)
    for _ in range(rng.integers(1, 5)):
        cx, cy, r = rng.uniform(0, w), rng.uniform(0, h), rng.uniform(2, h / 2)
        inside |= np.hypot((x - cx) * rng.uniform(0.5, 2), y - cy) < r
    rgb = np.where(inside[..., None], rng.integers(0, 256, 3), rng.integers(0, 256, 3)).astype(np.float64)
    rgb = (rgb + rng.normal(0, rng.uniform(0, 20), rgb.shape)).clip(0, 255).astype(np.uint8)
    return np.dstack([rgb, 255 * inside]).astype(np.uint8) if alpha else rgb


def encoded(rng: np.random.Generator, suffix: str) -> bytes:
    """A drawing as a file; where the format refuses alpha or the build lacks it, PNG."""
    image = Image.fromarray(drawing(rng, alpha=bool(rng.integers(2))))
    mode = rng.choice(["as is", "L", "P", "CMYK", "I;16", "1", "LA", "RGB"])
    with contextlib.suppress(ValueError, OSError):
        image = image if mode == "as is" else image.convert(str(mode))
    buffer = io.BytesIO()
    for attempt, name in ((image, suffix[1:]), (image.convert("RGB"), suffix[1:]), (image.convert("RGBA"), "png")):
        with contextlib.suppress(ValueError, OSError, KeyError):
            buffer.seek(0)
            buffer.truncate()
            attempt.save(buffer, {"jpg": "JPEG", "jp2": "JPEG2000"}.get(name, name))
            return buffer.getvalue()
    raise AssertionError("PNG cannot fail")


def damaged(rng: np.random.Generator, data: bytes, kind: str) -> bytes:
    """One way of spoiling a file."""
    raw = bytearray(data)
    if kind == "truncated":
        return bytes(raw[: int(rng.integers(0, len(raw)))])
    if kind == "flipped":
        for at in rng.integers(0, len(raw), max(1, len(raw) // int(rng.integers(20, 2000)))):
            raw[at] = int(rng.integers(256))
    elif kind == "header":
        for at in rng.integers(0, min(64, len(raw)), int(rng.integers(1, 8))):
            raw[at] = int(rng.integers(256))
    elif kind == "spliced":
        a, b = sorted(rng.integers(0, len(raw), 2))
        raw[a:b] = rng.integers(0, 256, int(rng.integers(0, 500)), dtype=np.uint8).tobytes()
    elif kind == "doubled":
        raw = raw + raw
    elif kind == "noise":
        return rng.integers(0, 256, int(rng.integers(0, 5000)), dtype=np.uint8).tobytes()
    elif kind == "text":
        return b"<svg xmlns='http://www.w3.org/2000/svg'/>" * int(rng.integers(0, 20))
    return bytes(raw)


def odd_image(rng: np.random.Generator, folder: Path) -> Path:
    """Whole files with impossible contents."""
    kind = int(rng.integers(10))
    path = folder / f"odd{kind}.png"
    shapes = [(1, 1), (1, 30000), (30000, 2), (2, 30000), (3, 3), (1, 500), (64, 64), (80, 80), (80, 80), (70, 70)]
    h, w = shapes[kind]
    pixels = rng.integers(0, 256, (h, w, 4), dtype=np.uint8)
    if kind == 6:
        pixels[..., 3] = 0
    elif kind == 7:
        pixels[..., 3] = 255 * (rng.random((h, w)) < 0.02)
    elif kind == 8:
        frames = [Image.fromarray(drawing(rng, alpha=False)[:40, :40]) for _ in range(4)]
        path = folder / "odd8.gif"
        frames[0].save(path, save_all=True, append_images=frames[1:])
        return path
    elif kind == 9:
        pixels[:] = 128
    Image.fromarray(pixels).save(path)
    return path


def odd_array(rng: np.random.Generator) -> np.ndarray:
    """Arrays that are nearly images."""
    shape = [(0, 0, 3), (5, 5), (64, 64, 3), (64, 64, 4), (3, 64, 64), (64, 64, 5), (64,), (2, 64, 64, 3), (64, 64, 1)]
    array = rng.random(shape[int(rng.integers(len(shape)))])
    kind = int(rng.integers(8))
    if kind == 0:
        array = np.full_like(array, np.nan)
    elif kind == 1:
        array.flat[:: max(1, array.size // 7)] = np.inf
    elif kind == 2:
        array *= 1e30
    elif kind == 3:
        array = array.astype(np.int64) - 5
    elif kind == 4:
        array = (array * 255).astype(np.uint8)
    elif kind == 5:
        array = array.astype(object)
    elif kind == 6:
        array = array + 1j
    return array


def leftovers(folder: Path) -> list[str]:
    """Files that should not be there after a run: hidden ones, and folders without a report."""
    names = [p.name for p in folder.rglob("*") if p.name.startswith(".") or p.suffix == ".part"]
    for sub in [folder / "out"] if (folder / "out").exists() else []:
        if not (sub / "report.json").exists() or (sub / "asset.glb").read_bytes()[:4] != b"glTF":
            names.append(f"{sub.name} is incomplete")
    return names


def command(arguments: list[str], folder: Path) -> tuple[str, str]:
    """Run one command in this process → verdict ("ok", "error N" or "FAILED ..."), first line of standard error."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = cli.guarded(lambda: cli.app(args=arguments, standalone_mode=False))
    text = err.getvalue().strip()
    last = text.splitlines()[-1] if text else ""
    if code not in EXIT_CODES or code == 1 or "Traceback" in text or "unexpected" in last:
        return f"FAILED with exit code {code}", last
    if code and not last:
        return f"FAILED: exit code {code} without a word", last
    left = leftovers(folder)
    if left:
        return f"FAILED: left behind {left}", last
    return ("ok" if code == 0 else f"error {code}"), last


def image_case(rng: np.random.Generator, folder: Path) -> tuple[str, str, str]:
    kinds = ["truncated", "flipped", "header", "spliced", "doubled", "noise", "text", "whole", "odd", "wrong extension"]
    kind = str(rng.choice(kinds))
    suffix = str(rng.choice(SUFFIXES))
    if kind == "odd":
        path = odd_image(rng, folder)
    else:
        data = encoded(rng, suffix)
        path = folder / ("photo" + (str(rng.choice(SUFFIXES)) if kind == "wrong extension" else suffix))
        path.write_bytes(damaged(rng, data, kind))
    extra = ["--matte", str(rng.choice(["auto", "auto", "border", "grabcut", "none", "alpha"]))]
    if rng.random() < 0.1:
        extra = ["--box", ",".join(str(v) for v in rng.integers(-50, 300, 4))]
    return f"image, {kind}", *command(["create", str(path), "-o", str(folder / "out"), *SMALL, *extra], folder)


def array_case(rng: np.random.Generator, folder: Path) -> tuple[str, str, str]:
    try:
        asset = create(odd_array(rng), settings=TINY)
    except ObverseError as error:
        return "array", f"error {error.exit_code}", str(error)
    ok = asset.report["mesh"]["watertight"]["ok"]
    return "array", "ok" if ok else "FAILED: not watertight", ""


def model_case(rng: np.random.Generator, folder: Path, models: list[Path]) -> tuple[str, str, str]:
    source = models[int(rng.integers(len(models)))]
    kind = str(rng.choice(["truncated", "flipped", "header", "spliced", "doubled", "noise", "text"]))
    path = folder / f"model{source.suffix}"
    path.write_bytes(damaged(rng, source.read_bytes(), kind))
    target = folder / f"converted.{rng.choice([*MESH_FORMATS, *SPLAT_FORMATS])}"
    return f"model {source.suffix}, {kind}", *command(["convert", str(path), str(target), "--gaussians", "100"], folder)


def process_cases(folder: Path) -> list[tuple[str, str, str]]:
    """What needs a process of its own: full disk, read-only folder, unreadable input, interrupt."""
    photo = folder / "photo.png"
    Image.fromarray(drawing(np.random.default_rng(1), alpha=True)).save(photo)
    base = [sys.executable, "-m", "obverse", "create", str(photo), *SMALL]
    results = []

    def judge(name: str, done: subprocess.CompletedProcess, codes: set[int], out: Path) -> None:
        text = done.stderr.strip()
        left = [p.name for p in out.parent.iterdir() if p.name.startswith(".")] if out.parent.is_dir() else []
        partial = out.is_dir() and not (out / "report.json").exists()
        good = done.returncode in codes and "Traceback" not in text and not left and not partial
        verdict = (
            f"error {done.returncode}" if good else f"FAILED with {done.returncode}, left {left}, partial {partial}"
        )
        results.append((name, verdict, text.splitlines()[-1] if text else ""))

    def small_files() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

    out = folder / "full" / "out"
    out.parent.mkdir()
    done = subprocess.run([*base, "-o", str(out)], capture_output=True, text=True, preexec_fn=small_files, check=False)
    judge("no space for the files", done, {8}, out)
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [*base, "--formats", "glb", "-o", "-"], stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    judge("standard output on a full disk", done, {8}, folder / "nowhere" / "out")
    done = subprocess.run([*base, "-o", "/proc/obverse/out"], capture_output=True, text=True, check=False)
    judge("a folder that cannot be made", done, {8}, folder / "nowhere" / "out")
    (folder / "file").write_text("x")
    done = subprocess.run([*base, "-o", str(folder / "file")], capture_output=True, text=True, check=False)
    judge("a file where the folder should be", done, {8}, folder / "nowhere" / "out")
    for at in (0.5, 1.5, 3.0):
        out = folder / f"interrupted{at}" / "out"
        out.parent.mkdir()
        process = subprocess.Popen(
            [sys.executable, "-m", "obverse", "create", str(photo), "-o", str(out)], stderr=subprocess.PIPE, text=True
        )
        time.sleep(at)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
        judge(
            f"interrupted after {at} s", subprocess.CompletedProcess([], process.returncode, "", err), {0, 130, 1}, out
        )
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, help="run one case by number")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    root = Path(tempfile.mkdtemp(prefix="obverse-fuzz-"))
    tally: collections.Counter[str] = collections.Counter()
    codes: collections.Counter[str] = collections.Counter()
    failures = []
    try:
        asset = create(drawing(np.random.default_rng(5), alpha=True), settings=TINY)
        formats = [name for name in (*MESH_FORMATS, *SPLAT_FORMATS)]
        models = [path for path in asset.save(root / "models", formats=formats) if path.suffix[1:] in formats]
        numbers = [options.only] if options.only is not None else range(options.count)
        for number in numbers:
            rng = np.random.default_rng([options.seed, number])
            folder = root / "case"
            folder.mkdir()
            pick = number % 10
            case = image_case if pick < 6 else array_case if pick == 6 else None
            kind, verdict, text = case(rng, folder) if case else model_case(rng, folder, models)
            tally[kind] += 1
            codes[verdict.split(":")[0]] += 1
            if verdict.startswith("FAILED") or options.only is not None:
                failures.append({"number": number, "kind": kind, "verdict": verdict, "text": text})
                print(json.dumps(failures[-1]), flush=True)
            shutil.rmtree(folder)
        if options.only is None:
            for kind, verdict, text in process_cases(root):
                print(f"{kind}: {verdict}: {text}")
                tally[kind] += 1
                codes[verdict.split(":")[0]] += 1
                failures += [kind] if verdict.startswith("FAILED") else []
    finally:
        shutil.rmtree(root, ignore_errors=True)
    print(f"{sum(tally.values())} inputs, {len(failures)} failures")
    for name, count in sorted(codes.items()):
        print(f"  {name}: {count}")
    sys.exit(bool(failures))


if __name__ == "__main__":
    os.environ.setdefault("PYTHONFAULTHANDLER", "1")
    main()
