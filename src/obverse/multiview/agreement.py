"""Do predicted views show one object? How far their outlines and colours agree, and what elevation that speaks for.

Every pixel of the object is a ray. Where the views agree, some point of the ray lies inside the outline of every other
view; where one contradicts another, there is none. The first such point is where the hull's surface is seen, and other
views that see it too should show the same colour. Neither needs a true picture.
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

PIXELS = 48  # rays along a picture's side
DEPTHS = 96  # points along a ray
HALF = 0.85  # points are looked for so far in front of and behind the origin, object units
SLACK = 1  # pixels of a ray by which outlines are widened, for soft edges
INK = 0.04  # a pixel is object if its darkest channel is farther from white
ELEVATIONS = tuple(range(-10, 61, 10))


@dataclass(frozen=True)
class Agreement:
    """How far views agree, 0–1 each."""

    shape: float  # mean over views: share of the outline that the other views allow
    color: float  # 1 less twice the mean difference of colour between two views of one point of the hull

    @property
    def score(self) -> float:
        """One number to compare sets of views of the same photo by."""
        return self.shape * self.color


@dataclass(frozen=True)
class Elevation:
    """An estimate of the photo's elevation."""

    degrees: float
    sureness: float  # 0–1: lead over the best candidate that is no neighbour, beside what even the best leaves open
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
    images, masks = _small(views.images.float().cpu())
    cameras = Cameras(
        views.cameras.world_to_camera.float().cpu(), views.cameras.intrinsics.float().cpu(),
        views.cameras.width, views.cameras.height,
    ).resized(PIXELS, PIXELS)  # fmt: skip
    wide = F.max_pool2d(masks[:, None].float(), 2 * SLACK + 1, stride=1, padding=SLACK)[:, 0] > 0
    allowed, fronts = [], torch.full((len(images), PIXELS, PIXELS), math.inf)
    for view, mask in enumerate(masks):
        explained, depth = _explained(view, mask, wide, cameras)
        allowed.append(float(explained.float().mean()) if len(explained) else 0.0)
        fronts[view][mask] = torch.where(explained, depth, math.inf)
    return Agreement(sum(allowed) / len(allowed), _color_agreement(images, fronts, cameras))


def _small(images: Tensor) -> tuple[Tensor, Tensor]:
    """Images at the size rays are cast at → colours [V, P, P, 3] and outlines [V, P, P]."""
    covered = silhouettes(images).float()[..., None]
    both = torch.cat([images[..., :3] * covered, covered], dim=-1).permute(0, 3, 1, 2)
    small = F.interpolate(both, (PIXELS, PIXELS), mode="area").permute(0, 2, 3, 1)
    return small[..., :3] / small[..., 3:].clamp_min(1e-3), small[..., 3] > 0.5


def _explained(view: int, mask: Tensor, wide: Tensor, cameras: Cameras) -> tuple[Tensor, Tensor]:
    """For each pixel [N] of an outline: whether every other view allows it, and the depth of the first such point."""
    rows, columns = mask.nonzero().unbind(-1)
    pixels = torch.stack([columns + 0.5, rows + 0.5, torch.ones(len(rows))], dim=-1)
    rays = pixels @ torch.linalg.inv(cameras.intrinsics[view]).T  # [N, 3], depth 1
    middle = float(cameras.positions[view].norm())
    depths = middle + torch.linspace(-HALF, HALF, DEPTHS)
    rotation, position = cameras.world_to_camera[view, :3, :3], cameras.positions[view]
    points = (rays[:, None] * depths[:, None]) @ rotation + position  # [N, D, 3]
    inside = (depths > 0).expand(len(rows), -1).clone()
    for other in range(len(wide)):
        if other != view and len(rows):
            at, ahead = cameras[other].project(points.reshape(-1, 3))
            inside &= (_sample(wide[other, ..., None], at)[:, 0] & (ahead > 0)).view_as(inside)
    return inside.any(-1), depths[inside.float().argmax(-1)]


def _color_agreement(images: Tensor, fronts: Tensor, cameras: Cameras) -> float:
    """Likeness of the colours of the hull's points, seen from [V, P, P] pixels at depths ``fronts``, in other views."""
    difference, count = 0.0, 0
    for view, front in enumerate(fronts):
        rows, columns = torch.isfinite(front).nonzero().unbind(-1)
        pixels = torch.stack([columns + 0.5, rows + 0.5, torch.ones(len(rows))], dim=-1)
        local = pixels @ torch.linalg.inv(cameras.intrinsics[view]).T * front[rows, columns, None]
        points = local @ cameras.world_to_camera[view, :3, :3] + cameras.positions[view]
        for other in range(len(fronts)):
            if other == view:
                continue
            at, depth = cameras[other].project(points)
            seen = (depth - _sample(fronts[other, ..., None], at)[:, 0]).abs() < 3 * 2 * HALF / DEPTHS
            there = _sample(images[other], at[seen])
            difference += float((images[view, rows[seen], columns[seen]] - there).abs().sum()) / 3
            count += int(seen.sum())
    return max(0.0, 1 - 2 * difference / count) if count else 0.0


def _sample(image: Tensor, pixels: Tensor) -> Tensor:
    """Nearest pixels of an image [H, W, C] at [N, 2] → [N, C]; False or infinite outside it."""
    height, width = image.shape[:2]
    x, y = pixels[:, 0].floor().long(), pixels[:, 1].floor().long()
    fits = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    found = image[y.clamp(0, height - 1), x.clamp(0, width - 1)]
    return found & fits[:, None] if image.dtype == torch.bool else torch.where(fits[:, None], found, math.inf)


def best_elevation(views_at: Callable[[float], Views], candidates: Sequence[float] = ELEVATIONS) -> Elevation:
    """Try elevations of the photo → the one whose views agree best about the shape.

    Args:
        views_at: elevation in degrees → views, the photo among them, with the cameras they have if the photo was taken
            from there.
        candidates: elevations in degrees, in order.

    Raises:
        UsageError: fewer than two candidates.
    """
    if len(candidates) < 2:
        raise UsageError("an elevation is chosen among at least two candidates; name more, or pass the elevation")
    scores = [agreement(views_at(float(candidate))).shape for candidate in candidates]
    best = max(range(len(scores)), key=scores.__getitem__)
    lead = scores[best] - max((score for i, score in enumerate(scores) if abs(i - best) > 1), default=scores[best])
    sureness = max(0.0, lead) / (max(0.0, lead) + 1 - scores[best]) if lead > 1e-6 else 0.0
    return Elevation(
        float(candidates[best]), sureness, tuple(map(float, candidates)), tuple(scores)
    )  # fmt: skip
