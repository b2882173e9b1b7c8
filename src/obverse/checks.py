"""Checks: what obverse noticed, with a number and a remedy: about an input before any long work, and at the end."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]

# Twelve sharp photos of objects measure 0.22 to 0.44; blurred by two pixels at 512 they measure 0.58 to 0.79.
BLUR_LIMIT = 0.65
# Studios and cloths measure 0 to 0.1, a saucer on a wooden table 0.21, portraits, rooms and workshops 0.39 to 0.55.
BUSY_LIMIT = 0.25
# Assets made of photos of objects measure 0.98 and more, of wires and perforated sheets 0.5 to 0.85.
OUTLINE_LIMIT = 0.9
# As the embedded model reads them: twelve photos reach 20; of 20 known objects 2 exceed it from 20°, 11 to 14 from 50°
# and more, where it never reads more than 36.
STEEP_DEG = 30.0


@dataclass(frozen=True)
class Check:
    """One thing worth knowing about a photo or its cut-out."""

    name: str  # kebab-case, e.g. "touches-border"
    value: float  # what was measured, in the unit the message names
    message: str  # the value, the rule it was held against, and what that means for the result
    remedy: str  # what to do about it
    severity: Literal["note", "warning"] = "warning"

    def __str__(self) -> str:
        return f"{self.name}: {self.message}; {self.remedy}"


@dataclass(frozen=True)
class Scene:
    """What the checks look at."""

    rgb: NDArray[np.float32]  # [H, W, 3]
    alpha: NDArray[np.float32]  # [H, W]
    matte: str  # how the cut-out was made
    confidence: float
    pitch_down_deg: float | None = None  # how far below the horizon the camera looked, where known


def check_subject(scene: Scene) -> tuple[Check, ...]:
    """Everything worth saying about a cut-out, most serious first → checks that fired."""
    solid = scene.alpha > 0.5
    found = [
        _touches_border(solid, scene.matte),
        _covers_everything(solid, scene.matte),
        _several_objects(solid),
        _too_small(solid),
        _low_contrast(scene, solid),
        _blurred(scene, solid),
        _looks_like_scene(scene, solid),
        _top_down(scene.pitch_down_deg),
        _doubtful(scene.confidence),
    ]
    return tuple(check for check in found if check is not None)


def _touches_border(solid: Mask, matte: str) -> Check | None:
    """Share of the picture's border that the object covers; a few pixels are a tight crop, more is a cut."""
    sides = {"top": solid[0], "bottom": solid[-1], "left": solid[:, 0], "right": solid[:, -1]}
    share = sum(int(side.sum()) for side in sides.values()) / sum(len(side) for side in sides.values())
    if matte == "none" or share <= 0.01:
        return None
    where = " and ".join(name for name, side in sides.items() if side.mean() > 0.01)
    return Check(
        "touches-border",
        round(share, 3),
        f"the object covers {100 * share:.1f} % of the picture's border ({where}), more than 1 %: it is probably cut "
        "off there, and the cut becomes a flat wall",
        "photograph it with a margin all around",
    )


def _covers_everything(solid: Mask, matte: str) -> Check | None:
    share = float(solid.mean())
    if matte == "none" or share <= 0.9:
        return None
    return Check(
        "covers-everything",
        round(share, 3),
        f"the cut-out covers {100 * share:.0f} % of the picture, more than 90 %: the background was probably taken in",
        "pass a mask or a box, or photograph the object from further away",
    )


def _several_objects(solid: Mask) -> Check | None:
    import cv2

    joined = cv2.morphologyEx(_small(solid), cv2.MORPH_CLOSE, np.ones((3, 3), np.uint8))
    _, _, stats, _ = cv2.connectedComponentsWithStats(joined, connectivity=8)
    areas = stats[1:, cv2.CC_STAT_AREA]
    count = int((areas >= 0.05 * areas.max()).sum()) if len(areas) else 0
    if count < 2:
        return None
    return Check(
        "several-objects",
        float(count),
        f"the cut-out has {count} separate parts of at least 5 % of the largest, more than 1: they become one asset, "
        "at guessed depths",
        "keep one object in the picture, or choose it with box or mask",
    )


def _too_small(solid: Mask) -> Check | None:
    rows, columns = np.flatnonzero(solid.any(axis=1)), np.flatnonzero(solid.any(axis=0))
    longest = int(max(np.ptp(rows), np.ptp(columns))) + 1 if len(rows) else 0
    if longest >= 128:
        return None
    return Check(
        "too-small",
        float(longest),
        f"the object is {longest} pixels long, fewer than 128: the texture will be coarse",
        "photograph it from nearer, or give the full-size photo",
    )


def _low_contrast(scene: Scene, solid: Mask) -> Check | None:
    """Median CIE76 colour difference between the strips just inside and just outside the outline."""
    import cv2

    if scene.matte in ("alpha", "none") or solid.all():
        return None
    rgb, mask = _small_rgb(scene.rgb), _small(solid)
    lab = np.asarray(cv2.cvtColor(rgb, cv2.COLOR_RGB2LAB), np.float32)
    square = np.ones((3, 3), np.uint8)
    inner = cv2.erode(mask, square, iterations=2) > 0
    outer = cv2.dilate(mask, square, iterations=2) == 0
    outline = (cv2.dilate(mask, square) > 0) & (mask == 0)
    front, a = _mean_nearby(lab, inner)
    back, b = _mean_nearby(lab, outer)
    seen = outline & (a > 0) & (b > 0)
    if not seen.any():
        return None
    contrast = float(np.median(np.linalg.norm(front[seen] - back[seen], axis=-1)))
    if contrast >= 15:
        return None
    return Check(
        "low-contrast",
        round(contrast, 1),
        f"object and background differ by {contrast:.1f} (CIE76) along the outline, less than 15: parts of the object "
        "may be missing, or background included",
        "photograph it before a background of another colour, or pass a mask",
    )


def _blurred(scene: Scene, solid: Mask) -> Check | None:
    """No-reference blur of Crete et al. (2007): how little a strong blur changes the picture; 0 sharp, 1 blurred."""
    import cv2

    rows, columns = np.flatnonzero(solid.any(axis=1)), np.flatnonzero(solid.any(axis=0))
    if not len(rows):
        return None
    window = (slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1))
    rgb, mask = scene.rgb[window], solid[window].astype(np.uint8)
    scale = 768 / max(mask.shape)
    if scale < 1:  # finer detail than that is not used
        size = max(1, round(mask.shape[1] * scale)), max(1, round(mask.shape[0] * scale))
        rgb = np.asarray(cv2.resize(rgb, size, interpolation=cv2.INTER_AREA), np.float32)
        mask = np.asarray(cv2.resize(mask, size, interpolation=cv2.INTER_NEAREST), np.uint8)
    grey = np.asarray(cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY), np.float32)
    inside = cv2.erode(mask, np.ones((5, 5), np.uint8), borderValue=0) > 0
    blur = 0.0
    for axis in (0, 1):
        soft = cv2.blur(grey, (1, 9) if axis == 0 else (9, 1))
        sharp_change, soft_change = np.abs(np.diff(grey, axis=axis)), np.abs(np.diff(soft, axis=axis))
        where = np.delete(inside, 0, axis=axis)
        total = float(sharp_change[where].sum())
        lost = float(np.maximum(sharp_change - soft_change, 0)[where].sum())
        blur = max(blur, 1 - lost / total if total > 1e-6 else 0.0)
    if blur <= BLUR_LIMIT:
        return None
    return Check(
        "blurred",
        round(blur, 2),
        f"the object's blur is {blur:.2f} (0 sharp, 1 no detail), more than {BLUR_LIMIT}: the texture will be soft",
        "focus on the object and hold the camera still, or give the full-size photo",
    )


def _looks_like_scene(scene: Scene, solid: Mask) -> Check | None:
    """Share of the picture's edges that lie outside the object, where that is a busy place."""
    import cv2

    if scene.matte in ("alpha", "none", "mask", "box") or solid.all():
        return None
    rgb = _small_rgb(scene.rgb, 96)  # the weave of a cloth averages out, furniture does not
    mask = cv2.resize(solid.astype(np.float32), (rgb.shape[1], rgb.shape[0]), interpolation=cv2.INTER_AREA) > 0.1
    outside = cv2.dilate(mask.astype(np.uint8), np.ones((3, 3), np.uint8)) == 0
    if outside.mean() < 0.05:
        return None
    grey = cv2.GaussianBlur(cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY), (0, 0), 0.8)
    dx, dy = cv2.Scharr(grey, -1, 1, 0) / 32, cv2.Scharr(grey, -1, 0, 1) / 32
    busy = float((np.hypot(dx, dy)[outside] > 0.03).mean())
    if busy <= BUSY_LIMIT:
        return None
    return Check(
        "looks-like-a-scene",
        round(busy, 2),
        f"edges cover {100 * busy:.0f} % of what lies around the object, more than {100 * BUSY_LIMIT:.0f} %: this "
        "looks like a scene, and the cut-out is a guess",
        "photograph one object before a plain background, or choose it with box or mask",
    )


def _top_down(pitch_down_deg: float | None) -> Check | None:
    if pitch_down_deg is None or pitch_down_deg <= 45:
        return None
    return Check(
        "top-down-view",
        round(pitch_down_deg, 1),
        f"the camera looked {pitch_down_deg:.0f} degrees down, more than 45: the object's front is hardly seen, and "
        "its top will be taken for it",
        "photograph it from about its own height",
    )


def _doubtful(confidence: float) -> Check | None:
    if confidence >= 0.5:
        return None
    return Check(
        "doubtful-cut-out",
        round(confidence, 2),
        f"the cut-out's estimated confidence is {confidence:.2f}, less than 0.5",
        "look at the cut-out, and pass a mask or a box if it is wrong",
    )


def _small(mask: Mask) -> NDArray[np.uint8]:
    """A mask at no more than 384 pixels a side, as bytes."""
    import cv2

    scale = min(1.0, 384 / max(mask.shape))
    size = max(1, round(mask.shape[1] * scale)), max(1, round(mask.shape[0] * scale))
    return (cv2.resize(mask.astype(np.float32), size, interpolation=cv2.INTER_AREA) > 0.5).astype(np.uint8)


def _small_rgb(rgb: NDArray[np.float32], side: int = 384) -> NDArray[np.float32]:
    """A picture at no more than ``side`` pixels a side."""
    import cv2

    scale = min(1.0, side / max(rgb.shape[:2]))
    size = max(1, round(rgb.shape[1] * scale)), max(1, round(rgb.shape[0] * scale))
    return np.asarray(cv2.resize(rgb, size, interpolation=cv2.INTER_AREA), np.float32)


def _mean_nearby(values: NDArray[np.float32], where: Mask) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Mean of the chosen pixels in a 9×9 window → [h, w, 3], and their share of it [h, w]."""
    import cv2

    weight = where.astype(np.float32)
    share = np.asarray(cv2.blur(weight, (9, 9)), np.float32)
    total = np.asarray(cv2.blur(values * weight[..., None], (9, 9)), np.float32)
    return np.asarray(total / np.maximum(share, np.float32(1e-6))[..., None], np.float32), share


def outline_lost(overlap: float) -> Check | None:
    """What is said when the mesh does not repeat the cut-out's outline: the only thing the photo proves about shape."""
    if overlap >= OUTLINE_LIMIT:
        return None
    return Check(
        "outline-lost",
        overlap,
        f"the asset's outline overlaps the cut-out's by {100 * overlap:.0f} %, less than {100 * OUTLINE_LIMIT:.0f} %: "
        "parts of the object are finer than the surface grid, or were lost in simplification",
        "raise the resolution and the number of faces, or crop closer to the object",
    )


def read_as_steep(elevation_deg: float | None) -> Check | None:
    """What is said when a model that reads the camera's elevation off the photo reads more than it is good at."""
    if elevation_deg is None or elevation_deg <= STEEP_DEG:
        return None
    return Check(
        "read-as-steep",
        elevation_deg,
        f"the model reads the camera as looking down by {elevation_deg:.0f} degrees, more than {STEEP_DEG:.0f}: it may "
        "have looked down by far more, and then the object's top is taken for its front",
        "if so, photograph it from about its own height",
        severity="note",
    )


def more_faces(faces: int, asked: int) -> Check | None:
    """What is said when the shape has too many handles and parts for the number of faces asked for."""
    if faces <= 1.05 * asked:
        return None
    return Check(
        "more-faces",
        faces,
        f"the mesh has {faces} triangles, {asked} were asked for: its handles and separate parts need them",
        "accept them, or fill small holes of the cut-out with a mask",
        severity="note",
    )
