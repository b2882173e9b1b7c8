"""The second model of variational distillation: it starts as the first, learns, and is remembered."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from obverse.cameras import orbit
from obverse.errors import InputError, UsageError
from obverse.lifting.critics import Asking, sds
from obverse.lifting.distill import distill
from obverse.lifting.guidance import Moment, Times
from obverse.lifting.variational import Learning, LowRank, flattened, projections, vsd

from .analytic import ALPHAS
from .test_distill import SHORT, gaussians

CAMERAS = orbit([0.0, 120.0], 10.0, distance=2.0)
FAST = Learning(rate=0.02, warmup=1, forget=0.0)


class Attention(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.to_q, self.to_k, self.to_v = (nn.Linear(width, width, bias=False) for _ in range(3))
        self.to_out = nn.ModuleList([nn.Linear(width, width)])

    def forward(self, x):
        share = (self.to_q(x) @ self.to_k(x).transpose(1, 2) / 4).softmax(-1)
        return self.to_out[0](share @ self.to_v(x))


class Tiny(nn.Module):
    """As much of a UNet as matters here: time embedding, one attention block, three channels in and out."""

    def __init__(self, width=16):
        super().__init__()
        torch.manual_seed(0)
        self.time_embedding = nn.Sequential(nn.Linear(2, width), nn.SiLU(), nn.Linear(width, width))
        self.first, self.attention, self.last = nn.Linear(3, width), Attention(width), nn.Linear(width, 3)
        self.requires_grad_(False)

    def forward(self, noisy, times):
        share = times.float()[:, None] / 1000
        embedded = self.time_embedding(torch.cat([share, share**2], 1))
        tokens = self.first(noisy.flatten(2).transpose(1, 2)) + embedded[:, None]
        tokens = tokens + self.attention(tokens)
        return self.last(tokens).transpose(1, 2).reshape(noisy.shape)


class Asked:
    alphas_cumprod = ALPHAS

    def __init__(self, prediction="epsilon"):
        self.network, self.prediction = Tiny(), prediction

    def encode(self, images):
        return torch.nn.functional.avg_pool2d(2 * images.movedim(-1, 1) - 1, 4)

    def decode(self, latents):
        return latents.movedim(1, -1)

    def predict(self, noisy, timesteps, cameras):
        both = self.network(torch.cat([noisy, noisy]), torch.cat([timesteps, timesteps]))
        without, given = both.chunk(2)
        return 0.5 * without, given


def moment(seed=0):
    return Moment(0, 10, torch.Generator().manual_seed(seed))


def test_every_attention_projection_is_found():
    assert len(projections(Tiny())) == 4
    with pytest.raises(InputError, match="to_q"):
        LowRank(nn.Linear(3, 3), Learning())


def test_at_first_nothing_is_added_and_later_only_while_switched_on():
    network = Tiny()
    noisy, times = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(1)), torch.tensor([5, 900])
    plain = network(noisy, times)
    additions = LowRank(network, Learning())
    with additions.active(flattened(CAMERAS)):
        assert torch.equal(network(noisy, times), plain)
    with torch.no_grad():
        additions.up[0] += 1.0
        additions.embed[2].weight += 0.1
    assert torch.equal(network(noisy, times), plain)
    with additions.active(flattened(CAMERAS)):
        changed = network(noisy, times)
    with additions.active(torch.zeros(2, 16)):
        elsewhere = network(noisy, times)
    assert not torch.allclose(changed, plain) and not torch.allclose(changed, elsewhere)


def test_the_additions_are_of_low_rank():
    network = Tiny()
    linear = network.attention.to_v
    additions = LowRank(network, Learning(rank=2, scale=3.0))
    with torch.no_grad():
        additions.up[2].copy_(torch.randn(16, 2))
    x = torch.eye(16)
    with additions.active(torch.zeros(1, 16)):
        difference = linear(x) - x @ linear.weight.T
    torch.testing.assert_close(difference.T, 3.0 * additions.up[2] @ additions.down[2], rtol=1e-4, atol=1e-5)
    assert int(torch.linalg.matrix_rank(difference, atol=1e-4)) == 2


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_its_steps_reduce_its_loss_and_leave_the_network_alone(prediction):
    denoiser = Asked(prediction)
    critic = vsd(denoiser, denoiser.network, learning=FAST)
    before = {name: value.clone() for name, value in denoiser.network.state_dict().items()}
    latents = torch.full((2, 3, 4, 4), 0.7)
    generator = moment()
    losses = [critic.train(latents, CAMERAS, generator) for _ in range(60)]
    assert sum(losses[-20:]) < 0.8 * sum(losses[:20])
    assert all(torch.equal(value, before[name]) for name, value in denoiser.network.state_dict().items())


def test_before_it_has_learnt_the_gradient_is_guidance_alone():
    denoiser = Asked()
    images = torch.rand(2, 16, 16, 3, generator=torch.Generator().manual_seed(2))
    asking = Asking(scale=4.0, times=Times(0.5, 0.5))
    critic = vsd(denoiser, denoiser.network, asking)
    found = critic(images, CAMERAS, moment())
    latents = denoiser.encode(images)
    noise = torch.randn(latents.shape, generator=Moment(0, 1, _after_times(asking)).generator)
    a = ALPHAS[500]
    given = denoiser.network(a.sqrt() * latents + (1 - a).sqrt() * noise, torch.tensor([500, 500]))
    # guided − φ = (0.5 + 4 · 0.5 − 1) ε_c = 1.5 ε_c; the encoder's slope is 2 / 16, the batch 2.
    expected = (1 - a) * 1.5 * given / 2 * 2 / 16
    wide = torch.nn.functional.interpolate(expected, scale_factor=4).movedim(1, -1)
    torch.testing.assert_close(found.gradient, wide, rtol=1e-3, atol=1e-6)
    assert found.figures["lora"] > 0 and critic.steps == 1


def _after_times(asking):
    generator = torch.Generator().manual_seed(0)
    asking.times.draw(2, Moment(0, 10, generator))
    return generator


def test_a_run_with_it_resumes_to_the_same_bits(tmp_path):
    recipe = replace(SHORT, steps=6)

    def run(path=None, stop=None):
        canvas, denoiser = gaussians(6, 40), Asked()
        critic = vsd(denoiser, denoiser.network, learning=FAST)

        def interrupt(now):
            if now.step == stop:
                raise KeyboardInterrupt

        try:
            distill(canvas, critic, recipe=recipe, checkpoint=path, progress=interrupt)
        except KeyboardInterrupt:
            return None
        return torch.cat([canvas.gaussians.means, canvas.gaussians.colors]), critic.additions.up[0].detach()

    assert run(tmp_path / "state", stop=3) is None
    resumed, whole = run(tmp_path / "state"), run()
    assert torch.equal(resumed[0], whole[0]) and torch.equal(resumed[1], whole[1])


def test_a_denoiser_without_gradients_cannot_be_learnt_from():
    class Shut(Asked):
        @torch.no_grad()
        def predict(self, noisy, timesteps, cameras):
            return super().predict(noisy, timesteps, cameras)

    shut = Shut()
    with pytest.raises(InputError, match="without gradients"):
        vsd(shut, shut.network).train(torch.zeros(2, 3, 4, 4), CAMERAS, moment())
    assert sds(shut)(torch.rand(2, 16, 16, 3), CAMERAS, moment()).gradient.shape == (2, 16, 16, 3)


def test_learning_that_cannot_be_meant_is_refused():
    with pytest.raises(UsageError, match="rank is 0"):
        Learning(rank=0)
