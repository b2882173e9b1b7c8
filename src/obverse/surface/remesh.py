"""Any triangles to a closed solid: distances on a grid, the outside flooded, the rest meshed with surface nets.

Inside is what cannot be reached from outside without crossing a triangle, so orientation, cracks, self-intersections
and internal walls do not matter. A room whose openings are all narrower than ``2 BAND`` cells counts as inside, a slot
or a bowl does not. Sheets and walls thinner than a cell, which have the outside on both sides, become solids
``2 SHEET`` cells thick.
"""

from __future__ import annotations

import numpy as np
import trimesh
from numba import prange
from numpy.typing import NDArray

from ..errors import InputError
from ..parallel import kernel
from ..render.materials import sample_texture, surface_of
from ..topology import drop_unused
from .extract import keep_parts
from .nets import surface_nets

FLOAT = np.float32
BAND = FLOAT(2)  # distances are exact up to here, in cells
GAP = FLOAT(0.25)  # a grid edge that passes a triangle this closely is blocked, so gaps of half a cell are closed
SHEET = FLOAT(0.65)  # half the thickness of a sheet, in cells; above 0.5, or grid points would miss parts of it
BORDER = 3  # empty cells around the mesh
CRUMB = 1e-5  # share of the largest part's volume below which a short part is an artefact of the grid
ZERO = FLOAT(0)
ONE = FLOAT(1)
TINY = FLOAT(1e-12)


def remesh(triangles: NDArray[np.float64], *, resolution: int) -> tuple[NDArray, NDArray[np.int32], NDArray[np.int32]]:
    """Closed surface around the solid that triangles [m, 3, 3] enclose or, where they enclose nothing, thicken.

    Args:
        triangles: corner positions, finite, in any unit; any order and orientation.
        resolution: cells along the longest side of their bounding box.

    Returns:
        Vertices [n, 3] float64 in the unit of the triangles, faces [k, 3], and for every vertex the number of the
        triangle nearest to it [n].

    Raises:
        InputError: the triangles have no extent.
    """
    low, high = triangles.min(axis=(0, 1)), triangles.max(axis=(0, 1))
    size = float((high - low).max())
    if not size > 0:
        raise InputError("all vertices of the mesh are at one point, but a solid needs an extent; check the file")
    step = size / resolution
    shape = tuple(int(n) + 1 + 2 * BORDER for n in np.ceil((high - low) / step))
    origin = (low + high) / 2 - step * (np.array(shape) - 1) / 2
    local = np.ascontiguousarray((triangles - origin) / step, np.float32)

    square = np.full(shape, BAND * BAND, np.float32)
    nearest = np.full(shape, -1, np.int32)
    blocked = np.zeros(shape, np.uint8)
    _rasterise(local, np.linspace(0, shape[0], 17).astype(np.int64), square, nearest, blocked)
    side = np.zeros(shape, np.uint8)
    _flood(square, blocked, side, np.empty(side.size, np.int64))
    outside = side == 1
    volume = np.empty(shape, np.float32)
    _solid(local, square, nearest, outside, volume)

    vertices, faces = surface_nets(volume)
    faces, _, _ = keep_parts(vertices, faces, min_component=CRUMB)
    vertices, faces = drop_unused(vertices, faces)
    at = tuple(np.rint(vertices).astype(np.int64).T)
    return origin + step * vertices.astype(np.float64), faces, nearest[at]


def colors_at(mesh: trimesh.Trimesh, faces: NDArray[np.int64], points: NDArray[np.float64]) -> NDArray | None:
    """Colour of the given faces [n] at the points nearest to ``points`` [n, 3] → RGBA [n, 4] uint8.

    None if the mesh has neither texture nor colours.
    """
    if mesh.visual is None or not mesh.visual.defined:
        return None
    surface = surface_of(mesh)
    corners = np.asarray(mesh.vertices, np.float32)[np.asarray(mesh.faces)[faces]]
    weights = np.empty((len(points), 3), np.float32)
    _weights(corners, points.astype(np.float32), weights)
    uv = np.einsum("nk,nkc->nc", weights, surface.uv[faces])
    base = np.einsum("nk,nkc->nc", weights, surface.colors[faces])
    rgb = base * sample_texture(surface.texture, uv, np.ones(len(uv), np.float32))
    return np.concatenate([np.rint(255 * rgb.clip(0, 1)), np.full((len(rgb), 1), 255)], axis=1).astype(np.uint8)


@kernel()
def _weights(corners, points, weights):  # type: ignore[no-untyped-def]
    """``closest_point`` of each point [n, 3] on its own triangle of corners [n, 3, 3]."""
    for k in range(len(points)):
        u, v, w = closest_point(corners[k], (points[k, 0], points[k, 1], points[k, 2]))
        weights[k, 0], weights[k, 1], weights[k, 2] = u, v, w


@kernel()
def closest_point(triangle, p):  # type: ignore[no-untyped-def]
    """Barycentric weights (u, v, w) of the point of triangle [3, 3] nearest to p = (x, y, z).

    Ericson 2005, "Real-Time Collision Detection", section 5.1.5: by the Voronoi region p is in.
    """
    abx, aby, abz = triangle[1, 0] - triangle[0, 0], triangle[1, 1] - triangle[0, 1], triangle[1, 2] - triangle[0, 2]
    acx, acy, acz = triangle[2, 0] - triangle[0, 0], triangle[2, 1] - triangle[0, 1], triangle[2, 2] - triangle[0, 2]
    px, py, pz = p[0] - triangle[0, 0], p[1] - triangle[0, 1], p[2] - triangle[0, 2]
    d1 = abx * px + aby * py + abz * pz
    d2 = acx * px + acy * py + acz * pz
    if d1 <= ZERO and d2 <= ZERO:
        return ONE, ZERO, ZERO
    px, py, pz = p[0] - triangle[1, 0], p[1] - triangle[1, 1], p[2] - triangle[1, 2]
    d3 = abx * px + aby * py + abz * pz
    d4 = acx * px + acy * py + acz * pz
    if d3 >= ZERO and d4 <= d3:
        return ZERO, ONE, ZERO
    vc = d1 * d4 - d3 * d2
    if vc <= ZERO and d1 >= ZERO and d3 <= ZERO:
        t = d1 / max(d1 - d3, TINY)
        return ONE - t, t, ZERO
    px, py, pz = p[0] - triangle[2, 0], p[1] - triangle[2, 1], p[2] - triangle[2, 2]
    d5 = abx * px + aby * py + abz * pz
    d6 = acx * px + acy * py + acz * pz
    if d6 >= ZERO and d5 <= d6:
        return ZERO, ZERO, ONE
    vb = d5 * d2 - d1 * d6
    if vb <= ZERO and d2 >= ZERO and d6 <= ZERO:
        t = d2 / max(d2 - d6, TINY)
        return ONE - t, ZERO, t
    va = d3 * d6 - d5 * d4
    if va <= ZERO and d4 >= d3 and d5 >= d6:
        t = (d4 - d3) / max((d4 - d3) + (d5 - d6), TINY)
        return ZERO, ONE - t, t
    share = ONE / max(va + vb + vc, TINY)
    return ONE - (vb + vc) * share, vb * share, vc * share


@kernel()
def _square_distance(triangle, p):  # type: ignore[no-untyped-def]
    u, v, w = closest_point(triangle, p)
    total = ZERO
    for d in range(3):
        total += (p[d] - (u * triangle[0, d] + v * triangle[1, d] + w * triangle[2, d])) ** 2
    return total


@kernel()
def _near_in_plane(triangle, i, j, u, v):  # type: ignore[no-untyped-def]
    """Whether (u, v) is within GAP of the triangle seen along the axis that is neither i nor j."""
    left = right = False
    for k in range(3):
        au, av = triangle[k, i], triangle[k, j]
        eu, ev = triangle[(k + 1) % 3, i] - au, triangle[(k + 1) % 3, j] - av
        pu, pv = u - au, v - av
        cross = eu * pv - ev * pu
        left |= cross > ZERO
        right |= cross < ZERO
        t = min(max((pu * eu + pv * ev) / max(eu * eu + ev * ev, TINY), ZERO), ONE)
        if (pu - t * eu) ** 2 + (pv - t * ev) ** 2 <= GAP * GAP:
            return True
    return not (left and right)


@kernel()
def _stamp_distance(number, triangle, normal, span, square, nearest):  # type: ignore[no-untyped-def]
    """Lower square and nearest around one triangle, at x in span, to at most BAND from its plane."""
    shape = square.shape
    low = np.empty(3, np.int64)
    high = np.empty(3, np.int64)
    for d in range(3):
        small = min(triangle[0, d], triangle[1, d], triangle[2, d])
        large = max(triangle[0, d], triangle[1, d], triangle[2, d])
        low[d] = max(np.int64(np.ceil(small - BAND)), 0)
        high[d] = min(np.int64(np.floor(large + BAND)) + 1, shape[d])
    offset = normal[0] * triangle[0, 0] + normal[1] * triangle[0, 1] + normal[2] * triangle[0, 2]
    for x in range(max(low[0], span[0]), min(high[0], span[1])):
        for y in range(low[1], high[1]):
            rest = offset - normal[0] * FLOAT(x) - normal[1] * FLOAT(y)
            first, last = low[2], high[2]
            if abs(normal[2]) > FLOAT(1e-3):
                centre, reach = rest / normal[2], (BAND + FLOAT(1e-3)) / abs(normal[2])
                first = max(first, np.int64(np.ceil(centre - reach)))
                last = min(last, np.int64(np.floor(centre + reach)) + 1)
            elif abs(rest) > BAND + FLOAT(1e-3) * FLOAT(shape[2]):
                continue
            for z in range(first, last):
                distance = _square_distance(triangle, (FLOAT(x), FLOAT(y), FLOAT(z)))
                if distance < square[x, y, z]:
                    square[x, y, z] = distance
                    nearest[x, y, z] = number


@kernel()
def _stamp_blocks(triangle, normal, axis, span, blocked):  # type: ignore[no-untyped-def]
    """Set bit ``axis`` of blocked where the grid edge from a sample along the axis passes the triangle, x in span."""
    i, j = (axis + 1) % 3, (axis + 2) % 3
    lowest = min(triangle[0, axis], triangle[1, axis], triangle[2, axis])
    highest = max(triangle[0, axis], triangle[1, axis], triangle[2, axis])
    u_low, u_high = (
        min(triangle[0, i], triangle[1, i], triangle[2, i]),
        max(triangle[0, i], triangle[1, i], triangle[2, i]),
    )
    v_low, v_high = (
        min(triangle[0, j], triangle[1, j], triangle[2, j]),
        max(triangle[0, j], triangle[1, j], triangle[2, j]),
    )
    steep = abs(normal[axis]) < FLOAT(1e-3)
    slope_u = ZERO if steep else -normal[i] / normal[axis]
    slope_v = ZERO if steep else -normal[j] / normal[axis]
    spread = GAP * np.sqrt(slope_u * slope_u + slope_v * slope_v) + FLOAT(1e-3)
    index = np.empty(3, np.int64)
    for u in range(np.int64(np.ceil(u_low - GAP)), np.int64(np.floor(u_high + GAP)) + 1):
        if i == 0 and not span[0] <= u < span[1]:
            continue
        for v in range(np.int64(np.ceil(v_low - GAP)), np.int64(np.floor(v_high + GAP)) + 1):
            if j == 0 and not span[0] <= v < span[1]:
                continue
            if not _near_in_plane(triangle, i, j, FLOAT(u), FLOAT(v)):
                continue
            near, far = lowest, highest
            if not steep:
                middle = (
                    triangle[0, axis] + slope_u * (FLOAT(u) - triangle[0, i]) + slope_v * (FLOAT(v) - triangle[0, j])
                )
                near, far = max(near, middle - spread), min(far, middle + spread)
                if near > far:
                    near = far = min(max(middle, lowest), highest)
            index[i], index[j] = u, v
            for w in range(np.int64(np.floor(near)), np.int64(np.floor(far)) + 1):
                if axis == 0 and not span[0] <= w < span[1]:
                    continue
                index[axis] = w
                blocked[index[0], index[1], index[2]] |= np.uint8(1 << axis)


@kernel()
def _rasterise_span(triangles, begin, end, square, nearest, blocked):  # type: ignore[no-untyped-def]
    """Stamp all triangles on the samples whose x is from ``begin`` to ``end``."""
    normal = np.empty(3, np.float32)
    for number in range(len(triangles)):
        triangle = triangles[number]
        if max(triangle[0, 0], triangle[1, 0], triangle[2, 0]) + BAND < FLOAT(begin):
            continue
        if min(triangle[0, 0], triangle[1, 0], triangle[2, 0]) - BAND > FLOAT(end):
            continue
        total = ZERO
        for d in range(3):
            i, j = (d + 1) % 3, (d + 2) % 3
            normal[d] = (triangle[1, i] - triangle[0, i]) * (triangle[2, j] - triangle[0, j])
            normal[d] -= (triangle[1, j] - triangle[0, j]) * (triangle[2, i] - triangle[0, i])
            total += normal[d] * normal[d]
        share = ONE / max(np.sqrt(total), TINY)
        for d in range(3):
            normal[d] *= share
        _stamp_distance(number, triangle, normal, (begin, end), square, nearest)
        for axis in range(3):
            _stamp_blocks(triangle, normal, axis, (begin, end), blocked)


@kernel(parallel=True)
def _rasterise(triangles, bounds, square, nearest, blocked):  # type: ignore[no-untyped-def]
    """Squared distance, nearest triangle and blocked grid edges; each chunk of x writes its own samples only."""
    for chunk in prange(len(bounds) - 1):
        _rasterise_span(triangles, bounds[chunk], bounds[chunk + 1], square, nearest, blocked)


@kernel()
def _flood(square, blocked, side, queue):  # type: ignore[no-untyped-def]
    """Decide side [X, Y, Z]: 1 outside, 2 inside. ``queue`` holds as many numbers as there are samples.

    Samples at least BAND from every triangle come first: those connected to the corner (0, 0, 0) are outside, the
    others are inside, in rooms with no opening wider than 2 BAND. Both then spread, one step at a time, over grid
    edges that are not blocked, and what neither reaches is inside.
    """
    nx, ny, nz = square.shape
    step = (ny * nz, nz, 1)
    size = (nx, ny, nz)
    distances, blocks, sides = square.reshape(-1), blocked.reshape(-1), side.reshape(-1)
    far = BAND * BAND
    sides[0] = 1
    queue[0] = 0
    head, tail = 0, 1
    for spreading in range(2):
        if spreading:  # start again from every sample that is decided
            tail = 0
            for here in range(len(sides)):
                if not sides[here] and distances[here] >= far:
                    sides[here] = 2
                if sides[here]:
                    queue[tail] = here
                    tail += 1
            head = 0
        while head < tail:
            here = queue[head]
            head += 1
            place = (here // step[0], here // nz % ny, here % nz)
            for axis in range(3):
                bit = 1 << axis
                there = here + step[axis]
                if place[axis] + 1 < size[axis] and not sides[there]:
                    free = not blocks[here] & bit if spreading else distances[there] >= far
                    if free:
                        sides[there] = sides[here]
                        queue[tail] = there
                        tail += 1
                there = here - step[axis]
                if place[axis] > 0 and not sides[there]:
                    free = not blocks[there] & bit if spreading else distances[there] >= far
                    if free:
                        sides[there] = sides[here]
                        queue[tail] = there
                        tail += 1
    for here in range(len(sides)):
        if not sides[here]:
            sides[here] = 2


@kernel(parallel=True)
def _solid(triangles, square, nearest, outside, volume):  # type: ignore[no-untyped-def]
    """Signed distance, positive inside, to at most BAND; near walls with the outside on both sides SHEET - distance."""
    nx, ny, nz = square.shape
    for x in prange(nx):
        for y in range(ny):
            for z in range(nz):
                distance = np.sqrt(square[x, y, z])
                if not outside[x, y, z]:
                    volume[x, y, z] = max(distance, FLOAT(1e-3))
                    continue
                volume[x, y, z] = -max(distance, FLOAT(1e-3))
                number = nearest[x, y, z]
                if number < 0:
                    continue
                triangle = triangles[number]
                u, v, w = closest_point(triangle, (FLOAT(x), FLOAT(y), FLOAT(z)))
                share = ONE / max(distance, FLOAT(1e-3))
                solid = 0
                behind = np.empty(3, np.int64)
                for d in range(3):
                    foot = u * triangle[0, d] + v * triangle[1, d] + w * triangle[2, d]
                    here = FLOAT(x if d == 0 else (y if d == 1 else z))
                    behind[d] = np.int64(np.floor(foot + (foot - here) * share))  # one cell behind the surface
                for corner in range(8):
                    a, b, c = behind[0] + (corner >> 2), behind[1] + (corner >> 1 & 1), behind[2] + (corner & 1)
                    solid += 0 <= a < nx and 0 <= b < ny and 0 <= c < nz and not outside[a, b, c]
                if solid < 4:
                    volume[x, y, z] = SHEET - distance
