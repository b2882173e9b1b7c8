"""``obverse evaluate``: a folder of objects → a report, and one asset against its truth."""

import functools
import json

import pytest
import trimesh

from obverse.apps import evaluate
from obverse.apps.evaluate import Judging, parse_degrees
from obverse.errors import NoObjectError, UsageError
from obverse.evaluation import benchmark, geometry, sweep
from obverse.evaluation.geometry import outer_surface, scores_under
from obverse.formats.meshes import write_mesh
from obverse.surface.solid import solid_grid

from .test_cli import run

COARSE = ["--views", "2", "--elevations", "10", "--size", "32", "--points", "2000"]
SMALL = [*COARSE, "--resolution", "24", "--faces", "300", "--texture", "256", "--gaussians", "200", "--no-oracle"]


@pytest.fixture(autouse=True)
def coarse(monkeypatch):
    """Surfaces and volumes are looked at with fewer, smaller depth maps than in earnest."""
    few = functools.partial(outer_surface, directions=16, size=160)
    monkeypatch.setattr(benchmark, "outer_surface", few)
    monkeypatch.setattr(sweep, "outer_surface", few)
    monkeypatch.setattr(benchmark, "scores_under", functools.partial(scores_under, resolution=16))
    monkeypatch.setattr(geometry, "solid_grid", functools.partial(solid_grid, directions=16, size=96))


@pytest.fixture(scope="module")
def objects(tmp_path_factory):
    folder = tmp_path_factory.mktemp("objects")
    write_mesh(trimesh.creation.box((0.5, 1.0, 0.8)), folder / "box.glb")
    write_mesh(trimesh.creation.cylinder(0.3, 1.0, sections=12), folder / "ycb_tin.glb")
    return folder


def test_a_folder_of_objects_becomes_a_report_that_can_be_repeated(objects, tmp_path, capsys):
    out = tmp_path / "report"
    code, text, err = run("evaluate", "--objects", objects, "-o", out, "--json", "-q", *SMALL, capsys=capsys)
    assert (code, err) == (0, "")
    record = json.loads(text)
    assert record["cases"] == 2 and list(record["methods"]) == ["card", "inflate"]
    assert record["methods"]["inflate"]["chamfer"]["mean"] < record["methods"]["card"]["chamfer"]["mean"]
    names = {path.name for path in out.iterdir()}
    assert names == {
        "by_angle.png", "cases.json", "inputs", "report.json", "results", "sheet.png", "table.md", "truth"
    }  # fmt: skip
    table = (out / "table.md").read_text()
    assert "Protocol `obverse-changed`" in table and "difference to inflate" in table and "## Scanned" in table
    # The stored scores are used: with nothing to compute, the table is only written again.
    (out / "table.md").unlink()
    again = ["evaluate", "--objects", objects, "-o", out, "--cases", out / "cases.json", *SMALL[len(COARSE) :]]
    code, text, err = run(*again, capsys=capsys)
    assert code == 0 and (out / "table.md").read_text() == table
    assert "inflate" in text and "4/4" in err


def test_a_failing_method_is_named_and_the_rest_is_done(objects, tmp_path, capsys, monkeypatch):
    def refuse(subject, **options):
        raise NoObjectError("nothing there")

    monkeypatch.setattr(evaluate, "create", refuse)
    code, _, err = run("evaluate", "--objects", objects, "--limit", 1, "-o", tmp_path, *SMALL, capsys=capsys)
    assert code == 4 and "1 of 2 runs failed" in err
    assert "inflate on box-p0: NoObjectError: nothing there" in (tmp_path / "table.md").read_text()


def test_a_damaged_object_is_left_out_and_the_rest_is_done(objects, tmp_path, capsys):
    folder, out = tmp_path / "objects", tmp_path / "report"
    folder.mkdir()
    whole = (objects / "box.glb").read_bytes()
    (folder / "box.glb").write_bytes(whole)
    (folder / "cut.glb").write_bytes(whole[: len(whole) // 2])
    code, text, err = run("evaluate", "--objects", folder, "-o", out, "--json", *SMALL, capsys=capsys)
    assert code == 4 and "1 of 2 cases were left out" in err and "cut-p0 is left out: InputError" in err
    record = json.loads(text)
    assert (record["cases"], record["left_out"]) == (1, 1) and record["methods"]["inflate"]["chamfer"]["objects"] == 1
    assert "1 case of 1 object left out" in (out / "table.md").read_text()
    (folder / "box.glb").unlink()
    code, _, err = run("evaluate", "--objects", folder, "-o", tmp_path / "none", *SMALL, capsys=capsys)
    assert code == 6 and "none of 1 cases can be used" in err


def test_one_asset_is_judged_by_its_truth(objects, tmp_path, capsys):
    box = objects / "box.glb"
    code, text, err = run("evaluate", box, "--truth", box, "-o", tmp_path, "--json", *COARSE, capsys=capsys)
    assert (code, err) == (0, "")
    record = json.loads(text)
    assert record["raw"]["chamfer"] < 0.03 and record["raw"]["volume_iou"] > 0.95 and record["views"] == 2
    assert record["images"]["psnr_db"] > 30
    assert {path.name for path in tmp_path.iterdir()} == {"score.json", "sheet.png"}
    code, text, _ = run("evaluate", objects / "ycb_tin.glb", "--truth", box, *COARSE, capsys=capsys)
    assert code == 0 and "as it stands: CD" in text and "hidden" in text


def test_what_cannot_be_meant_is_refused_before_anything_runs(objects, tmp_path, capsys):
    box = objects / "box.glb"
    for arguments, code in (
        ([], 2),
        ([box], 2),
        ([box, "--truth", box, "--objects", objects], 2),
        (["--objects", tmp_path / "none"], 6),
        (["--objects", objects, "--method", "magic"], 2),
        (["--objects", objects, "--protocol", "none"], 2),
        (["--objects", objects, "--elevations", "high"], 2),
        (["--objects", objects, "--cases", tmp_path / "cases.json", "--views", "3"], 2),
        (["--objects", objects, "--cases", tmp_path / "cases.json"], 6),
    ):
        found, _, err = run("evaluate", *arguments, "-o", tmp_path / "out", capsys=capsys)
        assert found == code and "error" in err, (arguments, err)
    assert not (tmp_path / "out").exists()


def test_a_changed_preset_goes_by_another_name():
    assert Judging("syncdreamer").resolve().name == "syncdreamer"
    changed = Judging("syncdreamer", size=64, views=4).resolve()
    assert changed.name == "syncdreamer-changed" and "size 64" in changed.differs and len(changed.views) == 8
    assert Judging("obverse", size=256, elevations="0,30").resolve().name == "obverse"  # as it is anyway
    assert Judging("obverse", align="yaw-icp").resolve().lead == "aligned"


def test_degrees_are_numbers_with_commas():
    assert parse_degrees("0, 30,-15.5") == (0.0, 30.0, -15.5)
    with pytest.raises(UsageError, match="high"):
        parse_degrees("high")
