"""Cut-outs: which pixels of a photo are the object, as a soft alpha.

Two methods need no other package than OpenCV. ``border_matte`` models a studio background (plain, shaded, with soft
shadows) from the picture's border inwards; ``grabcut_matte`` separates colours for everything else. Both decide at a
small size, where it is cheap, and ``refine`` redraws the edge at full resolution.

Pictures are [H, W, 3] float32 in 0–1, sRGB; alphas [H, W] float32 in 0–1; masks [H, W] bool.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .errors import WeightsError, need

FloatArray = NDArray[np.float32]
BoolArray = NDArray[np.bool_]

WORK_SIDE = 384  # longest side at which objects are found
# From cautious to bold: where the background's light may change (on flat parts, or at blurred edges too), how dark a
# shadow may be, and whether what is left of soft shadow tails is taken in.
TRIALS = (
    ("flat", 0.85, False),
    ("flat", 0.4, False),
    ("blurred", 0.7, False),
    ("blurred", 0.4, False),
    ("blurred", 0.4, True),
)
BORDER = 0.03  # width of the border ring that is taken for background, of the shorter side


@dataclass(frozen=True)
class Matte:
    """A cut-out and how far to trust it."""

    alpha: FloatArray  # [H, W]
    kind: str
    confidence: float  # 0–1


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
    mask = _tidy(~studio.background)
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
    import cv2

    small = shrink(rgb, WORK_SIDE)
    basis = _polynomials(*small.shape[:2])
    ring = ring_mask(*small.shape[:2])
    field, inlier = _robust_surface(small, basis[..., :6], ring)
    explained = float((_distance(small, field)[ring] < 0.08).mean())
    slope, coarse = _slope(small, 0.8), _slope(small, 2.5)
    steepest = float(np.percentile(slope[inlier], 95)) if inlier.any() else 1.0
    edge = float(np.clip(2.5 * steepest, 0.009, 0.03))
    grain = _spread(_distance(small, np.asarray(cv2.GaussianBlur(small, (0, 0), 2.0), np.float32))[inlier])
    flat = slope < edge
    blurred = (slope < 1.5 * coarse) & (slope < 0.05)  # the edge of a penumbra, not of an object in focus
    calm = slope < max(edge, 2.5 * steepest)
    for terms in (6, 10, 15):
        sure = _eroded(_grow(small, field, ring & inlier, flat, calm, grain=grain, darkest=0.85))
        if sure.sum() < 4 * terms:
            break
        field = _trimmed_surface(small, basis[..., :terms], sure)
    best, best_score = ring & inlier, -1.0
    field = _with_local_shading(small, field, sure)
    noise = _spread(_distance(small, field)[sure])
    tolerance = float(np.clip(4 * noise, 0.02, 0.05))
    trials = []
    for smooth, darkest, tails in TRIALS:
        passing = flat if smooth == "flat" else flat | blurred
        background = _grow(small, field, ring & inlier, passing, calm, grain=grain, darkest=darkest)
        if tails:
            background |= _contact_shadow(small, field, background, slope, edge)
        background |= _holes(small, field, background, tolerance)
        trials.append(_up_to_edge(small, background))
    largest = max(int((~background).sum()) for background in trials)
    sharp = (slope > edge) & ~blurred
    for background in trials:
        score = _solidity(~background) * _on_edges(~background, sharp) * float((~background).sum()) / max(largest, 1)
        if score > best_score:
            best, best_score = background, score
    return Studio(small, field, best, noise, explained, steepest, best_score)


def _solidity(mask: BoolArray) -> float:
    """Share of a mask that is more than a few pixels thick: near 0 for the hollow outline left by a leak."""
    import cv2

    thick = cv2.morphologyEx(mask.astype(np.uint8), cv2.MORPH_OPEN, np.ones((5, 5), np.uint8))
    return float(thick.sum() / max(int(mask.sum()), 1))


def _on_edges(mask: BoolArray, edges: BoolArray) -> float:
    """Share of a mask's outline with an edge within two pixels."""
    import cv2

    outline = mask & ~_eroded(mask)
    near = cv2.dilate(edges.astype(np.uint8), np.ones((5, 5), np.uint8)) > 0
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
    y, x = np.meshgrid(np.linspace(-1, 1, height), np.linspace(-1, 1, width), indexing="ij")
    terms = [x ** (degree - j) * y**j for degree in range(5) for j in range(degree + 1)]
    return np.stack(terms, axis=-1).astype(np.float32)


def ring_mask(height: int, width: int) -> BoolArray:
    """The border ring, at least two pixels wide where the picture allows → [h, w]."""
    band = max(2, round(BORDER * min(height, width)))
    ring = np.ones((height, width), bool)
    ring[band : height - band, band : width - band] = False
    return ring


def _surface(rgb: FloatArray, basis: FloatArray, where: BoolArray) -> FloatArray:
    """Least-squares polynomial surface through the pixels ``where`` → [h, w, 3]."""
    a, b = basis[where].astype(np.float64), rgb[where].astype(np.float64)
    gram = a.T @ a + 1e-4 * len(a) * np.diag([0.0] + [1.0] * (a.shape[1] - 1))  # ridge: never wild where it saw nothing
    field = basis @ np.linalg.lstsq(gram, a.T @ b, rcond=None)[0].astype(np.float32)
    return np.clip(field, 0, 1)


def _trimmed_surface(rgb: FloatArray, basis: FloatArray, where: BoolArray) -> FloatArray:
    """Fit, drop what lies far off (shadows), fit again → [h, w, 3]."""
    field = _surface(rgb, basis, where)
    for _ in range(2):
        residual = _distance(rgb, field)
        near = where & (residual < max(0.02, 2.5 * _spread(residual[where])))
        field = _surface(rgb, basis, near if near.sum() >= 4 * basis.shape[-1] else where)
    return field


def _robust_surface(rgb: FloatArray, basis: FloatArray, ring: BoolArray) -> tuple[FloatArray, BoolArray]:
    """Fit the ring while leaving out what does not belong (an object cut by the border) → field, ring inliers."""
    inlier = ring & (_distance(rgb, np.median(rgb[ring], axis=0)) < 0.35)
    field = rgb
    for _ in range(6):
        field = _surface(rgb, basis, inlier if inlier.sum() >= 12 else ring)
        residual = _distance(rgb, field)
        scale = 1.4826 * float(np.median(residual[ring]))
        inlier = ring & (residual < np.clip(3 * scale, 0.02, 0.25))
    return field, inlier


def _distance(rgb: FloatArray, other: FloatArray) -> FloatArray:
    """Euclidean colour difference → [...]."""
    difference = rgb - other
    return np.sqrt(np.einsum("...c,...c->...", difference, difference))


def _shadow_distance(rgb: FloatArray, field: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Colour difference left after the best darkening or lightening of the background → distance, factor."""
    factor = np.einsum("...c,...c->...", rgb, field) / np.maximum(np.einsum("...c,...c->...", field, field), 1e-4)
    return _distance(rgb, field * factor[..., None]), factor


def _slope(rgb: FloatArray, sigma: float) -> FloatArray:
    """Steepest colour change per pixel, any channel, after a Gaussian blur → [h, w]."""
    import cv2

    blurred = cv2.GaussianBlur(rgb, (0, 0), sigma)
    dx, dy = cv2.Scharr(blurred, -1, 1, 0) / 32, cv2.Scharr(blurred, -1, 0, 1) / 32
    return np.sqrt(dx * dx + dy * dy).reshape(*rgb.shape[:2], -1).max(axis=2)


def _grow(
    rgb: FloatArray,
    field: FloatArray,
    seed: BoolArray,
    smooth: BoolArray,
    calm: BoolArray,
    *,
    grain: float,
    darkest: float,
) -> BoolArray:
    """Background reached from ``seed`` without crossing an edge → [h, w].

    Args:
        smooth: where light may change: background down to ``darkest`` times its modelled colour passes there.
        calm: where the picture is no more than grainy: only background like the model passes there.
    """
    import cv2

    plain = calm & (_distance(rgb, field) < np.clip(4 * grain, 0.015, 0.07))
    apart, factor = _shadow_distance(rgb, field)
    shaded = smooth & (apart < 0.1) & (factor > darkest) & (factor < 1.3)
    passable = cv2.morphologyEx((plain | shaded).astype(np.uint8), cv2.MORPH_OPEN, np.ones((3, 3), np.uint8)) > 0
    return _reached(passable | seed, seed)


def _with_local_shading(rgb: FloatArray, field: FloatArray, background: BoolArray) -> FloatArray:
    """Add what the polynomial misses, averaged over a twelfth of the picture, where background is seen → [h, w, 3]."""
    import cv2

    sure = (background & (_distance(rgb, field) < 0.06)).astype(np.float32)
    sigma = max(rgb.shape[:2]) / 24
    weight = cv2.GaussianBlur(sure, (0, 0), sigma)
    missed = cv2.GaussianBlur((rgb - field) * sure[..., None], (0, 0), sigma)
    return np.clip(field + missed / (weight + 0.05)[..., None], 0, 1).astype(np.float32)


def _contact_shadow(
    rgb: FloatArray, field: FloatArray, background: BoolArray, slope: FloatArray, edge: float
) -> BoolArray:
    """Darker background that ends more steeply: what borders on the rest of it, and thin soft tails → [h, w]."""
    import cv2

    apart, factor = _shadow_distance(rgb, field)
    dark = (apart < 0.05) & (factor > 0.3) & (factor < 0.88)
    soft = (dark & (slope < 1.3 * edge)).astype(np.uint8)
    shadow = cv2.morphologyEx(soft, cv2.MORPH_OPEN, np.ones((3, 3), np.uint8)) > 0
    shadow = _reached(shadow | background, background)
    thick = cv2.morphologyEx((~shadow).astype(np.uint8), cv2.MORPH_OPEN, _disc(5)) > 0
    return shadow | (dark & (slope < 4 * edge) & ~thick)


def _up_to_edge(rgb: FloatArray, background: BoolArray) -> BoolArray:
    """Take in the last pixels of background, which the slope of the object's edge had kept away → [h, w]."""
    import cv2

    for _ in range(3):
        back, share = _local_mean(rgb, background, 7)
        near = cv2.dilate(background.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
        background = background | (near & (share > 0) & (_distance(rgb, back) < 0.03))
    return background


def _disc(radius: int) -> NDArray[np.uint8]:
    import cv2

    return np.asarray(cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1)), np.uint8)


def _reached(region: BoolArray, seed: BoolArray) -> BoolArray:
    """The 4-connected parts of ``region`` that contain a seed."""
    import cv2

    _, labels = cv2.connectedComponents(region.astype(np.uint8), connectivity=4)
    keep = np.zeros(int(labels.max()) + 1, bool)
    keep[labels[seed & region]] = True
    keep[0] = False
    return keep[labels]


def _holes(rgb: FloatArray, field: FloatArray, background: BoolArray, tolerance: float) -> BoolArray:
    """Enclosed regions that show the background: they match it closely and end at a crisp edge → [h, w]."""
    import cv2

    apart = _distance(rgb, field)
    unreached = ((apart < tolerance) & ~background).astype(np.uint8)
    matching = cv2.morphologyEx(unreached, cv2.MORPH_OPEN, np.ones((3, 3), np.uint8))
    count, labels, stats, _ = cv2.connectedComponentsWithStats(matching, connectivity=4)
    open_ones = np.zeros(count, bool)
    for i in range(1, count):
        if stats[i, cv2.CC_STAT_AREA] < 16:
            continue
        x, y, w, h = (int(v) for v in stats[i, :4])
        window = (slice(max(y - 3, 0), y + h + 3), slice(max(x - 3, 0), x + w + 3))
        inside = (labels[window] == i).astype(np.uint8)
        rim = (cv2.dilate(inside, np.ones((7, 7), np.uint8)) > 0) & (inside == 0)
        crisp = float(np.percentile(cv2.dilate(apart[window], np.ones((5, 5)))[rim], 20)) if rim.any() else 0.0
        open_ones[i] = crisp > max(0.08, 2.5 * tolerance)
    return open_ones[labels]


# -------------------------------------------------------------------------------------- general backgrounds


def grabcut_matte(rgb: FloatArray, *, box: tuple[float, float, float, float] | None = None) -> Matte:
    """Cut the object out of any background with GrabCut (Rother, Kolmogorov and Blake, 2004) → Matte.

    Args:
        box: x, y, width, height in pixels of ``rgb``; everything outside it is background. Without it, the seed is
            what stands out from the border's colours, weighted towards the centre.
    """
    import cv2

    small = shrink(rgb, WORK_SIDE)
    height, width = small.shape[:2]
    kind = "grabcut" if box is None else "box"
    if height < 8 or width < 8:
        return Matte(np.zeros(rgb.shape[:2], np.float32), kind, 0.0)
    picture = (cv2.bilateralFilter(small, 5, 0.08, 3) * 255).round().astype(np.uint8)
    if box is None:
        trimap = _centre_seed(small)
    else:
        scale = width / rgb.shape[1]
        x0, y0 = round(box[0] * scale), round(box[1] * scale)
        x1, y1 = max(x0 + 1, round((box[0] + box[2]) * scale)), max(y0 + 1, round((box[1] + box[3]) * scale))
        trimap = np.full((height, width), cv2.GC_BGD, np.uint8)
        trimap[y0:y1, x0:x1] = cv2.GC_PR_FGD
    mask = previous = np.zeros((height, width), bool)
    models = np.zeros((1, 65)), np.zeros((1, 65))
    cv2.setRNGSeed(0)  # GrabCut starts with k-means
    for step, rounds in enumerate((3, 2, 2)):
        kinds = {int(v) & 1 for v in np.unique(trimap)}
        if len(kinds) < 2:
            break
        how = cv2.GC_INIT_WITH_MASK if step == 0 else cv2.GC_EVAL
        cv2.grabCut(picture, trimap, (0, 0, width, height), *models, rounds, how)
        previous, mask = mask, _without_highlights(small, _tidy((trimap & 1) > 0))
        trimap = _reseed(trimap, mask)
    if not mask.any():
        return Matte(np.zeros(rgb.shape[:2], np.float32), kind, 0.0)
    stable = float((mask & previous).sum() / max((mask | previous).sum(), 1))
    return Matte(refine(rgb, mask), kind, edge_support(small, mask) * stable * _solidity(mask))


def _without_highlights(rgb: FloatArray, mask: BoolArray) -> BoolArray:
    """Fill enclosed gaps that do not have the colour of the background nearby: highlights and markings → [h, w]."""
    import cv2

    count, labels, stats, _ = cv2.connectedComponentsWithStats((~mask).astype(np.uint8), connectivity=4)
    if count < 3:
        return mask
    rows, columns = labels[[0, -1]].ravel(), labels[:, [0, -1]].ravel()
    outside = np.isin(labels, np.union1d(rows, columns)) & ~mask
    if not outside.any():
        return mask
    lab = np.asarray(cv2.cvtColor(rgb, cv2.COLOR_RGB2LAB), np.float32)
    size = 2 * (max(mask.shape) // 6) + 1
    around, share = _local_mean(lab, outside, size)
    fill = np.zeros(count, bool)
    for i in range(1, count):
        gap = labels == i
        if outside[gap].any():
            continue
        apart = _distance(lab[gap], around[gap])[share[gap] > 0]
        fill[i] = stats[i, cv2.CC_STAT_AREA] < 12 or not apart.size or float(np.median(apart)) > 14
    return mask | fill[labels]


def _centre_seed(rgb: FloatArray) -> NDArray[np.uint8]:
    """GrabCut's first guess: the ring is background, what differs from its colours near the centre is the object."""
    import cv2

    height, width = rgb.shape[:2]
    ring = ring_mask(height, width)
    lab = np.asarray(cv2.cvtColor(cv2.GaussianBlur(rgb, (0, 0), 1.5), cv2.COLOR_RGB2LAB), np.float32)
    lab[..., 0] *= 0.5  # light varies over a background more than colour does
    samples = lab[ring]
    clusters = min(6, len(samples))
    criteria = (cv2.TERM_CRITERIA_EPS + cv2.TERM_CRITERIA_MAX_ITER, 10, 1.0)
    cv2.setRNGSeed(0)
    first = np.zeros((len(samples), 1), np.int32)
    _, labels, centres = cv2.kmeans(samples, clusters, first, criteria, 1, cv2.KMEANS_PP_CENTERS)
    share = np.bincount(np.asarray(labels).ravel(), minlength=clusters) / len(samples)
    centres = np.asarray(centres, np.float32)[share > 0.04]  # rarer colours may be the object's own, cut by the border
    apart = np.min([_distance(lab, centre) for centre in centres], axis=0)
    y, x = np.meshgrid(np.linspace(-1, 1, height), np.linspace(-1, 1, width), indexing="ij")
    radius2 = (x * x + y * y).astype(np.float32)
    otsu, _ = cv2.threshold(np.clip(apart * 2, 0, 255).astype(np.uint8), 0, 255, cv2.THRESH_OTSU)
    level = min(otsu / 2, max(6.0, 1.5 * float(np.percentile(apart[ring], 90))))
    unlike = apart > level
    central = unlike & (apart * np.exp(-radius2 / 0.9) > level)
    seed = np.full((height, width), cv2.GC_PR_BGD, np.uint8)
    seed[_reached(unlike, central)] = cv2.GC_PR_FGD
    if (seed == cv2.GC_PR_FGD).mean() < 0.01:
        seed[radius2 < 0.25] = cv2.GC_PR_FGD
    seed[ring] = cv2.GC_BGD
    return seed


def _reseed(trimap: NDArray[np.uint8], mask: BoolArray) -> NDArray[np.uint8]:
    """Give up the specks, and hold on to the heart of what remains, before the next pass."""
    import cv2

    result = np.where(trimap == cv2.GC_BGD, cv2.GC_BGD, np.where(mask, cv2.GC_PR_FGD, cv2.GC_PR_BGD)).astype(np.uint8)
    depth = cv2.distanceTransform(mask.astype(np.uint8), cv2.DIST_L2, 3)
    if depth.max() > 4:
        result[depth > 0.5 * depth.max()] = cv2.GC_FGD
    return result


def rembg_matte(rgb: FloatArray) -> Matte:
    """Cut out with the learned models of rembg, an optional package that fetches its own weights → Matte.

    Raises:
        MissingPackageError: rembg is not installed.
        WeightsError: rembg could not load or run its model.
    """
    from PIL import Image

    rembg = need("rembg", extra="matte", purpose="--matte rembg")
    image = Image.fromarray((rgb * 255).round().astype(np.uint8))
    try:
        result = rembg.remove(image, only_mask=True)
        alpha = np.asarray(result.convert("L").resize(image.size), np.float32) / np.float32(255)
    except Exception as error:  # downloads, ONNX sessions: anything may go wrong in there
        raise WeightsError(
            f"rembg failed ({type(error).__name__}: {error}); it downloads its model on first use, so run it once "
            "with a network, or use --matte grabcut"
        ) from error
    undecided = float(((alpha > 0.1) & (alpha < 0.9)).sum() / max((alpha > 0.1).sum(), 1))
    return Matte(alpha, "rembg", float(np.clip(1 - undecided, 0, 1)))


# ----------------------------------------------------------------------------------------------- the edge


def refine(rgb: FloatArray, mask: BoolArray, *, field: FloatArray | None = None, noise: float = 0.02) -> FloatArray:
    """Redraw the edge of a small mask at full resolution → alpha [H, W].

    Around the edge every pixel is a mixture of the object's and the background's colour nearby; alpha is the share
    that explains it best, α = (C − B)·(F − B) / |F − B|², and falls back on the upsampled mask where F and B are alike.

    Args:
        mask: [h, w] at any smaller size.
        field: [h, w, 3] the background's colour, where a model knows it.
        noise: standard deviation of the background's grain.
    """
    import cv2

    height, width = rgb.shape[:2]
    scale = max(height, width) / max(mask.shape)
    soft = cv2.resize(mask.astype(np.float32), (width, height), interpolation=cv2.INTER_LINEAR)
    soft = cv2.GaussianBlur(soft, (0, 0), max(0.6, 0.6 * scale))
    inside = (soft > 0.5).astype(np.uint8)
    reach = max(1.5, 1.5 * scale)
    sure_object = cv2.distanceTransform(inside, cv2.DIST_L2, 3) > reach
    sure_background = cv2.distanceTransform(1 - inside, cv2.DIST_L2, 3) > reach + 1
    size = 2 * round(3 * reach) + 1
    front, front_weight = _local_mean(rgb, sure_object, size)
    back, back_weight = _local_mean(rgb, sure_background, size)
    if field is not None:
        full = cv2.resize(field, (width, height), interpolation=cv2.INTER_LINEAR)
        seen = np.clip(back_weight * 8, 0, 1)[..., None]
        back = back * seen + full * (1 - seen)
        back_weight = np.ones_like(back_weight)
    axis = front - back
    length2 = np.einsum("...c,...c->...", axis, axis)
    mixed = np.einsum("...c,...c->...", rgb - back, axis) / np.maximum(length2, 1e-6)
    mixed = np.clip((mixed - 0.05) / 0.9, 0, 1)
    floor = max(0.05, 2 * noise) ** 2
    trust = length2 / (length2 + floor) * (front_weight > 0.01) * (back_weight > 0.01)
    alpha = trust * mixed + (1 - trust) * soft
    alpha[sure_object] = 1.0
    alpha[sure_background] = 0.0
    return np.clip(alpha, 0, 1).astype(np.float32)


def _local_mean(rgb: FloatArray, where: BoolArray, size: int) -> tuple[FloatArray, FloatArray]:
    """Mean colour of the chosen pixels in a size×size window → [H, W, 3], and their share of it [H, W]."""
    import cv2

    weight = where.astype(np.float32)
    share = np.asarray(cv2.blur(weight, (size, size), borderType=cv2.BORDER_REPLICATE), np.float32)
    total = np.asarray(cv2.blur(rgb * weight[..., None], (size, size), borderType=cv2.BORDER_REPLICATE), np.float32)
    return total / np.maximum(share, np.float32(1e-6))[..., None], share


# ------------------------------------------------------------------------------------------------- shared


def shrink(pixels: FloatArray, side: int) -> FloatArray:
    """Average [H, W, ...] down to at most ``side`` along the longest side."""
    import cv2

    height, width = pixels.shape[:2]
    scale = side / max(height, width)
    if scale >= 1:
        return pixels
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), dtype=np.float32)


def _tidy(mask: BoolArray) -> BoolArray:
    """Drop specks smaller than a hundredth of the largest part, and fill pinholes."""
    import cv2

    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    if count < 2:
        return mask
    area = stats[:, cv2.CC_STAT_AREA].copy()
    area[0] = 0
    keep = area >= max(4, 0.01 * area.max())
    mask = keep[labels]
    count, labels, stats, _ = cv2.connectedComponentsWithStats((~mask).astype(np.uint8), connectivity=4)
    fill = stats[:, cv2.CC_STAT_AREA] < 10
    fill[0] = False
    return mask | fill[labels]


def edge_support(rgb: FloatArray, mask: BoolArray) -> float:
    """Share of the outline along which the colours on its two sides differ → 0–1."""
    import cv2

    inside = mask.astype(np.uint8)
    kernel = np.ones((3, 3), np.uint8)
    outline = (cv2.dilate(inside, kernel) > 0) & ~mask
    if not outline.any():
        return 0.0
    front, a = _local_mean(rgb, cv2.erode(inside, kernel) > 0, 9)
    back, b = _local_mean(rgb, cv2.dilate(inside, kernel) == 0, 9)
    seen = outline & (a > 0) & (b > 0)
    if not seen.any():
        return 0.5
    difference = _distance(front[seen], back[seen])
    return float((difference / (difference + 0.06)).mean())
