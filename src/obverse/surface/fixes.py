"""Repairs that keep a mesh as it is where it is sound: joining, orienting, parting and filling, without resampling.

All functions work on a ``Patchwork``, whose rows carry texture coordinates or colours beside positions, and return a
new one. None of them promises success: ``repair.make_watertight`` tests the result.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import trimesh
from numpy.typing import NDArray
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from ..topology import Edges, corner_fans, face_normals, following, round32, unique_rows, weld
from .extract import winding_number

NEAR = 1e-6  # positions closer than this share of the mesh's size are one
NUDGE = 1e-3  # fans that touch at a vertex are drawn apart by this share of their edges
HOLE = 0.25  # the widest hole that is filled, as a share of the mesh's size
PAIRS = 20_000_000  # open vertices times open edges that are searched for T-junctions


@dataclass(frozen=True)
class Patchwork:
    """Faces over rows of position and attributes; rows at one position are one vertex.

    ``points`` [n, 3] float64, exactly representable in float32; ``extras`` [n, c] float64 (texture coordinates or
    colours, c may be 0); ``faces`` [m, 3] int64.
    """

    points: NDArray[np.float64]
    extras: NDArray[np.float64]
    faces: NDArray[np.int64]

    @classmethod
    def of(cls, mesh: trimesh.Trimesh) -> Patchwork:
        """The faces of a mesh with its texture coordinates, or its vertex or face colours, as extras."""
        points, faces = round32(mesh.vertices), np.asarray(mesh.faces, np.int64).reshape(-1, 3)
        visual: Any = mesh.visual
        uv = getattr(visual, "uv", None)
        if uv is not None and len(uv) == len(points):
            return cls(points, np.asarray(uv, np.float64)[:, :2], faces)
        if visual.kind == "vertex":
            return cls(points, np.asarray(visual.vertex_colors, np.float64), faces)
        if visual.kind == "face":  # every corner gets its own row
            colors = np.asarray(visual.face_colors, np.float64).repeat(3, axis=0)
            return cls(points[faces.ravel()], colors, np.arange(faces.size).reshape(-1, 3))
        return cls(points, np.zeros((len(points), 0)), faces)

    def mesh(self, like: trimesh.Trimesh) -> trimesh.Trimesh:
        """A mesh of these faces, with extras meant and material as in ``like``; rows no face uses are left out."""
        used, faces = np.unique(self.faces, return_inverse=True)
        made = trimesh.Trimesh(self.points[used], faces.reshape(-1, 3), process=False)
        extras = self.extras[used]
        if extras.shape[1] == 2:
            material: Any = getattr(like.visual, "material", None)
            made.visual = trimesh.visual.TextureVisuals(uv=extras, material=material)
        elif extras.shape[1] == 4:
            colors = np.rint(extras).astype(np.uint8)
            made.visual = trimesh.visual.ColorVisuals(made, vertex_colors=colors)
        elif isinstance(like.visual, trimesh.visual.TextureVisuals):  # a material without texture coordinates
            made.visual = trimesh.visual.TextureVisuals(material=like.visual.material)
        return made

    @property
    def size(self) -> float:
        """Diagonal of the bounding box."""
        return float(np.linalg.norm(np.ptp(self.points, axis=0))) if len(self.points) else 0.0

    def welded(self) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Distinct positions [k, 3], and the faces [m, 3] as indices into them."""
        vertices, label = weld(self.points)
        return vertices, label[self.faces]

    def keep(self, which: Any) -> Patchwork:
        """Only the faces that ``which``, an index or a mask, selects."""
        return replace(self, faces=self.faces[which])

    def blend(self, rows: NDArray[np.int64], weights: NDArray[np.float64]) -> NDArray[np.float64]:
        """Attributes [k, c] as the weighted sum of rows [k, j] with weights [k, j]."""
        return np.einsum("kjc,kj->kc", self.extras[rows], weights)

    def add(self, points: NDArray, extras: NDArray, faces: NDArray[np.int64]) -> Patchwork:
        """More rows, points [n, 3] with extras [n, c], and the faces [m, 3] that use them."""
        return Patchwork(
            np.concatenate([self.points, round32(points)]),
            np.concatenate([self.extras, extras]),
            np.concatenate([self.faces, faces]),
        )


def fix_exactly(work: Patchwork) -> Patchwork | None:
    """All repairs in order; None if the faces cannot be oriented or none is left."""
    work = join_near(work)
    if not len(work.faces):
        return None
    oriented = orient(turn_flat_faces(split_t_junctions(work)))
    if oriented is None or not len(oriented.faces):
        return None
    return orient(fill_holes(part_fans(fill_holes(oriented))))


def join_near(work: Patchwork) -> Patchwork:
    """Give positions that are NEAR each other the same position, and drop unusable and repeated faces."""
    work = work.keep(np.isfinite(work.points[work.faces]).all(axis=(1, 2)))
    if not len(work.faces):
        return work
    used, faces = np.unique(work.faces, return_inverse=True)
    work = Patchwork(work.points[used], work.extras[used], faces.reshape(-1, 3))
    vertices, label = weld(work.points)
    pairs = cKDTree(vertices).query_pairs(NEAR * work.size, output_type="ndarray")
    if len(pairs):
        graph = coo_matrix((np.ones(len(pairs)), pairs.T), shape=(len(vertices), len(vertices)))
        group = connected_components(graph, directed=False)[1]
        first = np.unique(group, return_index=True)[1]
        work = replace(work, points=vertices[first[group]][label])
    return drop_useless(work)


def drop_useless(work: Patchwork) -> Patchwork:
    """Drop faces with a repeated corner, and all but one of the faces with the same three corners."""
    _, faces = work.welded()
    distinct = (faces != faces[:, [1, 2, 0]]).all(axis=1)
    work, faces = work.keep(distinct), faces[distinct]
    return work.keep(unique_rows(np.sort(faces, axis=1)))


def split_t_junctions(work: Patchwork) -> Patchwork:
    """Split the faces along open edges that pass through an open vertex."""
    for _ in range(8):
        vertices, faces = work.welded()
        edges = Edges.of(faces)
        half = edges.order[edges.first[edges.count == 1]]
        start, end = edges.start[half], edges.end[half]
        rim = np.unique(np.concatenate([start, end]))
        if not len(half) or len(half) * len(rim) > PAIRS:
            return work
        hits = _points_on_segments(vertices, start, end, rim, NEAR * work.size)
        if not len(hits):
            return work
        face, side = np.divmod(half[hits[:, 0].astype(np.int64)], 3)
        one = np.unique(face, return_index=True)[1]  # one split per face and pass; the halves come in the next pass
        face, side, vertex, at = face[one], side[one], hits[one, 1].astype(np.int64), hits[one, 2]
        a, b, c = (work.faces[face, (side + k) % 3] for k in range(3))
        new = len(work.points) + np.arange(len(face))
        extras = work.blend(np.stack([a, b], axis=1), np.stack([1 - at, at], axis=1))
        rest = np.delete(work.faces, face, axis=0)
        halves = np.concatenate([np.stack([a, new, c], axis=1), np.stack([new, b, c], axis=1)])
        work = drop_useless(replace(work, faces=rest).add(vertices[vertex], extras, halves))
    return work


def _points_on_segments(vertices: NDArray, start: NDArray, end: NDArray, rim: NDArray, near: float) -> NDArray:
    """For segments that pass a rim vertex: rows (segment, vertex, place in 0–1), the first vertex along each."""
    found = []
    block = max(1, 2_000_000 // len(rim))
    for first in range(0, len(start), block):
        a = vertices[start[first : first + block]][:, None]
        along = vertices[end[first : first + block]][:, None] - a
        to = vertices[rim][None] - a
        square = np.einsum("ijk,ijk->ij", along, along)
        at = np.einsum("ijk,ijk->ij", to, along) / square
        off = np.linalg.norm(to - at[..., None] * along, axis=-1)
        length = np.sqrt(square)
        hit = (off <= near) & (at * length > near) & ((1 - at) * length > near)
        place = np.where(hit, at, np.inf)
        best = place.argmin(axis=1)
        rows = np.flatnonzero(hit.any(axis=1))
        found.append(np.stack([first + rows, rim[best[rows]], place[rows, best[rows]]], axis=1))
    return np.concatenate(found) if found else np.zeros((0, 3))


def turn_flat_faces(work: Patchwork) -> Patchwork:
    """Give faces without area a shape by turning their longest edge inside the quad it forms with its neighbour."""
    for _ in range(16):
        vertices, faces = work.welded()
        flat = np.flatnonzero(~(np.abs(face_normals(vertices, faces)).max(axis=1) > 0))
        if not len(flat):
            return work
        edges = Edges.of(faces)
        a, b = edges.pairs()
        other = np.full(faces.size, -1, np.int64)
        other[a], other[b] = b, a
        rows = work.faces.copy()
        touched = np.zeros(len(faces), np.bool_)
        dead = np.zeros(len(faces), np.bool_)
        for face in flat:
            corners = vertices[faces[face]]
            side = int(np.linalg.norm(corners[[1, 2, 0]] - corners, axis=1).argmax())
            twin = other[3 * face + side]
            neighbour, twin_side = divmod(int(twin), 3)
            if twin < 0:
                dead[face] = True  # on an open edge: it covers nothing
            elif not (touched[face] or touched[neighbour]) and edges.start[3 * face + side] == edges.end[twin]:
                tip, start, end = rows[face, (side + 2) % 3], rows[face, side], rows[face, (side + 1) % 3]
                across = rows[neighbour, (twin_side + 2) % 3]
                rows[face], rows[neighbour] = (tip, start, across), (tip, across, end)
                touched[face] = touched[neighbour] = True
        if not (touched.any() or dead.any()):
            return work
        work = drop_useless(replace(work, faces=rows[~dead]))
    return work


def orient(work: Patchwork) -> Patchwork | None:
    """Make neighbours agree about outside, then turn closed parts whose volume is negative; None for a Möbius band.

    A part of negative volume inside a part that surrounds it was the wall of a hollow: it is dropped, being invisible.
    """
    vertices, faces = work.welded()
    edges = Edges.of(faces)
    a, b = edges.pairs()
    disagree = edges.start[a] == edges.start[b]
    m = len(faces)
    one, two = a // 3, b // 3  # node f is face f as it is, node m + f is face f turned over
    ends = np.concatenate([one, one + m]), np.concatenate([two + m * disagree, np.where(disagree, two, two + m)])
    graph = coo_matrix((np.ones(2 * len(a)), ends), shape=(2 * m, 2 * m))
    label = connected_components(graph, directed=False)[1]
    if (label[:m] == label[m:]).any():
        return None
    turned = label[m:] < label[:m]
    part = np.unique(np.minimum(label[:m], label[m:]), return_inverse=True)[1]
    flip = turned ^ (np.bincount(part, turned) * 2 > np.bincount(part))[part]  # turn the fewer
    rows = np.where(flip[:, None], work.faces[:, ::-1], work.faces)
    faces = np.where(flip[:, None], faces[:, ::-1], faces)

    corners = vertices[faces]
    middle = (vertices.min(axis=0) + vertices.max(axis=0)) / 2
    volume = np.bincount(part, np.einsum("ij,ij->i", corners[:, 0] - middle, face_normals(vertices, faces)) / 6)
    hollow = _hollows(corners, part, volume)
    rows = np.where((volume < 0)[part][:, None], rows[:, ::-1], rows)
    return replace(work, faces=rows[~hollow[part]])


def _hollows(corners: NDArray, part: NDArray, volume: NDArray) -> NDArray[np.bool_]:
    """Which parts have a negative volume and a larger part of positive volume around them."""
    hollow = np.zeros(len(volume), np.bool_)
    for k in np.flatnonzero(volume < 0)[:1000]:
        own = corners[part == k]
        for other in np.flatnonzero(volume > -volume[k]):
            around = corners[part == other]
            low, high = around.min(axis=(0, 1)), around.max(axis=(0, 1))
            if (own.min(axis=(0, 1)) > low).all() and (own.max(axis=(0, 1)) < high).all():
                hollow[k] |= winding_number(around, own[0, 0]) > 0.5
    return hollow


def part_fans(work: Patchwork) -> Patchwork:
    """Draw fans that merely touch at a vertex or along an edge apart by a hair, so that each has its own vertices."""
    vertices, faces = work.welded()
    edges = Edges.of(faces)
    pairs = _pair_crowded(vertices, faces, edges)
    fan = corner_fans(faces, edges, pairs)
    first = np.unique(fan, return_index=True)[1]
    of_fan = faces.ravel()[first]  # the vertex of each fan
    shared = np.bincount(of_fan, minlength=len(vertices))[of_fan] > 1
    if not shared.any():
        return work
    target = np.zeros((len(first), 3))
    weight = np.bincount(fan)
    inner = (vertices[edges.end] + vertices[edges.start[following(following(np.arange(faces.size)))]]) / 2
    for d in range(3):
        target[:, d] = np.bincount(fan, inner[:, d]) / weight
    moved = np.where(shared[:, None], vertices[of_fan] + NUDGE * (target - vertices[of_fan]), vertices[of_fan])
    row, place = np.unique(np.stack([work.faces.ravel(), fan], axis=1), axis=0, return_inverse=True)
    return Patchwork(round32(moved[row[:, 1]]), work.extras[row[:, 0]], place.reshape(-1, 3))


def _pair_crowded(vertices: NDArray, faces: NDArray[np.int64], edges: Edges) -> NDArray[np.int64]:
    """Half-edges [k, 2] that belong together at edges of more than two faces: those around one wedge of solid.

    Seen along the edge, a face that passes it forwards has its solid on the clockwise side, so it goes with the last
    face before it. An edge whose faces do not alternate is left unpaired.
    """
    found = []
    for first, count in zip(edges.first[edges.count > 2], edges.count[edges.count > 2], strict=True):
        half = edges.order[first : first + count]
        low, high = sorted((edges.start[half[0]], edges.end[half[0]]))
        axis = vertices[high] - vertices[low]
        tip = vertices[edges.end[following(half)]] - vertices[low]
        u = np.cross(axis, tip[0])
        v = np.cross(axis, u)
        ranked = half[np.argsort(np.arctan2(tip @ v / max(np.linalg.norm(axis), 1e-300), tip @ u))]
        forward = edges.start[ranked] == low
        if count % 2 == 0 and (forward != np.roll(forward, 1)).all():
            found += [(ranked[k - 1], ranked[k]) for k in np.flatnonzero(forward)]
    return np.array(found, np.int64).reshape(-1, 2)


def fill_holes(work: Patchwork) -> Patchwork:
    """Close loops of open edges no wider than HOLE of the mesh, each by a fan around its middle."""
    vertices, faces = work.welded()
    edges = Edges.of(faces)
    half = edges.order[edges.first[edges.count == 1]]
    size = work.size
    for loop in _loops(edges, half):
        ring = vertices[edges.start[loop]]
        if np.ptp(ring, axis=0).max() > HOLE * size:
            continue
        start = work.faces.ravel()[loop]
        end = work.faces.ravel()[following(np.array(loop))]
        middle = np.full(len(loop), len(work.points))
        extras = work.extras[start].mean(axis=0, keepdims=True)
        work = work.add(ring.mean(axis=0)[None], extras, np.stack([end, start, middle], axis=1))
    return work


def _loops(edges: Edges, half: NDArray[np.int64]) -> list[list[int]]:
    """Open half-edges [k] as closed loops around holes, against their faces; cut where a loop meets itself."""
    waiting: dict[int, list[int]] = {}
    for h in half.tolist():
        waiting.setdefault(int(edges.end[h]), []).append(h)
    loops = []
    while waiting:
        vertex = next(iter(waiting))
        path: list[int] = []
        place = {vertex: 0}  # the position in the path from which each vertex on it was left
        while vertex in waiting:
            path.append(waiting[vertex].pop())
            if not waiting[vertex]:
                del waiting[vertex]
            vertex = int(edges.start[path[-1]])
            if vertex in place:
                loops.append(path[place[vertex] :])
                del path[place[vertex] :]
                place = {v: at for v, at in place.items() if at <= len(path)}
            else:
                place[vertex] = len(path)
    return loops
