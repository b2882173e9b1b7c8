"""The splat renderer on a GPU: times, accuracy against the plain twin, and gsplat on the same scenes if installed.

Run: python benchmarks/splats_gpu.py [--repeats 20] [--scenes bc] [--sweep]

Scenes are those of ``benchmarks/splats.py``, b: 512², 100k Gaussians, and c: 512², 1M; frames per second are counted at
1920 × 1080 with the Gaussians of each. Times are milliseconds between events on the GPU, the fastest of several, after
the kernels have been compiled. gsplat and we render the same scenes in the same run, to colour and alpha, without and
with gradients of all Gaussians. ``--sweep`` also times other chunk sizes and numbers of warps. Without a GPU it says
so and ends.
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from obverse.cameras import Cameras
from obverse.gaussians import SH_C0, Gaussians
from obverse.render.splats import render, render_plain
from splats import PARTS, SCENES, Timing, bumpy_sphere, views

Picture = Callable[[Gaussians, Cameras], tuple[Tensor, Tensor]]  # colour [V, H, W, 3] over white, alpha [V, H, W]


def ours(scene: Gaussians, cameras: Cameras) -> tuple[Tensor, Tensor]:
    seen = render(scene, cameras)
    return seen.color, seen.alpha


def gsplat_picture() -> Picture | None:
    """gsplat's rasterisation under the same conventions, or None."""
    if importlib.util.find_spec("gsplat") is None:
        return None
    from gsplat import rasterization

    def picture(scene: Gaussians, cameras: Cameras) -> tuple[Tensor, Tensor]:
        colors = SH_C0 * scene.sh[:, 0] + 0.5
        color, alpha, _ = rasterization(
            scene.means, scene.quats, scene.scales, scene.opacities, colors, cameras.world_to_camera,
            cameras.intrinsics, cameras.width, cameras.height, packed=False,
        )  # fmt: skip
        return color + (1 - alpha), alpha[..., 0]

    return picture


def elapsed(run: Callable[[], Any]) -> tuple[float, Any]:
    """Milliseconds on the GPU, and what came of it."""
    start, end = torch.Event(device=DEVICE, enable_timing=True), torch.Event(device=DEVICE, enable_timing=True)
    start.record()
    result = run()
    end.record()
    torch.accelerator.synchronize()
    return start.elapsed_time(end), result


def timed(picture: Picture, scene: Gaussians, cameras: Cameras, repeats: int) -> Timing:
    """Fastest forward and backward pass, as a fitting loop calls them."""
    leaves = [getattr(scene, part).clone().requires_grad_() for part in PARTS]
    weights = torch.rand(len(cameras), cameras.height, cameras.width, 3, device=DEVICE)
    best = Timing(math.inf, math.inf)
    for _ in range(repeats + 3):
        forward, images = elapsed(lambda: picture(Gaussians(*leaves), cameras))
        sent = [weights, weights[..., 0].contiguous()]
        backward, _ = elapsed(lambda images=images, sent=sent: torch.autograd.backward(images, sent))
        best = Timing(min(best.forward, forward), min(best.backward, backward))
        for leaf in leaves:
            leaf.grad = None
    return best


def frame(picture: Picture, scene: Gaussians, cameras: Cameras, repeats: int) -> float:
    """Milliseconds of the fastest frame without gradients."""
    with torch.no_grad():
        return min(elapsed(lambda: picture(scene, cameras))[0] for _ in range(repeats + 3))


def on_gpu(cameras: Cameras) -> Cameras:
    return Cameras(cameras.world_to_camera.to(DEVICE), cameras.intrinsics.to(DEVICE), cameras.width, cameras.height)


def full_hd(cameras: Cameras) -> Cameras:
    """The first of square views, widened to 1920 × 1080 with the same vertical field."""
    scale = 1080 / cameras.height
    intrinsics = cameras.intrinsics[:1].clone()
    intrinsics[:, :2] *= scale
    intrinsics[:, 0, 2], intrinsics[:, 1, 2] = 960.0, 540.0
    return Cameras(cameras.world_to_camera[:1], intrinsics, 1920, 1080)


def report_accuracy() -> None:
    """Errors against the plain renderer in double precision, which is slow: a small scene."""
    scene, cameras = bumpy_sphere(2000, degree=3).to(DEVICE), on_gpu(views(128, 2))
    found, images = [], []
    for renderer, dtype in ((render, torch.float32), (render_plain, torch.float64)):
        leaves = [getattr(scene, part).to(dtype).clone().requires_grad_() for part in PARTS]
        seen = renderer(Gaussians(*leaves), cameras)
        weights = torch.linspace(-1, 1, seen.color.numel(), dtype=dtype, device=DEVICE).reshape(seen.color.shape)
        found.append(torch.autograd.grad((weights * seen.color).sum() + seen.alpha.square().sum(), leaves))
        images.append(seen.color.detach())
    error = (images[0] - images[1]).abs()
    print(f"\nAgainst the plain renderer in double precision: image mean {error.mean():.1e}, max {error.max():.1e}")
    shares = [((one - truth).norm() / truth.norm()).item() for one, truth in zip(*found, strict=True)]
    print("Gradients, relative L2: " + ", ".join(f"{p} {share:.1e}" for p, share in zip(PARTS, shares, strict=True)))


def report_sweep(names: str, repeats: int) -> None:
    """Chunk sizes and warps of compositing, forward and backward."""
    from obverse.render import splats_gpu

    print("\n| scene | chunk | warps | forward | backward |\n|---|---|---|---|---|")
    chosen = dict(splats_gpu.FORWARD), dict(splats_gpu.BACKWARD)
    for name in names:
        size, count, number = SCENES[name]
        scene, cameras = bumpy_sphere(count).to(DEVICE), on_gpu(views(size, number))
        for chunk, warps in itertools.product((2, 4, 8, 16), (1, 2, 4, 8)):
            for setting in (splats_gpu.FORWARD, splats_gpu.BACKWARD):
                setting.update(CHUNK=chunk, num_warps=warps)
            took = timed(ours, scene, cameras, repeats)
            print(f"| {name} | {chunk} | {warps} | {took.forward:.2f} | {took.backward:.2f} |")
    splats_gpu.FORWARD.update(chosen[0])
    splats_gpu.BACKWARD.update(chosen[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--scenes", default="bc")
    parser.add_argument("--sweep", action="store_true", help="also: other chunk sizes and numbers of warps")
    options = parser.parse_args()
    if DEVICE is None:
        print("no GPU here: nothing to measure")
        return
    theirs = gsplat_picture()
    print(f"{torch.get_device_module(DEVICE).get_device_name()}, minimum of {options.repeats}, ms; "
          + ("gsplat in the same run" if theirs else "gsplat is not installed"))  # fmt: skip
    print("\n| scene | renderer | forward | backward | frames per second at 1080p | mean colour difference |")
    print("|---|---|---|---|---|---|")
    for name in options.scenes:
        size, count, number = SCENES[name]
        scene, cameras = bumpy_sphere(count).to(DEVICE), on_gpu(views(size, number))
        with torch.no_grad():
            reference = ours(scene, cameras)[0]
        for label, picture in (("obverse", ours), ("gsplat", theirs)):
            if picture is None:
                continue
            took = timed(picture, scene, cameras, options.repeats)
            rate = 1000 / frame(picture, scene, full_hd(cameras), options.repeats)
            with torch.no_grad():
                difference = (picture(scene, cameras)[0] - reference).abs().mean().item()
            print(f"| {name} | {label} | {took.forward:.2f} | {took.backward:.2f} | {rate:.0f} | {difference:.1e} |")
    report_accuracy()
    if options.sweep:
        report_sweep(options.scenes, options.repeats)


GPU = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
DEVICE: Any = (
    GPU if GPU is not None and (torch.empty(0, device=GPU).is_cuda or torch.empty(0, device=GPU).is_xpu) else None
)

if __name__ == "__main__":
    main()
