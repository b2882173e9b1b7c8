"""The model in the wheel: one photo → the solid in its own viewing frustum. Trained by us; nothing to download.

The photo's pixels are the columns of a box of cells; a network says for each cell whether the object fills it, and
what colour the surface has there. Nothing depends on the focal length or the distance, which one photo does not tell.
The outline is the photo's own at full resolution, and no column inside it may be empty: where the network is unsure
of the depth, its most likely cells are filled (``cut``).

Patches of 4 × 4 pixels go through residual convolutions at a quarter and an eighth of the resolution and transformer
blocks at a sixteenth (He et al. 2016; Dosovitskiy et al. 2021; joined by skips as in the U-Net of Ronneberger et al.
2015), and come back as columns at half of it. ``obverse train embedded`` makes the weights.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
import torch
from safetensors.torch import save as to_bytes
from scipy import ndimage
from torch import Tensor, nn
from torch.nn import functional as f

from ..cameras import DEFAULT_FOV_DEG, Cameras, fit_distance, orbit
from ..errors import NoObjectError, WeightsError
from ..formats.files import atomic_write
from ..photo import Subject
from ..weights import load_strict, read_checkpoint
from .columns import cut, nearest, solid_of_columns
from .inflate import FLAT_WIDTH, poisson_bulge

OUTLINE_GAIN = 40.0  # value per half side of the crop at the outline: about 1.2 a column
OUTLINE_BLUR = 1.0  # of those pixels
OUTLINE = 384  # pixels across the crop at which the outline is followed
# columns, down and across: layers go round a cake. Hidden colours of 36 objects held out: 19.38 dB without, 19.65 so
HIDDEN_BLUR = (1.0, 4.0)
EXTENT = 1.2  # object units across the crop in the frustum's middle


@dataclass(frozen=True)
class Config:
    """Sizes of the network."""

    photo: int = 128  # pixels along a side of the crop
    columns: int = 64  # columns along a side: half the pixels
    depths: int = 64  # cells of a column
    slices: int = 6  # depths at which colour is predicted
    width: int = 128  # channels at a quarter of the resolution
    blocks: int = 3  # residual blocks there, on the way down and again on the way up
    middle: int = 256  # channels at an eighth
    middle_blocks: int = 2
    deep: int = 384  # channels at a sixteenth, where every patch sees every other
    layers: int = 5
    heads: int = 6
    fine: int = 80  # channels at half the resolution


INPUTS = 8  # premultiplied red, green, blue; alpha; distance to the outline; right; down; thickness if inflated


@dataclass(frozen=True)
class Prediction:
    """What the network says about B photos."""

    occupancy: Tensor  # [B, depths, columns, columns] logits, from near to far
    colors: Tensor  # [B, 3, slices, columns, columns] 0–1, sRGB-encoded
    elevation: Tensor  # [B] of the camera over the object's own horizon, degrees


class Network(nn.Module):
    """[B, INPUTS, photo, photo] → Prediction."""

    def __init__(self, config: Config | None = None) -> None:
        super().__init__()
        self.config = c = config or Config()
        self.patches = nn.Conv2d(16 * INPUTS, c.width, 1)
        self.down = nn.ModuleList(Residual(c.width) for _ in range(c.blocks))
        self.shrink = nn.Conv2d(4 * c.width, c.middle, 1)
        self.middle_down = nn.ModuleList(Residual(c.middle) for _ in range(c.middle_blocks))
        self.shrink_more = nn.Conv2d(4 * c.middle, c.deep, 1)
        self.position = nn.Parameter(torch.randn(1, (c.photo // 16) ** 2, c.deep) * 0.02)
        self.layers = nn.ModuleList(Layer(c.deep, c.heads) for _ in range(c.layers))
        self.pose = nn.Sequential(nn.LayerNorm(c.deep), nn.Linear(c.deep, 64), nn.SiLU(), nn.Linear(64, 1))
        self.grow_more = nn.Conv2d(c.deep, 4 * c.middle, 1)
        self.middle_up = nn.ModuleList(Residual(c.middle) for _ in range(c.middle_blocks))
        self.grow = nn.Conv2d(c.middle, 4 * c.width, 1)
        self.up = nn.ModuleList(Residual(c.width) for _ in range(c.blocks))
        self.split = nn.Conv2d(c.width, 4 * c.fine, 1)
        self.detail = nn.Conv2d(4 * INPUTS, c.fine, 1)
        self.fine = Residual(c.fine)
        self.out = nn.Conv2d(c.fine, c.depths + 3 * c.slices, 1)

    def forward(self, photo: Tensor) -> Prediction:
        """Photos [B, INPUTS, photo, photo] → Prediction."""
        c = self.config
        x = self.patches(f.pixel_unshuffle(photo, 4))
        for block in self.down:
            x = block(x)
        y = self.shrink(f.pixel_unshuffle(x, 2))
        for block in self.middle_down:
            y = block(y)
        deep = self.shrink_more(f.pixel_unshuffle(y, 2))
        tokens = deep.flatten(2).transpose(1, 2) + self.position
        for layer in self.layers:
            tokens = layer(tokens)
        elevation = 15 + 10 * self.pose(tokens.mean(1))[:, 0].float()
        deep = tokens.transpose(1, 2).reshape(deep.shape)
        y = y + f.pixel_shuffle(self.grow_more(deep), 2)
        for block in self.middle_up:
            y = block(y)
        x = x + f.pixel_shuffle(self.grow(y), 2)
        for block in self.up:
            x = block(x)
        z = f.pixel_shuffle(self.split(x), 2) + self.detail(f.pixel_unshuffle(photo, 2))
        out = self.out(self.fine(z))
        colors = out[:, c.depths :].reshape(-1, 3, c.slices, c.columns, c.columns)
        return Prediction(out[:, : c.depths], colors.sigmoid(), elevation)


class Residual(nn.Module):
    """Two 3 × 3 convolutions around a normalisation, added to their input; starts as the identity."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.norm = nn.GroupNorm(width // 16, width)
        self.second = nn.Conv2d(width, width, 3, padding=1)
        nn.init.zeros_(self.second.weight)
        nn.init.zeros_(self.second.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        """[B, width, H, W] → the same."""
        return x + self.second(f.silu(self.norm(self.first(x))))


class Layer(nn.Module):
    """A pre-norm transformer block (Xiong et al. 2020)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.before_attention = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.mix = nn.Linear(width, width)
        self.before_mlp = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(approximate="tanh"), nn.Linear(4 * width, width))
        for last in (self.mix, self.mlp[2]):
            nn.init.zeros_(last.weight)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        """Tokens [B, N, width] → the same."""
        batch, count, width = x.shape
        qkv = self.qkv(self.before_attention(x)).reshape(batch, count, 3, self.heads, width // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        attention = (q * (width // self.heads) ** -0.5 @ k.transpose(-1, -2)).softmax(-1)  # small: nothing to fuse
        mixed = (attention.to(v) @ v).transpose(1, 2).reshape(batch, count, width)
        x = x + self.mix(mixed)
        return x + self.mlp(self.before_mlp(x))


def network_input(rgba: np.ndarray) -> np.ndarray:
    """A crop [S, S, 4], straight alpha → [INPUTS, S, S]: what the network sees, centred around zero where it is known.

    The distance to the outline is that to the nearest pixel outside, and the thickness half of what ``inflate`` would
    give the pixel, both in eighths of the crop's side: the network learns where that guess is wrong.
    """
    side = len(rgba)
    alpha = rgba[..., 3]
    solid = (alpha > 0.5).astype(np.uint8)
    distance = cv2.distanceTransform(solid, cv2.DIST_L2, 5) * (8 / side)
    axis = (np.arange(side, dtype=np.float32) + 0.5) * (2 / side) - 1
    right, down = np.broadcast_to(axis, (side, side)), np.broadcast_to(axis[:, None], (side, side))
    color = (2 * rgba[..., :3] - 1) * alpha[..., None]
    half = cv2.resize(alpha, (side // 2, side // 2), interpolation=cv2.INTER_AREA) > 0.5
    bulge = np.sqrt(poisson_bulge(half, flat_width=FLAT_WIDTH * side / 2)) * (16 / side)
    thickness = cv2.resize(bulge, (side, side), interpolation=cv2.INTER_LINEAR)
    channels = [alpha, distance, right, down, thickness]
    return np.concatenate([color.transpose(2, 0, 1), channels]).astype(np.float32)


# ---------------------------------------------------------------------------------------------------------------------
# Photo → field


def reconstruct(network: Network, subject: Subject) -> tuple[FrustumField, Cameras, float]:
    """Subject → the solid, the camera that sees ``subject.rgba``, and how uncertain the solid is.

    The camera stands at azimuth 0 and the predicted elevation, with a field of view of 30°: the network does not say.

    Returns:
        Field, camera, and the share (0–1) of the solid's volume that may as well be air: mean of 4 p (1 − p) over the
        cells the field fills.

    Raises:
        NoObjectError: the cut-out has no solid pixel at working resolution.
    """
    logits, colors, elevation = predict(network, subject.resized(network.config.photo).numpy())
    rgba = subject.resized(OUTLINE).numpy()
    if not (rgba[..., 3] > 0.5).any():
        raise NoObjectError("the cut-out has no solid pixel; crop closer to the object or pass a mask")
    distance = fit_distance(DEFAULT_FOV_DEG, extent=EXTENT, fill=1.0)
    camera = orbit(0.0, elevation, distance=distance, fov_deg=DEFAULT_FOV_DEG, size=subject.rgba.shape[0])[0]
    field = frustum_field(logits, _matched(colors, logits, rgba), rgba, camera)
    chance = logits.sigmoid()[:, _inside(rgba, logits.shape[-1])]
    full = chance > 0.5
    doubt = float((4 * chance * (1 - chance))[full].mean()) if bool(full.any()) else 1.0
    return field, camera, doubt


def predict(network: Network, rgba: np.ndarray) -> tuple[Tensor, Tensor, float]:
    """A crop [photo, photo, 4] → logits [D, C, C], colours [3, S, C, C], elevation in degrees.

    The mean over the photo and its mirror image, which the network answers almost independently.
    """
    device = next(network.parameters()).device
    both = torch.from_numpy(np.stack([network_input(rgba), network_input(rgba[:, ::-1])])).to(device)
    with torch.no_grad():
        said = network(both)
    logits = (said.occupancy[0] + said.occupancy[1].flip(-1)).float().cpu() / 2
    colors = (said.colors[0] + said.colors[1].flip(-1)).float().cpu() / 2
    return logits, colors, float(said.elevation.mean())


def frustum_field(logits: Tensor, colors: Tensor, rgba: np.ndarray, camera: Cameras) -> FrustumField:
    """Cells → a solid with the photo's outline.

    Args:
        logits: [D, C, C].
        colors: [3, S, C, C].
        rgba: the crop [G, G, 4] at the resolution its outline is wanted at.
        camera: sees the crop; the frustum's middle is at its distance from the origin.
    """
    columns = logits.shape[-1]
    inside = _inside(rgba, columns)
    outline = distance_to_outline(rgba[..., 3])
    values = solid_of_columns(logits, inside, outline)
    outline = ndimage.gaussian_filter(outline, OUTLINE_BLUR) * (2 / len(rgba))
    distance = float(camera.positions.norm())
    half = distance * camera.width / 2 / float(camera.intrinsics[0, 0])
    field = FrustumField(
        values=values,
        colors=_averaged_colors(colors, _core(inside.numpy())).clamp(0, 1),
        outline=torch.from_numpy(outline),
        camera=camera,
        middle=distance,
        half=half,
        bounds=((-1.0,) * 3, (1.0,) * 3),
    )
    return replace(field, bounds=_occupied(field))


def distance_to_outline(alpha: np.ndarray) -> np.ndarray:
    """Cut-out [H, W] in 0–1 → distance in pixels to where it is half covered, positive inside; within half a pixel.

    Pixels next to the outline hold how far they are covered above one half, so between them it runs where it should:
    a slanted outline has no stairs.
    """
    solid = alpha > 0.5
    far = np.where(solid, ndimage.distance_transform_edt(solid), ndimage.distance_transform_edt(~solid))
    return np.where(far <= 1, alpha - 0.5, np.where(solid, far - 0.5, 0.5 - far)).astype(np.float32)


@dataclass(frozen=True)
class FrustumField:
    """A solid in the frustum of a photo: full where both the cells and the photo's outline say so."""

    values: Tensor  # [D, C, C] positive where full, near to far, rows of the photo
    colors: Tensor  # [3, S, C, C] sRGB-encoded
    outline: Tensor  # [G, G] distance to the photo's outline in half sides of the crop, positive inside
    camera: Cameras  # sees the crop
    middle: float  # depth of the frustum's middle
    half: float  # half its extent in depth
    bounds: tuple[tuple[float, float, float], tuple[float, float, float]]
    kind: Literal["density", "sdf"] = "density"
    level: float = 0.0

    def density_or_sdf(self, points: Tensor) -> Tensor:
        """World points [N, 3] → values [N], positive inside."""
        place = self._place(points)
        cells = _lookup(self.values[None], place)[:, 0]
        edge = f.grid_sample(
            self.outline[None, None], place[None, None, :, :2], align_corners=False, padding_mode="border"
        )
        value = torch.minimum(cells, OUTLINE_GAIN * edge[0, 0, 0])
        return torch.where((place.abs() <= 1).all(-1), value, value.clamp_max(-1.0))

    def color(self, points: Tensor) -> Tensor:
        """World points [N, 3] → sRGB-encoded colour [N, 3] in 0–1."""
        return _lookup(self.colors, self._place(points)).clamp(0, 1)

    def _place(self, points: Tensor) -> Tensor:
        """World points [N, 3] → right, down, away in −1…1 of the frustum [N, 3]."""
        pixels, depth = self.camera.project(points)
        size = torch.tensor([self.camera.width, self.camera.height]).to(points)
        return torch.cat([2 * pixels / size - 1, ((depth - self.middle) / self.half)[:, None]], -1)


def _lookup(volume: Tensor, place: Tensor) -> Tensor:
    """Channels [K, D, H, W] at places [N, 3] in −1…1 → [N, K], trilinear."""
    return f.grid_sample(volume[None], place[None, None, None], align_corners=False, padding_mode="border")[
        0, :, 0, 0
    ].T


def _inside(rgba: np.ndarray, columns: int) -> Tensor:
    """Which columns [C, C] the object covers; the one it covers most if it covers none by half."""
    share = cv2.resize(rgba[..., 3], (columns, columns), interpolation=cv2.INTER_AREA)
    return torch.from_numpy(share >= min(0.5, share.max()))


def _core(inside: np.ndarray) -> np.ndarray:
    """The columns [C, C] among those inside the outline whose colours are used: not those along it.

    A real photo's last pixels before the outline mirror the surroundings and are mixed with them, and the whole side of
    the solid would take that colour. Parts one or two columns wide keep them.
    """
    depth = ndimage.distance_transform_edt(np.pad(inside, 1))[1:-1, 1:-1]
    return inside & (depth > np.minimum(1.0, ndimage.maximum_filter(depth, 3) - 0.5))


def _averaged_colors(colors: Tensor, core: np.ndarray) -> Tensor:
    """Colours [3, S, C, C] averaged over neighbours in a mask [C, C]; outside it, those of the nearest place inside.

    Of a surface that no one saw the network says what is likely in each place: a faint copy of the front. Averaging,
    mostly across, takes the eyes off the back of the head, and what is left is nearer to the truth.
    """
    spread = (0.0, 0.0, *HIDDEN_BLUR)
    share = ndimage.gaussian_filter(core.astype(np.float32), HIDDEN_BLUR, mode="constant")
    mean = ndimage.gaussian_filter(colors.numpy() * core, spread, mode="constant") / share.clip(1e-6)
    rows, cols = nearest(core)
    return torch.from_numpy(mean[..., rows, cols])


def _matched(colors: Tensor, logits: Tensor, rgba: np.ndarray) -> Tensor:
    """Colours [3, S, C, C] scaled, channel by channel, so that those of the visible surface average to the photo's."""
    slices, columns = colors.shape[1], colors.shape[-1]
    inside = _inside(rgba, columns)
    first = (logits > cut(logits)).float().argmax(0) * slices // logits.shape[0]
    said = colors.gather(1, first[None, None].expand(3, 1, columns, columns))[:, 0][:, inside].mean(-1)
    small = torch.from_numpy(cv2.resize(rgba[..., :3], (columns, columns), interpolation=cv2.INTER_AREA))
    gain = (small[inside].mean(0) / said.clamp_min(0.02)).clamp(0.7, 1.4)
    return (colors * gain[:, None, None, None]).clamp(0, 1)


def _occupied(field: FrustumField) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """A box around the cells that are full, in the world."""
    depths, rows, columns = field.values.shape
    full = torch.nonzero(field.values > -1.5)
    counts = torch.tensor([columns, rows, depths])
    place = (2 * full.flip(-1) + 1) / counts - 1
    edge = f.grid_sample(field.outline[None, None], place[None, None, :, :2], align_corners=False)[0, 0, 0]
    place = place[edge > -4 / columns]
    depth = field.middle + field.half * place[:, 2]
    pixels = (place[:, :2] + 1) / 2 * torch.tensor([field.camera.width, field.camera.height])
    rays = torch.cat([pixels, torch.ones(len(pixels), 1)], -1) @ torch.linalg.inv(field.camera.intrinsics).T
    local = rays * depth[:, None] - field.camera.world_to_camera[:3, 3]
    world = local @ field.camera.world_to_camera[:3, :3]
    low, high = world.min(0).values, world.max(0).values
    margin = 3 * field.half / columns
    return tuple((low - margin).tolist()), tuple((high + margin).tolist())


# ---------------------------------------------------------------------------------------------------------------------
# Weights

WEIGHTS = Path(__file__).with_name("embedded.safetensors")  # in the wheel
FORMAT = "obverse embedded 1"


def save(network: Network, path: str | Path) -> None:
    """Write a network's weights as float16 safetensors, its sizes beside them."""
    tensors = {key: value.detach().cpu().half().contiguous() for key, value in network.state_dict().items()}
    atomic_write(path, to_bytes(tensors, metadata={"format": FORMAT, "config": json.dumps(asdict(network.config))}))


def load(path: str | Path = WEIGHTS, *, device: str = "cpu") -> Network:
    """Network with the weights of a file, in float32, in evaluation mode.

    Raises:
        WeightsError: it is missing, damaged, or of another network.
    """
    checkpoint = read_checkpoint(path)
    if checkpoint.rest.get("format") != FORMAT:
        raise WeightsError(f"{path} does not say that it is {FORMAT!r}; make one with obverse train embedded")
    try:
        with torch.device("meta"):
            network = Network(Config(**json.loads(checkpoint.rest["config"])))
    except (KeyError, TypeError, ValueError, RuntimeError, ArithmeticError) as error:
        raise WeightsError(
            f"{path} names no sizes of the embedded model ({error}); fetch or export it again"
        ) from error
    load_strict(network, checkpoint.tensors, source=path, family="the embedded model", device=device)
    return network
