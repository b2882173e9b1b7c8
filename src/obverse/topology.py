"""What the faces of a mesh say about their edges, corners and parts: pure functions on index arrays."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components


def round32(vertices: NDArray) -> NDArray[np.float64]:
    """Positions [..., 3] rounded to what float32 can hold, as float64; minus zero becomes zero."""
    with np.errstate(over="ignore"):
        return np.asarray(vertices).astype(np.float32).astype(np.float64) + 0.0


def weld(vertices: NDArray) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Join vertices [n, 3] of exactly equal position → the distinct positions [k, 3] and the new number of each [n].

    The distinct positions keep the order in which they first appear.
    """
    first, label = first_of_each(vertices)
    return np.asarray(vertices, np.float64)[first] + 0.0, label


def first_of_each(vertices: NDArray) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Where each distinct position of [n, 3] first appears [k], in that order, and its number for each row [n]."""
    vertices = np.asarray(vertices, np.float64) + 0.0  # minus zero equals zero
    order = np.lexsort(vertices.T)
    ranked = vertices[order]
    new = np.ones(len(order), np.bool_)
    new[1:] = (ranked[1:] != ranked[:-1]).any(axis=1)
    group = np.empty(len(order), np.int64)
    group[order] = np.cumsum(new) - 1
    first = np.full(int(new.sum()), len(order), np.int64)
    np.minimum.at(first, group, np.arange(len(order)))
    rank = np.argsort(first)
    number = np.empty(len(first), np.int64)
    number[rank] = np.arange(len(first))
    return first[rank], number[group]


def face_normals(vertices: NDArray[np.float64], faces: NDArray[np.int64]) -> NDArray[np.float64]:
    """Normals [m, 3] of length twice the area; exactly zero for a face without area, as positions are float32."""
    a, b, c = (vertices[faces[:, k]] for k in range(3))
    u, v = b - a, c - a
    with np.errstate(invalid="ignore", over="ignore"):
        return np.stack([u[:, i] * v[:, j] - u[:, j] * v[:, i] for i, j in ((1, 2), (2, 0), (0, 1))], axis=1)


def drop_unused(vertices: NDArray, faces: NDArray[np.int32]) -> tuple[NDArray, NDArray[np.int32]]:
    """Remove the vertices [n, 3] that no face uses and renumber the faces [m, 3]."""
    used = np.zeros(len(vertices), np.bool_)
    used[faces] = True
    if used.all():
        return vertices, faces
    number = np.cumsum(used, dtype=np.int64) - 1
    return vertices[used], number[faces].astype(faces.dtype)


def unique_rows(rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """Indices of the first of each set of equal rows of [m, 3], ascending."""
    order = np.lexsort(rows.T[::-1])
    ranked = rows[order]
    new = np.ones(len(order), np.bool_)
    new[1:] = (ranked[1:] != ranked[:-1]).any(axis=1)
    return np.sort(order[new])  # lexsort is stable, so the first of a run is the first in the input


@dataclass(frozen=True)
class Edges:
    """Half-edge h = 3 f + k of faces [m, 3] runs from corner k to corner k + 1 of face f."""

    start: NDArray[np.int64]  # [3 m] vertex
    end: NDArray[np.int64]  # [3 m]
    order: NDArray[np.int64]  # [3 m] half-edges, those of one edge next to each other
    first: NDArray[np.int64]  # [e] position in ``order`` of the first half-edge of each edge
    count: NDArray[np.int64]  # [e] half-edges of each edge

    @classmethod
    def of(cls, faces: NDArray[np.int64]) -> Edges:
        """Group the half-edges of faces [m, 3] by the pair of vertices they join."""
        start, end = faces.ravel(), faces[:, [1, 2, 0]].ravel()
        key = np.minimum(start, end) * (int(faces.max(initial=0)) + 1) + np.maximum(start, end)
        order = np.argsort(key)
        ranked = key[order]
        new = np.ones(len(key), np.bool_)
        new[1:] = ranked[1:] != ranked[:-1]
        first = np.flatnonzero(new)
        return cls(start, end, order, first, np.diff(np.append(first, len(key))))

    def pairs(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The two half-edges [k] and [k] of every edge that has exactly two."""
        at = self.first[self.count == 2]
        return self.order[at], self.order[at + 1]

    def agree(self) -> bool:
        """Whether no two faces pass an edge in the same direction."""
        a, b = self.pairs()
        if (self.start[a] == self.start[b]).any():
            return False
        crowd = np.flatnonzero(self.count > 2)
        if not len(crowd):
            return True
        half = np.concatenate(
            [self.order[f : f + n] for f, n in zip(self.first[crowd], self.count[crowd], strict=True)]
        )
        directed = np.stack([self.start[half], self.end[half]], axis=1)
        return len(np.unique(directed, axis=0)) == len(directed)


def following(half: NDArray[np.int64]) -> NDArray[np.int64]:
    """The next half-edge around the same face, of each [...]."""
    return half + np.where(half % 3 == 2, -2, 1)


def corner_fans(faces: NDArray[np.int64], edges: Edges, more: NDArray[np.int64] | None = None) -> NDArray[np.int64]:
    """Number the fans of faces [m, 3] → fan of every corner [3 m].

    Two corners at one vertex are in one fan if faces lead from one to the other over edges of exactly two faces, or
    over the pairs of half-edges in ``more`` [k, 2].
    """
    a, b = edges.pairs()
    if more is not None:
        a, b = np.append(a, more[:, 0]), np.append(b, more[:, 1])
    opposite = edges.start[a] != edges.start[b]
    at_start = np.where(opposite, following(b), b)  # the corner of b's face at the vertex where a starts
    at_end = np.where(opposite, b, following(b))
    ends = np.concatenate([a, following(a)]), np.concatenate([at_start, at_end])
    return _join(*ends, faces.size)


def components(faces: NDArray, n_vertices: int) -> NDArray[np.int64]:
    """Connected part of every face [m], where faces connect through shared vertices; numbers are not contiguous."""
    return _join(faces[:, :2].ravel(), faces[:, 1:].ravel(), n_vertices)[faces[:, 0]]


def _join(a: NDArray, b: NDArray, n: int) -> NDArray[np.int64]:
    """Connected component of each of n nodes, given the links a[i] – b[i]."""
    graph = coo_matrix((np.ones(len(a), np.bool_), (a, b)), shape=(n, n))
    return connected_components(graph, directed=False)[1].astype(np.int64)
