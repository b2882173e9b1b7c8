import numpy as np
import pytest
import trimesh

from obverse.training.renders import COLUMNS, DEPTHS, PHOTO, photographs, study


@pytest.fixture(scope="module")
def ball():
    mesh = trimesh.creation.icosphere(4, radius=0.5)
    mesh.visual.vertex_colors = np.tile(np.array([200, 40, 40, 255], np.uint8), (len(mesh.vertices), 1))
    return study(mesh)


@pytest.fixture(scope="module")
def views(ball):
    return photographs(ball, count=6, seed=3)


def cells(samples):
    return np.unpackbits(samples.occupancy, axis=-1, bitorder="little").astype(bool)


def test_points_lie_on_the_surface_with_outward_normals(ball):
    radius = np.linalg.norm(ball.points, axis=1)
    assert np.quantile(np.abs(radius - 0.5), 0.95) < 0.01
    outward = (ball.points * ball.normals).sum(1) / radius / np.linalg.norm(ball.normals, axis=1)
    assert np.median(outward) > 0.98
    assert (outward > 0).mean() > 0.999  # at the very rim a normal may be turned the other way


def test_the_solid_is_as_large_as_the_ball(ball):
    assert ball.solid.sum() * (1.04 / 96) ** 3 == pytest.approx(4 / 3 * np.pi * 0.125, rel=0.06)


def test_columns_are_occupied_exactly_where_the_photo_shows_the_object(views):
    alpha = views.rgba[..., 3].reshape(-1, COLUMNS, 2, COLUMNS, 2).mean((2, 4)) / 255
    occupied = cells(views).any(-1)
    assert occupied[alpha > 0.9].all()
    assert not occupied[alpha < 0.1].any()


def test_a_ball_is_as_deep_as_it_is_wide(views):
    full = cells(views)
    deepest = full.sum(-1).max((1, 2)) / DEPTHS  # over 2 half sides of the crop
    widest = (views.rgba[..., 3] > 127).any(1).sum(1) / PHOTO
    assert deepest == pytest.approx(widest, rel=0.1)


def test_the_object_spans_its_share_of_the_crop_and_is_centred(views):
    solid = views.rgba[..., 3] > 127
    for view in solid:
        rows, columns = np.flatnonzero(view.any(1)), np.flatnonzero(view.any(0))
        assert 0.78 * PHOTO < max(np.ptp(rows), np.ptp(columns)) + 1 < 0.92 * PHOTO
        assert abs(rows.mean() - PHOTO / 2) < 3 and abs(columns.mean() - PHOTO / 2) < 3


def test_surface_points_of_the_frustum_border_on_occupied_cells(views):
    full = np.pad(cells(views), ((0, 0), (1, 1), (1, 1), (1, 1)))
    place = views.points.astype(np.float32)
    index = np.clip(((place + 1) / 2 * COLUMNS).astype(int), 0, COLUMNS - 1) + 1
    for view in range(len(full)):
        near = [
            full[view, index[view, :, 1] + v, index[view, :, 0] + u, index[view, :, 2] + t]
            for v in (-1, 0, 1) for u in (-1, 0, 1) for t in (-1, 0, 1)
        ]  # fmt: skip
        assert np.any(near, 0).mean() > 0.97


def test_an_object_deeper_than_the_frustum_keeps_its_visible_front():
    bar = study(trimesh.creation.box((0.1, 0.1, 1.0)))
    samples = photographs(bar, count=40, seed=1, tumble=0.0)
    solid = (samples.rgba[..., 3] > 250).reshape(-1, COLUMNS, 2, COLUMNS, 2).all((2, 4))
    assert cells(samples).any(-1)[solid].mean() > 0.97


def test_elevation_is_known_unless_the_object_was_tumbled(ball):
    upright = photographs(ball, count=8, seed=0, tumble=0.0)
    assert ((upright.elevation_deg >= -5) & (upright.elevation_deg <= 40)).all()
    assert np.isnan(photographs(ball, count=4, seed=0, tumble=1.0).elevation_deg).all()


def test_the_seed_decides_every_byte(ball):
    first, again, other = (photographs(ball, count=2, seed=s) for s in (7, 7, 8))
    for name in ("rgba", "occupancy", "points", "colors"):
        assert getattr(first, name).tobytes() == getattr(again, name).tobytes()
    assert first.rgba.tobytes() != other.rgba.tobytes()
