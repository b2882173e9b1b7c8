from __future__ import annotations

import importlib.util

import cv2
import numpy as np
import pytest
import torch
import trimesh

from obverse.cameras import orbit
from obverse.errors import InputError, UsageError
from obverse.render.triangles import rasterize_uv
from obverse.surface import packing
from obverse.surface.charts import Atlas, face_neighbours, unwrap


def blob(amount: float = 0.06, waves: float = 9.0) -> trimesh.Trimesh:
    """A sphere with bumps: about what an organic shape looks like."""
    mesh = trimesh.creation.icosphere(3)
    p = np.asarray(mesh.vertices)
    bumps = np.sin(waves * p[:, 0]) * np.sin(waves * p[:, 1] + 1) * np.sin(waves * p[:, 2] + 2)
    return trimesh.Trimesh(p * (0.4 + amount * bumps)[:, None], mesh.faces, process=False)


def plate() -> trimesh.Trimesh:
    """A thin, flat shape with a wavy outline."""
    mesh = trimesh.creation.icosphere(3)
    p = np.asarray(mesh.vertices) * [0.5, 0.4, 0.04]
    p[:, :2] *= (1 + 0.15 * np.cos(5 * np.arctan2(p[:, 1], p[:, 0])))[:, None]
    return trimesh.Trimesh(p, mesh.faces, process=False)


def spikes() -> trimesh.Trimesh:
    """A ball whose every seventh vertex is pulled far out: many faces no projection can take together."""
    mesh = trimesh.creation.icosphere(3)
    p = np.asarray(mesh.vertices) * 0.2
    p[::7] *= 2.4
    return trimesh.Trimesh(p, mesh.faces, process=False)


def islands() -> trimesh.Trimesh:
    """Many small closed parts, some before others."""
    parts = []
    for i in range(4):
        for j in range(4):
            part = trimesh.creation.icosphere(1, radius=0.06)
            part.apply_translation([0.2 * i - 0.3, 0.2 * j - 0.3, 0.1 * ((i + j) % 3)])
            parts.append(part)
    return trimesh.util.concatenate(parts)


SHAPES = {
    "ball": lambda: trimesh.creation.icosphere(3, radius=0.5),
    "blob": blob,
    "torus": lambda: trimesh.creation.torus(0.35, 0.14, major_sections=40, minor_sections=20),
    "plate": plate,
    "box": lambda: trimesh.creation.box((1.0, 0.6, 0.3)),
    "rod": lambda: trimesh.creation.cylinder(0.02, 1.0, sections=8).subdivide_loop(3),
    "spikes": spikes,
    "islands": islands,
    "rough": lambda: blob(0.1, 20.0),
}


@pytest.fixture(scope="module")
def atlases() -> dict[str, tuple[trimesh.Trimesh, Atlas]]:
    out = {}
    for name, make in SHAPES.items():
        mesh = make()
        out[name] = (mesh, unwrap(mesh, size=512))
    return out


def signed_areas(atlas: Atlas) -> np.ndarray:
    corner = atlas.uv[atlas.faces]
    a, b = corner[:, 1] - corner[:, 0], corner[:, 2] - corner[:, 0]
    return (a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]) / 2


def cover_count(atlas: Atlas, size: int) -> np.ndarray:
    """How many faces hold each texel centre, strictly inside: a plain twin of the rasteriser that only counts."""
    count = np.zeros((size, size), np.int32)
    for corner in atlas.uv[atlas.faces] * size:
        (x0, y0), (x1, y1) = np.floor(corner.min(0)).astype(int), np.floor(corner.max(0)).astype(int)
        y, x = np.mgrid[y0 : y1 + 1, x0 : x1 + 1] + 0.5
        inside = np.ones(x.shape, bool)
        for (ax, ay), (bx, by) in zip(corner, np.roll(corner, -1, axis=0), strict=True):
            inside &= (bx - ax) * (y - ay) - (by - ay) * (x - ax) > 1e-6
        count[y0 : y1 + 1, x0 : x1 + 1] += inside
    return count


def test_neighbours_are_the_pairs_of_faces_that_share_an_edge() -> None:
    mesh = trimesh.creation.icosphere(2)
    beyond = face_neighbours(np.asarray(mesh.faces), len(mesh.vertices))
    assert (beyond >= 0).all()
    ours = {tuple(sorted((f, int(g)))) for f, row in enumerate(beyond) for g in row}
    assert ours == {tuple(sorted(pair)) for pair in mesh.face_adjacency.tolist()}


def test_an_open_edge_has_no_neighbour() -> None:
    beyond = face_neighbours(np.array([[0, 1, 2], [2, 1, 3]]), 4)
    assert beyond.tolist() == [[-1, 1, -1], [0, -1, -1]]


@pytest.mark.parametrize("name", SHAPES)
def test_faces_keep_their_order_and_their_vertices(atlases, name: str) -> None:
    mesh, atlas = atlases[name]
    assert (atlas.vertex_map[atlas.faces] == mesh.faces).all()
    assert len(np.unique(atlas.faces)) == len(atlas.uv) == len(atlas.vertex_map)


@pytest.mark.parametrize("name", SHAPES)
def test_no_face_is_flipped_or_lost(atlases, name: str) -> None:
    mesh, atlas = atlases[name]
    solid = mesh.area_faces > 1e-12
    assert solid.any() and (signed_areas(atlas)[solid] > 0).all()


@pytest.mark.parametrize("name", SHAPES)
def test_faces_do_not_overlap_in_the_texture(atlases, name: str) -> None:
    count = cover_count(atlases[name][1], 512)
    assert (count > 0).any()
    assert (count > 1).sum() == 0


@pytest.mark.parametrize("name", SHAPES)
def test_utilisation_is_the_share_of_texels_that_faces_cover(atlases, name: str) -> None:
    atlas = atlases[name][1]
    face, _ = rasterize_uv(atlas.uv, atlas.faces, 512)
    assert atlas.utilisation == pytest.approx((face >= 0).mean(), abs=0.01)


@pytest.mark.parametrize("name", ["ball", "blob", "torus", "plate", "rod"])
def test_more_than_half_of_the_texture_is_used(atlases, name: str) -> None:
    assert atlases[name][1].utilisation > 0.54


@pytest.mark.parametrize("name", SHAPES)
def test_charts_keep_a_gutter_of_two_texels(atlases, name: str) -> None:
    atlas = atlases[name][1]
    face, _ = rasterize_uv(atlas.uv, atlas.faces, 512)
    chart = np.where(face >= 0, atlas.face_chart[np.maximum(face, 0)], -1)
    for axis in (0, 1):  # texels 1 apart are of one chart, or one of them is empty
        a, b = (np.take(chart, range(s, 512 - 1 + s), axis=axis) for s in (0, 1))
        assert ((a == b) | (a < 0) | (b < 0)).all()
    assert atlas.uv.min() >= 1 / 512 - 1e-6 and atlas.uv.max() <= 1 - 1 / 512 + 1e-6


@pytest.mark.parametrize("name", ["blob", "spikes"])
def test_each_chart_is_one_connected_piece(atlases, name: str) -> None:
    mesh, atlas = atlases[name]
    beyond = face_neighbours(np.asarray(mesh.faces), len(mesh.vertices))
    face, side = np.nonzero(atlas.face_chart[beyond] == atlas.face_chart[:, None])
    pairs = np.stack([face, beyond[face, side]], axis=1)
    labels = trimesh.graph.connected_component_labels(pairs, node_count=len(mesh.faces))
    assert len(np.unique(labels)) == atlas.charts == int(atlas.face_chart.max()) + 1


def test_a_smooth_ball_needs_few_charts(atlases) -> None:
    assert atlases["ball"][1].charts == 6


def test_a_thin_rod_is_cut_so_that_it_fills_the_texture(atlases) -> None:
    # uncut, strips as long as the texture is wide hold 2·0.02·π of 1 in six strips: well below a quarter
    assert atlases["rod"][1].utilisation > 0.5


def test_texel_density_is_even_over_the_surface(atlases) -> None:
    mesh, atlas = atlases["ball"]
    density = np.sqrt(signed_areas(atlas) / mesh.area_faces) * 512
    assert np.percentile(density, 5) > 0.6 * np.median(density)
    assert np.percentile(density, 95) < 1.5 * np.median(density)


def test_wanted_density_reaches_the_charts() -> None:
    mesh = trimesh.creation.box((0.8, 0.8, 0.8))
    front = np.asarray(mesh.face_normals)[:, 2] > 0.5
    atlas = unwrap(mesh, size=512, density=np.where(front, 1.0, 0.5))
    density = np.sqrt(signed_areas(atlas) / mesh.area_faces)
    assert density[front].mean() == pytest.approx(2 * density[~front].mean(), rel=1e-3)


def test_the_photographed_side_is_laid_out_as_the_camera_sees_it() -> None:
    mesh = blob()
    camera = orbit(0.0, 10.0, size=400)[0]
    towards = camera.positions.numpy() - mesh.triangles_center
    facing = np.einsum("mc,mc->m", mesh.face_normals, towards / np.linalg.norm(towards, axis=1, keepdims=True))
    visible = facing > 0.5
    atlas = unwrap(mesh, size=512, camera=camera, visible=visible)
    chart = np.bincount(atlas.face_chart[visible]).argmax()
    rows = np.unique(atlas.faces[atlas.face_chart == chart])
    pixels = (
        camera.project(torch.tensor(mesh.vertices[atlas.vertex_map[rows]], dtype=torch.float32))[0].double().numpy()
    )
    pixels[:, 1] *= -1  # image y points down, v up
    texels = atlas.uv[rows] * 512
    fit, *_ = np.linalg.lstsq(np.c_[pixels, np.ones(len(rows))], texels, rcond=None)
    assert np.abs(np.c_[pixels, np.ones(len(rows))] @ fit - texels).max() < 0.01
    turn = fit[:2] / atlas.texels_per_pixel  # a quarter turn times one scale: entries 0 and ±1
    assert np.allclose(np.sort(np.abs(turn).ravel()), [0, 0, 1, 1], atol=1e-3)
    assert np.linalg.det(turn) == pytest.approx(1, abs=1e-3)


def test_the_same_mesh_gives_the_same_atlas() -> None:
    first, second = unwrap(blob(), size=256), unwrap(blob(), size=256)
    assert (first.uv == second.uv).all() and (first.faces == second.faces).all()


@pytest.mark.parametrize("size", [256, 1024])
def test_every_texture_size_is_filled(size: int) -> None:
    assert unwrap(blob(), size=size).utilisation > 0.5


def test_a_mesh_of_degenerate_faces_is_unwrapped_without_warnings() -> None:
    mesh = trimesh.creation.box((1, 1, 1))
    faces = np.vstack([mesh.faces, [[0, 0, 1], [2, 2, 2]]])
    atlas = unwrap(trimesh.Trimesh(mesh.vertices, faces, process=False), size=256)
    assert np.isfinite(atlas.uv).all() and len(atlas.faces) == 14


@pytest.mark.skipif(importlib.util.find_spec("xatlas") is None, reason="the xatlas package is not installed")
def test_xatlas_gives_the_same_kind_of_answer() -> None:
    mesh = trimesh.creation.icosphere(3, radius=0.5)
    atlas = unwrap(mesh, size=256, atlas="xatlas")
    assert (atlas.vertex_map[atlas.faces] == mesh.faces).all()
    assert 0.3 < atlas.utilisation <= 1 and atlas.charts >= 2
    assert atlas.uv.min() >= 0 and atlas.uv.max() <= 1


@pytest.mark.parametrize("size", [0, 255, 4097])
def test_a_texture_size_out_of_range_is_refused_with_the_range(size: int) -> None:
    with pytest.raises(UsageError, match=rf"{size}.*256 and 4096"):
        unwrap(trimesh.creation.box(), size=size)


def test_an_unknown_atlas_is_refused_with_the_choices() -> None:
    with pytest.raises(UsageError, match=r"blender.*charts.*xatlas"):
        unwrap(trimesh.creation.box(), atlas="blender")  # type: ignore[arg-type]


def test_an_empty_mesh_is_refused() -> None:
    with pytest.raises(InputError, match="no faces"):
        unwrap(trimesh.Trimesh())


def test_more_charts_than_the_texture_can_hold_are_refused_with_a_remedy() -> None:
    count = 40_000  # 256 × 256 texels hold 16 384 cells
    corners = np.tile(np.array([[[0, 0], [1, 0], [0, 1]]], np.float32), (count, 1, 1))
    low, high = np.zeros((count, 2)), np.ones((count, 2))
    with pytest.raises(InputError, match=r"40000 charts.*larger texture or simplify"):
        packing.pack(corners, np.arange(count), low, high, size=256)


def test_packed_squares_do_not_meet() -> None:
    # nine squares of equal size fit a square best in three rows of three
    square = np.array([[[0, 0], [1, 0], [1, 1]], [[0, 0], [1, 1], [0, 1]]], np.float32)
    corners, chart = np.tile(square, (9, 1, 1)), np.repeat(np.arange(9), 2)
    low, high = np.zeros((9, 2), np.float32), np.ones((9, 2), np.float32)
    packed = packing.pack(corners, chart, low, high, size=256)
    texels = packing.place(packed, corners.reshape(-1, 2), np.repeat(chart, 3), low)
    image = np.zeros((256, 256), np.uint8)
    for c in range(9):
        points = texels[np.repeat(chart, 3) == c]
        (x0, y0), (x1, y1) = np.ceil(points.min(0)).astype(int), np.floor(points.max(0)).astype(int)
        assert image[y0:y1, x0:x1].size > 0 and not image[y0:y1, x0:x1].any()
        image[y0:y1, x0:x1] = 1
    assert cv2.connectedComponents(image)[0] == 10  # the background and nine
    assert packed.scale > 75  # 256 / 3, less gutters and the grid's rounding
