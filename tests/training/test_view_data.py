import numpy as np
import pytest
import torch
import trimesh

from obverse.errors import InputError, UsageError
from obverse.training import blender
from obverse.training.objects import normalised
from obverse.training.view_data import (
    FOV_DEG,
    Light,
    camera_record,
    direction_of,
    draw_cameras,
    draw_light,
    photograph_object,
    studio_of,
)


@pytest.fixture(scope="module")
def cameras():
    return draw_cameras(np.random.default_rng(0), count=4000, size=64)


def test_directions_favour_the_corners_of_the_cube_they_are_drawn_in(cameras):
    """Uniform on the sphere, the mean of x⁴ + y⁴ + z⁴ is 0.6; normalised from a cube, what the grid gives."""
    axis = (np.arange(60) + 0.5) / 60
    grid = np.stack(np.meshgrid(axis, axis, axis), -1).reshape(-1, 3)
    grid /= np.linalg.norm(grid, axis=-1, keepdims=True)
    expected = (grid**4).sum(-1).mean()
    unit = torch.nn.functional.normalize(cameras.positions, dim=-1).numpy()
    assert expected < 0.58
    assert (unit**4).sum(-1).mean() == pytest.approx(expected, abs=0.006)
    assert np.abs(unit.mean(0)).max() < 0.03  # from below as often as from above, from all around


def test_distances_are_uniform_from_a_half_and_one_to_two_point_two(cameras):
    distance = cameras.positions.norm(dim=-1).numpy()
    assert 1.5 <= distance.min() < 1.51 and 2.19 < distance.max() <= 2.2
    assert distance.mean() == pytest.approx(1.85, abs=0.02)
    assert distance.std() == pytest.approx(0.7 / np.sqrt(12), abs=0.01)


def test_cameras_look_at_the_middle_without_roll_through_one_lens(cameras):
    uv, _ = cameras.project(torch.zeros(1, 3))
    assert torch.allclose(uv, torch.tensor([32.0, 32.0]), atol=1e-3)
    assert cameras.world_to_camera[:, 0, 1].abs().max() < 1e-6  # the image's right has no height
    assert pytest.approx(49.1343, abs=1e-3) == FOV_DEG


def test_a_record_says_where_the_camera_stands(cameras):
    azimuth, elevation, distance = direction_of(camera_record(cameras, 7))
    a, e = np.radians([azimuth, elevation])
    place = distance * np.array([np.sin(a) * np.cos(e), np.sin(e), np.cos(a) * np.cos(e)])
    assert np.allclose(place, cameras.positions[7].numpy(), atol=1e-5)


@pytest.mark.parametrize("change", [{"distance": 0}, {"azimuth_deg": float("nan")}, {"elevation_deg": "up"}])
def test_a_record_that_is_no_place_is_refused(cameras, change):
    with pytest.raises(InputError, match="camera"):
        direction_of({**camera_record(cameras, 0), **change})


def test_the_light_hangs_above_and_is_as_strong_as_published():
    drawn = [draw_light(np.random.default_rng(seed)) for seed in range(500)]
    assert all(abs(x) <= 1 and abs(y) <= 1 and 0.5 <= z <= 1.5 for x, y, z in (light.position for light in drawn))
    energies = [light.energy for light in drawn]
    assert min(energies) < 310 and max(energies) > 590 and np.mean(energies) == pytest.approx(450, abs=15)
    assert studio_of(Light((0.0, 0.0, 1.0), 450)).lamps[0][0] == pytest.approx((0, 1, 0))  # Blender's up is our +Y


def test_views_depend_on_the_name_and_the_seed_only():
    mesh = normalised(trimesh.creation.box((1, 2, 3)))
    first = photograph_object(mesh, "a", views=2, size=16)
    assert first == photograph_object(mesh, "a", views=2, size=16)
    assert first.cameras != photograph_object(mesh, "b", views=2, size=16).cameras
    assert first.cameras != photograph_object(mesh, "a", views=2, size=16, seed=1).cameras


def test_an_object_that_cannot_be_seen_is_refused():
    speck = trimesh.creation.box((1e-4, 1e-4, 1e-4))
    with pytest.raises(InputError, match="covers"):
        photograph_object(speck, "speck", views=2, size=16)


@pytest.mark.parametrize("wrong", [{"views": 1}, {"size": 8}])
def test_numbers_that_cannot_be_meant_are_refused(wrong):
    with pytest.raises(UsageError):
        photograph_object(trimesh.creation.box(), "box", **wrong)


def test_blenders_camera_stands_where_ours_does_in_a_world_with_z_up(cameras):
    """Its axes: right, up, backwards. Ours +Y is its +Z, our +Z its −Y."""
    ours = cameras.world_to_camera[3].double().numpy()
    theirs = blender.camera_to_blender(ours)
    x, y, z = cameras.positions[3].double().numpy()
    assert np.allclose(theirs[:3, 3], [x, -z, y], atol=1e-5)
    forward = -theirs[:3, 2]
    assert np.allclose(forward, -theirs[:3, 3] / np.linalg.norm(theirs[:3, 3]), atol=1e-5)
    assert theirs[2, 0] == pytest.approx(0, abs=1e-6) and theirs[2, 1] > 0  # no roll, up is up
    assert np.linalg.det(theirs[:3, :3]) == pytest.approx(1, abs=1e-6)
