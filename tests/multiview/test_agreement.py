"""Agreement of views, measured on true ones and on spoilt ones; cut-outs; and the solid made of them."""

import pytest
import torch
import trimesh

from obverse.cameras import Views, orbit
from obverse.create import Settings, create
from obverse.errors import UsageError
from obverse.multiview import zero123 as z
from obverse.multiview.agreement import agreement, best_elevation
from obverse.multiview.cutouts import cut_out, sized
from obverse.multiview.zero123_inputs import photo_camera, photo_view, spherical, surround
from obverse.photo import read_photo
from obverse.render.triangles import render_mesh

from ..conftest import disc_photo

SIZE = 80


def boot():
    """Two boxes like an L, red and blue: no symmetry that could hide a wrong camera."""
    sole = trimesh.creation.box((0.5, 0.25, 0.9))
    shaft = trimesh.creation.box((0.4, 0.6, 0.3))
    shaft.apply_translation((0.0, 0.35, -0.3))
    sole.visual.face_colors, shaft.visual.face_colors = (210, 60, 50, 255), (50, 80, 200, 255)
    mesh = trimesh.util.concatenate([sole, shaft])
    mesh.apply_translation((0.0, -0.2, 0.0))
    return mesh


def framed_boot():
    """The boot as large and as central as the photo's preparation shows it: its front spans 200 of 256 pixels."""
    mesh = boot()
    for _ in range(2):
        front = render_mesh(mesh, z.orbit_cameras(0, 0, size=256), background=None)[0, ..., 3] > 0.5
        rows = front.any(1).nonzero()[:, 0]
        top, bottom = int(rows[0]), int(rows[-1]) + 1
        mesh.apply_translation(
            (0, ((top + bottom) / 2 - 128) / 256 * 1.28, 0)
        )  # the picture is 1.28 wide at distance 1.4
        mesh.apply_scale(200 / (bottom - top))
    return mesh


def seen(cameras, mesh=None):
    """True views [V, H, W, 3] on white."""
    rgba = render_mesh(mesh or boot(), cameras, background=None, shading="unlit")
    return rgba[..., :3] * rgba[..., 3:] + 1 - rgba[..., 3:]


def around(elevation=10.0):
    return z.orbit_cameras([0, 60, 120, 180, 240, 300], elevation, size=SIZE)


def test_true_views_agree_and_spoilt_ones_do_not():
    cameras = around()
    true = agreement(Views(seen(cameras), cameras))
    assert true.shape > 0.99 and true.color > 0.85 and 0 < true.score < 1

    turned = seen(z.orbit_cameras([0, 60, 120, 180, 240, 340], 10.0, size=SIZE))
    assert agreement(Views(turned, cameras)).shape < true.shape - 0.02
    mirrored = seen(cameras)
    mirrored[1] = mirrored[1].flip(1)
    assert agreement(Views(mirrored, cameras)).shape < true.shape - 0.02

    painted = seen(cameras)
    painted[2] = torch.where(painted[2].amin(-1, keepdim=True) < 0.9, torch.tensor([0.1, 0.8, 0.1]), painted[2])
    spoilt = agreement(Views(painted, cameras))
    assert spoilt.color < true.color - 0.2 and spoilt.shape == pytest.approx(true.shape, abs=0.02)


def test_alpha_says_where_the_object_is_if_there_is_any():
    cameras = around()
    rgba = render_mesh(boot(), cameras, background=None, shading="unlit")
    assert agreement(Views(rgba, cameras)).shape == pytest.approx(
        agreement(Views(seen(cameras), cameras)).shape, abs=0.02
    )


def test_views_of_nothing_agree_about_nothing():
    cameras = around()
    assert agreement(Views(torch.ones(6, SIZE, SIZE, 3), cameras)).score == 0
    with pytest.raises(UsageError, match="at least two views"):
        agreement(Views(torch.ones(1, SIZE, SIZE, 3), cameras[:1]))


@pytest.mark.parametrize("truth", [0.0, 30.0])
def test_the_elevation_at_which_true_views_agree_best_is_the_true_one(truth):
    def cameras_at(elevation):
        turns, ups = zip(*z.PROBES, (0, 0), strict=True)
        return z.orbit_cameras(turns, [elevation + up for up in ups], size=SIZE)

    images = seen(cameras_at(truth))
    found = best_elevation(lambda elevation: Views(images, cameras_at(elevation)))
    assert found.degrees == truth and found.sureness > 0.5
    assert found.words.endswith(f"{truth:.0f}° (sureness {found.sureness:.2f})")


def test_no_elevation_is_sure_where_all_agree_alike():
    views = Views(torch.ones(6, SIZE, SIZE, 3), around())
    assert best_elevation(lambda _: views, (0, 10, 20)).sureness == 0
    with pytest.raises(UsageError, match="at least two candidates"):
        best_elevation(lambda _: views, (0,))


def test_views_on_white_are_cut_out_and_doubt_is_said():
    cameras = around()
    cut = cut_out(Views(seen(cameras), cameras))
    true = render_mesh(boot(), cameras, background=None, shading="unlit")[..., 3]
    assert cut.views.images.shape == (6, SIZE, SIZE, 4) and not cut.doubtful
    assert (cut.views.images[..., 3] - true).abs().mean() < 0.01
    assert cut_out(cut.views).views is cut.views
    noise = torch.rand(1, SIZE, SIZE, 3, generator=torch.Generator().manual_seed(0))
    assert cut_out(Views(torch.cat([noise, seen(cameras)[:1]]), cameras[:2])).doubtful == [0]


def test_cameras_move_until_the_object_fits_a_ball_of_diameter_one_and_see_the_same():
    cameras = orbit([0, 90], 10, distance=7.0, fov_deg=20.0, size=64)
    ball = trimesh.creation.icosphere(subdivisions=3, radius=1.1)
    views = Views(render_mesh(ball, cameras, background=None), cameras)
    moved = sized(views).cameras
    assert float(moved.positions[0].norm()) == pytest.approx(7 * 0.5 / 1.1, rel=0.03)
    again = render_mesh(trimesh.creation.icosphere(subdivisions=3, radius=0.5), moved, background=None)
    assert again.shape == (2, 128, 128, 4)  # with a margin of half a side
    assert (again[:, 32:96, 32:96, 3] - views.images[..., 3]).abs().mean() < 0.01


def test_the_photo_as_a_view_keeps_its_alpha_and_colours():
    view = photo_view(read_photo(disc_photo()), 64)
    inside = view[..., 3] > 0.99
    assert view.shape == (64, 64, 4) and float(inside.float().mean()) == pytest.approx(0.48, abs=0.03)  # π/4 · 0.78²
    assert (view[32, 20, :3] * 255 - torch.tensor([230.0, 120.0, 40.0])).abs().max() < 2
    assert view[0, 0, 3] == 0


def test_the_photos_camera_sees_the_cut_out_as_the_network_is_shown_it():
    subject = read_photo(disc_photo(radius=30, center=(50, 70)))
    camera = photo_camera(subject, z.orbit_cameras(0, 10, size=64)[0])
    pixels, _ = camera.project(torch.zeros(1, 3))
    assert camera.width == subject.rgba.shape[0]
    assert pixels[0].tolist() == pytest.approx([camera.width / 2] * 2, abs=1)  # the disc's middle is the origin
    focal = 64 / 2 / (16 / 35)
    assert float(camera.intrinsics[0, 0]) == pytest.approx(focal * 60 / 50, rel=0.02)  # 60 pixels are shown as 50


def test_a_solid_is_surrounded_from_the_photos_camera_on():
    elevation, azimuth, distance = spherical(surround(20.0))
    assert len(elevation) == 16 and float(distance.max() - distance.min()) < 1e-5
    assert (float(azimuth[0]), float(elevation[0])) == pytest.approx((0, 20), abs=1e-3)
    assert float(elevation.max()) == pytest.approx(55, abs=1e-3) and float(elevation.min()) == pytest.approx(
        -15, abs=1e-3
    )


def test_a_photo_becomes_an_asset_by_way_of_its_views(monkeypatch, tmp_path):
    """With a model of random weights whose views are true ones: what is tested is the way from there to the solid."""
    pytest.importorskip("diffusers")
    from .test_zero123 import TINY

    path = z.save_checkpoint(z.build(TINY), tmp_path / "zero123.safetensors")
    asked = []

    def true_views(self, subject, cameras, *, seed, source_elevation_deg, **_):
        asked.append((len(cameras), seed, source_elevation_deg))
        cameras = cameras.resized(self.size, self.size)
        return Views(seen(cameras, mesh), cameras)

    mesh = framed_boot()
    monkeypatch.setattr(z.Zero123, "views", true_views)
    monkeypatch.setattr(z.Zero123, "size", property(lambda _: SIZE))
    found = type("Found", (), {"degrees": 0.0, "words": "surely 0°"})
    monkeypatch.setattr(z.Zero123, "elevation", lambda *_, **__: found)
    camera = z.orbit_cameras(0, 0, size=128)
    small = Settings(resolution=64, faces=1000, texture=256, gaussians=500)
    photo = (render_mesh(mesh, camera, background=None, shading="unlit")[0] * 255).to(torch.uint8).numpy()
    asset = create(photo, method="zero123", weights=path, settings=small, seed=4)
    assert asked == [(15, 4, 0.0)]
    report = asset.report
    assert report["mesh"]["watertight"]["ok"] and report["photo_agreement"]["silhouette_iou"] > 0.85
    assert report["method"]["views"] == 16 and "by its own words" in report["method"]["weights"]
    assert any("surely 0°" in line for line in report["guessed"])
    size = asset.mesh.extents / asset.mesh.extents.max()
    assert size == pytest.approx([0.53, 0.83, 1.0], abs=0.15)  # the boot is 0.5 × 0.78 × 0.9
