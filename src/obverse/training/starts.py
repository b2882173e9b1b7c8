"""Where a training of Zero-1-to-3 begins: from nothing, or as published from a Stable Diffusion told by CLIP images.

The published start is the "image variations" fine-tuning of Stable Diffusion 1, whose UNet takes four channels; the
four of the conditioning latents begin at zero, so that at first the network does what it did before.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..errors import WeightsError, need
from ..multiview.zero123 import PUBLISHED, Sizes, Zero123, build
from ..multiview.zero123_inputs import Family

PARTS = ("unet", "vae", "image_encoder")


def is_variations(source: str | Path) -> bool:
    """Whether this is a folder in the layout of diffusers with a UNet of four channels."""
    try:
        said = json.loads((Path(source) / "unet" / "config.json").read_text(encoding="utf-8"))
        return said.get("in_channels") == 4
    except (OSError, ValueError, AttributeError):
        return False


def from_variations(
    source: str | Path, *, family: Family = "zero123", size: int = PUBLISHED.size, seed: int = 0
) -> Zero123:
    """The published start: Stable Diffusion image variations, widened, with a projection that lets embeddings through.

    Args:
        source: a folder in the layout of diffusers with ``unet``, ``vae`` and ``image_encoder``.
        family: which meaning the fourth pose number will have.
        size: of the pictures to train on.
        seed: of the projection's columns for the camera.

    Raises:
        WeightsError: a part is missing or of another network. MissingPackageError: no diffusers or transformers.
    """
    diffusers = need("diffusers", extra="diffusion", purpose="training Zero-1-to-3")
    transformers = need("transformers", extra="diffusion", purpose="the image encoder CLIP")
    kinds: tuple[Any, ...] = (
        diffusers.UNet2DConditionModel, diffusers.AutoencoderKL, transformers.CLIPVisionModelWithProjection,
    )  # fmt: skip
    try:
        unet, vae, clip = (
            kind.from_pretrained(str(source), subfolder=part, local_files_only=True)
            for kind, part in zip(kinds, PARTS, strict=True)
        )
        model = build(_sizes(unet.config, vae.config, clip.config, size), family=family, seed=seed)
        state = unet.state_dict()
        wide = torch.zeros_like(model.unet.conv_in.weight)
        wide[:, :4] = state["conv_in.weight"]
        model.unet.load_state_dict({**state, "conv_in.weight": wide})
        model.vae.load_state_dict(vae.state_dict())
        model.image_encoder.load_state_dict(clip.state_dict())
    except (OSError, RuntimeError, ValueError, KeyError, AttributeError, TypeError) as error:
        why = " ".join(str(error).split())[:200]
        raise WeightsError(
            f"{source} is no Stable Diffusion 1 told by images ({why}); it needs unet, vae and image_encoder, as in "
            "sd-image-variations-diffusers"
        ) from error
    return as_published(model, seed=seed)


def _sizes(unet: Any, vae: Any, clip: Any, size: int) -> Sizes:
    """Sizes of the four networks by their configurations."""
    return Sizes(
        size=size,
        channels=tuple(unet.block_out_channels),
        layers=unet.layers_per_block,
        heads=unet.attention_head_dim,
        vae_channels=tuple(vae.block_out_channels),
        vae_layers=vae.layers_per_block,
        groups=unet.norm_num_groups,
        embedding=unet.cross_attention_dim,
        clip_size=clip.image_size,
        clip_patch=clip.patch_size,
        clip_width=clip.hidden_size,
        clip_hidden=clip.intermediate_size,
        clip_layers=clip.num_hidden_layers,
        clip_heads=clip.num_attention_heads,
    )


@torch.no_grad()
def as_published(model: Zero123, *, seed: int = 0) -> Zero123:
    """Set a projection as the published training starts it: the identity on embeddings, torch's own for poses."""
    width = model.sizes.embedding
    bound = 1 / math.sqrt(width + 4)
    drawn = torch.empty(width, 4).uniform_(-bound, bound, generator=torch.Generator().manual_seed(seed))
    model.projection.weight[:] = torch.cat([torch.eye(width), drawn], 1)
    model.projection.bias.zero_()
    return model


@torch.no_grad()
def from_nothing(model: Zero123, *, seed: int = 0) -> Zero123:
    """Make random weights fit to learn from: branches and the output at zero, a projection that hears the camera.

    A random image encoder says little, so its share of the token starts small and the camera's large.
    """
    for name, module in model.unet.named_modules():
        if type(module).__name__ == "ResnetBlock2D":
            nn.init.zeros_(module.conv2.weight)
        elif name.endswith(("proj_out", "conv_out")):
            nn.init.zeros_(module.weight)
    width = model.sizes.embedding
    drawn = torch.randn(width, 4, generator=torch.Generator().manual_seed(seed))
    model.projection.weight[:] = torch.cat([0.2 * torch.eye(width), drawn], 1)
    model.projection.bias.zero_()
    return model
