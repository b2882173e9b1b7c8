"""Gaussians as float32 arrays: checked on the way in and out, and turned between frames."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch

from ..errors import InputError
from ..gaussians import Gaussians

Axes = Literal["opencv", "gltf"]
SMALLEST_SCALE = 1e-8  # object units; flatter Gaussians have no finite logarithm
# What each coefficient of degree 1 to 3 is multiplied by under (x, −y, −z): its basis polynomial's parity in y and z.
_FLIP_HARMONICS = np.array([1, -1, -1, 1, -1, 1, 1, -1, 1, -1, 1, -1, -1, 1, -1, 1], dtype=np.float32)


@dataclass(frozen=True)
class SplatArrays:
    """N Gaussians with the meanings of :class:`obverse.Gaussians`, as numpy float32."""

    means: np.ndarray  # [N, 3]
    quats: np.ndarray  # [N, 4] wxyz, unit, w ≥ 0 after from_gaussians
    scales: np.ndarray  # [N, 3] linear, ≥ SMALLEST_SCALE after from_gaussians
    opacities: np.ndarray  # [N] 0–1
    sh: np.ndarray  # [N, K, 3]


def from_gaussians(gaussians: Gaussians) -> SplatArrays:
    """Arrays ready to be encoded: unit quaternions with w ≥ 0, scales floored, opacities within 0–1.

    Raises:
        InputError: a batch of sets, no Gaussians at all, or numbers that are not finite.
    """
    if gaussians.means.ndim != 2:
        raise InputError(f"splat files hold one set, and these Gaussians are {list(gaussians.means.shape)}; pick one")
    if len(gaussians) == 0:
        raise InputError("there are 0 Gaussians, so there is nothing to write; fit or read some first")
    tensors = (gaussians.means, gaussians.quats, gaussians.scales, gaussians.opacities, gaussians.sh)
    arrays = SplatArrays(*(t.detach().to("cpu", torch.float32).contiguous().numpy() for t in tensors))
    for name in ("means", "quats", "scales", "opacities", "sh"):
        if not np.isfinite(getattr(arrays, name)).all():
            raise InputError(f"Gaussians.{name} has values that are not finite; call obverse.gaussians.prune first")
    return replace(
        arrays,
        quats=unit_quats(arrays.quats),
        scales=np.maximum(arrays.scales, np.float32(SMALLEST_SCALE)),
        opacities=np.clip(arrays.opacities, 0, 1),
    )


def to_gaussians(arrays: SplatArrays) -> Gaussians:
    """Gaussians on the CPU from what a file held.

    Raises:
        InputError: no Gaussians, or none with finite numbers.
    """
    if len(arrays.means) == 0:
        raise InputError("the file holds 0 splats; check how it was exported")
    fields = (arrays.means, arrays.quats, arrays.scales, arrays.opacities, arrays.sh)
    bad = ~np.logical_and.reduce([np.isfinite(f.reshape(len(f), -1)).all(axis=1) for f in fields])
    if bad.any():
        first = int(np.flatnonzero(bad)[0])
        raise InputError(
            f"{int(bad.sum())} of {len(bad)} splats are not finite, the first is number {first}; export the file again"
        )
    return Gaussians(
        torch.from_numpy(np.ascontiguousarray(arrays.means, dtype=np.float32)),
        torch.from_numpy(unit_quats(arrays.quats)),
        torch.from_numpy(np.ascontiguousarray(arrays.scales, dtype=np.float32)),
        torch.from_numpy(np.ascontiguousarray(np.clip(arrays.opacities, 0, 1), dtype=np.float32)),
        torch.from_numpy(np.ascontiguousarray(arrays.sh, dtype=np.float32)),
    )


def flip(arrays: SplatArrays) -> SplatArrays:
    """The same Gaussians in the frame (x, −y, −z), a half turn about X; its own inverse."""
    return replace(
        arrays,
        means=arrays.means * np.array([1, -1, -1], dtype=np.float32),
        quats=arrays.quats * np.array([1, 1, -1, -1], dtype=np.float32),
        sh=arrays.sh if arrays.sh.shape[1] == 1 else arrays.sh * _FLIP_HARMONICS[: arrays.sh.shape[1], None],
    )


def logit(opacities: np.ndarray) -> np.ndarray:
    """Inverse of the sigmoid, [...] → float32 [...], kept finite: 0 and 1 are taken as 1e-6 away from the ends."""
    p = np.clip(opacities.astype(np.float64), 1e-6, 1 - 1e-6)
    return np.log(p / (1 - p)).astype(np.float32)


def sigmoid(logits: np.ndarray) -> np.ndarray:
    """1 / (1 + e^−x), [...] → float32 [...], without overflow."""
    x = np.asarray(logits, dtype=np.float64)
    return (0.5 * (1 + np.tanh(0.5 * x))).astype(np.float32)


def unit_quats(quats: np.ndarray) -> np.ndarray:
    """Quaternions [N, 4] wxyz scaled to length 1 with w ≥ 0, float32; those of no length become the identity."""
    length = np.sqrt(np.einsum("ni,ni->n", quats, quats, dtype=np.float64))[:, None]
    good = length > 1e-12
    unit = np.where(good, quats / np.where(good, length, 1), [1.0, 0.0, 0.0, 0.0])
    return (unit * np.where(unit[:, :1] < 0, -1, 1)).astype(np.float32)
