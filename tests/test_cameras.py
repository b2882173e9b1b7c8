import math

import pytest
import torch

from obverse.cameras import Cameras, fit_distance, framing_distance, look_at, orbit, pinhole
from obverse.errors import InputError


def test_azimuth_zero_stands_on_plus_z_and_ninety_on_plus_x():
    cameras = orbit([0, 90, 180, 270], 0, distance=2.0)
    expected = torch.tensor([[0.0, 0, 2], [2, 0, 0], [0, 0, -2], [-2, 0, 0]])
    torch.testing.assert_close(cameras.positions, expected, atol=1e-6, rtol=0)


def test_positive_elevation_looks_down():
    camera = orbit(0, 30, distance=2.0)
    torch.testing.assert_close(camera.positions[0], torch.tensor([0.0, 1.0, math.sqrt(3)]))


def test_the_origin_projects_to_the_image_centre_from_everywhere():
    pixels, depth = orbit([0, 37, 200], [-80, 12, 89], distance=3.0, size=100).project(torch.zeros(1, 3))
    torch.testing.assert_close(pixels, torch.full((3, 1, 2), 50.0), atol=1e-4, rtol=0)
    torch.testing.assert_close(depth, torch.full((3, 1), 3.0))


def test_up_is_up_and_right_is_right_from_the_front():
    pixels, _ = orbit(0, 0, size=100).project(torch.tensor([[0.0, 0.4, 0], [0.4, 0, 0]]))
    assert pixels[0, 0, 1] < 50 - 5  # +Y is towards the top of the image
    assert pixels[0, 1, 0] > 50 + 5  # +X is towards the right


@pytest.mark.parametrize("elevation", [-90.0, 90.0])
def test_the_poles_have_a_proper_rotation(elevation):
    rotation = orbit(0, elevation).world_to_camera[0, :3, :3]
    torch.testing.assert_close(rotation @ rotation.T, torch.eye(3), atol=1e-6, rtol=0)
    assert torch.det(rotation) > 0.99


def test_every_orbit_rotation_is_proper():
    rotation = orbit(torch.linspace(0, 350, 36).tolist(), 20).world_to_camera[:, :3, :3]
    torch.testing.assert_close(rotation @ rotation.mT, torch.eye(3).expand(36, 3, 3), atol=1e-5, rtol=0)
    torch.testing.assert_close(torch.det(rotation), torch.ones(36))


def test_field_of_view_spans_the_shorter_side():
    # at 90° the half side is at 45°: focal = half the shorter side
    assert pinhole(90, 200, 100)[0, 0] == pytest.approx(50)


def test_fit_distance_makes_the_extent_fill_its_share():
    distance = fit_distance(30, extent=1.0, fill=0.85)
    camera = orbit(0, 0, distance=distance, fov_deg=30, size=1000)
    pixels, _ = camera.project(torch.tensor([[-0.5, 0, 0], [0.5, 0, 0]]))
    assert (pixels[0, 1, 0] - pixels[0, 0, 0]).item() == pytest.approx(850, abs=0.01)


def test_resizing_moves_projections_in_proportion():
    camera = orbit(20, 10, size=400)
    point = torch.tensor([[0.2, 0.1, -0.3]])
    big, _ = camera.project(point)
    small, _ = camera.resized(100, 200).project(point)
    torch.testing.assert_close(small, big * torch.tensor([0.25, 0.5]))


def test_slicing_keeps_image_size_and_counts_cameras():
    cameras = orbit([0, 10, 20], size=(64, 48))
    assert len(cameras) == 3 and len(cameras[1:]) == 2 and len(cameras[0]) == 1
    assert (cameras[0].width, cameras[0].height) == (64, 48)


def test_the_default_distance_shows_a_unit_box_whole():
    corners = torch.cartesian_prod(*[torch.tensor([-0.5, 0.5])] * 3)
    flat = corners[(corners[:, 1].abs() == 0.5)] * torch.tensor([1.0, 0.0, 1.0])  # a turning square, side 1
    pixels, _ = orbit(torch.arange(0, 360, 15.0).tolist(), size=100).project(flat)
    assert pixels.min() > 0 and pixels.max() < 100


def test_wrong_shapes_and_angles_say_what_is_expected():
    with pytest.raises(InputError, match=r"world_to_camera \[..., 4, 4\]"):
        Cameras(torch.eye(3), torch.eye(3), 8, 8)
    with pytest.raises(InputError, match="different batch axes"):
        Cameras(torch.eye(4).expand(2, 4, 4), torch.eye(3), 8, 8)
    with pytest.raises(InputError, match="between 0° and 180°"):
        pinhole(180, 8, 8)


def test_look_at_another_target_centres_it():
    target = torch.tensor([0.3, -0.2, 0.1])
    matrix = look_at(torch.tensor([[1.0, 2.0, 3.0]]), target)
    camera = Cameras(matrix, pinhole(40, 10, 10)[None], 10, 10)
    pixels, _ = camera.project(target[None])
    torch.testing.assert_close(pixels[0, 0], torch.tensor([5.0, 5.0]), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("radius", "half", "elevation"), [(0.5, 0.1, 15), (0.1, 0.5, 15), (0.7, 0.5, 0), (0.3, 0.3, 80)]
)
def test_framing_fits_a_cylinder_tightly_from_every_side(radius, half, elevation):
    turn = torch.linspace(0, 2 * math.pi, 200)
    ring = torch.stack([radius * turn.sin(), torch.zeros(200), radius * turn.cos()], -1)
    points = torch.cat([ring + torch.tensor([0, half, 0]), ring - torch.tensor([0, half, 0])])
    distance = framing_distance(radius, half, elevation_deg=elevation, fill=0.9)
    pixels, _ = orbit([0, 33, 210], elevation, distance=distance, size=100).project(points)
    reach = (pixels - 50).abs().max()
    assert 44.5 < reach <= 45.05  # 90 % of the half side, reached and not passed
