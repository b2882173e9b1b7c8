"""Carving: the hull contains the object, follows its silhouettes, and carries its colours."""

import math

import numpy as np
import pytest
import torch

from obverse.cameras import Views, orbit
from obverse.errors import InputError, UsageError
from obverse.gaussians import rotation_matrices
from obverse.lifting.carve import (
    BLOCK,
    carve,
    colors_from_views,
    hull_gaussians,
    hull_mesh,
    inside_image,
    mesh_depths,
    sample_image,
    start_gaussians,
)
from obverse.render.triangles import rasterize
from obverse.surface.repair import check_watertight

from .scenes import RADIUS, ball_mesh, ball_views, without_alpha


@pytest.fixture(scope="module")
def views():
    return ball_views(count=10, size=64)


@pytest.fixture(scope="module")
def hull(views):
    return carve(views, resolution=40, half_width=0.52)


def test_the_hull_of_a_ball_is_about_the_ball(hull):
    mesh = hull_mesh(hull)
    assert check_watertight(mesh).ok
    radii = np.linalg.norm(mesh.vertices, axis=1)
    assert radii.min() > RADIUS - 0.01 and np.median(radii) < RADIUS + 0.03
    assert 1.0 < mesh.volume / (4 / 3 * math.pi * RADIUS**3) < 1.2


def test_the_hull_repeats_the_silhouettes(hull, views):
    mesh = hull_mesh(hull)
    covered = rasterize(np.asarray(mesh.vertices), np.asarray(mesh.faces), views.cameras).face >= 0
    asked = views.images[..., 3].numpy() > 0.5
    assert (covered & asked).sum() / (covered | asked).sum() > 0.96


def test_deciding_blocks_at_once_changes_nothing_at_the_surface(views, hull):
    """The plain rule, point by point: least bilinear coverage over the views."""
    size = hull.values.shape[0]
    axis = torch.arange(size) * hull.step + hull.low[0]
    points = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), -1).reshape(-1, 3)
    least = torch.ones(len(points))
    for v in range(len(views)):
        pixels, depth = views.cameras[v].project(points)
        inside = ((pixels >= 0.5) & (pixels < 63.5)).all(-1) & (depth > 0)
        least = torch.where(inside, torch.minimum(least, sample_image(views.images[v][..., 3:], pixels)[:, 0]), least)
    found = hull.values.reshape(-1)
    assert ((least > 0.5) == (found > 0.5)).float().mean() > 0.9999
    near = (least > 0.2) & (least < 0.8)
    torch.testing.assert_close(found[near], least[near], atol=2e-3, rtol=0)
    assert size > BLOCK


def test_a_fit_begins_faintly_on_the_hull_and_inside_it(hull, views):
    start = start_gaussians(hull, views, count=301)
    assert len(start) == 301 and float(start.opacities.max()) < 0.31
    radius = start.means.norm(dim=-1)
    assert bool((radius < 1.15 * RADIUS).all())
    inside = radius[151:]
    assert float((inside < 0.8 * RADIUS).float().mean()) == pytest.approx(0.8**3, abs=0.13)  # evenly by volume
    assert torch.equal(start.means, start_gaussians(hull, views, count=301).means)
    assert len(start_gaussians(hull, views, count=1)) == 1


def test_hull_gaussians_lie_on_the_surface_with_the_views_colours(hull, views):
    gaussians = hull_gaussians(hull, views, count=300)
    assert len(gaussians) == 300
    red, blue = gaussians.colors[:, 0], gaussians.colors[:, 2]
    clear = (gaussians.means[:, 0].abs() > 0.1) & (gaussians.means[:, 1] < 0.15)
    assert torch.equal(red[clear] > blue[clear], gaussians.means[clear, 0] > 0)
    normals = rotation_matrices(gaussians.quats)[..., 2]
    assert (normals * torch.nn.functional.normalize(gaussians.means, dim=-1)).sum(-1).median() > 0.95


def test_hidden_points_take_the_nearest_seen_colour(views):
    mesh = ball_mesh()
    one = Views(views.images[:1], views.cameras[:1])
    points = torch.tensor(mesh.triangles_center, dtype=torch.float32)
    normals = torch.nn.functional.normalize(points, dim=-1)
    colors, weights = colors_from_views(points, normals, one, mesh_depths(mesh, one.cameras))
    toward = torch.nn.functional.normalize(one.cameras.positions[0] - points, dim=-1)
    assert bool((weights[(normals * toward).sum(-1) < 0] == 0).all()) and bool((weights > 0.5).any())
    assert torch.isfinite(colors).all() and colors.min() >= 0 and colors.max() <= 1.001


def test_no_view_at_all_leaves_grey(views):
    points, normals = torch.zeros(4, 3), torch.tensor([[0.0, 0, 1]]).repeat(4, 1)
    clear = Views(views.images * torch.tensor([1.0, 1, 1, 0]), views.cameras)
    colors, weights = colors_from_views(points, normals, clear, torch.full((10, 64, 64), float("inf")))
    assert bool((colors == 0.5).all()) and bool((weights == 0).all())


def test_projection_matrices_project_like_cameras():
    cameras = orbit([0, 130], [10, -40], size=(32, 20))
    points = torch.rand(5, 3, generator=torch.Generator().manual_seed(1)) - 0.5
    homogeneous = torch.cat([points, torch.ones(5, 1)], 1)
    uvw = cameras.projections @ homogeneous.T
    pixels, depth = cameras.project(points)
    torch.testing.assert_close((uvw[:, :2] / uvw[:, 2:]).transpose(1, 2), pixels, atol=1e-3, rtol=0)
    torch.testing.assert_close(uvw[:, 2], depth, atol=1e-5, rtol=0)
    assert bool(inside_image(pixels[0], depth[0], cameras[0]).all())


def test_contradicting_masks_leave_nothing_and_say_so(views):
    images = views.images.clone()
    images[3, ..., 3] = 0
    with pytest.raises(InputError, match="nothing is left"):
        carve(Views(images, views.cameras), resolution=16)


def test_pictures_without_masks_are_refused(views):
    with pytest.raises(InputError, match="silhouette as alpha"):
        carve(without_alpha(views))


def test_an_absurd_grid_is_refused(views):
    with pytest.raises(UsageError, match="resolution is 4"):
        carve(views, resolution=4)
