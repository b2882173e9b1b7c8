"""GLB: the bytes the specification asks for, and files of other writers."""

import io
import json
import struct

import numpy as np
import pytest
import trimesh

from obverse.errors import InputError
from obverse.formats.gltf_reader import parse_glb
from obverse.formats.images import linear_to_srgb
from obverse.formats.meshes import mesh_bytes

from .shapes import COLORS, MESHES, POINTS, PROVENANCE, colored_mesh, plain_mesh, textured_mesh


def document_of(glb):
    size = struct.unpack_from("<I", glb, 12)[0]
    return json.loads(glb[20 : 20 + size]), glb[28 + size :]


def glb_of(document, binary=b""):
    """A GLB around any document, for files as others might write them."""
    document = {"asset": {"version": "2.0"}, "buffers": [{"byteLength": len(binary)}], **document}
    text = json.dumps(document).encode()
    text += b" " * (-len(text) % 4)
    binary += bytes(-len(binary) % 4)
    total = 28 + len(text) + len(binary)
    return (
        struct.pack("<5I", 0x46546C67, 2, total, len(text), 0x4E4F534A)
        + text
        + (struct.pack("<2I", len(binary), 0x004E4942) + binary)
    )


def triangles_of(mode, points, **extra):
    """One primitive of unindexed points."""
    data = np.asarray(points, "<f4").tobytes()
    return glb_of(
        {
            "bufferViews": [{"buffer": 0, "byteLength": len(data)}],
            "accessors": [{"bufferView": 0, "componentType": 5126, "count": len(points), "type": "VEC3"}],
            "meshes": [{"primitives": [{"attributes": {"POSITION": 0}, "mode": mode}]}],
            **extra,
        },
        data,
    )


@pytest.mark.parametrize("kind", MESHES)
def test_chunks_are_aligned_and_lengths_agree(kind):
    glb = mesh_bytes(MESHES[kind](), "glb", provenance=PROVENANCE)
    magic, version, total, size, _ = struct.unpack_from("<5I", glb)
    assert (magic, version, total) == (0x46546C67, 2, len(glb))
    assert size % 4 == 0 and len(glb) % 4 == 0
    document, binary = document_of(glb)
    assert document["buffers"] == [{"byteLength": len(binary)}]
    assert all(view["byteOffset"] % 4 == 0 for view in document["bufferViews"])


def test_bounds_are_exact():
    document, _ = document_of(mesh_bytes(textured_mesh(), "glb"))
    position = document["accessors"][document["meshes"][0]["primitives"][0]["attributes"]["POSITION"]]
    assert np.array_equal(position["min"], np.float32(POINTS).min(axis=0))
    assert np.array_equal(position["max"], np.float32(POINTS).max(axis=0))


@pytest.mark.parametrize(("vertices", "component"), [(65535, 5123), (65536, 5125)])
def test_indices_never_reach_the_value_that_restarts_a_primitive(vertices, component):
    points = np.concatenate([POINTS, np.zeros((vertices - 6, 3))])
    mesh = trimesh.Trimesh(points, [*plain_mesh().faces.tolist(), [0, 1, vertices - 1]], process=False)
    document, binary = document_of(mesh_bytes(mesh, "glb"))
    assert document["accessors"][0]["componentType"] == component
    assert parse_glb(mesh_bytes(mesh, "glb")).faces.max() == vertices - 1
    assert binary[:2] == b"\x04\x00"


def test_texture_coordinates_are_flipped_once():
    mesh = textured_mesh()
    document, binary = document_of(mesh_bytes(mesh, "glb"))
    view = document["bufferViews"][
        document["accessors"][document["meshes"][0]["primitives"][0]["attributes"]["TEXCOORD_0"]]["bufferView"]
    ]
    uv = np.frombuffer(binary, "<f4", 14, view["byteOffset"]).reshape(7, 2)
    np.testing.assert_allclose(uv, mesh.visual.uv * [1, -1] + [0, 1], atol=1e-7)


def test_vertex_colours_are_linear():
    document, binary = document_of(mesh_bytes(colored_mesh(), "glb"))
    accessor = document["accessors"][document["meshes"][0]["primitives"][0]["attributes"]["COLOR_0"]]
    assert (accessor["componentType"], accessor["type"], accessor["normalized"]) == (5123, "VEC4", True)
    offset = document["bufferViews"][accessor["bufferView"]]["byteOffset"]
    linear = np.frombuffer(binary, "<u2", 24, offset).reshape(6, 4)[:, :3] / 65535
    assert linear[1, 1] == pytest.approx(((200 / 255 + 0.055) / 1.055) ** 2.4, abs=1e-4)  # the sRGB curve at 200
    np.testing.assert_allclose(linear_to_srgb(linear) * 255, COLORS, atol=0.05)


def test_every_srgb_byte_survives_linear_sixteen_bits():
    rgba = np.repeat(np.arange(256)[:, None], 4, axis=1).astype(np.uint8)
    points = np.random.default_rng(0).random((256, 3))
    mesh = trimesh.Trimesh(points, np.arange(255).reshape(-1, 3), vertex_colors=rgba, process=False)
    assert np.array_equal(parse_glb(mesh_bytes(mesh, "glb")).colors, rgba)


def test_the_material_is_single_sided_and_no_metal():
    document, _ = document_of(mesh_bytes(plain_mesh(), "glb", provenance=PROVENANCE))
    material = document["materials"][0]
    assert material["doubleSided"] is False
    assert material["pbrMetallicRoughness"]["metallicFactor"] == 0
    assert "extensionsUsed" not in document
    assert document["asset"]["generator"].startswith("obverse ")
    assert document["asset"]["extras"]["provenance"] == PROVENANCE


def test_the_unit_is_metres_only_when_a_height_is_given():
    units = [
        document_of(mesh_bytes(plain_mesh(), "glb", height_m=height))[0]["asset"]["extras"]["unit"]
        for height in (None, 0.3)
    ]
    assert units == ["longest side of the object is 1", "metre"]


def test_node_transforms_are_applied_and_a_mirror_turns_faces():
    # a quarter turn about +Y takes +X to −Z, after doubling and mirroring X, before moving up
    half = float(np.sqrt(0.5))
    nodes = [
        {"children": [1], "translation": [0, 5, 0]},
        {"mesh": 0, "rotation": [0, half, 0, half], "scale": [-2, 2, 2]},
    ]
    glb = triangles_of(4, [[1, 0, 0], [0, 1, 0], [0, 0, 1]], nodes=nodes, scenes=[{"nodes": [0]}], scene=0)
    found = parse_glb(glb)
    np.testing.assert_allclose(found.vertices, [[0, 5, 2], [0, 7, 0], [2, 5, 0]], atol=1e-6)
    assert found.faces.tolist() == [[2, 1, 0]]


def test_a_node_matrix_is_column_major():
    matrix = [1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0, 7, 8, 9, 1]
    glb = triangles_of(4, np.eye(3), nodes=[{"mesh": 0, "matrix": matrix}], scenes=[{"nodes": [0]}])
    np.testing.assert_allclose(parse_glb(glb).vertices, np.eye(3) + np.array([7, 8, 9]))


def test_a_node_in_a_circle_is_refused():
    glb = triangles_of(4, np.eye(3), nodes=[{"mesh": 0, "children": [0]}], scenes=[{"nodes": [0]}])
    with pytest.raises(InputError, match="circle"):
        parse_glb(glb)


def test_strips_and_fans_become_triangles():
    points = np.random.default_rng(0).random((5, 3))
    assert parse_glb(triangles_of(5, points)).faces.tolist() == [[0, 1, 2], [2, 1, 3], [2, 3, 4]]
    assert parse_glb(triangles_of(6, points)).faces.tolist() == [[0, 1, 2], [0, 2, 3], [0, 3, 4]]


def test_points_alone_are_no_mesh():
    with pytest.raises(InputError, match="no triangles"):
        parse_glb(triangles_of(0, np.eye(3)))


def test_two_primitives_of_different_colour_become_one_coloured_mesh():
    document, _ = document_of(triangles_of(4, np.eye(3)))
    document["materials"] = [
        {"pbrMetallicRoughness": {"baseColorFactor": [1, 0, 0, 1]}},
        {"pbrMetallicRoughness": {"baseColorFactor": [0, 0, 0.5, 1]}},
    ]
    attributes = {"POSITION": 0}
    document["meshes"] = [{"primitives": [{"attributes": attributes, "material": i} for i in (0, 1)]}]
    found = parse_glb(glb_of(document, np.eye(3, dtype="<f4").tobytes()))
    assert found.faces.tolist() == [[0, 1, 2], [3, 4, 5]]
    assert found.colors[0].tolist() == [255, 0, 0, 255]
    assert found.colors[3].tolist() == [0, 0, 188, 255]  # linear 0.5 is sRGB 188


def test_sparse_and_interleaved_accessors_are_read():
    rows = np.zeros(3, dtype=[("p", "<f4", 3), ("other", "<f4")])
    rows["p"] = np.eye(3)
    moved = np.array([[4, 5, 6]], "<f4").tobytes()
    binary = rows.tobytes() + b"\x02\0\0\0" + moved
    views = [
        {"buffer": 0, "byteLength": 48, "byteStride": 16},
        {"buffer": 0, "byteOffset": 48, "byteLength": 4},
        {"buffer": 0, "byteOffset": 52, "byteLength": 12},
    ]
    sparse = {"count": 1, "indices": {"bufferView": 1, "componentType": 5121}, "values": {"bufferView": 2}}
    accessor = {"bufferView": 0, "componentType": 5126, "count": 3, "type": "VEC3", "sparse": sparse}
    meshes = [{"primitives": [{"attributes": {"POSITION": 0}}]}]
    found = parse_glb(glb_of({"bufferViews": views, "accessors": [accessor], "meshes": meshes}, binary))
    np.testing.assert_allclose(found.vertices, [[1, 0, 0], [0, 1, 0], [4, 5, 6]])


def test_compressed_geometry_is_named():
    glb = triangles_of(4, np.eye(3), extensionsRequired=["KHR_draco_mesh_compression"])
    with pytest.raises(InputError, match="KHR_draco_mesh_compression; export it without"):
        parse_glb(glb)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"count": 10**9}, "too short|entries"),
        ({"count": -1}, "entries"),
        ({"type": "VEC4"}, "expected 3 values"),
        ({"bufferView": 9}, "does not exist"),
        ({"byteOffset": 8}, "too short"),
        ({"componentType": 1}, "expected 3 values"),
    ],
)
def test_impossible_accessors_are_refused(change, message):
    accessor = {"bufferView": 0, "componentType": 5126, "count": 3, "type": "VEC3"} | change
    with pytest.raises(InputError, match=message):
        parse_glb(triangles_of(4, np.eye(3), accessors=[accessor]))


def test_other_readers_agree():
    scene = trimesh.load(io.BytesIO(mesh_bytes(textured_mesh(), "glb")), file_type="glb", process=False)
    [other] = scene.geometry.values()
    ours = parse_glb(mesh_bytes(textured_mesh(), "glb"))
    np.testing.assert_allclose(other.vertices, ours.vertices)
    assert np.array_equal(other.faces, ours.faces)
    np.testing.assert_allclose(other.visual.uv, ours.uv, atol=1e-6)
