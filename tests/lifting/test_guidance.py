"""Score distillation against the published code's numbers (tests/parity/sds), and guidance against closed forms."""

import json
from pathlib import Path

import pytest
import torch

from obverse.cameras import orbit
from obverse.errors import InputError, UsageError
from obverse.lifting import guidance as g
from obverse.lifting.critics import Asking, question_for, sds, together
from obverse.multiview.zero123_inputs import pose_vector

from ..parity.cases import read_case

CASE = Path(__file__).parents[1] / "parity" / "sds"


@pytest.fixture(scope="module")
def case():
    return read_case("sds")


@pytest.fixture(scope="module")
def config():
    return json.loads((CASE / "tiny.json").read_text())


@pytest.fixture(scope="module")
def alphas(case):
    return case["alphas_cumprod"][case["t"].long()]


def same(found, expected):
    torch.testing.assert_close(torch.as_tensor(found).float(), expected.float(), rtol=2e-5, atol=2e-5)


class Told:
    """A denoiser that gives the answers it was made with; its latents are the images, four channels each."""

    prediction = "epsilon"

    def __init__(self, without, given, alphas_cumprod):
        self.answers, self.alphas_cumprod = (without, given), alphas_cumprod

    def encode(self, images):
        return images.movedim(-1, 1)

    def decode(self, latents):
        return latents.movedim(1, -1)

    def predict(self, noisy, timesteps, cameras):
        self.asked = noisy, timesteps
        return self.answers


def moment(step=0, steps=10, seed=0):
    return g.Moment(step, steps, torch.Generator().manual_seed(seed))


def test_the_schedule_is_the_published_one(case, config):
    low, high = (config["schedule"][name] for name in ("beta_start", "beta_end"))
    betas = torch.linspace(low**0.5, high**0.5, 1000) ** 2
    same((1 - betas).cumprod(0), case["alphas_cumprod"])


def test_latents_are_noised_as_published(case, alphas):
    same(g.noised(case["latents"], case["noise"], alphas), case["latents_noisy"])


@pytest.mark.parametrize(("name", "clip"), [("zero123_s3", None), ("zero123_s3_clip0.5", 0.5)])
def test_zero123s_gradient_and_loss_are_the_published_ones(case, alphas, name, clip):
    epsilon = g.guided(case["eps_uncond"], case["eps_cond"], 3.0)
    gradient = g.sds_gradient(epsilon, case["noise"], g.weight("sds", alphas), clip=clip)
    same(gradient / 2, case[f"{name}_dlatents"])
    same(gradient.norm(), case[f"{name}_gradnorm"])
    same(g.sds_loss(gradient), case[f"{name}_loss"])


@pytest.mark.parametrize("weighting", ["sds", "uniform", "fantasia3d"])
def test_text_guidance_is_classifier_free_guidance_of_one_more(case, alphas, weighting):
    epsilon = g.guided(case["eps_uncond"], case["eps_cond"], 8.5)
    same(g.sds_gradient(epsilon, case["noise"], g.weight(weighting, alphas)), case[f"sd_{weighting}_s7.5_grad"])


def test_the_image_term_is_the_published_one(case, alphas):
    epsilon = g.guided(case["eps_uncond"], case["eps_cond"], 8.5)
    decoded = torch.tanh(g.clean(case["latents_noisy"], epsilon, alphas)[:, :3])
    same(case["latents"][:, :3].sigmoid(), case["img"])
    same(g.image_gradient(case["img"], decoded, alphas, g.weight("sds", alphas)), case["sd_sds_s7.5_gradimg"])


@pytest.mark.parametrize("reduced", [True, False])
def test_score_jacobian_chaining_is_the_published_one(case, alphas, reduced):
    epsilon = g.guided(case["eps_uncond"], case["eps_cond"], 8.5)
    found = g.sjc_gradient(case["latents"], epsilon, case["noise"], alphas, reduced=reduced)
    same(found, case[f"sjc_s7.5_varred{int(reduced)}_grad"])
    plain = g.sds_gradient(epsilon, case["noise"] * reduced, torch.ones(2))
    torch.testing.assert_close(found, plain, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_variational_gradients_are_the_published_ones(case, alphas, prediction):
    frozen = g.guided(case["eps_uncond"], case["eps_cond"], 7.5)
    answer = g.guided(case["eps_lora_uncond"], case["eps_lora_cond"], 1.0)
    learnt = g.to_epsilon(answer, case["latents_noisy"], alphas, prediction)
    same(g.sds_gradient(frozen, learnt, g.weight("sds", alphas)), case[f"vsd_{prediction}_s7.5_grad"])


def test_dreamgaussians_times_and_gradient_are_the_published_ones(case):
    assert [g.linear_time(float(ratio)) for ratio in case["dreamgaussian_ratio"]] == case["dreamgaussian_t"].tolist()
    a = case["alphas_cumprod"][500].expand(2)
    epsilon = g.guided(case["eps_uncond"], case["eps_cond"], 5.0)
    gradient = g.sds_gradient(epsilon, case["noise"], g.weight("sds", a))
    same(gradient, case["dreamgaussian_r0.5_s5_dlatents"])
    same(g.sds_loss(gradient, average=False), case["dreamgaussian_r0.5_s5_loss"])


def test_scheduled_numbers_are_the_published_ones(case, config):
    for name, value in config["schedules"].items():
        found = [g.scheduled(tuple(value), int(step)) for step in case["C_steps"]]
        same(torch.tensor(found), case[f"C_{name}"])


def test_the_scale_by_angle_is_the_published_one(case):
    cameras = orbit(case["sdf_delta_azimuth"].tolist(), (-case["sdf_delta_polar"]).tolist(), distance=2.0)
    scale = g.angular_scale(cameras, orbit(0.0, distance=3.0))
    torch.testing.assert_close(180 * scale, case["sdf_angle_deg"], atol=0.05, rtol=1e-4)
    torch.testing.assert_close(scale, case["sdf_grad_scale"], atol=3e-4, rtol=1e-4)


def test_poses_are_told_as_published(case, config):
    told = config["pose_case"]["dreamgaussian"]
    polar, azimuth, radius = (torch.tensor(told[f"delta_{name}"]) for name in ("elevation", "azimuth", "radius"))
    source = 90 + told["default_elevation"]
    given = config["pose_case"]["threestudio"]
    elevation, turn, distance = (torch.tensor(given[name]) for name in ("elevation", "azimuth", "distance"))
    here, there = given["cond_elevation_deg"], 90 - given["cond_elevation_deg"]
    for family, names in (("zero123", ("orig", "zero123")), ("stable-zero123", ("stable", "stable"))):
        found = pose_vector(polar, azimuth, radius, source_polar_deg=source, family=family)
        same(found[:, None], case[f"dreamgaussian_T_{names[0]}"])
        away = (turn - given["cond_azimuth_deg"], distance - given["cond_camera_distance"])
        found = pose_vector(here - elevation, *away, source_polar_deg=there, family=family)
        same(found[:, None], case[f"threestudio_T_{names[1]}"])


def test_the_critic_gives_that_gradient_through_the_encoder(case):
    told = Told(case["eps_uncond"], case["eps_cond"], case["alphas_cumprod"])
    images = case["latents"].movedim(1, -1)
    found = sds(told, Asking(scale=3.0))(images, orbit([0.0, 9.0]), moment())
    noisy, times = told.asked
    question = question_for(told, case["latents"], torch.randn(2, 4, 8, 8), times)
    alphas = question.alphas.view(-1, 1, 1, 1)
    noise = (noisy - alphas.sqrt() * case["latents"]) / (1 - alphas).sqrt()
    expected = (1 - alphas) * (g.guided(*told.answers, 3.0) - noise) / 2
    torch.testing.assert_close(found.gradient, expected.movedim(1, -1), rtol=1e-3, atol=1e-3)
    assert found.figures["sds"] == pytest.approx(0.5 * float((2 * expected).square().sum()) / 2, rel=1e-3)
    assert 20 <= found.figures["time"] <= 980


def test_asking_in_chunks_asks_the_same(case):
    class Turned(Told):
        def predict(self, noisy, timesteps, cameras):
            return 0.5 * noisy, 0.1 * noisy * cameras.positions[:, 0].view(-1, 1, 1, 1)

    told = Turned(None, None, case["alphas_cumprod"])
    images, cameras = torch.rand(3, 8, 8, 4), orbit([0.0, 40.0, 80.0])
    ways = [sds(told, Asking(chunk=n, times=g.Times(0.3, 0.3)))(images, cameras, moment()) for n in (None, 1, 2)]
    for way in ways[1:]:
        torch.testing.assert_close(way.gradient, ways[0].gradient, rtol=1e-5, atol=1e-6)


def test_hifas_term_is_added_in_image_space(case):
    told = Told(case["eps_uncond"], case["eps_cond"], case["alphas_cumprod"])
    images = torch.rand(2, 8, 8, 4)
    plain, more = (sds(told, Asking(image_weight=w))(images, orbit([0.0, 9.0]), moment()).gradient for w in (0.0, 0.5))
    noisy, times = told.asked
    a = case["alphas_cumprod"][times]
    decoded = g.clean(noisy, g.guided(*told.answers, 3.0), a).movedim(1, -1)
    extra = 0.5 * g.image_gradient(images, decoded, a, 1 - a) / 2
    torch.testing.assert_close(more - plain, extra, rtol=1e-3, atol=1e-3)


def test_critics_together_are_their_weighted_sum(case):
    told = Told(case["eps_uncond"], case["eps_cond"], case["alphas_cumprod"])
    critic = sds(told)
    images, cameras = torch.rand(2, 8, 8, 4), orbit([0.0, 9.0])
    once = critic(images, cameras, moment()).gradient
    flat = together([(2.0, critic), (3.0, lambda i, c, m: g.Criticism(torch.ones_like(i), {"one": 1.0}))])
    found = flat(images, cameras, moment())
    torch.testing.assert_close(found.gradient, 2 * once + 3)
    assert found.figures["one.1"] == 1.0
    with pytest.raises(InputError, match="at least one"):
        together([])


def test_gradients_vanish_at_the_photo_when_scaled_by_angle(case):
    told = Told(case["eps_uncond"], case["eps_cond"], case["alphas_cumprod"])
    critic = sds(told, references=orbit(0.0))
    gradient = critic(torch.rand(2, 8, 8, 4), orbit([0.0, 180.0]), moment()).gradient
    assert float(gradient[0].abs().max()) < 1e-2 * float(gradient[1].abs().max())


def test_annealed_times_follow_their_rules():
    narrowing = g.Times((0, 0.4, 0.2, 200), (0, 0.85, 0.5, 200))
    for step, low, high in ((0, 400, 850), (200, 200, 500)):
        drawn = narrowing.draw(4000, moment(step))
        assert (int(drawn.min()), int(drawn.max())) == (low, high)
    linear = [int(g.Times(anneal="linear").draw(1, moment(step, 500))[0]) for step in (0, 249, 499)]
    assert linear == [980, 500, 20]
    root = [int(g.Times(0.3, 0.98, "sqrt").draw(1, moment(step, 100))[0]) for step in (0, 25, 100)]
    assert root[::2] == [980, 300] and root[1] == pytest.approx(640, abs=1)  # 0.68 (1 − √¼) + 0.3 = 0.64


def test_perpendicular_guidance_drops_what_opposes_the_condition():
    without = torch.zeros(1, 2, 1, 1)
    given = torch.tensor([[1.0, 0.0]]).view(1, 2, 1, 1)
    against = torch.tensor([[[-3.0, 2.0]], [[5.0, 0.0]]]).view(2, 1, 2, 1, 1)
    found = g.perp_neg(without, given, against, torch.tensor([[-0.5], [-1.0]]), 10.0)
    # Only (0, 2) of the first and nothing of the second is perpendicular: 10 · ((1, 0) − ½ (0, 2)).
    torch.testing.assert_close(found.flatten(), torch.tensor([10.0, -10.0]))
    torch.testing.assert_close(
        g.perp_neg(without, given, against, torch.zeros(2, 1), 7.0), g.guided(without, given, 7.0)
    )


def test_rescaled_guidance_has_the_conditions_spread():
    generator = torch.Generator().manual_seed(0)
    given = torch.randn(2, 4, 8, 8, generator=generator)
    loud = g.guided(torch.randn(2, 4, 8, 8, generator=generator), given, 50.0)
    quiet = g.rescaled(loud, given, 1.0)
    torch.testing.assert_close(quiet.std((1, 2, 3)), given.std((1, 2, 3)))
    torch.testing.assert_close(g.rescaled(loud, given, 0.0), loud)
    torch.testing.assert_close(g.rescaled(loud, given, 0.7), 0.7 * quiet + 0.3 * loud)


def test_a_clean_picture_comes_back_from_its_noise():
    latents, noise, a = torch.rand(2, 4, 3, 3), torch.rand(2, 4, 3, 3), torch.tensor([0.9, 0.2])
    noisy = g.noised(latents, noise, a)
    torch.testing.assert_close(g.clean(noisy, noise, a), latents, rtol=1e-5, atol=1e-5)
    wide = a.view(-1, 1, 1, 1)
    velocity = wide.sqrt() * noise - (1 - wide).sqrt() * latents
    torch.testing.assert_close(g.to_epsilon(velocity, noisy, a, "v_prediction"), noise, rtol=1e-5, atol=1e-5)


def test_the_encoder_sees_the_size_that_is_asked_for(case):
    class Sized(Told):
        def encode(self, images):
            self.size = images.shape[1:3]
            return images.movedim(-1, 1)[..., ::2, ::2]

    told = Sized(case["eps_uncond"], case["eps_cond"], case["alphas_cumprod"])
    gradient = sds(told, Asking(resolution=16))(torch.rand(2, 12, 12, 4), orbit([0.0, 9.0]), moment()).gradient
    assert tuple(told.size) == (16, 16) and gradient.shape == (2, 12, 12, 4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda: g.scheduled((1.0, 2.0), 0), "start, from, to, end"),
        (lambda: g.Times(anneal="cosine"), "anneal"),
        (lambda: g.weight("nothing", torch.ones(1)), "fantasia3d"),
        (lambda: Asking(rescale=2.0), "rescale is 2.0"),
        (lambda: Asking(clip=0.0), "above 0"),
        (lambda: Asking(weighting="loud"), "weighting"),
    ],
)
def test_what_cannot_be_meant_is_refused(change, message):
    with pytest.raises(UsageError, match=message):
        change()


def test_perpendicular_guidance_needs_negative_conditions(case):
    told = Told(case["eps_uncond"], case["eps_cond"], case["alphas_cumprod"])
    with pytest.raises(UsageError, match="negative conditions"):
        sds(told, Asking(perpendicular=True))(torch.rand(2, 8, 8, 4), orbit([0.0, 9.0]), moment())
