"""``obverse distill PHOTO``: its flags. What they do is in ``distilling.py``, which is loaded when the command runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .console import Console
from .options import (
    AssetFolder,
    Device,
    Faces,
    Formats,
    Json,
    Matte,
    Overwrite,
    Photo,
    Quiet,
    Resolution,
    Seed,
    Splats,
    Texture,
    Threads,
    Verbose,
    pick_device,
    words,
)

To = Annotated[
    str,
    typer.Option(
        help="What is made: dreamgaussian (Gaussians, then a refined texture), gaussians, grid, triplane or texture."
    ),
]
Weights = Annotated[
    str | None, typer.Option(help="Zero-1-to-3: file, folder or Hub id; default: zero123-xl as fetched.")
]
Prompt = Annotated[str | None, typer.Option(help="What the object is, for a text-conditioned model.")]
TextWeights = Annotated[
    str | None,
    typer.Option(help="Stable Diffusion folder or Hub id: judges by --prompt; with --weights both judge."),
]
Painted = Annotated[Path | None, typer.Option(help="The shape that --to texture paints, upright, front to +Z.")]
RecipeName = Annotated[
    str | None,
    typer.Option(help="dreamgaussian, zero123-xl or stable-zero123; default: by what is made and who judges."),
]
Elevation = Annotated[
    str | None, typer.Option(help="Of the photo's camera, in degrees, or auto; default: the recipe's.")
]
LowMemory = Annotated[
    bool,
    typer.Option("--low-memory", help="One view at a time, half precision on a GPU, activations computed anew."),
]
State = Annotated[
    Path | None, typer.Option(help="A file to keep the state in; default: distill.state in the output folder.")
]


def distill(
    photo: Photo,
    output: AssetFolder = Path("out"),
    to: To = "dreamgaussian",
    weights: Weights = None,
    prompt: Prompt = None,
    text_weights: TextWeights = None,
    mesh: Painted = None,
    recipe: RecipeName = None,
    steps: Annotated[int | None, typer.Option(help="Stretch or squeeze the recipe to that many steps.")] = None,
    how: Annotated[str, typer.Option(help="sds, or vsd (variational: slower, less saturated).")] = "sds",
    scale: Annotated[float | None, typer.Option(help="Of guidance; default: the recipe's, or 100 for text.")] = None,
    rescale: Annotated[float, typer.Option(help="Share of rescaled guidance, 0 to 1.")] = 0.0,
    perpendicular: Annotated[bool, typer.Option("--perp-neg", help="Text: keep the front off other sides.")] = False,
    elevation: Elevation = None,
    follow: Annotated[int, typer.Option(help="First steps that follow views which the model draws.")] = 0,
    size: Annotated[int | None, typer.Option(help="Most pixels a side of rendered views.")] = None,
    batch: Annotated[int | None, typer.Option(help="Most views in a step.")] = None,
    low_memory: LowMemory = False,
    checkpoint: State = None,
    preview: Annotated[int, typer.Option(help="Steps between pictures in distill.png; 0: none.")] = 50,
    matte: Matte = "auto",
    formats: Formats = "glb,ply,png,webp,html",
    faces: Faces = 20_000,
    texture: Texture = 1024,
    gaussians: Splats = 60_000,
    resolution: Resolution = 192,
    seed: Seed = 0,
    device: Device = "auto",
    threads: Threads = None,
    overwrite: Overwrite = False,
    json_output: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Turn a photo into a 3D asset by asking a diffusion model about views of it, step by step."""
    console = Console(json_output=json_output, verbosity=verbose - quiet)
    from ..create import Settings
    from ..parallel import set_threads
    from .distilling import Caps, DistillJob, Judges, run

    set_threads(threads)
    job = DistillJob(
        to=to,
        judges=Judges(weights, text_weights, prompt, how, scale, rescale, perpendicular),
        caps=Caps(size, batch, low_memory),
        mesh=mesh, recipe=recipe, steps=steps, elevation=elevation, follow=follow, checkpoint=checkpoint,
        preview=preview, matte=matte, formats=words(formats), seed=seed, device=pick_device(device),
        settings=Settings(resolution=resolution, faces=faces, texture=texture, gaussians=gaussians),
        overwrite=overwrite,
    )  # fmt: skip
    run(photo, output, job, console)
