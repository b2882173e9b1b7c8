"""What holds for every mesh format."""

import hashlib

import numpy as np
import pytest
import trimesh
from PIL import Image

from obverse.errors import InputError, UsageError
from obverse.formats.joining import join
from obverse.formats.mesh_arrays import (
    MeshArrays,
    from_trimesh,
    is_closed,
    smooth_normals,
    vertex_colors,
)
from obverse.formats.meshes import MESH_FORMATS, mesh_bytes, read_mesh, write_mesh
from obverse.topology import first_of_each

from .shapes import MESHES, POINTS, PROVENANCE, is_welded_closed, plain_mesh, textured_mesh

EXTENSIONS = [*MESH_FORMATS, "ply"]


@pytest.mark.parametrize("extension", EXTENSIONS)
@pytest.mark.parametrize("kind", MESHES)
def test_a_closed_mesh_comes_back_closed_and_facing_outwards(tmp_path, extension, kind):
    mesh = read_mesh(write_mesh(MESHES[kind](), tmp_path / f"a.{extension}")[0])
    assert is_welded_closed(mesh)
    assert len(mesh.faces) == 8
    assert mesh.volume == pytest.approx(plain_mesh().volume, rel=1e-5)


@pytest.mark.parametrize("extension", EXTENSIONS)
def test_the_same_mesh_gives_the_same_bytes(tmp_path, extension):
    digests = []
    for folder in ("first", "second"):
        files = write_mesh(textured_mesh(), tmp_path / folder / f"a.{extension}", provenance=PROVENANCE)
        digests.append([hashlib.sha256(path.read_bytes()).hexdigest() for path in files])
    assert digests[0] == digests[1]


@pytest.mark.parametrize("extension", ["glb", "obj", "3mf", "usdz", "ply"])
def test_provenance_survives(tmp_path, extension):
    mesh = read_mesh(write_mesh(textured_mesh(), tmp_path / f"a.{extension}", provenance=PROVENANCE)[0])
    assert mesh.metadata["provenance"] == PROVENANCE


@pytest.mark.parametrize("extension", EXTENSIONS)
def test_without_provenance_there_is_none(tmp_path, extension):
    assert read_mesh(write_mesh(plain_mesh(), tmp_path / f"a.{extension}")[0]).metadata["provenance"] == {}


@pytest.mark.parametrize("extension", ["glb", "usdz", "obj"])
def test_the_texture_is_lossless_and_the_material_stays(tmp_path, extension):
    before = textured_mesh()
    after = read_mesh(write_mesh(before, tmp_path / f"a.{extension}")[0])
    material = after.visual.material
    assert np.array_equal(np.asarray(material.baseColorTexture), np.asarray(before.visual.material.baseColorTexture))
    assert (material.metallicFactor, material.roughnessFactor) == (0.0, 0.75)
    order = [np.lexsort(np.round(m.visual.uv, 6).T) for m in (before, after)]
    np.testing.assert_allclose(after.visual.uv[order[1]], before.visual.uv[order[0]], atol=1e-6)
    np.testing.assert_allclose(after.vertex_normals[order[1]], before.vertex_normals[order[0]], atol=1e-5)


@pytest.mark.parametrize("extension", ["glb", "stl", "3mf", "usdz", "ply"])
def test_bytes_are_what_the_file_would_be(tmp_path, extension):
    [path] = write_mesh(plain_mesh(), tmp_path / f"object.{extension}", provenance=PROVENANCE)
    assert mesh_bytes(plain_mesh(), extension, provenance=PROVENANCE) == path.read_bytes()


def test_obj_is_no_single_stream():
    with pytest.raises(UsageError, match="three files"):
        mesh_bytes(plain_mesh(), ".obj")


def test_extensions_count_in_any_case(tmp_path):
    [path] = write_mesh(plain_mesh(), tmp_path / "A.GLB")
    assert len(read_mesh(path).faces) == 8


@pytest.mark.parametrize("name", ["a.fbx", "a", "a.splat"])
def test_unknown_extensions_are_named(tmp_path, name):
    with pytest.raises(UsageError, match=r"use one of \.glb"):
        write_mesh(plain_mesh(), tmp_path / name)
    with pytest.raises(InputError, match=r"expected one of \.glb"):
        read_mesh(tmp_path / name)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("height", [0, -1, float("nan"), float("inf")])
def test_impossible_heights_are_refused(tmp_path, height):
    with pytest.raises(InputError, match="height"):
        write_mesh(plain_mesh(), tmp_path / "a.glb", height_m=height)
    with pytest.raises(InputError, match="high"):
        write_mesh(plain_mesh(), tmp_path / "a.stl", print_height_mm=height)


def test_a_mesh_without_faces_is_refused(tmp_path):
    empty = trimesh.Trimesh(np.zeros((3, 3)), np.zeros((0, 3), int), process=False)
    with pytest.raises(InputError, match="no faces"):
        write_mesh(empty, tmp_path / "a.glb")


def test_vertices_that_are_not_finite_are_refused(tmp_path):
    points = plain_mesh().vertices.copy()
    points[0, 0] = np.nan
    with pytest.raises(InputError, match="not finite"):
        write_mesh(trimesh.Trimesh(points, plain_mesh().faces, process=False), tmp_path / "a.glb")


def test_something_else_than_a_mesh_is_refused(tmp_path):
    with pytest.raises(InputError, match="not a trimesh"):
        write_mesh(np.zeros((3, 3)), tmp_path / "a.glb")


def test_faces_that_name_a_vertex_twice_are_left_out():
    faces = np.concatenate([plain_mesh().faces, [[1, 1, 2]]])
    arrays = from_trimesh(trimesh.Trimesh(plain_mesh().vertices, faces, process=False))
    assert len(arrays.faces) == 8


def test_computed_normals_do_not_show_the_seam():
    mesh = textured_mesh()
    normals = smooth_normals(np.float32(mesh.vertices), mesh.faces)
    assert np.array_equal(normals[2], normals[6])  # the top, on both sides of its seam
    np.testing.assert_allclose(np.linalg.norm(normals, axis=1), 1, atol=1e-6)


def test_weld_merges_exactly_equal_positions_only():
    points = np.array([[0, 0, 0], [1, 0, 0], [0, 0, 0], [1, 1e-7, 0]], dtype=np.float32)
    first, number = first_of_each(points)
    assert sorted(first) == [0, 1, 3]
    assert number[0] == number[2] and len(set(number.tolist())) == 3


def test_closed_means_every_edge_has_one_opposite():
    mesh = textured_mesh()
    points = np.float32(mesh.vertices)
    assert is_closed(points, mesh.faces)
    assert not is_closed(points, mesh.faces[1:])
    turned = mesh.faces.copy()
    turned[0] = turned[0, ::-1]
    assert not is_closed(points, turned)


def test_face_colours_are_kept_as_vertex_colours(tmp_path):
    mesh = trimesh.Trimesh(
        plain_mesh().vertices, plain_mesh().faces, face_colors=[[10, 200, 30, 255]] * 8, process=False
    )
    after = read_mesh(write_mesh(mesh, tmp_path / "a.glb")[0])
    assert after.visual.vertex_colors.tolist() == [[10, 200, 30, 255]] * 6


def noisy_mesh():
    """A texture so busy that its PNG would be larger than 4 MiB."""
    pixels = np.random.default_rng(0).integers(0, 256, (1250, 1250, 3), dtype=np.uint8)
    mesh = textured_mesh()
    mesh.visual.material.baseColorTexture = Image.fromarray(pixels)
    return mesh


@pytest.mark.parametrize("extension", ["glb", "obj", "usdz", "3mf"])
def test_a_large_texture_becomes_a_jpeg(tmp_path, extension):
    files = write_mesh(noisy_mesh(), tmp_path / f"a.{extension}")
    assert sum(path.stat().st_size for path in files) < 4 * 2**20
    assert b"\xff\xd8\xff" in files[-1].read_bytes()
    found = np.asarray(read_mesh(files[0]).visual.material.baseColorTexture).astype(int)
    expected = np.asarray(noisy_mesh().visual.material.baseColorTexture).astype(int)
    assert np.abs(found - expected).mean() < 4


def test_parts_with_different_textures_are_packed_and_keep_their_colours():
    parts = []
    for color, shift in (((255, 0, 0), 0.0), ((0, 0, 255), 2.0)):
        points = np.float32(POINTS) + np.float32([shift, 0, 0])
        normals = np.zeros((6, 3), np.float32) + np.float32([0, 1, 0])
        uv = np.full((6, 2), 0.5, np.float32)
        parts.append(MeshArrays(points, plain_mesh().faces, normals, uv=uv, image=Image.new("RGB", (8, 8), color)))
    joined = join(parts)
    assert len(joined.faces) == 16
    colors = vertex_colors(joined)[:, :3]
    assert (np.abs(colors[joined.vertices[:, 0] < 1].astype(int) - [255, 0, 0]) <= 1).all()
    assert (np.abs(colors[joined.vertices[:, 0] > 1].astype(int) - [0, 0, 255]) <= 1).all()


def test_a_texture_that_repeats_is_repeated_in_the_pack():
    """Four pixels, black to white; a part that runs over it twice, beside one of a plain colour."""
    ramp = Image.fromarray(np.repeat(np.uint8([[0, 80, 160, 240]]), 3, axis=0).T.reshape(1, 4, 3))
    points, faces = np.eye(3, dtype=np.float32), np.array([[0, 1, 2]])
    uv = np.float32([[0.375, 0.5], [1.125, 0.5], [1.875, 0.5]])  # pixels 1, 0 and 3
    striped = MeshArrays(points, faces, points, uv=uv, image=ramp)
    plain = MeshArrays(points, faces, points, base_color=(1.0, 0.0, 0.0, 1.0))
    colors = vertex_colors(join([striped, plain]))[:, :3]
    assert colors.tolist() == [[80] * 3, [0] * 3, [240] * 3, [255, 0, 0], [255, 0, 0], [255, 0, 0]]
    far = MeshArrays(points, faces, points, uv=uv * 9, image=ramp)
    with pytest.raises(InputError, match="repeats 14 times"):
        join([far, plain])
