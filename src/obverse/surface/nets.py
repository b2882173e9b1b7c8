"""Surface nets: the dual surface of a sampled volume, a closed and oriented 2-manifold by construction.

Cells are the cubes between eight samples. Every grid edge with one end inside and one outside carries a *crossing*;
inside a cell the crossings are linked, face by face, into cycles (the polygons that marching cubes would draw), and
each cycle becomes one vertex at the mean of its crossings. Each crossing becomes a quad that joins the four cells
around its edge, facing from inside to outside, and each quad is cut into two triangles.

Why the result is a manifold (Nielson 2004, "Dual Marching Cubes"; Wenger 2013, "Isosurfaces", chapter 3):

- On a face whose corners alternate the two inside corners are joined. Both cells of a face decide alike, so the
  marching cubes surface is a closed manifold, and its dual has a single fan of quads around every vertex.
- Two vertices could be joined by *two* edges only across an alternating face whose two links lie on one cycle in both
  cells. There, and only there, the face is decided the other way, which splits the cycle in both cells. A cell with
  such a face has no other alternating face, so the two exceptions never meet.
- The diagonal of a quad joins two cells that share one grid edge only, so it belongs to this quad alone.

Why no triangle is degenerate: crossings keep 1/64 of an edge away from the samples, so a vertex is strictly inside
its cell, and the four vertices of a quad lie in the four quadrants around its edge. Seen along the edge, one of the
two diagonals then always gives two triangles of positive area.

Numbering: corner = 4 dx + 2 dy + dz; edge = 4 axis + 2 a + b, where (a, b) are the offsets along the two other axes
in x, y, z order; face = 2 axis + side.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numba
import numpy as np
from numba import prange
from numpy.typing import NDArray

from ..errors import InputError
from ..parallel import kernel

FLOAT = np.float32
MARGIN = FLOAT(1 / 64)  # crossings stay this far, in cells, from the samples
FARTHEST = FLOAT(1 - 1 / 64)
BEYOND = FLOAT(-1e30)  # value of the samples outside the volume: the crossing is put at the border sample
HUGE = FLOAT(1e30)
FLAT = FLOAT(1e-3)  # a triangle whose projection is below this many square cells is avoided if the other cut is better
ONE = FLOAT(1)

# lowest set bit of a 32-bit word: (low * 0x077CB531 mod 2^32) >> 27 is different for each of the 32 powers of two
DE_BRUIJN = np.zeros(32, np.int64)
DE_BRUIJN[[((1 << bit) * 0x077CB531 & 0xFFFFFFFF) >> 27 for bit in range(32)]] = np.arange(32)


def surface_nets(volume: NDArray[np.float32], *, level: float = 0.0) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """Closed triangle mesh around the samples of ``volume`` that exceed ``level``.

    Args:
        volume: samples [X, Y, Z], float32, finite; inside where ``volume > level``. Everything beyond the border
            counts as outside, so a solid that reaches the border is closed there, 1/64 of a cell beyond the samples.
        level: the threshold.

    Returns:
        Vertices [n, 3] float32 in index coordinates (sample [i, j, k] is at (i, j, k)) and faces [m, 3] int32,
        counter-clockwise seen from outside. Both are empty if no sample is inside.

    Raises:
        InputError: the volume is not three-dimensional, is empty, too large or not finite.
    """
    volume = np.ascontiguousarray(volume, np.float32)
    if volume.ndim != 3 or min(volume.shape) < 1:
        raise InputError(f"the volume has shape {volume.shape}, but surface nets need [X, Y, Z]; pass a 3D array")
    x, y, z = volume.shape
    if not np.isfinite(level):
        raise InputError(f"the level is {level}, but it must be finite; choose a value inside the volume's range")
    bits = np.zeros((x + 2, y + 2, (z + 2 + 31) // 32 + 1), np.uint32)
    bad = np.zeros(x, np.int64)
    _pack(volume, FLOAT(level), bits, bad)
    if bad.any():
        raise InputError(
            f"slice {int(bad.argmax())} of the volume contains NaN or a value beyond 1e30, and every sample must be "
            "finite; clean it with np.nan_to_num before"
        )
    tables = _tables()
    counts = np.zeros((x + 1, 2), np.int64)
    _count(bits, tables.special, tables.pieces, tables.quads, counts)
    offsets = np.zeros((x + 2, 2), np.int64)
    np.cumsum(counts, axis=0, out=offsets[1:])
    n_vertices, n_quads = (int(n) for n in offsets[-1])
    if max(n_vertices, 2 * n_quads) >= 2**31:
        raise InputError(f"the surface has {2 * n_quads} triangles, more than int32 can number; lower the resolution")
    vertices = np.empty((n_vertices, 3), np.float32)
    quads = np.empty((n_quads, 4), np.int32)
    axes = np.empty(n_quads, np.uint8)
    bounds = _chunks(offsets[:, 0] + 64 * np.arange(x + 2), 4 * numba.get_num_threads())
    _emit(volume, FLOAT(level), bits, tables.special, tables.packed, offsets, bounds, vertices, quads, axes)
    faces = np.empty((2 * n_quads, 3), np.int32)
    _cut(vertices, quads, axes, faces)
    return vertices, faces


def _chunks(work: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """Boundaries [count + 1] of runs of slabs with about equal work; ``work`` is cumulative, one entry per boundary."""
    return np.searchsorted(work, np.linspace(0, work[-1], count + 1)).astype(np.int64)


# ---------------------------------------------------------------------------------------------------------------------
# The case tables
# ---------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Tables:
    """What is known of a cell from the signs of its corners; rows 256 + c are case c with its exceptional face turned.

    ``special`` [256] is 1 + the face whose two links lie on one cycle, or 0; ``pieces`` [512] the number of cycles;
    ``piece`` [512, 12] the cycle of each edge; ``edges`` [256, 13] the number of crossed edges and then the edges;
    ``quads`` [256] the number of crossed edges at corner 0; ``packed`` all of them in one array for the kernel.
    """

    special: NDArray[np.int64]
    pieces: NDArray[np.int64]
    piece: NDArray[np.int64]
    edges: NDArray[np.int64]
    quads: NDArray[np.int64]
    packed: NDArray[np.int32]


def edge_corners(edge: int) -> tuple[int, int]:
    """The lower and the upper corner of an edge of the cell."""
    axis, a, b = edge >> 2, (edge >> 1) & 1, edge & 1
    low = [0, 0, 0]
    first, second = (d for d in range(3) if d != axis)
    low[first], low[second] = a, b
    corner = 4 * low[0] + 2 * low[1] + low[2]
    return corner, corner + (4 >> axis)


def face_ring(face: int) -> list[int]:
    """The four corners of a face, in order around it."""
    axis, side = face >> 1, face & 1
    first, second = (4 >> d for d in range(3) if d != axis)
    base = side * (4 >> axis)
    return [base, base + first, base + first + second, base + second]


def cycles(case: int, turned: int = -1) -> list[list[int]]:
    """The crossed edges of a cell, linked into cycles; face ``turned`` separates its inside corners, others join them.

    ``case`` has bit c set where corner c is inside.
    """
    between = {frozenset(edge_corners(edge)): edge for edge in range(12)}
    links: dict[int, list[int]] = {}
    for face in range(6):
        ring = face_ring(face)
        sides = [between[frozenset((ring[k], ring[(k + 1) % 4]))] for k in range(4)]  # side k joins corners k, k + 1
        inside = [case >> corner & 1 for corner in ring]
        crossed = [sides[k] for k in range(4) if inside[k] != inside[(k + 1) % 4]]
        if len(crossed) == 4:  # join the inside corners: cut off each outside corner (turned: each inside corner)
            apart = [k for k in range(4) if inside[k] == (face == turned)]
            pairs = [(sides[k - 1], sides[k]) for k in apart]
        else:
            pairs = [(crossed[0], crossed[1])] if crossed else []
        for a, b in pairs:
            links.setdefault(a, []).append(b)
            links.setdefault(b, []).append(a)
    found = []
    while links:
        start = min(links)
        cycle, before, here = [start], links[start][0], start
        while True:
            a, b = links.pop(here)
            here, before = (b if a == before else a), here
            if here == start:
                break
            cycle.append(here)
        found.append(sorted(cycle))
    return found


def double_faces(case: int) -> list[int]:
    """Alternating faces of a cell whose two links lie on one cycle."""
    of_edge = {edge: k for k, cycle in enumerate(cycles(case)) for edge in cycle}
    found = []
    for face in range(6):
        ring = face_ring(face)
        inside = [case >> corner & 1 for corner in ring]
        if inside[0] == inside[2] != inside[1] == inside[3]:
            edges = [e for e in range(12) if set(edge_corners(e)) <= set(ring)]
            if len({of_edge[edge] for edge in edges}) == 1:
                found.append(face)
    return found


@functools.cache
def _tables() -> Tables:
    """Compute the tables, a few milliseconds once per process."""
    special = np.zeros(256, np.int64)
    pieces = np.zeros(512, np.int64)
    piece = np.zeros((512, 12), np.int64)
    edges = np.zeros((256, 13), np.int64)
    quads = np.zeros(256, np.int64)
    for case in range(1, 255):
        crossed = [e for e in range(12) if len({case >> corner & 1 for corner in edge_corners(e)}) == 2]
        edges[case, 0] = len(crossed)
        edges[case, 1 : 1 + len(crossed)] = crossed
        quads[case] = sum(edge in (0, 4, 8) for edge in crossed)
        double = double_faces(case)
        special[case] = 1 + double[0] if double else 0
        for row, turned in ((case, -1), (256 + case, double[0] if double else -1)):
            found = cycles(case, turned)
            pieces[row] = len(found)
            for k, cycle in enumerate(found):
                piece[row, cycle] = k
    packed = np.zeros((512, 32), np.int32)  # per row: 0 pieces, 1 special, 2..14 edges, 16..27 piece of each edge
    packed[:, 0] = pieces
    packed[:256, 1] = special
    packed[:, 2:15] = np.tile(edges, (2, 1))
    packed[:, 16:28] = piece
    return Tables(special, pieces, piece, edges, quads, packed)


# ---------------------------------------------------------------------------------------------------------------------
# The kernels
# ---------------------------------------------------------------------------------------------------------------------


@kernel(parallel=True)
def _pack(volume, level, bits, bad):  # type: ignore[no-untyped-def]
    """Signs of volume [X, Y, Z] as bits [X + 2, Y + 2, W] with a border of zeros; bad [X] marks unusable slices."""
    nx, ny, nz = volume.shape
    words = (nz + 1) // 32 + 1
    for x in prange(nx):
        wrong = np.int32(0)
        for y in range(ny):
            row = volume[x, y]
            for w in range(words):
                base = 32 * w - 1  # bit k of word w is padded sample 32 w + k, which is sample 32 w + k - 1
                word = np.uint32(0)
                if base >= 0 and base + 32 <= nz:
                    part = row[base : base + 32]
                    for k in range(32):
                        value = part[k]
                        word |= np.uint32(value > level) << np.uint32(k)
                        wrong |= np.int32(not abs(value) <= HUGE)
                else:
                    for k in range(32):
                        if 0 <= base + k < nz:
                            value = row[base + k]
                            word |= np.uint32(value > level) << np.uint32(k)
                            wrong |= np.int32(not abs(value) <= HUGE)
                bits[x + 1, y + 1, w] = word
        bad[x] = wrong


@kernel()
def _case(bits, x, y, z):  # type: ignore[no-untyped-def]
    """The eight signs of cell (x, y, z), slowly: for the neighbours of exceptional cells."""
    case = np.int64(0)
    for corner in range(8):
        k = z + (corner & 1)
        word = np.int64(bits[x + (corner >> 2), y + (corner >> 1 & 1), k >> 5])
        case |= (word >> (k & 31) & 1) << corner
    return case


@kernel()
def _turned(bits, special, case, x, y, z):  # type: ignore[no-untyped-def]
    """1 if the exceptional face of cell (x, y, z) is exceptional in the cell on its other side too, else 0."""
    face = special[case] - 1
    step = np.int64(2 * (face & 1) - 1)
    axis = face >> 1
    other = _case(bits, x + step * (axis == 0), y + step * (axis == 1), z + step * (axis == 2))
    return np.int64(special[other] - 1 == face ^ 1)


@kernel()
def _count_slab(bits, special, pieces, quads, x, counts):  # type: ignore[no-untyped-def]
    """Vertices and quads of the cells between samples x and x + 1 → counts[x]."""
    rows, words = bits.shape[1] - 1, bits.shape[2] - 1
    n_vertices = np.int64(0)
    n_quads = np.int64(0)
    for y in range(rows):
        for w in range(words):
            a, b = np.int64(bits[x, y, w]), np.int64(bits[x, y + 1, w])
            c, d = np.int64(bits[x + 1, y, w]), np.int64(bits[x + 1, y + 1, w])
            a1 = a >> 1 | (np.int64(bits[x, y, w + 1]) & 1) << 31
            b1 = b >> 1 | (np.int64(bits[x, y + 1, w + 1]) & 1) << 31
            c1 = c >> 1 | (np.int64(bits[x + 1, y, w + 1]) & 1) << 31
            d1 = d >> 1 | (np.int64(bits[x + 1, y + 1, w + 1]) & 1) << 31
            mixed = (a | b | c | d | a1 | b1 | c1 | d1) & ~(a & b & c & d & a1 & b1 & c1 & d1)
            while mixed:
                low = mixed & -mixed
                mixed ^= low
                k = DE_BRUIJN[(low * 0x077CB531 & 0xFFFFFFFF) >> 27]
                case = (a >> k & 1) | (a1 >> k & 1) << 1 | (b >> k & 1) << 2 | (b1 >> k & 1) << 3
                case |= (c >> k & 1) << 4 | (c1 >> k & 1) << 5 | (d >> k & 1) << 6 | (d1 >> k & 1) << 7
                row = case
                if special[case] and _turned(bits, special, case, x, y, 32 * w + k):
                    row += 256
                n_vertices += pieces[row]
                n_quads += quads[case]
    counts[x, 0] = n_vertices
    counts[x, 1] = n_quads


@kernel(parallel=True)
def _count(bits, special, pieces, quads, counts):  # type: ignore[no-untyped-def]
    """Vertices and quads of each slab of cells → counts [X + 1, 2]."""
    for x in prange(len(counts)):
        _count_slab(bits, special, pieces, quads, np.int64(x), counts)


@kernel()
def _sample(volume, x, y, z):  # type: ignore[no-untyped-def]
    """The sample at padded index (x, y, z)."""
    nx, ny, nz = volume.shape
    if 1 <= x <= nx and 1 <= y <= ny and 1 <= z <= nz:
        return volume[x - 1, y - 1, z - 1]
    return BEYOND


@kernel()
def _place(volume, level, table, row, x, y, z, value, total, vertices, first):  # type: ignore[no-untyped-def]
    """Write the vertices of cell (x, y, z) to ``vertices`` from ``first`` on; value [8], total [4, 4] are scratch."""
    nx, ny, nz = volume.shape
    if 1 <= x < nx and 1 <= y < ny and 1 <= z < nz:
        for corner in range(8):
            value[corner] = volume[x - 1 + (corner >> 2), y - 1 + (corner >> 1 & 1), z - 1 + (corner & 1)]
    else:
        for corner in range(8):
            value[corner] = _sample(volume, x + (corner >> 2), y + (corner >> 1 & 1), z + (corner & 1))
    pieces = table[row, 0]
    for p in range(pieces):
        for d in range(4):
            total[p, d] = FLOAT(0)
    for i in range(table[row, 2]):
        edge = table[row, 3 + i]
        axis, a, b = edge >> 2, FLOAT(edge >> 1 & 1), FLOAT(edge & 1)
        if axis == 0:
            low = edge & 3
            start, end = value[low], value[low + 4]
        elif axis == 1:
            low = (edge & 2) << 1 | edge & 1
            start, end = value[low], value[low + 2]
        else:
            low = (edge & 3) << 1
            start, end = value[low], value[low + 1]
        t = min(max((level - start) / (end - start), MARGIN), FARTHEST)
        p = table[row, 16 + edge]
        total[p, 3] += ONE
        total[p, 0] += t if axis == 0 else a
        total[p, 1] += t if axis == 1 else (a if axis == 0 else b)
        total[p, 2] += t if axis == 2 else b
    for p in range(pieces):
        share = ONE / total[p, 3]
        vertices[first + p, 0] = FLOAT(x - 1) + total[p, 0] * share
        vertices[first + p, 1] = FLOAT(y - 1) + total[p, 1] * share
        vertices[first + p, 2] = FLOAT(z - 1) + total[p, 2] * share


@kernel()
def _emit_slabs(volume, level, bits, special, table, offsets, begin, end, vertices, quads, axes):  # type: ignore[no-untyped-def]
    """Write the vertices and quads of the slabs from ``begin`` to ``end``.

    Keeps the vertex numbers of two slabs only; the slab before the first is numbered again, without its positions.
    Longer than sixty lines because its state (two slabs, two counters) is shared by all its parts.
    """
    rows, words = bits.shape[1] - 1, bits.shape[2] - 1
    first = np.empty((2, rows, 32 * words), np.int32)  # first vertex of each mixed cell of this and the last slab
    kind = np.empty((2, rows, 32 * words), np.int16)  # its row in the table
    value = np.empty(8, np.float32)
    total = np.empty((4, 4), np.float32)
    vertex = offsets[max(begin - 1, 0), 0]
    quad = offsets[begin, 1]
    for x in range(max(begin - 1, 0), min(end, len(offsets) - 1)):
        now, last = x & 1, (x & 1) ^ 1
        for y in range(rows):
            for w in range(words):
                a, b = np.int64(bits[x, y, w]), np.int64(bits[x, y + 1, w])
                c, d = np.int64(bits[x + 1, y, w]), np.int64(bits[x + 1, y + 1, w])
                a1 = a >> 1 | (np.int64(bits[x, y, w + 1]) & 1) << 31
                b1 = b >> 1 | (np.int64(bits[x, y + 1, w + 1]) & 1) << 31
                c1 = c >> 1 | (np.int64(bits[x + 1, y, w + 1]) & 1) << 31
                d1 = d >> 1 | (np.int64(bits[x + 1, y + 1, w + 1]) & 1) << 31
                mixed = (a | b | c | d | a1 | b1 | c1 | d1) & ~(a & b & c & d & a1 & b1 & c1 & d1)
                while mixed:
                    low = mixed & -mixed
                    mixed ^= low
                    k = DE_BRUIJN[(low * 0x077CB531 & 0xFFFFFFFF) >> 27]
                    z = 32 * w + k
                    case = (a >> k & 1) | (a1 >> k & 1) << 1 | (b >> k & 1) << 2 | (b1 >> k & 1) << 3
                    case |= (c >> k & 1) << 4 | (c1 >> k & 1) << 5 | (d >> k & 1) << 6 | (d1 >> k & 1) << 7
                    row = case
                    if special[case] and _turned(bits, special, case, x, y, z):
                        row += 256
                    first[now, y, z] = vertex
                    kind[now, y, z] = row
                    pieces = table[row, 0]
                    if x >= begin:
                        _place(volume, level, table, row, x, y, z, value, total, vertices, vertex)
                        turn = 2 * (1 - (case & 1))  # an outside corner 0 turns the quad: swap its corners 1 and 3
                        for axis in range(3):
                            if (case & 1) == (case >> (4 >> axis) & 1):
                                continue
                            for corner in range(4):
                                # around the axis, in the plane of the two next axes: -- +- ++ -+ is 0 1 2 3
                                u = np.int64(corner == 0 or corner == 3)
                                v = np.int64(corner < 2)
                                if axis == 0:
                                    slab, cy, cz, edge = now, y - u, z - v, 2 * u + v
                                elif axis == 1:
                                    slab, cy, cz, edge = (last if v else now), y, z - u, 4 + 2 * v + u
                                else:
                                    slab, cy, cz, edge = (last if u else now), y - v, z, 8 + 2 * u + v
                                place = corner ^ turn if corner & 1 else corner
                                own = table[kind[slab, cy, cz], 16 + edge]
                                quads[quad, place] = first[slab, cy, cz] + own
                            axes[quad] = axis
                            quad += 1
                    vertex += pieces


@kernel(parallel=True)
def _emit(volume, level, bits, special, table, offsets, bounds, vertices, quads, axes):  # type: ignore[no-untyped-def]
    """Write vertices [n, 3], quads [q, 4] and their axes [q], chunk by chunk."""
    for chunk in prange(len(bounds) - 1):
        begin, end = bounds[chunk], bounds[chunk + 1]
        _emit_slabs(volume, level, bits, special, table, offsets, begin, end, vertices, quads, axes)


@kernel(parallel=True)
def _cut(vertices, quads, axes, faces):  # type: ignore[no-untyped-def]
    """Cut quads [q, 4] into faces [2 q, 3] along the shorter diagonal that folds neither triangle over."""
    for q in prange(len(quads)):
        i, j, k, m = quads[q, 0], quads[q, 1], quads[q, 2], quads[q, 3]
        u = (axes[q] + 1) % 3
        v = (axes[q] + 2) % 3
        # all corners relative to the first, in the plane across the edge
        ju, jv = vertices[j, u] - vertices[i, u], vertices[j, v] - vertices[i, v]
        ku, kv = vertices[k, u] - vertices[i, u], vertices[k, v] - vertices[i, v]
        mu, mv = vertices[m, u] - vertices[i, u], vertices[m, v] - vertices[i, v]
        ijk = ju * kv - jv * ku
        ikm = ku * mv - kv * mu
        ijm = ju * mv - jv * mu
        jkm = ijk + ikm - ijm
        if ijk + ikm < FLOAT(0):
            ijk, ikm, ijm, jkm = -ijk, -ikm, -ijm, -jkm
        flat_ik, flat_jm = min(ijk, ikm), min(ijm, jkm)
        ik = FLOAT(0)
        jm = FLOAT(0)
        for d in range(3):
            ik += (vertices[k, d] - vertices[i, d]) ** 2
            jm += (vertices[m, d] - vertices[j, d]) ** 2
        along_ik = ik <= jm
        if min(flat_ik, flat_jm) < FLAT:
            along_ik = flat_ik >= flat_jm
        p, r = 2 * q, 2 * q + 1
        if along_ik:
            faces[p, 0], faces[p, 1], faces[p, 2] = i, j, k
            faces[r, 0], faces[r, 1], faces[r, 2] = i, k, m
        else:
            faces[p, 0], faces[p, 1], faces[p, 2] = j, k, m
            faces[r, 0], faces[r, 1], faces[r, 2] = j, m, i
