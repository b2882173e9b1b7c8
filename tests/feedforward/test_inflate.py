import numpy as np
import pytest
import torch

from obverse.feedforward.inflate import FULLNESS, inflate, poisson_bulge, rim_membrane
from obverse.photo import read_photo
from obverse.render.fields import Field, insideness

from ..conftest import disc_photo, ring_photo

NO_FLATTENING = 1e6


def grid(n):
    y, x = np.mgrid[0:n, 0:n] + 0.5
    return x - n / 2, y - n / 2


def test_a_disc_becomes_a_ball():
    # ∇²u = −4 on a disc of radius R has the solution u = R² − r²: the squared height of a half ball
    x, y = grid(192)
    solid = np.hypot(x, y) < 80
    u = poisson_bulge(solid, flat_width=NO_FLATTENING)
    expected = np.maximum(80**2 - x**2 - y**2, 0)
    assert np.abs(u - expected)[solid].max() < 0.03 * 80**2


def test_a_long_bar_is_as_thick_as_its_width_says_not_its_length():
    x, y = grid(192)
    bar = (np.abs(x) < 8) & (np.abs(y) < 80)
    u = poisson_bulge(bar, flat_width=NO_FLATTENING)
    assert u[96, 96] == pytest.approx(2 * 8**2, rel=0.2)  # between walls at ±w: u = 2 (w² − x²)


def test_broad_shapes_level_off_at_the_flat_width():
    solid = np.zeros((192, 192), bool)
    solid[6:186, 6:186] = True
    u = poisson_bulge(solid, flat_width=20)
    assert u[96, 96] == pytest.approx(20**2, rel=0.05)
    assert abs(u[96, 96] - u[96, 70]) < 0.05 * 20**2


def test_nothing_outside_the_silhouette_is_raised():
    x, y = grid(96)
    solid = np.hypot(x, y) < 20
    assert (poisson_bulge(solid, flat_width=50)[~solid] == 0).all()


def test_membrane_of_one_rim_colour_is_that_colour():
    x, y = grid(96)
    solid = np.hypot(x, y) < 30
    rgb = np.zeros((96, 96, 3), np.float32)
    rgb[np.hypot(x, y) > 20] = (0.2, 0.4, 0.6)  # the middle differs, the rim does not
    np.testing.assert_allclose(rim_membrane(rgb, solid)[solid], np.tile([0.2, 0.4, 0.6], (solid.sum(), 1)), atol=0.02)


@pytest.fixture(scope="module")
def disc():
    return inflate(read_photo(disc_photo()))


def test_the_field_is_a_field(disc):
    assert isinstance(disc[0], Field)


def test_its_outline_in_the_photo_is_the_silhouette(disc):
    field, _ = disc
    # on the plane z = 0 the disc has radius 0.5
    points = torch.tensor([[0.48, 0.0, 0.0], [0.52, 0.0, 0.0], [0.0, -0.48, 0.0], [0.0, -0.52, 0.0]])
    assert (insideness(field, points) > 0).tolist() == [True, False, True, False]


def test_front_and_back_mirror_each_other(disc):
    value = disc[0].density_or_sdf(torch.tensor([[0.0, 0.0, 0.3], [0.0, 0.0, -0.3]]))
    assert value[0] == pytest.approx(value[1].item(), abs=1e-3)


def test_a_disc_is_as_deep_as_fullness_says(disc):
    middle = torch.tensor([[0.0, 0.0, 0.0]])
    thickness = 2 * disc[0].density_or_sdf(middle).sqrt()
    assert 0.7 * FULLNESS < thickness.item() < FULLNESS  # a little less: broad shapes are flattened


def test_the_photo_camera_sees_the_crop(disc):
    _, camera = disc
    pixels, depth = camera.project(torch.tensor([[0.0, 0.0, 0.0], [0.5, 0.0, 0.0]]))
    side = camera.width
    assert pixels[0].tolist() == pytest.approx([side / 2, side / 2], abs=0.01)
    assert (pixels[1, 0] - pixels[0, 0]).item() == pytest.approx(0.85 * side / 2, rel=0.03)
    assert (depth > 0).all()


def test_up_in_the_photo_is_up_in_the_world(disc):
    field, _ = disc
    dark = field.color(torch.tensor([[0.0, 0.25, 0.4], [0.0, -0.25, 0.4]])).sum(-1)
    assert dark[0] < dark[1] - 0.3  # the dark dot is near the top


def test_the_back_is_paler_in_contrast_than_the_front(disc):
    field, _ = disc
    spot, plain = [0.0, 0.25], [0.0, -0.25]

    def contrast(z):
        both = field.color(torch.tensor([[*spot, z], [*plain, z]]))
        return (both[0] - both[1]).abs().sum().item()

    assert contrast(-0.4) < 0.7 * contrast(0.4)


def test_a_ring_keeps_its_hole():
    field, _ = inflate(read_photo(ring_photo()))
    hole, body = torch.zeros(1, 3), torch.tensor([[0.36, 0.0, 0.0]])
    assert insideness(field, hole) < 0 < insideness(field, body)


def test_bounds_hold_the_whole_solid(disc):
    field, _ = disc
    rng = torch.Generator().manual_seed(0)
    points = torch.rand(200_000, 3, generator=rng) * 2 - 1
    low, high = (torch.tensor(b) for b in field.bounds)
    outside = ((points < low) | (points > high)).any(-1)
    assert outside.sum() > 1000
    assert (insideness(field, points[outside]) < 0).all()
