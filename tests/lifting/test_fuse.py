"""Closed-form fusion: points land on the surface, disagreement is dropped, moments are kept."""

import pytest
import torch

from obverse.cameras import Views
from obverse.errors import InputError, UsageError
from obverse.gaussians import covariances, rotation_matrices
from obverse.lifting import losses
from obverse.lifting.carve import mesh_depths
from obverse.lifting.fuse import Points, _facing, back_project, fuse, merge_points, union, vote
from obverse.render.splats import render

from .scenes import RADIUS, ball_mesh, ball_views, over_white, without_alpha


@pytest.fixture(scope="module")
def views():
    return ball_views(count=8, size=48)


@pytest.fixture(scope="module")
def depths(views):
    return mesh_depths(ball_mesh(), views.cameras)


def quality(gaussians, views):
    return losses.psnr(render(gaussians, views.cameras).color.clamp(0, 1), over_white(views.images))


def oriented(positions, normals, weights=None, sizes=0.01):
    count = len(positions)
    weights = torch.ones(count) if weights is None else torch.tensor(weights)
    colors = torch.arange(3.0 * count).reshape(count, 3) / (3 * count)
    return Points(
        torch.tensor(positions), torch.tensor(normals), colors, torch.full((count,), sizes), weights,
        torch.zeros(count, dtype=torch.int64),
    )  # fmt: skip


def test_back_projected_points_lie_on_the_ball_and_face_outwards(views, depths):
    points = back_project(views, depths)
    assert float((points.positions.norm(dim=-1) - RADIUS).abs().max()) < 0.02
    outward = torch.nn.functional.normalize(points.positions, dim=-1)
    assert float((points.normals * outward).sum(-1).median()) > 0.95
    toward = views.cameras.positions[points.view] - points.positions
    assert bool(((points.normals * toward).sum(-1) > 0).all())


def test_the_union_keeps_to_its_number_and_shows_the_ball(views, depths):
    found = fuse(views, depths=depths, how="union", gaussians=2000)
    assert len(found) == 2000 and quality(found, views) > 18


def test_merging_needs_fewer_gaussians_and_shows_the_ball(views, depths):
    found = fuse(views, depths=depths, gaussians=800)
    assert 300 < len(found) <= 800 and quality(found, views) > 18
    assert float((found.means.norm(dim=-1) - RADIUS).abs().mean()) < 0.01


def test_refining_improves_the_merge(views, depths):
    merged, refined = (fuse(views, depths=depths, how=how, gaussians=500) for how in ("merge", "refine"))
    assert quality(refined, views) > quality(merged, views) + 3


def test_without_depths_the_hull_stands_in(views):
    found = fuse(views, gaussians=800)
    assert float((found.means.norm(dim=-1) - RADIUS).abs().mean()) < 0.03


def test_points_that_others_see_through_are_dropped(views, depths):
    wrong = depths.clone()
    wrong[0] -= 0.3  # one view claims that everything is nearer to it
    points = back_project(views, wrong)
    kept = vote(points, views, wrong)
    before, after = (float((p.view == 0).float().mean()) for p in (points, kept))
    assert before > 0.1 and after < 0.25 * before


def test_points_that_all_agree_on_are_kept(views, depths):
    points = back_project(views, depths)
    kept = vote(points, views, depths)
    assert len(kept.weights) > 0.8 * float((points.weights > 0.1).sum())


def test_merging_matches_the_moments_of_the_points():
    points = oriented([[0.0, 0, 0], [0.08, 0, 0], [0.0, 0.04, 0]], [[0.1, 0.1, 1.0]] * 3, [1.0, 1.0, 2.0], sizes=0.2)
    points = Points(
        points.positions, torch.nn.functional.normalize(points.normals, dim=-1), *list(vars(points).values())[2:]
    )
    found = merge_points(points, 1)
    torch.testing.assert_close(found.means[0], torch.tensor([0.02, 0.02, 0.0]))
    torch.testing.assert_close(found.colors[0], (points.colors * torch.tensor([[1.0], [1], [2]])).sum(0) / 4)
    d = points.positions - found.means[0]
    expected = (d[:, :, None] * d[:, None] * torch.tensor([1.0, 1, 2])[:, None, None]).sum(0) / 4
    n = points.normals[0]
    expected += 0.12**2 * (torch.eye(3) - n[:, None] * n[None])
    tangent = torch.tensor([1.0, 0, -0.1]) / 1.01**0.5
    found_there, expected_there = (tangent @ c @ tangent for c in (covariances(found)[0], expected))
    assert float(found_there) == pytest.approx(float(expected_there), rel=0.02)


def test_two_sides_of_a_thin_wall_stay_apart():
    points = oriented([[0.0, 0, 0], [0.0, 0, 0.001]], [[0.0, 0, -1.0], [0.0, 0, 1.0]])
    assert len(merge_points(points, 10)) == 2


def test_the_union_of_few_points_is_all_of_them():
    points = oriented([[0.0, 0, 0], [0.1, 0, 0]], [[0.0, 0, 1.0], [0.0, 1.0, 0]])
    found = union(points, 10)
    torch.testing.assert_close(found.means, points.positions)
    torch.testing.assert_close(rotation_matrices(found.quats)[..., 2], points.normals, atol=1e-6, rtol=0)


def test_facing_quaternions_point_z_along_any_normal():
    normals = torch.nn.functional.normalize(torch.randn(50, 3, generator=torch.Generator().manual_seed(0)), dim=-1)
    normals = torch.cat([normals, torch.eye(3), -torch.eye(3)])
    torch.testing.assert_close(rotation_matrices(_facing(normals))[..., 2], normals, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"how": "blend"}, UsageError, "'blend'"),
        ({"gaussians": 0}, UsageError, "at least 1"),
        ({"depths": torch.zeros(2, 3, 3)}, InputError, "one per pixel"),
        ({"depths": torch.full((8, 48, 48), float("inf"))}, InputError, "no pixel"),
    ],
)
def test_what_cannot_be_meant_is_refused(views, options, error, message):
    with pytest.raises(error, match=message):
        fuse(views, **options)


def test_pictures_without_alpha_are_refused(views):
    with pytest.raises(InputError, match="alpha"):
        fuse(without_alpha(views))
    assert isinstance(views, Views)
