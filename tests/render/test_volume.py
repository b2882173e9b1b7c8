"""Volume rendering: closed forms, convergence, gradients, and what is refused."""

import math
from dataclasses import replace

import pytest
import torch

from obverse.cameras import Cameras, orbit
from obverse.errors import InputError, UsageError
from obverse.render.fields import CallableField, Field, GridField
from obverse.render.volume import (
    LaplaceDensity,
    camera_rays,
    cell_edges,
    compositing_weights,
    intersect_box,
    occupancy_grid,
    render_field,
    resample,
    stratified,
    widened,
)

CUBE = ((-0.5,) * 3, (0.5,) * 3)


def precise(cameras):
    return Cameras(cameras.world_to_camera.double(), cameras.intrinsics.double(), cameras.width, cameras.height)


def density(value, *, rgb=None, bounds=CUBE):
    return CallableField(value, rgb, kind="density", bounds=bounds)


def ball(radius=0.3, sigma=1e4):
    return density(lambda p: sigma * (p.norm(dim=-1) < radius))


def shell(radius=0.35, thick=0.03, sigma=30.0):
    return density(lambda p: sigma * ((p.norm(dim=-1) - radius).abs() < thick / 2))


class Counting:
    """A field that remembers how often it was asked."""

    def __init__(self, field):
        self.field, self.kind, self.level, self.bounds = field, field.kind, field.level, field.bounds
        self.densities = self.colors = 0

    def density_or_sdf(self, points):
        self.densities += len(points)
        return self.field.density_or_sdf(points)

    def color(self, points):
        self.colors += len(points)
        return self.field.color(points)


# Rays and boxes


def test_rays_pass_through_the_pixels_centres():
    cameras = orbit([0.0, 70.0], [10.0, -40.0], size=(5, 4))
    origins, directions = camera_rays(cameras)
    assert origins.shape == directions.shape == (2, 4, 5, 3)
    v, u = torch.meshgrid(torch.arange(4) + 0.5, torch.arange(5) + 0.5, indexing="ij")
    for view in range(2):
        points = (origins + 1.7 * directions)[view].reshape(-1, 3)
        pixels, depth = cameras[view].project(points)
        torch.testing.assert_close(pixels, torch.stack([u, v], -1).reshape(-1, 2), atol=1e-4, rtol=0)
        torch.testing.assert_close(depth, torch.full((20,), 1.7))


def test_a_ray_meets_a_box_where_it_should_and_nothing_behind_it():
    box = torch.tensor([[-1.0, -1.0, -1.0], [1.0, 1.0, 1.0]])
    origins = torch.tensor([[0.0, 0, -3], [0, 0, 0], [0, 0, 3], [0, 2, -3], [0, 0, -3]])
    directions = torch.tensor([[0.0, 0, 1], [0, 0, 1], [0, 0, 1], [0, 0, 1], [0.1, 0, 1]])
    near, far = intersect_box(origins, directions, box)
    assert (far > near).tolist() == [True, True, False, False, True]  # ahead, inside, behind, beside, oblique
    torch.testing.assert_close(near[[0, 1, 4]], torch.tensor([2.0, 0.0, 2.0]))
    torch.testing.assert_close(far[[0, 1, 4]], torch.tensor([4.0, 1.0, 4.0]))


# Samples and weights


def test_samples_without_jitter_are_the_middles_of_equal_parts():
    near, far = torch.tensor([1.0]), torch.tensor([3.0])
    t = stratified(near, far, 4)
    torch.testing.assert_close(t, torch.tensor([[1.25, 1.75, 2.25, 2.75]]))
    torch.testing.assert_close(cell_edges(t, near, far), torch.tensor([[1.0, 1.5, 2.0, 2.5, 3.0]]))


def test_jittered_samples_stay_in_their_parts():
    jitter = torch.rand(50, 8, generator=torch.Generator().manual_seed(0))
    t = stratified(torch.zeros(50), torch.full((50,), 8.0), 8, jitter)
    assert torch.equal(t.floor(), torch.arange(8.0).expand(50, 8))
    assert t.frac().std() > 0.2


def test_weights_are_what_absorption_leaves():
    # optical depths ln 2, ln 4, 0: half is stopped, then 3/4 of the rest, then nothing
    weights = compositing_weights(torch.tensor([[math.log(2), math.log(2), 0.0]]), torch.tensor([[1.0, 2.0, 5.0]]))
    torch.testing.assert_close(weights, torch.tensor([[0.5, 0.375, 0.0]]))


def test_nothing_is_seen_behind_an_opaque_sample_and_what_is_before_it_is_kept():
    weights = compositing_weights(torch.tensor([0.5, 1e30, 7.0]), torch.ones(3))
    torch.testing.assert_close(weights, torch.tensor([1 - math.exp(-0.5), math.exp(-0.5), 0.0]))


def test_resampling_inverts_the_cumulative_function():
    edges = torch.tensor([[0.0, 1.0, 3.0, 4.0]])
    # shares 0, 3/4, 1/4; eight places at 1/16, 3/16, …: six in [1, 3], two in [3, 4]
    t = resample(edges, torch.tensor([[0.0, 3.0, 1.0]]), 8)
    expected = [1 + 2 * (i + 0.5) / 6 for i in range(6)] + [3.25, 3.75]
    torch.testing.assert_close(t, torch.tensor([expected]))


def test_resampling_no_weight_at_all_treats_steps_alike():
    t = resample(torch.tensor([[0.0, 1.0, 2.0]]), torch.zeros(1, 2), 4)
    torch.testing.assert_close(t, torch.tensor([[0.25, 0.75, 1.25, 1.75]]))


def test_widened_weights_reach_neighbours_and_are_nowhere_zero():
    wide = widened(torch.tensor([[0.0, 0.0, 1.0, 0.0, 0.0]]))
    torch.testing.assert_close(wide, torch.tensor([[0.0, 0.5, 1.0, 0.5, 0.0]]) + 0.01)


# Closed forms


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("importance", [0, 7])
@pytest.mark.parametrize("seed", [None, 3])
def test_a_slab_of_constant_density_absorbs_by_the_length_of_the_way_through_it(dtype, importance, seed):
    sigma, thick = 3.0, 0.25
    slab = density(
        lambda p: torch.full_like(p[:, 0], sigma),
        rgb=lambda p: p.new_tensor([0.2, 0.4, 0.6]).expand_as(p),
        bounds=((-9.0, -9.0, -thick / 2), (9.0, 9.0, thick / 2)),
    )
    cameras = orbit([0.0, 20.0], 15.0, size=6, distance=2.0)
    cameras = precise(cameras) if dtype == torch.float64 else cameras
    generator = None if seed is None else torch.Generator().manual_seed(seed)
    seen = render_field(
        slab, cameras, samples=5, importance=importance, generator=generator, background=(1.0, 0.0, 0.5)
    )
    _, directions = camera_rays(cameras)
    way = thick * directions.norm(dim=-1) / directions[..., 2].abs()
    alpha = 1 - torch.exp(-sigma * way)
    assert seen.alpha.dtype == dtype
    torch.testing.assert_close(seen.alpha, alpha)
    solid, paper = torch.tensor([0.2, 0.4, 0.6], dtype=dtype), torch.tensor([1.0, 0.0, 0.5], dtype=dtype)
    torch.testing.assert_close(seen.color, alpha[..., None] * solid + (1 - alpha[..., None]) * paper)


def test_an_opaque_balls_depth_and_outline_are_those_of_geometry():
    radius = 0.3
    cameras = precise(orbit([0.0, 130.0], [0.0, 30.0], size=24, distance=1.5))
    seen = render_field(ball(radius), cameras, samples=128, importance=128)
    origins, directions = camera_rays(cameras)
    # |o + t d|² = r², a quadratic in t
    a, b = (directions**2).sum(-1), (origins * directions).sum(-1)
    inside = b**2 - a * ((origins**2).sum(-1) - radius**2)
    closest = ((origins**2).sum(-1) - b**2 / a).clamp_min(0).sqrt()
    clear = (closest - radius).abs() > 0.003  # grazing rays cross less of the ball than samples lie apart
    hit = inside > 0
    assert 100 < int(hit[0].sum()) < 24 * 24 - 100
    torch.testing.assert_close(seen.alpha[clear], hit[clear].double(), atol=1e-6, rtol=0)
    depth = ((-b - inside.clamp_min(0).sqrt()) / a)[hit & clear]
    torch.testing.assert_close(seen.depth[hit & clear], depth, atol=0.005, rtol=0)
    assert bool(torch.isinf(seen.depth[~hit & clear]).all())


def test_a_laplace_density_of_small_beta_is_the_distance_fields_solid():
    radius = 0.3
    sdf = CallableField(lambda p: p.norm(dim=-1) - radius, bounds=CUBE)
    field = LaplaceDensity(sdf, beta=0.002)
    assert isinstance(field, Field)
    axis = torch.tensor([[radius, 0, 0], [radius + 0.01, 0, 0], [radius - 0.01, 0, 0]])
    half = 0.5 * math.exp(-5.0)  # 0.01 is five betas
    torch.testing.assert_close(
        field.density_or_sdf(axis), torch.tensor([250.0, 500 * half, 500 * (1 - half)]), rtol=1e-3, atol=0
    )
    assert field.level == 250.0
    seen = render_field(field, orbit(0.0, size=9, distance=1.5))
    assert seen.alpha[0, 4, 4] == pytest.approx(1, abs=1e-5)
    assert seen.depth[0, 4, 4] == pytest.approx(1.5 - radius, abs=0.005)


def test_importance_sampling_of_a_thin_shell_converges_faster_than_stratified():
    cameras = precise(orbit(20.0, 10.0, size=16, distance=1.5))
    origins, directions = camera_rays(cameras)
    beside = (origins**2).sum(-1) - ((origins * directions).sum(-1) / directions.norm(dim=-1)) ** 2

    def chord(radius):
        return 2 * (radius**2 - beside).clamp_min(0).sqrt()

    exact = 1 - torch.exp(-30.0 * (chord(0.365) - chord(0.335)))
    assert float(exact.amax()) > 0.8

    def error(samples, importance):
        seen = render_field(shell(), cameras, samples=samples, importance=importance)
        return float((seen.alpha - exact).abs().mean())

    stratified_errors = [error(n, 0) for n in (128, 256, 512)]
    importance_errors = [error(64, n - 64) for n in (128, 256, 512)]  # as many questions
    assert stratified_errors[0] < 0.02
    for with_importance, without in zip(importance_errors, stratified_errors, strict=True):
        assert with_importance < 0.6 * without


def test_half_the_field_behind_the_camera_is_not_seen():
    fog = density(lambda p: torch.full_like(p[:, 0], 2.0))
    matrix = torch.eye(4)  # at the centre of the box, looking along +Z
    cameras = Cameras(matrix, torch.tensor([[1e3, 0, 0.5], [0, 1e3, 0.5], [0, 0, 1.0]]), 1, 1)
    seen = render_field(fog, cameras)
    torch.testing.assert_close(seen.alpha, torch.tensor([[[1 - math.exp(-2.0 * 0.5)]]]))


# What is not asked


def test_rays_that_miss_show_the_background_and_ask_nothing():
    away = orbit(0.0, size=4)
    turned = Cameras(torch.diag(torch.tensor([-1.0, 1, -1, 1])) @ away.world_to_camera, away.intrinsics, 4, 4)
    field = Counting(ball())
    seen = render_field(field, turned, background=(0.1, 0.2, 0.3))
    assert field.densities == field.colors == 0
    torch.testing.assert_close(seen.color, torch.tensor([0.1, 0.2, 0.3]).expand(1, 4, 4, 3))
    assert bool((seen.alpha == 0).all() and torch.isinf(seen.depth).all())


def test_skipping_by_occupancy_changes_nothing_but_how_much_is_asked():
    center = torch.tensor([0.2, -0.05, 0.1])
    field = density(lambda p: 30.0 * ((p - center).norm(dim=-1) < 0.15), bounds=((-0.5, -0.4, -0.2), (0.5, 0.2, 0.3)))
    cameras = orbit([0.0, 77.0], 20.0, size=10)
    every, fewer = Counting(field), Counting(field)
    whole = render_field(every, cameras)
    cells = occupancy_grid(field, 16)
    skipped = render_field(fewer, cameras, occupancy=cells)
    for name in ("color", "alpha", "depth"):
        assert torch.equal(getattr(whole, name), getattr(skipped, name))
    assert 0 < fewer.densities < 0.7 * every.densities
    assert 0 < fewer.colors < every.colors


def test_an_occupancy_grid_covers_every_point_that_holds_something():
    field = replace(ball(0.2), bounds=((-0.5, -0.3, -0.25), (0.5, 0.3, 0.25)))
    cells = occupancy_grid(field, 20)
    assert cells.shape == (20, 12, 10)
    assert 0 < int(cells.sum()) < cells.numel()
    low, high = (torch.tensor(side) for side in field.bounds)
    points = low + (high - low) * torch.rand(20000, 3, generator=torch.Generator().manual_seed(1))
    solid = points[field.density_or_sdf(points) > 0]
    assert len(solid) > 1000
    x, y, z = ((solid - low) / (high - low) * torch.tensor(cells.shape)).long().unbind(-1)
    assert bool(cells[x, y, z].all())


def test_what_one_sample_found_is_grown_by_a_cell_each_way():
    center = torch.tensor([-0.1875, 0.0625, 0.3125])  # the middle of cell (2, 4, 6) of 8
    cells = occupancy_grid(density(lambda p: 1.0 * ((p - center).abs().amax(-1) < 0.02)), 8)
    expected = torch.zeros(8, 8, 8, dtype=torch.bool)
    expected[1:4, 3:6, 5:8] = True
    assert torch.equal(cells, expected)


def test_a_speck_smaller_than_any_cell_is_not_missed_where_distances_are_known():
    # distance to a point between the samples: a density no sample comes near
    center = torch.tensor([0.031, 0.033, 0.029])
    field = LaplaceDensity(CallableField(lambda p: (p - center).norm(dim=-1) - 1e-3, bounds=CUBE), beta=1e-4)
    cells = occupancy_grid(field, 8)
    assert bool(cells[4, 4, 4])
    assert not bool(cells[0, 0, 0])


def test_without_gradients_colours_are_asked_only_where_they_are_seen():
    field = Counting(ball())
    cameras = orbit(0.0, size=6)
    with torch.no_grad():
        plain = render_field(field, cameras)
    few = field.colors
    again = render_field(field, cameras)
    assert torch.equal(plain.color, again.color)
    assert 0 < few < 0.1 * (field.colors - few)


# Repetition


def test_without_a_generator_the_image_is_the_same_every_time():
    first, second = (render_field(shell(), orbit(0.0, size=8)) for _ in range(2))
    assert torch.equal(first.color, second.color)


def test_a_generator_gives_the_same_image_again_and_another_seed_another():
    def image(seed):
        return render_field(shell(), orbit(0.0, size=8), generator=torch.Generator().manual_seed(seed)).alpha

    assert torch.equal(image(5), image(5))
    assert not torch.equal(image(5), image(6))


def test_jittered_images_agree_with_the_truth_on_average():
    cameras = precise(orbit(0.0, size=4, distance=1.5))
    field = density(lambda p: 4 * torch.exp(-20 * (p**2).sum(-1)))
    truth = render_field(field, cameras, samples=2048, importance=0).alpha
    generator = torch.Generator().manual_seed(0)
    mean = torch.stack([render_field(field, cameras, samples=8, generator=generator).alpha for _ in range(64)]).mean(0)
    assert float(truth.max()) > 0.5
    torch.testing.assert_close(mean, truth, atol=2e-3, rtol=0)


@pytest.mark.parametrize("seed", [None, 9])
def test_chunks_change_neither_image_nor_gradient(seed):
    cameras = precise(orbit([0.0, 40.0], size=7))
    values = torch.rand(4, 4, 4, generator=torch.Generator().manual_seed(2), dtype=torch.float64).requires_grad_()
    results = []
    for chunk in (10**6, 13):
        generator = None if seed is None else torch.Generator().manual_seed(seed)
        field = GridField(values, (-0.5,) * 3, 1 / 3)
        seen = render_field(field, cameras, samples=6, importance=6, generator=generator, chunk=chunk)
        (slope,) = torch.autograd.grad((seen.color**2).sum(), values)
        results.append((seen.color, slope))
    assert float(results[0][1].abs().max()) > 0.01
    torch.testing.assert_close(results[0], results[1])


# Gradients


def test_gradients_are_those_of_finite_differences_in_field_cameras_and_background():
    cameras = precise(orbit(10.0, 20.0, size=3, distance=1.6))
    draw = torch.Generator().manual_seed(4)
    values = torch.rand(2, 3, 2, generator=draw, dtype=torch.float64)
    colors = torch.rand(2, 3, 2, 3, generator=draw, dtype=torch.float64) * 0.8 + 0.1
    paper = torch.tensor([0.3, 0.6, 0.9], dtype=torch.float64)

    def image(values, colors, matrix, paper):
        field = GridField(values * 3, (-0.4, -0.5, -0.4), 0.8, colors=colors)
        moved = Cameras(matrix, cameras.intrinsics, 3, 3)
        seen = render_field(field, moved, background=paper, samples=7, importance=0, chunk=4)
        return seen.color, seen.alpha, seen.depth.nan_to_num(posinf=0.0)

    given = (values, colors, cameras.world_to_camera, paper)
    assert torch.autograd.gradcheck(image, [g.clone().requires_grad_() for g in given])


def test_colours_have_exact_gradients_with_importance_sampling_too():
    cameras = precise(orbit(10.0, 20.0, size=3, distance=1.6))

    def image(colors):
        field = GridField(torch.ones(2, 2, 2, dtype=torch.float64), (-0.5,) * 3, 1.0, colors=colors)
        return render_field(field, cameras, samples=3, importance=4).color

    assert torch.autograd.gradcheck(image, torch.full((2, 2, 2, 3), 0.5, dtype=torch.float64, requires_grad=True))


def test_no_gradient_flows_through_where_importance_samples_are_placed():
    scale, asked = torch.tensor(3.0, requires_grad=True), []

    def value(points):
        asked.append(points.requires_grad)
        return scale * torch.exp(-9 * (points**2).sum(-1))

    render_field(density(value), orbit(0.0, size=3)).alpha.sum().backward()
    assert asked == [False, False]
    assert float(scale.grad) > 0


def test_beta_is_learned_through_the_image():
    cameras = precise(orbit(0.0, size=3))

    def image(beta, radius):
        sdf = CallableField(lambda p: p.norm(dim=-1) - radius, bounds=CUBE)
        return render_field(LaplaceDensity(sdf, beta), cameras, samples=9, importance=0).alpha

    given = [torch.tensor(x, dtype=torch.float64, requires_grad=True) for x in (0.2, 0.3)]
    assert torch.autograd.gradcheck(image, given)


def test_fitting_a_grid_to_its_own_pictures_lowers_the_difference():
    cameras = orbit([0.0, 90.0], size=8)
    axis = torch.linspace(-0.5, 0.5, 6)
    x, y, z = torch.meshgrid(axis, axis, axis, indexing="ij")
    solid = 20.0 * ((x**2 + y**2 + z**2) < 0.1)

    def look(values):
        return render_field(GridField(values, (-0.5,) * 3, 0.2), cameras, samples=16, importance=16).alpha

    target, values = look(solid), torch.ones(6, 6, 6, requires_grad=True)
    steps = torch.optim.Adam([values], lr=0.3)
    losses = []
    for _ in range(25):
        loss = ((look(values) - target) ** 2).mean()
        steps.zero_grad()
        loss.backward()
        steps.step()
        losses.append(loss.item())
    assert losses[-1] < 0.1 * losses[0]


# What is refused


def test_distances_are_not_taken_for_densities():
    sdf = CallableField(lambda p: p.norm(dim=-1) - 0.3)
    for ask in (lambda: render_field(sdf, orbit(0.0, size=4)), lambda: occupancy_grid(sdf, 4)):
        with pytest.raises(InputError, match=r"wrap distances as LaplaceDensity"):
            ask()
    with pytest.raises(InputError, match="render a density as it is"):
        LaplaceDensity(ball(), 0.1)


@pytest.mark.parametrize("beta", [0.0, -1.0, math.nan, math.inf, torch.ones(2)])
def test_a_beta_that_is_no_width_is_refused(beta):
    with pytest.raises(UsageError, match="beta"):
        LaplaceDensity(CallableField(lambda p: p[:, 0]), beta)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_values_that_are_not_finite_are_named_with_their_place(bad):
    broken = density(lambda p: torch.where(p[:, 0] > 0, bad, 1.0))
    for ask in (lambda: render_field(broken, orbit(0.0, size=4)), lambda: occupancy_grid(broken, 4)):
        with pytest.raises(InputError, match=r"density is NaN or infinite at \d+ of \d+ points, first at \(0\."):
            ask()
    with pytest.raises(InputError, match="colour is NaN"):
        render_field(density(lambda p: torch.ones(len(p)), rgb=lambda p: p * bad), orbit(0.0, size=4))


def test_answers_of_the_wrong_shape_are_refused():
    with pytest.raises(InputError, match=r"density of \d+ points is \[\d+, 1\], it must be \[\d+\]"):
        render_field(density(lambda p: p[:, :1]), orbit(0.0, size=4))


def test_negative_densities_are_empty():
    seen = render_field(density(lambda p: torch.full_like(p[:, 0], -5.0)), orbit(0.0, size=4))
    assert bool((seen.alpha == 0).all() and (seen.color == 1).all())


@pytest.mark.parametrize(
    "option",
    [{"samples": 0}, {"samples": 2.5}, {"importance": -1}, {"chunk": 0}, {"samples": True}],
    ids=str,
)
def test_counts_that_cannot_be_meant_are_refused(option):
    with pytest.raises(UsageError, match=f"{next(iter(option))} is "):
        render_field(ball(), orbit(0.0, size=4), **option)


def test_arrays_that_do_not_fit_are_refused():
    cameras = orbit(0.0, size=4)
    with pytest.raises(InputError, match="background"):
        render_field(ball(), cameras, background=torch.ones(2))
    for wrong in (torch.ones(4, 4, 4), torch.ones(4, 4, dtype=torch.bool), torch.ones(0, 4, 4, dtype=torch.bool)):
        with pytest.raises(InputError, match="occupancy"):
            render_field(ball(), cameras, occupancy=wrong)
    with pytest.raises(InputError, match="bounds"):
        render_field(replace(ball(), bounds=((0.0,) * 3, (0.0,) * 3)), cameras)
    with pytest.raises(InputError, match="NaN or infinite"):
        render_field(ball(), Cameras(cameras.world_to_camera * math.nan, cameras.intrinsics, 4, 4))
    with pytest.raises(InputError, match="too coarse"):
        render_field(ball(), Cameras(cameras.world_to_camera.half(), cameras.intrinsics.half(), 4, 4))
    with pytest.raises(InputError, match="cannot be inverted"):
        render_field(ball(), Cameras(cameras.world_to_camera, cameras.intrinsics * 0, 4, 4))
    with pytest.raises(InputError, match="no cameras"):
        render_field(ball(), cameras[:0])
