import json
import zipfile

import numpy as np
import pytest
import trimesh

from obverse.cameras import orbit
from obverse.errors import InputError, OutputError
from obverse.formats.meshes import write_mesh
from obverse.render.triangles import render_mesh
from obverse.training.objects import find_objects, load_object
from obverse.training.packs import COLUMNS, FORMAT, pack, packed, unpack, unpack_one
from obverse.training.procedural import procedural_object


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("objects")
    write_mesh(procedural_object(1), folder / "a.glb")
    painted = trimesh.creation.icosphere(2)
    painted.visual.vertex_colors = np.tile(np.array([10, 200, 30, 255], np.uint8), (len(painted.vertices), 1))
    write_mesh(painted, folder / "b.glb")
    write_mesh(trimesh.creation.box((1, 1, 0.003)), folder / "card.glb")
    return folder


@pytest.fixture(scope="module")
def file(folder, tmp_path_factory):
    path = tmp_path_factory.mktemp("pack") / "objects.pack"
    assert set(pack(find_objects(folder), path)) == {"card"}
    return path


def test_what_was_packed_looks_the_same(folder, file):
    camera = orbit([30.0], 20.0, size=64)
    found = list(unpack(file))
    assert [row["id"] for row, _ in found] == ["a", "b"]
    for row, mesh in found:
        before = render_mesh(load_object(folder / f"{row['id']}.glb"), camera, shading="unlit")
        assert (render_mesh(mesh, camera, shading="unlit") - before).abs().mean() < 0.01


def test_the_index_is_read_without_the_objects(file):
    assert [row["id"] for row in packed(file)] == ["a", "b"]
    assert packed(file)[0]["group"] == "modelled"


def test_one_object_is_found_by_name_or_refused(file):
    assert len(unpack_one(file, "b").faces) == 320
    with pytest.raises(InputError, match="lists what it holds"):
        unpack_one(file, "c")


def test_packing_twice_gives_the_same_bytes(folder, file, tmp_path):
    pack(find_objects(folder), tmp_path / "again.pack")
    assert (tmp_path / "again.pack").read_bytes() == file.read_bytes()


def test_another_file_is_no_pack(tmp_path):
    (tmp_path / "x.pack").write_bytes(b"hello")
    with pytest.raises(InputError, match="obverse train pack"):
        packed(tmp_path / "x.pack")


def test_a_pack_cut_short_or_damaged_is_named(file, tmp_path):
    whole = file.read_bytes()
    (tmp_path / "cut.pack").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="no pack"):
        packed(tmp_path / "cut.pack")
    (tmp_path / "bent.pack").write_bytes(whole[:200] + bytes([whole[200] ^ 255]) + whole[201:])
    with pytest.raises(InputError, match="damaged at 'a'"):
        unpack_one(tmp_path / "bent.pack", "a")


@pytest.mark.parametrize(
    "objects", [[{"id": "a"}], [], [dict.fromkeys(COLUMNS, "../a")], [dict.fromkeys(COLUMNS, "a")] * 2]
)
def test_an_index_of_odd_rows_is_refused_and_an_empty_one_is_empty(objects, tmp_path):
    with zipfile.ZipFile(tmp_path / "odd.pack", "w") as archive:
        archive.writestr("index.json", json.dumps({"format": FORMAT, "objects": objects}))
    if objects:
        with pytest.raises(InputError, match="obverse train pack"):
            packed(tmp_path / "odd.pack")
    else:
        assert packed(tmp_path / "odd.pack") == []


def test_a_pack_of_nothing_is_not_written_and_neither_is_one_over_a_folder(tmp_path, folder):
    card = [item for item in find_objects(folder) if item.id == "card"]
    with pytest.raises(InputError, match="none of 1 objects"):
        pack(card, tmp_path / "none.pack")
    (tmp_path / "taken").mkdir()
    with pytest.raises(OutputError):
        pack(find_objects(folder), tmp_path / "taken")
    assert [p.name for p in tmp_path.iterdir()] == ["taken"]
