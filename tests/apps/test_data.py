import json

import numpy as np
import pytest
import trimesh

from obverse.apps import cli
from obverse.apps.data import _part
from obverse.errors import MissingPackageError, UsageError
from obverse.formats.meshes import write_mesh
from obverse.training.shards import open_shards


def call(*words):
    with pytest.raises(SystemExit) as stop:
        cli.main([str(word) for word in words])
    return stop.value.code


def painted(extents):
    mesh = trimesh.creation.box(extents).subdivide()
    colors = np.random.default_rng(0).integers(0, 256, (len(mesh.vertices), 4), dtype=np.uint8)
    return trimesh.Trimesh(mesh.vertices, mesh.faces, vertex_colors=colors, process=False)


@pytest.fixture(scope="module")
def objects(tmp_path_factory):
    folder = tmp_path_factory.mktemp("objects")
    for number in range(3):
        write_mesh(painted((1, 0.4 + 0.2 * number, 0.5)), folder / f"box{number}.ply")
    trimesh.creation.box((1, 0.6, 0.5)).subdivide().export(folder / "plain.stl")
    (folder / "broken.glb").write_bytes(b"glTF, but not really")
    return folder


def render(objects, output, *more):
    return call(
        "data", "render", objects, "-o", output, "--size", 16, "--views", 3, "--shard", 2, "--workers", 1, *more
    )


@pytest.fixture(scope="module")
def data(objects, tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    assert render(objects, folder) == 0
    return folder


def test_views_are_rendered_and_every_decision_is_written_down(data):
    views = open_shards(data)
    assert views.names == ("box0", "box1", "box2") and all(len(v) == 3 for v in views.objects)
    rows = {row["id"]: row for row in map(json.loads, (data / "decisions.jsonl").read_text().splitlines())}
    assert [rows[name]["kept"] for name in ("box0", "box1", "box2", "broken", "plain")] == [True] * 3 + [False] * 2
    assert rows["broken"]["reasons"][0].startswith("unreadable: ")
    assert rows["plain"]["reasons"][0].startswith("flat shading: ")
    assert rows["box1"]["measures"]["faces"] == 48


def test_a_run_goes_on_where_it_stopped_and_comes_to_the_same_bytes(objects, data, tmp_path, capsys):
    assert render(objects, tmp_path) == 0
    (tmp_path / "shard-000001.jsonl").unlink()  # as if it had been stopped while writing this one
    before = (tmp_path / "shard-000000.tar").stat().st_mtime_ns
    assert render(objects, tmp_path) == 0
    assert "2 of 3 shards are there already" in capsys.readouterr().err
    assert (tmp_path / "shard-000000.tar").stat().st_mtime_ns == before
    for path in data.glob("*.tar"):
        assert path.read_bytes() == (tmp_path / path.name).read_bytes()
    assert (tmp_path / "decisions.jsonl").read_bytes() == (data / "decisions.jsonl").read_bytes()


def test_other_settings_in_the_same_folder_are_refused(objects, data, capsys):
    assert render(objects, data, "--seed", 5) == 2
    assert "seed 0, now 5" in capsys.readouterr().err


def test_machines_share_the_shards(objects, data, tmp_path):
    for part in ("0/2", "1/2"):
        assert render(objects, tmp_path, "--part", part) in (0, 6)
    assert sorted(p.name for p in tmp_path.glob("*.tar")) == sorted(p.name for p in data.glob("*.tar"))
    assert open_shards(tmp_path).names == open_shards(data).names


def test_invented_objects_need_no_folder(tmp_path):
    assert call("data", "render", "--procedural", 1, "-o", tmp_path, "--size", 16, "--views", 2, "--workers", 1) == 0
    assert open_shards(tmp_path).names == ("procedural_000000",)


def test_keep_all_keeps_what_the_filter_would_not_but_not_what_cannot_be_read(objects, tmp_path):
    assert render(objects, tmp_path, "--keep-all") == 0
    assert "plain" in open_shards(tmp_path).names and "broken" not in open_shards(tmp_path).names


def test_nothing_fit_is_an_error_that_says_where_to_look(tmp_path, capsys):
    (tmp_path / "objects").mkdir()
    (tmp_path / "objects" / "empty.ply").write_bytes(b"")
    assert render(tmp_path / "objects", tmp_path / "data") == 6
    assert "decisions.jsonl says why" in capsys.readouterr().err


def test_blender_is_asked_for_by_its_extra_before_anything_is_written(objects, tmp_path, capsys, monkeypatch):
    def missing(*_, **__):
        raise MissingPackageError('rendering by Cycles needs bpy; run: pip install "obverse[blender]"')

    monkeypatch.setattr("obverse.training.blender.need", missing)
    assert render(objects, tmp_path / "data", "--renderer", "blender") == 7
    assert "obverse[blender]" in capsys.readouterr().err and not (tmp_path / "data").exists()


@pytest.mark.parametrize("words", [("--renderer", "paint"), ("--part", "2/2"), ("--views", 1), ("--size", 4)])
def test_what_cannot_be_meant_is_refused(objects, tmp_path, words):
    assert render(objects, tmp_path / "data", *words) == 2


@pytest.mark.parametrize("text", ["", "1", "a/b", "-1/2", "3/3", "0/0"])
def test_parts_are_numbers_below_their_count(text):
    with pytest.raises(UsageError, match="K/N"):
        _part(text)
