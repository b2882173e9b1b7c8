"""Studio backgrounds: cut-outs from a model of a plain, shaded or vignetted backdrop with soft shadows.

Pictures are [H, W, 3] float32 in 0–1, sRGB; masks [H, W] bool.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .matte import (
    WORK_SIDE,
    BoolArray,
    FloatArray,
    Matte,
    distance,
    edge_support,
    local_mean,
    reached,
    refine,
    ring_mask,
    shrink,
    solidity,
    tidy,
)

# From cautious to bold: where the background's light may change (on flat parts, or at blurred edges too), how dark a
# shadow may be, and whether what is left of soft shadow tails is taken in.
TRIALS = (
    ("flat", 0.85, False),
    ("flat", 0.4, False),
    ("blurred", 0.7, False),
    ("blurred", 0.4, False),
    ("blurred", 0.4, True),
)


# --------------------------------------------------------------------------------------- studio backgrounds


@dataclass(frozen=True)
class Studio:
    """A smooth background fitted to a small picture."""

    rgb: FloatArray  # [h, w, 3] the small picture
    field: FloatArray  # [h, w, 3] the background's colour at every pixel
    background: BoolArray  # [h, w] where it is seen, shadows included
    noise: float  # its grain: standard deviation of colour differences
    explained: float  # share of the border ring that the model explains, 0–1
    steepest: float  # 95th percentile of the background's colour change per pixel, on the border ring
    score: float  # how well the outline lies on edges, 0–1

    @property
    def fits(self) -> bool:
        """Whether the background is plain or shaded enough for the model to be trusted."""
        return self.explained > 0.6 and self.noise < 0.07 and self.steepest < 0.02


def border_matte(rgb: FloatArray, *, studio: Studio | None = None) -> Matte:
    """Cut the object out of a plain, shaded or vignetted background → Matte.

    The background is a polynomial surface in x and y fitted to the border ring, then grown inwards over pixels that
    match it, or that differ from it as a shadow does (darker, same chroma, reached through a soft edge). Enclosed
    regions that match it, such as the hole of a handle, are background too.
    """
    studio = studio or fit_studio(rgb)
    mask = tidy(~studio.background)
    if not mask.any():
        return Matte(np.zeros(rgb.shape[:2], np.float32), "border", 0.0)
    alpha = refine(rgb, mask, field=studio.field, noise=studio.noise)
    confidence = edge_support(studio.rgb, mask) * min(1.0, studio.explained / 0.75) * min(1.0, studio.score / 0.8)
    return Matte(alpha, "border", confidence)


def fit_studio(rgb: FloatArray) -> Studio:
    """Model the background of [H, W, 3] from its border, and find where it is seen → Studio.

    How far a shadow may go cannot be told in advance: a grey object in its own grey shadow has no edge there. So the
    background is grown by several rules, from cautious to bold, and the outline that lies best on edges is kept.
    """
    small = shrink(rgb, WORK_SIDE)
    basis = _polynomials(*small.shape[:2])
    ring = ring_mask(*small.shape[:2])
    field, inlier = _robust_surface(small, basis[..., :6], ring)
    explained = float((distance(small[ring], field[ring]) < 0.08).mean())
    terrain = _terrain(small, inlier)
    sure = inlier
    for terms in (6, 10, 15):
        sure = _eroded(_grow(_compare(small, field), inlier, terrain, "flat", 0.85))
        if sure.sum() < 4 * terms:
            break
        field = _trimmed_surface(small, basis[..., :terms], sure)
    field = _with_local_shading(small, field, sure)
    match = _compare(small, field)
    noise = _spread(match.apart[sure])
    best, best_score = inlier, -1.0
    largest = 0
    for smooth, darkest, tails in TRIALS:
        background = _grow(match, inlier, terrain, smooth, darkest)
        if tails:
            background |= _contact_shadow(match, background, terrain)
        background |= _holes(match.apart, background, terrain, float(np.clip(4 * noise, 0.02, 0.05)))
        area = int((~background).sum())
        largest = max(largest, area)  # the first trial is the most cautious
        score = solidity(~background) * _on_edges(~background, terrain.sharp) * area / max(largest, 1)
        if score > best_score:
            best, best_score = background, score
    return Studio(small, field, _up_to_edge(small, best), noise, explained, terrain.steepest, best_score)


@dataclass(frozen=True)
class _Terrain:
    """Where a small picture is level and where it has edges; all [h, w]."""

    slope: FloatArray  # colour change per pixel
    edge: float  # slope above which something other than the background's own shading begins
    steepest: float  # 95th percentile of the slope on the background's part of the border
    flat: BoolArray  # below ``edge``
    blurred: BoolArray  # as soft as the edge of a penumbra, which no object in focus has
    calm: BoolArray  # no steeper than the background's own grain
    sharp: BoolArray  # on an edge in focus
    grain: float  # standard deviation of the background's pixel noise


def _terrain(rgb: FloatArray, seed: BoolArray) -> _Terrain:
    import cv2

    slope, coarse = _slope(rgb, 0.8), _slope(rgb, 2.5)
    steepest = float(np.percentile(slope[seed], 95)) if seed.any() else 1.0
    edge = float(np.clip(2.5 * steepest, 0.009, 0.03))
    blurred = (slope < 1.5 * coarse) & (slope < 0.08)
    mean = np.asarray(cv2.GaussianBlur(rgb, (0, 0), 2.0), np.float32)
    grain = _spread(distance(rgb[seed], mean[seed]))
    calm = slope < max(edge, 2.5 * steepest)
    return _Terrain(slope, edge, steepest, slope < edge, blurred, calm, (slope > edge) & ~blurred, grain)


@dataclass(frozen=True)
class _Match:
    """How each pixel compares with the modelled background; all [h, w]."""

    apart: FloatArray  # colour difference
    shaded_apart: FloatArray  # colour difference left after the best darkening or lightening of the background
    factor: FloatArray  # that darkening


def _compare(rgb: FloatArray, field: FloatArray) -> _Match:
    ones = np.ones(3, np.float32)
    factor = ((rgb * field) @ ones) / np.maximum((field * field) @ ones, np.float32(1e-4))
    return _Match(distance(rgb, field), distance(rgb, field * factor[..., None]), factor)


def _on_edges(mask: BoolArray, edges: BoolArray) -> float:
    """Share of a mask's outline with an edge within three pixels."""
    import cv2

    outline = mask & ~_eroded(mask)
    near = cv2.dilate(edges.astype(np.uint8), np.ones((7, 7), np.uint8)) > 0
    return float(near[outline].mean()) if outline.any() else 0.0


def _spread(residual: FloatArray) -> float:
    """Robust standard deviation of colour differences."""
    return max(float(1.4826 * np.median(residual)), 0.004) if residual.size else 1.0


def _eroded(mask: BoolArray) -> BoolArray:
    """A mask without its outermost pixels (the picture's border is not an edge)."""
    import cv2

    return np.asarray(cv2.erode(mask.astype(np.uint8), np.ones((3, 3), np.uint8), borderValue=1) > 0)


def _polynomials(height: int, width: int) -> FloatArray:
    """Monomials of x, y in −1…1 up to degree 4, by degree → [h, w, 15]."""
    y, x = np.linspace(-1, 1, height)[:, None], np.linspace(-1, 1, width)[None]
    basis = np.empty((height, width, 15), np.float32)
    for i, (px, py) in enumerate((degree - j, j) for degree in range(5) for j in range(degree + 1)):
        basis[..., i] = x**px * y**py
    return basis


def _surface(rgb: FloatArray, basis: FloatArray, where: BoolArray) -> FloatArray:
    """Least-squares polynomial surface through the pixels ``where`` → [h, w, 3]."""
    index = np.flatnonzero(where)
    index = index[:: max(1, len(index) // 8000)]  # a smooth surface needs no more
    a = basis.reshape(-1, basis.shape[-1])[index].astype(np.float64)
    b = rgb.reshape(-1, 3)[index].astype(np.float64)
    gram = a.T @ a + 1e-4 * len(a) * np.diag([0.0] + [1.0] * (a.shape[1] - 1))  # ridge: never wild where it saw nothing
    field = basis @ np.linalg.lstsq(gram, a.T @ b, rcond=None)[0].astype(np.float32)
    return np.clip(field, 0, 1)


def _trimmed_surface(rgb: FloatArray, basis: FloatArray, where: BoolArray) -> FloatArray:
    """Fit, drop what lies far off (shadows), fit again → [h, w, 3]."""
    field = _surface(rgb, basis, where)
    for _ in range(2):
        residual = distance(rgb, field)
        near = where & (residual < max(0.02, 2.5 * _spread(residual[where])))
        field = _surface(rgb, basis, near if near.sum() >= 4 * basis.shape[-1] else where)
    return field


def _robust_surface(rgb: FloatArray, basis: FloatArray, ring: BoolArray) -> tuple[FloatArray, BoolArray]:
    """Fit the ring while leaving out what does not belong (an object cut by the border) → field, ring inliers."""
    inlier = ring & (distance(rgb, np.median(rgb[ring], axis=0)) < 0.35)
    field = rgb
    for _ in range(6):
        field = _surface(rgb, basis, inlier if inlier.sum() >= 12 else ring)
        residual = distance(rgb, field)
        scale = 1.4826 * float(np.median(residual[ring]))
        inlier = ring & (residual < np.clip(3 * scale, 0.02, 0.25))
    return field, inlier


def _slope(rgb: FloatArray, sigma: float) -> FloatArray:
    """Steepest colour change per pixel, any channel, after a Gaussian blur → [h, w]."""
    import cv2

    blurred = cv2.GaussianBlur(rgb, (0, 0), sigma)
    dx, dy = cv2.Scharr(blurred, -1, 1, 0) / 32, cv2.Scharr(blurred, -1, 0, 1) / 32
    return np.sqrt(dx * dx + dy * dy).reshape(*rgb.shape[:2], -1).max(axis=2)


def _grow(match: _Match, seed: BoolArray, terrain: _Terrain, smooth: str, darkest: float) -> BoolArray:
    """Background reached from ``seed`` without crossing an edge → [h, w].

    Where the picture is no more than grainy, pixels like the model pass; where it is smooth, so do pixels shaded like
    it, down to ``darkest`` times its colour.
    """
    import cv2

    passing = terrain.flat if smooth == "flat" else terrain.flat | terrain.blurred
    plain = terrain.calm & (match.apart < np.clip(4 * terrain.grain, 0.015, 0.07))
    shaded = passing & (match.shaded_apart < 0.1) & (match.factor > darkest) & (match.factor < 1.3)
    passable = cv2.morphologyEx((plain | shaded).astype(np.uint8), cv2.MORPH_OPEN, np.ones((3, 3), np.uint8)) > 0
    return reached(passable | seed, seed)


def _with_local_shading(rgb: FloatArray, field: FloatArray, background: BoolArray) -> FloatArray:
    """Add what the polynomial misses, averaged over a twelfth of the picture, where background is seen → [h, w, 3]."""
    import cv2

    sure = (background & (distance(rgb, field) < 0.06)).astype(np.float32)
    sigma = max(rgb.shape[:2]) / 24
    weight = cv2.GaussianBlur(sure, (0, 0), sigma)
    missed = cv2.GaussianBlur((rgb - field) * sure[..., None], (0, 0), sigma)
    return np.clip(field + missed / (weight + 0.05)[..., None], 0, 1).astype(np.float32)


def _contact_shadow(match: _Match, background: BoolArray, terrain: _Terrain) -> BoolArray:
    """Darker background that ends more steeply: what borders on the rest of it, and thin soft tails → [h, w]."""
    import cv2

    dark = (match.shaded_apart < 0.05) & (match.factor > 0.3) & (match.factor < 0.88)
    soft = (dark & (terrain.slope < 1.3 * terrain.edge)).astype(np.uint8)
    shadow = cv2.morphologyEx(soft, cv2.MORPH_OPEN, np.ones((3, 3), np.uint8)) > 0
    shadow = reached(shadow | background, background)
    disc = np.asarray(cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (11, 11)), np.uint8)
    thick = cv2.morphologyEx((~shadow).astype(np.uint8), cv2.MORPH_OPEN, disc) > 0
    return shadow | (dark & (terrain.slope < 4 * terrain.edge) & ~thick)


def _up_to_edge(rgb: FloatArray, background: BoolArray) -> BoolArray:
    """Take in the last pixels of background, which the slope of the object's edge had kept away → [h, w]."""
    import cv2

    for _ in range(3):
        back, share = local_mean(rgb, background, 7)
        near = cv2.dilate(background.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
        background = background | (near & (share > 0) & (distance(rgb, back) < 0.03))
    return background


def _holes(apart: FloatArray, background: BoolArray, terrain: _Terrain, tolerance: float) -> BoolArray:
    """Enclosed regions that show the background: they match it closely and end at a crisp edge → [h, w]."""
    import cv2

    unreached = ((apart < tolerance) & ~background).astype(np.uint8)
    matching = cv2.morphologyEx(unreached, cv2.MORPH_OPEN, np.ones((3, 3), np.uint8))
    count, labels, stats, _ = cv2.connectedComponentsWithStats(matching, connectivity=4)
    contrast, sharp = cv2.dilate(apart, np.ones((5, 5))), cv2.dilate(terrain.sharp.astype(np.uint8), np.ones((5, 5)))
    open_ones = np.zeros(count, bool)
    for i in range(1, count):
        if stats[i, cv2.CC_STAT_AREA] < 16:
            continue
        x, y, w, h = (int(v) for v in stats[i, :4])
        window = (slice(max(y - 3, 0), y + h + 3), slice(max(x - 3, 0), x + w + 3))
        inside = (labels[window] == i).astype(np.uint8)
        rim = (cv2.dilate(inside, np.ones((7, 7), np.uint8)) > 0) & (inside == 0)
        if rim.any():
            differs = float(np.percentile(contrast[window][rim], 20)) > max(0.08, 2.5 * tolerance)
            open_ones[i] = differs and float(np.mean(sharp[window][rim])) > 0.7
    return open_ones[labels]
