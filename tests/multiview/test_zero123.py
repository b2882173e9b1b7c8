"""Against the published code: tests/parity/zero123 was made by running it (keys.json: the checkpoint's layout)."""

import json
import math
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from obverse.cameras import Cameras, look_at, orbit, pinhole
from obverse.errors import InputError, UsageError
from obverse.multiview import zero123 as z
from obverse.multiview import zero123_layouts as layouts
from obverse.multiview.sampling import Sampling, ddim_timesteps, denoise, scheduler_for
from obverse.multiview.zero123_inputs import FOV_DEG, clip_pixels, prepared, spherical
from obverse.photo import read_photo
from obverse.weights import family_of

from ..conftest import disc_photo
from ..parity.drawn import draw_all

pytest.importorskip("diffusers")
pytest.importorskip("transformers")

CASE = Path(__file__).parents[1] / "parity" / "zero123"
DRAWN = z.Sizes(
    size=64,
    channels=(32, 64, 128, 128),
    layers=1,
    vae_channels=(32, 64, 128, 128),
    vae_layers=1,
    clip_patch=56,
    clip_width=128,
    clip_hidden=512,
    clip_layers=2,
    clip_heads=2,
)
TINY = z.Sizes(
    size=32,
    channels=(8, 16),
    layers=1,
    heads=2,
    vae_channels=(4, 8),
    vae_layers=1,
    groups=4,
    embedding=16,
    clip_size=28,
    clip_width=16,
    clip_hidden=32,
    clip_layers=1,
    clip_heads=2,
)


@pytest.fixture(scope="module")
def case():
    with np.load(CASE / "tiny.npz") as file:
        return {name: torch.from_numpy(file[name]) for name in file.files}


@pytest.fixture(scope="module")
def published():
    """The published code's network at reduced sizes, loaded from a checkpoint in its layout."""
    model = z.build(DRAWN, device="meta")
    tensors = draw_all(layouts.original_layout(model))
    for part, state in layouts.from_original(tensors, model).items():
        getattr(model, part).load_state_dict(state, strict=True, assign=True)
    return z.restore_buffers(model)


@pytest.fixture(scope="module")
def tiny():
    return z.build(TINY, seed=1)


@pytest.fixture(scope="module")
def stable():
    return z.build(TINY, family="stable-zero123", seed=1)


def square():
    """A framed picture [32, 32, 4]: a red square on nothing."""
    image = torch.zeros(32, 32, 4)
    image[8:24, 8:24] = torch.tensor([0.9, 0.2, 0.1, 1.0])
    return image


def same(found, expected, rtol=1e-4):
    """Within 1e-4 of the largest value of the published array."""
    error = float((found - expected).abs().max() / expected.abs().max().clamp_min(1e-12))
    assert found.shape == expected.shape and error <= rtol, f"differs by {error:.2g} of the largest value"


# ------------------------------------------------------------------------------------ against the published code


def test_the_published_key_list_is_exactly_what_is_needed_and_what_is_known_to_be_spare():
    keys = json.loads((CASE / "keys.json").read_text())
    model = z.build(device="meta")
    layout = layouts.original_layout(model)
    everything = {key: tuple(shape) for key, shape in {**keys["keys"], **keys["ema_keys"]}.items()}
    assert layout == {key: shape for key, shape in everything.items() if not layouts.is_spare(key)}
    averaged = {layouts.ema_name(key): shape for key, shape in layout.items() if key.startswith(layouts.UNET)}
    assert averaged.items() <= everything.items() and len(averaged) == 686
    assert family_of(everything) == layouts.FAMILY
    count = {part: sum(p.numel() for p in getattr(model, part).parameters()) / 1e6 for part in layouts.PARTS}
    published = keys["parameters_millions"]
    assert count["unet"] == pytest.approx(published["unet"]) and count["vae"] == pytest.approx(published["first_stage"])
    assert count["projection"] == pytest.approx(published["cc_projection"])


def test_the_noise_with_and_without_the_condition_is_the_published_one(published, case):
    pose = z.pose_vector(*case["pose_deg"].T, source_polar_deg=0.0)
    same(pose[:, None], case["T"])
    with torch.no_grad():
        same(published.context(case["clip_emb"], pose), case["ctx"])
        condition = z.Condition(case["clip_emb"], case["cond_latent"])
        without, given = published.noise(case["x"], case["t"].long(), condition, pose)
    same(given, case["eps_cond"])
    same(without, case["eps_uncond"])
    same(without + 3 * (given - without), case["eps_guided_s3"])
    assert (given - without).abs().max() > 0.1  # else the halves could be swapped unnoticed


def test_inside_the_unet_values_are_the_published_ones(published, case):
    kept = {}
    unet = published.unet
    for name, module in {
        "unet_temb": unet.time_embedding,
        "unet_h_in0": unet.conv_in,
        "unet_h_in1": unet.down_blocks[0].attentions[0],
        "unet_h_mid": unet.mid_block,
    }.items():
        module.register_forward_hook(
            lambda _, __, out, name=name: kept.update({name: out if torch.is_tensor(out) else out[0]})
        )
    with torch.no_grad():
        pose = case["T"][:, 0]
        published.noise(case["x"], case["t"].long(), z.Condition(case["clip_emb"], case["cond_latent"]), pose,
                        conditional_only=True)  # fmt: skip
    for name, value in kept.items():
        same(value, case[name])
    assert len(kept) == 4


def test_in_training_a_dropped_picture_still_has_its_pose(published, case):
    with torch.no_grad():
        same(published.context(torch.zeros_like(case["clip_emb"]), case["T"][:, 0]), case["ctx_train_null"])


def test_the_vae_is_the_published_one_and_the_condition_is_not_scaled(published, case):
    with torch.no_grad():
        posterior = published.vae.encode(case["image"]).latent_dist
        same(posterior.parameters, case["vae_moments"])
        same(published.encode_mode(case["image"]), case["vae_mode"])
        same((posterior.mean + posterior.std * case["vae_noise"]) * z.LATENT_SCALE, case["vae_sample_scaled"])
        scaled = case["vae_mode"] * z.LATENT_SCALE
        same(published.vae.decode(scaled / z.LATENT_SCALE).sample, case["vae_decoded_from_scaled_mode"])
        same(
            published.decode(scaled).permute(0, 3, 1, 2),
            (case["vae_decoded_from_scaled_mode"] / 2 + 0.5).clamp(0, 1),
        )


def test_the_clip_embedding_is_the_published_one_and_not_normalised(published, case):
    with torch.no_grad():
        same(clip_pixels(case["image"], 224)[0, :, ::37, ::37], case["clip_pre_rows"])
        found = published.embed(case["image"])
    same(found, case["clip_embed"])
    assert abs(float(found.norm()) - 1) > 0.1
    assert published.image_encoder.config.hidden_act == "quick_gelu"


def test_the_schedule_is_the_published_one(published, case):
    same(published.alphas_cumprod, case["alphas_cumprod"], rtol=1e-6)
    alphas = published.alphas_cumprod[case["t"].long()][:, None, None, None]
    noisy = alphas.sqrt() * case["train_x0"] + (1 - alphas).sqrt() * case["train_noise"]
    same(noisy, case["train_x_noisy"])
    with torch.no_grad():
        condition = z.Condition(case["clip_emb"], case["cond_latent"])
        _, predicted = published.noise(noisy, case["t"].long(), condition, case["T"][:, 0])
    same((predicted - case["train_noise"]).square().mean(), case["train_loss"])


@pytest.mark.parametrize("eta", [0, 1])
def test_sampling_takes_the_published_way_from_noise_to_latents(published, case, eta, monkeypatch):
    pytest.importorskip("diffusers.schedulers.scheduling_ddim")
    how = Sampling(steps=5, guidance=3.0, eta=float(eta))
    scheduler = scheduler_for(how, published.alphas_cumprod)
    steps = case["ddim_timesteps_all"].long()
    assert scheduler.timesteps.tolist() == steps.flip(0).tolist()[1:]  # the largest is left out
    same(published.alphas_cumprod[steps], case["ddim_alphas"], rtol=1e-6)
    listed = iter(case["ddim_noise"])
    monkeypatch.setattr(torch, "randn", lambda *_, **__: case["ddim_x_T"])
    monkeypatch.setattr(
        "diffusers.schedulers.scheduling_ddim.randn_tensor", lambda *_, **__: next(listed)[None].clone()
    )
    way = []

    def predict(noisy, timestep):
        way.append(noisy)
        condition = z.Condition(case["clip_emb"][:1], case["cond_latent"][:1])
        return published.noise(noisy, timestep.expand(1), condition, case["T"][:1, 0])

    with torch.no_grad():
        latents = denoise(predict, (4, 16, 16), scheduler, [torch.Generator()], how)
    same(torch.cat([*way, latents]), case[f"ddim_traj_eta{eta}"])
    same(latents, case[f"ddim_out_eta{eta}"])
    tables = zip(case["ddim_alphas"], case["ddim_alphas_prev"], case[f"ddim_sigmas_eta{eta}"], strict=True)
    for a, before, sigma in tables:
        same(eta * ((1 - before) / (1 - a) * (1 - a / before)).sqrt(), sigma, rtol=1e-3)


def test_the_published_sampler_drops_its_largest_timestep_at_every_number_of_steps():
    for steps, count, first in ((50, 49, 961), (75, 76, 976), (100, 99, 981)):
        timesteps = ddim_timesteps(steps)
        assert (len(timesteps), int(timesteps[0]), int(timesteps[-1])) == (count, first, 1)


def test_camera_matrices_give_the_poses_of_the_published_training(case):
    for index in range(len(case["pose_T"])):
        ours = case["pose_cam_locations"][index][:, [1, 2, 0]]  # their x, y, z are our +Z, +X, +Y
        for place, matrix in zip(
            case["pose_cam_locations"][index], (case["pose_cond_RT"][index], case["pose_target_RT"][index]), strict=True
        ):
            torch.testing.assert_close(-matrix[:, :3].T @ matrix[:, 3], place, atol=1e-5, rtol=0)
        cameras = Cameras(look_at(ours), pinhole(FOV_DEG, 64, 64).expand(2, 3, 3), 64, 64)
        elevation, azimuth, distance = spherical(cameras)
        pose = z.pose_embedding(
            cameras[1:],
            source_elevation_deg=float(elevation[0]),
            source_azimuth_deg=float(azimuth[0]),
            source_distance=float(distance[0]),
        )
        torch.testing.assert_close(pose[0], case["pose_T"][index], atol=2e-6, rtol=0)


# ------------------------------------------------------------------------------------------------------- cameras


def test_presets_of_the_published_demonstration_are_these_angles():
    # left (0, −90), right (0, +90), above (−90, 0), below (+90, 0), behind (0, 180): polar and azimuth in degrees
    cameras = orbit([-90, 90, 0, 0, 180], [0, 0, 90, -90, 0], fov_deg=FOV_DEG)
    quarter = math.pi / 2
    expected = torch.tensor(
        [[0, -1, 0, 0], [0, 1, 0, 0], [-quarter, 0, 1, 0], [quarter, 0, 1, 0], [0, 0, -1, 0]], dtype=torch.float32
    )
    torch.testing.assert_close(z.pose_embedding(cameras, source_elevation_deg=0.0), expected, atol=1e-6, rtol=0)


def test_a_camera_that_moves_up_has_a_smaller_polar_angle_in_radians():
    pose = z.pose_embedding(orbit(0, [40, 10, -20]), source_elevation_deg=10.0)
    torch.testing.assert_close(pose[:, 0], torch.tensor([-30.0, 0.0, 30.0]) * math.pi / 180, atol=1e-6, rtol=0)


def test_azimuth_turns_towards_plus_x_which_is_the_cameras_right():
    cameras = orbit([0, 30], 0)
    assert cameras.positions[1, 0] > 0
    _, sine, cosine, _ = z.pose_embedding(cameras, source_elevation_deg=0.0)[1].tolist()
    assert (sine, cosine) == pytest.approx((0.5, math.sqrt(3) / 2), abs=1e-6)
    right = cameras.world_to_camera[0, 0, :3]  # the first camera's right in the world
    assert float(right @ (cameras.positions[1] - cameras.positions[0])) > 0


def test_stable_zero123_is_told_the_absolute_polar_angle_of_the_photo_and_never_a_distance():
    cameras = orbit([0, 90], [30, -10], distance=2.0)
    pose = z.pose_embedding(cameras, source_elevation_deg=30.0, source_distance=1.2, family="stable-zero123")
    torch.testing.assert_close(pose[:, 3], torch.full((2,), math.radians(60)))
    plain = z.pose_embedding(cameras, source_elevation_deg=30.0, source_distance=1.2)
    torch.testing.assert_close(plain[:, :3], pose[:, :3])
    assert not torch.allclose(plain[:, 3], pose[:, 3], atol=0.1)


def test_distances_count_at_the_familys_field_of_view():
    near = orbit(0, 0, distance=2.0, fov_deg=FOV_DEG, size=64)
    tele = orbit(0, 0, distance=3.8, fov_deg=20.0, size=64)  # as threestudio renders
    assert float(spherical(near)[2]) == pytest.approx(2.0)
    same_size = 3.8 * math.tan(math.radians(10)) / (16 / 35)
    assert float(spherical(tele)[2]) == pytest.approx(same_size, rel=1e-5)
    assert float(z.pose_embedding(near, source_elevation_deg=0.0, source_distance=1.7)[0, 3]) == pytest.approx(0.3)
    assert float(z.pose_embedding(near, source_elevation_deg=0.0)[0, 3]) == 0  # the object keeps its size
    with pytest.raises(InputError, match=r"distances from 1\.50 to 2\.00.*pass source_distance"):
        mixed = torch.cat([near.world_to_camera, orbit(0, 0, distance=1.5).world_to_camera])
        both = Cameras(mixed, near.intrinsics.expand(2, 3, 3), 64, 64)
        z.check_distances(both, None, "zero123")


def test_only_upright_cameras_on_the_origin_are_views_it_can_make():
    cameras = z.as_published(orbit([10, 20], [5, 90], distance=3.0, fov_deg=30.0, size=(80, 60)), 32)
    assert (cameras.width, cameras.height) == (32, 32)
    torch.testing.assert_close(spherical(cameras)[0], torch.tensor([5.0, 90.0]).double(), atol=0.01, rtol=0)
    beside = look_at(torch.tensor([[0.0, 0.0, 2.0]]), torch.tensor([0.5, 0.0, 0.0]))
    with pytest.raises(InputError, match="camera 0 does not look at the origin"):
        z.as_published(Cameras(beside, pinhole(30, 8, 8)[None], 8, 8), 32)


# ------------------------------------------------------------------------------------------------------ pictures


def test_a_cut_out_spans_200_of_256_pixels_centred_on_white():
    pixels = prepared(read_photo(disc_photo()), 256)
    assert pixels.shape == (1, 3, 256, 256) and pixels.max() <= 1
    ink = (pixels[0].amin(0) < 0.5).nonzero()
    assert (ink.amax(0) - ink.amin(0) + 1).sub(200).abs().max() <= 2
    assert (ink.amax(0) + ink.amin(0) - 255).abs().max() <= 2
    assert (pixels[0, :, 0] == 1).all()


def test_transparent_pixels_become_white_whatever_their_colour():
    image = torch.zeros(32, 32, 4)
    assert (prepared(image, 32) == 1).all()
    image[..., 3] = 0.25
    with pytest.raises(InputError, match="white"):
        prepared(image, 32)


def test_a_picture_on_another_ground_than_white_is_refused():
    with pytest.raises(InputError, match=r"0 % of the picture's border is white.*RGBA"):
        prepared(torch.full((32, 32, 3), 0.5), 32)
    with pytest.raises(InputError, match=r"\[32, 16, 3\], it must be \[H, H, 3 or 4\]"):
        prepared(torch.ones(32, 16, 3), 32)


# --------------------------------------------------------------------------------------------------------- views


def counted(monkeypatch, module):
    """Batch sizes with which a network is called from here on."""
    calls, forward = [], module.forward
    monkeypatch.setattr(
        module, "forward", lambda first, *a, **k: (calls.append(len(first)), forward(first, *a, **k))[1]
    )
    return calls


def drawn(model, cameras=None, **options):
    cameras = z.orbit_cameras([0, 90, 180], [0, 20, 0], size=32) if cameras is None else cameras
    given = {"seed": 5, "steps": 3, "source_elevation_deg": 10.0, **options}
    return model.views(square(), cameras, **given).images


def test_the_photo_is_encoded_once_and_guidance_is_one_batch(tiny, monkeypatch):
    seen = counted(monkeypatch, tiny.image_encoder)
    encoded = counted(monkeypatch, tiny.vae.encoder)
    asked = counted(monkeypatch, tiny.unet)
    drawn(tiny, steps=5)
    assert (seen, encoded, asked) == ([1], [1], [6] * 4)  # 4 steps are taken for 5, each with two halves of 3 views
    asked.clear()
    drawn(tiny, steps=5, guidance=1.0, batch=2)
    assert asked == [2, 1] * 4


def test_views_depend_on_the_seed_and_not_on_how_they_are_batched(tiny):
    views = drawn(tiny)
    assert views.shape == (3, 32, 32, 3) and views.min() >= 0 and views.max() <= 1
    assert torch.equal(views, drawn(tiny))
    torch.testing.assert_close(views, drawn(tiny, batch=1), atol=1e-4, rtol=0)
    alone = drawn(tiny, z.orbit_cameras(0, 0, size=32))
    torch.testing.assert_close(alone[0], views[0], atol=1e-4, rtol=0)
    assert (views - drawn(tiny, seed=6)).abs().max() > 0.01


def test_sorted_weights_draw_the_same_views_and_are_gone_afterwards(monkeypatch):
    half = z.build(TINY, seed=1, dtype=torch.bfloat16)
    made = drawn(half, steps=9)
    assert not any("forward" in vars(module) for module in half.modules())
    monkeypatch.setattr(z, "packed", lambda *_, **__: nullcontext())
    assert (drawn(half, steps=9) - made).abs().mean() < 0.02


def test_pose_changes_a_view_but_not_what_is_predicted_without_the_condition(tiny):
    condition, noisy = tiny.condition(square()), torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    answers = [
        tiny.noise(noisy, torch.tensor([500]), condition, z.pose_embedding(orbit(a, 0), source_elevation_deg=0.0))
        for a in (0, 120)
    ]
    assert torch.equal(answers[0][0], answers[1][0])
    assert (answers[0][1] - answers[1][1]).abs().max() > 1e-3


def test_shared_noise_makes_equal_cameras_see_the_same(tiny):
    twice = z.orbit_cameras([40, 40], 0, size=32)
    apart, shared = drawn(tiny, twice), drawn(tiny, twice, shared_noise=True)
    torch.testing.assert_close(shared[0], shared[1], atol=1e-4, rtol=0)
    assert (apart[0] - apart[1]).abs().max() > 0.01


def test_in_turn_each_view_is_told_of_the_nearest_one_made_before(tiny, monkeypatch):
    sources = []
    real = z.pose_embedding
    monkeypatch.setattr(z, "pose_embedding", lambda c, **k: (sources.append(k["source_azimuth_deg"]), real(c, **k))[1])
    encoded = counted(monkeypatch, tiny.image_encoder)
    cameras = z.orbit_cameras([180, 90, 30], 0, size=32)
    views = drawn(tiny, cameras, autoregressive=True, source_elevation_deg=0.0)
    assert sources == pytest.approx([0, 30, 90], abs=1e-3)  # 30° from the photo, 90° from 30°, 180° from 90°
    assert len(encoded) == 4 and views.shape == (3, 32, 32, 3)


def test_of_several_samples_the_set_that_agrees_best_is_kept(tiny, monkeypatch):
    scores = iter([0.2, 0.9, 0.4])
    tried = []

    def judge(views):
        tried.append(views.images)
        return type("Found", (), {"score": next(scores)})

    monkeypatch.setattr(z, "agreement", judge)
    kept = drawn(tiny, samples=3)
    assert torch.equal(kept, tried[1]) and not torch.equal(tried[0], tried[1])


@pytest.mark.parametrize("name", ["dpm++", "euler", "euler-a", "unipc"])
def test_schedulers_can_be_exchanged(tiny, name):
    views = drawn(tiny, scheduler=name, steps=4)
    assert torch.isfinite(views).all() and (views - drawn(tiny, steps=4)).abs().max() > 1e-3


def test_a_scheduler_with_the_betas_of_a_faulty_repackage_is_refused(tiny):
    from diffusers import DDIMScheduler

    right = DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False)
    assert torch.isfinite(drawn(tiny, scheduler=right)).all()
    wrong = DDIMScheduler(beta_start=0.02, beta_end=0.085, beta_schedule="scaled_linear")
    with pytest.raises(UsageError, match=r"other betas .* beta_start 0\.00085"):
        drawn(tiny, scheduler=wrong)


def test_options_that_cannot_be_meant_are_refused(tiny):
    for options, words in (
        ({"steps": 1}, "steps is 1"),
        ({"guidance": -1.0}, "guidance is -1"),
        ({"scheduler": "plms"}, "choose one of ddim"),
        ({"samples": 0}, "samples is 0"),
    ):
        with pytest.raises(UsageError, match=words):
            drawn(tiny, **options)
    with pytest.raises(UsageError, match="family is 'zero'"):
        z.build(TINY, family="zero")


def test_elevation_is_tried_and_zero123_draws_its_probes_once_only(tiny, stable, monkeypatch):
    monkeypatch.setattr("obverse.multiview.agreement.PIXELS", 12)
    calls = counted(monkeypatch, tiny.unet)
    found = tiny.elevation(square(), candidates=(0, 20, 40), sampling=Sampling(steps=3))
    assert len(calls) == 3 and found.degrees in (0, 20, 40) and len(found.scores) == 3 and 0 <= found.sureness <= 1
    calls = counted(monkeypatch, stable.unet)
    stable.elevation(square(), candidates=(0, 20, 40), sampling=Sampling(steps=3))
    assert len(calls) == 3 * 3


def test_without_an_elevation_the_estimate_is_used_and_said(tiny, monkeypatch, caplog):
    from obverse.multiview.agreement import Elevation

    monkeypatch.setattr(type(tiny), "elevation", lambda *_, **__: Elevation(20.0, 0.7, (0.0, 20.0), (0.1, 0.5)))
    with caplog.at_level("INFO", logger="obverse"):
        views = drawn(tiny, source_elevation_deg=None)
    assert "surely 20°" in caplog.text
    assert torch.equal(views, drawn(tiny, source_elevation_deg=20.0))


# --------------------------------------------------------------------------------------------------- distillation


def test_the_denoiser_for_distillation_encodes_with_gradients_and_scales(tiny):
    denoiser = tiny.conditioned(square(), elevation_deg=10.0)
    images = torch.rand(2, 48, 48, 3, generator=torch.Generator().manual_seed(0)).requires_grad_(True)
    latents = denoiser.encode(images)
    latents.square().sum().backward()
    assert latents.shape == (2, 4, 16, 16) and images.grad.abs().max() > 0
    sized = images[:1, :32, :32]
    with torch.no_grad():
        raw = tiny.encode_mode(sized.permute(0, 3, 1, 2) * 2 - 1)
        torch.testing.assert_close(denoiser.encode(sized), raw * 0.18215)
        assert denoiser.decode(latents).shape == (2, 32, 32, 3)
    assert denoiser.alphas_cumprod.shape == (1000,) and denoiser.prediction == "epsilon"


def test_the_denoiser_asks_for_every_camera_in_one_batch(tiny, monkeypatch):
    denoiser = tiny.conditioned(square(), elevation_deg=10.0)
    calls = counted(monkeypatch, tiny.unet)
    noisy = torch.zeros(2, 4, 16, 16)
    without, given = denoiser.predict(noisy, torch.tensor([5, 900]), orbit([0, 90], 10))
    assert calls == [4] and without.shape == given.shape == noisy.shape
    with pytest.raises(InputError, match="2 latents and 3 cameras"):
        denoiser.predict(noisy, torch.tensor([5, 900]), orbit([0, 90, 180], 10))


def test_half_the_bytes_stay_near_and_latents_stay_float32(tiny):
    half = z.build(TINY, seed=1, dtype=torch.bfloat16)
    assert {p.dtype for p in half.parameters()} == {torch.bfloat16}
    assert half.conditioned(square(), elevation_deg=0.0).encode(torch.ones(1, 32, 32, 3)).dtype == torch.float32
    error = (drawn(half) - drawn(tiny)).abs().mean()
    assert 0 < error < 0.05


def test_nothing_is_allocated_on_the_meta_device():
    with torch.device("meta"):
        assert {p.device.type for p in z.build(TINY).parameters()} == {"meta"}
    assert {p.device.type for p in z.build(TINY, device="meta").parameters()} == {"meta"}
    assert all(torch.isfinite(p).all() for p in z.build(TINY).parameters())


def test_a_velocity_is_turned_into_the_noise_that_it_holds():
    drawn = torch.Generator().manual_seed(0)
    noise, clean = torch.randn(2, 4, 16, 16, generator=drawn), torch.randn(2, 4, 16, 16, generator=drawn)
    times = torch.tensor([0, 700])
    share = z.alphas_cumprod()[times][:, None, None, None]
    noisy = share.sqrt() * clean + (1 - share).sqrt() * noise
    velocity = share.sqrt() * noise - (1 - share).sqrt() * clean
    assert torch.allclose(
        z.build(replace(TINY, prediction="v_prediction")).as_noise(velocity, noisy, times), noise, atol=1e-5
    )
    assert z.build(TINY).as_noise(velocity, noisy, times) is velocity


def test_both_halves_of_a_network_that_says_velocities_are_noise():
    said, plain = z.build(replace(TINY, prediction="v_prediction"), seed=1), z.build(TINY, seed=1)
    noisy, times = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(2)), torch.tensor([900])
    condition = z.Condition(torch.ones(1, 1, 16), torch.ones(1, 4, 16, 16))
    pose = torch.zeros(1, 4)
    for mine, velocity in zip(
        said.noise(noisy, times, condition, pose), plain.noise(noisy, times, condition, pose), strict=True
    ):
        assert torch.allclose(mine, plain_noise(velocity, noisy, 900), atol=1e-5)


def plain_noise(velocity, noisy, time):
    share = float(z.alphas_cumprod()[time])
    return math.sqrt(share) * velocity + math.sqrt(1 - share) * noisy
