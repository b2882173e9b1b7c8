"""``obverse fit``: a folder of pictures with known cameras → the same kind of asset that a photo gives."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from ..asset import Asset, check_formats, check_height
from ..cameras import Cameras, Views
from ..checks import Check
from ..create import Method, Reconstruction, Settings, finish
from ..errors import InputError, OutputError, UsageError
from ..formats.datasets import PosedImages, read_views
from ..lifting import losses
from ..lifting.carve import carve, hull_gaussians, one_camera
from ..lifting.fit import Fitted, Progress, Recipe, fit
from ..photo import Subject, read_photo
from ..render.splats import render
from ..stages import Stages
from ..surface.fusion import solid_of
from .console import Console

START_SHARE = 0.5  # of the Gaussians allowed, placed on the carved hull; growth adds the others


@dataclass(frozen=True)
class FitJob:
    """What to do with the folder."""

    settings: Settings
    recipe: Recipe
    seed: int
    split: str | None
    checkpoint: Path | None
    formats: tuple[str, ...]
    height: float | None
    overwrite: bool


def run(folder: Path, output: Path, job: FitJob, console: Console) -> None:
    """Read the folder, fit, save, and say what came of it."""
    formats = check_formats(job.formats)
    check_height(job.height)
    if output.exists() and not output.is_dir():
        raise OutputError(f"{output} is a file and an asset is a folder; choose another -o")
    if (output / "report.json").exists() and not job.overwrite:
        raise UsageError(f"{output} already holds an asset; pass --overwrite, or another -o")
    with console.progress(folder.name) as stages:
        with stages("views"):
            found = read_views(folder, split=job.split)
        asset = lift(found, job, stages, console)
        files = asset.save(output, formats=formats, height=job.height)
    for noticed in asset.report["checks"]:
        console.doubt(Check(**noticed))
    mesh, views = asset.report["mesh"], asset.report["views"]
    record = {
        "input": str(folder),
        "status": "done",
        "output": str(output),
        "files": [path.name for path in files],
        "seconds": round(stages.seconds, 3),
        "faces": mesh["faces"],
        "watertight": mesh["watertight"]["ok"],
        "views": views["count"],
        "psnr_db": views["psnr_db"],
    }
    names = ", ".join(path.name for path in files)
    console.result(record, f"{output}: {names}  ({record['seconds']:.1f} s, {views['psnr_db']} dB on its own views)")
    for row in stages.rows:
        console.detail(f"  {row['name']:<14} {row['seconds']:7.3f} s   peak {row['peak_mb']} MB")


def lift(found: PosedImages, job: FitJob, stages: Stages, console: Console | None = None) -> Asset:
    """Views → hull → fitted Gaussians → mesh → Asset.

    The view that looks most squarely at the +Z side plays the part of the photo: it is shown on the contact sheet, and
    its pixels are projected onto the mesh.

    Raises:
        InputError: the views have no alpha, or contradict each other.
    """
    views = found.views
    if views.images.shape[-1] != 4:
        raise InputError(
            "the pictures have neither transparency nor masks, so the object cannot be told from the background; save "
            "them as RGBA, name masks with mask_path, or put them into masks/ (COLMAP)"
        )
    with stages("carve"):
        start = hull_gaussians(
            carve(views), views, count=max(1, int(START_SHARE * job.settings.gaussians)), seed=job.seed
        )
    with stages("fit"):
        fitted = fit(
            views, start, gaussians=job.settings.gaussians, recipe=job.recipe, seed=job.seed,
            checkpoint=job.checkpoint, progress=_teller(console),
        )  # fmt: skip
    with stages("solid"):
        field = solid_of(fitted.gaussians, resolution=job.settings.resolution)
    front = int(views.cameras.positions.reshape(-1, 3)[:, 2].div(views.cameras.positions.norm(dim=-1)).argmax())
    subject, camera = subject_of(views, front, found.names[front])
    reconstruction = Reconstruction(field, camera, (), fitted.gaussians)
    asset = finish(
        reconstruction, subject, method="fit", seed=job.seed, settings=job.settings, stages=stages, about=METHOD
    )
    asset.report["views"] = {"count": len(views), "photo": found.names[front], **agreement(fitted, views)}
    asset.report["fit"] = {"steps": fitted.steps, "stopped": fitted.stopped, "recipe": asdict(job.recipe)}
    asset.report["guessed"] = [
        "What no view shows is guessed: hollows keep the shape that the outlines leave, bottoms are closed.",
        "Cameras are taken as given, and light as part of the colour.",
        "Sizes are relative: the scale of the cameras was not kept.",
    ]
    return asset


METHOD = Method(
    make=lift,  # type: ignore[arg-type]  # starts from views, so it is no choice of ``create``
    route="lifting",
    views=0,
    download_mb=0,
    licence="Apache-2.0",
    weights_licence="none needed",
    source="Laurentini 1994 (visual hull); Kerbl et al. 2023 (3D Gaussian splatting)",
)


def subject_of(views: Views, view: int, name: str) -> tuple[Subject, Cameras]:
    """One RGBA view as a Subject, and the camera that sees its square crop."""
    image = views.images[view]
    subject = read_photo((image.clamp(0, 1) * 255 + 0.5).to(torch.uint8).numpy(), matte="alpha")
    subject = replace(subject, source=replace(subject.source, name=name))
    height, width = subject.alpha.shape
    camera = one_camera(views.cameras, view).resized(width, height)
    x, y, side = subject.crop
    intrinsics = camera.intrinsics.clone()
    intrinsics[0, 2] -= x
    intrinsics[1, 2] -= y
    size = subject.rgba.shape[0]
    return subject, Cameras(camera.world_to_camera, intrinsics, side, side).resized(size, size)


def agreement(fitted: Fitted, views: Views) -> dict[str, float]:
    """Mean PSNR in dB and SSIM of the fitted Gaussians on the views they were fitted to, over white."""
    quality: list[tuple[float, float]] = []
    for view in range(len(views)):
        image = render(fitted.gaussians, one_camera(views.cameras, view)).color[0].clamp(0, 1)
        truth: Tensor = views.images[view]
        truth = truth[..., :3] * truth[..., 3:] + 1 - truth[..., 3:]
        quality.append((losses.psnr(image, truth), float(losses.ssim(image, truth))))
    psnr, ssim = (sum(values) / len(quality) for values in zip(*quality, strict=True))
    return {"psnr_db": round(psnr, 2), "ssim": round(ssim, 4)}


def _teller(console: Console | None):  # type: ignore[no-untyped-def]
    """Live numbers as lines, if verbose."""

    def tell(now: Progress) -> None:
        if console is not None and (now.step % 100 == 0 or now.step == now.steps):
            console.detail(
                f"    step {now.step}/{now.steps}  loss {now.loss:.4f}  {now.psnr_db:.2f} dB  "
                f"{now.gaussians} Gaussians  {now.seconds:.1f} s"
            )

    return tell
