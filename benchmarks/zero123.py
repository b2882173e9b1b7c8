"""Zero-1-to-3 at its published size, ours beside the community pipeline of diffusers, on the same drawn weights.

    python benchmarks/zero123.py --weights FILE [--pipeline pipeline_zero1to3.py] [--steps 3] [--cameras 1,2,4]
    python benchmarks/zero123.py --weights FILE --count

The published weights are not needed: FILE is written if it does not exist (2.5 GB, bfloat16), every tensor drawn from
a seed, so that all the work is done. Each precision is a process of its own. Printed are the seconds of each stage, the
peak resident memory and, if the pipeline's file is given, the seconds of both for the same views (all of them in one
call) and the largest difference between their images; with --count, the operations of each network.

The pipeline is the file examples/community/pipeline_zero1to3.py of huggingface/diffusers, run as it is but for its
imports: kornia's resize and normalise are replaced by the torch calls they make, and a class that transformers renamed
is given its old name. It gets our networks with the attention of diffusers, so that weights are not held twice, and a
scheduler that ours gets too. Both have drawn a view of two steps before they are timed.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import platform
import resource
import subprocess
import sys
import time
import types
from functools import partial
from pathlib import Path


def main() -> None:
    options = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    options.add_argument("--weights", type=Path, required=True, help="written if it does not exist")
    options.add_argument("--pipeline", type=Path, help="pipeline_zero1to3.py of diffusers")
    options.add_argument("--steps", type=int, default=3)
    options.add_argument("--cameras", default="1,2", help="numbers of views in one call")
    options.add_argument("--threads", type=int, default=2)
    options.add_argument("--precisions", default="bfloat16,float32")
    options.add_argument("--stages", action="store_true", help="what a view is made of, and no views")
    options.add_argument("--count", action="store_true", help="only the multiply-adds, on the meta device")
    options.add_argument("--one", help=argparse.SUPPRESS)
    given = options.parse_args()
    if given.one:
        measure(given, given.one)
        return
    if given.count:
        print("\n".join(f"{name:<40} {value:8.1f} GFLOP" for name, value in counted().items()))
        return
    if not given.weights.exists():
        write_weights(given.weights)
    print(f"{platform.processor() or platform.machine()}, {given.threads} threads, {given.steps} steps, guidance 3")
    for precision in given.precisions.split(","):
        environment = {**os.environ, "OMP_NUM_THREADS": str(given.threads)}
        command = [sys.executable, __file__, *sys.argv[1:], "--one", precision]
        print(precision, flush=True)
        subprocess.run(command, env=environment, check=True)


def write_weights(path: Path) -> None:
    """Every tensor drawn from a seed, in the original's layout."""
    import torch

    from obverse.multiview import zero123

    zero123.save_checkpoint(zero123.build(dtype=torch.bfloat16, seed=0), path)


def counted() -> dict[str, float]:
    """Floating-point operations of each network in GFLOP, two for each multiply-add, counted without computing."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from obverse.multiview import zero123

    model = zero123.build(device="meta")
    found = {}

    def count(name: str, run) -> None:
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            run()
        found[name] = counter.get_total_flops() / 1e9

    with torch.device("meta"):
        picture, latents = torch.zeros(1, 3, 256, 256), torch.zeros(2, 4, 32, 32)
        count("CLIP, one picture", lambda: model.image_encoder(torch.zeros(1, 3, 224, 224)))
        count("VAE encoder, one picture", lambda: model.encode_mode(picture))
        count(
            "UNet, one view with guidance (batch of 2)",
            lambda: model.unet(
                torch.cat([latents, latents], 1), torch.zeros(2), encoder_hidden_states=torch.zeros(2, 1, 768)
            ),
        )
        count("VAE decoder, one view", lambda: model.vae.decode(latents[:1]))
    return found


def say(name: str, value: float) -> None:
    print(f"  {name:<62} {value:10.4g}", flush=True)


def timed(name: str, run):
    """The result of a call, whose seconds are printed."""
    began = time.perf_counter()
    result = run()
    say(f"{name}, s", time.perf_counter() - began)
    return result


def memory() -> None:
    say("peak resident memory so far, GB", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6)


def measure(given: argparse.Namespace, precision: str) -> None:
    """One precision: stages, or whole views beside the pipeline's."""
    import torch
    from diffusers import DDIMScheduler

    from obverse.multiview import zero123
    from obverse.multiview.sampling import BETAS, SCHEDULERS

    torch.set_num_threads(given.threads)
    dtype = getattr(torch, precision)
    model = timed("loading", lambda: zero123.load(given.weights, family="zero123", dtype=dtype))
    photo = picture()
    if given.stages:
        stages(model, photo)
        memory()
        return
    scheduler = DDIMScheduler(**BETAS, **SCHEDULERS["ddim"][1])
    how = {"eta": 0.0, "scheduler": scheduler, "source_elevation_deg": 0.0}
    first = zero123.orbit_cameras([0.0], 0)
    timed("a first view of two steps", lambda: model.views(photo, first, seed=0, steps=2, **how))
    memory()
    if given.pipeline:
        warm = partial(community, given.pipeline, model, photo, first, scheduler, 2)
        timed("a first view of two steps, community pipeline", warm)
    for count in map(int, given.cameras.split(",")):
        cameras = zero123.orbit_cameras([360 * i / count for i in range(count)], 0)
        began = time.perf_counter()
        views = model.views(photo, cameras, seed=0, steps=given.steps, **how).images
        ours = time.perf_counter() - began
        say(f"{count} views, obverse, s", ours)
        if given.pipeline:
            began = time.perf_counter()
            theirs = community(given.pipeline, model, photo, cameras, scheduler, given.steps)
            say(f"{count} views, community pipeline, s", time.perf_counter() - began)
            say("  ratio", (time.perf_counter() - began) / ours)
            say("  largest difference of the images", float((views - theirs).abs().max()))
            say("  spread of the images' values", float(views.std()))
    memory()


def stages(model, photo) -> None:
    """Seconds of what a view is made of; every stage is called once before, for primitives are made then."""
    import torch
    from diffusers.models.attention_processor import AttnProcessor2_0

    from obverse.multiview import zero123
    from obverse.multiview.attention import set_one_token
    from obverse.multiview.packing import packed

    pose = zero123.pose_embedding(zero123.orbit_cameras([0.0], 0), source_elevation_deg=0)
    noisy, late = torch.randn(1, 4, 32, 32), torch.full((1,), 500)
    with torch.no_grad():
        model.condition(photo)
        condition = timed("encoding the photo", lambda: model.condition(photo))

        def step(**options):
            return model.noise(noisy, late, condition, pose, **options)

        model.unet.set_attn_processor(AttnProcessor2_0())
        step()
        timed("a step of one view with guidance, as diffusers does it", step)
        set_one_token(model.unet)
        timed("the same, cross-attention to one token left out", step)
        with packed(model.unet, model.vae):
            timed("its first with sorted weights, which sorts them", step)
            timed("the same with sorted weights", step)
            timed("the same without guidance", lambda: step(conditional_only=True))
            model.decode(noisy * zero123.LATENT_SCALE)
            timed("decoding one view", lambda: model.decode(noisy * zero123.LATENT_SCALE))
        model.decode(noisy * zero123.LATENT_SCALE)
        timed("decoding one view, ordinary weights", lambda: model.decode(noisy * zero123.LATENT_SCALE))


def picture():
    """A shaded ball on white [256, 256, 3]."""
    import torch

    y, x = torch.meshgrid(torch.linspace(-1, 1, 256), torch.linspace(-1, 1, 256), indexing="ij")
    inside = (x**2 + y**2 < 0.6)[..., None]
    color = torch.stack([0.5 + 0.4 * x, 0.5 + 0.4 * y, 0.3 + 0.1 * x * y], dim=-1)
    return torch.where(inside, color, 1.0)


def community(path: Path, model, photo, cameras, scheduler, steps: int):
    """Views by the pipeline, which is given one picture and one pose for each view, and our first noise."""
    import copy

    import torch
    from diffusers.models.attention_processor import AttnProcessor2_0

    from obverse.multiview.attention import set_one_token
    from obverse.multiview.sampling import generators
    from obverse.multiview.zero123 import pose_embedding

    module = upstream(path)
    projection = module.CCProjection()
    projection.projection = model.projection
    pipeline = module.Zero1to3StableDiffusionPipeline(
        vae=model.vae, image_encoder=model.image_encoder, unet=model.unet, scheduler=copy.deepcopy(scheduler),
        safety_checker=None, feature_extractor=None, cc_projection=projection, requires_safety_checker=False,
    )  # fmt: skip
    pipeline.set_progress_bar_config(disable=True)
    model.unet.set_attn_processor(AttnProcessor2_0())
    count = len(cameras)
    start = torch.cat([torch.randn(1, 4, 32, 32, generator=rng) for rng in generators(0, 0, range(count))])
    pictures = (photo * 2 - 1).permute(2, 0, 1)[None].expand(count, -1, -1, -1)
    images = pipeline(
        input_imgs=pictures.to(model.dtype),
        prompt_imgs=pictures.to(model.dtype),
        poses=pose_embedding(cameras, source_elevation_deg=0),
        num_inference_steps=steps,
        guidance_scale=3.0,
        latents=start.to(model.dtype),
        height=256,
        width=256,
        output_type="np",
    ).images
    set_one_token(model.unet)
    return torch.from_numpy(images)


def upstream(path: Path):
    """The pipeline's module, with what it imports and is not installed replaced."""
    import torch
    import transformers

    if "pipeline_zero1to3" in sys.modules:
        return sys.modules["pipeline_zero1to3"]

    def resize(x, size, interpolation, align_corners, antialias):
        return torch.nn.functional.interpolate(x, size, mode=interpolation, align_corners=align_corners)

    def normalize(x, mean, std):
        return (x - mean.to(x)[:, None, None]) / std.to(x)[:, None, None]

    if importlib.util.find_spec("kornia") is None:
        kornia = types.ModuleType("kornia")
        kornia.geometry = types.SimpleNamespace(resize=resize)
        kornia.enhance = types.SimpleNamespace(normalize=normalize)
        sys.modules["kornia"] = kornia
    if not hasattr(transformers, "CLIPFeatureExtractor"):
        transformers.CLIPFeatureExtractor = transformers.CLIPImageProcessor
    spec = importlib.util.spec_from_file_location("pipeline_zero1to3", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules["pipeline_zero1to3"] = module
    spec.loader.exec_module(module)
    return module


if __name__ == "__main__":
    main()
