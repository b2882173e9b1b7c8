"""Critics: what looks at renders and says, as a gradient, how they should change.

``sds`` asks a diffusion model by score distillation (Poole et al. 2022, "DreamFusion"); ``together`` adds several.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..cameras import Cameras
from ..errors import InputError, UsageError
from .guidance import (
    ContrastingDenoiser,
    Critic,
    Criticism,
    Denoiser,
    Moment,
    Times,
    Weighting,
    angular_scale,
    clean,
    guided,
    image_gradient,
    noised,
    perp_neg,
    rescaled,
    sds_gradient,
    sds_loss,
    to_epsilon,
    weight,
)


@dataclass(frozen=True)
class Asking:
    """How a denoiser is asked, and what is made of its answer."""

    scale: float = 3.0  # of guidance: 3 (threestudio) or 5 (DreamGaussian) for Zero123, 100 for text
    times: Times = field(default_factory=Times)
    weighting: Weighting = "sds"
    perpendicular: bool = False  # Perp-Neg, for denoisers that know negative conditions
    rescale: float = 0.0  # share of rescaled guidance; Lin et al. suggest 0.7
    clip: float | None = None
    average: bool = True  # divide by the number of images
    image_weight: float = 0.0  # of HiFA's term; 0.01 in threestudio's hifa.yaml
    resolution: int | None = None  # pixels a side that images are brought to first
    chunk: int | None = None  # images asked about at once, to bound memory; default: all

    def __post_init__(self) -> None:
        if not 0 <= self.rescale <= 1 or (self.chunk is not None and self.chunk < 1):
            raise UsageError(f"rescale is {self.rescale}, chunk {self.chunk}; rescale is a share 0–1, chunk at least 1")
        if self.clip is not None and self.clip <= 0:
            raise UsageError(f"clip is {self.clip}, it must be above 0; None leaves gradients as they are")
        weight(self.weighting, torch.ones(1))


class Asked(NamedTuple):
    """One question to a denoiser."""

    latents: Tensor  # [B, C, h, w] clean
    noise: Tensor  # [B, C, h, w] added to them
    noisy: Tensor  # [B, C, h, w] what the denoiser sees
    times: Tensor  # [B] int64
    alphas: Tensor  # [B] products of 1 − β at the times


def ask(denoiser: Denoiser, question: Asked, cameras: Cameras, asking: Asking) -> Tensor:
    """The guided noise prediction ε̂ [B, C, h, w], without gradients.

    Raises:
        UsageError: perpendicular guidance by a denoiser that knows no negative conditions.
    """
    noisy, times, alphas = question.noisy, question.times, question.alphas

    def noise_of(answer: Tensor) -> Tensor:
        return to_epsilon(answer.to(noisy), noisy, alphas, denoiser.prediction)

    with torch.no_grad():
        if asking.perpendicular:
            if not isinstance(denoiser, ContrastingDenoiser):
                raise UsageError(
                    f"{type(denoiser).__name__} knows no negative conditions, which perpendicular guidance needs; "
                    "leave it out, or use a text-conditioned model"
                )
            without, given, against, shares = denoiser.predict_against(noisy, times, cameras)
            others = torch.stack([noise_of(one) for one in against])
            given = noise_of(given)
            answer = perp_neg(noise_of(without), given, others, shares, asking.scale)
        else:
            without, given = (noise_of(one) for one in denoiser.predict(noisy, times, cameras))
            answer = guided(without, given, asking.scale)
        return rescaled(answer, given, asking.rescale) if asking.rescale > 0 else answer


def question_for(denoiser: Denoiser, latents: Tensor, noise: Tensor, times: Tensor) -> Asked:
    """Latents [B, C, h, w] noised for the times [B]."""
    times = times.to(latents.device)
    alphas = denoiser.alphas_cumprod.to(latents)[times]
    latents, noise = latents.detach(), noise.to(latents)
    return Asked(latents, noise, noised(latents, noise, alphas), times, alphas)


class Sds:
    """A critic by score distillation; made by ``sds``."""

    def __init__(self, denoiser: Denoiser, asking: Asking, references: Cameras | None = None) -> None:
        self.denoiser, self.asking, self.references = denoiser, asking, references

    def __call__(self, images: Tensor, cameras: Cameras, moment: Moment) -> Criticism:
        """Gradient by the images [B, H, W, 3]."""
        times = self.asking.times.draw(len(images), moment, len(self.denoiser.alphas_cumprod))
        parts, loss = [], 0.0
        size = self.asking.chunk or len(images)
        for start in range(0, len(images), size):
            part = slice(start, start + size)
            gradient, value = self._part(images[part], cameras[part], times[part], moment)
            parts.append(gradient)
            loss += value
        gradient = torch.cat(parts)
        if self.references is not None:
            gradient = gradient * angular_scale(cameras, self.references).to(gradient).view(-1, 1, 1, 1)
        share = 1 / len(images) if self.asking.average else 1.0
        figures = {"sds": share * loss, "time": float(times.float().mean())}
        return Criticism(share * gradient, figures)

    def direction(self, question: Asked, cameras: Cameras, moment: Moment) -> tuple[Tensor, Tensor]:
        """The gradient by the latents [B, C, h, w], and the guided noise prediction [B, C, h, w]; B cameras."""
        epsilon = ask(self.denoiser, question, cameras, self.asking)
        factor = weight(self.asking.weighting, question.alphas)
        return sds_gradient(epsilon, question.noise, factor, clip=self.asking.clip), epsilon

    def _part(self, images: Tensor, cameras: Cameras, times: Tensor, moment: Moment) -> tuple[Tensor, float]:
        leaf = images.detach().requires_grad_(True)
        with torch.enable_grad():
            sized = resized(leaf, self.asking.resolution)
            latents = self.denoiser.encode(sized)
        noise = torch.randn(latents.shape, generator=moment.generator)
        question = question_for(self.denoiser, latents, noise, times)
        gradient, epsilon = self.direction(question, cameras, moment)
        outputs, directions = [latents], [gradient]
        if self.asking.image_weight > 0:
            with torch.no_grad():
                decoded = self.denoiser.decode(clean(question.noisy, epsilon, question.alphas)).to(sized)
            factor = weight(self.asking.weighting, question.alphas)
            outputs.append(sized)
            directions.append(
                self.asking.image_weight * image_gradient(sized.detach(), decoded, question.alphas, factor)
            )
        found = torch.autograd.grad(outputs, leaf, directions)[0]
        return found, sds_loss(gradient, average=False)

    def state(self) -> dict[str, Any]:
        """What a checkpoint needs: nothing."""
        return {}

    def restore(self, state: dict[str, Any]) -> None:
        """Take over a checkpoint's content."""


def sds(denoiser: Denoiser, asking: Asking | None = None, *, references: Cameras | None = None) -> Sds:
    """A critic by score distillation (Poole et al. 2022, "DreamFusion", equation 3): images [B, H, W, 3] → gradient.

    Args:
        denoiser: frozen.
        asking: guidance scale, noise levels, weighting, and what bounds memory.
        references: gradients are scaled by the angle to the nearest of these views (``angular_scale``).
    """
    return Sds(denoiser, asking or Asking(), references)


def resized(images: Tensor, size: int | None) -> Tensor:
    """Images [B, H, W, C] at ``size`` pixels a side, bilinear, as every published recipe does; None leaves them."""
    if size is None or tuple(images.shape[1:3]) == (size, size):
        return images
    moved = images.movedim(-1, 1)
    return torch.nn.functional.interpolate(moved, (size, size), mode="bilinear").movedim(1, -1)


def together(critics: Sequence[tuple[float, Critic]]) -> Critic:
    """Several critics as one, each with a weight: Magic123's two priors, for example.

    Raises:
        InputError: there is none.
    """
    if not critics:
        raise InputError("no critic was given; pass at least one with its weight")
    return _Together(tuple(critics))


class _Together:
    def __init__(self, critics: tuple[tuple[float, Critic], ...]) -> None:
        self.critics = critics

    def __call__(self, images: Tensor, cameras: Cameras, moment: Moment) -> Criticism:
        total = torch.zeros_like(images)
        figures: dict[str, float] = {}
        for number, (share, critic) in enumerate(self.critics):
            gradient, said = critic(images, cameras, moment)
            total = total + share * gradient
            figures |= {f"{name}.{number}": value for name, value in said.items()}
        return Criticism(total, figures)

    def state(self) -> dict[str, Any]:
        return {str(i): critic.state() for i, (_, critic) in enumerate(self.critics) if hasattr(critic, "state")}

    def restore(self, state: dict[str, Any]) -> None:
        for i, (_, critic) in enumerate(self.critics):
            if hasattr(critic, "restore"):
                critic.restore(state[str(i)])
