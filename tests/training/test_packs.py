import numpy as np
import pytest
import trimesh

from obverse.cameras import orbit
from obverse.errors import InputError
from obverse.formats.meshes import write_mesh
from obverse.render.triangles import render_mesh
from obverse.training.objects import find_objects, load_object
from obverse.training.packs import pack, packed, unpack, unpack_one
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
    for row, mesh in unpack(file):
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
