"""Lifting views to Gaussians and meshes: quality on held-out views, exactness of the mesh, seconds.

Every object is drawn from 24 directions (unlit, with alpha) and judged on eight others, 45° apart. Compared are the
closed-form ways (union, merge, refine) on the carved hull's depth, the full fit, and the two kinds of fitted fields;
and for the fit's mesh, depth fusion against the opacity level set.

    python benchmarks/lifting.py --objects FOLDER_OF_GLB --count 3
    python benchmarks/lifting.py --objects FOLDER_OF_GLB --count 3 --rows grid triplane
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
import trimesh
from scipy.spatial import cKDTree

from obverse.cameras import Cameras, Views, orbit
from obverse.gaussians import Gaussians
from obverse.lifting import losses
from obverse.lifting.carve import carve, hull_gaussians, hull_mesh, mesh_depths
from obverse.lifting.fit import Recipe, fit
from obverse.lifting.fuse import fuse
from obverse.lifting.radiance import FieldRecipe, fit_field
from obverse.parallel import set_threads
from obverse.render.splats import render
from obverse.render.triangles import rasterize, render_mesh
from obverse.surface.extract import extract
from obverse.surface.fusion import gaussians_to_mesh, ring

SAMPLES = 20_000  # surface points per mesh for the Chamfer distance
GRID = 64  # points along a side for the overlap of volumes


def draw(mesh: trimesh.Trimesh, cameras: Cameras) -> Views:
    return Views(render_mesh(mesh, cameras, background=None, shading="unlit"), cameras)


def train_cameras(size: int) -> Cameras:
    return orbit([15.0 * i for i in range(24)], [(-20, 10, 40)[i % 3] for i in range(24)], size=size)


def held_cameras(size: int) -> Cameras:
    return orbit([45.0 * i + 7.5 for i in range(8)], 15.0, size=size)


def quality(images: torch.Tensor, held: Views) -> tuple[float, float, float]:
    """Mean PSNR over the whole picture, over the object's pixels, and SSIM; all over white."""
    truth = held.images[..., :3] * held.images[..., 3:] + 1 - held.images[..., 3:]
    seen = images.clamp(0, 1)
    mask = held.images[..., 3] > 0.5
    whole = [losses.psnr(a, b) for a, b in zip(seen, truth, strict=True)]
    inside = [losses.psnr(a[m], b[m]) for a, b, m in zip(seen, truth, mask, strict=True)]
    return float(np.mean(whole)), float(np.mean(inside)), float(losses.ssim(seen, truth).mean())


def surface_points(mesh: trimesh.Trimesh) -> np.ndarray:
    """Points on what can be seen from outside: many objects have hidden inner faces."""
    cameras = ring(size=320)
    fragments = rasterize(np.asarray(mesh.vertices), np.asarray(mesh.faces), cameras)
    points = []
    for view in range(len(cameras)):
        local = losses.points_from_depth(torch.from_numpy(fragments.depth[view]), cameras.intrinsics[view])
        local = local[torch.isfinite(local).all(-1)]
        points.append((local @ cameras.world_to_camera[view, :3, :3] + cameras.positions[view]).numpy())
    every = np.concatenate(points)
    return every[np.random.default_rng(0).choice(len(every), min(SAMPLES, len(every)), replace=False)]


def solid(mesh: trimesh.Trimesh) -> np.ndarray:
    """Inside or not on a grid: what no outside camera can see into, so that open meshes count too."""
    axis = np.linspace(-0.55, 0.55, GRID)
    points = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), -1).reshape(-1, 3).astype(np.float32)
    cameras = ring(size=320)
    depth = mesh_depths(mesh, cameras)
    hidden = np.ones(len(points), bool)
    for view in range(len(cameras)):
        pixels, z = cameras[view].project(torch.from_numpy(points))
        at = pixels.long().clamp(0, 319)
        hidden &= (z > depth[view][at[:, 1], at[:, 0]]).numpy()
    return hidden


def exactness(mesh: trimesh.Trimesh, truth: np.ndarray, inside: np.ndarray) -> tuple[float, float]:
    """Chamfer distance (mean of both directions, longest side 1) of visible surfaces, and IoU of hidden volumes."""
    points = surface_points(mesh)
    there, back = cKDTree(truth).query(points)[0].mean(), cKDTree(points).query(truth)[0].mean()
    mine = solid(mesh)
    return float((there + back) / 2), float((mine & inside).sum() / max((mine | inside).sum(), 1))


def fields(
    kinds: list[str], views: Views, held: Views, points: np.ndarray, inside: np.ndarray
) -> dict[str, dict[str, float]]:
    """Rows of the fitted fields and of their meshes."""
    rows: dict[str, dict[str, float]] = {}
    for kind in kinds:
        start = time.perf_counter()
        fitted = fit_field(views, kind=kind)  # type: ignore[arg-type]
        seconds = time.perf_counter() - start
        whole, masked, ssim = quality(fitted.render(held.cameras).color, held)
        rows[kind] = {"psnr": whole, "psnr_inside": masked, "ssim": ssim, "seconds": seconds, "steps": fitted.steps}
        start = time.perf_counter()
        mesh = extract(fitted, resolution=160)
        seconds = time.perf_counter() - start
        chamfer, iou = exactness(mesh, points, inside)
        rows[f"{kind} mesh"] = {"chamfer": chamfer, "iou": iou, "seconds": seconds, "faces": len(mesh.faces)}
    return rows


def run(path: Path, size: int, steps: int, count: int, kinds: list[str]) -> dict[str, dict[str, float]]:
    truth = trimesh.load(path, force="mesh")
    views, held = draw(truth, train_cameras(size)), draw(truth, held_cameras(size))
    points, inside = surface_points(truth), solid(truth)
    rows = fields([kind for kind in kinds if kind != "gaussians"], views, held, points, inside)
    if "gaussians" not in kinds:
        return rows

    def note(name: str, seconds: float, gaussians: Gaussians) -> None:
        whole, masked, ssim = quality(render(gaussians, held.cameras).color, held)
        rows[name] = {
            "psnr": whole, "psnr_inside": masked, "ssim": ssim, "seconds": seconds, "gaussians": len(gaussians)
        }  # fmt: skip

    start = time.perf_counter()
    depths = mesh_depths(hull_mesh(carve(views)), views.cameras)
    shared = time.perf_counter() - start
    for how in ("union", "merge", "refine"):
        start = time.perf_counter()
        found = fuse(views, depths=depths, how=how, gaussians=count)  # type: ignore[arg-type]
        note(f"fuse {how}", shared + time.perf_counter() - start, found)
    start = time.perf_counter()
    hull = hull_gaussians(carve(views), views, count=count // 2)
    note("hull", time.perf_counter() - start, hull)
    start = time.perf_counter()
    fitted = fit(views, hull, gaussians=count, recipe=Recipe(steps=steps))
    note("fit", rows["hull"]["seconds"] + time.perf_counter() - start, fitted.gaussians)
    rows["fit"]["steps"] = fitted.steps
    meshes = {"hull mesh": lambda: hull_mesh(carve(views))}
    for method in ("depth", "opacity"):
        meshes[f"fit mesh, {method}"] = lambda method=method: gaussians_to_mesh(fitted.gaussians, method=method)
    for name, make in meshes.items():
        start = time.perf_counter()
        mesh = make()
        seconds = time.perf_counter() - start
        chamfer, iou = exactness(mesh, points, inside)
        rows[name] = {"chamfer": chamfer, "iou": iou, "seconds": seconds, "faces": len(mesh.faces)}
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--objects", type=Path, required=True, help="folder of .glb files")
    parser.add_argument("--count", type=int, default=3, help="objects, spread evenly over the folder")
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--gaussians", type=int, default=20_000)
    parser.add_argument(
        "--rows", nargs="+", default=["gaussians", "grid", "triplane"], choices=["gaussians", "grid", "triplane"]
    )
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    print("threads", set_threads(options.threads))
    files = sorted(options.objects.glob("*.glb"))
    files = [files[i * len(files) // options.count] for i in range(min(options.count, len(files)))]
    total: dict[str, list[dict[str, float]]] = {}
    warm = draw(trimesh.creation.icosphere(radius=0.4), train_cameras(64))
    fit(warm, hull_gaussians(carve(warm, resolution=32), warm, count=200), recipe=Recipe(steps=3))  # compile
    for kind in options.rows:
        if kind != "gaussians":
            fit_field(warm, kind=kind, recipe=FieldRecipe(steps=3, resolutions=(16,), grow_at=()))
    for path in files:
        rows = run(path, options.size, options.steps, options.gaussians, options.rows)
        for name, row in rows.items():
            total.setdefault(name, []).append(row)
            print(path.stem, name, json.dumps({key: round(value, 5) for key, value in row.items()}), flush=True)
    for name, found in total.items():
        mean = {key: round(float(np.mean([row[key] for row in found])), 5) for key in found[0]}
        print("mean", name, json.dumps(mean))


if __name__ == "__main__":
    main()
