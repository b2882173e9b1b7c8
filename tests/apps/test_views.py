"""``obverse views``: a photo and a checkpoint in the published layout in, a folder that ``obverse fit`` accepts out."""

import json

import pytest
import torch
from PIL import Image

from obverse.apps.views import MAKERS, angles, dtype_for
from obverse.cameras import Views
from obverse.errors import UsageError
from obverse.formats.datasets import read_views
from obverse.multiview import zero123 as z
from obverse.weights import KNOWN

from ..conftest import disc_photo
from ..multiview.test_agreement import seen
from .test_cli import run

pytest.importorskip("diffusers")
pytest.importorskip("transformers")


@pytest.fixture
def photo(tmp_path):
    path = tmp_path / "disc.png"
    Image.fromarray(disc_photo()).save(path)
    return path


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    from ..multiview.test_zero123 import TINY

    model = z.build(TINY, seed=2)
    return z.save_checkpoint(model, tmp_path_factory.mktemp("weights") / "zero123-xl.ckpt")


QUICK = ["--steps", "3", "--device", "cpu", "--precision", "float32", "-m", "zero123-xl"]


def test_a_photo_and_a_checkpoint_become_pictures_with_cameras(photo, checkpoint, tmp_path, capsys):
    out = tmp_path / "views"
    given = ["--azimuth", "0,90,180,270", "--elevation", "0", "--source-elevation", "10", "--weights", checkpoint]
    code, text, err = run("views", photo, "-o", out, "--json", *QUICK, *given, capsys=capsys)
    assert code == 0, err
    record = json.loads(text)
    assert record["files"] == [*(f"images/00{i}.png" for i in range(4)), "transforms.json", "sheet.png", "views.json"]
    assert record["source_elevation"]["words"] == "10.0° (given)" and "not averaged" in record["weights"]
    report = json.loads((out / "views.json").read_text())
    assert [view["azimuth_deg"] for view in report["views"]] == [0, 90, 180, 270]
    assert report["weights_licence"] == KNOWN["zero123-xl"].licence and 0 <= report["agreement"]["shape"] <= 1
    # Drawn weights make noise, in which there is nothing to cut out: that is said, and the pictures stay RGB.
    assert record["alpha"] is False and "warning [no-alpha]" in err
    pictures = [Image.open(out / "images" / f"00{i}.png") for i in range(4)]
    assert {(picture.size, picture.mode) for picture in pictures} == {((32, 32), "RGB")}
    posed = read_views(out, normalise=False)
    expected = z.orbit_cameras([0, 90, 180, 270], 0, size=32)
    torch.testing.assert_close(posed.views.cameras.world_to_camera, expected.world_to_camera, atol=1e-5, rtol=0)
    torch.testing.assert_close(posed.views.cameras.intrinsics, expected.intrinsics, atol=1e-3, rtol=0)

    code, _, err = run("views", photo, "-o", out, *QUICK, *given, capsys=capsys)
    assert code == 2 and "already holds views; pass --overwrite" in err


def test_an_orbit_with_an_elevation_that_is_tried_out(photo, checkpoint, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("obverse.multiview.agreement.PIXELS", 12)
    out = tmp_path / "views"
    given = ["--orbit", "16", "--weights", checkpoint]
    code, text, _ = run("views", photo, "-o", out, *QUICK, *given, capsys=capsys)
    assert code == 0 and "16 views" in text and "sureness" in text
    report = json.loads((out / "views.json").read_text())
    assert len(report["views"]) == 16 and report["views"][1]["azimuth_deg"] == 22.5
    tried = report["source_elevation"]["tried"]
    assert len(tried) == 8 and tried[f"{report['source_elevation']['degrees']:g}"] == max(tried.values())
    assert Image.open(out / "sheet.png").width > Image.open(out / "sheet.png").height


def test_views_that_can_be_cut_out_are_fitted(photo, checkpoint, tmp_path, capsys, monkeypatch):
    def true_views(self, subject, cameras, **_):
        cameras = cameras.resized(64, 64)
        return Views(seen(cameras), cameras)

    monkeypatch.setattr(z.Zero123, "views", true_views)
    out = tmp_path / "views"
    given = ["--orbit", "6", "--elevation", "10", "--source-elevation", "10", "--weights", checkpoint]
    code, text, err = run("views", photo, "-o", out, "--json", *QUICK, *given, capsys=capsys)
    assert code == 0, err
    record = json.loads(text)
    assert record["alpha"] is True and record["agreement"]["shape"] > 0.8
    assert Image.open(out / "images" / "003.png").mode == "RGBA"
    small = ["--steps", "5", "--gaussians", "300", "--resolution", "32", "--faces", "500", "--texture", "256"]
    code, text, err = run("fit", out, "-o", tmp_path / "asset", "--json", "-f", "glb", *small, capsys=capsys)
    assert code == 0, err
    assert json.loads(text)["views"] == 6 and (tmp_path / "asset" / "asset.glb").exists()


def test_a_checkpoint_of_the_other_family_is_not_taken_for_this_one(photo, checkpoint, tmp_path, capsys):
    given = ["-m", "stable-zero123", "--weights", checkpoint, "--device", "cpu"]
    code, _, err = run("views", photo, "-o", tmp_path / "views", *given, capsys=capsys)
    assert code == 5 and "is zero123 by its own words, and stable-zero123 was asked for" in err
    assert not (tmp_path / "views").exists()


def test_options_that_cannot_be_meant_are_refused_before_anything_is_read(photo, tmp_path, capsys):
    for options, words in (
        (["-m", "triposr"], "views are made by: zero123,"),
        (["--azimuth", "0,ninety"], "degrees with commas"),
        (["--orbit", "4", "--azimuth", "0"], "give one of them"),
        (["--orbit", "0"], "from 1 to 360"),
        (["--azimuth", "0,90", "--elevation", "0,1,2"], "3 elevations for 2 azimuths"),
        (["--elevation", "95"], "−90 to 90"),
    ):
        code, _, err = run("views", photo, "-o", tmp_path / "views", *options, capsys=capsys)
        assert code == 2 and words in err, options


def test_angles_are_paired():
    assert angles(None, None, None) == ((0, 90, 180, 270), (0, 0, 0, 0))
    assert angles("0, 45", "10,-20", None) == ((0, 45), (10, -20))
    assert angles(None, "15", 4) == ((0, 90, 180, 270), (15, 15, 15, 15))


def test_every_way_to_make_views_has_its_weights_listed_and_half_precision_is_for_gpus():
    assert set(MAKERS) <= set(KNOWN)
    assert dtype_for("auto", "cuda") == torch.float16 and dtype_for("bfloat16", "cpu") == torch.bfloat16
    with pytest.raises(UsageError, match="float16 on a GPU"):
        dtype_for("float16", "cpu")
