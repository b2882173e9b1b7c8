import math

import numpy as np
import pytest
import torch

from obverse.cameras import orbit
from obverse.errors import WeightsError
from obverse.feedforward.embedded import (
    INPUTS,
    Config,
    Network,
    distance_to_outline,
    frustum_field,
    load,
    network_input,
    predict,
    save,
)
from obverse.surface.extract import extract

SMALL = Config(photo=32, columns=16, depths=16, slices=2, width=32, blocks=1, middle=32, middle_blocks=1, deep=48,
               layers=1, heads=2, fine=32)  # fmt: skip


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return Network(SMALL).eval()


def camera(size=64, elevation_deg=0.0):
    return orbit([0.0], elevation_deg, distance=0.6 / math.tan(math.radians(15)), fov_deg=30.0, size=size)[0]


def disc(size, radius=0.8):
    axis = (np.arange(size) + 0.5) * (2 / size) - 1
    inside = np.hypot(*np.meshgrid(axis, axis)) < radius
    return np.concatenate([np.full((size, size, 3), 0.5), inside[..., None]], -1).astype(np.float32)


def ball(columns=32, radius=0.8, gain=20.0):
    axis = (torch.arange(columns) + 0.5) * (2 / columns) - 1
    z, y, x = torch.meshgrid(axis, axis, axis, indexing="ij")
    return gain * (radius - torch.sqrt(x * x + y * y + z * z))


def grey(columns=32, slices=2):
    return torch.full((3, slices, columns, columns), 0.5)


def test_a_ball_of_cells_becomes_a_ball(network):
    field = frustum_field(ball(), grey(), disc(96), camera())
    mesh = extract(field, resolution=48)
    assert mesh.is_watertight
    size = np.ptp(mesh.vertices, axis=0)
    assert size[0] == pytest.approx(2 * 0.8 * 0.6, rel=0.06)
    assert size[1] == pytest.approx(size[0], rel=0.03)
    assert size[2] == pytest.approx(size[0], rel=0.12)


def test_the_outline_is_the_photos_even_where_cells_say_more():
    everything = torch.full((32, 32, 32), 4.0)
    mesh = extract(frustum_field(everything, grey(), disc(128, 0.5), camera()), resolution=64)
    pixels, _ = camera().project(torch.from_numpy(np.asarray(mesh.vertices)).float())
    radius = ((pixels / 32 - 1) ** 2).sum(1).sqrt()
    assert float(radius.max()) == pytest.approx(0.5, abs=0.03)


def test_a_slanted_outline_has_no_stairs():
    at = np.arange(96) + 0.5
    along, across = np.meshgrid(at, at, indexing="ij")
    edge = 48 + 0.11 * (along - 48)
    fine = (np.arange(8) + 0.5) / 8 - 0.5
    alpha = np.mean([across + v > edge + 0.11 * u for u in fine for v in fine], 0, dtype=np.float32)

    def crossings(distance):
        first = (distance > 0).argmax(1)
        a, b = distance[np.arange(96), first - 1], distance[np.arange(96), first]
        return first - 0.5 + a / (a - b)

    assert np.abs(crossings(distance_to_outline(alpha)) - edge[:, 0]).max() < 0.15
    assert np.abs(crossings(distance_to_outline((alpha > 0.5).astype(np.float32))) - edge[:, 0]).max() > 0.4


def test_away_from_the_outline_the_distance_is_right_to_half_a_pixel():
    at = np.arange(64) - 31.5
    truth = 20 - np.hypot(at, at[:, None])
    found = distance_to_outline((truth + 0.5).clip(0, 1).astype(np.float32))
    assert np.abs(found - truth).max() < 0.6


def test_cells_that_deny_the_object_cannot_erase_the_photo():
    nothing = torch.full((32, 32, 32), -8.0)
    nothing[20] = -7.0
    field = frustum_field(nothing, grey(), disc(64), camera())
    mesh = extract(field, resolution=64)
    pixels, _ = camera().project(torch.from_numpy(np.array(mesh.triangles_center)).float())
    seen = np.zeros((32, 32), bool)
    seen[tuple(np.clip(pixels.numpy()[:, ::-1] // 2, 0, 31).astype(int).T)] = True
    assert seen[disc(32, 0.7)[..., 3] > 0].mean() > 0.98


def test_colours_lie_where_they_were_predicted():
    colors = grey(slices=4)
    colors[0, 0], colors[0, 3] = 1.0, 0.0  # red in front, none at the back
    field = frustum_field(ball(), colors, disc(64), camera())
    front, back = field.color(torch.tensor([[0.0, 0.0, 0.5], [0.0, 0.0, -0.5]]))
    assert front[0] > 0.95 and back[0] < 0.05


def test_sides_take_no_colour_from_the_photos_last_pixels():
    colors = grey()
    colors[..., :4] = colors[..., 28:] = 1.0  # columns 3 to 28 are inside the disc, in its middle row
    field = frustum_field(ball(), colors, disc(64), camera())
    left, right = field.color(torch.tensor([[-0.469, 0.0, 0.0], [0.469, 0.0, 0.0]]))
    assert float(left.max()) < 0.51 and float(right.max()) < 0.51


def test_a_small_mark_that_no_one_saw_fades_into_what_is_around_it():
    colors = grey()
    colors[0, :, 15:17, 15:17] = 1.0  # as an eye on the back of a head
    field = frustum_field(ball(), colors, disc(64), camera())
    mark, far = field.color(torch.tensor([[0.0, 0.0, -0.5], [0.3, 0.3, -0.2]]))
    assert 0.5 < mark[0] < 0.6 and float(far[0]) == pytest.approx(0.5, abs=0.01)


def test_parts_two_columns_wide_keep_their_colour():
    colors, photo = grey(), disc(64, 0.0)
    photo[8:56, 30:34, 3] = 1.0
    colors[0, :, :, 15:17] = 1.0
    field = frustum_field(torch.full((32, 32, 32), 4.0), colors, photo, camera())
    assert float(field.color(torch.tensor([[0.0, 0.1, 0.0]]))[0, 0]) > 0.95


def test_an_elevated_camera_makes_the_object_stand_upright():
    flat = torch.full((32, 32, 32), -6.0)
    flat[14:18] = 6.0  # a slab square to the view from 30° above leans back
    field = frustum_field(flat, grey(), disc(64), camera(elevation_deg=30.0))
    normals = np.asarray(extract(field, resolution=64).face_normals)
    facing = normals[normals[:, 2] > 0.8].mean(0)
    assert math.degrees(math.asin(facing[1] / np.linalg.norm(facing))) == pytest.approx(30, abs=3)


def test_bounds_hold_the_surface_and_little_else():
    field = frustum_field(ball(radius=0.4), grey(), disc(64, 0.4), camera())
    low, high = np.asarray(field.bounds)
    assert (low < -0.23).all() and (high > 0.23).all()
    assert (low > -0.4).all() and (high < 0.4).all()


def test_a_mirrored_photo_gives_the_mirrored_answer(network):
    photo = torch.rand(32, 32, 4, generator=torch.Generator().manual_seed(0)).numpy()
    logits, colors, elevation = predict(network, photo)
    mirrored = predict(network, np.ascontiguousarray(photo[:, ::-1]))
    assert torch.allclose(logits, mirrored[0].flip(-1), atol=1e-5)
    assert torch.allclose(colors, mirrored[1].flip(-1), atol=1e-5)
    assert elevation == pytest.approx(mirrored[2], abs=1e-4)


def test_the_input_says_where_it_is_and_hides_what_is_behind_the_object():
    rgba = disc(32)
    rgba[..., :3] = np.where(rgba[..., 3:] > 0, rgba[..., :3], 0.9)
    seen = network_input(rgba)
    assert seen.shape == (INPUTS, 32, 32)
    assert seen[:3, 0, 0].tolist() == [0, 0, 0]
    assert seen[4].max() == pytest.approx(0.8 * 4, rel=0.1)  # 0.8 half sides of the crop, in eighths of its side
    assert seen[5, 0, 0] < 0 < seen[5, 0, -1] and seen[6, 0, 0] < 0 < seen[6, -1, 0]


def test_weights_come_back_as_they_were_saved_to_half_precision(network, tmp_path):
    save(network, tmp_path / "weights.safetensors")
    again = load(tmp_path / "weights.safetensors")
    assert again.config == SMALL
    for mine, theirs in zip(network.state_dict().values(), again.state_dict().values(), strict=True):
        assert torch.allclose(mine, theirs, atol=1e-3)


def test_weights_of_something_else_are_refused(tmp_path):
    from safetensors.torch import save_file

    save_file({"a": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(WeightsError, match="obverse train embedded"):
        load(tmp_path / "other.safetensors")
