"""STL and 3MF: millimetres, upright, closed."""

import io
import re
import struct
import zipfile

import numpy as np
import pytest
import trimesh

from obverse.errors import InputError
from obverse.formats.meshes import mesh_bytes, read_mesh, write_mesh
from obverse.formats.printing import parse_stl
from obverse.formats.texts import zip_bytes
from obverse.formats.threemf import parse_3mf

from .shapes import POINTS, TOP, colored_mesh, is_welded_closed, plain_mesh, textured_mesh

CORE = "http://schemas.microsoft.com/3dmanufacturing/core/2015/02"
RELATION = (
    '<Relationships xmlns="http://schemas.openxmlformats.org/package/2006/relationships"><Relationship Id="r" '
    'Target="/3D/m.model" Type="http://schemas.microsoft.com/3dmanufacturing/2013/01/3dmodel"/></Relationships>'
)
TETRAHEDRON = (
    '<mesh><vertices><vertex x="0" y="0" z="0"/><vertex x="10" y="0" z="0"/><vertex x="0" y="10" z="0"/>'
    '<vertex x="0" y="0" z="10"/></vertices><triangles><triangle v1="0" v2="2" v3="1"/><triangle v1="0" v2="1" v3="3"/>'
    '<triangle v1="1" v2="2" v3="3"/><triangle v1="2" v2="0" v3="3"/></triangles></mesh>'
)


def package(resources, build, unit="millimeter", head=""):
    model = (
        f'{head}<model xmlns="{CORE}" unit="{unit}"><resources>{resources}</resources><build>{build}</build></model>'
    )
    return zip_bytes({"_rels/.rels": RELATION.encode(), "3D/m.model": model.encode()})


def stl_corners(data):
    count = struct.unpack_from("<I", data, 80)[0]
    assert len(data) == 84 + 50 * count
    record = np.dtype([("n", "<f4", 3), ("c", "<f4", (3, 3)), ("a", "<u2")])
    return np.frombuffer(data, record, count, 84)


def test_stl_stands_upright_at_the_print_height():
    corners = stl_corners(mesh_bytes(textured_mesh(), "stl", print_height_mm=80))["c"].reshape(-1, 3)
    assert np.ptp(corners[:, 2]) == pytest.approx(80)  # 0.8 units high → 100 mm a unit
    top = corners[corners[:, 2].argmax()]
    x, y, z = POINTS[TOP] * 100
    np.testing.assert_allclose(top, [x, -z, y], atol=1e-5)  # the front, +Z, faces the front of the bed, −Y


def test_stl_normals_follow_the_winding():
    rows = stl_corners(mesh_bytes(plain_mesh(), "stl"))
    cross = np.cross(rows["c"][:, 1] - rows["c"][:, 0], rows["c"][:, 2] - rows["c"][:, 0])
    np.testing.assert_allclose(rows["n"], cross / np.linalg.norm(cross, axis=1, keepdims=True), atol=1e-5)


def test_a_real_height_sets_the_print_height():
    corners = stl_corners(mesh_bytes(plain_mesh(), "stl", height_m=0.12))["c"].reshape(-1, 3)
    assert np.ptp(corners[:, 2]) == pytest.approx(120, rel=1e-6)


def test_the_stl_header_cannot_be_mistaken_for_text():
    assert not mesh_bytes(plain_mesh(), "stl").startswith(b"solid")


def test_foreign_stl_is_millimetres_with_z_up_in_binary_and_text():
    triangle = np.array([[0, 0, 0], [1000, 0, 0], [0, 0, 1000]], "<f4")
    binary = bytes(80) + struct.pack("<I", 1) + bytes(12) + triangle.tobytes() + bytes(2)
    lines = "".join(f"vertex {x} {y} {z}\n" for x, y, z in triangle)
    text = f"solid x\nfacet normal 0 0 0\nouter loop\n{lines}endloop\nendfacet\nendsolid x\n".encode()
    for data in (binary, text):
        found = parse_stl(data)
        rows = {tuple(row) for row in found.vertices.tolist()}
        assert rows == {(0, 0, 0), (1, 0, 0), (0, 1, 0)}


@pytest.mark.parametrize(
    "data", [bytes(84), bytes(200), b"solid nothing\nendsolid", bytes(80) + b"\xff\xff\xff\xff" * 20]
)
def test_broken_stls_are_explained(data):
    with pytest.raises(InputError, match="STL"):
        parse_stl(data)


def test_an_open_mesh_is_written_with_a_warning(tmp_path):
    mesh = trimesh.Trimesh(plain_mesh().vertices, plain_mesh().faces[1:], process=False)
    for name in ("a.stl", "a.3mf"):
        with pytest.warns(UserWarning, match="not closed"):
            write_mesh(mesh, tmp_path / name)


@pytest.mark.parametrize("make", [textured_mesh, colored_mesh, plain_mesh])
def test_3mf_shares_positions_and_stands_on_the_bed(make):
    with zipfile.ZipFile(io.BytesIO(mesh_bytes(make(), "3mf", print_height_mm=80))) as archive:
        model = archive.read("3D/3dmodel.model").decode()
        assert archive.testzip() is None
        assert archive.namelist()[0] == "[Content_Types].xml"
    assert model.count("<vertex ") == 6  # seven in the textured mesh, before welding
    assert 'unit="millimeter"' in model
    place = [float(v) for v in re.search(r'transform="1 0 0 0 1 0 0 0 1 ([^"]*)"', model)[1].split()]
    assert place == pytest.approx([50, 30, 35])  # minus the least x, y and z in millimetres


def test_foreign_3mf_units_transforms_and_components_are_applied():
    resources = f'<object id="1">{TETRAHEDRON}</object>'
    component = '<component objectid="1" transform="1 0 0 0 1 0 0 0 1 0 0 90"/>'
    resources += f'<object id="2"><components>{component}</components></object>'
    item = '<item objectid="2" transform="2 0 0 0 2 0 0 0 2 0 0 0"/>'
    found = parse_3mf(package(resources, item, unit="centimeter"))
    # highest corner: z = (10 + 90) · 2 cm = 2 m, which is up; depth y = 20 cm becomes −z
    np.testing.assert_allclose(found.vertices.max(axis=0), [0.2, 2.0, 0], atol=1e-6)
    np.testing.assert_allclose(found.vertices.min(axis=0), [0, 1.8, -0.2], atol=1e-6)
    assert trimesh.Trimesh(found.vertices, found.faces).volume > 0


def test_base_materials_become_colours():
    materials = '<basematerials id="5"><base name="r" displaycolor="#FF0000"/><base name="g" displaycolor="#00FF0080"/>'
    resources = f'{materials}</basematerials><object id="1" pid="5" pindex="1">{TETRAHEDRON}</object>'
    found = parse_3mf(package(resources, '<item objectid="1"/>'))
    assert found.colors.tolist() == [[0, 255, 0, 128]] * 4


@pytest.mark.parametrize(
    ("resources", "build", "message"),
    [
        ("", "", "builds no object"),
        ("", '<item objectid="1"/>', "builds object '1'"),
        ('<object id="1"><components><component objectid="1"/></components></object>',
         '<item objectid="1"/>', "circle"),
        (f'<object id="1">{TETRAHEDRON.replace("v1=" + chr(34) + "0", "v1=" + chr(34) + "9")}</object>',
         '<item objectid="1"/>', "names vertex 9 of 4"),
    ],
)  # fmt: skip
def test_broken_3mfs_are_explained(resources, build, message):
    with pytest.raises(InputError, match=message):
        parse_3mf(package(resources, build))


def test_xml_entities_are_refused():
    data = package("", "", head='<!DOCTYPE x [<!ENTITY a "b">]>')
    with pytest.raises(InputError, match="entities"):
        parse_3mf(data)


def test_a_zip_of_something_else_is_no_3mf(tmp_path):
    path = tmp_path / "a.3mf"
    path.write_bytes(zip_bytes({"readme.txt": b"hello"}))
    with pytest.raises(InputError, match=r"a\.3mf.*'_rels/\.rels'"):
        read_mesh(path)


def test_both_come_back_as_they_were(tmp_path):
    for name in ("a.stl", "a.3mf"):
        mesh = read_mesh(write_mesh(plain_mesh(), tmp_path / name, print_height_mm=37)[0])
        assert is_welded_closed(mesh)
        order = [np.lexsort(np.round(points, 5).T) for points in (mesh.vertices, POINTS)]
        np.testing.assert_allclose(mesh.vertices[order[0]], POINTS[order[1]], atol=1e-6)
