"""Options that several commands share, and what their words mean."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..errors import OutputError, UsageError

REPORT = "report.json"  # in the folder of every finished asset

Photo = Annotated[str, typer.Argument(help="Photo, or - for standard input.")]
Matte = Annotated[str, typer.Option(help="How to cut out: auto, alpha, border, grabcut, rembg or none.")]
Mask = Annotated[Path | None, typer.Option(help="An image whose white (or opaque) part is the object.")]
Box = Annotated[str | None, typer.Option(help="x,y,w,h in photo pixels: the object is inside.")]

AssetFolder = Annotated[Path, typer.Option("--output", "-o", help="Folder for the asset.")]
Formats = Annotated[
    str,
    typer.Option("--formats", "-f", help="Comma-separated: glb obj stl 3mf usdz ply splat spz png webp gif mp4 html."),
]
Height = Annotated[float | None, typer.Option(help="Real height of the object in metres.")]
Faces = Annotated[int, typer.Option(help="Triangles of the mesh, met within 5 %.")]
Texture = Annotated[int, typer.Option("--texture", "--texture-resolution", help="Texture side, 256 to 4096.")]
Splats = Annotated[int, typer.Option("--gaussians", help="Gaussians of the splat, at most.")]
Resolution = Annotated[
    int, typer.Option("--resolution", "--mc-resolution", help="Cells of the surface grid along the longest side.")
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace a result that is there already.")]

Seed = Annotated[int, typer.Option(min=0, help="Same seed, same bytes on a CPU.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")]
Threads = Annotated[int | None, typer.Option(min=1, help="Threads for kernels and networks; default: all cores.")]
Offline = Annotated[bool, typer.Option("--offline", help="Never touch the network.")]

Json = Annotated[bool, typer.Option("--json", help="One JSON object per result on standard output.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Only warnings and errors.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Each stage as a line, and a table of costs.")]


def words(text: str) -> tuple[str, ...]:
    """ "a, b" or "a b" → ("a", "b")."""
    return tuple(text.replace(" ", ",").strip(",").split(","))


def parse_box(text: str | None) -> tuple[int, int, int, int] | None:
    """ "x,y,w,h" → four integers, in photo pixels.

    Raises:
        UsageError: it is not that.
    """
    if text is None:
        return None
    try:
        x, y, w, h = (int(part) for part in text.replace(" ", ",").split(","))
    except ValueError:
        raise UsageError(f"--box is {text!r}, it must be four whole numbers x,y,w,h in photo pixels") from None
    return x, y, w, h


def free_folder(folder: Path, sign: str, what: str, *, overwrite: bool, instead: str = "--overwrite") -> None:
    """Refuse a folder that cannot be written, or would lose what is there.

    Args:
        folder: where the result shall be.
        sign: the file that a finished result has.
        what: what the result is called, with its article.
        overwrite: it may be lost.
        instead: the flags that would let the command go on.

    Raises:
        OutputError: a file has that name. UsageError: a result is there and may not be lost.
    """
    if folder.exists() and not folder.is_dir():
        raise OutputError(f"{folder} is a file, and {what} needs a folder; choose another -o")
    if (folder / sign).exists() and not overwrite:
        raise UsageError(f"{folder} already holds {what}; pass {instead}, or another -o")


def pick_device(name: str) -> str:
    """``auto`` → the best device there is; any other name is checked.

    Raises:
        UsageError: the device is unknown or absent.
    """
    import torch

    present = ["cpu"]
    if torch.cuda.is_available():
        present += ["cuda", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
    if torch.backends.mps.is_available():
        present.append("mps")
    if name == "auto":
        return present[1] if len(present) > 1 else "cpu"
    if name not in present:
        raise UsageError(f"--device is {name!r}, this machine has: {', '.join(present)}; use one of them or auto")
    return name
