"""Triangles: which face each pixel sees, and pictures of textured meshes.

The rasteriser works in homogeneous coordinates (Olano & Greer 1997, "Triangle Scan Conversion using 2D Homogeneous
Coordinates"): with camera-space corners p0 p1 p2, the weight of corner 0 along a pixel's ray d is d · (p1 × p2), and
likewise for the others. Divided by their sum the three weights are perspective-correct barycentric coordinates, and
the sum over det(p0, p1, p2) is 1 / depth. Nothing is divided by a corner's depth, so faces that reach behind the
camera need no clipping. A shared edge has exactly opposite weights in its two faces, so no pixel falls between them.

Three kernels: per face (``_setup``), per strip of rows (``_fill``), per row of finished pixels (``_shade``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numba
import numpy as np
import torch
import trimesh
from torch import Tensor

from ..cameras import Cameras
from ..errors import InputError, UsageError
from ..parallel import kernel
from .materials import Surface, sample, surface_of

F = np.float32
NEAR = 1e-3  # object units; nothing closer to the camera plane is drawn
SHADINGS = {"unlit": 0, "studio": 1, "clay": 2, "normals": 3}
KEY = np.array([-0.42, -0.55, -0.72])  # direction towards the main light, camera axes: upper left, in front
FILL = np.array([0.80, -0.10, -0.59])  # from the right, weaker

# Columns of a face record: three edges and 1/depth, each a x + b y + c in pixels.
EDGE0, EDGE1, EDGE2, INVERSE_DEPTH, RECORD = 0, 3, 6, 9, 12


@dataclass(frozen=True)
class Fragments:
    """The nearest face at every pixel centre of V views."""

    face: np.ndarray  # int32 [V, H, W], -1 where empty
    barycentric: np.ndarray  # float32 [V, H, W, 3] perspective-correct, 0 where empty
    depth: np.ndarray  # float32 [V, H, W] distance along the camera's +Z in object units, inf where empty


def rasterize(vertices: np.ndarray, faces: np.ndarray, cameras: Cameras, *, near: float = NEAR) -> Fragments:
    """The face each pixel centre sees, both sides of every face being visible.

    Args:
        vertices: [n, 3] world frame; faces with a corner that is not finite are not drawn.
        faces: [m, 3] indices of vertices.
        cameras: V views, or one without a batch axis (V = 1).
        near: object units; surface closer than this to the camera plane is not drawn.

    Raises:
        InputError: an array has the wrong shape, or an index points past the vertices.
    """
    points, triangles = _checked(vertices, faces, 3)
    world_to_camera, inverse = _matrices(cameras)
    shape = (len(world_to_camera), cameras.height, cameras.width)
    fragments = Fragments(np.empty(shape, np.int32), np.empty((*shape, 3), F), np.empty(shape, F))
    for view, matrix in enumerate(world_to_camera):
        local = _local(points, matrix)
        out = (fragments.face[view], fragments.barycentric[view], fragments.depth[view])
        _draw(local, triangles, inverse[view], near, out)
    return fragments


def rasterize_uv(uv: np.ndarray, faces: np.ndarray, size: int | tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """The face that covers each texel centre of a texture.

    Args:
        uv: [n, 2] texture coordinates in 0–1, v up (the convention trimesh keeps in memory).
        faces: [m, 3] indices into ``uv``.
        size: texels, one number for a square or ``(width, height)``.

    Returns:
        face [H, W] int32 (-1 where empty) and barycentric coordinates [H, W, 3] float32; row 0 is the top, v = 1.
    """
    coordinates, triangles = _checked(uv, faces, 2)
    width, height = (size, size) if isinstance(size, int) else size
    flat = np.ones((len(coordinates), 3))
    flat[:, 0] = coordinates[:, 0] * width
    flat[:, 1] = (1 - coordinates[:, 1]) * height
    out = (np.empty((height, width), np.int32), np.empty((height, width, 3), F), np.empty((height, width), F))
    _draw(flat, triangles, np.eye(3), 0.5, out)
    return out[0], out[1]


def render_mesh(
    mesh: trimesh.Trimesh,
    cameras: Cameras,
    *,
    background: tuple[float, float, float] | None = (1.0, 1.0, 1.0),
    supersample: int = 2,
    shading: Literal["studio", "unlit", "normals", "clay"] = "studio",
) -> Tensor:
    """Pictures of a mesh.

    Args:
        mesh: world frame; textured, coloured by vertex or face, or plain.
        cameras: V views, or one without a batch axis (V = 1).
        background: sRGB-encoded colour behind the object; None leaves colour straight, that is, not composited.
        supersample: samples per pixel along each axis, 1 to 8.
        shading: ``"studio"`` is the base colour under soft lights that stay with the camera, a surface facing it
            keeping its own colour; ``"unlit"`` the base colour; ``"normals"`` the world normal as 0.5 + 0.5 n, turned
            towards the camera; ``"clay"`` studio light on plain grey.

    Returns:
        [V, H, W, 4] float32 0–1, sRGB-encoded; the fourth channel is the share of each pixel that is covered.

    Raises:
        UsageError: unknown shading, or supersample out of range. InputError: faces that name no vertex.
    """
    if shading not in SHADINGS:
        raise UsageError(f"shading {shading!r} is not known; choose one of {', '.join(SHADINGS)}")
    if not 1 <= supersample <= 8:
        raise UsageError(f"supersample is {supersample}, it must lie in 1 to 8; 2 suits previews")
    points, triangles = _checked(mesh.vertices, mesh.faces, 3)
    scene: tuple[Any, ...] = (*_arrays(surface_of(mesh)), points.astype(F), triangles)
    world_to_camera, inverse = _matrices(cameras.resized(cameras.width * supersample, cameras.height * supersample))
    height, width = cameras.height * supersample, cameras.width * supersample
    out = (np.empty((height, width), np.int32), np.empty((height, width, 3), F), np.empty((height, width), F))
    image = np.empty((len(world_to_camera), cameras.height, cameras.width, 4), F)
    paper = np.zeros(3, F) if background is None else np.asarray(background, F)
    for view, matrix in enumerate(world_to_camera):
        local = _local(points, matrix)
        records = _draw(local, triangles, inverse[view], NEAR, out)
        lights, eye = _lights(matrix)
        samples = (records, out[0], out[1])
        style = (lights, eye, paper, background is None, SHADINGS[shading])
        arguments: tuple[Any, ...] = (*scene, *samples, *style, image[view])
        _shade(*arguments)
    return torch.from_numpy(image)


def _checked(positions: np.ndarray, faces: np.ndarray, dimensions: int) -> tuple[np.ndarray, np.ndarray]:
    """Positions as float64 [n, d] and faces as int32 [m, 3], contiguous."""
    points, triangles = np.asarray(positions, np.float64), np.asarray(faces)
    if points.ndim != 2 or points.shape[1] != dimensions or triangles.ndim != 2 or triangles.shape[1] != 3:
        raise InputError(
            f"positions {list(points.shape)} and faces {list(triangles.shape)} must be [n, {dimensions}] and [m, 3]; "
            "triangulate the mesh and drop further columns"
        )
    if triangles.size and not (triangles.min() >= 0 and triangles.max() < len(points)):
        raise InputError(
            f"faces use indices {triangles.min()} to {triangles.max()}, but there are {len(points)} positions; "
            "indices count from 0 and must be below that number"
        )
    return np.ascontiguousarray(points), np.ascontiguousarray(triangles, np.int32)


def _matrices(cameras: Cameras) -> tuple[np.ndarray, np.ndarray]:
    """world_to_camera [V, 4, 4] and inverse intrinsics [V, 3, 3], float64."""
    matrices = cameras.world_to_camera.detach().cpu().double().numpy().reshape(-1, 4, 4)
    intrinsics = cameras.intrinsics.detach().cpu().double().numpy().reshape(-1, 3, 3)
    return matrices, np.linalg.inv(intrinsics)


def _lights(world_to_camera: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Directions towards the two lights [2, 3] and position of the camera [3], world frame, float32."""
    rotation = world_to_camera[:3, :3]
    directions = np.stack([KEY, FILL]) @ rotation
    directions /= np.linalg.norm(directions, axis=-1, keepdims=True)
    return directions.astype(F), (-rotation.T @ world_to_camera[:3, 3]).astype(F)


def _local(points: np.ndarray, world_to_camera: np.ndarray) -> np.ndarray:
    """World points [n, 3] → camera axes; a point that is not finite stays so, for ``_setup`` to drop its faces."""
    with np.errstate(invalid="ignore"):
        return points @ world_to_camera[:3, :3].T + world_to_camera[:3, 3]


def _arrays(surface: Surface) -> tuple[np.ndarray, ...]:
    """The arrays of a surface in the order ``_shade`` takes them."""
    return surface.normals, surface.uv, surface.colors, surface.texture.texels, surface.texture.levels


def _draw(
    local: np.ndarray,
    faces: np.ndarray,
    inverse: np.ndarray,
    near: float,
    out: tuple[np.ndarray, np.ndarray, np.ndarray],
) -> np.ndarray:
    """Fill ``out`` (face, barycentric, depth) from camera-space positions [n, 3] → face records [m, RECORD]."""
    records = np.empty((len(faces), RECORD), F)
    boxes = np.empty((len(faces), 4), np.int32)
    height, width = out[0].shape
    forward = np.linalg.inv(inverse)
    _setup(local, faces, np.ascontiguousarray(inverse), np.ascontiguousarray(forward), near, width, height, records,
           boxes)  # fmt: skip
    strips = max(1, min(height, 8 * numba.get_num_threads()))  # more than threads: the object may fill only a few
    _fill(records, boxes, F(1 / near), strips, *out)
    return records


@kernel(parallel=True)
def _setup(
    local: np.ndarray,
    faces: np.ndarray,
    inverse: np.ndarray,
    intrinsics: np.ndarray,
    near: float,
    width: int,
    height: int,
    records: np.ndarray,
    boxes: np.ndarray,
) -> None:
    """Per face: edge and depth planes in float64, kept as float32, and the box of pixels (x0, x1, y0, y1) it may cover.

    Planes are turned to be positive inside. A face that crosses the near plane is bounded by the corners in front and
    the points where its edges meet that plane. Long because planes and box share the corners; nine arguments, because
    kernels take arrays only.
    """
    for f in numba.prange(len(faces)):
        boxes[f, :] = 0
        p = np.empty((3, 3))
        for k in range(3):
            for axis in range(3):
                p[k, axis] = local[faces[f, k], axis]
        total = p.sum()
        if not np.isfinite(total) or max(p[0, 2], p[1, 2], p[2, 2]) <= near:
            continue
        normals = np.empty((3, 3))
        for k in range(3):
            i, j = (k + 1) % 3, (k + 2) % 3
            normals[k, 0] = p[i, 1] * p[j, 2] - p[i, 2] * p[j, 1]
            normals[k, 1] = p[i, 2] * p[j, 0] - p[i, 0] * p[j, 2]
            normals[k, 2] = p[i, 0] * p[j, 1] - p[i, 1] * p[j, 0]
        det = p[0, 0] * normals[0, 0] + p[0, 1] * normals[0, 1] + p[0, 2] * normals[0, 2]
        if not np.isfinite(det) or abs(det) < 1e-30:
            continue
        sign = 1.0 if det > 0 else -1.0
        for column in range(3):
            depth_plane = 0.0
            for k in range(3):
                value = (normals[k, 0] * inverse[0, column] + normals[k, 1] * inverse[1, column]) + normals[
                    k, 2
                ] * inverse[2, column]
                records[f, 3 * k + column] = F(sign * value)
                depth_plane += value
            records[f, INVERSE_DEPTH + column] = F(depth_plane / det)
        x0, x1, y0, y1 = 1e9, -1e9, 1e9, -1e9
        for k in range(3):
            j = (k + 1) % 3
            for step in range(2):
                if step == 0:
                    if p[k, 2] < near:
                        continue
                    x, y, z = p[k, 0], p[k, 1], p[k, 2]
                else:
                    if (p[k, 2] < near) == (p[j, 2] < near):
                        continue
                    t = (near - p[k, 2]) / (p[j, 2] - p[k, 2])
                    x, y, z = p[k, 0] + t * (p[j, 0] - p[k, 0]), p[k, 1] + t * (p[j, 1] - p[k, 1]), near
                u = (intrinsics[0, 0] * x + intrinsics[0, 1] * y) / z + intrinsics[0, 2]
                v = intrinsics[1, 1] * y / z + intrinsics[1, 2]
                x0, x1, y0, y1 = min(x0, u), max(x1, u), min(y0, v), max(y1, v)
        # The 0.01 covers rounding of the planes to float32; pixel i is hit if its centre i + 0.5 is inside.
        boxes[f, 0] = max(0, int(np.floor(max(x0, -1e6) - 0.51)) + 1)
        boxes[f, 1] = min(width, int(np.floor(min(x1, 1e6) - 0.49)) + 1)
        boxes[f, 2] = max(0, int(np.floor(max(y0, -1e6) - 0.51)) + 1)
        boxes[f, 3] = min(height, int(np.floor(min(y1, 1e6) - 0.49)) + 1)


@kernel(parallel=True)
def _fill(
    records: np.ndarray,
    boxes: np.ndarray,
    inverse_near: float,
    strips: int,
    face: np.ndarray,
    barycentric: np.ndarray,
    depth: np.ndarray,
) -> None:
    """Per strip of rows: keep the face with the largest 1/depth at each pixel, then resolve.

    Faces come in order and ties keep the earlier one, so the result does not depend on the number of threads.
    """
    height, width = face.shape
    for strip in numba.prange(strips):
        top, bottom = strip * height // strips, (strip + 1) * height // strips
        for y in range(top, bottom):
            for x in range(width):
                face[y, x] = -1
                depth[y, x] = F(0)
        for f in range(len(records)):
            y0, y1 = max(top, boxes[f, 2]), min(bottom, boxes[f, 3])
            x0, x1 = boxes[f, 0], boxes[f, 1]
            if y0 >= y1 or x0 >= x1:
                continue
            a0, a1, a2, ad = records[f, 0], records[f, 3], records[f, 6], records[f, 9]
            for y in range(y0, y1):
                py = F(y) + F(0.5)
                e0 = records[f, 1] * py + records[f, 2]
                e1 = records[f, 4] * py + records[f, 5]
                e2 = records[f, 7] * py + records[f, 8]
                ed = records[f, 10] * py + records[f, 11]
                for x in range(x0, x1):
                    px = F(x) + F(0.5)
                    inside = min(min(a0 * px + e0, a1 * px + e1), a2 * px + e2)
                    if inside >= F(0):
                        nearness = ad * px + ed
                        if nearness > depth[y, x] and nearness <= inverse_near:
                            depth[y, x] = nearness
                            face[y, x] = f
        for y in range(top, bottom):
            py = F(y) + F(0.5)
            for x in range(width):
                f = face[y, x]
                if f < 0:
                    barycentric[y, x, 0] = barycentric[y, x, 1] = barycentric[y, x, 2] = F(0)
                    depth[y, x] = np.inf
                    continue
                px = F(x) + F(0.5)
                w0 = records[f, 0] * px + (records[f, 1] * py + records[f, 2])
                w1 = records[f, 3] * px + (records[f, 4] * py + records[f, 5])
                w2 = records[f, 6] * px + (records[f, 7] * py + records[f, 8])
                scale = F(1) / max(w0 + w1 + w2, F(1e-30))
                barycentric[y, x, 0] = w0 * scale
                barycentric[y, x, 1] = w1 * scale
                barycentric[y, x, 2] = w2 * scale
                depth[y, x] = F(1) / depth[y, x]


@kernel()
def _footprint(
    record: np.ndarray, bary: np.ndarray, uv: np.ndarray, px: float, py: float, w: int, h: int
) -> np.float32:
    """Texels per pixel: geometric mean of the two axes of a pixel's image in the texture, at least a quarter of the
    longer one, which keeps oblique surfaces sharp and still stops their shimmer.

    Each weight is linear in the pixel, so with s their sum, d(w_k / s)/dx = (a_k - b_k Σ a) / s.
    """
    s = F(0)
    for k in range(3):
        s += record[3 * k] * px + (record[3 * k + 1] * py + record[3 * k + 2])
    if s <= F(0):
        return F(1)
    sum_a = record[0] + record[3] + record[6]
    sum_b = record[1] + record[4] + record[7]
    ux = uy = vx = vy = F(0)
    for k in range(3):
        dx = (record[3 * k] - bary[k] * sum_a) / s
        dy = (record[3 * k + 1] - bary[k] * sum_b) / s
        ux += dx * uv[k, 0]
        uy += dy * uv[k, 0]
        vx += dx * uv[k, 1]
        vy += dy * uv[k, 1]
    ux, uy, vx, vy = ux * F(w), uy * F(w), vx * F(h), vy * F(h)
    half = F(0.5) * (ux * ux + uy * uy + vx * vx + vy * vy)
    det = ux * vy - uy * vx
    major2 = half + np.sqrt(max(half * half - det * det, F(0)))
    return np.sqrt(max(abs(det), major2 * F(1 / 16)))


@kernel(parallel=True)
def _shade(
    normals: np.ndarray,
    uv: np.ndarray,
    colors: np.ndarray,
    texels: np.ndarray,
    levels: np.ndarray,
    points: np.ndarray,
    faces: np.ndarray,
    records: np.ndarray,
    face: np.ndarray,
    barycentric: np.ndarray,
    lights: np.ndarray,
    eye: np.ndarray,
    paper: np.ndarray,
    straight: bool,
    mode: int,
    image: np.ndarray,
) -> None:
    """Per finished row: light every sample, average the samples of a pixel, lay them over the background.

    Long because interpolation, light and averaging share one pass over the samples; sixteen arguments because
    kernels take arrays only.
    """
    height, width = image.shape[:2]
    n = face.shape[0] // height
    key_front = F(0.5) + F(0.5) * F(0.72)
    for row in numba.prange(height):
        for column in range(width):
            red = green = blue = F(0)
            hits = 0
            for sub in range(n * n):
                y, x = row * n + sub // n, column * n + sub % n
                f = face[y, x]
                if f < 0:
                    continue
                hits += 1
                b = barycentric[y, x]
                r = b[0] * colors[f, 0, 0] + b[1] * colors[f, 1, 0] + b[2] * colors[f, 2, 0]
                g = b[0] * colors[f, 0, 1] + b[1] * colors[f, 1, 1] + b[2] * colors[f, 2, 1]
                bl = b[0] * colors[f, 0, 2] + b[1] * colors[f, 1, 2] + b[2] * colors[f, 2, 2]
                if mode == 2:
                    r = g = bl = F(0.78)
                elif mode != 3:
                    u = b[0] * uv[f, 0, 0] + b[1] * uv[f, 1, 0] + b[2] * uv[f, 2, 0]
                    v = b[0] * uv[f, 0, 1] + b[1] * uv[f, 1, 1] + b[2] * uv[f, 2, 1]
                    size = _footprint(records[f], b, uv[f], F(x) + F(0.5), F(y) + F(0.5), levels[0, 1], levels[0, 2])
                    tr, tg, tb = sample(texels, levels, u, v, size)
                    r, g, bl = r * tr, g * tg, bl * tb
                if mode > 0:
                    nx = b[0] * normals[f, 0, 0] + b[1] * normals[f, 1, 0] + b[2] * normals[f, 2, 0]
                    ny = b[0] * normals[f, 0, 1] + b[1] * normals[f, 1, 1] + b[2] * normals[f, 2, 1]
                    nz = b[0] * normals[f, 0, 2] + b[1] * normals[f, 1, 2] + b[2] * normals[f, 2, 2]
                    i = faces[f, 0]
                    facing = nx * (eye[0] - points[i, 0]) + ny * (eye[1] - points[i, 1]) + nz * (eye[2] - points[i, 2])
                    length = np.sqrt(nx * nx + ny * ny + nz * nz)
                    scale = (F(1) if facing >= F(0) else F(-1)) / max(length, F(1e-12))
                    nx, ny, nz = nx * scale, ny * scale, nz * scale
                    if mode == 3:
                        r, g, bl = F(0.5) + F(0.5) * nx, F(0.5) + F(0.5) * ny, F(0.5) + F(0.5) * nz
                    else:
                        key = nx * lights[0, 0] + ny * lights[0, 1] + nz * lights[0, 2]
                        fill = nx * lights[1, 0] + ny * lights[1, 1] + nz * lights[1, 2]
                        # Half-wrapped lights, so that nothing turns black; 1.0 on a surface that faces the camera.
                        light = (
                            F(1.0)
                            + F(0.42) * (F(0.5) + F(0.5) * key - key_front)
                            + F(0.10) * (fill - F(0.59))
                            + F(0.06) * ny
                        )
                        if mode == 2:
                            light += F(0.7) * (light - F(1))  # form is all that clay shows
                        r, g, bl = r * light, g * light, bl * light
                red += min(max(r, F(0)), F(1))
                green += min(max(g, F(0)), F(1))
                blue += min(max(bl, F(0)), F(1))
            share = F(1) / F(n * n)
            alpha = F(hits) * share
            if straight:
                scale = F(1) / F(max(hits, 1))
                image[row, column, 0], image[row, column, 1] = red * scale, green * scale
                image[row, column, 2] = blue * scale
            else:
                rest = F(1) - alpha
                image[row, column, 0] = red * share + rest * paper[0]
                image[row, column, 1] = green * share + rest * paper[1]
                image[row, column, 2] = blue * share + rest * paper[2]
            image[row, column, 3] = alpha
