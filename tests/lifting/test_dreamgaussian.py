"""DreamGaussian's own steps against the published code's numbers (tests/parity/dreamgaussian), and the whole of it."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from obverse.cameras import orbit
from obverse.errors import InputError, UsageError
from obverse.gaussians import Gaussians, covariances
from obverse.lifting import dreamgaussian as dg
from obverse.lifting.distill import PRESETS, Criticism, Photo, distill
from obverse.lifting.fit import position_rate
from obverse.lifting.guidance import Moment, noised
from obverse.lifting.recipes import Stage
from obverse.lifting.texels import TextureCanvas
from obverse.render.triangles import render_mesh
from obverse.surface.repair import check_watertight

from ..parity.cases import read_case
from .analytic import ALPHAS, Knowing
from .scenes import ball_mesh, over_white, spot


@pytest.fixture(scope="module")
def case():
    return read_case("dreamgaussian")


@pytest.fixture(scope="module")
def published(case):
    quats = torch.nn.functional.normalize(case["gs_rotation"], dim=-1)
    sh = torch.zeros(60, 1, 3)
    return Gaussians(case["gs_xyz"], quats, case["gs_scaling"].exp(), case["gs_opacity"].sigmoid()[:, 0], sh)


def same(found, expected, rtol=1e-4, atol=1e-5):
    torch.testing.assert_close(torch.as_tensor(found).float(), expected.float(), rtol=rtol, atol=atol)


def test_covariances_are_the_published_ones(case, published):
    rows, columns = torch.triu_indices(3, 3)
    same(covariances(published)[:, rows, columns], case["gs_cov6"])


def test_the_density_is_the_published_one(case, published):
    found = dg.local_density(published, resolution=32, blocks=4)
    same(found.values, case["gs_density32"])
    scale = 2 / 31 / found.step
    same(scale, case["gs_scale"])
    same(torch.tensor(found.low) + 1 / scale, case["gs_center"])
    whole = dg.local_density(published, resolution=32, blocks=1, relax=10.0)
    same(whole.values, case["gs_density32_nocull"])
    assert found.level == 1.0 and float((whole.values - found.values).abs().max()) > 0.05


def test_cameras_are_the_published_ones_with_elevation_upwards(case):
    elevation, azimuth = case["orbit_ea"].T
    cameras = orbit(azimuth.tolist(), (-elevation).tolist(), distance=2.0, fov_deg=49.1, size=64)
    to_world = torch.linalg.inv(cameras.world_to_camera) @ torch.diag(torch.tensor([1.0, -1.0, -1.0, 1.0]))
    same(to_world, case["orbit_c2w"])
    same(cameras.world_to_camera.transpose(1, 2), case["minicam_view_T"])
    same(-cameras.positions, case["minicam_center"])
    near, far = 0.01, 100.0
    k = cameras.intrinsics[0]
    projection = torch.zeros(4, 4)  # transposed, depth to 0–1
    projection[0, 0], projection[1, 1] = 2 * k[0, 0] / 64, 2 * k[1, 1] / 64
    projection[2, 2], projection[2, 3], projection[3, 2] = far / (far - near), 1.0, -far * near / (far - near)
    same(projection, case["minicam_proj_T"])


def test_the_rate_of_positions_is_the_published_one(case):
    same(torch.tensor([position_rate(dg.RATES, int(step), 500) for step in case["lr_steps"]]), case["lr_xyz"])


def test_texels_are_filled_as_published(case):
    sums, weights = dg.splat_linear(case["put_coords"], case["put_values"], 64)
    same(sums, case["put_lin_sum"])
    same(weights, case["put_lin_cnt"])
    sums, weights = dg.splat_filled(case["put_coords"], case["put_values"], 64, smallest=16)
    same(sums, case["put_mip_sum"])
    same(weights, case["put_mip_cnt"])


def test_every_stored_number_is_compared(case):
    inputs = {"gs_xyz", "gs_scaling", "gs_rotation", "gs_opacity", "orbit_ea", "lr_steps", "put_coords", "put_values"}
    source = Path(__file__).read_text(encoding="utf-8")
    assert [name for name in set(case) - inputs if f'case["{name}"]' not in source] == []


def test_a_density_that_nowhere_reaches_one_is_cut_at_half_its_most():
    faint = dg.local_density(spot(1, scale=0.1, opacity=0.4), resolution=16, blocks=1)
    assert faint.level == pytest.approx(float(faint.values.max()) / 2) and faint.level < 0.2001
    with pytest.raises(InputError, match="take more steps"):
        dg.local_density(spot(2, opacity=0.001))
    with pytest.raises(UsageError, match="multiple of the 16"):
        dg.local_density(spot(2), resolution=100)


def test_it_begins_with_grey_fog_in_a_ball():
    fog = dg.start(500, seed=3)
    radius = fog.means.norm(dim=-1)
    assert float(radius.max()) <= 0.5 and float((radius < 0.25).float().mean()) == pytest.approx(1 / 8, abs=0.05)
    assert float(fog.opacities.max()) == pytest.approx(0.1) and torch.allclose(fog.colors, torch.tensor(0.5))
    gap = (fog.means[:, None] - fog.means).norm(dim=-1).sort(-1).values[:, 1:4]
    torch.testing.assert_close(fog.scales[:, 0], gap.square().mean(-1).sqrt(), rtol=1e-3, atol=1e-5)
    assert len(dg.start(1)) == 1


def test_the_last_pruning_drops_the_faint_and_the_large():
    three = spot(3, scale=0.05)
    three = replace(three, opacities=torch.tensor([0.5, 0.005, 0.5]))
    three.scales[2, 1] = 0.2
    assert len(dg.kept(three)) == 1
    with pytest.raises(InputError, match="came to nothing"):
        dg.kept(spot(2, scale=0.5))


def test_image_to_image_finds_what_the_model_knows():
    knowing = Knowing(coarse=1)
    camera = orbit([40.0], size=16)
    grey = torch.full((1, 16, 16, 3), 0.5)
    found = dg.image_to_image(knowing, grey, camera, skipped=0.8, scale=1.0, generator=torch.Generator().manual_seed(0))
    truth = over_white(render_mesh(ball_mesh(), camera, background=None, shading="unlit"))
    assert knowing.asked == 10  # of 50 steps the first 40 are left out
    # The last step leaves the noise of time 0, √(1 − a) = 0.029, doubled range halved.
    assert float((found - truth).abs().mean()) < 0.03


def test_image_to_image_without_guidance_is_deterministic_ddim():
    class Still(Knowing):
        def predict(self, noisy, timesteps, cameras):
            self.times = [*getattr(self, "times", []), int(timesteps[0])]
            return torch.zeros_like(noisy), torch.zeros_like(noisy)

    still = Still(coarse=1)
    images = torch.rand(1, 8, 8, 3, generator=torch.Generator().manual_seed(1))
    generator = torch.Generator().manual_seed(0)
    found = dg.image_to_image(still, images, orbit([0.0]), skipped=0.94, scale=5.0, generator=generator)
    assert still.times == [41, 21, 1]
    noise = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    latents = noised(still.encode(images), noise, ALPHAS[41].expand(1)) * math.sqrt(ALPHAS[0] / ALPHAS[41])
    torch.testing.assert_close(found, still.decode(latents), rtol=1e-4, atol=1e-4)


def test_refining_moves_towards_the_better_picture():
    camera = orbit([40.0], size=16)
    grey = torch.full((1, 16, 16, 3), 0.5)
    moment = Moment(0, 50, torch.Generator().manual_seed(0))
    found = dg.refining(Knowing(coarse=1), scale=1.0)(grey, camera, moment)
    truth = over_white(render_mesh(ball_mesh(), camera, background=None, shading="unlit"))
    torch.testing.assert_close(found.gradient, 2 * (grey - truth) / grey.numel(), rtol=0, atol=2e-4)


def test_a_painted_texture_shows_the_gaussians():
    texels = TextureCanvas(ball_mesh(2), size=256)
    blue = replace(spot(1, scale=0.4, opacity=0.999), sh=torch.tensor([[[-1.0, -1.0, 1.2]]]))
    colors, weights = dg.back_project(blue, texels, distance=2.0, fov_deg=49.1, size=96)
    texels.paint(colors, weights)
    seen = texels.render(orbit([70.0], 20.0, size=24), torch.ones(3), torch.Generator())
    inside = seen.color[0][seen.alpha[0] > 0.5]
    assert float(inside[:, 2].detach().min()) > float(inside[:, :2].detach().max())
    assert len(dg.painting_views(2.0, 49.1)) == 26


def test_only_surface_that_faces_the_photo_takes_its_colours():
    camera = orbit([0.0], distance=2.0, fov_deg=49.1, size=48)
    red = torch.tensor([1.0, 0.0, 0.0, 1.0]).expand(48, 48, 4)
    texels = TextureCanvas(ball_mesh(2), size=256)
    silent = lambda images, cameras, moment: Criticism(torch.zeros_like(images), {})  # noqa: E731
    recipe = replace(dg.REFINEMENT, steps=20, stages=(Stage(20, 16, 1, 48),))
    distill(texels, silent, recipe=recipe, photo=Photo(red, camera))
    front, side = (
        texels.render(orbit([a], size=32), torch.ones(3), torch.Generator()).color[0, 16, 16] for a in (0.0, 90.0)
    )
    assert float(front[0] - front[1]) > 0.1 and float((side - 0.5).abs().max()) < 0.01


def test_both_stages_turn_an_all_knowing_critic_into_a_textured_solid(monkeypatch, tmp_path):
    monkeypatch.setattr(dg, "COUNT", 400)
    monkeypatch.setattr(dg, "local_density", lambda g, full=dg.local_density: full(g, resolution=32, blocks=4))
    around = PRESETS["dreamgaussian"].around
    camera = around.photo_camera(48)
    photo = Photo(render_mesh(ball_mesh(), camera, background=None, shading="unlit")[0], camera)
    recipe = replace(PRESETS["dreamgaussian"].over(40), stages=(Stage(40, 24, 2, 24),), backgrounds="white")
    monkeypatch.setattr(dg, "RATES", replace(dg.RATES, colors=0.05, opacities=0.2, scales=0.02))
    refinement = replace(dg.REFINEMENT, steps=3, stages=(Stage(3, 24, 1, 24),))
    told = []
    lifted = dg.lift(
        Knowing(), photo, recipes=(recipe, refinement), texture=256, checkpoint=tmp_path / "state",
        progress=lambda stage, now: told.append((stage, now.step)),
    )  # fmt: skip
    assert told[-1] == ("texture", 3) and ("gaussians", 40) in told
    assert check_watertight(lifted.mesh).ok and lifted.mesh.visual.uv.shape == (len(lifted.mesh.vertices), 2)
    assert {path.name for path in tmp_path.iterdir()} == {"state", "state.texture"}
    center, far = lifted.density_or_sdf(torch.tensor([[0.0, 0.0, 0.0], [0.7, 0.7, 0.7]]))
    assert float(center) > lifted.level > float(far)
    red, blue = lifted.color(torch.tensor([[0.4, 0.0, 0.0], [-0.4, 0.0, 0.0]]))
    assert float(red[0]) > float(red[2]) and float(blue[2]) > float(blue[0])
