"""What a photo-to-3D network learns from: photographs of known objects with the solid inside their viewing frustum.

The frustum is the photo's own. Columns follow the pixels' rays; along each, depth runs over ±1 half width of the crop
(measured at the middle depth), so that the box of cells is about a cube around the object. Nothing but the photo's
crop decides it, so a network need not know the field of view, the distance or the size of the object.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numba
import numpy as np
import torch
import trimesh

from ..cameras import Cameras, look_at
from ..errors import InputError
from ..parallel import kernel
from ..render.materials import decode_srgb, encode_srgb
from ..render.studio import Studio, irradiance, photograph, random_studio
from ..render.triangles import rasterize, render_mesh
from ..surface.solid import outside_cameras, solid_grid

F = np.float32
PHOTO = 128  # pixels along a side of the photographs
COLUMNS = 64  # columns of the frustum along a side
DEPTHS = 64  # cells of a column
POINTS = 768  # coloured surface points per view
FILL = (0.8, 0.9)  # the object's share of the crop's longer side; photos are cut out at 0.85
FOV_DEG = (20.0, 50.0)
ELEVATION_DEG = (-5.0, 40.0)
GRID = 96  # cells along a side of the object's own solid
NEAREST = 0.96  # the nearest point of an object deeper than the frustum lies at minus this; its far end is cut off
REACH = 0.52  # half side of that grid, object units


@dataclass(frozen=True)
class Shape:
    """An object as all its views share it; box centred at the origin, longest side 1."""

    mesh: trimesh.Trimesh
    solid: np.ndarray  # bool [GRID, GRID, GRID], x y z; also every cell that a visible surface passes through
    points: np.ndarray  # float32 [P, 3] on the outer surface
    normals: np.ndarray  # float32 [P, 3] outward
    colors: np.ndarray  # float32 [P, 3] base colour, sRGB-encoded


@dataclass(frozen=True)
class Samples:
    """V photographs of one object and their answers."""

    rgba: np.ndarray  # uint8 [V, PHOTO, PHOTO, 4] straight alpha
    occupancy: np.ndarray  # uint8 [V, COLUMNS, COLUMNS, DEPTHS / 8]: bits from near to far, row by row of the photo
    points: np.ndarray  # float16 [V, POINTS, 3]: right, down, away in −1…1 of the frustum
    colors: np.ndarray  # uint8 [V, POINTS, 3] the surface there in the photo's light, sRGB-encoded
    elevation_deg: np.ndarray  # float32 [V]; NaN when the object does not stand upright


def study(mesh: trimesh.Trimesh, *, seed: int = 0) -> Shape:
    """Everything about an object that does not depend on the view. The mesh is normalised (``objects.normalised``).

    Raises:
        InputError: no opaque surface can be seen from outside.
    """
    cameras = outside_cameras(mesh, count=20, size=112)
    depth = rasterize(np.asarray(mesh.vertices), np.asarray(mesh.faces), cameras).depth
    base = render_mesh(mesh, cameras, background=None, supersample=1, shading="unlit").numpy()
    facing = render_mesh(mesh, cameras, background=None, supersample=1, shading="normals").numpy()
    points, normals, colors = [], [], []
    for view in range(len(cameras)):
        rows, columns = np.nonzero(np.isfinite(depth[view]) & (base[view, ..., 3] > 0))
        inverse = np.linalg.inv(cameras.intrinsics[view].numpy())
        rays = np.stack([columns + 0.5, rows + 0.5, np.ones(len(rows))], -1) @ inverse.T
        local = rays * depth[view][rows, columns][:, None]
        matrix = cameras.world_to_camera[view].numpy()
        points.append((local - matrix[:3, 3]) @ matrix[:3, :3])
        normals.append(2 * facing[view][rows, columns, :3] - 1)
        colors.append(base[view][rows, columns, :3])
    every = np.concatenate(points).astype(F)
    if not len(every):
        raise InputError("nothing of the object can be seen from outside; leave it out of the collection")
    solid = solid_grid(mesh, resolution=GRID, low=(-REACH,) * 3, high=(REACH,) * 3)
    cell = np.clip(((every + REACH) * (GRID / (2 * REACH))).astype(np.int64), 0, GRID - 1)
    solid[cell[:, 0], cell[:, 1], cell[:, 2]] = True
    keep = np.random.default_rng([seed, 0x5EED]).permutation(len(every))[:12_000]
    return Shape(mesh, solid, every[keep], np.concatenate(normals)[keep], np.concatenate(colors)[keep])


def photographs(shape: Shape, *, count: int, seed: int, tumble: float = 0.1) -> Samples:
    """``count`` photographs of an object from random sides, with random lenses and light, and their answers.

    Args:
        shape: from ``study``.
        count: V.
        seed: decides everything.
        tumble: share of views in which the object lies any way up.
    """
    rng = np.random.default_rng([seed, 0xCA3E])
    rows = [_photograph(shape, rng, tumble) for _ in range(count)]
    stacked = [np.stack(column) for column in zip(*rows, strict=True)]
    return Samples(stacked[0], stacked[1], stacked[2], stacked[3], stacked[4].astype(F))


def _photograph(shape: Shape, rng: np.random.Generator, tumble: float) -> tuple[np.ndarray, ...]:
    """One view: rgba, occupancy, points, colours, elevation."""
    azimuth, elevation = rng.uniform(0, 360), rng.uniform(*ELEVATION_DEG)
    tumbled = rng.random() < tumble
    turn = _rotation(rng) if tumbled else np.eye(3)
    camera, middle = _camera(shape, azimuth, elevation, turn, rng)
    studio = _turned(random_studio(int(rng.integers(2**31)), azimuth_deg=azimuth), turn)
    rgba = photograph(shape.mesh, camera, studio=studio)[0].numpy()
    # Lambert's light without highlights and shadows: what other sides of the object would show.
    chosen = rng.integers(len(shape.points), size=POINTS)
    lit = decode_srgb(shape.colors[chosen]) * irradiance(studio, shape.normals[chosen])
    projection = camera.projections[0].double().numpy()
    occupancy = np.empty((COLUMNS, COLUMNS, DEPTHS // 8), np.uint8)
    half = middle * PHOTO / 2 / float(camera.intrinsics[0, 0, 0])
    pose = np.linalg.inv(camera.world_to_camera[0].double().numpy())
    rays = np.linalg.inv(camera.intrinsics[0].double().numpy())
    fine = camera.resized(2 * COLUMNS, 2 * COLUMNS)
    depth = rasterize(np.asarray(shape.mesh.vertices), np.asarray(shape.mesh.faces), fine).depth[0]
    _fill_frustum(shape.solid, pose.astype(F), rays.astype(F), depth, F(middle), F(half), occupancy)
    u, v, z = np.moveaxis(shape.points[chosen] @ projection[:, :3].T + projection[:, 3], -1, 0)
    frustum = np.stack([2 * u / z / PHOTO - 1, 2 * v / z / PHOTO - 1, (z - middle) / half], -1)
    colors = np.rint(255 * encode_srgb(np.clip(lit, 0, 1))).astype(np.uint8)
    pixels = np.rint(255 * rgba).astype(np.uint8)
    return pixels, occupancy, frustum.astype(np.float16), colors, np.asarray(np.nan if tumbled else elevation, F)


def _camera(
    shape: Shape, azimuth_deg: float, elevation_deg: float, turn: np.ndarray, rng: np.random.Generator
) -> tuple[Cameras, float]:
    """A camera whose crop centres the object's silhouette at a random share → camera [1], middle depth.

    As with a photo that was cropped, the optical axis need not pass through the crop's centre. The middle depth is
    that of the object, or nearer for an object deeper than the frustum, so that what the photo sees lies inside.
    """
    fov, roll = rng.uniform(*FOV_DEG), math.radians(rng.normal(0, 2))
    a, e = math.radians(azimuth_deg), math.radians(elevation_deg)
    distance = 0.9 / math.sin(math.radians(fov / 2))
    position = distance * np.array([math.sin(a) * math.cos(e), math.sin(e), math.cos(a) * math.cos(e)])
    matrix = look_at(torch.from_numpy(position)).numpy()
    spin = np.eye(4)
    spin[:2, :2] = [[math.cos(roll), -math.sin(roll)], [math.sin(roll), math.cos(roll)]]
    matrix = spin @ matrix
    matrix[:3, :3] = matrix[:3, :3] @ turn
    local = np.asarray(shape.mesh.vertices)[np.unique(shape.mesh.faces)] @ matrix[:3, :3].T + matrix[:3, 3]
    plane = local[:, :2] / local[:, 2:]
    low, high = plane.min(0), plane.max(0)
    focal = rng.uniform(*FILL) * PHOTO / max(float((high - low).max()), 1e-6)
    center = (low + high) / 2
    intrinsics = np.array(
        [[focal, 0, PHOTO / 2 - focal * center[0]], [0, focal, PHOTO / 2 - focal * center[1]], [0, 0, 1]]
    )
    camera = Cameras(torch.from_numpy(matrix)[None].float(), torch.from_numpy(intrinsics)[None].float(), PHOTO, PHOTO)
    near, far = float(local[:, 2].min()), float(local[:, 2].max())
    return camera, min((near + far) / 2, near / (1 - NEAREST * PHOTO / 2 / focal))


def _rotation(rng: np.random.Generator) -> np.ndarray:
    """A rotation [3, 3] uniform over all (Shoemake 1992)."""
    w, x, y, z = (q := rng.normal(size=4)) / np.linalg.norm(q)
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )


def _turned(studio: Studio, turn: np.ndarray) -> Studio:
    """The rig in the frame of an object that was turned by ``turn``; its sky stays above the object's own +Y."""
    lamps = tuple((tuple(float(c) for c in turn.T @ np.asarray(d)), color) for d, color in studio.lamps)
    return Studio(studio.sky, studio.ground, lamps, studio.gloss, studio.shininess)  # type: ignore[arg-type]


@kernel(parallel=True)
def _fill_frustum(
    solid: np.ndarray,
    pose: np.ndarray,
    rays: np.ndarray,
    depth: np.ndarray,
    middle: float,
    half: float,
    occupancy: np.ndarray,
) -> None:
    """Look every cell of the frustum up in the object's grid (nearest cell) and pack eight depths into a byte.

    ``pose`` is camera to world [4, 4], ``rays`` the inverse intrinsics [3, 3]; lowest bit nearest to the camera. The
    cells of the visible surface, from its ``depth`` at twice the columns, are occupied however thin the object is
    there, and columns that miss the object are empty.
    """
    rows, columns, octets = occupancy.shape
    n = len(solid)
    scale = F(n) / F(2 * REACH)
    for r in numba.prange(rows):
        for c in range(columns):
            u, v = (c + F(0.5)) * F(PHOTO) / columns, (r + F(0.5)) * F(PHOTO) / rows
            dx = rays[0, 0] * u + rays[0, 1] * v + rays[0, 2]
            dy = rays[1, 0] * u + rays[1, 1] * v + rays[1, 2]
            wx = pose[0, 0] * dx + pose[0, 1] * dy + pose[0, 2]
            wy = pose[1, 0] * dx + pose[1, 1] * dy + pose[1, 2]
            wz = pose[2, 0] * dx + pose[2, 1] * dy + pose[2, 2]
            covered = 0
            for q in range(4):
                covered += depth[2 * r + q // 2, 2 * c + q % 2] < np.inf
            for o in range(octets):
                byte = 0
                if covered < 2:
                    occupancy[r, c, o] = 0
                    continue
                for bit in range(8):
                    t = (F(2) * (o * 8 + bit) + F(1)) / F(8 * octets) - F(1)
                    z = middle + half * t
                    i = int(np.floor((wx * z + pose[0, 3] + F(REACH)) * scale))
                    j = int(np.floor((wy * z + pose[1, 3] + F(REACH)) * scale))
                    k = int(np.floor((wz * z + pose[2, 3] + F(REACH)) * scale))
                    if 0 <= i < n and 0 <= j < n and 0 <= k < n and solid[i, j, k]:
                        byte |= 1 << bit
                occupancy[r, c, o] = byte
            for q in range(4):
                z = depth[2 * r + q // 2, 2 * c + q % 2]
                if covered >= 2 and z < np.inf:
                    seen = min(max(int((z - middle) / half * (4 * octets) + 4 * octets), 0), 8 * octets - 1)
                    occupancy[r, c, seen // 8] |= np.uint8(1 << (seen % 8))
