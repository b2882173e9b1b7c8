"""Rays through occupied space: samples at one distance from each other, and only in cells that may hold something.

This is how fields are fitted: most of a box is empty, and of most rays only a few samples are worth asking about
(Liu et al. 2020, "Neural Sparse Voxel Fields", section 3.3). ``render_field`` in ``volume.py`` is for images of any
field; here the samples of all rays lie in one list, and [R, K] tables of the few on each ray are composited.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numba
import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..cameras import Cameras
from ..parallel import kernel
from .fields import Field
from .tables import compiled_for
from .volume import FieldRendering, camera_rays, compositing_weights, intersect_box

F = np.float32
OPAQUE = 9.2  # optical thickness behind which a ray ends: a ten-thousandth of the light is left
VISIBLE = 1e-4  # share of a ray below which a sample's colour is not asked for (Chen et al. 2022, "TensoRF")


@dataclass(frozen=True)
class Samples:
    """The samples of R rays, N in all, ray by ray."""

    points: Tensor  # [N, 3] world
    rays: Tensor  # [N] int64, ascending
    first: Tensor  # [R + 1] int64: where each ray's samples begin, and N
    t: Tensor  # [N] along the camera's +Z, if directions have length 1 along it
    step: float  # object units between samples


@dataclass(frozen=True)
class Composite:
    """What R rays see."""

    color: Tensor  # [R, 3] without background
    alpha: Tensor  # [R]
    weights: Tensor  # [N] share of each sample in its ray


def march(
    origins: Tensor, directions: Tensor, box: Tensor, cells: Tensor, step: float, jitter: Tensor | None = None
) -> Samples:
    """Samples ``step`` apart along rays, where cells are occupied, up to where the ray must have ended.

    Args:
        origins: [R, 3] float32.
        directions: [R, 3] of any length.
        box: [2, 3] low and high corner.
        cells: float32 [X, Y, Z] that span the box: the least density in each, −1 where it is empty.
        step: object units.
        jitter: [R] in 0–1: where in its stretch of length ``step`` each sample of a ray sits; by default the middle.
    """
    near, far = intersect_box(origins, directions, box)
    speed = directions.norm(dim=-1)
    jitter = torch.full_like(near, 0.5) if jitter is None else jitter
    counts = ((far - near) * speed / step).ceil().clamp_min(0).nan_to_num(0)
    longest = int(counts.max()) if len(counts) else 0
    pace = step / speed
    if compiled_for(origins):
        return _compiled_march(origins, directions, box, cells, (near, pace, counts, jitter), longest, step)
    every = torch.arange(longest, device=near.device)
    t = near[:, None] + (every + jitter[:, None]) * pace[:, None]
    points = origins[:, None] + t[..., None] * directions[:, None]
    size = torch.tensor(cells.shape, device=near.device)
    places = ((points - box[0]) / (box[1] - box[0]) * size).long()
    x, y, z = torch.minimum(places.clamp_min(0), size - 1).unbind(-1)
    least = cells[x, y, z]
    thickness = step * least.clamp_min(0)
    wanted = (least >= 0) & (every < counts[:, None]) & (thickness.cumsum(-1) - thickness <= OPAQUE)
    rays, columns = wanted.nonzero(as_tuple=True)
    first = torch.nn.functional.pad(wanted.sum(-1).cumsum(0), (1, 0))
    return Samples(points[rays, columns], rays, first, t[rays, columns], step)


def composite(
    samples: Samples, densities: Tensor, colors_of: Callable[[Tensor], Tensor], *, visible: float = VISIBLE
) -> Composite:
    """What the rays see, from densities [N] and a function from points [n, 3] to colours [n, 3].

    Colours are asked for where a sample's share is above ``visible``; below, they count as black.
    """
    weights, alpha = ray_weights(densities, samples.first, samples.step)
    seen = (weights.detach() > visible).nonzero()[:, 0]
    color = ray_sums(
        weights.index_select(0, seen), colors_of(samples.points[seen]), samples.rays[seen], len(samples.first) - 1
    )
    return Composite(color, alpha, weights)


def ray_weights(densities: Tensor, first: Tensor, step: float) -> tuple[Tensor, Tensor]:
    """Shares [N] of samples in their rays, and the rays' alpha [R]: ``compositing_weights`` of a list.

    Args:
        densities: [N], ray by ray.
        first: [R + 1] int64, where each ray's samples begin, and N.
        step: length of each sample.
    """
    if compiled_for(densities):
        return _Weights.apply(densities, first, step)
    return plain_ray_weights(densities, first, step)


def plain_ray_weights(densities: Tensor, first: Tensor, step: float) -> tuple[Tensor, Tensor]:
    """The same as ``ray_weights``, in plain torch: densities [N], first [R + 1] → shares [N], alpha [R]."""
    counts = first.diff()
    inside = torch.arange(int(counts.max()) if len(counts) else 0, device=first.device) < counts[:, None]
    table = densities.new_zeros(inside.shape).masked_scatter(inside, densities)
    weights = compositing_weights(table, torch.full_like(table, step))
    return weights[inside], -torch.expm1(-(table * step).sum(-1))


def ray_sums(weights: Tensor, values: Tensor, rays: Tensor, count: int) -> Tensor:
    """Σ weights [n] · values [n, C] over the samples of each ray → [count, C]; ``rays`` [n] says whose they are."""
    if compiled_for(values):
        return _Sums.apply(weights, values, rays, count)
    return values.new_zeros(count, values.shape[1]).index_add(0, rays, weights[:, None] * values)


def render_occupied(
    field: Field,
    cameras: Cameras,
    cells: Tensor,
    step: float,
    *,
    background: Tensor | None = None,
    chunk: int = 16384,
) -> FieldRendering:
    """Images of a density field from V cameras, without gradients, from samples where cells are occupied.

    Args:
        field: of kind "density".
        cameras: V views.
        cells: float32 [X, Y, Z] over the field's bounds, as for ``march``.
        step: object units between samples.
        background: sRGB-encoded [3]; white by default.
        chunk: rays at once.
    """
    box = torch.tensor(field.bounds).to(cameras.world_to_camera)
    paper = torch.ones(3).to(box) if background is None else background.to(box)
    shape = (len(cameras), cameras.height, cameras.width)
    with torch.no_grad():
        origins, directions = (side.reshape(-1, 3) for side in camera_rays(cameras))
        parts = []
        for origin, direction in zip(origins.split(chunk), directions.split(chunk), strict=True):
            samples = march(origin, direction, box, cells, step)
            seen = composite(samples, field.density_or_sdf(samples.points), field.color)
            depth = ray_sums(seen.weights, samples.t[:, None], samples.rays, len(origin))
            depth = torch.where(seen.alpha[:, None] > 0, depth / seen.alpha[:, None].clamp_min(1e-12), math.inf)
            color = seen.color + (1 - seen.alpha[:, None]) * paper
            parts.append(torch.cat([color, seen.alpha[:, None], depth], -1))
    color, alpha, depth = torch.cat(parts).reshape(*shape, 5).split([3, 1, 1], -1)
    return FieldRendering(color, alpha[..., 0], depth[..., 0])


def _compiled_march(
    origins: Tensor, directions: Tensor, box: Tensor, cells: Tensor, sides: tuple[Tensor, ...], longest: int,
    step: float,
) -> Samples:  # fmt: skip
    near, pace, counts, jitter = (side.contiguous().numpy() for side in sides)
    found = np.zeros(len(near), np.int32)
    t = np.empty((len(near), longest), F)
    low = box[0].numpy()
    scale = (torch.tensor(cells.shape) / (box[1] - box[0])).to(torch.float32).numpy()
    start, way = origins.contiguous().numpy(), directions.contiguous().numpy()
    _find(start, way, near, pace, counts.astype(np.int32), jitter, low, scale, cells.numpy(), F(step), t, found)
    first = np.zeros(len(near) + 1, np.int64)
    np.cumsum(found, out=first[1:])
    total = int(first[-1])
    points, flat, rays = np.empty((total, 3), F), np.empty(total, F), np.empty(total, np.int64)
    _pack(start, way, t, first, points, flat, rays)
    listed, whose, begins, depths = (torch.from_numpy(part) for part in (points, rays, first, flat))
    return Samples(listed, whose, begins, depths, step)


class _Weights(torch.autograd.Function):
    """``ray_weights``, compiled."""

    @staticmethod
    def forward(ctx: Any, densities: Tensor, first: Tensor, step: float) -> tuple[Tensor, Tensor]:
        weights, alpha = torch.empty_like(densities), densities.new_empty(len(first) - 1)
        _weigh(densities.detach().contiguous().numpy(), first.numpy(), F(step), weights.numpy(), alpha.numpy())
        ctx.save_for_backward(densities, first, weights, alpha)
        ctx.step = step
        return weights, alpha

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        densities, first, weights, alpha = (saved.detach().contiguous().numpy() for saved in ctx.saved_tensors)
        of_weights, of_alpha = (gradient.contiguous().numpy() for gradient in gradients)
        found = np.empty_like(densities)
        _unweigh(densities, first, F(ctx.step), weights, alpha, of_weights, of_alpha, found)
        return torch.from_numpy(found), None, None


class _Sums(torch.autograd.Function):
    """``ray_sums``, compiled."""

    @staticmethod
    def forward(ctx: Any, weights: Tensor, values: Tensor, rays: Tensor, count: int) -> Tensor:
        ctx.save_for_backward(weights, values, rays)
        sums = np.zeros((count, values.shape[1]), F)
        shares, parts, whose = (side.detach().contiguous().numpy() for side in (weights, values, rays))
        _add_up(shares, parts, whose, sums)
        return torch.from_numpy(sums)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        weights, values, rays = ctx.saved_tensors
        given = gradients[0].index_select(0, rays)
        return (given * values).sum(-1), given * weights[:, None], None, None


@kernel(parallel=True)
def _find(origins, directions, near, pace, counts, jitter, low, scale, cells, step, t, found):  # type: ignore[no-untyped-def]
    """t of the samples of each ray that lie in occupied cells, left-justified, and their number.

    In an empty cell, the samples up to where the ray leaves it are passed over at once.
    """
    lx, ly, lz = cells.shape[0] - 1, cells.shape[1] - 1, cells.shape[2] - 1
    for r in numba.prange(len(origins)):
        ox, oy = (origins[r, 0] - low[0]) * scale[0], (origins[r, 1] - low[1]) * scale[1]
        oz = (origins[r, 2] - low[2]) * scale[2]
        dx, dy, dz = directions[r, 0] * scale[0], directions[r, 1] * scale[1], directions[r, 2] * scale[2]
        n, i = 0, 0
        thickness = F(0)
        while i < counts[r] and thickness <= F(OPAQUE):
            at = near[r] + (F(i) + jitter[r]) * pace[r]
            x, y, z = ox + at * dx, oy + at * dy, oz + at * dz
            cx, cy, cz = min(max(int(x), 0), lx), min(max(int(y), 0), ly), min(max(int(z), 0), lz)
            least = cells[cx, cy, cz]
            if least >= F(0):
                t[r, n] = at
                thickness += least * step
                n += 1
                i += 1
                continue
            leave = F(1e9)
            if dx != F(0):
                leave = min(leave, (F(cx + 1 if dx > 0 else cx) - x) / dx)
            if dy != F(0):
                leave = min(leave, (F(cy + 1 if dy > 0 else cy) - y) / dy)
            if dz != F(0):
                leave = min(leave, (F(cz + 1 if dz > 0 else cz) - z) / dz)
            i += max(1, min(int(leave / pace[r]), counts[r]))
        found[r] = n


@kernel(parallel=True)
def _pack(origins, directions, t, first, points, flat, rays):  # type: ignore[no-untyped-def]
    """The samples of all rays in one list."""
    for r in numba.prange(len(origins)):
        for i in range(first[r + 1] - first[r]):
            n = first[r] + i
            at = t[r, i]
            flat[n] = at
            for a in range(3):
                points[n, a] = origins[r, a] + at * directions[r, a]
            rays[n] = r


@kernel(parallel=True)
def _weigh(densities, first, step, weights, alpha):  # type: ignore[no-untyped-def]
    """w_i = exp(−Σ_{j<i} σ_j δ) (1 − exp(−σ_i δ)), and 1 − exp(−Σ σ δ)."""
    for r in numba.prange(len(alpha)):
        left = F(1)
        for n in range(first[r], first[r + 1]):
            through = np.exp(-densities[n] * step)
            weights[n] = left * (F(1) - through)
            left *= through
        alpha[r] = F(1) - left


@kernel(parallel=True)
def _unweigh(densities, first, step, weights, alpha, of_weights, of_alpha, found):  # type: ignore[no-untyped-def]
    """Gradients of the densities.

    More density at i takes light from all behind it, and gives w_i what it lets through: ∂w_i/∂σ_i = δ T_{i+1} and
    ∂w_j/∂σ_i = −δ w_j for j > i.
    """
    for r in numba.prange(len(alpha)):
        behind, left = F(0), F(1) - alpha[r]
        end = left
        for n in range(first[r + 1] - 1, first[r] - 1, -1):
            found[n] = step * (left * of_weights[n] - behind + end * of_alpha[r])
            behind += weights[n] * of_weights[n]
            left += weights[n]


@kernel()
def _add_up(weights, values, rays, sums):  # type: ignore[no-untyped-def]
    for n in range(len(rays)):
        for c in range(sums.shape[1]):
            sums[rays[n], c] += weights[n] * values[n, c]
