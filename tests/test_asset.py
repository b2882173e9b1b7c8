import json
import os
from pathlib import Path

import numpy as np
import pytest
import trimesh
from PIL import Image

from obverse.asset import DEFAULT_FORMATS, check_formats
from obverse.errors import OutputError, UsageError
from obverse.formats import meshes, splats


@pytest.fixture(scope="module")
def saved(disc_asset, tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved") / "disc"
    return folder, disc_asset.save(folder)


def test_the_default_folder_holds_these_files(saved):
    folder, files = saved
    names = {"asset.glb", "asset.ply", "preview.png", "turntable.webp", "report.html", "report.json"}
    assert {path.name for path in files} == names == {path.name for path in folder.iterdir()}


def test_the_report_lists_the_files_and_their_sizes(saved):
    folder, _ = saved
    report = json.loads((folder / "report.json").read_text())
    assert {row["name"] for row in report["files"]} == {p.name for p in folder.iterdir()} - {"report.json"}
    for row in report["files"]:
        assert (folder / row["name"]).stat().st_size == row["bytes"] > 0


def test_the_contact_sheet_shows_two_rows_of_nine(saved):
    with Image.open(saved[0] / "preview.png") as image:
        assert image.width > 4 * image.height
        pixels = np.asarray(image.convert("RGB")).astype(int)
    orange = (pixels[..., 0] > 180) & (pixels[..., 2] < 120)
    halves = np.array_split(orange, 2)
    assert all(half.sum() > 5000 for half in halves)


def test_the_turntable_turns(saved):
    with Image.open(saved[0] / "turntable.webp") as image:
        assert image.n_frames == 36
        first = np.asarray(image.convert("RGB")).astype(int)
        image.seek(18)
        assert np.abs(np.asarray(image.convert("RGB")).astype(int) - first).max() > 40


def test_the_page_is_whole_and_names_the_photo(saved):
    html = (saved[0] / "report.html").read_text()
    assert html.lstrip().lower().startswith("<!doctype html>") and html.rstrip().endswith("</html>")


def test_nothing_else_is_left_beside_the_folder(saved):
    assert [p.name for p in saved[0].parent.iterdir()] == ["disc"]


def test_every_format_holds_the_same_object(disc_asset, tmp_path):
    folder = tmp_path / "all"
    disc_asset.save(folder, formats=["glb", "obj", "stl", "3mf", "usdz", "ply", "splat", "spz"])
    size = np.ptp(disc_asset.mesh.vertices, axis=0)
    for name in ("asset.glb", "asset.obj", "asset.usdz"):
        mesh = meshes.read_mesh(folder / name)
        np.testing.assert_allclose(np.ptp(mesh.vertices, axis=0), size, atol=1e-5)
    for name in ("asset.ply", "asset.splat", "asset.spz"):
        cloud = splats.read_splats(folder / name)
        np.testing.assert_allclose(np.ptp(cloud.means.numpy(), axis=0), size, atol=0.05)


def test_height_puts_metres_into_the_mesh(disc_asset, tmp_path):
    disc_asset.save(tmp_path / "tall", formats=["glb"], height=0.25)
    mesh = meshes.read_mesh(tmp_path / "tall" / "asset.glb")
    assert np.ptp(mesh.vertices[:, 1]) == pytest.approx(0.25, abs=1e-5)


def test_an_asset_is_not_overwritten_unless_asked(disc_asset, tmp_path):
    disc_asset.save(tmp_path / "a", formats=["glb"])
    with pytest.raises(UsageError, match="already holds an asset"):
        disc_asset.save(tmp_path / "a", formats=["glb"], overwrite=False)


def test_overwriting_leaves_nothing_of_the_old_asset_and_everything_else(disc_asset, tmp_path):
    disc_asset.save(tmp_path / "a", formats=["glb", "obj", "png"])
    (tmp_path / "a" / "notes.txt").write_text("mine")
    disc_asset.save(tmp_path / "a", formats=["usdz"])
    assert {p.name for p in (tmp_path / "a").iterdir()} == {"asset.usdz", "report.json", "notes.txt"}


def test_a_report_of_someone_else_makes_nothing_disappear(disc_asset, tmp_path):
    folder = tmp_path / "a"
    folder.mkdir()
    (folder / "photo.jpg").write_text("mine")
    (tmp_path / "asset.glb").write_text("mine")
    names = ["photo.jpg", "../asset.glb", str(tmp_path / "asset.glb")]
    (folder / "report.json").write_text(json.dumps({"files": [{"name": name} for name in names]}))
    disc_asset.save(folder, formats=["ply"])
    assert (folder / "photo.jpg").read_text() == (tmp_path / "asset.glb").read_text() == "mine"


def test_a_folder_that_exists_is_all_that_must_be_writable(disc_asset, tmp_path, monkeypatch):
    """As when the folder is a mount point: nothing can be renamed into it from outside."""
    folder = tmp_path / "mounted"
    folder.mkdir()
    rename = os.replace

    def on_one_device(source, target):
        assert folder in Path(source).parents and folder in Path(target).parents
        rename(source, target)

    monkeypatch.setattr("obverse.asset.os.replace", on_one_device)
    disc_asset.save(folder, formats=["glb", "obj"])
    assert (folder / "asset.glb").exists() and not [p for p in folder.iterdir() if p.name.startswith(".")]


@pytest.mark.parametrize("height", [0, -1, float("nan"), float("inf"), "tall"])
def test_an_impossible_height_is_refused(disc_asset, tmp_path, height):
    with pytest.raises(UsageError, match="positive number of metres"):
        disc_asset.save(tmp_path / "a", height=height)
    assert list(tmp_path.iterdir()) == []


def test_a_file_in_the_way_is_reported_and_nothing_is_left(disc_asset, tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(OutputError, match="cannot write to"):
        disc_asset.save(tmp_path / "file", formats=["glb"])
    assert (tmp_path / "file").read_text() == "mine"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_a_failure_halfway_leaves_no_file(disc_asset, tmp_path, monkeypatch):
    def broken(*_args, **_kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("obverse.asset.write_splats", broken)
    with pytest.raises(OutputError, match="No space left"):
        disc_asset.save(tmp_path / "full")
    assert list(tmp_path.iterdir()) == []


def test_unknown_formats_are_named():
    with pytest.raises(UsageError, match=r"output format is fbx; choose from: glb"):
        check_formats(["glb", "fbx"])
    with pytest.raises(UsageError, match="not given"):
        check_formats([])


def test_formats_are_read_leniently():
    assert check_formats([".GLB", "ply", "glb "]) == ["glb", "ply"] == check_formats("glb, .PLY")
    assert check_formats(DEFAULT_FORMATS) == list(DEFAULT_FORMATS)


def test_provenance_travels_inside_the_file(saved):
    provenance = meshes.read_mesh(saved[0] / "asset.glb").metadata["provenance"]
    assert provenance["method"]["name"] == "inflate" and provenance["seed"] == 3
    assert len(provenance["input_sha256"]) == 64


def test_other_programs_read_the_mesh_as_closed(saved):
    loaded = trimesh.load(saved[0] / "asset.glb", force="mesh")
    loaded.merge_vertices(merge_tex=True, merge_norm=True)
    assert loaded.is_watertight and loaded.volume > 0


def test_views_without_background_have_straight_alpha(disc_asset):
    for kind in ("mesh", "splat"):
        view = disc_asset.views(0, 0, size=64, of=kind, background=None).images[0]
        edge = (view[..., 3] > 0.2) & (view[..., 3] < 0.8)
        assert edge.any()
        assert view[edge][:, 0].min() > 0.4  # orange all the way to the rim, not darkened by a black background
    with pytest.raises(UsageError, match="'mesh' or 'splat'"):
        disc_asset.views(of="points")


def test_views_take_angles_of_any_kind_and_refuse_what_cannot_be_meant(disc_asset):
    given = [np.float32(90), [90], np.array([90.0]), (90,)]
    pictures = [disc_asset.views(0, angle, size=16).images for angle in given]
    assert all((picture == pictures[0]).all() for picture in pictures)
    for wrong in ({"size": 0}, {"azimuth_deg": float("nan")}, {"azimuth_deg": [0, 1, 2], "elevation_deg": [0, 1]}):
        with pytest.raises(UsageError):
            disc_asset.views(**wrong)


def test_saving_twice_counts_its_stages_once(disc_asset, tmp_path):
    before = len(disc_asset.stages.rows)
    for name in ("a", "b"):
        disc_asset.save(tmp_path / name, formats=["glb"])
    reports = [json.loads((tmp_path / name / "report.json").read_text()) for name in ("a", "b")]
    assert [len(report["stages"]) for report in reports] == [before + 1, before + 1]
