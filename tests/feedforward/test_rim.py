import numpy as np
import pytest
from scipy import ndimage

from obverse.feedforward.rim import tapered

COLUMNS, FINE = 32, 64


def cut_out(thickness):
    """Columns of a thickness in fine cells, by their centres → (values twice as fine, outline, coarse columns inside).

    As the model's solids: known per coarse column, carried on outwards from the outline.
    """
    inside = thickness > 0
    rows, columns = ndimage.distance_transform_edt(~inside, return_distances=False, return_indices=True)
    half = (0.5 * thickness[rows, columns]).repeat(2, 0).repeat(2, 1)
    depth = np.abs(np.arange(FINE) - FINE / 2 + 0.5)[:, None, None]
    return (half[None] - depth).clip(-2, 2).astype(np.float32)


def places():
    at = np.arange(COLUMNS) + 0.5 - COLUMNS / 2
    return np.meshgrid(at, at, indexing="ij")


def fine_outline(distance):
    """Distance to the outline as a function of fine places from the middle, in fine pixels."""
    at = (np.arange(FINE) + 0.5 - FINE / 2) / 2
    return (2 * distance(*np.meshgrid(at, at, indexing="ij"))).astype(np.float32)


def thickness_of(values):
    return (values > 0).sum(0)


def ball():
    down, right = places()
    squared = 12.0**2 - down**2 - right**2
    values = cut_out(4 * np.sqrt(squared.clip(0)))
    return values, fine_outline(lambda y, x: 12 - np.hypot(y, x)), np.full((FINE, FINE), 48, np.float32)


def slab():
    down, right = places()
    values = cut_out(np.where((abs(down) < 11) & (abs(right) < 11), 30.0, 0.0))
    outline = fine_outline(lambda y, x: 11 - np.maximum(abs(y), abs(x)))
    return values, outline, np.full((FINE, FINE), 44, np.float32)


def test_a_ball_of_columns_becomes_a_ball_up_to_its_outline():
    values, outline, width = ball()
    found = thickness_of(tapered(values, outline, width, columns=COLUMNS))
    at = np.arange(FINE) + 0.5 - FINE / 2
    truth = 2 * np.sqrt((24.0**2 - at[:, None] ** 2 - at**2).clip(0))
    rim = (outline > 0) & (outline < 4)
    before = np.abs(thickness_of(values) - truth)[rim].mean()
    after = np.abs(found - truth)[rim].mean()
    assert after < 0.6 * before
    edge = (outline > 0) & (outline < 0.6)
    assert found[edge].mean() == pytest.approx(truth[edge].mean(), rel=0.15)
    assert thickness_of(values)[edge].mean() > 1.4 * truth[edge].mean()


def test_between_its_pixels_a_ball_is_round_as_well():
    _, outline, width = ball()
    half = np.sqrt(24.0**2 - (24 - outline.clip(3, 24)) ** 2)  # known to three pixels from the outline
    depth = np.abs(np.arange(FINE) - FINE / 2 + 0.5)[:, None, None]
    found = tapered((half - depth).clip(-2, 2).astype(np.float32), outline, width, columns=COLUMNS)
    out, deep = np.linspace(21, 24, 25), np.linspace(0, FINE - 1, 640)
    errors = []
    for angle in np.linspace(0, 2 * np.pi, 24, endpoint=False):
        row, column = (FINE / 2 - 0.5 + out * turn(angle) for turn in (np.sin, np.cos))
        places = np.broadcast_arrays(deep[:, None], row, column)
        inside = ndimage.map_coordinates(found, [p.ravel() for p in places], order=1).reshape(640, -1) > 0
        errors.append(inside.sum(0) * (FINE - 1) / 640 - 2 * np.sqrt(24.0**2 - out**2))
    assert np.abs(errors).mean() < 1.2
    assert np.std(errors, axis=0).mean() < 0.15  # alike all around; 0.22 where thickness itself is interpolated


def test_a_box_seen_face_on_keeps_its_sides():
    values, outline, width = slab()
    found = thickness_of(tapered(values, outline, width, columns=COLUMNS))
    edges = (outline > 0.4) & (np.indices(outline.shape)[0] > 20) & (np.indices(outline.shape)[0] < 44)
    assert found[edges].min() >= 29


def test_what_is_far_from_the_outline_is_not_touched():
    values, outline, width = ball()
    found = tapered(values, outline, width, columns=COLUMNS)
    deep = outline > 4.5
    assert np.array_equal(found[:, deep], values[:, deep])


def test_a_narrow_bar_is_taken_to_be_round():
    down, _ = places()
    values = cut_out(np.where(abs(down) < 2, 8.0, 0.0))
    outline = fine_outline(lambda y, x: 2 - abs(y) + 0 * x)
    found = thickness_of(tapered(values, outline, np.full((FINE, FINE), 8, np.float32), columns=COLUMNS))
    middle, edge = found[31, 32], found[29, 32]
    assert middle == pytest.approx(8, abs=1) and edge <= 0.8 * middle


def test_two_stretches_of_a_column_are_drawn_in_each_around_its_own_middle():
    values, outline, width = ball()
    two = np.concatenate([values, values])
    found = tapered(two, outline, width, columns=COLUMNS)
    assert np.array_equal(found[:FINE] > 0, found[FINE:] > 0)


def test_a_hollow_body_is_drawn_in_like_a_full_one():
    values, outline, width = ball()
    down, right = places()
    half = 2 * np.sqrt((9.0**2 - down**2 - right**2).clip(0)).repeat(2, 0).repeat(2, 1)
    depth = np.abs(np.arange(FINE) - FINE / 2 + 0.5)[:, None, None]
    hollow = np.minimum(values, (depth - half).clip(-2, 2).astype(np.float32))
    found, full = (thickness_of(tapered(v, outline, width, columns=COLUMNS)) for v in (hollow, values))
    rim = (outline > 0) & (outline < 4)
    assert thickness_of(hollow)[outline > 12].max() < 0.5 * thickness_of(values)[outline > 12].min()
    assert np.abs(found - full)[rim].max() <= 1


def test_nothing_full_stays_nothing():
    empty = np.full((FINE, FINE, FINE), -2, np.float32)
    _, outline, width = ball()
    assert (tapered(empty, outline, width, columns=COLUMNS) == -2).all()
