"""LGM and InstantMesh from one photo: tiny checkpoints of each and of Zero-1-to-3, from files to an asset."""

import json
import sys
from dataclasses import replace
from functools import partial

import pytest
import torch
import trimesh
from PIL import Image
from safetensors.torch import save_file

from obverse.create import create
from obverse.errors import UsageError, WeightsError
from obverse.feedforward import instantmesh, lgm
from obverse.multiview import agreement, zero123
from obverse.surface.fusion import solid_of
from obverse.weights import KNOWN, shapes

from ..apps.test_cli import run
from ..conftest import disc_photo
from ..parity.cases import read_case, same
from ..parity.drawn import draw_all
from .shaped import SMALL, instantmesh_ball
from .test_instantmesh import MESH
from .test_lgm import TINY as FOUR
from .test_lgm import poses

pytest.importorskip("diffusers")
pytest.importorskip("transformers")

# Its grid ends where the planes do: beyond, where nothing was trained here, the ball's field is not outside.
SIX = replace(
    MESH, image_size=32, plane_size=16, width=16, heads=2, layers=1, features=4, hidden=8, cells=24, grid_scale=2.0
)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Few steps, few rays, and a coarse solid: what is tested is the way."""
    monkeypatch.setattr(zero123, "Sampling", partial(zero123.Sampling, steps=3))
    monkeypatch.setattr(agreement, "PIXELS", 12)
    monkeypatch.setattr(agreement, "DEPTHS", 24)
    monkeypatch.setattr(sys.modules["obverse.create"], "solid_of", partial(solid_of, resolution=40))


@pytest.fixture(scope="module")
def turner(tmp_path_factory):
    from ..multiview.test_zero123 import TINY

    return zero123.save_checkpoint(zero123.build(TINY, seed=1), tmp_path_factory.mktemp("views") / "zero123-xl.ckpt")


@pytest.fixture
def photo(tmp_path):
    path = tmp_path / "disc.png"
    Image.fromarray(disc_photo(size=256, radius=90, center=(128, 128))).save(path)
    return path


@pytest.fixture
def four(tmp_path, monkeypatch):
    """Drawn weights of LGM whose Gaussians lie near the middle and can be seen."""
    monkeypatch.setattr(lgm, "PUBLISHED", FOUR)
    with torch.device("meta"):
        state = draw_all(shapes(lgm.LGM(FOUR)))
    state["conv.weight"][:3] *= 0.3
    state["conv.bias"][3], state["conv.bias"][4:7] = 5.0, -0.5
    save_file({key: value.half() for key, value in state.items()}, tmp_path / "lgm.safetensors")
    return tmp_path / "lgm.safetensors"


@pytest.fixture
def six(tmp_path, monkeypatch):
    """InstantMesh whose field is a ball, whatever the views are."""
    monkeypatch.setattr(instantmesh, "PUBLISHED", {"tiny.ckpt": SIX})
    torch.save(instantmesh_ball(SIX, radius=0.6), tmp_path / "tiny.ckpt")
    return tmp_path / "tiny.ckpt"


def handed_to(family, monkeypatch):
    """The views that a family is given, as they come."""
    given, reconstruct = [], family.reconstruct
    monkeypatch.setattr(
        family, "reconstruct", lambda network, views: given.append(views) or reconstruct(network, views)
    )
    return given


def made(photo, method, weights, views, capsys, formats="glb,ply"):
    """The report of ``obverse create``, and its folder."""
    out = photo.parent / "out"
    given = ["--method", method, "--weights", weights, "--view-weights", views, "-o", out, "-f", formats]
    code, _, err = run("create", photo, *given, *SMALL, capsys=capsys)
    assert code == 0, err
    return json.loads((out / "report.json").read_text()), out


def test_lgm_goes_from_a_photo_to_an_asset(photo, four, turner, capsys, monkeypatch):
    given = handed_to(lgm, monkeypatch)
    report, out = made(photo, "lgm", four, turner, capsys)
    (views,) = given
    same(poses(views.cameras), read_case("lgm")["cam_poses"], atol=1e-6)
    orange = (views.images[0] - torch.tensor([230, 120, 40]) / 255).abs().amax(-1) < 0.05
    assert views.images.shape == (4, 32, 32, 3) and 0.3 < float(orange.float().mean()) < 0.5  # 0.48 with the dot's edge
    assert report["mesh"]["watertight"]["ok"] and len(trimesh.load(out / "asset.glb", force="mesh").faces) > 100
    assert report["gaussians"]["count"] > 500  # LGM's own, not placed on the mesh
    method = report["method"]
    assert (method["name"], method["views"]) == ("lgm", 4) and "by its own words" in method["view_weights"]
    assert method["weights_licence"] == f"MIT; those that make its views: {KNOWN['zero123-xl'].licence}"
    assert any("ImageDream" in line and "not measured" in line for line in report["guessed"])


def test_instantmesh_goes_from_a_photo_to_an_asset(photo, six, turner, capsys, monkeypatch):
    given = handed_to(instantmesh, monkeypatch)
    report, _ = made(photo, "instantmesh", six, turner, capsys, formats="glb")
    (views,) = given
    same(instantmesh.described(views.cameras), read_case("instantmesh", "tiny_nerf")["cameras"][0])
    assert report["mesh"]["watertight"]["ok"]
    assert report["photo_agreement"]["silhouette_iou"] > 0.95  # the ball is framed to the disc
    assert report["gaussians"]["count"] == 500
    method = report["method"]
    assert (method["name"], method["views"], method["kind"]) == ("instantmesh", 6, "mesh")
    assert method["weights_licence"].startswith("unverified; those that make its views: unverified")
    assert any("Zero123++" in line and "not measured" in line for line in report["guessed"])


def test_the_photos_camera_stands_before_the_plus_z_side_at_its_elevation():
    camera = instantmesh.input_camera(64, elevation_deg=30.0)
    same(camera.positions, torch.tensor([0.0, 2.0, 4.0 * 3**0.5 / 2]))  # distance 4; sine of 30° is ½
    pixels, depth = camera.project(torch.tensor([[0.0, 0, 0], [0, 0.1, 0], [0.1, 0, 0]]))
    assert pixels[0].tolist() == pytest.approx([32, 32]) and float(depth[0]) == pytest.approx(4)
    assert pixels[1, 1] < 32 < pixels[2, 0]  # up is up, and +X is to the right


def test_missing_weights_are_said_before_any_view_is_made(photo, four, turner, tmp_path, capsys, monkeypatch):
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "empty"))
    monkeypatch.setattr(zero123.Zero123, "views", None)
    monkeypatch.setattr(zero123.Zero123, "elevation", None)
    into = ["-o", tmp_path / "out"]
    code, _, err = run("create", photo, "-m", "lgm", "--view-weights", turner, *into, capsys=capsys)
    assert code == 5 and "obverse weights fetch lgm (830 MB, MIT; with zero123-xl" in err and "--weights" in err
    code, _, err = run("create", photo, "-m", "lgm", "--weights", four, *into, capsys=capsys)
    assert code == 5 and "obverse weights fetch zero123-xl" in err and "--view-weights where they make" in err
    code, _, err = run("create", photo, "-m", "instantmesh", *into, capsys=capsys)
    assert code == 5 and "obverse weights fetch instantmesh" in err
    assert not (tmp_path / "out").exists()


def test_each_of_the_two_weights_in_the_others_place_is_refused(photo, four, six, turner, tmp_path, capsys):
    into = ["-o", tmp_path / "out"]
    code, _, err = run("create", photo, "-m", "lgm", "--weights", turner, "--view-weights", four, *into, capsys=capsys)
    assert code == 5 and "as LGM" in err and "looks like a checkpoint of Zero-1-to-3" in err
    code, _, err = run("create", photo, "-m", "lgm", "--weights", four, "--view-weights", four, *into, capsys=capsys)
    assert code == 5 and "Zero-1-to-3" in err


def test_view_weights_are_for_methods_that_need_views(photo, capsys):
    with pytest.raises(
        UsageError, match="'triposr' takes no view weights; leave them out, or choose: lgm, instantmesh"
    ):
        create(photo, method="triposr", view_weights="a/b")
    with pytest.raises(WeightsError, match="are no file or folder here"):
        create(photo, method="lgm", weights="nowhere.safetensors", view_weights="a/b")
