"""Tables of features read between their rows: what learnt voxels and learnt planes have in common.

A point's value is a weighted sum of K rows of a table: eight corners of a voxel, or four texels of a plane. ``mix``
takes that sum and its gradient, which is what fitting a field spends its time on. On a CPU in float32 it is compiled,
and so is the search for corners; elsewhere, and as the twin of both, it is plain torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numba
import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..parallel import kernel

F = np.float32


def mix(table: Tensor, rows: Tensor, weights: Tensor) -> Tensor:
    """Weighted sums of rows: Σ_k weights[n, k] · table[rows[n, k]], differentiable in the table alone.

    Neither values nor gradients depend on the number of threads.

    Args:
        table: [M, C] float32 or float64.
        rows: [N, K] int32, each in [0, M).
        weights: [N, K] of the table's precision.

    Returns:
        [N, C].
    """
    if compiled_for(table):
        return _Mix.apply(table, rows, weights)
    return plain_mix(table, rows, weights)


def plain_mix(table: Tensor, rows: Tensor, weights: Tensor) -> Tensor:
    """The same as ``mix``, in plain torch: table [M, C], rows and weights [N, K] → [N, C]."""
    return torch.nn.functional.embedding_bag(rows.long(), table, per_sample_weights=weights.detach(), mode="sum")


def voxel_corners(points: Tensor, index: Tensor, low: Sequence[float], step: float) -> tuple[Tensor, Tensor]:
    """Corners of the voxels around points, and their trilinear shares.

    Args:
        points: [N, 3] float32; those beyond the grid count as on its border.
        index: [X, Y, Z] int32, the table's row of every node, at least 2 along each axis.
        low: position of the first node.
        step: distance between nodes.

    Returns:
        Rows [N, 8] int32 and weights [N, 8] that sum to 1.
    """
    if not compiled_for(points):
        return plain_voxel_corners(points, index, low, step)
    rows, weights = np.empty((len(points), 8), np.int32), np.empty((len(points), 8), F)
    _voxel_corners(_numpy(points), index.numpy(), np.asarray(low, F), F(1 / step), rows, weights)
    return torch.from_numpy(rows), torch.from_numpy(weights)


def plain_voxel_corners(points: Tensor, index: Tensor, low: Sequence[float], step: float) -> tuple[Tensor, Tensor]:
    """The same as ``voxel_corners``, in plain torch: points [N, 3] → rows and weights [N, 8]."""
    last = torch.tensor(index.shape, device=points.device) - 1
    place = (points.detach() - torch.tensor(low).to(points)) * (1 / step)
    place = torch.minimum(place.clamp_min(0), last.to(points))
    base = torch.minimum(place.long(), last - 1)
    along = place - base
    rows, weights = [], []
    for corner in range(8):
        bits = torch.tensor([corner >> 2 & 1, corner >> 1 & 1, corner & 1], device=points.device)
        x, y, z = (base + bits).unbind(-1)
        rows.append(index[x, y, z])
        weights.append(torch.where(bits > 0, along, 1 - along).prod(-1))
    return torch.stack(rows, -1), torch.stack(weights, -1)


def plane_corners(points: Tensor, counts: Sequence[int], low: Sequence[float], step: float) -> tuple[Tensor, Tensor]:
    """Texels around points on the three planes yz, xz and xy, and their bilinear shares.

    Args:
        points: [N, 3] float32; those beyond the planes count as on their border.
        counts: texels along x, y and z, at least 2 each; all planes lie in one table, yz first, row-major.
        low: position of the first texel.
        step: distance between texels.

    Returns:
        Rows [3, N, 4] int32 and weights [3, N, 4] that sum to 1 on each plane.
    """
    if not compiled_for(points):
        return plain_plane_corners(points, counts, low, step)
    rows, weights = np.empty((3, len(points), 4), np.int32), np.empty((3, len(points), 4), F)
    _plane_corners(_numpy(points), np.asarray(counts, np.int32), np.asarray(low, F), F(1 / step), rows, weights)
    return torch.from_numpy(rows), torch.from_numpy(weights)


def plain_plane_corners(
    points: Tensor, counts: Sequence[int], low: Sequence[float], step: float
) -> tuple[Tensor, Tensor]:
    """The same as ``plane_corners``, in plain torch: points [N, 3] → rows and weights [3, N, 4]."""
    last = torch.tensor(list(counts), device=points.device) - 1
    place = (points.detach() - torch.tensor(low).to(points)) * (1 / step)
    place = torch.minimum(place.clamp_min(0), last.to(points))
    base = torch.minimum(place.long(), last - 1)
    along = place - base
    rows, weights, first = [], [], 0
    for a, b in PLANES:
        for i, j in ((0, 0), (0, 1), (1, 0), (1, 1)):
            rows.append(first + (base[:, a] + i) * counts[b] + base[:, b] + j)
            down, across = along[:, a], along[:, b]
            weights.append((down if i else 1 - down) * (across if j else 1 - across))
        first += counts[a] * counts[b]
    shape = (3, 4, len(points))
    return (
        torch.stack(rows).reshape(shape).transpose(1, 2).int(),
        torch.stack(weights).reshape(shape).transpose(1, 2).contiguous(),
    )


PLANES = ((1, 2), (0, 2), (0, 1))  # world axes down and across each plane


def compiled_for(tensor: Tensor) -> bool:
    """Whether the compiled kernels take a tensor [...]: float32 on a CPU."""
    return tensor.device.type == "cpu" and tensor.dtype == torch.float32


class _Mix(torch.autograd.Function):
    """``mix``, compiled."""

    @staticmethod
    def forward(ctx: Any, table: Tensor, rows: Tensor, weights: Tensor) -> Tensor:
        ctx.save_for_backward(rows, weights)
        ctx.size = len(table)
        out = np.empty((len(rows), table.shape[1]), F)
        _gather(_numpy(table), _numpy(rows), _numpy(weights), out)
        return torch.from_numpy(out)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        rows, weights = ctx.saved_tensors
        found = np.zeros((ctx.size, gradients[0].shape[1]), F)
        _scatter(_numpy(gradients[0]), _numpy(rows), _numpy(weights), found, numba.get_num_threads())
        return torch.from_numpy(found), None, None


def _numpy(tensor: Tensor) -> np.ndarray:
    return tensor.detach().contiguous().numpy()


@kernel(parallel=True, fastmath=True)
def _gather(table: np.ndarray, rows: np.ndarray, weights: np.ndarray, out: np.ndarray) -> None:
    """out[n] = Σ_k weights[n, k] · table[rows[n, k]]."""
    channels, corners = table.shape[1], rows.shape[1]
    for n in numba.prange(rows.shape[0]):
        for c in range(channels):
            out[n, c] = F(0)
        for k in range(corners):
            row, weight = rows[n, k], weights[n, k]
            for c in range(channels):
                out[n, c] += weight * table[row, c]


@kernel(parallel=True, fastmath=True)
def _scatter(gradients: np.ndarray, rows: np.ndarray, weights: np.ndarray, found: np.ndarray, parts: int) -> None:
    """found[rows[n, k]] += weights[n, k] · gradients[n].

    Every worker reads all rows and adds those of its own part of the table, so that nothing is written twice at once
    and each row's sum runs in the order of the points.
    """
    size, channels, corners = found.shape[0], found.shape[1], rows.shape[1]
    for part in numba.prange(parts):
        first, end = size * part // parts, size * (part + 1) // parts
        for n in range(rows.shape[0]):
            for k in range(corners):
                row = rows[n, k]
                if first <= row < end:
                    weight = weights[n, k]
                    for c in range(channels):
                        found[row, c] += weight * gradients[n, c]


@kernel(parallel=True)
def _voxel_corners(
    points: np.ndarray, index: np.ndarray, low: np.ndarray, scale: float, rows: np.ndarray, weights: np.ndarray
) -> None:
    lx, ly, lz = index.shape[0] - 1, index.shape[1] - 1, index.shape[2] - 1
    for n in numba.prange(len(points)):
        x = min(max((points[n, 0] - low[0]) * scale, F(0)), F(lx))
        y = min(max((points[n, 1] - low[1]) * scale, F(0)), F(ly))
        z = min(max((points[n, 2] - low[2]) * scale, F(0)), F(lz))
        i, j, k = min(int(x), lx - 1), min(int(y), ly - 1), min(int(z), lz - 1)
        x, y, z = x - F(i), y - F(j), z - F(k)
        for corner in range(8):
            a, b, c = corner >> 2 & 1, corner >> 1 & 1, corner & 1
            rows[n, corner] = index[i + a, j + b, k + c]
            share = x if a else F(1) - x
            share *= y if b else F(1) - y
            weights[n, corner] = share * (z if c else F(1) - z)


@kernel(parallel=True)
def _plane_corners(
    points: np.ndarray, counts: np.ndarray, low: np.ndarray, scale: float, rows: np.ndarray, weights: np.ndarray
) -> None:
    for n in numba.prange(len(points)):
        first = 0
        for plane in range(3):
            a, b = 0 if plane else 1, 1 if plane == 2 else 2
            down = min(max((points[n, a] - low[a]) * scale, F(0)), F(counts[a] - 1))
            across = min(max((points[n, b] - low[b]) * scale, F(0)), F(counts[b] - 1))
            i, j = min(int(down), counts[a] - 2), min(int(across), counts[b] - 2)
            down, across = down - F(i), across - F(j)
            row = first + i * counts[b] + j
            rows[plane, n, 0], rows[plane, n, 1] = row, row + 1
            rows[plane, n, 2], rows[plane, n, 3] = row + counts[b], row + counts[b] + 1
            weights[plane, n, 0], weights[plane, n, 1] = (F(1) - down) * (F(1) - across), (F(1) - down) * across
            weights[plane, n, 2], weights[plane, n, 3] = down * (F(1) - across), down * across
            first += counts[a] * counts[b]
