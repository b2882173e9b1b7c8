"""``obverse train``: make the embedded model's weights from a folder, or a pack, of objects."""

from __future__ import annotations

import hashlib
import json
import shutil
import zlib
from collections import Counter
from collections.abc import Callable
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import InputError, MissingPackageError, ObverseError, OutputError, UsageError, WeightsError
from ..formats.files import atomic_write, read_bytes, writing
from .console import Console
from .options import Device
from .runs import Spread, cores, device_here, first_before_others, go_on, join, leave, together
from .train_zero123 import train_zero123

app = typer.Typer(help="Train a model.", no_args_is_help=True, rich_markup_mode=None)

app.command("zero123")(train_zero123)

SHARES = {"scan": 0.35, "procedural": 0.35}  # of the photographs drawn; modelled objects get the rest
SHARES_OF_SCANS = {"scan": 0.1, "variant": 0.25}  # where scans are seen deformed too
VIEWS = {"scan": 64, "procedural": 4, "variant": 12}  # photographs per object; others take --views


@dataclass(frozen=True)
class TrainJob:
    """What to train on, and for how long."""

    objects: Path | None
    procedural: int
    variants: int
    output: Path
    steps: int | None
    minutes: float | None
    batch: int
    views: int
    seed: int
    device: str
    start: Path | None
    hold_out: int
    workers: int


@app.command("pack")
def pack_objects(
    objects: Annotated[Path, typer.Argument(help="Folder of meshes, perhaps with an index.csv.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The file to write.")] = Path("objects.pack"),
) -> None:
    """Pack a collection of objects into one small file, which train embedded takes on another machine."""
    from ..training.objects import find_objects
    from ..training.packs import pack

    console = Console()
    items = find_objects(objects)
    refused = pack(items, output)
    for name, why in refused.items():
        console.say(f"left out {name}: {why}")
    size = round(output.stat().st_size / 1e6, 1)
    record = {"output": str(output), "objects": len(items) - len(refused), "left_out": len(refused), "megabytes": size}
    console.result(record, f"{output}: {record['objects']} objects, {len(refused)} left out, {size} MB")


@app.command("embedded")
def train_embedded(
    objects: Annotated[Path | None, typer.Option(help="Folder of meshes, or a pack of them.")] = None,
    procedural: Annotated[int, typer.Option(min=0, help="Invented objects to learn from besides.")] = 3000,
    variants: Annotated[int, typer.Option(min=0, help="Deformed copies of each scan to learn from besides.")] = 0,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder of the run; a run that is there goes on.")
    ] = Path("run"),
    minutes: Annotated[float | None, typer.Option(help="Training time; or --steps.")] = None,
    steps: Annotated[int | None, typer.Option(help="Steps; runs of equal steps and seed give equal weights.")] = None,
    batch: Annotated[int, typer.Option(min=1, help="Photographs per step and process.")] = 32,
    views: Annotated[int, typer.Option(min=1, help="Photographs per modelled object.")] = 20,
    seed: Annotated[int, typer.Option(min=0, help="Decides batches and the start.")] = 0,
    device: Device = "auto",
    init: Annotated[Path | None, typer.Option(help="Weights to start from, instead of random ones.")] = None,
    hold_out: Annotated[int, typer.Option(min=2, help="One scan in so many is kept for validation.")] = 6,
    workers: Annotated[int, typer.Option(min=0, help="Processes that photograph; 0: one per core.")] = 0,
) -> None:
    """Train the embedded model; the folder gets checkpoint, log, embedded.safetensors and embedded.md.

    Started by torchrun, every process trains on its own device and gradients are averaged; on a CPU, one process per
    core with OMP_NUM_THREADS=1 is quicker than threads.
    """
    from ..training.loop import Schedule

    if (minutes is None) == (steps is None):
        raise UsageError(f"--minutes is {minutes} and --steps is {steps}; give one of the two")
    Schedule(steps=steps, minutes=minutes)  # refuses what cannot be meant before anything is written
    job = TrainJob(
        objects, procedural, variants, output, steps, minutes, batch, views, seed, device_here(device), init,
        hold_out, workers or cores(),
    )  # fmt: skip
    run(job, Console())


def run(job: TrainJob, console: Console) -> None:
    """Photograph, train, validate, export.

    Raises:
        UsageError: the folder holds a run that began otherwise. InputError: there are not two objects to learn from.
        WeightsError: the start is not of this network, or the checkpoint is damaged. OutputError: no writing there.
    """

    from ..training import embedded as training
    from ..training.loop import Schedule, train

    network = starting_network(job)
    rank = join(job.device)
    shared = job.output / "collected" if together() else None
    with first_before_others(rank):
        learnt, held = split(prepare(job, console), job.hold_out)
        collection = training.collect([row["path"] for row in learnt], weights_of(learnt), shared=shared)
    if not rank:
        console.say(f"{len(learnt)} objects in {len(collection)} photographs, {len(held)} objects held out")
    unseen = training.collect([row["path"] for row in held], [1.0] * len(held))
    network = network.train().requires_grad_(True).to(job.device)
    schedule = Schedule(steps=job.steps, minutes=job.minutes)
    state = train(
        network, training.batches(collection, size=job.batch, seed=job.seed + 7919 * rank), training.loss,
        schedule=schedule, folder=job.output, validate=training.validation(unseen),
        progress=lambda row: console.say(json.dumps(row)), half=True,
    )  # fmt: skip
    leave()
    if rank:
        return
    if shared is not None:
        shutil.rmtree(shared, ignore_errors=True)
    measured = training.validation(unseen, count=512)(state.averaged)
    export(job, state, learnt, measured, asdict(schedule))
    path = job.output / "embedded.safetensors"
    record = {"output": str(path), "steps": state.step, "seconds": round(state.seconds), **measured}
    console.result(record, f"{path}: {state.step} steps, {record['seconds']} s, {json.dumps(measured)}")


def starting_network(job: TrainJob) -> Any:
    """The network to train, with random weights or those it starts from.

    Raises:
        WeightsError: the weights cannot be read, or their network takes other photographs than are taken here.
    """
    import torch

    from ..feedforward import embedded as model
    from ..training.renders import COLUMNS, DEPTHS, PHOTO

    torch.manual_seed(job.seed)
    network = model.load(job.start) if job.start else model.Network()
    sizes = (network.config.photo, network.config.columns, network.config.depths)
    if sizes != (PHOTO, COLUMNS, DEPTHS):
        raise WeightsError(
            f"{job.start} is a network of {sizes} pixels, columns and depths, training is done with "
            f"{(PHOTO, COLUMNS, DEPTHS)}; leave --init out or start from such a network"
        )
    return network


def export(job: TrainJob, state: Any, learnt: list[dict[str, Any]], measured: dict[str, Any], plan: dict) -> None:
    """The wheel's file and its card."""
    from ..feedforward import embedded as model
    from ..training.card import model_card

    model.save(state.averaged, job.output / "embedded.safetensors")
    settings = {"steps": state.step, "hours": round(state.seconds / 3600, 2), "batch": job.batch, "seed": job.seed}
    card = model_card(
        objects=[row for row in learnt if row["group"] not in ("procedural", "variant")],
        procedural=sum(row["group"] == "procedural" for row in learnt),
        variants=sum(row["group"] == "variant" for row in learnt),
        training={**plan, **settings, "started from": job.start.name if job.start else "random weights"},
        measured=measured,
    )
    atomic_write(job.output / "embedded.md", card.encode())


def prepare(job: TrainJob, console: Console) -> list[dict[str, Any]]:
    """Photograph every object that is not photographed yet → rows with ``path`` and what is known of the object.

    Raises:
        UsageError: there is nothing to photograph, or the folder holds a run that began otherwise.
        InputError: none of the objects can be learnt from. OutputError: the folder cannot be written to.
        ObverseError: a process was ended from outside.
    """
    folder = job.output / "photographs"
    collected = _collected(job.objects)
    rows = [
        *collected,
        *(
            {**row, "id": f"{row['id']}~{number}", "group": "variant", "of": row["id"]}
            for row in collected
            if row["group"] == "scan"
            for number in range(job.variants)
        ),
        *({"id": f"procedural_{s:06d}", "group": "procedural"} for s in range(job.procedural)),
    ]
    if not rows:
        raise UsageError("there is nothing to learn from; give --objects, or --procedural above 0")
    double = [name for name, count in Counter(row["id"] for row in rows).items() if count > 1]
    if double:
        raise InputError(f"{double[0]!r} is an object and a deformed copy of another; rename it, or do without copies")
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    go_on(job.output / "run.json", _begun(job, rows), "run")
    tasks = [(row, job.objects, folder, VIEWS.get(row["group"], job.views)) for row in rows]
    kept, refused = [], {}
    try:
        with Spread(job.workers) as each:
            for number, (row, (path, why)) in enumerate(zip(rows, each(_photograph, tasks), strict=True), 1):
                if path is None:
                    refused[row["id"]] = why
                else:
                    kept.append({**row, "path": path})
                if number % 500 == 0:
                    console.say(f"photographed {number} of {len(rows)} objects")
    except BrokenProcessPool as error:
        raise ObverseError(
            f"one of {job.workers} processes that photograph was ended, perhaps for want of memory; run again with "
            "fewer --workers, what is photographed is kept"
        ) from error
    reasons = job.output / "left_out.json"
    atomic_write(reasons, json.dumps(refused, indent=1).encode())
    if refused:
        console.say(f"{len(refused)} objects left out; {reasons} says why")
    if len(kept) < 2:
        raise InputError(
            f"{len(kept)} of {len(rows)} objects can be learnt from, 2 are needed, as one is held out; add some: "
            f"{reasons} says why others were left out"
        )
    return kept


def split(rows: list[dict[str, Any]], every: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Rows to learn from, and rows to validate with: one scan in ``every``, or object where there is no scan.

    Deformed copies of what validates are in neither.
    """
    candidates = [row for row in rows if row["group"] == "scan"]
    candidates = candidates or [row for row in rows if row["group"] != "procedural"] or rows
    held = {row["id"] for row in sorted(candidates, key=lambda row: row["id"])[::every]}
    return [r for r in rows if r.get("of", r["id"]) not in held], [r for r in rows if r["id"] in held]


def weights_of(rows: list[dict[str, Any]]) -> list[float]:
    """How often each object is drawn: groups get their shares, objects of a group share alike."""
    counts: dict[str, int] = {}
    for row in rows:
        counts[row["group"]] = counts.get(row["group"], 0) + 1
    shares = SHARES | (SHARES_OF_SCANS if "variant" in counts else {})
    rest = 1 - sum(share for group, share in shares.items() if group in counts)
    others = sum(count for group, count in counts.items() if group not in shares)
    return [shares[r["group"]] / counts[r["group"]] if r["group"] in shares else rest / others for r in rows]


def _begun(job: TrainJob, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """What a run that goes on must share with its beginning: other objects would pass for those known."""
    from ..formats.collection import digest

    known = [[r["id"], r["group"], r.get("sha256", ""), r.get("up", "y")] for r in rows]
    objects = hashlib.sha256(json.dumps(known).encode())
    if job.objects is not None and job.objects.is_file():
        objects.update(read_bytes(job.objects))
    start = f"{job.start.name}, SHA-256 {digest(job.start)[:16]}" if job.start else None
    return {
        "objects": objects.hexdigest()[:16],
        "views": job.views,
        "seed": job.seed,
        "start": start,
        "hold_out": job.hold_out,
    }


def _collected(objects: Path | None) -> list[dict[str, str]]:
    """Rows of a folder's or a pack's objects.

    Raises:
        InputError: there are none, or one goes by a name or group of those made here.
    """
    from ..formats.collection import digest
    from ..training.objects import find_objects
    from ..training.packs import packed

    if objects is None:
        return []
    rows = (
        packed(objects)
        if objects.is_file()
        else [
            {
                "id": i.id,
                "group": i.group,
                "licence": i.licence,
                "author": i.author,
                "source": i.source,
                "up": i.up,
                "file": str(i.path),
                "sha256": digest(i.path),
            }
            for i in find_objects(objects)
        ]
    )
    for row in rows:
        if row["group"] in ("procedural", "variant") or row["id"].startswith("procedural_"):
            raise InputError(
                f"{objects} holds {row['id']!r} of group {row['group']!r}; names that begin with procedural_, and the "
                "groups procedural and variant, are those of objects made here, choose others"
            )
    return rows


def _photograph(task: tuple[dict[str, str], Path | None, Path, int]) -> tuple[Path | None, str]:
    """Prepare one object, in a process of its own → its file, or why it was left out."""
    from ..training.deform import deformed
    from ..training.embedded import prepare as prepare_one
    from ..training.objects import load_object, normalised
    from ..training.packs import unpack_one
    from ..training.procedural import procedural_object

    row, objects, folder, views = task
    name = row["id"]
    mesh: Callable[[], Any]
    if row["group"] == "procedural":
        mesh = lambda: normalised(procedural_object(int(name.rsplit("_", 1)[1])))  # noqa: E731
    elif "file" in row:
        mesh = lambda: load_object(row["file"], up=row["up"])  # noqa: E731
    else:
        mesh = lambda: unpack_one(objects, row.get("of", name))  # type: ignore[arg-type]  # noqa: E731
    whole = mesh
    if "of" in row:
        mesh = lambda: deformed(whole(), seed=zlib.crc32(name.encode()))  # noqa: E731
    try:
        return prepare_one(mesh, name, folder, views=views), ""
    except (OutputError, MissingPackageError):
        raise
    except ObverseError as error:
        return None, str(error)
    except Exception as error:  # one object among thousands must not stop the others
        return None, f"{type(error).__name__}: {error}"
