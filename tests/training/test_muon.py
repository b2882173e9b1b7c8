import pytest
import torch
from torch import nn

from obverse.training.muon import Muon, orthogonal


@pytest.mark.parametrize("shape", [(16, 16), (8, 40), (40, 8)])
def test_singular_values_become_about_one(shape):
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0)) * 7
    values = torch.linalg.svdvals(orthogonal(matrix).float())
    assert values.min() > 0.6 and values.max() < 1.3


def test_singular_vectors_stay():
    u, _ = torch.linalg.qr(torch.randn(12, 12, generator=torch.Generator().manual_seed(1)))
    matrix = u @ torch.diag(torch.linspace(0.5, 2, 12))
    turned = orthogonal(matrix).float()
    assert (turned @ turned.T - torch.eye(12)).abs().max() < 0.5
    assert torch.linalg.vector_norm(u.T @ turned - torch.diag((u.T @ turned).diag())) < 0.1


def test_a_step_has_the_stated_size_whatever_the_gradient():
    for gain in (1e-4, 1e4):
        weight = nn.Parameter(torch.zeros(32, 4, 2, 2))
        optimizer = Muon([weight], lr=0.01)
        weight.grad = gain * torch.randn(weight.shape, generator=torch.Generator().manual_seed(2))
        optimizer.step()
        # 16 orthogonal directions of 32 × 16 entries: rms 1/√32 · 0.2 √32 = 0.2 times the rate
        assert weight.detach().square().mean().sqrt().item() == pytest.approx(0.01 * 0.2, rel=0.25)


def test_a_least_squares_problem_is_solved():
    generator = torch.Generator().manual_seed(3)
    target = torch.randn(24, 24, generator=generator)
    weight = nn.Parameter(torch.zeros(24, 24))
    optimizer = Muon([weight], lr=0.2)
    for step in range(300):
        optimizer.param_groups[0]["lr"] = 0.2 * (1 - step / 300)
        loss = ((weight - target) ** 2).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert (weight - target).detach().abs().mean() < 0.01


def test_decay_shrinks_weights_towards_nothing():
    weight = nn.Parameter(torch.ones(16, 16))
    optimizer = Muon([weight], lr=0.1, weight_decay=0.5)
    weight.grad = torch.zeros_like(weight)
    optimizer.step()
    assert weight.detach().mean().item() == pytest.approx(0.95, abs=1e-4)


def test_tensors_without_a_gradient_are_left_alone():
    weight = nn.Parameter(torch.ones(4, 4))
    Muon([weight], lr=0.1).step()
    assert (weight == 1).all()
