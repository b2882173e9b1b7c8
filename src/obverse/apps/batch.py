"""Many photos in one call: each its own folder, each its own failure."""

from __future__ import annotations

import glob
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from ..asset import Asset, check_formats
from ..create import METHODS, Settings
from ..create import create as create_asset
from ..errors import InputError, ObverseError, PartialFailure, UsageError
from ..photo import read_photo
from .console import Console, describe, read_input, write_stdout

PHOTO_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".heic", ".heif", ".avif", ".ppm"}


@dataclass(frozen=True)
class Job:
    """What to do with each photo."""

    method: str
    seed: int
    device: str
    settings: Settings
    formats: tuple[str, ...]
    height: float | None
    existing: Literal["refuse", "overwrite", "skip"]
    cutout: dict[str, Any] = field(default_factory=dict)


def run(photos: list[str], output: str, job: Job, console: Console) -> None:
    """Make an asset of each photo; go on after failures when there are several.

    Raises:
        PartialFailure: some of several photos failed, each said on the way.
        ObverseError: the only photo failed.
    """
    formats = check_formats(job.formats)
    if job.method not in METHODS:
        raise UsageError(f"--method is {job.method!r}, it must be one of: {', '.join(METHODS)}")
    inputs = expand(photos)
    if output == "-":
        if len(inputs) > 1:
            raise UsageError(f"-o - takes one photo, {len(inputs)} were given; name a folder instead")
        write_stdout(_make(inputs[0], job, console)[0].glb(height=job.height))
        return
    many = len(inputs) > 1
    folders = [Path(output) / name for name in folder_names(inputs)] if many else [Path(output)]
    failures = 0
    for name, folder in zip(inputs, folders, strict=True):
        try:
            _one(name, folder, formats, job, console)
        except (ObverseError, MemoryError) as error:
            if not many:
                raise
            failures += 1
            code, message = describe(error)
            record = {"input": name, "status": "failed", "exit_code": code, "error": message}
            console.result(record, f"{name}: failed: {message}")
    if failures:
        raise PartialFailure(f"{failures} of {len(inputs)} photos failed, the others are done")


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
    return list(dict.fromkeys(found))


def folder_names(inputs: list[str]) -> list[str]:
    """One folder name per input: its stem, with the suffix kept where stems repeat, numbered where those repeat too."""
    stems = ["stdin" if name == "-" else Path(name).stem for name in inputs]
    names: list[str] = []
    for name, stem in zip(inputs, stems, strict=True):
        unique = stem if stems.count(stem) == 1 else Path(name).name.replace(".", "_")
        count = 1
        while unique in names:
            count += 1
            unique = f"{stem}_{count}"
        names.append(unique)
    return names


def _one(name: str, folder: Path, formats: list[str], job: Job, console: Console) -> None:
    if (folder / "report.json").exists() and job.existing != "overwrite":
        if job.existing == "refuse":
            raise UsageError(f"{folder} already holds an asset; pass --overwrite, --skip-existing, or another -o")
        console.result(
            {"input": name, "status": "skipped", "output": str(folder)}, f"{name}: skipped, {folder} is done"
        )
        return
    with console.progress(Path(name).name) as stages:
        asset = _make(name, job, console, stages)[0]
        files = asset.save(folder, formats=formats, height=job.height)
    mesh = asset.report["mesh"]
    record = {
        "input": name,
        "status": "done",
        "output": str(folder),
        "files": [path.name for path in files],
        "seconds": round(stages.seconds, 3),
        "faces": mesh["faces"],
        "watertight": mesh["watertight"]["ok"],
        "checks": [check["name"] for check in asset.report["checks"]],
    }
    text = f"{folder}: {', '.join(path.name for path in files)}  ({record['seconds']:.1f} s)"
    console.result(record, text)
    for row in stages.rows:
        console.detail(f"  {row['name']:<14} {row['seconds']:7.3f} s   peak {row['peak_mb']} MB")


def _make(name: str, job: Job, console: Console, stages: Any = None) -> tuple[Asset, Any]:
    """Read the photo, say what is doubtful about it, and only then start the long work."""
    from ..stages import Stages

    stages = stages or Stages()
    with stages("photo"):
        subject = read_photo(read_input(name), **job.cutout)
    for check in subject.checks:
        console.doubt(check)
    asset = create_asset(
        subject, method=job.method, seed=job.seed, settings=job.settings, device=job.device, stages=stages
    )
    return asset, stages
