"""Asset: what obverse hands over. A mesh, a splat, the photo's camera and a report; and how they reach the disk."""

from __future__ import annotations

import json
import math
import os
import secrets
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import trimesh

from .cameras import Cameras, Views, framing_distance, orbit
from .errors import OutputError, UsageError
from .formats.files import atomic_write
from .formats.meshes import MESH_FORMATS, mesh_bytes, write_mesh
from .formats.page import report_page
from .formats.splats import SPLAT_FORMATS, splat_bytes, write_splats
from .formats.video import VIDEO_FORMATS, write_video
from .gaussians import Gaussians
from .photo import Subject
from .render.splats import render
from .render.triangles import render_mesh
from .sheet import as_shown, contact_sheet, letterbox, over_checkerboard, png_bytes
from .stages import Stages

DEFAULT_FORMATS = ("glb", "ply", "png", "webp", "html")
TURNTABLE_FRAMES = 36
TURNTABLE_SIZE = 384


@dataclass
class Asset:
    """A 3D asset in the world frame: +Y up, photographed side +Z, centred, longest side 1."""

    mesh: trimesh.Trimesh  # closed, textured (PBR material, base colour only)
    gaussians: Gaussians
    camera: Cameras  # one camera, which sees ``subject.rgba``
    subject: Subject
    report: dict[str, Any]
    stages: Stages = field(default_factory=Stages, repr=False)

    def __repr__(self) -> str:
        method = self.report["method"]["name"]
        return f"Asset({len(self.mesh.faces):,} faces, {len(self.gaussians):,} Gaussians, by {method})"

    def views(
        self,
        azimuth_deg: Sequence[float] | float = (0.0, 90.0, 180.0, 270.0),
        elevation_deg: Sequence[float] | float = 15.0,
        *,
        size: int = 512,
        of: Literal["mesh", "splat"] = "mesh",
        background: tuple[float, float, float] | None = (1.0, 1.0, 1.0),
    ) -> Views:
        """Render the asset from an orbit, as large as fits from every side.

        Returns:
            Views with images [V, size, size, 4]: colour over ``background`` and coverage; straight alpha without one.

        Raises:
            UsageError: no pixels, angles that are not finite or of unequal number, or unknown ``of``.
        """
        if of not in ("mesh", "splat"):
            raise UsageError(f"of is {of!r}, it must be 'mesh' or 'splat'")
        if size < 1:
            raise UsageError(f"size is {size}, it must be at least 1 pixel")
        angles = [np.asarray(given, np.float64).reshape(-1) for given in (azimuth_deg, elevation_deg)]
        if len(angles[0]) != len(angles[1]) and 1 not in map(len, angles):
            raise UsageError(
                f"{len(angles[0])} azimuths and {len(angles[1])} elevations were given; give as many, or one for all"
            )
        if not all(np.isfinite(given).all() for given in angles):
            raise UsageError(f"azimuth_deg {azimuth_deg} and elevation_deg {elevation_deg} must be finite degrees")
        steepest = float(np.abs(angles[1]).max(initial=0))
        vertices = np.asarray(self.mesh.vertices)
        radius, half_height = np.hypot(vertices[:, 0], vertices[:, 2]).max(), np.abs(vertices[:, 1]).max()
        distance = framing_distance(float(radius), float(half_height), elevation_deg=steepest)
        cameras = orbit(angles[0].tolist(), angles[1].tolist(), distance=distance, size=size)
        if of == "mesh":
            return Views(render_mesh(self.mesh, cameras, background=background), cameras)
        result = render(self.gaussians, cameras, background=background or (0.0, 0.0, 0.0))
        alpha = result.alpha[..., None]
        color = result.color if background is not None else result.color / alpha.clamp_min(1e-6)
        return Views(torch.cat([color.clamp(0, 1), alpha], -1), cameras)

    def save(
        self,
        directory: str | Path,
        *,
        formats: Sequence[str] = DEFAULT_FORMATS,
        overwrite: bool = True,
        height: float | None = None,
    ) -> list[Path]:
        """Write the asset into a folder; ``report.json`` always, last.

        Args:
            directory: created if absent. Files appear in it only when all of them are complete.
            formats: any of glb, obj, stl, 3mf, usdz (mesh as ``asset.*``); ply, splat, spz (Gaussians as ``asset.*``);
                png (contact sheet ``preview.png``); webp, gif, mp4 (``turntable.*``); html (``report.html``).
            overwrite: replace an asset that is there already, with every file its report names.
            height: real height of the object in metres; one photo has no scale, so without it the longest side is 1.

        Returns:
            The files written.

        Raises:
            UsageError: unknown format or impossible height, or an asset is there and ``overwrite`` is false.
            OutputError: the folder cannot be written; nothing is left behind.
        """
        directory = Path(directory)
        wanted = check_formats(formats)
        check_height(height)
        if not overwrite and (directory / "report.json").exists():
            raise UsageError(f"{directory} already holds an asset; choose another folder or allow overwriting")
        stages = Stages(self.stages.listener, list(self.stages.rows))  # a second save starts from the same rows
        home, hidden = directory.resolve(), f".obverse-{secrets.token_hex(4)}"
        # Inside a folder that exists: it may be a mount point, or the only place that may be written to.
        scratch = (home if home.is_dir() else home.parent) / hidden
        try:
            scratch.mkdir(parents=True)
            names = [path.name for path in self._write_all(scratch, wanted, height, stages)]
            if home.is_dir():  # since before, or made meanwhile by another process
                _forget(home, keep=names)
                for name in names:
                    os.replace(scratch / name, home / name)
            else:
                os.replace(scratch, home)
        except OutputError as error:
            raise OutputError(str(error).replace(str(scratch), str(directory))) from error
        except OSError as error:
            raise OutputError(
                f"cannot write to {directory}: {error.strerror or error}; choose a folder that exists or can be made, "
                "is writable and has space"
            ) from error
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
        return [directory / name for name in names]

    def glb(self, *, height: float | None = None) -> bytes:
        """The mesh as one binary glTF file."""
        return mesh_bytes(self.mesh, ".glb", provenance=self.provenance(), height_m=height)

    def provenance(self) -> dict[str, Any]:
        """What a file says about where it came from; free of times and paths, so that equal runs give equal bytes."""
        keys = ("version", "method", "seed", "settings")
        return {
            "generator": "obverse",
            **{key: self.report[key] for key in keys},
            "input_sha256": self.report["input"]["sha256"],
        }

    def turntable(self, *, frames: int = TURNTABLE_FRAMES, size: int = TURNTABLE_SIZE) -> torch.Tensor:
        """One turn at elevation 15°, without repeating the first view → frames [T, size, size, 3]."""
        azimuths = [360.0 * i / frames for i in range(frames)]
        return self.views(azimuths, 15.0, size=size).images[..., :3]

    def _write_all(self, folder: Path, formats: list[str], height: float | None, stages: Stages) -> list[Path]:
        files: list[Path] = []
        provenance = self.provenance()
        for name in (name for name in formats if name in MESH_FORMATS):
            with stages(f"asset.{name}"):
                files += write_mesh(self.mesh, folder / f"asset.{name}", provenance=provenance, height_m=height)
        for name in (name for name in formats if name in SPLAT_FORMATS):
            with stages(f"asset.{name}"):
                files += write_splats(self.gaussians, folder / f"asset.{name}", provenance=provenance)
        preview = None
        if {"png", "html"} & set(formats):
            with stages("contact sheet"):
                preview = png_bytes(contact_sheet(self))
            if "png" in formats:
                files.append(atomic_write(folder / "preview.png", preview))
        videos = [name for name in formats if name in VIDEO_FORMATS]
        if videos:
            with stages("turntable"):
                turn = self.turntable()
                for name in videos:
                    files += write_video(turn, folder / f"turntable.{name}")
        report = self._final_report(files, height, stages)
        if "html" in formats:
            page = self._page(report, preview, height)
            files.append(atomic_write(folder / "report.html", page.encode()))
            report = self._final_report(files, height, stages)
        files.append(atomic_write(folder / "report.json", (json.dumps(report, indent=2) + "\n").encode()))
        return files

    def _final_report(self, files: list[Path], height: float | None, stages: Stages) -> dict[str, Any]:
        return {
            **self.report,
            "height_m": height,
            "stages": stages.rows,
            "seconds": round(stages.seconds, 3),
            "files": [{"name": path.name, "bytes": path.stat().st_size} for path in files],
        }

    def _page(self, report: dict[str, Any], preview: bytes | None, height: float | None) -> str:
        images = {"photo": png_bytes(letterbox(as_shown(self.subject), 320))}
        images["cutout"] = png_bytes(over_checkerboard(self.subject.resized(320)))
        if preview:
            images["preview"] = preview
        return report_page(
            report,
            glb=self.glb(height=height),
            splats=splat_bytes(self.gaussians, ".splat"),
            images=images,
            title=self.subject.source.name,
        )


def check_formats(formats: Sequence[str]) -> list[str]:
    """Names of output formats (a list, or text with commas), with or without a dot, in any case → lower case, in order.

    Raises:
        UsageError: a name is none of the known formats.
    """
    known = [*MESH_FORMATS, *SPLAT_FORMATS, *VIDEO_FORMATS, "png", "html"]
    formats = formats.split(",") if isinstance(formats, str) else formats
    names = list(dict.fromkeys(name.strip().lower().lstrip(".") for name in formats))
    unknown = [name for name in names if name not in known]
    if unknown or not names:
        raise UsageError(f"output format is {', '.join(unknown) or 'not given'}; choose from: {', '.join(known)}")
    return names


def check_height(height: float | None) -> None:
    """Refuse a real height that is not one.

    Raises:
        UsageError: it is given, and not a positive finite number.
    """
    if height is not None and not (isinstance(height, (int, float)) and math.isfinite(height) and height > 0):
        raise UsageError(f"height is {height!r}, it must be a positive number of metres, for example 0.25")


def _forget(folder: Path, *, keep: list[str]) -> None:
    """Remove an earlier asset's report, without which a folder counts as unfinished, and its files not in ``keep``."""
    report = folder / "report.json"
    try:
        listed = [Path(file["name"]) for file in json.loads(report.read_text("utf-8"))["files"]]
    except (OSError, ValueError, KeyError, TypeError):  # none there, or not ours
        listed = []
    report.unlink(missing_ok=True)
    ours = {path.name for path in listed if path.stem in ("asset", "preview", "turntable", "report")}
    for name in ours - set(keep):
        (folder / name).unlink(missing_ok=True)
