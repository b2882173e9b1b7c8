"""``obverse fit``: posed pictures in, an asset folder out."""

import json

import numpy as np
import pytest
import torch

from obverse.apps.fit import DEPTH_WEIGHT, subject_of
from obverse.cameras import Views, orbit
from obverse.formats.datasets import write_transforms
from obverse.lifting.carve import mesh_depths
from obverse.lifting.radiance import FieldRecipe
from obverse.render.triangles import render_mesh

from ..lifting.scenes import ball_mesh, ball_views, without_alpha
from .test_cli import run

SMALL = ["--steps", "20", "--gaussians", "600", "--resolution", "40", "--faces", "800", "--texture", "256"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("views")
    write_transforms(ball_views(size=48), path)
    return path


def test_a_folder_of_views_becomes_an_asset(folder, tmp_path, capsys):
    out = tmp_path / "asset"
    code, text, err = run("fit", folder, "-o", out, "--json", "-f", "glb,ply,png,html", *SMALL, capsys=capsys)
    assert code == 0
    record = json.loads(text)
    assert record["status"] == "done" and record["watertight"] is True and record["views"] == 8
    assert record["psnr_db"] > 18
    names = {p.name for p in out.iterdir()}
    assert names == {"asset.glb", "asset.ply", "preview.png", "report.html", "report.json"}
    report = json.loads((out / "report.json").read_text())
    assert report["method"]["name"] == "fit" and report["fit"]["steps"] == 20
    assert 0 < report["gaussians"]["count"] <= 600
    assert report["photo_agreement"]["silhouette_iou"] > 0.85
    said = [f"{check['severity']} [{check['name']}]: " for check in report["checks"]]
    assert [line.startswith(words) for line, words in zip(err.splitlines(), said, strict=True)] == [True] * len(said)


@pytest.mark.parametrize("kind", ["grid", "triplane"])
def test_a_fitted_field_becomes_the_same_kind_of_asset(folder, tmp_path, capsys, monkeypatch, kind):
    from obverse.lifting import radiance

    small = {"rays": 256, "resolutions": (12, 24), "grow_at": (0.5,)}
    monkeypatch.setattr(radiance, "FieldRecipe", lambda **options: FieldRecipe(**small, **options))
    options = ["--to", kind, "--faces", "800", "--texture", "256", "--resolution", "40", "--gaussians", "600"]
    out = tmp_path / "asset"
    code, text, _ = run("fit", folder, "-o", out, "--json", "-f", "glb,ply", "--steps", "30", *options, capsys=capsys)
    assert code == 0
    record = json.loads(text)
    assert record["watertight"] is True and record["psnr_db"] > 20
    report = json.loads((out / "report.json").read_text())
    assert report["fit"]["to"] == kind and report["fit"]["steps"] == 30
    assert "NeRF" in report["method"]["source"] and report["gaussians"]["count"] == 600


def test_a_representation_that_is_none_is_bad_usage(folder, tmp_path, capsys):
    code, _, err = run("fit", folder, "-o", tmp_path / "out", "--to", "hashes", capsys=capsys)
    assert code == 2 and "triplane" in err


def test_weights_are_for_networks_only(folder, tmp_path, capsys):
    code, _, err = run("fit", folder, "-o", tmp_path / "out", "--weights", tmp_path, capsys=capsys)
    assert code == 2 and "--to gaussians takes no weights" in err


def test_a_network_takes_no_steps(folder, tmp_path, capsys):
    code, _, err = run("fit", folder, "-o", tmp_path / "out", "--to", "instantmesh", "--steps", 9, capsys=capsys)
    assert code == 2 and "one pass" in err


def test_depths_beside_the_pictures_say_where_to_begin_and_are_fitted(tmp_path, capsys):
    views = ball_views(size=48)
    write_transforms(views, tmp_path / "in")
    content = json.loads((tmp_path / "in" / "transforms.json").read_text())
    for i, depth in enumerate(mesh_depths(ball_mesh(), views.cameras)):
        np.save(tmp_path / "in" / f"{i}.npy", depth.numpy())
        content["frames"][i]["depth_file_path"] = f"{i}.npy"
    (tmp_path / "in" / "transforms.json").write_text(json.dumps(content))
    code, _, _ = run("fit", tmp_path / "in", "-o", tmp_path / "out", "-f", "ply", *SMALL, capsys=capsys)
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert code == 0 and report["fit"]["recipe"]["weights"]["depth"] == DEPTH_WEIGHT
    assert "fuse" in {stage["name"] for stage in report["stages"]} and report["views"]["psnr_db"] > 18


def test_an_asset_that_is_there_is_not_replaced_unasked(folder, tmp_path, capsys):
    (tmp_path / "report.json").write_text("{}")
    code, _, err = run("fit", folder, "-o", tmp_path, *SMALL, capsys=capsys)
    assert code == 2 and "--overwrite" in err


def test_pictures_without_masks_are_refused_with_a_remedy(tmp_path, capsys):
    write_transforms(without_alpha(ball_views(size=24)), tmp_path)
    code, _, err = run("fit", tmp_path, "-o", tmp_path / "out", *SMALL, capsys=capsys)
    assert code == 6 and "mask_path" in err and not (tmp_path / "out").exists()


def test_a_growth_that_is_none_is_bad_usage(folder, tmp_path, capsys):
    code, _, err = run("fit", folder, "-o", tmp_path / "out", "--growth", "wild", capsys=capsys)
    assert code == 2 and "clone-split" in err


def test_the_subjects_camera_sees_its_crop():
    cameras = orbit([0.0, 40.0], [10.0, -15.0], size=(80, 60))
    mesh = ball_mesh(radius=0.3)
    mesh.apply_translation([0.1, 0.05, 0])
    subject, camera = subject_of(
        Views(render_mesh(mesh, cameras, background=None, shading="unlit"), cameras), 1, "name"
    )
    again = render_mesh(mesh, camera, background=None, shading="unlit")[0]
    mine, theirs = again[..., 3] > 0.5, subject.rgba[..., 3] > 0.5
    assert float((mine & theirs).sum() / (mine | theirs).sum()) > 0.93
    assert subject.source.name == "name" and camera.width == camera.height == subject.rgba.shape[0]
    assert np.isfinite(camera.intrinsics.numpy()).all() and torch.is_tensor(subject.rgba)
