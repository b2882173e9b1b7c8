import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from obverse.feedforward.triplane import (
    Attention,
    GatedMlp,
    TriplaneField,
    bilinear_rows,
    mlp,
    outputs,
    sample,
    signed_axis,
    table_of,
)
from obverse.render.fields import Field, SampledOnGrids
from obverse.surface.extract import extract

AXES = (("+z", "+x"), ("-y", "+z"), ("+x", "-y"))  # signs and orders mixed, as families mix them


def random_field(channels=5, size=7, kind="density", seed=0):
    torch.manual_seed(seed)
    network = mlp([3 * channels, 8, 8, 4], nn.SiLU).requires_grad_(False)
    planes = torch.randn(3, channels, size, size + 2)
    return TriplaneField(planes, AXES, 0.8, outputs(network, 0, 1), outputs(network, 1, 4), 0.1, kind=kind), network


def ball_field(squared=0.25):
    """Raw value 40 (squared − |p|²) up to interpolation: each plane holds its own two coordinates' share."""
    size = 64
    t = (torch.arange(size) + 0.5) / size * 2 - 1
    planes = (-0.5 * (t[:, None] ** 2 + t[None] ** 2)).expand(3, 1, size, size).contiguous()
    shape, paint = mlp([3, 4, 1], nn.ReLU).requires_grad_(False), mlp([3, 4, 3], nn.ReLU).requires_grad_(False)
    shape[0].weight.fill_(1.0), shape[0].bias.fill_(2.0), shape[2].weight.fill_(10.0), shape[2].bias.fill_(-80.0)
    return TriplaneField(planes, AXES, 1.0, shape, paint, raw_level=-40 * squared)


def plain(planes, network, points):
    """The papers' order: sample the planes, join the features, run the network."""
    coordinates = torch.stack([torch.stack([s * points[:, a] for a, s in map(signed_axis, pair)], -1) for pair in AXES])
    features = F.grid_sample(planes, coordinates[:, None] / 0.8, align_corners=False)[:, :, 0]
    return network(features.permute(2, 0, 1).reshape(len(points), -1))


def test_rows_of_a_table_are_bilinear_sampling_with_zeros_beyond():
    torch.manual_seed(1)
    planes, places = torch.randn(3, 4, 5, 9), torch.rand(200, 3, 2) * 2.6 - 1.3
    rows, weights = bilinear_rows(places, 5, 9)
    found = F.embedding_bag(rows, table_of(planes), per_sample_weights=weights, mode="sum")
    expected = sample(planes, places.transpose(0, 1)).sum(0)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    assert (weights == 0).any() and (weights.sum(-1) < 3 - 1e-3).any()  # some places are beyond a border


def test_the_first_layer_may_be_applied_to_the_planes_beforehand():
    field, network = random_field()
    points = torch.rand(300, 3) * 2 - 1  # some outside
    raw = plain(field.planes, network, points)
    torch.testing.assert_close(field.density_or_sdf(points), raw[:, 0].exp(), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(field.color(points), raw[:, 1:].sigmoid(), atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", ["density", "sdf"])
def test_a_grid_is_asked_like_its_points(kind):
    field, network = random_field(kind=kind)
    low, step, shape = (-0.9, -0.7, -0.8), 0.13, (13, 12, 14)
    index = torch.from_numpy(np.argwhere(np.ones(shape)))
    raw = plain(field.planes, network, torch.tensor(low) + step * index)[:, 0]
    sign = 1 if kind == "density" else -1
    torch.testing.assert_close(field.on_grid(low, step, shape)(index), sign * (raw - 0.1), atol=2e-5, rtol=0)


def test_it_is_a_field_with_a_level_and_can_be_differentiated():
    field, _ = random_field()
    assert isinstance(field, Field) and isinstance(field, SampledOnGrids)
    assert field.level == pytest.approx(np.exp(0.1)) and field.bounds == ((-0.8,) * 3, (0.8,) * 3)
    points = torch.rand(10, 3).requires_grad_(True)
    field.density_or_sdf(points).sum().backward()
    assert points.grad.abs().max() > 0
    assert field.color(torch.zeros(0, 3)).shape == (0, 3)


def test_a_ball_in_a_triplane_is_extracted_as_a_ball_sparsely_and_densely():
    meshes = [extract(ball_field(), resolution=48, mode=mode) for mode in ("sparse", "dense")]
    for mesh in meshes:
        assert mesh.is_watertight
        np.testing.assert_allclose(np.linalg.norm(mesh.vertices, axis=1), 0.5, atol=0.01)
    np.testing.assert_array_equal(meshes[0].vertices, meshes[1].vertices)
    assert meshes[0].metadata["evaluated"] < 0.5 < meshes[1].metadata["evaluated"]


def test_attention_is_softmax_of_scaled_products():
    torch.manual_seed(2)
    layer = Attention(8, 2, context_width=5)
    x, context = torch.randn(1, 3, 8), torch.randn(1, 4, 5)
    q, k, v = (m(t).reshape(-1, 2, 4).transpose(0, 1) for m, t in
               ((layer.to_q, x[0]), (layer.to_k, context[0]), (layer.to_v, context[0])))  # fmt: skip
    mixed = torch.softmax(q @ k.transpose(1, 2) / 2, -1) @ v  # heads are 4 wide: √4 = 2
    torch.testing.assert_close(layer(x, context)[0], layer.to_out(mixed.transpose(0, 1).reshape(3, 8)))


def test_the_gated_layer_gates_with_its_second_half():
    layer = GatedMlp(2, expansion=1)
    with torch.no_grad():
        layer.up.weight.copy_(torch.tensor([[1.0, 0], [0, 1], [0, 0], [0, 0]]))
        layer.up.bias.copy_(torch.tensor([0.0, 0, 10, -10]))  # gates: wide open, shut
        layer.down.weight.copy_(torch.eye(2)), layer.down.bias.zero_()
    torch.testing.assert_close(layer(torch.tensor([[[3.0, 4.0]]])), torch.tensor([[[30.0, 0.0]]]), atol=1e-4, rtol=0)
