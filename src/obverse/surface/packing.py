"""Packing charts of any shape into a square: bitmaps on a coarse grid, four rotations, lowest free place first.

Charts are drawn as sets of grid cells, widened by the gutter, and placed from the largest to the smallest at the
lowest position where no cell is taken. Rows of the grid are bit strings, so one pass of shifts and ors answers, for
all horizontal positions at once, whether a row of the chart fits; that is what makes exact shapes as cheap as boxes.
The lowest-place rule is that of Lévy et al., "Least squares conformal maps" (SIGGRAPH 2002, section 4), with bitmaps in
place of their horizon.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..errors import InputError
from ..parallel import kernel

GUTTER = 1.0  # texels kept free around each chart, so that two charts are at least two texels apart
_TRIALS = 7  # packings tried in search of the largest scale
_FEW = 128  # charts up to which a second order is tried


@dataclass(frozen=True)
class Packing:
    """Where each chart goes: a texel position is ``rotate(scale × (p − low) + GUTTER) + offset``."""

    scale: float  # one factor for all charts
    rotation: np.ndarray  # [C] quarter turns, counter-clockwise
    offset: np.ndarray  # [C, 2] texels, of the rotated chart's lower left corner
    extent: np.ndarray  # [C, 2] texels, of the chart's grid cells before rotation


def pack(
    corners: np.ndarray,
    chart: np.ndarray,
    low: np.ndarray,
    high: np.ndarray,
    *,
    size: int,
    start: float | None = None,
) -> Packing:
    """Find the largest common scale at which all charts fit a square of ``size`` texels, and their places.

    Args:
        corners: faces' corners [M, 3, 2] in each chart's own plane, counter-clockwise, in texels of the wanted density.
        chart: chart of each face [M], in 0..C-1.
        low, high: bounds [C, 2] of each chart in that plane.
        size: side of the atlas in texels.
        start: a scale at which nearly the same charts were packed before; the first that fits from there is taken.

    Raises:
        InputError: there are more charts than the atlas has room for at any scale.
    """
    corners = np.ascontiguousarray(corners, np.float32)
    chart = np.ascontiguousarray(chart, np.int32)
    charts = _Charts(corners, chart, low, high, np.bincount(chart, np.abs(doubled_areas(corners)) / 2, len(low)))
    cell = max(2, size // 256)
    scale = start or float(np.sqrt(0.72 * size * size / max(float(charts.area.sum()), 1e-12)))
    best: Packing | None = None
    fails = np.inf
    for trial in range(_TRIALS + 16):
        found, share = _try(charts, scale, cell, size // cell)
        if found is not None:
            best = found
        else:
            fails = scale
        if best is not None and (start or fails < 1.01 * best.scale or trial >= _TRIALS - 1):
            return best
        step = float(np.clip(1 / np.sqrt(share), 0.6, 1.05)) * (1.005 if found is not None else 0.995)
        scale = scale * step
        if best is not None and fails < np.inf:  # between a scale that fits and one that does not
            scale = float(np.clip(scale, best.scale + 0.3 * (fails - best.scale), fails - 0.3 * (fails - best.scale)))
    raise InputError(
        f"{len(low)} charts do not fit a {size}×{size} texture with a gutter around each; "
        "ask for a larger texture or simplify the mesh"
    )


@dataclass(frozen=True)
class _Charts:
    """What is packed: the arguments of ``pack`` and the charts' areas."""

    corners: np.ndarray  # [M, 3, 2] float32
    chart: np.ndarray  # [M] int32
    low: np.ndarray  # [C, 2]
    high: np.ndarray  # [C, 2]
    area: np.ndarray  # [C]


def _try(charts: _Charts, scale: float, cell: int, grid: int) -> tuple[Packing | None, float]:
    """Pack at one scale → the packing, None where it fails, and the share of the grid's rows that it needs."""
    extent = (charts.high - charts.low) * scale + 2 * GUTTER
    cells = np.maximum(np.ceil(extent / cell - 1e-6), 1).astype(np.int32)
    over = float(cells.max()) / grid
    if over > 1:
        return None, over * over
    start = np.zeros(len(cells) + 1, np.int64)
    np.cumsum(cells[:, 0].astype(np.int64) * cells[:, 1], out=start[1:])
    masks = np.zeros(int(start[-1]), np.uint8)
    low = charts.low.astype(np.float32)
    _draw(charts.corners, charts.chart, low, np.float32(scale), np.float32(cell), cells, start, masks)
    full = float(np.count_nonzero(masks)) / (grid * grid)
    if full > 1:
        return None, full
    orders = [-charts.area, -(cells[:, 0] + cells[:, 1])]  # the second helps now and then where charts are few
    least = 1.5
    for key in orders if len(cells) <= _FEW else orders[:1]:
        order = np.argsort(key, kind="stable").astype(np.int32)
        position, used = _place(masks, start, cells, order, np.int32(grid))
        if used < 0:
            break
        least = min(least, used / grid)
        if used <= grid:
            turn, offset = position[:, 2].copy(), position[:, :2].astype(np.float64) * cell
            return Packing(scale, turn, offset, cells.astype(np.float64) * cell), least
        if used > 1.06 * grid:
            break
    return None, least


def place(packing: Packing, points: np.ndarray, chart: np.ndarray, low: np.ndarray) -> np.ndarray:
    """Points [N, 2] in the planes of their charts [N] → texel positions [N, 2] in the atlas, y up."""
    cosine, sine = np.array([1, 0, -1, 0])[packing.rotation], np.array([0, 1, 0, -1])[packing.rotation]
    width, height = packing.extent.T  # a turn about the origin leaves the grid; this brings the chart back
    back_x = np.choose(packing.rotation, [0 * width, height, width, 0 * width])
    back_y = np.choose(packing.rotation, [0 * width, 0 * width, height, width])
    shift = np.stack([back_x, back_y], axis=1) + packing.offset
    x, y = ((points - low[chart]) * packing.scale + GUTTER).T
    c, s = cosine[chart], sine[chart]
    return np.stack([c * x - s * y, s * x + c * y], axis=1) + shift[chart]


def doubled_areas(corners: np.ndarray) -> np.ndarray:
    """Twice the signed area [M] of triangles [M, 3, 2]."""
    a, b = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    return a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]


@kernel()
def _draw(corners, chart, low, scale, cell, cells, start, masks):  # type: ignore[no-untyped-def]
    """Mark the grid cells that a face, widened by the gutter, touches: a separating-axis test per face and cell."""
    gutter = np.float32(1.0)
    half = cell * np.float32(0.5)
    for f in range(corners.shape[0]):
        c = chart[f]
        width, height, base = cells[c, 0], cells[c, 1], start[c]
        x0 = (corners[f, 0, 0] - low[c, 0]) * scale + gutter
        y0 = (corners[f, 0, 1] - low[c, 1]) * scale + gutter
        x1 = (corners[f, 1, 0] - low[c, 0]) * scale + gutter
        y1 = (corners[f, 1, 1] - low[c, 1]) * scale + gutter
        x2 = (corners[f, 2, 0] - low[c, 0]) * scale + gutter
        y2 = (corners[f, 2, 1] - low[c, 1]) * scale + gutter
        first_x = max(int((min(x0, x1, x2) - gutter) / cell), 0)
        last_x = min(int((max(x0, x1, x2) + gutter) / cell), width - 1)
        first_y = max(int((min(y0, y1, y2) - gutter) / cell), 0)
        last_y = min(int((max(y0, y1, y2) + gutter) / cell), height - 1)
        small = last_x - first_x <= 1 and last_y - first_y <= 1
        reach = half + gutter
        for j in range(first_y, last_y + 1):
            cy = (np.float32(j) + np.float32(0.5)) * cell
            for i in range(first_x, last_x + 1):
                if masks[base + j * width + i] != 0:
                    continue
                if not small:
                    cx = (np.float32(i) + np.float32(0.5)) * cell
                    e0 = (x1 - x0) * (cy - y0) - (y1 - y0) * (cx - x0) + reach * (abs(x1 - x0) + abs(y1 - y0))
                    e1 = (x2 - x1) * (cy - y1) - (y2 - y1) * (cx - x1) + reach * (abs(x2 - x1) + abs(y2 - y1))
                    e2 = (x0 - x2) * (cy - y2) - (y0 - y2) * (cx - x2) + reach * (abs(x0 - x2) + abs(y0 - y2))
                    if e0 < 0 or e1 < 0 or e2 < 0:
                        continue
                masks[base + j * width + i] = 1


@kernel()
def _block(row, begin, length, words, scratch, bad):  # type: ignore[no-untyped-def]
    """Or into ``bad`` the positions x where a bit of ``row`` lies in [x + begin, x + begin + length)."""
    for k in range(words):
        scratch[k] = row[k]
    done = 1
    while done < length:  # spread each bit to the left by doubling steps
        step = min(done, length - done)
        q, r = step >> 6, np.uint64(step & 63)
        for k in range(words):
            value = scratch[k + q] >> r if k + q < words else np.uint64(0)
            if r > np.uint64(0) and k + q + 1 < words:
                value |= scratch[k + q + 1] << (np.uint64(64) - r)
            scratch[k] |= value
        done += step
    q, r = begin >> 6, np.uint64(begin & 63)
    full = True
    for k in range(words):
        value = scratch[k + q] >> r if k + q < words else np.uint64(0)
        if r > np.uint64(0) and k + q + 1 < words:
            value |= scratch[k + q + 1] << (np.uint64(64) - r)
        bad[k] |= value
        if bad[k] != np.uint64(0xFFFFFFFFFFFFFFFF):
            full = False
    return full


@kernel()
def _runs(masks, base, width, height, turn, runs):  # type: ignore[no-untyped-def]
    """Runs of set cells of a chart turned by quarter turns, as rows (y, first x, length) of ``runs`` → their number."""
    w, h = (width, height) if turn % 2 == 0 else (height, width)
    count = 0
    for y in range(h):
        begin = -1
        for x in range(w + 1):
            taken = False
            if x < w:
                if turn == 0:
                    i, j = x, y
                elif turn == 1:
                    i, j = y, height - 1 - x
                elif turn == 2:
                    i, j = width - 1 - x, height - 1 - y
                else:
                    i, j = width - 1 - y, x
                taken = masks[base + j * width + i] != 0
            if taken and begin < 0:
                begin = x
            elif not taken and begin >= 0:
                runs[count, 0], runs[count, 1], runs[count, 2] = y, begin, x - begin
                count += 1
                begin = -1
    return count


@kernel()
def _place(masks, start, cells, order, grid):  # type: ignore[no-untyped-def]
    """Place charts in order → (x, y, quarter turns) [C, 3] int32 in cells and the rows used, −1 beyond twice the grid.

    Longer than sixty lines because Numba compiles it as one loop nest: chart, rotation, height, run.
    """
    rows = 2 * grid
    words = (grid + 63) // 64
    taken = np.zeros((rows, words), np.uint64)
    filled, widest = np.zeros(rows, np.int32), np.full(rows, grid, np.int32)  # cells taken, longest free run
    bad, scratch = np.zeros(words, np.uint64), np.zeros(words, np.uint64)
    out = np.zeros((order.shape[0], 3), np.int32)
    runs = np.zeros((grid * grid // 2 + grid, 3), np.int32)
    one, used = np.uint64(1), 0
    for position in range(order.shape[0]):
        c = order[position]
        width, height = cells[c, 0], cells[c, 1]
        best_top, best_x, best_y, best_turn = rows + 1, -1, -1, -1
        for turn in range(4):
            w, h = (width, height) if turn % 2 == 0 else (height, width)
            if w > grid or (turn > 1 and w * h <= 16):
                continue
            count = _runs(masks, start[c], width, height, turn, runs)
            y = 0
            while y + h < best_top:
                room = True
                for r in range(count):
                    if widest[y + runs[r, 0]] < runs[r, 2]:
                        room = False
                        break
                if not room:
                    y += 1
                    continue
                for k in range(words):  # positions where the chart would leave the grid on the right
                    low_bit = grid - w + 1 - 64 * k
                    if low_bit >= 64:
                        bad[k] = np.uint64(0)
                    elif low_bit <= 0:
                        bad[k] = np.uint64(0xFFFFFFFFFFFFFFFF)
                    else:
                        bad[k] = np.uint64(0xFFFFFFFFFFFFFFFF) << np.uint64(low_bit)
                full = False
                stride = max(count // 8, 1)
                for phase in range(stride):  # far-apart runs first: they rule a height out soonest
                    for r in range(phase, count, stride):
                        row = y + runs[r, 0]
                        if filled[row] > 0:
                            full = _block(taken[row], runs[r, 1], runs[r, 2], words, scratch, bad)
                            if full:
                                break
                    if full:
                        break
                if not full:
                    found = -1
                    for x in range(grid - w + 1):
                        if (bad[x >> 6] >> np.uint64(x & 63)) & one == np.uint64(0):
                            found = x
                            break
                    if found >= 0:
                        best_top, best_x, best_y, best_turn = y + h, found, y, turn
                        break
                y += 1
        if best_turn < 0:
            return out, -1
        count = _runs(masks, start[c], width, height, best_turn, runs)
        for r in range(count):
            row = best_y + runs[r, 0]
            filled[row] += runs[r, 2]
            for x in range(best_x + runs[r, 1], best_x + runs[r, 1] + runs[r, 2]):
                taken[row, x >> 6] |= one << np.uint64(x & 63)
        for row in range(best_y, best_top):
            free, longest = 0, 0
            for x in range(grid):
                free = free + 1 if (taken[row, x >> 6] >> np.uint64(x & 63)) & one == np.uint64(0) else 0
                longest = max(longest, free)
            widest[row] = longest
        used = max(used, best_top)
        out[c, 0], out[c, 1], out[c, 2] = best_x, best_y, best_turn
    return out, used
