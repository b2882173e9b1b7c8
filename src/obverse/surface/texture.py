"""Texturing: the photo's own pixels on the side it shows, the predicted colour elsewhere, and no seam between.

Where the photo sees the surface well, its pixels are kept as they are. Their difference to the prediction is spread
over the rest of the surface by a screened Laplace equation and added to the prediction there, so that both colours
agree where one gives way to the other and the prediction returns to itself with distance (the idea of Pérez et al.,
"Poisson image editing", SIGGRAPH 2003, on a surface instead of an image). Beside the photo the prediction's own
changes of colour are left out: it turns from the front's colours to the side's within a pixel or two, and the border
would show.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
import scipy.sparse as sparse
import torch
import trimesh
from numba import prange
from PIL import Image
from torch import Tensor

from ..cameras import Cameras
from ..errors import InputError
from ..parallel import kernel
from ..render.triangles import rasterize, rasterize_uv
from .charts import Atlas, check_options, face_neighbours, unwrap
from .packing import doubled_areas

GRAZING = (0.15, 0.40)  # cosine between normal and view: below the first the photo counts nothing, above the second all
UNSEEN_DENSITY = 0.5  # the unseen side keeps at least this share of the seen side's texel density
SMOOTHING = 0.01  # object units over which the difference between photo and prediction is averaged
DECAY = 0.25  # object units in which the photo's correction of the prediction falls to 1/e
BORDER = 0.05  # object units from the photo at which the prediction's own changes of colour begin to count
ROUGHNESS = 0.9
_CHUNK = 1 << 17  # points per call of the predictor
_SAMPLES = 60_000  # texels of the seen side at which photo and prediction are compared

Predictor = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Textured:
    """A textured mesh, and what is known about its texture."""

    mesh: trimesh.Trimesh  # texture and normals; vertices appear once per chart and smoothing group
    vertex_map: np.ndarray  # [n'] int64 into the vertices of the mesh that was given
    seen: np.ndarray  # [m] float32 0–1, the photo's weight at each face's centre
    seen_fraction: float  # share of the surface's area that carries the photo
    utilisation: float  # share of the texture's area covered by faces
    charts: int
    texels_per_pixel: (
        float  # texture resolution of the photographed side, per photo pixel; 0 without a photo, or with xatlas
    )
    texels_per_unit: float  # texture resolution of the other side, per object unit


def texture_mesh(
    mesh: trimesh.Trimesh,
    *,
    predicted: Predictor,
    photo: Tensor | None = None,
    camera: Cameras | None = None,
    size: int = 1024,
    atlas: Literal["charts", "xatlas"] = "charts",
    crease_deg: float = 40.0,
) -> Textured:
    """Unwrap a mesh and bake its base colour.

    Args:
        mesh: closed manifold, world frame.
        predicted: world points [N, 3] float32 → sRGB-encoded colour [N, 3] in 0–1; called in chunks.
        photo: [S, S, 4] float32, sRGB-encoded, straight alpha; colour extended a little past the silhouette.
        camera: one view, which explains the photo's pixels; any image size of the same shape.
        size: side of the texture in texels, 256 to 4096.
        atlas: see :func:`obverse.surface.charts.unwrap`.
        crease_deg: edges bent by more than this stay sharp.

    Returns:
        The textured mesh: metallic 0, roughness 0.9, base colour in sRGB, positions bit-identical across seams.

    Raises:
        InputError: photo without camera or the reverse, or a photo of the wrong shape.
        UsageError, MissingPackageError: as :func:`~obverse.surface.charts.unwrap` does.
    """
    check_options(mesh, size=size, atlas=atlas)
    solid = _Solid.of(mesh, crease_deg)
    view = _View.of(solid.vertices, solid.faces, photo, camera)
    seen = np.zeros(len(solid.faces), np.float32)
    if view is None:
        layout = unwrap(mesh, size=size, atlas=atlas)
    else:
        seen, visible = view.weigh(solid.centres, solid.flat)
        density = _density(solid, view, visible, size)
        layout = unwrap(mesh, size=size, atlas=atlas, density=density, camera=view.camera, visible=visible)
    texels = _Texels.of(layout, solid, size)
    color = _color(texels, solid, predicted, view, layout.texels_per_pixel)
    out, vertex_map = _assemble(layout, solid, texels.spread(color))
    return Textured(
        mesh=out,
        vertex_map=vertex_map,
        seen=seen,
        seen_fraction=float(solid.areas[seen > 0.5].sum() / max(float(solid.areas.sum()), 1e-30)),
        utilisation=layout.utilisation,
        charts=layout.charts,
        texels_per_pixel=layout.texels_per_pixel,
        texels_per_unit=layout.texels_per_unit,
    )


def smooth_normals(
    vertices: np.ndarray, faces: np.ndarray, *, crease_deg: float = 40.0
) -> tuple[np.ndarray, np.ndarray]:
    """Normals that are smooth but for creases.

    Around each vertex, faces joined by edges bent less than ``crease_deg`` share one normal, the mean of theirs
    weighted by their angle at the vertex (Thürmer & Wüthrich, "Computing vertex normals from polygonal facets", 1998).

    Returns:
        group of each face corner [m, 3] int32, and unit normal of each group [g, 3] float32.
    """
    count = len(faces)
    flat, _ = _face_normals(vertices, faces)
    neighbours = face_neighbours(faces, len(vertices))
    face, side = np.nonzero(neighbours >= 0)
    beyond = neighbours[face, side]
    solid = (flat[face] != 0).any(1) & (flat[beyond] != 0).any(1)
    flatness = np.einsum("ec,ec->e", flat[face], flat[beyond])
    keep = (face < beyond) & (~solid | (flatness >= np.cos(np.radians(crease_deg))))
    face, side, beyond = face[keep], side[keep], beyond[keep]
    ends = [side, (side + 1) % 3]
    rows = np.concatenate([3 * face + end for end in ends])
    columns = np.concatenate([3 * beyond + (faces[beyond] == faces[face, end][:, None]).argmax(1) for end in ends])
    links = sparse.coo_matrix((np.ones(len(rows), np.int8), (rows, columns)), (3 * count, 3 * count))
    groups, group = sparse.csgraph.connected_components(links, directed=False)
    weighted = (_angles(vertices, faces)[..., None] * flat[:, None, :]).reshape(-1, 3)
    total = np.stack([np.bincount(group, weighted[:, k], groups) for k in range(3)], axis=1)
    length = np.linalg.norm(total, axis=1, keepdims=True)
    total = np.where(length > 1e-12, total / np.maximum(length, 1e-12), [0.0, 0.0, 1.0])
    return np.ascontiguousarray(group.reshape(-1, 3), np.int32), total.astype(np.float32)


@dataclass(frozen=True)
class _Solid:
    """The mesh as the steps below need it."""

    vertices: np.ndarray  # [n, 3] float32
    faces: np.ndarray  # [m, 3] int32
    centres: np.ndarray  # [m, 3] float32
    flat: np.ndarray  # [m, 3] float32, each face's own normal
    areas: np.ndarray  # [m] float64
    group: np.ndarray  # [m, 3] int32, smoothing group of each corner
    normals: np.ndarray  # [g, 3] float32, unit, one per smoothing group

    @staticmethod
    def of(mesh: trimesh.Trimesh, crease_deg: float) -> _Solid:
        vertices = np.ascontiguousarray(mesh.vertices, np.float32)
        faces = np.ascontiguousarray(mesh.faces, np.int32)
        flat, areas = _face_normals(vertices, faces)
        group, normals = smooth_normals(vertices, faces, crease_deg=crease_deg)
        return _Solid(vertices, faces, _centres(vertices, faces), flat, areas, group, normals)


def _centres(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Centres of faces [m, 3]."""
    return (vertices[faces[:, 0]] + vertices[faces[:, 1]] + vertices[faces[:, 2]]) / np.float32(3)


def _face_normals(vertices: np.ndarray, faces: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Unit normals [m, 3] float32, zero for faces without area, and areas [m] float64."""
    corners = vertices.astype(np.float64)[faces]
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    length = np.sqrt(np.einsum("mc,mc->m", normals, normals))
    normals *= np.where(length > 1e-14, 1 / np.maximum(length, 1e-14), 0)[:, None]
    return normals.astype(np.float32), length / 2


def _angles(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Interior angle at each corner [m, 3], radians."""
    corners = vertices[faces].astype(np.float64)
    ahead = np.roll(corners, -1, axis=1) - corners
    length = np.maximum(np.linalg.norm(ahead, axis=2), 1e-30)
    cosine = -np.einsum("mkc,mkc->mk", ahead, np.roll(ahead, 1, axis=1)) / (length * np.roll(length, 1, axis=1))
    return np.arccos(np.clip(cosine, -1, 1))


def _smoothstep(value: np.ndarray, low: float, high: float) -> np.ndarray:
    """0 below ``low``, 1 above ``high``, a cubic between."""
    t = np.clip((value - low) / (high - low), 0, 1)
    return t * t * (3 - 2 * t)


@dataclass(frozen=True)
class _View:
    """The photo, its camera, and the surface's depth as the camera sees it."""

    image: np.ndarray  # [S, S, 3] float32
    trust: np.ndarray  # [S, S] float32 0–1: 0 at the silhouette and at jumps of depth, 1 a few pixels away from them
    nearest: np.ndarray  # [S, S] float32: least depth within a pixel's distance, inf where there is no surface
    camera: Cameras
    matrix: np.ndarray  # [4, 4] float32
    intrinsics: np.ndarray  # [3, 3] float32
    position: np.ndarray  # [3] float32

    @staticmethod
    def of(vertices: np.ndarray, faces: np.ndarray, photo: Tensor | None, camera: Cameras | None) -> _View | None:
        """Look at the mesh through the photo's camera; None where there is no photo."""
        if photo is None and camera is None:
            return None
        if photo is None or camera is None:
            missing = "photo" if photo is None else "camera"
            raise InputError(f"the {missing} is missing; give both photo and camera, or neither")
        if photo.ndim != 3 or photo.shape[-1] != 4:
            raise InputError(f"the photo has shape {list(photo.shape)}, it must be [S, S, 4]: colour and alpha")
        if len(camera) != 1:
            raise InputError(f"{len(camera)} cameras were given for one photo; pass one, e.g. cameras[0]")
        height, width = photo.shape[:2]
        one = Cameras(
            camera.world_to_camera.reshape(4, 4), camera.intrinsics.reshape(3, 3), camera.width, camera.height
        )
        one = one.resized(width, height)
        pixels = photo.detach().cpu().float().numpy()
        depth = rasterize(vertices, faces, one).depth[0]
        focal = float(one.intrinsics[0, 0])
        trust = _trust(pixels[..., 3], depth, focal)
        nearest = cv2.erode(np.where(np.isfinite(depth), depth, np.float32(1e9)), np.ones((3, 3), np.uint8))
        matrix, intrinsics = one.world_to_camera.float().numpy(), one.intrinsics.float().numpy()
        image = np.ascontiguousarray(pixels[..., :3])
        return _View(image, trust, nearest, one, matrix, intrinsics, one.positions.float().numpy())

    def project(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Points [N, 3] → image x [N] and y [N] in pixels, and depth [N]."""
        local = points @ self.matrix[:3, :3].T + self.matrix[:3, 3]
        z = np.maximum(local[:, 2], 1e-6)
        k = self.intrinsics
        return k[0, 0] * local[:, 0] / z + k[0, 2], k[1, 1] * local[:, 1] / z + k[1, 2], local[:, 2]

    def weigh(self, points: np.ndarray, normals: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Surface points [N, 3] with unit normals → the photo's weight [N] in 0–1, and whether it shows them at all.

        A point is hidden where something lies before it by more than its own slope explains within two pixels.
        """
        height, width = self.trust.shape
        x, y, z = self.project(points)
        towards = self.position - points
        towards /= np.maximum(np.linalg.norm(towards, axis=1, keepdims=True), 1e-12)
        cosine = np.einsum("nc,nc->n", normals, towards)
        column, row = np.floor(x).astype(np.int64), np.floor(y).astype(np.int64)
        inside = (column >= 0) & (column < width) & (row >= 0) & (row < height) & (z > 0)
        column, row = np.clip(column, 0, width - 1), np.clip(row, 0, height - 1)
        slope = np.sqrt(np.maximum(1 - cosine**2, 0)) / np.maximum(cosine, GRAZING[0])
        tolerance = z / self.intrinsics[0, 0] * (1.0 + 2.0 * slope)
        behind = (z - self.nearest[row, column]) / tolerance
        shown = inside & (cosine > 0)
        weight = _smoothstep(cosine, *GRAZING) * (1 - _smoothstep(behind, 1.0, 2.0))
        weight *= _bilinear(self.trust, x, y)
        return np.where(shown, weight, 0).astype(np.float32), shown & (behind < 1.5)


def _trust(alpha: np.ndarray, depth: np.ndarray, focal: float) -> np.ndarray:
    """How far a pixel [S, S] is from the silhouette and from jumps of depth, as a weight.

    Full trust begins a few pixels inside, and in parts thinner than that along their middle. Neighbouring pixels whose
    depths differ by more than a slope of 83° would explain show two surfaces.
    """
    edge = alpha < 0.5
    solid = np.where(np.isfinite(depth), depth, np.float32(np.nan))
    for axis in (0, 1):
        step = np.abs(np.diff(solid, axis=axis)) > 8.0 * np.nanmax(solid, initial=1.0) / focal
        low, high = [slice(None)] * 2, [slice(None)] * 2
        low[axis], high[axis] = slice(None, -1), slice(1, None)
        edge[tuple(low)] |= step
        edge[tuple(high)] |= step
    if not edge.any():
        return np.ones_like(alpha)
    distance = cv2.distanceTransform((~edge).astype(np.uint8), cv2.DIST_L2, 5)
    reach = max(4.0, alpha.shape[0] / 128)
    window = np.ones((2 * int(reach) + 1,) * 2, np.uint8)
    full = np.clip(0.6 * cv2.dilate(distance, window), 1.0, reach)
    low = np.minimum(1.0, full / 2)
    share = np.clip((distance - low) / (full - low), 0, 1)
    return (share * share * (3 - 2 * share)).astype(np.float32)


def _bilinear(image: np.ndarray, x: np.ndarray, y: np.ndarray, *, cubic: bool = False) -> np.ndarray:
    """Sample an image at pixel positions [N], where (0.5, 0.5) is the first pixel's centre → [N] or [N, C]."""
    width = 1024  # OpenCV wants a picture of positions, with sides below 32768
    rows = -(-len(x) // width)
    flat = np.zeros((2, rows * width), np.float32)
    flat[0, : len(x)], flat[1, : len(y)] = x - 0.5, y - 0.5
    grid = flat.reshape(2, rows, width)
    mode = cv2.INTER_CUBIC if cubic else cv2.INTER_LINEAR
    out = np.empty((rows, width, *image.shape[2:]), np.float32)
    for start in range(0, rows, 32000):
        part = slice(start, start + 32000)
        out[part] = cv2.remap(image, grid[0, part], grid[1, part], mode, borderMode=cv2.BORDER_REPLICATE)
    return out.reshape(rows * width, *image.shape[2:])[: len(x)]


def _density(solid: _Solid, view: _View, visible: np.ndarray, size: int) -> np.ndarray:
    """Relative texel density [m]: as much for the visible side as brings it to one texel per photo pixel.

    With texel budget U, areas a (seen) and b (unseen) and the photo's p pixels per unit, a p² + b q² = U gives the
    density q that is left for the unseen side; q/p is kept between ``UNSEEN_DENSITY`` and 1.
    """
    seen, unseen = float(solid.areas[visible].sum()), float(solid.areas[~visible].sum())
    depth = view.project(solid.centres)[2]
    pixels = float(view.intrinsics[0, 0]) / max(float(np.median(depth)), 1e-6)
    left = max(0.65 * size * size - seen * pixels**2, 0.0) / max(unseen, 1e-12)
    ratio = float(np.clip(np.sqrt(left) / pixels, UNSEEN_DENSITY, 1.0))
    return np.where(visible, 1.0, ratio)


@dataclass(frozen=True)
class _Texels:
    """Texels that lie on a face, and those within the gutter that continue the nearest one."""

    index: np.ndarray  # [N] flat position in the image
    face: np.ndarray  # [N]
    weights: np.ndarray  # [N, 3] barycentric; a little outside 0–1 in the gutter
    points: np.ndarray  # [N, 3] float32
    normals: np.ndarray  # [N, 3] float32, unit
    area: np.ndarray  # [N] float32, surface that a texel stands for; 0 in the gutter
    source: np.ndarray  # [size, size] for every texel, the row of the arrays above whose colour it takes

    @staticmethod
    def of(layout: Atlas, solid: _Solid, size: int) -> _Texels:
        """Find them."""
        face, weights = rasterize_uv(layout.uv, layout.faces, size)
        covered = face >= 0
        distance, label = cv2.distanceTransformWithLabels(
            (~covered).astype(np.uint8), cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL
        )
        index = np.flatnonzero(covered)
        row_of_label = np.zeros(int(label.max()) + 1, np.int64)
        row_of_label[label.ravel()[index]] = np.arange(len(index))
        source = row_of_label[label]
        ring = np.flatnonzero((distance > 0) & (distance < 1.5))
        ring_face = face.ravel()[index][source.ravel()[ring]]
        ring_weights = _extend(layout.uv[layout.faces[ring_face]], ring, size)
        source.ravel()[ring] = len(index) + np.arange(len(ring))
        face = np.concatenate([face.ravel()[index], ring_face])
        weights = np.concatenate([weights.reshape(-1, 3)[index], ring_weights])
        flat = np.abs(doubled_areas(layout.uv[layout.faces])) / 2
        area = (solid.areas / np.maximum(flat, 1e-12) / size**2)[face]
        area[len(index) :] = 0
        points = _interpolate(solid.vertices, solid.faces, face, weights)
        normal = _interpolate(solid.normals, solid.group, face, weights)
        normal /= np.maximum(np.sqrt(np.einsum("nc,nc->n", normal, normal)), 1e-12)[:, None]
        return _Texels(np.concatenate([index, ring]), face, weights, points, normal, area.astype(np.float32), source)

    def spread(self, color: np.ndarray) -> np.ndarray:
        """Colours [N, 3] in 0–1 → image [size, size, 3] uint8; what lies on no face repeats the nearest texel."""
        return np.round(np.clip(color, 0, 1) * 255).astype(np.uint8)[self.source]


def _extend(corners: np.ndarray, texel: np.ndarray, size: int) -> np.ndarray:
    """Barycentric coordinates [N, 3] of texel centres in triangles [N, 3, 2] they lie just outside of.

    Kept near the triangle, so that a sliver does not throw its neighbours across the object.
    """
    p = np.stack([(texel % size + 0.5) / size, 1 - (texel // size + 0.5) / size], axis=1)
    a, b, c = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0], p - corners[:, 0]
    det = a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]
    det = np.where(np.abs(det) < 1e-14, 1e-14, det)
    u, v = (c[:, 0] * b[:, 1] - c[:, 1] * b[:, 0]) / det, (a[:, 0] * c[:, 1] - a[:, 1] * c[:, 0]) / det
    u, v = np.clip(u, -0.5, 1.5), np.clip(v, -0.5, 1.5)
    return np.stack([1 - u - v, u, v], axis=1).astype(np.float32)


def _color(texels: _Texels, solid: _Solid, predicted: Predictor, view: _View | None, fineness: float) -> np.ndarray:
    """Colour of each texel [N, 3]."""
    if view is None:
        return _predict(predicted, texels.points)
    weight, _ = view.weigh(texels.points, texels.normals)
    lit = np.flatnonzero(weight > 0)
    color = np.zeros((len(weight), 3), np.float32)
    x, y, _ = view.project(texels.points[lit])
    color[lit] = _photo_at(view.image, x, y, fineness)
    full = np.flatnonzero(weight >= 1)
    stride = max(1, len(full) // _SAMPLES)
    rest = np.flatnonzero(weight < 1)
    rows = np.concatenate([rest, full[::stride]])
    guess = _predict(predicted, texels.points[rows])
    area = texels.area[rows] * np.where(np.arange(len(rows)) < len(rest), 1.0, stride)
    gap, mass = color[rows] - guess, weight[rows] * area
    at_corners = _predict(predicted, solid.vertices) if len(lit) else None
    correction = _correction(solid, texels.face[rows], texels.weights[rows], gap, mass, guess=at_corners)
    at_rest = _interpolate(correction, solid.faces, texels.face[rest], texels.weights[rest])
    mix = weight[rest, None]
    color[rest] = mix * color[rest] + (1 - mix) * (guess[: len(rest)] + at_rest)
    return color


def _photo_at(image: np.ndarray, x: np.ndarray, y: np.ndarray, fineness: float) -> np.ndarray:
    """The photo's colour [N, 3] at pixel positions, averaged first where the texture is coarser than the photo."""
    if 0 < fineness < 0.75:
        height, width = image.shape[:2]
        small = (max(1, round(width * fineness)), max(1, round(height * fineness)))
        x, y = x * (small[0] / width), y * (small[1] / height)
        image = cv2.resize(image, small, interpolation=cv2.INTER_AREA)
    return np.clip(_bilinear(image, x, y, cubic=True), 0, 1)


def _predict(predicted: Predictor, points: np.ndarray) -> np.ndarray:
    """Ask the predictor, a chunk at a time → [N, 3] float32 in 0–1."""
    out = np.empty((len(points), 3), np.float32)
    with torch.no_grad():
        for start in range(0, len(points), _CHUNK):
            chunk = torch.from_numpy(np.ascontiguousarray(points[start : start + _CHUNK], np.float32))
            out[start : start + _CHUNK] = predicted(chunk).detach().cpu().float().clamp(0, 1).numpy()
    return out


def _correction(
    solid: _Solid,
    face: np.ndarray,
    weights: np.ndarray,
    gap: np.ndarray,
    mass: np.ndarray,
    *,
    guess: np.ndarray | None = None,
) -> np.ndarray:
    """Spread the gap between photo and prediction, known at samples, over all vertices → [n, 3].

    Minimises ∫ |∇c + s ∇g|² + c² / DECAY² + w (c − gap)² / SMOOTHING² over the surface, c being linear on faces, g the
    prediction, and s how near the photo is: what s itself minimises in ∫ |∇s|² + s² / BORDER² + w (s − 1)² /
    SMOOTHING², close to exp(−distance / BORDER).

    Args:
        face, weights: samples' faces [N] and barycentric coordinates [N, 3].
        gap: photo − prediction [N, 3]; ignored where ``mass`` is 0.
        mass: photo's weight times the area a sample stands for [N].
        guess: the prediction at the vertices [n, 3]; None if it has one colour.
    """
    count, faces = len(solid.vertices), solid.faces
    use = np.flatnonzero(mass > 0)
    if len(use) == 0:
        return np.zeros((count, 3), np.float32)
    corner = faces[face[use]].ravel()
    share = (np.clip(weights[use], 0, 1) * mass[use, None]).ravel() / SMOOTHING**2
    data = np.bincount(corner, share, count)
    values = np.repeat(gap[use], 3, axis=0)
    target = np.stack([np.bincount(corner, share * values[:, k], count) for k in range(3)], axis=1)
    area = np.bincount(faces.ravel(), np.repeat(solid.areas / 3, 3), count)
    links = _links(solid.vertices, faces)
    laplacian = _laplacian(links)
    if guess is not None:
        matrix = (laplacian + sparse.diags(data + area / BORDER**2 + 1e-9)).tocsr()
        near = np.clip(_solve(matrix, data[:, None])[:, 0], 0, 1)
        links = links.tocoo()
        links.data = links.data * (near[links.row] + near[links.col]) / 2
        target -= _laplacian(links.tocsr()) @ guess
    matrix = (laplacian + sparse.diags(data + area / DECAY**2 + 1e-9)).tocsr()
    return _solve(matrix, target).astype(np.float32)


def _links(vertices: np.ndarray, faces: np.ndarray) -> sparse.csr_matrix:
    """Cotangent weight of each edge [n, n], symmetric; cotangents are clamped so that slivers stay harmless."""
    cot = 0.5 / np.tan(np.clip(_angles(vertices, faces), 0.1, np.pi / 2 - 0.05))
    i, j = np.roll(faces, -1, axis=1).ravel(), np.roll(faces, -2, axis=1).ravel()  # the edge opposite each corner
    count = len(vertices)
    half = sparse.coo_matrix((cot.ravel(), (i, j)), (count, count)).tocsr()
    return half + half.T


def _laplacian(links: sparse.csr_matrix) -> sparse.csr_matrix:
    """Laplacian of weighted edges [n, n], positive semi-definite: what it makes of a constant is 0."""
    return sparse.diags(np.asarray(links.sum(1)).ravel()) - links


def _solve(matrix: sparse.csr_matrix, target: np.ndarray, *, tolerance: float = 2e-3, steps: int = 400) -> np.ndarray:
    """Conjugate gradients with the diagonal as preconditioner, all columns of [n, k] at once."""
    inverse = 1.0 / matrix.diagonal()[:, None]

    def dot(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.einsum("nk,nk->k", a, b)

    x = target * inverse
    r = target - matrix @ x
    z = inverse * r
    p, rz = z.copy(), dot(r, z)
    goal = tolerance**2 * np.maximum(dot(target, inverse * target), 1e-20)
    for _ in range(steps):
        if (rz <= goal).all():
            break
        q = matrix @ p
        step = rz / np.maximum(dot(p, q), 1e-30)
        x += step * p
        r -= step * q
        z = inverse * r
        before, rz = rz, dot(r, z)
        p = z + (rz / np.maximum(before, 1e-30)) * p
    return x


def _assemble(layout: Atlas, solid: _Solid, image: np.ndarray) -> tuple[trimesh.Trimesh, np.ndarray]:
    """The final mesh, with a vertex for each chart and smoothing group, and its map to the given vertices."""
    groups = len(solid.normals)
    unique, inverse = np.unique(layout.faces * np.int64(groups) + solid.group, return_inverse=True)
    cut, smooth = unique // groups, unique % groups
    vertex_map = layout.vertex_map[cut]
    material = trimesh.visual.material.PBRMaterial(
        name="object",
        baseColorTexture=Image.fromarray(image),
        baseColorFactor=[255, 255, 255, 255],
        metallicFactor=0.0,
        roughnessFactor=ROUGHNESS,
    )
    mesh = trimesh.Trimesh(
        vertices=solid.vertices[vertex_map],
        faces=inverse.reshape(-1, 3),
        vertex_normals=solid.normals[smooth],
        visual=trimesh.visual.TextureVisuals(uv=layout.uv[cut], material=material),
        process=False,
    )
    return mesh, vertex_map


@kernel(parallel=True)
def _interpolate(values, corners, face, weights):  # type: ignore[no-untyped-def]
    """Values [n, 3] float32 at corners [m, 3] of faces → at samples with face [N] and barycentric weights [N, 3]."""
    out = np.empty((face.shape[0], 3), np.float32)
    for i in prange(face.shape[0]):
        f = face[i]
        for k in range(3):
            out[i, k] = (
                weights[i, 0] * values[corners[f, 0], k]
                + weights[i, 1] * values[corners[f, 1], k]
                + weights[i, 2] * values[corners[f, 2], k]
            )
    return out
