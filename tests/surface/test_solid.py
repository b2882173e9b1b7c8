import numpy as np
import pytest
import trimesh

from obverse.errors import InputError
from obverse.surface.solid import solid_grid

CELL = 1.1 / 48


def volume(grid):
    return grid.sum() * CELL**3


def test_the_volume_of_a_ball_is_that_of_the_formula():
    ball = trimesh.creation.icosphere(4, radius=0.5)
    assert volume(solid_grid(ball, resolution=48)) == pytest.approx(4 / 3 * np.pi * 0.125, rel=0.01)


def test_a_box_of_separate_sheets_is_as_solid_as_a_closed_one():
    box = trimesh.creation.box((0.6, 0.8, 1.0))
    sheets = box.copy()
    sheets.unmerge_vertices()
    sheets.faces[::2] = sheets.faces[::2, ::-1]
    closed = solid_grid(box, resolution=48)
    assert (solid_grid(sheets, resolution=48) == closed).all()
    assert volume(closed) == pytest.approx(0.48, rel=0.05)


def test_a_cavity_counts_as_solid_and_an_open_cup_as_empty():
    shell = trimesh.util.concatenate([trimesh.creation.icosphere(3, radius=r) for r in (0.5, 0.3)])
    assert solid_grid(shell, resolution=48)[24, 24, 24]
    cup = trimesh.creation.annulus(0.3, 0.4, 0.8, sections=48)
    cup.apply_transform(trimesh.geometry.align_vectors([0, 0, 1], [0, 1, 0]))
    grid = solid_grid(cup, resolution=48)
    assert not grid[24, 24, 24]
    assert grid[24 + 15, 24, 24]  # 0.35 from the axis: inside the wall


def test_a_missing_floor_does_not_make_a_box_hollow():
    box = trimesh.creation.box((0.6, 0.8, 1.0))
    box.update_faces(box.face_normals[:, 1] > -0.5)
    assert volume(solid_grid(box, resolution=48)) == pytest.approx(0.48, rel=0.07)


def test_a_single_sheet_has_no_inside():
    sheet = trimesh.Trimesh([[-0.5, -0.5, 0], [0.5, -0.5, 0], [0.5, 0.5, 0], [-0.5, 0.5, 0]], [[0, 1, 2], [0, 2, 3]])
    assert volume(solid_grid(sheet, resolution=48)) < 0.03


def test_axes_are_x_y_z():
    bar = trimesh.creation.box((1.0, 0.2, 0.4))
    grid = solid_grid(bar, resolution=48)
    spans = [np.flatnonzero(grid.any(axis=tuple({0, 1, 2} - {a}))) for a in range(3)]
    assert [round((s[-1] - s[0] + 1) * CELL, 1) for s in spans] == [1.0, 0.2, 0.4]


def test_an_empty_box_and_a_coarse_grid_are_refused():
    ball = trimesh.creation.icosphere(1)
    with pytest.raises(InputError, match="give at least 2 cells"):
        solid_grid(ball, resolution=1)
    with pytest.raises(InputError, match="high above low"):
        solid_grid(ball, low=(0, 0, 0), high=(1, 0, 1))
    assert not solid_grid(trimesh.Trimesh(), resolution=8).any()
