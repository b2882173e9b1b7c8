"""Distillation: seconds and memory of a step, the published networks' needs by calculation, and a comparison.

    python benchmarks/distill.py                                          # a step with tiny random networks
    python benchmarks/distill.py --published                              # what they need, calculated
    python benchmarks/distill.py --model FOLDER --objects FOLDER_OF_GLB   # Gaussians by SDS against inflating

The comparison photographs each object level from its front and gives that one picture to both: Zero-1-to-3's folder,
through SDS into Gaussians and their density's mesh, and the silhouette method. Both meshes are laid over the truth by
scale and shift alone (``evaluation.alignment``, "similarity") and judged by the overlap of silhouettes from 16 views,
none of them the photo's. With ``-o`` finished objects are kept and a later run goes on from there.
"""

from __future__ import annotations

import argparse
import gc
import json
import resource
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import trimesh
from torch.utils.flop_counter import FlopCounterMode

from obverse.cameras import orbit
from obverse.create import Settings, create
from obverse.evaluation.alignment import align
from obverse.formats.meshes import read_mesh
from obverse.lifting import dreamgaussian
from obverse.lifting.canvases import FieldCanvas, GaussianCanvas
from obverse.lifting.critics import Asking, sds
from obverse.lifting.distill import Photo, distill
from obverse.lifting.guidance import Times
from obverse.lifting.recipes import PRESETS, Around, Recipe, Stage, Terms
from obverse.lifting.variational import Learning, LowRank, vsd
from obverse.multiview import zero123
from obverse.multiview.zero123_inputs import FOV_DEG
from obverse.parallel import set_threads
from obverse.render.studio import photograph
from obverse.render.triangles import render_mesh
from obverse.training.view_data import Light, studio_of

TINY = zero123.Sizes(
    size=64, channels=(32, 64, 64), layers=1, heads=4, vae_channels=(16, 32, 32), vae_layers=1, groups=8,
    embedding=64, clip_size=56, clip_width=64, clip_hidden=128, clip_layers=2, clip_heads=4,
)  # fmt: skip
DISTANCE = 1.85  # the middle of the training's
STEPS = 12
JUDGES = orbit([22.5 + 45 * i for i in range(8)] * 2, [0.0] * 8 + [30.0] * 8, size=128)
PEAKS = {"RTX 4090": 165.0, "A100": 312.0, "H200": 989.0}  # dense, 16 bits, 10¹² a second


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


# ------------------------------------------------------------------------------------------------- a step


def photo_of_ball(around: Around, size: int) -> Photo:
    ball = trimesh.creation.icosphere(subdivisions=3, radius=0.4)
    camera = around.photo_camera(size)
    return Photo(render_mesh(ball, camera, background=None)[0], camera)


def canvases(steps: int) -> dict[str, Callable[[], Any]]:
    def gaussians() -> GaussianCanvas:
        start = dreamgaussian.start()
        return GaussianCanvas(start, steps=steps, rates=dreamgaussian.RATES, growth=dreamgaussian.GROWTH)

    return {
        "5000 Gaussians": gaussians,
        "grid of 96³ cells": lambda: FieldCanvas("grid", resolution=96),
        "triplane of 96² texels": lambda: FieldCanvas("triplane", resolution=96),
    }


def step_times(model: zero123.Zero123, chosen: list[str] | None) -> None:
    around = PRESETS["dreamgaussian"].around
    print(f"tiny Zero-1-to-3: {sum(p.numel() for p in model.parameters()) / 1e6:.2f} M parameters, 64 × 64 pixels")
    for name, make in canvases(STEPS).items():
        if chosen and not any(word in name for word in chosen):
            continue
        for how in ("sds", "vsd"):
            photo = photo_of_ball(around, 64)
            denoiser = model.conditioned(photo.rgba, elevation_deg=0.0)
            recipe = replace(PRESETS["dreamgaussian"].over(STEPS), stages=(Stage(STEPS, 64, 1, 64),))
            critic = sds(denoiser) if how == "sds" else vsd(denoiser, model.unet)
            ends: list[float] = []
            distill(
                make(), critic, recipe=recipe, photo=photo, progress=lambda now, ends=ends: ends.append(now.seconds)
            )
            seconds = np.median(np.diff(ends[4:]))
            print(f"{name:24} {how}: {seconds:.3f} s per step, peak {peak_mb():.0f} MB so far")
            gc.collect()


# ------------------------------------------------------------------------------------------------- published sizes


def saved_bytes(run: Callable[[], Any], network: torch.nn.Module) -> int:
    """Bytes that autograd keeps for the backward pass of what ``run`` computes, without the network's weights."""
    held: list[torch.Tensor] = []

    def note(tensor: torch.Tensor) -> torch.Tensor:
        held.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        run()
    weights = {value.untyped_storage()._cdata for value in network.parameters()}
    kept = {tensor.untyped_storage()._cdata: tensor.untyped_storage().nbytes() for tensor in held}
    return sum(size for storage, size in kept.items() if storage not in weights)


def published() -> None:
    """What a step needs with the published sizes, counted on torch's meta device: nothing is computed."""
    with torch.device("meta"):
        model = zero123.build(zero123.PUBLISHED, device="meta")
        parts = {name: getattr(model, name) for name in ("unet", "vae", "image_encoder", "projection")}
        total = 0
        for name, part in parts.items():
            count = sum(p.numel() for p in part.parameters())
            total += count
            print(f"{name:14} {count / 1e6:8.2f} M parameters")
        print(
            f"{'all':14} {total / 1e6:8.2f} M: {4 * total / 1e9:.2f} GB in float32, {2 * total / 1e9:.2f} GB in 16 bits"
        )

        def encode() -> torch.Tensor:
            pixels = torch.zeros(1, 3, 256, 256, requires_grad=True)
            return model.encode_mode(pixels)

        def ask(batch: int) -> torch.Tensor:
            latents, context = torch.zeros(batch, 8, 32, 32), torch.zeros(batch, 1, 768)
            return model.unet(latents, torch.zeros(batch), encoder_hidden_states=context).sample

        kept = saved_bytes(encode, model) / 1e9
        print(f"SDS keeps {kept:.2f} GB of activations per view (VAE encoder, 256 × 256, float32)")
        for part in parts.values():
            part.requires_grad_(False)
        encoder, unet = counted(encode), counted(lambda: ask(2))
        gradient = counted(lambda: encode().sum().backward()) - encoder
        print(f"encoder: {encoder:.2f} T floating-point operations forward, {gradient:.2f} back to the picture")
        print(f"UNet, with and without the condition: {unet:.2f} T floating-point operations forward")
        step_costs(encoder + gradient + unet)
        additions = torch.nn.ParameterList(LowRank(model.unet, Learning()).parameters())
        count = sum(p.numel() for p in additions)
        print(f"VSD adds {count / 1e6:.2f} M parameters (rank 4), {16 * count / 1e6:.0f} MB with gradients and AdamW")


def counted(run: Callable[[], Any]) -> float:
    """10¹² floating-point operations."""
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops() / 1e12


def step_costs(view: float) -> None:
    """SDS by the published recipes: seconds of the networks at 40 % of the dense 16-bit peak, ``view`` in 10¹²."""
    print(f"SDS: {view:.2f} T a view")
    for name, recipe in PRESETS.items():
        asked = sum(recipe.stage(step).batch for step in range(recipe.steps))
        row = f"{name:16} {recipe.steps} steps, {asked} views, {asked * view:7.0f} T"
        for device, peak in PEAKS.items():
            whole = asked * view / (0.4 * peak)
            row += f"; {device} {1000 * whole / recipe.steps:.0f} ms a step, {whole:.0f} s"
        print(row)


# ------------------------------------------------------------------------------------------------- against inflating


def recipe_for(steps: int, size: int, critic: float, photo: float) -> Recipe:
    """DreamGaussian's, at the model's size; the published latents are 32², so the critic's sum weighs more here."""
    around = Around(DISTANCE, FOV_DEG, 0.0, elevation_deg="dreamgaussian", whole_degrees=True, sphere=0.0)
    return replace(
        PRESETS["dreamgaussian"].over(steps),
        stages=(Stage(steps, size, 1, size),),
        around=around,
        terms=Terms(critic=critic, rgb=photo * 10000.0, mask=photo * 1000.0),
        asking=Asking(scale=5.0, times=Times(anneal="linear"), average=False),
        backgrounds="white",
    )


def by_distilling(model: zero123.Zero123, rgba: torch.Tensor, recipe: Recipe) -> trimesh.Trimesh:
    photo = Photo(rgba, recipe.around.photo_camera(rgba.shape[0]))
    denoiser = model.conditioned(rgba, elevation_deg=0.0)
    growth = replace(dreamgaussian.GROWTH, start=recipe.steps // 5, every=max(1, recipe.steps // 5))
    canvas = GaussianCanvas(
        dreamgaussian.start(2000), steps=recipe.steps, rates=dreamgaussian.RATES, growth=growth, cap=8000
    )
    distill(canvas, sds(denoiser, recipe.asking), recipe=recipe, photo=photo)
    gaussians = dreamgaussian.kept(canvas.gaussians)
    return dreamgaussian.meshed(dreamgaussian.local_density(gaussians, resolution=64, blocks=8), faces=8000)


def by_inflating(rgba: torch.Tensor) -> trimesh.Trimesh:
    picture = (rgba.clamp(0, 1) * 255 + 0.5).to(torch.uint8).numpy()
    settings = Settings(resolution=96, faces=8000, texture=256, gaussians=500)
    return create(picture, method="inflate", settings=settings, matte="alpha").mesh


def overlap(found: trimesh.Trimesh, truth: trimesh.Trimesh) -> float:
    """Mean intersection over union of silhouettes, after scale and shift."""
    points = [trimesh.sample.sample_surface(mesh, 20_000, seed=0)[0] for mesh in (found, truth)]
    place = align(*points, how="similarity")
    moved = trimesh.Trimesh(place.apply(found.vertices), found.faces, process=False)
    masks = [render_mesh(mesh, JUDGES, background=None, shading="unlit", supersample=1)[..., 3] > 0.5
             for mesh in (moved, truth)]  # fmt: skip
    both, either = (masks[0] & masks[1]).sum((1, 2)), (masks[0] | masks[1]).sum((1, 2))
    return float((both / either.clamp_min(1)).mean())


def normalised(path: Path) -> trimesh.Trimesh:
    mesh = read_mesh(path)
    low, high = mesh.bounds
    mesh.vertices = (mesh.vertices - (low + high) / 2) / (high - low).max()
    return mesh


def compare(options: argparse.Namespace) -> None:
    model = zero123.load(options.model, download=False)
    recipe = recipe_for(options.steps, model.size, options.critic, options.photo)
    paths = sorted(options.objects.glob("*.glb"))
    chosen = [paths[i] for i in np.linspace(0, len(paths) - 1, min(options.limit, len(paths))).round().astype(int)]
    if options.only:
        chosen = [path for path in paths if path.stem in options.only]
    rows = {}
    if options.output is not None and options.output.exists():
        rows = {row["name"]: row for row in map(json.loads, options.output.read_text().splitlines())}
    studio = studio_of(Light((0.3, -0.6, 1.0), 450.0))
    for path in chosen:
        if path.stem not in rows:
            truth = normalised(path)
            camera = orbit(0.0, 0.0, distance=DISTANCE, fov_deg=FOV_DEG, size=4 * model.size)
            large = photograph(truth, camera, studio=studio, supersample=2)[0]
            flat = torch.cat([large[..., :3] * large[..., 3:], large[..., 3:]], -1).movedim(-1, 0)[None]
            small = torch.nn.functional.avg_pool2d(flat, 4)[0].movedim(0, -1)
            rgba = torch.cat([small[..., :3] / small[..., 3:].clamp_min(1e-4), small[..., 3:]], -1)
            began = time.monotonic()
            row = {"name": path.stem, "distill": overlap(by_distilling(model, rgba, recipe), truth)}
            row["seconds"] = round(time.monotonic() - began, 1)
            row["inflate"] = overlap(by_inflating(large), truth)
            rows[path.stem] = row
            if options.output is not None:
                options.output.write_text("".join(json.dumps(r) + "\n" for r in rows.values()))
        row = rows[path.stem]
        print(f"{row['name'][:40]:40} distilled {row['distill']:.3f}  inflated {row['inflate']:.3f}", flush=True)
    table = np.array([[rows[path.stem][way] for way in ("distill", "inflate")] for path in chosen])
    wins = int((table[:, 0] > table[:, 1]).sum())
    spread = (table[:, 0] - table[:, 1]).std(ddof=1) / len(table) ** 0.5 if len(table) > 1 else float("nan")
    print(
        f"{len(table)} objects, {options.steps} steps: distilled {table[:, 0].mean():.3f}, inflated "
        f"{table[:, 1].mean():.3f}, difference {(table[:, 0] - table[:, 1]).mean():+.3f} ± {spread:.3f} (standard "
        f"error), distilled better on {wins}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--published", action="store_true")
    parser.add_argument("--model", type=Path)
    parser.add_argument("--objects", type=Path)
    parser.add_argument("--limit", type=int, default=12)
    parser.add_argument("--only", nargs="*", help="names of objects; or Gaussians, grid, triplane")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--critic", type=float, default=4.0, help="of the critic: 1024 over the latents' texels")
    parser.add_argument("--photo", type=float, default=1.0, help="of the photo's losses, times the published ones")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("-o", "--output", type=Path)
    options = parser.parse_args()
    set_threads(options.threads)
    if options.published:
        published()
    elif options.model is not None and options.objects is not None:
        compare(options)
    else:
        step_times(zero123.build(TINY), options.only)


if __name__ == "__main__":
    main()
