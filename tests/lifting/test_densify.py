"""Growing: what is added, where it comes from, and that pictures survive it."""

import math

import pytest
import torch

from obverse.cameras import orbit
from obverse.lifting import densify
from obverse.lifting.fit import gaussians_of, parameters_of
from obverse.render.splats import render

from .scenes import spot


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def grow(parameters, pull, **options):
    options = {"threshold": 1.0, "dense": 0.05, "cap": 100, "generator": seeded(), **options}
    return densify.clone_and_split(parameters, torch.tensor(pull), **options)


def test_small_gaussians_that_are_pulled_are_cloned_as_they_are():
    parameters = parameters_of(spot(3, scale=0.01), 0)
    new, order = grow(parameters, [0.0, 2.0, 0.5])
    assert order.source.tolist() == [0, 1, 2, 1] and order.fresh.tolist() == [False, False, False, True]
    assert all(torch.equal(new[name], parameters[name][order.source]) for name in parameters)


def test_large_gaussians_that_are_pulled_are_split_into_smaller_ones():
    parameters = parameters_of(spot(3, scale=0.1), 0)
    new, order = grow(parameters, [0.0, 2.0, 0.5])
    assert order.source.tolist() == [0, 2, 1, 1] and order.fresh.tolist() == [False, False, True, True]
    torch.testing.assert_close(new["scales"][2:].exp(), torch.full((2, 3), 0.1 / 1.6))
    assert not torch.equal(new["means"][2], new["means"][3])


def test_the_cap_serves_those_pulled_hardest():
    new, order = grow(parameters_of(spot(3, scale=0.01), 0), [2.0, 4.0, 3.0], cap=5)
    assert order.source.tolist() == [0, 1, 2, 1, 2] and len(new["means"]) == 5
    assert len(grow(parameters_of(spot(3, scale=0.01), 0), [2.0, 4.0, 3.0], cap=3)[1].source) == 3


def test_relocated_copies_look_like_the_gaussian_they_came_from():
    start = spot(2, scale=0.1, opacity=0.8)
    parameters = parameters_of(start, 0)
    parameters["opacities"][1] = -20.0
    new, order = densify.relocate(parameters, dead_below=0.005, grow_to=2, generator=seeded())
    assert order.source.tolist() == [0, 0] and order.fresh.all()
    camera = orbit(0.0, size=48)
    copied = {name: value[order.source] for name, value in parameters.items()}
    before, after, doubled = (render(gaussians_of(p), camera).alpha for p in (parameters, new, copied))
    change, careless = (float((image - before).abs().mean() / before.mean()) for image in (after, doubled))
    assert change < 0.1 < 0.2 < careless


def test_two_copies_share_opacity_as_the_paper_says():
    shared, factor = densify._shared(torch.tensor([0.75], dtype=torch.float64), torch.tensor([2]))
    assert float(shared) == pytest.approx(0.5)  # 1 − √(1 − 0.75)
    assert float(factor) == pytest.approx(0.75 / (2 * 0.5 - 0.25 / math.sqrt(2)))


def test_relocation_grows_to_the_number_asked_for():
    new, order = densify.relocate(parameters_of(spot(4), 0), dead_below=0.005, grow_to=7, generator=seeded())
    assert len(new["means"]) == len(order.source) == 7


def test_relocation_of_nothing_changes_nothing():
    parameters = parameters_of(spot(4), 0)
    new, order = densify.relocate(parameters, dead_below=0.005, grow_to=4, generator=seeded())
    assert not order.fresh.any() and all(torch.equal(new[k], v) for k, v in parameters.items())


def test_noise_moves_faint_gaussians_and_spares_opaque_ones():
    parameters = parameters_of(spot(2), 0)
    parameters["opacities"][:] = torch.tensor([-7.0, 4.0])
    before = parameters["means"].clone()
    densify.explore(parameters, rate=100.0, generator=seeded())
    moved = (parameters["means"] - before).norm(dim=-1)
    assert moved[0] > 0.01 and moved[1] < 1e-12


def test_noise_follows_the_covariance():
    parameters = parameters_of(spot(400), 0)
    parameters["opacities"][:] = -7.0
    parameters["scales"][:] = torch.tensor([0.1, 0.02, 0.02]).log()
    before = parameters["means"].clone()
    densify.explore(parameters, rate=1.0, generator=seeded())
    spread = (parameters["means"] - before).std(0)
    assert float(spread[0] / spread[1]) == pytest.approx(25, rel=0.2)


def test_morton_order_is_a_permutation_that_keeps_neighbours_together():
    points = torch.rand(500, 3, generator=seeded())
    order = densify.morton_order(points)
    assert sorted(order.tolist()) == list(range(500))
    hop = (points[order][1:] - points[order][:-1]).norm(dim=-1).mean()
    assert hop < 0.5 * (points[1:] - points[:-1]).norm(dim=-1).mean()
