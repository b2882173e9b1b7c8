"""Against the published code: tests/parity/instantmesh/flexicubes.* was made by running it."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh

from obverse.errors import InputError, UsageError
from obverse.render.fields import FlexiField
from obverse.surface import flexicubes as fc
from obverse.surface.extract import EmptyFieldError, extract
from obverse.surface.repair import check_watertight, make_watertight

from ..parity.cases import read_case
from ..parity.meshes import same_mesh

CASE = Path(__file__).parents[1] / "parity" / "instantmesh"
PUBLISHED = json.loads((CASE / "flexicubes.json").read_text())["cases"]
SHAPES = {
    "sphere": lambda p: p.norm(dim=-1) - 0.8,
    "torus": lambda p: torch.hypot(p[:, :2].norm(dim=-1) - 0.6, p[:, 2]) - 0.25,
    "gyroid": lambda p: (
        sum((4 * p[:, a]).sin() * (4 * p[:, (a + 1) % 3]).cos() for a in range(3))
        + 50 * (p.abs().amax(-1) - 0.95).clamp_min(0)
    ),
}


def grid(cells):
    """Sample positions and cubes of the published test grids: x slowest, 2.1 wide, rounded to five decimals before."""
    line = ((torch.arange(cells + 1).float() / cells - 0.5) * 1e5).round() / 1e5
    lowest = torch.cartesian_prod(*[torch.arange(cells)] * 3)
    cubes = (lowest[:, None] + torch.tensor(fc.CORNERS)) @ torch.tensor([(cells + 1) ** 2, cells + 1, 1])
    return torch.cartesian_prod(line, line, line) * 2.1, cubes


def drawn_weights(count):
    drawn = np.random.Generator(np.random.PCG64(1)).standard_normal((count, 21))
    return fc.activated(torch.from_numpy(drawn.astype(np.float32)))


@pytest.fixture(scope="module")
def case():
    return read_case("instantmesh", "flexicubes")


@pytest.mark.parametrize("name", ["sphere6", "sphere6_w", "random10_w"])
def test_stored_grids_give_the_published_triangles(case, name):
    cells = PUBLISHED[name]["grid"]
    points, cubes = grid(cells)
    torch.testing.assert_close(points, case[f"{name}_x"], atol=1e-6, rtol=0)
    raw = case.get(f"{name}_weights")
    vertices, faces = fc.flexicubes(
        case[f"{name}_x"], case[f"{name}_sdf"], cubes, weights=None if raw is None else fc.activated(raw)
    )
    same_mesh(vertices, faces, case[f"{name}_vertices"], case[f"{name}_faces"], atol=1e-6)
    if name.startswith("sphere"):  # one vertex for each cube: the numbering is the same too
        torch.testing.assert_close(vertices, case[f"{name}_vertices"], atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", ["sphere32", "torus24_w", "gyroid24"])
def test_shapes_by_formula_have_the_published_counts_and_volumes(name):
    expected = PUBLISHED[name]
    points, cubes = grid(expected["grid"])
    values = SHAPES[name.rstrip("0123456789_w")](points.double()).float()
    weights = drawn_weights(len(cubes)) if name.endswith("_w") else None
    vertices, faces = fc.flexicubes(points, values, cubes, weights=weights)
    mesh = trimesh.Trimesh(vertices.double().numpy(), faces.numpy(), process=False)
    assert (len(vertices), len(faces)) == (expected["vertices"], expected["faces"])
    assert mesh.is_watertight and mesh.is_winding_consistent and mesh.euler_number == expected["euler"]
    # One sample of the gyroid is exactly 0, and the published code turns the quads beside it inside out.
    assert mesh.volume == pytest.approx(expected["volume"], rel=1e-4 if name == "gyroid24" else 1e-5)
    assert mesh.area == pytest.approx(expected["area"], rel=1e-5)


def test_cubes_without_surface_may_be_left_out(case):
    points, cubes = grid(10)
    values, raw = case["random10_w_sdf"], case["random10_w_weights"]
    whole = fc.flexicubes(points, values, cubes, weights=fc.activated(raw))
    mixed = (values[cubes] < 0).any(1) & (values[cubes] >= 0).any(1)
    assert 0 < mixed.sum() < len(cubes)
    part = fc.flexicubes(points, values, cubes[mixed], weights=fc.activated(raw[mixed]))
    assert all(torch.equal(a, b) for a, b in zip(whole, part, strict=True))


def test_the_order_of_cubes_changes_only_the_numbering(case):
    points, cubes = grid(10)
    order = torch.randperm(len(cubes), generator=torch.Generator().manual_seed(0))
    weights = case["random10_w_weights"]
    one = fc.flexicubes(points, case["random10_w_sdf"], cubes, weights=fc.activated(weights))
    two = fc.flexicubes(points, case["random10_w_sdf"], cubes[order], weights=fc.activated(weights[order]))
    same_mesh(*two, *one, atol=1e-6)


def test_every_crossed_edge_has_one_sheet_and_sheets_are_rings():
    owners, counts, doubtful = fc.tables()
    for case in range(256):
        crossed = [case >> a & 1 != case >> b & 1 for a, b in fc.EDGES]
        for kind in (0, 1):
            owner = owners[kind, case]
            assert [number >= 0 for number in owner.tolist()] == crossed
            sizes = torch.bincount(owner[owner >= 0]).tolist()
            assert len(sizes) == counts[kind, case] <= 4 and all(3 <= size <= 7 for size in sizes)
    assert torch.equal(counts[0], counts[1].flip(0))  # inside and outside change places
    assert {bin(case).count("1") for case in (doubtful >= 0).nonzero()[:, 0].tolist()} == {5, 6}
    assert int((doubtful >= 0).sum()) == 24 + 12


def test_noise_gives_edges_of_two_triangles_each():
    points, cubes = grid(12)
    values = torch.randn(len(points), generator=torch.Generator().manual_seed(3))
    values[(points.abs() > 1).any(1)] = 1.0
    _, faces = fc.flexicubes(points, values, cubes)
    edges = torch.cat([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
    directed = edges.unique(dim=0, return_counts=True)[1]
    assert directed.max() == 1  # twin vertices of doubtful cubes are apart, or edges would be used twice
    assert (edges.sort(dim=1).values.unique(dim=0, return_counts=True)[1] == 2).all()


def test_gradients_reach_points_values_and_weights():
    points, cubes = grid(4)
    values = SHAPES["sphere"](points).requires_grad_()
    points.requires_grad_()
    raw = torch.zeros(len(cubes), 21, requires_grad=True)
    vertices, _ = fc.flexicubes(points, values, cubes, weights=fc.activated(raw))
    vertices.square().sum().backward()
    assert points.grad.abs().max() > 0 and values.grad.abs().max() > 0
    assert raw.grad[:, :20].abs().max() > 0 and (raw.grad[:, 20] == 0).all()


def test_no_surface_gives_no_triangles():
    points, cubes = grid(2)
    vertices, faces = fc.flexicubes(points, torch.ones(27), cubes)
    assert vertices.shape == (0, 3) and faces.shape == (0, 3)


class Shape:
    """A field with its own grid of 16 cells, on which nothing is moved or weighed unless it is said."""

    kind, level, bounds = "sdf", 0.0, ((-1.0,) * 3, (1.0,) * 3)
    cells, corners = 16, tuple(fc.CORNERS)

    def __init__(self, value, shift=0.0):
        self.value, self.shift, self.asked = value, shift, 0

    def density_or_sdf(self, points):
        return self.value(points)

    def color(self, points):
        return torch.full_like(points, 0.5)

    def offsets(self, index):
        return torch.full(index.shape, self.shift)

    def cube_weights(self, index):
        self.asked += len(index)
        return torch.zeros(len(index), fc.NUMBERS)


def ball(points):
    return 7 * (points - 0.1).norm(dim=-1) - 7 * 0.5  # overstated distances


@pytest.mark.parametrize("mode", ["sparse", "dense"])
def test_a_field_becomes_a_closed_mesh_and_only_surface_cubes_are_weighed(mode):
    field = Shape(ball, shift=0.02)
    field.cells = 32
    assert isinstance(field, FlexiField)
    mesh = fc.extract_flexicubes(field, mode=mode)
    assert check_watertight(mesh).ok and check_watertight(mesh).genus == 0
    assert np.abs(np.linalg.norm(mesh.vertices - 0.12, axis=1) - 0.5).max() < 0.004
    assert mesh.volume == pytest.approx(4 / 3 * math.pi * 0.125, rel=0.03)
    assert len(mesh.vertices) == field.asked < 0.1 * 32**3
    assert not mesh.metadata["clipped"] and (mesh.metadata["evaluated"] < 1) == (mode == "sparse")


def test_learned_values_are_not_taken_for_distances():
    def far(points):  # a ball whose values say that the surface is far away, and a small one between coarse samples
        return 1e4 * torch.minimum(ball(points), (points + 0.75).norm(dim=-1) - 0.1)

    meshes = [fc.extract_flexicubes(Shape(far), mode=mode, min_component=0) for mode in ("sparse", "dense")]
    assert len(meshes[0].faces) == len(meshes[1].faces) and check_watertight(meshes[0]).components == 2


def test_what_reaches_the_border_is_closed_there():
    mesh = fc.extract_flexicubes(Shape(lambda p: p[:, :2].norm(dim=-1) - 0.5))
    assert mesh.metadata["clipped"] and check_watertight(mesh).ok
    assert np.abs(mesh.vertices[:, 2]).max() <= 1


def test_vertices_that_touch_are_parted_by_the_shared_repair():
    points, _ = grid(16)
    noise = torch.randn(len(points), generator=torch.Generator().manual_seed(5))

    def rough(p):
        index = ((p + 1) * 8).round().long().clamp(0, 16)
        return ball(p) + 2 * noise[(index * torch.tensor([289, 17, 1])).sum(-1)]

    mesh = make_watertight(fc.extract_flexicubes(Shape(rough)))
    assert check_watertight(mesh).ok


def test_parts_are_dropped_as_from_other_surfaces():
    def hollow(p):
        return torch.minimum((p.norm(dim=-1) - 0.6).abs() - 0.15, (p - 0.8).norm(dim=-1) - 0.12)

    field = Shape(hollow)
    mesh = fc.extract_flexicubes(field)
    like = extract(field, resolution=16)
    for word in ("dropped_voids", "dropped_crumbs"):
        assert mesh.metadata[word] == like.metadata[word] == 1
    assert check_watertight(mesh).components == 1


def test_empty_fields_and_options_without_meaning_are_refused():
    with pytest.raises(EmptyFieldError, match="the field is empty"):
        fc.extract_flexicubes(Shape(lambda p: p.norm(dim=-1) + 1))
    with pytest.raises(UsageError, match="mode is 'fast'"):
        fc.extract_flexicubes(Shape(ball), mode="fast")
    with pytest.raises(UsageError, match="min_component is 2"):
        fc.extract_flexicubes(Shape(ball), min_component=2)
    with pytest.raises(InputError, match="movements or weights are not finite"):
        fc.extract_flexicubes(Shape(ball, shift=math.nan))
