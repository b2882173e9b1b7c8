import numpy as np
import pytest

from obverse.training.augment import reshaped
from obverse.training.renders import FILL, NEAREST

PHOTO, CELLS = 128, 64


def ellipsoid(right=0.8, down=0.5, away=0.6, middle=0.0):
    """Photo, cells and surface points of an ellipsoid with these half axes, ``middle`` away from the frustum's."""
    at = (np.arange(PHOTO) + 0.5) * (2 / PHOTO) - 1
    alpha = ((at / right) ** 2 + (at[:, None] / down) ** 2 < 1).astype(np.float32)
    rgba = np.stack([np.broadcast_to(0.5 + at / 2, alpha.shape), alpha, alpha, alpha], -1).astype(np.float32)
    at = (np.arange(CELLS) + 0.5) * (2 / CELLS) - 1
    cells = (at[:, None] / right) ** 2 + (at[:, None, None] / down) ** 2 + ((at - middle) / away) ** 2 < 1
    normal = np.random.default_rng(0).normal(size=(500, 3))
    points = normal / np.linalg.norm(normal, axis=1, keepdims=True) * (right, down, away) + (0, 0, middle)
    return rgba, cells.astype(np.uint8), points.astype(np.float32)


def changed(seed, **shape):
    return reshaped(*ellipsoid(**shape), np.random.default_rng(seed))


@pytest.mark.parametrize("seed", range(4))
def test_photo_cells_and_points_stay_of_one_object(seed):
    rgba, cells, points = changed(seed)
    assert rgba.shape == (PHOTO, PHOTO, 4) and cells.shape == (CELLS,) * 3 and cells.dtype == np.uint8
    share = rgba[..., 3].reshape(CELLS, 2, CELLS, 2).mean((1, 3))
    full = cells.any(2)
    assert full[share > 0.99].mean() > 0.98 and full[share < 0.01].mean() < 0.01
    column, row, layer = ((points + 1) * (CELLS / 2)).astype(int).clip(0, CELLS - 1).T
    around = np.stack([cells[(row + a).clip(0, 63), (column + b).clip(0, 63), (layer + c).clip(0, 63)]
                       for a in (-1, 0, 1) for b in (-1, 0, 1) for c in (-1, 0, 1)])  # fmt: skip
    on_surface = around.any(0) & ~around.all(0)
    assert on_surface.mean() > 0.95


def test_what_is_left_of_the_photo_keeps_its_colours():
    rgba, _, _ = changed(1)
    solid = rgba[..., 3] > 0.99
    assert rgba[..., 1][solid].min() > 0.99
    row = np.nonzero(solid[64])[0]
    assert (np.diff(rgba[64, row, 0]) > 0).all() and rgba[64, row[-1], 0] > 0.85


def test_the_object_is_framed_as_photos_are_in_other_proportions():
    proportions = []
    for seed in range(8):
        rgba, _, _ = changed(seed)
        sides = [np.ptp(found) + 1 for found in np.nonzero(rgba[..., 3] > 0.5)]
        assert FILL[0] * PHOTO - 2 <= max(sides) <= FILL[1] * PHOTO + 2
        proportions.append(sides[0] / sides[1])
    assert min(proportions) < 0.58 and max(proportions) > 0.68  # 0.625 before


def test_depth_grows_with_the_photo():
    _, cells, points = changed(2, right=0.4, down=0.4, away=0.3)
    assert np.ptp(points[:, 2]) > 1.9 * 0.6
    layers = np.flatnonzero(cells.any((0, 1)))
    assert len(layers) * 2 / CELLS == pytest.approx(np.ptp(points[:, 2]), abs=0.1)


def test_the_near_side_of_a_deep_object_stays_in_the_frustum():
    _, cells, points = changed(3, right=0.3, down=0.3, away=0.9)
    assert points[:, 2].min() >= NEAREST * -1 - 0.05 and cells[..., -1].any()


def test_an_empty_photo_is_left_alone():
    rgba, cells, points = ellipsoid()
    rgba[..., 3] = 0
    found = reshaped(rgba, cells, points, np.random.default_rng(0))
    assert found[0] is rgba and found[1] is cells and found[2] is points
