"""DINO ViT-B/16 (Caron et al. 2021), the image encoder of TripoSR, OpenLRM 1.0 and InstantMesh.

The network is transformers' ViTModel. The published checkpoints keep the names it had in transformers 4;
``PUBLISHED`` leads from those of later releases back to them.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import need
from .vit import Vit, resized

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's, which every model here was trained with
EPS = 1e-12  # of its norms
POSITIONS = "embeddings.position_embeddings"

PUBLISHED = (  # key of a later transformers → key in the checkpoints; keys of transformers 4 stay as they are
    (r"(^|\.)layers\.(\d+)\.", r"\1encoder.layer.\2."),
    (r"\.attention\.q_proj\.", r".attention.attention.query."),
    (r"\.attention\.k_proj\.", r".attention.attention.key."),
    (r"\.attention\.v_proj\.", r".attention.attention.value."),
    (r"\.attention\.o_proj\.", r".attention.output.dense."),
    (r"\.mlp\.fc1\.", r".intermediate.dense."),
    (r"\.mlp\.fc2\.", r".output.dense."),
)


@dataclass(frozen=True)
class Dino(Vit):
    """Sizes; the defaults are those of facebook/dino-vitb16."""

    hidden: int = 3072


def vit(config: Dino, size: int, *, pooler: bool = True) -> nn.Module:
    """The encoder for square images of ``size`` pixels; its positions are those of ``resized_positions``.

    Args:
        config: sizes.
        size: of the images, a multiple of the patch.
        pooler: whether the checkpoint holds the pooling layer, which nobody uses.

    Raises:
        MissingPackageError: transformers is not installed.
    """
    models = need("transformers", extra="diffusion", purpose="the image encoder DINO")
    settings = models.ViTConfig(
        **config.settings(size),
        intermediate_size=config.hidden,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        layer_norm_eps=EPS,
    )
    network: nn.Module = models.ViTModel(settings, add_pooling_layer=pooler)
    return network


def resized_positions(stored: Tensor, grid: int) -> Tensor:
    """Position embeddings [1, 1 + n², C] of an n×n grid of patches and one token → [1, 1 + grid², C].

    As published: bicubic, with the factor (grid + 0.1) / n as the step between samples too, which later releases of
    transformers replaced by the exact factor. That would change them by up to 8 % of the largest.
    """

    def resize(plane: Tensor, side: int) -> Tensor:
        factor = (grid + 0.1) / side
        return F.interpolate(plane, scale_factor=(factor, factor), mode="bicubic", align_corners=False)

    return resized(stored, grid, resize)


def normalised(images: Tensor) -> Tensor:
    """Images [B, 3, H, W] in 0–1 → the encoder's input."""
    mean, std = (torch.tensor(values).to(images)[:, None, None] for values in (MEAN, STD))
    return (images - mean) / std
