"""Text-conditioned Stable Diffusion as a denoiser: words for views, Perp-Neg's weights, folders on disk."""

import json

import pytest
import torch

from obverse.cameras import orbit
from obverse.errors import UsageError, WeightsError
from obverse.lifting.critics import Asking, sds
from obverse.lifting.guidance import ContrastingDenoiser, Moment
from obverse.lifting.variational import Learning, vsd
from obverse.multiview import stable_diffusion as sd

pytest.importorskip("diffusers")
pytest.importorskip("transformers")


def make_folder(path, prediction="epsilon"):
    """A whole diffusers folder with tiny networks and an alphabet for a vocabulary."""
    import diffusers
    import transformers

    torch.manual_seed(0)
    diffusers.UNet2DConditionModel(
        sample_size=4, block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4, cross_attention_dim=16,
        attention_head_dim=2, down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    ).save_pretrained(path / "unet")  # fmt: skip
    diffusers.AutoencoderKL(
        block_out_channels=(8, 8), down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2, latent_channels=4, norm_num_groups=4, sample_size=8,
        scaling_factor=0.18215,
    ).save_pretrained(path / "vae")  # fmt: skip
    diffusers.DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", prediction_type=prediction
    ).save_pretrained(path / "scheduler")
    letters = "abcdefghijklmnopqrstuvwxyz,"
    words = ["<|startoftext|>", "<|endoftext|>", *letters, *(letter + "</w>" for letter in letters)]
    (path / "tokenizer").mkdir()
    (path / "tokenizer" / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(words)}))
    (path / "tokenizer" / "merges.txt").write_text("#version: 0.2\n")
    (path / "tokenizer" / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "CLIPTokenizer", "model_max_length": 40})
    )
    config = transformers.CLIPTextConfig(
        vocab_size=len(words), hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        max_position_embeddings=40, eos_token_id=1, bos_token_id=0, pad_token_id=1,
    )  # fmt: skip
    transformers.CLIPTextModel(config).save_pretrained(path / "text_encoder")
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_folder(tmp_path_factory.mktemp("sd"))


@pytest.fixture(scope="module")
def model(folder):
    return sd.load(folder)


@pytest.fixture(scope="module")
def denoiser(model):
    return model.conditioned("a plush dragon", negative="blurred")


def moment():
    return Moment(0, 10, torch.Generator().manual_seed(0))


def test_cameras_are_put_into_words():
    cameras = orbit([0, 44, -60, 90, 170, -170, 0, 120], [0, 10, 0, 30, 0, 20, 70, 61])
    assert [sd.VIEWS[i] for i in sd.view_of(cameras)] == [
        "front", "front", "side", "side", "back", "back", "overhead", "overhead"
    ]  # fmt: skip


def test_prompts_mix_and_repel_by_azimuth():
    mixture, against, weights = sd.contrasts(orbit([0.0, 45.0, 90.0, -135.0, 180.0, 0.0], [0, 0, 0, 0, 0, 80.0]))
    expected = [[1, 0, 0, 0], [0.5, 0.5, 0, 0], [0, 1, 0, 0], [0, 0.5, 0.5, 0], [0, 0, 1, 0], [0, 0, 0, 1]]
    torch.testing.assert_close(mixture, torch.tensor(expected), atol=1e-5, rtol=0)
    assert against[0][:2].tolist() == [0, 0] and against[1][3:5].tolist() == [0, 0]
    assert bool((weights <= 1e-3).all()) and weights[:, 5].abs().max() == 0
    # At the front only "side" repels, by 4 − 2.426; half way both by 4 exp(−¼) − 2.426; behind, "front" by 1.967.
    assert weights[:, 0].tolist() == pytest.approx([0.0, -1.574], abs=1e-3)
    assert weights[:, 1].tolist() == pytest.approx([-0.6892, -0.6892], abs=1e-3)
    assert weights[:, 4].tolist() == pytest.approx([-0.394, -1.967], abs=1e-3)


def test_the_view_changes_the_condition_and_not_the_rest(denoiser):
    noisy = torch.randn(2, 4, 4, 4, generator=torch.Generator().manual_seed(1))
    noisy[1] = noisy[0]
    times = torch.tensor([500, 500])
    with torch.no_grad():
        without, given = denoiser.predict(noisy, times, orbit([0.0, 180.0]))
        again = denoiser.predict(noisy, times, orbit([0.0, 0.0]))[1]
        plain = denoiser.plain().predict(noisy, times, orbit([0.0, 180.0]))[1]
    torch.testing.assert_close(without[0], without[1])
    assert not torch.allclose(given[0], given[1], atol=1e-6)
    torch.testing.assert_close(again[0], again[1])
    torch.testing.assert_close(plain[0], plain[1])


def test_latents_have_the_published_scale_and_images_return(denoiser):
    images = torch.rand(1, 12, 12, 3, requires_grad=True)
    latents = denoiser.encode(images)
    assert latents.shape == (1, 4, 4, 4) and denoiser.model.size == 8
    latents.sum().backward()
    assert float(images.grad.abs().sum()) > 0
    decoded = denoiser.decode(latents.detach())
    assert decoded.shape == (1, 8, 8, 3) and 0 <= float(decoded.min()) <= float(decoded.max()) <= 1
    pixels = torch.nn.functional.interpolate(images.detach().permute(0, 3, 1, 2) * 2 - 1, (8, 8), mode="bilinear")
    raw = denoiser.model.vae.encode(pixels).latent_dist.mode()
    torch.testing.assert_close(latents.detach(), 0.18215 * raw)


def test_it_judges_by_plain_perpendicular_and_variational_guidance(denoiser):
    assert isinstance(denoiser, ContrastingDenoiser)
    images, cameras = torch.rand(2, 8, 8, 3), orbit([10.0, 150.0])
    plain, perpendicular = (
        sds(denoiser, Asking(scale=10.0, perpendicular=way))(images, cameras, moment()).gradient
        for way in (False, True)
    )
    assert torch.isfinite(perpendicular).all() and not torch.allclose(plain, perpendicular)
    critic = vsd(
        denoiser, denoiser.model.unet, learning=Learning(rate=0.03, warmup=1, forget=0.0), learner=denoiser.plain()
    )
    latents = torch.full((2, 4, 4, 4), 0.5)
    losses = [critic.train(latents, cameras, moment()) for _ in range(12)]  # the same noise and times each time
    assert losses[-1] < 0.97 * losses[0]


def test_a_folder_says_what_is_predicted(tmp_path, folder):
    assert sd.load(folder).prediction == "epsilon"
    other = tmp_path / "scheduler"
    other.mkdir()
    config = json.loads((folder / "scheduler" / "scheduler_config.json").read_text())
    (other / "scheduler_config.json").write_text(json.dumps({**config, "prediction_type": "v_prediction"}))
    for part in sd.PARTS[:-1]:
        (tmp_path / part).symlink_to(folder / part)
    assert sd.load(tmp_path).conditioned("a cup").prediction == "v_prediction"
    (other / "scheduler_config.json").write_text(json.dumps({**config, "prediction_type": "sample"}))
    with pytest.raises(WeightsError, match="sample"):
        sd.load(tmp_path)


def test_the_schedule_is_stable_diffusions():
    alphas = sd.alphas_of({"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"})
    assert alphas.shape == (1000,) and float(alphas[0]) == pytest.approx(0.99915)
    assert float(sd.alphas_of({"beta_schedule": "linear"})[0]) == pytest.approx(0.99915)
    with pytest.raises(WeightsError, match="cosine"):
        sd.alphas_of({"beta_schedule": "cosine"})


def test_what_is_no_folder_of_it_is_refused(tmp_path, model):
    with pytest.raises(WeightsError, match="has no unet"):
        sd.load(tmp_path)
    with pytest.raises(WeightsError, match="check the path"):
        sd.load(tmp_path / "missing")
    with pytest.raises(UsageError, match="what the object is"):
        model.conditioned("  ")
    assert sd.parameters_of(model) > 1000
