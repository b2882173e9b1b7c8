"""Variational score distillation: the render is judged against what a second model has learnt renders look like.

Wang et al. 2023, "ProlificDreamer": g = w(t) (ε̂(x_t) − ε_φ(x_t, camera)). φ is the frozen network with low-rank
additions to its attention projections (Hu et al. 2021, "LoRA") and an embedding of the camera that joins the one of
the time; it is trained by a step of ordinary denoising for every step of the object. Both live in one network: the
additions are hooks, switched on only while φ is asked.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..cameras import Cameras
from ..errors import InputError, UsageError
from .critics import Asked, Asking, Sds, ask, question_for
from .guidance import Criticism, Denoiser, Moment, sds_gradient, to_epsilon, weight

PROJECTIONS = ("to_q", "to_k", "to_v", "to_out")  # of an attention block, as diffusers names them


@dataclass(frozen=True)
class Learning:
    """How φ is trained; ProlificDreamer's numbers."""

    rank: int = 4
    rate: float = 1e-4  # AdamW's
    warmup: int = 501  # steps over which the rate rises
    forget: float = 0.1  # chance that the camera is left out of a training step
    scale: float = 1.0  # of the additions

    def __post_init__(self) -> None:
        if self.rank < 1 or self.rate <= 0 or not 0 <= self.forget <= 1:
            raise UsageError(
                f"rank is {self.rank}, rate {self.rate} and forget {self.forget}; the rank must be at least 1, the "
                "rate above 0, forget a share in 0–1"
            )


class LowRank(nn.Module):
    """Low-rank additions to the attention projections of a network, and the embedding of cameras.

    The first factor is normal with a deviation of 1 / rank and the second zero, and so is the last layer of the
    embedding: at first nothing is added. (ProlificDreamer begins with a random embedding.)

    Args:
        network: a diffusers UNet, or any module whose attention blocks have ``to_q``, ``to_k``, ``to_v`` and
            ``to_out``; ``time_embedding``, if it has one, is where cameras are added.
        learning: rank and scale.
        seed: of the factors.

    Raises:
        InputError: the network has no such projection.
    """

    def __init__(self, network: nn.Module, learning: Learning, seed: int = 0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        linears = projections(network)
        if not linears:
            raise InputError(
                f"{type(network).__name__} has no attention projections named {', '.join(PROJECTIONS)}, so there is "
                "nothing to add to; pass the UNet"
            )
        where = next(network.parameters()).device
        self.scale, self.cameras, self.on = learning.scale, torch.zeros(0, 16), False
        self.down, self.up = nn.ParameterList(), nn.ParameterList()
        for number, linear in enumerate(linears):
            drawn = torch.randn(learning.rank, linear.in_features, generator=generator) / learning.rank
            self.down.append(nn.Parameter(drawn.to(where)))
            self.up.append(nn.Parameter(torch.zeros(linear.out_features, learning.rank, device=where)))
            linear.register_forward_hook(self._hook(number))
        self.embed: nn.Sequential | None = None
        time: Any = getattr(network, "time_embedding", None)
        if time is not None:
            width = _outputs(time)
            self.embed = nn.Sequential(nn.Linear(16, width), nn.SiLU(), nn.Linear(width, width))
            with torch.no_grad():
                first = torch.randn(width, 16, generator=generator) / 4
                self.embed[0].weight.copy_(first)  # type: ignore[operator]
                for value in (self.embed[0].bias, self.embed[2].weight, self.embed[2].bias):
                    value.zero_()  # type: ignore[operator]
            self.embed.to(where)
            time.register_forward_hook(self._camera_hook)

    @contextmanager
    def active(self, cameras: Tensor) -> Iterator[None]:
        """While inside, the network is φ; ``cameras`` [B, 16] are flattened camera-to-world matrices, or zeros."""
        self.cameras, self.on = cameras, True
        try:
            yield
        finally:
            self.on = False

    def _hook(self, number: int) -> Any:
        def add(module: nn.Module, given: tuple[Tensor, ...], out: Tensor) -> Tensor:
            if not self.on:
                return out
            low = given[0].to(self.down[number].dtype) @ self.down[number].T
            return out + (self.scale * low @ self.up[number].T).to(out.dtype)

        return add

    def _camera_hook(self, module: nn.Module, given: tuple[Tensor, ...], out: Tensor) -> Tensor:
        if not self.on or self.embed is None:
            return out
        added = self.embed(self.cameras.to(next(self.embed.parameters())))
        return out + added.repeat(len(out) // len(added), 1).to(out.dtype)


def projections(network: nn.Module) -> list[nn.Linear]:
    """The linear layers of a network's attention projections, in order."""
    found = []
    for name, module in network.named_modules():
        last = [part for part in name.split(".") if not part.isdigit()][-1:]
        if isinstance(module, nn.Linear) and last and last[0] in PROJECTIONS:
            found.append(module)
    return found


def flattened(cameras: Cameras) -> Tensor:
    """Camera-to-world matrices [B, 16]."""
    return torch.linalg.inv(cameras.world_to_camera.reshape(-1, 4, 4).double()).float().flatten(1)


class Vsd(Sds):
    """A critic by variational score distillation, which learns while it judges; made by ``vsd``."""

    def __init__(
        self, denoiser: Denoiser, network: nn.Module, asking: Asking, learning: Learning, learner: Denoiser, seed: int
    ) -> None:
        super().__init__(denoiser, asking)
        self.learning, self.learner = learning, learner
        self.additions = LowRank(network, learning, seed)
        self.optimiser = torch.optim.AdamW(self.additions.parameters(), lr=learning.rate)
        self.steps = 0
        self._seen: list[tuple[Tensor, Cameras]] = []

    def __call__(self, images: Tensor, cameras: Cameras, moment: Moment) -> Criticism:
        """Gradient by the images [B, H, W, 3]; then one step of φ on the same images."""
        self._seen = []
        gradient, figures = super().__call__(images, cameras, moment)
        loss = sum(self.train(latents, views, moment) * len(latents) for latents, views in self._seen) / len(images)
        self._seen = []
        return Criticism(gradient, {**figures, "lora": loss})

    def direction(self, question: Asked, cameras: Cameras, moment: Moment) -> tuple[Tensor, Tensor]:
        """w (ε̂ − ε_φ) by the latents [B, C, h, w] (Wang et al. 2023, "ProlificDreamer"), and ε̂; B cameras."""
        epsilon = ask(self.denoiser, question, cameras, self.asking)
        with torch.no_grad():
            learnt = self._learnt(question, cameras, flattened(cameras))
        self._seen.append((question.latents, cameras))
        factor = weight(self.asking.weighting, question.alphas)
        return sds_gradient(epsilon, learnt, factor, clip=self.asking.clip), epsilon

    def train(self, latents: Tensor, cameras: Cameras, moment: Moment) -> float:
        """One step of φ on clean latents [B, C, h, w] of renders → its loss, a mean squared error of the prediction.

        Raises:
            InputError: the network's answers carry no gradient.
        """
        generator, count = moment.generator, len(latents)
        times = torch.randint(0, len(self.learner.alphas_cumprod), (count,), generator=generator)
        noise = torch.randn(latents.shape, generator=generator)
        question = question_for(self.learner, latents, noise, times)
        views = flattened(cameras)
        if float(torch.rand((), generator=generator)) < self.learning.forget:
            views = torch.zeros_like(views)
        self.optimiser.zero_grad()
        # The backward pass too is inside: activations may be computed anew in it, and must meet the same additions.
        with torch.enable_grad(), self.additions.active(views.to(question.noisy.device)):
            answer = self.learner.predict(question.noisy, question.times, cameras)[1].to(question.noisy)
            if not answer.requires_grad:
                raise InputError(
                    f"{type(self.learner).__name__}.predict answers without gradients, so nothing can be learnt; pass "
                    "a denoiser that does not switch them off, and the network it really asks"
                )
            loss = (answer - self._target(question)).square().mean()
            loss.backward()
        for group in self.optimiser.param_groups:
            group["lr"] = self.learning.rate * min(1.0, (self.steps + 1) / self.learning.warmup)
        self.optimiser.step()
        self.steps += 1
        value = float(loss.detach())
        if not math.isfinite(value):
            raise InputError(f"the loss of the second model became {value}; lower its rate")
        return value

    def _learnt(self, question: Asked, cameras: Cameras, views: Tensor) -> Tensor:
        with self.additions.active(views.to(question.noisy.device)):
            answer = self.learner.predict(question.noisy, question.times, cameras)[1].to(question.noisy)
        return to_epsilon(answer, question.noisy, question.alphas, self.learner.prediction)

    def _target(self, question: Asked) -> Tensor:
        """What ``predict`` should answer: the noise, or v."""
        if self.learner.prediction == "epsilon":
            return question.noise
        a = question.alphas.view(-1, 1, 1, 1)
        return a.sqrt() * question.noise - (1 - a).sqrt() * question.latents

    def state(self) -> dict[str, Any]:
        """The additions and their optimiser."""
        values = {name: value.detach() for name, value in self.additions.state_dict().items()}
        return {"additions": values, "optimiser": self.optimiser.state_dict(), "steps": self.steps}

    def restore(self, state: dict[str, Any]) -> None:
        """Take over a checkpoint's content."""
        self.additions.load_state_dict(state["additions"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.steps = state["steps"]


def vsd(
    denoiser: Denoiser,
    network: nn.Module,
    asking: Asking | None = None,
    *,
    learning: Learning | None = None,
    learner: Denoiser | None = None,
    seed: int = 0,
) -> Vsd:
    """A critic by variational score distillation.

    Args:
        denoiser: frozen; asked with guidance.
        network: the UNet that the learner asks; hooks are added to it, its weights stay as they are.
        asking: guidance scale (7.5 for text), noise levels, weighting.
        learning: of φ.
        learner: φ's view of the same network: for text, the prompt without words for the view. The denoiser by
            default; a photo's token stays in it (there is no published recipe for photos).
        seed: of the additions.
    """
    return Vsd(denoiser, network, asking or Asking(scale=7.5), learning or Learning(), learner or denoiser, seed)


def _outputs(module: nn.Module) -> int:
    """Width of a module's output: that of its last linear layer."""
    return [part.out_features for part in module.modules() if isinstance(part, nn.Linear)][-1]
