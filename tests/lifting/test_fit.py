"""Fitting: it finds what was there, keeps its promises about number and seed, and survives an interruption."""

from dataclasses import replace

import pytest
import torch

from obverse.cameras import Views, orbit
from obverse.errors import InputError, UsageError
from obverse.gaussians import prune
from obverse.lifting import losses
from obverse.lifting.carve import carve, hull_gaussians
from obverse.lifting.fit import Growth, Hints, Rates, Recipe, Weights, fit, random_start
from obverse.render.splats import render

from .scenes import ball_mesh, ball_views, over_white, spot, without_alpha

SHORT = Recipe(steps=40, growth=Growth(start=10, every=10, threshold=1e-5))
RELOCATE = replace(SHORT, growth=Growth(strategy="relocate", start=10, every=10))


@pytest.fixture(scope="module")
def views():
    return ball_views()


@pytest.fixture(scope="module")
def start(views):
    return hull_gaussians(carve(views, resolution=24), views, count=200)


def same(a, b):
    return all(torch.equal(getattr(a, n), getattr(b, n)) for n in ("means", "quats", "scales", "opacities", "sh"))


def fell(fitted, views=8):
    """Loss of the last round over all views, as a share of the first round's."""
    return sum(fitted.losses[-views:]) / sum(fitted.losses[:views])


def held_out(gaussians, size=40):
    from obverse.render.triangles import render_mesh

    cameras = orbit([20, 110, 250], 5.0, size=size)
    truth = over_white(render_mesh(ball_mesh(), cameras, background=None, shading="unlit"))
    return losses.psnr(render(gaussians, cameras).color.clamp(0, 1), truth)


def test_fitting_improves_views_that_were_not_shown(views, start):
    fitted = fit(views, start, gaussians=300, recipe=replace(SHORT, steps=120))
    assert held_out(fitted.gaussians) > held_out(start) + 1
    assert fell(fitted) < 0.7


def test_a_random_start_finds_the_ball(views):
    fitted = fit(
        views, random_start(300), gaussians=400, recipe=replace(SHORT, steps=150, rates=Rates(means=(4e-3, 4e-4)))
    )
    assert held_out(fitted.gaussians) > 20


def test_pictures_without_alpha_are_fitted_too(views, start):
    fitted = fit(without_alpha(views), start, gaussians=200, recipe=SHORT)
    assert fell(fitted) < 0.8


@pytest.mark.parametrize("recipe", [SHORT, RELOCATE])
def test_the_number_of_gaussians_grows_to_the_cap_and_not_beyond(views, start, recipe):
    counts = []
    fit(views, start, gaussians=215, recipe=recipe, progress=lambda p: counts.append(p.gaussians))
    assert max(counts) == 215


@pytest.mark.parametrize("recipe", [SHORT, RELOCATE])
def test_the_same_seed_gives_the_same_bits_and_another_does_not(views, start, recipe):
    first, again, other = (fit(views, start, gaussians=230, recipe=recipe, seed=s).gaussians for s in (1, 1, 2))
    assert same(first, again) and not same(first, other)


@pytest.mark.parametrize("strategy", ["clone-split", "relocate"])
def test_an_interrupted_fit_goes_on_to_the_same_bits(views, start, strategy, tmp_path):
    recipe = Recipe(steps=230, growth=Growth(strategy=strategy, start=50, every=50, threshold=1e-5), plateau=0)
    options = {"gaussians": 215, "recipe": recipe, "seed": 5}
    path = tmp_path / "fit.state"

    def interrupt(progress):
        if progress.step == 210:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(views, start, checkpoint=path, progress=interrupt, **options)
    assert path.exists()
    steps = []
    resumed = fit(views, start, checkpoint=path, progress=lambda p: steps.append(p.step), **options)
    whole = fit(views, start, **options)
    assert steps == [210, 220, 230]
    assert same(resumed.gaussians, whole.gaussians) and resumed.losses == whole.losses


def test_a_checkpoint_of_another_fit_is_refused(views, start, tmp_path):
    from obverse.lifting.checkpoint import load_state, save_state

    save_state(tmp_path / "state", {"step": 3}, {"seed": 1, "gaussians": 5})
    assert load_state(tmp_path / "state", {"seed": 1, "gaussians": 5}) == {"step": 3}
    with pytest.raises(InputError, match="other gaussians"):
        load_state(tmp_path / "state", {"seed": 1, "gaussians": 6})
    (tmp_path / "state").write_bytes(b"PK nonsense")
    with pytest.raises(InputError, match="not a checkpoint"):
        load_state(tmp_path / "state", {})


def test_it_stops_on_a_plateau(views):
    still = replace(SHORT, steps=500, rates=Rates((1e-12, 1e-12), 0, 0, 0, 0), patience=30, growth=Growth("none"))
    fitted = fit(views, spot(), recipe=still)
    assert fitted.stopped == "plateau" and 30 <= fitted.steps < 120


def test_progress_reports_live_numbers(views, start):
    seen = []
    fit(views, start, gaussians=200, recipe=replace(SHORT, steps=25), progress=seen.append)
    assert [p.step for p in seen] == [10, 20, 25]
    assert all(p.steps == 25 and p.loss > 0 and p.psnr_db > 5 and p.seconds > 0 for p in seen)


def test_depth_hints_pull_gaussians_to_their_depth():
    cameras = orbit([0.0], size=24, distance=3.0)
    gaussian = spot(1, scale=0.3, opacity=0.95)
    views = Views(render(gaussian, cameras).color.detach(), cameras)
    recipe = Recipe(
        steps=60, plateau=0, weights=Weights(depth=5.0), growth=Growth("none"), rates=Rates((0.01, 0.01), 0, 0, 0, 0)
    )
    hints = Hints(depths=torch.full((1, 24, 24), 2.7))
    fitted = fit(views, gaussian, recipe=recipe, hints=hints).gaussians
    assert float(fitted.means[0, 2]) == pytest.approx(0.3, abs=0.05)


def test_normal_hints_turn_discs():
    cameras = orbit([0.0], size=24, distance=3.0)
    disc = spot(1, opacity=0.9)
    disc = replace(disc, scales=torch.tensor([[0.3, 0.3, 0.01]]), quats=torch.tensor([[0.95, 0.0, 0.31, 0.0]]))
    views = Views(render(disc, cameras).color.detach(), cameras)
    recipe = Recipe(
        steps=80, plateau=0, weights=Weights(ssim=0, normal=5.0), growth=Growth("none"),
        rates=Rates((1e-9, 1e-9), 0, 0, 0, 0.02),
    )  # fmt: skip
    target = torch.tensor([0.0, 0, 1]).expand(1, 24, 24, 3)
    fitted = fit(views, disc, recipe=recipe, hints=Hints(normals=target)).gaussians
    assert abs(float(fitted.quats[0, 2])) < 0.1


def test_higher_harmonics_are_fitted_when_asked_for(views, start):
    fitted = fit(views, start, gaussians=200, recipe=replace(SHORT, sh_degree=1)).gaussians
    assert fitted.sh_degree == 1 and float(fitted.sh[:, 1:].abs().max()) > 0


def test_results_are_unit_finite_and_visible(views, start):
    fitted = fit(views, start, gaussians=300, recipe=SHORT).gaussians
    torch.testing.assert_close(fitted.quats.norm(dim=-1), torch.ones(len(fitted)))
    assert len(prune(fitted)) == len(fitted) and not fitted.means.requires_grad


def test_resets_lower_every_opacity(views, start):
    recipe = Recipe(steps=20, growth=Growth(start=10, every=10, reset_every=10, stop=0.5, threshold=1.0))
    seen = []
    fit(views, start, gaussians=200, recipe=recipe, progress=lambda p: seen.append(p.psnr_db))
    calm = replace(recipe, growth=replace(recipe.growth, reset_every=1000))
    kept = []
    fit(views, start, gaussians=200, recipe=calm, progress=lambda p: kept.append(p.psnr_db))
    assert seen[1] < kept[1] - 3


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda v, s: fit(v, s, gaussians=100), UsageError, "raise the cap"),
        (lambda v, s: fit(v, s, gaussians=0), UsageError, "at least 1"),
        (lambda v, s: fit(Views(v.images[:3], v.cameras), s), InputError, "one camera each"),
        (lambda v, s: fit(Views(v.images[:, :20], v.cameras), s), InputError, "agree"),
        (lambda v, s: fit(Views(v.images * float("nan"), v.cameras), s), InputError, "not finite"),
        (lambda v, s: fit(v, s, hints=Hints(depths=torch.zeros(2, 3, 3))), InputError, r"hints\.depths"),
        (lambda v, s: Recipe(steps=0), UsageError, "steps is 0"),
        (lambda v, s: Recipe(growth=Growth("both")), UsageError, "clone-split"),
    ],
)
def test_what_cannot_be_meant_is_refused(views, start, change, error, message):
    with pytest.raises(error, match=message):
        change(views, start)
