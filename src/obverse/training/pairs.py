"""Pairs of views: what Zero-1-to-3 learns from, drawn as published, and the same for any step of any process.

Published (cvlab-columbia/zero123 ``ldm/data/simple.py`` and ``ldm/models/diffusion/ddpm.py``): an object, two of its
views without repeat, and one number u per pair that decides what the network is not told. Everything random comes from
(seed, number of the batch), so a run may stop and go on anywhere.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..errors import UsageError
from ..multiview.zero123_inputs import Family, pose_vector
from .loop import Batch
from .shards import ShardedViews

DROP = 0.05  # published: 5 % lose the embedding, 5 % the latents, 5 % both
TIMESTEPS = 1000
VARIANTS = 6  # mirrored or not, times three turns of the colour channels
Edges = Literal["hard", "soft"]
Direction = tuple[float, float, float]  # azimuth and elevation in degrees, distance


@dataclass(frozen=True)
class Pairs:
    """How pairs become numbers."""

    views: ShardedViews
    size: int  # pixels a side of the network's pictures
    family: Family = "zero123"
    edges: Edges = "hard"  # as published; "soft" blends the edges with white
    augment: bool = False  # mirror pairs and turn their colours: not published, for collections of a few hundred

    @property
    def kinds(self) -> int:
        """In how many variants every object is used."""
        return 2 if self.augment else 1

    def variants(self, number: int) -> tuple[int, ...]:
        """The variants of an object: itself and, with ``augment``, mirrored in other colours."""
        return (0, 1 + 2 * (1 + number % 2))[: self.kinds]

    def picture(self, number: int, view: int, variant: int = 0) -> np.ndarray:
        """A view on white, float32 [3, S, S] in −1–1.

        Raises:
            InputError: it is damaged.
        """
        return varied(on_white(self.views.image(number, view), self.size, edges=self.edges), variant)

    def pose(self, number: int, source: int, target: int, variant: int = 0) -> Tensor:
        """What the network is told of a pair's cameras, [4]."""
        cameras = (self.views.camera(number, source), self.views.camera(number, target))
        return relative_pose(*(mirrored(c) if variant % 2 else c for c in cameras), family=self.family)


@dataclass(frozen=True)
class Drawn:
    """B pairs by number, and the random numbers of their noise."""

    objects: np.ndarray  # int [B]
    sources: np.ndarray  # int [B], views of the objects
    targets: np.ndarray  # int [B], other views of the same objects
    variants: np.ndarray  # int [B], see ``Pairs.variants``
    kinds: np.ndarray  # int [B], place of each variant among the object's
    tensors: dict[str, Tensor]  # timesteps [B], noise [B, 4, h, w], posterior [B, 4, h, w], keep [B, 2] as 0 or 1


def draw(pairs: Pairs, *, count: int, latent_size: int, seed: int, number: int) -> Drawn:
    """The pairs of batch ``number``.

    Args:
        pairs: what to draw from.
        count: B.
        latent_size: side of the latents.
        seed: of the run and of the process.
        number: of the batch, from 0.
    """
    rng = np.random.default_rng([seed, number, 0x9A185])
    objects = rng.integers(len(pairs.views), size=count)
    chosen = np.stack([rng.choice(len(pairs.views.objects[i]), 2, replace=False) for i in objects])
    which = rng.integers(pairs.kinds, size=count)
    variants = np.array([pairs.variants(i)[k] for i, k in zip(objects, which, strict=True)])
    shape = (count, 4, latent_size, latent_size)
    tensors = {
        "timesteps": torch.from_numpy(rng.integers(TIMESTEPS, size=count)),
        "noise": torch.from_numpy(rng.standard_normal(shape, np.float32)),
        "posterior": torch.from_numpy(rng.standard_normal(shape, np.float32)),
        "keep": torch.from_numpy(kept(rng.random(count))),
    }
    return Drawn(objects, chosen[:, 0], chosen[:, 1], variants, which, tensors)


def kept(u: np.ndarray) -> np.ndarray:
    """Uniform numbers [B] → whether embedding and latents are told, [B, 2] float32 of 0 and 1.

    As published: below 2p the embedding is zeros, from p to 3p the latents are; so p lose one, p the other, p both.
    """
    return np.stack([u >= 2 * DROP, ~((u >= DROP) & (u < 3 * DROP))], -1).astype(np.float32)


def batches(pairs: Pairs, *, size: int, latent_size: int, seed: int) -> Callable[[int], Batch]:
    """Number → a batch of pictures: ``source`` and ``target`` [B, 3, S, S], ``pose`` [B, 4], and ``draw``'s tensors."""

    def batch(number: int) -> Batch:
        drawn = draw(pairs, count=size, latent_size=latent_size, seed=seed, number=number)
        rows = list(zip(drawn.objects, drawn.sources, drawn.targets, drawn.variants, strict=True))
        source = np.stack([pairs.picture(o, s, v) for o, s, _, v in rows])
        target = np.stack([pairs.picture(o, t, v) for o, _, t, v in rows])
        pose = torch.stack([pairs.pose(o, s, t, v) for o, s, t, v in rows])
        return {"source": torch.from_numpy(source), "target": torch.from_numpy(target), "pose": pose, **drawn.tensors}

    return batch


def relative_pose(source: Direction, target: Direction, *, family: Family = "zero123") -> Tensor:
    """Two cameras → the published pose vector [4] (``multiview.zero123.pose_vector``)."""
    azimuth, elevation, distance = (
        torch.tensor([b - a], dtype=torch.float64) for a, b in zip(source, target, strict=True)
    )
    return pose_vector(-elevation, azimuth, distance, source_polar_deg=90.0 - source[1], family=family)[0]


def on_white(rgba: np.ndarray, size: int, *, edges: Edges = "hard") -> np.ndarray:
    """A view uint8 [H, W, 4] → float32 [3, size, size] in −1–1 on white.

    Args:
        rgba: straight alpha.
        size: pixels a side.
        edges: ``"hard"`` as published: where alpha is exactly 0 the picture is white, elsewhere the colour counts in
            full; ``"soft"`` blends by alpha, which small pictures need.

    Raises:
        UsageError: no such way.
    """
    if edges not in ("hard", "soft"):
        raise UsageError(f"edges is {edges!r}, it must be hard (as published) or soft")
    color, alpha = rgba[..., :3].astype(np.float32), rgba[..., 3:].astype(np.float32) / 255
    alpha = (alpha > 0).astype(np.float32) if edges == "hard" else alpha
    flat = np.rint(color * alpha + 255 * (1 - alpha)).astype(np.uint8)
    if flat.shape[:2] != (size, size):
        flat = np.asarray(Image.fromarray(flat).resize((size, size), Image.Resampling.BILINEAR))
    return np.ascontiguousarray((flat.astype(np.float32) / 127.5 - 1).transpose(2, 0, 1))


def varied(picture: np.ndarray, variant: int) -> np.ndarray:
    """A picture [3, S, S] mirrored (odd variants) and with its channels turned (variant // 2 times)."""
    if variant % 2:
        picture = picture[..., ::-1]
    return np.ascontiguousarray(np.roll(picture, variant // 2, axis=0))


def mirrored(camera: Direction) -> Direction:
    """The camera that sees a mirrored object (x → −x) as the given one sees the object, mirrored."""
    return -camera[0], camera[1], camera[2]
