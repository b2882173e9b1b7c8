"""Textured mesh → Gaussians: thin discs in the surface, evenly spread, coloured from the texture.

The surface is sampled finely, and a Poisson-disk subset of the samples is chosen, one per Gaussian: samples are
accepted in random order while they keep their distance from all accepted before, and the distance shrinks until there
are enough (dart throwing with a decreasing radius: McCool & Fiume 1992). Lloyd's relaxation then gives every sample to
its nearest Gaussian and moves that to the mean of its samples. What a Gaussian ends with is the mean, the spread and
the mean colour of its patch: spacing is even, so that little blur closes the surface, and edges are kept.

Silhouettes are where many discs are seen edge-on behind one another, and the pixel filter of splat renderers makes
such a stack look about a pixel too wide. Discs are therefore set a little below the surface, less so in thin walls.
"""

from __future__ import annotations

from typing import NamedTuple

import numba
import numpy as np
import torch
import trimesh

from ..errors import InputError
from ..gaussians import Gaussians, from_colors, rotation_matrices
from ..parallel import kernel
from ..render.materials import sample_texture, surface_of

F = np.float32
SAMPLES = 10  # per Gaussian
CANDIDATES = 5  # per Gaussian, of the samples, for the Poisson-disk choice
FIRST_RADIUS = 0.80  # in spacings; the densest possible packing has 1.07, random packings fill up near 0.75
SHRINK = 0.93  # of the radius, from pass to pass
RELAXATIONS = 2
SPREAD = 2.0  # standard deviation of a Gaussian over that of its patch
PRIOR = 8.0  # samples' worth of trust in a round patch of average size, as a few samples give a rough shape
GAP = 0.7  # least standard deviation over the distance to the farthest sample of the patch
THICKNESS = 0.06  # least standard deviation along the normal, in spacings
INSET = 0.4  # depth below the surface, in spacings
WALL = 0.2  # largest share of a wall's thickness a Gaussian is set below its surface
OPACITY = 0.98


def mesh_to_gaussians(
    mesh: trimesh.Trimesh, *, count: int = 60_000, seed: int = 0, boost: np.ndarray | None = None
) -> Gaussians:
    """Exactly ``count`` Gaussians that look like the mesh.

    Args:
        mesh: world frame; textured, coloured by vertex or face, or plain.
        count: how many.
        seed: of the random choice of positions; the same seed gives the same Gaussians.
        boost: [m] relative density per face, for example 2 on the side that was photographed; None for 1 everywhere.
            The spacing on a face is proportional to 1 / √boost, and so is the size of its Gaussians.

    Returns:
        Gaussians [count], degree 0, float32 on the CPU. Local z is the face's normal.

    Raises:
        InputError: the mesh has no area, or ``count`` or ``boost`` cannot be used.
    """
    if count < 1:
        raise InputError(f"count is {count}, it must be at least 1; 60000 suits one object")
    corners = np.asarray(mesh.vertices, np.float64)[np.asarray(mesh.faces)]
    cross = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    length = np.linalg.norm(cross, axis=-1)
    density = _density(length / 2, boost)  # Gaussians per unit area, up to a factor
    weights = np.where(density > 0, density * length / 2, 0)
    density *= count / weights.sum()
    spacing = 1 / np.sqrt(np.maximum(density, 1e-30))
    normals = cross / np.maximum(length, 1e-300)[:, None]

    rng = np.random.default_rng(seed)
    face, barycentric = _samples(weights, SAMPLES * count, rng)
    apart = spacing[face].astype(F)
    samples = _Samples(
        np.einsum("nk,nkd->nd", barycentric, corners[face]).astype(F),
        normals[face].astype(F),
        _colors(mesh, face, barycentric.astype(F), apart / F(np.sqrt(SAMPLES)), length[face]),
    )
    cell = FIRST_RADIUS * float(apart.max())
    drawn = rng.permutation(len(face))[: CANDIDATES * count]
    positions = samples.positions[drawn]
    chosen = drawn[_choose(positions, samples.normals[drawn], apart[drawn], _cells(positions, cell), count)]
    return _relaxed(samples, chosen, apart[chosen].astype(np.float64), cell)


class _Samples(NamedTuple):
    """Points of the surface, all float32."""

    positions: np.ndarray  # [n, 3]
    normals: np.ndarray  # [n, 3] unit
    colors: np.ndarray  # [n, 3]


def _relaxed(samples: _Samples, chosen: np.ndarray, spacing: np.ndarray, cell: float) -> Gaussians:
    """One Gaussian per chosen sample after Lloyd's relaxation: mean, spread, normal and colour of its patch."""
    sites, directions = samples.positions[chosen], samples.normals[chosen]
    for _ in range(RELAXATIONS):
        sums = _patches(samples, sites, directions, chosen, cell)
        number = sums[:, :1]
        offset = sums[:, 1:4] / number
        # A patch around a tip may hold normals that cancel; its old direction then stands.
        length = np.linalg.norm(sums[:, 4:7], axis=-1, keepdims=True)
        directions = np.where(length > 1e-3 * number, sums[:, 4:7] / np.maximum(length, 1e-12), directions).astype(F)
        sites = (sites + offset).astype(F)
    second = sums[:, [10, 11, 12, 11, 13, 14, 12, 14, 15]].reshape(-1, 3, 3) / number[..., None]
    covariance = second - offset[:, :, None] * offset[:, None, :]
    to_normal = _quats_to(directions.astype(np.float64))
    axes = rotation_matrices(torch.from_numpy(to_normal)).numpy()
    local = axes.transpose(0, 2, 1) @ covariance @ axes
    quats, scales = _discs(local, number[:, 0], to_normal, spacing, np.sqrt(sums[:, 16]))
    depth = np.minimum(INSET * spacing, WALL * _walls(sites, directions, cell))
    return from_colors(
        torch.from_numpy((sites - depth[:, None] * directions).astype(F)),
        torch.from_numpy(quats.astype(F)),
        torch.from_numpy(scales.astype(F)),
        torch.full((len(chosen),), OPACITY),
        torch.from_numpy((sums[:, 7:10] / number).astype(F)),
    )


def _discs(
    local: np.ndarray, number: np.ndarray, to_normal: np.ndarray, spacing: np.ndarray, farthest: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Covariances [n, 3, 3] of patches in axes whose z is the normal → quaternions [n, 4] and scales [n, 3]."""
    round_patch = spacing**2 / 12  # the variance of a uniform patch one spacing wide
    trust = number / (number + PRIOR)
    xx, yy = (trust * local[:, i, i] + (1 - trust) * round_patch for i in (0, 1))
    xy = trust * local[:, 0, 1]
    angle = 0.5 * np.arctan2(2 * xy, xx - yy)  # of the longer axis of the 2 × 2 covariance
    half, root = (xx + yy) / 2, np.hypot((xx - yy) / 2, xy)
    deviations = np.sqrt(np.maximum(np.stack([half + root, half - root, local[:, 2, 2]], -1), 0))
    scales = deviations * [SPREAD, SPREAD, 0.5]
    scales[:, :2] = np.maximum(scales[:, :2], GAP * farthest[:, None])
    scales[:, 2] = np.maximum(scales[:, 2], THICKNESS * spacing)
    return _turned(to_normal, angle), scales


def _density(area: np.ndarray, boost: np.ndarray | None) -> np.ndarray:
    """Relative density per face [m], zero on faces that cannot carry Gaussians."""
    if not np.nansum(np.where(np.isfinite(area), area, 0)) > 0:
        raise InputError(f"the mesh has {len(area)} faces and no area; a surface is needed to place Gaussians on")
    relative = np.ones(len(area)) if boost is None else np.array(boost, np.float64)
    if relative.shape != area.shape or not np.isfinite(relative).all() or (relative < 0).any():
        raise InputError(
            f"boost has shape {list(relative.shape)} and must be [{len(area)}], one finite number from 0 up per face; "
            "pass None for an even density"
        )
    relative[~(np.isfinite(area) & (area > 0))] = 0
    if not relative.any():
        raise InputError("boost is 0 on every face that has an area; give at least one of them a density above 0")
    return relative


def _samples(weights: np.ndarray, count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Faces [count] in proportion to their weights, and barycentric coordinates [count, 3], in the order of the faces.

    Shares are exact to one sample. Successive samples, most of them on one face, follow the plane's lattice of least
    discrepancy (Roberts 2018, "R2"), which is far more even than independent points.
    """
    ends = np.cumsum(weights)
    index = np.arange(count)
    face = np.searchsorted(ends, (index + rng.random()) / count * ends[-1], side="right")
    face = np.minimum(face, np.flatnonzero(weights)[-1])
    plastic = 1.32471795724474602596
    u, v = ((rng.random() + index * step) % 1 for step in (1 / plastic, 1 / plastic**2))
    fold = u + v > 1
    u, v = np.where(fold, 1 - u, u), np.where(fold, 1 - v, v)
    return face, np.stack([1 - u - v, u, v], -1)


def _cells(positions: np.ndarray, cell: float) -> np.ndarray:
    """Grid cells [n, 3] int32 of positions [n, 3]."""
    return np.floor(positions * F(1 / cell)).astype(np.int32)


def _patches(
    samples: _Samples, sites: np.ndarray, directions: np.ndarray, chosen: np.ndarray, cell: float
) -> np.ndarray:
    """Moments [len(sites), 17] float64 of the samples nearest to each site, as ``_accumulate`` lays them out."""
    owner = np.empty(len(samples.positions), np.int32)
    heads, following = _grid(_cells(sites, cell))
    cells = _cells(samples.positions, cell)
    _assign(samples.positions, samples.normals, cells, sites, directions, heads, following, F(cell), owner)
    sums = np.zeros((len(sites), 17), F)
    _accumulate(owner, sites, *samples, sums)
    alone = np.flatnonzero(sums[:, 0] == 0)  # a site that coincides with another one; it keeps its own sample
    sums[alone, 0] = 1
    sums[alone, 4:7], sums[alone, 7:10] = samples.normals[chosen[alone]], samples.colors[chosen[alone]]
    return sums.astype(np.float64)


def _walls(sites: np.ndarray, directions: np.ndarray, cell: float) -> np.ndarray:
    """Thickness [n] of the wall below each site: least depth of a nearby site that faces the other way, or inf."""
    thickness = np.empty(len(sites), F)
    cells = _cells(sites, cell)
    heads, following = _grid(cells)
    _measure(sites, directions, cells, heads, following, F(cell), thickness)
    return thickness


@kernel()
def _bucket(x: int, y: int, z: int, buckets: int) -> int:
    """Hash of a grid cell (Teschner et al. 2003); ``buckets`` is a power of two."""
    return ((x * 73856093) ^ (y * 19349663) ^ (z * 83492791)) & (buckets - 1)


@kernel()
def _grid(cells: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Hash grid of points: the first of each bucket, and the one after each point, -1 at the end."""
    buckets = 1024
    while buckets < 2 * len(cells):
        buckets *= 2
    heads, following = np.full(buckets, -1, np.int32), np.full(len(cells), -1, np.int32)
    for i in range(len(cells)):
        bucket = _bucket(cells[i, 0], cells[i, 1], cells[i, 2], buckets)
        following[i] = heads[bucket]
        heads[bucket] = i
    return heads, following


@kernel()
def _choose(
    positions: np.ndarray, normals: np.ndarray, spacing: np.ndarray, cells: np.ndarray, count: int
) -> np.ndarray:
    """Accept candidates in order, pass after pass with a smaller radius, until there are ``count`` → indices.

    Points whose normals oppose do not compete: they lie on two sides of a thin wall. The grid's cell is the largest
    radius, so competitors are in the 27 cells around; cells with the same hash share a bucket, which costs time only.
    """
    heads, following = np.full(1 << 18, -1, np.int32), np.full(len(positions), -1, np.int32)
    taken = np.zeros(len(positions), np.bool_)
    chosen = np.empty(count, np.int64)
    found = 0
    radius = F(FIRST_RADIUS)
    for attempt in range(64):
        if attempt == 63:
            radius = F(0)  # candidates that coincide: any will do
        for i in range(len(positions)):
            if taken[i]:
                continue
            free = True
            reach = radius * spacing[i]
            for neighbour in range(27):
                x = cells[i, 0] + neighbour % 3 - 1
                y = cells[i, 1] + neighbour // 3 % 3 - 1
                z = cells[i, 2] + neighbour // 9 - 1
                j = heads[_bucket(x, y, z, len(heads))]
                while j >= 0:
                    limit = min(reach, radius * spacing[j])
                    if _apart(positions, i, positions, j) < limit * limit and _dot(normals, i, normals, j) > F(0):
                        free = False
                        break
                    j = following[j]
                if not free:
                    break
            if free:
                taken[i] = True
                chosen[found] = i
                found += 1
                if found == count:
                    return chosen
                bucket = _bucket(cells[i, 0], cells[i, 1], cells[i, 2], len(heads))
                following[i] = heads[bucket]
                heads[bucket] = i
        radius *= F(SHRINK)
    return chosen


@kernel()
def _apart(a: np.ndarray, i: int, b: np.ndarray, j: int) -> float:
    """Squared distance of a[i] and b[j]."""
    dx, dy, dz = a[i, 0] - b[j, 0], a[i, 1] - b[j, 1], a[i, 2] - b[j, 2]
    return dx * dx + dy * dy + dz * dz


@kernel()
def _dot(a: np.ndarray, i: int, b: np.ndarray, j: int) -> float:
    """Product of a[i] and b[j]: positive for normals that face the same side."""
    return a[i, 0] * b[j, 0] + a[i, 1] * b[j, 1] + a[i, 2] * b[j, 2]


@kernel(parallel=True)
def _assign(
    positions: np.ndarray,
    normals: np.ndarray,
    cells: np.ndarray,
    sites: np.ndarray,
    directions: np.ndarray,
    heads: np.ndarray,
    following: np.ndarray,
    cell: float,
    owner: np.ndarray,
) -> None:
    """Nearest site of every sample, of those on its side and less than a cell away; -1 if there is none.

    Nine arguments, because kernels take arrays only.
    """
    for i in numba.prange(len(positions)):
        nearest, best = -1, cell * cell
        for neighbour in range(27):
            x = cells[i, 0] + neighbour % 3 - 1
            y = cells[i, 1] + neighbour // 3 % 3 - 1
            z = cells[i, 2] + neighbour // 9 - 1
            j = heads[_bucket(x, y, z, len(heads))]
            while j >= 0:
                distance = _apart(positions, i, sites, j)
                if distance < best and _dot(normals, i, directions, j) > F(0):
                    nearest, best = j, distance
                j = following[j]
        owner[i] = nearest


@kernel(parallel=True)
def _measure(
    sites: np.ndarray,
    directions: np.ndarray,
    cells: np.ndarray,
    heads: np.ndarray,
    following: np.ndarray,
    cell: float,
    thickness: np.ndarray,
) -> None:
    """Least depth below each site, along its normal, of a site less than a cell away that faces the other way."""
    for i in numba.prange(len(sites)):
        least = F(np.inf)
        for neighbour in range(27):
            x = cells[i, 0] + neighbour % 3 - 1
            y = cells[i, 1] + neighbour // 3 % 3 - 1
            z = cells[i, 2] + neighbour // 9 - 1
            j = heads[_bucket(x, y, z, len(heads))]
            while j >= 0:
                if _dot(directions, i, directions, j) < F(0) and _apart(sites, i, sites, j) < cell * cell:
                    depth = _dot(sites, i, directions, i) - _dot(sites, j, directions, i)
                    least = min(least, max(depth, F(0)))
                j = following[j]
        thickness[i] = least


@kernel()
def _accumulate(
    owner: np.ndarray,
    sites: np.ndarray,
    positions: np.ndarray,
    normals: np.ndarray,
    colors: np.ndarray,
    sums: np.ndarray,
) -> None:
    """Per site, sums over its samples: 1, offset from the site, normal, colour, products of offsets (xx xy xz yy yz
    zz); and the largest squared offset.
    """
    for i in range(len(owner)):
        k = owner[i]
        if k < 0:
            continue
        dx, dy, dz = positions[i, 0] - sites[k, 0], positions[i, 1] - sites[k, 1], positions[i, 2] - sites[k, 2]
        row = sums[k]
        row[0] += F(1)
        row[1] += dx
        row[2] += dy
        row[3] += dz
        for a in range(3):
            row[4 + a] += normals[i, a]
            row[7 + a] += colors[i, a]
        row[10] += dx * dx
        row[11] += dx * dy
        row[12] += dx * dz
        row[13] += dy * dy
        row[14] += dy * dz
        row[15] += dz * dz
        row[16] = max(row[16], dx * dx + dy * dy + dz * dz)


def _quats_to(normals: np.ndarray) -> np.ndarray:
    """Unit quaternions [n, 4] (wxyz) of the shortest turn from +Z to unit ``normals`` [n, 3]."""
    quats = np.stack([1 + normals[:, 2], -normals[:, 1], normals[:, 0], np.zeros(len(normals))], -1)
    length = np.linalg.norm(quats, axis=-1, keepdims=True)
    return np.where(length > 1e-6, quats / np.maximum(length, 1e-6), [0.0, 1.0, 0.0, 0.0])


def _turned(quats: np.ndarray, angle: np.ndarray) -> np.ndarray:
    """Quaternions [n, 4] after a turn by ``angle`` [n] about their local z."""
    w, x, y, z = quats.T
    c, s = np.cos(angle / 2), np.sin(angle / 2)
    return np.stack([w * c - z * s, x * c + y * s, y * c - x * s, z * c + w * s], -1)


def _colors(
    mesh: trimesh.Trimesh, face: np.ndarray, barycentric: np.ndarray, footprint: np.ndarray, double_area: np.ndarray
) -> np.ndarray:
    """Base colours [n, 3] at points of the surface, averaged over patches ``footprint`` [n] object units wide."""
    surface = surface_of(mesh)
    colors = np.einsum("nk,nkc->nc", barycentric, surface.colors[face])
    uv = surface.uv[face]
    edges = uv[:, 1:] - uv[:, :1]
    double_uv_area = np.abs(edges[:, 0, 0] * edges[:, 1, 1] - edges[:, 0, 1] * edges[:, 1, 0])
    _, width, height = surface.texture.levels[0]
    texels = footprint * np.sqrt(double_uv_area * width * height / double_area)
    return colors * sample_texture(surface.texture, np.einsum("nk,nkc->nc", barycentric, uv), texels)
