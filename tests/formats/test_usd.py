"""USDZ: aligned, opened and approved by OpenUSD, and read back."""

import io
import struct
import zipfile

import numpy as np
import pytest

from obverse.errors import InputError
from obverse.formats.meshes import mesh_bytes, read_mesh, write_mesh
from obverse.formats.texts import zip_entry

from .shapes import COLORS, MESHES, POINTS, PROVENANCE, TOP, landmarks, mesh_colors, textured_mesh


@pytest.mark.parametrize("kind", MESHES)
@pytest.mark.parametrize("note", range(0, 64, 7))
def test_every_file_starts_on_a_64_byte_boundary(kind, note):
    data = mesh_bytes(MESHES[kind](), "usdz", provenance={"n": "x" * note})
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        entries = archive.infolist()
        assert entries[0].filename == "object.usda"
        assert len(entries) == (2 if kind == "textured" else 1)
        for entry in entries:
            assert entry.compress_type == zipfile.ZIP_STORED
            name, extra = struct.unpack_from("<2H", data, entry.header_offset + 26)
            start = entry.header_offset + 30 + name + extra
            assert start % 64 == 0
            assert data[start : start + 4] == archive.read(entry)[:4]


@pytest.mark.parametrize("kind", MESHES)
def test_openusd_opens_it_and_no_validator_complains(tmp_path, kind):
    pytest.importorskip("pxr", reason="needs usd-core")
    from pxr import Usd, UsdGeom, UsdValidation

    [path] = write_mesh(MESHES[kind](), tmp_path / "a.usdz", provenance=PROVENANCE, height_m=0.8)
    stage = Usd.Stage.Open(str(path))
    assert (UsdGeom.GetStageUpAxis(stage), UsdGeom.GetStageMetersPerUnit(stage)) == ("Y", 1.0)
    mesh = UsdGeom.Mesh(stage.GetDefaultPrim().GetChild("mesh"))
    points = np.array(mesh.GetPointsAttr().Get())
    np.testing.assert_allclose(points[points[:, 1].argmax()], POINTS[TOP], atol=1e-6)
    validators = UsdValidation.ValidationRegistry().GetOrLoadAllValidators()
    assert len(validators) > 10
    errors = UsdValidation.ValidationContext(validators).Validate(stage)
    assert [(error.GetName(), error.GetMessage()) for error in errors] == []


def foreign_package(path, *, up="Z", per_unit=0.01):
    """A binary layer by OpenUSD itself: Z up, centimetres, one quad and one triangle, coloured per face."""
    pytest.importorskip("pxr", reason="needs usd-core")
    from pxr import Gf, Usd, UsdGeom, UsdUtils

    stage = Usd.Stage.CreateNew(str(path.with_suffix(".usdc")))
    UsdGeom.SetStageUpAxis(stage, up)
    UsdGeom.SetStageMetersPerUnit(stage, per_unit)
    root = UsdGeom.Xform.Define(stage, "/root")
    root.AddTranslateOp().Set(Gf.Vec3d(0, 0, 100))
    stage.SetDefaultPrim(root.GetPrim())
    mesh = UsdGeom.Mesh.Define(stage, "/root/mesh")
    mesh.CreatePointsAttr([(0, 0, 0), (100, 0, 0), (100, 100, 0), (0, 100, 0), (0, 0, 100)])
    mesh.CreateFaceVertexCountsAttr([4, 3])
    mesh.CreateFaceVertexIndicesAttr([0, 1, 2, 3, 0, 4, 1])
    color = UsdGeom.PrimvarsAPI(mesh).CreatePrimvar("displayColor", _color_type(), "uniform")
    color.Set([(1, 0, 0), (0, 0, 1)])
    stage.Save()
    assert UsdUtils.CreateNewUsdzPackage(str(path.with_suffix(".usdc")), str(path))
    return path


def _color_type():
    from pxr import Sdf

    return Sdf.ValueTypeNames.Color3fArray


def test_binary_packages_of_others_are_turned_up_and_into_metres(tmp_path):
    mesh = read_mesh(foreign_package(tmp_path / "other.usdz"))
    assert len(mesh.faces) == 3
    np.testing.assert_allclose(mesh.bounds, [[0, 1, -1], [1, 2, 0]], atol=1e-6)
    assert {tuple(c) for c in mesh.visual.vertex_colors.tolist()} == {(255, 0, 0, 255), (0, 0, 255, 255)}


def test_openusd_and_our_own_parser_read_the_same(tmp_path):
    pytest.importorskip("pxr", reason="needs usd-core")
    from obverse.formats.mesh_arrays import to_trimesh
    from obverse.formats.usd import read_with_openusd

    for make in MESHES.values():
        data = mesh_bytes(make(), "usdz", provenance=PROVENANCE)
        other = to_trimesh(read_with_openusd(data, tmp_path / "a.usdz"))
        assert other.metadata["provenance"] == PROVENANCE
        assert other.volume == pytest.approx(make().volume, rel=1e-5)
        if make().visual.kind is not None:
            _, top, _, _ = landmarks(other.vertices, mesh_colors(other))
            np.testing.assert_allclose(top, COLORS[TOP], atol=0.5)


def test_a_layer_that_was_cut_is_explained(tmp_path):
    data = mesh_bytes(textured_mesh(), "usdz")
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        layer = archive.read("object.usda")
    path = tmp_path / "a.usdz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(zip_entry("object.usda", compress=False), layer[: layer.index(b"points = [") + 30])
    with pytest.raises(InputError, match="point3f"):
        read_mesh(path)
