"""Photo → Subject: the object cut out, cropped to a square, with clean colours and the checks that warn beforehand."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from . import matte as mattes
from .backdrop import border_matte, fit_studio
from .checks import Check, Scene, check_subject
from .errors import InputError, NoObjectError, UsageError
from .matte import FloatArray, Matte
from .pictures import Picture, Source, read_picture

__all__ = ["Check", "MatteKind", "Source", "Subject", "read_photo"]

MatteKind = Literal["auto", "alpha", "border", "grabcut", "rembg", "none"]
Box = tuple[float, float, float, float]

SMALLEST_CROP = 64
BLEED = 16  # pixels by which colours are carried outwards past the silhouette
SMALLEST_OBJECT = 0.0005  # of the picture's area; anything less is a speck


@dataclass(frozen=True)
class Subject:
    """One object, cut out of one photo. All tensors are float32 in 0–1, sRGB-encoded, with straight alpha."""

    rgba: Tensor  # [S, S, 4] the object, its longest side foreground_ratio · S; colours continue past its rim
    photo: Tensor  # [H, W, 3] the whole photo, upright and reduced
    alpha: Tensor  # [H, W] its cut-out
    crop: tuple[int, int, int]  # x, y (negative where the crop leaves the photo) and side, in pixels of ``photo``
    matte: str  # what made the cut-out: "alpha", "border", "grabcut", "rembg", "mask", "box" or "none"
    confidence: float  # 0–1, how far to trust the cut-out
    checks: tuple[Check, ...]
    source: Source

    def resized(self, size: int) -> Tensor:
        """The square at another size → [size, size, 4]; averages over areas, weighted by alpha.

        Raises:
            UsageError: ``size`` is not an integer from 1 to 8192.
        """
        if not isinstance(size, int) or not 1 <= size <= 8192:
            raise UsageError(f"size {size!r} must be an integer from 1 to 8192 pixels; 512 suits most uses")
        if size == self.rgba.shape[0]:
            return self.rgba
        return torch.from_numpy(_resample(self.rgba.numpy(), size))

    @property
    def cutout(self) -> Tensor:
        """The photo with everything but the object transparent → [H, W, 4], edge colours cleaned."""
        height, width = self.alpha.shape
        rgba = torch.cat([self.photo, self.alpha[..., None]], dim=-1)
        x, y, side = self.crop
        if side == self.rgba.shape[0]:  # the crop is a copy of pixels: put its cleaned colours back
            left, top, right, bottom = max(x, 0), max(y, 0), min(x + side, width), min(y + side, height)
            rgba[top:bottom, left:right, :3] = self.rgba[top - y : bottom - y, left - x : right - x, :3]
        return rgba * (rgba[..., 3:] > 0)


def read_photo(
    source: Any,
    *,
    matte: MatteKind = "auto",
    mask: Any = None,
    box: Box | None = None,
    foreground_ratio: float = 0.85,
    max_side: int = 2048,
) -> Subject:
    """Read a photo of one object and cut the object out → Subject.

    Args:
        source: path, bytes, binary file object, Pillow image, array [H, W(, C)] or tensor; see ``read_picture``.
        matte: how to cut out. "auto" uses the photo's own transparency if it has any, else a model of the
            background if that is plain or softly shaded, else GrabCut.
        mask: a picture of the same shape, white (or opaque) where the object is; overrides the cutting out.
        box: x, y, width, height around the object in pixels of the upright photo as given.
        foreground_ratio: the object's longest side in the square crop, as a share of the crop's side.
        max_side: photos and crops are reduced to at most this many pixels a side.

    Raises:
        UsageError: an option cannot be meant, or two exclude each other.
        InputError: the photo or the mask cannot be used.
        NoObjectError: nothing was found.
        MissingPackageError: HEIC or rembg without its package.
    """
    _check_options(matte, mask, box, foreground_ratio, max_side)
    picture = read_picture(source, max_side=max_side)
    cut = _cut_out(picture, matte, mask, box)
    bounds = _bounds(cut, picture)
    crop = _square(bounds, foreground_ratio)
    square = _crop_square(picture.rgb, cut, crop)
    size = min(max(crop[2], SMALLEST_CROP), max_side)
    if size != crop[2]:
        square = _resample(square, size)
    scene = Scene(picture.rgb, cut.alpha, cut.kind, cut.confidence, picture.pitch_down_deg)
    return Subject(
        rgba=torch.from_numpy(square),
        photo=torch.from_numpy(picture.rgb),
        alpha=torch.from_numpy(cut.alpha),
        crop=crop,
        matte=cut.kind,
        confidence=round(cut.confidence, 3),
        checks=(*picture.notes, *check_subject(scene)),
        source=picture.source,
    )


def _check_options(matte: str, mask: object, box: object, foreground_ratio: float, max_side: int) -> None:
    """Raise UsageError for options that cannot be meant."""
    if matte not in get_args(MatteKind):
        raise UsageError(f"matte {matte!r} is not known; choose one of {', '.join(get_args(MatteKind))}")
    if mask is not None and box is not None:
        raise UsageError("mask and box were both given, and each says where the object is; give one of them")
    if (mask is not None or box is not None) and matte not in ("auto", "grabcut" if mask is None else "auto"):
        raise UsageError(
            f"matte {matte!r} and {'mask' if mask is not None else 'box'} exclude each other; leave matte at 'auto'"
        )
    if box is not None:
        try:
            x, y, w, h = (float(v) for v in box)  # type: ignore[attr-defined]
        except (TypeError, ValueError) as error:
            raise UsageError(f"box {box!r} must be four numbers x, y, width, height in pixels") from error
        if not all(math.isfinite(v) for v in (x, y, w, h)) or w < 1 or h < 1:
            raise UsageError(f"box {box!r} must be finite, with width and height of at least 1 pixel")
    ratio_fits = isinstance(foreground_ratio, (int, float)) and 0.1 <= foreground_ratio <= 1
    if not ratio_fits:
        raise UsageError(f"foreground_ratio {foreground_ratio!r} must be from 0.1 to 1; 0.85 suits every method")
    if not isinstance(max_side, int) or isinstance(max_side, bool) or not SMALLEST_CROP <= max_side <= 8192:
        raise UsageError(f"max_side {max_side!r} must be an integer from {SMALLEST_CROP} to 8192 pixels; 2048 is usual")


# --------------------------------------------------------------------------------------------- cutting out


def _cut_out(picture: Picture, matte: str, mask: Any, box: Box | None) -> Matte:
    """Choose and run the way to cut out."""
    if mask is not None:
        return _from_mask(picture, mask)
    if box is not None:
        return mattes.grabcut_matte(picture.rgb, box=_scaled_box(picture, box))
    if matte == "none":
        return Matte(np.ones(picture.rgb.shape[:2], np.float32), "none", 1.0)
    if matte == "alpha" or (matte == "auto" and picture.alpha is not None and _has_meaning(picture.alpha)):
        if picture.alpha is None or not _has_meaning(picture.alpha):
            what = "no alpha channel" if picture.alpha is None else "an alpha channel that is opaque everywhere"
            raise InputError(f"{picture.source.name} has {what}; use matte 'auto' to have the object cut out")
        return Matte(picture.alpha, "alpha", 1.0)
    if matte == "rembg":
        return mattes.rembg_matte(picture.rgb)
    if matte == "grabcut":
        return mattes.grabcut_matte(picture.rgb)
    studio = fit_studio(picture.rgb)
    if matte == "auto" and not studio.fits:
        return mattes.grabcut_matte(picture.rgb)
    cut = border_matte(picture.rgb, studio=studio)
    if matte == "border" or cut.confidence > 0.5:
        return cut
    other = mattes.grabcut_matte(picture.rgb)
    both = np.minimum(cut.alpha, other.alpha).sum() / max(float(np.maximum(cut.alpha, other.alpha).sum()), 1e-6)
    best = other if other.confidence > cut.confidence else cut
    return replace(
        best, confidence=best.confidence * (1 + float(both)) / 2
    )  # one of the two is wrong where they differ


def _has_meaning(alpha: FloatArray) -> bool:
    """Whether an alpha channel says where the object is: some of the picture is see-through."""
    return bool((alpha < 0.5).mean() > 0.001)


def _from_mask(picture: Picture, mask: Any) -> Matte:
    """A cut-out made elsewhere, brought to the photo's size."""
    import cv2

    try:
        drawn = read_picture(mask, max_side=max(picture.rgb.shape[:2]), allow_bool=True)
    except InputError as error:
        raise InputError(f"the mask cannot be used: {error}") from error
    given, wanted = drawn.source, picture.source
    if abs(math.log(given.width / given.height * wanted.height / wanted.width)) > 0.03:
        raise InputError(
            f"the mask is {given.width}x{given.height} and the photo {wanted.width}x{wanted.height}; "
            "they must show the same frame: export the mask at the photo's size"
        )
    alpha = drawn.alpha if drawn.alpha is not None and _has_meaning(drawn.alpha) else drawn.rgb.mean(axis=2)
    height, width = picture.rgb.shape[:2]
    if alpha.shape != (height, width):
        how = cv2.INTER_AREA if alpha.shape[0] > height else cv2.INTER_LINEAR
        alpha = cv2.resize(alpha, (width, height), interpolation=how)
    return Matte(np.ascontiguousarray(alpha, dtype=np.float32), "mask", 1.0)


def _scaled_box(picture: Picture, box: Box) -> Box:
    """A box in pixels of the given photo → in pixels of the reduced one, cut to it."""
    height, width = picture.rgb.shape[:2]
    fx, fy = width / picture.source.width, height / picture.source.height
    x0, y0 = max(0.0, box[0] * fx), max(0.0, box[1] * fy)
    x1, y1 = min(float(width), (box[0] + box[2]) * fx), min(float(height), (box[1] + box[3]) * fy)
    if x1 - x0 < 1 or y1 - y0 < 1:
        raise UsageError(
            f"box {tuple(box)} lies outside the photo, which is {picture.source.width}x{picture.source.height}; "
            "give x, y, width, height in its pixels, from the top left"
        )
    return x0, y0, x1 - x0, y1 - y0


def _bounds(cut: Matte, picture: Picture) -> tuple[int, int, int, int]:
    """The box around what is more than half opaque → left, top, right, bottom (exclusive)."""
    solid = cut.alpha > 0.5
    area = int(solid.sum())
    if area < max(1, SMALLEST_OBJECT * solid.size):
        share = 100 * area / solid.size
        remedy = {
            "alpha": "the photo is transparent nearly everywhere: use matte 'border' or 'grabcut' to ignore its alpha",
            "mask": "paint the object white on black in the mask",
        }.get(cut.kind, "photograph it before a plain background of another colour, or pass mask or box")
        raise NoObjectError(
            f"no object found in {picture.source.name}: the cut-out ({cut.kind}) covers {share:.2g} % of the picture, "
            f"the least is {100 * SMALLEST_OBJECT} %; {remedy}"
        )
    columns, rows = np.flatnonzero(solid.any(axis=0)), np.flatnonzero(solid.any(axis=1))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


# ----------------------------------------------------------------------------------------------- cropping


def _square(bounds: tuple[int, int, int, int], foreground_ratio: float) -> tuple[int, int, int]:
    """The square around a box whose longest side fills ``foreground_ratio`` of it → x, y, side."""
    left, top, right, bottom = bounds
    longest = max(right - left, bottom - top)
    side = max(longest, round(longest / foreground_ratio))
    return math.floor((left + right - side) / 2 + 0.5), math.floor((top + bottom - side) / 2 + 0.5), side


def _crop_square(rgb: FloatArray, cut: Matte, crop: tuple[int, int, int]) -> FloatArray:
    """Copy the square out of the photo, transparent outside it, with clean edge colours → [side, side, 4]."""
    x, y, side = crop
    height, width = rgb.shape[:2]
    left, top, right, bottom = max(x, 0), max(y, 0), min(x + side, width), min(y + side, height)
    result = np.zeros((side, side, 4), np.float32)
    inner = result[top - y : bottom - y, left - x : right - x]
    inner[..., :3] = rgb[top:bottom, left:right]
    inner[..., 3] = cut.alpha[top:bottom, left:right]
    result[..., :3] = clean_colors(result[..., :3], result[..., 3], mixed=cut.kind not in ("alpha", "none"))
    return result


def clean_colors(rgb: FloatArray, alpha: FloatArray, *, mixed: bool = True) -> FloatArray:
    """Replace what is not the object's own colour: under soft edges, and up to ``BLEED`` pixels past them.

    Each pixel that is not solid takes the colour of the nearest solid one. Where it is a mixture with the background,
    its own share C = αF + (1 − α)B cannot be told from noise for small α, so the nearest colour weighs 1 − α².

    Args:
        rgb: [H, W, 3].
        alpha: [H, W].
        mixed: colours under partial alpha contain background; False for pictures that came with alpha.
    """
    import cv2

    solid = alpha > 0.95
    if mixed:
        core = cv2.erode(solid.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
        solid = core if core.any() else solid
    if not solid.any():
        solid = alpha >= min(0.5, float(alpha.max()))
    if solid.all():
        return rgb
    distance, labels = cv2.distanceTransformWithLabels(
        (~solid).astype(np.uint8), cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL
    )
    colors = np.zeros((int(labels.max()) + 1, 3), np.float32)
    colors[labels[solid]] = rgb[solid]
    result = np.where(solid[..., None], rgb, rgb[solid].mean(axis=0))
    rim = ~solid & ((distance <= BLEED) | (alpha > 0))
    own = (alpha[rim] ** 2 if mixed else np.clip(2 * alpha[rim], 0, 1))[:, None]
    result[rim] = rgb[rim] * own + colors[labels[rim]] * (1 - own)
    return result


def _resample(rgba: FloatArray, size: int) -> FloatArray:
    """Resize [S, S, 4], colours weighted by alpha where there is any → [size, size, 4]."""
    import cv2

    how = cv2.INTER_AREA if size < rgba.shape[0] else cv2.INTER_LINEAR
    alpha = rgba[..., 3:]
    plain = cv2.resize(rgba, (size, size), interpolation=how)
    weighted = cv2.resize(np.ascontiguousarray(rgba[..., :3] * alpha), (size, size), interpolation=how)
    share = plain[..., 3:]
    rgb = np.where(share > 1e-3, weighted / np.maximum(share, 1e-3), plain[..., :3])
    return np.clip(np.concatenate([rgb, share], axis=-1), 0, 1).astype(np.float32)
