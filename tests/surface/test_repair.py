"""The proof of watertightness, repair of meshes from elsewhere, and simplification that keeps the proof."""

from __future__ import annotations

import json

import numpy as np
import pytest
import trimesh
from PIL import Image

from obverse.errors import InputError, UsageError
from obverse.surface.decimate import decimate
from obverse.surface.extract import surface_nets
from obverse.surface.fixes import Patchwork, drop_useless, fix_exactly, join_near, turn_flat_faces
from obverse.surface.remesh import remesh
from obverse.surface.repair import check_faces, check_watertight, make_watertight, simplify
from obverse.topology import Edges, components, weld

CELLS = 40


def mesh_of(vertices, faces):
    return trimesh.Trimesh(np.asarray(vertices, float), np.asarray(faces).reshape(-1, 3), process=False)


def together(*meshes):
    return trimesh.util.concatenate(meshes)


def box(*offset):
    made = trimesh.creation.box()
    made.apply_translation(offset or (0, 0, 0))
    return mesh_of(made.vertices, made.faces)


def ball(level=2):
    made = trimesh.creation.icosphere(level)
    return mesh_of(made.vertices.astype(np.float32), made.faces)


def soup_of(mesh):
    """The same faces, sharing no vertices."""
    return mesh_of(mesh.vertices[mesh.faces].reshape(-1, 3), np.arange(mesh.faces.size))


def open_box():
    made = box()
    return mesh_of(made.vertices, made.faces[made.face_normals[:, 1] < 0.5])


def box_with_t_junction():
    """A box where one face along an edge was split at the middle of the edge and the face beside it was not."""
    made = box()
    a, b = (int(np.flatnonzero((made.vertices == corner).all(axis=1))[0]) for corner in ([-0.5, 0.5, 0.5], [0.5] * 3))
    faces = made.faces.tolist()
    face = next(f for f in faces if a in f and b in f)
    faces.remove(face)
    side = next(k for k in range(3) if {face[k], face[(k + 1) % 3]} == {a, b})
    a, b, c = face[side], face[(side + 1) % 3], face[(side + 2) % 3]
    return mesh_of([*made.vertices, [0, 0.5, 0.5]], [*faces, [a, 8, c], [8, b, c]])


def some_flipped():
    made = box()
    return mesh_of(made.vertices, [f[::-1] if k in (1, 4, 7) else f for k, f in enumerate(made.faces.tolist())])


def not_finite():
    made = ball()
    vertices = made.vertices.copy()
    vertices[5] = np.nan
    vertices[40, 1] = np.inf
    return mesh_of(vertices, made.faces)


def random_soup():
    return mesh_of(np.random.default_rng(0).normal(size=(60, 3)), np.arange(60))


def moebius_band():
    turn = np.linspace(0, 2 * np.pi, 25)[:-1]
    rail = []
    for s in (-0.3, 0.3):
        radius = 1 + s * np.cos(turn / 2)
        rail.append(np.stack([radius * np.cos(turn), radius * np.sin(turn), s * np.sin(turn / 2)], axis=1))
    faces = [f for k in range(23) for f in ([k, k + 1, k + 24], [k + 1, k + 25, k + 24])]
    return mesh_of(np.concatenate(rail), [*faces, [23, 24, 47], [24, 0, 47]])


# check_watertight


def test_a_box_is_watertight_and_everything_about_it_is_known():
    found = check_watertight(box())
    assert found.ok and found.closed and found.oriented and found.manifold_vertices
    assert (found.vertices, found.faces, found.components, found.euler, found.genus) == (8, 12, 1, 2, 0)
    assert found.volume == pytest.approx(1)


def test_vertices_are_joined_by_equal_position():
    assert check_watertight(soup_of(box())).vertices == 8
    assert check_watertight(soup_of(box())).ok


def test_minus_zero_is_zero():
    made = soup_of(box(0.5, 0.5, 0.5))
    made.vertices[::2] = np.where(made.vertices[::2] == 0, -0.0, made.vertices[::2])
    assert check_watertight(made).ok


def test_almost_equal_positions_are_not_joined():
    made = soup_of(box())
    made.vertices[0, 0] = np.nextafter(made.vertices[0, 0], 1)
    found = check_watertight(made)
    assert not found.ok and found.open_edges > 0


@pytest.mark.parametrize(
    ("mesh", "attribute", "value"),
    [
        (open_box(), "open_edges", 4),
        (some_flipped(), "oriented", False),
        (mesh_of(box().vertices, box().faces[:, ::-1]), "volume", -1),
        (together(box(), box(1, 1, 1)), "manifold_vertices", False),
        (together(box(), box(1, 1, 0)), "crowded_edges", 1),
        (mesh_of(box().vertices, [*box().faces, box().faces[3]]), "duplicate_faces", 1),
        (mesh_of(box().vertices, [*box().faces, box().faces[3][::-1]]), "duplicate_faces", 1),
        (mesh_of(box().vertices, [*box().faces, [0, 0, 1]]), "degenerate_faces", 1),
        (mesh_of([[0, 0, 0], [1, 0, 0], [2, 0, 0]], [[0, 1, 2]]), "degenerate_faces", 1),
        (not_finite(), "degenerate_faces", 11),
        (mesh_of(np.zeros((0, 3)), np.zeros((0, 3), int)), "closed", False),
    ],
    ids=["open", "flipped", "inside out", "touch", "edge", "double", "opposite", "repeated", "flat", "nan", "empty"],
)
def test_every_fault_is_named(mesh, attribute, value):
    found = check_watertight(mesh)
    assert getattr(found, attribute) == pytest.approx(value)
    assert not found.ok and found.faults()


def test_genus_and_components_are_counted():
    tori = together(
        trimesh.creation.torus(1, 0.3), trimesh.creation.torus(1, 0.3).apply_translation([3, 0, 0]), box(9, 0, 0)
    )
    found = check_watertight(tori)
    assert found.ok and found.components == 3 and found.genus == 2
    assert check_watertight(open_box()).genus is None


def test_the_findings_are_plain_values():
    found = check_watertight(box()).to_dict()
    assert json.loads(json.dumps(found)) == found
    assert found["ok"] is True and found["genus"] == 0


def test_agreement_with_trimesh_on_random_closed_meshes():
    for seed in range(5):
        vertices, faces = surface_nets(np.random.default_rng(seed).standard_normal((9, 9, 9)).astype(np.float32))
        mesh = mesh_of(vertices, faces)
        found = check_watertight(mesh)
        assert mesh.is_watertight and mesh.is_winding_consistent and found.ok
        assert found.volume == pytest.approx(mesh.volume)
        assert found.euler == mesh.euler_number


# make_watertight


@pytest.mark.parametrize(
    ("mesh", "repair", "volume"),
    [
        (box(), "none", 1),
        (together(box(), box(0.5, 0.5, 0.5)), "none", 2),
        (soup_of(ball()), "none", 4.05),
        (some_flipped(), "exact", 1),
        (mesh_of(box().vertices, box().faces[:, ::-1]), "exact", 1),
        (box_with_t_junction(), "exact", 1),
        (together(box(), box(1, 1, 1)), "exact", 2),
        (together(box(), box(1, 1, 0)), "exact", 2),
        (mesh_of(box().vertices, [*box().faces, *box().faces[:4], *box().faces[:2, ::-1]]), "exact", 1),
        (mesh_of(ball().vertices, ball().faces[3:]), "exact", 4.04),
        (not_finite(), "exact", 4.0),
        (open_box(), "remeshed", None),
        (mesh_of([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]], [[0, 1, 2], [0, 2, 3]]), "remeshed", None),
        (mesh_of([[0, 0, 0], [1, 0, 0], [1, 1, 0]], [[0, 1, 2]]), "remeshed", None),
        (random_soup(), "remeshed", None),
        (moebius_band(), "remeshed", None),
    ],
    ids=[
        "box", "intersecting", "shared nothing", "flipped", "inside out", "t-junction", "vertex", "edge", "doubles",
        "small hole", "nan", "open box", "sheet", "triangle", "soup", "moebius",
    ],
)  # fmt: skip
def test_the_result_is_watertight_whatever_comes(mesh, repair, volume):
    made = make_watertight(mesh, resolution=CELLS)
    found = check_watertight(made)
    assert found.faults() == []
    assert made.metadata["repair"] == repair
    if volume is not None:
        assert found.volume == pytest.approx(volume, rel=0.02)
    np.testing.assert_array_equal(made.vertices, made.vertices.astype(np.float32))
    size = np.ptp(mesh.vertices[np.isfinite(mesh.vertices).all(axis=1)], axis=0).max()
    finite = mesh.vertices[np.isfinite(mesh.vertices).all(axis=1)]
    assert np.abs(made.bounds - [finite.min(axis=0), finite.max(axis=0)]).max() < 0.75 * size / CELLS + 0.02 * size


def test_nearly_equal_vertices_are_joined():
    made = soup_of(ball())
    made.vertices += np.random.default_rng(0).normal(0, 2e-8, made.vertices.shape)
    assert check_watertight(made).open_edges > 0
    fixed = make_watertight(made)
    assert fixed.metadata["repair"] == "exact" and len(fixed.faces) == 320


def test_the_input_is_left_alone():
    mesh = some_flipped()
    before = mesh.vertices.copy(), mesh.faces.copy()
    make_watertight(mesh, resolution=CELLS)
    np.testing.assert_array_equal(mesh.vertices, before[0])
    np.testing.assert_array_equal(mesh.faces, before[1])


def test_the_wall_of_a_hollow_is_not_turned_into_a_solid():
    """One face of the outer ball is flipped; the inner ball, inside out, is a hollow and is dropped."""
    inner = ball()
    inner.vertices *= 0.5
    inner.faces = inner.faces[:, ::-1]
    outer = ball()
    outer.faces = np.concatenate([outer.faces[:1, ::-1], outer.faces[1:]])
    found = check_watertight(make_watertight(together(outer, inner)))
    assert found.ok and found.components == 1


@pytest.mark.parametrize(
    "mesh",
    [
        mesh_of(np.zeros((0, 3)), np.zeros((0, 3), int)),
        mesh_of(np.full((3, 3), np.nan), [[0, 1, 2]]),
        mesh_of([[0, 0, 0], [1, 0, 0], [2, 0, 0]], [[0, 1, 2]]),
        mesh_of(np.ones((4, 3)), [[0, 1, 2], [1, 2, 3]]),
    ],
    ids=["empty", "nan", "line", "point"],
)
def test_meshes_without_area_are_refused(mesh):
    with pytest.raises(InputError, match="area"):
        make_watertight(mesh)


def test_a_resolution_out_of_range_is_refused():
    with pytest.raises(UsageError, match="resolution"):
        make_watertight(box(), resolution=4)


def half_red_texture(mesh):
    """Texture coordinates that make x < 0 red and x > 0 blue."""
    image = Image.fromarray(np.array([[[255, 0, 0], [0, 0, 255]]], np.uint8).repeat(8, axis=1))
    uv = np.stack([np.where(mesh.vertices[:, 0] < 0, 0.1, 0.9), np.full(len(mesh.vertices), 0.5)], axis=1)
    mesh.visual = trimesh.visual.TextureVisuals(
        uv=uv, material=trimesh.visual.material.PBRMaterial(baseColorTexture=image)
    )
    return mesh


def test_exact_repair_keeps_texture_coordinates_and_material():
    mesh = half_red_texture(mesh_of(ball().vertices, ball().faces[3:]))
    fixed = make_watertight(mesh)
    assert fixed.metadata["repair"] == "exact"
    assert fixed.visual.material is mesh.visual.material
    clear = np.abs(fixed.vertices[:, 0]) > 0.3
    np.testing.assert_allclose(fixed.visual.uv[clear, 0], np.where(fixed.vertices[clear, 0] < 0, 0.1, 0.9))


def test_exact_repair_keeps_vertex_and_face_colours():
    mesh = some_flipped()
    mesh.visual = trimesh.visual.ColorVisuals(mesh, face_colors=np.arange(48, dtype=np.uint8).reshape(12, 4) * 5)
    fixed = make_watertight(mesh)
    assert fixed.metadata["repair"] == "exact" and fixed.visual.kind == "vertex"
    assert {tuple(c) for c in fixed.visual.vertex_colors} == {tuple(c) for c in mesh.visual.face_colors}


def test_remeshing_takes_colours_from_the_nearest_surface():
    mesh = half_red_texture(soup_of(open_box()))
    red = mesh.triangles_center[:, 0].repeat(3) < -0.4  # the left wall
    mesh.visual.uv[:, 0] = np.where(red, 0.1, 0.9)
    made = make_watertight(mesh, resolution=CELLS)
    assert made.metadata["repair"] == "remeshed"
    left = (made.vertices[:, 0] < -0.49) & (np.abs(made.vertices[:, 1:]) < 0.4).all(axis=1)
    right = made.vertices[:, 0] > 0.45
    assert left.any() and right.any()
    assert (made.visual.vertex_colors[left] == [255, 0, 0, 255]).all()
    assert (made.visual.vertex_colors[right] == [0, 0, 255, 255]).all()


# its parts


def test_a_flat_face_is_turned_into_its_neighbour():
    """A box whose edge carries a fourth vertex on one side and a face without area on the other."""
    made = box_with_t_junction()
    a, b = (int(np.flatnonzero((made.vertices == c).all(axis=1))[0]) for c in ([-0.5, 0.5, 0.5], [0.5] * 3))
    closed = next(
        m for f in ([a, b, 8], [b, a, 8]) if (m := check_faces(made.vertices, np.array([*made.faces, f]))).oriented
    )
    assert closed.closed and closed.degenerate_faces == 1
    face = next(f for f in ([a, b, 8], [b, a, 8]) if check_faces(made.vertices, np.array([*made.faces, f])).oriented)
    work = turn_flat_faces(Patchwork.of(mesh_of(made.vertices, [*made.faces, face])))
    assert check_faces(work.points, work.faces).ok


def test_joining_drops_faces_that_lose_a_corner():
    work = join_near(Patchwork.of(mesh_of([[0, 0, 0], [1, 0, 0], [1, 1e-9, 0], [0, 1, 0]], [[0, 1, 2], [0, 2, 3]])))
    assert len(work.faces) == 1


def test_one_of_several_equal_faces_stays():
    work = drop_useless(Patchwork.of(mesh_of(np.eye(3), [[0, 1, 2], [1, 2, 0], [2, 1, 0]])))
    assert work.faces.tolist() == [[0, 1, 2]]


def test_a_moebius_band_cannot_be_oriented():
    assert fix_exactly(Patchwork.of(moebius_band())) is None


def test_remeshing_a_closed_solid_keeps_its_shape():
    vertices, faces, nearest = remesh(ball(4).triangles, resolution=64)
    found = check_faces(vertices, faces)
    assert found.closed and found.genus == 0 and nearest.min() >= 0
    assert np.abs(np.linalg.norm(vertices, axis=1) - 1).max() < 0.3 * 2 / 64
    assert found.volume == pytest.approx(4 / 3 * np.pi, rel=0.01)


def test_remeshing_ignores_orientation_and_inner_walls():
    """A cube with a wall inside and half its faces turned is the same solid as the cube."""
    wall = mesh_of([[0, -0.5, -0.5], [0, 0.5, -0.5], [0, 0.5, 0.5], [0, -0.5, 0.5]], [[0, 1, 2], [0, 2, 3]])
    vertices, faces, _ = remesh(together(some_flipped(), wall).triangles, resolution=32)
    found = check_faces(vertices, faces)
    assert found.components == 1 and found.genus == 0
    assert found.volume == pytest.approx(1, rel=0.03)


def test_remeshing_fills_a_room_behind_a_small_opening():
    """A ball with one small face missing is a full ball, not a shell with an inside and an outside."""
    vertices, faces, _ = remesh(ball(4).triangles[1:], resolution=64)
    assert check_faces(vertices, faces).volume == pytest.approx(4 / 3 * np.pi, rel=0.02)


def test_remeshing_keeps_an_open_box_open():
    vertices, faces, _ = remesh(open_box().triangles, resolution=64)
    found = check_faces(vertices, faces)
    assert found.closed and found.genus == 0 and found.components == 1
    assert found.volume == pytest.approx(5 * 1.3 / 64, rel=0.1)  # five walls, 2 SHEET cells thick


def test_a_sheet_at_any_angle_becomes_one_solid_without_holes():
    rng = np.random.default_rng(1)
    for _ in range(10):
        u, v = np.linalg.qr(rng.normal(size=(3, 2)))[0].T
        vertices, faces, _ = remesh(np.array([[-u - v, u - v, u + v], [-u - v, u + v, v - u]]), resolution=40)
        found = check_faces(vertices, faces)
        assert found.components == 1 and found.genus == 0


# simplify


def test_simplifying_meets_the_count_and_stays_watertight():
    mesh = trimesh.creation.torus(1, 0.3, major_sections=96, minor_sections=48)
    made = simplify(mesh, 1000)
    found = check_watertight(made)
    assert found.ok and found.genus == 1 and len(made.faces) == 1000
    assert found.volume == pytest.approx(mesh.volume, rel=0.01)
    np.testing.assert_array_equal(made.vertices, made.vertices.astype(np.float32))


def test_simplified_vertices_stay_near_the_surface_and_triangles_stay_even():
    made = simplify(ball(5), 800)
    assert np.abs(np.linalg.norm(made.vertices, axis=1) - 1).max() < 0.01
    sides = np.linalg.norm(made.triangles - np.roll(made.triangles, 1, axis=1), axis=2).max(axis=1)
    assert (2 * made.area_faces / sides**2).min() > 0.05


def test_a_flat_side_costs_few_faces():
    made = simplify(trimesh.creation.box().subdivide_loop(0).subdivide().subdivide().subdivide(), 24)
    assert check_watertight(made).ok
    assert made.volume == pytest.approx(1, rel=0.02)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("share", [0.5, 0.1, 0.0])
def test_collapsing_noise_as_far_as_it_goes_keeps_its_topology(seed, share):
    vertices, faces = surface_nets(np.random.default_rng(seed).standard_normal((9, 9, 9)).astype(np.float32))
    before = check_faces(vertices, faces)
    points, fewer = decimate(vertices, faces, max(4, int(share * len(faces))))
    after = check_faces(points, fewer)
    assert len(fewer) < len(faces) and after.faults() == []
    assert (after.genus, after.components) == (before.genus, before.components)


def test_a_tetrahedron_is_the_end():
    points, faces = decimate(ball(1).vertices, ball(1).faces, 4)
    assert faces.shape == (4, 3) and check_faces(points, faces).ok


def test_scale_does_not_matter():
    small, large = (simplify(mesh_of(ball(3).vertices * size, ball(3).faces), 200) for size in (2.0**-20, 2.0**20))
    np.testing.assert_array_equal(small.faces, large.faces)
    np.testing.assert_allclose(small.vertices * 2.0**40, large.vertices)


def test_a_mesh_with_few_faces_is_returned_as_it_is():
    np.testing.assert_array_equal(simplify(box(), 100).faces, box().faces)


def test_an_open_mesh_is_closed_before_it_is_simplified():
    made = simplify(mesh_of(ball(3).vertices, ball(3).faces[2:]), 300)
    assert check_watertight(made).ok and len(made.faces) == 300


def test_a_count_that_the_shape_forbids_is_refused():
    with pytest.raises(InputError, match="ask for more"):
        simplify(together(*(box(3 * k, 0, 0) for k in range(5))), 6)
    with pytest.raises(UsageError, match="at least 4"):
        simplify(box(), 3)


# topology


def test_welding_keeps_the_order_of_first_appearance():
    vertices, label = weld(np.array([[3.0, 0, 0], [1, 0, 0], [3, 0, 0], [-0.0, 0, 0], [0, 0, 0]]))
    assert vertices.tolist() == [[3, 0, 0], [1, 0, 0], [0, 0, 0]]
    assert label.tolist() == [0, 1, 0, 2, 2]


def test_edges_of_two_faces_are_paired():
    edges = Edges.of(np.array([[0, 1, 2], [2, 1, 3]]))
    a, b = edges.pairs()
    assert sorted(edges.count) == [1, 1, 1, 1, 2]
    assert {int(edges.start[a[0]]), int(edges.start[b[0]])} == {1, 2} and edges.agree()


def test_parts_are_joined_through_shared_vertices():
    label = components(np.array([[0, 1, 2], [3, 4, 5], [2, 6, 7]]), 8)
    assert label[0] == label[2] != label[1]
