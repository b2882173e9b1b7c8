"""Triplanes: what TripoSR, OpenLRM and InstantMesh share. The field that three feature planes span, and the
transformer's parts.

A point's features are read from three axis-aligned planes by bilinear interpolation, joined, and turned into density
and colour by a small network (Chan et al. 2022, "EG3D", section 3.2). Which axes span which plane differs between
models, so every family says it in the world's own axes, ``(("+z", "+x"), ...)``: the field then lives in the world
frame, and nothing is rotated afterwards.

The network's first layer is linear in the joined features, and interpolation is linear in the planes. So the layer is
applied to the planes, once, and a point's first hidden values are a weighted sum of twelve rows of a table (four
corners on each plane), or, on a regular grid, of three. Both equal the order of the papers up to rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Corner = tuple[float, float, float]
PlaneAxes = tuple[tuple[str, str], tuple[str, str], tuple[str, str]]  # signed world axes along width and height

POINTS = 16384  # per pass of the small networks
TOKENS = 768  # per pass of a feed-forward layer


@dataclass(frozen=True)
class TriplaneField:
    """A Field from three feature planes and two small networks that share nothing but their input.

    Where a published network answers density and colour at once, ``outputs`` cuts it in two.
    """

    planes: Tensor  # [3, C, H, W] features; they span [−radius, radius] twice each, zero beyond
    axes: PlaneAxes
    radius: float  # object units
    shape: nn.Sequential  # Linear(3C → ...), activation, ..., Linear(... → 1): raw density or distance
    paint: nn.Sequential  # likewise → 3: raw colour
    raw_level: float  # raw value on the surface; solid is above it (density) or below (sdf)
    activate: Callable[[Tensor], Tensor] = torch.exp  # raw → density or distance, increasing
    rgb: Callable[[Tensor], Tensor] = torch.sigmoid  # raw → sRGB-encoded colour in 0–1
    kind: Literal["density", "sdf"] = "density"
    half: float | None = None  # half side of the box that is searched for the solid; the radius by default

    @property
    def level(self) -> float:
        """The value on the surface."""
        return float(self.activate(torch.tensor(self.raw_level)))

    @property
    def bounds(self) -> tuple[Corner, Corner]:
        """A cube around the origin."""
        half = self.radius if self.half is None else self.half
        return (-half, -half, -half), (half, half, half)

    def density_or_sdf(self, points: Tensor) -> Tensor:
        """World points [N, 3] → values [N], float32, on the points' device."""
        return self.activate(self._ask(self.shape, self._shape_table, points)[:, 0])

    def color(self, points: Tensor) -> Tensor:
        """World points [N, 3] → sRGB-encoded colour [N, 3] in 0–1, on the points' device."""
        return self.rgb(self._ask(self.paint, self._paint_table, points))

    def on_grid(self, low: Sequence[float], step: float, shape: Sequence[int]) -> Callable[[Tensor], Tensor]:
        """Prepare a regular grid, whose sample [i, j, k] lies at ``low + step · (i, j, k)``.

        Returns:
            A function from indices [n, 3] (int64) to values [n]: positive inside, zero on the surface, negative
            outside. They are raw values minus the level, which between two samples are nearer to linear than
            exponentials of them are, so that a mesh of them has fewer terraces.
        """
        first, rest = linear(self.shape, 0), self.shape[1:]
        hidden = self.layer_on_grid(first.weight, first.bias, low, step, shape)
        sign = 1.0 if self.kind == "density" else -1.0

        def ask(index: Tensor) -> Tensor:
            answers = [rest(hidden(part))[:, 0] for part in index.split(POINTS)]
            return sign * (torch.cat(answers) - self.raw_level)

        return ask

    def layer_on_grid(
        self, weight: Tensor, bias: Tensor | float, low: Sequence[float], step: float, shape: Sequence[int]
    ) -> Callable[[Tensor], Tensor]:
        """Prepare a linear layer of the joined features, [hidden, 3C] and [hidden], at a regular grid as ``on_grid``.

        Returns:
            A function from indices [n, 3] (int64) to the layer's values [n, hidden].
        """
        pairs = [[signed_axis(name) for name in pair] for pair in self.axes]
        lines = [
            (low[a] + step * torch.arange(shape[a], dtype=torch.float64)).to(self.planes) / self.radius
            for a in range(3)
        ]
        tables = []
        for plane, ((a, sign_a), (b, sign_b)) in zip(self._projected(weight), pairs, strict=True):
            across, down = torch.meshgrid(sign_a * lines[a], sign_b * lines[b], indexing="ij")
            tables.append(sample(plane[None], torch.stack([across, down], -1).reshape(1, -1, 2))[0])
        tables[0] = tables[0] + bias
        table = torch.cat(tables)
        firsts, seconds = ([pair[i][0] for pair in pairs] for i in (0, 1))
        stride = torch.tensor([shape[b] for b in seconds], device=table.device)
        offset = torch.tensor([0, len(tables[0]), len(tables[0]) + len(tables[1])], device=table.device)

        def hidden(index: Tensor) -> Tensor:
            index = index.to(table.device)
            return F.embedding_bag(index[:, firsts] * stride + index[:, seconds] + offset, table, mode="sum")

        return hidden

    @cached_property
    def _shape_table(self) -> Tensor:
        return table_of(self._projected(linear(self.shape, 0).weight))

    @cached_property
    def _paint_table(self) -> Tensor:
        return table_of(self._projected(linear(self.paint, 0).weight))

    def _projected(self, weight: Tensor) -> Tensor:
        """The planes after each one's part of a layer's weight [hidden, 3C]: [3, hidden, H, W]."""
        parts = weight.to(self.planes).reshape(len(weight), 3, -1)
        return torch.einsum("opc,pchw->pohw", parts, self.planes)

    def _ask(self, network: nn.Sequential, table: Tensor, points: Tensor) -> Tensor:
        """Raw answers [N, outputs] of one of the networks at world points [N, 3]."""
        axis, sign = zip(*(signed_axis(name) for pair in self.axes for name in pair), strict=True)
        height, width = self.planes.shape[-2:]
        answers = []
        for part in points.to(self.planes).split(POINTS):
            place = (part[:, list(axis)] * torch.tensor(sign).to(part) / self.radius).reshape(-1, 3, 2)
            rows, weights = bilinear_rows(place, height, width)
            hidden = F.embedding_bag(rows, table, per_sample_weights=weights, mode="sum") + linear(network, 0).bias
            answers.append(network[1:](hidden).float())
        return torch.cat(answers).to(points.device)


def signed_axis(name: str) -> tuple[int, float]:
    """``"+x"`` → (0, 1.0), ``"-z"`` → (2, −1.0)."""
    return "xyz".index(name[1]), 1.0 if name[0] == "+" else -1.0


def sample(planes: Tensor, places: Tensor) -> Tensor:
    """Bilinear lookup in P planes [P, C, H, W] at places [P, N, 2] (width, height; ±1 are the borders) → [P, N, C].

    Texels are areas (``align_corners=False``) and what lies beyond the border is zero.
    """
    found = F.grid_sample(planes, places[:, None], mode="bilinear", padding_mode="zeros", align_corners=False)
    return found[:, :, 0].transpose(1, 2)


def table_of(planes: Tensor) -> Tensor:
    """Planes [3, C, H, W] → rows [3 · H · W, C], one for each texel."""
    return planes.permute(0, 2, 3, 1).reshape(-1, planes.shape[1]).contiguous()


def bilinear_rows(places: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """``sample`` as a weighted sum of rows of ``table_of``.

    Args:
        places: [N, 3, 2] on each of three planes (width, height; ±1 are the borders).
        height: of the planes, texels.
        width: of the planes, texels.

    Returns:
        Row numbers [N, 12] and weights [N, 12]; a corner beyond the border has weight 0.
    """
    size = torch.tensor([width, height]).to(places)
    pixel = (places + 1) * (size / 2) - 0.5
    base = pixel.floor()
    part = pixel - base
    corner = base[..., None] + torch.tensor([0.0, 1.0]).to(places)  # [N, 3, 2 axes, 2 sides]
    inside = (corner >= 0) & (corner < size[:, None])
    weight = torch.stack([1 - part, part], -1) * inside
    corner = torch.where(inside, corner, 0).long()
    plane = torch.arange(3, device=places.device)[:, None, None] * (height * width)
    rows = plane + corner[..., 1, :, None] * width + corner[..., 0, None, :]
    weights = weight[..., 1, :, None] * weight[..., 0, None, :]
    return rows.reshape(-1, 12), weights.reshape(-1, 12)


def linear(network: nn.Sequential, index: int) -> nn.Linear:
    """The layer of a network at a place where it is linear."""
    return cast(nn.Linear, network[index])


def outputs(network: nn.Sequential, start: int, stop: int) -> nn.Sequential:
    """The same network with only some outputs of its last layer; parameters are shared."""
    last = linear(network, -1)
    cut = nn.Linear(last.in_features, stop - start, device="meta")
    cut.weight = nn.Parameter(last.weight[start:stop], requires_grad=False)
    cut.bias = nn.Parameter(last.bias[start:stop], requires_grad=False)
    return nn.Sequential(*list(network)[:-1], cut)


def mlp(sizes: Sequence[int], activation: Callable[[], nn.Module]) -> nn.Sequential:
    """Linear layers of the given widths with activations between them, numbered as the published decoders are."""
    layers: list[nn.Module] = []
    for into, out in pairwise(sizes):
        layers += [nn.Linear(into, out), activation()]
    return nn.Sequential(*layers[:-1])


# ---------------------------------------------------------------------------------------------------------------------
# The transformer's parts. Each family wires its own blocks of them, in its own order.
# ---------------------------------------------------------------------------------------------------------------------


class Attention(nn.Module):
    """Multi-head attention by torch's fused kernel, never holding the matrix of scores (Vaswani et al. 2017).

    Args:
        width: of queries and output.
        heads: their number; a head is ``width / heads`` wide.
        context_width: of what is attended to; by default the queries' own.
        bias: of the three projections.
        out_bias: of the last one.
    """

    def __init__(
        self, width: int, heads: int, *, context_width: int | None = None, bias: bool = False, out_bias: bool = True
    ) -> None:
        super().__init__()
        self.heads = heads
        self.to_q = nn.Linear(width, width, bias=bias)
        self.to_k = nn.Linear(context_width or width, width, bias=bias)
        self.to_v = nn.Linear(context_width or width, width, bias=bias)
        self.to_out = nn.Linear(width, width, bias=out_bias)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Tokens [B, N, width] attend to ``context`` [B, M, context_width], or to each other → [B, N, width]."""
        x = x.to(self.to_q.weight.dtype)  # once, where autocast would for every projection
        context = x if context is None else context.to(x.dtype)
        heads = [
            projected.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for projected in (self.to_q(x), self.to_k(context), self.to_v(context))
        ]
        return self.to_out(F.scaled_dot_product_attention(*heads).transpose(1, 2).flatten(2))


class GatedMlp(nn.Module):
    """GEGLU: value · GELU(gate), both from one linear layer (Shazeer 2020, "GLU Variants Improve Transformer")."""

    def __init__(self, width: int, *, expansion: int = 4) -> None:
        super().__init__()
        self.up = nn.Linear(width, 2 * expansion * width)
        self.down = nn.Linear(expansion * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Tokens [B, N, width] → [B, N, width]."""
        return by_rows(self._rows, x.to(self.up.weight.dtype))

    def _rows(self, x: Tensor) -> Tensor:
        value, gate = self.up(x).chunk(2, dim=-1)
        return self.down(value * F.gelu(gate))


class Mlp(nn.Module):
    """Linear, GELU (with the error function), linear."""

    def __init__(self, width: int, *, expansion: int = 4) -> None:
        super().__init__()
        self.up = nn.Linear(width, expansion * width)
        self.down = nn.Linear(expansion * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Tokens [B, N, width] → [B, N, width]."""
        return by_rows(lambda rows: self.down(F.gelu(self.up(rows))), x.to(self.up.weight.dtype))


def by_rows(network: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """A network that treats each token of [B, N, C] alone, some at a time, so that its wide middle stays in cache."""
    return torch.cat([network(part) for part in x.split(TOKENS, dim=1)], dim=1)
