"""How near pictures are to the true ones: PSNR, SSIM, MS-SSIM, LPIPS, and outlines.

Images are [..., H, W, C] float, 0–1, sRGB-encoded, of 1 or 3 channels, and each function gives one number per image
[...]. They are compared as they are, whole picture or under ``mask``: what lies behind an object counts like any
other pixel, so both pictures must have been composited over the same background, and a number is to be quoted with
it. Published tables are over white (``over(image)``). An object that fills a quarter of a picture gains 6 dB of PSNR
over the same object cropped tightly; pass ``mask`` where that matters.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from scipy.ndimage import binary_erosion, distance_transform_edt
from torch import Tensor

from ..errors import InputError
from ..lifting.losses import WINDOW, ssim_maps
from .perceptual import lpips as lpips
from .perceptual import lpips_available as lpips_available

BEST_DB = 99.0  # PSNR of equal images
SCALES = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # exponents of MS-SSIM, finest first (Wang et al. 2003, section 3.2)


def over(images: Tensor, background: Sequence[float] | float = 1.0) -> Tensor:
    """Images [..., H, W, 4] with straight alpha, over one sRGB-encoded colour → [..., H, W, 3].

    Compositing is done on the encoded values, as browsers and published evaluation code do.

    Raises:
        InputError: the images have no alpha.
    """
    if images.ndim < 3 or images.shape[-1] != 4:
        raise InputError(f"images are {list(images.shape)}, to composite them they must be [..., H, W, 4]; add alpha")
    alpha = images[..., 3:]
    return alpha * images[..., :3] + (1 - alpha) * torch.as_tensor(background).to(images)


def psnr(a: Tensor, b: Tensor, *, mask: Tensor | None = None) -> Tensor:
    """Peak signal-to-noise ratio in dB → [...]: −10 log₁₀ of the mean squared error, at most 99.

    Args:
        a: images [..., H, W, C].
        b: images of the same shape.
        mask: [..., H, W] or [..., H, W, 1]; only pixels above ½ count. NaN where none does.

    Raises:
        InputError: shapes differ or are not those above.
    """
    _check(a, b)
    error = (a - b).square().mean(-1)
    mean = error.flatten(-2).mean(-1) if mask is None else _masked_mean(error, _flat_mask(mask, a))
    return torch.where(mean.isnan(), mean, (-10 * mean.clamp_min(1e-12).log10()).clamp_max(BEST_DB))


def ssim(a: Tensor, b: Tensor, *, mask: Tensor | None = None) -> Tensor:
    """Mean structural similarity → [...] (Wang et al. 2004: Gaussian window of 11 pixels, σ = 1.5, per channel).

    The same numbers as scikit-image with ``gaussian_weights=True, use_sample_covariance=False, data_range=1``.

    Args:
        a: images [..., H, W, C] of at least 11 pixels a side.
        b: images of the same shape.
        mask: as in ``psnr``; windows count whose centre is in the mask, so up to 5 pixels outside it take part.

    Raises:
        InputError: shapes differ or are not those above.
    """
    _check(a, b)
    similarity = ssim_maps(a, b)[0].mean(-3)
    if mask is None:
        return similarity.flatten(-2).mean(-1)
    edge = WINDOW // 2
    return _masked_mean(similarity, _flat_mask(mask, a)[..., edge:-edge, edge:-edge])


def ms_ssim(a: Tensor, b: Tensor) -> Tensor:
    """Structural similarity over five scales → [...] (Wang et al. 2003, eq. 7).

    Contrast and structure are averaged at each scale, luminance at the coarsest; between scales images are halved by
    2 × 2 means, a last odd row or column being left out. Means below zero count as zero. Channels are averaged last.

    Args:
        a: images [..., H, W, C] of at least 176 pixels a side, 11 at the coarsest scale.
        b: images of the same shape.

    Raises:
        InputError: shapes differ or are not those above.
    """
    _check(a, b)
    least = WINDOW * 2 ** (len(SCALES) - 1)
    if min(a.shape[-3:-1]) < least:
        raise InputError(f"MS-SSIM needs images of at least {least} pixels a side, got {list(a.shape)}; use ssim")
    product = torch.ones(()).to(a)
    for level, exponent in enumerate(SCALES):
        similarity, contrast = ssim_maps(a, b)
        factor = similarity if level == len(SCALES) - 1 else contrast
        product = product * factor.flatten(-2).mean(-1).clamp_min(0) ** exponent
        a, b = _halved(a), _halved(b)
    return product.mean(-1)


def mask_iou(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union of coverages [..., H, W] or [..., H, W, 1] above ½ → [...]; 1 where both are empty.

    Raises:
        InputError: shapes differ.
    """
    mine, theirs = _silhouettes(a, b)
    both, either = (mine & theirs).flatten(-2).sum(-1), (mine | theirs).flatten(-2).sum(-1)
    return torch.where(either > 0, both / either.clamp_min(1), 1.0)


def boundary_f(a: Tensor, b: Tensor, tolerance: float) -> Tensor:
    """F-measure of outlines → [...]: 1 where each outline lies within ``tolerance`` of the other.

    An outline is the pixels of a silhouette that touch a side of a pixel outside it; the picture's edge counts as
    inside. Precision is the share of a's outline pixels at most ``tolerance`` from b's, recall the reverse (Perazzi
    et al. 2016, with distances instead of dilation). 1 where both are without outline, 0 where one is.

    Args:
        a: coverages [..., H, W] or [..., H, W, 1], inside above ½.
        b: coverages of the same shape.
        tolerance: pixels, centre to centre; 0.8 % of the image's diagonal is usual.

    Raises:
        InputError: shapes differ, or the tolerance is negative.
    """
    if not tolerance >= 0:
        raise InputError(f"tolerance is {tolerance} pixels, it must not be negative; 0.8 % of the diagonal is usual")
    mine, theirs = _silhouettes(a, b)
    size = mine.shape[-2:]
    pairs = zip(mine.reshape(-1, *size).cpu().numpy(), theirs.reshape(-1, *size).cpu().numpy(), strict=True)
    scores = [_outline_f(_outline(x), _outline(y), tolerance) for x, y in pairs]
    return torch.tensor(scores, device=a.device).reshape(mine.shape[:-2])


def _outline(inside: np.ndarray) -> np.ndarray:
    return inside & ~binary_erosion(inside, border_value=1)


def _outline_f(mine: np.ndarray, theirs: np.ndarray, tolerance: float) -> float:
    if not mine.any() or not theirs.any():
        return float(mine.any() == theirs.any())
    precision = float((distance_transform_edt(~theirs)[mine] <= tolerance).mean())
    recall = float((distance_transform_edt(~mine)[theirs] <= tolerance).mean())
    return 2 * precision * recall / max(precision + recall, 1e-12)


def _check(a: Tensor, b: Tensor) -> None:
    if a.shape != b.shape or a.ndim < 3 or a.shape[-1] not in (1, 3):
        raise InputError(
            f"images are {list(a.shape)} and {list(b.shape)}, they must be of one shape [..., H, W, C] with 1 or 3 "
            "channels; resize them, and composite alpha with over()"
        )


def _flat_mask(mask: Tensor, images: Tensor) -> Tensor:
    """A mask as bool, broadcast to [..., H, W] of images [..., H, W, C]."""
    size = images.shape[-3:-1]
    flat = mask[..., 0] if mask.shape[-1] == 1 and mask.shape[-3:-1] == size else mask
    if flat.shape[-2:] != size or flat.ndim > images.ndim - 1:
        raise InputError(f"mask is {list(mask.shape)}, for images {list(images.shape)} it must be [..., H, W]; crop it")
    return (flat > 0.5).to(images.device).expand(images.shape[:-1])


def _masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Means of values [..., H, W] where the mask is true → [...]; NaN where it never is."""
    return torch.where(mask, values, 0).flatten(-2).sum(-1) / mask.flatten(-2).sum(-1)


def _halved(images: Tensor) -> Tensor:
    """Images [..., H, W, C] → [..., H // 2, W // 2, C], means of 2 × 2 pixels."""
    height, width = images.shape[-3] // 2 * 2, images.shape[-2] // 2 * 2
    even = images[..., :height, :width, :]
    return even.unflatten(-2, (-1, 2)).mean(-2).unflatten(-3, (-1, 2)).mean(-3)


def _silhouettes(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Coverages as bool [..., H, W]."""
    if a.shape != b.shape or a.ndim < 2:
        raise InputError(f"masks are {list(a.shape)} and {list(b.shape)}, they must be of one shape; resize one")
    flat = (m[..., 0] if m.ndim > 2 and m.shape[-1] == 1 else m for m in (a, b))
    mine, theirs = (m > 0.5 for m in flat)
    return mine, theirs
