"""OpenLRM, LGM, Splatter Image and InstantMesh at their published sizes: seconds and memory, on drawn weights.

    python benchmarks/feedforward.py --weights DIR [--rows openlrm:float32,lgm:bfloat16,...] [--threads 2]
    python benchmarks/feedforward.py --weights DIR --draw        # only write the weights that DIR lacks (5 GB)

The published weights are not needed: files in their layout are written into DIR, every tensor drawn from a seed. Each
row is a process of its own, first run in it, which reads the file, turns pictures of a shaded ball into the family's
representation, and makes a mesh. What drawn weights say of the pictures has no surface; therefore the representation
is replaced by that of a ball of a third of the box, in the same planes or as many Gaussians, before it is meshed. The
time of a network does not depend on what it says.

A field is meshed on 256³ cells and coloured at its vertices; InstantMesh's on its own 128³, by FlexiCubes. Gaussians
become a solid on 256 cells along their longest side, which is meshed there.
"""

from __future__ import annotations

import argparse
import math
import os
import platform
import resource
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch

CELLS = 256
RADIUS = 0.66  # of the ball, in boxes two wide
ROWS = (
    *("splatter-image:float32", "openlrm:bfloat16", "openlrm:float32", "lgm:bfloat16", "lgm:float32"),
    *("instantmesh-base:bfloat16", "instantmesh-base:float32"),
    *("instantmesh-large:bfloat16", "instantmesh-large:float32"),
)
FILES = {
    "openlrm": "openlrm-base.safetensors",
    "lgm": "lgm-big.safetensors",
    "splatter-image": "model_latest.pth",
    "instantmesh-base": "instant_mesh_base.ckpt",
    "instantmesh-large": "instant_mesh_large.ckpt",
}


def draw(path: Path, family: str) -> None:
    """Write a file of the published layout, with weights of unit gain and a decoder that finds the ball."""
    from safetensors.torch import save_file

    from obverse.feedforward import instantmesh, lgm, openlrm, splatter_image
    from obverse.weights import shapes

    generator = torch.Generator().manual_seed(0)

    def drawn(key: str, shape: tuple[int, ...]) -> torch.Tensor:
        n = torch.randn(shape, generator=generator)
        if len(shape) > 1:
            return n / math.sqrt(math.prod(shape[1:]))
        return 0.1 * n + (0.0 if key.endswith("bias") else 1.0)

    with torch.device("meta"):
        if family == "openlrm":
            layout = openlrm.layout(openlrm.OpenLRM(openlrm.PUBLISHED["base-1.1"]))
        elif family == "lgm":
            layout = shapes(lgm.LGM(lgm.PUBLISHED))
        elif family == "splatter-image":
            layout = shapes(splatter_image.SplatterImage(splatter_image.Config()))
        else:
            layout = instantmesh.layout(instantmesh.InstantMesh(instantmesh.PUBLISHED[FILES[family]]))
    state = {key: drawn(key, shape) for key, shape in layout.items()}
    if family == "openlrm":
        read_ball(state, "synthesizer.decoder.net", 48, gain=100.0, level=math.log(math.expm1(3.0)) + 1)
    elif family.startswith("instantmesh"):
        features = instantmesh.PUBLISHED[FILES[family]].features
        read_ball(state, f"{instantmesh.PREFIX}synthesizer.decoder.net_sdf", features, gain=-1.0, level=0.0)
    if family == "splatter-image":
        state |= splatter_image.constants(splatter_image.Config())
        state |= {key: torch.full(shape, 0.25) for key, shape in layout.items() if key.endswith("resample_filter")}
        torch.save({"iteration": 1, "model_state_dict": state}, path)
    elif path.suffix == ".ckpt":
        torch.save({"state_dict": state}, path)
    else:  # LGM's is published in half precision
        save_file({key: value.half() for key, value in state.items()} if family == "lgm" else state, path)


def read_ball(state: dict[str, torch.Tensor], net: str, features: int, *, gain: float, level: float) -> None:
    """Let a decoder's first output be ``level`` + ``gain`` · (RADIUS² − |p|²) for planes that add up to 4 − |p|²."""
    first, bias = state[f"{net}.0.weight"], state[f"{net}.0.bias"]
    first[0], first[0, ::features], bias[0] = 0, 1, 0
    for layer in (2, 4, 6):
        weight, bias = state[f"{net}.{layer}.weight"], state[f"{net}.{layer}.bias"]
        weight[0], weight[0, 0], bias[0] = 0, 1, 0
    weight[0] *= gain
    bias[0] = level - gain * (4 - RADIUS**2)


def ball_planes(features: int) -> torch.Tensor:
    """Planes [3, C, 64, 64] whose first channels add up to 4 − |p|², and to less beyond; the others are noise."""
    planes = torch.randn(3, features, 64, 64, generator=torch.Generator().manual_seed(1))
    t = (torch.arange(64) + 0.5) / 32 - 1
    planes[:, 0] = 4 / 3 - 0.5 * (t[:, None].square() + t.square())
    return planes


def ball_gaussians(count: int):  # type: ignore[no-untyped-def]
    """As many opaque discs on a ball as the network would place."""
    from obverse.gaussians import from_colors

    i = torch.arange(count) + 0.5
    z, turn = 1 - 2 * i / count, math.pi * (1 + 5**0.5) * i
    across = (1 - z * z).sqrt()
    normal = torch.stack([across * turn.cos(), across * turn.sin(), z], -1)
    half = torch.stack([1 + normal[:, 2], -normal[:, 1], normal[:, 0], torch.zeros(count)], -1)
    quats = torch.nn.functional.normalize(half, dim=-1)
    size = 1.5 * RADIUS * math.sqrt(4 * math.pi / count)
    scales = torch.tensor([size, size, 0.1 * size]).expand(count, 3).contiguous()
    return from_colors(RADIUS * normal, quats, scales, torch.full((count,), 0.98), 0.5 + 0.4 * normal)


def picture(side: int) -> torch.Tensor:
    """A shaded ball [side, side, 4]."""
    line = (torch.arange(side) + 0.5) / side * 2 - 1
    y, x = torch.meshgrid(line, line, indexing="ij")
    shade = (0.9 - 0.5 * x - 0.4 * y).clamp(0.1, 1)[..., None] * torch.tensor([0.9, 0.5, 0.2])
    return torch.cat([shade, (x.hypot(y) < 0.8).float()[..., None]], -1)


def run(family: str, path: Path, dtype: torch.dtype) -> tuple[list[float], int]:
    """Seconds at the start and after loading, the representation and the mesh; and the mesh's triangles."""
    from obverse.cameras import Views
    from obverse.feedforward import instantmesh, lgm, openlrm, splatter_image
    from obverse.parallel import set_threads
    from obverse.render.fields import CallableField, FlexiField
    from obverse.surface.extract import extract
    from obverse.surface.flexicubes import extract_flexicubes
    from obverse.surface.fusion import solid_of

    set_threads(int(os.environ["OMP_NUM_THREADS"]))
    extract(CallableField(lambda p: p.norm(dim=-1) - 0.4), resolution=16)  # kernels are loaded once per process
    module = {"openlrm": openlrm, "lgm": lgm, "splatter-image": splatter_image}.get(family, instantmesh)
    given: Views | torch.Tensor = picture(512)
    if module is lgm:
        given = Views(picture(256).expand(4, -1, -1, -1), lgm.rig())
    elif module is instantmesh:
        given = Views(picture(320).expand(6, -1, -1, -1), instantmesh.rig())
    clock = [time.perf_counter()]
    network = module.load(path, dtype=dtype)
    clock.append(time.perf_counter())
    module.reconstruct(network, given)
    clock.append(time.perf_counter())
    if module is lgm or module is splatter_image:
        count = 4 * network.config.splat_size**2 if module is lgm else network.config.size**2
        solid = solid_of(ball_gaussians(count), resolution=CELLS)
    else:
        solid = network.field(ball_planes(network.config.features))
    mesh = extract_flexicubes(solid) if isinstance(solid, FlexiField) else extract(solid, resolution=CELLS)
    with torch.no_grad():
        solid.color(torch.from_numpy(np.asarray(mesh.vertices, np.float32)))
    clock.append(time.perf_counter())
    return clock, len(mesh.faces)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--rows", default=",".join(ROWS))
    parser.add_argument("--draw", action="store_true")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--run", help=argparse.SUPPRESS)
    options = parser.parse_args()
    rows = [row.split(":") for row in options.rows.split(",")]
    if options.run:
        family, dtype = options.run.split(":")
        clock, faces = run(family, options.weights / FILES[family], getattr(torch, dtype))
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6
        load, image, mesh = (b - a for a, b in pairwise(clock))
        print(f"| {family}, {dtype} | {load:.2f} | {image:.2f} | {mesh:.2f} | {peak:,.0f} | {faces:,} |", flush=True)
        return
    options.weights.mkdir(parents=True, exist_ok=True)
    for family in dict.fromkeys(family for family, _ in rows):
        if not (options.weights / FILES[family]).exists():
            draw(options.weights / FILES[family], family)
    if options.draw:
        return
    python = f"Python {platform.python_version()}, torch {torch.__version__}"
    print(f"{platform.machine()}, {options.threads} threads, {python}")
    print("\n| | load, s | image to 3D, s | 3D to coloured mesh, s | peak memory, MB | triangles |")
    print("|---|---|---|---|---|---|", flush=True)
    for row in rows:
        command = [sys.executable, __file__, "--weights", str(options.weights), "--run", ":".join(row)]
        subprocess.run(command, check=True, env={**os.environ, "OMP_NUM_THREADS": str(options.threads)})


if __name__ == "__main__":
    main()
