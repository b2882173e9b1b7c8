"""Gaussian splats on the CPU, compiled: the same image as the torch renderer, tiled and parallel.

Per view: project every Gaussian (``_project``), order the visible ones by depth (``_order``), deal them into lists
of 16 × 16 pixel tiles in that order (``_deal``), and composite tile by tile (``_composite``). Lists are depth-sorted
for free because dealing is a stable counting sort.

What makes it fast: the opacity goes into the exponent, α = exp(p), so that α ≥ 1/255 is a fixed range of p; the
exact box of that range bounds the work; a row of 16 pixels is one vector; termination is a select, not a branch; and
the exponential is a polynomial, since libm's cannot be vectorised. The result does not depend on the thread count.

Projection is done in double precision: the determinant of a needle's covariance cancels most of single precision.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numba
import numpy as np
import torch
from torch import Tensor

from ..gaussians import Gaussians, evaluate_sh
from ..parallel import kernel

F = np.float32
TILE = 16  # pixels; the kernels' masks and shifts rely on it
SHIFT = 4
BATCH = 16  # Gaussians composited between two looks at whether the tile is finished

# A record of a projected Gaussian: α = exp(p), p = dx (A dx + B dy) + C dy² + ln o.
U, V, A, B, C, LOG_OPACITY, RED, GREEN, BLUE, REACH_Y, DEPTH, RECORD = range(12)

# The renderer's constants, as in splats.py, in single precision.
LOW_PASS = 0.3
MIN_ALPHA = 1 / 255
FIELD_MARGIN = 1.3
LOG_MIN_ALPHA = F(math.log(MIN_ALPHA))
MAX_ALPHA = F(0.999)
MIN_TRANSMITTANCE = F(1e-4)

# exp(x) on [-0.75, 0], degree 5, least squares of the relative error; p / 8 is in that range.
E0, E1, E2, E3, E4, E5 = F(0.99999994), F(0.99999243), F(0.49988127), F(0.16596903), F(0.03976483), F(0.00584249)
ZERO, HALF, ONE, EIGHTH, LOWEST = F(0), F(0.5), F(1), F(0.125), F(-6)


@dataclass(frozen=True)
class TileLists:
    """Projected Gaussians and, for every tile, which of them it composites and in what order."""

    records: np.ndarray  # float32 [N, RECORD]
    starts: np.ndarray  # int32 [T + 1] first entry of each tile
    entries: np.ndarray  # int32 [P] Gaussians, by tile, then by depth
    tiles_x: int


def render_view(
    gaussians: Gaussians, world_to_camera: Tensor, intrinsics: Tensor, width: int, height: int, near: float, far: float
) -> tuple[Tensor, Tensor, Tensor]:
    """One camera's view: premultiplied colour [H, W, 3], alpha [H, W] and Σ w·depth [H, W], float32.

    Args:
        gaussians: unbatched, float32, on the CPU.
        world_to_camera: [4, 4].
        intrinsics: [3, 3] pixels.
        width, height: pixels.
        near, far: object units along the camera's +Z.
    """
    lists = tile_lists(gaussians, world_to_camera, intrinsics, width, height, near, far)
    color = np.empty((height, width, 3), F)
    alpha, depth = np.empty((height, width), F), np.empty((height, width), F)
    lengths = np.diff(lists.starts)
    longest_first = np.argsort(-lengths, kind="stable").astype(np.int32)
    _composite(lists.records, lists.starts, lists.entries, longest_first, lists.tiles_x, numba.get_num_threads(),
               color, alpha, depth)  # fmt: skip
    return torch.from_numpy(color), torch.from_numpy(alpha), torch.from_numpy(depth)


def tile_lists(
    gaussians: Gaussians, world_to_camera: Tensor, intrinsics: Tensor, width: int, height: int, near: float, far: float
) -> TileLists:
    """Project the Gaussians and deal them to tiles; arguments as ``render_view``."""
    colors = _colors(gaussians, world_to_camera)
    count = len(gaussians)
    records, boxes = np.empty((count, RECORD), F), np.empty((count, 4), np.int32)
    camera = np.concatenate([world_to_camera[:3].double().numpy().ravel(), intrinsics.double().numpy().ravel()])
    limits = np.array([near, far, width, height], np.float64)
    parts = (gaussians.means, gaussians.quats, gaussians.scales, gaussians.opacities, colors)
    arguments: tuple[Any, ...] = (*(_array(part) for part in parts), camera, limits, records, boxes)
    _project(*arguments)
    order = _order(records, boxes)
    tiles_x, tiles_y = -(-width // TILE), -(-height // TILE)
    chunks = max(1, min(8 * numba.get_num_threads(), len(order) // 1024))
    starts = np.empty(tiles_x * tiles_y + 1, np.int32)
    heads = _count(order, boxes, tiles_x, tiles_y, chunks, starts)
    entries = np.empty(starts[-1], np.int32)
    _deal(order, boxes, tiles_x, heads, entries)
    return TileLists(records, starts, entries, tiles_x)


def _colors(gaussians: Gaussians, world_to_camera: Tensor) -> Tensor:
    """Colours [N, 3] seen from the camera; one that is not finite marks its Gaussian as not to be drawn."""
    if gaussians.sh_degree == 0:
        return evaluate_sh(gaussians.sh, torch.zeros_like(gaussians.means))
    position = -world_to_camera[:3, :3].T @ world_to_camera[:3, 3]
    directions = torch.nn.functional.normalize(gaussians.means - position, dim=-1)
    return evaluate_sh(gaussians.sh, directions)


def _array(tensor: Tensor) -> np.ndarray:
    return np.ascontiguousarray(tensor.detach().numpy())


@kernel(parallel=True)
def _project(
    means: np.ndarray,
    quats: np.ndarray,
    scales: np.ndarray,
    opacities: np.ndarray,
    colors: np.ndarray,
    camera: np.ndarray,
    limits: np.ndarray,
    records: np.ndarray,
    boxes: np.ndarray,
) -> None:
    """Per Gaussian: its record and the box of tiles it reaches (x0, x1, y0, y1), empty if it is not drawn.

    ``camera`` holds world_to_camera's upper three rows and the intrinsics, ``limits`` near, far, width and height.
    Long because everything one Gaussian needs stays in registers.
    """
    near, far, width, height = limits[0], limits[1], limits[2], limits[3]
    fx, skew, cx, fy, cy = camera[12], camera[13], camera[14], camera[16], camera[17]
    limit_x, limit_y = FIELD_MARGIN * 0.5 * width / fx, FIELD_MARGIN * 0.5 * height / fy
    for n in numba.prange(len(means)):
        boxes[n, 0] = boxes[n, 1] = boxes[n, 2] = boxes[n, 3] = 0
        mx, my, mz = float(means[n, 0]), float(means[n, 1]), float(means[n, 2])
        x = camera[0] * mx + camera[1] * my + camera[2] * mz + camera[3]
        y = camera[4] * mx + camera[5] * my + camera[6] * mz + camera[7]
        z = camera[8] * mx + camera[9] * my + camera[10] * mz + camera[11]
        opacity = float(opacities[n])
        if not (near <= z <= far and opacity >= MIN_ALPHA):
            continue
        u = (fx * x + skew * y) / z + cx
        v = fy * y / z + cy
        qw, qx, qy, qz = float(quats[n, 0]), float(quats[n, 1]), float(quats[n, 2]), float(quats[n, 3])
        norm = max(np.sqrt(qw * qw + qx * qx + qy * qy + qz * qz), 1e-12)
        qw, qx, qy, qz = qw / norm, qx / norm, qy / norm, qz / norm
        slope_x = min(max(x / z, -limit_x), limit_x)
        slope_y = min(max(y / z, -limit_y), limit_y)
        # Rows of J W, then of J W R S, column by column.
        ax, ay, az = camera[0] - slope_x * camera[8], camera[1] - slope_x * camera[9], camera[2] - slope_x * camera[10]
        bx, by, bz = camera[4] - slope_y * camera[8], camera[5] - slope_y * camera[9], camera[6] - slope_y * camera[10]
        ax, ay, az = (fx * ax + skew * bx) / z, (fx * ay + skew * by) / z, (fx * az + skew * bz) / z
        bx, by, bz = fy * bx / z, fy * by / z, fy * bz / z
        rx, ry, rz = 1 - 2 * (qy * qy + qz * qz), 2 * (qx * qy + qw * qz), 2 * (qx * qz - qw * qy)
        a0, b0 = scales[n, 0] * (ax * rx + ay * ry + az * rz), scales[n, 0] * (bx * rx + by * ry + bz * rz)
        rx, ry, rz = 2 * (qx * qy - qw * qz), 1 - 2 * (qx * qx + qz * qz), 2 * (qy * qz + qw * qx)
        a1, b1 = scales[n, 1] * (ax * rx + ay * ry + az * rz), scales[n, 1] * (bx * rx + by * ry + bz * rz)
        rx, ry, rz = 2 * (qx * qz + qw * qy), 2 * (qy * qz - qw * qx), 1 - 2 * (qx * qx + qy * qy)
        a2, b2 = scales[n, 2] * (ax * rx + ay * ry + az * rz), scales[n, 2] * (bx * rx + by * ry + bz * rz)
        sxx = a0 * a0 + a1 * a1 + a2 * a2 + LOW_PASS
        sxy = a0 * b0 + a1 * b1 + a2 * b2
        syy = b0 * b0 + b1 * b1 + b2 * b2 + LOW_PASS
        det = sxx * syy - sxy * sxy
        total = float(colors[n, 0]) + float(colors[n, 1]) + float(colors[n, 2]) + u + v + det + opacity
        if not (np.isfinite(total) and det > 0):
            continue
        tau = 2 * np.log(opacity / MIN_ALPHA)
        reach_x, reach_y = np.sqrt(tau * sxx), np.sqrt(tau * syy)
        if u + reach_x <= 0 or u - reach_x >= width or v + reach_y <= 0 or v - reach_y >= height:
            continue
        boxes[n, 0] = int(max(u - reach_x, 0.0)) >> SHIFT
        boxes[n, 1] = (int(min(u + reach_x, width - 1)) >> SHIFT) + 1
        boxes[n, 2] = int(max(v - reach_y, 0.0)) >> SHIFT
        boxes[n, 3] = (int(min(v + reach_y, height - 1)) >> SHIFT) + 1
        records[n, U], records[n, V] = u, v
        records[n, A], records[n, B], records[n, C] = -0.5 * syy / det, sxy / det, -0.5 * sxx / det
        records[n, LOG_OPACITY] = np.log(opacity)
        records[n, RED], records[n, GREEN], records[n, BLUE] = colors[n, 0], colors[n, 1], colors[n, 2]
        records[n, REACH_Y], records[n, DEPTH] = min(reach_y, 1e9), z


@kernel()
def _order(records: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Indices of the Gaussians with a box, nearest first: radix sort, as positive floats sort like their bits."""
    count = 0
    for n in range(len(boxes)):
        count += boxes[n, 0] < boxes[n, 1]
    order, other = np.empty(count, np.int32), np.empty(count, np.int32)
    depths, spare = np.empty(count, np.float32), np.empty(count, np.uint32)
    i = 0
    for n in range(len(boxes)):
        if boxes[n, 0] < boxes[n, 1]:
            order[i], depths[i] = n, records[n, DEPTH]
            i += 1
    keys = depths.view(np.uint32)
    histogram = np.zeros((3, 2048), np.int64)
    for i in range(count):
        for digit in range(3):
            histogram[digit, (keys[i] >> np.uint32(11 * digit)) & np.uint32(2047)] += 1
    for digit in range(3):
        total = 0
        for bucket in range(2048):
            total, histogram[digit, bucket] = total + histogram[digit, bucket], total
        for i in range(count):
            bucket = (keys[i] >> np.uint32(11 * digit)) & np.uint32(2047)
            place = histogram[digit, bucket]
            histogram[digit, bucket] = place + 1
            other[place], spare[place] = order[i], keys[i]
        order, other, keys, spare = other, order, spare, keys
    return order


@kernel(parallel=True)
def _count(
    order: np.ndarray, boxes: np.ndarray, tiles_x: int, tiles_y: int, chunks: int, starts: np.ndarray
) -> np.ndarray:
    """Count entries per chunk of the depth order and tile → where each chunk starts writing in each tile's list."""
    tiles = tiles_x * tiles_y
    heads = np.zeros((chunks, tiles), np.int32)
    for chunk in numba.prange(chunks):
        for i in range(chunk * len(order) // chunks, (chunk + 1) * len(order) // chunks):
            n = order[i]
            for ty in range(boxes[n, 2], boxes[n, 3]):
                for tx in range(boxes[n, 0], boxes[n, 1]):
                    heads[chunk, ty * tiles_x + tx] += 1
    total = np.int32(0)
    for tile in range(tiles):
        starts[tile] = total
        for chunk in range(chunks):
            here = heads[chunk, tile]
            heads[chunk, tile] = total
            total += here
    starts[tiles] = total
    return heads


@kernel(parallel=True)
def _deal(order: np.ndarray, boxes: np.ndarray, tiles_x: int, heads: np.ndarray, entries: np.ndarray) -> None:
    """Write every Gaussian into the lists of the tiles it reaches, keeping the depth order."""
    chunks = len(heads)
    for chunk in numba.prange(chunks):
        for i in range(chunk * len(order) // chunks, (chunk + 1) * len(order) // chunks):
            n = order[i]
            for ty in range(boxes[n, 2], boxes[n, 3]):
                for tx in range(boxes[n, 0], boxes[n, 1]):
                    tile = ty * tiles_x + tx
                    entries[heads[chunk, tile]] = n
                    heads[chunk, tile] += 1


@kernel(parallel=True, fastmath=True)
def _composite(
    records: np.ndarray,
    starts: np.ndarray,
    entries: np.ndarray,
    longest_first: np.ndarray,
    tiles_x: int,
    workers: int,
    color: np.ndarray,
    alpha: np.ndarray,
    depth: np.ndarray,
) -> None:
    """Composite every tile; long lists are dealt round-robin so that the threads finish together.

    One flat work array per tile holds transmittance, red, green, blue and Σ w·depth, 256 each: constant offsets from
    one base let the compiler see that they do not overlap. Transmittance below zero marks a finished pixel. Indices
    are kept non-negative by masks, without which the rows would not be vectorised. Long, because splitting it would
    break those proofs.
    """
    height, width = alpha.shape
    for worker in numba.prange(workers):
        work = np.empty(5 * 256, np.float32)
        batch = np.empty((BATCH, RECORD), np.float32)
        for k in range(worker, len(longest_first), workers):
            tile = longest_first[k]
            left, top = (tile % tiles_x) << SHIFT, (tile // tiles_x) << SHIFT
            work[:256] = ONE
            work[256:] = ZERO
            entry, stop = starts[tile], starts[tile + 1]
            while entry < stop:
                size = min(BATCH, stop - entry)
                for i in range(size):  # gathering first lets the memory accesses overlap
                    n = entries[entry + i]
                    for j in range(RECORD):
                        batch[i, j] = records[n, j]
                entry += size
                for i in range(size):
                    u, v = batch[i, U] - F(left), batch[i, V] - F(top)
                    qa, qb, qc, log_opacity = batch[i, A], batch[i, B], batch[i, C], batch[i, LOG_OPACITY]
                    red, green, blue, z = batch[i, RED], batch[i, GREEN], batch[i, BLUE], batch[i, DEPTH]
                    reach = batch[i, REACH_Y]
                    first = int(max(v - reach - HALF, ZERO))
                    last = int(min(v + reach + HALF, F(TILE)))
                    for row in range(first, last):
                        base = (row & 15) << 4
                        dy = F(row) + HALF - v
                        linear = qb * dy
                        constant = qc * dy * dy + log_opacity
                        for lane in range(TILE):
                            dx = F(lane) + HALF - u
                            p = dx * (qa * dx + linear) + constant
                            e = max(p, LOWEST) * EIGHTH
                            e = ((((E5 * e + E4) * e + E3) * e + E2) * e + E1) * e + E0
                            e = e * e
                            e = e * e
                            a = min(e * e, MAX_ALPHA)
                            a = a if p >= LOG_MIN_ALPHA else ZERO
                            t = work[base + lane]
                            next_t = t - t * a
                            live = next_t > MIN_TRANSMITTANCE
                            w = a * t if live else ZERO
                            work[base + lane] = next_t if live else -abs(t)
                            work[256 + base + lane] += w * red
                            work[512 + base + lane] += w * green
                            work[768 + base + lane] += w * blue
                            work[1024 + base + lane] += w * z
                most = work[0]
                for i in range(1, 256):
                    most = max(most, work[i])
                if most <= ZERO:
                    break
            for row in range(min(TILE, height - top)):
                for lane in range(min(TILE, width - left)):
                    i = ((row & 15) << 4) + lane
                    color[top + row, left + lane, 0] = work[256 + i]
                    color[top + row, left + lane, 1] = work[512 + i]
                    color[top + row, left + lane, 2] = work[768 + i]
                    alpha[top + row, left + lane] = ONE - abs(work[i])
                    depth[top + row, left + lane] = work[1024 + i]
