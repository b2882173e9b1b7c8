"""Edge collapse by quadric error that cannot break a closed manifold.

Garland and Heckbert 1997, "Surface simplification using quadric error metrics": each vertex carries the sum of the
squared distances to the planes of its faces, weighted by area; edges whose collapse costs least go first, and the
vertex moves to the place of least cost. A small share ATTRACTION of squared distance to the old places makes that place
unique, and keeps triangles even where the surface is flat.

A collapse is done only if it keeps the surface a manifold (the link condition, Dey et al. 1999: the ends have exactly
two common neighbours, and neither of these would be left with fewer than three faces) and folds no face over. Places
are rounded to float32 before they are tested, so what was tested is what is written.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from ..parallel import kernel
from ..topology import drop_unused

ATTRACTION = 1e-3  # weight of the distance to the old places, against that to the planes
FOLD = 0.2  # cosine: a face may turn by less than 78 degrees in one collapse
BUCKETS = 4096
SLIVER = 0.02  # twice the area over the square of the longest side; no face may fall below it, unless it rises


def decimate(
    points: NDArray[np.float64], faces: NDArray[np.int64], target: int
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Reduce a closed 2-manifold to ``target`` faces, or as near as its shape allows.

    Args:
        points: positions [n, 3], exactly representable in float32, every one used and no two equal.
        faces: [m, 3], closed, consistently oriented, every vertex a single fan.
        target: number of faces, rounded up to an even one.

    Returns:
        Positions [k, 3] and faces [j, 3]; again a closed 2-manifold of the same genus and number of parts.
    """
    places = np.array(points, np.float64, order="C")
    corners = np.array(faces, np.int32, order="C")
    alive = np.ones(len(corners), np.bool_)
    size = float(np.ptp(places, axis=0).max()) if len(places) else 1.0
    _collapse(places, corners, alive, int(target), size**-4)  # costs are area times squared distance
    kept, numbers = drop_unused(places, corners[alive])
    return kept, numbers.astype(np.int64)


@kernel()
def _quadrics(points, faces, quadric):  # type: ignore[no-untyped-def]
    """Sums of area-weighted plane and point quadrics: A (00 01 02 11 12 22), b and c of xᵀAx - 2 bᵀx + c."""
    for f in range(len(faces)):
        i, j, k = faces[f, 0], faces[f, 1], faces[f, 2]
        ux, uy, uz = points[j, 0] - points[i, 0], points[j, 1] - points[i, 1], points[j, 2] - points[i, 2]
        vx, vy, vz = points[k, 0] - points[i, 0], points[k, 1] - points[i, 1], points[k, 2] - points[i, 2]
        nx, ny, nz = uy * vz - uz * vy, uz * vx - ux * vz, ux * vy - uy * vx
        area = np.sqrt(nx * nx + ny * ny + nz * nz)
        if not area > 0:
            continue
        nx, ny, nz = nx / area, ny / area, nz / area
        offset = nx * points[i, 0] + ny * points[i, 1] + nz * points[i, 2]
        weak = ATTRACTION * area
        for corner in range(3):
            v = faces[f, corner]
            q = quadric[v]
            x, y, z = points[v, 0], points[v, 1], points[v, 2]
            q[0] += area * nx * nx + weak
            q[1] += area * nx * ny
            q[2] += area * nx * nz
            q[3] += area * ny * ny + weak
            q[4] += area * ny * nz
            q[5] += area * nz * nz + weak
            q[6] += area * nx * offset + weak * x
            q[7] += area * ny * offset + weak * y
            q[8] += area * nz * offset + weak * z
            q[9] += area * offset * offset + weak * (x * x + y * y + z * z)


@kernel()
def _best(quadric, a, b, place):  # type: ignore[no-untyped-def]
    """Write the place of least cost for the vertex that replaces a and b, rounded to float32 → its cost."""
    p, q = quadric[a], quadric[b]
    xx, xy, xz, yy, yz, zz = p[0] + q[0], p[1] + q[1], p[2] + q[2], p[3] + q[3], p[4] + q[4], p[5] + q[5]
    bx, by, bz = p[6] + q[6], p[7] + q[7], p[8] + q[8]
    c00, c01, c02 = yy * zz - yz * yz, xz * yz - xy * zz, xy * yz - xz * yy
    c11, c12, c22 = xx * zz - xz * xz, xy * xz - xx * yz, xx * yy - xy * xy
    share = 1.0 / (xx * c00 + xy * c01 + xz * c02)
    x = np.float64(np.float32((c00 * bx + c01 * by + c02 * bz) * share))
    y = np.float64(np.float32((c01 * bx + c11 * by + c12 * bz) * share))
    z = np.float64(np.float32((c02 * bx + c12 * by + c22 * bz) * share))
    place[0], place[1], place[2] = x, y, z
    cost = x * (xx * x + 2 * (xy * y + xz * z - bx)) + y * (yy * y + 2 * (yz * z - by)) + z * (zz * z - 2 * bz)
    return cost + p[9] + q[9]


@kernel()
def _bucket(cost, scale):  # type: ignore[no-untyped-def]
    """The bucket of a cost times ``scale``: 16 per octave from 2^-128 on, 0 for less."""
    if not cost * scale > 0.0:
        return np.int64(0)
    mantissa, exponent = math.frexp(cost * scale)
    return np.int64(min(max((exponent + 128) * 16 + np.int64(32.0 * mantissa - 16.0), 0), BUCKETS - 1))


@kernel()
def _fan(v, faces, alive, head, following, fan):  # type: ignore[no-untyped-def]
    """Write the corners (3 face + corner) at vertex v to ``fan`` and forget those of dead faces → their number."""
    count = 0
    before = -1
    corner = head[v]
    while corner >= 0:
        after = following[corner]
        if alive[corner // 3]:
            if count < len(fan):
                fan[count] = corner
            count += 1
            before = corner
        elif before < 0:
            head[v] = after
        else:
            following[before] = after
        corner = after
    return count


@kernel()
def _folds(points, faces, fan, count, v, other, place):  # type: ignore[no-untyped-def]
    """Whether moving v to ``place`` turns a face of its fan over or makes it a sliver; faces with ``other`` vanish."""
    for n in range(count):
        f, corner = fan[n] // 3, fan[n] % 3
        j, k = faces[f, (corner + 1) % 3], faces[f, (corner + 2) % 3]
        if j == other or k == other:
            continue
        ex, ey, ez = points[k, 0] - points[j, 0], points[k, 1] - points[j, 1], points[k, 2] - points[j, 2]
        ax, ay, az = points[v, 0] - points[j, 0], points[v, 1] - points[j, 1], points[v, 2] - points[j, 2]
        bx, by, bz = place[0] - points[j, 0], place[1] - points[j, 1], place[2] - points[j, 2]
        ox, oy, oz = ey * az - ez * ay, ez * ax - ex * az, ex * ay - ey * ax
        nx, ny, nz = ey * bz - ez * by, ez * bx - ex * bz, ex * by - ey * bx
        old, new = np.sqrt(ox * ox + oy * oy + oz * oz), np.sqrt(nx * nx + ny * ny + nz * nz)
        if not ox * nx + oy * ny + oz * nz > FOLD * old * new:
            return True
        side = ex * ex + ey * ey + ez * ez
        old_span = max(side, ax * ax + ay * ay + az * az, (ax - ex) ** 2 + (ay - ey) ** 2 + (az - ez) ** 2)
        new_span = max(side, bx * bx + by * by + bz * bz, (bx - ex) ** 2 + (by - ey) ** 2 + (bz - ez) ** 2)
        if new < SLIVER * new_span and new * old_span <= old * new_span:
            return True
    return False


@kernel()
def _linked(faces, alive, head, following, fan_a, count_a, fan_b, count_b, mark, stamp, spare):  # type: ignore[no-untyped-def]
    """The link condition for the vertices whose fans are given; ``mark`` [n] holds stamps of earlier calls."""
    for n in range(count_a):
        corner = fan_a[n]
        mark[faces[corner // 3, (corner + 1) % 3]] = stamp
    common = 0
    for n in range(count_b):
        corner = fan_b[n]
        v = faces[corner // 3, (corner + 1) % 3]
        if mark[v] == stamp:
            common += 1
            if common > 2 or _fan(v, faces, alive, head, following, spare) < 4:
                return False
    return common == 2


@kernel()
def _collapse(points, faces, alive, target, scale):  # type: ignore[no-untyped-def]
    """Collapse edges, cheapest first, until ``target`` faces are alive or no edge can go; costs are times ``scale``.

    Edges wait in buckets of about equal cost, last in first out, which needs no heap and stays in the cache. Entries
    whose ends have moved since are recognised by the sum of the ends' versions and skipped; a rejected edge gets
    another chance when the buckets have run empty, as long as their last filling removed anything. Longer than sixty
    lines because the buckets, their entries and the fans change with every step.
    """
    n_vertices, n_faces = len(points), len(faces)
    quadric = np.zeros((n_vertices, 10))
    _quadrics(points, faces, quadric)
    head = np.empty(n_vertices, np.int32)
    for v in range(n_vertices):
        head[v] = -1
    following = np.empty(3 * n_faces, np.int32)
    for f in range(n_faces):
        for corner in range(3):
            v = faces[f, corner]
            following[3 * f + corner] = head[v]
            head[v] = 3 * f + corner
    version = np.zeros(n_vertices, np.int32)  # -1 once the vertex is gone
    mark = np.zeros(n_vertices, np.int32)
    stamp = 0
    capacity = 4 * n_faces + 4096
    entry = np.empty((capacity, 4), np.int32)  # two vertices, the sum of their versions, the next entry in the bucket
    top = np.empty(BUCKETS, np.int32)
    fan_a, fan_b, spare = np.empty(4096, np.int32), np.empty(4096, np.int32), np.empty(0, np.int32)
    place = np.empty(3)
    living = n_faces
    progress = True
    while living > target and progress:
        progress = False
        for k in range(BUCKETS):
            top[k] = -1
        lowest = 0
        entries = 0
        for f in range(n_faces):
            if alive[f]:
                for corner in range(3):
                    a, b = faces[f, corner], faces[f, (corner + 1) % 3]
                    if a < b:
                        where = _bucket(_best(quadric, a, b, place), scale)
                        entry[entries, 0], entry[entries, 1] = a, b
                        entry[entries, 2], entry[entries, 3] = version[a] + version[b], top[where]
                        top[where] = entries
                        entries += 1
        while living > target:
            while lowest < len(top) and top[lowest] < 0:
                lowest += 1
            if lowest == len(top):
                break
            item = top[lowest]
            top[lowest] = entry[item, 3]
            a, b = entry[item, 0], entry[item, 1]
            if version[a] < 0 or version[b] < 0 or version[a] + version[b] != entry[item, 2]:
                continue
            count_a = _fan(a, faces, alive, head, following, fan_a)
            count_b = _fan(b, faces, alive, head, following, fan_b)
            if count_a + count_b > len(fan_a):
                continue
            stamp += 1
            if not _linked(faces, alive, head, following, fan_a, count_a, fan_b, count_b, mark, stamp, spare):
                continue
            _best(quadric, a, b, place)
            if _folds(points, faces, fan_a, count_a, a, b, place) or _folds(points, faces, fan_b, count_b, b, a, place):
                continue

            points[a, 0], points[a, 1], points[a, 2] = place[0], place[1], place[2]
            for d in range(10):
                quadric[a, d] += quadric[b, d]
            for n in range(count_b):
                f = fan_b[n] // 3
                if faces[f, 0] == a or faces[f, 1] == a or faces[f, 2] == a:
                    alive[f] = False
                    living -= 1
                else:
                    faces[f, fan_b[n] % 3] = a
            following[fan_a[count_a - 1]] = head[b]
            version[a] += 1
            version[b] = -1
            progress = True
            count_a = _fan(a, faces, alive, head, following, fan_a)
            if entries + count_a > capacity:
                capacity *= 2
                more = np.empty((capacity, 4), np.int32)
                for k in range(entries):
                    for d in range(4):
                        more[k, d] = entry[k, d]
                entry = more
            for n in range(count_a):
                b = faces[fan_a[n] // 3, (fan_a[n] + 1) % 3]
                where = _bucket(_best(quadric, a, b, place), scale)
                entry[entries, 0], entry[entries, 1] = a, b
                entry[entries, 2], entry[entries, 3] = version[a] + version[b], top[where]
                top[where] = entries
                lowest = min(lowest, where)
                entries += 1
    return living
