"""Losses agree with scikit-image, with finite differences, and with hand-made pictures."""

import numpy as np
import pytest
import torch

from obverse.errors import InputError
from obverse.lifting import losses


def pictures(seed=0, shape=(24, 31, 3), dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    a = torch.rand(shape, generator=generator, dtype=dtype)
    return a, (a + 0.2 * torch.randn(shape, generator=generator, dtype=dtype)).clamp(0, 1)


def test_ssim_is_that_of_scikit_image():
    metrics = pytest.importorskip("skimage.metrics")
    a, b = pictures()
    theirs = metrics.structural_similarity(
        a.numpy(),
        b.numpy(),
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        data_range=1,
        channel_axis=2,
    )
    assert float(losses.ssim(a, b)) == pytest.approx(theirs, abs=1e-9)


def test_ssim_of_an_image_with_itself_is_one():
    a, _ = pictures(dtype=torch.float32)
    assert float(losses.ssim(a, a)) == pytest.approx(1, abs=1e-5)


def test_ssim_treats_a_batch_as_its_members():
    a, b = pictures()
    both = losses.ssim(torch.stack([a, b]), torch.stack([b, b]))
    torch.testing.assert_close(both, torch.stack([losses.ssim(a, b), losses.ssim(b, b)]))


def test_ssim_gradient_is_that_of_finite_differences():
    a, b = pictures(shape=(12, 13, 1))
    assert torch.autograd.gradcheck(lambda x: losses.ssim(x, b), a.requires_grad_(True), atol=1e-7)


@pytest.mark.parametrize("shape", [(11, 13, 1), (2, 24, 31, 3)])
def test_compiled_ssim_and_its_gradient_are_the_plain_ones(shape):
    a, b = pictures(shape=shape)
    fast, plain = a.float().requires_grad_(True), a.clone().requires_grad_(True)
    found, wanted = losses.ssim(fast, b.float()), losses.ssim_maps(plain, b)[0].flatten(-3).mean(-1)
    torch.testing.assert_close(found.double(), wanted, atol=1e-6, rtol=0)
    weights = torch.linspace(1, 2, wanted.numel()).reshape(wanted.shape)  # members of a batch have their own slopes
    (found * weights).sum().backward()
    (wanted * weights).sum().backward()
    torch.testing.assert_close(fast.grad.double(), plain.grad, atol=1e-6, rtol=1e-5)


def test_ssim_gives_a_gradient_by_its_second_image_too():
    a, b = (t.float() for t in pictures(shape=(12, 13, 1)))
    losses.ssim(a, b.requires_grad_(True)).backward()
    assert float(b.grad.abs().max()) > 0


def test_ssim_refuses_images_smaller_than_its_window():
    with pytest.raises(InputError, match="at least 11"):
        losses.ssim(torch.zeros(10, 20, 3), torch.zeros(10, 20, 3))


def test_photometric_mixes_l1_and_dssim():
    a, b = pictures()
    l1, similar = (a - b).abs().mean(), losses.ssim(a, b)
    torch.testing.assert_close(losses.photometric(a, b), 0.8 * l1 + 0.2 * (1 - similar))
    torch.testing.assert_close(losses.photometric(a, b, ssim_share=0), l1)


def test_psnr_of_a_tenth_off_is_twenty_decibels():
    assert losses.psnr(torch.zeros(4, 4, 3), torch.full((4, 4, 3), 0.1)) == pytest.approx(20, abs=1e-4)
    assert losses.psnr(torch.zeros(2), torch.zeros(2)) == 99


def test_depth_counts_only_where_it_is_known():
    depth, alpha = torch.full((2, 2), 3.0), torch.tensor([[1.0, 1.0], [0.2, 1.0]])
    target = torch.tensor([[3.5, float("inf")], [9.0, 3.0]])
    assert float(losses.depth_error(depth, alpha, target)) == pytest.approx(0.25)


def test_unknown_depth_gives_no_nan_gradient():
    depth = torch.tensor([[float("inf"), 2.0]], requires_grad=True)
    losses.depth_error(depth, torch.ones(1, 2), torch.tensor([[1.0, 1.0]])).backward()
    assert depth.grad.tolist() == [[0.0, 1.0]]


def test_normals_of_a_slanted_plane_are_its_normal():
    normal = torch.nn.functional.normalize(torch.tensor([0.3, -0.2, -1.0]), dim=0)
    k = torch.tensor([[20.0, 0, 8], [0, 20, 6], [0, 0, 1]])
    rays = losses.points_from_depth(torch.ones(12, 16), k)
    depth = (normal * torch.tensor([0, 0, 3.0])).sum() / (rays * normal).sum(-1)
    found = losses.normals_from_depth(depth, k)
    torch.testing.assert_close(found[1:-1, 1:-1], normal.expand(10, 14, 3), atol=1e-3, rtol=0)
    assert found[0].abs().sum() == 0


def test_normal_error_is_one_minus_the_cosine():
    a, b = torch.tensor([[0.0, 0, 1], [0, 1, 0], [0, 0, 0]]), torch.tensor([[0.0, 0, 1], [1, 0, 0], [1, 0, 0]])
    assert float(losses.normal_error(a, b)) == pytest.approx(0.5)


def test_coverage_is_a_mean_difference():
    assert float(losses.coverage(torch.tensor([0.5, 1.0]), torch.tensor([1.0, 1.0]))) == np.float32(0.25)
