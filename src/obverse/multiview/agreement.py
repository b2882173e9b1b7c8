"""Do predicted views show one object? How far their outlines and colours agree, and what elevation that speaks for.

The points that every view has inside its outline form the hull. Where the views agree, the hull seen from each of them
fills the outline again; where one contradicts another, parts of the outline have nothing behind them. Points of the
hull's surface that several views see should have one colour. Neither needs a true picture.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..cameras import Cameras, Views
from ..errors import UsageError

GRID = 56  # points along the side of the cube that is looked at
HALF = 0.75  # half side of that cube, object units
CELLS = 36  # along a picture's side, in which outlines are compared; coarser than the points seen from the front
INK = 0.04  # a pixel is object if its darkest channel is farther from white
ELEVATIONS = tuple(range(-10, 61, 10))


@dataclass(frozen=True)
class Agreement:
    """How far views agree, 0–1 each."""

    shape: float  # mean over views: overlap of the outline with the hull's
    color: float  # 1 less twice the mean deviation of a surface point's colour over the views that see it

    @property
    def score(self) -> float:
        """One number to compare sets of views of the same photo by."""
        return self.shape * self.color


@dataclass(frozen=True)
class Elevation:
    """An estimate of the photo's elevation."""

    degrees: float
    sureness: float  # 0–1: lead over the best candidate that is no neighbour, as a share of the scores' spread
    candidates: tuple[float, ...]
    scores: tuple[float, ...]

    @property
    def words(self) -> str:
        """The estimate and how sure it is, in one phrase."""
        how = "surely" if self.sureness > 0.5 else "probably" if self.sureness > 0.2 else "perhaps"
        return f"{how} {self.degrees:.0f}° (sureness {self.sureness:.2f})"


def silhouettes(images: Tensor) -> Tensor:
    """Images [V, H, W, 3] on white, or with alpha [V, H, W, 4] → where the object is, [V, H, W] bool."""
    return images[..., 3] > 0.5 if images.shape[-1] == 4 else images.amin(-1) < 1 - INK


def agreement(views: Views) -> Agreement:
    """How far views [V, H, W, 3 on white, or 4] agree with one another about shape and colour.

    Raises:
        UsageError: fewer than two views.
    """
    if len(views) < 2:
        raise UsageError("agreement is a matter of at least two views; make more")
    images, masks = views.images.float().cpu(), silhouettes(views.images).cpu()
    cameras = Cameras(
        views.cameras.world_to_camera.float().cpu(), views.cameras.intrinsics.float().cpu(),
        views.cameras.width, views.cameras.height,
    )  # fmt: skip
    line = torch.linspace(-HALF, HALF, GRID)
    points = torch.cartesian_prod(line, line, line)
    pixels, depth = cameras.project(points)  # [V, N, 2], [V, N]
    inside = torch.stack([_sample(mask[..., None], at)[:, 0] > 0.5 for mask, at in zip(masks, pixels, strict=True)])
    hull = (inside & (depth > 0)).all(0)
    pixels, depth = pixels[:, hull], depth[:, hull]
    scale = torch.tensor([CELLS / cameras.width, CELLS / cameras.height])
    cells = (pixels * scale).long().clamp(0, CELLS - 1) @ torch.tensor([1, CELLS])  # [V, M] row-major
    shape = sum(_overlap(mask, cell) for mask, cell in zip(masks, cells, strict=True)) / len(masks)
    return Agreement(float(shape), _color_agreement(images, pixels, depth, cells))


def _overlap(mask: Tensor, cells: Tensor) -> float:
    """Intersection over union of an outline [H, W] and the cells that the hull covers."""
    outline = F.interpolate(mask[None, None].float(), (CELLS, CELLS), mode="area")[0, 0] > 0.5
    covered = torch.zeros(CELLS * CELLS, dtype=torch.bool).index_fill_(0, cells, True).view(CELLS, CELLS)
    return float((outline & covered).sum() / (outline | covered).sum().clamp_min(1))


def _color_agreement(images: Tensor, pixels: Tensor, depth: Tensor, cells: Tensor) -> float:
    """Agreement of the colours of the hull's points [V, M] that at least two views see in front."""
    step = 2 * HALF / (GRID - 1)
    seen, colors = torch.zeros_like(depth, dtype=torch.bool), []
    for view in range(len(images)):
        nearest = torch.full((CELLS * CELLS,), math.inf)
        nearest.scatter_reduce_(0, cells[view], depth[view], "amin")
        seen[view] = depth[view] <= nearest[cells[view]] + 1.5 * step
        colors.append(_sample(images[view, ..., :3], pixels[view]))
    stacked, several = torch.stack(colors), seen.sum(0) >= 2  # [V, M, 3], [M]
    if not bool(several.any()):
        return 0.0
    weight = seen[:, several, None].float()
    stacked = stacked[:, several]
    mean = (stacked * weight).sum(0) / weight.sum(0)
    deviation = ((stacked - mean).abs() * weight).sum() / (3 * weight.sum())
    return max(0.0, 1 - 2 * float(deviation))


def _sample(image: Tensor, pixels: Tensor) -> Tensor:
    """Nearest pixels of an image [H, W, C] at [N, 2] → [N, C]; 0 outside it."""
    height, width = image.shape[:2]
    x, y = pixels[:, 0].floor().long(), pixels[:, 1].floor().long()
    fits = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    return image[y.clamp(0, height - 1), x.clamp(0, width - 1)] * fits[:, None]


def best_elevation(views_at: Callable[[float], Views], candidates: Sequence[float] = ELEVATIONS) -> Elevation:
    """Try elevations of the photo → the one whose views agree best.

    Args:
        views_at: elevation in degrees → views, the photo among them, with the cameras they have if the photo was taken
            from there.
        candidates: elevations in degrees, in order.

    Raises:
        UsageError: fewer than two candidates.
    """
    if len(candidates) < 2:
        raise UsageError("an elevation is chosen among at least two candidates; name more, or pass the elevation")
    scores = [agreement(views_at(float(candidate))).score for candidate in candidates]
    best = max(range(len(scores)), key=scores.__getitem__)
    others = [score for i, score in enumerate(scores) if abs(i - best) > 1]
    spread = scores[best] - min(scores)
    sureness = (scores[best] - max(others)) / spread if others and spread > 0.01 else 0.0
    return Elevation(
        float(candidates[best]), max(0.0, sureness), tuple(map(float, candidates)), tuple(scores)
    )  # fmt: skip
