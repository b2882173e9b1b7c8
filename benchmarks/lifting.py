"""Lifting views to Gaussians, fields and meshes: quality on held-out views, exactness of the meshes, seconds.

Every object is drawn from 24 directions (unlit, with alpha) and judged on eight others, 45° apart. Compared are the
closed-form ways (union, merge, refine) on the carved hull's depth, the full fit, and the two kinds of fitted fields;
and the meshes of the hull and of what was fitted, with the object, in one frame (``evaluation.geometry``, alignment
"none"). With ``-o`` finished objects are kept, a later run goes on from there, and the means are over all of them.

    python benchmarks/lifting.py --objects FOLDER_OF_GLB -o lifting.jsonl
    python benchmarks/lifting.py --objects FOLDER_OF_GLB --only kk_med_tent kn_food_sandwich --rows grid triplane
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import trimesh

from obverse.cameras import Cameras, Views, orbit
from obverse.evaluation import geometry
from obverse.gaussians import Gaussians
from obverse.lifting import losses
from obverse.lifting.carve import carve, hull_mesh, mesh_depths, start_gaussians
from obverse.lifting.fit import Recipe, fit
from obverse.lifting.fuse import fuse
from obverse.lifting.radiance import FieldRecipe, fit_field
from obverse.parallel import set_threads
from obverse.render.splats import render
from obverse.render.triangles import render_mesh
from obverse.surface.extract import extract
from obverse.surface.fusion import gaussians_to_mesh

# Every third of the 60 validation objects in order of name, two of them exchanged so that no source is missing.
OBJECTS = (
    "aws_balcony_table_01",
    "aws_kitchen_table_01",
    "gso_kong_puppy_teething_rubber_small_pink",
    "gso_sterilite_caddy_blue_sky_17_58_x_12_58_x_9_14",
    "gz_fire_hydrant",
    "gz_thrift_shop",
    "kk_city_bench",
    "kk_dun_crates_stacked",
    "kk_med_tent",
    "kk_rest_oven",
    "kn_food_chopstick_fancy",
    "kn_food_sandwich",
    "ph_wooden_bookshelf_worn",
    "pm_hatchback",
    "qf_furniture_office_chair",
    "qt_ani_deer",
    "qt_sur_matchbox",
    "urdf_glue_2",
    "ycb_024_bowl",
    "ycb_036_wood_block",
)
POINTS = 50_000  # of each surface; two samples of one surface are then about 0.004 apart
CORE = 2  # pixels from the outline: what lies deeper cannot gain from Gaussians that spill over it

Row = dict[str, float]


def draw(mesh: trimesh.Trimesh, cameras: Cameras) -> Views:
    return Views(render_mesh(mesh, cameras, background=None, shading="unlit"), cameras)


def train_cameras(size: int) -> Cameras:
    return orbit([15.0 * i for i in range(24)], [(-20, 10, 40)[i % 3] for i in range(24)], size=size)


def held_cameras(size: int) -> Cameras:
    return orbit([45.0 * i + 7.5 for i in range(8)], 15.0, size=size)


def quality(images: torch.Tensor, held: Views) -> Row:
    """Means over the views, over white: PSNR of whole pictures, of the object's pixels, of those not near its outline
    (views that have any), and SSIM."""
    alpha = held.images[..., 3]
    truth = held.images[..., :3] * alpha[..., None] + 1 - alpha[..., None]
    seen = images.clamp(0, 1)
    width = 2 * CORE + 1
    open_ = torch.nn.functional.max_pool2d((alpha < 0.999).float()[:, None], width, 1, CORE)[:, 0] > 0
    rows = {
        name: [losses.psnr(a[m], b[m]) for a, b, m in zip(seen, truth, masks, strict=True) if bool(m.any())]
        for name, masks in (("psnr", alpha >= 0), ("psnr_inside", alpha > 0.5), ("psnr_core", ~open_))
    }
    means = {name: float(np.mean(values)) for name, values in rows.items() if values}
    return {**means, "ssim": float(losses.ssim(seen, truth).mean())}


@dataclass(frozen=True)
class Truth:
    """An object and points of its outer surface."""

    mesh: trimesh.Trimesh
    samples: geometry.SurfaceSamples

    @classmethod
    def of(cls, mesh: trimesh.Trimesh) -> Truth:
        """Sample an object whose longest side is 1."""
        if abs(max(mesh.extents) - 1) > 1e-3:
            raise SystemExit(f"the object has a longest side of {max(mesh.extents)}, not 1: normalise it first")
        return cls(mesh, geometry.outer_surface(mesh, points=POINTS, seed=0))

    def exactness(self, mesh: trimesh.Trimesh) -> Row:
        """Chamfer distance (mean of both directions, longest side 1), F-score at 0.01 and volume IoU of a mesh."""
        found = mesh, geometry.outer_surface(mesh, points=POINTS, seed=1)
        scores = geometry.scores_under(geometry.Similarity(), found, (self.mesh, self.samples)).to_dict()
        return {name: scores[name] for name in ("chamfer", "f_0.01", "volume_iou") if name in scores}


def timed(make: Callable):  # type: ignore[no-untyped-def]
    """What a function gives, and how many seconds it took."""
    start = time.perf_counter()
    made = make()
    return made, time.perf_counter() - start


def field_rows(kinds: list[str], views: Views, held: Views, truth: Truth) -> Iterator[tuple[str, Row]]:
    """Rows of the fitted fields and of their meshes."""
    for kind in kinds:
        fitted, seconds = timed(lambda kind=kind: fit_field(views, kind=kind))
        yield (
            kind,
            {**quality(fitted.render(held.cameras).color, held), "seconds": seconds, "steps": float(fitted.steps)},
        )
        mesh, seconds = timed(lambda fitted=fitted: extract(fitted, resolution=160))
        yield f"{kind} mesh", {**truth.exactness(mesh), "seconds": seconds, "faces": float(len(mesh.faces))}


def gaussian_rows(views: Views, held: Views, truth: Truth, recipe: Recipe, count: int) -> Iterator[tuple[str, Row]]:
    """Rows of the ways to Gaussians and of the meshes."""

    def row(gaussians: Gaussians, seconds: float) -> Row:
        found = quality(render(gaussians, held.cameras).color, held)
        return {**found, "seconds": seconds, "gaussians": float(len(gaussians))}

    (hull, surface), shared = timed(lambda: (hull := carve(views), hull_mesh(hull)))
    depths, spent = timed(lambda: mesh_depths(surface, views.cameras))
    for how in ("union", "merge", "refine"):
        found, seconds = timed(lambda how=how: fuse(views, depths=depths, how=how, gaussians=count))
        yield f"fuse {how}", row(found, shared + spent + seconds)
    start, placed = timed(lambda: start_gaussians(hull, views, count=2 * count // 3))
    fitted, seconds = timed(lambda: fit(views, start, gaussians=count, recipe=recipe))
    yield "fit", {**row(fitted.gaussians, shared + placed + seconds), "steps": float(fitted.steps)}
    meshes: dict[str, Callable[[], trimesh.Trimesh]] = {
        "hull mesh": lambda: hull_mesh(hull),
        "fit mesh, opacity": lambda: gaussians_to_mesh(fitted.gaussians, method="opacity"),
    }
    for name, make in meshes.items():
        mesh, seconds = timed(make)
        yield name, {**truth.exactness(mesh), "seconds": seconds, "faces": float(len(mesh.faces))}


def run(path: Path, options: argparse.Namespace) -> dict[str, Row]:
    mesh = trimesh.load(path, force="mesh")
    views, held = draw(mesh, train_cameras(options.size)), draw(mesh, held_cameras(options.size))
    truth = Truth.of(mesh)
    rows = dict(field_rows([kind for kind in options.rows if kind != "gaussians"], views, held, truth))
    if "gaussians" in options.rows:
        rows |= dict(gaussian_rows(views, held, truth, Recipe(steps=options.steps), options.gaussians))
    return rows


def warm_up(kinds: list[str]) -> None:
    """Compile what is timed."""
    warm = draw(trimesh.creation.icosphere(radius=0.4), train_cameras(64))
    fit(warm, start_gaussians(carve(warm, resolution=32), warm, count=200), recipe=Recipe(steps=3))
    for kind in kinds:
        if kind != "gaussians":
            fit_field(warm, kind=kind, recipe=FieldRecipe(steps=3, resolutions=(16,), grow_at=()))  # type: ignore[arg-type]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--objects", type=Path, required=True, help="folder of .glb files")
    parser.add_argument("--only", nargs="+", default=OBJECTS, help="names without .glb; by default the 20 of the table")
    parser.add_argument("-o", "--output", type=Path, help="file of finished objects, to go on from")
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--steps", type=int, default=Recipe().steps)
    parser.add_argument("--gaussians", type=int, default=20_000)
    parser.add_argument(
        "--rows", nargs="+", default=["gaussians", "grid", "triplane"], choices=["gaussians", "grid", "triplane"]
    )
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    print("threads", set_threads(options.threads))
    print("objects", *options.only)
    done: dict[str, dict[str, Row]] = {}
    if options.output and options.output.exists():
        for line in options.output.read_text().splitlines():
            entry = json.loads(line)
            done.setdefault(entry["object"], {}).update(entry["rows"])
    warm_up(options.rows)
    for name in options.only:
        if name not in done:
            rows = run(options.objects / f"{name}.glb", options)
            done[name] = {what: {key: round(value, 5) for key, value in row.items()} for what, row in rows.items()}
            if options.output:
                with options.output.open("a") as file:
                    file.write(json.dumps({"object": name, "rows": done[name]}) + "\n")
        for what, row in done[name].items():
            print(name, what, json.dumps(row), flush=True)
    summarise([done[name] for name in options.only])


def summarise(found: list[dict[str, Row]]) -> None:
    """Print means, and the spread of what is judged by it."""
    for what in found[0]:
        columns = {key: [rows[what][key] for rows in found if key in rows[what]] for key in found[0][what]}
        mean = {key: round(float(np.mean(values)), 5) for key, values in columns.items()}
        print(f"mean of {len(found)}", what, json.dumps(mean))
        spread = {
            key: [round(float(of(columns[key])), 5) for of in (np.min, np.median, np.max)]
            for key in ("psnr", "seconds", "chamfer", "volume_iou")
            if key in columns
        }
        print("least, median, most", what, json.dumps(spread))


if __name__ == "__main__":
    main()
