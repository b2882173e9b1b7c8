"""``obverse fit``: a folder of pictures with known cameras → the same kind of asset that a photo gives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import trimesh
from torch import Tensor

from ..asset import Asset, check_formats, check_height
from ..cameras import Cameras, Views
from ..checks import Check
from ..create import Method, Reconstruction, Settings, finish, surface
from ..errors import InputError, UsageError
from ..feedforward import instantmesh
from ..formats.datasets import PosedImages, read_views
from ..gaussians import Gaussians
from ..lifting import losses
from ..lifting.carve import carve, one_camera, start_gaussians
from ..lifting.fit import Hints, Progress, Recipe, fit
from ..lifting.fuse import fuse
from ..lifting.radiance import KINDS, FieldProgress, FieldRecipe, fit_field
from ..photo import Subject, read_photo
from ..render.fields import Field
from ..render.splats import render
from ..render.triangles import render_mesh
from ..stages import Stages
from ..surface.fusion import solid_of
from ..weights import KNOWN, native_bfloat16, source_for
from .console import Console
from .options import REPORT, free_folder

WAYS = ("gaussians", *KINDS, "instantmesh")
DEPTH_WEIGHT = 0.5  # of the depth loss where the folder holds depths
START_SHARE = 2 / 3  # of the Gaussians allowed, placed on and in the carved hull; growth adds the others


@dataclass(frozen=True)
class OnePass:
    """Nothing is fitted: a network turns the views into a field."""

    weights: str | None = None  # file, folder or Hub id; by default those that were fetched
    device: str = "cpu"
    steps: int | None = None  # as asked for, to be refused: there are none


@dataclass(frozen=True)
class FitJob:
    """What to do with the folder."""

    settings: Settings
    recipe: Recipe | FieldRecipe | OnePass
    seed: int
    split: str | None
    checkpoint: Path | None
    formats: tuple[str, ...]
    height: float | None
    overwrite: bool
    to: str = "gaussians"  # or a kind of field: "grid", "triplane"; or "instantmesh"


def run(folder: Path, output: Path, job: FitJob, console: Console) -> None:
    """Read the folder, fit, save, and say what came of it.

    Raises:
        UsageError: options that exclude each other, or an asset that is there. InputError: the folder cannot be used.
    """
    formats = check_formats(job.formats)
    check_height(job.height)
    if job.to not in WAYS:
        raise UsageError(f"--to is {job.to!r}; choose one of: {', '.join(WAYS)}")
    if job.to != "instantmesh" and isinstance(job.recipe, OnePass):
        raise UsageError(f"--to {job.to} takes no weights; leave them out, or pass --to instantmesh")
    if isinstance(job.recipe, OnePass) and (job.recipe.steps is not None or job.checkpoint is not None):
        raise UsageError("--to instantmesh predicts in one pass; leave --steps and --checkpoint out")
    free_folder(output, REPORT, "an asset", overwrite=job.overwrite)
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
    """Views → hull → fitted Gaussians, or a fitted field, or that of a network → mesh → Asset.

    The view that looks most squarely at the +Z side plays the part of the photo: it is shown on the contact sheet, and
    its pixels are projected onto the mesh.

    Raises:
        InputError: the views have no alpha, or contradict each other, or do not suit the network.
        WeightsError: the network's weights are not there, or are others.
    """
    views = found.views
    if views.images.shape[-1] != 4:
        raise InputError(
            "the pictures have neither transparency nor masks, so the object cannot be told from the background; save "
            "them as RGBA, name masks with mask_path, or put them into masks/ (COLMAP)"
        )
    if found.depths is not None and isinstance(job.recipe, Recipe) and job.recipe.weights.depth == 0:
        job = replace(job, recipe=replace(job.recipe, weights=replace(job.recipe.weights, depth=DEPTH_WEIGHT)))
    way = {Recipe: _gaussians, FieldRecipe: _field, OnePass: _instantmesh}[type(job.recipe)]
    lifted = way(found, job, stages, console)
    front = int(views.cameras.positions.reshape(-1, 3)[:, 2].div(views.cameras.positions.norm(dim=-1)).argmax())
    subject, camera = subject_of(views, front, found.names[front])
    reconstruction = Reconstruction(lifted.shape, camera, (), lifted.gaussians)
    asset = finish(
        reconstruction,
        subject,
        method="fit",
        seed=job.seed,
        settings=job.settings,
        stages=stages,
        about={"gaussians": METHOD, "instantmesh": INSTANTMESH}.get(job.to, FIELD_METHOD),
    )
    asset.report["views"] = {"count": len(views), "photo": found.names[front], **agreement(lifted.render, views)}
    asset.report["fit"] = {
        "to": job.to, "steps": lifted.steps, "stopped": lifted.stopped, "recipe": lifted.recipe or asdict(job.recipe)
    }  # fmt: skip
    asset.report["guessed"] = [
        lifted.guessed,
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
FIELD_METHOD = replace(
    METHOD,
    source="Laurentini 1994 (visual hull); Mildenhall et al. 2020 (NeRF); Sun et al. 2022 (DVGO); Chan et al. 2022 "
    "(EG3D)",
)
INSTANTMESH = replace(
    METHOD,
    route="feed-forward",
    download_mb=KNOWN["instantmesh"].megabytes,
    weights_licence=KNOWN["instantmesh"].licence,
    source="Xu et al. 2024 (InstantMesh), arXiv 2404.07191",
)


@dataclass(frozen=True)
class Lifted:
    """What the rest of the way needs of a finished fit."""

    shape: Field
    gaussians: Gaussians | None  # None: they are placed on the textured mesh
    render: Callable[[Cameras], Tensor]  # one camera → [1, H, W, 3] over white
    steps: int
    stopped: str
    guessed: str = "What no view shows is guessed: hollows keep the shape that the outlines leave, bottoms are closed."
    recipe: dict[str, Any] | None = None  # by default that of the job


def _gaussians(found: PosedImages, job: FitJob, stages: Stages, console: Console | None) -> Lifted:
    """Views → Gaussians around the carved hull, or where depths say, and the solid that they fill."""
    assert isinstance(job.recipe, Recipe)
    views, depths = found.views, found.depths
    count = max(1, int(START_SHARE * job.settings.gaussians))
    with stages("carve" if depths is None else "fuse"):
        if depths is None:
            start = start_gaussians(carve(views), views, count=count, seed=job.seed)
        else:
            start = fuse(views, depths=depths, how="merge", gaussians=count)
    with stages("fit"):
        fitted = fit(
            views, start, gaussians=job.settings.gaussians, recipe=job.recipe, hints=Hints(depths=depths),
            seed=job.seed, checkpoint=job.checkpoint, progress=_teller(console),
        )  # fmt: skip
    with stages("solid"):
        solid = solid_of(fitted.gaussians, resolution=job.settings.resolution)
    gaussians = fitted.gaussians
    return Lifted(
        solid, gaussians, lambda camera: render(gaussians, camera).color, fitted.steps, fitted.stopped
    )  # fmt: skip


def _field(found: PosedImages, job: FitJob, stages: Stages, console: Console | None) -> Lifted:
    """Views → a density field, which begins in the carved hull."""
    assert isinstance(job.recipe, FieldRecipe)
    with stages("fit"):
        fitted = fit_field(
            found.views, kind=job.to, recipe=job.recipe, seed=job.seed, checkpoint=job.checkpoint,  # type: ignore[arg-type]
            progress=_teller(console),
        )  # fmt: skip
    return Lifted(fitted, None, lambda camera: fitted.render(camera).color, fitted.steps, fitted.stopped)


def _instantmesh(found: PosedImages, job: FitJob, stages: Stages, console: Console | None) -> Lifted:
    """Views → the field that InstantMesh predicts of them, in one pass."""
    assert isinstance(job.recipe, OnePass)
    device = job.recipe.device
    precision = torch.bfloat16 if native_bfloat16(device) else torch.float32
    source, download = source_for("instantmesh", job.recipe.weights)
    with stages("instantmesh"):
        network = instantmesh.load(source, dtype=precision, device=device, download=download)
        field = instantmesh.reconstruct(network, found.views)
    with stages("draft"):
        mesh = surface(field, job.settings)
        colors = field.color(torch.from_numpy(np.asarray(mesh.vertices, np.float32))).numpy()
        mesh.visual = trimesh.visual.ColorVisuals(mesh, vertex_colors=(colors * 255 + 0.5).astype(np.uint8))
    guessed = "What no view shows is InstantMesh's prediction; so is depth, and what the views do not agree on."
    return Lifted(
        field,
        None,
        lambda camera: render_mesh(mesh, camera, shading="unlit")[..., :3],
        0,
        "one pass",
        guessed,
        {**asdict(network.config), "precision": str(precision).removeprefix("torch.")},
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


def agreement(render_one: Callable[[Cameras], Tensor], views: Views) -> dict[str, float]:
    """Mean PSNR in dB and SSIM of what was fitted, drawn as [1, H, W, 3], on the views it was fitted to, over white."""
    quality: list[tuple[float, float]] = []
    for view in range(len(views)):
        image = render_one(one_camera(views.cameras, view))[0].clamp(0, 1)
        truth: Tensor = views.images[view]
        truth = truth[..., :3] * truth[..., 3:] + 1 - truth[..., 3:]
        quality.append((losses.psnr(image, truth), float(losses.ssim(image, truth))))
    psnr, ssim = (sum(values) / len(quality) for values in zip(*quality, strict=True))
    return {"psnr_db": round(psnr, 2), "ssim": round(ssim, 4)}


def _teller(console: Console | None):  # type: ignore[no-untyped-def]
    """Live numbers as lines, if verbose."""

    def tell(now: Progress | FieldProgress) -> None:
        if console is not None and (now.step % 100 == 0 or now.step == now.steps):
            size = f"{now.gaussians} Gaussians" if isinstance(now, Progress) else f"{now.resolution}³"
            console.detail(
                f"    step {now.step}/{now.steps}  loss {now.loss:.4f}  {now.psnr_db:.2f} dB  {size}  "
                f"{now.seconds:.1f} s"
            )

    return tell
