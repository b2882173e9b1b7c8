"""Views with depth → Gaussians in closed form, without optimisation.

``union`` makes one Gaussian of every pixel and keeps them all. ``merge`` asks the other views: a point that some of
them see through goes; points that several see alike gain weight; and those that share a place and a side are replaced
by one Gaussian with their weighted mean and covariance. ``refine`` starts a short fit from that.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ..cameras import Views
from ..errors import InputError, UsageError
from ..gaussians import Gaussians, from_colors, quats_from_matrices
from .carve import carve, hull_mesh, inside_image, mesh_depths, one_camera, sample_image
from .fit import Growth, Recipe, fit
from .losses import normals_from_depth, points_from_depth

SOLID = 0.5  # coverage from which a pixel becomes a point
OPACITY = 0.95
SPREAD = 0.6  # standard deviation of a pixel's Gaussian, in pixels at its depth
THICKNESS = 0.2  # least standard deviation along the normal, over the larger of the others
TOLERANCE = 0.02  # object units within which two views mean the same surface
GRAZING = 0.1  # least cosine between normal and view of a point that is trusted
OCTANTS = 8  # points of one cell are merged if their normals fall into the same octant


@dataclass(frozen=True)
class Points:
    """Oriented surface points, one per pixel."""

    positions: Tensor  # [N, 3]
    normals: Tensor  # [N, 3] unit, towards the camera
    colors: Tensor  # [N, 3]
    sizes: Tensor  # [N] width of the pixel at the point, object units
    weights: Tensor  # [N] trust: cosine between normal and view, times coverage
    view: Tensor  # [N] int64 where it comes from


def fuse(
    views: Views,
    *,
    depths: Tensor | None = None,
    how: Literal["union", "merge", "refine"] = "merge",
    gaussians: int = 20_000,
    recipe: Recipe | None = None,
    seed: int = 0,
) -> Gaussians:
    """Views → Gaussians.

    Args:
        views: images [V, H, W, 4]; the alpha says where the object is.
        depths: [V, H, W] along the camera's +Z, not finite where unknown; None takes those of the carved hull.
        how: ``"union"`` of all pixels, ``"merge"`` of what agrees, or ``"refine"``, a fit that starts from the merge.
        gaussians: most there may be. The union is thinned evenly, merged cells are enlarged until it holds.
        recipe: of the refinement; by default 300 steps without growth.
        seed: of the refinement.

    Raises:
        InputError: no alpha, depths of another shape, or no pixel with a depth. UsageError: an unknown ``how``.
    """
    if how not in ("union", "merge", "refine") or gaussians < 1:
        raise UsageError(f"how is {how!r} and gaussians {gaussians}; choose 'union', 'merge' or 'refine', at least 1")
    if views.images.ndim != 4 or views.images.shape[-1] != 4:
        raise InputError(f"fusing needs pictures [V, H, W, 4] with alpha, got {list(views.images.shape)}; cut them out")
    if depths is None:
        depths = mesh_depths(hull_mesh(carve(views)), views.cameras)
    if depths.shape != views.images.shape[:3]:
        raise InputError(f"depths are {list(depths.shape)}, expected {list(views.images.shape[:3])}, one per pixel")
    points = back_project(views, depths)
    if how == "union":
        return union(points, gaussians)
    merged = merge_points(vote(points, views, depths), gaussians)
    if how == "merge":
        return merged
    recipe = recipe or Recipe(steps=300, growth=Growth("none"))
    return fit(views, merged, gaussians=gaussians, recipe=recipe, seed=seed).gaussians


def back_project(views: Views, depths: Tensor) -> Points:
    """Every pixel that is object and has depth and normal → a point in the world.

    ``depths`` [V, H, W] run along each camera's +Z, in object units; pixels without surface are inf.

    Raises:
        InputError: no pixel is that.
    """
    parts: list[tuple[Tensor, ...]] = []
    for view in range(len(views)):
        camera, image = one_camera(views.cameras, view), views.images[view]
        local = points_from_depth(depths[view], camera.intrinsics)
        normals = normals_from_depth(depths[view], camera.intrinsics)
        use = (image[..., 3] >= SOLID) & torch.isfinite(depths[view]) & (normals.norm(dim=-1) > 0.5)
        local, normals, image = local[use], normals[use], image[use]
        rotation = camera.world_to_camera[:3, :3]
        cosine = -(normals * torch.nn.functional.normalize(local, dim=-1)).sum(-1)
        parts.append(
            (
                local @ rotation + camera.positions,
                normals @ rotation,
                image[:, :3],
                local[:, 2] / camera.intrinsics[0, 0],
                cosine.clamp_min(0) * image[:, 3],
                torch.full((len(local),), view),
            )
        )
    points = Points(*(torch.cat(column) for column in zip(*parts, strict=True)))
    if len(points.positions) == 0:
        raise InputError("no pixel of the object has a depth with known neighbours; check the masks and the depths")
    return points


def union(points: Points, count: int) -> Gaussians:
    """P points → at most ``count`` discs, thinned evenly and widened by as much."""
    step = max(1.0, len(points.positions) / count)
    kept = (torch.arange(min(count, len(points.positions)), dtype=torch.float64) * step).long()
    across = SPREAD * points.sizes[kept] * step**0.5
    scales = torch.stack([across, across, THICKNESS * across], -1)
    opacities = torch.full((len(kept),), OPACITY)
    return from_colors(points.positions[kept], _facing(points.normals[kept]), scales, opacities, points.colors[kept])


def vote(points: Points, views: Views, depths: Tensor) -> Points:
    """Drop points that more views see through than agree with; scale the weights of the others by who agrees.

    A view agrees with a point if its own surface at the pixel lies within the tolerance; it sees through it if its
    surface lies farther back, or if it sees background there. Views that see another surface in front do not vote.
    ``depths`` are [V, H, W] along each camera's +Z.

    Raises:
        InputError: no point is left.
    """
    agree, through = torch.zeros(len(points.weights)), torch.zeros(len(points.weights))
    for view in range(len(views)):
        camera, image = one_camera(views.cameras, view), views.images[view]
        pixels, z = camera.project(points.positions)
        inside = inside_image(pixels, z, camera) & (points.view != view)
        depth = sample_image(depths[view][..., None].nan_to_num(1e6, posinf=1e6), pixels, nearest=True)[:, 0]
        covered = sample_image(image[..., 3:], pixels)[:, 0]
        behind = depth - z
        agree += inside & (covered >= SOLID) & (behind.abs() <= TOLERANCE)
        through += inside & ((covered < 0.05) | ((covered >= SOLID) & (behind > TOLERANCE) & (depth < 1e5)))
    keep = (through <= agree) & (points.weights > GRAZING)
    if not bool(keep.any()):
        raise InputError("no two views agree on any point; check that depths are in the units of the cameras")
    weights = points.weights**2 * (1 + agree) / (1 + through)
    return Points(
        points.positions[keep], points.normals[keep], points.colors[keep], points.sizes[keep], weights[keep],
        points.view[keep],
    )  # fmt: skip


def merge_points(points: Points, count: int) -> Gaussians:
    """Merge points that share a cell and a side into one Gaussian each, with their moments; at most ``count``."""
    low = points.positions.amin(0)
    cell = float(points.sizes.median())
    label, number = _cells(points, low, cell)
    while number > count:
        cell *= max(1.02, (number / count) ** 0.4)
        label, number = _cells(points, low, cell)
    weights = points.weights.double()
    total = torch.zeros(number, dtype=torch.float64).index_add_(0, label, weights)

    def mean(values: Tensor) -> Tensor:
        flat = values.double().reshape(len(values), -1) * weights[:, None]
        summed = torch.zeros(number, flat.shape[1], dtype=torch.float64).index_add_(0, label, flat)
        return summed / total[:, None]

    centers = mean(points.positions)
    offset = points.positions.double() - centers[label]
    covariance = mean(offset[:, :, None] * offset[:, None, :]).reshape(-1, 3, 3)
    # Each point is itself a disc: a pixel wide, flat along the normal.
    normals = points.normals.double()
    tangential = torch.eye(3, dtype=torch.float64) - normals[:, :, None] * normals[:, None, :]
    covariance += mean((SPREAD * points.sizes.double())[:, None, None] ** 2 * tangential).reshape(-1, 3, 3)
    values, axes = torch.linalg.eigh(covariance)
    axes = axes * torch.linalg.det(axes).sign()[:, None, None]
    scales = values.clamp_min(1e-14).sqrt()
    # No thinner than a fifth of its width, and wide enough to close the gap to the next cell.
    scales = torch.maximum(scales, torch.tensor([THICKNESS, 1.0, 1.0], dtype=torch.float64) * 0.5 * cell)
    return from_colors(
        centers.float(),
        quats_from_matrices(axes).float(),
        scales.float(),
        torch.full((number,), OPACITY),
        mean(points.colors).float(),
    )


def _cells(points: Points, low: Tensor, cell: float) -> tuple[Tensor, int]:
    """Number of the (cell, octant of the normal) of each point [N], and how many there are."""
    index = ((points.positions - low) / cell).long()
    octant = (points.normals > 0).long() @ torch.tensor([4, 2, 1])
    size = index.amax(0) + 1
    key = ((index[:, 0] * size[1] + index[:, 1]) * size[2] + index[:, 2]) * OCTANTS + octant
    found, label = torch.unique(key, return_inverse=True)
    return label, len(found)


def _facing(normals: Tensor) -> Tensor:
    """Unit quaternions [N, 4] whose local z is the normal [N, 3]."""
    helper = torch.where(normals[:, :1].abs() < 0.9, torch.tensor([1.0, 0, 0]), torch.tensor([0.0, 1, 0]))
    x = torch.nn.functional.normalize(torch.linalg.cross(helper, normals), dim=-1)
    return quats_from_matrices(torch.stack([x, torch.linalg.cross(normals, x), normals], -1))
