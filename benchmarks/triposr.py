"""TripoSR at its published size, ours against the published code, on weights that give a known surface.

    python benchmarks/triposr.py --weights FILE [--upstream CHECKOUT_OF_TripoSR] [--threads 2]

The published weights are not needed: FILE is written if it does not exist (1.7 GB), with every tensor drawn from a
seed, except that the planes hold a ball whose rim the transformer's answer dents. So all the work is done, and the
surface, which depends on all of it, can be compared. Each run is a process of its own: float32 and bfloat16 of ours,
then the published code. Printed are seconds, peak resident memory, and the distance between the surfaces.

The published code is run as `run.py` runs it (chunks of 8,192 points, vertex colours), with what cannot be installed
replaced: torchmcubes by scikit-image's marching cubes, and rembg and imageio, which this path does not use, by nothing.
It needs einops and omegaconf. It was written for transformers 4.35; later releases than 4.40 resize positions
differently, so its surface is only comparable with one of those (put it into PYTHONPATH for this process alone with
--upstream-path).
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
import types
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

RESOLUTION = 256
RADIUS = 0.45  # of the ball
DENTS = 3e-4  # how strongly the transformer's answer moves its rim


def drawn_weights(path: Path) -> None:
    from obverse.feedforward import triposr

    config = triposr.PUBLISHED
    with torch.device("meta"):
        shapes = triposr.layout(triposr.TripoSR(config))
    generator = torch.Generator().manual_seed(0)
    state = {}
    for key, shape in shapes.items():
        drawn = torch.randn(shape, generator=generator)
        small = 0.1 * drawn + (0.0 if key.endswith("bias") else 1.0)
        state[key] = drawn / math.sqrt(math.prod(shape[1:])) if len(shape) > 1 else small
    # A ball: see tests/feedforward/shaped.py. Here the transformer's answer is added to it, and blurred by nothing.
    side = config.plane_size
    t = ((torch.arange(side) + 0.5) / side * 2 - 1) * config.radius
    tokens = state["tokenizer.embeddings"]
    tokens[:, 0] = -0.5 * (t[:, None].square() + t.square())
    tokens[:, 1], tokens[:, 2] = -t * config.radius / (2 * side), -t[:, None] * config.radius / (2 * side)
    state["backbone.proj_out.bias"][:3] = 0
    state["backbone.proj_out.weight"][0] *= DENTS * math.sqrt(config.width) / 10
    state["backbone.proj_out.weight"][1:3] = 0
    up, first = state["post_processor.upsample.weight"], state["decoder.layers.0.weight"]
    sides = torch.tensor([-1.0, 1.0])
    up[:, 0], up[0, 0], up[1, 0], up[2, 0] = 0, 1, sides, sides[:, None]
    state["post_processor.upsample.bias"][0] = 0
    first[0] = 0
    first[0, :: config.features], state["decoder.layers.0.bias"][0] = 1, 4
    value = F.silu(torch.tensor(4 - RADIUS**2))
    for layer in range(1, config.depth):
        weight = state[f"decoder.layers.{2 * layer}.weight"]
        weight[0], weight[0, 0], state[f"decoder.layers.{2 * layer}.bias"][0] = 0, 1, 0
        value = F.silu(value)
    last = f"decoder.layers.{2 * config.depth}"
    state[f"{last}.weight"][0] = 0
    state[f"{last}.weight"][0, 0] = 60
    state[f"{last}.bias"][0] = math.log(config.density) + 1 - 60 * value
    torch.save(state, path)


def picture() -> np.ndarray:
    """A shaded ball on grey, [512, 512, 3] float32."""
    y, x = np.mgrid[0:512, 0:512] / 256 - 1
    r = np.hypot(x, y)
    shade = np.clip(0.9 - 0.5 * x - 0.4 * y, 0.1, 1)[..., None] * np.array([0.9, 0.5, 0.2])
    return np.where((r < 0.85)[..., None], shade, 0.5).astype(np.float32)


def ours(weights: Path, dtype: str) -> dict:
    from obverse.feedforward import triposr
    from obverse.parallel import set_threads
    from obverse.render.fields import CallableField
    from obverse.surface.extract import extract

    set_threads(int(os.environ["OMP_NUM_THREADS"]))
    extract(CallableField(lambda p: p.norm(dim=-1) - 0.4), resolution=16)  # kernels are loaded once per process
    clock = [time.perf_counter()]
    network = triposr.load(weights, dtype=getattr(torch, dtype))
    clock.append(time.perf_counter())
    solid = triposr.reconstruct(network, torch.from_numpy(picture()))
    clock.append(time.perf_counter())
    mesh = extract(solid, resolution=RESOLUTION - 1)
    with torch.no_grad():
        color = solid.color(torch.from_numpy(np.asarray(mesh.vertices, np.float32)))
    clock.append(time.perf_counter())
    theirs = np.asarray(mesh.vertices)[:, [2, 0, 1]]  # in the published frame
    return {
        "clock": clock,
        "codes": solid.planes.numpy(),
        "vertices": theirs,
        "faces": mesh.faces,
        "color": color.numpy(),
    }


def upstream(weights: Path, code: Path) -> dict:
    def stub(name: str, **content: object) -> None:
        sys.modules[name] = types.ModuleType(name)
        sys.modules[name].__dict__.update(content)

    def marching_cubes(level: torch.Tensor, at: float) -> tuple[torch.Tensor, torch.Tensor]:
        from skimage.measure import marching_cubes as cubes

        vertices, faces, _, _ = cubes(level.numpy(), at)
        return torch.from_numpy(vertices[:, ::-1].copy()), torch.from_numpy(faces.astype(np.int64))

    stub("torchmcubes", marching_cubes=marching_cubes)
    stub("rembg"), stub("imageio")
    sys.path.insert(0, str(code))
    sizes = json.loads((Path(__file__).parents[1] / "tests" / "parity" / "triposr" / "keys.json").read_text())
    import tsr.models.tokenizers.image as tokenizer
    from omegaconf import OmegaConf
    from tsr.system import TSR

    with tempfile.TemporaryDirectory() as folder:
        dino = Path(folder) / "config.json"
        dino.write_text(json.dumps({"model_type": "vit", **sizes["encoder_config"]}))
        tokenizer.hf_hub_download = lambda **_: str(dino)  # type: ignore[attr-defined]
        (Path(folder) / "config.yaml").write_text(OmegaConf.to_yaml(OmegaConf.create(sizes["config"])))
        os.symlink(weights.resolve(), Path(folder) / "model.ckpt")
        clock = [time.perf_counter()]
        model = TSR.from_pretrained(folder, "config.yaml", "model.ckpt")
    model.renderer.set_chunk_size(8192)
    clock.append(time.perf_counter())
    with torch.no_grad():
        codes = model([picture()], device="cpu")
    clock.append(time.perf_counter())
    mesh = model.extract_mesh(codes, True, resolution=RESOLUTION)[0]
    clock.append(time.perf_counter())
    return {"clock": clock, "codes": codes[0].numpy(), "vertices": mesh.vertices, "faces": mesh.faces}


def distance(a: dict, b: dict) -> tuple[float, float]:
    """Mean and largest distance from a's vertices to the tangent planes of b's nearest ones, as shares of the box."""
    import trimesh
    from scipy.spatial import cKDTree

    mesh = trimesh.Trimesh(b["vertices"], b["faces"], process=True)
    _, nearest = cKDTree(mesh.vertices).query(a["vertices"], workers=2)
    gap = np.abs(((a["vertices"] - mesh.vertices[nearest]) * mesh.vertex_normals[nearest]).sum(1)) / 1.74
    return float(gap.mean()), float(gap.max())


def in_a_process(run: str, options: argparse.Namespace, out: Path) -> dict:
    command = [sys.executable, __file__, "--weights", str(options.weights), "--run", run, "--out", str(out)]
    environment = {**os.environ, "OMP_NUM_THREADS": str(options.threads)}
    if run == "upstream":
        command += ["--upstream", str(options.upstream)]
        extra = [*options.upstream_path, environment.get("PYTHONPATH", "")]
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, extra))
    subprocess.run(command, check=True, env=environment)
    with np.load(out) as file:
        return {name: file[name] for name in file.files}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--upstream", type=Path, help="a checkout of VAST-AI-Research/TripoSR")
    parser.add_argument("--upstream-path", action="append", default=[], help="a folder for its PYTHONPATH; repeatable")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--runs", default="float32,bfloat16,upstream")
    parser.add_argument("--run", help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if not options.weights.exists():
        drawn_weights(options.weights)
    if options.run:
        found = (
            upstream(options.weights, options.upstream)
            if options.run == "upstream"
            else ours(options.weights, options.run)
        )
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6
        np.savez(options.out, peak=peak, **found)
        return
    python = f"Python {platform.python_version()}, torch {torch.__version__}"
    print(f"{platform.machine()}, {options.threads} threads, {python}")
    print("\n| | load, s | image to planes, s | planes to coloured mesh, s | image to mesh, s | peak memory, MB |")
    print("|---|---|---|---|---|---|")
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        for run in options.runs.split(","):
            if run == "upstream" and not options.upstream:
                continue
            results[run] = in_a_process(run, options, Path(folder) / f"{run}.npz")
            a, b, c, d = results[run]["clock"]
            name = "published code, float32" if run == "upstream" else f"obverse, {run}"
            print(
                f"| {name} | {b - a:.2f} | {c - b:.2f} | {d - c:.2f} | {d - b:.2f} | {results[run]['peak']:.0f} |",
                flush=True,
            )
    reference = "upstream" if "upstream" in results else "float32"
    for run, found in results.items():
        if run == reference or reference not in results:
            continue
        there, back = distance(found, results[reference]), distance(results[reference], found)
        codes = np.abs(found["codes"] - results[reference]["codes"])
        print(
            f"\n{run} against {reference}: surfaces {(there[0] + back[0]) / 2:.1e} of the box apart on average, "
            f"{max(there[1], back[1]):.1e} at most; planes {codes.mean():.1e} on average, {codes.max():.1e} at most, "
            f"of values around {np.abs(results[reference]['codes']).mean():.1e}"
        )


if __name__ == "__main__":
    main()
