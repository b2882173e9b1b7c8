"""The four networks of Zero-1-to-3 and their published sizes, as diffusers and transformers make them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import need
from .attention import set_one_token

LATENT_SCALE = 0.18215  # of latents that are diffused; the conditioning latents are not scaled
STEPS, BETA_START, BETA_END = 1000, 0.00085, 0.0120


@dataclass(frozen=True)
class Sizes:
    """Sizes of the four networks; the defaults are the published ones, 1,250 million parameters."""

    size: int = 256  # side of the pictures
    channels: tuple[int, ...] = (320, 640, 1280, 1280)  # of the UNet, by level; all levels but the last have attention
    layers: int = 2  # residual blocks a level
    heads: int = 8
    vae_channels: tuple[int, ...] = (128, 256, 512, 512)
    vae_layers: int = 2
    groups: int = 32  # of the norms of UNet and VAE
    embedding: int = 768  # of a picture, and width of the UNet's context
    clip_size: int = 224
    clip_patch: int = 14
    clip_width: int = 1024
    clip_hidden: int = 4096
    clip_layers: int = 24
    clip_heads: int = 16
    prediction: Literal["epsilon", "v_prediction"] = "epsilon"  # what the UNet says: the noise, or the velocity

    @property
    def latent_size(self) -> int:
        """Side of the latents of a picture."""
        return self.size // 2 ** (len(self.vae_channels) - 1)


PUBLISHED = Sizes()


def unet(sizes: Sizes) -> nn.Module:
    """The denoiser: noisy latent in channels 0–3, the picture's in 4–7."""
    diffusers = need("diffusers", extra="diffusion", purpose="Zero-1-to-3")
    rest = len(sizes.channels) - 1
    network: nn.Module = diffusers.UNet2DConditionModel(
        sample_size=sizes.latent_size,
        in_channels=8,
        out_channels=4,
        block_out_channels=sizes.channels,
        layers_per_block=sizes.layers,
        down_block_types=("CrossAttnDownBlock2D",) * rest + ("DownBlock2D",),
        up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * rest,
        cross_attention_dim=sizes.embedding,
        attention_head_dim=sizes.heads,  # the number of heads, whatever its name says
        norm_num_groups=sizes.groups,
    )
    set_one_token(network)
    return network


def vae(sizes: Sizes) -> nn.Module:
    """The autoencoder of Stable Diffusion 1."""
    diffusers = need("diffusers", extra="diffusion", purpose="Zero-1-to-3")
    levels = len(sizes.vae_channels)
    network: nn.Module = diffusers.AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        block_out_channels=sizes.vae_channels,
        layers_per_block=sizes.vae_layers,
        latent_channels=4,
        norm_num_groups=sizes.groups,
        sample_size=sizes.size,
        scaling_factor=LATENT_SCALE,
    )
    return network


def image_encoder(sizes: Sizes) -> nn.Module:
    """OpenAI's CLIP vision tower, ViT-L/14."""
    transformers = need("transformers", extra="diffusion", purpose="the image encoder CLIP")
    config = transformers.CLIPVisionConfig(
        hidden_size=sizes.clip_width,
        intermediate_size=sizes.clip_hidden,
        num_hidden_layers=sizes.clip_layers,
        num_attention_heads=sizes.clip_heads,
        image_size=sizes.clip_size,
        patch_size=sizes.clip_patch,
        projection_dim=sizes.embedding,
        hidden_act="quick_gelu",
        layer_norm_eps=1e-5,
    )
    network: nn.Module = transformers.CLIPVisionModelWithProjection(config)
    return network


def alphas_cumprod() -> Tensor:
    """The published schedule, [1000] float32; never read from a file, some hold other betas."""
    betas = np.linspace(math.sqrt(BETA_START), math.sqrt(BETA_END), STEPS) ** 2
    return torch.tensor(np.cumprod(1 - betas).astype(np.float32), device="cpu")
