"""``obverse distill``: a photo and tiny networks in, an asset out, with a state and pictures on the way."""

import json
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image

from obverse.apps import distilling
from obverse.apps.console import Console
from obverse.apps.distilling import Caps, DistillJob, Judges, Watcher, fitted_to, recipe_for
from obverse.cameras import orbit
from obverse.create import Settings, create
from obverse.errors import UsageError
from obverse.formats.meshes import write_mesh
from obverse.lifting import dreamgaussian
from obverse.lifting.distill import PRESETS, Now
from obverse.lifting.recipes import Stage
from obverse.multiview import zero123

from ..conftest import disc_photo
from ..lifting.scenes import ball_mesh
from ..multiview.test_stable_diffusion import make_folder
from ..multiview.test_zero123 import TINY
from .test_cli import run

FAST = ["--steps", "4", "--size", "24", "--batch", "1", "--faces", "800", "--texture", "256", "--gaussians", "500",
        "--resolution", "32", "--preview", "2", "--json", "-f", "glb,ply"]  # fmt: skip


@pytest.fixture(scope="module")
def photo(tmp_path_factory):
    path = tmp_path_factory.mktemp("photo") / "disc.png"
    Image.fromarray(disc_photo()).save(path)
    return path


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    folder = tmp_path_factory.mktemp("weights") / "zero123-tiny"
    zero123.save(zero123.build(TINY, seed=1), folder)
    return folder


@pytest.fixture(autouse=True)
def few(monkeypatch):
    """So few steps from so faint a start would leave nothing to show."""
    monkeypatch.setattr(dreamgaussian, "COUNT", 300)
    start, density = dreamgaussian.start, dreamgaussian.local_density
    monkeypatch.setattr(dreamgaussian, "start", lambda count, **options: start(count, radius=0.4, **options))
    monkeypatch.setattr(dreamgaussian, "local_density", lambda g: density(g, resolution=32, blocks=4))


def test_dreamgaussian_makes_a_whole_asset(photo, weights, tmp_path, capsys):
    out = tmp_path / "asset"
    code, text, _ = run("distill", photo, "-o", out, "--weights", weights, *FAST, capsys=capsys)
    assert code == 0
    record = json.loads(text)
    assert record["status"] == "done" and record["watertight"] is True and record["steps"] == 5
    assert {p.name for p in out.iterdir()} == {"asset.glb", "asset.ply", "distill.png", "report.json"}
    assert Image.open(out / "distill.png").size == (4 * 24, 24)
    report = json.loads((out / "report.json").read_text())
    assert report["method"]["route"] == "distillation" and report["distill"]["recipe"]["steps"] == 4
    assert "janus" in report["distill"] and report["inspection"]["repeats"]["janus"] == report["distill"]["janus"]
    assert any("Zero-1-to-3 finds likely" in line for line in report["guessed"])
    code, _, err = run("distill", photo, "-o", out, "--weights", weights, *FAST, capsys=capsys)
    assert code == 2 and "--overwrite" in err


@pytest.mark.parametrize("to", ["gaussians", "grid"])
def test_variational_distillation_fits_everything_else(photo, weights, tmp_path, capsys, to):
    options = ["--to", to, "--how", "vsd", "--low-memory", "--follow", "1", *FAST]
    code, text, _ = run("distill", photo, "-o", tmp_path / "a", "--weights", weights, *options, capsys=capsys)
    assert code == 0 and json.loads(text)["steps"] == 4
    report = json.loads((tmp_path / "a" / "report.json").read_text())
    assert report["distill"]["how"] == "vsd" and report["distill"]["to"] == to
    assert report["distill"]["recipe"]["asking"]["chunk"] == 1 and report["distill"]["recipe"]["supervised"] == 1


def test_a_text_model_and_the_photos_paint_a_mesh_together(photo, weights, tmp_path, capsys):
    write_mesh(ball_mesh(2), tmp_path / "ball.glb")
    text_folder = make_folder(tmp_path)
    options = ["--to", "texture", "--mesh", tmp_path / "ball.glb", "--text-weights", text_folder, "--prompt", "a ball",
               "--perp-neg", "--weights", weights, *FAST]  # fmt: skip
    # Only the text model knows negative prompts; the photo's is asked plainly.
    code, text, _ = run("distill", photo, "-o", tmp_path / "out", *options, capsys=capsys)
    assert code == 0 and json.loads(text)["watertight"] is True
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["distill"]["prompt"] == "a ball" and "told 'a ball'" in report["guessed"][1]


def test_an_interrupt_keeps_the_state_and_the_same_command_goes_on(photo, weights, tmp_path, capsys, monkeypatch):
    seen = []
    plain = Watcher.__call__

    def pressing(self, stage, now):
        seen.append(now.step)
        self.pressed = len(seen) == 2
        plain(self, stage, now)

    monkeypatch.setattr(Watcher, "__call__", pressing)
    command = ["distill", photo, "-o", tmp_path / "a", "--to", "gaussians", "--weights", weights, *FAST]
    code, _, err = run(*command, capsys=capsys)
    assert code == 130 and "goes on from" in err and (tmp_path / "a" / "distill.state").exists()
    code, _, _ = run(*command, capsys=capsys)
    assert code == 0 and seen == [1, 2, 3, 4] and not (tmp_path / "a" / "distill.state").exists()


def test_the_second_interrupt_stops_at_once(tmp_path):
    import signal

    watcher = Watcher(Console(verbosity=-1), tmp_path / "p.png", 0, None)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # jobs in the background begin deaf to it
    try:
        with pytest.raises(KeyboardInterrupt), watcher.listening():
            signal.raise_signal(signal.SIGINT)
            assert watcher.pressed
            with pytest.raises(KeyboardInterrupt):
                watcher("distill", Now(1, 2, {}, 0.0, lambda: torch.zeros(4, 4, 3)))
            signal.raise_signal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)


def test_recipes_follow_from_what_is_made_and_who_judges():
    model, stable = zero123.build(TINY), zero123.build(TINY, family="stable-zero123")
    assert recipe_for(DistillJob(), model) == PRESETS["dreamgaussian"]
    assert recipe_for(DistillJob(to="grid"), model).terms == PRESETS["zero123-xl"].terms
    assert recipe_for(DistillJob(to="grid"), stable).terms == PRESETS["stable-zero123"].terms
    capped = recipe_for(DistillJob(to="grid", caps=Caps(100, 3, low_memory=True)), model)
    assert {(s.size, s.batch, s.photo_size) for s in capped.stages} == {(64, 3, 100), (100, 3, 100), (100, 2, 100)}
    assert capped.asking.chunk == 1


def test_a_mesh_is_scaled_to_the_photos_frame():
    camera = orbit(0.0, 10.0, distance=3.8, fov_deg=20.0, size=100)
    mesh = ball_mesh(2)
    mesh.apply_scale(7.0)
    mesh.apply_translation([1.0, 2.0, 3.0])
    pixels = camera.project(torch.from_numpy(np.asarray(fitted_to(mesh, camera, 0.8).vertices)).float())[0][0]
    assert float((pixels.amax(0) - pixels.amin(0)).max()) == pytest.approx(80, rel=0.01)


@pytest.mark.parametrize(
    ("job", "message"),
    [
        (DistillJob(to="cloud"), "--to is 'cloud'"),
        (DistillJob(judges=Judges(how="both")), "sds or vsd"),
        (DistillJob(judges=Judges(prompt="a cup")), "belong together"),
        (DistillJob(to="texture"), "--mesh"),
        (DistillJob(recipe="mine"), "stable-zero123"),
        (DistillJob(to="grid", judges=Judges(perpendicular=True)), "--perp-neg"),
        (DistillJob(judges=Judges(how="vsd")), "--to gaussians"),
    ],
)
def test_what_cannot_be_meant_is_refused(job, message):
    with pytest.raises(UsageError, match=message):
        distilling.check(job)


@pytest.mark.parametrize(
    ("given", "message"), [("high", "degrees, or auto"), ("89", "from -80 to 80"), ("auto", "only")]
)
def test_elevations_are_degrees_or_auto(given, message):
    with pytest.raises(UsageError, match=message):
        distilling.elevation_of(DistillJob(elevation=given), None, None)
    assert distilling.elevation_of(DistillJob(elevation="-12.5"), None, None) == -12.5


def test_the_method_dreamgaussian_is_the_same_way_behind_create(weights, monkeypatch):
    small = replace(PRESETS["dreamgaussian"].over(3), stages=(Stage(3, 24, 1, 24),))
    monkeypatch.setitem(PRESETS, "dreamgaussian", small)
    monkeypatch.setattr(dreamgaussian, "REFINEMENT", replace(dreamgaussian.REFINEMENT.over(1), stages=small.stages))
    monkeypatch.setattr(dreamgaussian, "lift", partial(dreamgaussian.lift, texture=256))
    settings = Settings(resolution=24, faces=500, texture=256, gaussians=200)
    asset = create(disc_photo(), method="dreamgaussian", weights=weights, settings=settings)
    assert asset.report["method"]["steps"] == 3 and asset.report["mesh"]["watertight"]["ok"]
    assert len(asset.gaussians) > 200  # those that were lifted, not placed on the mesh
