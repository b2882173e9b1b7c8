"""The main path: one photo → Asset, and the survey of the field.

A method is one short function here. It takes a Subject and returns a Reconstruction: a raw representation (a Field, or
a mesh) in the world frame, the camera that explains the photo, and in plain words what it guessed. Everything after
that, surface, texture, Gaussians and report, is shared (``finishing.py``), so methods differ only in what they claim to
know.
"""

from __future__ import annotations

import math
import sys
import types
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from .asset import Asset
from .cameras import Views
from .errors import UsageError
from .feedforward import embedded as small
from .feedforward import inflate as silhouette
from .feedforward import instantmesh as six_views
from .feedforward import lgm as four_views
from .feedforward import openlrm as lrm
from .feedforward import splatter_image as splatters
from .feedforward import triposr as tsr
from .feedforward.framing import framed
from .finishing import Method, Reconstruction, Settings, finish, is_whole
from .finishing import place as place
from .finishing import surface as surface
from .lifting import dreamgaussian as dreaming
from .lifting.distill import PRESETS
from .lifting.distill import framed as centred
from .lifting.fuse import fuse
from .multiview import zero123 as turner
from .multiview.cutouts import cut_out, sized
from .multiview.rigs import at_rig
from .multiview.zero123_inputs import FILL
from .photo import Subject, read_photo
from .stages import Stages
from .surface.fusion import solid_of
from .weights import KNOWN, for_photos, licences, native_bfloat16, source_for


def create(
    photo: Any,
    *,
    method: str = "inflate",
    seed: int = 0,
    settings: Settings | None = None,
    device: str = "cpu",
    weights: str | Path | None = None,
    view_weights: str | Path | None = None,
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
        view_weights: likewise, of the Zero-1-to-3 model that makes the views which ``lgm`` and ``instantmesh`` need.
        stages: a stopwatch to follow the run by; its rows end up in the report.
        cutout: passed to ``read_photo``: ``matte``, ``mask``, ``box``, ``foreground_ratio``, ``max_side``.

    Raises:
        UsageError: unknown method, impossible seed or settings, weights for a method that has none, or cut-out
            options for a Subject.
        InputError: unusable photo. NoObjectError: nothing found in it. WeightsError: no weights, or other ones.
    """
    if method not in METHODS:
        raise UsageError(f"method is {method!r}, it must be one of: {', '.join(METHODS)}")
    if not is_whole(seed) or seed < 0:
        raise UsageError(f"seed is {seed!r}, it must be a whole number of at least 0")
    chosen = _weights_for(method, weights, view_weights)
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
    with stages(method):
        reconstruction = METHODS[method].make(subject, seed=seed, device=device, **chosen)
    about = METHODS[method]
    return finish(reconstruction, subject, method=method, about=about, seed=int(seed), settings=settings, stages=stages)


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


def lgm(
    subject: Subject,
    *,
    seed: int = 0,
    device: str = "cpu",
    weights: str | Path | None = None,
    view_weights: str | Path | None = None,
) -> Reconstruction:
    """LGM: a Gaussian for each pixel of four views, the photo and three by Zero-1-to-3 in place of ImageDream."""
    precision = torch.bfloat16 if native_bfloat16(device) else torch.float32
    network = loaded(four_views.load, *source_for("lgm", weights), device, precision)
    model = loaded(turner.load, *source_for(KNOWN["lgm"].views, view_weights), device, precision)
    views = at_rig(model, subject, four_views.rig(), elevation_deg=0.0, seed=seed)
    gaussians = four_views.reconstruct(network, views)
    return Reconstruction(
        solid_of(gaussians),
        turner.photo_camera(subject, views.cameras[0]),
        guessed=(
            "The views from the right, back and left were made up by Zero-1-to-3, one at a time; shape and colour "
            "are LGM's prediction from them and the photo. It was published with views by ImageDream; how well it "
            "does with these was not measured.",
            "The camera is taken to be level, as published, with a field of view of 49°.",
        ),
        gaussians=gaussians,
        details=_details(precision, views, model),
    )


def instantmesh(
    subject: Subject,
    *,
    seed: int = 0,
    device: str = "cpu",
    weights: str | Path | None = None,
    view_weights: str | Path | None = None,
) -> Reconstruction:
    """InstantMesh: a mesh from six views in one pass, the views by Zero-1-to-3 in place of Zero123++."""
    precision = torch.bfloat16 if native_bfloat16(device) else torch.float32
    network = loaded(six_views.load, *source_for("instantmesh", weights), device, precision)
    model = loaded(turner.load, *source_for(KNOWN["instantmesh"].views, view_weights), device, precision)
    up = model.elevation(subject, seed=seed)
    views = at_rig(model, subject, six_views.rig(), elevation_deg=up.degrees, seed=seed)
    solid = six_views.reconstruct(network, views)
    camera = six_views.input_camera(subject.rgba.shape[0], elevation_deg=up.degrees)
    return Reconstruction(
        solid,
        framed(solid, subject.rgba[..., 3], camera),
        guessed=(
            "Six views were made up by Zero-1-to-3, one at a time, none of them the photo; shape and colour are "
            "InstantMesh's prediction from them. It was published with views by Zero123++; how well it does with "
            "these was not measured.",
            f"The camera is taken to be {up.words} above the horizon, for which views agree best, with a field of view "
            "of 30°; the crop is fitted to the outline.",
        ),
        details={**_details(precision, views, model), "kind": network.config.kind},
    )


def _details(precision: torch.dtype, views: Views, model: turner.Zero123) -> dict[str, Any]:
    """How a reconstruction from made-up views was run."""
    return {"precision": str(precision).removeprefix("torch."), "views": len(views), "view_weights": model.loaded}


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


@lru_cache(maxsize=2)  # a folder of photos loads its networks once, and no method has more than two
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
    "lgm": Method(
        make=lgm,
        route="multi-view diffusion",
        views=3,
        download_mb=sum(KNOWN[name].megabytes for name in for_photos("lgm")),
        licence="MIT",
        weights_licence=licences("lgm"),
        source="Tang et al. 2024 (LGM), arXiv 2402.05054; Liu et al. 2023 (Zero-1-to-3), arXiv 2303.11328",
    ),
    "instantmesh": Method(
        make=instantmesh,
        route="multi-view diffusion",
        views=6,
        download_mb=sum(KNOWN[name].megabytes for name in for_photos("instantmesh")),
        licence="Apache-2.0; MIT",
        weights_licence=licences("instantmesh"),
        source="Xu et al. 2024 (InstantMesh), arXiv 2404.07191; Liu et al. 2023 (Zero-1-to-3), arXiv 2303.11328",
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


def _weights_for(method: str, weights: str | Path | None, views: str | Path | None) -> dict[str, str | Path]:
    """What of the weights that were named goes to a method, by its parameters' names.

    Raises:
        UsageError: the method takes no such weights.
    """
    published = [name for name, known in METHODS.items() if known.download_mb or name == "embedded"]
    named = {"weights": (weights, published), "view_weights": (views, [n for n in KNOWN if KNOWN[n].views])}
    for name, (given, takers) in named.items():
        if given is not None and method not in takers:
            words = name.replace("_", " ")
            raise UsageError(f"method {method!r} takes no {words}; leave them out, or choose: {', '.join(takers)}")
    return {name: given for name, (given, _) in named.items() if given is not None}


def check_device(name: str) -> None:
    """Refuse a device torch does not know.

    Raises:
        UsageError: it is none.
    """
    try:
        torch.device(name)
    except (RuntimeError, TypeError) as error:
        raise UsageError(f"device is {name!r}, it must be 'cpu', 'cuda', 'cuda:N' or 'mps'") from error


class _CallableModule(types.ModuleType):
    """``obverse.create`` is this module once anything has imported it, and must still be the function."""

    def __call__(self, *args: Any, **kwargs: Any) -> Asset:
        return create(*args, **kwargs)


sys.modules[__name__].__class__ = _CallableModule
