"""``obverse train zero123``: train or fine-tune Zero-1-to-3 on rendered views.

One process per device: ``torchrun --nproc-per-node 8 -m obverse train zero123 ...`` or ``accelerate launch -m obverse
train zero123 ...``, over one machine or many; both tell the processes of each other in the same way. Without a GPU
``accelerate launch`` starts one process, whatever number it is given, unless it finds MPI; torchrun starts them all.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import MissingPackageError, UsageError
from ..formats.files import atomic_path, atomic_write, writing
from .console import Console
from .options import Device
from .runs import device_here, go_on, join

SMALL = 1000  # objects up to which every view is encoded once and kept in memory
CHOICES = {
    "sizes": ("published", "tiny"),
    "family": ("zero123", "stable-zero123"),
    "optimizer": ("auto", "adamw", "muon"),
    "weighting": ("auto", "published", "velocity"),
    "edges": ("auto", "hard", "soft"),
}


@dataclass(frozen=True)
class ViewJob:
    """What to train, on what, and for how long."""

    data: Path
    validation: Path | None
    output: Path
    init: str | None
    sizes: str
    family: str
    lora: int
    steps: int | None
    minutes: float | None
    autoencoder_steps: int
    batch: int
    accumulate: int
    rate: float | None
    optimizer: str
    weighting: str
    edges: str
    augment: bool | None
    half: bool
    save_every: int
    check_every: int
    seed: int
    device: str


def train_zero123(
    data: Annotated[Path, typer.Option(help="Folder of shards from obverse data render.")],
    validation: Annotated[
        Path | None, typer.Option(help="Shards of other objects; default: the last 1 % of --data is held out.")
    ] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the run; a run there goes on.")] = Path(
        "run"
    ),
    init: Annotated[
        str | None, typer.Option(help="Weights to start from: Zero-1-to-3, or a folder of image variations.")
    ] = None,
    sizes: Annotated[str, typer.Option(help="Without --init: published or tiny, from random weights.")] = "tiny",
    family: Annotated[
        str, typer.Option(help="zero123 or stable-zero123: the fourth number of the camera.")
    ] = "zero123",
    lora: Annotated[int, typer.Option(min=0, help="Train adapters of this rank; 0: the whole UNet.")] = 0,
    steps: Annotated[
        int | None, typer.Option(min=1, help="Steps; runs of equal steps and seed give equal bits.")
    ] = None,
    minutes: Annotated[float | None, typer.Option(help="Training time; or --steps.")] = None,
    autoencoder_steps: Annotated[int, typer.Option(min=1, help="Without --init: of the autoencoder, before.")] = 200,
    batch: Annotated[int, typer.Option(min=1, help="Pairs per step and process; published: 192 on each of 8.")] = 48,
    accumulate: Annotated[int, typer.Option(min=1, help="Batches averaged into one step.")] = 1,
    rate: Annotated[float | None, typer.Option(help="Learning rate; default 1e-4, tiny from nothing 1.5e-3.")] = None,
    optimizer: Annotated[
        str, typer.Option(help="adamw (published), muon, or auto: muon only for tiny from nothing.")
    ] = "auto",
    weighting: Annotated[
        str,
        typer.Option(help="published (none); velocity: noisy timesteps count more; auto: that for tiny from nothing."),
    ] = "auto",
    edges: Annotated[str, typer.Option(help="hard (published), soft, or auto: soft up to 128 pixels.")] = "auto",
    augment: Annotated[
        bool | None, typer.Option(help="Mirrored, recoloured pairs besides; default: only up to 1000 objects.")
    ] = None,
    half: Annotated[bool, typer.Option(help="Compute in bfloat16.")] = True,
    save_every: Annotated[int, typer.Option(min=1, help="Steps between checkpoints.")] = 100,
    check_every: Annotated[int, typer.Option(min=1, help="Steps between validations.")] = 100,
    seed: Annotated[int, typer.Option(min=0, help="Decides the start, pairs, noise.")] = 0,
    device: Device = "auto",
) -> None:
    """Train Zero-1-to-3; the folder gets checkpoint, log, pictures, model/ (diffusers) and model.safetensors."""
    job = ViewJob(
        data, validation, output, init, sizes, family, lora, steps, minutes, autoencoder_steps, batch, accumulate,
        rate, optimizer, weighting, edges, augment, half, save_every, check_every, seed, device_here(device),
    )  # fmt: skip
    check(job)
    run(job, Console())


def check(job: ViewJob) -> None:
    """Refuse what cannot be meant before anything is loaded.

    Raises:
        UsageError: it cannot.
    """
    if (job.minutes is None) == (job.steps is None):
        raise UsageError(f"--minutes is {job.minutes} and --steps is {job.steps}; give one of the two")
    for name, known in CHOICES.items():
        value = getattr(job, name)
        if value not in known:
            raise UsageError(f"--{name} is {value!r}, it must be one of {', '.join(known)}")
    if job.init is None and job.lora:
        raise UsageError(
            f"--lora is {job.lora} without --init; adapters need a trained network to stand beside, so name one with "
            "--init, or leave --lora out"
        )


def run(job: ViewJob, console: Console) -> None:
    """Start or go on, train, export.

    Raises:
        UsageError: the folder holds a run that began otherwise. InputError: the data is damaged or too little.
        WeightsError: the start or the checkpoint is of another network. OutputError: no writing there.
        MissingPackageError: the extra ``diffusion`` is not installed.
    """
    from ..multiview.zero123 import save, save_checkpoint
    from ..training import pairs as drawing
    from ..training import zero123 as training
    from ..training.loop import train

    rank = join(job.device)
    model = begun(job)
    learnt, held = opened(job, model.size)
    console.say(f"{len(learnt.views)} objects to learn from, {len(held.views)} held out")
    recipe = recipe_of(job)
    if rank == 0:
        go_on(job.output / "run.json", first_settings(job, learnt, recipe), "run")
    writer = curves(job.output, console) if rank == 0 else None
    report = reporter(writer, console) if rank == 0 else lambda row: None
    if job.init is None:
        autoencoder(job, model, learnt, held, report)
    network = training.learner(model, lora=job.lora, seed=job.seed)
    own = job.seed + 7919 * rank
    latent_size = model.sizes.latent_size
    batches: Callable[[int], Any]
    if learnt.augment or len(learnt.views) <= SMALL:
        encoded = training.encode_all(model, learnt, half=job.half)
        batches = training.encoded_batches(learnt, encoded, size=job.batch, latent_size=latent_size, seed=own)
    else:
        batches = drawing.batches(learnt, size=job.batch, latent_size=latent_size, seed=own)
    check = training.validation(model, network, held, seed=job.seed, half=job.half, show=pictures(job.output, writer))
    state = train(
        network, batches, training.loss(model, weighting=weighting_of(job)),
        schedule=recipe, folder=job.output, validate=check, progress=report, half=job.half,
    )  # fmt: skip
    if rank:
        return
    measured = check(state.averaged)
    kept = training.finished(model, network, state.averaged)
    shutil.rmtree(job.output / "model", ignore_errors=True)  # of this run, when it was shorter
    save(kept, job.output / "model")
    save_checkpoint(kept, job.output / "model.safetensors")
    record = {"output": str(job.output / "model"), "steps": state.step, "seconds": round(state.seconds), **measured}
    atomic_write(job.output / "result.json", json.dumps(record, indent=1).encode())
    console.result(record, f"{record['output']}: {state.step} steps, {record['seconds']} s, {json.dumps(measured)}")


def opened(job: ViewJob, size: int) -> tuple[Any, Any]:
    """Pairs to learn from and to validate with.

    Raises:
        InputError: shards are missing or damaged, or there is one object only.
    """
    from ..errors import InputError
    from ..training.pairs import Pairs
    from ..training.shards import open_shards

    views = open_shards(job.data)
    if job.validation is not None:
        learnt, held = views, open_shards(job.validation)
    else:
        count = len(views) - max(1, len(views) // 100)  # published: the last one in a hundred
        if count < 1:
            raise InputError(
                f"{job.data} holds one object, two are needed, as one is held out; render more, or give --validation"
            )
        learnt, held = views.subset(range(count)), views.subset(range(count, len(views)))
    edges: Any = ("soft" if size <= 128 else "hard") if job.edges == "auto" else job.edges
    family: Any = job.family
    wide = len(learnt) <= SMALL and job.init is None if job.augment is None else job.augment
    return Pairs(learnt, size, family, edges, wide), Pairs(held, size, family, edges)


def begun(job: ViewJob) -> Any:
    """The model a run starts from, on its device.

    Raises:
        WeightsError: the weights cannot be used. MissingPackageError: diffusers or transformers is not installed.
    """
    from ..multiview.zero123 import build, load
    from ..training.starts import from_nothing, from_variations, is_variations
    from ..training.zero123 import SIZES

    family: Any = job.family
    if job.init is not None and is_variations(job.init):
        return from_variations(job.init, family=family, seed=job.seed).to(job.device)
    if job.init is not None:
        return load(job.init, family=family, device=job.device)
    return from_nothing(build(SIZES[job.sizes], family=family, seed=job.seed), seed=job.seed).to(job.device)


def recipe_of(job: ViewJob) -> Any:
    """The published schedule, or the one for tiny networks from random weights."""
    from ..training.zero123 import Recipe

    length: dict[str, Any] = {"steps": job.steps, "minutes": job.minutes, "accumulate": job.accumulate}
    often: dict[str, Any] = {"save_every": job.save_every, "check_every": job.check_every, "log_every": 10}
    if tiny(job) if job.optimizer == "auto" else job.optimizer == "muon":
        return Recipe(**length, **often, rate=job.rate or 1.5e-3, muon=True, warm_up=40, cool_down=0.4, clip=1.0)
    return Recipe(**length, **often, rate=job.rate or 1e-4)


def weighting_of(job: ViewJob) -> Any:
    """How the timesteps count, "auto" decided."""
    return job.weighting if job.weighting != "auto" else "velocity" if tiny(job) else "published"


def tiny(job: ViewJob) -> bool:
    """Whether this is a small network from random weights, which the published settings would keep for weeks."""
    return job.init is None and job.sizes == "tiny"


def autoencoder(job: ViewJob, model: Any, learnt: Any, held: Any, report: Callable[[dict[str, Any]], None]) -> None:
    """Train the model's autoencoder, for there is none to start from; every process that joined takes part."""
    from ..training.autoencoder import train_autoencoder
    from ..training.loop import Schedule

    often: dict[str, Any] = {"log_every": 20, "check_every": 100, "save_every": 100}
    plan = Schedule(
        steps=job.autoencoder_steps, rate=2e-3, warm_up=50, cool_down=0.4, ema=0.99, weight_decay=0.0, **often
    )  # fmt: skip
    model.vae = train_autoencoder(
        model.vae, learnt, schedule=plan, folder=job.output / "autoencoder", held=held, seed=job.seed, progress=report
    )


def first_settings(job: ViewJob, learnt: Any, recipe: Any) -> dict[str, Any]:
    """What a run that goes on must share with its beginning."""
    return {
        "init": job.init or job.sizes, "family": job.family, "lora": job.lora, "batch": job.batch, "seed": job.seed,
        "accumulate": job.accumulate, "edges": learnt.edges, "augment": learnt.augment, "objects": len(learnt.views),
        "rate": recipe.rate, "muon": recipe.muon, "weighting": weighting_of(job),
    }  # fmt: skip


def curves(folder: Path, console: Console) -> Any:
    """A writer of TensorBoard's files, or None where that is not installed."""
    from ..errors import need

    try:
        need("tensorboard", extra="diffusion", purpose="curves")
        return need("torch.utils.tensorboard", extra="diffusion").SummaryWriter(str(folder / "curves"))
    except MissingPackageError:
        console.detail("tensorboard is not installed (pip install tensorboard); log.jsonl holds the same numbers")
        return None


def reporter(writer: Any, console: Console) -> Callable[[dict[str, Any]], None]:
    """What becomes of a line of the log besides: standard error, and TensorBoard's curves if there is a writer."""

    def report(row: dict[str, Any]) -> None:
        console.say(json.dumps(row))
        if writer is not None:
            stage = "autoencoder/" if "squared" in row or "val_psnr" in row else ""
            for name, value in row.items():
                if name != "step":
                    writer.add_scalar(stage + name, value, row["step"])
            writer.flush()

    return report


def pictures(folder: Path, writer: Any = None) -> Callable[[Any, int], None]:
    """Write each validation's picture under the next free number, so that a run that goes on keeps the earlier ones."""
    from PIL import Image

    place = folder / "validation"
    first = len(list(place.glob("*.png")))

    def show(image: Any, number: int) -> None:
        path = place / f"{first + number:04d}.png"
        with atomic_path(path) as hidden, writing(path):
            Image.fromarray(image).save(hidden, "PNG")
        if writer is not None:
            writer.add_image("validation", image, first + number, dataformats="HWC")
            writer.flush()

    return show
