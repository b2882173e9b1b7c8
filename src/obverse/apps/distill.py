"""``obverse distill PHOTO``: its flags. What they do is in ``distilling.py``, which is loaded when the command runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .console import Console


def distill(
    photo: Annotated[str, typer.Argument(help="Photo, or - for standard input.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the asset.")] = Path("out"),
    to: Annotated[
        str,
        typer.Option(
            help="What is made: dreamgaussian (Gaussians, then a refined texture), gaussians, grid, triplane "
            "or texture."
        ),
    ] = "dreamgaussian",
    weights: Annotated[
        str | None, typer.Option(help="Zero-1-to-3: file, folder or Hub id; default: zero123-xl as fetched.")
    ] = None,
    prompt: Annotated[str | None, typer.Option(help="What the object is, for a text-conditioned model.")] = None,
    text_weights: Annotated[
        str | None,
        typer.Option(help="Stable Diffusion folder or Hub id: judges by --prompt; with --weights both judge."),
    ] = None,
    mesh: Annotated[Path | None, typer.Option(help="The shape that --to texture paints, upright, front to +Z.")] = None,
    recipe: Annotated[
        str | None,
        typer.Option(help="dreamgaussian, zero123-xl or stable-zero123; default: by what is made and who judges."),
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Stretch or squeeze the recipe to that many steps.")] = None,
    how: Annotated[str, typer.Option(help="sds, or vsd (variational: slower, less saturated).")] = "sds",
    scale: Annotated[float | None, typer.Option(help="Of guidance; default: the recipe's, or 100 for text.")] = None,
    rescale: Annotated[float, typer.Option(help="Share of rescaled guidance, 0 to 1.")] = 0.0,
    perpendicular: Annotated[
        bool, typer.Option("--perp-neg", help="Text: keep the front from the other sides.")
    ] = False,
    elevation: Annotated[
        str | None, typer.Option(help="Of the photo's camera, in degrees, or auto; default: the recipe's.")
    ] = None,
    follow: Annotated[int, typer.Option(help="First steps that follow views which the model draws.")] = 0,
    size: Annotated[int | None, typer.Option(help="Most pixels a side of rendered views.")] = None,
    batch: Annotated[int | None, typer.Option(help="Most views in a step.")] = None,
    low_memory: Annotated[
        bool,
        typer.Option("--low-memory", help="One view at a time, half precision on a GPU, activations computed anew."),
    ] = False,
    checkpoint: Annotated[
        Path | None, typer.Option(help="A file to keep the state in; default: distill.state in the output folder.")
    ] = None,
    preview: Annotated[int, typer.Option(help="Steps between pictures in distill.png; 0: none.")] = 50,
    matte: Annotated[str, typer.Option(help="How to cut out: auto, alpha, border, grabcut, rembg or none.")] = "auto",
    formats: Annotated[str, typer.Option("--formats", "-f", help="As for create.")] = "glb,ply,png,webp,html",
    faces: Annotated[int, typer.Option(help="Triangles of the mesh, met within 5 %.")] = 20_000,
    texture: Annotated[int, typer.Option(help="Texture side, 256 to 4096.")] = 1024,
    gaussians: Annotated[int, typer.Option(help="Most Gaussians of the splat.")] = 60_000,
    resolution: Annotated[int, typer.Option(help="Cells of the surface grid along the longest side.")] = 192,
    seed: Annotated[int, typer.Option(help="Same seed, same bytes.")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")] = "auto",
    threads: Annotated[
        int | None, typer.Option(min=1, help="Threads for kernels and networks; default: all cores.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an asset that is there already.")] = False,
    json_output: Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Only warnings and errors.")] = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Each stage and every tenth step as a line.")
    ] = False,
) -> None:
    """Turn a photo into a 3D asset by asking a diffusion model about views of it, step by step."""
    console = Console(json_output=json_output, verbosity=verbose - quiet)
    from ..create import Settings
    from ..parallel import set_threads
    from .cli import pick_device
    from .distilling import Caps, DistillJob, Judges, run

    set_threads(threads)
    job = DistillJob(
        to=to,
        judges=Judges(weights, text_weights, prompt, how, scale, rescale, perpendicular),
        caps=Caps(size, batch, low_memory),
        mesh=mesh,
        recipe=recipe,
        steps=steps,
        elevation=elevation,
        follow=follow,
        checkpoint=checkpoint,
        preview=preview,
        matte=matte,
        formats=tuple(formats.replace(" ", ",").strip(",").split(",")),
        settings=Settings(resolution=resolution, faces=faces, texture=texture, gaussians=gaussians),
        seed=seed,
        device=pick_device(device),
        overwrite=overwrite,
    )
    run(photo, output, job, console)
