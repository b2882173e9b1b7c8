"""Vision transformers by transformers (Dosovitskiy et al. 2021): what DINO and DINOv2 share as image encoders here.

Their networks are transformers' own, built from sizes, so that nothing is fetched.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Vit:
    """Sizes of a vision transformer; the defaults are those of the published "base" ones."""

    width: int = 768
    layers: int = 12
    heads: int = 12
    patch: int = 16
    stored_size: int = 224  # side of the images whose patches have stored positions

    @property
    def stored_grid(self) -> int:
        """Patches along a side for which positions are stored."""
        return self.stored_size // self.patch

    def settings(self, size: int) -> dict[str, Any]:
        """What transformers' configurations of any kind are told, for square images of ``size`` pixels."""
        return {
            "hidden_size": self.width,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "hidden_act": "gelu",
            "image_size": size,
            "patch_size": self.patch,
            "qkv_bias": True,
        }


def resized(stored: Tensor, grid: int, resize: Callable[[Tensor, int], Tensor]) -> Tensor:
    """Position embeddings [1, 1 + n², C] of an n×n grid of patches and one token → [1, 1 + grid², C].

    Args:
        stored: the token's first, then the patches' row by row.
        grid: patches along a side that are needed.
        resize: how a plane [1, C, n, n] float32 and its n become [1, C, grid, grid]; not asked if n is ``grid``.
    """
    token, patches = stored[:, :1], stored[:, 1:]
    side = round(patches.shape[1] ** 0.5)
    if side == grid:
        return stored
    plane = patches.float().reshape(1, side, side, -1).permute(0, 3, 1, 2)
    return torch.cat([token.float(), resize(plane, side).flatten(2).transpose(1, 2)], dim=1)
