"""Outlines: the shortest cut along a picture's edges that agrees with the evidence at every pixel.

Lab colours are CIE L*a*b* (L 0–100); arrays are [h, w] or [h, w, 3] float32, masks [h, w] bool.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]
BoolArray = NDArray[np.bool_]

STEP = 0.35  # of both alternating steps; their product must stay below 1/8
# Passes by coarseness: far-reaching changes are made where they are cheap.
SCHEDULE = ((4, 80), (2, 60), (1, 60))
OBJECT_COLORS = 1500  # samples of the object; more change nothing
OBJECT_SPREAD = 15.0  # one picture length counts as this Lab difference: an object may repeat its colours anywhere


def to_lab(rgb: FloatArray) -> FloatArray:
    """sRGB [..., 3] in 0–1 → CIE L*a*b* [..., 3]."""
    import cv2

    flat = np.clip(rgb, 0, 1).astype(np.float32).reshape(1, -1, 3)
    return np.asarray(cv2.cvtColor(flat, cv2.COLOR_RGB2LAB), np.float32).reshape(rgb.shape)


def slope(pixels: FloatArray, sigma: float) -> FloatArray:
    """Steepest change per pixel, in any channel of [h, w, 3], after a Gaussian blur → [h, w]."""
    import cv2

    blurred = cv2.GaussianBlur(pixels, (0, 0), sigma)
    dx, dy = cv2.Scharr(blurred, -1, 1, 0) / 32, cv2.Scharr(blurred, -1, 0, 1) / 32
    return np.asarray(np.sqrt(dx * dx + dy * dy).reshape(*pixels.shape[:2], -1).max(axis=2), np.float32)


def edge_cost(lab: FloatArray, level: float) -> FloatArray:
    """What a pixel of outline costs: 2 on even ground, next to nothing on edges steeper than ``level`` → [h, w].

    With evidence of at most 1 a pixel, 2 lets details survive from a radius of four pixels even without an edge.
    """
    steepness = slope(lab, 0.7) / np.float32(level)
    return np.asarray(2.0 / (1 + steepness * steepness) + 0.03, np.float32)


def object_evidence(
    lab: FloatArray, unlike: FloatArray, examples: BoolArray, *, level: float, where: BoolArray | None = None
) -> FloatArray:
    """How much more each pixel looks like the object than like the background → [h, w] in −1…1.

    Args:
        lab: [h, w, 3].
        unlike: Lab difference from the background as it is expected at each pixel.
        examples: pixels that surely show the object; shadow among them would teach the wrong colours.
        level: differences below it are the background's own; above twice it no background is that far off, whether
            the object's colours are known or not.
        where: the pixels that ask; elsewhere the object's colours count as unknown.
    """
    from scipy.spatial import cKDTree

    height, width = examples.shape
    y, x = np.mgrid[0:height, 0:width].astype(np.float32) * np.float32(OBJECT_SPREAD / max(height, width))
    features = np.concatenate([lab, x[..., None], y[..., None]], axis=-1).reshape(-1, 5)
    known = sample(examples, OBJECT_COLORS)
    own = np.full(height * width, 2 * level)
    asking = np.arange(own.size) if where is None else np.flatnonzero(where)
    if len(known):  # a nearest neighbour beyond twice ``level`` makes no difference, so it is not searched for
        near, _ = cKDTree(features[known]).query(features[asking], distance_upper_bound=2 * level)
        own[asking] = np.clip(near, level, 2 * level)
    return np.clip((unlike - own.reshape(height, width)) / (1.3 * level), -1, 1).astype(np.float32)


def sample(where: BoolArray, count: int) -> NDArray[np.int64]:
    """At most ``count`` indices of the chosen pixels, the same ones every time → [n]."""
    index = np.flatnonzero(where)
    return np.random.default_rng(0).choice(index, min(count, len(index)), replace=False)


def least_cut(evidence: FloatArray, cost: FloatArray, start: BoolArray) -> BoolArray:
    """The region with the most evidence inside and the cheapest outline → [h, w].

    Minimises Σ cost·|∇u| − evidence·u over 0 ≤ u ≤ 1, which is convex and whose level sets are global minimisers
    of the same energy over regions (Chan, Esedoglu and Nikolova, 2006); solved by alternating steps on u and its dual
    (Chambolle and Pock, 2011), from coarse to fine.

    Args:
        evidence: positive where the object is, negative where it is not.
        cost: positive; of a unit of outline.
        start: a first guess. It decides how fast, not which, region is found.
    """
    import cv2

    height, width = evidence.shape
    u = start.astype(np.float32)
    for coarse, rounds in SCHEDULE:
        size = max(1, width // coarse), max(1, height // coarse)
        how = cv2.INTER_AREA if coarse >= SCHEDULE[0][0] else cv2.INTER_LINEAR
        u = np.asarray(cv2.resize(u, size, interpolation=how), np.float32)
        e = np.asarray(cv2.resize(evidence, size, interpolation=cv2.INTER_AREA), np.float32) * np.float32(coarse)
        g = np.asarray(cv2.resize(cost, size, interpolation=cv2.INTER_AREA), np.float32)
        u = _descend(e, g, u, rounds)
    return np.asarray(u > 0.5)


def _descend(evidence: FloatArray, cost: FloatArray, u: FloatArray, rounds: int) -> FloatArray:
    """``rounds`` alternating steps of ``least_cut`` at one size."""
    across, down, ahead = np.zeros_like(u), np.zeros_like(u), u
    push, limit = np.float32(STEP) * evidence, 1 / (cost * cost)
    for _ in range(rounds):
        across[:, :-1] += STEP * (ahead[:, 1:] - ahead[:, :-1])
        down[:-1] += STEP * (ahead[1:] - ahead[:-1])
        shorter = 1 / np.sqrt(np.maximum(1, (across * across + down * down) * limit))
        across *= shorter
        down *= shorter
        divergence = across + down
        divergence[:, 1:] -= across[:, :-1]
        divergence[1:] -= down[:-1]
        stepped = np.clip(u + STEP * divergence + push, 0, 1)
        ahead, u = 2 * stepped - u, stepped
    return u
