"""Splatter Image: one photo → a Gaussian for each of its pixels (Szymanowicz et al. 2024, arXiv 2312.13150).

A U-Net reads a picture of 128 × 128 pixels and gives twenty-four numbers for each: how deep the pixel's Gaussian lies
along the pixel's ray, how far it is shifted from there, its opacity, scale, rotation, and colour with one band of
spherical harmonics. Pixels of the background are free to become what the picture does not show. The same network can
be trained to read several views at once, told their cameras; then its attention spans them.

Its Gaussians are in the frame of the picture's camera, x right, y down and z forward, as cameras are here. From one
photo they are brought to the world by a level camera at the distance it was trained with.

The published U-Net is that of Karras et al. 2022 ("EDM", arXiv 2206.00364, the architecture they call DDPM++) without
noise levels; here it is written anew. Licences: see ``weights.KNOWN``.

    network = load("szymanowiczs/splatter-image-multi-category-v1")     # or a file, or a folder
    gaussians, camera = reconstruct(network, read_photo("chair.jpg"))
"""

from __future__ import annotations

import math
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from ..cameras import Cameras, Views, orbit, pinhole
from ..errors import InputError, UsageError, WeightsError
from ..gaussians import Gaussians, merge, prune, transformed
from ..photo import Subject
from ..weights import load_strict, read_checkpoint, resolve

FAMILY = "Splatter Image"
OUTPUTS = (1, 3, 1, 3, 4, 3, 9)  # depth, offset, opacity, scale, rotation, colour, its first band
EMBEDDED = 60  # numbers that tell a camera: its position and direction by five frequencies, cosine and sine
RESIDUAL = math.sqrt(0.5)  # by which every sum of a layer and its input is multiplied
EPS = 1e-6
# The first band's coefficients as a vector, v = s · SH_TO_V, and back; stored in every checkpoint.
SH_TO_V = ((0.0, -1.0, 0.0), (0.0, 0.0, 1.0), (-1.0, 0.0, 0.0))
Resampling = Literal["up", "down"] | None


@dataclass(frozen=True)
class Config:
    """Sizes and ranges; the defaults are those of the weights for any object, 56 million parameters."""

    size: int = 128  # pixels along the picture's side
    width: int = 128  # channels at full resolution
    multipliers: tuple[int, ...] = (1, 2, 2, 2)  # of them at every level, each half as fine as the last
    blocks: int = 4  # layers at a level
    attention: tuple[int, ...] = (16,)  # resolutions at which pixels attend to each other
    fov_deg: float | None = 49.134342641202636  # None: focal lengths differ and are told
    near: float = 0.8  # depths the network can give
    far: float = 3.2
    from_distance: bool = False  # depths are counted from the object's distance, which is told for every pixel
    posed: bool = False  # the cameras of several views are told
    isotropic: bool = False  # the first scale holds for all three axes
    background: float = 1.0  # grey level behind the object
    fill: float = 0.65  # share of the picture's side that the object spans, as in the published demonstration

    @property
    def distance(self) -> float:
        """Of the camera from the object's middle, in the network's units."""
        return (self.near + self.far) / 2


SRN_FOV_DEG = 51.98948897809546
# By the file names under which weights are published; all have the same layout.
PUBLISHED = {
    "model_latest.pth": Config(),
    "model_cars.pth": Config(fov_deg=SRN_FOV_DEG, near=0.8, far=1.8),
    "model_chairs.pth": Config(fov_deg=SRN_FOV_DEG, near=1.25, far=2.75),
    "model_hydrants.pth": Config(fov_deg=None, near=-2.0, far=2.0, from_distance=True, background=0.0),
    "model_teddybears.pth": Config(fov_deg=None, near=-2.0, far=2.0, from_distance=True, background=0.0),
}
FILES = tuple(PUBLISHED)


class Conv(nn.Conv2d):
    """A convolution that keeps the resolution, or first doubles it by repeating, or halves it by averaging."""

    def __init__(self, into: int, out: int, kernel: int, resample: Resampling = None) -> None:
        super().__init__(into, out, kernel, padding=kernel // 2)
        self.resample = resample
        if resample:  # as published, where it is the filter; here only its presence in a checkpoint matters
            self.register_buffer("resample_filter", torch.full((1, 1, 2, 2), 0.25))

    def forward(self, x: Tensor) -> Tensor:
        """Features [V, into, H, W] → [V, out, H', W']."""
        if self.resample == "up":
            x = F.interpolate(x, scale_factor=2.0, mode="nearest")
        elif self.resample == "down":
            x = F.avg_pool2d(x, 2)
        return super().forward(x)


class Block(nn.Module):
    """Two convolutions added to the input, and where asked for attention among the pixels of all views."""

    def __init__(
        self, into: int, out: int, *, posed: int = 0, attention: bool = False, resample: Resampling = None
    ) -> None:
        super().__init__()
        self.norm0 = norm(into)
        self.conv0 = Conv(into, out, 3, resample)
        self.affine = nn.Linear(posed, out) if posed else None
        self.norm1 = norm(out)
        self.conv1 = Conv(out, out, 3)
        self.skip = Conv(into, out, 1, resample) if into != out or resample else None
        self.attention = attention
        if attention:
            self.norm2 = norm(out)
            self.qkv = Conv(out, 3 * out, 1)
            self.proj = Conv(out, out, 1)

    def forward(self, x: Tensor, pose: Tensor | None) -> Tensor:
        """Features [V, into, H, W] and what is known of the cameras [V, posed] → [V, out, H', W']."""
        hidden = self.conv0(F.silu(self.norm0(x)))
        if self.affine is not None:  # and then the same norm again: so it was trained
            hidden = F.silu(self.norm1(hidden + self.affine(pose)[..., None, None]))
        hidden = self.conv1(F.silu(self.norm1(hidden)))
        x = ((x if self.skip is None else self.skip(x)) + hidden) * RESIDUAL
        return self.attend(x) if self.attention else x

    def attend(self, x: Tensor) -> Tensor:
        """Features [V, C, H, W] → the same shape; the views lie one below the other, for the norm too."""
        views, channels, height, width = x.shape
        tall = x.transpose(0, 1).reshape(1, channels, views * height, width)
        # Queries, keys and values alternate along the channels.
        q, k, v = self.qkv(self.norm2(tall)).reshape(1, channels, 3, -1).permute(2, 0, 3, 1)
        found = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(tall.shape)
        tall = (tall + self.proj(found)) * RESIDUAL
        return tall.reshape(channels, views, height, width).transpose(0, 1)


class UNet(nn.Module):
    """Pictures [V, 3, S, S] → features [V, width, S, S]; ``head`` makes 24 channels of them."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        width, top = config.width, config.size
        posed = 4 * width if config.posed else 0
        if posed:
            self.map_layer0 = nn.Linear(EMBEDDED, posed)
            self.map_layer1 = nn.Linear(posed, posed)
        widths = [width * multiplier for multiplier in config.multipliers]
        self.enc, self.dec = nn.ModuleDict(), nn.ModuleDict()
        self.enc[f"{top}x{top}_conv"] = Conv(3, width, 3)
        skips, into = [width], width
        for level, out in enumerate(widths):
            side = top >> level
            if level:
                self.enc[f"{side}x{side}_down"] = Block(into, into, posed=posed, resample="down")
                skips.append(into)
            for i in range(config.blocks):
                attention = side in config.attention
                self.enc[f"{side}x{side}_block{i}"] = Block(into, out, posed=posed, attention=attention)
                into = out
                skips.append(into)
        for level, out in reversed(list(enumerate(widths))):
            side = top >> level
            if level == len(widths) - 1:
                self.dec[f"{side}x{side}_in0"] = Block(into, into, posed=posed, attention=True)
                self.dec[f"{side}x{side}_in1"] = Block(into, into, posed=posed)
            else:
                self.dec[f"{side}x{side}_up"] = Block(into, into, posed=posed, resample="up")
            for i in range(config.blocks + 1):
                attention = side in config.attention and i == config.blocks
                block = Block(into + skips.pop(), out, posed=posed, attention=attention)
                self.dec[f"{side}x{side}_block{i}"] = block
                into = out
        self.dec[f"{top}x{top}_aux_norm"] = norm(into)
        self.dec[f"{top}x{top}_aux_conv"] = Conv(into, sum(OUTPUTS), 3)

    def forward(self, pictures: Tensor, pose: Tensor | None = None) -> Tensor:
        """Pictures [V, 3, S, S] in 0–1 and their cameras' embedding [V, 60] → features [V, width, S, S]."""
        if pose is not None:
            pose = torch.cat([pose[:, EMBEDDED // 2 :], pose[:, : EMBEDDED // 2]], dim=1)  # so it was trained
            pose = F.silu(self.map_layer1(F.silu(self.map_layer0(pose))))
        first, *encoder = self.enc.values()
        x = first(pictures)
        skips = [x]
        for block in encoder:
            x = block(x, pose)
            skips.append(x)
        for name, block in list(self.dec.items())[:-2]:
            x = block(torch.cat([x, skips.pop()], dim=1) if "block" in name else x, pose)
        return x

    def head(self, x: Tensor) -> Tensor:
        """Features [V, width, S, S] → [V, 24, S, S]."""
        *_, aux_norm, aux_conv = self.dec.values()
        return aux_conv(F.silu(aux_norm(x)))


class WithOffset(nn.Module):
    """The U-Net, and a linear map of its channels."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.encoder = UNet(config)
        self.out = Conv(sum(OUTPUTS), sum(OUTPUTS), 1)


class SplatterImage(nn.Module):
    """Pictures [V, 3, S, S] in 0–1 → 24 numbers for each pixel's Gaussian [V, 24, S, S], not yet activated."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        for name, value in constants(config).items():
            self.register_buffer(name, value)
        self.network_with_offset = WithOffset(config)

    def forward(self, pictures: Tensor, camera_to_world: Tensor | None = None) -> Tensor:
        """Pictures [V, 3, S, S] in 0–1 → [V, 24, S, S]; the last layers are always computed in float32.

        Args:
            pictures: views of one object, over the background.
            camera_to_world: [V, 4, 4], the first one being the identity; for networks that are told cameras.
        """
        unet = self.network_with_offset.encoder
        pose = embedding(camera_to_world) if self.config.posed and camera_to_world is not None else None
        with precision(self):
            features = unet(pictures, pose)
        return self.network_with_offset.out(unet.head(features.float()))


def load(
    source: str | Path,
    *,
    config: Config | None = None,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    download: bool = True,
) -> SplatterImage:
    """The network with published weights, or others in their layout.

    Args:
        source: a file, a folder, or a Hub id; see ``weights.resolve``.
        config: of another training; by default that of the published file of this name, or else that for any object.
        dtype: of the U-Net's matrices. The last three layers, which place the Gaussians, stay float32.
        device: where it goes.
        download: whether a Hub id may be fetched if it is not in the cache.

    Raises:
        WeightsError: no weights there, not of this family and size, or trained with another field of view.
    """
    path = resolve(source, FILES, download=download)
    config = config or PUBLISHED.get(path.name, Config())
    with torch.device("meta"):
        network = SplatterImage(config)
    side = f"network_with_offset.encoder.dec.{config.size}x{config.size}"
    keep = (f"{side}_aux_norm", f"{side}_aux_conv", "network_with_offset.out")
    checkpoint = read_checkpoint(path)
    load_strict(network, checkpoint.tensors, source=path, family=FAMILY, dtype=dtype, device=device, keep=keep)
    for name, expected in constants(config).items():
        if not torch.allclose(network.get_buffer(name).cpu(), expected, atol=1e-3):
            raise WeightsError(
                f"{path} was trained with another {name} than its configuration says, perhaps another field of view "
                f"than {config.fov_deg}; pass the configuration it was trained with"
            )
    return network


def reconstruct(network: SplatterImage, photo: Subject | Tensor) -> tuple[Gaussians, Cameras]:
    """A cut-out, or an image [H, W, 3 or 4] in 0–1 → its Gaussians that can be seen, and the camera that sees it.

    The object is framed as the network knows it; an image without alpha, which must be square, is taken as it is.
    Where the camera stood is not told by the photo: it is put on the world's +Z, level with the object's middle.

    Raises:
        UsageError: the network needs more than a photo, a focal length and a distance.
        InputError: the image has no colour, or no alpha and is not square.
    """
    config = network.config
    if config.fov_deg is None or config.from_distance:
        raise UsageError(
            "this Splatter Image network is told focal length and distance of every picture, which a photo does not "
            "tell; pass them with from_views(), or load the weights for any object"
        )
    image = photo.rgba if isinstance(photo, Subject) else photo
    left, top, side = window(image, config.fill)
    camera = orbit(0.0, 0.0, distance=config.distance, fov_deg=config.fov_deg, size=side)[0]
    picture = cut(image, left, top, side, config.background)[None]
    gaussians = from_views(
        network, Views(picture, Cameras(camera.world_to_camera[None], camera.intrinsics[None], side, side))
    )
    intrinsics = camera.intrinsics.clone()
    intrinsics[:2, 2] += torch.tensor([float(left), float(top)])
    seen = Cameras(camera.world_to_camera, intrinsics, image.shape[1], image.shape[0])
    return prune(gaussians), seen


def from_views(network: SplatterImage, views: Views, *, distances: Tensor | None = None) -> Gaussians:
    """Views of an object with known cameras → one Gaussian for each pixel, by view, row and column, in their world.

    Args:
        network: one that is told cameras, unless there is one view.
        views: images [V, H, H, 3] over the network's background, with cameras in its units.
        distances: of the object from the cameras, [V, S, S] or what broadcasts to it, where depths are counted from
            there.

    Raises:
        InputError: several views for a network that knows one, images that are not square, or another field of view.
        UsageError: distances are missing, or the network takes none.
    """
    config, device = network.config, network.network_with_offset.out.weight.device
    images, cameras = views.images, views.cameras.resized(config.size, config.size)
    if images.ndim != 4 or images.shape[1] != images.shape[2] or images.shape[3] != 3:
        raise InputError(f"images are {list(images.shape)}, they must be [V, H, H, 3]; crop them to squares")
    if len(images) > 1 and not config.posed:
        raise InputError(f"this network knows one view, it was given {len(images)}; pass the first alone")
    if config.from_distance != (distances is not None):
        raise UsageError(
            f"this network {'needs' if config.from_distance else 'has no use for'} distances; "
            f"{'pass one for each view' if config.from_distance else 'leave them out'}"
        )
    camera_to_world = torch.linalg.inv(cameras.world_to_camera.double())
    relative = (cameras.world_to_camera[0].double() @ camera_to_world).to(images)
    with torch.no_grad():
        raw = network(pictures_of(images, config.size).to(device), relative.to(device)).to(images.device)
    rays = rays_of(network, cameras).to(images.device)
    depth = torch.zeros(1) if distances is None else distances
    shift = depth.to(images).expand(len(images), config.size, config.size)
    parts = [activated(raw[i], rays[i], shift[i], config) for i in range(len(images))]
    return merge(*(transformed(part, camera_to_world[i]) for i, part in enumerate(parts)))


def activated(raw: Tensor, rays: Tensor, distance: Tensor, config: Config) -> Gaussians:
    """One picture's numbers [24, S, S] → S · S Gaussians in its camera's frame, by row and column.

    As in the published code: positions are ray · depth + offset, depths sigmoids between ``near`` and ``far``,
    opacities sigmoids, scales exponentials, rotations normalised quaternions (w, x, y, z).

    Args:
        raw: of the network.
        rays: [3, S, S], of length 1 along the camera's +Z.
        distance: [S, S], added to the depths.
        config: of the network.
    """
    depth, offset, opacity, scale, rotation, color, band = raw.float().split(OUTPUTS)
    depth = config.near + (config.far - config.near) * depth.sigmoid() + distance
    sh = torch.cat([color, band]).flatten(1).T.unflatten(1, (4, 3))
    return Gaussians(
        (rays * depth + offset).flatten(1).T,
        F.normalize(rotation.flatten(1).T, dim=-1),
        (scale[:1].expand(3, -1, -1) if config.isotropic else scale).exp().flatten(1).T,
        opacity.flatten().sigmoid(),
        sh,
    )


def rays_of(network: SplatterImage, cameras: Cameras) -> Tensor:
    """Rays of every pixel [V, 3, S, S] in the cameras' frames, by the focal lengths the network was trained with.

    Raises:
        InputError: the cameras have other ones, or look past the middle of their pictures.
    """
    config, rays = network.config, network.get_buffer("ray_dirs").to(cameras.intrinsics)
    focal = torch.stack([cameras.intrinsics[:, 0, 0], cameras.intrinsics[:, 1, 1]], 1)
    known = focal if config.fov_deg is None else pinhole(config.fov_deg, config.size, config.size)[0, 0].expand(1, 2)
    off = (cameras.intrinsics[:, :2, 2] - config.size / 2).abs().max()
    if not torch.allclose(focal, known.to(focal).expand_as(focal), rtol=0.01) or off > 0.01 * config.size:
        raise InputError(
            f"the cameras have focal lengths of {focal.mean():.1f} at {config.size} pixels and look {off:.1f} pixels "
            f"past the middle; this network knows {config.fov_deg}° across and the middle; crop the views to that"
        )
    if config.fov_deg is not None:
        return rays.expand(len(focal), -1, -1, -1)
    return rays / F.pad(focal, (0, 1), value=1.0)[..., None, None]


def embedding(camera_to_world: Tensor) -> Tensor:
    """Cameras [V, 4, 4] → [V, 60]: position and direction, each number by the cosines and sines of five frequencies."""
    numbers = torch.cat([camera_to_world[:, :3, 3], camera_to_world[:, :3, 2]], dim=1)
    frequencies = 10000.0 ** (-torch.arange(5).to(numbers) / 5)
    angles = numbers[..., None] * frequencies
    return torch.cat([angles.cos(), angles.sin()], dim=-1).flatten(1)


def constants(config: Config) -> dict[str, Tensor]:
    """What a checkpoint holds beside its weights: rays of length 1 along +Z, or in pixels where focal lengths are told,
    and the maps between the first band of spherical harmonics and vectors.

    ``ray_dirs`` [1, 3, S, S], ``sh_to_v_transform`` and ``v_to_sh_transform`` [1, 3, 3].
    """
    line = torch.arange(config.size) + 0.5 - config.size / 2
    focal = 1.0 if config.fov_deg is None else 0.5 * config.size / math.tan(math.radians(config.fov_deg) / 2)
    x, y = torch.meshgrid(line / focal, line / focal, indexing="xy")
    to_vector = torch.tensor(SH_TO_V)[None]
    return {
        "ray_dirs": torch.stack([x, y, torch.ones_like(x)])[None],
        "sh_to_v_transform": to_vector,
        "v_to_sh_transform": to_vector.transpose(1, 2).contiguous(),
    }


def window(image: Tensor, fill: float) -> tuple[int, int, int]:
    """Image [H, W, 3 or 4] → left, top and side, in pixels, of the square in which the object spans ``fill``.

    Raises:
        InputError: the image has no colour, or nothing that says where the object is and is not square.
    """
    if image.ndim != 3 or image.shape[2] not in (3, 4) or (image.shape[2] == 3 and image.shape[0] != image.shape[1]):
        raise InputError(f"the image is {list(image.shape)}, it must be [H, W, 4] or [H, H, 3]; cut the object out")
    solid = image[..., 3] > 0.5 if image.shape[2] == 4 else None
    if solid is None or not bool(solid.any()):
        return 0, 0, image.shape[0]
    rows, columns = solid.any(1).nonzero()[:, 0], solid.any(0).nonzero()[:, 0]
    low_x, low_y, high_x, high_y = int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1
    side = round(max(high_x - low_x, high_y - low_y) / fill)
    return (low_x + high_x - side) // 2, (low_y + high_y - side) // 2, side


def cut(image: Tensor, left: int, top: int, side: int, background: float) -> Tensor:
    """A square of an image [H, W, 3 or 4], which may reach past its borders → [side, side, 3] over a background."""
    rgb, alpha = image[..., :3], image[..., 3:]
    rgb = rgb * alpha + background * (1 - alpha) if alpha.shape[-1] else rgb
    height, width = rgb.shape[:2]
    margins = (-left, left + side - width, -top, top + side - height)
    return F.pad(rgb.permute(2, 0, 1), margins, value=background).permute(1, 2, 0)


def pictures_of(images: Tensor, size: int) -> Tensor:
    """Images [V, H, H, 3] → [V, 3, size, size] by Lanczos' filter, as in the published demonstration."""
    pictures = images.permute(0, 3, 1, 2)
    if pictures.shape[-1] == size:
        return pictures
    planes = pictures.flatten(0, 1).float().cpu().numpy()
    small = [np.asarray(Image.fromarray(plane).resize((size, size), Image.Resampling.LANCZOS)) for plane in planes]
    return torch.from_numpy(np.stack(small)).clamp(0, 1).unflatten(0, (-1, 3)).to(images)


def norm(channels: int) -> nn.GroupNorm:
    """Group normalisation with at least four channels in a group, and at most 32 groups."""
    return nn.GroupNorm(min(32, channels // 4), channels, eps=EPS)


def precision(network: SplatterImage) -> AbstractContextManager:
    """The context the U-Net is run in: matrices in their own precision, everything else in float32."""
    size = network.config.size
    weight = network.network_with_offset.encoder.get_parameter(f"enc.{size}x{size}_conv.weight")
    return torch.autocast(weight.device.type, dtype=weight.dtype, enabled=weight.dtype != torch.float32)
