"""Quality by view angle: a result beside the truth from all around, what the photo showed told from what it did not.

A pixel of a judged view is *visible* if the surface the truth shows there was seen by the photo's camera too: nothing
of the truth lies before it, and it is the same side of the surface that faces both cameras. All other pixels of the
object are *hidden*: there a method can only have guessed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import trimesh
from scipy.ndimage import maximum_filter
from torch import Tensor

from ..cameras import Cameras, framing_distance, orbit
from ..lifting.losses import WINDOW
from ..render.triangles import rasterize, render_mesh
from .cases import Scene
from .images import BEST_DB, SCALES, lpips, lpips_available, mask_iou, ms_ssim, over, psnr, ssim
from .outside import SurfaceSamples, outer_surface, sound
from .protocols import Protocol

WHITE = (1.0, 1.0, 1.0)
NEARNESS = 0.004  # object units by which a point may lie behind what the photo saw and still be it
LEAST_MS_SSIM = WINDOW * 2 ** (len(SCALES) - 1)  # pixels a side: the coarsest scale needs a window
LEAST_PIXELS = 20  # of the visible or hidden kind, for a view to say something about it
SAMPLES = 10_000  # points of each kind that are measured to the result's surface


@dataclass(frozen=True)
class Sweep:
    """The truth from all around, in the photo's frame."""

    cameras: Cameras
    truth: Tensor  # [V, H, W, 3] over white
    coverage: Tensor  # [V, H, W]
    azimuths: tuple[float, ...]  # degrees away from the photo, −180 to 180
    elevations: tuple[float, ...]  # degrees away from the photo's elevation
    angles: tuple[float, ...]  # degrees between the view and the photo
    solid: np.ndarray  # bool [V, H, W] pixels of the object
    visible: np.ndarray  # bool [V, H, W] those of them that the photo shows too
    points_visible: np.ndarray  # [n, 3] surface points of the truth that the photo shows
    points_hidden: np.ndarray  # [n, 3] and that it does not
    surface: SurfaceSamples  # of the truth's outer surface


def sweep_of(scene: Scene, protocol: Protocol) -> Sweep:
    """Look at a scene's truth from the protocol's views."""
    elevation = scene.case.elevation_deg
    azimuths, elevations = protocol.angles(elevation)
    vertices = np.asarray(scene.truth.vertices)
    radius, half_height = np.hypot(vertices[:, 0], vertices[:, 2]).max(), np.abs(vertices[:, 1]).max()
    steepest = max(elevations, key=abs)
    distance = framing_distance(float(radius), float(half_height), elevation_deg=steepest, fov_deg=protocol.fov_deg)
    cameras = orbit(azimuths, elevations, distance=distance, fov_deg=protocol.fov_deg, size=protocol.size)
    images = scene.take(cameras)
    fragments = rasterize(vertices, np.asarray(scene.truth.faces), cameras)
    solid = fragments.face >= 0
    points = _surface_points(fragments.depth, cameras)
    seen = np.zeros_like(solid)
    faces = np.asarray(scene.truth.triangles, np.float64)[fragments.face[solid]]
    eyes = cameras.positions.double().numpy()[np.nonzero(solid)[0]]
    seen[solid] = visible_from(scene, points[solid], faces, eyes)
    there = torch.nn.functional.normalize(cameras.positions, dim=-1)
    photo = torch.nn.functional.normalize(scene.camera.positions[0], dim=-1)
    return Sweep(
        cameras=cameras,
        truth=over(images),
        coverage=images[..., 3],
        azimuths=tuple(round((a + 180) % 360 - 180, 3) for a in azimuths),
        elevations=tuple(round(e - elevation, 3) for e in elevations),
        angles=tuple(round(math.degrees(math.acos(float(c))), 3) for c in (there @ photo).clamp(-1, 1)),
        solid=solid,
        visible=seen,
        points_visible=_some(points[seen]),
        points_hidden=_some(points[solid & ~seen]),
        surface=outer_surface(sound(scene.truth), points=protocol.points, seed=0),
    )


def visible_from(scene: Scene, points: np.ndarray, triangles: np.ndarray, eyes: np.ndarray) -> np.ndarray:
    """Which points of the truth the photo shows, from the side they are looked at.

    Args:
        scene: with the photo's camera.
        points: [n, 3] on the truth.
        triangles: [n, 3, 3] corners of the faces they lie on.
        eyes: [n, 3] where each is looked at from.

    Returns:
        bool [n].
    """
    photo = scene.camera.resized(512, 512)
    vertices, faces = np.asarray(scene.truth.vertices), np.asarray(scene.truth.faces)
    # The farthest of 3 × 3 pixels: on a slope a point may be nearer to its neighbour's depth than to its own.
    depth = maximum_filter(rasterize(vertices, faces, photo).depth[0], 3)
    pixels, z = photo[0].project(torch.from_numpy(points.astype(np.float32)))
    at = pixels.floor().long().clamp(0, 511).numpy()
    unhidden = z.numpy() <= depth[at[:, 1], at[:, 0]] + NEARNESS
    normals = np.cross(triangles[:, 1] - triangles[:, 0], triangles[:, 2] - triangles[:, 0])
    eye = photo.positions[0].double().numpy()
    towards_view, towards_photo = ((normals * (place - points)).sum(1) for place in (eyes, eye))
    return unhidden & (towards_view * towards_photo > 0)


def judge(mesh: trimesh.Trimesh, sweep: Sweep) -> list[dict[str, Any]]:
    """A result, placed in the truth's frame, compared with the truth view by view.

    The result is shown in its base colour: the light is in its texture, as it was in the photo.

    Returns:
        Per view: ``azimuth_deg``, ``elevation_deg`` and ``angle_deg`` away from the photo; ``psnr_db``, ``ssim``,
        ``ms_ssim`` (None below 176 pixels) and ``lpips`` (None without its weights) of the whole picture over white;
        ``mask_iou``; ``visible_error`` and ``hidden_error``, the summed squared error of the object's pixels of each
        kind, and ``visible_pixels`` and ``hidden_pixels``, their numbers.
    """
    shown = render_mesh(mesh, sweep.cameras, background=WHITE, shading="unlit")
    color, truth = shown[..., :3], sweep.truth
    columns: dict[str, list[float | None]] = {
        "psnr_db": _floats(psnr(color, truth)),
        "ssim": _floats(ssim(color, truth)),
        "ms_ssim": _floats(ms_ssim(color, truth) if min(truth.shape[1:3]) >= LEAST_MS_SSIM else None, len(truth)),
        "lpips": _floats(lpips(color, truth) if lpips_available() else None, len(truth)),
        "mask_iou": _floats(mask_iou(shown[..., 3], sweep.coverage)),
    }
    error = (color - truth).square().mean(-1).double().numpy()
    for kind, mask in (("visible", sweep.visible), ("hidden", sweep.solid & ~sweep.visible)):
        columns[f"{kind}_error"] = [round(float(e[m].sum()), 6) for e, m in zip(error, mask, strict=True)]
        columns[f"{kind}_pixels"] = [int(m.sum()) for m in mask]
    rows = []
    for view in range(len(truth)):
        angles = {
            "azimuth_deg": sweep.azimuths[view],
            "elevation_deg": sweep.elevations[view],
            "angle_deg": sweep.angles[view],
        }
        rows.append({**angles, **{name: values[view] for name, values in columns.items()}})
    return rows


def view_means(rows: list[dict[str, Any]]) -> dict[str, float | None]:
    """Rows of ``judge`` → means over the views; over none that is None.

    ``psnr_visible_db`` and ``psnr_hidden_db`` pool the squared errors of all views before taking the logarithm, so
    that a view with few such pixels counts little.
    """
    means: dict[str, float | None] = {}
    for name in ("psnr_db", "ssim", "ms_ssim", "lpips", "mask_iou"):
        values = [row[name] for row in rows if row[name] is not None]
        means[name] = round(float(np.mean(values)), 5) if values else None
    for kind in ("visible", "hidden"):
        pixels = sum(row[f"{kind}_pixels"] for row in rows)
        error = sum(row[f"{kind}_error"] for row in rows) / max(pixels, 1)
        enough = pixels >= LEAST_PIXELS
        means[f"psnr_{kind}_db"] = round(min(BEST_DB, -10 * math.log10(max(error, 1e-12))), 5) if enough else None
    return means


def _floats(values: Tensor | None, count: int = 0) -> list[float | None]:
    """A tensor [V] as rounded numbers; None as ``count`` times None."""
    return [None] * count if values is None else [round(float(v), 6) for v in values.reshape(-1)]


def _surface_points(depth: np.ndarray, cameras: Cameras) -> np.ndarray:
    """Depth [V, H, W] along the camera's +Z → world points [V, H, W, 3]; not finite where nothing is."""
    height, width = depth.shape[1:]
    v, u = np.mgrid[0:height, 0:width] + 0.5
    pixels = np.stack([u, v, np.ones_like(u)], -1)
    points = np.empty((*depth.shape, 3))
    for view in range(len(depth)):
        matrix = cameras.world_to_camera[view].double().numpy()
        rays = pixels @ np.linalg.inv(cameras.intrinsics[view].double().numpy()).T
        with np.errstate(invalid="ignore"):
            local = rays * depth[view][..., None]
            points[view] = (local - matrix[:3, 3]) @ matrix[:3, :3]
    return points


def _some(points: np.ndarray) -> np.ndarray:
    """At most ``SAMPLES`` of the points, evenly spread over their order."""
    count = min(SAMPLES, len(points))
    return points[(np.arange(count) * (len(points) / max(count, 1))).astype(np.int64)]
