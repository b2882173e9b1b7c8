"""Sorted weights beside ordinary ones: equal answers, and nothing left behind."""

import pytest
import torch
from torch import nn

from obverse.multiview import packing
from obverse.multiview.packing import packed

needed = pytest.mark.skipif(not packing.possible(), reason="no sorted weights with this processor or torch")
PICTURE = torch.randn(2, 5, 8, 8, generator=torch.Generator().manual_seed(1)).bfloat16()


@pytest.fixture
def network():
    torch.manual_seed(0)
    made = nn.Sequential(
        nn.Conv2d(5, 24, 3, padding=1), nn.GroupNorm(4, 24), nn.SiLU(), nn.Conv2d(24, 32, 3, stride=2, padding=1),
        nn.Conv2d(32, 16, 1, bias=False), nn.Conv2d(16, 16, 3, groups=4), nn.Flatten(2), nn.Linear(4, 12),
        nn.Conv1d(16, 6, 1),
    )  # fmt: skip
    return made.requires_grad_(False).bfloat16()


def quick(network):
    """The layers that do not compute as their class says."""
    return [module for module in network.modules() if "forward" in vars(module)]


def near(found, expected):
    """Within bfloat16's rounding, of values around 1."""
    torch.testing.assert_close(found, expected, atol=2e-2, rtol=2e-2)


@needed
def test_sorted_weights_give_the_ordinary_answer(network):
    with torch.no_grad():
        plain = network(PICTURE)
        with packed(network):
            assert len(quick(network)) == 5
            first, again, fewer = network(PICTURE), network(PICTURE), network(PICTURE[:1])
    assert torch.equal(first, again) and plain.abs().max() > 0.1
    near(first, plain)
    near(fewer, plain[:1])


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
        network[3].weight.mul_(0.5)
        plain = network(PICTURE)
        with packed(network):
            second = network(PICTURE)
    near(second, plain)
    assert (first - second).abs().max() > 0.1


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
        plain = network(PICTURE.float())
        with packed(network):
            assert torch.equal(network(PICTURE.float()), plain)


@needed
def test_a_block_within_a_block_neither_packs_nor_releases(network):
    with packed(network):
        outer = quick(network)
        with packed(network):
            assert quick(network) == outer
        assert quick(network) == outer != []
    assert quick(network) == []


@needed
def test_a_few_calls_are_not_worth_the_sorting(network):
    with packed(network, calls=packing.FEWEST - 1):
        assert quick(network) == []
    with packed(network, calls=packing.FEWEST):
        assert quick(network) != []


def test_hooks_are_called_around_sorted_layers(network):
    network[0].register_forward_hook(lambda module, given, out: out + 1)
    with torch.no_grad():
        plain = network(PICTURE)
        with packed(network):
            near(network(PICTURE), plain)


def test_float32_and_layers_that_cannot_be_sorted_are_left_alone(network):
    odd = nn.Sequential(nn.Conv2d(3, 3, 3, padding=1, padding_mode="reflect"), nn.Conv2d(3, 3, 3, padding="same"))
    odd.bfloat16()
    elsewhere = nn.Conv2d(3, 3, 3, device="meta", dtype=torch.bfloat16)
    network.float()
    with packed(odd, elsewhere, network):
        assert quick(odd) == quick(elsewhere) == quick(network) == []
