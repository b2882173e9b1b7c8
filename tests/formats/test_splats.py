"""Splat PLY and .splat: the records other programs expect, and the frames they are in."""

import numpy as np
import pytest
import torch

from obverse.errors import InputError, UsageError
from obverse.formats.meshes import write_mesh
from obverse.formats.ply import parse_ply, ply_bytes
from obverse.formats.splats import is_splat, read_splats, splat_bytes, splat_provenance, write_splats
from obverse.gaussians import Gaussians, covariances, sh_basis

from .shapes import POINTS, PROVENANCE, TOP, gaussians, plain_mesh

NAMES = ["x", "y", "z", "opacity", "scale_0", "scale_1", "scale_2", "rot_0", "rot_1", "rot_2", "rot_3"]


def body(data):
    return data[data.index(b"end_header\n") + 11 :]


def splat_ply(tmp_path, names, rows, form="binary_little_endian", dtype="<f4", kind="float"):
    """A PLY of float columns as another writer might make it."""
    header = [b"ply", f"format {form} 1.0".encode(), f"element vertex {len(rows)}".encode()]
    header += [f"property {kind} {name}".encode() for name in names] + [b"end_header\n"]
    rows = np.asarray(rows, dtype=np.float64)
    text = "\n".join(" ".join(f"{v:.9g}" for v in row) for row in rows).encode()
    path = tmp_path / "other.ply"
    path.write_bytes(b"\n".join(header) + (text if form == "ascii" else rows.astype(dtype).tobytes()))
    return path


def assert_same(found, expected, atol=1e-6):
    for name in ("means", "scales", "opacities", "sh"):
        np.testing.assert_allclose(getattr(found, name), getattr(expected, name), atol=atol, err_msg=name)
    np.testing.assert_allclose(covariances(found), covariances(expected), atol=atol)


def test_the_full_record_is_62_floats_in_the_canonical_order():
    data = splat_bytes(gaussians(degree=1), ".ply")
    assert len(body(data)) == 248 * 306
    names = list(parse_ply(data).elements["vertex"].columns)
    assert names[:9] == ["x", "y", "z", "nx", "ny", "nz", "f_dc_0", "f_dc_1", "f_dc_2"]
    assert names[9:54] == [f"f_rest_{i}" for i in range(45)]
    assert names[54:] == ["opacity", "scale_0", "scale_1", "scale_2", "rot_0", "rot_1", "rot_2", "rot_3"]


def test_the_compact_record_is_14_floats_for_plain_colours():
    assert len(body(splat_bytes(gaussians(), ".ply", form="compact"))) == 56 * 306


def test_encodings_are_logarithms_and_logits_in_a_flipped_frame():
    one = Gaussians(
        torch.tensor([[1.0, 2.0, 3.0]]),
        torch.tensor([[-0.5, 0.5, 0.5, -0.5]]),
        torch.tensor([[0.1, 0.2, 0.0]]),
        torch.tensor([0.75]),
        torch.tensor([[[0.3, -0.2, 0.1]]]),
    )
    row = np.frombuffer(body(splat_bytes(one, "ply", form="compact")), "<f4")
    np.testing.assert_allclose(row[:3], [1, -2, -3])
    np.testing.assert_allclose(row[3:6], [0.3, -0.2, 0.1])
    assert row[6] == pytest.approx(np.log(3))  # logit(3/4) = log(3)
    np.testing.assert_allclose(row[7:10], np.log([0.1, 0.2, 1e-8]), rtol=1e-6)
    np.testing.assert_allclose(row[10:], [0.5, -0.5, 0.5, -0.5])  # w made positive, then y and z turned


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
@pytest.mark.parametrize("form", ["full", "compact"])
@pytest.mark.parametrize("axes", ["opencv", "gltf"])
def test_ply_comes_back_as_it_was(tmp_path, degree, form, axes):
    before = gaussians(degree=degree)
    [path] = write_splats(before, tmp_path / "a.ply", form=form, axes=axes)
    assert_same(read_splats(path), before)


def test_the_frame_can_be_overruled(tmp_path):
    [path] = write_splats(gaussians(), tmp_path / "a.ply", axes="opencv")
    raw = read_splats(path, axes="gltf")
    np.testing.assert_allclose(raw.means[TOP], POINTS[TOP] * [1, -1, -1], atol=1e-6)


def test_flipped_harmonics_show_the_same_colour_from_the_same_side(tmp_path):
    before = gaussians(count=4, degree=3)
    [path] = write_splats(before, tmp_path / "a.ply", axes="opencv")
    raw = read_splats(path, axes="gltf")  # as a viewer that knows of no frame sees it
    directions = torch.nn.functional.normalize(torch.randn(7, 1, 3, generator=torch.Generator().manual_seed(1)), dim=-1)
    turned = directions * torch.tensor([1.0, -1.0, -1.0])
    seen = [torch.einsum("dnk,nkc->dnc", sh_basis(d, 3).expand(7, 10, 16), g.sh) for d, g in
            ((directions, before), (turned, raw))]  # fmt: skip
    np.testing.assert_allclose(seen[1], seen[0], atol=1e-5)
    axes = torch.diag(torch.tensor([1.0, -1.0, -1.0]))
    np.testing.assert_allclose(covariances(raw), axes @ covariances(before) @ axes, atol=1e-7)


def test_the_comment_says_which_frame_and_where_it_came_from(tmp_path):
    [path] = write_splats(gaussians(), tmp_path / "a.ply", provenance=PROVENANCE)
    header = path.read_bytes().split(b"end_header")[0].decode("ascii")
    assert "comment obverse-axes opencv (x, -y, -z)" in header
    assert splat_provenance(path) == PROVENANCE


def test_long_provenance_leaves_the_header_short_enough_for_web_viewers(tmp_path):
    long = {"method": "x", "settings": "y" * 20000, "seed": 1}
    [path] = write_splats(gaussians(), tmp_path / "a.ply", provenance=long)
    assert path.read_bytes().index(b"end_header") < 10240
    assert splat_provenance(path) == {"method": "x", "seed": 1, "omitted": ["settings"]}


def test_splat_records_are_32_bytes_and_the_most_visible_come_first():
    data = splat_bytes(gaussians(), ".splat")
    rows = np.frombuffer(data, [("p", "<f4", 3), ("s", "<f4", 3), ("rgba", "u1", 4), ("q", "u1", 4)])
    assert len(rows) == 306
    volume = rows["s"].astype(np.float64).prod(axis=1)
    visible, rounding = volume * rows["rgba"][:, 3] / 255, volume / 510
    assert (visible[1:] - rounding[1:] <= visible[:-1] + rounding[:-1]).all()  # opacity was rounded after sorting
    assert visible[0] > 20 * visible[-1]
    quats = (rows["q"].astype(float) - 128) / 128
    np.testing.assert_allclose(np.linalg.norm(quats, axis=1), 1, atol=0.02)


def test_other_byte_orders_number_types_and_orders_are_read(tmp_path):
    names = [*NAMES, "f_dc_0", "f_dc_1", "f_dc_2"]
    row = [1, 2, 3, 0, np.log(0.1), np.log(0.2), np.log(0.3), 2, 0, 0, 0, 0.1, 0.2, 0.3]
    order = np.random.default_rng(0).permutation(len(names))
    shuffled, values = [names[i] for i in order], [np.array(row)[order]]
    for form, dtype, kind in (
        ("binary_little_endian", "<f4", "float"),
        ("binary_big_endian", ">f8", "double"),
        ("ascii", None, "float32"),
    ):
        found = read_splats(splat_ply(tmp_path, shuffled, values, form, dtype, kind))
        np.testing.assert_allclose(found.means, [[1, -2, -3]])
        np.testing.assert_allclose(found.scales, [[0.1, 0.2, 0.3]], rtol=1e-6)
        np.testing.assert_allclose(found.quats, [[1, 0, 0, 0]])
        np.testing.assert_allclose(found.opacities, [0.5])
        np.testing.assert_allclose(found.sh, [[[0.1, 0.2, 0.3]]], rtol=1e-6)


def test_flat_gaussians_with_two_scales_are_read(tmp_path):
    names = [n for n in NAMES if n != "scale_2"] + ["f_dc_0", "f_dc_1", "f_dc_2"]
    found = read_splats(splat_ply(tmp_path, names, [[0, 0, 0, 0, -2, -3, 1, 0, 0, 0, 0, 0, 0]]))
    np.testing.assert_allclose(found.scales, [[np.exp(-2), np.exp(-3), 1e-8]], rtol=0.03)


def test_plain_red_green_blue_will_do(tmp_path):
    found = read_splats(splat_ply(tmp_path, [*NAMES, "red", "green", "blue"], [[0] * 7 + [1, 0, 0, 0, 1, 0.5, 0]]))
    np.testing.assert_allclose(found.colors, [[1, 0.5, 0]], atol=1e-6)


@pytest.mark.parametrize("rest", [1, 10, 12])
def test_an_impossible_number_of_harmonics_is_refused(tmp_path, rest):
    names = [*NAMES, "f_dc_0", "f_dc_1", "f_dc_2", *(f"f_rest_{i}" for i in range(rest))]
    path = splat_ply(tmp_path, names, [[0] * 7 + [1] + [0] * (6 + rest)])
    with pytest.raises(InputError, match=f"{rest} f_rest properties, expected 0, 9, 24 or 45"):
        read_splats(path)


def test_a_mesh_and_a_point_cloud_are_called_by_their_names(tmp_path):
    [mesh] = write_mesh(plain_mesh(), tmp_path / "mesh.ply")
    with pytest.raises(InputError, match=r"a mesh, not a splat.*read_mesh"):
        read_splats(mesh)
    with pytest.raises(InputError, match="a point cloud, not a splat"):
        read_splats(splat_ply(tmp_path, ["x", "y", "z"], [[0, 0, 0]]))


def test_is_splat_looks_into_a_ply(tmp_path):
    for form in ("full", "compact", "compressed"):
        assert is_splat(write_splats(gaussians(), tmp_path / "a.ply", form=form)[0])
    assert not is_splat(write_mesh(plain_mesh(), tmp_path / "a.ply")[0])
    assert is_splat("a.spz") and is_splat("a.SPLAT") and not is_splat("a.glb")


def test_scales_that_are_no_logarithms_are_suspected(tmp_path):
    names, one = [*NAMES, "f_dc_0", "f_dc_1", "f_dc_2"], [0, -1, 0.1, 0.2, 0.1, 1, 0, 0, 0, 0, 0, 0]
    rows = [[0, 0, *one], [0.5, 0, *one]]
    with pytest.warns(UserWarning, match="most scale_"):
        read_splats(splat_ply(tmp_path, names, rows))


def test_opacities_that_are_no_logits_are_suspected(tmp_path):
    names = [*NAMES, "f_dc_0", "f_dc_1", "f_dc_2"]
    rows = [[0, 0, 0, opacity, -3, -3, -3, 1, 0, 0, 0, 0, 0, 0] for opacity in (0.1, 0.9)]
    with pytest.warns(UserWarning, match="every opacity lies in 0–1"):
        read_splats(splat_ply(tmp_path, names, rows))


def test_our_own_files_are_not_suspected(tmp_path, recwarn):
    read_splats(write_splats(gaussians(), tmp_path / "a.ply")[0])
    assert not recwarn.list


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"means": torch.full((306, 3), torch.nan)}, "means has values that are not finite; call .*prune"),
        ({"sh": torch.full((306, 1, 3), torch.inf)}, "sh has values that are not finite"),
    ],
)
def test_numbers_that_are_not_finite_are_refused(tmp_path, change, message):
    g = gaussians()
    broken = Gaussians(**{**{k: getattr(g, k) for k in ("means", "quats", "scales", "opacities", "sh")}, **change})
    for name in ("a.ply", "a.splat", "a.spz"):
        with pytest.raises(InputError, match=message):
            write_splats(broken, tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_zero_quaternions_become_the_identity_and_zero_scales_stay_finite(tmp_path):
    g = gaussians(count=0)
    flat = Gaussians(g.means, torch.zeros(6, 4), torch.zeros(6, 3), torch.tensor([0, 1, 0, 1, 0, 1.0]), g.sh)
    for name in ("a.ply", "a.splat", "a.spz"):
        found = read_splats(write_splats(flat, tmp_path / name)[0])
        np.testing.assert_allclose(found.quats, [[1, 0, 0, 0]] * 6, atol=1e-6)
        assert sorted(found.opacities.round(decimals=4).tolist()) == [0, 0, 0, 1, 1, 1]


def test_nothing_and_batches_are_refused(tmp_path):
    g = gaussians()
    with pytest.raises(InputError, match="0 Gaussians"):
        write_splats(g[:0], tmp_path / "a.ply")
    batch = Gaussians(*(t[None] for t in (g.means, g.quats, g.scales, g.opacities, g.sh)))
    with pytest.raises(InputError, match="pick one"):
        write_splats(batch, tmp_path / "a.ply")


@pytest.mark.parametrize("options", [{"form": "tiny"}, {"axes": "unity"}])
def test_unknown_choices_are_named(tmp_path, options):
    with pytest.raises(UsageError, match=r"is not 'full'|is not 'opencv'"):
        write_splats(gaussians(), tmp_path / "a.ply", **options)
    with pytest.raises(UsageError, match=r"use one of \.ply, \.splat, \.spz"):
        write_splats(gaussians(), tmp_path / "a.obj")


@pytest.mark.parametrize("extension", ["ply", "splat", "spz"])
def test_the_same_gaussians_give_the_same_bytes(extension):
    first, second = (splat_bytes(gaussians(degree=2), extension, provenance=PROVENANCE) for _ in range(2))
    assert first == second


def test_writing_a_ply_element_keeps_its_bytes():
    data = b"".join(ply_bytes({"vertex": (["x", "y"], np.array([[1, 2], [3, 4]]))}, ["hello"]))
    assert body(data) == np.array([1, 2, 3, 4], "<f4").tobytes()
    assert parse_ply(data).comments == ["hello"]
