"""Losses between pictures: L1, structural similarity, coverage, depth and normals. Differentiable.

All but the mean structural similarity is plain torch. That one was two thirds of a step of a fit, so on float32 CPU
tensors it is compiled: the maps are never stored, and the gradient takes three blurs instead of ten.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import numba
import numpy as np
import torch
from torch import Tensor

from ..errors import InputError
from ..parallel import kernel, wide_vectors

F = np.float32

WINDOW, SIGMA = 11, 1.5  # of SSIM, pixels (Wang et al. 2004)
C1, C2 = 0.01**2, 0.03**2  # its stabilisers for values in 0–1


def ssim(a: Tensor, b: Tensor) -> Tensor:
    """Mean structural similarity of images [..., H, W, C] in 0–1 → [...] (Wang et al. 2004, eq. 13, Gaussian window).

    Only windows that lie wholly inside the image count, as in the paper and in scikit-image.

    Raises:
        InputError: the images differ in shape or are smaller than the window, 11 pixels.
    """
    _check(a, b)
    plain = b.requires_grad or any(t.dtype != torch.float32 or t.device.type != "cpu" for t in (a, b))
    if plain or a.numel() == 0:
        return ssim_maps(a, b)[0].flatten(-3).mean(-1)
    return _Similarity.apply(a, b)


def ssim_maps(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Structural similarity around each pixel, and its factor of contrast and structure alone (without luminance).

    Args:
        a: images [..., H, W, C] in 0–1.
        b: images of the same shape.

    Returns:
        Two of [..., C, H − 10, W − 10], for the windows wholly inside.

    Raises:
        InputError: the images differ in shape or are smaller than the window, 11 pixels.
    """
    _check(a, b)
    batch, (height, width, channels) = a.shape[:-3], a.shape[-3:]
    x, y = (t.movedim(-1, -3).reshape(1, -1, height, width) for t in (a, b))
    mean_x, mean_y, xx, yy, xy = _Blur.apply(torch.cat([x, y, x * x, y * y, x * y], 1)).chunk(5, 1)
    cross = mean_x * mean_y
    square = mean_x * mean_x + mean_y * mean_y
    contrast = (2 * (xy - cross) + C2) / (xx + yy - square + C2)
    shape = (*batch, channels, *contrast.shape[-2:])
    return ((2 * cross + C1) / (square + C1) * contrast).reshape(shape), contrast.reshape(shape)


def psnr(a: Tensor, b: Tensor) -> float:
    """Peak signal-to-noise ratio in dB of two images [...] in 0–1, of any one shape; at most 99."""
    return min(99.0, -10 * math.log10(max(float(((a - b) ** 2).mean()), 1e-12)))


def photometric(image: Tensor, target: Tensor, *, ssim_share: float = 0.2) -> Tensor:
    """(1 − λ) L1 + λ (1 − SSIM) of images [..., H, W, C] (Kerbl et al. 2023, eq. 7; λ = 0.2)."""
    loss = (1 - ssim_share) * (image - target).abs().mean()
    return loss + ssim_share * (1 - ssim(image, target).mean()) if ssim_share > 0 else loss


def coverage(alpha: Tensor, mask: Tensor) -> Tensor:
    """Mean absolute difference of coverages [...] in 0–1, of any one shape."""
    return (alpha - mask).abs().mean()


def depth_error(depth: Tensor, alpha: Tensor, target: Tensor) -> Tensor:
    """Mean absolute depth difference [...] in object units, where the target is finite and the render covers half."""
    known = torch.isfinite(target) & torch.isfinite(depth) & (alpha > 0.5)
    difference = torch.where(known, depth, 0.0) - torch.where(known, target, 0.0)
    return difference.abs().sum() / known.sum().clamp_min(1)


def normal_error(normals: Tensor, target: Tensor) -> Tensor:
    """Mean 1 − cos between unit normals [..., 3], where neither is zero (unknown)."""
    known = (target.norm(dim=-1) > 0.5) & (normals.detach().norm(dim=-1) > 0.5)
    return torch.where(known, 1 - (normals * target).sum(-1), 0.0).sum() / known.sum().clamp_min(1)


def points_from_depth(depth: Tensor, intrinsics: Tensor) -> Tensor:
    """Depth along +Z [H, W] → points [H, W, 3] in camera axes, at pixel centres."""
    height, width = depth.shape
    v, u = torch.meshgrid(
        torch.arange(height, dtype=depth.dtype) + 0.5, torch.arange(width, dtype=depth.dtype) + 0.5, indexing="ij"
    )
    rays = torch.stack([u, v, torch.ones_like(u)], -1).to(depth) @ torch.linalg.inv(intrinsics.to(depth)).T
    return rays * depth[..., None]


def normals_from_depth(depth: Tensor, intrinsics: Tensor) -> Tensor:
    """Depth along +Z [H, W] → unit normals [H, W, 3] in camera axes, facing the camera; zero where unknown.

    Tangents are central differences of the points; pixels at the border or beside a depth that is not finite have no
    normal.
    """
    finite = torch.isfinite(depth)
    points = points_from_depth(torch.where(finite, depth, 0.0), intrinsics)
    across, down = points[1:-1, 2:] - points[1:-1, :-2], points[2:, 1:-1] - points[:-2, 1:-1]
    around = finite[1:-1, 2:] & finite[1:-1, :-2] & finite[2:, 1:-1] & finite[:-2, 1:-1]
    cross = torch.where(around[..., None], torch.linalg.cross(down, across), 0.0)
    inner = cross / cross.square().sum(-1, keepdim=True).clamp_min(1e-20).sqrt()
    return torch.nn.functional.pad(inner, (0, 0, 1, 1, 1, 1))


@functools.cache
def _kernel() -> Tensor:
    """The Gaussian window along one axis [11], summing to 1."""
    x = torch.arange(WINDOW, dtype=torch.float64) - WINDOW // 2
    weights = torch.exp(-0.5 * (x / SIGMA) ** 2)
    return weights / weights.sum()


class _Blur(torch.autograd.Function):
    """Images [1, B, H, W] averaged under the window, without a border → [1, B, H − 10, W − 10].

    The adjoint is the same blur of the zero-padded gradient. Written out, because convolutions in groups are fast
    forwards only.
    """

    @staticmethod
    def forward(ctx: Any, images: Tensor) -> Tensor:
        return _separable(images, 0)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return _separable(gradients[0], WINDOW - 1)


def _separable(images: Tensor, padding: int) -> Tensor:
    count = images.shape[1]
    weights = _kernel().to(images)
    down = weights.view(1, 1, WINDOW, 1).expand(count, 1, WINDOW, 1)
    across = weights.view(1, 1, 1, WINDOW).expand(count, 1, 1, WINDOW)
    blurred = torch.nn.functional.conv2d(images, down, padding=(padding, 0), groups=count)
    return torch.nn.functional.conv2d(blurred, across, padding=(0, padding), groups=count)


def _check(a: Tensor, b: Tensor) -> None:
    if a.shape != b.shape or a.ndim < 3 or min(a.shape[-3:-1]) < WINDOW:
        raise InputError(
            f"SSIM compares images of one shape [..., H, W, C] of at least {WINDOW} pixels a side, got "
            f"{list(a.shape)} and {list(b.shape)}; resize them"
        )


class _Similarity(torch.autograd.Function):
    """Mean structural similarity of float32 images [..., H, W, C] → [...]; the gradient is that of the first."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor) -> Tensor:
        height, width, channels = a.shape[-3:]
        x, y = (np.ascontiguousarray(t.detach().numpy()).reshape(-1, height, width * channels) for t in (a, b))
        rows, span = height - WINDOW + 1, (width - WINDOW + 1) * channels
        sums = np.empty((len(x), rows))
        slopes = np.empty((len(x), rows, 3, span) if ctx.needs_input_grad[0] else (0, 1, 3, 1), F)
        _similarity(x, y, _weights(), channels, sums, slopes)
        ctx.kept = x, y, slopes, channels
        return torch.from_numpy(sums.sum(1) / (rows * span)).float().reshape(a.shape[:-3])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        x, y, slopes, channels = ctx.kept
        scale = gradients[0].detach().numpy().reshape(-1).astype(F) / F(slopes.shape[1] * slopes.shape[3])
        out = np.empty_like(x)
        _similarity_slope(x, y, _weights(), channels, slopes, scale, out)
        return torch.from_numpy(out).reshape(*gradients[0].shape, x.shape[1], -1, channels), None


@functools.cache
def _weights() -> np.ndarray:
    return _kernel().numpy().astype(F)


@kernel(parallel=True)
def _similarity(
    x: np.ndarray, y: np.ndarray, weights: np.ndarray, channels: int, sums: np.ndarray, slopes: np.ndarray
) -> None:
    """Similarity summed over each row of windows; and its slopes by the window's mean of x, of x², and of x y.

    Args:
        x: float32 [N, H, W C], the channels of a pixel beside each other.
        y: likewise.
        weights: of the window [11].
        channels: C.
        sums: float64 [N, H − 10], receives the sums.
        slopes: float32 [N, H − 10, 3, (W − 10) C], receives the slopes; with N = 0 they are not wanted.
    """
    count, rows = sums.shape
    length = x.shape[2]
    span = length - (WINDOW - 1) * channels
    for job in numba.prange(count * rows):
        wide_vectors()
        image, row = job // rows, job % rows
        down, around = np.zeros((5, length), F), np.zeros((5, span), F)
        for k in range(WINDOW):
            w, p, q = weights[k], x[image, row + k], y[image, row + k]
            for i in range(length):
                u, v = w * p[i], w * q[i]
                down[0, i] += u
                down[1, i] += v
                down[2, i] += u * p[i]
                down[3, i] += v * q[i]
                down[4, i] += u * q[i]
        for m in range(5):
            for k in range(WINDOW):
                w, source = weights[k], down[m, k * channels : k * channels + span]
                for i in range(span):
                    around[m, i] += w * source[i]
        total = 0.0
        for i in range(span):
            a, b = around[0, i], around[1, i]
            bright, contrast = a * a + b * b + F(C1), around[2, i] + around[3, i] - a * a - b * b + F(C2)
            luminance = (F(2) * a * b + F(C1)) / bright
            structure = (F(2) * (around[4, i] - a * b) + F(C2)) / contrast
            total += luminance * structure
            around[0, i] = F(2) * (
                structure * (b - a * luminance) / bright + luminance * (a * structure - b) / contrast
            )
            around[2, i] = -luminance * structure / contrast
            around[4, i] = F(2) * luminance / contrast
        sums[image, row] = total
        if len(slopes) > 0:
            for i in range(span):
                slopes[image, row, 0, i] = around[0, i]
                slopes[image, row, 1, i] = around[2, i]
                slopes[image, row, 2, i] = around[4, i]


@kernel(parallel=True)
def _similarity_slope(
    x: np.ndarray, y: np.ndarray, weights: np.ndarray, channels: int, slopes: np.ndarray, scale: np.ndarray,
    out: np.ndarray,
) -> None:  # fmt: skip
    """Gradient of the mean by x: the window's slopes spread back over their pixels; arguments as ``_similarity``.

    ``scale`` [N] is what each window counts; ``out`` [N, H, W C] receives the gradient.
    """
    count, height, length = x.shape
    rows, span = slopes.shape[1], slopes.shape[3]
    margin = (WINDOW - 1) * channels
    for job in numba.prange(count * height):
        wide_vectors()
        image, row = job // height, job % height
        down, around = np.zeros((3, length + margin), F), np.zeros((3, length), F)
        for k in range(max(0, row - rows + 1), min(WINDOW - 1, row) + 1):
            w = weights[k]
            for m in range(3):
                source, sink = slopes[image, row - k, m], down[m, margin : margin + span]
                for i in range(span):
                    sink[i] += w * source[i]
        for m in range(3):
            for k in range(WINDOW):
                w, shifted = weights[k], down[m, margin - k * channels : margin - k * channels + length]
                for i in range(length):
                    around[m, i] += w * shifted[i]
        p, q, s = x[image, row], y[image, row], scale[image]
        for i in range(length):
            out[image, row, i] = s * (around[0, i] + F(2) * p[i] * around[1, i] + q[i] * around[2, i])
