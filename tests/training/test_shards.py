import json

import numpy as np
import pytest
import trimesh

from obverse.errors import InputError
from obverse.training.shards import finished, open_shards, shard_path, write_shard
from obverse.training.view_data import photograph_object


@pytest.fixture(scope="module")
def objects():
    meshes = {
        "box.v2": trimesh.creation.box((1, 0.5, 0.7)),
        "ball": trimesh.creation.icosphere(subdivisions=2, radius=0.5),
    }
    return [photograph_object(mesh, name, views=3, size=24) for name, mesh in meshes.items()]


@pytest.fixture
def shard(tmp_path, objects):
    return write_shard(shard_path(tmp_path, 0), objects, [{"id": "box.v2", "kept": True}])


def test_what_was_written_is_read_back(tmp_path, shard, objects):
    views = open_shards(tmp_path)
    assert sorted(views.names) == ["ball", "box.v2"] and [len(v) for v in views.objects] == [3, 3]
    number = views.names.index("box.v2")
    image = views.image(number, 2)
    assert image.shape == (24, 24, 4) and image.dtype == np.uint8 and 0 < (image[..., 3] > 0).mean() < 1
    record = objects[0].cameras[2]
    assert views.camera(number, 2) == (record["azimuth_deg"], record["elevation_deg"], record["distance"])
    assert open_shards(shard).names == views.names


def test_equal_views_give_equal_bytes(tmp_path, shard, objects):
    again = write_shard(shard_path(tmp_path / "other", 5), objects, [])
    assert again.read_bytes() == shard.read_bytes()


def test_a_shard_is_finished_when_its_decisions_are_there_and_its_bytes_are_all(tmp_path, shard):
    assert finished(shard) == [{"id": "box.v2", "kept": True}]
    assert finished(shard_path(tmp_path, 1)) is None
    shard.write_bytes(shard.read_bytes()[:-512])
    assert finished(shard) is None


def test_a_shard_cut_short_is_named(tmp_path, shard):
    shard.write_bytes(shard.read_bytes()[:3000])
    with pytest.raises(InputError, match=r"shard-000000\.tar is a damaged shard"):
        open_shards(tmp_path)
    shard.with_suffix(".jsonl").unlink()  # nothing but the tar itself can tell now
    with pytest.raises(InputError, match=r"shard-000000\.tar is a damaged shard"):
        open_shards(tmp_path)


def test_a_damaged_picture_and_a_damaged_camera_are_named_with_their_shard(tmp_path, shard):
    views = open_shards(tmp_path)
    ball = views.names.index("ball")
    place = views.objects[ball][1]
    data = bytearray(shard.read_bytes())
    data[place.png[0] : place.png[0] + 8] = b"not png!"
    data[place.camera[0]] = ord("[")
    shard.write_bytes(data)
    with pytest.raises(InputError, match=r"shard-000000.tar is damaged at ball/001.png"):
        views.image(ball, 1)
    with pytest.raises(InputError, match=r"shard-000000.tar is damaged at ball/001.json"):
        views.camera(ball, 1)
    assert views.image(ball, 0).shape == (24, 24, 4)  # the others are whole


def test_a_folder_without_shards_says_how_to_make_them(tmp_path):
    with pytest.raises(InputError, match="obverse data render"):
        open_shards(tmp_path)


def test_objects_of_one_view_are_no_use_for_pairs(tmp_path, objects):
    one = type(objects[0])("one", objects[0].pngs[:1], objects[0].cameras[:1])
    write_shard(shard_path(tmp_path, 0), [one, objects[1]], [])
    assert open_shards(tmp_path).names == ("ball",)
    write_shard(shard_path(tmp_path / "none", 0), [one], [])
    with pytest.raises(InputError, match="no object with two views"):
        open_shards(tmp_path / "none")


def test_decisions_are_lines_of_json(shard):
    rows = [json.loads(line) for line in shard.with_suffix(".jsonl").read_text().splitlines()]
    assert rows[-1] == {"shard": "shard-000000.tar", "objects": 2, "bytes": shard.stat().st_size}
