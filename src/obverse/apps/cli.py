"""The command line: ``obverse VERB INPUT... -o OUT``.

Every command's parameters are its flags, so its functions have more of them than any other in the package. Work
happens in the library; here arguments are parsed, a device is picked, and results are printed.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from .. import __version__
from ..errors import EXIT_CODES, OutputError, UsageError
from . import data as data_commands
from . import distill as distill_commands
from . import train as train_commands
from . import views as views_commands
from . import weights as weights_commands
from .console import Console, describe, listening_for_interrupts, read_input, write_stdout
from .options import (
    AssetFolder,
    Box,
    Device,
    Faces,
    Formats,
    Height,
    Json,
    Mask,
    Matte,
    Offline,
    Overwrite,
    Photo,
    Quiet,
    Resolution,
    Seed,
    Splats,
    Texture,
    Threads,
    Verbose,
    parse_box,
    pick_device,
    words,
)

EXIT_CODE_TEXT = "Exit codes: " + "; ".join(f"{code} {meaning}" for code, meaning in EXIT_CODES.items()) + "."

app = typer.Typer(
    name="obverse",
    help="One photo of an object in, a 3D asset out: textured GLB, Gaussian splat, turntable and an honest report.",
    epilog=EXIT_CODE_TEXT,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

app.add_typer(weights_commands.app, name="weights")
app.add_typer(train_commands.app, name="train")
app.command(epilog=EXIT_CODE_TEXT)(views_commands.views)
app.add_typer(data_commands.app, name="data")
app.command(epilog=EXIT_CODE_TEXT)(distill_commands.distill)


@app.callback(invoke_without_command=True)
def root(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and stop.")] = False,
) -> None:
    """One photo of an object in, a 3D asset out: textured GLB, Gaussian splat, turntable and an honest report."""
    if version:
        print(f"obverse {__version__}")
        raise typer.Exit()


@app.command(epilog=EXIT_CODE_TEXT)
def create(
    photos: Annotated[list[str], typer.Argument(help="Photos, folders of photos, globs, or - for standard input.")],
    output: Annotated[
        str, typer.Option("--output", "-o", "--output-dir", help="Folder, or - for GLB on standard output.")
    ] = "out",
    method: Annotated[str, typer.Option("--method", "-m", help="See: obverse methods.")] = "inflate",
    matte: Matte = "auto",
    mask: Mask = None,
    box: Box = None,
    foreground_ratio: Annotated[float, typer.Option(help="Object's longest side over the crop's.")] = 0.85,
    formats: Formats = "glb,ply,png,webp,html",
    height: Height = None,
    faces: Faces = 20_000,
    texture: Texture = 1024,
    gaussians: Splats = 60_000,
    resolution: Resolution = 192,
    atlas: Annotated[str, typer.Option(help="Texture charts: charts (fast) or xatlas.")] = "charts",
    seed: Seed = 0,
    device: Device = "auto",
    weights: Annotated[
        str | None, typer.Option(help="A published method's weights: file, folder or Hub id; default: as fetched.")
    ] = None,
    view_weights: Annotated[
        str | None, typer.Option(help="Of the Zero-1-to-3 that makes views for lgm and instantmesh; likewise.")
    ] = None,
    threads: Threads = None,
    offline: Offline = False,
    overwrite: Overwrite = False,
    skip_existing: Annotated[bool, typer.Option("--skip-existing", help="Leave finished assets alone.")] = False,
    json_output: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Turn photos into 3D assets, one folder each."""
    console = Console(json_output=json_output, verbosity=verbose - quiet)
    if offline:
        os.environ["HF_HUB_OFFLINE"] = "1"
    from ..create import Settings
    from ..parallel import set_threads
    from .batch import Job, run

    set_threads(threads)
    job = Job(
        method=method,
        seed=seed,
        device=pick_device(device),
        weights=weights,
        view_weights=view_weights,
        settings=Settings(resolution=resolution, faces=faces, texture=texture, gaussians=gaussians, atlas=atlas),  # type: ignore[arg-type]
        cutout={"matte": matte, "mask": mask, "box": parse_box(box), "foreground_ratio": foreground_ratio},
        formats=words(formats),
        height=height,
        existing=_existing(overwrite, skip_existing),
    )
    run(photos, output, job, console)


def _existing(overwrite: bool, skip: bool) -> Literal["overwrite", "skip", "refuse"]:
    """What becomes of assets that are there already."""
    if overwrite and skip:
        raise UsageError("--overwrite and --skip-existing exclude each other; keep one")
    return "overwrite" if overwrite else "skip" if skip else "refuse"


@app.command(epilog=EXIT_CODE_TEXT)
def fit(
    folder: Annotated[
        Path, typer.Argument(metavar="VIEWS_DIR", help="Pictures with known cameras: transforms.json or COLMAP.")
    ],
    output: AssetFolder = Path("out"),
    split: Annotated[str | None, typer.Option(help="Read transforms_SPLIT.json: train, val or test.")] = None,
    to: Annotated[
        str, typer.Option(help="What is fitted: gaussians, grid or triplane; or instantmesh, which predicts.")
    ] = "gaussians",
    weights: Annotated[
        str | None, typer.Option(help="Of instantmesh: file, folder or Hub id; default: as fetched.")
    ] = None,
    device: Annotated[str, typer.Option(help="Of instantmesh: auto, cpu, cuda, cuda:N or mps.")] = "auto",
    steps: Annotated[
        int | None, typer.Option(help="Steps of the fit, by default 1500 pictures for Gaussians, 800 times some rays.")
    ] = None,
    growth: Annotated[
        str, typer.Option(help="How Gaussians are added: clone-split, relocate or none.")
    ] = "clone-split",
    sh_degree: Annotated[int, typer.Option(help="0: one colour per Gaussian; up to 3: colour changes with view.")] = 0,
    checkpoint: Annotated[Path | None, typer.Option(help="A file to keep the state in, and to go on from.")] = None,
    formats: Formats = "glb,ply,png,webp,html",
    height: Height = None,
    faces: Faces = 20_000,
    texture: Texture = 1024,
    gaussians: Splats = 20_000,
    resolution: Resolution = 160,
    seed: Seed = 0,
    threads: Threads = None,
    overwrite: Overwrite = False,
    json_output: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Turn pictures with known cameras into a 3D asset."""
    console = Console(json_output=json_output, verbosity=verbose - quiet)
    from ..create import Settings
    from ..lifting.fit import Growth, Recipe
    from ..lifting.radiance import FieldRecipe
    from ..parallel import set_threads
    from .fit import FitJob, OnePass, run

    set_threads(threads)
    recipe: Recipe | FieldRecipe | OnePass = FieldRecipe() if steps is None else FieldRecipe(steps=steps)
    if to == "instantmesh" or weights is not None:
        recipe = OnePass(weights, pick_device(device), steps)
    elif to == "gaussians":
        recipe = Recipe(steps=1500 if steps is None else steps, sh_degree=sh_degree, growth=Growth(strategy=growth))  # type: ignore[arg-type]
    job = FitJob(
        settings=Settings(resolution=resolution, faces=faces, texture=texture, gaussians=gaussians),
        recipe=recipe,
        seed=seed,
        split=split,
        checkpoint=checkpoint,
        formats=words(formats),
        height=height,
        overwrite=overwrite,
        to=to,
    )
    run(folder, output, job, console)


@app.command(epilog=EXIT_CODE_TEXT)
def cutout(
    photo: Photo,
    output: Annotated[
        str, typer.Option("--output", "-o", help="PNG to write, or - for standard output.")
    ] = "cutout.png",
    matte: Matte = "auto",
    mask: Mask = None,
    box: Box = None,
    json_output: Json = False,
    quiet: Quiet = False,
) -> None:
    """Cut the object out and stop: a look at what every method would be given."""
    from ..formats.files import atomic_write
    from ..photo import read_photo
    from ..sheet import png_bytes, to_image

    console = Console(json_output=json_output, verbosity=-quiet)
    subject = read_photo(read_input(photo), matte=matte, mask=mask, box=parse_box(box))  # type: ignore[arg-type]
    for check in subject.checks:
        console.doubt(check)
    data = png_bytes(to_image(subject.cutout))
    if output == "-":
        write_stdout(data)
        return
    atomic_write(Path(output), data)
    record = {"output": output, "matte": subject.matte, "confidence": round(subject.confidence, 3)}
    console.result(record, f"{output}: cut out by {subject.matte}, confidence {subject.confidence:.2f}")


@app.command(epilog=EXIT_CODE_TEXT)
def evaluate(
    asset: Annotated[Path | None, typer.Argument(help="One finished asset, folder or mesh; needs --truth.")] = None,
    truth: Annotated[Path | None, typer.Option(help="The mesh that ASSET should be.")] = None,
    objects: Annotated[Path | None, typer.Option(help="Folder of known objects to photograph.")] = None,
    method: Annotated[str, typer.Option("--method", "-m", help="Methods, commas between.")] = "inflate",
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder for the report; goes on where a run stopped.")
    ] = None,
    protocol: Annotated[
        str,
        typer.Option(
            help="obverse, syncdreamer, sv3d-static, sv3d-dynamic, instantmesh-orbit, instantmesh-random or sf3d."
        ),
    ] = "obverse",
    views: Annotated[int | None, typer.Option(help="Azimuths that results are judged from; 8 are 45° apart.")] = None,
    elevations: Annotated[str | None, typer.Option(help="Their elevations in degrees: 0,30.")] = None,
    size: Annotated[int | None, typer.Option(help="Pixels a side of the judged views.")] = None,
    points: Annotated[int | None, typer.Option(help="Points on each surface.")] = None,
    align: Annotated[str | None, typer.Option(help="similarity (scale, shift) or yaw-icp (any turn too).")] = None,
    photos: Annotated[int, typer.Option(help="Photos of each object.")] = 1,
    seeds: Annotated[int, typer.Option(help="Runs of each method on each photo.")] = 1,
    seed: Annotated[int, typer.Option(help="Of the directions, lenses and lights drawn.")] = 0,
    limit: Annotated[int | None, typer.Option(help="Take that many of the objects, evenly spread.")] = None,
    groups: Annotated[Path | None, typer.Option(help="CSV with columns id and group: reported apart.")] = None,
    cases: Annotated[Path | None, typer.Option(help="Repeat the cases.json of another run.")] = None,
    oracle: Annotated[bool, typer.Option(help="With the line of true views lifted; its slowest.")] = True,
    faces: Faces = 20_000,
    texture: Texture = 1024,
    gaussians: Splats = 60_000,
    resolution: Resolution = 192,
    device: Device = "auto",
    threads: Threads = None,
    json_output: Json = False,
    quiet: Quiet = False,
) -> None:
    """Measure methods on known objects, or one asset against its truth."""
    console = Console(json_output=json_output, verbosity=-quiet)
    from ..create import Settings
    from ..parallel import set_threads
    from .evaluate import EvaluateJob, Judging, check_inputs, evaluate_asset, evaluate_objects

    check_inputs(asset, truth, objects)
    set_threads(threads)
    judging = Judging(protocol, views, elevations, size, points, align)
    if asset is not None and truth is not None:
        evaluate_asset(asset, truth, output, judging, console)
        return
    job = EvaluateJob(
        methods=words(method),
        judging=judging,
        settings=Settings(resolution=resolution, faces=faces, texture=texture, gaussians=gaussians),
        device=pick_device(device),
        photos=photos, seeds=seeds, seed=seed, limit=limit, groups=groups, cases=cases, oracle=oracle,
    )  # fmt: skip
    assert objects is not None  # check_inputs
    evaluate_objects(objects, output or Path("evaluation"), job, console)


@app.command()
def methods(json_output: Json = False) -> None:
    """List the methods: route, predicted views, download, licences, and what they take where that was measured."""
    from ..create import METHODS

    rows = [
        {
            "name": name,
            "route": method.route,
            "views": method.views,
            "download_mb": method.download_mb,
            "licence": method.licence,
            "weights_licence": method.weights_licence,
            "memory_mb": method.memory_mb,
            "seconds": method.seconds,
            "source": method.source,
            "summary": method.summary,
        }
        for name, method in METHODS.items()
    ]
    console = Console(json_output=json_output)
    for row in rows:
        cost = f"; {row['seconds']:g} s and {row['memory_mb']} MB on two CPU cores" if row["seconds"] else ""
        text = (
            f"{row['name']}: {row['summary']}\n    route {row['route']}, views {row['views']}, download "
            f"{row['download_mb']} MB, licence {row['licence']}, weights {row['weights_licence']}{cost}\n"
            f"    {row['source']}"
        )
        console.result(row, text)


@app.command()
def convert(
    source: Annotated[Path, typer.Argument(metavar="IN", help="Mesh or splat file.")],
    target: Annotated[Path, typer.Argument(metavar="OUT", help="File to write; its extension is the format.")],
    height: Annotated[float | None, typer.Option(help="Real height in metres, for meshes.")] = None,
    form: Annotated[str, typer.Option(help="For splat .ply: full, compact or compressed.")] = "full",
    axes: Annotated[
        str, typer.Option(help="Frame of .ply and .splat: opencv (−Y up, for viewers) or gltf.")
    ] = "opencv",
    gaussians: Annotated[int, typer.Option(help="Gaussians, from mesh to splat.")] = 60_000,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace OUT if it exists.")] = False,
    json_output: Json = False,
    quiet: Quiet = False,
) -> None:
    """Convert between any of the mesh formats, any of the splat formats, and from mesh to splat."""
    from .convert import convert_file

    if target.exists() and not overwrite:
        raise UsageError(f"{target} exists; choose another name or pass --overwrite")
    files = convert_file(source, target, height=height, form=form, axes=axes, gaussians=gaussians)
    console = Console(json_output=json_output, verbosity=-quiet)
    console.result({"files": [str(path) for path in files]}, "\n".join(f"wrote {path}" for path in files))


@app.command()
def show(
    asset: Annotated[Path, typer.Argument(help="An asset folder, a mesh or a splat file.")],
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write the page here; do not open it.")] = None,
) -> None:
    """Open the offline viewer on an asset, or write it as one HTML file."""
    from ..formats.files import atomic_write
    from .convert import viewer_for

    html = viewer_for(asset).encode()
    if output is not None:
        atomic_write(output, html)
        print(f"wrote {output}")
        return
    import tempfile
    import webbrowser

    path = Path(tempfile.mkdtemp(prefix="obverse-")) / "viewer.html"
    atomic_write(path, html)
    print(path)
    if not webbrowser.open(path.as_uri()):
        raise OutputError(f"no browser could be opened; open {path} by hand, or write it elsewhere with -o")


@app.command()
def doctor(
    warm: Annotated[bool, typer.Option("--warm", help="Only compile the kernels ahead of the first run.")] = False,
    json_output: Json = False,
) -> None:
    """Say what is installed and where things would run, and try the whole path on a drawn object."""
    from .doctor import examine, report_text, self_test

    console = Console(json_output=json_output)
    record: dict[str, Any] = {} if warm else examine()
    record["self_test"] = self_test()
    console.result(record, report_text(record))
    if not record["self_test"]["ok"]:
        raise typer.Exit(1)


def main(arguments: list[str] | None = None) -> None:
    """Entry point: run a command, turn every failure into one sentence and its exit code."""
    wait_politely()
    sys.exit(guarded(lambda: app(args=arguments, standalone_mode=False)))


def wait_politely() -> None:
    """Let idle threads sleep at barriers instead of spinning, unless the user chose otherwise; before torch is loaded.

    Beside one busy process spinning makes small parallel loops many times slower.
    """
    if not {"OMP_WAIT_POLICY", "NUMBA_THREADING_LAYER"} & set(os.environ):
        os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
        os.environ["NUMBA_THREADING_LAYER"] = "workqueue"


def guarded(run: Callable[[], Any]) -> int:
    """Run a command → exit code; errors become one line on standard error."""
    if sys.stderr is None:  # closed by whoever started us; loggers and progress bars expect it to be there
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115  for the rest of the process
    try:
        with listening_for_interrupts():
            code = run()
        if code == 130:  # the argument parser's answer to an interrupt
            raise KeyboardInterrupt
        return code if isinstance(code, int) else 0
    except BrokenPipeError:  # whoever read our output has stopped reading
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (Exception, KeyboardInterrupt) as error:
        if hasattr(error, "show") and hasattr(error, "exit_code"):  # the argument parser's own
            error.show()
            return int(error.exit_code)
        if os.environ.get("OBVERSE_TRACEBACK"):
            raise
        code, message = describe(error)
        print(f"obverse: error: {message}", file=sys.stderr)
        return code
