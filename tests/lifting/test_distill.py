"""Distillation reaches what an all-knowing critic wants, in every representation, and survives an interruption."""

from dataclasses import replace

import pytest
import torch

from obverse.cameras import Views, orbit
from obverse.errors import InputError, UsageError
from obverse.lifting import coarse_to_fine, losses
from obverse.lifting.canvases import FieldCanvas, GaussianCanvas
from obverse.lifting.distill import (
    PRESETS,
    Around,
    Asking,
    Criticism,
    Photo,
    Recipe,
    Stage,
    Terms,
    depth_steps,
    distill,
    framed,
    roughness,
    sds,
)
from obverse.lifting.fit import Growth, Rates, random_start
from obverse.lifting.guidance import Times
from obverse.lifting.radiance import FieldRates
from obverse.lifting.texels import TextureCanvas
from obverse.render.triangles import render_mesh

from .analytic import Knowing
from .scenes import ball_mesh, over_white

AROUND = Around(distance=2.0, fov_deg=40.0, elevation_deg=(-30.0, 60.0))
SURE = Asking(scale=1.0, weighting="uniform", times=Times(0.2, 0.5))
SHORT = Recipe(
    steps=60, stages=(Stage(60, 24, 2, 24),), around=AROUND, asking=SURE, terms=Terms(critic=1.0, rgb=0.0, mask=0.0)
)
KNOWN = orbit([30.0, 150.0, 270.0], 15.0, distance=2.0, fov_deg=40.0, size=24)


@pytest.fixture(autouse=True)
def short_rehearsals(monkeypatch):
    monkeypatch.setattr(coarse_to_fine, "REHEARSALS", 10)


def gaussians(steps=60, count=300, growth=None):
    growth = growth or Growth("none")
    rates = Rates(means=(0.02, 0.002), colors=0.05, opacities=0.1, scales=0.02, quats=0.01)
    return GaussianCanvas(random_start(count, radius=0.5, seed=1), steps=steps, rates=rates, growth=growth, cap=400)


def field(kind="grid", resolution=20, **options):
    rates = FieldRates(density=0.3, color=0.2, planes=0.03, networks=0.005)
    return FieldCanvas(kind, resolution=resolution, half=0.55, rates=rates, smooth=1e-4, **options)


def quality(canvas):
    """PSNR of views that lie between those asked about."""
    with torch.no_grad():
        seen = canvas.render(KNOWN, torch.ones(3), torch.Generator().manual_seed(0)).color
    truth = over_white(render_mesh(ball_mesh(), KNOWN, background=None, shading="unlit"))
    return losses.psnr(seen.clamp(0, 1), truth)


def photo(size=24):
    camera = AROUND.photo_camera(size)
    return Photo(render_mesh(ball_mesh(), camera, background=None, shading="unlit")[0], camera)


@pytest.mark.parametrize(("make", "reached"), [(gaussians, 19.0), (field, 18.0), (lambda: field("triplane"), 17.0)])
def test_every_canvas_becomes_what_the_critic_wants(make, reached):
    canvas = make()
    before = quality(canvas)
    done = distill(canvas, sds(Knowing(), SURE), recipe=SHORT)
    assert quality(canvas) > max(reached, before + 4)
    assert sum(done.critic[-10:]) < 0.6 * sum(done.critic[:10])


def test_a_texture_becomes_what_the_critic_wants():
    canvas = TextureCanvas(ball_mesh(), size=256, rate=0.3)
    before = quality(canvas)
    distill(canvas, sds(Knowing(coarse=2), SURE), recipe=replace(SHORT, steps=20, stages=(Stage(20, 96, 2, 24),)))
    assert quality(canvas) > before + 5
    visual = canvas.mesh.visual
    assert visual.material.baseColorTexture.size == (256, 256) and len(canvas.mesh.faces) == 1280


def test_the_photo_alone_is_enough_for_its_own_view():
    canvas = gaussians(40)
    silent = lambda images, cameras, moment: Criticism(torch.zeros_like(images), {})  # noqa: E731
    recipe = replace(SHORT, steps=40, terms=Terms(critic=1.0, rgb=10.0, mask=5.0))
    done = distill(canvas, silent, recipe=recipe, photo=photo())
    assert done.losses[-1] < 0.3 * done.losses[0] and set(done.critic) == {0.0}


def test_growth_follows_the_critics_pull():
    canvas = gaussians(60, 60, Growth(start=10, every=10, stop=1.0, threshold=1e-4, dense=0.05, max_scale=0.5))
    distill(canvas, sds(Knowing(), SURE), recipe=SHORT)
    assert 60 < len(canvas.gaussians) <= 400


@pytest.mark.parametrize(
    "make", [lambda: gaussians(growth=Growth(start=20, every=20)), field, lambda: field("triplane")]
)
def test_an_interrupted_run_goes_on_to_the_same_bits(make, tmp_path):
    recipe = replace(SHORT, steps=9, backgrounds="coin", terms=Terms(critic=1.0, rgb=1.0, mask=1.0, opaque=0.1))
    path = tmp_path / "state"

    def interrupt(now):
        if now.step == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        distill(make(), sds(Knowing(), SURE), recipe=recipe, photo=photo(), checkpoint=path, progress=interrupt)
    resumed, whole, steps = make(), make(), []
    a = distill(
        resumed, sds(Knowing(), SURE), recipe=recipe, photo=photo(), checkpoint=path,
        progress=lambda now: steps.append(now.step),
    )  # fmt: skip
    b = distill(whole, sds(Knowing(), SURE), recipe=recipe, photo=photo())
    assert steps == [5, 6, 7, 8, 9] and a == b
    views = [c.render(KNOWN, torch.ones(3), torch.Generator().manual_seed(0)).color for c in (resumed, whole)]
    assert torch.equal(*views)
    with pytest.raises(InputError, match="other recipe"):
        distill(make(), sds(Knowing(), SURE), recipe=replace(recipe, steps=10), photo=photo(), checkpoint=path)


def test_a_texture_too_goes_on_where_it_stopped():
    canvas, other = TextureCanvas(ball_mesh(1), size=256), TextureCanvas(ball_mesh(1), size=256)
    distill(canvas, sds(Knowing(), SURE), recipe=replace(SHORT, steps=2))
    other.restore(canvas.state())
    assert torch.equal(other.image, canvas.image)


def test_given_views_are_followed_first():
    critic = sds(Knowing(), SURE)
    cameras = orbit([0.0, 90.0, 180.0, 270.0], distance=2.0, fov_deg=40.0, size=24)
    views = Views(render_mesh(ball_mesh(), cameras, background=None, shading="unlit"), cameras)
    recipe = replace(SHORT, steps=6, supervised=4, terms=Terms(critic=1.0, rgb=10.0, mask=5.0))
    done = distill(gaussians(6), critic, recipe=recipe, given=views)
    assert critic.denoiser.asked == 2 and done.critic[:4] == (0.0,) * 4 and done.critic[4] > 0
    with pytest.raises(UsageError, match="pass given"):
        distill(gaussians(6), critic, recipe=recipe)


def test_every_loss_of_the_presets_reaches_a_field():
    canvas = field()
    terms = Terms(critic=0.0, normal=1.0, normal_3d=1.0, orient=1.0, depth=1.0, sparsity=1.0, opaque=1.0)
    for name in ("normal", "normal_3d", "orient", "depth", "sparsity", "opaque"):
        only = Terms(critic=0.0, rgb=0.0, mask=0.0, **{name: 1.0})
        recipe = replace(SHORT, steps=2, terms=only)
        before = canvas.field.parameters["density"].detach().clone()
        done = distill(canvas, sds(Knowing(), SURE), recipe=recipe, photo=photo())
        assert all(value > 0 for value in done.losses), name
        assert not torch.equal(before, canvas.field.parameters["density"]), name
    assert vars(terms).keys() == vars(Terms()).keys()


def test_many_rays_are_marched_in_parts_with_the_same_gradient(monkeypatch):
    from obverse.lifting import canvases

    found = []
    for rays in (100_000, 200):
        monkeypatch.setattr(canvases, "RAYS", rays)
        canvas = field(resolution=12)
        seen = canvas.render(KNOWN, torch.ones(3), torch.Generator().manual_seed(0))
        seen.color.square().sum().backward()
        found.append((seen.color.detach(), canvas.field.parameters["density"].grad))
    torch.testing.assert_close(found[0][0], found[1][0])
    torch.testing.assert_close(found[0][1], found[1][1], rtol=1e-4, atol=1e-5)


def test_smoothness_counts_neighbours():
    images = torch.zeros(1, 3, 3, 1)
    images[0, 1, 1] = 1.0
    assert float(roughness(images)) == pytest.approx(2 / 6 + 2 / 6)
    depth, alpha = torch.full((1, 2, 2), 3.0), torch.ones(1, 2, 2)
    depth[0, 0, 0], alpha[0, 1, 1] = 3.5, 0.0
    assert float(depth_steps(depth, alpha)) == pytest.approx(0.5)  # two pairs of surface, each half a unit apart


def test_the_blob_is_a_soft_ball():
    canvas = FieldCanvas("grid", resolution=40, half=0.75)
    points = torch.tensor([[0.0, 0, 0], [0.25, 0, 0], [0, 0.5, 0], [0, 0, 0.7]])
    wanted = torch.nn.functional.softplus(10 * (1 - points.norm(dim=-1) / 0.5))
    torch.testing.assert_close(canvas.field.density_or_sdf(points).detach(), wanted, rtol=0.05, atol=0.02)


def test_cameras_stay_where_the_recipe_says():
    generator = torch.Generator().manual_seed(0)
    drawn = torch.cat([AROUND.draw(4, 16, generator).positions for _ in range(60)])
    elevation = torch.rad2deg(torch.asin(drawn[:, 1] / 2))
    assert float(elevation.min()) >= -30.01 and float(elevation.max()) <= 60.01
    assert float(elevation.min()) < -25 and float(elevation.max()) > 55
    torch.testing.assert_close(drawn.norm(dim=-1), torch.full((240,), 2.0))
    dg = PRESETS["dreamgaussian"].around
    assert dg.elevations() == (-30.0, 30.0)
    assert replace(dg, photo_elevation_deg=20.0).elevations() == (-30.0, 50.0)
    assert replace(dg, photo_elevation_deg=-65.0).elevations() == (-80.0, 30.0)


def test_presets_stretch_with_their_schedules():
    stable = PRESETS["stable-zero123"].over(1200)
    assert [s.until for s in stable.stages] == [400, 600, 1200]
    assert stable.terms.rgb == (200, 500.0, 1000.0, 800) and stable.asking.times.low == (100, 0.7, 0.3, 400)
    assert stable.terms.normal == (200, 7.0, 5.0, 300, 10.0, 400)
    assert PRESETS["zero123-xl"].stage(250).batch == 4 and PRESETS["zero123-xl"].over(600) == PRESETS["zero123-xl"]


def test_a_framed_cutout_fills_the_share_that_is_asked_for():
    rgba = torch.zeros(100, 100, 4)
    rgba[20:60, 10:30] = torch.tensor([1.0, 0.0, 0.0, 1.0])
    found, own = framed(rgba, AROUND, fill=0.8, size=64)
    solid = (found.rgba[..., 3] > 0.5).nonzero()
    rows, columns = (solid.amax(0) - solid.amin(0) + 1).tolist()
    assert rows == pytest.approx(51, abs=1) and columns == pytest.approx(26, abs=1)
    assert solid.float().mean(0).tolist() == pytest.approx([31.5, 31.5], abs=0.6)
    # The middle of the cut-out's box is what both cameras see at the origin.
    assert own.project(torch.zeros(1, 3))[0].flatten().tolist() == pytest.approx([20.0, 40.0], abs=1e-3)
    # A point at the frame's upper edge of the box lies at the box's upper edge in the cut-out.
    up = found.camera.world_to_camera.reshape(4, 4)[:3, :3].T @ torch.tensor([0.0, -0.1, 0.0])
    v_frame, v_own = (float(c.project(up[None])[0].flatten()[1]) for c in (found.camera, own))
    assert v_own - 40 == pytest.approx((v_frame - 32) * 40 / (0.8 * 64), rel=1e-3)
    with pytest.raises(InputError, match="transparent everywhere"):
        framed(torch.zeros(8, 8, 4), AROUND, fill=0.8)


def test_numbers_that_are_not_finite_stop_the_run():
    broken = lambda images, cameras, moment: Criticism(images * float("nan"), {})  # noqa: E731
    with pytest.raises(InputError, match="step 0"):
        distill(gaussians(5), broken, recipe=replace(SHORT, steps=5))


@pytest.mark.parametrize(
    "change",
    [
        lambda: replace(SHORT, steps=0),
        lambda: replace(SHORT, stages=()),
        lambda: replace(SHORT, stages=(Stage(5, 4, 1, 24),)),
        lambda: replace(SHORT, backgrounds="pink"),
    ],
)
def test_what_cannot_be_meant_is_refused(change):
    with pytest.raises(UsageError):
        change()
