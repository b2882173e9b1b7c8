"""SPZ: written as version 3, and versions 1 to 4 built here from the specification."""

import gzip
import struct

import numpy as np
import pytest
import torch

from obverse.errors import InputError
from obverse.formats.splats import read_splats, splat_bytes, write_splats
from obverse.gaussians import SH_C0, Gaussians, covariances

from .shapes import gaussians

# One splat: position (1, −2, 0.5), opacity 1/5, a colour, scales e^(8/16 − 10 + …), a turn about x
FIXED = b"".join(int(v * 4096).to_bytes(3, "little", signed=True) for v in (1, -2, 0.5))
ALPHA, COLOR, SCALE = bytes([51]), bytes([255, 128, 0]), bytes([160, 144, 128])
TURN = [0.6, 0.8, 0, 0]  # wxyz
XYZ = bytes([round(0.8 * 127.5 + 127.5), 128, 128])
# smallest three, order x y z w: x is the largest (index 0), then y, z, w with a sign and nine bits each
SMALLEST = struct.pack("<I", int(511 * 0.6 * 2**0.5 + 0.5))


def header(version, count=1, degree=0, bits=12):
    return struct.pack("<3I4B", 0x5053474E, version, count, degree, bits, 0, 0)


def legacy(version):
    position = np.array([1, -2, 0.5], "<f2").tobytes() if version == 1 else FIXED
    return gzip.compress(header(version) + position + ALPHA + COLOR + SCALE + (SMALLEST if version == 3 else XYZ))


def modern(streams, degree=0, count=1, gap=b""):
    zstandard = pytest.importorskip("zstandard", reason="needs zstandard")
    packed = [zstandard.compress(stream) for stream in streams]
    toc = b"".join(struct.pack("<2Q", len(p), len(s)) for p, s in zip(packed, streams, strict=True))
    head = struct.pack("<3I4BI", 0x5053474E, 4, count, degree, 12, 0, len(streams), 32 + len(gap))
    return head.ljust(32, b"\0") + gap + toc + b"".join(packed)


def check_one(found):
    assert len(found) == 1
    np.testing.assert_allclose(found.means, [[1, -2, 0.5]])
    np.testing.assert_allclose(found.opacities, [0.2])
    np.testing.assert_allclose(found.scales, np.exp([[0.0, -1.0, -2.0]]), rtol=1e-6)
    np.testing.assert_allclose(found.quats, [TURN], atol=0.006)  # 1/127.5 a step, more in w, which is derived
    # (c / 255 − 1/2) / 0.15 is the coefficient; 0.28209 of it the distance from grey
    grey = 0.5 + SH_C0 * (128 / 255 - 0.5) / 0.15
    np.testing.assert_allclose(0.5 + SH_C0 * found.sh[0, 0], [0.5 + SH_C0 / 0.3, grey, 0.5 - SH_C0 / 0.3], atol=1e-5)


@pytest.mark.parametrize("version", [1, 2, 3])
def test_gzip_versions_are_read(tmp_path, version):
    path = tmp_path / "a.spz"
    path.write_bytes(legacy(version))
    check_one(read_splats(path))


@pytest.mark.parametrize("gap", [b"", b"extension record"])
def test_version_4_is_read(tmp_path, gap):
    path = tmp_path / "a.spz"
    path.write_bytes(modern([FIXED, ALPHA, COLOR, SCALE, SMALLEST], gap=gap))
    check_one(read_splats(path))


def test_harmonics_are_coefficient_by_coefficient(tmp_path):
    levels = bytes(range(100, 109))
    for name, data in {
        "v3.spz": gzip.compress(header(3, degree=1) + FIXED + ALPHA + COLOR + SCALE + SMALLEST + levels),
        "v4.spz": modern([FIXED, ALPHA, COLOR, SCALE, SMALLEST, levels], degree=1),
    }.items():
        (tmp_path / name).write_bytes(data)
        sh = read_splats(tmp_path / name).sh[0, 1:]
        np.testing.assert_allclose(sh, (np.arange(100, 109).reshape(3, 3) - 128) / 128)


def test_harmonics_of_degree_4_are_cut_with_a_warning(tmp_path):
    path = tmp_path / "a.spz"
    path.write_bytes(gzip.compress(header(3, degree=4) + FIXED + ALPHA + COLOR + SCALE + SMALLEST + bytes(72)))
    with pytest.warns(UserWarning, match="degree 4"):
        assert read_splats(path).sh_degree == 3


def test_the_record_written_is_version_3_in_the_world_frame():
    one = Gaussians(
        torch.tensor([[1.0, -2.0, 0.5]]),
        torch.tensor([TURN]),
        torch.tensor([[1.0, np.exp(-1), np.exp(-2)]], dtype=torch.float32),
        torch.tensor([0.2]),
        torch.tensor([[[1 / 0.3, 0.5 / 255 / 0.15, -1 / 0.3]]]),
    )
    data = splat_bytes(one, "spz", axes="opencv")
    assert data[4:8] == bytes(4)  # no date in the gzip header
    assert gzip.decompress(data) == header(3) + FIXED + ALPHA + COLOR + SCALE + SMALLEST


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
def test_everything_comes_back_within_its_quantisation(tmp_path, degree):
    before = gaussians(degree=degree)
    found = read_splats(write_splats(before, tmp_path / "a.spz")[0])
    np.testing.assert_allclose(found.means, before.means, atol=0.5 / 4096 + 1e-7)
    np.testing.assert_allclose(found.scales, before.scales, rtol=0.033)  # e^(1/32) − 1
    np.testing.assert_allclose(found.opacities, before.opacities, atol=0.5 / 255 + 1e-6)
    np.testing.assert_allclose(found.colors, before.colors, atol=0.0038)  # 0.28209 / (0.15 · 510)
    np.testing.assert_allclose((found.quats * before.quats).sum(-1).abs(), 1, atol=1e-5)  # w near 0 may change sign
    np.testing.assert_allclose(covariances(found), covariances(before), atol=4e-5)
    np.testing.assert_allclose(
        found.sh[:, 1:4], before.sh[:, 1:4], atol=4.5 / 128 + 1e-6
    )  # rounded to 1/128, then to 5 bits
    np.testing.assert_allclose(found.sh[:, 4:], before.sh[:, 4:], atol=8.5 / 128 + 1e-6)


def test_objects_beyond_the_fixed_range_get_fewer_fraction_bits(tmp_path):
    g = gaussians(count=0)
    far = Gaussians(g.means * 20000, g.quats, g.scales, g.opacities, g.sh)
    found = read_splats(write_splats(far, tmp_path / "a.spz")[0])
    np.testing.assert_allclose(found.means, far.means, atol=0.5 / 512)  # 10,000 · 2⁹ < 2²³


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"hello there", "neither"),
        (gzip.compress(b"short"), "cut off"),
        (gzip.compress(bytes(16)), "magic 0x0"),
        (gzip.compress(header(7)), "version 7"),
        (gzip.compress(header(3, count=0)), "promises 0 splats"),
        (gzip.compress(header(3, count=2**32 - 1)), "4294967295 splats"),
        (gzip.compress(header(3, count=2**26)), "cut off or damaged"),
        (gzip.compress(header(3, degree=9)), "degree 9"),
        (gzip.compress(header(3) + FIXED), "holds 9 of 20"),
        (b"NGSP", "4 bytes"),
        (header(4).ljust(32, b"\0"), "0 streams, expected 5"),
        (header(5).ljust(32, b"\0"), "version 5"),
    ],
)
def test_broken_files_are_explained(tmp_path, data, message):
    path = tmp_path / "a.spz"
    path.write_bytes(data)
    with pytest.raises(InputError, match=message):
        read_splats(path)


def test_a_stream_that_unpacks_to_another_size_is_refused(tmp_path):
    path = tmp_path / "a.spz"
    path.write_bytes(modern([FIXED + b"!", ALPHA, COLOR, SCALE, SMALLEST]))
    with pytest.raises(InputError, match=r"stream 0 .* has 10 bytes, expected 9"):
        read_splats(path)
