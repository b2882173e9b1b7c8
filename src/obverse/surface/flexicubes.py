"""FlexiCubes: the surface between samples of a grid, by dual vertices that learned weights move (Shen et al. 2023,
"Flexible Isosurface Extraction for Gradient-Based Mesh Optimization", arXiv 2308.05371).

A cube with samples of both signs gets a dual vertex for each sheet of surface that passes through it, and an edge of
the grid between unlike samples gets a quad, which joins the dual vertices of the four cubes around it (Nielson 2004,
"Dual Marching Cubes"). Which edges belong to a sheet follows from the signs: on each face of the cube, neighbouring
crossings are joined, and where a face has four of them, those around a corner that is inside. A cube whose four
crossings on such a face are all of one sheet would share an edge of the mesh twice with a like cube beyond it; such
pairs join the crossings around the outside corners instead, which parts the sheets. The tables below are made from
these rules.

``flexicubes`` is this for any list of cubes. ``extract_flexicubes`` asks a field that was trained for it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
import torch
import trimesh
from torch import Tensor

from ..errors import InputError, UsageError
from ..render.fields import FlexiField
from ..topology import drop_unused
from .extract import keep_parts, sampled

CORNERS = [(i & 1, i >> 1 & 1, i >> 2 & 1) for i in range(8)]  # x changes fastest
EDGES = [  # as the published weights are ordered, and from which end to which: quads are oriented by it
    *((0, 1), (1, 5), (4, 5), (0, 4), (2, 3), (3, 7), (6, 7), (2, 6)),
    *((2, 0), (3, 1), (7, 5), (6, 4)),
]
FACES = [[i for i in range(8) if CORNERS[i][axis] == side] for axis in range(3) for side in (0, 1)]
NUMBERS = 21  # raw weights of a cube: 12 for its edges, 8 for its corners, 1 for its diagonals


@dataclass(frozen=True)
class CubeWeights:
    """What moves the dual vertices of M cubes; all 1 gives their plain mean."""

    edges: Tensor  # [M, 12] positive: share of a crossing in its dual vertex (β)
    corners: Tensor  # [M, 8] positive: scale of a sample where crossings are interpolated (α)
    diagonal: Tensor  # [M] positive: quads are cut between the two opposite cubes of the larger product (γ)


def activated(raw: Tensor, *, scale: float = 0.5) -> CubeWeights:
    """Raw weights [M, 21] → positive ones: 1 ± ``scale`` for edges and corners, below 1 for diagonals.

    The last are ``scale`` · sigmoid + (1 − ``scale``) / 2. Published networks were trained with a scale of 0.5.
    """
    edges, corners, diagonal = raw.split([12, 8, 1], dim=-1)
    return CubeWeights(
        1 + scale * edges.tanh(), 1 + scale * corners.tanh(), (scale * diagonal.sigmoid() + (1 - scale) / 2)[..., 0]
    )


def flexicubes(
    points: Tensor, values: Tensor, cubes: Tensor, *, weights: CubeWeights | None = None
) -> tuple[Tensor, Tensor]:
    """The surface between samples, as triangles that face positive values.

    Every edge of the grid with unlike ends is given two triangles if four cubes meet there, and is left open if fewer
    do. Differentiable in points, values and weights; on the device of the points.

    Args:
        points: positions of the samples [N, 3], in a right-handed frame.
        values: of the samples [N], negative inside; 0 counts as outside.
        cubes: the eight samples of each cube [M, 8] (int64), x changing fastest, then y, then z. Cubes without
            surface change nothing, so they may be left out.
        weights: of the same cubes; all 1 by default.

    Returns:
        Vertices [V, 3] and faces [F, 3] (int64). Vertices are in the order of cubes, those of cubes with one dual
        vertex first, then those with two, and so on.
    """
    case = ((values < 0)[cubes] * torch.tensor([1 << i for i in range(8)], device=cubes.device)).sum(1)
    chosen = ((case > 0) & (case < 255)).nonzero()[:, 0]
    cubes, case = cubes[chosen], case[chosen]
    if weights is None:
        ones = torch.ones(len(cubes), 12).to(points)
        weights = CubeWeights(ones, ones[:, :8], ones[:, 0])
    else:
        weights = CubeWeights(weights.edges[chosen], weights.corners[chosen], weights.diagonal[chosen])
    owner, first = _sheets(cubes, case)
    cube, edge = (owner >= 0).nonzero(as_tuple=True)
    vertex = first[cube] + owner[cube, edge]
    ends = torch.tensor(EDGES, device=cubes.device)[edge]  # [C, 2], a row for each crossing of each cube
    sample = cubes[cube[:, None], ends]
    scale, share = weights.corners[cube[:, None], ends], weights.edges[cube, edge]
    vertices = _dual_vertices(points, values, sample, scale, share, vertex)
    return vertices, _quads(sample, values, edge, vertex, weights.diagonal[cube], len(points))


def _sheets(cubes: Tensor, case: Tensor) -> tuple[Tensor, Tensor]:
    """The sheet of each edge of each cube [M, 12], −1 if it is not crossed, and each cube's first dual vertex [M]."""
    owners, counts, doubtful = (table.to(cubes.device) for table in tables())
    swapped = torch.zeros_like(case)
    face = doubtful[case]
    asked = (face >= 0).nonzero()[:, 0]
    if len(asked):
        corners = torch.tensor(FACES, device=cubes.device)[face[asked]]
        keys = cubes[asked[:, None], corners].sort(dim=1).values
        _, which, seen = keys.unique(dim=0, return_inverse=True, return_counts=True)
        swapped[asked] = (seen[which] == 2).long()
    count = counts[swapped, case]
    order = count.argsort(stable=True)
    first = torch.empty_like(count)
    first[order] = count[order].cumsum(0) - count[order]
    return owners[swapped, case], first


def _dual_vertices(
    points: Tensor, values: Tensor, sample: Tensor, scale: Tensor, share: Tensor, vertex: Tensor
) -> Tensor:
    """Crossings → dual vertices [V, 3], their weighted means.

    Args:
        points: [N, 3].
        values: [N].
        sample: the two samples beside each crossing [C, 2].
        scale: of their values [C, 2].
        share: of the crossing in its dual vertex [C].
        vertex: that dual vertex [C], each of 0 to V − 1 at least once.
    """
    scaled = values[sample] * scale
    part = scaled[:, :1] / (scaled[:, :1] - scaled[:, 1:])  # of the way from the first end to the second
    start, stop = points[sample[:, 0]], points[sample[:, 1]]
    crossing = start + part * (stop - start)
    gathered = torch.cat([crossing * share[:, None], share[:, None]], -1)
    count = int(vertex.max()) + 1 if len(vertex) else 0
    total = torch.zeros(count, 4).to(points).index_add(0, vertex, gathered)
    return total[:, :3] / total[:, 3:]


# Where a cube stands among the four around an edge of it, 0 to 3, when the others are counted along x, y, z.
PLACE = [
    next(
        2 * (1 - CORNERS[a][axes[0]]) + 1 - CORNERS[a][axes[1]]
        for axes in ((1, 2), (0, 2), (0, 1))
        if all(CORNERS[a][axis] == CORNERS[b][axis] for axis in axes)
    )
    for a, b in EDGES
]


def _quads(sample: Tensor, values: Tensor, edge: Tensor, vertex: Tensor, diagonal: Tensor, points: int) -> Tensor:
    """Crossings → triangles [F, 3], two for each edge of the grid at which four cubes meet.

    Args:
        sample: the two samples beside each crossing [C, 2].
        values: [N].
        edge: number of the edge in its cube [C].
        vertex: dual vertex [C].
        diagonal: of the cube [C].
        points: N.
    """
    key = sample.amin(1) * points + sample.amax(1)
    _, which, seen = key.unique(return_inverse=True, return_counts=True)
    full = (seen[which] == 4).nonzero()[:, 0]
    place = torch.tensor(PLACE, device=edge.device)[edge[full]]
    around = full[(which[full] * 4 + place).argsort()].reshape(-1, 4)
    leaving = values[sample[around[:, 0], 0]] >= 0
    onward, back = torch.tensor([[0, 1, 3, 2], [2, 3, 1, 0]]).to(edge)
    turn = torch.where(leaving[:, None], onward, back)
    around = around.gather(1, turn)
    quad, pull = vertex[around], diagonal[around]
    straight = pull[:, 0] * pull[:, 2] > pull[:, 1] * pull[:, 3]
    one, other = torch.tensor([[0, 1, 2, 0, 2, 3], [0, 1, 3, 3, 1, 2]]).to(edge)
    split = torch.where(straight[:, None], one, other)
    return quad.gather(1, split).reshape(-1, 3)


@lru_cache(maxsize=1)
def tables() -> tuple[Tensor, Tensor, Tensor]:
    """What the signs of a cube's samples say: case [256] = Σ 2^i over its inside corners i.

    Returns:
        The sheet of each edge [2, 256, 12], −1 if it is not crossed; the number of sheets [2, 256]; and the one face
        [256] of four crossings that are all of one sheet, −1 if there is none. Of each two, the first joins crossings
        around inside corners, the second around outside corners.
    """
    owners = torch.full((2, 256, 12), -1)
    counts, doubtful = torch.zeros(2, 256, dtype=torch.int64), torch.full((256,), -1)
    for case in range(256):
        for other in (False, True):
            sheets = _sheets_of_case(case, around_outside=other)
            counts[int(other), case] = len(sheets)
            for number, sheet in enumerate(sheets):
                owners[int(other), case, sheet] = number
        for number, face in enumerate(FACES):
            four = [e for e, ends in enumerate(EDGES) if owners[0, case, e] >= 0 and set(ends) <= set(face)]
            if len(four) == 4 and len({int(owners[0, case, e]) for e in four}) == 1:
                doubtful[case] = number
    return owners, counts, doubtful


def _sheets_of_case(case: int, *, around_outside: bool) -> list[list[int]]:
    """The crossed edges of a cube, by sheets, in the order of each sheet's first edge."""
    inside = [bool(case >> i & 1) for i in range(8)]
    sheet = {e: e for e, (a, b) in enumerate(EDGES) if inside[a] != inside[b]}

    def join(pair: list[int]) -> None:
        a, b = (sheet[e] for e in pair)
        sheet.update({e: min(a, b) for e, name in sheet.items() if name in (a, b)})

    for face in FACES:
        crossed = [e for e in sheet if set(EDGES[e]) <= set(face)]
        if len(crossed) == 2:
            join(crossed)
        elif len(crossed) == 4:
            for corner in face:
                if inside[corner] != around_outside:
                    join([e for e in crossed if corner in EDGES[e]])
    return [[e for e in sheet if sheet[e] == name] for name in sorted(set(sheet.values()))]


# ---------------------------------------------------------------------------------------------------------------------
# Of a field
# ---------------------------------------------------------------------------------------------------------------------


def extract_flexicubes(
    field: FlexiField, *, mode: Literal["sparse", "dense"] = "sparse", min_component: float = 0.01
) -> trimesh.Trimesh:
    """Mesh a field on the grid that it was trained with: an oriented surface facing outward, in its frame.

    Values are asked as ``extract`` asks them, in the sparse mode near the surface alone; movements and weights are
    asked of the cubes with surface only, which changes nothing. Outermost samples count as outside, so that the
    surface is closed there. Voids and crumbs are dropped as by ``extract``.

    Args:
        field: the solid; its ``cells`` say how fine the grid is.
        mode: ``"sparse"`` or ``"dense"``, see ``extract``.
        min_component: the volume share below which a small part is a crumb; 0 keeps all.

    Returns:
        A closed mesh whose positions are exactly representable in float32; vertices may touch. Its ``metadata`` holds
        ``resolution``, ``evaluated``, ``clipped`` (true if the solid reaches the border), ``dropped_voids`` and
        ``dropped_crumbs``.

    Raises:
        UsageError: an option is out of range.
        InputError: the field is empty, or solid everywhere, or answers NaN.
    """
    if mode not in ("sparse", "dense"):
        raise UsageError(f"mode is {mode!r}, but only 'sparse' and 'dense' exist; choose one of them")
    if not 0 <= min_component < 1:
        raise UsageError(f"min_component is {min_component}, but it is a share of the volume in 0 to 1 (1 excluded)")
    grid, volume, evaluated, clipped = sampled(field, field.cells, mode=mode, closed=True)
    inside = volume > 0
    corners = np.asarray(field.corners, np.int64)
    n = volume.shape
    signs = [inside[i : n[0] - 1 + i, j : n[1] - 1 + j, k : n[2] - 1 + k] for i, j, k in corners]
    lowest = np.argwhere(np.any([sign != signs[0] for sign in signs[1:]], axis=0))
    flat = np.ravel_multi_index(tuple(np.moveaxis(lowest[:, None] + corners, -1, 0)), n)
    used, cubes = np.unique(flat, return_inverse=True)
    index = np.stack(np.unravel_index(used, n), axis=1)
    with torch.no_grad():
        moved = field.offsets(torch.from_numpy(index)).double().cpu()
        weights = activated(field.cube_weights(torch.from_numpy(lowest)).double().cpu())
        points = torch.from_numpy(grid.low + grid.step * index) + moved
        values = torch.from_numpy(-volume.reshape(-1)[used].astype(np.float64))
        found = flexicubes(points, values, torch.from_numpy(cubes.reshape(-1, 8)), weights=weights)
    vertices, faces = found[0].numpy(), found[1].numpy().astype(np.int32)
    if not np.isfinite(vertices).all():
        raise InputError(
            "the field's movements or weights are not finite near its surface; check the weights it was made with"
        )
    faces, voids, crumbs = keep_parts(vertices, faces, min_component=min_component)
    vertices, faces = drop_unused(vertices, faces)
    mesh = trimesh.Trimesh(vertices.astype(np.float32).astype(np.float64), faces, process=False)
    mesh.metadata.update(
        resolution=field.cells, evaluated=evaluated, clipped=clipped, dropped_voids=voids, dropped_crumbs=crumbs
    )
    return mesh
