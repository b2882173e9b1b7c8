"""Rays through occupied cells, and tables read between their rows: compiled and plain twins agree, with gradients."""

import pytest
import torch

from obverse.render import marching, tables

BOX = torch.tensor([[-0.5, -0.4, -0.3], [0.5, 0.4, 0.3]])


def random(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def rays(count=40):
    origins = torch.nn.functional.normalize(random(count, 3) - 0.5, dim=-1) * 2
    return origins, torch.nn.functional.normalize(0.5 * (random(count, 3, seed=1) - 0.5) - origins, dim=-1) * 1.3


def slow(function, *given):
    """The answer of the plain path, which float64 takes."""
    return function(*(g.double() if isinstance(g, torch.Tensor) and g.is_floating_point() else g for g in given))


def test_samples_lie_in_occupied_cells_one_step_apart():
    cells = torch.where(random(5, 4, 3) > 0.5, 0.0, -1.0)
    origins, directions = rays()
    found = marching.march(origins, directions, BOX, cells, 0.01, random(40, seed=2))
    place = ((found.points - BOX[0]) / (BOX[1] - BOX[0]) * torch.tensor(cells.shape)).long()
    x, y, z = torch.minimum(place, torch.tensor(cells.shape) - 1).unbind(-1)  # the last may lie half a step beyond
    assert len(found.points) > 500 and bool((cells[x, y, z] >= 0).all())
    gaps = (found.points[1:] - found.points[:-1]).norm(dim=-1)[found.rays[1:] == found.rays[:-1]]
    steps = gaps / 0.01
    assert float((steps - steps.round()).abs().max()) < 1e-3 and float(steps.min()) > 0.99
    assert torch.equal(found.first.diff(), torch.bincount(found.rays, minlength=40))


def test_the_compiled_march_finds_what_the_plain_one_finds():
    cells = torch.where(random(5, 4, 3) > 0.4, 20 * random(5, 4, 3, seed=3), -1.0)
    given = (*rays(), BOX, cells, 0.0137, random(40, seed=2))
    fast, plain = marching.march(*given), slow(marching.march, *given)
    differing = int((fast.first.diff() - plain.first.diff()).abs().sum())
    assert len(fast.t) > 300 and differing <= 2  # a sample may lie on a cell's border
    same = (fast.first.diff() == plain.first.diff())[fast.rays]
    also = (fast.first.diff() == plain.first.diff())[plain.rays]
    torch.testing.assert_close(fast.points[same].double(), plain.points[also], atol=1e-5, rtol=0)


def test_a_ray_ends_where_it_must_be_opaque():
    origin, direction = torch.tensor([[-2.0, 0.01, 0.01]]), torch.tensor([[1.0, 0.0, 0.0]])
    open_, dense = torch.zeros(4, 4, 4), torch.full((4, 4, 4), 100.0)
    assert len(marching.march(origin, direction, BOX, open_, 0.01).t) == 100
    assert len(marching.march(origin, direction, BOX, dense, 0.01).t) == 10  # 10 · 100 · 0.01 is above 9.2


def test_rays_that_miss_have_no_samples():
    found = marching.march(
        torch.tensor([[0.0, 3.0, 0.0]]), torch.tensor([[1.0, 0.0, 0.0]]), BOX, torch.zeros(2, 2, 2), 0.1
    )
    assert len(found.t) == 0 and found.first.tolist() == [0, 0]


FIRST = torch.tensor([0, 3, 3, 7, 8])  # the second ray has no samples


def test_weights_and_their_gradients_equal_the_plain_ones():
    densities = (40 * random(8)).requires_grad_(True)
    pull, lift = random(8, seed=1), random(4, seed=2)
    fast = marching.ray_weights(densities, FIRST, 0.05)
    (fast_gradient,) = torch.autograd.grad((fast[0] * pull).sum() + (fast[1] * lift).sum(), densities)
    double = densities.detach().double().requires_grad_(True)
    plain = marching.plain_ray_weights(double, FIRST, 0.05)
    (gradient,) = torch.autograd.grad((plain[0] * pull).sum() + (plain[1] * lift).sum(), double)
    torch.testing.assert_close(fast[0].double(), plain[0], atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(fast[1].double(), plain[1], atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(fast_gradient.double(), gradient, atol=1e-6, rtol=1e-4)
    assert float(fast[1][1].detach()) == 0


def test_the_plain_gradients_are_those_of_finite_differences():
    densities = (40 * random(8)).double().requires_grad_(True)
    assert torch.autograd.gradcheck(lambda d: marching.plain_ray_weights(d, FIRST, 0.05), (densities,))


def test_sums_along_rays_and_their_gradients():
    weights, values = random(4).requires_grad_(True), random(4, 3, seed=1).requires_grad_(True)
    owner = torch.tensor([0, 0, 2, 2])
    sums = marching.ray_sums(weights, values, owner, 3)
    torch.testing.assert_close(sums[2], weights[2] * values[2] + weights[3] * values[3])
    assert sums[1].tolist() == [0, 0, 0]
    ours = torch.autograd.grad(sums.square().sum(), (weights, values))
    plain = torch.zeros(3, 3).index_add(0, owner, weights[:, None] * values)
    for mine, theirs in zip(ours, torch.autograd.grad(plain.square().sum(), (weights, values)), strict=True):
        torch.testing.assert_close(mine, theirs)


def test_mixed_rows_and_their_gradients_equal_the_plain_ones():
    table, rows, weights = random(9, 3).requires_grad_(True), torch.randint(9, (50, 4)).int(), random(50, 4, seed=1)
    fast, plain = tables.mix(table, rows, weights), tables.plain_mix(table, rows, weights)
    torch.testing.assert_close(fast, plain)
    pull = random(50, 3, seed=2)
    torch.testing.assert_close(*(torch.autograd.grad((out * pull).sum(), table)[0] for out in (fast, plain)))


@pytest.mark.parametrize("where", [1.0, 1.6])
def test_voxel_corners_equal_the_plain_ones_inside_and_outside(where):
    points = where * (random(60, 3) - 0.5)
    index = torch.arange(5 * 6 * 7, dtype=torch.int32).reshape(5, 6, 7)
    given = (points, index, (-0.5, -0.4, -0.3), 0.13)
    (rows, weights), (plain_rows, plain_weights) = tables.voxel_corners(*given), tables.plain_voxel_corners(*given)
    value = random(index.numel(), 1)
    torch.testing.assert_close(
        tables.mix(value, rows, weights), tables.plain_mix(value, plain_rows, plain_weights), atol=2e-6, rtol=0
    )
    torch.testing.assert_close(weights.sum(-1), torch.ones(60))


def test_a_linear_function_is_read_exactly_from_voxels_and_planes():
    low, step, counts = (-0.5, -0.4, -0.3), 0.2, (6, 5, 4)
    lines = [low[a] + step * torch.arange(counts[a]) for a in range(3)]
    points = torch.tensor(low) + random(30, 3) * step * (torch.tensor(counts) - 1)
    nodes = torch.cartesian_prod(*lines)
    slope = torch.tensor([[1.0], [-2.0], [0.5]])
    index = torch.arange(len(nodes), dtype=torch.int32).reshape(counts)
    torch.testing.assert_close(
        tables.mix(nodes @ slope, *tables.voxel_corners(points, index, low, step)), points @ slope
    )
    planes = torch.cat([torch.cartesian_prod(lines[a], lines[b]) for a, b in tables.PLANES])
    for find in (tables.plane_corners, tables.plain_plane_corners):
        rows, weights = find(points, counts, low, step)
        for plane, axes in enumerate(tables.PLANES):
            torch.testing.assert_close(tables.mix(planes, rows[plane], weights[plane]), points[:, list(axes)])


def test_an_image_of_a_dense_box_shows_its_colour_alpha_and_depth():
    from obverse.cameras import orbit
    from obverse.render.fields import CallableField

    field = CallableField(
        lambda p: torch.full_like(p[:, 0], 200.0), lambda p: torch.full_like(p, 0.25), kind="density",
        bounds=((-0.3,) * 3, (0.3,) * 3),
    )  # fmt: skip
    seen = marching.render_occupied(field, orbit([0.0], size=15, distance=3.0), torch.zeros(4, 4, 4), 0.005)
    assert float(seen.alpha[0, 7, 7]) == pytest.approx(1, abs=1e-4) and float(seen.alpha[0, 0, 0]) == 0
    assert seen.color[0, 7, 7].tolist() == pytest.approx([0.25] * 3, abs=2e-3)
    assert float(seen.depth[0, 7, 7]) == pytest.approx(2.7, abs=0.02)
    assert seen.color[0, 0, 0].tolist() == [1, 1, 1] and torch.isinf(seen.depth[0, 0, 0])
