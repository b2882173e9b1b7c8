"""Geometry scores agree with closed forms: spheres, boxes, copies that were moved, shells and sheets."""

import math

import numpy as np
import pytest
import trimesh

from obverse.errors import InputError, UsageError
from obverse.evaluation import alignment, geometry
from obverse.evaluation.geometry import SurfaceSamples


def sphere(radius, subdivisions=4):
    return trimesh.creation.icosphere(subdivisions=subdivisions, radius=radius)


def box(size=(1.0, 1.0, 1.0), middle=(0.0, 0.0, 0.0)):
    return trimesh.Trimesh(trimesh.creation.box(size).vertices + middle, trimesh.creation.box(size).faces)


def joined(*meshes):
    return trimesh.util.concatenate(meshes)


def corner_shape():
    """Three boxes of different lengths: no rotation maps it to itself."""
    return joined(box((1.0, 0.2, 0.2)), box((0.2, 0.6, 0.2), (0.4, 0.4, 0)), box((0.2, 0.2, 0.5), (-0.4, 0, 0.35)))


def moved(mesh, *, scale=1.0, yaw_deg=0.0, shift=(0.0, 0.0, 0.0)):
    c, s = math.cos(math.radians(yaw_deg)), math.sin(math.radians(yaw_deg))
    turn = np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]])
    return trimesh.Trimesh(scale * mesh.vertices @ turn.T + shift, mesh.faces, process=False)


def samples(mesh, points=6000, **options):
    return geometry.outer_surface(mesh, points=points, **{"size": 200, **options})


def test_concentric_spheres_are_their_difference_of_radii_apart():
    found = geometry.chamfer(samples(sphere(0.4)), samples(sphere(0.5), seed=1))
    # The floor of 6000 points adds h²/2d with h ≈ 0.01, and facets of the icosphere take 0.0005 off a radius.
    assert found.to_truth == pytest.approx(0.1, abs=2e-3)
    assert found.from_truth == pytest.approx(0.1, abs=2e-3)
    assert found.mean == pytest.approx((found.to_truth + found.from_truth) / 2)
    assert found.sum == pytest.approx(2 * found.mean)
    assert found.squared_sum == pytest.approx(2 * 0.1**2, abs=1e-3)


def test_concentric_spheres_overlap_by_the_cube_of_their_ratio():
    assert geometry.volume_iou(sphere(0.4), sphere(0.5)) == pytest.approx(0.8**3, abs=0.01)


def test_shifted_boxes_overlap_as_computed_by_hand():
    # Sides 1 × 0.8 × 0.6, shifted by a quarter of the longest: 0.75 of each in common, 1.25 together.
    size = (1.0, 0.8, 0.6)
    assert geometry.volume_iou(box(size, (0.25, 0, 0)), box(size)) == pytest.approx(0.75 / 1.25, abs=0.02)
    assert geometry.volume_iou(box(size, (3, 0, 0)), box(size)) == 0


def test_sheets_have_no_volume_to_compare():
    sheet = trimesh.Trimesh([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]], [[0, 1, 2], [0, 2, 3]])
    assert math.isnan(geometry.volume_iou(sheet, sheet, resolution=16))
    assert "volume_iou" not in geometry.compare(sheet, sheet, points=500, resolution=16).to_dict()


def test_chamfer_is_that_of_brute_force():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(60, 3)), rng.normal(size=(45, 3))
    distances = np.linalg.norm(a[:, None] - b[None], axis=-1)
    there, back = distances.min(1), distances.min(0)
    found = geometry.chamfer(a, b)
    assert (found.to_truth, found.from_truth) == (pytest.approx(there.mean()), pytest.approx(back.mean()))
    assert found.squared_sum == pytest.approx((there**2).mean() + (back**2).mean())


def test_f_score_is_a_step_at_the_distance_of_parallel_surfaces():
    scores = geometry.f_scores(samples(sphere(0.4)), samples(sphere(0.5), seed=1), (0.095, 0.105))
    assert scores == {0.095: 0, 0.105: 1}


def test_f_score_is_the_harmonic_mean_of_precision_and_recall():
    a = np.array([[0.0, 0, 0], [1, 0, 0], [2, 0, 0], [9, 0, 0]])
    b = np.array([[0.0, 0, 0], [1, 0, 0], [5, 0, 0]])
    # Within 0.5: two of four points of a, two of three of b.
    assert geometry.f_scores(a, b, [0.5])[0.5] == pytest.approx(2 * 0.5 * (2 / 3) / (0.5 + 2 / 3))


def test_normals_of_a_tilted_plane_differ_by_its_angle():
    grid = np.stack([*np.mgrid[0:5, 0:5], np.zeros((5, 5))], -1).reshape(-1, 3)
    a = SurfaceSamples(grid, np.tile([0, 0, 1.0], (25, 1)))
    b = SurfaceSamples(grid, np.tile([math.sin(0.3), 0, -math.cos(0.3)], (25, 1)))
    found = geometry.normal_consistency(a, b)
    assert (found.to_truth, found.from_truth, found.mean) == (pytest.approx(math.cos(0.3)),) * 3
    assert found.signed == pytest.approx(-math.cos(0.3))


def test_normals_are_compared_between_nearest_points():
    points, normals = np.array([[0.0, 0, 0], [1, 0, 0], [2, 0, 0]]), np.eye(3)
    order = [2, 0, 1]
    near = SurfaceSamples(points[order] + 0.1, normals[order])
    found = geometry.normal_consistency(SurfaceSamples(points, normals), near)
    assert (found.to_truth, found.from_truth, found.signed) == (1, 1, 1)
    turned = geometry.normal_consistency(SurfaceSamples(points, normals), SurfaceSamples(points[order], normals))
    assert (turned.to_truth, turned.from_truth, turned.signed) == (0, 0, 0)


def test_outer_surface_is_even_by_area():
    found = samples(box((1.0, 0.5, 0.25)), 8000)
    shares = np.abs(found.normals).mean(0)  # a box's normals are axes, so this is the share of area facing each
    np.testing.assert_allclose(shares, np.array([0.125, 0.25, 0.5]) / 0.875, atol=0.01)
    assert len(found) == 8000


def test_normals_point_outwards_whichever_way_faces_turn():
    ball = sphere(0.5)
    ball.faces[::2] = ball.faces[::2, ::-1]
    found = samples(trimesh.Trimesh(ball.vertices, ball.faces, process=False))
    assert ((found.points * found.normals).sum(1) > 0.49).all()


def test_an_inner_shell_is_not_part_of_the_outer_surface():
    ball = sphere(0.5)
    found = samples(joined(ball, sphere(0.47), box((0.3, 0.3, 0.3))))
    assert len(found) == 6000
    assert np.linalg.norm(found.points, axis=1).min() > 0.49
    floor = geometry.chamfer(samples(ball, seed=1), samples(ball, seed=2)).mean
    assert geometry.chamfer(found, samples(ball, seed=2)).mean == pytest.approx(floor, rel=0.05)


def test_a_box_drawn_on_both_sides_samples_like_the_solid():
    solid = box((1.0, 0.5, 0.25))
    doubled = trimesh.Trimesh(solid.vertices, np.concatenate([solid.faces, solid.faces[:, ::-1]]), process=False)
    assert np.array_equal(samples(doubled).points, samples(solid).points)


def test_open_sheets_around_a_box_compare_like_the_solid():
    solid = box((1.0, 0.5, 0.25))
    inner = box((0.98, 0.48, 0.23))
    both = joined(solid, trimesh.Trimesh(inner.vertices, inner.faces[:, ::-1]))
    shells = geometry.compare(both, solid, how="none", points=6000, resolution=32).to_dict()
    alone = geometry.compare(solid, solid, how="none", points=6000, resolution=32).to_dict()
    assert shells["chamfer"] == pytest.approx(alone["chamfer"], rel=0.05)
    assert shells["normal_consistency_signed"] == pytest.approx(alone["normal_consistency_signed"], abs=0.02)
    assert (shells["volume_iou"], alone["volume_iou"]) == (1, 1)


def test_a_sheet_counts_on_both_sides_and_a_cup_inside_and_out():
    sheet = trimesh.Trimesh([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]], [[0, 1, 2], [0, 2, 3]])
    assert samples(sheet).normals[:, 2].mean() == pytest.approx(0, abs=0.05)
    cup = box((1.0, 1.0, 1.0))
    cup = trimesh.Trimesh(cup.vertices, cup.faces[cup.face_normals[:, 1] < 0.5], process=False)  # no lid
    found = samples(cup, directions=120)
    facing = (found.points * found.normals).sum(1)
    assert (facing > 0).mean() == pytest.approx(0.5, abs=0.03)


def test_a_model_without_a_floor_is_not_seen_into_unless_asked():
    hollow = box((1.0, 1.0, 1.0))
    hollow = trimesh.Trimesh(hollow.vertices, hollow.faces[hollow.face_normals[:, 1] > -0.5], process=False)
    shares = {}
    for lowest in (-20, -90):
        found = samples(hollow, lowest_deg=lowest)
        shares[lowest] = float(((found.points * found.normals).sum(1) < 0).mean())
    assert shares[-20] < 0.2
    assert shares[-90] == pytest.approx(0.5, abs=0.03)


@pytest.mark.parametrize("scale", [1e-6, 1e6])
def test_outer_surface_knows_no_unit(scale):
    found = samples(moved(sphere(0.5), scale=scale, shift=(3 * scale, 0, 0)), 500)
    np.testing.assert_allclose(np.linalg.norm(found.points / scale - (3, 0, 0), axis=1), 0.5, atol=2e-3)
    assert ((found.points / scale - (3, 0, 0)) * found.normals).sum(1).min() > 0.49


def test_the_same_seed_gives_the_same_points_and_another_seed_others():
    first, again, other = (samples(sphere(0.5, 2), 500, seed=seed) for seed in (3, 3, 4))
    assert np.array_equal(first.points, again.points)
    assert not np.array_equal(first.points, other.points)


def test_similarity_recovers_scale_and_shift():
    shape = corner_shape()
    copy = moved(shape, scale=1.7, shift=(0.3, -0.2, 0.5))
    found = geometry.align(samples(copy).points, samples(shape, seed=1).points, how="similarity")
    assert found.scale == pytest.approx(1 / 1.7, rel=5e-3)
    np.testing.assert_allclose(found.apply([[0.3, -0.2, 0.5]]), [[0, 0, 0]], atol=5e-3)
    assert np.array_equal(found.rotation, np.eye(3))


def test_similarity_recovers_the_shift_of_a_shape_with_a_part_missing():
    shape, part = corner_shape(), joined(box((1.0, 0.2, 0.2)), box((0.2, 0.6, 0.2), (0.4, 0.4, 0)))
    copy = moved(part, scale=0.8, shift=(0.1, 0.1, 0.1))
    found = geometry.align(samples(copy).points, samples(shape, seed=1).points, how="similarity")
    assert found.scale == pytest.approx(1 / 0.8, rel=0.03)
    np.testing.assert_allclose(found.apply([[0.1, 0.1, 0.1]]), [[0, 0, 0]], atol=0.02)


@pytest.mark.parametrize("yaw_deg", [35.0, 172.0, -94.0])
def test_yaw_search_recovers_a_turned_and_scaled_copy(yaw_deg):
    shape = corner_shape()
    copy = moved(shape, scale=1.3, yaw_deg=yaw_deg, shift=(0.2, 0, -0.1))
    found = geometry.align(samples(copy).points, samples(shape, seed=1).points, how="yaw-icp", sample=3000)
    points = np.random.default_rng(0).uniform(-0.5, 0.5, (50, 3))
    there = found.apply(moved(trimesh.Trimesh(points, []), scale=1.3, yaw_deg=yaw_deg, shift=(0.2, 0, -0.1)).vertices)
    np.testing.assert_allclose(there, points, atol=0.01)


def test_scale_can_be_held():
    shape = corner_shape()
    copy = moved(shape, scale=1.1, shift=(0.2, 0, 0))
    found = geometry.align(samples(copy).points, samples(shape).points, how="similarity", scale=False)
    assert found.scale == 1


def test_alignment_descends_the_chamfer_distance_that_is_reported():
    a, b = samples(corner_shape(), 400).points, samples(sphere(0.3), 300, seed=1).points
    there = geometry.Similarity(1.7, np.array([[0, 0, 1.0], [0, 1, 0], [-1, 0, 0]]), np.array([0.1, 0.2, -0.1]))
    value, following = alignment._Pair.of(a, b, scale=True, rotate=True).step(there)
    assert value == pytest.approx(geometry.chamfer(there.apply(a), b).mean)
    assert geometry.chamfer(following.apply(a), b).mean < value


def test_alignment_never_moves_away():
    a, b = samples(corner_shape(), 1000).points, samples(sphere(0.3), 1000, seed=1).points
    before = geometry.chamfer(a, b).mean
    for how in ("none", "similarity", "yaw-icp"):
        after = geometry.chamfer(geometry.align(a, b, how=how).apply(a), b).mean
        assert after <= before * (1 + 1e-9)


def test_similarity_and_its_inverse_undo_each_other():
    found = geometry.Similarity(1.5, np.array([[0, 0, 1.0], [0, 1, 0], [-1, 0, 0]]), np.array([1.0, 2, 3]))
    points = np.arange(12.0).reshape(4, 3)
    np.testing.assert_allclose(found.inverse().apply(found.apply(points)), points, atol=1e-12)


def test_moving_result_and_truth_together_changes_nothing():
    result, truth = sphere(0.35, 3), box((1.0, 0.6, 0.6))
    here = geometry.compare(result, truth, how="none", points=3000, resolution=24).to_dict()
    there = [moved(mesh, scale=40, shift=(7, -3, 5)) for mesh in (result, truth)]
    away = geometry.compare(*there, how="none", points=3000, resolution=24).to_dict()
    assert away == pytest.approx(here, abs=1e-3)


def test_compare_reports_the_alignment_it_used():
    truth = corner_shape()
    found = geometry.compare(moved(truth, scale=0.5, shift=(0.4, 0, 0)), truth, points=5000, resolution=24)
    scores = found.to_dict()
    assert (found.how, found.points) == ("similarity", 5000)
    assert scores["aligned_scale"] == pytest.approx(2, rel=0.01)
    assert scores["f_0.05"] == 1
    assert scores["volume_iou"] > 0.9
    assert all(type(value) is float for value in scores.values())


def test_unusable_meshes_are_refused_by_name_of_the_fault():
    good = box()
    line = trimesh.Trimesh([[0, 0, 0], [1, 0, 0], [2, 0, 0]], [[0, 1, 2]], process=False)
    broken = trimesh.Trimesh(np.where(good.vertices > 0.4, np.nan, good.vertices), good.faces, process=False)
    for bad, why in ((trimesh.Trimesh(), "no faces"), (line, "has an area"), (broken, "not finite")):
        with pytest.raises(InputError, match=why):
            geometry.compare(bad, good)
        with pytest.raises(InputError, match=why):
            geometry.volume_iou(good, bad)


def test_unusable_points_and_options_are_refused():
    good = np.random.default_rng(0).normal(size=(9, 3))
    for bad in (good[:2], np.zeros((9, 3)), np.full((9, 3), np.nan), good[:, :2]):
        with pytest.raises(InputError):
            geometry.chamfer(good, bad)
    with pytest.raises(InputError, match="threshold"):
        geometry.f_scores(good, good, [0.0])
    with pytest.raises(InputError, match="at least 1"):
        geometry.outer_surface(box(), points=0)
    with pytest.raises(InputError, match="−90"):
        geometry.outer_surface(box(), lowest_deg=-100)
    with pytest.raises(UsageError, match="yaw-icp"):
        geometry.align(good, good, how="icp")
