"""Views → density field by optimisation: random rays are rendered, and the gradient of their difference followed.

This is NeRF (Mildenhall et al. 2020) with features that are stored, not computed: a grid of density and colour, as in
DVGO (Sun et al. 2022) and Plenoxels (Fridovich-Keil et al. 2022), or three feature planes with small networks, as in
EG3D (Chan et al. 2022) and TensoRF (Chen et al. 2022). Both begin in the visual hull with the colours that views show
on it, skip what is empty or hidden, and go from coarse to fine; they differ in nothing but how a point's value is
stored.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from ..cameras import Cameras, Views
from ..errors import InputError, UsageError
from ..render.learnt import LearntField, PlaneField, VoxelField
from ..render.marching import composite, march, render_occupied
from ..render.tables import mix
from ..render.volume import FieldRendering
from .carve import HALF_WIDTH, carve
from .checkpoint import load_state, save_state
from .coarse_to_fine import (
    Box,
    Kind,
    Start,
    begin,
    hull_box,
    hull_cells,
    lattice,
    least_densities,
    refine,
    refined_cells,
)

KINDS = ("grid", "triplane")
BETAS, EPSILON = (0.9, 0.99), 1e-15  # Adam's (DVGO)
SPACING = 0.5  # of a cell, between samples on a ray (DVGO, Plenoxels)
WINDOW = 1 / 16  # share of neighbouring nodes whose variation is measured in a step; Plenoxels takes a few as well
DECAY = 0.1  # what is left of the rates at the end


@dataclass(frozen=True)
class FieldRates:
    """Adam's step sizes at the start; they fall log-linearly to a tenth."""

    density: float = 0.3  # a grid's raw densities
    color: float = 0.1  # a grid's raw colours
    planes: float = 0.02  # a triplane's features
    networks: float = 0.002  # a triplane's weights


@dataclass(frozen=True)
class FieldWeights:
    """How much each loss counts beside that of colour, a mean absolute difference."""

    mask: float = 0.5
    density_variation: float = 1e-3  # mean squared difference between neighbours (Plenoxels, equation 3)
    color_variation: float = 3e-4
    entropy: float = 1e-3  # of alpha: a ray either meets the solid or not (DVGO, equation 10)


@dataclass(frozen=True)
class FieldRecipe:
    """Everything that shapes a fit but the views, the kind and the seed."""

    steps: int = 800
    rays: int = 4096  # in one step
    resolutions: tuple[int, ...] = (64, 128, 192)  # cells along the longest side, one after the other
    grow_at: tuple[float, ...] = (0.2, 0.5)  # shares of all steps at which the next resolution begins
    prune_every: int = 50  # steps between updates of what is empty and what is hidden
    background: tuple[float, float, float] = (1.0, 1.0, 1.0)
    rates: FieldRates = field(default_factory=FieldRates)
    weights: FieldWeights = field(default_factory=FieldWeights)
    plateau: float = 0.002  # stop when the loss has not fallen by this share for ``patience`` steps; 0: never
    patience: int = 200

    def __post_init__(self) -> None:
        if not 1 <= self.steps <= 1_000_000 or self.rays < 1 or self.prune_every < 1:
            raise UsageError(
                f"steps is {self.steps}, rays {self.rays} and prune_every {self.prune_every}; steps must be from 1 to "
                "1000000, the others at least 1"
            )
        ascending = list(self.resolutions) == sorted(set(self.resolutions))
        if not self.resolutions or not ascending or not all(8 <= n <= 384 for n in self.resolutions):
            raise UsageError(
                f"resolutions are {self.resolutions}; they must ascend and lie between 8 and 384 cells, for example "
                "(64, 128, 192)"
            )
        if len(self.grow_at) != len(self.resolutions) - 1 or list(self.grow_at) != sorted(self.grow_at):
            raise UsageError(
                f"grow_at is {self.grow_at} for {len(self.resolutions)} resolutions; give one ascending share of the "
                "steps for each resolution after the first"
            )


@dataclass(frozen=True)
class FieldProgress:
    """Live numbers of a running fit."""

    step: int
    steps: int
    loss: float  # running mean
    psnr_db: float  # of the step's rays
    resolution: int
    samples: int  # of the step's rays, in all
    seconds: float


@dataclass(frozen=True)
class FittedField:
    """A finished fit, which is itself a Field."""

    field: LearntField
    cells: Tensor  # [X, Y, Z] over the bounds: the least density in each, −1 where it is empty
    steps: int  # taken
    stopped: Literal["done", "plateau"]
    losses: tuple[float, ...]  # per step
    kind: Literal["density"] = "density"

    @property
    def level(self) -> float:
        """The density on the surface."""
        return self.field.level

    @property
    def bounds(self) -> Box:
        """Low and high corner of the box that holds the solid."""
        return self.field.bounds

    @property
    def occupancy(self) -> Tensor:
        """Bool [X, Y, Z] over the bounds, as ``render_field`` takes it."""
        return self.cells >= 0

    def density_or_sdf(self, points: Tensor) -> Tensor:
        """World points [N, 3] → densities [N], per object unit."""
        return self.field.density_or_sdf(points)

    def color(self, points: Tensor) -> Tensor:
        """World points [N, 3] → sRGB-encoded colours [N, 3] in 0–1."""
        return self.field.color(points)

    def on_grid(self, low: Sequence[float], step: float, shape: Sequence[int]) -> Callable[[Tensor], Tensor]:
        """Raw densities above the surface's, at the samples of a grid: indices [n, 3] → [n]; see ``SampledOnGrids``."""
        return self.field.on_grid(low, step, shape)

    def render(self, cameras: Cameras, *, background: Sequence[float] = (1.0, 1.0, 1.0)) -> FieldRendering:
        """Images [V, H, W, 3] from V cameras, without gradients, from the samples that the fit would take."""
        step = SPACING * self.field.step
        return render_occupied(self.field, cameras, self.cells, step, background=torch.tensor(list(background)))


def fit_field(
    views: Views,
    *,
    kind: Kind,
    recipe: FieldRecipe | None = None,
    seed: int = 0,
    progress: Callable[[FieldProgress], None] | None = None,
    checkpoint: str | Path | None = None,
) -> FittedField:
    """Fit a density field to views with known cameras, on the device of the images, in float32.

    Args:
        views: images [V, H, W, 3 or 4]. With alpha, the fit begins in the visual hull, pictures are laid over the
            recipe's background and silhouettes are fitted too; without, it begins in grey fog within 0.58 object
            units of the origin along each axis, which takes longer.
        kind: ``"grid"``, density and colour at the nodes near the surface; or ``"triplane"``, which is smaller and
            smoother, and slower.
        recipe: steps, rays, resolutions, rates, losses.
        seed: of every random choice; on a CPU the same seed gives the same bits.
        progress: called after every tenth step and the last.
        checkpoint: a file that the state is written to every 200 steps; if it is there already, the fit goes on from
            it, with the same result to the last bit as without the interruption.

    Raises:
        UsageError, InputError: an option, the views or the checkpoint cannot be used.
    """
    recipe = recipe or FieldRecipe()
    _check(views, kind)
    start = _start(views, recipe)
    box: Box = ((-HALF_WIDTH,) * 3, (HALF_WIDTH,) * 3) if start.hull is None else hull_box(start.hull)
    state = _State.begin(kind, box, start, recipe, seed, views.images.device)
    rays = _Rays.of(views, recipe.background).meeting(state)
    contract = {"kind": kind, "recipe": asdict(recipe), "seed": seed, "views": list(views.images.shape)}
    if checkpoint is not None and Path(checkpoint).exists():
        state.restore(load_state(checkpoint, contract))
    began, stopped = time.monotonic(), "done"
    while state.step < recipe.steps:
        seen, samples = _step(state, rays, recipe)
        _change(state, recipe)
        if progress is not None and (state.step % 10 == 0 or state.step == recipe.steps):
            numbers = (state.step, recipe.steps, state.smoothed, seen, state.resolution, samples)
            progress(FieldProgress(*numbers, time.monotonic() - began))
        if checkpoint is not None and state.step % 200 == 0:
            save_state(checkpoint, state.content(), contract)
        if _flat(state, recipe):
            stopped = "plateau"
            break
    parameters = {name: value.detach() for name, value in state.field.parameters.items()}
    final = replace(state.field, parameters=parameters)
    cells = least_densities(final, state.cells >= 0)
    return FittedField(final, cells, state.step, stopped, tuple(state.losses))  # type: ignore[arg-type]


def _start(views: Views, recipe: FieldRecipe) -> Start:
    """The hull and its colours, if there are silhouettes."""
    if views.images.shape[-1] == 3:
        return Start()
    cameras = views.cameras
    matrices, intrinsics = (side.float().cpu() for side in (cameras.world_to_camera, cameras.intrinsics))
    here = Views(views.images.float().cpu(), Cameras(matrices, intrinsics, cameras.width, cameras.height))
    return Start.of(here, carve(here, resolution=max(128, recipe.resolutions[-1] // 2)))


# --------------------------------------------------------------------------------------------- rays


@dataclass(frozen=True)
class _Rays:
    """Pixels as the loss wants them, and the rays through them."""

    images: Tensor  # [V · H · W, 3] over the background
    masks: Tensor | None  # [V · H · W]
    chosen: Tensor  # [P] int64: pixels that are drawn from
    to_world: Tensor  # [V, 3, 3] (u, v, 1) → directions, of length 1 along the camera's +Z
    positions: Tensor  # [V, 3]
    width: int
    height: int

    @classmethod
    def of(cls, views: Views, background: tuple[float, float, float]) -> _Rays:
        images, masks = views.images.float(), None
        if images.shape[-1] == 4:
            alpha = images[..., 3:]
            images = images[..., :3] * alpha + (1 - alpha) * torch.tensor(background).to(alpha)
            masks = alpha.reshape(-1)
        cameras = views.cameras
        turns = cameras.world_to_camera.reshape(-1, 4, 4)[:, :3, :3].to(images)
        to_world = turns.transpose(1, 2) @ torch.linalg.inv(cameras.intrinsics.reshape(-1, 3, 3).to(images))
        pixels = torch.arange(images[..., 0].numel(), device=images.device)
        positions = cameras.positions.reshape(-1, 3).to(images)
        return cls(images.reshape(-1, 3), masks, pixels, to_world, positions, cameras.width, cameras.height)

    def sides(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Origins and directions [R, 3] of the rays through pixels' centres."""
        view, place = pixels // (self.width * self.height), pixels % (self.width * self.height)
        v, u = place // self.width + 0.5, place % self.width + 0.5
        local = torch.stack([u, v, torch.ones_like(u)], -1).to(self.to_world)
        return self.positions[view], (self.to_world[view] @ local[..., None])[..., 0]

    def meeting(self, state: _State) -> _Rays:
        """Those that meet a cell; all others see the background whatever is learnt.

        Raises:
            InputError: there is none.
        """
        met = []
        for part in self.chosen.split(1 << 17):
            samples = march(*self.sides(part), state.box, state.cells, SPACING * state.field.step)
            met.append(part[samples.first.diff() > 0])
        if not sum(len(part) for part in met):
            raise InputError(
                "no ray meets the box of the object: check the cameras, which must look at the origin, and that "
                "object units are used, in which its longest side is about 1"
            )
        return replace(self, chosen=torch.cat(met))


# --------------------------------------------------------------------------------------------- state


@dataclass
class _State:
    """All that changes while fitting; what a checkpoint holds."""

    field: LearntField
    cells: Tensor  # [X, Y, Z] least densities, −1 where empty
    outline: Box  # around the object; the field's own box is rounded up to whole cells
    resolution: int
    rates: FieldRates
    optimiser: torch.optim.Adam
    random: Tensor  # state of the generator
    losses: list[float] = dataclasses.field(default_factory=list)
    step: int = 0
    smoothed: float = math.nan
    best: float = math.inf
    best_step: int = 0

    @classmethod
    def begin(
        cls, kind: Kind, outline: Box, start: Start, recipe: FieldRecipe, seed: int, device: torch.device
    ) -> _State:
        generator = torch.Generator().manual_seed(seed)
        low, step, counts = lattice(outline, recipe.resolutions[0])
        cells = torch.ones(*(n - 1 for n in counts), dtype=torch.bool)
        if start.hull is not None:
            cells = hull_cells(start.hull, low, step, counts)
        made = begin(kind, outline, recipe.resolutions[0], cells, start, generator).to(device)
        least = least_densities(made, cells.to(device))
        optimiser = field_optimiser(made, recipe.rates)
        return cls(made, least, outline, recipe.resolutions[0], recipe.rates, optimiser, generator.get_state())

    @property
    def box(self) -> Tensor:
        """[2, 3] low and high corner of the cells."""
        return torch.tensor(self.field.bounds, device=self.cells.device)

    def grow(self, resolution: int) -> None:
        """Go on with a finer field; Adam's moments start anew."""
        finer = lattice(self.outline, resolution)
        cells = refined_cells(least_densities(self.field, self.cells >= 0) >= 0, self.field, finer)
        self.field = refine(self.field, self.outline, resolution, cells)
        self.resolution = resolution
        self.cells = least_densities(self.field, cells)
        self.optimiser = field_optimiser(self.field, self.rates)

    def content(self) -> dict[str, Any]:
        """What ``restore`` needs."""
        given = self.field
        plain = {name: getattr(self, name) for name in ("cells", "resolution", "random", *KEPT)}
        index = given.index if isinstance(given, VoxelField) else None
        parameters = {name: value.detach() for name, value in given.parameters.items()}
        return {**plain, "parameters": parameters, "index": index, "optimiser": self.optimiser.state_dict()}

    def restore(self, content: dict[str, Any]) -> None:
        """Take over a checkpoint's content."""
        device = self.cells.device
        low, step, counts = lattice(self.outline, content["resolution"])
        parameters = {name: value.to(device) for name, value in content["parameters"].items()}
        if content["index"] is None:
            self.field = PlaneField(parameters, low, step, counts)
        else:
            self.field = VoxelField(parameters, low, step, counts, index=content["index"].to(device))
        self.cells, self.resolution, self.random = content["cells"].to(device), content["resolution"], content["random"]
        for name in KEPT:
            setattr(self, name, content[name])
        self.optimiser = field_optimiser(self.field, self.rates)
        self.optimiser.load_state_dict(content["optimiser"])


KEPT = ("losses", "step", "smoothed", "best", "best_step")


def field_optimiser(made: LearntField, rates: FieldRates) -> torch.optim.Adam:
    """Adam (Kingma & Ba 2015) over a field's tensors, each with its own rate."""
    groups = []
    for name, value in made.parameters.items():
        if isinstance(made, VoxelField):
            rate = rates.density if name == "density" else rates.color
        else:
            rate = rates.networks if "." in name else rates.planes
        groups.append({"params": [value.requires_grad_(True)], "lr": rate, "first": rate})
    return torch.optim.Adam(groups, betas=BETAS, eps=EPSILON, fused=True)


# --------------------------------------------------------------------------------------------- one step


def _step(state: _State, rays: _Rays, recipe: FieldRecipe) -> tuple[float, int]:
    """Some rays, one gradient, one move → the rays' PSNR before the move, in dB, and the number of samples."""
    generator = torch.Generator()
    generator.set_state(state.random)
    drawn = torch.randint(len(rays.chosen), (recipe.rays,), generator=generator)
    jitter, window = torch.rand(recipe.rays, generator=generator), float(torch.rand((), generator=generator))
    state.random = generator.get_state()
    made, pixels = state.field, rays.chosen[drawn.to(rays.chosen.device)]
    samples = march(*rays.sides(pixels), state.box, state.cells, SPACING * made.step, jitter.to(rays.images))
    seen = composite(samples, made.density_or_sdf(samples.points), made.color)
    difference = seen.color + (1 - seen.alpha[:, None]) * rays.images.new_tensor(recipe.background)
    difference = difference - rays.images[pixels]
    loss = difference.abs().mean() + _shape_loss(seen.alpha, rays, pixels, recipe.weights)
    for name, weight in (
        ("density", recipe.weights.density_variation),
        ("color", recipe.weights.color_variation),
    ):
        if weight > 0:
            loss = loss + weight * variation(made.parameters[name], made.neighbours, window)
    value = float(loss.detach())
    if not math.isfinite(value):
        raise InputError(f"the loss became {value} at step {state.step}; lower the rates, or check the cameras")
    state.optimiser.zero_grad()
    loss.backward()
    if isinstance(made, VoxelField):
        for table in made.parameters.values():
            table.grad[0] = 0  # type: ignore[index]  # empty space stays empty
    for group in state.optimiser.param_groups:
        group["lr"] = group["first"] * DECAY ** (state.step / recipe.steps)
    state.optimiser.step()
    state.step += 1
    state.losses.append(value)
    state.smoothed = value if state.step == 1 else 0.98 * state.smoothed + 0.02 * value
    return -10 * math.log10(max(float(difference.detach().square().mean()), 1e-10)), len(samples.points)


def _shape_loss(alpha: Tensor, rays: _Rays, pixels: Tensor, weights: FieldWeights) -> Tensor:
    """What silhouettes and the wish for clear decisions add to the loss."""
    loss = alpha.new_zeros(())
    if rays.masks is not None and weights.mask > 0:
        loss = loss + weights.mask * (alpha - rays.masks[pixels]).abs().mean()
    if weights.entropy > 0:
        share = alpha.clamp(1e-4, 1 - 1e-4)
        loss = loss - weights.entropy * (share * share.log() + (1 - share) * (1 - share).log()).mean()
    return loss


def variation(table: Tensor, pairs: Tensor, start: float) -> Tensor:
    """Mean squared difference of neighbouring rows, in a window of the table that begins at the share ``start``.

    Args:
        table: [M, C].
        pairs: [P, 2] rows, in the order of space.
        start: 0–1.
    """
    size = max(1, int(len(pairs) * WINDOW))
    first = int(start * (len(pairs) - size))
    rows = pairs[first : first + size].contiguous()
    return mix(table, rows, table.new_tensor([1.0, -1.0]).expand(len(rows), 2).contiguous()).square().sum(-1).mean()


def _change(state: _State, recipe: FieldRecipe) -> None:
    """A finer field, or a new look at what is empty, when it is due."""
    due = [max(1, int(share * recipe.steps)) for share in recipe.grow_at]
    if state.step in due:
        state.grow(recipe.resolutions[due.index(state.step) + 1])
    elif state.step % recipe.prune_every == 0:
        state.cells = least_densities(state.field, state.cells >= 0)
    if not bool((state.cells >= 0).any()):
        raise InputError(
            "nothing is left of the field: the pictures show only background where all views overlap; check the "
            "cameras, and the background colour of pictures without alpha"
        )


def _flat(state: _State, recipe: FieldRecipe) -> bool:
    """Whether the running mean of the loss has stopped falling, at the finest resolution."""
    if state.smoothed < (1 - recipe.plateau) * state.best or state.resolution < recipe.resolutions[-1]:
        state.best, state.best_step = min(state.best, state.smoothed), state.step
    return recipe.plateau > 0 and state.step - state.best_step >= recipe.patience


def _check(views: Views, kind: str) -> None:
    shape = views.images.shape
    if kind not in KINDS:
        raise UsageError(f"kind is {kind!r}, it must be 'grid' or 'triplane'; both are fitted in the same way")
    if len(shape) != 4 or shape[-1] not in (3, 4) or shape[0] < 1 or len(views.cameras) != shape[0]:
        raise InputError(
            f"the views have images {list(shape)} and {len(views.cameras)} cameras; images must be [V, H, W, 3 or 4] "
            "with one camera each"
        )
    if (views.cameras.height, views.cameras.width) != tuple(shape[1:3]):
        raise InputError(
            f"images are {shape[2]} × {shape[1]} pixels and cameras {views.cameras.width} × {views.cameras.height}; "
            "they must agree: use Cameras.resized"
        )
    if not bool(torch.isfinite(views.images).all()):
        raise InputError("an image holds values that are not finite; replace them: every pixel must be a number in 0–1")
