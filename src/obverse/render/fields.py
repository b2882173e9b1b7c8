"""Fields: solids given by a function of position, the output of every density or distance method."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import torch
from torch import Tensor


@runtime_checkable
class Field(Protocol):
    """A solid in the world frame, known by its value at any point.

    ``kind`` says how ``density_or_sdf`` is read: a ``"density"`` is solid where it exceeds ``level``, an ``"sdf"``
    (negative inside) where it is below. ``bounds`` is the half-open box ``(low, high)`` outside which it is empty.
    """

    @property
    def kind(self) -> Literal["density", "sdf"]:
        """How values are read."""
        ...

    @property
    def level(self) -> float:
        """The value on the surface."""
        ...

    @property
    def bounds(self) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
        """Low and high corner of the box that holds the solid."""
        ...

    def density_or_sdf(self, points: Tensor) -> Tensor:
        """World points [N, 3] → values [N], float32."""
        ...

    def color(self, points: Tensor) -> Tensor:
        """World points [N, 3] → sRGB-encoded colour [N, 3] in 0–1, meant at the surface."""
        ...


@runtime_checkable
class SampledOnGrids(Protocol):
    """A Field that answers faster at the samples of a regular grid than at points anywhere."""

    def on_grid(self, low: Sequence[float], step: float, shape: Sequence[int]) -> Callable[[Tensor], Tensor]:
        """Prepare the grid whose sample [i, j, k] lies at ``low + step · (i, j, k)``.

        Returns:
            A function from indices [n, 3] (int64) to values [n] like those of ``insideness``.
        """
        ...


@runtime_checkable
class FlexiField(Field, Protocol):
    """A Field that was trained through FlexiCubes: on a grid of its own, whose samples it moves and whose cubes it
    weighs. Its values need not be distances, even if its kind says so."""

    @property
    def cells(self) -> int:
        """Cubes along a side of the bounds, which are a cube."""
        ...

    @property
    def corners(self) -> tuple[tuple[int, int, int], ...]:
        """Steps from a cube's lowest corner to each of the eight, in the order that its weights are in: along x first,
        then y, then z, of a right-handed frame that need not be the world's."""
        ...

    def offsets(self, index: Tensor) -> Tensor:
        """Samples' indices [n, 3] (int64) → how far they are moved [n, 3], in the world frame."""
        ...

    def cube_weights(self, index: Tensor) -> Tensor:
        """Indices of cubes' lowest corners [n, 3] (int64) → raw weights [n, 21], see ``surface.flexicubes``."""
        ...


@dataclass(frozen=True)
class CallableField:
    """A Field from two functions, for tests, scripts and shapes known in closed form."""

    value: Callable[[Tensor], Tensor]  # [N, 3] → [N]
    rgb: Callable[[Tensor], Tensor] | None = None  # [N, 3] → [N, 3]; mid-grey when absent
    kind: Literal["density", "sdf"] = "sdf"
    level: float = 0.0
    bounds: tuple[tuple[float, float, float], tuple[float, float, float]] = ((-0.55,) * 3, (0.55,) * 3)

    def density_or_sdf(self, points: Tensor) -> Tensor:
        """World points [N, 3] → values [N]."""
        return self.value(points)

    def color(self, points: Tensor) -> Tensor:
        """World points [N, 3] → sRGB-encoded colour [N, 3] in 0–1."""
        return torch.full_like(points, 0.5) if self.rgb is None else self.rgb(points)


def insideness(field: Field, points: Tensor) -> Tensor:
    """Points [N, 3] → values [N] that are positive inside, zero on the surface and negative outside."""
    value = field.density_or_sdf(points)
    return value - field.level if field.kind == "density" else field.level - value


@dataclass(frozen=True)
class GridField:
    """A Field from samples on a regular grid, interpolated between them.

    The sample [i, j, k] lies at ``low + step · (i, j, k)``; points beyond the grid get the value at its border.
    """

    values: Tensor  # [X, Y, Z] float32, at least 2 along each axis
    low: tuple[float, float, float]  # position of the first sample
    step: float  # object units between samples
    kind: Literal["density", "sdf"] = "density"
    level: float = 0.0
    colors: Tensor | None = None  # [X, Y, Z, 3] float32 sRGB-encoded; mid-grey when absent

    @property
    def bounds(self) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
        """First and last sample."""
        x, y, z = (low + self.step * (n - 1) for low, n in zip(self.low, self.values.shape, strict=True))
        return self.low, (x, y, z)

    def density_or_sdf(self, points: Tensor) -> Tensor:
        """World points [N, 3] → values [N], trilinear."""
        return self._sample(self.values[None], points)[:, 0]

    def color(self, points: Tensor) -> Tensor:
        """World points [N, 3] → sRGB-encoded colour [N, 3] in 0–1, trilinear."""
        if self.colors is None:
            return torch.full_like(points, 0.5)
        return self._sample(self.colors.movedim(-1, 0), points).clamp(0, 1)

    def _sample(self, volume: Tensor, points: Tensor) -> Tensor:
        """Channels [C, X, Y, Z] at world points [N, 3] → [N, C]."""
        last = torch.tensor([n - 1 for n in self.values.shape]).to(points)
        place = (points - torch.tensor(self.low).to(points)) / self.step * (2 / last) - 1
        grid = place.flip(-1).reshape(1, 1, 1, -1, 3)
        found = torch.nn.functional.grid_sample(
            volume[None].to(points), grid, padding_mode="border", align_corners=True
        )
        return found[0, :, 0, 0].T
