"""Surface nets are closed manifolds whatever the volume, and the sparse mode gives the dense surface."""

from __future__ import annotations

import numba
import numpy as np
import pytest
import torch

from obverse.errors import InputError, UsageError
from obverse.render.fields import CallableField
from obverse.surface.extract import extract, keep_parts, surface_nets, winding_number
from obverse.surface.nets import MARGIN, cycles, double_faces, edge_corners, face_ring
from obverse.surface.repair import check_faces, check_watertight


def torus(p):
    return ((p[:, [0, 2]].norm(dim=1) - 0.33) ** 2 + p[:, 1] ** 2).sqrt() - 0.1


def sphere(p, radius=0.4):
    return p.norm(dim=1) - radius


def bumpy(p):
    return p.norm(dim=1) - 0.35 - 0.5 * p.prod(dim=1)


def sheet(p):
    """A bent sheet 0.02 thick, less than one of the coarse cells."""
    return torch.maximum((p[:, 0] - 0.4 * p[:, 1] ** 2).abs() - 0.01, p[:, 1:].abs().amax(1) - 0.4)


def ball_volume(shape, centre, radius):
    index = np.stack(np.meshgrid(*[np.arange(n) for n in shape], indexing="ij"), axis=-1)
    return (radius - np.linalg.norm(index - centre, axis=-1)).astype(np.float32)


def noise(seed, kind):
    rng = np.random.default_rng(seed)
    volume = rng.standard_normal(rng.integers(3, 25, 3)).astype(np.float32)
    return {"white": volume, "signs": np.sign(volume), "rounded": np.round(volume)}[kind]


# surface nets


@pytest.mark.parametrize("kind", ["white", "signs", "rounded"])
@pytest.mark.parametrize("seed", range(16))
def test_noise_gives_a_closed_manifold_without_degenerate_faces(seed, kind):
    volume = noise(seed, kind)
    vertices, faces = surface_nets(volume, level=[0.0, 0.5, -0.5, 0.25][seed % 4])
    found = check_faces(vertices, faces)
    assert len(faces) > 100
    assert found.vertices == len(vertices)  # joining equal positions joined nothing
    assert found.faults() == []


def test_every_arrangement_of_2x2x3_samples_gives_a_closed_manifold():
    """All 4096 pairs of neighbouring cells at once, each pattern separated from the next by an empty layer."""
    patterns = np.arange(4096)
    bits = patterns[:, None] >> np.arange(12) & 1
    volume = np.full((64 * 3, 64 * 4, 3), -1, np.float32)
    for pattern, sign in zip(patterns, bits, strict=True):
        i, j = divmod(int(pattern), 64)
        volume[3 * i : 3 * i + 2, 4 * j : 4 * j + 3, :2] = np.where(sign, 1, -1).reshape(2, 3, 2)
    assert check_faces(*surface_nets(volume)).faults() == []


def test_vertices_are_strictly_inside_their_cells():
    vertices, _ = surface_nets(noise(3, "rounded"))
    share = vertices - np.floor(vertices)
    assert share.min() > 0 and share.max() < 1


def test_faces_look_outward_and_the_volume_is_that_of_the_ball():
    vertices, faces = surface_nets(ball_volume((41, 42, 43), (20, 20.5, 21), 16))
    found = check_faces(vertices, faces)
    assert found.genus == 0 and found.components == 1
    assert found.volume == pytest.approx(4 / 3 * np.pi * 16**3, rel=0.01)


def test_vertices_lie_on_the_surface_they_approximate():
    vertices, _ = surface_nets(ball_volume((41, 41, 41), (20, 20, 20), 16.3))
    assert np.abs(np.linalg.norm(vertices - 20, axis=1) - 16.3).max() < 0.06


def test_a_plane_is_exact():
    volume = np.broadcast_to(2.3 - np.arange(6, dtype=np.float32)[:, None, None], (6, 5, 5))
    vertices, _ = surface_nets(volume)
    middle = vertices[(np.abs(vertices[:, 1:] - 2) < 1.6).all(axis=1) & (vertices[:, 0] > 1)]
    assert len(middle) == 16
    np.testing.assert_allclose(middle[:, 0], 2.3, atol=1e-6)


def test_a_solid_at_the_border_is_closed_there():
    found = check_faces(*surface_nets(np.ones((5, 6, 7), np.float32)))
    assert found.ok and found.genus == 0
    assert found.volume == pytest.approx(4 * 5 * 6, rel=0.12)


def test_one_sample_gives_an_octahedron_dual_a_small_cube():
    vertices, faces = surface_nets(np.ones((1, 1, 1), np.float32))
    assert vertices.shape == (8, 3) and faces.shape == (12, 3)
    np.testing.assert_allclose(np.abs(vertices), MARGIN / 3, rtol=1e-5)


def test_no_sample_inside_gives_no_surface():
    vertices, faces = surface_nets(np.zeros((4, 4, 4), np.float32))  # equal to the level is outside
    assert vertices.shape == (0, 3) and faces.shape == (0, 3)


def test_the_result_is_the_same_for_every_cut_into_words():
    """Rows of 30 to 34 samples cross the 32-bit words at different places; an offset along z only moves the surface."""
    ball = ball_volume((12, 12, 12), (5.5, 5.5, 5.5), 4.2)
    vertices, faces = surface_nets(ball)
    for offset in (15, 18, 19, 20, 21, 22, 25, 26, 27, 28, 31):
        wide = np.full((12, 12, offset + 14), -1, np.float32)
        wide[:, :, offset : offset + 12] = ball
        moved, same = surface_nets(wide)
        np.testing.assert_array_equal(same, faces)
        np.testing.assert_allclose(moved - [0, 0, offset], vertices, atol=4e-6)


def test_the_number_of_threads_changes_nothing():
    volume = np.random.default_rng(7).standard_normal((40, 20, 20)).astype(np.float32)
    several = surface_nets(volume)
    before = numba.get_num_threads()
    numba.set_num_threads(1)
    try:
        alone = surface_nets(volume)
    finally:
        numba.set_num_threads(before)
    for a, b in zip(several, alone, strict=True):
        np.testing.assert_array_equal(a, b)


def test_nan_and_infinity_are_refused():
    for value in (np.nan, np.inf, -np.inf):
        volume = np.zeros((4, 4, 4), np.float32)
        volume[2, 1, 3] = value
        with pytest.raises(InputError, match="slice 2"):
            surface_nets(volume)


def test_a_volume_must_have_three_axes():
    with pytest.raises(InputError, match=r"\[X, Y, Z\]"):
        surface_nets(np.zeros((4, 4), np.float32))


# its tables


def test_a_cell_with_an_exceptional_face_has_no_other_alternating_face():
    exceptional = 0
    for case in range(256):
        for face in double_faces(case):
            exceptional += 1
            alternating = [f for f in range(6) if [case >> c & 1 for c in face_ring(f)] in ([0, 1, 0, 1], [1, 0, 1, 0])]
            assert alternating == [face]
            assert len(cycles(case, face)) == len(cycles(case)) + 1
    assert exceptional == 36


def test_every_crossed_edge_is_on_one_cycle_and_cycles_have_at_least_three():
    for case in range(256):
        crossed = [e for e in range(12) if len({case >> c & 1 for c in edge_corners(e)}) == 2]
        found = cycles(case)
        assert sorted(edge for cycle in found for edge in cycle) == crossed
        assert all(len(cycle) >= 3 for cycle in found)


def test_two_vertices_of_one_cell_can_never_coincide():
    """For every case a direction separates the two means, wherever their crossings are on their edges."""
    directions = np.array([d for d in np.ndindex(3, 3, 3) if d != (1, 1, 1)]) - 1
    corner = np.array([(c >> 2, c >> 1 & 1, c & 1) for c in range(8)], float)
    pairs = 0
    for case in range(256):
        for turned in [-1, *double_faces(case)]:
            reach = []
            for cycle in cycles(case, turned):
                ends = np.array([[corner[c] @ directions.T for c in edge_corners(edge)] for edge in cycle])
                reach.append((ends.min(axis=1).mean(axis=0), ends.max(axis=1).mean(axis=0)))
            for i in range(len(reach)):
                for j in range(i):
                    pairs += 1
                    assert (reach[i][1] <= reach[j][0] + 1e-9).any(), (case, turned)
    assert pairs > 100


# extract


@pytest.mark.parametrize("shape", [torus, bumpy, sheet])
@pytest.mark.parametrize("kind", ["sdf", "density"])
def test_sparse_equals_dense(shape, kind):
    field = CallableField(shape if kind == "sdf" else lambda p: -shape(p), kind=kind)
    sparse, dense = (extract(field, resolution=61, mode=mode) for mode in ("sparse", "dense"))
    assert sparse.metadata["evaluated"] < 0.5 < dense.metadata["evaluated"] == 1
    np.testing.assert_array_equal(sparse.faces, dense.faces)
    np.testing.assert_array_equal(sparse.vertices, dense.vertices)


def test_a_thin_arm_is_followed_from_where_it_was_met():
    """A bar two cells thick between the coarse samples of a density is found because it starts at a ball."""

    def dumbbell(p):
        bar = torch.maximum((p[:, 1:] - 0.012).abs().amax(1) - 0.012, p[:, 0].abs() - 0.45)
        return -torch.minimum(bar, (p - p.new_tensor([-0.3, 0, 0])).norm(dim=1) - 0.1)

    field = CallableField(dumbbell, kind="density")
    sparse, dense = (extract(field, resolution=96, mode=mode, min_component=0) for mode in ("sparse", "dense"))
    assert dense.bounds[1, 0] > 0.44
    np.testing.assert_array_equal(sparse.vertices, dense.vertices)


def test_a_distance_field_shows_parts_between_the_coarse_samples():
    def two(p):
        return torch.minimum(sphere(p, 0.3), (p - p.new_tensor([0.41, 0.41, 0.41])).norm(dim=1) - 0.012)

    sparse, dense = (extract(CallableField(two), resolution=64, mode=m, min_component=0) for m in ("sparse", "dense"))
    assert len(dense.split(only_watertight=False)) == 2
    np.testing.assert_array_equal(sparse.faces, dense.faces)


def test_the_mesh_is_watertight_and_in_world_units():
    mesh = extract(CallableField(torus), resolution=96)
    found = check_watertight(mesh)
    assert found.ok and found.genus == 1
    assert found.volume == pytest.approx(2 * np.pi**2 * 0.33 * 0.1**2, rel=0.02)
    np.testing.assert_allclose(mesh.bounds, [[-0.43, -0.1, -0.43], [0.43, 0.1, 0.43]], atol=0.003)


def test_density_and_distance_agree():
    a = extract(CallableField(sphere), resolution=40)
    b = extract(CallableField(lambda p: 7 - sphere(p), kind="density", level=7.0), resolution=40)
    np.testing.assert_allclose(a.vertices, b.vertices, atol=1e-5)


def test_cells_are_cubes_in_bounds_that_are_not():
    field = CallableField(lambda p: sphere(p, 0.2), bounds=((-0.3, -0.5, -0.25), (0.3, 0.4, 0.33)))
    mesh = extract(field, resolution=45)
    assert check_watertight(mesh).ok
    np.testing.assert_allclose(np.linalg.norm(mesh.vertices, axis=1), 0.2, atol=0.002)


def test_positions_survive_float32():
    mesh = extract(CallableField(torus), resolution=40)
    np.testing.assert_array_equal(mesh.vertices, mesh.vertices.astype(np.float32))


def test_the_chunk_size_changes_nothing():
    a, b = (extract(CallableField(bumpy), resolution=32, chunk=chunk) for chunk in (100, 10**6))
    np.testing.assert_array_equal(a.vertices, b.vertices)


def test_a_void_and_what_is_in_it_are_dropped():
    def nested(p):  # a shell from 0.3 to 0.4 around a ball of 0.1
        return torch.minimum((sphere(p, 0.35)).abs() - 0.05, sphere(p, 0.1))

    mesh = extract(CallableField(nested), resolution=64)
    assert mesh.metadata["dropped_voids"] == 2
    assert mesh.volume == pytest.approx(4 / 3 * np.pi * 0.4**3, rel=0.02)


def test_a_part_beside_a_void_stays():
    """The bounding box of the ball outside is not inside the void, so it is kept."""

    def shell_and_ball(p):
        return torch.minimum(sphere(p, 0.3).abs() - 0.03, (p - p.new_tensor([0.43, 0.43, 0])).norm(dim=1) - 0.1)

    mesh = extract(CallableField(shell_and_ball), resolution=64)
    assert mesh.metadata["dropped_voids"] == 1
    assert check_watertight(mesh).components == 2


def test_crumbs_are_dropped_and_long_thin_parts_stay():
    def parts(p):
        crumb = (p - p.new_tensor([0.45, 0.45, 0.0])).norm(dim=1) - 0.03
        wire = torch.maximum((p[:, [0, 2]] - 0.45).norm(dim=1) - 0.02, p[:, 1].abs() - 0.45)
        return torch.minimum(sphere(p), torch.minimum(crumb, wire))

    mesh = extract(CallableField(parts), resolution=64)
    assert mesh.metadata["dropped_crumbs"] == 1
    assert check_watertight(mesh).components == 2
    assert check_watertight(extract(CallableField(parts), resolution=64, min_component=0)).components == 3


def test_a_solid_that_leaves_its_bounds_is_closed_and_reported(caplog):
    mesh = extract(CallableField(lambda p: p[:, 1] - 0.1), resolution=24)
    assert mesh.metadata["clipped"] and "bounds" in caplog.text
    assert check_watertight(mesh).ok


@pytest.mark.parametrize("mode", ["sparse", "dense"])
@pytest.mark.parametrize(
    ("value", "words"),
    [(1.0, "empty"), (-1.0, "solid everywhere"), (float("nan"), "NaN")],
    ids=["empty", "full", "nan"],
)
def test_fields_without_a_surface_are_refused(mode, value, words):
    with pytest.raises(InputError, match=words):
        extract(CallableField(lambda p: torch.full((len(p),), value)), resolution=16, mode=mode)


def test_infinite_values_are_read_as_far_away():
    field = CallableField(lambda p: torch.where(sphere(p) < 0, 1.0, -torch.inf), kind="density")
    assert check_watertight(extract(field, resolution=24)).ok


@pytest.mark.parametrize(
    "options", [{"resolution": 3}, {"mode": "both"}, {"chunk": 0}, {"min_component": 1.0}], ids=lambda o: next(iter(o))
)
def test_options_out_of_range_are_refused(options):
    with pytest.raises(UsageError):
        extract(CallableField(sphere), **options)


def test_bounds_without_extent_are_refused():
    with pytest.raises(InputError, match="bounds"):
        extract(CallableField(sphere, bounds=((0.0, 0.0, 0.0), (1.0, 0.0, 1.0))))


# parts


def test_the_winding_number_is_one_inside_and_zero_outside():
    vertices, faces = surface_nets(ball_volume((11, 11, 11), (5, 5, 5), 3))
    triangles = vertices[faces].astype(np.float64)
    assert winding_number(triangles, np.array([5.0, 5, 5])) == pytest.approx(1)
    assert winding_number(triangles, np.array([9.0, 5, 5])) == pytest.approx(0, abs=1e-9)


def test_one_part_is_kept_as_it_is():
    vertices, faces = surface_nets(ball_volume((11, 11, 11), (5, 5, 5), 3))
    assert keep_parts(vertices, faces, min_component=0.5)[0] is faces
