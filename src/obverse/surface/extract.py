"""Fields to meshes: sample a solid on a grid, densely or only near its surface, and mesh it with surface nets."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from dataclasses import field as dataclass_field
from typing import Literal

import numpy as np
import torch
import trimesh
from numpy.typing import NDArray
from torch import Tensor

from ..errors import InputError, UsageError
from ..parallel import kernel
from ..render.fields import Field, FlexiField, SampledOnGrids, insideness
from ..topology import components, drop_unused
from .nets import surface_nets

__all__ = ["extract", "surface_nets"]

logger = logging.getLogger("obverse")

BLOCK = 4  # cells along a side of the blocks of the sparse mode: the coarse grid has a quarter of the resolution
HALF_DIAGONAL = 0.5 * 3**0.5


class EmptyFieldError(InputError):
    """No sample of a field is inside: there is no solid, or it is thinner than the grid's cells."""


def extract(
    field: Field,
    *,
    resolution: int = 192,
    mode: Literal["sparse", "dense"] = "sparse",
    chunk: int = 32768,
    min_component: float = 0.01,
) -> trimesh.Trimesh:
    """Mesh the surface of a field: a closed, oriented 2-manifold facing outward, in the frame of the field.

    The sparse mode samples the corners and centres of blocks of 4³ cells first. It evaluates in full the blocks whose
    samples differ in sign and the ring of blocks around them (for a distance field: the blocks whose centre is no
    farther from the surface than half their diagonal), and then grows this set until no surface touches a block that
    was not evaluated. So every connected surface that was met once is complete, and equals the dense one. What it can
    miss is a separate part of a *density* that lies wholly between the coarse samples (at most about three cells
    across, or a sheet or wire that meets none of them), or the same of an ``"sdf"`` that overstates its distances.

    Closed parts are dropped by two rules. A *void*, a hollow that is enclosed on all sides, cannot be seen: its wall
    goes, and so does everything inside it. A *crumb* has less than ``min_component`` of the volume of the largest part
    and is also shorter than the cube root of ``min_component`` of its length, so that long thin parts stay.

    Args:
        field: the solid; its ``bounds`` are sampled.
        resolution: cells along the longest side of the bounds, 4 to 1024; cells are cubes.
        mode: ``"sparse"``, about a tenth of the field queries, or ``"dense"``, all of them.
        chunk: points per query of the field.
        min_component: the volume share below which a small part is a crumb; 0 keeps all.

    Returns:
        A mesh whose positions are exactly representable in float32. Its ``metadata`` holds ``resolution``,
        ``evaluated`` (share of the grid that was queried), ``clipped`` (true if the solid reaches the bounds, where it
        is then closed flat), ``dropped_voids`` and ``dropped_crumbs``.

    Raises:
        UsageError: an option is out of range.
        InputError: the field is empty, or solid everywhere, or answers NaN, or has unusable bounds.
    """
    _check_options(resolution, mode, chunk, min_component)
    grid, volume, evaluated, clipped = sampled(field, resolution, mode=mode, chunk=chunk)
    vertices, faces = surface_nets(volume)
    faces, voids, crumbs = keep_parts(vertices, faces, min_component=min_component)
    vertices, faces = drop_unused(vertices, faces)
    world = (grid.low + grid.step * vertices.astype(np.float64)).astype(np.float32)
    mesh = trimesh.Trimesh(world.astype(np.float64), faces, process=False)
    mesh.metadata.update(
        resolution=resolution, evaluated=evaluated, clipped=clipped, dropped_voids=voids, dropped_crumbs=crumbs
    )
    return mesh


def _check_options(resolution: int, mode: str, chunk: int, min_component: float) -> None:
    if not 4 <= resolution <= 1024:
        raise UsageError(f"resolution is {resolution}, but it must be 4 to 1024 cells; 192 suits most objects")
    if mode not in ("sparse", "dense"):
        raise UsageError(f"mode is {mode!r}, but only 'sparse' and 'dense' exist; choose one of them")
    if chunk < 1:
        raise UsageError(f"chunk is {chunk}, but at least 1 point must be queried at a time; 32768 is fast")
    if not 0 <= min_component < 1:
        raise UsageError(f"min_component is {min_component}, but it is a share of the volume in 0 to 1 (1 excluded)")


# ---------------------------------------------------------------------------------------------------------------------
# Sampling
# ---------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Grid:
    """Samples at ``low + step * index`` for index in [0, shape); cubic cells, centred on the field's bounds."""

    low: NDArray[np.float64]  # [3] of the first sample, the field's frame
    step: float
    shape: tuple[int, int, int]

    @classmethod
    def over(cls, field: Field, resolution: int) -> Grid:
        low, high = (np.asarray(side, np.float64) for side in field.bounds)
        size = high - low
        if low.shape != (3,) or not np.isfinite(size).all() or not (size > 0).all():
            raise InputError(
                f"the field's bounds are {field.bounds}, but every low corner must be finite and below its high corner"
            )
        step = float(size.max()) / resolution
        cells = np.ceil(size / step - 1e-6).astype(np.int64).clip(1)
        x, y, z = (int(n) + 1 for n in cells)
        return cls((low + high) / 2 - cells * step / 2, step, (x, y, z))


def sampled(
    field: Field, resolution: int, *, mode: str, chunk: int = 32768, closed: bool = False
) -> tuple[Grid, NDArray[np.float32], float, bool]:
    """A field's insideness on a grid over its bounds, densely or near its surface as ``extract`` says.

    Args:
        field: the solid.
        resolution: cells along the longest side of the bounds.
        mode: ``"sparse"`` or ``"dense"``.
        chunk: points per query of the field.
        closed: make the outermost samples those of the outside, by changing their sign if need be.

    Returns:
        The grid, insideness [X, Y, Z] with ±1 where it was not asked, the share that was, and whether the solid
        reaches the border.

    Raises:
        InputError: the field is empty, or solid everywhere, or answers NaN, or has unusable bounds.
    """
    grid = Grid.over(field, resolution)
    query = _Query(field, grid, chunk, _asker(field, grid), closed)
    volume, evaluated = _sample_dense(query) if mode == "dense" else _sample_sparse(query)
    return grid, volume, evaluated, _check_filled(volume, field, bool(query.turned))


@dataclass(frozen=True)
class _Query:
    """Asks a field for its insideness at samples of a grid."""

    field: Field
    grid: Grid
    chunk: int
    ask: Callable[[NDArray[np.int64]], Tensor]
    closed: bool = False
    turned: list[int] = dataclass_field(default_factory=list)  # counts of samples that ``closed`` put outside

    def __call__(self, flat: NDArray[np.int64]) -> NDArray[np.float32]:
        """Flat sample numbers [n] → insideness [n], float32."""
        values = np.empty(len(flat), np.float32)
        with torch.no_grad():
            for start in range(0, len(flat), self.chunk):
                part = flat[start : start + self.chunk]
                index = np.stack(np.unravel_index(part, self.grid.shape), axis=1)
                answer = self.ask(index).detach().to("cpu", torch.float32).reshape(-1)
                if torch.isnan(answer).any():
                    where = (self.grid.low + self.grid.step * index[int(torch.isnan(answer).nonzero()[0, 0])]).tolist()
                    raise InputError(
                        f"the field answers NaN at {[round(x, 4) for x in where]}, but every value must be a number; "
                        "check the weights it was made with, or replace NaN by a value outside the solid"
                    )
                values[start : start + len(part)] = answer.clamp(-1e29, 1e29).numpy()
                if self.closed:
                    self._close(values[start : start + len(part)], index)
        return values

    def _close(self, values: NDArray[np.float32], index: NDArray[np.int64]) -> None:
        """Put the outermost of some samples [n] at indices [n, 3] outside, in place."""
        full = ((index == 0) | (index == np.array(self.grid.shape) - 1)).any(axis=1) & (values > 0)
        values[full] *= -1
        if full.any():
            self.turned.append(int(full.sum()))


def _asker(field: Field, grid: Grid) -> Callable[[NDArray[np.int64]], Tensor]:
    """How a field is asked for its insideness at sample indices [n, 3]: by a way of its own, if it has one."""
    if isinstance(field, SampledOnGrids):
        with torch.no_grad():
            own = field.on_grid(grid.low.tolist(), grid.step, grid.shape)
        return lambda index: own(torch.from_numpy(index))
    return lambda index: insideness(field, torch.from_numpy((grid.low + grid.step * index).astype(np.float32)))


def _sample_dense(query: _Query) -> tuple[NDArray[np.float32], float]:
    """Every sample of the grid → volume [X, Y, Z] and the share that was queried, 1."""
    shape = query.grid.shape
    return query(np.arange(int(np.prod(shape)))).reshape(shape), 1.0


def _sample_sparse(query: _Query) -> tuple[NDArray[np.float32], float]:
    """The samples near the surface → volume [X, Y, Z], with ±1 elsewhere, and the share that was queried."""
    shape = query.grid.shape
    blocks = tuple(-(-n // BLOCK) for n in shape)
    corners = [np.append(np.arange(b) * BLOCK, n - 1) for b, n in zip(blocks, shape, strict=True)]
    centres = [np.minimum(np.arange(b) * BLOCK + BLOCK // 2, n - 1) for b, n in zip(blocks, shape, strict=True)]
    at_corners, at_centres = _lattice(query, corners), _lattice(query, centres)

    inside = at_corners > 0
    same = [inside[i : i + blocks[0], j : j + blocks[1], k : k + blocks[2]] for i, j, k in np.ndindex(2, 2, 2)]
    sign = at_centres > 0
    wanted = np.any([corner != sign for corner in same], axis=0)
    if query.field.kind == "sdf" and not isinstance(query.field, FlexiField):  # whose distances are learned
        wanted |= np.abs(at_centres) <= HALF_DIAGONAL * (BLOCK + 1) * query.grid.step
    else:
        wanted = _ring(wanted)

    volume = np.where(sign, np.float32(1), np.float32(-1))
    for axis in range(3):
        volume = volume.repeat(BLOCK, axis)
    volume = np.ascontiguousarray(volume[: shape[0], : shape[1], : shape[2]])
    known = np.zeros(blocks, np.bool_)
    asked = at_corners.size + at_centres.size
    while wanted.any():
        flat = _samples_of(np.argwhere(wanted), shape)
        volume.reshape(-1)[flat] = query(flat)
        asked += len(flat)
        known |= wanted
        wanted = np.zeros(blocks, np.bool_)
        _grow(volume, known, wanted)
    return volume, min(1.0, asked / volume.size)


def _lattice(query: _Query, axes: list[NDArray[np.int64]]) -> NDArray[np.float32]:
    """The samples at all combinations of the indices of three axes."""
    flat = np.ravel_multi_index(np.meshgrid(*axes, indexing="ij"), query.grid.shape)
    return query(flat.reshape(-1)).reshape(flat.shape)


def _ring(blocks: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Blocks and their 26 neighbours."""
    for axis in range(3):
        wide = blocks.copy()
        before, after = [slice(None)] * 3, [slice(None)] * 3
        before[axis], after[axis] = slice(None, -1), slice(1, None)
        wide[tuple(before)] |= blocks[tuple(after)]
        wide[tuple(after)] |= blocks[tuple(before)]
        blocks = wide
    return blocks


def _samples_of(blocks: NDArray[np.int64], shape: tuple[int, int, int]) -> NDArray[np.int64]:
    """Block indices [n, 3] → the flat numbers of all their samples inside the grid."""
    offsets = np.stack(np.meshgrid(*[np.arange(BLOCK)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    index = (blocks[:, None, :] * BLOCK + offsets).reshape(-1, 3)
    index = index[(index < shape).all(axis=1)]
    return np.ravel_multi_index(tuple(index.T), shape)


@kernel()
def _grow(volume, known, wanted):  # type: ignore[no-untyped-def]
    """Mark the unknown blocks beside a known one that touch a mixed cell, that is, see the other sign within a cell."""
    nx, ny, nz = volume.shape
    bx, by, bz = known.shape
    for i in range(bx):
        for j in range(by):
            for k in range(bz):
                if known[i, j, k]:
                    continue
                beside = False
                for a in range(max(i - 1, 0), min(i + 2, bx)):
                    for b in range(max(j - 1, 0), min(j + 2, by)):
                        for c in range(max(k - 1, 0), min(k + 2, bz)):
                            beside |= known[a, b, c]
                if not beside:
                    continue
                own = volume[BLOCK * i, BLOCK * j, BLOCK * k] > 0
                for x in range(max(BLOCK * i - 1, 0), min(BLOCK * i + BLOCK + 1, nx)):
                    for y in range(max(BLOCK * j - 1, 0), min(BLOCK * j + BLOCK + 1, ny)):
                        for z in range(max(BLOCK * k - 1, 0), min(BLOCK * k + BLOCK + 1, nz)):
                            if (volume[x, y, z] > 0) != own:
                                wanted[i, j, k] = True


def _check_filled(volume: NDArray[np.float32], field: Field, clipped: bool) -> bool:
    """Refuse a volume without a surface; true if the solid reaches the border of the grid, or is known to."""
    inside = volume > 0
    if not inside.any():
        raise EmptyFieldError(
            f"the field is empty: no sample inside its bounds passes the level {field.level:g} ({field.kind}); "
            "move the level, or check that the bounds contain the object"
        )
    if inside.all():
        raise InputError(
            f"the field is solid everywhere inside its bounds at the level {field.level:g} ({field.kind}), so it has "
            "no surface; move the level or widen the bounds"
        )
    border = [inside[0], inside[-1], inside[:, 0], inside[:, -1], inside[:, :, 0], inside[:, :, -1]]
    clipped |= any(side.any() for side in border)
    if clipped:
        logger.warning("the solid reaches the bounds of its field and was closed flat there; widen the bounds")
    return clipped


# ---------------------------------------------------------------------------------------------------------------------
# Parts
# ---------------------------------------------------------------------------------------------------------------------


def part_volumes(vertices: NDArray, faces: NDArray[np.int32], part: NDArray, count: int) -> NDArray:
    """Signed volume of each part [count], in the cubed unit of the vertices."""
    a, b, c = (vertices[faces[:, k]].astype(np.float64) for k in range(3))
    return np.bincount(part, np.einsum("ij,ij->i", a, np.cross(b, c)) / 6, minlength=count)


def keep_parts(
    vertices: NDArray, faces: NDArray[np.int32], *, min_component: float
) -> tuple[NDArray[np.int32], int, int]:
    """Drop voids, what is inside them, and crumbs (see ``extract``) from a closed mesh.

    Args:
        vertices: positions [n, 3].
        faces: [m, 3], every connected part closed and consistently oriented.
        min_component: the volume share below which a part is a crumb.

    Returns:
        The faces that stay, the number of parts dropped as voids and the number dropped as crumbs.
    """
    label = components(faces, len(vertices))
    if (label == label[0]).all():
        return faces, 0, 0
    part = np.unique(label, return_inverse=True)[1]
    count = int(part.max()) + 1
    volume = part_volumes(vertices, faces, part, count)
    order = np.argsort(part, kind="stable")
    starts = np.searchsorted(part[order], np.arange(count))
    corners = vertices[faces[order]].astype(np.float64)
    low = np.minimum.reduceat(corners.min(axis=1), starts)
    high = np.maximum.reduceat(corners.max(axis=1), starts)

    hidden = volume <= 0
    for void in np.flatnonzero(hidden):
        held = np.flatnonzero(~hidden & (low > low[void]).all(axis=1) & (high < high[void]).all(axis=1))
        wall = vertices[faces[part == void]].astype(np.float64)
        for other in held:
            hidden[other] = winding_number(wall, corners[starts[other], 0]) < -0.5
    largest = int(np.where(hidden, -np.inf, volume).argmax())
    length = (high - low).max(axis=1)
    small = volume < min_component * volume[largest]
    crumb = small & (length < min_component ** (1 / 3) * length[largest]) & ~hidden
    return faces[~(hidden | crumb)[part]], int(hidden.sum()), int(crumb.sum())


def winding_number(triangles: NDArray[np.float64], point: NDArray[np.float64]) -> float:
    """How often triangles [m, 3, 3] wind around a point [3]; 1 inside a closed outward surface, 0 outside.

    Van Oosterom and Strackee 1983, "The solid angle of a plane triangle", equation 8.
    """
    a, b, c = (triangles[:, k] - point for k in range(3))
    la, lb, lc = (np.linalg.norm(side, axis=1) for side in (a, b, c))
    dot_ab, dot_bc, dot_ca = (np.einsum("ij,ij->i", p, q) for p, q in ((a, b), (b, c), (c, a)))
    triple = np.einsum("ij,ij->i", a, np.cross(b, c))
    return float(np.arctan2(triple, la * lb * lc + dot_ab * lc + dot_bc * la + dot_ca * lb).sum() / (2 * np.pi))
