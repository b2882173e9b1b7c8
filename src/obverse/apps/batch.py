"""Many photos in one call: each its own folder, each its own failure."""

from __future__ import annotations

import glob
import hashlib
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from ..asset import DEFAULT_FORMATS, Asset, check_formats, check_height
from ..checks import Check
from ..create import METHODS, Settings
from ..create import create as create_asset
from ..errors import InputError, PartialFailure, UsageError
from ..photo import read_photo
from ..stages import Stages
from .console import Console, describe, read_input, write_stdout
from .options import REPORT, free_folder

PHOTO_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".heic", ".heif", ".avif", ".ppm"}


@dataclass(frozen=True)
class Job:
    """What to do with each photo."""

    method: str
    seed: int
    device: str
    weights: str | None
    settings: Settings
    formats: tuple[str, ...]
    height: float | None
    existing: Literal["refuse", "overwrite", "skip"]
    cutout: dict[str, Any] = field(default_factory=dict)
    view_weights: str | None = None  # of the model that makes views for the method, where it needs some


def run(photos: list[str], output: str, job: Job, console: Console) -> None:
    """Make an asset of each photo; go on after failures when there are several.

    Several photos, folders and globs give a folder each inside ``output``; one photo named by itself gives ``output``.

    Raises:
        PartialFailure: some of several photos failed, each said on the way.
        ObverseError: the only photo failed.
        UsageError: unknown method, or options that exclude each other.
    """
    formats = check_formats(job.formats)
    check_height(job.height)
    if job.method not in METHODS:
        raise UsageError(f"--method is {job.method!r}, it must be one of: {', '.join(METHODS)}")
    inputs = expand(photos)
    if output == "-":
        if len(inputs) > 1:
            raise UsageError(f"-o - takes one photo, {len(inputs)} were given; name a folder instead")
        if formats not in (list(DEFAULT_FORMATS), ["glb"]):
            raise UsageError(f"-o - writes a GLB and --formats asks for {','.join(formats)}; name a folder instead")
        if console.json_output:
            raise UsageError("-o - and --json both want standard output; name a folder instead, or leave --json out")
        write_stdout(_make(inputs[0], job, console, Stages()).glb(height=job.height))
        return
    many = len(inputs) > 1
    nested = many or inputs != photos  # a folder that holds one photo today may hold two tomorrow
    folders = [Path(output) / name for name in folder_names(inputs)] if nested else [Path(output)]
    failures = 0
    for name, folder in zip(inputs, folders, strict=True):
        try:
            _one(name, folder, formats, job, console)
        except Exception as error:  # whatever one photo does, the others deserve their turn
            if not many or os.environ.get("OBVERSE_TRACEBACK"):
                raise
            failures += 1
            code, message = describe(error)
            record = {"input": name, "status": "failed", "exit_code": code, "error": message}
            console.result(record, f"{name}: failed: {message}")
    if failures:
        others = "" if failures == len(inputs) else ", the others are done"
        raise PartialFailure(
            f"{failures} of {len(inputs)} photos failed{others}; mend what their lines say, then run again with "
            "--skip-existing"
        )


def expand(names: list[str]) -> list[str]:
    """Files, folders and globs → image files, in order, without repeats; ``-`` stays.

    Raises:
        InputError: a folder or glob holds no image.
    """
    found: list[str] = []
    for name in names:
        path = Path(name)
        if name != "-" and path.is_dir():
            inside = sorted(str(p) for p in path.iterdir() if p.suffix.lower() in PHOTO_SUFFIXES and p.is_file())
            if not inside:
                raise InputError(f"{name} is a folder without images; put photos (.jpg, .png, .webp, ...) into it")
            found += inside
        elif any(c in name for c in "*?[") and not path.exists():
            matches = sorted(glob.glob(name, recursive=True))
            if not matches:
                raise InputError(f"no file matches {name!r}; check the pattern")
            found += matches
        else:
            found.append(name)
    unique: dict[str, str] = {}
    for name in found:
        unique.setdefault(name if name == "-" else os.path.abspath(name), name)
    return list(unique.values())


def folder_names(inputs: list[str]) -> list[str]:
    """One folder name per input: its stem, with the suffix kept where stems repeat, numbered where those repeat too."""
    stems = ["stdin" if name == "-" else Path(name).stem for name in inputs]
    names: list[str] = []
    for name, stem in zip(inputs, stems, strict=True):
        base = unique = stem if stems.count(stem) == 1 else Path(name).name.replace(".", "_")
        count = 1
        while unique in names:
            count += 1
            unique = f"{base}_{count}"
        names.append(unique)
    return names


def made_from(folder: Path, name: str) -> bool:
    """Whether the asset in a folder was made from this input; what cannot be read twice is believed."""
    if name == "-":
        return True
    try:
        made = json.loads((folder / "report.json").read_text("utf-8"))["input"]["sha256"]
        return bool(made == hashlib.sha256(Path(name).read_bytes()).hexdigest())
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _one(name: str, folder: Path, formats: list[str], job: Job, console: Console) -> None:
    free_folder(folder, REPORT, "an asset", overwrite=job.existing != "refuse", instead="--overwrite, --skip-existing")
    if (folder / REPORT).exists() and job.existing == "skip":
        if not made_from(folder, name):
            raise UsageError(f"{folder} holds the asset of another photo than {name}; pass --overwrite or another -o")
        skipped = {"input": name, "status": "skipped", "output": str(folder)}
        console.result(skipped, f"{name}: skipped, {folder} is done")
        return
    with console.progress(Path(name).name) as stages:
        asset = _make(name, job, console, stages)
        files = asset.save(folder, formats=formats, height=job.height)
    report = json.loads((folder / "report.json").read_text("utf-8"))
    mesh = report["mesh"]
    record = {
        "input": name,
        "status": "done",
        "output": str(folder),
        "files": [path.name for path in files],
        "seconds": report["seconds"],
        "faces": mesh["faces"],
        "watertight": mesh["watertight"]["ok"],
        "checks": [check["name"] for check in report["checks"]],
    }
    text = f"{folder}: {', '.join(path.name for path in files)}  ({record['seconds']:.1f} s)"
    console.result(record, text)
    for row in report["stages"]:
        console.detail(f"  {row['name']:<14} {row['seconds']:7.3f} s   peak {row['peak_mb']} MB")


def _make(name: str, job: Job, console: Console, stages: Stages) -> Asset:
    """Read the photo, say what is doubtful about it, and only then start the long work."""
    with stages("photo"):
        subject = read_photo(read_input(name), **job.cutout)
    for check in subject.checks:
        console.doubt(check)
    asset = create_asset(
        subject,
        method=job.method,
        seed=job.seed,
        settings=job.settings,
        device=job.device,
        weights=job.weights,
        view_weights=job.view_weights,
        stages=stages,
    )
    for found in asset.report["checks"][len(subject.checks) :]:  # what only the result could show
        console.doubt(Check(**found))
    return asset
