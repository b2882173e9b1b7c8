"""What ``obverse distill`` does: photo → judges → canvas → asset, with a state on disk and a picture on the way."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import trimesh

from ..asset import Asset, check_formats
from ..cameras import Cameras, Views, orbit
from ..checks import Check
from ..create import Method, Reconstruction, Settings, finish
from ..errors import InputError, UsageError
from ..formats.files import atomic_write
from ..formats.meshes import read_mesh
from ..gaussians import Gaussians
from ..lifting import dreamgaussian
from ..lifting.canvases import FieldCanvas, GaussianCanvas
from ..lifting.critics import Asking, sds, together
from ..lifting.distill import Now, Photo, distill, framed
from ..lifting.guidance import Critic, Denoiser, Times
from ..lifting.recipes import PRESETS, Recipe
from ..lifting.texels import TextureCanvas
from ..lifting.variational import vsd
from ..multiview import stable_diffusion, zero123
from ..multiview.agreement import silhouettes
from ..multiview.zero123_inputs import FILL
from ..photo import Subject, read_photo
from ..sheet import png_bytes, to_image
from ..stages import Stages
from ..surface.fusion import solid_of
from ..weights import source_for
from .console import Console, read_input
from .options import REPORT, free_folder

WAYS = ("dreamgaussian", "gaussians", "grid", "triplane", "texture")
TEXT_SCALE, VARIATIONAL_SCALE = 100.0, 7.5  # DreamFusion, ProlificDreamer
TEXT_SHARE, SHARED_TIMES = 1 / 40, Times(0.2, 0.6)  # beside a photo's model (Magic123)
STATE, PICTURE = "distill.state", "distill.png"
FOLLOWED = ((0, 0), (45, 20), (90, -10), (135, 20), (180, 0), (225, 20), (270, -10), (315, 20))  # azimuth, elevation


@dataclass(frozen=True)
class Judges:
    """Which models judge, and how they are asked."""

    weights: str | None = None
    text_weights: str | None = None
    prompt: str | None = None
    how: str = "sds"
    scale: float | None = None
    rescale: float = 0.0
    perpendicular: bool = False


@dataclass(frozen=True)
class Caps:
    """What bounds time and memory."""

    size: int | None = None
    batch: int | None = None
    low_memory: bool = False


@dataclass(frozen=True)
class DistillJob:
    """What to do with the photo."""

    to: str = "dreamgaussian"
    judges: Judges = field(default_factory=Judges)
    caps: Caps = field(default_factory=Caps)
    mesh: Path | None = None
    recipe: str | None = None
    steps: int | None = None
    elevation: str | None = None
    follow: int = 0
    checkpoint: Path | None = None
    preview: int = 50
    matte: str = "auto"
    formats: tuple[str, ...] = ("glb",)
    settings: Settings = field(default_factory=Settings)
    seed: int = 0
    device: str = "cpu"
    overwrite: bool = False


def run(photo: str, output: Path, job: DistillJob, console: Console) -> None:
    """Read the photo, distill, save, and say what came of it."""
    formats = check_formats(job.formats)
    check(job)
    free_folder(output, REPORT, "an asset", overwrite=job.overwrite)
    state = job.checkpoint or output / STATE
    with console.progress(Path(photo).name) as stages:
        with stages("photo"):
            subject = read_photo(read_input(photo), matte=job.matte)  # type: ignore[arg-type]
        for noticed in subject.checks:
            console.doubt(noticed)
        output.mkdir(parents=True, exist_ok=True)
        asset = make(subject, job, stages, Watcher(console, output / PICTURE, job.preview, state))
        files = asset.save(output, formats=formats)
    for path in (state, state.with_name(state.name + ".texture")):
        if job.checkpoint is None:
            path.unlink(missing_ok=True)
    for row in asset.report["checks"][len(subject.checks) :]:
        console.doubt(Check(**row))
    told = asset.report["distill"]
    record = {
        "input": photo,
        "status": "done",
        "output": str(output),
        "files": [path.name for path in files],
        "seconds": round(stages.seconds, 3),
        "steps": told["steps"],
        "janus": told["janus"],
        "watertight": asset.report["mesh"]["watertight"]["ok"],
        "checks": [row["name"] for row in asset.report["checks"]],
    }
    names = ", ".join(path.name for path in files)
    console.result(record, f"{output}: {names}  ({record['seconds']:.1f} s, {told['steps']} steps)")
    for row in stages.rows:
        console.detail(f"  {row['name']:<14} {row['seconds']:7.3f} s   peak {row['peak_mb']} MB")


def check(job: DistillJob) -> None:
    """Refuse what cannot be meant before anything is loaded.

    Raises:
        UsageError: it cannot.
    """
    judges = job.judges
    if job.to not in WAYS:
        raise UsageError(f"--to is {job.to!r}; choose one of: {', '.join(WAYS)}")
    if judges.how not in ("sds", "vsd"):
        raise UsageError(f"--how is {judges.how!r}; choose sds or vsd")
    if (judges.prompt is None) != (judges.text_weights is None):
        raise UsageError(
            "--prompt and --text-weights belong together: a text-conditioned model needs both; add the other"
        )
    if (job.to == "texture") != (job.mesh is not None):
        raise UsageError("--to texture and --mesh belong together: the mesh is what is painted; add the other")
    if job.recipe is not None and job.recipe not in PRESETS:
        raise UsageError(f"--recipe is {job.recipe!r}; choose one of: {', '.join(PRESETS)}")
    if judges.perpendicular and judges.text_weights is None:
        raise UsageError("--perp-neg needs prompts to contrast; add --text-weights and --prompt, or leave it out")
    if job.to == "dreamgaussian" and (judges.how == "vsd" or job.follow or judges.text_weights):
        raise UsageError(
            "--to dreamgaussian is the published recipe, with Zero-1-to-3 and sds; for --how vsd, --follow or "
            "--text-weights choose --to gaussians"
        )


# ------------------------------------------------------------------------------------------------- the work


@dataclass(frozen=True)
class Made:
    """What the rest of the way needs."""

    shape: Any  # Field or mesh
    gaussians: Gaussians | None
    steps: int


def make(subject: Subject, job: DistillJob, stages: Stages, watcher: Watcher) -> Asset:
    """Subject → Asset."""
    with stages("models"):
        photo_model, text_model = models(job)
    recipe = recipe_for(job, photo_model)
    if job.elevation is not None:
        degrees = elevation_of(job, photo_model, subject)
        recipe = replace(recipe, around=replace(recipe.around, photo_elevation_deg=degrees))
    photo, camera = framed(subject.rgba, recipe.around, fill=FILL)
    denoiser = None
    if photo_model is not None:
        denoiser = photo_model.conditioned(photo.rgba, elevation_deg=recipe.around.photo_elevation_deg)
    with watcher.listening():
        if job.to == "dreamgaussian":
            assert denoiser is not None
            made = two_stages(denoiser, photo, recipe, job, stages, watcher)
        else:
            critic = judge(denoiser, photo_model, text_model, recipe, job)
            given = drawn_views(photo_model, photo, recipe, job) if job.follow else None
            made = one_stage(critic, photo, given, recipe, job, stages, watcher)
    reconstruction = Reconstruction(made.shape, camera, guesses(job, recipe), made.gaussians)
    asset = finish(
        reconstruction, subject, method="distill", seed=job.seed, settings=job.settings, stages=stages, about=METHOD
    )
    janus = asset.report["inspection"]["repeats"]["janus"]
    asset.report["distill"] = {
        "to": job.to,
        "how": job.judges.how,
        "steps": made.steps,
        "recipe": asdict(recipe),
        "weights": "" if photo_model is None else photo_model.loaded,
        "prompt": job.judges.prompt,
        "janus": janus,
    }
    return asset


def models(job: DistillJob) -> tuple[zero123.Zero123 | None, stable_diffusion.StableDiffusion | None]:
    """The networks that judge. Half precision only on a GPU, and only to save memory."""
    dtype = torch.bfloat16 if job.caps.low_memory and job.device.startswith("cuda") else torch.float32
    judges, photo_model, text_model = job.judges, None, None
    if judges.text_weights is None or judges.weights is not None:
        source, download = source_for("zero123-xl", judges.weights)
        photo_model = zero123.load(source, download=download, device=job.device, dtype=dtype)
    if judges.text_weights is not None:
        text_model = stable_diffusion.load(judges.text_weights, device=job.device, dtype=dtype)
    if job.caps.low_memory:
        for model in (photo_model, text_model):
            for network in () if model is None else (model.unet, model.vae):
                network.enable_gradient_checkpointing()
    return photo_model, text_model


def recipe_for(job: DistillJob, photo_model: zero123.Zero123 | None) -> Recipe:
    """The recipe that was named, or that suits, within the caps.

    Raises:
        UsageError: fewer than one step.
    """
    family = "zero123-xl" if photo_model is None or photo_model.family == "zero123" else "stable-zero123"
    name = job.recipe or ("dreamgaussian" if job.to in ("dreamgaussian", "gaussians") else family)
    recipe = PRESETS[name]
    if job.steps is not None:
        if job.steps < 1:
            raise UsageError(f"--steps is {job.steps}, it must be at least 1")
        recipe = recipe.over(job.steps)
    asking = replace(recipe.asking, rescale=job.judges.rescale, chunk=1 if job.caps.low_memory else None)
    if job.judges.scale is not None:
        asking = replace(asking, scale=job.judges.scale)
    recipe = replace(recipe, asking=asking, supervised=job.follow, stages=capped(recipe, job.caps))
    if job.to == "texture":
        recipe = replace(
            recipe, facing=True, terms=replace(recipe.terms, mask=0.0, normal=0.0, sparsity=0.0, opaque=0.0)
        )
    return recipe


def capped(recipe: Recipe, caps: Caps) -> Any:
    """The recipe's stages with no more pixels and views than allowed."""
    size, batch = caps.size or 4096, caps.batch or 4096
    return tuple(
        replace(s, size=min(s.size, size), photo_size=min(s.photo_size, size), batch=min(s.batch, batch))
        for s in recipe.stages
    )


def elevation_of(job: DistillJob, photo_model: zero123.Zero123 | None, subject: Subject) -> float:
    """What ``--elevation`` says, in degrees.

    Raises:
        UsageError: it is neither degrees in range nor auto, or nobody can be asked.
    """
    if job.elevation == "auto":
        if photo_model is None:
            raise UsageError("--elevation auto asks Zero-1-to-3, and only a text model judges; give degrees instead")
        return photo_model.elevation(subject, seed=job.seed).degrees
    try:
        degrees = float(job.elevation or 0)
    except ValueError:
        raise UsageError(f"--elevation is {job.elevation!r}, it must be degrees, or auto") from None
    if not -80 <= degrees <= 80:
        raise UsageError(f"--elevation is {degrees}, it must be from -80 to 80 degrees above the horizon")
    return degrees


def judge(
    denoiser: Any,
    photo_model: zero123.Zero123 | None,
    text_model: stable_diffusion.StableDiffusion | None,
    recipe: Recipe,
    job: DistillJob,
) -> Critic:
    """The critic: one model, or both with Magic123's weights and noise levels."""
    judges = job.judges
    both = photo_model is not None and text_model is not None
    critics: list[tuple[float, Critic]] = []

    def asked(one: Denoiser, network: Any, asking: Asking, learner: Denoiser | None) -> Critic:
        if judges.how == "sds":
            return sds(one, asking)
        return vsd(one, network, asking, learner=learner, seed=job.seed)

    if photo_model is not None:
        asking = replace(recipe.asking, times=SHARED_TIMES) if both else recipe.asking
        critics.append((1.0, asked(denoiser, photo_model.unet, asking, None)))
    if text_model is not None:
        told = text_model.conditioned(judges.prompt or "")
        scale = judges.scale or (TEXT_SCALE if judges.how == "sds" else VARIATIONAL_SCALE)
        asking = replace(recipe.asking, scale=scale, perpendicular=judges.perpendicular)
        asking = replace(asking, times=SHARED_TIMES if both else Times())
        critics.append((TEXT_SHARE if both else 1.0, asked(told, text_model.unet, asking, told.plain())))
    return critics[0][1] if len(critics) == 1 and critics[0][0] == 1.0 else together(critics)


def drawn_views(photo_model: zero123.Zero123 | None, photo: Photo, recipe: Recipe, job: DistillJob) -> Views:
    """Views that the model draws, as large in the picture as the photo's object, for the first steps to follow.

    Raises:
        UsageError: no such model judges.
    """
    if photo_model is None:
        raise UsageError("--follow needs views of Zero-1-to-3, and only a text model judges; add --weights")
    around = recipe.around
    here = around.photo_elevation_deg
    azimuths, elevations = ([pair[i] for pair in FOLLOWED] for i in (0, 1))
    lens = zero123.orbit_cameras(azimuths, elevations, size=photo_model.size)
    images = photo_model.views(photo.rgba, lens, seed=job.seed, source_elevation_deg=here).images
    rgba = torch.cat([images, silhouettes(images)[..., None].to(images)], -1)
    cameras = orbit(azimuths, elevations, distance=around.distance, fov_deg=around.fov_deg, size=images.shape[1])
    return Views(rgba, cameras)


def one_stage(
    critic: Critic, photo: Photo, given: Views | None, recipe: Recipe, job: DistillJob, stages: Stages, watcher: Watcher
) -> Made:
    """Into Gaussians, a field, or the texture of a mesh."""
    canvas = canvas_for(job, recipe, photo)
    with stages("distill"):
        done = distill(
            canvas, critic, recipe=recipe, photo=photo, given=given, seed=job.seed, checkpoint=watcher.state,
            progress=lambda now: watcher("distill", now),
        )  # fmt: skip
    with stages("solid"):
        if isinstance(canvas, GaussianCanvas):
            gaussians = dreamgaussian.kept(canvas.gaussians)
            return Made(solid_of(gaussians, resolution=min(512, job.settings.resolution)), gaussians, done.steps)
        if isinstance(canvas, FieldCanvas):
            return Made(canvas.fitted, None, done.steps)
        return Made(canvas.mesh, None, done.steps)


def canvas_for(job: DistillJob, recipe: Recipe, photo: Photo) -> GaussianCanvas | FieldCanvas | TextureCanvas:
    """Where the object begins."""
    if job.to == "gaussians":
        return GaussianCanvas(
            dreamgaussian.start(min(dreamgaussian.COUNT, job.settings.gaussians), seed=job.seed), steps=recipe.steps,
            rates=dreamgaussian.RATES, growth=dreamgaussian.GROWTH, cap=job.settings.gaussians, device=job.device,
        )  # fmt: skip
    if job.to == "texture":
        assert job.mesh is not None
        mesh = fitted_to(read_mesh(job.mesh), photo.camera, FILL)
        return TextureCanvas(mesh, size=job.settings.texture, rate=0.05, device=job.device)
    kind: Any = job.to
    return FieldCanvas(kind, resolution=max(16, job.settings.resolution // 2), seed=job.seed, device=job.device)


def two_stages(
    denoiser: Denoiser, photo: Photo, recipe: Recipe, job: DistillJob, stages: Stages, watcher: Watcher
) -> Made:
    """DreamGaussian."""
    refinement = dreamgaussian.REFINEMENT
    refinement = replace(refinement, around=recipe.around, stages=capped(refinement, job.caps))
    if job.steps is not None:
        refinement = refinement.over(max(1, round(job.steps * refinement.steps / PRESETS["dreamgaussian"].steps)))
    with stages("distill"):
        lifted = dreamgaussian.lift(
            denoiser, photo, recipes=(recipe, refinement), texture=job.settings.texture, seed=job.seed,
            device=job.device, progress=watcher, checkpoint=watcher.state,
        )  # fmt: skip
    return Made(lifted, lifted.gaussians, recipe.steps + refinement.steps)


def fitted_to(mesh: trimesh.Trimesh, camera: Cameras, fill: float) -> trimesh.Trimesh:
    """The mesh centred and scaled so that the camera sees its longer side span ``fill`` of the picture.

    Raises:
        InputError: the mesh has no faces.
    """
    if not len(mesh.faces):
        raise InputError("the mesh has no faces, so there is nothing to paint; pass another")
    vertices = np.asarray(mesh.vertices, np.float64)
    vertices = vertices - (vertices.min(0) + vertices.max(0)) / 2
    vertices /= max(float(np.ptp(vertices, axis=0).max()), 1e-9)
    for _ in range(4):
        pixels = camera.project(torch.from_numpy(vertices).float())[0].reshape(-1, 2)
        span = float((pixels.amax(0) - pixels.amin(0)).max())
        vertices *= fill * camera.height / max(span, 1e-6)
    return trimesh.Trimesh(vertices, mesh.faces, process=False)


def guesses(job: DistillJob, recipe: Recipe) -> tuple[str, ...]:
    """What the photo does not tell, in sentences."""
    judged = "Zero-1-to-3" if job.judges.text_weights is None else f"a text model told {job.judges.prompt!r}"
    if job.judges.text_weights is not None and job.judges.weights is not None:
        judged = f"Zero-1-to-3 and {judged}"
    return (
        f"Every side but the photo's is what {judged} finds likely, judged view by view: nothing makes sides agree but "
        "the shape itself.",
        f"The camera is taken to look down by {recipe.around.photo_elevation_deg:.0f}°, with a field of view of "
        f"{recipe.around.fov_deg:.0f}°.",
    )


METHOD = Method(
    make=make,  # type: ignore[arg-type]  # has options of its own, so it is no choice of ``create``
    route="distillation",
    views=0,
    download_mb=0,
    licence="Apache-2.0",
    weights_licence="that of the model that judges",
    source="Poole et al. 2022 (DreamFusion); Tang et al. 2024 (DreamGaussian); Wang et al. 2023 (ProlificDreamer)",
)


# ------------------------------------------------------------------------------------------------- on the way


@dataclass
class Watcher:
    """Follows a run: lines, a picture now and then, and an interrupt that lets the step finish."""

    console: Console
    picture: Path
    every: int
    state: Path | None
    pressed: bool = False

    def __call__(self, stage: str, now: Now) -> None:
        """After every step."""
        if now.step % 10 == 0 or now.step == now.steps:
            told = "  ".join(f"{name} {value:.4g}" for name, value in now.figures.items())
            self.console.detail(f"    {stage} {now.step}/{now.steps}  {told}  {now.seconds:.1f} s")
        if self.every > 0 and (now.step % self.every == 0 or now.step == now.steps):
            atomic_write(self.picture, png_bytes(to_image(now.picture())))
        if self.pressed:
            if self.state is not None:
                self.console.say(f"interrupted at step {now.step}; the same command goes on from {self.state}")
            raise KeyboardInterrupt

    @contextmanager
    def listening(self) -> Iterator[None]:
        """The first Ctrl-C lets the step finish and its state be kept; the second stops at once."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before: Any = signal.getsignal(signal.SIGINT)

        def note(signum: int, frame: Any) -> None:
            if self.pressed and callable(before):
                before(signum, frame)
            self.pressed = True

        signal.signal(signal.SIGINT, note)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)
