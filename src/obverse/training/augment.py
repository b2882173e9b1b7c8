"""Photographs of known objects changed, with their answers, into photographs of others: at no cost of rendering."""

from __future__ import annotations

import math

import cv2
import numpy as np

from .renders import FILL, NEAREST

STRETCH = 0.3  # a photograph is at most e to this wider or taller in proportion
ROLL_DEG = 5.0  # standard deviation
OFTEN = 0.5  # share of photographs that are changed in shape


def recolouring(rng: np.random.Generator) -> tuple[float, float, np.ndarray]:
    """Gain, power and mixing matrix [3, 3] (rows sum to one) of a random change of colours, shared by all pixels."""
    mix = np.eye(3)
    if rng.random() < 0.5:
        mix = mix[rng.permutation(3)]  # any hue becomes another
    grey = rng.uniform(0, 0.6)
    mix = (1 - grey) * mix + grey / 3
    return float(rng.uniform(0.75, 1.15)), float(rng.uniform(0.8, 1.25)), mix.astype(np.float32)


def reshaped(
    rgba: np.ndarray, cells: np.ndarray, points: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Another object's photograph: stretched and rolled in the photo's plane, and framed anew as photos are.

    Depth is scaled as the plane is on average, so the result is a projective image of the object, with the outline its
    photograph shows. Cells are looked up (nearest), so walls of one cell may get holes.

    Args:
        rgba: [P, P, 4] straight alpha, 0–1.
        cells: [C, C, D] of 0 and 1, row by row of the photo, from near to far.
        points: [N, 3] right, down, away in −1…1 of the frustum.
        rng: decides everything.

    Returns:
        The same three, changed; as they were if the photograph shows nothing.
    """
    stretch, roll = rng.uniform(-STRETCH, STRETCH) / 2, math.radians(rng.normal(0, ROLL_DEG))
    fill = rng.uniform(*FILL)
    rows, columns = np.nonzero(rgba[..., 3] > 0.5)
    near = np.flatnonzero(cells.any((0, 1)))
    if not len(rows) or not len(near):
        return rgba, cells, points
    turn = np.array([[math.cos(roll), -math.sin(roll)], [math.sin(roll), math.cos(roll)]])
    plane = turn @ np.diag([math.exp(stretch), math.exp(-stretch)])
    covered = (np.stack([columns, rows], -1) + 0.5) * (2 / len(rgba)) - 1
    low, high = (covered @ plane.T).min(0), (covered @ plane.T).max(0)
    scale = 2 * fill / max(float((high - low).max()), 1e-6)
    plane, shift = scale * plane, -scale * (low + high) / 2
    behind = max(0.0, -NEAREST - scale * (near[0] * 2 / cells.shape[2] - 1))
    moved = np.concatenate([points[:, :2] @ plane.T + shift, points[:, 2:] * scale + behind], -1)
    return _picture(rgba, plane, shift), _cells(cells, plane, shift, scale, behind), moved.astype(points.dtype)


def _picture(rgba: np.ndarray, plane: np.ndarray, shift: np.ndarray) -> np.ndarray:
    """A photograph [P, P, 4] whose places p, in −1…1, have gone to ``plane`` p + ``shift``."""
    side = len(rgba)
    back = np.linalg.inv(plane)
    # Pixel q lies at p = (q + ½) · 2 / side − 1.
    offset = (side / 2) * (back @ (np.full(2, 1 / side - 1) - shift) + 1) - 0.5
    solid = rgba * np.concatenate([np.repeat(rgba[..., 3:], 3, -1), np.ones_like(rgba[..., 3:])], -1)
    matrix = np.concatenate([back, offset[:, None]], 1)
    found = cv2.warpAffine(solid, matrix, (side, side), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)
    alpha = found[..., 3:]
    return np.concatenate([found[..., :3] / np.maximum(alpha, 1e-6), alpha], -1).clip(0, 1)


def _cells(cells: np.ndarray, plane: np.ndarray, shift: np.ndarray, scale: float, behind: float) -> np.ndarray:
    """Cells [C, C, D] whose places have gone where ``reshaped`` puts them."""
    side, depths = cells.shape[1:]
    axis = (np.arange(side) + 0.5) * (2 / side) - 1
    place = np.stack(np.meshgrid(axis, axis), -1)
    column, row = np.moveaxis(np.floor(((place - shift) @ np.linalg.inv(plane).T + 1) * (side / 2)), -1, 0).astype(int)
    depth = (((np.arange(depths) + 0.5) * (2 / depths) - 1 - behind) / scale + 1) * (depths / 2)
    layer = np.floor(depth).astype(int)
    known = (column >= 0) & (column < side) & (row >= 0) & (row < side)
    found = cells[row.clip(0, side - 1), column.clip(0, side - 1)][..., layer.clip(0, depths - 1)]
    return found * (known[..., None] & ((layer >= 0) & (layer < depths)))
