"""No damaged file makes a reader do anything but explain itself with an InputError."""

import warnings

import numpy as np
import pytest

from obverse.errors import InputError
from obverse.formats.meshes import read_mesh, write_mesh
from obverse.formats.splats import read_splats, write_splats
from obverse.formats.video import read_video, write_video

from .shapes import PROVENANCE, colored_mesh, gaussians, textured_mesh

MESHES = {
    "textured.glb": textured_mesh,
    "colored.glb": colored_mesh,
    "textured.obj": textured_mesh,
    "textured.3mf": textured_mesh,
    "textured.usdz": textured_mesh,
    "colored.ply": colored_mesh,
    "colored.stl": colored_mesh,
}
SPLATS = {
    "full.ply": "full",
    "compact.ply": "compact",
    "compressed.ply": "compressed",
    "a.splat": "full",
    "a.spz": "full",
}


def made(folder, name):
    """→ (a small valid file, its reader)."""
    if name in MESHES:
        return write_mesh(MESHES[name](), folder / name, provenance=PROVENANCE)[0], read_mesh
    if name in SPLATS:
        options = {"form": SPLATS[name], "provenance": PROVENANCE}
        return write_splats(gaussians(20, degree=1), folder / name, **options)[0], read_splats
    return write_video(np.random.default_rng(0).random((3, 8, 8, 3)), folder / name)[0], read_video


def damaged(data, rng, rounds):
    """Cut, flipped, overwritten with extreme numbers, with a piece missing or doubled."""
    size = len(data)
    for length in {0, 1, 3, 12, 20, 84, size // 2, size - 1}:
        yield data[: min(length, size - 1)]
    extremes = [b"\xff" * 4, b"\0" * 4, b"\x7f\xff\xff\xff", b"\xff\xff\xff\x7f", b"nan ", b"1e99", b"-999", b"9999"]
    for i in range(rounds):
        copy = bytearray(data)
        # half of the damage goes to the first kilobyte, where headers are
        where = int(rng.integers(min(1024, size) if i % 2 else size))
        kind = i % 4
        if kind == 0:
            copy[where] ^= 1 << int(rng.integers(8))
        elif kind == 1:
            copy[where : where + 4] = extremes[int(rng.integers(len(extremes)))]
        elif kind == 2:
            del copy[where : where + int(rng.integers(1, 64))]
        else:
            copy[where:where] = copy[where : where + int(rng.integers(1, 64))]
        yield bytes(copy)


@pytest.mark.parametrize("name", [*MESHES, *SPLATS, "a.webp", "a.gif"])
def test_damage_is_an_input_error_or_harmless(tmp_path, name):
    path, reader = made(tmp_path, name)
    data = path.read_bytes()
    refused = 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for broken in damaged(data, np.random.default_rng(7), 200):
            path.write_bytes(broken)
            try:
                reader(path)
            except InputError as error:
                refused += 1
                assert str(path) in str(error) and len(str(error)) > len(str(path)) + 20
    assert refused >= 4


def test_a_damaged_mp4_is_an_input_error(tmp_path):
    pytest.importorskip("imageio_ffmpeg", reason="needs imageio-ffmpeg")
    path, _ = made(tmp_path, "a.mp4")
    data = path.read_bytes()
    for broken in (data[:40], b"\0" * 500, data[len(data) // 2 :]):
        path.write_bytes(broken)
        with pytest.raises(InputError, match=r"a\.mp4"):
            read_video(path)


@pytest.mark.parametrize("name", [*MESHES, *SPLATS, "a.webp", "a.gif"])
def test_one_format_under_anothers_name_is_an_input_error(tmp_path, name):
    path, reader = made(tmp_path, name)
    for content in (b"hello, I am text\n" * 10, b"\x89PNG\r\n\x1a\n" + bytes(100), b"\xff" * 333):
        path.write_bytes(content)
        with pytest.raises(InputError):
            reader(path)


@pytest.mark.parametrize(
    "header",
    [
        "element vertex 99999999999999999\nproperty float x",
        "element vertex 999999999999999999999999\nproperty float x",
        "element vertex -4\nproperty float x",
        "element vertex 3\nproperty quaternion x",
        "element vertex 3\nproperty float x\nproperty float x",
        "property float x",
        "element face 4000000000\nproperty list uchar int vertex_indices",
        "element face 1\nproperty list int int vertex_indices",
        "element vertex 1000000000\nelement face 1000000000",
        "element",
    ],
)
@pytest.mark.parametrize("form", ["binary_little_endian", "binary_big_endian", "ascii", "middle_endian"])
def test_absurd_ply_headers_are_refused_at_once(tmp_path, header, form):
    path = tmp_path / "a.ply"
    path.write_bytes(f"ply\nformat {form} 1.0\n{header}\nend_header\n".encode() + b"\xff" * 64)
    for reader in (read_mesh, read_splats):
        with pytest.raises(InputError, match=r"a\.ply"):
            reader(path)


def test_ragged_polygons_are_read_and_cut_ones_refused(tmp_path):
    head = (
        "ply\nformat binary_little_endian 1.0\nelement vertex 5\nproperty float x\nproperty float y\nproperty float z\n"
    )
    head += "element face 2\nproperty list uchar int vertex_indices\nend_header\n"
    points = np.array([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0], [0, 2, 0]], "<f4").tobytes()
    faces = b"\4" + np.array([0, 1, 2, 3], "<i4").tobytes() + b"\3" + np.array([3, 2, 4], "<i4").tobytes()
    path = tmp_path / "a.ply"
    path.write_bytes(head.encode() + points + faces)
    assert read_mesh(path).faces.tolist() == [[0, 1, 2], [0, 2, 3], [3, 2, 4]]
    path.write_bytes(head.encode() + points + faces[:-3])
    with pytest.raises(InputError, match="ends inside element 'face'"):
        read_mesh(path)
