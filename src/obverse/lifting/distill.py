"""Distillation: an object is rendered from all around, a critic says what is wrong with each view, and it gives way.

    critic = sds(denoiser, recipe.asking)                 # a diffusion model that knows the photo
    canvas = GaussianCanvas(start(5000), steps=500, ...)  # or FieldCanvas("grid"), or TextureCanvas(mesh)
    done = distill(canvas, critic, recipe=PRESETS["dreamgaussian"], photo=photo)

Every step does both: the critic judges new views, and the view that is known is compared with the photo. What a
critic is, this file does not know (see ``guidance.Critic``). The presets are those of threestudio and DreamGaussian.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..cameras import Cameras, Views, orbit
from ..errors import InputError, UsageError
from .canvases import Canvas, Seen
from .checkpoint import load_state, save_state
from .critics import Asking, Sds, sds, together
from .guidance import Critic, Criticism, Denoiser, Moment, scheduled
from .recipes import PRESETS, Around, Recipe, Stage, Terms

__all__ = [
    "PRESETS",
    "Around",
    "Asking",
    "Critic",
    "Criticism",
    "Denoiser",
    "Distilled",
    "Moment",
    "Photo",
    "Recipe",
    "Sds",
    "Stage",
    "Terms",
    "distill",
    "framed",
    "sds",
    "together",
]


@dataclass(frozen=True)
class Photo:
    """The view that is known."""

    rgba: Tensor  # [S, S, 4] float32 0–1, straight alpha
    camera: Cameras  # one, which sees it; any image size


class Now(NamedTuple):
    """Live numbers of a running distillation."""

    step: int
    steps: int
    figures: dict[str, float]  # losses and the critic's own
    seconds: float  # of this run
    picture: Callable[[], Tensor]  # draws the photo's view and three others → [H, 4 H, 3]


@dataclass(frozen=True)
class Distilled:
    """A finished distillation; what was made is in the canvas."""

    steps: int
    losses: tuple[float, ...]  # per step, without the critic's, which is no loss that falls
    critic: tuple[float, ...]  # the norm of the critic's gradient, per step


def distill(
    canvas: Canvas,
    critic: Critic,
    *,
    recipe: Recipe,
    photo: Photo | None = None,
    given: Views | None = None,
    seed: int = 0,
    checkpoint: str | Path | None = None,
    progress: Callable[[Now], None] | None = None,
) -> Distilled:
    """Improve a canvas by what a critic says about its views, and by the photo.

    Args:
        canvas: is changed in place.
        critic: ``sds(denoiser)``, ``vsd(...)``, or any function of its kind.
        recipe: steps, pictures, cameras and losses; ``PRESETS`` has the published ones.
        photo: the view that is known; without it only the critic has a say.
        given: views [V, H, W, 4] that the first ``recipe.supervised`` steps follow.
        seed: of every random choice; on a CPU the same seed gives the same bits.
        checkpoint: a file that the state is written to every 100 steps, and when ``progress`` is interrupted; if it is
            there already, the run goes on from it, on a CPU with the same result to the last bit.
        progress: called after every step. A KeyboardInterrupt that it raises ends the run, with its state kept.

    Raises:
        UsageError, InputError: options, photo or checkpoint cannot be used, or a number stopped being finite.
    """
    if recipe.supervised and given is None:
        raise UsageError(f"the recipe follows given views for {recipe.supervised} steps and there are none; pass given")
    run = _Run(canvas, critic, recipe, photo, given, torch.Generator().manual_seed(seed))
    contract = {"recipe": asdict(recipe), "seed": seed, "canvas": type(canvas).__name__, "photo": photo is not None}
    if checkpoint is not None and Path(checkpoint).exists():
        run.restore(load_state(checkpoint, contract))
    began = time.monotonic()
    while run.step < recipe.steps:
        figures = run.advance()
        try:
            if progress is not None:
                progress(Now(run.step, recipe.steps, figures, time.monotonic() - began, run.picture))
        except KeyboardInterrupt:
            if checkpoint is not None:
                save_state(checkpoint, run.state(), contract)
            raise
        if checkpoint is not None and (run.step % 100 == 0 or run.step == recipe.steps):
            save_state(checkpoint, run.state(), contract)
    return Distilled(run.step, tuple(run.losses), tuple(run.norms))


@dataclass
class _Run:
    """One distillation between two steps."""

    canvas: Canvas
    critic: Critic
    recipe: Recipe
    photo: Photo | None
    given: Views | None
    generator: torch.Generator
    step: int = 0
    losses: list[float] = field(default_factory=list)
    norms: list[float] = field(default_factory=list)

    def advance(self) -> dict[str, float]:
        """One step → its figures."""
        recipe, stage = self.recipe, self.recipe.stage(self.step)
        weights = {name: scheduled(value, self.step) for name, value in vars(recipe.terms).items()}
        seen, cameras, terms, figures = self._new_views(stage, weights)
        if self.photo is not None:
            terms |= self._known_view(self.photo, stage, weights)
        if (own := self.canvas.regulariser(self.generator)) is not None:
            terms["canvas"] = own
        loss = torch.stack([value.to("cpu").float() for value in terms.values()]).sum()
        value = float(loss.detach()) - float(terms["critic"].detach()) if "critic" in terms else float(loss.detach())
        if not math.isfinite(value) or not all(math.isfinite(number) for number in figures.values()):
            raise InputError(f"the loss became {value} at step {self.step}; lower the rates, or check the photo")
        loss.backward()
        self.canvas.move(seen, cameras, self.generator)
        self.step += 1
        self.losses.append(value)
        self.norms.append(figures.get("gradient", 0.0))
        return {"loss": value, **figures}

    def _new_views(
        self, stage: Stage, weights: dict[str, float]
    ) -> tuple[Seen, Cameras, dict[str, Tensor], dict[str, float]]:
        """Views that the critic judges, or in supervised steps one that is given."""
        surface = weights["normal"] > 0 or weights["normal_3d"] > 0 or weights["orient"] > 0
        if self.step < self.recipe.supervised and self.given is not None:
            index = int(torch.randint(len(self.given), (1,), generator=self.generator))
            known = Photo(self.given.images[index], self.given.cameras[index : index + 1])
            cameras = known.camera.resized(stage.photo_size, stage.photo_size)
            seen = self.canvas.render(cameras, torch.ones(3), self.generator, normals=surface)
            share = {**weights, "sparsity": 0.0}
            return seen, cameras, _known(seen, known, share, "given") | _shape(seen, share, "new"), {}
        cameras = self.recipe.around.draw(stage.batch, stage.size, self.generator)
        light = self.recipe.backgrounds == "white" or float(torch.rand((), generator=self.generator)) < 0.5
        seen = self.canvas.render(cameras, torch.full((3,), float(light)), self.generator, normals=surface)
        moment = Moment(self.step, self.recipe.steps, self.generator)
        gradient, said = self.critic(seen.color.detach(), cameras, moment)
        terms = {"critic": weights["critic"] * (seen.color * gradient.to(seen.color)).sum()}
        figures = {**said, "gradient": float(gradient.norm())}
        return seen, cameras, terms | _shape(seen, weights, "new"), figures

    def _known_view(self, photo: Photo, stage: Stage, weights: dict[str, float]) -> dict[str, Tensor]:
        """The photo's own view."""
        surface = weights["normal"] > 0 or weights["normal_3d"] > 0 or weights["orient"] > 0
        camera = photo.camera.resized(stage.photo_size, stage.photo_size)
        seen = self.canvas.render(camera, torch.ones(3), self.generator, normals=surface or self.recipe.facing)
        share = {**weights, "sparsity": 0.0}
        if self.recipe.ramp:
            done = min(1.0, (self.step + 1) / self.recipe.steps)
            share |= {"rgb": done * weights["rgb"], "mask": done * weights["mask"]}
        counted = _facing(seen, camera) if self.recipe.facing else None
        return _known(seen, photo, share, "photo", counted) | _shape(seen, share, "photo")

    def picture(self) -> Tensor:
        """The photo's view and three others in a row [S, 4 S, 3], without touching the run's randomness."""
        around = self.recipe.around
        elevation = max(10.0, around.photo_elevation_deg)
        size = min(256, self.recipe.stage(self.step).photo_size)
        there = [around.photo_elevation_deg] + 3 * [elevation]
        cameras = orbit([0, 90, 180, 270], there, distance=around.distance, fov_deg=around.fov_deg, size=size)
        with torch.no_grad():
            shown = self.canvas.render(cameras, torch.ones(3), torch.Generator().manual_seed(0))
        return torch.cat(list(shown.color.detach().cpu().clamp(0, 1)), 1)

    def state(self) -> dict[str, Any]:
        """All that changes."""
        learnt = self.critic.state() if hasattr(self.critic, "state") else {}
        return {
            "canvas": self.canvas.state(), "critic": learnt, "random": self.generator.get_state(), "step": self.step,
            "losses": self.losses, "norms": self.norms,
        }  # fmt: skip

    def restore(self, state: dict[str, Any]) -> None:
        """Take over a checkpoint's content."""
        self.canvas.restore(state["canvas"])
        if hasattr(self.critic, "restore"):
            self.critic.restore(state["critic"])
        self.generator.set_state(state["random"])
        self.step, self.losses, self.norms = state["step"], list(state["losses"]), list(state["norms"])


# ------------------------------------------------------------------------------------------------- losses


def _known(
    seen: Seen, known: Photo, weights: dict[str, float], name: str, counted: Tensor | None = None
) -> dict[str, Tensor]:
    """How far a view is from the one that is known; what counts as object is decided at half coverage (threestudio).

    With ``counted`` [H, W], colours are compared only there, and only on the object.
    """
    color, alpha = _sized(known.rgba, seen.alpha.shape[-1])
    color, alpha = color.to(seen.color), alpha.to(seen.color)
    mask = (alpha > 0.5).to(alpha)[..., None]
    difference = color * mask + 1 - mask - seen.color[0]
    if counted is not None:
        difference = difference * mask * counted.to(mask)[..., None]
    return {
        f"{name}.rgb": weights["rgb"] * difference.square().mean(),
        f"{name}.mask": weights["mask"] * (alpha - seen.alpha[0]).square().mean(),
    }


def _facing(seen: Seen, camera: Cameras) -> Tensor:
    """Where [H, W] a view shows surface that is turned to the camera by less than 60°, bool."""
    assert seen.normal is not None
    forward = camera.world_to_camera.reshape(4, 4)[2, :3].to(seen.normal)
    return (-(seen.normal[0] @ forward) > 0.5) & (seen.alpha[0] > 0.5)


def _shape(seen: Seen, weights: dict[str, float], name: str) -> dict[str, Tensor]:
    """What is wanted of any view: smooth normals and depths, clear decisions, little of everything."""
    terms: dict[str, Tensor] = {}
    if weights["normal"] > 0 and seen.normal is not None:
        terms["normal"] = roughness((seen.normal + 1) / 2 * seen.alpha[..., None])
    if weights["depth"] > 0:
        terms["depth"] = depth_steps(seen.depth, seen.alpha)
    if weights["sparsity"] > 0:
        terms["sparsity"] = (seen.alpha.square() + 0.01).sqrt().mean()
    if weights["opaque"] > 0:
        share = seen.alpha.clamp(1e-3, 1 - 1e-3)
        terms["opaque"] = -(share * share.log() + (1 - share) * (1 - share).log()).mean()
    terms |= {key: value for key, value in seen.terms.items() if weights[key] > 0}
    return {f"{name}.{key}": weights[key] * value for key, value in terms.items()}


def roughness(images: Tensor) -> Tensor:
    """Mean squared differences of neighbouring pixels of [V, H, W, C], down and across added."""
    return images.diff(dim=1).square().mean() + images.diff(dim=2).square().mean()


def depth_steps(depth: Tensor, alpha: Tensor) -> Tensor:
    """Mean absolute difference of the depths [V, H, W] of neighbouring pixels that are both surface, object units."""
    solid = (alpha > 0.5) & torch.isfinite(depth)
    held = torch.where(solid, depth, 0.0)
    total, pairs = depth.new_zeros(()), 0
    for axis in (1, 2):
        n = solid.shape[axis] - 1
        both = solid.narrow(axis, 0, n) & solid.narrow(axis, 1, n)
        total = total + torch.where(both, held.diff(dim=axis).abs(), 0.0).sum()
        pairs += int(both.sum())
    return total / max(pairs, 1)


def _sized(rgba: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """A picture [S, S, 4] at another size → colours [size, size, 3], averaged by coverage, and coverage."""
    flat = torch.cat([rgba[..., :3] * rgba[..., 3:], rgba[..., 3:]], -1).movedim(-1, 0)[None]
    if flat.shape[-1] != size:
        flat = torch.nn.functional.interpolate(flat, (size, size), mode="bilinear", antialias=True)
    color, alpha = flat[0, :3].movedim(0, -1), flat[0, 3].clamp(0, 1)
    return color / alpha.clamp_min(1e-4)[..., None], alpha


# ------------------------------------------------------------------------------------------------- the photo's frame


def framed(rgba: Tensor, around: Around, *, fill: float, size: int = 512) -> tuple[Photo, Cameras]:
    """A cut-out as the diffusion model is shown it, and the camera that sees the cut-out itself.

    Args:
        rgba: [S, S, 4].
        around: whose distance, lens and elevation the photo's camera has.
        fill: share of the picture's side that the longer side of what is opaque spans, centred.
        size: pixels a side.

    Returns:
        the photo of ``size`` pixels, and a camera of S pixels: the same one, but for where its picture is cut out.

    Raises:
        InputError: nothing of the cut-out is opaque.
    """
    solid = (rgba[..., 3] > 0.5).nonzero()
    if not len(solid):
        raise InputError("the cut-out is transparent everywhere; pass a photo with an object in it")
    low, high = solid.amin(0).float(), solid.amax(0).float() + 1
    (top, left), (bottom, right) = low.tolist(), high.tolist()
    scale = fill * size / max(bottom - top, right - left)  # pixels of the frame per pixel of the cut-out
    x0, y0 = (left + right) / 2 - size / 2 / scale, (top + bottom) / 2 - size / 2 / scale
    camera = around.photo_camera(size)
    side = rgba.shape[0]
    flat = torch.cat([rgba[..., :3] * rgba[..., 3:], rgba[..., 3:]], -1).movedim(-1, 0)[None].float()
    steps = (torch.arange(size) + 0.5) / scale
    x, y = 2 * (x0 + steps) / side - 1, 2 * (y0 + steps) / side - 1
    grid = torch.stack(torch.meshgrid(x, y, indexing="xy"), -1)[None]
    if scale < 1:  # averaged first, so that fine detail does not flicker
        small = max(8, round(side * scale))
        flat = torch.nn.functional.interpolate(flat, (small, small), mode="bilinear", antialias=True)
    found = torch.nn.functional.grid_sample(flat, grid, padding_mode="zeros", align_corners=False)[0].movedim(0, -1)
    alpha = found[..., 3:].clamp(0, 1)
    color = (found[..., :3] / alpha.clamp_min(1e-4)).clamp(0, 1)
    lens = camera.intrinsics.reshape(3, 3).clone()
    lens[0, 0], lens[1, 1] = lens[0, 0] / scale, lens[1, 1] / scale
    lens[0, 2], lens[1, 2] = lens[0, 2] / scale + x0, lens[1, 2] / scale + y0
    own = Cameras(camera.world_to_camera, lens[None], side, side)
    return Photo(torch.cat([color, alpha], -1), camera), own
