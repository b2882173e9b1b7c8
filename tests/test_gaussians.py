import math

import pytest
import torch

from obverse import gaussians as gs
from obverse.errors import InputError


def some(n=5, k=1, seed=0):
    rng = torch.Generator().manual_seed(seed)
    quats = torch.nn.functional.normalize(torch.randn(n, 4, generator=rng), dim=-1)
    return gs.Gaussians(
        torch.randn(n, 3, generator=rng),
        quats,
        torch.rand(n, 3, generator=rng) + 0.1,
        torch.rand(n, generator=rng),
        torch.randn(n, k, 3, generator=rng),
    )


def test_colours_survive_the_round_trip_through_harmonics():
    colors = torch.tensor([[0.0, 0.25, 1.0]])
    one = gs.from_colors(torch.zeros(1, 3), torch.tensor([[1.0, 0, 0, 0]]), torch.ones(1, 3), torch.ones(1), colors)
    torch.testing.assert_close(one.colors, colors)
    assert one.sh_degree == 0 and len(one) == 1


def test_a_quarter_turn_about_z_takes_x_to_y():
    quat = torch.tensor([math.cos(math.pi / 4), 0, 0, math.sin(math.pi / 4)])
    torch.testing.assert_close(
        gs.rotation_matrices(quat) @ torch.tensor([1.0, 0, 0]), torch.tensor([0.0, 1, 0]), atol=1e-6, rtol=0
    )


def test_matrices_and_quaternions_are_inverse():
    quats = some(200).quats
    back = gs.quats_from_matrices(gs.rotation_matrices(quats))
    assert (back[:, 0] >= 0).all()
    torch.testing.assert_close((back * quats).sum(-1).abs(), torch.ones(200))


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_half_turns_have_quaternions_too(axis):
    matrix = -torch.eye(3)
    matrix[axis, axis] = 1.0
    quat = gs.quats_from_matrices(matrix)
    torch.testing.assert_close(gs.rotation_matrices(quat), matrix, atol=1e-6, rtol=0)


def test_covariance_eigenvalues_are_squared_scales():
    g = some(20)
    values = torch.linalg.eigvalsh(gs.covariances(g))
    torch.testing.assert_close(values, (g.scales**2).sort(-1).values, atol=1e-5, rtol=1e-4)


def test_pruning_drops_the_faint_and_the_broken():
    g = some(4)
    g.means[0, 0] = float("nan")
    g.opacities[:] = torch.tensor([1.0, 0.001, 0.5, 0.9])
    assert len(gs.prune(g)) == 2


def test_merging_pads_harmonics_to_the_highest_degree():
    both = gs.merge(some(2, 1), some(3, 16))
    assert len(both) == 5 and both.sh_degree == 3
    assert (both.sh[:2, 1:] == 0).all()


def test_rescaling_moves_means_and_sizes_together():
    g = some(3)
    out = gs.rescale(g, 2.0, center=torch.tensor([1.0, 0, 0]))
    torch.testing.assert_close(out.means, (g.means - torch.tensor([1.0, 0, 0])) * 2)
    torch.testing.assert_close(out.scales, g.scales * 2)


def test_indexing_selects_every_column_alike():
    g = some(5)
    sub = g[torch.tensor([True, False, True, False, False])]
    assert len(sub) == 2
    torch.testing.assert_close(sub.sh[1], g.sh[2])


def test_wrong_shapes_are_named():
    with pytest.raises(InputError, match=r"Gaussians.quats is \[2, 3\], expected \[2, 4\]"):
        gs.Gaussians(torch.zeros(2, 3), torch.zeros(2, 3), torch.zeros(2, 3), torch.zeros(2), torch.zeros(2, 1, 3))
    with pytest.raises(InputError, match="K = 1, 4, 9 or 16"):
        gs.Gaussians(torch.zeros(2, 3), torch.zeros(2, 4), torch.zeros(2, 3), torch.zeros(2), torch.zeros(2, 2, 3))
    with pytest.raises(InputError, match="no Gaussians"):
        gs.merge()


def test_dtype_moves_all_columns():
    g = some(2).to(torch.float64)
    assert {t.dtype for t in (g.means, g.quats, g.scales, g.opacities, g.sh)} == {torch.float64}


def test_transforming_turns_colours_shapes_and_places_together():
    g = some(6, k=16)
    turn = gs.rotation_matrices(torch.tensor([0.3, -0.5, 0.7, 0.2]))
    matrix = torch.eye(4)
    matrix[:3, :3], matrix[:3, 3] = 2 * turn, torch.tensor([1.0, -2.0, 3.0])
    out = gs.transformed(g, matrix)
    torch.testing.assert_close(out.means, g.means @ (2 * turn).T + matrix[:3, 3], atol=1e-5, rtol=0)
    before, after = gs.covariances(g), gs.covariances(out)
    torch.testing.assert_close(after, 4 * turn @ before @ turn.T, atol=1e-4, rtol=1e-4)
    eyes = torch.nn.functional.normalize(torch.linspace(-1, 1, 18).reshape(6, 3).sin(), dim=-1)
    assert g.sh_degree == 3  # every band is turned
    torch.testing.assert_close(gs.evaluate_sh(out.sh, eyes @ turn.T), gs.evaluate_sh(g.sh, eyes), atol=1e-5, rtol=0)


def test_a_product_of_quaternions_is_the_one_rotation_after_the_other():
    a, b = torch.randn(2, 5, 4, generator=torch.Generator().manual_seed(1))
    both = gs.rotation_matrices(gs.quat_product(a, b))
    torch.testing.assert_close(both, gs.rotation_matrices(a) @ gs.rotation_matrices(b), atol=1e-5, rtol=0)


@pytest.mark.parametrize("diagonal", [[1, 1, -1, 1], [1, 2, 1, 1], [0, 0, 0, 1]])
def test_a_frame_that_is_no_turned_and_scaled_one_is_refused(diagonal):
    with pytest.raises(InputError, match="must be a rotation times one positive factor"):
        gs.transformed(some(2), torch.diag(torch.tensor(diagonal, dtype=torch.float32)))
