"""Gaussian splats on the CPU, compiled: the image and the gradients of the torch renderer, tiled and parallel.

Per batch of views: project every Gaussian, order the visible ones by depth, deal them into lists of 16 × 16 pixel
tiles in that order, and composite tile by tile (``splat_kernels``). Lists are depth-sorted for free because dealing
is a stable counting sort. Backward (``splat_gradients``), tiles are walked once more in the same order, and what they
found is gathered per Gaussian.

What makes it fast: the opacity goes into the exponent, α = exp(8 p), so that α ≥ 1/255 is a fixed range of p; the
ellipse of that range bounds the 4 × 4 pixel blocks visited, each one vector; all visits of 16 Gaussians are listed
first and then made in one loop; termination is a select, not a branch; records are prefetched; and the exponential is
a polynomial, since libm's cannot be vectorised. Neither image nor gradients depend on the thread count.
"""

from __future__ import annotations

import math
from typing import Any

import numba
import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..gaussians import Gaussians
from . import splat_memory as memory
from .splat_chain import gather
from .splat_gradients import CAMERA, ROW, Gradients, Image, scatter
from .splat_kernels import (
    CHUNKS,
    RECORD,
    TILE,
    F,
    Lists,
    Scene,
    Turns,
    composite,
    count_pairs,
    deal,
    order_by_depth,
    project,
)
from .splats import Options, ScreenStatistics

INSTANCES = 4_000_000  # views × Gaussians projected at once; more views are rendered in several batches
RUNS = 16  # of neighbouring tiles, per worker
TILE_COST = 16  # pairs that take as long as reading and writing a tile's pixels
CHUNK_LENGTH = 1024  # fewest Gaussians worth a chunk of their own when lists are dealt


def render_views(
    gaussians: Gaussians, world_to_camera: Tensor, intrinsics: Tensor, paper: Tensor, options: Options
) -> tuple[Tensor, Tensor, Tensor, ScreenStatistics]:
    """V views: colour over ``paper`` [V, H, W, 3], alpha [V, H, W], mean depth [V, H, W], and what the screen saw.

    Args:
        gaussians: unbatched, float32, on the CPU.
        world_to_camera: float32 [V, 4, 4].
        intrinsics: float32 [V, 3, 3] pixels, upper triangular.
        paper: float32, broadcasts to [V, H, W, 3].
        options: image size, near and far, and the antialiased variant.
    """
    views, count = len(world_to_camera), len(gaussians)
    paper = paper.reshape((1,) * (4 - paper.ndim) + tuple(paper.shape))
    paper = paper.expand(*paper.shape[:-1], 3)
    screen = ScreenStatistics(torch.zeros(views, count), torch.zeros(views, count))
    parts = (gaussians.means, gaussians.quats, gaussians.scales, gaussians.opacities, gaussians.sh)
    batch = max(1, INSTANCES // max(1, count))
    images = []
    for start in range(0, views, batch):
        some = slice(start, start + batch)
        seen = ScreenStatistics(screen.radii[some], screen.center_gradients[some])
        behind = paper[some] if len(paper) > 1 else paper
        images.append(_Splats.apply(*parts, world_to_camera[some], intrinsics[some], behind, options, seen))
    color, alpha, depth = images[0] if len(images) == 1 else (torch.cat(part) for part in zip(*images, strict=True))
    return color, alpha, depth, screen


class _Splats(torch.autograd.Function):
    """The compiled renderer as one differentiable step."""

    @staticmethod
    def forward(
        ctx: Any, means: Tensor, quats: Tensor, scales: Tensor, opacities: Tensor, sh: Tensor,
        world_to_camera: Tensor, intrinsics: Tensor, paper: Tensor, options: Options, screen: ScreenStatistics,
    ) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
        parts = (means, quats, scales, opacities, sh)
        scene = _scene(parts, world_to_camera, intrinsics, options)
        lists, tiles = tile_lists(scene, screen.radii.numpy())
        shape = (len(world_to_camera), options.height, options.width)
        color, alpha, depth = memory.empty((*shape, 3), F), memory.empty(shape, F), memory.empty(shape, F)
        composite(lists, turns(lists), tiles, _array(paper), color, alpha, depth)
        image = torch.from_numpy(color), torch.from_numpy(alpha), torch.from_numpy(depth)
        ctx.save_for_backward(*parts, world_to_camera, intrinsics, paper, *image)
        ctx.options, ctx.screen, ctx.lists, ctx.tiles = options, screen, lists, tiles
        far = torch.from_numpy(memory.empty(shape, F))
        return image[0], image[1], torch.where(image[1] <= 0, torch.tensor(math.inf), image[2], out=far)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *image_gradients: Tensor) -> tuple[Tensor | None, ...]:
        *parts, world_to_camera, intrinsics, paper, color, alpha, depth = ctx.saved_tensors
        paper_gradient = None
        if ctx.needs_input_grad[7]:
            paper_gradient = (image_gradients[0] * (1 - alpha)[..., None]).sum_to_size(paper.shape)
        if not any(ctx.needs_input_grad[:7]):
            return (*(None,) * 7, paper_gradient, None, None)
        scene, lists = _scene(parts, world_to_camera, intrinsics, ctx.options), ctx.lists
        image = Image(*(_array(t) for t in (color, alpha, depth, *image_gradients)))
        rows = memory.empty((len(lists.entries), ROW), F)
        scatter(lists, turns(lists), ctx.tiles, _array(paper), image, rows)
        found = [memory.empty(tuple(part.shape), F) for part in parts]
        cameras = np.zeros((CHUNKS, len(world_to_camera), CAMERA), np.float64)
        means, quats, scales, opacities, sh = found
        centers = ctx.screen.center_gradients.numpy()
        gather(scene, lists, rows, Gradients(means, quats, scales, opacities, sh, centers, cameras))
        pose, lens = _camera_gradients(cameras.sum(0))
        return (
            *map(torch.from_numpy, found),
            pose.to(world_to_camera),
            lens.to(intrinsics),
            paper_gradient,
            None,
            None,
        )


def tile_lists(scene: Scene, radii: np.ndarray) -> tuple[Lists, np.ndarray]:
    """Project a scene and deal it to tiles → the lists, and what ``composite`` wants to know about tiles.

    Args:
        scene: V cameras and N Gaussians.
        radii: float32 [V, N], filled with half the longer side of each drawn splat's box in pixels.
    """
    views, count = len(scene.cameras), len(scene.means)
    records, boxes = memory.empty((views * count, RECORD), F), memory.empty((views * count, 4), np.int32)
    keys = memory.empty((views, count), np.uint32)
    project(scene, records, boxes, keys, radii)
    order, counts = memory.empty((views, count), np.int32), np.empty(views, np.int32)
    order_by_depth(keys, order, counts)
    threads = numba.get_num_threads()
    width, height = int(scene.limits[2]), int(scene.limits[3])
    parts = max(1, min(8 * threads // views, count // CHUNK_LENGTH))
    tiles = np.array([-(-width // TILE), -(-height // TILE), parts], np.int64)
    starts, offsets = np.empty(views * tiles[0] * tiles[1] + 1, np.int32), memory.empty(views * count + 1, np.int32)
    heads = count_pairs(order, counts, boxes, tiles, starts, offsets)
    entries, slots = (memory.empty(int(starts[-1]), np.int32) for _ in range(2))
    lists = Lists(records, boxes, starts, entries, offsets, slots)
    deal(order, counts, tiles, heads, lists)
    return lists, tiles


def turns(lists: Lists) -> Turns:
    """Cut the tiles into runs of neighbours that cost about the same and deal the runs to the threads in turn."""
    workers = numba.get_num_threads()
    cost = np.cumsum(np.diff(lists.starts) + TILE_COST)
    worker = (cost - 1) * (RUNS * workers) // cost[-1] % workers
    order = np.argsort(worker, kind="stable").astype(np.int32)
    return Turns(order, np.searchsorted(worker[order], np.arange(workers + 1)).astype(np.int32))


def _scene(parts: Any, world_to_camera: Tensor, intrinsics: Tensor, options: Options) -> Scene:
    cameras = np.empty((len(world_to_camera), CAMERA), np.float64)
    cameras[:, :12] = world_to_camera.detach()[:, :3].reshape(-1, 12).numpy()
    cameras[:, 12:] = intrinsics.detach().reshape(-1, 9)[:, [0, 1, 2, 4, 5]].numpy()
    limits = np.array([options.near, options.far, options.width, options.height, options.antialiased], np.float64)
    means, quats, scales, opacities, sh = (_array(part) for part in parts)
    return Scene(means, quats, scales, opacities, sh, cameras, limits)


def _camera_gradients(cameras: np.ndarray) -> tuple[Tensor, Tensor]:
    """Gradients laid out as Scene.cameras [V, CAMERA] → those of world_to_camera [V, 4, 4] and intrinsics [V, 3, 3]."""
    pose, lens = np.zeros((len(cameras), 4, 4)), np.zeros((len(cameras), 9))
    pose[:, :3] = cameras[:, :12].reshape(-1, 3, 4)
    lens[:, [0, 1, 2, 4, 5]] = cameras[:, 12:]
    return torch.from_numpy(pose), torch.from_numpy(lens.reshape(-1, 3, 3))


def _array(tensor: Tensor) -> np.ndarray:
    return tensor.detach().contiguous().numpy()
