import json

import numpy as np
import pytest
import torch
import trimesh

import obverse
from obverse.cameras import orbit
from obverse.create import METHODS, Reconstruction, Settings, create, finish, place
from obverse.errors import NoObjectError, UsageError
from obverse.photo import read_photo
from obverse.render.fields import CallableField
from obverse.stages import Stages

from .conftest import disc_photo, ring_photo


def test_one_photo_gives_a_closed_textured_mesh_and_gaussians(disc_asset):
    assert disc_asset.report["mesh"]["watertight"]["ok"]
    assert len(disc_asset.mesh.faces) == pytest.approx(2000, rel=0.05)
    assert disc_asset.mesh.visual.material.baseColorTexture.size == (256, 256)
    assert len(disc_asset.gaussians) == 3000


def test_the_asset_is_centred_with_longest_side_one(disc_asset):
    low, high = disc_asset.mesh.bounds
    np.testing.assert_allclose(low + high, 0, atol=1e-6)
    assert (high - low).max() == pytest.approx(1, abs=1e-6)


def test_it_stands_upright_and_faces_plus_z(disc_asset):
    front = disc_asset.views(0, 0, size=64).images[0]
    dark = front[..., :3].sum(-1) < 0.8
    rows = dark.nonzero()[:, 0].float()
    assert dark.sum() > 4 and rows.mean() < 28  # the dot is above the middle, on the side that faces +Z


def test_the_photo_camera_repeats_the_photo(disc_asset):
    assert disc_asset.report["photo_agreement"]["silhouette_iou"] > 0.97
    assert disc_asset.report["photo_agreement"]["psnr_db"] > 25


def test_mesh_and_splat_show_the_same_thing(disc_asset):
    mesh = disc_asset.views([0, 120], 10, size=192).images
    splat = disc_asset.views([0, 120], 10, size=192, of="splat").images
    cover_m, cover_s = mesh[..., 3] > 0.5, splat[..., 3] > 0.5
    assert (cover_m & cover_s).sum() / (cover_m | cover_s).sum() > 0.95


def test_the_model_in_the_wheel_makes_a_ball_of_a_shaded_disc():
    axis = np.linspace(-1.2, 1.2, 192)
    x, y = np.meshgrid(axis, -axis)
    z = np.sqrt(np.maximum(1 - x * x - y * y, 0))
    light = 0.35 + 0.6 * np.maximum(0.4 * x + 0.6 * y + 0.69 * z, 0)
    rgba = np.stack([0.9 * light, 0.4 * light, 0.3 * light, z > 0], -1)
    small = Settings(resolution=64, faces=2000, texture=256, gaussians=500)
    asset = create((255 * rgba).clip(0, 255).astype(np.uint8), method="embedded", settings=small)
    assert asset.report["mesh"]["watertight"]["ok"]
    assert asset.report["photo_agreement"]["silhouette_iou"] > 0.95
    width, height, depth = np.ptp(asset.mesh.vertices, axis=0)
    assert width == pytest.approx(height, rel=0.15)
    assert 0.6 < depth / width < 1.3
    assert 0 <= asset.report["method"]["doubt"] <= 1


def test_a_ring_gives_a_torus():
    asset = create(ring_photo(), settings=Settings(resolution=64, faces=2000, texture=256, gaussians=500))
    proof = asset.report["mesh"]["watertight"]
    assert proof["ok"]
    assert asset.views(0, 0, size=65).images[0, 32, 32, 3] == 0  # one can look through it


@pytest.mark.parametrize("seed", [-1, 1.5, "0", None])
def test_an_impossible_seed_is_refused_before_any_work(seed):
    with pytest.raises(UsageError, match=r"seed is .* whole number"):
        create("no such photo.jpg", seed=seed)


def test_options_that_would_do_nothing_are_refused():
    with pytest.raises(UsageError, match="matte would do nothing"):
        create(read_photo(disc_photo()), matte="grabcut")
    with pytest.raises(UsageError, match="settings is a dict"):
        create("no such photo.jpg", settings={"faces": 100})


def test_whole_numbers_of_numpy_are_whole_numbers():
    assert Settings(faces=np.int64(500)).faces == 500
    for value in (True, 500.0, "500"):
        with pytest.raises(UsageError, match="faces is"):
            Settings(faces=value)


def test_same_seed_same_bytes(small_settings, disc_asset):
    again = create(disc_photo(), settings=small_settings, seed=3)
    assert again.glb() == disc_asset.glb()
    for name in ("means", "quats", "scales", "opacities", "sh"):
        assert torch.equal(getattr(again.gaussians, name), getattr(disc_asset.gaussians, name))


def test_the_report_says_what_was_guessed_and_can_be_written(disc_asset):
    report = disc_asset.report
    assert any("not seen by the photo" in sentence for sentence in report["guessed"])
    assert report["method"]["name"] == "inflate" and report["seed"] == 3
    assert len(report["input"]["sha256"]) == 64
    assert {"photo", "inflate", "surface", "repair", "texture", "gaussians"} <= {r["name"] for r in report["stages"]}
    json.dumps(report)


def test_create_is_callable_however_it_is_reached():
    import obverse.create as module

    assert callable(obverse.create) and callable(module)
    with pytest.raises(UsageError, match="method is 'magic', it must be one of: inflate"):
        module(disc_photo(), method="magic")


def test_every_method_says_what_it_costs_and_allows():
    for method in METHODS.values():
        assert method.summary and method.licence and method.weights_licence and method.source


@pytest.mark.parametrize(
    ("name", "value"), [("faces", 10), ("texture", 100), ("gaussians", 0), ("resolution", 5000), ("faces", 2.5)]
)
def test_settings_out_of_range_are_refused(name, value):
    with pytest.raises(UsageError, match=f"{name} is {value}, it must be a whole number from"):
        Settings(**{name: value})


def test_an_empty_photo_is_no_object():
    with pytest.raises(NoObjectError):
        create(np.zeros((64, 64, 4), np.uint8))


def test_placing_moves_mesh_and_camera_together():
    mesh = trimesh.creation.box((2.0, 1.0, 4.0), trimesh.transformations.translation_matrix([3, 4, 5]))
    camera = orbit(30, 20, distance=20.0)[0]
    placed, moved, back = place(mesh, camera)
    before, _ = camera.project(torch.tensor(mesh.vertices, dtype=torch.float32))
    after, _ = moved.project(torch.tensor(placed.vertices, dtype=torch.float32))
    torch.testing.assert_close(after, before, atol=1e-2, rtol=1e-5)
    original = back(torch.tensor(placed.vertices, dtype=torch.float32))
    np.testing.assert_allclose(original.numpy(), mesh.vertices, atol=1e-5)
    assert np.ptp(placed.vertices, axis=0).max() == pytest.approx(1)


def _finish(shape, small_settings):
    rec = Reconstruction(shape, orbit(0, 0, size=64)[0], guessed=())
    subject = read_photo(disc_photo())
    about = METHODS["inflate"]
    return finish(rec, subject, method="inflate", about=about, seed=0, settings=small_settings, stages=Stages())


ORANGE, GREEN = torch.tensor([0.9, 0.47, 0.16]), torch.tensor([0.1, 0.8, 0.2])


def _backs_are_green(asset):
    back = asset.views(180, 0, size=64).images[0]
    seen = back[..., 3] > 0.9
    return bool((back[seen][:, 1] > back[seen][:, 0] + 0.2).float().mean() > 0.9)


def test_any_field_goes_through_the_shared_path(small_settings):
    ball = CallableField(
        lambda p: p.norm(dim=-1) - 0.4, rgb=lambda p: torch.where(p[:, 2:] > -0.1, ORANGE.expand(len(p), 3), GREEN)
    )
    asset = _finish(ball, small_settings)
    assert asset.report["mesh"]["watertight"]["ok"]
    assert _backs_are_green(asset)  # the unseen side has the colour that the method predicts


def test_a_coloured_mesh_goes_through_the_shared_path(small_settings):
    ball = trimesh.creation.icosphere(4, 0.5)
    rgb = np.where(ball.vertices[:, 2:] > -0.1, ORANGE, GREEN)
    rgba = np.column_stack([255 * rgb, np.full(len(rgb), 255)]).astype(np.uint8)
    ball.visual = trimesh.visual.ColorVisuals(ball, vertex_colors=rgba)
    asset = _finish(ball, small_settings)
    assert asset.report["mesh"]["watertight"]["ok"]
    assert _backs_are_green(asset)


def test_more_faces_than_the_grid_gives_refine_the_grid():
    asset = create(disc_photo(), settings=Settings(resolution=32, faces=20_000, texture=256, gaussians=500))
    assert len(asset.mesh.faces) == pytest.approx(20_000, rel=0.05)
    assert asset.report["mesh"]["watertight"]["ok"]


def test_a_hairline_gets_a_finer_grid_or_a_clear_word():
    photo = np.zeros((300, 300, 4), np.uint8)
    photo[20:280, 149:152] = (200, 30, 30, 255)
    asset = create(photo, settings=Settings(resolution=32, faces=2000, texture=256, gaussians=500))
    assert asset.report["mesh"]["watertight"]["ok"] and asset.report["mesh"]["seen_fraction"] > 0.1


def test_many_holes_keep_the_faces_they_need_and_say_so():
    y, x = np.mgrid[0:240, 0:240]
    solid = ((x // 8 + y // 8) % 2 == 0) | (x % 8 < 2) | (y % 8 < 2)
    photo = np.dstack([np.full((240, 240, 3), 120, np.uint8), (255 * solid).astype(np.uint8)])
    asset = create(photo, settings=Settings(resolution=128, faces=1000, texture=512, gaussians=500))
    assert asset.report["mesh"]["watertight"]["ok"] and len(asset.mesh.faces) > 1050
    assert "more-faces" in [check["name"] for check in asset.report["checks"]]


def test_a_device_nobody_knows_is_refused():
    with pytest.raises(UsageError, match="device is 'tpu'"):
        create(disc_photo(), device="tpu")
