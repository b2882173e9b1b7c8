"""``obverse views``: one photo → pictures of the object from other sides, with their cameras."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import UsageError
from .console import Console, read_input
from .options import (
    Device,
    Json,
    Mask,
    Matte,
    Offline,
    Overwrite,
    Photo,
    Quiet,
    Seed,
    Threads,
    free_folder,
    pick_device,
)

if TYPE_CHECKING:
    from ..cameras import Views
    from ..photo import Subject

EXISTING = "views.json"


@dataclass(frozen=True)
class ViewsJob:
    """What to make."""

    method: str
    azimuths: tuple[float, ...]  # degrees, 0 is the photo's side
    elevations: tuple[float, ...]  # degrees above the horizon, one for each azimuth
    source_elevation: float | None
    seed: int
    device: str
    precision: str
    weights: str | None
    samples: int
    sampling: dict[str, Any] = field(default_factory=dict)


def views(
    photo: Photo,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for pictures and transforms.json.")] = Path(
        "views"
    ),
    method: Annotated[
        str, typer.Option("--method", "-m", help="zero123, zero123-xl, stable-zero123, zero123-165000, …")
    ] = "zero123-xl",
    azimuth: Annotated[str | None, typer.Option(help="Degrees, commas between; 0 is the photo's side.")] = None,
    elevation: Annotated[str | None, typer.Option(help="Degrees above the horizon: one, or one per azimuth.")] = None,
    orbit: Annotated[int | None, typer.Option(help="That many azimuths, evenly around, instead.")] = None,
    source_elevation: Annotated[
        float | None, typer.Option(help="Of the photo's camera in degrees; by default tried out.")
    ] = None,
    steps: Annotated[int, typer.Option(help="Of sampling.")] = 50,
    guidance: Annotated[float, typer.Option(help="1 is none, and takes half the time.")] = 3.0,
    eta: Annotated[float, typer.Option(help="Noise added on the way, 0 to 1, by ddim.")] = 1.0,
    scheduler: Annotated[str, typer.Option(help="ddim (as published), dpm++, euler, euler-a or unipc.")] = "ddim",
    samples: Annotated[int, typer.Option(help="Draw all views so often, keep the set that agrees best.")] = 1,
    shared_noise: Annotated[bool, typer.Option("--shared-noise", help="The same noise for every view.")] = False,
    autoregressive: Annotated[
        bool, typer.Option("--autoregressive", help="Make each view from the nearest one made before.")
    ] = False,
    batch: Annotated[int, typer.Option(help="Views at once; fewer take less memory.")] = 8,
    matte: Matte = "auto",
    mask: Mask = None,
    seed: Seed = 0,
    device: Device = "auto",
    precision: Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16 (GPU).")] = "auto",
    weights: Annotated[
        str | None, typer.Option(help="File, folder or Hub id; default: as fetched by obverse weights.")
    ] = None,
    threads: Threads = None,
    offline: Offline = False,
    overwrite: Overwrite = False,
    json_output: Json = False,
    quiet: Quiet = False,
) -> None:
    """Show the object of a photo from other sides, by a multi-view model; obverse fit makes an asset of them."""
    console = Console(json_output=json_output, verbosity=-quiet)
    if offline:
        os.environ["HF_HUB_OFFLINE"] = "1"
    azimuths, elevations = angles(azimuth, elevation, orbit)
    free_folder(output, EXISTING, "views", overwrite=overwrite)
    sampling = {"steps": steps, "guidance": guidance, "eta": eta, "scheduler": scheduler, "batch": batch}
    sampling |= {"shared_noise": shared_noise, "autoregressive": autoregressive}
    job = ViewsJob(
        method, azimuths, elevations, source_elevation, seed, pick_device(device), precision, weights, samples, sampling
    )  # fmt: skip
    maker_of(method)
    from ..parallel import set_threads
    from ..photo import read_photo

    set_threads(threads)
    subject = read_photo(read_input(photo), matte=matte, mask=mask)  # type: ignore[arg-type]
    for check in subject.checks:
        console.doubt(check)
    run(subject, output, job, console)


def angles(
    azimuth: str | None, elevation: str | None, orbit: int | None
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """The options' azimuths and elevations in degrees, one of each for every view.

    Raises:
        UsageError: no numbers, both kinds of azimuth, or as many elevations as no azimuths.
    """
    if azimuth is not None and orbit is not None:
        raise UsageError("--azimuth and --orbit both say which views to make; give one of them")
    if orbit is not None and not 1 <= orbit <= 360:
        raise UsageError(f"--orbit is {orbit}, it must be from 1 to 360 views")
    around = [360 * view / orbit for view in range(orbit)] if orbit else numbers("--azimuth", azimuth or "0,90,180,270")
    up = numbers("--elevation", elevation or "0")
    if any(not -90 <= value <= 90 for value in up):
        raise UsageError(f"--elevation is {elevation!r}, it must lie in −90 to 90 degrees")
    if len(up) not in (1, len(around)):
        raise UsageError(f"there are {len(up)} elevations for {len(around)} azimuths; give one, or one for each")
    return tuple(around), tuple(up if len(up) == len(around) else up * len(around))


def numbers(option: str, text: str) -> list[float]:
    """ "0,90" → [0.0, 90.0].

    Raises:
        UsageError: it is not that.
    """
    try:
        found = [float(part) for part in text.replace(" ", ",").split(",") if part]
    except ValueError:
        found = []
    if not found or not all(abs(value) <= 3600 for value in found):
        raise UsageError(f"{option} is {text!r}, it must be degrees with commas between, such as 0,90,180")
    return found


def run(subject: Subject, output: Path, job: ViewsJob, console: Console) -> None:
    """Make the views, write them, and say what came of it."""
    from ..formats.datasets import write_transforms
    from ..formats.files import atomic_write
    from ..multiview.agreement import agreement
    from ..multiview.cutouts import cut_out
    from ..sheet import png_bytes, views_sheet
    from ..weights import KNOWN

    with console.progress(job.method) as stages:
        made, report = maker_of(job.method)(subject, job, stages)
        with stages("cutting views out"):
            cut = cut_out(made)
        shown = made if cut.doubtful else cut.views
        with stages("writing"):
            names = [f"{view:03d}" for view in range(len(made))]
            files = write_transforms(shown, output, names=names)
            labels = [f"{a:g}°, {e:g}° up" for a, e in zip(job.azimuths, job.elevations, strict=True)]
            files.append(atomic_write(output / "sheet.png", png_bytes(views_sheet(subject, shown, labels))))
            found = agreement(cut.views) if len(made) > 1 else None
            report |= {
                "method": job.method,
                "weights_licence": KNOWN[job.method].licence,
                "seed": job.seed,
                "sampling": {**job.sampling, "samples": job.samples},
                "views": [
                    {"name": name, "azimuth_deg": a, "elevation_deg": e, "cutout_confidence": c}
                    for name, a, e, c in zip(names, job.azimuths, job.elevations, cut.confidence, strict=True)
                ],
                "alpha": not cut.doubtful,
                "agreement": found and {"shape": round(found.shape, 4), "color": round(found.color, 4)},
            }
            files.append(atomic_write(output / EXISTING, (json.dumps(report, indent=1) + "\n").encode()))
    if cut.doubtful:
        which = ", ".join(names[view] for view in cut.doubtful)
        console.say(
            f"warning [no-alpha]: in {which} the object cannot be told from the ground for sure, so all pictures are "
            "RGB and obverse fit needs masks; try other seeds, or --samples"
        )
    record = {
        "output": str(output),
        "files": [str(path.relative_to(output)) for path in files],
        "seconds": round(stages.seconds, 3),
        **{key: report[key] for key in ("method", "weights", "source_elevation", "alpha", "agreement")},
    }
    score = f", agreement {found.score:.2f}" if found else ""
    said = f"photo from {report['source_elevation']['words']} above the horizon{score}"
    console.result(record, f"{output}: {len(made)} views, sheet.png, transforms.json; {said}; {stages.seconds:.1f} s")


def _zero123(subject: Subject, job: ViewsJob, stages: Any) -> tuple[Views, dict[str, Any]]:
    """Any checkpoint of the Zero-1-to-3 family."""
    from ..multiview import zero123
    from ..weights import source_for

    how = zero123.Sampling(**job.sampling)
    source, download = source_for(job.method, job.weights)
    with stages("weights"):
        model = zero123.load(
            source,
            family="stable-zero123" if job.method.startswith("stable") else "zero123",
            download=download,
            device=job.device,
            dtype=dtype_for(job.precision, job.device),
        )
    degrees = job.source_elevation
    up: dict[str, Any] = {"degrees": degrees, "words": f"{degrees}° (given)"}
    if degrees is None:
        with stages("elevation"):
            found = model.elevation(subject, seed=job.seed, sampling=how)
        degrees = found.degrees
        up = {"degrees": degrees, "words": found.words, "sureness": round(found.sureness, 3)}
        up["tried"] = {f"{at:g}": round(score, 4) for at, score in zip(found.candidates, found.scores, strict=True)}
    cameras = zero123.orbit_cameras(job.azimuths, job.elevations, size=model.size)
    with stages("views"):
        made = model.views(
            subject, cameras, seed=job.seed, samples=job.samples, source_elevation_deg=degrees, **job.sampling
        )
    return made, {"weights": model.loaded, "source_elevation": up, "family": model.family}


Maker = Callable[["Subject", ViewsJob, Any], "tuple[Views, dict[str, Any]]"]

MAKERS: dict[str, Maker] = {
    "zero123": _zero123,
    "zero123-165000": _zero123,
    "zero123-230000": _zero123,
    "zero123-300000": _zero123,
    "zero123-xl": _zero123,
    "stable-zero123": _zero123,
}


def maker_of(method: str) -> Maker:
    """The function behind a method's name.

    Raises:
        UsageError: there is none.
    """
    if method not in MAKERS:
        raise UsageError(f"--method is {method!r}, views are made by: {', '.join(MAKERS)}")
    return MAKERS[method]


def dtype_for(precision: str, device: str) -> Any:
    """A name → torch's; ``auto`` is float16 on a GPU, bfloat16 on a CPU that computes in it, else float32.

    Raises:
        UsageError: an unknown name, or float16 on a CPU, which has no speed there.
    """
    import torch

    from ..weights import native_bfloat16

    if precision == "auto":
        cpu = torch.bfloat16 if native_bfloat16(device) else torch.float32
        return cpu if device == "cpu" else torch.float16
    if precision not in ("float32", "bfloat16", "float16") or (precision == "float16" and device == "cpu"):
        raise UsageError(
            f"--precision is {precision!r} on {device}; choose auto, float32, bfloat16, or float16 on a GPU"
        )
    return getattr(torch, precision)
