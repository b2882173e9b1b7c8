"""Image scores agree with scikit-image, with plain sums, and with a second LPIPS written out."""

import numpy as np
import pytest
import torch
from scipy.ndimage import correlate1d

from obverse.errors import InputError, WeightsError
from obverse.evaluation import images


def pictures(seed=0, shape=(24, 31, 3), noise=0.2):
    generator = torch.Generator().manual_seed(seed)
    a = torch.rand(shape, generator=generator, dtype=torch.float64)
    return a, (a + noise * torch.randn(shape, generator=generator, dtype=torch.float64)).clamp(0, 1)


def smooth_picture(size=192):
    y, x = torch.meshgrid(torch.arange(size) / size, torch.arange(size) / size, indexing="ij")
    return torch.stack([(7 * x).sin(), (9 * y).cos(), (5 * x * y).sin()], -1).double() * 0.4 + 0.5


def disc(size=64, radius=20.0, x=32.0):
    rows, columns = np.mgrid[0:size, 0:size] + 0.5
    return torch.from_numpy((np.hypot(columns - x, rows - size / 2) < radius).astype(np.float32))


def test_psnr_is_that_of_scikit_image():
    metrics = pytest.importorskip("skimage.metrics")
    a, b = pictures()
    expected = metrics.peak_signal_noise_ratio(a.numpy(), b.numpy(), data_range=1)
    assert float(images.psnr(a, b)) == pytest.approx(expected, abs=1e-9)


def test_ssim_is_that_of_scikit_image():
    metrics = pytest.importorskip("skimage.metrics")
    a, b = pictures()
    options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 1}
    expected, full = metrics.structural_similarity(a.numpy(), b.numpy(), channel_axis=2, full=True, **options)
    assert float(images.ssim(a, b)) == pytest.approx(expected, abs=1e-9)
    mask = torch.zeros(24, 31)
    mask[8:15, 3:20] = 1
    inside = full[8:15, 5:20].mean()  # the map begins 5 pixels from the edge
    assert float(images.ssim(a, b, mask=mask)) == pytest.approx(inside, abs=1e-9)


def test_a_batch_is_scored_image_by_image():
    a, b = (picture.float() for picture in pictures(shape=(2, 180, 176, 1)))
    for score in (images.psnr, images.ssim, images.ms_ssim):
        torch.testing.assert_close(score(a, b), torch.stack([score(x, y) for x, y in zip(a, b, strict=True)]))


def test_psnr_of_a_tenth_off_is_twenty_decibels_and_of_equals_the_cap():
    grey = torch.full((4, 4, 3), 0.5)
    assert float(images.psnr(grey, grey + 0.1)) == pytest.approx(20, abs=1e-4)
    assert float(images.psnr(grey, grey)) == images.BEST_DB


def test_psnr_under_a_mask_ignores_the_rest():
    a = torch.zeros(6, 6, 3)
    b = torch.ones(6, 6, 3)
    b[2:4, 2:4] = 0.1
    mask = torch.zeros(6, 6)
    mask[2:4, 2:4] = 1
    assert float(images.psnr(a, b, mask=mask)) == pytest.approx(20, abs=1e-4)
    assert float(images.psnr(a, b, mask=mask[..., None])) == pytest.approx(20, abs=1e-4)
    assert torch.isnan(images.psnr(a, b, mask=torch.zeros(6, 6)))


def test_a_picture_is_like_itself_at_every_scale():
    picture = smooth_picture(176).float()
    assert float(images.ms_ssim(picture, picture)) == pytest.approx(1, abs=1e-4)
    assert float(images.ssim(picture, picture)) == pytest.approx(1, abs=1e-4)


def test_more_noise_scores_lower_and_order_does_not_matter():
    picture = smooth_picture(176)[..., :1].float()
    noise = torch.randn(picture.shape, generator=torch.Generator().manual_seed(0))
    noisy = [(picture + level * noise).clamp(0, 1) for level in (0.02, 0.1, 0.2)]
    for score in (images.psnr, images.ssim, images.ms_ssim):
        scores = [float(score(picture, other)) for other in noisy]
        assert scores == sorted(scores, reverse=True)
        assert float(score(noisy[1], picture)) == pytest.approx(scores[1], abs=1e-4)


def test_ms_ssim_is_the_product_written_out():
    a = smooth_picture(177)[..., :1]  # an odd side: the last row and column are left out
    b = (a + 0.1 * torch.randn(a.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)).clamp(0, 1)
    window = np.exp(-0.5 * (np.arange(-5, 6) / 1.5) ** 2)
    window /= window.sum()

    def blur(x):
        return correlate1d(correlate1d(x, window, axis=0), window, axis=1)[5:-5, 5:-5]

    x, y, expected = a[..., 0].numpy(), b[..., 0].numpy(), 1.0
    for level, exponent in enumerate((0.0448, 0.2856, 0.3001, 0.2363, 0.1333)):
        mx, my = blur(x), blur(y)
        vx, vy, vxy = blur(x * x) - mx**2, blur(y * y) - my**2, blur(x * y) - mx * my
        term = (2 * vxy + 0.03**2) / (vx + vy + 0.03**2)
        if level == 4:
            term = term * (2 * mx * my + 0.01**2) / (mx**2 + my**2 + 0.01**2)
        expected *= term.mean() ** exponent
        h, w = len(x) // 2 * 2, len(x[0]) // 2 * 2
        x, y = (z[:h, :w].reshape(h // 2, 2, w // 2, 2).mean((1, 3)) for z in (x, y))
    assert float(images.ms_ssim(a, b)) == pytest.approx(expected, abs=1e-9)


def test_alpha_is_composited_over_the_colour_named():
    image = torch.tensor([[[0.2, 0.4, 0.6, 0.5]]])
    torch.testing.assert_close(images.over(image), torch.tensor([[[0.6, 0.7, 0.8]]]))
    torch.testing.assert_close(images.over(image, (0, 0, 1.0)), torch.tensor([[[0.1, 0.2, 0.8]]]))


def test_mask_iou_counts_pixels():
    a, b = torch.zeros(2, 4, 4), torch.zeros(2, 4, 4)
    a[0, :, :2], b[0, :2] = 1, 1  # 8 pixels each, 4 in common, 12 together; the second pair is empty
    torch.testing.assert_close(images.mask_iou(a, b), torch.tensor([1 / 3, 1.0]))
    torch.testing.assert_close(images.mask_iou(a[..., None], b[..., None]), torch.tensor([1 / 3, 1.0]))


def test_outlines_agree_within_the_tolerance_they_are_shifted_by():
    a, b = disc(), disc(x=35.0)
    assert float(images.boundary_f(a, b, 3)) == 1
    assert 0 < float(images.boundary_f(a, b, 1)) < 0.7
    assert float(images.boundary_f(a, a, 0)) == 1
    assert images.boundary_f(torch.stack([a, b]), torch.stack([a, 0 * b]), 2).tolist() == [1, 0]


def test_unusable_images_are_refused():
    a, b = pictures()
    for bad in (b[:-1], b[..., :2], torch.cat([b, b[..., :1]], -1)):
        with pytest.raises(InputError):
            images.psnr(bad if bad.shape[-1] != 3 else a, bad)
    with pytest.raises(InputError, match="176"):
        images.ms_ssim(a, b)
    with pytest.raises(InputError, match="mask"):
        images.psnr(a, b, mask=torch.ones(24, 30))
    with pytest.raises(InputError, match="one shape"):
        images.mask_iou(torch.ones(4, 4), torch.ones(4, 5))
    with pytest.raises(InputError, match="tolerance"):
        images.boundary_f(disc(), disc(), -1)
    with pytest.raises(InputError, match="alpha"):
        images.over(a)


# Positions of the convolutions in torchvision's AlexNet and VGG16, and their shapes.
ALEX = {0: (64, 3, 11, 11), 3: (192, 64, 5, 5), 6: (384, 192, 3, 3), 8: (256, 384, 3, 3), 10: (256, 256, 3, 3)}
VGG_CHANNELS = {0: (64, 3), 2: (64, 64), 5: (128, 64), 7: (128, 128), 10: (256, 128), 12: (256, 256), 14: (256, 256),
                17: (512, 256), 19: (512, 512), 21: (512, 512), 24: (512, 512), 26: (512, 512),
                28: (512, 512)}  # fmt: skip


# Stride and padding of AlexNet's convolutions, all of which are compared; those of VGG16 that are, by their position.
ALEX_STEPS = {0: (4, 2), 3: (1, 2), 6: (1, 1), 8: (1, 1), 10: (1, 1)}
VGG_TAPS = (2, 7, 14, 21, 28)  # relu1_2, relu2_2, relu3_3, relu4_3 and relu5_3; all but the last are pooled next


def alex_files(folder, **changes):
    """Random weights under the published names and keys."""
    names = ("alexnet-owt-7be5be79.pth", "alex.pth")
    return random_files(folder, names, ALEX, (64, 192, 384, 256, 256), changes)


def random_files(folder, names, shapes, channels, changes):
    generator = torch.Generator().manual_seed(0)
    layers = {"classifier.1.weight": torch.zeros(2, 2)}
    for position, shape in shapes.items():
        fan = shape[1] * shape[2] * shape[3]
        layers[f"features.{position}.weight"] = torch.randn(shape, generator=generator) * (2 / fan) ** 0.5
        layers[f"features.{position}.bias"] = 0.1 * torch.randn(shape[0], generator=generator)
    heads = {f"lin{k}.model.1.weight": torch.rand(1, c, 1, 1, generator=generator) for k, c in enumerate(channels)}
    layers = {key: value for key, value in {**layers, **changes}.items() if value is not None}
    torch.save(layers, folder / names[0])
    torch.save(heads, folder / names[1])
    return layers, heads


def alex_features(x, layers):
    for position, (stride, padding) in ALEX_STEPS.items():
        if position in (3, 6):
            x = torch.nn.functional.max_pool2d(x, 3, 2)
        weight, bias = layers[f"features.{position}.weight"], layers[f"features.{position}.bias"]
        x = torch.nn.functional.conv2d(x, weight, bias, stride, padding).relu()
        yield x


def vgg_features(x, layers):
    for position in VGG_CHANNELS:
        weight, bias = layers[f"features.{position}.weight"], layers[f"features.{position}.bias"]
        x = torch.nn.functional.conv2d(x, weight, bias, padding=1).relu()
        if position in VGG_TAPS:
            yield x
            x = torch.nn.functional.max_pool2d(x, 2)


def lpips_by_hand(a, b, layers, heads, features_of=alex_features):
    """The published formula, step by step, for one pair of images [H, W, 3]."""
    shift, scale = torch.tensor([-0.030, -0.088, -0.188]), torch.tensor([0.458, 0.448, 0.450])
    features = []
    for image in (a, b):
        x = ((2 * image - 1 - shift) / scale).permute(2, 0, 1)[None]
        features.append([tap[0] / tap[0].norm(dim=0) for tap in features_of(x, layers)])
    terms = zip(*features, heads.values(), strict=True)
    return sum(float((((x - y) ** 2) * head[0]).sum(0).mean()) for x, y, head in terms)


def test_lpips_is_the_published_formula(tmp_path):
    layers, heads = alex_files(tmp_path)
    a, b = (picture.float() for picture in pictures(shape=(2, 40, 48, 3)))
    assert images.lpips_available(tmp_path)
    found = images.lpips(a, b, weights=tmp_path)
    expected = [lpips_by_hand(x, y, layers, heads) for x, y in zip(a, b, strict=True)]
    assert found.tolist() == pytest.approx(expected, rel=1e-4)
    assert images.lpips(a, a, weights=tmp_path).tolist() == [0, 0]


def test_lpips_with_vgg_compares_the_published_layers(tmp_path):
    shapes = {at: (*channels, 3, 3) for at, channels in VGG_CHANNELS.items()}
    layers, heads = random_files(tmp_path, ("vgg16-397923af.pth", "vgg.pth"), shapes, (64, 128, 256, 512, 512), {})
    a, b = (picture.float() for picture in pictures(shape=(32, 33, 3)))
    found = images.lpips(a, b, weights=tmp_path, net="vgg")
    assert float(found) == pytest.approx(lpips_by_hand(a, b, layers, heads, vgg_features), rel=1e-4)


def test_lpips_without_weights_says_that_it_was_not_measured(tmp_path):
    picture = torch.zeros(40, 40, 3)
    assert not images.lpips_available(tmp_path)
    with pytest.raises(WeightsError, match="not measured: weights not local"):
        images.lpips(picture, picture, weights=tmp_path)


def test_lpips_loads_strictly(tmp_path):
    picture = torch.zeros(40, 40, 3)
    for changes in (
        {"features.3.bias": None},
        {"features.3.bias": torch.zeros(9)},
        {"features.12.bias": torch.ones(1)},
    ):
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        folder.mkdir()
        alex_files(folder, **changes)
        with pytest.raises(WeightsError, match=r"features\.(3|12)\.bias"):
            images.lpips(picture, picture, weights=folder)


def test_lpips_refuses_images_it_cannot_judge(tmp_path):
    alex_files(tmp_path)
    with pytest.raises(InputError, match="at least 32"):
        images.lpips(torch.zeros(20, 40, 3), torch.zeros(20, 40, 3), weights=tmp_path)
    with pytest.raises(InputError, match="vgg"):
        images.lpips_available(tmp_path, net="resnet")
