"""Gaussians → mesh: closed, in place, coloured, and honest about emptiness."""

import numpy as np
import pytest
import torch
import trimesh

from obverse.errors import InputError, UsageError
from obverse.gaussians import Gaussians
from obverse.surface.fusion import gaussians_to_mesh, ring, solid_of
from obverse.surface.gaussians import mesh_to_gaussians
from obverse.surface.repair import check_watertight


@pytest.fixture(scope="module")
def box():
    """Gaussians on a box of 0.8 × 0.5 × 0.3, red to the right."""
    mesh = trimesh.creation.box((0.8, 0.5, 0.3)).subdivide().subdivide()
    colors = np.where(mesh.triangles_center[:, :1] > 0, [[230, 30, 30, 255]], [[30, 30, 230, 255]])
    mesh.visual.face_colors = colors.astype(np.uint8)
    return mesh_to_gaussians(mesh, count=3000)


@pytest.mark.parametrize(("method", "tolerance"), [("depth", 0.02), ("opacity", 0.08)])
def test_a_box_comes_back_closed_and_in_place(box, method, tolerance):
    mesh = gaussians_to_mesh(box, resolution=64, method=method)
    assert check_watertight(mesh).ok
    np.testing.assert_allclose(mesh.extents, [0.8, 0.5, 0.3], atol=2 * tolerance)
    np.testing.assert_allclose(mesh.bounds.mean(0), 0, atol=tolerance)
    assert mesh.volume == pytest.approx(0.8 * 0.5 * 0.3, rel=8 * tolerance)


def test_the_field_carries_the_colours_the_cameras_see(box):
    field = solid_of(box, resolution=64)
    colors = field.color(torch.tensor([[0.4, 0, 0], [-0.4, 0, 0.0], [0.2, 0.25, 0.0]]))
    assert (colors[:, 0] > colors[:, 2]).tolist() == [True, False, True]


def test_moving_the_gaussians_moves_the_mesh(box):
    shift = torch.tensor([0.1, -0.05, 0.07])
    moved = Gaussians(box.means + shift, box.quats, box.scales, box.opacities, box.sh)
    here, there = (gaussians_to_mesh(g, resolution=48).bounds for g in (box, moved))
    np.testing.assert_allclose(there - here, np.tile(shift.numpy(), (2, 1)), atol=0.01)


def test_the_ring_sees_a_ball_whole():
    cameras = ring(0.5, size=64)
    points = 0.5 * torch.nn.functional.normalize(
        torch.randn(200, 3, generator=torch.Generator().manual_seed(0)), dim=-1
    )
    pixels, depth = cameras.project(points)
    assert bool(((pixels > 0) & (pixels < 64)).all()) and bool((depth > 0).all())
    assert float(pixels.max()) > 58


def test_invisible_gaussians_have_no_surface(box):
    faint = Gaussians(box.means, box.quats, box.scales, box.opacities * 0.01, box.sh)
    with pytest.raises(InputError, match="no surface"):
        gaussians_to_mesh(faint)


def test_unknown_methods_are_refused(box):
    with pytest.raises(UsageError, match="'poisson'"):
        gaussians_to_mesh(box, method="poisson")
