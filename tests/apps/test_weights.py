import json

import numpy as np
import pytest
import torch
from PIL import Image

from obverse import weights
from obverse.feedforward import dino, triposr
from obverse.weights import KNOWN, Weights

from ..conftest import disc_photo
from ..feedforward.shaped import ball_checkpoint
from .test_cli import run

SMALL = ["--resolution", "48", "--faces", "1000", "--texture", "256", "--gaussians", "500", "--formats", "glb"]
TINY = triposr.Config(
    image_size=64,
    encoder=dino.Dino(width=48, layers=1, heads=3, hidden=64, patch=16, stored_size=32),
    plane_size=16,
    width=64,
    heads=4,
    layers=1,
    features=4,
    hidden=8,
    depth=3,
)


@pytest.fixture
def ball(tmp_path):
    pytest.importorskip("transformers")
    path = tmp_path / "weights" / "model.ckpt"
    path.parent.mkdir()
    torch.save(ball_checkpoint(TINY), path)
    return path


def test_a_checkpoint_in_the_published_layout_becomes_an_asset(photo, ball, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(triposr, "PUBLISHED", TINY)
    command = ["create", photo, "--method", "triposr", "--weights", ball.parent, "-o", tmp_path / "out", *SMALL]
    code, out, err = run(*command, "--json", capsys=capsys)
    assert code == 0, err
    assert json.loads(out)["watertight"] is True
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["method"]["name"] == "triposr" and report["method"]["precision"] in ("float32", "bfloat16")
    assert report["photo_agreement"]["silhouette_iou"] > 0.95  # the ball is framed to the disc
    assert report["mesh"]["seen_fraction"] > 0.2
    assert any("TripoSR" in sentence for sentence in report["guessed"])
    assert str(ball.parent) not in (tmp_path / "out" / "report.json").read_text()


def test_a_folder_of_photos_loads_its_network_once(photo, ball, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(triposr, "PUBLISHED", TINY)
    loads, load = [], triposr.load
    monkeypatch.setattr(triposr, "load", lambda *a, **k: loads.append(a) or load(*a, **k))
    Image.fromarray(disc_photo()).save(tmp_path / "other.png")
    command = ["create", photo, tmp_path / "other.png", "-m", "triposr", "--weights", ball, "-o", tmp_path / "out"]
    code, out, _ = run(*command, "--json", *SMALL, capsys=capsys)
    assert code == 0 and [json.loads(line)["status"] for line in out.splitlines()] == ["done", "done"]
    assert len(loads) == 1


def test_weights_of_another_family_have_their_exit_code_and_no_folder(photo, tmp_path, capsys):
    pytest.importorskip("transformers")
    torch.save({"unet.conv_in.weight": torch.ones(1)}, tmp_path / "other.ckpt")
    command = ["create", photo, "-m", "triposr", "--weights", tmp_path / "other.ckpt", "-o", tmp_path / "out"]
    code, _, err = run(*command, capsys=capsys)
    assert code == 5 and "549 of 549 keys missing" in err and "Traceback" not in err
    assert not (tmp_path / "out").exists()


def test_missing_weights_say_how_to_get_them(photo, tmp_path, capsys, monkeypatch):
    pytest.importorskip("transformers")
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "empty"))
    code, _, err = run("create", photo, "-m", "triposr", "-o", tmp_path / "out", capsys=capsys)
    assert code == 5 and "obverse weights fetch triposr" in err and "MIT" in err


def test_weights_for_a_method_without_any_are_refused(photo, tmp_path, capsys):
    code, _, err = run("create", photo, "--weights", "a/b", "-o", tmp_path / "out", capsys=capsys)
    assert code == 2 and "takes no weights" in err


def test_the_list_says_size_licence_and_whether_commerce_is_allowed(capsys, monkeypatch):
    monkeypatch.setitem(KNOWN, "toy", Weights("a/b", ("m.ckpt",), 12, "CC BY-NC 4.0", commercial=False))
    code, out, _ = run("weights", "list", "--json", capsys=capsys)
    rows = {row["name"]: row for row in map(json.loads, out.splitlines())}
    assert code == 0 and rows["triposr"]["commercial"] and rows["toy"]["megabytes"] == 12
    assert "toy: 12 MB, CC BY-NC 4.0, not for commercial use" in run("weights", "list", capsys=capsys)[1]
    code, out, _ = run("weights", "list", "--commercial-ok", capsys=capsys)
    assert "triposr" in out and "toy" not in out
    code, _, err = run("weights", "fetch", "toy", "--commercial-ok", capsys=capsys)
    assert code == 2 and "not for commercial use" in err


def test_the_views_that_a_method_needs_count_for_its_licence_and_are_fetched_with_it(capsys, monkeypatch, tmp_path):
    got = []
    monkeypatch.setattr(weights, "fetch", lambda it, *, folder: got.append((it.repo.split("/")[1], folder)) or [])
    rows = {
        row["name"]: row for row in map(json.loads, run("weights", "list", "--json", capsys=capsys)[1].splitlines())
    }
    assert rows["lgm"]["licence"] == "MIT" and rows["lgm"]["commercial"] is False
    assert rows["lgm"]["views"] == "zero123-xl" and rows["triposr"]["views"] is None
    assert "views of photos by zero123-xl: 4991 MB" in run("weights", "list", capsys=capsys)[1]
    assert "lgm" not in run("weights", "list", "--commercial-ok", capsys=capsys)[1]
    code, _, err = run("weights", "fetch", "lgm", "--commercial-ok", capsys=capsys)
    assert code == 2 and "zero123-xl, which makes the views for lgm, is unverified" in err and "--alone" in err
    assert not got
    assert run("weights", "fetch", "lgm", "--alone", "--commercial-ok", capsys=capsys)[0] == 0
    assert run("weights", "fetch", "lgm", "instantmesh", "--dir", tmp_path, capsys=capsys)[0] == 0
    assert got == [("LGM", None), ("LGM", tmp_path), ("zero123-xl-diffusers", tmp_path / "zero123-xl"),
                   ("InstantMesh", tmp_path)]  # fmt: skip


@pytest.mark.parametrize("arguments", [["fetch"], ["fetch", "magic"]])
def test_fetching_needs_a_known_name(arguments, capsys):
    code, _, err = run("weights", *arguments, capsys=capsys)
    assert code == 2 and "triposr" in err


def test_verify_names_the_family_and_finds_damage(ball, capsys):
    code, out, _ = run("weights", "verify", ball.parent, "--json", capsys=capsys)
    record = json.loads(out)
    assert code == 0 and record["family"] == "TripoSR" and record["as_published"] is False
    (ball.parent / "SHA256SUMS").write_text(f"{record['sha256']}  model.ckpt\n")
    assert "the published sha256" in run("weights", "verify", ball, capsys=capsys)[1]
    with open(ball, "r+b") as file:
        file.seek(-500, 2)
        byte = file.read(1)
        file.seek(-500, 2)
        file.write(bytes([byte[0] ^ 1]))
    code, _, err = run("weights", "verify", ball, capsys=capsys)
    assert code == 5 and "fetch it again" in err


def test_methods_show_what_they_take(capsys):
    code, out, _ = run("methods", "--json", capsys=capsys)
    rows = {row["name"]: row for row in map(json.loads, out.splitlines())}
    assert code == 0 and rows["triposr"]["download_mb"] == KNOWN["triposr"].megabytes
    assert np.isfinite(rows["inflate"]["seconds"]) and rows["inflate"]["memory_mb"] > 0
