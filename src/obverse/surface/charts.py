"""Unwrapping: a closed mesh → charts without overlaps, packed into a square texture.

The photographed side becomes charts that are its projection into the photo, so that the photo's pixels are copied
almost one to one. Every other face is projected along the axis it faces best, after the choice has been smoothed over
the surface and small charts have joined a neighbour. What would fold over itself in projection is found by drawing
each chart texel by texel, and becomes a chart of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import trimesh

from ..cameras import Cameras
from ..errors import InputError, UsageError, need
from ..parallel import kernel
from . import packing

FACING = 0.12  # least cosine between a face and its chart's direction: 1/8 of its area is kept, and it never flips
_AXES = np.array([[1, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0], [0, 0, 1], [0, 0, -1]], np.float32)
_LABELS = 7  # 0 is the photo's projection, 1 to 6 are the axes above
_SMOOTHNESS = np.float32(0.8)  # cost of a face whose neighbours all have another label; a cosine is the gain
_SMALL = 0.004  # charts below this share of the area join a neighbour where they can
_LONGEST = 0.6  # of the atlas's side; longer charts are cut
_LONGEST_SEEN = 0.9  # the same for charts that hold the photo, which is better left whole
_CHECKS = 6  # packings after each of which overlaps are looked for
_CUTS = 4  # rounds of cutting charts in two


@dataclass(frozen=True)
class Atlas:
    """A mesh cut into charts and laid out in a square texture."""

    vertex_map: np.ndarray  # [n'] int64 into the mesh's vertices: a vertex appears once per chart that has it
    faces: np.ndarray  # [m, 3] int64 into vertex_map, in the mesh's face order
    uv: np.ndarray  # [n', 2] float64 in 0..1, v up
    face_chart: np.ndarray  # [m] int32
    charts: int
    utilisation: float  # share of the texture's area covered by faces
    texels_per_unit: float  # of the other charts, per object unit (root mean square over their area)
    texels_per_pixel: float  # of the charts that are projections into the photo; 0 where there are none, as with xatlas


def unwrap(
    mesh: trimesh.Trimesh,
    *,
    size: int = 1024,
    atlas: Literal["charts", "xatlas"] = "charts",
    density: np.ndarray | None = None,
    camera: Cameras | None = None,
    visible: np.ndarray | None = None,
) -> Atlas:
    """Cut a mesh into charts and pack them.

    Args:
        mesh: triangles, world frame; meant for closed manifolds, though edges without a partner are only cut there.
        size: side of the texture in texels, 256 to 4096.
        atlas: ``"charts"`` for the charts described above, ``"xatlas"`` for the library of that name (fewer and larger
            charts, much slower; ignores the options below).
        density: wanted relative texel density per face [m], linear; charts take the mean of their faces.
        camera: the photo's camera; faces in ``visible`` are laid out as it sees them.
        visible: faces [m] bool the photo shows.

    Raises:
        UsageError: ``size`` or ``atlas`` cannot be meant.
        InputError: the mesh has no faces, or more charts than the texture has room for.
        MissingPackageError: xatlas was asked for and is not installed.
    """
    check_options(mesh, size=size, atlas=atlas)
    vertices, faces = np.asarray(mesh.vertices, np.float32), np.ascontiguousarray(mesh.faces, np.int32)
    if atlas == "xatlas":
        return _xatlas(vertices, faces, size)
    shape = _Shape.of(vertices, faces)
    labels, component = _segment(shape, camera, visible)
    corners = _project(shape, labels, component, camera)
    corners = _scale(shape, labels, component, corners, density)
    corners *= np.sqrt(0.65 * size * size / max(float(np.abs(packing.doubled_areas(corners)).sum()) / 2, 1e-12))
    component, corners = _divide(shape, component, corners, size, keep=labels == 0)
    chart = _without_overlaps(shape, component, corners, 0.5)  # coarse and quick; packing looks again
    chart, low, packed = _pack(shape, chart, corners, size)
    vertex_map, new_faces, first = _split_vertices(faces, chart)
    uv = packing.place(packed, corners.reshape(-1, 2)[first], chart[first // 3], low) / size
    return _atlas(shape, vertex_map, new_faces, uv, chart, size, front=labels == 0, camera=camera)


def check_options(mesh: trimesh.Trimesh, *, size: int, atlas: str) -> None:
    """Refuse what :func:`unwrap` cannot use, before any work is done: UsageError and InputError as it says."""
    if not 256 <= size <= 4096:
        raise UsageError(f"texture size is {size}, it must lie between 256 and 4096; 1024 suits most objects")
    if atlas not in ("charts", "xatlas"):
        raise UsageError(f'atlas is {atlas!r}, it must be "charts" or "xatlas"')
    if len(mesh.faces) == 0:
        raise InputError("the mesh has no faces, so there is nothing to unwrap; check the surface before texturing it")


@dataclass(frozen=True)
class _Shape:
    """What the steps need of a mesh."""

    vertices: np.ndarray  # [n, 3] float32
    faces: np.ndarray  # [m, 3] int32
    triangles: np.ndarray  # [m, 3, 3] float32
    normals: np.ndarray  # [m, 3] float32, unit, zero where a face has no area
    areas: np.ndarray  # [m] float32
    neighbours: np.ndarray  # [m, 3] int32: the face beyond edge (i, i+1), −1 where there is none

    @staticmethod
    def of(vertices: np.ndarray, faces: np.ndarray) -> _Shape:
        triangles = vertices[faces]
        normals = np.cross(triangles[:, 1] - triangles[:, 0], triangles[:, 2] - triangles[:, 0])
        length = np.linalg.norm(normals, axis=1)
        normals = np.ascontiguousarray(normals / np.maximum(length, 1e-30)[:, None], np.float32)
        return _Shape(vertices, faces, triangles, normals, length / 2, face_neighbours(faces, len(vertices)))


def face_neighbours(faces: np.ndarray, vertex_count: int) -> np.ndarray:
    """Faces [m, 3] → the face beyond each edge (i, i+1) [m, 3] int32, −1 where there is none, or more than one."""
    return _neighbours(np.ascontiguousarray(faces, np.int32), np.int32(vertex_count))


def _segment(shape: _Shape, camera: Cameras | None, visible: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Direction label [m] and connected component [m] of each face."""
    facing = np.empty((len(shape.faces), _LABELS), np.float32)
    facing[:, 0] = -1.0
    facing[:, 1:] = shape.normals @ _AXES.T
    smooth = _smooth_normals(shape)
    gain = np.empty_like(facing)
    gain[:, 0] = -1.0
    gain[:, 1:] = smooth @ _AXES.T
    if camera is not None and visible is not None:
        position = camera.positions.reshape(3).numpy().astype(np.float32)
        towards = position - shape.triangles.mean(1)
        towards /= np.linalg.norm(towards, axis=1, keepdims=True)
        facing[:, 0] = np.einsum("mc,mc->m", shape.normals, towards)
        seen = np.clip((facing[:, 0] - 0.1) / 0.25, 0, 1)
        gain[:, 0] = np.where(np.asarray(visible, bool), 0.3 + 0.9 * seen, -0.5)
    gain[facing < FACING] = -1e3
    degenerate = shape.areas < 1e-14  # no direction of their own: they follow their neighbours
    gain[degenerate], facing[degenerate] = 0.0, 1.0
    labels = gain.argmax(1).astype(np.int32)
    edges = np.linalg.norm(shape.triangles - np.roll(shape.triangles, -1, axis=1), axis=2).astype(np.float32)
    share = edges / np.maximum(edges.sum(1, keepdims=True), 1e-20)
    _relax(labels, gain, shape.neighbours, share, _SMOOTHNESS, np.int32(8))
    component, count = _components(labels, shape.neighbours)
    for _ in range(4):
        if not _merge_small(shape, labels, component, count, facing, edges):
            break
        component, count = _components(labels, shape.neighbours)
    return labels, component


def _smooth_normals(shape: _Shape) -> np.ndarray:
    """Face normals [m, 3] averaged over a few rings of neighbours, so that bumps do not decide the direction."""
    smooth = _blur(shape.normals * shape.areas[:, None].astype(np.float32), shape.neighbours, np.int32(6))
    return smooth / np.maximum(np.sqrt(np.einsum("mc,mc->m", smooth, smooth)), 1e-30)[:, None]


def _merge_small(
    shape: _Shape, labels: np.ndarray, component: np.ndarray, count: int, facing: np.ndarray, edges: np.ndarray
) -> bool:
    """Give small components the label they share most border with, of those all their faces can take; in place."""
    area = np.bincount(component, shape.areas, count)
    small = area < _SMALL * area.sum()
    rows = np.flatnonzero(small[component])
    if len(rows) == 0:
        return False
    beyond = shape.neighbours[rows]
    cross = (beyond >= 0) & (component[beyond] != component[rows][:, None])
    key = component[rows][:, None] * _LABELS + labels[beyond]
    border = np.bincount(key[cross], edges[rows][cross], count * _LABELS).reshape(count, _LABELS)
    blocked = np.bincount(
        (component[rows][:, None] * _LABELS + np.arange(_LABELS))[facing[rows] < FACING], minlength=count * _LABELS
    ).reshape(count, _LABELS)
    border[blocked > 0] = 0
    wanted = border.argmax(1).astype(np.int32)
    moved = small & (border.max(1) > 0)
    take = moved[component[rows]]
    labels[rows[take]] = wanted[component[rows[take]]]
    return bool(moved.any())


def _project(shape: _Shape, labels: np.ndarray, component: np.ndarray, camera: Cameras | None) -> np.ndarray:
    """Corners [m, 3, 2] in their chart's plane: photo pixels (y up) for label 0, object units for the axes."""
    count = int(component.max()) + 1
    total = np.stack([np.bincount(component, shape.areas * shape.normals[:, k], count) for k in range(3)], axis=1)
    label = np.zeros(count, np.int32)
    label[component] = labels
    axis = _AXES[np.maximum(label, 1) - 1]
    mean = (total / np.maximum(np.linalg.norm(total, axis=1, keepdims=True), 1e-30)).astype(np.float32)
    worst_mean = np.full(count, 2.0, np.float32)
    worst_axis = np.full(count, 2.0, np.float32)
    solid = shape.areas >= 1e-14
    np.minimum.at(worst_mean, component[solid], np.einsum("mc,mc->m", shape.normals, mean[component])[solid])
    np.minimum.at(worst_axis, component[solid], np.einsum("mc,mc->m", shape.normals, axis[component])[solid])
    better = (worst_mean >= np.minimum(worst_axis, 0.5)) & (np.abs(mean).max(1) > 0.5)
    normal = np.where(better[:, None], mean, axis)
    helper = np.where(np.abs(normal[:, 1:2]) < 0.9, [[0.0, 1.0, 0.0]], [[0.0, 0.0, -1.0]])
    right = np.cross(helper, normal)
    right /= np.linalg.norm(right, axis=1, keepdims=True)
    frame = np.stack([right, np.cross(normal, right)], axis=1).astype(np.float32)  # [C, 2, 3]
    corners = np.einsum("mkc,mjc->mkj", shape.triangles, frame[component], optimize=True)
    front = labels == 0
    if camera is not None and front.any():
        pixels = _pixels(camera, shape.vertices)
        corners[front] = pixels[shape.faces[front]]
    return corners


def _pixels(camera: Cameras, vertices: np.ndarray) -> np.ndarray:
    """Vertices [n, 3] → image positions [n, 2] in pixels with y up, float32."""
    matrix = camera.world_to_camera.reshape(4, 4).double().numpy()
    intrinsics = camera.intrinsics.reshape(3, 3).double().numpy()
    image = (vertices @ matrix[:3, :3].T + matrix[:3, 3]) @ intrinsics.T
    return (image[:, :2] / np.maximum(image[:, 2:], 1e-8) * [1.0, -1.0]).astype(np.float32)


def _scale(
    shape: _Shape, labels: np.ndarray, component: np.ndarray, corners: np.ndarray, density: np.ndarray | None
) -> np.ndarray:
    """Give each chart the area of its faces on the object times density²; the photo's charts share one factor."""
    group = np.where(labels == 0, 0, component + 1)
    count = int(group.max()) + 1
    flat = np.bincount(group, np.abs(packing.doubled_areas(corners)) / 2, count)
    solid = np.bincount(group, shape.areas, count)
    stretch = np.sqrt(solid / np.maximum(flat, 1e-30))
    stretch[1:] = np.minimum(stretch[1:], 2.0)  # object units on both sides: a chart seen on edge is not blown up
    if density is not None:
        weight = np.asarray(density, np.float64)
        stretch = stretch * np.bincount(group, shape.areas * weight, count) / np.maximum(solid, 1e-30)
    return (corners * stretch[group][:, None, None]).astype(np.float32)


def _divide(
    shape: _Shape, component: np.ndarray, corners: np.ndarray, size: int, *, keep: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Cut in two what packs badly: charts too long for the atlas, and large ones that fill little of their box.

    Charts of ``keep`` (faces [m] bool) hold the photo: they are cut only for length, and not turned in their plane.
    Returns components [m] and corners [m, 3, 2], turned so that a chart's longer principal axis is horizontal.
    """
    corners = _turned(component, corners, ~keep)
    for _ in range(_CUTS):
        low, high = _bounds(component, corners)
        extent = high - low
        area = np.bincount(component, np.abs(packing.doubled_areas(corners)) / 2)
        box = extent[:, 0] * extent[:, 1]
        kept = np.zeros(len(area), bool)
        kept[component] = keep
        loose = (box > 0.02 * size * size) & (area < 0.45 * box) & ~kept
        cut = (extent.max(1) > np.where(kept, _LONGEST_SEEN, _LONGEST) * size) | loose
        rows = np.flatnonzero(cut[component])
        if len(rows) == 0:
            break
        axis, whole = extent.argmax(1), component[rows]
        along = np.take_along_axis(corners[rows], axis[whole][:, None, None], axis=2)[..., 0]
        longest = np.zeros(len(axis), np.float32)  # a chart of faces as long as itself cannot be cut across
        np.maximum.at(longest, whole, along.max(1) - along.min(1))
        cut &= longest < 0.3 * extent.max(1)
        middle = (low + high)[np.arange(len(axis)), axis] / 2
        side = np.zeros(len(component), np.int32)
        side[rows] = cut[whole] & (along.sum(1) / 3 > middle[whole])
        halves, count = _components(2 * component + side, shape.neighbours)
        total = np.bincount(component, shape.areas)[_first(halves, component, count)]
        share = np.bincount(halves, shape.areas, count) / np.maximum(total, 1e-30)
        side[rows] ^= cut[whole] & (share[halves[rows]] < 0.02)  # faces the cut left on the wrong side
        component = _components(2 * component + side, shape.neighbours)[0]
        turn = np.zeros(len(component), bool)
        turn[rows] = ~keep[rows]
        corners = _turned(component, corners, turn)
    return component, corners


def _first(part: np.ndarray, whole: np.ndarray, count: int) -> np.ndarray:
    """The value of ``whole`` [m] in each part [count]."""
    out = np.zeros(count, whole.dtype)
    out[part] = whole
    return out


def _turned(component: np.ndarray, corners: np.ndarray, turn: np.ndarray) -> np.ndarray:
    """Corners [m, 3, 2], where ``turn`` [m] says so turned to lay a chart's longer principal axis along the first."""
    rows = np.flatnonzero(turn)
    chart, count, p = component[rows], int(component.max()) + 1, corners[rows]
    area = np.abs(packing.doubled_areas(p)).astype(np.float64)
    centre = (p[:, 0] + p[:, 1] + p[:, 2]) / 3
    weight = np.maximum(np.bincount(chart, area, count), 1e-30)
    mean = np.stack([np.bincount(chart, area * centre[:, k], count) / weight for k in range(2)], axis=1)
    x, y = (centre - mean[chart]).T
    xx, yy, xy = (np.bincount(chart, area * v, count) for v in (x * x, y * y, x * y))
    angle = 0.5 * np.arctan2(2 * xy, xx - yy)
    c, s = (f(angle).astype(np.float32)[chart][:, None] for f in (np.cos, np.sin))
    out = corners.copy()
    out[rows, :, 0] = c * p[..., 0] + s * p[..., 1]
    out[rows, :, 1] = c * p[..., 1] - s * p[..., 0]
    return out


def _pack(
    shape: _Shape, chart: np.ndarray, corners: np.ndarray, size: int
) -> tuple[np.ndarray, np.ndarray, packing.Packing]:
    """Pack, and look for overlaps again at the scale that was found, until there are none.

    Places are whole texels and turns are quarters, so what is free of overlaps by itself stays so in the atlas.
    """
    scale = None
    for attempt in range(_CHECKS):
        low, high = _bounds(chart, corners)
        packed = packing.pack(corners, chart, low, high, size=size, start=scale)
        divided = _without_overlaps(shape, chart, corners, packed.scale)
        if int(divided.max()) == int(chart.max()) or attempt == _CHECKS - 1:
            break
        chart, scale = divided, packed.scale
    return chart, low, packed


def _without_overlaps(shape: _Shape, component: np.ndarray, corners: np.ndarray, scale: float) -> np.ndarray:
    """Chart [m] of each face: components, divided where their projection covers a texel twice."""
    low, high = _bounds(component, corners)
    local = (corners - low[component][:, None, :]) * np.float32(scale)
    extent = np.ceil((high - low) * scale).astype(np.int64) + 1
    scratch = np.zeros(int((extent[:, 0] * extent[:, 1]).max()), np.int32)
    return _claim(component, local.astype(np.float32), extent[:, 0].copy(), shape.neighbours, scratch)


def _bounds(chart: np.ndarray, corners: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Lower and upper bounds [C, 2] float32 of each chart's corners."""
    low = np.full((int(chart.max()) + 1, 2), np.inf, np.float32)
    high = -low
    _extend(chart, corners, low, high)
    return low, high


def _split_vertices(faces: np.ndarray, chart: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """One vertex per (vertex, chart) → vertex_map [n'], faces [m, 3], a corner (0..3m-1) of each new vertex [n']."""
    charts = int(chart.max()) + 1
    key = faces.astype(np.int64) * charts + chart[:, None]
    unique, first, inverse = np.unique(key, return_index=True, return_inverse=True)
    return unique // charts, inverse.reshape(-1, 3), first


def _atlas(
    shape: _Shape,
    vertex_map: np.ndarray,
    faces: np.ndarray,
    uv: np.ndarray,
    chart: np.ndarray,
    size: int,
    *,
    front: np.ndarray,
    camera: Cameras | None,
) -> Atlas:
    """Measure the layout."""
    covered = np.abs(packing.doubled_areas(uv[faces])) / 2
    side = ~front if not front.all() else front
    per_unit = np.sqrt(float(covered[side].sum()) / max(float(shape.areas[side].sum()), 1e-30)) * size
    per_pixel = 0.0
    if camera is not None and front.any():
        pixels = np.abs(packing.doubled_areas(_pixels(camera, shape.vertices)[shape.faces[front]])).sum() / 2
        per_pixel = float(np.sqrt(covered[front].sum() / max(float(pixels), 1e-30)) * size)
    return Atlas(vertex_map, faces, uv, chart, int(chart.max()) + 1, float(covered.sum()), float(per_unit), per_pixel)


def _xatlas(vertices: np.ndarray, faces: np.ndarray, size: int) -> Atlas:
    """The same answer from the xatlas library."""
    xatlas = need("xatlas", extra="atlas", purpose='atlas="xatlas"')
    work = xatlas.Atlas()
    work.add_mesh(vertices, faces.astype(np.uint32))
    options = xatlas.PackOptions()
    options.resolution, options.padding, options.bilinear = size, 2, True
    work.generate(pack_options=options)
    vertex_map, new_faces, uv = work[0]
    longest = max(work.width, work.height)  # xatlas normalises each axis by itself; texels must stay square
    uv = uv.astype(np.float64) * [work.width / longest, work.height / longest]
    new_faces = new_faces.astype(np.int64)
    chart = _components(np.zeros(len(faces), np.int32), face_neighbours(new_faces, len(uv)))[0]
    shape = _Shape.of(vertices, faces)
    nothing = np.zeros(len(faces), bool)
    return _atlas(shape, vertex_map.astype(np.int64), new_faces, uv, chart, size, front=nothing, camera=None)


@kernel()
def _neighbours(faces, vertex_count):  # type: ignore[no-untyped-def]
    """Pair half-edges through chains hung on the smaller vertex of each edge."""
    m = faces.shape[0]
    head = np.full(vertex_count, -1, np.int32)
    chain = np.full(3 * m, -1, np.int32)
    out = np.full((m, 3), -1, np.int32)
    for f in range(m):
        for i in range(3):
            a, b = faces[f, i], faces[f, (i + 1) % 3]
            low = min(a, b)
            h = head[low]
            while h >= 0:  # the opposite half-edge, if it came before and is still alone
                g, j = h // 3, h % 3
                if out[g, j] < 0 and faces[g, j] == b and faces[g, (j + 1) % 3] == a:
                    out[g, j], out[f, i] = f, g
                    break
                h = chain[h]
            if h < 0:
                chain[3 * f + i] = head[low]
                head[low] = 3 * f + i
    return out


@kernel()
def _blur(values, neighbours, rounds):  # type: ignore[no-untyped-def]
    """Values of faces [m, 3] averaged with those of their neighbours, a number of times."""
    out, previous, quarter = values.copy(), values.copy(), np.float32(0.25)
    for _ in range(rounds):
        previous[:] = out
        for f in range(out.shape[0]):
            for k in range(3):
                total = previous[f, k]
                for i in range(3):
                    total += previous[neighbours[f, i] if neighbours[f, i] >= 0 else f, k]
                out[f, k] = quarter * total
    return out


@kernel()
def _relax(labels, gain, neighbours, share, smoothness, sweeps):  # type: ignore[no-untyped-def]
    """Iterated conditional modes: each face in turn takes the label with the best gain minus border cost."""
    score = np.zeros(gain.shape[1], np.float32)
    for sweep in range(sweeps):
        changed = 0
        for k in range(labels.shape[0]):
            f = k if sweep % 2 == 0 else labels.shape[0] - 1 - k
            own, mixed = labels[f], False
            for i in range(3):
                if neighbours[f, i] >= 0 and labels[neighbours[f, i]] != own:
                    mixed = True
            if not mixed:
                continue
            for label in range(gain.shape[1]):
                score[label] = gain[f, label]
            for i in range(3):
                if neighbours[f, i] >= 0:
                    score[labels[neighbours[f, i]]] += smoothness * share[f, i]
            for label in range(gain.shape[1]):
                if score[label] > score[labels[f]]:
                    labels[f] = label
            changed += labels[f] != own
        if changed == 0:
            break


@kernel()
def _components(labels, neighbours):  # type: ignore[no-untyped-def]
    """Connected faces of equal label → component [m] int32 and their number."""
    m, count = labels.shape[0], 0
    out, stack = np.full(m, -1, np.int32), np.zeros(m, np.int32)
    for seed in range(m):
        if out[seed] >= 0:
            continue
        out[seed], stack[0], depth = count, seed, 1
        while depth > 0:
            depth -= 1
            f = stack[depth]
            for i in range(3):
                g = neighbours[f, i]
                if g >= 0 and out[g] < 0 and labels[g] == labels[f]:
                    out[g], stack[depth] = count, g
                    depth += 1
        count += 1
    return out, count


@kernel()
def _claim(component, corners, width, neighbours, scratch):  # type: ignore[no-untyped-def]
    """Grow charts face by face inside each component, refusing faces that cover a texel centre already taken.

    A refused face seeds a later chart. ``corners`` are texels from each component's own lower corner, ``width`` the
    row length of its drawing in ``scratch``, where a texel holds the number of the last chart that took it, plus one.
    """
    m, count = component.shape[0], 0
    covered = np.empty(scratch.shape[0], np.int32)
    out, queue, asked = np.full(m, -1, np.int32), np.zeros(m, np.int32), np.full(m, -1, np.int32)
    for seed in range(m):
        if out[seed] >= 0:
            continue
        queue[0], asked[seed], first, last = seed, count, 0, 1
        row = width[component[seed]]
        while first < last:
            f = queue[first]
            first += 1
            x0, y0 = corners[f, 0, 0], corners[f, 0, 1]
            x1, y1 = corners[f, 1, 0], corners[f, 1, 1]
            x2, y2 = corners[f, 2, 0], corners[f, 2, 1]
            left, right = int(min(x0, x1, x2)), int(max(x0, x1, x2))
            bottom, top = int(min(y0, y1, y2)), int(max(y0, y1, y2))
            free, taken = True, 0
            for j in range(bottom, top + 1):
                cy = np.float32(j) + np.float32(0.5)
                r0, r1, r2 = (x1 - x0) * (cy - y0), (x2 - x1) * (cy - y1), (x0 - x2) * (cy - y2)
                before = taken
                for i in range(left, right + 1):
                    cx = np.float32(i) + np.float32(0.5)
                    e0, e1, e2 = r0 - (y1 - y0) * (cx - x0), r1 - (y2 - y1) * (cx - x1), r2 - (y0 - y2) * (cx - x2)
                    if min(e0, e1, e2) > 0:
                        texel = j * row + i
                        if scratch[texel] == count + 1:
                            free = False
                            break
                        covered[taken] = texel
                        taken += 1
                    elif taken > before:
                        break
                if not free:
                    break
            if not free:
                continue
            out[f] = count
            for k in range(taken):
                scratch[covered[k]] = count + 1
            for i in range(3):
                g = neighbours[f, i]
                if g >= 0 and out[g] < 0 and asked[g] != count and component[g] == component[f]:
                    asked[g], queue[last] = count, g
                    last += 1
        count += 1
    return out


@kernel()
def _extend(chart, corners, low, high):  # type: ignore[no-untyped-def]
    """Widen the bounds [C, 2] of each chart to hold its faces' corners; in place."""
    for f in range(chart.shape[0]):
        for i in range(3):
            for k in range(2):
                low[chart[f], k] = min(low[chart[f], k], corners[f, i, k])
                high[chart[f], k] = max(high[chart[f], k], corners[f, i, k])
