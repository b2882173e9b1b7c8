import numpy as np
import pytest
import torch
import trimesh

from obverse.cameras import orbit
from obverse.render.materials import decode_srgb
from obverse.render.studio import Studio, photograph, random_studio


def ball(color=(128, 128, 128, 255)):
    mesh = trimesh.creation.icosphere(4, radius=0.5)
    mesh.visual.vertex_colors = np.tile(np.array(color, np.uint8), (len(mesh.vertices), 1))
    return mesh


def test_even_light_shows_the_base_colour():
    even = Studio(sky=(1, 1, 1), ground=(1, 1, 1), lamps=())
    view = photograph(ball(), orbit([0.0], size=32), studio=even)[0]
    assert view[16, 16, :3] == pytest.approx(np.full(3, 128 / 255), abs=2e-3)


def test_lambert_falls_with_the_cosine_in_linear_light():
    lamp = Studio(sky=(0, 0, 0), ground=(0, 0, 0), lamps=(((0.0, 0.0, 1.0), (1.0, 1.0, 1.0)),))
    view = photograph(ball((255, 255, 255, 255)), orbit([0.0], size=129), studio=lamp)[0].numpy()
    normal = 2 * photograph_normals()[64, 96, 2] - 1
    assert decode_srgb(view[64, 96, 0]) == pytest.approx(normal, abs=0.02)


def photograph_normals():
    from obverse.render.triangles import render_mesh

    return render_mesh(ball(), orbit([0.0], size=129), background=None, shading="normals")[0].numpy()


def test_the_lamp_stays_with_the_world():
    lamp = Studio(sky=(0, 0, 0), ground=(0, 0, 0), lamps=(((1.0, 0.0, 0.0), (1.0, 1.0, 1.0)),))
    front, right, left = photograph(ball(), orbit([0.0, 90.0, -90.0], size=32), studio=lamp)
    assert right[16, 16, 0] > 0.4
    assert left[16, 16, 0] == 0
    assert front[16, 24, 0] > front[16, 8, 0]


def test_ambient_light_is_brighter_from_above():
    view = photograph(ball(), orbit([0.0], size=32), studio=Studio(sky=(1, 1, 1), ground=(0.2,) * 3, lamps=()))[0]
    assert view[9, 16, 0] > view[22, 16, 0] > 0


def test_gloss_adds_a_highlight_and_nothing_else():
    lamp = (((0.0, 0.0, 1.0), (0.5, 0.5, 0.5)),)
    dull, glossy = (
        photograph(ball(), orbit([0.0], size=33), studio=Studio(lamps=lamp, gloss=gloss))[0] for gloss in (0.0, 0.3)
    )
    assert glossy[16, 16, 0] > dull[16, 16, 0] + 0.05
    assert torch.equal(glossy[..., 3], dull[..., 3])


def test_a_background_is_laid_behind():
    view = photograph(ball(), orbit([0.0], size=32), background=(1.0, 0.0, 0.0))[0]
    assert view[0, 0, :3].tolist() == [1, 0, 0]
    assert photograph(ball(), orbit([0.0], size=32))[0, 0, 0].tolist() == [0, 0, 0, 0]


def test_a_rig_is_decided_by_its_seed_and_its_key_is_on_the_photographers_side():
    assert random_studio(5) == random_studio(5) != random_studio(6)
    for seed in range(20):
        direction, _ = random_studio(seed, azimuth_deg=180.0).lamps[0]
        assert direction[2] < 0
        assert np.linalg.norm(direction) == pytest.approx(1)
