"""Density fields whose values are learnt: sparse voxels, and three feature planes with small networks.

Both are given by named tensors, ``parameters``, from which gradients can be taken, and answer the same two raw
questions. Density is a softplus of one raw number, taken after interpolation, so that a surface can lie anywhere
between two nodes (Sun et al. 2022, "DVGO", section 4.2); colour is a sigmoid of three and does not depend on the
direction of view.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

from .tables import PLANES, mix, plane_corners, voxel_corners

DENSITY = 100.0  # object units⁻¹: density per unit of softplus
EMPTY = -12.0  # raw density of empty space: 0.0006 per object unit, which may be skipped


@dataclass(frozen=True)
class LearntField(ABC):
    """What both kinds share: nodes ``step`` apart from ``low`` on, ``counts`` of them along each axis."""

    parameters: dict[str, Tensor]
    low: tuple[float, float, float]  # position of the first node
    step: float  # object units between nodes
    counts: tuple[int, int, int]  # nodes
    kind: Literal["density"] = "density"

    @property
    def level(self) -> float:
        """The density on the surface, which lets three quarters of the light through a cell.

        Of 0.03, 0.1, 0.3 and 1 / step, fitted to a table with a thin top, 0.3 gave the mesh nearest to the truth
        (Chamfer 0.0123, 0.0106, 0.0099, 0.0144; volume IoU 0.67, 0.75, 0.82, 0.57): at 1 / step thin parts tear.
        """
        return 0.3 / self.step

    @property
    def bounds(self) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
        """First and last node."""
        x, y, z = (low + self.step * (n - 1) for low, n in zip(self.low, self.counts, strict=True))
        return self.low, (x, y, z)

    @property
    @abstractmethod
    def neighbours(self) -> Tensor:
        """Pairs of rows [P, 2] int32 that lie side by side, in the order of space; a border's is its own neighbour."""

    def to(self, device: torch.device) -> LearntField:
        """The same field on a device."""
        return replace(self, parameters={name: value.to(device) for name, value in self.parameters.items()})

    @abstractmethod
    def raw_density(self, points: Tensor) -> Tensor:
        """World points [N, 3] → raw densities [N]."""

    @abstractmethod
    def raw_color(self, points: Tensor) -> Tensor:
        """World points [N, 3] → raw colours [N, 3]."""

    def density_or_sdf(self, points: Tensor) -> Tensor:
        """World points [N, 3] → densities [N], per object unit."""
        return DENSITY * torch.nn.functional.softplus(self.raw_density(points))

    def color(self, points: Tensor) -> Tensor:
        """World points [N, 3] → sRGB-encoded colours [N, 3] in 0–1."""
        return torch.sigmoid(self.raw_color(points))

    def on_grid(self, low: Sequence[float], step: float, shape: Sequence[int]) -> Callable[[Tensor], Tensor]:
        """Prepare a regular grid, whose sample [i, j, k] lies at ``low + step · (i, j, k)``.

        Returns:
            A function from indices [n, 3] (int64) to raw densities minus the surface's [n]: between samples they are
            nearer to linear than densities are, so that a mesh of them has fewer terraces.
        """
        start = torch.tensor(list(low), dtype=torch.float64)
        surface = math.log(math.expm1(self.level / DENSITY))  # softplus backwards
        return lambda index: self.raw_density((start + step * index.cpu()).float()) - surface


@dataclass(frozen=True)
class VoxelField(LearntField):
    """Density and colour at the nodes of a grid, of which only those near the solid are kept.

    ``parameters`` are ``density`` [M + 1, 1] and ``color`` [M + 1, 3]. Row 0 stands for all empty space.
    """

    index: Tensor = field(kw_only=True)  # [X, Y, Z] int32: each node's row

    def raw_density(self, points: Tensor) -> Tensor:
        """World points [N, 3] → raw densities [N], trilinear."""
        rows, weights = voxel_corners(points, self.index, self.low, self.step)
        return mix(self.parameters["density"], rows, weights)[:, 0]

    def raw_color(self, points: Tensor) -> Tensor:
        """World points [N, 3] → raw colours [N, 3], trilinear."""
        rows, weights = voxel_corners(points, self.index, self.low, self.step)
        return mix(self.parameters["color"], rows, weights)

    @cached_property
    def neighbours(self) -> Tensor:
        """Pairs of rows [P, 2] int32, of either table."""
        return beside(self.index)

    def to(self, device: torch.device) -> VoxelField:
        """The same field on a device."""
        parameters = {name: value.to(device) for name, value in self.parameters.items()}
        return replace(self, parameters=parameters, index=self.index.to(device))


@dataclass(frozen=True)
class PlaneField(LearntField):
    """Features on three planes, multiplied with each other and read by small networks, one for density, one for colour.

    A triplane (Chan et al. 2022, "EG3D"), with products instead of sums (Fridovich-Keil et al. 2023, "K-Planes",
    section 3.1). ``parameters`` are ``density`` and ``color`` [T, C], the texels of the planes yz, xz and xy, and the
    weights and biases of two layers for each.
    """

    def raw_density(self, points: Tensor) -> Tensor:
        """World points [N, 3] → raw densities [N]."""
        return self._read("density", points)[:, 0]

    def raw_color(self, points: Tensor) -> Tensor:
        """World points [N, 3] → raw colours [N, 3]."""
        return self._read("color", points)

    def _read(self, name: str, points: Tensor) -> Tensor:
        rows, weights = plane_corners(points, self.counts, self.low, self.step)
        table = self.parameters[name]
        across = [mix(table, rows[plane], weights[plane]) for plane in range(3)]
        given = self.parameters
        hidden = torch.addmm(given[f"{name}.bias1"], across[0] * across[1] * across[2], given[f"{name}.weight1"])
        return torch.addmm(given[f"{name}.bias2"], torch.relu(hidden), given[f"{name}.weight2"])

    @cached_property
    def neighbours(self) -> Tensor:
        """Pairs of rows [P, 2] int32, of either table."""
        pairs, first = [], 1
        for a, b in PLANES:
            size = self.counts[a] * self.counts[b]
            rows = torch.arange(first, first + size, dtype=torch.int32, device=self.parameters["density"].device)
            pairs.append(beside(rows.reshape(self.counts[a], self.counts[b])))
            first += size
        return torch.cat(pairs) - 1


def beside(index: Tensor) -> Tensor:
    """For each row above 0 in a grid [...] of rows: itself and its next neighbour along each axis → [P, 2]."""
    at = index > 0
    own = index[at]
    pairs = []
    for axis, n in enumerate(index.shape):
        following = torch.cat([index.narrow(axis, 1, n - 1), index.narrow(axis, n - 1, 1)], axis)[at]
        pairs.append(torch.stack([own, torch.where(following > 0, following, own)], -1))
    return torch.stack(pairs, 1).reshape(-1, 2)
