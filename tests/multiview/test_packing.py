"""Sorted weights beside ordinary ones: equal answers, and nothing left behind."""

import pytest
import torch
from torch import nn

from obverse.multiview import packing
from obverse.multiview.packing import packed


@pytest.fixture
def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(5, 24, 3, padding=1), nn.GroupNorm(4, 24), nn.SiLU(), nn.Conv2d(24, 32, 3, stride=2, padding=1),
        nn.Conv2d(32, 16, 1, bias=False), nn.Conv2d(16, 16, 3, groups=4), nn.Flatten(2), nn.Linear(4, 12),
        nn.Conv1d(16, 6, 1),
    ).requires_grad_(False)  # fmt: skip


PICTURE = torch.randn(2, 5, 8, 8, generator=torch.Generator().manual_seed(1))


def quick(network):
    """The layers that do not compute as their class says."""
    return [module for module in network.modules() if "forward" in vars(module)]


def possible(dtype):
    """Skip where this processor or torch has no sorted weights of this precision."""
    if not packing._can(dtype):
        pytest.skip(f"no sorted weights of {dtype} here")


@pytest.mark.parametrize(("dtype", "near"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
def test_sorted_weights_give_the_ordinary_answer(network, dtype, near):
    possible(dtype)
    network.to(dtype)
    with torch.no_grad():
        plain = network(PICTURE.to(dtype))
        with packed(network):
            assert len(quick(network)) == (4 if dtype == torch.float32 else 5)
            first, again = network(PICTURE.to(dtype)), network(PICTURE.to(dtype))
            fewer = network(PICTURE[:1].to(dtype))
    assert torch.equal(first, again) and plain.abs().max() > 0.1
    torch.testing.assert_close(first, plain, atol=near, rtol=near)
    torch.testing.assert_close(fewer, plain[:1], atol=near, rtol=near)


def test_norms_of_values_far_from_zero_lose_nothing_in_float32(network):
    """A variance as the difference of two large squares would."""
    possible(torch.float32)
    network[0].bias += 50.0
    with torch.no_grad():
        exact = network.double()(PICTURE.double()).float()
        network.float()
        plain = network(PICTURE)
        with packed(network):
            found = network(PICTURE)
    assert (found - exact).abs().max() <= 3 * (plain - exact).abs().max() > 0


def test_afterwards_every_layer_is_as_it_was_also_after_an_error(network):
    before = {name: value.clone() for name, value in network.state_dict().items()}
    with pytest.raises(RuntimeError), torch.no_grad(), packed(network):
        network(PICTURE[:, :3])
    assert quick(network) == []
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_weights_that_change_between_two_blocks_are_seen(network):
    with torch.no_grad():
        with packed(network):
            first = network(PICTURE)
        network[-1].weight.mul_(0.5)
        network[0].weight.mul_(0.5)
        plain = network(PICTURE)
        with packed(network):
            second = network(PICTURE)
    torch.testing.assert_close(second, plain, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(first, second)


def test_gradients_are_computed_by_the_ordinary_layers(network):
    def gradient():
        given = PICTURE.clone().requires_grad_()
        network(given).square().sum().backward()
        return given.grad

    plain = gradient()
    with packed(network):
        assert torch.equal(gradient(), plain)


def test_autocast_is_obeyed(network):
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        plain = network(PICTURE)
        with packed(network):
            assert torch.equal(network(PICTURE), plain)


def test_a_block_within_a_block_neither_packs_nor_releases(network):
    possible(torch.float32)
    with packed(network):
        outer = quick(network)
        with packed(network):
            assert quick(network) == outer
        assert quick(network) == outer
    assert quick(network) == []


def test_a_few_calls_are_not_worth_the_sorting(network):
    possible(torch.float32)
    with packed(network, calls=packing.FEWEST - 1):
        assert quick(network) == []
    with packed(network, calls=packing.FEWEST):
        assert quick(network) != []


def test_hooks_are_called_around_sorted_layers(network):
    network[0].register_forward_hook(lambda module, given, out: out + 1)
    with torch.no_grad():
        plain = network(PICTURE)
        with packed(network):
            torch.testing.assert_close(network(PICTURE), plain, atol=1e-5, rtol=1e-5)


def test_layers_that_cannot_be_sorted_are_left_alone():
    odd = nn.Sequential(
        nn.Conv2d(3, 3, 3, padding=1, padding_mode="reflect"), nn.Conv2d(3, 3, 3, padding="same"), nn.Linear(3, 3)
    )
    with packed(odd), packed(nn.Conv2d(3, 3, 3, device="meta")), packed(nn.Conv2d(3, 3, 3, dtype=torch.float64)):
        assert quick(odd) == []
