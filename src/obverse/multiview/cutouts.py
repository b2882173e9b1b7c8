"""Predicted views cut out of their white ground, so that they can be lifted."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from ..backdrop import border_matte
from ..cameras import Views
from ..photo import clean_colors

SURE = 0.5  # least confidence in a cut-out, as for photos


@dataclass(frozen=True)
class CutOut:
    """Views with alpha, and how far to trust it."""

    views: Views  # images [V, H, W, 4]
    confidence: tuple[float, ...]  # 0–1, one per view

    @property
    def doubtful(self) -> list[int]:
        """Views whose object could not be told from the ground for sure."""
        return [view for view, confidence in enumerate(self.confidence) if confidence < SURE]


def cut_out(views: Views) -> CutOut:
    """Views [V, H, W, 3] on a plain ground → the same with alpha, edge colours cleaned of the ground's.

    Views that have alpha already are left as they are.
    """
    if views.images.shape[-1] == 4:
        return CutOut(views, (1.0,) * len(views))
    images, confidence = [], []
    for image in views.images:
        rgb = np.ascontiguousarray(image.cpu().numpy())
        matte = border_matte(rgb)
        colors = clean_colors(rgb, matte.alpha) if matte.alpha.max() > 0 else rgb
        images.append(torch.from_numpy(np.concatenate([colors, matte.alpha[..., None]], -1).astype(np.float32)))
        confidence.append(round(float(matte.confidence), 3))
    return CutOut(Views(torch.stack(images), views.cameras), tuple(confidence))
