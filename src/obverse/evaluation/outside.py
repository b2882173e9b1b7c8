"""The part of a surface that can be seen from outside, as points with normals.

Results come as closed solids, as shells around hidden shells, or as sheets drawn on both sides. Sampling only what far
cameras see makes them comparable: what is enclosed does not count, and a sheet counts on each side that is seen, as
the thin solid it stands for would. TRELLIS (Xiang et al. 2024) does the same by unprojecting depth maps; here points
are drawn on the triangles and the depth maps decide, so that density follows area and not the angle of view.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
import trimesh
from numba import prange
from numpy.typing import NDArray

from ..cameras import Cameras, look_at, pinhole
from ..errors import InputError
from ..parallel import kernel
from ..render.triangles import rasterize
from ..topology import face_normals, unique_rows, weld

FOV_DEG = 20.0  # a long lens: nearly parallel rays
LOWEST_DEG = -20.0  # objects stand on something: seen into from below, a model without a floor would be hollow
MARGIN = 1.07  # width seen at the object, in diameters of its bounding sphere
GRAZING = 0.15  # cosine; a camera that sees a face at less than 9° says nothing about it
SLACK = 0.05  # pixels a point may lie behind the plane of the face its pixel sees
REACH = 1.0  # pixels that plane is trusted to fall behind the depth map
ROUNDS = 40  # draws of ``points`` candidates before a nearly hidden surface is given fewer points


@dataclass(frozen=True)
class SurfaceSamples:
    """Points of a surface with the outward normal of each, in random order: any first part is a sample too."""

    points: NDArray[np.float64]  # [N, 3] in the frame of the mesh
    normals: NDArray[np.float64]  # [N, 3] unit

    def __len__(self) -> int:
        return len(self.points)


def outer_surface(
    mesh: trimesh.Trimesh,
    *,
    points: int = 100_000,
    directions: int = 60,
    size: int = 400,
    lowest_deg: float = LOWEST_DEG,
    seed: int = 0,
) -> SurfaceSamples:
    """Points spread evenly by area over the sides of a mesh that can be seen from outside.

    A point is drawn on a triangle and tested on both sides; a side is kept when at least one camera on it sees the
    point. So a closed mesh gives points of its outside, a sheet seen from both sides gives points with both normals,
    and repeated triangles count once. Cameras stand on a Fibonacci lattice around the bounding sphere, from an
    elevation of −20° up, with a lens of 20°, and see all of it. A point is seen when its pixel sees its own face, or
    when it lies at most ``SLACK`` = 0.05 pixels behind the plane of the face seen there, and that plane at most
    ``REACH`` = 1 pixel behind the depth; a pixel is about 1/370 of the bounding sphere's diameter. Surface visible
    only below 9° to itself, or through gaps narrower than a pixel, is not counted.

    Args:
        mesh: any triangles; orientation and closedness do not matter.
        points: N to return. Where under 1/40 of the area can be seen, fewer are returned.
        directions: cameras.
        size: pixels along a side of each depth map.
        lowest_deg: elevation of the lowest camera, +Y being up; −90 for the whole sphere. From −20 undersides are
            still seen, but little of the inside of models without a floor, which ``surface.solid`` also calls solid.
        seed: of the draw; the same seed gives the same points.

    Raises:
        InputError: the mesh has no area, a used position is not finite, nothing can be seen, or a count is below 1.
    """
    if points < 1 or directions < 1 or size < 16 or not -90 <= lowest_deg < 90:
        raise InputError(
            f"{points} points from {directions} directions above {lowest_deg}° at {size} pixels cannot be sampled; "
            "ask for at least 1, 1 and 16, from −90° or higher"
        )
    vertices, faces = _distinct(sound(mesh))
    low, high = vertices[faces].min((0, 1)), vertices[faces].max((0, 1))
    center, unit = (low + high) / 2, float(np.linalg.norm(high - low))
    vertices = (vertices - center) / unit
    doubled = face_normals(vertices, faces)
    area = np.linalg.norm(doubled, axis=1)
    normals = doubled / np.maximum(area, 1e-300)[:, None]
    cameras = _all_around(count=directions, size=size, lowest_deg=lowest_deg)
    seen = rasterize(vertices, faces, cameras)
    views = (cameras.positions.numpy(), cameras.projections.numpy(), seen.face, seen.depth, MARGIN / size)
    rng = np.random.default_rng(seed)
    kept: list[tuple[NDArray, NDArray]] = []
    while len(kept) < 2 * ROUNDS and sum(len(part) for part, _ in kept) < points:
        drawn, own = _draw(vertices[faces], area, points, rng)
        front, back = np.zeros(points, np.bool_), np.zeros(points, np.bool_)
        _sides(drawn, own, normals, vertices[faces[:, 0]], *views, front, back)
        kept += [(drawn[front], normals[own[front]]), (drawn[back], -normals[own[back]])]
    places, sides = (np.concatenate([part[k] for part in kept]) for k in (0, 1))
    if not len(places):
        raise InputError("no camera around the mesh sees any of its surface; check its scale and its faces")
    order = rng.permutation(len(places))[:points]
    return SurfaceSamples(center + unit * places[order], sides[order])


def sound(mesh: trimesh.Trimesh) -> trimesh.Trimesh:
    """The faces of a mesh that have an area, or an error that says why it cannot be measured.

    Raises:
        InputError: the mesh has no faces, none has an area, or a used position is not finite.
    """
    vertices, faces = np.asarray(mesh.vertices, np.float64), np.asarray(mesh.faces, np.int64).reshape(-1, 3)
    if not len(faces):
        raise InputError("the mesh has no faces, so there is no surface to measure; check the file")
    wrong = ~np.isfinite(vertices[faces]).all(axis=(1, 2))
    if wrong.any():
        raise InputError(f"{int(wrong.sum())} of {len(faces)} faces have a corner that is not finite; repair the mesh")
    size = max(float(np.ptp(vertices[faces.ravel()], axis=0).max()), 1e-300)
    solid = np.linalg.norm(face_normals(vertices / size, faces), axis=1) > 1e-14
    if not solid.any():
        raise InputError(f"none of the {len(faces)} faces has an area, so there is no surface to measure; check them")
    return trimesh.Trimesh(vertices, faces[solid], process=False)


def _all_around(*, count: int, size: int, lowest_deg: float) -> Cameras:
    """``count`` cameras above an elevation (Fibonacci lattice), each seeing all of a sphere of diameter 1."""
    turn = math.pi * (3 - math.sqrt(5)) * np.arange(count)
    y = 1 - (1 - math.sin(math.radians(lowest_deg))) * (np.arange(count) + 0.5) / count
    across = np.sqrt(1 - y * y)
    distance = MARGIN / 2 / math.sin(math.radians(FOV_DEG / 2))
    positions = torch.from_numpy(distance * np.stack([across * np.sin(turn), y, across * np.cos(turn)], -1))
    lens = pinhole(FOV_DEG, size, size).double().expand(count, 3, 3)
    return Cameras(look_at(positions), lens, size, size)


def _distinct(mesh: trimesh.Trimesh) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Vertices and faces with triangles on the same three positions kept once, whichever way they turn."""
    vertices, label = weld(np.asarray(mesh.vertices))
    faces = label[np.asarray(mesh.faces)]
    return vertices, faces[unique_rows(np.sort(faces, axis=1))]


def _draw(
    corners: NDArray, area: NDArray, count: int, rng: np.random.Generator
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Points [count, 3] on triangles [m, 3, 3], even by area, and the triangle of each; stratified along the area."""
    ends = np.cumsum(area)
    at = (np.arange(count) + rng.random(count)) / count * ends[-1]
    own = np.minimum(np.searchsorted(ends, at, side="right"), len(ends) - 1)
    root, share = np.sqrt(rng.random(count)), rng.random(count)
    weights = np.stack([1 - root, root * (1 - share), root * share], axis=1)
    return np.einsum("nk,nkc->nc", weights, corners[own]), own


@kernel(parallel=True)
def _sides(points, own, normals, corners, centers, projections, face, depth, pixel, front, back):  # type: ignore[no-untyped-def]
    """Mark the points [n, 3] of faces ``own`` [n] that a camera in front of, or behind, their face sees.

    Eleven arguments, because kernels take arrays only.
    """
    views, height, width = face.shape
    for i in prange(len(points)):
        n = normals[own[i]]
        for v in range(views):
            dx, dy, dz = points[i, 0] - centers[v, 0], points[i, 1] - centers[v, 1], points[i, 2] - centers[v, 2]
            cosine = -(dx * n[0] + dy * n[1] + dz * n[2]) / np.sqrt(dx * dx + dy * dy + dz * dz)
            if abs(cosine) < GRAZING or (cosine > 0 and front[i]) or (cosine < 0 and back[i]):
                continue
            p = projections[v]
            z = p[2, 0] * points[i, 0] + p[2, 1] * points[i, 1] + p[2, 2] * points[i, 2] + p[2, 3]
            x = p[0, 0] * points[i, 0] + p[0, 1] * points[i, 1] + p[0, 2] * points[i, 2] + p[0, 3]
            y = p[1, 0] * points[i, 0] + p[1, 1] * points[i, 1] + p[1, 2] * points[i, 2] + p[1, 3]
            column, row = int(np.floor(x / z)), int(np.floor(y / z))
            if column < 0 or row < 0 or column >= width or row >= height:
                continue
            f = face[v, row, column]
            if f < 0:
                continue
            limit = z
            if f != own[i]:
                m, c = normals[f], corners[f]
                below = m[0] * dx + m[1] * dy + m[2] * dz
                limit = depth[v, row, column] + REACH * pixel
                if abs(below) > 1e-3 * z:
                    ahead = 0.0
                    for k in range(3):
                        ahead += m[k] * (c[k] - centers[v, k])
                    limit = min(limit, z * ahead / below)
            if z <= limit + SLACK * pixel:
                if cosine > 0:
                    front[i] = True
                else:
                    back[i] = True
                if front[i] and back[i]:
                    break
