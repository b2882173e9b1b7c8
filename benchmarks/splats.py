"""The splat renderer: times, how many lanes are useful, and two peers on the same scenes.

Run: python benchmarks/splats.py [--threads 2] [--repeats 10] [--scenes abcd] [--gsplat PATH] [--opensplat PATH]
    [--busy]

PATH is an unpacked wheel or checkout of gsplat (github.com/nerfstudio-project/gsplat). Its
``gsplat/cuda/_torch_impl.py`` is the peer: pure torch, but it needs a CUDA kernel to find (Gaussian, pixel) pairs and
the nerfacc package to multiply transmittances along pixels. This script supplies both: pairs from our own tile lists,
cut to alpha ≥ 1/255 and found outside the clock, and a scan in torch. So the peer's time is its arithmetic alone, on
the fewest pairs possible.

The other peer is OpenSplat's rasteriser for the CPU (github.com/pierotofy/OpenSplat), C++ on libtorch; its PATH is the
folder with the module that ``opensplat.cpp`` says how to build. A view at a time, as it has no batches: its projection,
which is torch, and its rasteriser, with our colours, under torch's automatic differentiation. The table also gives the
rasteriser alone; ours is then sorting, dealing and compositing, and backward the walk over the tiles.

Scenes: a bumpy sphere over half of the image, field of view 49.1°. a: 256², 10k Gaussians. b: 512², 100k. c: 512²,
1M of less than a pixel. d: 8 views of 128², 16k. Times are minima: other processes only ever add to them.
On a busy machine wall times say little; --busy measures the processor time of one thread instead.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import math
import platform
import sys
import time
import types
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from obverse.cameras import Cameras, orbit
from obverse.gaussians import Gaussians, from_colors
from obverse.parallel import kernel, set_threads, wide_vectors
from obverse.render import splat_kernels as sk
from obverse.render import splats_cpu
from obverse.render.splats import render

FLOPS_FORWARD, FLOPS_BACKWARD = 32, 48  # per lane, as counted for a colour-only renderer
SCENES = {"a": (256, 10_000, 1), "b": (512, 100_000, 1), "c": (512, 1_000_000, 1), "d": (128, 16_000, 8)}
clock: Callable[[], float] = time.perf_counter
PARTS = ("means", "quats", "scales", "opacities", "sh")


def bumpy_sphere(count: int, *, degree: int = 0, seed: int = 0) -> Gaussians:
    """Flat Gaussians on a bumpy sphere of radius about 0.36, as large as their share of its surface asks for."""
    rng = torch.Generator().manual_seed(seed)
    normals = torch.nn.functional.normalize(torch.randn(count, 3, generator=rng), dim=-1)
    bumps = torch.sin(12 * normals).prod(-1, keepdim=True)
    means = (0.36 + 0.05 * bumps) * normals
    size = 0.7 * math.sqrt(4 * math.pi * 0.36**2 / count)
    scales = size * (0.5 + torch.rand(count, 3, generator=rng)) * torch.tensor([1.0, 1.0, 0.2])
    quats = torch.nn.functional.normalize(torch.randn(count, 4, generator=rng), dim=-1)
    opacities = 0.3 + 0.69 * torch.rand(count, generator=rng)
    scene = from_colors(means, quats, scales, opacities, 0.5 + 0.5 * normals)
    if degree:
        rest = 0.1 * torch.randn(count, (degree + 1) ** 2 - 1, 3, generator=rng)
        scene = replace(scene, sh=torch.cat([scene.sh, rest], 1))
    return scene


def views(size: int, count: int) -> Cameras:
    """Cameras around the sphere from where it covers half of the image."""
    distance = 0.36 / math.sin(math.atan(math.sqrt(2 / math.pi) * math.tan(math.radians(49.1 / 2))))
    azimuths = [360.0 * i / count for i in range(count)]
    return orbit(azimuths, 10.0, distance=distance, fov_deg=49.1, size=size)


def fastest(run: Callable[[], object], repeats: int) -> float:
    """Milliseconds of the fastest of several runs."""
    best = math.inf
    for _ in range(repeats):
        start = clock()
        run()
        best = min(best, clock() - start)
    return 1000 * best


@dataclass(frozen=True)
class Timing:
    """Milliseconds."""

    forward: float
    backward: float

    def __str__(self) -> str:
        return f"{self.forward:.1f} / {self.backward:.1f}"

    def over(self, other: Timing) -> str:
        """How many times slower than another."""
        return f"{self.forward / other.forward:.0f}× / {self.backward / other.backward:.0f}×"


def timed(scene: Gaussians, cameras: Cameras, repeats: int, *, depth: bool = False) -> Timing:
    """Fastest forward and backward pass of ``render``, as a fitting loop calls it."""
    parts = [getattr(scene, name).clone().requires_grad_() for name in PARTS]
    best = [math.inf, math.inf]
    weights = torch.rand(len(cameras), cameras.height, cameras.width, 3, generator=torch.Generator().manual_seed(1))
    for _ in range(repeats + 1):
        start = clock()
        seen = render(Gaussians(*parts), cameras)
        middle = clock()
        outputs, gradients = [seen.color, seen.alpha], [weights, weights[..., 0].contiguous()]
        if depth:
            outputs, gradients = [*outputs, seen.depth], [*gradients, weights[..., 1].contiguous()]
        begin = clock()
        torch.autograd.backward(outputs, gradients)
        end = clock()
        best = [min(best[0], middle - start), min(best[1], end - begin)]
        for part in parts:
            part.grad = None
    return Timing(1000 * best[0], 1000 * best[1])


@kernel()
def tally(lists: sk.Lists, tiles: np.ndarray, shape: tuple[int, int]) -> tuple[int, int]:
    """Lanes evaluated, and (Gaussian, pixel) pairs that contribute."""
    tiles_x, per_view = tiles[0], tiles[0] * tiles[1]
    evaluated = useful = 0
    batch, spans = np.ones((sk.BATCH + sk.ELLIPSE, sk.RECORD), np.float32), np.empty((sk.STRIPS, 2, sk.BATCH), np.int32)
    jobs = np.empty(sk.JOBS, np.uint8)
    for tile in range(len(lists.starts) - 1):
        left, top = (tile % per_view % tiles_x) * 16, (tile % per_view // tiles_x) * 16
        through = np.ones(256, np.float32)
        for row in range(16):
            for column in range(16):
                if left + column >= shape[0] or top + row >= shape[1]:
                    through[row * 16 + column] = 0
        entry, stop = lists.starts[tile], lists.starts[tile + 1]
        while entry < stop:
            size = min(sk.BATCH, stop - entry)
            evaluated += 16 * sk.gather_batch(
                lists.records, lists.entries, entry, size, (left, top), batch, spans, jobs
            )
            entry += size
            for i in range(size):
                for pixel in range(256):
                    if through[pixel] <= 0:
                        continue
                    dx, dy = pixel % 16 + 0.5 - batch[i, sk.U], pixel // 16 + 0.5 - batch[i, sk.V]
                    p = dx * (batch[i, sk.A] * dx + batch[i, sk.B] * dy) + batch[i, sk.C] * dy * dy
                    p += batch[i, sk.LOG_OPACITY]
                    if p >= sk.LOG_MIN_ALPHA:
                        after = through[pixel] * (1 - min(np.exp(8 * p), 0.999))
                        useful += after > 1e-4
                        through[pixel] = after if after > 1e-4 else 0
            if through.max() <= 0:
                break
    return evaluated, useful


def lists_of(scene: Gaussians, cameras: Cameras) -> tuple[sk.Scene, sk.Lists, np.ndarray]:
    """The tile lists ``render`` would composite."""
    options = splats_cpu.Options(cameras.width, cameras.height, 0.01, 1e4, False)
    parts = [getattr(scene, name) for name in PARTS]
    packed = splats_cpu._scene(parts, cameras.world_to_camera, cameras.intrinsics, options)
    return packed, *splats_cpu.tile_lists(packed, np.empty((len(cameras), len(scene)), np.float32))


def stages(scene: Gaussians, cameras: Cameras, repeats: int) -> dict[str, float]:
    """Milliseconds of each kernel of one forward and backward pass."""
    packed, lists, tiles = lists_of(scene, cameras)
    v, n = len(cameras), len(scene)
    records, boxes, keys = np.empty_like(lists.records), np.empty_like(lists.boxes), np.empty((v, n), np.uint32)
    radii, order, counts = np.empty((v, n), np.float32), np.empty((v, n), np.int32), np.empty(v, np.int32)
    starts, offsets = np.empty_like(lists.starts), np.empty_like(lists.offsets)
    shape = (v, cameras.height, cameras.width)
    color, alpha, depth = np.empty((*shape, 3), np.float32), np.empty(shape, np.float32), np.empty(shape, np.float32)
    paper, turns = np.ones((1, 1, 1, 3), np.float32), splats_cpu.turns(lists)
    image = splats_cpu.Image(color, alpha, depth, np.ones_like(color), np.ones_like(alpha), np.zeros_like(alpha))
    rows = np.empty((len(lists.entries), splats_cpu.ROW), np.float32)
    found = [np.empty_like(getattr(packed, name)) for name in PARTS]
    camera_gradients = np.zeros((sk.CHUNKS, v, splats_cpu.CAMERA))
    gradients = splats_cpu.Gradients(*found, np.empty((v, n), np.float32), camera_gradients)

    def deal() -> None:
        heads = sk.count_pairs(order, counts, boxes, tiles, starts, offsets)
        sk.deal(order, counts, tiles, heads, lists)

    return {
        "project": fastest(lambda: sk.project(packed, records, boxes, keys, radii), repeats),
        "order": fastest(lambda: sk.order_by_depth(keys, order, counts), repeats),
        "deal": fastest(deal, repeats),
        "composite": fastest(lambda: sk.composite(lists, turns, tiles, paper, color, alpha, depth), repeats),
        "scatter": fastest(lambda: splats_cpu.scatter(lists, turns, tiles, paper, image, rows), repeats),
        "gather": fastest(lambda: splats_cpu.gather(packed, lists, rows, gradients), repeats),
    }


@kernel()
def add_products(rounds: int, sums: np.ndarray) -> None:
    """``rounds`` × 8 independent multiply-adds per element in vectors that stay in the nearest cache."""
    factor, term = np.float32(0.999), np.float32(0.001)
    for _ in range(rounds):
        for i in range(256):
            a = sums[i]
            a = a * factor + term
            a = a * factor + term
            a = a * factor + term
            a = a * factor + term
            a = a * factor + term
            a = a * factor + term
            a = a * factor + term
            a = a * factor + term
            sums[i] = a


@kernel()
def add_products_wide(rounds: int, sums: np.ndarray) -> None:
    """The same in vectors of 512 bits, if the processor has them."""
    wide_vectors()
    factor, term = np.float32(0.999), np.float32(0.001)
    for _ in range(rounds):
        for i in range(256):
            a = sums[i]
            a = a * factor + term
            a = a * factor + term
            a = a * factor + term
            a = a * factor + term
            a = a * factor + term
            a = a * factor + term
            a = a * factor + term
            a = a * factor + term
            sums[i] = a


def torch_peak(repeats: int) -> float:
    """GFLOP/s of a 2048² float32 matrix product: what the threads reach together, in practice."""
    a, b = torch.rand(2048, 2048), torch.rand(2048, 2048)
    return 2 * 2048**3 / fastest(lambda: a @ b, repeats) / 1e6


def load_gsplat(path: Path) -> types.ModuleType:
    """gsplat's torch implementation alone, with a scan in torch where it asks for nerfacc."""
    root = path / "gsplat" / "cuda"
    for name, folder in (("gsplat", path / "gsplat"), ("gsplat.cuda", root)):
        package = types.ModuleType(name)
        package.__path__ = [str(folder)]  # type: ignore[attr-defined]
        sys.modules[name] = package
    wrapper = types.ModuleType("gsplat.cuda._wrapper")
    wrapper.CameraModel = wrapper.RollingShutterType = object  # type: ignore[attr-defined]
    sys.modules["gsplat.cuda._wrapper"] = wrapper
    scans = types.ModuleType("nerfacc")
    scans.render_weight_from_alpha, scans.accumulate_along_rays = weights_along_rays, sums_along_rays  # type: ignore[attr-defined]
    sys.modules["nerfacc"] = scans
    spec = importlib.util.spec_from_file_location("gsplat.cuda._torch_impl", root / "_torch_impl.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def weights_along_rays(alphas: Tensor, ray_indices: Tensor, n_rays: int) -> tuple[Tensor, Tensor]:
    """w = α T and T along sorted rays: the exclusive product as a difference of running sums of logarithms."""
    logs = torch.log1p(-alphas.double())
    running = torch.cumsum(logs, 0) - logs
    lengths = torch.bincount(ray_indices, minlength=n_rays)
    firsts = (torch.cumsum(lengths, 0) - lengths).clamp_max(max(len(alphas) - 1, 0))
    through = torch.exp(running - running[firsts[ray_indices]]).float()
    return alphas * through, through


def sums_along_rays(weights: Tensor, values: Tensor | None, ray_indices: Tensor, n_rays: int) -> Tensor:
    """Σ w · value per ray [n_rays, channels]."""
    terms = weights[:, None] if values is None else weights[:, None] * values
    return torch.zeros(n_rays, terms.shape[1]).index_add(0, ray_indices, terms)


@kernel()
def pixel_pairs(lists: sk.Lists, tiles: np.ndarray, shape: tuple[int, int], ids: np.ndarray, fill: bool) -> int:
    """(instance, pixel) pairs that contribute, pixel by pixel, nearest first, into ``ids`` [P, 2] → how many."""
    tiles_x, per_view = tiles[0], tiles[0] * tiles[1]
    found = 0
    for view in range((len(lists.starts) - 1) // per_view):
        for y in range(shape[1]):
            for x in range(shape[0]):
                tile = view * per_view + (y >> 4) * tiles_x + (x >> 4)
                through = 1.0
                for entry in range(lists.starts[tile], lists.starts[tile + 1]):
                    m = lists.entries[entry]
                    r = lists.records[m]
                    dx, dy = x + 0.5 - r[sk.U], y + 0.5 - r[sk.V]
                    p = dx * (r[sk.A] * dx + r[sk.B] * dy) + r[sk.C] * dy * dy + r[sk.LOG_OPACITY]
                    if p < sk.LOG_MIN_ALPHA:
                        continue
                    through *= 1 - min(np.exp(8 * p), 0.999)
                    if through <= 1e-4:
                        break
                    if fill:
                        ids[found, 0], ids[found, 1] = m, (view * shape[1] + y) * shape[0] + x
                    found += 1
    return found


def peer(module: types.ModuleType, scene: Gaussians, cameras: Cameras, repeats: int) -> tuple[Timing, dict[str, float]]:
    """gsplat's torch path, projection to compositing → times, and how far it is from ours.

    Colour: mean and largest difference. Gradients: ‖ours − theirs‖ / ‖theirs‖, all parameters of a kind together.
    """
    _, lists, tiles = lists_of(scene, cameras)
    shape = (cameras.width, cameras.height)
    ids = np.empty((pixel_pairs(lists, tiles, shape, np.empty((0, 2), np.int64), False), 2), np.int64)
    pixel_pairs(lists, tiles, shape, ids, True)
    instance, pixel = torch.from_numpy(ids[:, 0].copy()), torch.from_numpy(ids[:, 1].copy())
    n, area = len(scene), cameras.width * cameras.height
    indices = (instance % n, pixel % area, pixel // area)
    parts = [getattr(scene, name).clone().requires_grad_() for name in PARTS]
    weights = torch.rand(len(cameras), cameras.height, cameras.width, 3, generator=torch.Generator().manual_seed(1))
    best, color = [math.inf, math.inf], torch.empty(0)
    for _ in range(repeats):
        start = clock()
        means, quats, scales, opacities, sh = parts
        covariances, _ = module._quat_scale_to_covar_preci(quats, scales, True, False)
        _, means2d, _, conics, _ = module._fully_fused_projection(
            means, covariances, cameras.world_to_camera, cameras.intrinsics, *shape
        )
        colors = (0.5 + 0.28209479177387814 * sh[:, 0]).clamp_min(0).expand(len(cameras), -1, -1)
        seen, alpha = module.accumulate(means2d, conics, opacities.expand(len(cameras), -1), colors, *indices, *shape)
        color = seen + (1 - alpha)
        middle = clock()
        torch.autograd.backward([color, alpha], [weights, weights[..., :1].contiguous()])
        best = [min(best[0], middle - start), min(best[1], clock() - middle)]
        theirs = [part.grad for part in parts]
        for part in parts:
            part.grad = None
    return Timing(1000 * best[0], 1000 * best[1]), apart_from(parts, cameras, weights, color, theirs)


def apart_from(
    parts: list[Tensor], cameras: Cameras, weights: Tensor, color: Tensor, theirs: list[Tensor | None]
) -> dict[str, float]:
    """How far a peer's picture and gradients are from ours, as ``peer`` says."""
    seen = render(Gaussians(*parts), cameras)
    torch.autograd.backward([seen.color, seen.alpha], [weights, weights[..., 0].contiguous()])
    apart = (seen.color - color).detach().abs()
    differences = {"mean colour": apart.mean().item(), "largest": apart.max().item()}
    for name, part, other in zip(PARTS, parts, theirs, strict=True):
        assert part.grad is not None
        assert other is not None
        differences[name] = ((part.grad - other).norm() / other.norm()).item()
    return differences


def load_opensplat(path: Path) -> types.ModuleType:
    """The module built by ``opensplat.cpp``."""
    sys.path.insert(0, str(path))
    return importlib.import_module("opensplat")


class OpenSplat(torch.autograd.Function):
    """OpenSplat's rasteriser over black: colour [H, W, 3] and transmittance [H, W]."""

    spent: ClassVar = [0.0, 0.0]  # seconds in the rasteriser, forward and backward

    @staticmethod
    def forward(ctx: Any, module: types.ModuleType, size: tuple[int, int], *inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Inputs: centres, conics, colours, opacities, covariances, depths."""
        centers, conics, colors, opacities, covariances, depths = (part.detach() for part in inputs)
        ctx.given = (*size, centers, conics, colors, opacities, torch.zeros(3), covariances, depths)
        start = clock()
        color, ctx.through, ctx.pixels = module.rasterize(*ctx.given)
        OpenSplat.spent[0] += clock() - start
        ctx.module = module
        return color, ctx.through

    @staticmethod
    def backward(ctx: Any, color_gradient: Tensor, through_gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of the first four inputs."""
        start = clock()
        found = ctx.module.rasterize_backward(
            *ctx.given, ctx.through, ctx.pixels, color_gradient.contiguous(), -through_gradient.contiguous()
        )
        OpenSplat.spent[1] += clock() - start
        centers, conics, colors, opacities = found
        conics = conics * torch.tensor([1.0, 2.0, 1.0])  # theirs is that of one of two equal entries of a matrix
        return None, None, centers, conics, colors, opacities.reshape(ctx.given[5].shape), None, None


def opensplat_images(module: types.ModuleType, parts: list[Tensor], cameras: Cameras) -> tuple[Tensor, Tensor]:
    """OpenSplat's colour over white [V, H, W, 3] and alpha [V, H, W]."""
    means, quats, scales, opacities, sh = parts
    colors, near, far = (0.5 + 0.28209479177387814 * sh[:, 0]).clamp_min(0), 0.01, 100.0
    width, height = cameras.width, cameras.height
    images = []
    for world_to_camera, lens in zip(cameras.world_to_camera, cameras.intrinsics, strict=True):
        fx, fy, cx, cy = (lens[i, j].item() for i, j in ((0, 0), (1, 1), (0, 2), (1, 2)))
        clip = torch.zeros(4, 4)
        clip[0, 0], clip[1, 1], clip[3, 2] = 2 * fx / width, 2 * fy / height, 1
        clip[2, 2], clip[2, 3] = (far + near) / (far - near), -2 * far * near / (far - near)
        centers, _, conics, covariances, _ = module.project(
            means, scales, quats, world_to_camera, clip @ world_to_camera, (fx, fy, cx, cy), height, width, near
        )
        # In order of the depths it returns, near objects come out wrong; in order of distance along +Z they agree.
        depths = (means @ world_to_camera[2, :3] + world_to_camera[2, 3]).detach()
        given = (centers, conics, colors, opacities[:, None], covariances, depths)
        color, through = OpenSplat.apply(module, (width, height), *given)
        images.append((color + through[..., None], 1 - through))
    seen, alpha = (torch.stack(part) for part in zip(*images, strict=True))
    return seen, alpha


def peer_opensplat(
    module: types.ModuleType, scene: Gaussians, cameras: Cameras, repeats: int
) -> tuple[Timing, Timing, dict[str, float]]:
    """OpenSplat from Gaussians to pictures and back → times, of that the rasteriser's, and how far it is from ours."""
    parts = [getattr(scene, name).clone().requires_grad_() for name in PARTS]
    weights = torch.rand(len(cameras), cameras.height, cameras.width, 3, generator=torch.Generator().manual_seed(1))
    best, raster, theirs = [math.inf] * 2, [math.inf] * 2, []
    color = torch.empty(0)
    for _ in range(repeats):
        OpenSplat.spent = [0.0, 0.0]
        start = clock()
        color, alpha = opensplat_images(module, parts, cameras)
        middle = clock()
        torch.autograd.backward([color, alpha], [weights, weights[..., 0].contiguous()])
        best = [min(best[0], middle - start), min(best[1], clock() - middle)]
        raster = [min(pair) for pair in zip(raster, OpenSplat.spent, strict=True)]
        theirs = [part.grad for part in parts]
        for part in parts:
            part.grad = None
    whole, of_it = (Timing(1000 * pair[0], 1000 * pair[1]) for pair in (best, raster))
    return whole, of_it, apart_from(parts, cameras, weights, color, theirs)


def report_scenes(names: str, repeats: int, limits: list[float]) -> None:
    print("| scene | forward | backward | with depth | pairs | lanes | useful | FMA share, 256 bits | 512 bits |")
    print("|---|---|---|---|---|---|---|---|---|")
    table = []
    for name in names:
        size, count, number = SCENES[name]
        scene, cameras = bumpy_sphere(count), views(size, number)
        time_plain, time_depth = timed(scene, cameras, repeats), timed(scene, cameras, repeats, depth=True)
        _, lists, tiles = lists_of(scene, cameras)
        evaluated, useful = tally(lists, tiles, (size, size))
        cost = stages(scene, cameras, repeats)
        shares = [
            " / ".join(f"{evaluated * f / limit / 1e6 / cost[k]:.2f}"
                       for f, k in ((FLOPS_FORWARD, "composite"), (FLOPS_BACKWARD, "scatter")))
            for limit in limits
        ]  # fmt: skip
        print(f"| {name} | {time_plain.forward:.1f} | {time_plain.backward:.1f} | {time_depth.backward:.1f} | "
              f"{len(lists.entries) / 1e3:.0f}k | {evaluated / 1e6:.1f}M | "
              f"{useful / evaluated:.0%} | {shares[0]} | {shares[1]} |")  # fmt: skip
        table.append((name, cost))
    print("\n| scene | " + " | ".join(table[0][1]) + " |\n" + "|---" * (1 + len(table[0][1])) + "|")
    for name, cost in table:
        print(f"| {name} | " + " | ".join(f"{ms:.2f}" for ms in cost.values()) + " |")


def report_peer(path: Path, names: str, repeats: int) -> None:
    module = load_gsplat(path)
    table = []
    print("\n| scene | gsplat torch forward / backward | ours | ratio |\n|---|---|---|---|")
    for name in names:
        size, count, number = SCENES[name]
        scene, cameras = bumpy_sphere(count), views(size, number)
        theirs, differences = peer(module, scene, cameras, max(3, repeats // 3))
        ours = timed(scene, cameras, repeats)
        print(f"| {name} | {theirs} | {ours} | {theirs.over(ours)} |")
        table.append((name, differences))
    report_differences("gsplat", table)


def report_opensplat(path: Path, names: str, repeats: int) -> None:
    module = load_opensplat(path)
    table = []
    print(
        "\n| scene | OpenSplat forward / backward | ours | ratio | rasteriser alone | ours | ratio |\n"
        + "|---" * 7
        + "|"
    )
    for name in names:
        size, count, number = SCENES[name]
        scene, cameras = bumpy_sphere(count), views(size, number)
        whole, raster, differences = peer_opensplat(module, scene, cameras, max(3, repeats // 3))
        ours, cost = timed(scene, cameras, repeats), stages(scene, cameras, repeats)
        alone = Timing(sum(cost[k] for k in ("order", "deal", "composite")), cost["scatter"])
        print(f"| {name} | {whole} | {ours} | {whole.over(ours)} | {raster} | {alone} | {raster.over(alone)} |")
        table.append((name, differences))
    report_differences("OpenSplat", table)


def report_differences(peer_name: str, table: list[tuple[str, dict[str, float]]]) -> None:
    print(f"\n| apart from {peer_name} | " + " | ".join(table[0][1]) + " |\n" + "|---" * (1 + len(table[0][1])) + "|")
    for name, differences in table:
        print(f"| {name} | " + " | ".join(f"{value:.1e}" for value in differences.values()) + " |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--scenes", default="abcd")
    parser.add_argument("--gsplat", type=Path, help="checkout of gsplat to compare with")
    parser.add_argument("--opensplat", type=Path, help="folder of the module built by opensplat.cpp")
    parser.add_argument("--busy", action="store_true", help="one thread, processor time instead of wall time")
    options = parser.parse_args()
    global clock
    clock = time.process_time if options.busy else clock
    threads = set_threads(1 if options.busy else options.threads)
    sums, rounds = np.zeros(256, np.float32), 30_000
    limits = []
    for run in (add_products, add_products_wide):
        run(1, sums)
        limits.append(threads * 256 * 16 * rounds / fastest(lambda run=run: run(rounds, sums), 40) / 1e6)  # type: ignore[misc]
    processor, unit = platform.processor() or platform.machine(), "ms of processor time" if options.busy else "ms"
    product = torch_peak(5)
    print(f"{processor}, {threads} threads, minimum of {options.repeats}, {unit}; FMA limit {limits[0]:.0f} GFLOP/s "
          f"in 256-bit vectors, {limits[1]:.0f} in 512-bit ones, matrix product {product:.0f} GFLOP/s\n")  # fmt: skip
    report_scenes(options.scenes, options.repeats, limits)
    if options.opensplat:
        report_opensplat(options.opensplat, options.scenes, options.repeats)
    if options.gsplat:
        report_peer(options.gsplat, options.scenes.replace("c", ""), options.repeats)


if __name__ == "__main__":
    main()
