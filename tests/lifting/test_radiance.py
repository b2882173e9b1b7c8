"""Fields from views: what they learn, that both kinds are fitted alike, and what is written by hand."""

from dataclasses import replace

import pytest
import torch

from obverse.cameras import Views, orbit
from obverse.errors import InputError, UsageError
from obverse.lifting import losses
from obverse.lifting.coarse_to_fine import corners, extremes, lattice, least_densities, refine, widened
from obverse.lifting.radiance import FieldRates, FieldRecipe, FieldWeights, fit_field, variation
from obverse.render.fields import Field, SampledOnGrids
from obverse.render.learnt import EMPTY, VoxelField, beside
from obverse.render.triangles import render_mesh
from obverse.render.volume import render_field
from obverse.surface.extract import extract

from .scenes import RADIUS, ball_mesh, ball_views, over_white, without_alpha

SHORT = FieldRecipe(steps=40, rays=512, resolutions=(12, 24), grow_at=(0.4,), prune_every=20)
KINDS = ["grid", "triplane"]


@pytest.fixture(scope="module")
def views():
    return ball_views(count=8, size=40)


@pytest.fixture(scope="module", params=KINDS)
def fitted(request, views):
    return fit_field(views, kind=request.param, recipe=SHORT)


def held_out(found, size=40):
    cameras = orbit([20, 110, 250], 5.0, size=size)
    truth = over_white(render_mesh(ball_mesh(), cameras, background=None, shading="unlit"))
    return losses.psnr(found.render(cameras).color.clamp(0, 1), truth)


def same(a, b):
    ours, theirs = a.field.parameters, b.field.parameters
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_views_that_were_not_shown_look_better_than_the_start(views, fitted):
    kind = "grid" if isinstance(fitted.field, VoxelField) else "triplane"
    start = fit_field(views, kind=kind, recipe=replace(SHORT, steps=1, resolutions=(24,), grow_at=()))
    assert held_out(start) < 23
    assert held_out(fitted) > 24.5


def test_the_result_is_a_field_whose_mesh_is_the_ball(fitted):
    assert isinstance(fitted, Field) and isinstance(fitted, SampledOnGrids)
    mesh = extract(fitted, resolution=48)
    assert mesh.is_watertight
    radii = torch.from_numpy(mesh.vertices).norm(dim=-1)
    assert float(radii.mean()) == pytest.approx(RADIUS, abs=0.03)  # cells are 0.035 wide
    side = fitted.color(torch.tensor([[0.39, 0.0, 0.0], [-0.39, 0.0, 0.0]]))
    assert side[0, 0] > side[0, 2] + 0.2 and side[1, 2] > side[1, 0] + 0.2


def test_numbers_are_float32_and_without_gradients(fitted):
    for value in fitted.field.parameters.values():
        assert value.dtype == torch.float32 and not value.requires_grad
    points = torch.rand(5, 3) - 0.5
    assert fitted.density_or_sdf(points).shape == (5,) and fitted.color(points).shape == (5, 3)


def test_the_volume_renderer_sees_what_the_fit_saw(fitted):
    cameras = orbit([30.0], 10.0, size=32)
    mine = fitted.render(cameras)
    theirs = render_field(fitted, cameras, samples=96, importance=96, occupancy=fitted.occupancy)
    assert losses.psnr(mine.color, theirs.color) > 32
    assert float((mine.alpha - theirs.alpha).abs().mean()) < 0.01


def test_values_on_a_grid_have_the_sign_of_the_field(fitted):
    low, step, shape = (-0.4, -0.3, -0.2), 0.1, (8, 7, 6)
    index = torch.cartesian_prod(*(torch.arange(n) for n in shape))
    points = torch.tensor(low) + step * index
    quick, slow = fitted.on_grid(low, step, shape)(index), fitted.density_or_sdf(points) - fitted.level
    assert torch.equal(quick > 0, slow > 0) and bool((slow > 0).any()) and bool((slow < 0).any())


def test_kinds_share_the_box_and_differ_in_how_values_are_stored(views):
    brief = replace(SHORT, steps=2, resolutions=(12,), grow_at=())
    grid, planes = (fit_field(views, kind=kind, recipe=brief) for kind in KINDS)
    assert grid.bounds == planes.bounds and grid.level == planes.level and grid.cells.shape == planes.cells.shape
    assert set(grid.field.parameters) < set(planes.field.parameters)


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_seed_gives_the_same_bits_and_another_does_not(views, kind):
    brief = replace(SHORT, steps=6)
    first, again, other = (fit_field(views, kind=kind, recipe=brief, seed=seed) for seed in (1, 1, 2))
    assert same(first, again) and not same(first, other)


@pytest.mark.parametrize("kind", KINDS)
def test_an_interrupted_fit_goes_on_to_the_same_bits(views, kind, tmp_path):
    recipe = FieldRecipe(steps=220, rays=64, resolutions=(8, 12), grow_at=(0.3,), prune_every=90, plateau=0)
    path = tmp_path / "fit.state"

    def interrupt(now):
        if now.step == 210:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit_field(views, kind=kind, recipe=recipe, checkpoint=path, progress=interrupt)
    steps = []
    resumed = fit_field(views, kind=kind, recipe=recipe, checkpoint=path, progress=lambda now: steps.append(now.step))
    whole = fit_field(views, kind=kind, recipe=recipe)
    assert steps == [210, 220]
    assert same(resumed, whole) and resumed.losses == whole.losses and torch.equal(resumed.cells, whole.cells)
    with pytest.raises(InputError, match="other seed"):
        fit_field(views, kind=kind, recipe=recipe, checkpoint=path, seed=9)


def test_pictures_without_alpha_are_fitted_too(views):
    recipe = replace(SHORT, steps=120, resolutions=(16,), grow_at=())
    found = fit_field(without_alpha(views), kind="grid", recipe=recipe)
    assert held_out(found) > 17 and sum(found.losses[-10:]) < 0.5 * sum(found.losses[:10])


def test_it_stops_on_a_plateau(views):
    still = replace(SHORT, steps=500, rates=FieldRates(0, 0, 0, 0), resolutions=(12,), grow_at=(), patience=30)
    found = fit_field(views, kind="grid", recipe=still)
    assert found.stopped == "plateau" and 30 <= found.steps < 300


def test_progress_reports_live_numbers(views):
    seen = []
    fit_field(views, kind="grid", recipe=replace(SHORT, steps=25), progress=seen.append)
    assert [now.step for now in seen] == [10, 20, 25] and [now.resolution for now in seen] == [24, 24, 24]
    assert all(now.loss > 0 and now.psnr_db > 5 and now.samples > 0 and now.seconds > 0 for now in seen)


def test_variation_is_the_mean_square_of_neighbours_differences():
    table = torch.tensor([[0.0], [1.0], [3.0]])
    pairs = beside(torch.tensor([1, 2], dtype=torch.int32))
    assert pairs.tolist() == [[1, 2], [2, 2]]  # the last has no neighbour but itself
    assert float(variation(table, pairs[:1], 0.7)) == 4.0


def test_cells_and_their_corners():
    cells = torch.zeros(3, 3, 3, dtype=torch.bool)
    cells[1, 1, 1] = True
    assert int(widened(cells).sum()) == 27 and int(corners(cells).sum()) == 8
    nodes = torch.arange(27.0).reshape(3, 3, 3)
    least, greatest = extremes(nodes)
    assert least[0, 0, 0] == 0 and greatest[0, 0, 0] == 13 and least.shape == (2, 2, 2)


def test_a_finer_lattice_holds_the_box_in_cubes():
    low, step, counts = lattice(((-0.5, -0.25, 0.0), (0.5, 0.25, 0.1)), 10)
    assert step == pytest.approx(0.1) and counts == (11, 6, 2)
    assert low == pytest.approx((-0.5, -0.25, 0.0))


def test_a_finer_field_answers_as_the_coarser_did(fitted):
    coarse, box = fitted.field, fitted.bounds
    counts = lattice(box, 46)[2]
    fine = refine(coarse, box, 46, torch.ones(*(n - 1 for n in counts), dtype=torch.bool))
    points = 0.7 * (torch.rand(200, 3, generator=torch.Generator().manual_seed(0)) - 0.5)
    close = (fine.raw_density(points) - coarse.raw_density(points)).abs()
    assert float(close.median()) < 0.15 and fine.step < coarse.step


def test_emptied_cells_stay_out_and_hidden_ones_say_how_dense_they_are():
    index = torch.arange(1, 28, dtype=torch.int32).reshape(3, 3, 3)
    table = torch.full((28, 1), EMPTY)
    table[1:] = 2.0
    made = VoxelField({"density": table, "color": torch.zeros(28, 3)}, (0.0, 0.0, 0.0), 0.5, (3, 3, 3), index=index)
    cells = torch.ones(2, 2, 2, dtype=torch.bool)
    cells[0, 0, 0] = False
    least = least_densities(made, cells)
    assert float(least[0, 0, 0]) == -1 and float(least[1, 1, 1]) == pytest.approx(212.69, abs=0.1)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda v: fit_field(v, kind="hash"), UsageError, "'grid' or 'triplane'"),
        (lambda v: fit_field(Views(v.images[:3], v.cameras), kind="grid"), InputError, "one camera each"),
        (lambda v: fit_field(Views(v.images[:, :20], v.cameras), kind="grid"), InputError, "agree"),
        (lambda v: fit_field(Views(v.images * float("nan"), v.cameras), kind="grid"), InputError, "not finite"),
        (lambda v: FieldRecipe(steps=0), UsageError, "steps is 0"),
        (lambda v: FieldRecipe(resolutions=(64, 32), grow_at=(0.5,)), UsageError, "ascend"),
        (lambda v: FieldRecipe(grow_at=(0.5,)), UsageError, "one ascending share"),
    ],
)
def test_what_cannot_be_meant_is_refused(views, change, error, message):
    with pytest.raises(error, match=message):
        change(views)


def test_pictures_of_nothing_are_refused(views):
    white = torch.ones(8, 40, 40, 3)
    recipe = replace(SHORT, steps=300, resolutions=(8,), grow_at=(), weights=FieldWeights(entropy=0, mask=0))
    recipe = replace(recipe, rates=FieldRates(density=1.0, color=1e-6), plateau=0)
    with pytest.raises(InputError, match="nothing is left"):
        fit_field(Views(white, views.cameras), kind="grid", recipe=recipe)
