"""Gaussian splats on a GPU: the image and gradients of the other renderers, by Triton kernels compiled on first use.

Per batch of views: project every Gaussian (``splats_gpu_kernels.project``), order instances by depth, list the tiles of
16 × 16 pixels each reaches, sort that list by tile, which keeps the depth order, and composite tile by tile. Backward
(``splats_gpu_gradients``), tiles are walked back to front from the transmittance that was left, one row of sums is
written per (tile, instance) pair, and the rows of each Gaussian are added up and carried through the projection. Rows
take the place of atomic additions, so gradients are the same bits every time.

Cut-offs and formulas are those of ``splats_cpu``. The kernels are tested under Triton's interpreter and compiled for
NVIDIA's sm_80 and sm_90 without a GPU; what they cost on a GPU has not been measured: ``benchmarks/splats_gpu.py``
does, where there is one. Sizes of chunks and numbers of warps were chosen by the registers the compiler reports.
"""

from __future__ import annotations

import contextlib
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..gaussians import Gaussians
from .splats import Options, ScreenStatistics
from .splats_gpu_gradients import POSED, ROW, gather, scatter, sum_rows
from .splats_gpu_kernels import RECORD, TILE, composite, project

INSTANCES = 1 << 24  # views × Gaussians projected at once; more views are rendered in several batches
MOST_VIEWS = 65535  # of a batch: the launch grid's second axis
BLOCK = 128  # Gaussians per program when projecting
FORWARD = {"CHUNK": 8, "num_warps": 4}  # Gaussians composited at once, and warps per tile
BACKWARD = {"CHUNK": 4, "num_warps": 2}
SUMMING = {"BLOCK": 4, "LONG": 16, "num_warps": 2}  # instances per program, rows added at once


class Lists(NamedTuple):
    """Projected Gaussians and, for every tile, which of them it composites and in what order."""

    records: Tensor  # float32 [V · N, RECORD], undefined where not drawn
    entries: Tensor  # int32 [P] instances, by view and tile, then by depth
    slots: Tensor  # int32 [P] place of each pair when they are ordered by instance
    starts: Tensor  # int32 [V · T + 1] first pair of each tile
    firsts: Tensor  # int32 [V · N] first slot of each instance
    reached: Tensor  # int32 [V · N] tiles each instance reaches; 0 where not drawn


def render_views(
    gaussians: Gaussians, world_to_camera: Tensor, intrinsics: Tensor, paper: Tensor, options: Options
) -> tuple[Tensor, Tensor, Tensor, ScreenStatistics]:
    """V views: colour over ``paper`` [V, H, W, 3], alpha [V, H, W], mean depth [V, H, W], and what the screen saw.

    Args:
        gaussians: unbatched, float32, on a device that Triton compiles for.
        world_to_camera: float32 [V, 4, 4], on that device.
        intrinsics: float32 [V, 3, 3] pixels, upper triangular, on that device.
        paper: float32, broadcasts to [V, H, W, 3], on that device.
        options: image size, near and far, and the antialiased variant.
    """
    views, count = len(world_to_camera), len(gaussians)
    paper = paper.reshape((1,) * (4 - paper.ndim) + tuple(paper.shape))
    screen = ScreenStatistics(*(torch.zeros(views, count, device=paper.device) for _ in range(2)))
    parts = (gaussians.means, gaussians.quats, gaussians.scales, gaussians.opacities, gaussians.sh)
    batch = max(1, min(MOST_VIEWS, INSTANCES // max(1, count)))
    images = []
    for start in range(0, views, batch):
        some = slice(start, start + batch)
        seen = ScreenStatistics(screen.radii[some], screen.center_gradients[some])
        behind = paper[some] if len(paper) > 1 else paper
        images.append(_Splats.apply(*parts, world_to_camera[some], intrinsics[some], behind, options, seen))
    color, alpha, depth = images[0] if len(images) == 1 else (torch.cat(part) for part in zip(*images, strict=True))
    return color, alpha, depth, screen


class _Splats(torch.autograd.Function):
    """The Triton renderer as one differentiable step."""

    @staticmethod
    def forward(
        ctx: Any, means: Tensor, quats: Tensor, scales: Tensor, opacities: Tensor, sh: Tensor,
        world_to_camera: Tensor, intrinsics: Tensor, paper: Tensor, options: Options, screen: ScreenStatistics,
    ) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
        parts = tuple(part.detach().contiguous() for part in (means, quats, scales, opacities, sh))
        shape = (len(world_to_camera), options.height, options.width)
        with _on(means.device):
            cameras = _cameras(world_to_camera, intrinsics, options)
            lists = tile_lists(parts, cameras, options, screen.radii)
            color = means.new_empty(*shape, 3)
            alpha, depth, through = (means.new_empty(shape) for _ in range(3))
            last = torch.empty(shape, dtype=torch.int32, device=means.device)
            behind = paper.detach().expand(*shape, 3)
            composite[(len(lists.starts) - 1,)](
                lists.records, lists.entries, lists.starts, behind, color, alpha, depth, through, last,
                *_raster(options), *behind.stride()[:3], **FORWARD,
            )  # fmt: skip
        ctx.save_for_backward(*parts, world_to_camera, intrinsics, paper, cameras, depth, through, last, *lists)
        ctx.options, ctx.screen = options, screen
        return color, alpha, depth

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *image_gradients: Tensor) -> tuple[Tensor | None, ...]:
        *parts, world_to_camera, intrinsics, paper, cameras, depth, through, last = ctx.saved_tensors[:12]
        lists = Lists(*ctx.saved_tensors[12:])
        paper_gradient = None
        if ctx.needs_input_grad[7]:
            paper_gradient = (image_gradients[0] * through[..., None]).sum_to_size(paper.shape)
        if not any(ctx.needs_input_grad[:7]):
            return (*(None,) * 7, paper_gradient, None, None)
        options: Options = ctx.options
        gradients = [gradient.contiguous() for gradient in image_gradients]
        with _on(through.device):
            rows = torch.zeros(len(lists.entries), ROW.value, device=through.device)
            behind = paper.detach().expand(*through.shape, 3)
            scatter[(len(lists.starts) - 1,)](
                lists.records, lists.entries, lists.slots, lists.starts, behind, depth, through, last,
                *gradients, rows, *_raster(options), *behind.stride()[:3], **BACKWARD,
            )  # fmt: skip
            posed = any(ctx.needs_input_grad[5:7])
            found, poses = _through_projection(parts, cameras, lists, rows, ctx.screen.center_gradients, options, posed)
        pose, lens = _camera_gradients(poses) if posed else (None, None)
        if pose is not None and lens is not None:
            pose, lens = pose.to(world_to_camera), lens.to(intrinsics)
        return (*found, pose, lens, paper_gradient, None, None)


def tile_lists(parts: tuple[Tensor, ...], cameras: Tensor, options: Options, radii: Tensor) -> Lists:
    """Project N Gaussians into V views and list, per tile, what reaches it, nearest first.

    Args:
        parts: means [N, 3], quats [N, 4], scales [N, 3], opacities [N] and sh [N, K, 3], float32, contiguous.
        cameras: [V, CAMERA], in the precision to project in.
        options: image size and the antialiased variant.
        radii: float32 [V, N], filled with half the longer side of each drawn splat's box in pixels.
    """
    views, count, device = len(cameras), len(parts[0]), cameras.device
    records, depths = radii.new_empty(views * count, RECORD.value), radii.new_empty(views * count)
    boxes = torch.empty(views * count, 3, dtype=torch.int32, device=device)
    reached = torch.empty(views * count, dtype=torch.int32, device=device)
    if count:
        project[(triton.cdiv(count, BLOCK), views)](
            *parts, cameras, records, boxes, reached, depths, radii, count, options.width, options.height,
            K=parts[4].shape[1], ANTIALIASED=options.antialiased, WIDE=_precision(cameras), BLOCK=BLOCK,
        )  # fmt: skip
    # Depth first, tile second: two stable sorts of short keys cost less than one of long ones.
    order = torch.sort(depths, stable=True).indices.int()
    lengths = reached[order]
    begins = torch.cumsum(lengths, 0, dtype=torch.int32) - lengths
    pairs = int(lengths.sum())
    entries = torch.repeat_interleave(order, lengths, output_size=pairs)
    within = torch.arange(pairs, dtype=torch.int32, device=device)
    within -= torch.repeat_interleave(begins, lengths, output_size=pairs)
    left, top, across = boxes[entries].unbind(-1)
    tiles_x, tiles_y = _raster(options)[2:]
    per_view = tiles_x * tiles_y
    view = torch.div(entries, max(1, count), rounding_mode="floor")
    row = top + torch.div(within, across, rounding_mode="floor")
    tile = view * per_view + row * tiles_x + left + within % across
    tile, slots = torch.sort(tile, stable=True)
    starts = torch.searchsorted(
        tile, torch.arange(views * per_view + 1, dtype=tile.dtype, device=device), out_int32=True
    )
    firsts = torch.empty_like(begins)
    firsts[order] = begins
    return Lists(records, entries[slots], slots.int(), starts, firsts, reached)


def _through_projection(
    parts: list[Tensor], cameras: Tensor, lists: Lists, rows: Tensor, centers: Tensor, options: Options, posed: bool
) -> tuple[list[Tensor], Tensor]:
    """Rows of all pairs → gradients of the Gaussians, and of the cameras by block [V, blocks, POSED] if ``posed``.

    ``centers`` [V, N] is filled.
    """
    views, count = len(cameras), len(parts[0])
    found = [torch.empty_like(part) for part in parts]
    blocks = triton.cdiv(count, BLOCK)
    poses = cameras.new_zeros(views, blocks if posed else 0, POSED.value)
    if not count:
        return found, poses
    totals = rows.new_empty(views * count, ROW.value)
    sum_rows[(triton.cdiv(views * count, SUMMING["BLOCK"]),)](
        rows, lists.firsts, lists.reached, totals, views * count, **SUMMING
    )
    for view in range(views):
        gather[(blocks,)](
            *parts, cameras, lists.records, totals, *found, centers, poses, count, view, options.width, options.height,
            K=parts[4].shape[1], ANTIALIASED=options.antialiased, POSE=posed, WIDE=_precision(cameras), BLOCK=BLOCK,
        )  # fmt: skip
    return found, poses


def _cameras(world_to_camera: Tensor, intrinsics: Tensor, options: Options) -> Tensor:
    """[V, CAMERA] as the kernels take them, in double precision where the device has it."""
    views, device = len(world_to_camera), world_to_camera.device
    wide = device.type != "xpu" or torch.xpu.get_device_properties(device).has_fp64
    limits = torch.tensor([options.near, options.far], dtype=torch.float64).expand(views, 2)
    pose = world_to_camera.detach()[:, :3].reshape(-1, 12)
    lens = intrinsics.detach().reshape(-1, 9)[:, [0, 1, 2, 4, 5]]
    dtype = torch.float64 if wide else torch.float32
    return torch.cat([pose.to(dtype), lens.to(dtype), limits.to(device, dtype)], 1).contiguous()


def _camera_gradients(poses: Tensor) -> tuple[Tensor, Tensor]:
    """What blocks found [V, blocks, POSED] → gradients of world_to_camera [V, 4, 4] and intrinsics [V, 3, 3]."""
    total = poses.sum(1)
    pose, lens = total.new_zeros(len(total), 4, 4), total.new_zeros(len(total), 9)
    pose[:, :3] = total[:, :12].reshape(-1, 3, 4)
    lens[:, [0, 1, 2, 4, 5]] = total[:, 12:]
    return pose, lens.reshape(-1, 3, 3)


def _precision(cameras: Tensor) -> tl.dtype:
    return tl.float64 if cameras.dtype == torch.float64 else tl.float32


def _raster(options: Options) -> tuple[int, int, int, int]:
    """Width and height in pixels, then in tiles."""
    tile = TILE.value
    return options.width, options.height, -(-options.width // tile), -(-options.height // tile)


def _on(device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """Make a GPU the current one, on which Triton launches; the interpreter needs no such thing on the CPU."""
    return contextlib.nullcontext() if device.type == "cpu" else torch.get_device_module(device).device(device)
