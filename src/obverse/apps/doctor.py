"""``obverse doctor``: what is installed, where things would run, and whether the whole path works."""

from __future__ import annotations

import importlib.util
import os
import platform
import tempfile
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np

from .. import __version__
from ..errors import ObverseError
from ..stages import Stages

PACKAGES = (
    "torch", "numpy", "numba", "scipy", "pillow", "trimesh", "opencv-python-headless", "safetensors",
    "huggingface-hub", "typer", "rich",
)  # fmt: skip
EXTRAS = {
    "matte": ("rembg", "learned cut-outs"),
    "heic": ("pillow_heif", "photos from phones"),
    "atlas": ("xatlas", "--atlas xatlas"),
    "video": ("imageio_ffmpeg", ".mp4 turntables"),
    "spz": ("zstandard", "reading .spz version 4"),
    "usd": ("pxr", "reading binary USD"),
    "diffusion": ("transformers", "networks of published models"),
    "blender": ("bpy", "obverse data render --renderer blender"),
    "gpu": ("triton", "fast splats on a GPU"),
}


def examine() -> dict[str, Any]:
    """Versions, extras, devices and threads."""
    import torch

    from .options import pick_device

    versions: dict[str, str | None] = {}
    for name in PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = None
    gpus = (
        [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    )
    return {
        "obverse": __version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "cores": os.cpu_count(),
        "packages": versions,
        "extras": {extra: importlib.util.find_spec(module) is not None for extra, (module, _) in EXTRAS.items()},
        "gpus": gpus,
        "device": pick_device("auto"),
    }


def self_test() -> dict[str, Any]:
    """Make a small asset of a drawn pear, write every default file into a temporary folder, and check it."""
    from ..create import Settings, create

    stages = Stages()
    try:
        asset = create(
            drawn_pear(), settings=Settings(resolution=64, faces=2000, texture=256, gaussians=2000), stages=stages
        )
        with tempfile.TemporaryDirectory(prefix="obverse-doctor-") as folder:
            files = asset.save(folder)
            empty = [path.name for path in files if path.stat().st_size == 0]
        ok = bool(asset.report["mesh"]["watertight"]["ok"]) and not empty
        problem = None if ok else f"mesh not watertight or empty files: {empty}"
    except (ObverseError, OSError, RuntimeError, ValueError) as error:
        ok, problem = False, f"{type(error).__name__}: {error}"
    return {"ok": ok, "problem": problem, "seconds": round(stages.seconds, 3), "stages": stages.rows}


def drawn_pear(size: int = 192) -> np.ndarray:
    """A shaded pear with alpha, [size, size, 4] uint8."""
    y, x = np.mgrid[0:size, 0:size] / size * 2 - 1
    body = np.hypot(x / 0.55, (y - 0.35) / 0.5) < 1
    neck = np.hypot(x / 0.3, (y + 0.15) / 0.55) < 1
    shade = np.clip(0.75 - 0.35 * x - 0.25 * y, 0.2, 1)[..., None]
    rgb = shade * np.array([190, 205, 70])
    return np.dstack([rgb, 255 * (body | neck)]).astype(np.uint8)


def report_text(record: dict[str, Any]) -> str:
    """The record for people."""
    lines = []
    if "obverse" in record:
        lines = [
            f"obverse {record['obverse']}, Python {record['python']}, {record['system']}, {record['cores']} cores",
            "packages: " + ", ".join(f"{name} {number or 'MISSING'}" for name, number in record["packages"].items()),
            f"device: {record['device']}" + (f" ({', '.join(record['gpus'])})" if record["gpus"] else ""),
        ]
        for extra, present in record["extras"].items():
            status = "installed" if present else f'not installed: pip install "obverse[{extra}]"'
            lines.append(f"extra {extra} ({EXTRAS[extra][1]}): {status}")
    test = record["self_test"]
    lines.append(
        f"self-test: {'passed' if test['ok'] else 'FAILED, ' + str(test['problem'])} in {test['seconds']:.1f} s"
    )
    return "\n".join(lines)
