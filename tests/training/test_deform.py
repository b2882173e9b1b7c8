import numpy as np
import pytest
import trimesh

from obverse.training import deform
from obverse.training.deform import deformed
from obverse.training.objects import normalised


def test_a_deformed_object_is_another_one_of_the_same_faces_and_size():
    ball = normalised(trimesh.creation.icosphere(subdivisions=4))
    other = deformed(ball, seed=1)
    assert np.array_equal(other.faces, ball.faces)
    assert np.ptp(other.vertices, axis=0).max() == pytest.approx(1)
    assert np.ptp(other.vertices, axis=0).min() < 0.97
    assert np.array_equal(other.vertices, deformed(ball, seed=1).vertices)
    assert not np.allclose(other.vertices, deformed(ball, seed=2).vertices)


@pytest.mark.parametrize("seed", range(12))
def test_deformed_solids_stay_solids(seed):
    ball = normalised(trimesh.creation.icosphere(subdivisions=4))
    other = deformed(ball, seed=seed)
    assert other.is_volume
    assert 0.01 < other.volume < 1


@pytest.mark.parametrize("move", [deform._swollen, deform._tapered, deform._twisted, deform._bent])
def test_no_move_folds_space_over(move):
    grid = np.stack(np.meshgrid(*[np.linspace(-0.5, 0.5, 7)] * 3, indexing="ij"), -1).reshape(-1, 3)
    step = 1e-5
    for seed in range(20):
        sides = [
            (move(grid + step * axis, 0.5, np.random.default_rng(seed)) - move(grid, 0.5, np.random.default_rng(seed)))
            / step
            for axis in np.eye(3)
        ]
        assert np.linalg.det(np.stack(sides, -1)).min() > 0.1


def test_a_mesh_of_few_large_faces_is_only_stretched():
    box = normalised(trimesh.creation.box())
    for seed in range(5):
        corners = np.abs(deformed(box, seed=seed).vertices)
        assert np.allclose(corners, corners[0]) and corners[0].min() > 0.1


def test_texture_coordinates_are_kept():
    ball = normalised(trimesh.creation.icosphere(subdivisions=4))
    uv = np.random.default_rng(0).random((len(ball.vertices), 2))
    ball.visual = trimesh.visual.TextureVisuals(uv=uv)
    assert np.array_equal(deformed(ball, seed=3).visual.uv, uv)
