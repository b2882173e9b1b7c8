"""Files appear whole or not at all, and what goes wrong is said."""

import os

import numpy as np
import pytest
import torch

from obverse.errors import InputError, OutputError
from obverse.formats import files, meshes
from obverse.formats.files import (
    atomic_path,
    atomic_write,
    atomic_write_all,
    parse_provenance,
    provenance_text,
    reading,
)

from .shapes import textured_mesh


def test_a_file_is_written_and_its_folder_made(tmp_path):
    path = atomic_write(tmp_path / "new" / "deep" / "a.bin", b"one", bytearray(b"two"), memoryview(b"three"))
    assert path.read_bytes() == b"onetwothree"
    assert [p.name for p in path.parent.iterdir()] == ["a.bin"]


def test_a_failure_leaves_the_old_file_and_no_debris(tmp_path):
    path = atomic_write(tmp_path / "a.bin", b"old")
    with pytest.raises(RuntimeError, match="stop"), atomic_path(path) as temporary:
        temporary.write_bytes(b"half")
        raise RuntimeError("stop")
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.bin"]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full, a disk that is always full")
def test_a_full_disk_is_an_output_error_with_a_remedy():
    with pytest.raises(OutputError, match=r"/dev/full could not be written: No space left.*free some space"):
        atomic_write("/dev/full", bytes(1 << 20))
    assert os.path.exists("/dev/full")


def test_a_folder_of_that_name_is_an_output_error(tmp_path):
    (tmp_path / "a.glb").mkdir()
    with pytest.raises(OutputError, match="a folder of that name exists"):
        meshes.write_mesh(textured_mesh(), tmp_path / "a.glb")
    assert [p.name for p in tmp_path.iterdir()] == ["a.glb"]


def test_a_file_where_a_folder_should_be_is_an_output_error(tmp_path):
    (tmp_path / "a").write_bytes(b"")
    with pytest.raises(OutputError, match="could not be written"):
        atomic_write(tmp_path / "a" / "b.glb", b"x")


@pytest.mark.parametrize("name", ["x\0y", "n" * 300])
def test_impossible_names_are_output_errors(tmp_path, name):
    with pytest.raises(OutputError, match="could not be written"):
        atomic_write(tmp_path / name, b"x")
    assert list(tmp_path.iterdir()) == []


def test_of_several_files_none_appears_unless_all_are_complete(tmp_path, monkeypatch):
    (tmp_path / "a.png").mkdir()  # the third of an OBJ's files cannot be written
    with pytest.raises(OutputError, match=r"a\.png"):
        meshes.write_mesh(textured_mesh(), tmp_path / "a.obj")
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]


def test_the_named_file_appears_last(tmp_path, monkeypatch):
    order = []
    replace = os.replace
    monkeypatch.setattr(files.os, "replace", lambda a, b: (order.append(b.name), replace(a, b)))
    atomic_write_all({tmp_path / "a.obj": [b"1"], tmp_path / "a.mtl": [b"2"], tmp_path / "a.png": [b"3"]})
    assert order == ["a.png", "a.mtl", "a.obj"]


def test_a_link_survives_and_its_target_is_replaced(tmp_path):
    target = atomic_write(tmp_path / "target.bin", b"old")
    link = tmp_path / "link.bin"
    link.symlink_to(target)
    atomic_write(link, b"new")
    assert link.is_symlink() and target.read_bytes() == b"new"


def test_permissions_follow_the_users_mask(tmp_path):
    mask = os.umask(0o022)
    try:
        assert atomic_write(tmp_path / "a.bin", b"x").stat().st_mode & 0o777 == 0o644
    finally:
        os.umask(mask)


def test_missing_and_empty_files_are_explained(tmp_path):
    (tmp_path / "empty.glb").write_bytes(b"")
    with pytest.raises(InputError, match=r"empty\.glb is empty"):
        meshes.read_mesh(tmp_path / "empty.glb")
    with pytest.raises(InputError, match=r"none\.glb could not be read: No such file"):
        meshes.read_mesh(tmp_path / "none.glb")
    with pytest.raises(InputError, match="could not be read"):
        files.read_bytes("a\0b")


def test_whatever_a_parser_raises_names_the_file():
    with (
        pytest.raises(InputError, match=r"^x\.foo is not a readable FOO file \(list index out of range\)"),
        reading("x.foo", "FOO"),
    ):
        _ = [][0]
    with pytest.raises(InputError, match=r"^x\.foo: too small; enlarge it$"), reading("x.foo", "FOO"):
        raise InputError("too small; enlarge it")


def test_an_interrupt_is_not_swallowed():
    with pytest.raises(KeyboardInterrupt), reading("x.foo", "FOO"):
        raise KeyboardInterrupt


def test_provenance_is_one_sorted_ascii_line():
    text = provenance_text({"b": "é\n", "a": np.float32(0.5), "c": torch.tensor([1, 2]), "d": float("nan")})
    assert text == '{"a":0.5,"b":"\\u00e9\\n","c":[1,2],"d":null}'
    assert parse_provenance(text) == {"a": 0.5, "b": "é\n", "c": [1, 2], "d": None}
    assert provenance_text(None) == ""


def test_provenance_that_is_no_json_is_refused():
    with pytest.raises(InputError, match="cannot be written as JSON"):
        provenance_text({"a": object()})
    assert parse_provenance("not json") == {} == parse_provenance("[1]")


def test_the_longest_entries_are_left_out_and_named():
    text = provenance_text({"a": "x" * 50, "b": "y" * 40, "c": 1}, limit=60)
    assert parse_provenance(text) == {"c": 1, "omitted": ["a", "b"]}
