"""What OpenLRM and InstantMesh share, both built after LRM (Hong et al. 2023, arXiv 2311.04400): the key names of the
transformer, the field that one network reads from the planes, and the published renderer (that of EG3D, Chan et al.
2022, changed)."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..cameras import Cameras, background_for
from ..errors import InputError, UsageError
from ..render.volume import camera_rays, compositing_weights, intersect_box, resample, widened
from .triplane import PlaneAxes, TriplaneField, outputs

DENSITY_BIAS = -1.0
BEYOND = 0.001  # by which colours may leave 0–1 at either end
FLOOR = 0.01 + 1e-5  # weight of parts where the first samples found none
RAYS = 4096  # marched at once

BLOCKS = (  # key of the network → key in the checkpoints; queries, keys and values of one matrix are still apart
    (r"^blocks\.(\d+)\.mlp\.up\.", r"transformer.layers.\1.mlp.0."),
    (r"^blocks\.(\d+)\.mlp\.down\.", r"transformer.layers.\1.mlp.3."),
    (r"^blocks\.(.*)\.to_([qkv])\.weight$", r"transformer.layers.\1.\2_proj_weight"),
    (r"^blocks\.(.*)\.to_out\.", r"transformer.layers.\1.out_proj."),
    (r"^blocks\.", "transformer.layers."),
    (r"^norm\.", "transformer.norm."),
)
STACKED = (
    (re.compile(r"(_attn\.)([qkv])_proj_weight$"), r"\1in_proj_weight"),
    (re.compile(r"(\.attn\.)([qkv])(\.\w+)$"), r"\1qkv\3"),  # of DINOv2
)


def stacked(name: str, *, alike: bool) -> tuple[str, int | None]:
    """The tensor that holds a projection of queries, keys or values, and which third of its rows; None: all of it.

    The three of an attention are one tensor wherever they take vectors of one width. To the picture that is so only
    where the transformer is as wide as the encoder, which ``alike`` says.
    """
    if "cross_attn" in name and not alike:
        return name, None
    for pattern, whole in STACKED:
        if found := pattern.search(name):
            return pattern.sub(whole, name), "qkv".index(found[2])
    return name, None


def joined(apart: Mapping[str, tuple[int, ...]], *, alike: bool) -> dict[str, tuple[int, ...]]:
    """Shapes by key, queries, keys and values apart → the same as they are stored."""
    found: dict[str, tuple[int, ...]] = {}
    for name, shape in apart.items():
        whole, third = stacked(name, alike=alike)
        found[whole] = shape if third is None else (3 * shape[0], *shape[1:])
    return found


def parted(tensors: Mapping[str, Tensor], names: Iterable[str], *, alike: bool) -> dict[str, Tensor]:
    """Tensors as they are stored → those of the given names, queries, keys and values apart.

    A stored [3 · C, …] gives three of [C, …], in this order; ``alike`` as for ``stacked``.
    """
    found = {}
    for name in names:
        whole, third = stacked(name, alike=alike)
        found[name] = tensors[whole] if third is None else tensors[whole].chunk(3)[third]
    return found


def density_field(
    planes: Tensor, axes: PlaneAxes, radius: float, decoder: nn.Sequential, *, density: float
) -> TriplaneField:
    """Planes [3, C, H, W] and the network that reads raw density and colour from them → the field.

    Args:
        planes: features.
        axes: of the world, that the planes lie in.
        radius: half side of the box, object units.
        decoder: Linear(3C → ...) to four numbers.
        density: on the surface, in a box that is two wide.
    """
    return TriplaneField(
        planes.float(),
        axes,
        radius,
        shape=outputs(decoder, 0, 1),
        paint=outputs(decoder, 1, 4),
        raw_level=math.log(math.expm1(density)) - DENSITY_BIAS,
        activate=lambda raw: F.softplus(raw + DENSITY_BIAS) / radius,
        rgb=lambda raw: widened_sigmoid(raw).clamp(0, 1),
    )


def widened_sigmoid(raw: Tensor) -> Tensor:
    """Raw colour [...] → [...] from −0.001 to 1.001, so that 0 and 1 can be reached (mip-NeRF, Barron et al. 2021)."""
    return torch.sigmoid(raw) * (1 + 2 * BEYOND) - BEYOND


def over_white(image: Tensor) -> Tensor:
    """An image [..., 3 or 4], straight alpha → its colours [..., 3] over white."""
    rgb, alpha = image[..., :3], image[..., 3:]
    return rgb * alpha + (1 - alpha) if alpha.numel() else rgb


def render(
    field: TriplaneField,
    cameras: Cameras,
    *,
    samples: int = 96,
    background: float | Tensor = 1.0,
    jitter: tuple[Tensor, Tensor] | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Images of a density field by the published rule, which ``render_field`` follows less closely.

    Between two neighbouring samples colour and raw density are their mean, and the density is activated after that.
    Half of the samples are placed where the other half found weight. A sample outside the box empties the parts on
    either side of it.

    Args:
        field: of ``density_field``.
        cameras: V views. Rays that miss the box are marched too, between the nearest and the farthest entry of the
            others, and distances are clamped to those of all samples; so they depend on what is rendered together.
        samples: along each ray, even; the families' ``PUBLISHED`` have the published numbers.
        background: grey value, or a tensor that broadcasts to [V, H, W, 3].
        jitter: [R, samples / 2] each, of all rays in order: where in its step a sample of the first half sits, and
            where in its part of the distribution one of the second. They published draw at random even at the end;
            here all are 0.5 by default, and an image is the same every time.

    Returns:
        Colour [V, H, W, 3], alpha [V, H, W], and mean distance along the ray [V, H, W], object units.

    Raises:
        UsageError: ``samples`` is odd or below 8.
        InputError: the field is not a density, or the background does not fit.
    """
    if samples < 8 or samples % 2:
        raise UsageError(f"samples is {samples}, it must be an even number of at least 8; 96 is the published one")
    if field.kind != "density":
        raise InputError(f"the field is of kind {field.kind!r}, and only a density is rendered; render its mesh")
    raw = replace(field, activate=lambda value: value, rgb=widened_sigmoid)
    origins, directions = (side.reshape(-1, 3) for side in camera_rays(cameras))
    rays = torch.cat([origins, F.normalize(directions, dim=-1)], -1)
    ends = _ends(rays, field.radius)
    found, span = [], []
    for part in torch.arange(len(rays), device=rays.device).split(RAYS):
        given = (None, None) if jitter is None else (jitter[0][part], jitter[1][part])
        along = _profile(raw, rays[part], ends[part], samples // 2, given)
        found.append(_composite(along, field.radius))
        span.append(along[..., 0].aminmax())
    image = torch.cat(found).reshape(-1, cameras.height, cameras.width, 5)
    alpha, distance, color = image[..., 0], image[..., 1], image[..., 2:]
    low, high = min(ends.min for ends in span), max(ends.max for ends in span)
    distance = torch.where(alpha > 0, distance / alpha, high).clamp(low, high)
    paper = background_for(cameras, torch.as_tensor(background), color)
    return color + (1 - alpha[..., None]) * paper, alpha, distance


def _ends(rays: Tensor, radius: float) -> Tensor:
    """Where rays [R, 6] enter and leave the box [R, 2]; those that miss it: its nearest and farthest entry."""
    box = torch.tensor([[-radius] * 3, [radius] * 3]).to(rays)
    ends = torch.stack(intersect_box(rays[:, :3], rays[:, 3:], box), -1)
    hit = ends[:, 1] > ends[:, 0]
    if bool(hit.any()):
        ends[~hit] = torch.stack(ends[hit, 0].aminmax())
    return ends


def _profile(
    raw: TriplaneField, rays: Tensor, ends: Tensor, half: int, jitter: tuple[Tensor | None, Tensor | None]
) -> Tensor:
    """Rays [R, 6] between ends [R, 2] → all samples by distance [R, 2 · half, 5]: distance, raw density, raw colour."""
    step = (ends[:, 1:] - ends[:, :1]) / (half - 1)
    first = 0.5 if jitter[0] is None else jitter[0]
    coarse = _ask(raw, rays, ends[:, :1] + step * (torch.arange(half).to(rays) + first))
    with torch.no_grad():
        middle = _between(coarse)[..., 0]
        drawn = widened(_weights(coarse, raw.radius), FLOOR)
        # Between the middles of parts k and k + 1 they draw by the weight of part k + 1; the last middle is unused.
        fine = resample(middle[:, :-1], drawn[:, 1:-1], half, jitter[1])
    both = torch.cat([coarse, _ask(raw, rays, fine)], 1)
    return both.take_along_dim(both[..., :1].argsort(dim=1), 1)


def _composite(along: Tensor, radius: float) -> Tensor:
    """Samples of rays [R, S, 5] → [R, 5]: alpha, alpha · distance, premultiplied colour."""
    weights, parts = _weights(along, radius), _between(along)
    parts = torch.cat([torch.ones_like(parts[..., :1]), parts[..., :1], parts[..., 2:]], -1)
    return (weights[:, None] @ parts)[:, 0]


def _ask(raw: TriplaneField, rays: Tensor, distances: Tensor) -> Tensor:
    """A sample at each of distances [R, S]: distance, raw density (−∞ outside the box), raw colour [R, S, 5]."""
    points = (rays[:, None, :3] + distances[..., None] * rays[:, None, 3:]).reshape(-1, 3)
    outside = points.abs().amax(-1) > raw.radius
    density = raw.density_or_sdf(points).masked_fill(outside, -math.inf)
    answers = torch.cat([density[:, None], raw.color(points)], -1)
    return torch.cat([distances[..., None], answers.unflatten(0, distances.shape)], -1)


def _between(along: Tensor) -> Tensor:
    """Means of neighbouring samples [R, S, 5] → [R, S − 1, 5]."""
    return 0.5 * (along[:, :-1] + along[:, 1:])  # not lerp: two infinite densities have a mean


def _weights(along: Tensor, radius: float) -> Tensor:
    """Shares of the parts between samples [R, S, 5] in their ray's colour [R, S − 1]."""
    density = F.softplus(_between(along)[..., 1] + DENSITY_BIAS)
    return compositing_weights(density, along[..., 0].diff(dim=-1) / radius)
