"""What a diffusion model says about a picture, as a gradient: noise schedules, guidance, and score distillation.

A render is encoded, noised, and handed to a frozen denoiser; the difference between the noise it sees and the noise
that was added says how the picture should change (Poole et al. 2022, "DreamFusion", equation 3). Everything here takes
tensors and returns tensors; ``critics.py`` puts it together.

Notation: a = alphas_cumprod[t], x = clean latents, n = noise, x_t = √a x + √(1 − a) n.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from ..cameras import Cameras
from ..errors import UsageError

Prediction = Literal["epsilon", "v_prediction"]
Weighting = Literal["sds", "uniform", "fantasia3d"]
Scheduled = float | tuple[float, ...]


class Denoiser(Protocol):
    """A latent diffusion model with its condition; the families in ``multiview`` make them."""

    @property
    def alphas_cumprod(self) -> Tensor:
        """[T] share of the picture's variance left at each time."""
        ...

    @property
    def prediction(self) -> Prediction:
        """What ``predict`` answers with: the noise, or v = √a n − √(1 − a) x (Salimans & Ho 2022)."""
        ...

    def encode(self, images: Tensor) -> Tensor:
        """Images [B, H, W, 3] in 0–1 → scaled latents [B, 4, h, w], differentiable."""
        ...

    def decode(self, latents: Tensor) -> Tensor:
        """Scaled latents [B, 4, h, w] → images [B, H, W, 3]."""
        ...

    def predict(self, noisy: Tensor, timesteps: Tensor, cameras: Cameras) -> tuple[Tensor, Tensor]:
        """Noisy latents [B, 4, h, w] at times [B], as B cameras see the object → predictions without and with the
        condition, [B, 4, h, w] each."""
        ...


@runtime_checkable
class ContrastingDenoiser(Protocol):
    """A denoiser that also knows what a view should not be, for ``perp_neg``."""

    def predict_against(
        self, noisy: Tensor, timesteps: Tensor, cameras: Cameras
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """As ``predict``, and predictions under K negative conditions [K, B, 4, h, w] with their weights [K, B]."""
        ...


class Moment(NamedTuple):
    """Where a distillation stands."""

    step: int  # taken before this one
    steps: int
    generator: torch.Generator  # on the CPU; all that is random is drawn from it


class Criticism(NamedTuple):
    """What a critic says about pictures."""

    gradient: Tensor  # [B, H, W, 3] of the loss, by the pictures
    figures: dict[str, float]  # to be shown


class Critic(Protocol):
    """Judges renders. A plain function will do; a critic that learns also has ``state`` and ``restore``."""

    def __call__(self, images: Tensor, cameras: Cameras, moment: Moment) -> Criticism:
        """Images [B, H, W, 3] in 0–1 over the background, from B cameras → gradient and figures."""
        ...


# ------------------------------------------------------------------------------------------------- schedules


def scheduled(value: Scheduled, step: int) -> float:
    """A number that changes with the step, as threestudio writes it (``threestudio/utils/misc.py``, ``C``).

    One number is constant. ``(s0, v0, v1, s1)`` goes from v0 at step s0 to v1 at s1, linearly, and stays; with three
    entries s0 is 0. Each further pair ``(v2, s2)`` goes on from there.

    Raises:
        UsageError: another number of entries.
    """
    if not isinstance(value, tuple):
        return float(value)
    knots = (0, *value) if len(value) == 3 else value
    if len(knots) < 4 or len(knots) % 2:
        raise UsageError(
            f"the schedule {value} has {len(value)} entries; write (start, from, to, end), then (to, end)…"
        )
    steps, values = [knots[0], *knots[3::2]], [knots[1], *knots[2::2]]
    if step <= steps[0]:
        return float(values[0])
    for i in range(1, len(steps)):
        if step < steps[i]:
            share = (step - steps[i - 1]) / (steps[i] - steps[i - 1])
            return float(values[i - 1] + share * (values[i] - values[i - 1]))
    return float(values[-1])


@dataclass(frozen=True)
class Times:
    """Which noise levels are asked about, as shares of all T."""

    low: Scheduled = 0.02
    high: Scheduled = 0.98
    anneal: Literal["uniform", "linear", "sqrt"] = "uniform"  # drawn between; or falling with the steps

    def __post_init__(self) -> None:
        if self.anneal not in ("uniform", "linear", "sqrt"):
            raise UsageError(f"anneal is {self.anneal!r}; choose 'uniform', 'linear' or 'sqrt'")

    def draw(self, count: int, moment: Moment, total: int = 1000) -> Tensor:
        """Times [count] int64, both ends included.

        ``"uniform"`` draws one for each image (DreamFusion). ``"linear"`` falls from T to 0 within the ends
        (DreamGaussian), ``"sqrt"`` from high to low with the root of the progress (Zhu et al. 2023, "HiFA", section
        3.3); both take one for all.
        """
        low, high = scheduled(self.low, moment.step), scheduled(self.high, moment.step)
        first, last = int(low * total), min(int(high * total), total - 1)
        if self.anneal == "linear":
            done = min(1.0, (moment.step + 1) / moment.steps)
            return torch.full((count,), linear_time(done, first=first, last=last, total=total))
        if self.anneal == "sqrt":
            share = (high - low) * (1 - math.sqrt(min(1.0, moment.step / moment.steps))) + low
            return torch.full((count,), min(int(share * total), total - 1))
        return torch.randint(first, max(first, last) + 1, (count,), generator=moment.generator)


def linear_time(done: float, *, first: int = 20, last: int = 980, total: int = 1000) -> int:
    """DreamGaussian's time when a share ``done`` of the steps is behind: T (1 − done), within the ends."""
    return min(max(round((1 - done) * total), first), last)


def weight(weighting: Weighting, alphas: Tensor) -> Tensor:
    """w(t) at a = ``alphas`` [B] → [B].

    ``"sds"``: 1 − a (DreamFusion, Zero123 in every code base); ``"uniform"``: 1; ``"fantasia3d"``: √a (1 − a).

    Raises:
        UsageError: another name.
    """
    table = {"sds": 1 - alphas, "uniform": torch.ones_like(alphas), "fantasia3d": alphas.sqrt() * (1 - alphas)}
    if weighting not in table:
        raise UsageError(f"weighting is {weighting!r}, it must be one of: {', '.join(table)}")
    return table[weighting]


# ------------------------------------------------------------------------------------------------- formulas


def noised(latents: Tensor, noise: Tensor, alphas: Tensor) -> Tensor:
    """x_t of latents [B, C, h, w] with noise of that shape, at a = ``alphas`` [B]."""
    a = _wide(alphas)
    return a.sqrt() * latents + (1 - a).sqrt() * noise


def to_epsilon(answer: Tensor, noisy: Tensor, alphas: Tensor, prediction: Prediction) -> Tensor:
    """A network's answer [B, C, h, w] as noise: ε itself, or ε = √(1 − a) x_t + √a v."""
    if prediction == "epsilon":
        return answer
    a = _wide(alphas)
    return (1 - a).sqrt() * noisy + a.sqrt() * answer


def clean(noisy: Tensor, epsilon: Tensor, alphas: Tensor) -> Tensor:
    """What the latents [B, C, h, w] are without the noise: (x_t − √(1 − a) ε) / √a."""
    a = _wide(alphas)
    return (noisy - (1 - a).sqrt() * epsilon) / a.sqrt()


def guided(without: Tensor, given: Tensor, scale: float) -> Tensor:
    """Classifier-free guidance: ε_u + s (ε_c − ε_u) (Ho & Salimans 2022, equation 6, with s = 1 + w), all [B, C, h, w].

    threestudio's text guidance writes ε_c + s (ε_c − ε_u), which is this with s + 1.
    """
    return without + scale * (given - without)


def rescaled(answer: Tensor, given: Tensor, share: float) -> Tensor:
    """Guidance without over-exposure (Lin et al. 2023, "Common diffusion noise schedules and sample steps are flawed",
    equations 15–16): the answer [B, …] with the conditional prediction's standard deviation, mixed with itself."""
    axes = tuple(range(1, answer.ndim))
    factor = given.std(axes, keepdim=True) / answer.std(axes, keepdim=True).clamp_min(1e-12)
    return answer * (share * factor + 1 - share)


def perp_neg(without: Tensor, given: Tensor, against: Tensor, weights: Tensor, scale: float) -> Tensor:
    """Guidance away from negative conditions, without losing the positive one (Armandpour et al. 2023, algorithm 1).

    Of each negative direction only what is perpendicular to the positive one counts: ε_u + s (d + Σ w_k d_k⊥) with
    d = ε_c − ε_u.

    Args:
        without: [B, C, h, w] without a condition.
        given: with the positive one.
        against: [K, B, C, h, w] with negative ones.
        weights: [K, B], 0 or negative.
        scale: s.
    """
    positive = given - without
    total = positive
    square = positive.square().sum((1, 2, 3), keepdim=True).clamp_min(1e-12)
    for other, share in zip(against, weights, strict=True):
        away = other - without
        along = (away * positive).sum((1, 2, 3), keepdim=True) / square
        total = total + _wide(share.to(away)) * (away - along * positive)
    return without + scale * total


def sds_gradient(epsilon: Tensor, noise: Tensor, factor: Tensor, *, clip: float | None = None) -> Tensor:
    """g = w (ε̂ − n), by the latents (DreamFusion, equation 3); what is not finite becomes 0.

    Args:
        epsilon: guided prediction [B, C, h, w].
        noise: what was added; zero for the SJC gradient that does not reduce variance.
        factor: w(t) [B].
        clip: largest absolute value of an element; threestudio's ``grad_clip``.
    """
    gradient = torch.nan_to_num(_wide(factor) * (epsilon - noise))
    return gradient if clip is None else gradient.clamp(-clip, clip)


def sds_loss(gradient: Tensor, *, average: bool = True) -> float:
    """½ Σ g² / B of a gradient [B, …]: what published logs show; without ``average`` not divided (DreamGaussian)."""
    return 0.5 * float(gradient.square().sum()) / (len(gradient) if average else 1)


def sjc_gradient(latents: Tensor, epsilon: Tensor, noise: Tensor, alphas: Tensor, *, reduced: bool = True) -> Tensor:
    """−(D − x) / σ with σ = √((1 − a) / a) and D = x + σ n − σ ε̂ (Wang et al. 2023, "Score Jacobian Chaining").

    Equals the ``"uniform"`` SDS gradient if the variance is ``reduced``, else ε̂ itself; ε̂ is asked for at
    (x + σ n) / √(1 + σ²), which is x_t.

    Args:
        latents: x [B, C, h, w], clean.
        epsilon: ε̂ [B, C, h, w].
        noise: n [B, C, h, w].
        alphas: a [B], products of 1 − β.
        reduced: subtract x; else x + σ n, which gives the same mean with more variance.

    Returns:
        The gradient by the latents [B, C, h, w].
    """
    sigma = _wide(((1 - alphas) / alphas).sqrt())
    shaken = latents + sigma * noise
    return -(shaken - sigma * epsilon - (latents if reduced else shaken)) / sigma


def image_gradient(images: Tensor, predicted: Tensor, alphas: Tensor, factor: Tensor) -> Tensor:
    """HiFA's term in image space: w (image − decoded x̂0) √a / √(1 − a), images [B, …], w and a [B]."""
    scale = (factor * (alphas / (1 - alphas)).sqrt()).view(-1, *[1] * (images.ndim - 1))
    return scale * (images - predicted)


def angular_scale(cameras: Cameras, references: Cameras) -> Tensor:
    """How far each of B cameras is from the nearest of R reference views: angle / (180° / R) → [B].

    Zero at the photo, 1 opposite it: stable-dreamfusion's gradient scale "angle".
    """
    a = torch.nn.functional.normalize(cameras.positions.reshape(-1, 3), dim=-1)
    b = torch.nn.functional.normalize(references.positions.reshape(-1, 3), dim=-1)
    angles = torch.rad2deg(torch.acos((a @ b.T).clamp(-1, 1)))
    return angles.amin(-1) / (180 / len(b))


def _wide(values: Tensor) -> Tensor:
    """[B] → [B, 1, 1, 1]."""
    return values.view(-1, 1, 1, 1)
