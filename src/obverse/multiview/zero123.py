"""Zero-1-to-3: one photo and a relative camera → the view from there (Liu et al. 2023, arXiv 2303.11328).

A Stable Diffusion 1 network that is told the picture twice: its VAE latent joins the noisy one as four more channels,
and its CLIP embedding, together with four numbers for the camera, is the only token of cross-attention. Zero123-XL is
the same network trained on Objaverse-XL (arXiv 2307.05663); in Stable Zero123 the fourth number changed its meaning.

    model = load("zero123-xl.ckpt")                # or a folder, or a Hub id
    views = model.views(read_photo("chair.jpg"), orbit_cameras([0, 90, 180, 270]), seed=0)

The published world has +Z up, polar angles from there and azimuths counter-clockwise seen from above. Ours has +Y up
and azimuth from +Z towards +X, which is counter-clockwise from above as well, so an elevation changes its sign here
and an azimuth does not. The camera is always the same: 49.1° wide, its axis through the object's centre, no roll.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..cameras import Cameras, look_at, orbit, pinhole
from ..errors import InputError, UsageError, need
from ..photo import Subject

Family = Literal["zero123", "stable-zero123"]

FOV_DEG = math.degrees(2 * math.atan(16 / 35))  # lens 35, sensor 32
DISTANCE = 1.5  # object units; in training 1.5 to 2.2, and only differences of distance are told to the network
FILL = 200 / 256  # of the picture's side, spanned by the object in the published preparation
LATENT_SCALE = 0.18215  # of latents that are diffused; the conditioning latents are not scaled
STEPS, BETA_START, BETA_END = 1000, 0.00085, 0.0120
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
WHITE = 0.94  # from here on a pixel of the border counts as white


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

    @property
    def latent_size(self) -> int:
        """Side of the latents of a picture."""
        return self.size // 2 ** (len(self.vae_channels) - 1)


PUBLISHED = Sizes()


@dataclass(frozen=True)
class Condition:
    """What the network is told about the picture; encoded once for all cameras."""

    embedding: Tensor  # [1, 1, 768] CLIP's, not normalised
    latents: Tensor  # [1, 4, h, w] mean of the VAE's posterior, not scaled


class Zero123(nn.Module):
    """The four networks. ``build`` makes one with random weights, ``load`` one with published weights."""

    def __init__(self, sizes: Sizes, family: Family) -> None:
        super().__init__()
        self.sizes, self.family = sizes, family
        self.unet = _unet(sizes)
        self.vae = _vae(sizes)
        self.image_encoder = _image_encoder(sizes)
        self.projection = nn.Linear(sizes.embedding + 4, sizes.embedding)
        self.alphas_cumprod = alphas_cumprod()
        self.loaded = ""  # what the weights are, in words

    @property
    def size(self) -> int:
        """Side of the pictures in pixels."""
        return self.sizes.size

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.projection.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the weights."""
        return self.projection.weight.dtype

    @torch.no_grad()
    def condition(self, picture: Subject | Tensor) -> Condition:
        """Encode the photo, once.

        Args:
            picture: a cut-out, which is scaled and put on white as published; or a square image [H, W, 3 or 4] in 0–1
                that is so already: the object centred, about 0.78 of the side, on white.

        Raises:
            InputError: the image is not square, has no colour, or its border is not white.
        """
        pixels = prepared(picture, self.size).to(self.device)
        return Condition(self.embed(pixels), self.encode_mode(pixels))

    def embed(self, pixels: Tensor) -> Tensor:
        """Pictures [B, 3, S, S] in −1–1 → CLIP embeddings [B, 1, 768], not normalised."""
        embeds = self.image_encoder(clip_pixels(pixels, self.sizes.clip_size).to(self.dtype)).image_embeds
        return embeds[:, None]

    def encode_mode(self, pixels: Tensor) -> Tensor:
        """Pictures [B, 3, S, S] in −1–1 → means of the VAE's posterior [B, 4, h, w], not scaled; differentiable."""
        return self.vae.encode(pixels.to(self.dtype)).latent_dist.mode()

    def decode(self, latents: Tensor) -> Tensor:
        """Diffused, that is scaled, latents [B, 4, h, w] → images [B, S, S, 3] float32, clamped to 0–1."""
        pixels = self.vae.decode((latents / LATENT_SCALE).to(self.dtype)).sample
        return (pixels.float() / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1)

    def context(self, embedding: Tensor, pose: Tensor) -> Tensor:
        """Embeddings [B, 1, 768] and poses [B, 4] → the tokens of cross-attention [B, 1, 768]."""
        joined = torch.cat([embedding.float(), pose[:, None].to(embedding.device).float()], dim=-1)
        return self.projection(joined.to(self.dtype))

    def noise(
        self, noisy: Tensor, timesteps: Tensor, condition: Condition, pose: Tensor, *, conditional_only: bool = False
    ) -> tuple[Tensor | None, Tensor]:
        """The noise in latents, without and with the condition, in one batch.

        Without the condition means zeros for its latents and zeros for the token, after the projection.

        Args:
            noisy: [B, 4, h, w], scaled.
            timesteps: [B] from 0 to 999.
            condition: of one picture, or of B.
            pose: [B, 4], see ``pose_embedding``.
            conditional_only: leave the other half out, for a guidance of 1; then the first result is None.

        Returns:
            (unconditional, conditional), each [B, 4, h, w] float32.
        """
        count = len(noisy)
        context = self.context(condition.embedding.expand(count, -1, -1), pose)
        latents = condition.latents.expand(count, -1, -1, -1)
        sample, times = noisy.to(self.device, self.dtype), timesteps.to(self.device)
        if not conditional_only:
            context = torch.cat([torch.zeros_like(context), context])
            latents = torch.cat([torch.zeros_like(latents), latents])
            sample, times = torch.cat([sample, sample]), torch.cat([times, times])
        stacked = torch.cat([sample, latents.to(self.dtype)], dim=1)
        predicted = self.unet(stacked, times, encoder_hidden_states=context).sample.float()
        return (None, predicted) if conditional_only else (predicted[:count], predicted[count:])

    def conditioned(
        self, subject: Subject | Tensor, *, elevation_deg: float, source_distance: float | None = None
    ) -> ConditionedDenoiser:
        """The network bound to one photo, for distillation.

        Args:
            subject: as for ``condition``.
            elevation_deg: of the photo's camera above the horizon; its azimuth is 0.
            source_distance: of the photo's camera, see ``pose_embedding``.
        """
        return ConditionedDenoiser(self, self.condition(subject), float(elevation_deg), source_distance)


@dataclass(frozen=True)
class ConditionedDenoiser:
    """A denoiser that knows one photo and is asked about any camera. Latents are scaled and float32."""

    model: Zero123
    condition: Condition
    elevation_deg: float  # of the photo's camera
    source_distance: float | None = None
    prediction: Literal["epsilon", "v_prediction"] = "epsilon"

    @property
    def alphas_cumprod(self) -> Tensor:
        """Share of the signal's variance at each of the training's timesteps, [1000] float32."""
        return self.model.alphas_cumprod.to(self.model.device)

    def encode(self, images: Tensor) -> Tensor:
        """Images [B, H, W, 3] in 0–1, on white → latents [B, 4, h, w]; differentiable, other sizes are resized."""
        pixels = images.to(self.model.device).permute(0, 3, 1, 2) * 2 - 1
        if pixels.shape[-2:] != (self.model.size, self.model.size):
            pixels = F.interpolate(pixels, (self.model.size,) * 2, mode="bilinear", antialias=True)
        return self.model.encode_mode(pixels).float() * LATENT_SCALE

    def decode(self, latents: Tensor) -> Tensor:
        """Latents [B, 4, h, w] → images [B, S, S, 3] in 0–1."""
        return self.model.decode(latents)

    def predict(self, noisy: Tensor, timesteps: Tensor, cameras: Cameras) -> tuple[Tensor, Tensor]:
        """The noise in latents [B, 4, h, w] at timesteps [B] for B cameras → (unconditional, conditional)."""
        pose = pose_embedding(
            cameras,
            source_elevation_deg=self.elevation_deg,
            source_distance=self.source_distance,
            family=self.model.family,
        )
        if len(pose) != len(noisy):
            raise InputError(f"{len(noisy)} latents and {len(pose)} cameras; pass one camera for each latent")
        unconditional, conditional = self.model.noise(noisy, timesteps, self.condition, pose)
        assert unconditional is not None  # only left out on request
        return unconditional, conditional


# ---------------------------------------------------------------------------------------------------------------------
# Building


def build(
    sizes: Sizes = PUBLISHED,
    *,
    family: Family = "zero123",
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    seed: int | None = None,
) -> Zero123:
    """A model with random weights; without values on torch's meta device, which holds shapes only.

    Matrices are normal with unit gain, norms and biases neutral. Weights do not ask for gradients; a training turns
    them on.

    Args:
        sizes: of the networks.
        family: which meaning the fourth pose number has.
        device: where the weights go; ``"meta"`` (or a surrounding ``with torch.device("meta")``) allocates nothing.
        dtype: of all weights.
        seed: of the weights; None is 0.

    Raises:
        UsageError: an unknown family. MissingPackageError: diffusers or transformers is not installed.
    """
    if family not in get_args(Family):
        raise UsageError(f"family is {family!r}, it must be one of {', '.join(get_args(Family))}")
    bare = "meta" in (torch.device(device).type, torch.get_default_device().type)
    with torch.device("meta"):
        model = Zero123(sizes, family).to(dtype).requires_grad_(False).eval()
    if bare:
        return model
    model.to_empty(device=device)
    generator = torch.Generator().manual_seed(seed or 0)
    for name, value in model.named_parameters():
        if value.ndim > 1:
            drawn = torch.randn(value.shape, generator=generator) / math.sqrt(math.prod(value.shape[1:]))
            value.data.copy_(drawn)
        else:
            value.data.fill_(1.0 if name.endswith("weight") else 0.0)
    return restore_buffers(model)


def restore_buffers(model: Zero123) -> Zero123:
    """Fill what no checkpoint holds and the meta device forgot: the numbers of CLIP's positions."""
    embeddings = next(m for m in model.image_encoder.modules() if hasattr(m, "position_ids"))
    count = embeddings.position_ids.shape[-1]
    embeddings.position_ids = torch.arange(count, device=model.device).expand(1, -1)
    return model


def _unet(sizes: Sizes) -> nn.Module:
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
    return network


def _vae(sizes: Sizes) -> nn.Module:
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


def _image_encoder(sizes: Sizes) -> nn.Module:
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


# ---------------------------------------------------------------------------------------------------------------------
# Cameras


def orbit_cameras(
    azimuth_deg: Sequence[float] | float, elevation_deg: Sequence[float] | float = 0.0, *, size: int = 256
) -> Cameras:
    """Cameras as the family's pictures have them: 49.1° wide, all at one distance, on the orbit of ``cameras.orbit``."""
    return orbit(azimuth_deg, elevation_deg, distance=DISTANCE, fov_deg=FOV_DEG, size=size)


def as_published(cameras: Cameras, size: int) -> Cameras:
    """The family's cameras that see the object from the same places and as large as the given ones do.

    Raises:
        InputError: a camera does not look at the origin, or not upright: the family knows no others.
    """
    elevation, azimuth, distance = spherical(cameras)
    positions = torch.nn.functional.normalize(cameras.positions.reshape(-1, 3), dim=-1) * distance[:, None].float()
    upright = look_at(positions)
    found = cameras.world_to_camera.reshape(-1, 4, 4)[:, :3, :3]
    off = (found - upright[:, :3, :3]).norm(dim=(-2, -1))
    steep = elevation.abs() > 89.9  # looking straight down, up is a matter of taste
    if bool((off[~steep] > 0.05).any()):
        first = int(((off > 0.05) & ~steep).nonzero()[0, 0])
        raise InputError(
            f"camera {first}, at azimuth {azimuth[first]:.0f}° and elevation {elevation[first]:.0f}°, does not look at "
            "the origin with +Y up, and Zero-1-to-3 makes no other views; make the cameras with cameras.orbit"
        )
    intrinsics = pinhole(FOV_DEG, size, size).to(positions).expand(len(positions), 3, 3)
    return Cameras(upright, intrinsics, size, size)


def spherical(cameras: Cameras) -> tuple[Tensor, Tensor, Tensor]:
    """Elevations and azimuths [B] in degrees, and distances [B] in object units, float64.

    A distance is that of the family's camera to which the object looks as large: another field of view counts as
    another distance. Straight above and below the azimuth is 0, as ``look_at`` has it.
    """
    x, y, z = cameras.positions.reshape(-1, 3).double().unbind(-1)
    flat = torch.hypot(x, z)
    elevation = torch.rad2deg(torch.atan2(y, flat))
    azimuth = torch.rad2deg(torch.where(flat > 1e-6 * y.abs(), torch.atan2(x, z), torch.zeros_like(x)))
    focal = cameras.intrinsics.reshape(-1, 3, 3)[:, 1, 1].double()
    half = min(cameras.width, cameras.height) / 2 / focal  # tangent of half the field of view
    return elevation, azimuth, torch.hypot(flat, y) * half / math.tan(math.radians(FOV_DEG) / 2)


def pose_embedding(
    cameras: Cameras,
    *,
    source_elevation_deg: float,
    source_azimuth_deg: float = 0.0,
    source_distance: float | None = None,
    family: Family = "zero123",
) -> Tensor:
    """What the network is told of each camera → [B, 4] float32.

    Args:
        cameras: B targets, any field of view.
        source_elevation_deg: of the camera that took the picture, above the horizon.
        source_azimuth_deg: of that camera; the photo's is 0.
        source_distance: of that camera, in object units at the family's field of view; targets nearer than that show
            the object larger than the picture does. None: the object is to keep its size whatever the targets'
            distances are, as all published distillations have it. Stable Zero123 is told no distance.
        family: which meaning the fourth number has.
    """
    elevation, azimuth, distance = spherical(cameras)
    nearer = torch.zeros_like(distance) if source_distance is None else distance - source_distance
    return pose_vector(
        source_elevation_deg - elevation,
        azimuth - source_azimuth_deg,
        nearer,
        source_polar_deg=90.0 - source_elevation_deg,
        family=family,
    )


def pose_vector(
    polar_deg: Tensor, azimuth_deg: Tensor, distance: Tensor, *, source_polar_deg: float, family: Family = "zero123"
) -> Tensor:
    """Published pose vector [B, 4] float32: polar angle in radians, sine and cosine of the azimuth, a fourth number.

    Args:
        polar_deg: [B] the target's angle from straight up less the source's: positive moves down.
        azimuth_deg: [B] target less source, counter-clockwise seen from above: positive moves to the camera's right.
        distance: [B] target less source; the fourth number of Zero-1-to-3.
        source_polar_deg: the source's angle from straight up; in radians, the fourth number of Stable Zero123.
        family: whose.
    """
    turn = torch.deg2rad(azimuth_deg.double())
    if family == "stable-zero123":
        distance = torch.full_like(distance, math.radians(source_polar_deg))
    return torch.stack([torch.deg2rad(polar_deg.double()), turn.sin(), turn.cos(), distance.double()], -1).float()


# ---------------------------------------------------------------------------------------------------------------------
# Pictures


def prepared(picture: Subject | Tensor, size: int) -> Tensor:
    """A cut-out, or an image [H, H, 3 or 4] in 0–1 that is framed already → [1, 3, size, size] in −1–1 on white.

    A cut-out is scaled until the longer side of what is opaque spans 200 of 256 pixels and is centred, as in the
    published demonstration, except that soft edges stay soft and small objects are enlarged.

    Raises:
        InputError: the image is not square, has no colour, or its border is not white.
    """
    if isinstance(picture, Subject):
        pixels = _framed(picture.rgba, size)
    else:
        if picture.ndim != 3 or picture.shape[0] != picture.shape[1] or picture.shape[2] not in (3, 4):
            raise InputError(f"the image is {list(picture.shape)}, it must be [H, H, 3 or 4]; crop it to a square")
        pixels = _on_white(picture)
        if pixels.shape[-2:] != (size, size):
            pixels = _resized(pixels, size, size)
        _check_white(pixels[0])
    return pixels * 2 - 1


def _on_white(image: Tensor) -> Tensor:
    """Image [H, W, 3 or 4] → [1, 3, H, W] over white."""
    rgb, alpha = image[..., :3].float(), image[..., 3:].float()
    return (rgb * alpha + 1 - alpha if alpha.numel() else rgb).permute(2, 0, 1)[None]


def _resized(pixels: Tensor, height: int, width: int) -> Tensor:
    return F.interpolate(pixels, (height, width), mode="bicubic", align_corners=False, antialias=True).clamp(0, 1)


def _framed(rgba: Tensor, size: int) -> Tensor:
    """Cut-out [S, S, 4] → [1, 3, size, size] in 0–1: its box scaled, centred, on white."""
    solid = (rgba[..., 3] > 0.5).nonzero()
    if not len(solid):
        raise InputError("the cut-out is transparent everywhere; pass a photo with an object in it")
    (top, left), (bottom, right) = solid.amin(0).tolist(), (solid.amax(0) + 1).tolist()
    box = _on_white(rgba[top:bottom, left:right])
    scale = round(size * FILL) / max(box.shape[-2:])
    height, width = (max(1, round(scale * side)) for side in box.shape[-2:])
    canvas = torch.ones(1, 3, size, size)
    y, x = (size - height) // 2, (size - width) // 2
    canvas[..., y : y + height, x : x + width] = _resized(box, height, width)
    return canvas


def _check_white(pixels: Tensor) -> None:
    """Refuse a picture [3, S, S] in 0–1 most of whose border is not white: the network has seen hardly anything else.

    Raises:
        InputError: it is.
    """
    rim = torch.cat([pixels[:, 0], pixels[:, -1], pixels[:, :, 0], pixels[:, :, -1]], dim=1)
    white = float((rim.amin(0) >= WHITE).float().mean())
    if white < 0.5:
        raise InputError(
            f"{100 * white:.0f} % of the picture's border is white, it must be most of it: Zero-1-to-3 knows objects on "
            "white only; pass a Subject from read_photo, or an RGBA image"
        )


def clip_pixels(pixels: Tensor, size: int) -> Tensor:
    """Pictures [B, 3, S, S] in −1–1 → CLIP's input [B, 3, size, size], as published: corners aligned, no antialias."""
    resized = F.interpolate(pixels.float(), (size, size), mode="bicubic", align_corners=True)
    mean, std = (torch.tensor(values).to(resized)[:, None, None] for values in (CLIP_MEAN, CLIP_STD))
    return (resized / 2 + 0.5 - mean) / std
