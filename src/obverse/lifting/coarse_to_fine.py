"""Learnt fields as they are fitted: where they begin, which cells are worth asking about, and how they grow finer.

The box around the object is cut into cubes, ``resolution`` along its longest side; a field has its nodes at their
corners. Cells hold a mask, True where something may be: at first the visual hull, later what density was found,
always one cell wider.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from scipy.spatial import cKDTree
from torch import Tensor

from ..cameras import Views
from ..render.fields import GridField
from ..render.learnt import EMPTY, LearntField, PlaneField, VoxelField
from ..render.tables import PLANES, mix, plane_corners
from .carve import colors_from_views, hull_mesh, mesh_depths

Kind = Literal["grid", "triplane"]
Box = tuple[tuple[float, float, float], tuple[float, float, float]]

OUTLINE = 0.1  # coverage from which the hull counts: half-covered pixels belong to the object
INSIDE, OUTSIDE = 3.0, -5.0  # raw densities that a fit begins with
FOG = -2.0  # the same where no silhouettes are known
THIN = 1.0  # density per object unit below which a cell is empty
REHEARSALS = 100  # steps of a triplane's regression to its start
REHEARSED = 4096  # points in each of them
HIDDEN = 64  # neurons of a triplane's networks
FEATURES = {"density": 8, "color": 16}  # of a triplane


def hull_box(hull: GridField, *, margin: float = 0.02) -> Box:
    """The box [low, high] around a hull, wider by ``margin`` object units on every side."""
    inside = (hull.values > OUTLINE).nonzero()
    low = torch.tensor(hull.low) + hull.step * inside.amin(0) - margin
    high = torch.tensor(hull.low) + hull.step * inside.amax(0) + margin
    return tuple(low.tolist()), tuple(high.tolist())


def lattice(box: Box, resolution: int) -> tuple[tuple[float, float, float], float, tuple[int, int, int]]:
    """Nodes at the corners of ``resolution`` cubes along a box's longest side: the first, their distance, counts.

    The other sides are rounded up to whole cubes, about the box's middle.
    """
    low, high = (torch.tensor(side, dtype=torch.float64) for side in box)
    step = float((high - low).max()) / resolution
    cells = ((high - low) / step - 1e-6).ceil().clamp_min(1)
    start = (low + high) / 2 - cells * step / 2
    x, y, z = (int(n) + 1 for n in cells)
    return tuple(start.tolist()), step, (x, y, z)


def hull_cells(hull: GridField, low: tuple[float, float, float], step: float, counts: tuple[int, int, int]) -> Tensor:
    """Cells [X − 1, Y − 1, Z − 1] that the hull may reach into, bool. The hull's nodes are at most 3 cells apart."""
    nodes = torch.tensor(hull.low) + hull.step * (hull.values > OUTLINE).nonzero()
    cells = ((nodes - torch.tensor(low)) / step).long()
    size = torch.tensor(counts) - 1
    x, y, z = torch.minimum(cells.clamp_min(0), size - 1).unbind(-1)
    found = torch.zeros(*size.tolist(), dtype=torch.bool)
    found[x, y, z] = True
    return widened(found)


def widened(cells: Tensor) -> Tensor:
    """Cells [X, Y, Z] and their 26 neighbours."""
    for axis, n in enumerate(cells.shape):
        grown = cells.clone()
        grown.narrow(axis, 1, n - 1).logical_or_(cells.narrow(axis, 0, n - 1))
        grown.narrow(axis, 0, n - 1).logical_or_(cells.narrow(axis, 1, n - 1))
        cells = grown
    return cells


def corners(cells: Tensor) -> Tensor:
    """The nodes [X + 1, Y + 1, Z + 1] of cells [X, Y, Z]."""
    for axis, n in enumerate(cells.shape):
        shape = list(cells.shape)
        shape[axis] += 1
        grown = torch.zeros(shape, dtype=torch.bool, device=cells.device)
        grown.narrow(axis, 0, n).logical_or_(cells)
        grown.narrow(axis, 1, n).logical_or_(cells)
        cells = grown
    return cells


def extremes(nodes: Tensor) -> tuple[Tensor, Tensor]:
    """Least and greatest of the eight corners of each cell, from nodes [X, Y, Z] → two of [X − 1, Y − 1, Z − 1]."""
    least = greatest = nodes
    for axis, n in enumerate(nodes.shape):
        least = torch.minimum(least.narrow(axis, 0, n - 1), least.narrow(axis, 1, n - 1))
        greatest = torch.maximum(greatest.narrow(axis, 0, n - 1), greatest.narrow(axis, 1, n - 1))
    return least, greatest


def positions(nodes: Tensor, low: tuple[float, float, float], step: float) -> Tensor:
    """World positions [N, 3] of the nodes that are True in [X, Y, Z]."""
    return torch.tensor(low, device=nodes.device) + step * nodes.nonzero()


def least_densities(field: LearntField, cells: Tensor) -> Tensor:
    """Which of the cells [X, Y, Z] over a field's nodes still are not empty → their least density, −1 where empty.

    Cells beside one that is not empty count as not empty.
    """
    nodes = corners(cells)
    values = torch.zeros(nodes.shape, device=nodes.device)
    with torch.no_grad():
        values[nodes] = field.density_or_sdf(positions(nodes, field.low, field.step))
    least, greatest = extremes(values)
    return torch.where(widened(greatest > THIN) & cells, least, -1.0)


def refined_cells(
    cells: Tensor, field: LearntField, finer: tuple[tuple[float, float, float], float, tuple[int, ...]]
) -> Tensor:
    """The mask of cells over a field's nodes, carried over to a finer lattice, and one cell wider.

    Args:
        cells: [X, Y, Z] bool, over the field's nodes.
        field: whose lattice they belong to.
        finer: the other lattice: position of the first node and distance in object units, counts of nodes; see
            ``lattice``.

    Returns:
        Bool, one less than the finer counts along each axis.
    """
    low, step, counts = finer
    lines = [
        ((low[a] + step * (torch.arange(counts[a] - 1, device=cells.device) + 0.5) - field.low[a]) / field.step)
        .long().clamp(0, cells.shape[a] - 1)
        for a in range(3)
    ]  # fmt: skip
    return widened(cells[lines[0]][:, lines[1]][:, :, lines[2]])


@dataclass(frozen=True)
class Start:
    """What is believed before fitting: a hull and its colours, or grey fog everywhere."""

    hull: GridField | None = None
    surface: Tensor | None = None  # [S, 3] points on the hull
    colors: Tensor | None = None  # [S, 3] what the views show there

    @classmethod
    def of(cls, views: Views, hull: GridField) -> Start:
        """The hull's surface, coloured from the views that see it."""
        mesh = hull_mesh(hull)
        points = torch.from_numpy(np.asarray(mesh.vertices, np.float32))
        normals = torch.from_numpy(np.array(mesh.vertex_normals, np.float32))
        return cls(hull, points, colors_from_views(points, normals, views, mesh_depths(mesh, views.cameras))[0])

    def raw_density(self, points: Tensor) -> Tensor:
        """World points [N, 3] → raw densities [N]."""
        if self.hull is None:
            return torch.full_like(points[:, 0], FOG)
        sharp = 2 * (self.hull.density_or_sdf(points) - self.hull.level)
        return torch.where(sharp > 0, INSIDE * sharp, -OUTSIDE * sharp)

    def raw_color(self, points: Tensor) -> Tensor:
        """World points [N, 3] → raw colours [N, 3] of the nearest points of the surface."""
        if self.surface is None or self.colors is None:
            return torch.zeros_like(points)
        nearest = cKDTree(self.surface.numpy()).query(points.numpy(), workers=-1)[1]
        return torch.logit(self.colors[torch.from_numpy(nearest)].clamp(0.02, 0.98))


def begin(
    kind: Kind, box: Box, resolution: int, cells: Tensor, start: Start, generator: torch.Generator
) -> LearntField:
    """A field that answers in the cells as ``start`` does, a triplane roughly.

    Args:
        kind: ``"grid"`` or ``"triplane"``.
        box: low and high corner, object units.
        resolution: cells along the box's longest side; see ``lattice``.
        cells: [X, Y, Z] bool, where the object may be; a triplane answers outside of them too.
        start: raw density and colour at world points.
        generator: of a triplane's features and its regression.
    """
    low, step, counts = lattice(box, resolution)
    points = positions(corners(cells), low, step)
    wanted = {"density": start.raw_density(points)[:, None], "color": start.raw_color(points)}
    if kind == "grid":
        index, rows = indexed(cells)
        parameters = {"density": torch.full((rows, 1), EMPTY), "color": torch.zeros(rows, 3)}
        for name, values in wanted.items():
            parameters[name][1:] = values
        return VoxelField(parameters, low, step, counts, index=index)
    texels = counts[1] * counts[2] + counts[0] * counts[2] + counts[0] * counts[1]
    parameters = {}
    for name, outputs in (("density", 1), ("color", 3)):
        channels = FEATURES[name]
        # features start in 0.1–0.5, as in K-Planes, so that their products are not small
        parameters[name] = 0.1 + 0.4 * torch.rand(texels, channels, generator=generator)
        reach = [math.sqrt(6 / channels), math.sqrt(6 / HIDDEN)]  # He et al. 2015, uniform
        parameters[f"{name}.weight1"] = reach[0] * (2 * torch.rand(channels, HIDDEN, generator=generator) - 1)
        parameters[f"{name}.bias1"] = torch.zeros(HIDDEN)
        parameters[f"{name}.weight2"] = reach[1] * (2 * torch.rand(HIDDEN, outputs, generator=generator) - 1)
        parameters[f"{name}.bias2"] = torch.zeros(outputs)
    field = PlaneField(parameters, low, step, counts)
    rehearse(field, points, wanted, generator)
    return field


def rehearse(field: PlaneField, points: Tensor, wanted: dict[str, Tensor], generator: torch.Generator) -> None:
    """Teach a field the raw density and colour wanted at points, in place, by a short regression.

    Args:
        field: whose parameters are moved.
        points: [N, 3] world.
        wanted: ``density`` [N, 1] and ``color`` [N, 3], raw.
        generator: of the points drawn at each step.
    """
    slow = {"params": [value.requires_grad_(True) for name, value in field.parameters.items() if "." in name]}
    fast = {"params": [value.requires_grad_(True) for name, value in field.parameters.items() if "." not in name]}
    optimiser = torch.optim.Adam([slow | {"lr": 0.005}, fast | {"lr": 0.05}], betas=(0.9, 0.99), eps=1e-15, fused=True)
    for _ in range(REHEARSALS):
        chosen = torch.randint(len(points), (min(len(points), REHEARSED),), generator=generator)
        optimiser.zero_grad()
        loss = (field.raw_density(points[chosen]) - wanted["density"][chosen, 0]).square().mean()
        loss = loss + (field.raw_color(points[chosen]) - wanted["color"][chosen]).square().mean()
        loss.backward()
        optimiser.step()
    for value in field.parameters.values():
        value.requires_grad_(False).grad = None


def indexed(cells: Tensor) -> tuple[Tensor, int]:
    """A row for each node of the cells, from 1 on → [X + 1, Y + 1, Z + 1] int32, 0 elsewhere, and the rows in all."""
    nodes = corners(cells)
    index = nodes.reshape(-1).cumsum(0).reshape(nodes.shape).int()
    return torch.where(nodes, index, 0).int(), int(nodes.sum()) + 1


def refine(field: LearntField, box: Box, resolution: int, cells: Tensor) -> LearntField:
    """The same field on a finer lattice, interpolated.

    Args:
        field: on the coarser one.
        box: low and high corner, object units.
        resolution: cells along the box's longest side.
        cells: [X, Y, Z] bool, of the new lattice.
    """
    low, step, counts = lattice(box, resolution)
    with torch.no_grad():
        if isinstance(field, VoxelField):
            index, rows = indexed(cells)
            points = positions(index > 0, low, step)
            parameters = {"density": torch.full((rows, 1), EMPTY), "color": torch.zeros(rows, 3)}
            parameters = {name: value.to(points.device) for name, value in parameters.items()}
            parameters["density"][1:, 0] = field.raw_density(points)
            parameters["color"][1:] = field.raw_color(points)
            return VoxelField(parameters, low, step, counts, index=index)
        parameters = {name: value.detach().clone() for name, value in field.parameters.items()}
        for name in FEATURES:
            parameters[name] = _resampled_planes(field.parameters[name], field, low, step, counts)
        return PlaneField(parameters, low, step, counts)


def _resampled_planes(
    table: Tensor, field: LearntField, low: tuple[float, float, float], step: float, counts: tuple[int, int, int]
) -> Tensor:
    """Texels [T, C] of a field's planes, interpolated at those of finer ones."""
    parts = []
    for plane, (a, b) in enumerate(PLANES):
        points = torch.zeros(counts[a], counts[b], 3)
        points[..., a] = (low[a] + step * torch.arange(counts[a]))[:, None]
        points[..., b] = (low[b] + step * torch.arange(counts[b]))[None]
        rows, weights = plane_corners(points.reshape(-1, 3).to(table), field.counts, field.low, field.step)
        parts.append(mix(table, rows[plane], weights[plane]))
    return torch.cat(parts)
