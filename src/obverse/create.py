"""The main path: one photo → Asset, and the survey of the field.

A method is one short function here. It takes a Subject and returns a Reconstruction: a raw representation (a Field, or
a mesh) in the world frame, the camera that explains the photo, and in plain words what it guessed. Everything after
that, surface, texture, Gaussians and report, is shared, so methods differ only in what they claim to know.
"""

from __future__ import annotations

import math
import numbers
import sys
import types
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import trimesh
from torch import Tensor

from . import __version__
from .asset import Asset
from .cameras import Cameras, Views
from .checks import more_faces, outline_lost, read_as_steep
from .errors import NoObjectError, UsageError
from .evaluation.consistency import inspect
from .feedforward import embedded as small
from .feedforward import inflate as silhouette
from .feedforward import openlrm as lrm
from .feedforward import splatter_image as splatters
from .feedforward import triposr as tsr
from .feedforward.framing import framed
from .gaussians import Gaussians, rescale
from .lifting import dreamgaussian as dreaming
from .lifting.distill import PRESETS
from .lifting.distill import framed as centred
from .lifting.fuse import fuse
from .multiview import zero123 as turner
from .multiview.cutouts import cut_out, sized
from .multiview.zero123_inputs import FILL
from .photo import Subject, read_photo
from .render.fields import Field, FlexiField
from .render.triangles import render_mesh
from .stages import Stages
from .surface.extract import EmptyFieldError, extract
from .surface.flexicubes import extract_flexicubes
from .surface.fusion import solid_of
from .surface.gaussians import mesh_to_gaussians
from .surface.repair import check_watertight, make_watertight, simplify
from .surface.texture import Textured, texture_mesh
from .weights import KNOWN, native_bfloat16, source_for

MAX_RESOLUTION = 512  # the grid is held whole: 0.5 GB at 512³


@dataclass(frozen=True)
class Settings:
    """How fine the result is. The same for every method."""

    resolution: int = 192  # cells of the extraction grid along the longest side
    faces: int = 20_000  # triangles of the mesh
    texture: int = 1024  # texels along a side of the base-colour image
    gaussians: int = 60_000  # Gaussians of the splat
    atlas: Literal["charts", "xatlas"] = "charts"  # who cuts the surface into texture charts

    def __post_init__(self) -> None:
        limits = {
            "resolution": (16, MAX_RESOLUTION),
            "faces": (100, 2_000_000),
            "texture": (256, 4096),
            "gaussians": (100, 5_000_000),
        }
        for name, (low, high) in limits.items():
            value = getattr(self, name)
            if not _is_whole(value) or not low <= value <= high:
                raise UsageError(f"{name} is {value!r}, it must be a whole number from {low} to {high}")
        if self.atlas not in ("charts", "xatlas"):
            raise UsageError(f"atlas is {self.atlas!r}, it must be 'charts' or 'xatlas'")


@dataclass(frozen=True)
class Reconstruction:
    """What a method returns."""

    shape: Field | trimesh.Trimesh  # world frame: +Y up, photographed side +Z; any position and scale
    camera: Cameras  # one camera, which sees ``subject.rgba``
    guessed: tuple[str, ...]  # one sentence for each thing that the photo does not tell
    gaussians: Gaussians | None = None  # in the frame of ``shape``; None: they are placed on the textured mesh
    details: dict[str, Any] = field(default_factory=dict)  # how it was run: joins the method's entry in the report


@dataclass(frozen=True)
class Method:
    """A way from photo to 3D, with what a user must know before choosing it."""

    make: Callable[..., Reconstruction]  # (subject, *, seed, device[, weights]) → Reconstruction
    route: Literal["silhouette", "feed-forward", "multi-view diffusion", "distillation", "lifting"]
    views: int  # images predicted on the way; 0 if none
    download_mb: int
    licence: str
    weights_licence: str
    source: str
    memory_mb: int | None = None  # peak of the whole command on a CPU, where measured
    seconds: float | None = None  # of the whole command on two CPU cores, where measured

    @property
    def summary(self) -> str:
        """First line of the function's docstring."""
        return (self.make.__doc__ or "").strip().split("\n")[0]


def create(
    photo: Any,
    *,
    method: str = "inflate",
    seed: int = 0,
    settings: Settings | None = None,
    device: str = "cpu",
    weights: str | Path | None = None,
    stages: Stages | None = None,
    **cutout: Any,
) -> Asset:
    """One photo → Asset.

    Args:
        photo: path, bytes, file object, PIL image, array [H, W, 1–4], or a Subject already cut out.
        method: a key of ``METHODS``.
        seed: everything random derives from it; on a CPU the same seed gives the same bytes.
        settings: how fine the result is.
        device: where networks run: ``"cpu"``, or a device torch knows.
        weights: file, folder or Hub id of a published method's weights; by default those that ``obverse weights
            fetch`` has put into the Hub's cache.
        stages: a stopwatch to follow the run by; its rows end up in the report.
        cutout: passed to ``read_photo``: ``matte``, ``mask``, ``box``, ``foreground_ratio``, ``max_side``.

    Raises:
        UsageError: unknown method, impossible seed or settings, weights for a method that has none, or cut-out
            options for a Subject.
        InputError: unusable photo. NoObjectError: nothing found in it. WeightsError: no weights, or other ones.
    """
    if method not in METHODS:
        raise UsageError(f"method is {method!r}, it must be one of: {', '.join(METHODS)}")
    if not _is_whole(seed) or seed < 0:
        raise UsageError(f"seed is {seed!r}, it must be a whole number of at least 0")
    takers = [name for name, known in METHODS.items() if known.download_mb or name == "embedded"]
    if weights is not None and method not in takers:
        raise UsageError(f"method {method!r} takes no weights; leave them out, or choose: {', '.join(takers)}")
    settings, stages = settings or Settings(), stages or Stages()
    if not isinstance(settings, Settings):
        raise UsageError(f"settings is a {type(settings).__name__}; pass Settings(faces=50_000), for example")
    if isinstance(photo, Subject):
        if cutout:
            raise UsageError(f"a Subject is cut out already, so {', '.join(cutout)} would do nothing; leave it out")
        subject = photo
    else:
        with stages("photo"):
            subject = read_photo(photo, **cutout)
    check_device(device)
    chosen = {"weights": weights} if weights is not None else {}
    with stages(method):
        reconstruction = METHODS[method].make(subject, seed=seed, device=device, **chosen)
    return finish(reconstruction, subject, method=method, seed=int(seed), settings=settings, stages=stages)


# ---------------------------------------------------------------------------------------------------------------------
# The methods


def inflate(subject: Subject, *, seed: int = 0, device: str = "cpu") -> Reconstruction:
    """The silhouette blown up like a balloon: no weights, no idea what the object is."""
    field, camera = silhouette.inflate(subject)
    return Reconstruction(
        field,
        camera,
        guessed=(
            "Depth is inflated from the outline: wide parts are thick, thin parts are thin, whatever the object is.",
            "The back is the front's mirror image; its colours are the photo's, faded towards those of the outline.",
            "The camera is taken to be level with the object, with a field of view of 30°.",
        ),
    )


def embedded(
    subject: Subject, *, seed: int = 0, device: str = "cpu", weights: str | Path | None = None
) -> Reconstruction:
    """The model in the wheel: 17 million parameters, one pass, trained on free objects and invented ones."""
    field, camera, doubt = small.reconstruct(_small_network(str(weights or small.WEIGHTS), device), subject)
    elevation = math.degrees(math.asin(float(camera.positions[1]) / field.middle))
    return Reconstruction(
        field,
        camera,
        guessed=(
            "Depth, back and their colours are what the embedded model learned from other objects; of the solid, "
            f"{100 * doubt:.0f} % may as well be air, by its own account.",
            f"The camera is taken to look down by {elevation:.0f}°, as the model reads the photo, with a field of view "
            "of 30°.",
        ),
        details={"doubt": round(doubt, 3), "elevation_deg": round(elevation, 1)},
    )


@lru_cache(maxsize=2)
def _small_network(path: str, device: str) -> small.Network:
    """The embedded model's network, kept from one photo to the next."""
    return small.load(path, device=device)


def triposr(
    subject: Subject, *, seed: int = 0, device: str = "cpu", weights: str | Path | None = None
) -> Reconstruction:
    """TripoSR: the photo to a triplane in one pass of a transformer with 419 million parameters."""
    precision = torch.bfloat16 if native_bfloat16(device) else torch.float32
    network = loaded(tsr.load, *source_for("triposr", weights), device, precision)
    solid = tsr.reconstruct(network, subject)
    return Reconstruction(
        solid,
        framed(solid, subject.rgba[..., 3], tsr.input_camera(subject.rgba.shape[0])),
        guessed=(
            "Depth, and shape and colour of the sides that the photo does not show, are TripoSR's prediction.",
            "The camera is taken to be level, with a field of view of 40°; the crop is fitted to the outline.",
        ),
        details={"precision": str(precision).removeprefix("torch.")},
    )


def splatter_image(
    subject: Subject, *, seed: int = 0, device: str = "cpu", weights: str | Path | None = None
) -> Reconstruction:
    """Splatter Image: a Gaussian for each of 128 × 128 pixels, by a U-Net with 56 million parameters."""
    network = loaded(splatters.load, *source_for("splatter-image", weights), device, torch.float32)
    gaussians, camera = splatters.reconstruct(network, subject)
    return Reconstruction(
        solid_of(gaussians),
        camera,
        guessed=(
            "Depth, and shape and colour of the sides that the photo does not show, are Splatter Image's prediction "
            "from 128 × 128 pixels.",
            f"The camera is taken to be level, with a field of view of {network.config.fov_deg:.0f}° of which the "
            f"object spans {100 * network.config.fill:.0f} %.",
        ),
        gaussians=gaussians,
    )


def openlrm(
    subject: Subject, *, seed: int = 0, device: str = "cpu", weights: str | Path | None = None
) -> Reconstruction:
    """OpenLRM: the photo and its camera to a triplane in one pass of a transformer, in six published sizes."""
    precision = torch.bfloat16 if native_bfloat16(device) else torch.float32
    network = loaded(lrm.load, *source_for("openlrm", weights), device, precision)
    solid = lrm.reconstruct(network, subject)
    return Reconstruction(
        solid,
        framed(solid, subject.rgba[..., 3], lrm.input_camera(subject.rgba.shape[0])),
        guessed=(
            "Depth, and shape and colour of the sides that the photo does not show, are OpenLRM's prediction.",
            "The camera is taken to be level, with a field of view of 67°; the crop is fitted to the outline.",
        ),
        details={"version": network.config.version, "precision": str(precision).removeprefix("torch.")},
    )


def zero123(
    subject: Subject, *, seed: int = 0, device: str = "cpu", weights: str | Path | None = None
) -> Reconstruction:
    """Zero-1-to-3: fifteen views by diffusion, each on its own, and the solid that they and the photo agree on."""
    precision = torch.bfloat16 if native_bfloat16(device) else torch.float32
    model = loaded(turner.load, *source_for("zero123", weights), device, precision)
    up = model.elevation(subject, seed=seed)
    cameras = turner.surround(up.degrees, size=model.size)
    made = cut_out(model.views(subject, cameras[1:], seed=seed, source_elevation_deg=up.degrees))
    photo = turner.photo_view(subject, model.size)
    views = sized(Views(torch.cat([photo[None], made.views.images]), cameras))
    solid = solid_of(fuse(views))
    return Reconstruction(
        solid,
        replace(turner.photo_camera(subject, cameras[0]), world_to_camera=views.cameras.world_to_camera[0]),
        guessed=(
            "Shape and colour of the sides that the photo does not show are taken from views that Zero-1-to-3 made up, "
            "one at a time; where they contradict each other, what most of them see through is gone.",
            f"The camera is taken to be {up.words} above the horizon, for which views agree best, with a field of view "
            "of 49°.",
        ),
        details={"weights": model.loaded, "precision": str(precision).removeprefix("torch."), "views": len(cameras)},
    )


def dreamgaussian(
    subject: Subject, *, seed: int = 0, device: str = "cpu", weights: str | Path | None = None
) -> Reconstruction:
    """DreamGaussian: Gaussians that Zero123-XL finds likely from all sides, a mesh of them, its texture refined."""
    model = loaded(turner.load, *source_for("zero123-xl", weights), device, torch.float32)
    photo, camera = centred(subject.rgba, PRESETS["dreamgaussian"].around, fill=FILL)
    lifted = dreaming.lift(model.conditioned(photo.rgba, elevation_deg=0.0), photo, seed=seed, device=device)
    return Reconstruction(
        lifted,
        camera,
        guessed=(
            "Every side but the photo's is what Zero-1-to-3 finds likely, judged view by view: nothing makes sides "
            "agree but the shape itself.",
            "The camera is taken to be level, with a field of view of 49°; obverse distill takes other elevations.",
        ),
        gaussians=lifted.gaussians,
        details={"weights": model.loaded, "steps": PRESETS["dreamgaussian"].steps},
    )


@lru_cache(maxsize=1)  # a folder of photos loads its network once; another method's takes its place
def loaded(load: Callable[..., Any], source: str | Path, download: bool, device: str, dtype: torch.dtype) -> Any:
    """A family's network, kept from one photo to the next."""
    return load(source, download=download, device=device, dtype=dtype)


METHODS: dict[str, Method] = {
    "inflate": Method(
        make=inflate,
        route="silhouette",
        views=0,
        download_mb=0,
        licence="Apache-2.0",
        weights_licence="none needed",
        source="Igarashi et al. 1999 (Teddy); Prasad and Fitzgibbon 2006",
        memory_mb=944,
        seconds=8.8,
    ),
    "embedded": Method(
        make=embedded,
        route="feed-forward",
        views=0,
        download_mb=0,
        licence="Apache-2.0",
        weights_licence="Apache-2.0",
        source="this project: obverse train embedded",
        memory_mb=1190,
        seconds=11.4,
    ),
    "triposr": Method(
        make=triposr,
        route="feed-forward",
        views=0,
        download_mb=KNOWN["triposr"].megabytes,
        licence="MIT",
        weights_licence=KNOWN["triposr"].licence,
        source="Tochilkin et al. 2024, arXiv 2403.02151",
        memory_mb=1950,
        seconds=18.4,
    ),
    "openlrm": Method(
        make=openlrm,
        route="feed-forward",
        views=0,
        download_mb=KNOWN["openlrm"].megabytes,
        licence="Apache-2.0",
        weights_licence=KNOWN["openlrm"].licence,
        source="He and Wang 2023, OpenLRM; Hong et al. 2023 (LRM), arXiv 2311.04400",
    ),
    "splatter-image": Method(
        make=splatter_image,
        route="feed-forward",
        views=0,
        download_mb=KNOWN["splatter-image"].megabytes,
        licence="unverified (BSD-3-Clause by a survey)",
        weights_licence=KNOWN["splatter-image"].licence,
        source="Szymanowicz et al. 2024, arXiv 2312.13150",
    ),
    "zero123": Method(
        make=zero123,
        route="multi-view diffusion",
        views=15,
        download_mb=KNOWN["zero123"].megabytes,
        licence="MIT",
        weights_licence=KNOWN["zero123"].licence,
        source="Liu et al. 2023, arXiv 2303.11328; Laurentini 1994 (visual hull)",
    ),
    "dreamgaussian": Method(
        make=dreamgaussian,
        route="distillation",
        views=0,
        download_mb=KNOWN["zero123-xl"].megabytes,
        licence="MIT",
        weights_licence=KNOWN["zero123-xl"].licence,
        source="Tang et al. 2024, arXiv 2309.16653; Poole et al. 2022, arXiv 2209.14988 (DreamFusion)",
    ),
}


# ---------------------------------------------------------------------------------------------------------------------
# What all methods share


def finish(
    reconstruction: Reconstruction,
    subject: Subject,
    *,
    method: str,
    seed: int,
    settings: Settings,
    stages: Stages,
    about: Method | None = None,
) -> Asset:
    """Raw representation → closed mesh → texture → Gaussians → Asset with its report.

    ``about`` describes a method that is not in ``METHODS``, because it does not start from a photo.
    """
    shape = reconstruction.shape
    with stages("surface"):
        raw = shape if isinstance(shape, trimesh.Trimesh) else surface(shape, settings)
    with stages("repair"):
        mesh = make_watertight(simplify(raw, settings.faces, strict=False) if len(raw.faces) > settings.faces else raw)
        mesh, camera, to_field = place(mesh, reconstruction.camera)
        proof = check_watertight(mesh)
    with stages("texture"):
        predicted = _predicted_color(shape, to_field)
        textured = texture_mesh(
            mesh, predicted=predicted, photo=subject.rgba, camera=camera, size=settings.texture, atlas=settings.atlas
        )
    with stages("gaussians"):
        if reconstruction.gaussians is None:
            boost = 1.0 + np.asarray(textured.seen, np.float32)
            gaussians = mesh_to_gaussians(textured.mesh, count=settings.gaussians, seed=seed, boost=boost)
        else:
            center, corner = to_field(torch.zeros(1, 3))[0], to_field(torch.ones(1, 3))[0]
            gaussians = rescale(reconstruction.gaussians, 1 / float(corner[0] - center[0]), center=center)
    with stages("agreement"):
        agreement = photo_agreement(textured.mesh, camera, subject)
    with stages("inspect"):
        inspection = inspect(textured.mesh, gaussians=gaussians, subject=subject, camera=camera)
    report = _report(subject, method, about or METHODS[method], seed, settings)
    report["method"] |= reconstruction.details
    report["mesh"] = {
        "vertices": len(mesh.vertices),
        "faces": len(mesh.faces),
        "watertight": proof.to_dict(),
        "texture": settings.texture,
        **_texture_numbers(textured),
    }
    report["gaussians"] = {"count": len(gaussians)}
    report["photo_agreement"] = agreement
    report["inspection"] = inspection.to_dict()
    late = [outline_lost(agreement["silhouette_iou"]), read_as_steep(reconstruction.details.get("elevation_deg"))]
    late += [more_faces(len(mesh.faces), settings.faces), *inspection.findings]
    report["checks"] += [asdict(check) for check in late if check]
    report["guessed"] = [
        _unseen_sentence(textured),
        *reconstruction.guessed,
        "One photo has no scale: sizes are relative.",
    ]
    report["stages"] = stages.rows
    return Asset(mesh=textured.mesh, gaussians=gaussians, camera=camera, subject=subject, report=report, stages=stages)


def surface(field: Field, settings: Settings) -> trimesh.Trimesh:
    """The field's surface with at least ``settings.faces`` triangles, on a finer grid than asked for if that needs one.

    The number of triangles grows with the square of the resolution; at ``MAX_RESOLUTION`` it is what it is. A field
    with a grid of its own is meshed on that.
    """
    if isinstance(field, FlexiField):
        return extract_flexicubes(field)
    try:
        mesh = extract(field, resolution=settings.resolution)
    except EmptyFieldError:  # thinner than a cell, perhaps
        try:
            return extract(field, resolution=MAX_RESOLUTION)
        except EmptyFieldError as error:
            raise NoObjectError(
                f"nothing of the object is left on a grid of {MAX_RESOLUTION} cells along its longest side: it is too "
                "thin; give a larger photo of it, or cut it out more generously with a mask"
            ) from error
    if len(mesh.faces) >= settings.faces or settings.resolution >= MAX_RESOLUTION:
        return mesh
    finer = math.ceil(settings.resolution * math.sqrt(1.2 * settings.faces / max(len(mesh.faces), 1)))
    return extract(field, resolution=min(finer, MAX_RESOLUTION))


def place(mesh: trimesh.Trimesh, camera: Cameras) -> tuple[trimesh.Trimesh, Cameras, Callable[[Tensor], Tensor]]:
    """Centre the bounding box at the origin and scale its longest side to 1, and move the camera with it.

    Returns:
        The placed mesh, the camera that sees it as ``camera`` saw the original, and the map of points [N, 3] from the
        placed frame back to the original one.
    """
    low, high = np.asarray(mesh.bounds, np.float64)
    center, extent = (low + high) / 2, float((high - low).max())
    vertices = ((np.asarray(mesh.vertices) - center) / extent).astype(np.float32)
    placed = trimesh.Trimesh(vertices.astype(np.float64), mesh.faces, visual=mesh.visual, process=False)
    matrix = camera.world_to_camera.clone()
    shift = torch.tensor(center, dtype=matrix.dtype)
    matrix[..., :3, 3] = (matrix[..., :3, 3] + matrix[..., :3, :3] @ shift) / extent
    moved = Cameras(matrix, camera.intrinsics, camera.width, camera.height)
    return placed, moved, lambda points: points * extent + shift.to(points)


def photo_agreement(mesh: trimesh.Trimesh, camera: Cameras, subject: Subject, *, size: int = 512) -> dict[str, float]:
    """How well the mesh, seen from the photo's camera, repeats the photo.

    Returns:
        ``silhouette_iou``, 0–1, and ``psnr_db`` over the pixels inside both silhouettes (capped at 99).
    """
    view = render_mesh(mesh, camera.resized(size, size), background=None, shading="unlit").reshape(size, size, 4)
    photo = subject.resized(size)
    mine, theirs = view[..., 3] > 0.5, photo[..., 3] > 0.5
    both = mine & theirs
    iou = float(both.sum() / (mine | theirs).sum().clamp_min(1))
    error = float(((view[..., :3] - photo[..., :3])[both] ** 2).mean()) if bool(both.any()) else 1.0
    return {"silhouette_iou": round(iou, 4), "psnr_db": round(min(99.0, -10 * math.log10(max(error, 1e-12))), 2)}


def _predicted_color(
    shape: Field | trimesh.Trimesh, to_field: Callable[[Tensor], Tensor]
) -> Callable[[Tensor], Tensor]:
    """Colour of the placed frame's points [N, 3], from the field or from the nearest vertex of a coloured mesh."""
    if not isinstance(shape, trimesh.Trimesh):
        return lambda points: shape.color(to_field(points))
    from scipy.spatial import cKDTree

    visual: Any = shape.visual
    if visual.kind == "texture" and getattr(visual.material, "baseColorTexture", None) is not None:
        painted, texels = dreaming.painted_points(shape)
        return lambda points: texels[torch.as_tensor(painted.query(to_field(points).numpy())[1])]
    tree = cKDTree(shape.vertices)
    visual = visual.to_color() if visual.kind == "texture" else visual
    colors = torch.as_tensor(np.asarray(visual.vertex_colors)[:, :3] / 255, dtype=torch.float32)
    return lambda points: colors[torch.as_tensor(tree.query(to_field(points).numpy())[1])]


def _is_whole(value: object) -> bool:
    """Whether a value is a whole number, of Python or numpy; True and False are not meant as one."""
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def check_device(name: str) -> None:
    """Refuse a device torch does not know.

    Raises:
        UsageError: it is none.
    """
    try:
        torch.device(name)
    except (RuntimeError, TypeError) as error:
        raise UsageError(f"device is {name!r}, it must be 'cpu', 'cuda', 'cuda:N' or 'mps'") from error


def _texture_numbers(textured: Textured) -> dict[str, float]:
    """What the report says about the texture."""
    return {
        "texture_utilisation": round(float(textured.utilisation), 4),
        "charts": int(textured.charts),
        "seen_fraction": round(float(textured.seen_fraction), 4),
    }


def _unseen_sentence(textured: Textured) -> str:
    unseen = 100 * (1 - float(textured.seen_fraction))
    return f"{unseen:.0f} % of the surface was not seen by the photo; its shape and colour are guessed."


def _report(subject: Subject, method: str, chosen: Method, seed: int, settings: Settings) -> dict[str, Any]:
    """The parts of the report that are known before the surface is."""
    return {
        "version": __version__,
        "method": {
            "name": method,
            "route": chosen.route,
            "licence": chosen.licence,
            "weights_licence": chosen.weights_licence,
            "source": chosen.source,
        },
        "seed": seed,
        "input": asdict(subject.source),
        "matte": {"kind": subject.matte, "confidence": round(subject.confidence, 3), "crop": list(subject.crop)},
        "checks": [asdict(check) for check in subject.checks],
        "settings": asdict(settings),
    }


class _CallableModule(types.ModuleType):
    """``obverse.create`` is this module once anything has imported it, and must still be the function."""

    def __call__(self, *args: Any, **kwargs: Any) -> Asset:
        return create(*args, **kwargs)


sys.modules[__name__].__class__ = _CallableModule
