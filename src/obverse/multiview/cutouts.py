"""Predicted views made ready for lifting: cut out of their white ground, and moved to where the object has size 1."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from ..backdrop import border_matte
from ..cameras import Cameras, Views
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


def sized(views: Views) -> Views:
    """Views [V, H, W, 4] of cameras around the origin → ones for which the object fits a ball of diameter 1.

    Models that are told no distance make an object as large as its photo, whatever its depth is: the cameras move. All
    around the pictures half a side of nothing is added, since what a picture does not cover says nothing of what is
    there, and close cameras do not cover the ball's corners.
    """
    cameras, widest = views.cameras, 1e-6
    for image, k in zip(views.images, cameras.intrinsics, strict=True):
        rows, columns = (image[..., 3] > 0.5).nonzero().unbind(-1)
        pixels = torch.stack([columns + 0.5, rows + 0.5, torch.ones(len(rows))], dim=-1)
        rays = torch.nn.functional.normalize(pixels.to(k) @ torch.linalg.inv(k).T, dim=-1)
        widest = max(widest, float((1 - rays[:, 2] ** 2).clamp_min(0).sqrt().max()) if len(rows) else 0.0)
    matrix, intrinsics = cameras.world_to_camera.clone(), cameras.intrinsics.clone()
    matrix[..., :3, 3] *= 0.5 / (widest * cameras.positions.norm(dim=-1).max())
    x, y = cameras.width // 2, cameras.height // 2
    intrinsics[..., 0, 2] += x
    intrinsics[..., 1, 2] += y
    images = torch.nn.functional.pad(views.images, (0, 0, x, x, y, y))
    return Views(images, Cameras(matrix, intrinsics, images.shape[2], images.shape[1]))
