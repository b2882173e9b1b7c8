"""DINOv2 with registers (Oquab et al. 2023; Darcet et al. 2024), the image encoder of OpenLRM 1.1.

The network is transformers' Dinov2WithRegistersModel. Checkpoints of models that contain it keep the names of its
authors' own code, in which queries, keys and values are one matrix; ``PUBLISHED`` leads to those names, up to that last
step: ``attn.q``, ``attn.k`` and ``attn.v`` are the thirds of ``attn.qkv``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import MissingPackageError, need
from .vit import Vit, resized

POSITIONS = "pos_embed"

PUBLISHED = (  # key of any transformers → key in the checkpoints, with queries, keys and values apart
    (r"(^|\.)embeddings\.position_embeddings$", r"\1pos_embed"),
    (r"(^|\.)embeddings\.(cls_token|register_tokens)$", r"\1\2"),
    (r"(^|\.)embeddings\.patch_embeddings\.projection\.", r"\1patch_embed.proj."),
    (r"(^|\.)encoder\.layer\.(\d+)\.", r"\1blocks.\2."),
    (r"\.attention\.(?:attention\.)?([qkv])(?:_proj|uery|ey|alue)\.", r".attn.\1."),
    (r"\.attention\.(?:output\.dense|o_proj)\.", r".attn.proj."),
    (r"\.layer_scale(\d)\.lambda1$", r".ls\1.gamma"),
    (r"(^|\.)layernorm\.", r"\1norm."),
)


@dataclass(frozen=True)
class Dinov2(Vit):
    """Sizes; the defaults are those of ViT-B/14 with registers."""

    patch: int = 14
    stored_size: int = 518
    registers: int = 4


def vit(config: Dinov2, size: int) -> nn.Module:
    """The encoder for square images of ``size`` pixels; its positions are those of ``resized_positions``.

    Its last hidden state is the class token, the registers, and the patches row by row.

    Raises:
        MissingPackageError: transformers is not installed, or is older than DINOv2 with registers in it.
    """
    models: Any = need("transformers", extra="diffusion", purpose="the image encoder DINOv2")
    if not hasattr(models, "Dinov2WithRegistersModel"):
        raise MissingPackageError(
            f"transformers {models.__version__} has no DINOv2 with registers, which came with 4.48; "
            'run: pip install -U "transformers>=4.48"'
        )
    settings = models.Dinov2WithRegistersConfig(
        **config.settings(size), mlp_ratio=4, layer_norm_eps=1e-6, num_register_tokens=config.registers
    )
    network: Any = models.Dinov2WithRegistersModel(settings)
    network.embeddings.mask_token = None  # of its pretraining; models that contain it have none
    return network


def resized_positions(stored: Tensor, grid: int) -> Tensor:
    """Position embeddings [1, 1 + n², C] of an n×n grid of patches and one token → [1, 1 + grid², C].

    Bicubic and antialiased, by the exact factor, where DINO's are neither.
    """

    def resize(plane: Tensor, side: int) -> Tensor:
        return F.interpolate(plane, (grid, grid), mode="bicubic", align_corners=False, antialias=True)

    return resized(stored, grid, resize)
