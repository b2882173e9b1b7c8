import math

import numpy as np
import pytest
import torch

from obverse.errors import UsageError, WeightsError
from obverse.multiview.zero123 import LATENT_SCALE, build, load, save
from obverse.training import autoencoder
from obverse.training import zero123 as training
from obverse.training.loop import train
from obverse.training.lora import adapt, merge
from obverse.training.pairs import Pairs, batches, draw
from obverse.training.shards import open_shards
from obverse.training.starts import as_published, from_nothing, from_variations, is_variations

from .smallest import SMALLEST, write_boxes

pytest.importorskip("diffusers")


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    return Pairs(open_shards(write_boxes(tmp_path_factory.mktemp("views"), views=3)), 16, edges="soft")


@pytest.fixture
def model():
    return from_nothing(build(SMALLEST, seed=0))


def plan(steps, **changes):
    return training.Recipe(steps=steps, rate=1e-3, warm_up=2, log_every=1, save_every=2, check_every=100, **changes)


def flat(network):
    return torch.cat([p.detach().flatten() for p in network.parameters()])


def learn(model, pairs, folder, steps, *, batch=None, lora=0, **changes):
    network = training.learner(model, lora=lora)
    draws = batch or batches(pairs, size=2, latent_size=8, seed=0)
    state = train(network, draws, training.loss(model), schedule=plan(steps, **changes), folder=folder, half=False)
    return network, state


def test_the_published_rates_rise_from_a_millionth_over_a_hundred_steps_and_stay():
    recipe = training.Recipe(steps=1000)
    assert recipe.rate_at(0, 0) == pytest.approx(1e-10)
    assert recipe.rate_at(50, 0) == pytest.approx(0.5e-4, rel=1e-4)
    assert recipe.rate_at(100, 0) == recipe.rate_at(999, 0) == pytest.approx(1e-4)
    assert training.Recipe(steps=100, cool_down=0.5).rate_at(99, 0) == pytest.approx(1e-4 * 0.99 * 0.02, rel=1e-3)


def test_the_projection_learns_ten_times_as_fast_with_adamw_as_published(model):
    (optimizer,) = training.Recipe(steps=1).optimizers(training.learner(model))
    unet, projection = optimizer.param_groups
    assert projection["share"] == 10 and [p.shape for p in projection["params"]] == [(8, 12), (8,)]
    assert len(unet["params"]) == len(list(model.unet.parameters())) and "share" not in unet
    assert optimizer.defaults["betas"] == (0.9, 0.999) and unet["weight_decay"] == 0.01


def test_a_run_in_pieces_gives_the_same_bits_as_one_run(pairs, tmp_path):
    """Fresh models, as in a new process; gradients are accumulated over two batches."""
    _, whole = learn(from_nothing(build(SMALLEST)), pairs, tmp_path / "whole", 5, accumulate=2)

    class Stop(Exception):
        pass

    def stopping(number):
        if number == 2 * 3:
            raise Stop
        return batches(pairs, size=2, latent_size=8, seed=0)(number)

    with pytest.raises(Stop):
        learn(from_nothing(build(SMALLEST)), pairs, tmp_path / "parts", 5, batch=stopping, accumulate=2)
    _, resumed = learn(from_nothing(build(SMALLEST)), pairs, tmp_path / "parts", 5, accumulate=2)
    assert resumed.step == whole.step == 5
    assert torch.equal(flat(resumed.network), flat(whole.network))
    assert torch.equal(flat(resumed.averaged), flat(whole.averaged))


def test_only_unet_and_projection_are_trained(model, pairs, tmp_path):
    parts = ("unet", "projection", "vae", "image_encoder")
    before = {part: flat(getattr(model, part)).clone() for part in parts}
    learn(model, pairs, tmp_path, 3)
    changed = [part for part in parts if not torch.equal(before[part], flat(getattr(model, part)))]
    assert changed == ["unet", "projection"]


def test_the_loss_is_the_published_one(model, pairs):
    batch = batches(pairs, size=4, latent_size=8, seed=0)(0)
    batch["keep"] = torch.tensor([[1.0, 1], [0, 1], [1, 0], [0, 0]])
    model.unet.conv_out.weight.data.normal_(std=0.1)  # at zero it would predict nothing whatever it is told
    posterior = model.vae.encode(batch["target"]).latent_dist
    clean = LATENT_SCALE * (posterior.mean + posterior.std * batch["posterior"])
    share = model.alphas_cumprod[batch["timesteps"]][:, None, None, None]
    noisy = share.sqrt() * clean + (1 - share).sqrt() * batch["noise"]
    latents = model.vae.encode(batch["source"]).latent_dist.mode() * batch["keep"][:, 1, None, None, None]
    told = torch.cat([model.embed(batch["source"])[:, 0] * batch["keep"][:, :1], batch["pose"]], -1)
    context = torch.nn.functional.linear(told, model.projection.weight, model.projection.bias)[:, None]
    wrong = model.unet(torch.cat([noisy, latents], 1), batch["timesteps"], encoder_hidden_states=context).sample
    expected = (wrong - batch["noise"]).square().mean()
    assert torch.allclose(training.loss(model)(model, batch)["loss"], expected, rtol=1e-5)


def test_velocity_weighting_counts_a_noisy_timestep_up_to_fifty_times_as_much(model, pairs):
    batch = batches(pairs, size=2, latent_size=8, seed=0)(0)
    measure = training.loss(model, weighting="velocity")
    counts = {}
    for step in (0, 500, 999):
        terms = measure(model, {**batch, "timesteps": torch.full((2,), step)})
        counts[step] = float(terms["loss"] / terms["plain"])
    share = model.alphas_cumprod
    assert counts[500] / counts[0] == pytest.approx(float(share[0] / share[500]), rel=1e-4)
    assert counts[999] / counts[0] == pytest.approx(50 * float(share[0]), rel=1e-4)  # 1 / share is 213 there
    mean = (1 / share).clamp(max=50).mean()
    assert counts[0] == pytest.approx(float(1 / share[0] / mean), rel=1e-4)


def test_encoding_everything_first_changes_no_loss(model, pairs):
    wide = Pairs(pairs.views, 16, edges="soft", augment=True)
    encoded = training.encode_all(model, wide, half=False)
    assert encoded.embedding.shape == (3, 3, 2, 8) and encoded.mean.shape == (3, 3, 2, 4, 8, 8)
    live = batches(wide, size=4, latent_size=8, seed=2)(1)
    ready = training.encoded_batches(wide, encoded, size=4, latent_size=8, seed=2)(1)
    model.unet.conv_out.weight.data.normal_(std=0.1)
    measure = training.loss(model)
    assert torch.allclose(measure(model, live)["loss"], measure(model, ready)["loss"], rtol=1e-4)


def test_the_camera_is_heard_from_the_start(model):
    """With random weights nothing but the projection can tell two cameras apart."""
    embedding = torch.randn(1, 1, 8, generator=torch.Generator().manual_seed(0))
    near, far = (
        model.context(embedding, pose) for pose in (torch.tensor([[0.0, 0, 1, 0]]), torch.tensor([[0.0, 0, -1, 0]]))
    )
    assert (near - far).abs().mean() > 0.5


def test_a_published_start_has_the_identity_on_embeddings(model):
    weight = as_published(model).projection.weight
    assert torch.equal(weight[:, :8], torch.eye(8)) and weight[:, 8:].abs().max() <= 1 / math.sqrt(12)
    assert not model.projection.bias.any()


def test_image_variations_are_widened_so_that_the_new_channels_say_nothing_at_first(tmp_path):
    """A folder as diffusers writes it, of the smallest sizes, with a UNet of four channels."""
    old = build(SMALLEST, seed=4)
    config = {**old.unet.config, "in_channels": 4}
    narrow = type(old.unet).from_config(config)
    narrow.save_pretrained(tmp_path / "unet")
    old.vae.save_pretrained(tmp_path / "vae")
    old.image_encoder.save_pretrained(tmp_path / "image_encoder")
    assert is_variations(tmp_path) and not is_variations(tmp_path / "vae")
    model = from_variations(tmp_path, size=16)
    assert model.sizes == SMALLEST
    assert torch.equal(flat(model.vae), flat(old.vae)) and torch.equal(
        flat(model.image_encoder), flat(old.image_encoder)
    )
    noisy, latents, context = (torch.randn(shape) for shape in ((1, 4, 8, 8), (1, 4, 8, 8), (1, 1, 8)))
    expected = narrow(noisy, 500, encoder_hidden_states=context).sample
    assert torch.allclose(
        model.unet(torch.cat([noisy, latents], 1), 500, encoder_hidden_states=context).sample, expected, atol=1e-6
    )
    (tmp_path / "vae" / "config.json").unlink()
    with pytest.raises(WeightsError, match="image-variations"):
        from_variations(tmp_path, size=16)


def test_adapters_change_nothing_at_first_and_are_all_that_is_trained(model, pairs, tmp_path):
    given = (torch.randn(2, 8, 8, 8), torch.tensor([3, 900]), torch.randn(2, 1, 8))
    model.unet.conv_out.weight.data.normal_(std=0.1)
    before = model.unet(*given).sample
    kept = {name: value.clone() for name, value in model.unet.state_dict().items()}
    network, state = learn(model, pairs, tmp_path / "run", 0 + 4, lora=2)
    frozen = {
        n.replace(".base", ""): v for n, v in model.unet.state_dict().items() if ".down." not in n and ".up." not in n
    }
    frozen = {n: v for n, v in frozen.items() if n in kept}
    assert len(frozen) == len(kept) and all(torch.equal(v, kept[n]) for n, v in frozen.items())
    whole = training.finished(model, network, state.averaged)
    assert set(whole.unet.state_dict()) == set(kept)
    with torch.no_grad(), training.using(network, state.averaged):
        assert torch.allclose(whole.unet(*given).sample, model.unet(*given).sample, atol=1e-5)
    fresh = build(SMALLEST, seed=0)
    first = fresh.unet(*given).sample
    adapt(fresh.unet, rank=3)
    assert torch.equal(fresh.unet(*given).sample, first)
    assert torch.allclose(merge(fresh.unet)(*given).sample, first) and before.shape == first.shape


def test_adapters_need_a_rank_and_attention(model):
    with pytest.raises(UsageError, match="at least 1"):
        adapt(model.unet, rank=0)
    with pytest.raises(UsageError, match="no attention"):
        adapt(torch.nn.Linear(2, 2), rank=1)


def test_averaged_weights_are_lent_and_given_back(model):
    network = training.learner(model)
    averaged = torch.nn.ModuleDict({k: v for k, v in training.learner(build(SMALLEST, seed=5)).items()})
    own, other = flat(network).clone(), flat(averaged).clone()
    with training.using(network, averaged):
        assert torch.equal(flat(network), other) and torch.equal(flat(model.unet), other[: flat(model.unet).numel()])
    assert torch.equal(flat(network), own) and torch.equal(flat(averaged), other)


def test_validation_measures_the_averaged_weights_on_fixed_pairs_and_shows_them(model, pairs):
    network = training.learner(model)
    shown = []
    check = training.validation(
        model, network, pairs, count=4, half=False, show=lambda image, n: shown.append((image, n))
    )
    first = check(network)
    model.unet.conv_out.weight.data.normal_(std=0.5)
    assert first["val_loss"] == pytest.approx(1.0, abs=0.15)  # nothing is predicted: the variance of the noise
    assert check(network)["val_loss"] > first["val_loss"] + 0.01
    assert [n for _, n in shown] == [0, 1] and shown[0][0].shape == (48, 64, 3) and shown[0][0].dtype == np.uint8


def test_a_trained_model_is_saved_and_loaded_with_its_sizes(model, pairs, tmp_path):
    network, state = learn(model, pairs, tmp_path / "run", 2)
    kept = training.finished(model, network, state.averaged)
    save(kept, tmp_path / "model")
    again = load(tmp_path / "model")
    assert again.sizes == SMALLEST and again.family == "zero123"
    assert torch.equal(flat(again.unet), flat(state.averaged["unet"]))


def test_a_checkpoint_of_adapters_is_not_one_of_the_whole_network(model, pairs, tmp_path):
    learn(model, pairs, tmp_path, 2, lora=2)
    with pytest.raises(WeightsError, match="another network"):
        learn(from_nothing(build(SMALLEST)), pairs, tmp_path, 3)


def test_calibration_gives_latents_of_unit_variance_and_changes_no_picture(pairs):
    vae = autoencoder.fresh(build(SMALLEST, seed=3).vae)
    pictures = torch.from_numpy(np.stack([pairs.picture(i, v) for i in range(3) for v in range(3)]))
    before = vae.decode(vae.encode(pictures).latent_dist.mode()).sample
    spread = vae.encode(pictures).latent_dist.std
    autoencoder.calibrate(vae, pictures, at_once=4)
    posterior = vae.encode(pictures).latent_dist
    scaled = LATENT_SCALE * posterior.mode()
    assert torch.allclose(scaled.mean((0, 2, 3)), torch.zeros(4), atol=1e-4)
    assert torch.allclose(scaled.std((0, 2, 3)), torch.ones(4), atol=1e-3)
    assert torch.allclose(vae.decode(posterior.mode()).sample, before, atol=1e-4)
    ratio = posterior.std / spread
    assert torch.allclose(ratio, ratio[:1, :, :1, :1].expand_as(ratio), rtol=1e-3)  # noise grew with the latents


def test_an_autoencoder_learns_and_its_run_goes_on(pairs, tmp_path):
    before = autoencoder.validation(pairs, count=4)(build(SMALLEST, seed=3).vae)
    rows = []
    made = [
        autoencoder.train_autoencoder(
            build(SMALLEST, seed=3).vae, pairs,
            schedule=training.Schedule(steps=20, rate=3e-3, warm_up=2, log_every=5, check_every=20),
            folder=tmp_path, held=pairs, progress=rows.append,
        )
        for _ in range(2)
    ]  # fmt: skip
    assert next(row["val_psnr"] for row in rows if "val_psnr" in row) > before["val_psnr"] + 1
    assert torch.equal(flat(made[0]), flat(made[1]))  # the second had nothing left to do


def test_crops_and_whole_pictures_come_with_noise_of_their_latents(pairs):
    draws = autoencoder.batches(pairs, size=4, factor=2, seed=0)
    shapes = {(tuple(b["pictures"].shape), tuple(b["noise"].shape)) for b in (draws(n) for n in range(20))}
    assert shapes == {((4, 3, 8, 8), (4, 4, 4, 4)), ((1, 3, 16, 16), (1, 4, 8, 8))}


def test_sampling_ends_where_the_noise_says(model, pairs):
    """A network that always tells the true noise leads back to the latents, whatever the number of steps."""
    drawn = draw(pairs, count=2, latent_size=8, seed=0, number=0)
    clean = 0.3 * torch.ones(2, 4, 8, 8)

    class Knowing:
        device, alphas_cumprod = torch.device("cpu"), model.alphas_cumprod

        def noise(self, noisy, timesteps, condition, pose, *, conditional_only):
            share = self.alphas_cumprod[timesteps][:, None, None, None]
            return None, (noisy - share.sqrt() * clean) / (1 - share).sqrt()

        def decode(self, latents):
            return latents

    for steps in (3, 10):
        made = training.sample(
            Knowing(), clean, torch.zeros(2, 8), torch.zeros(2, 4), noise=drawn.tensors["noise"], steps=steps
        )
        assert torch.allclose(made, clean, atol=1e-4)
