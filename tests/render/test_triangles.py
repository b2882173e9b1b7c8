"""Triangles against arithmetic that can be done by hand, and against a direct ray–triangle intersection."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import trimesh
from PIL import Image

from obverse.cameras import Cameras, orbit
from obverse.errors import InputError, UsageError
from obverse.render.triangles import rasterize, rasterize_uv, render_mesh


def one_camera(size: int = 9, focal: float = 9.0) -> Cameras:
    """A camera at the origin that looks along +Z with +Y down: camera space is world space."""
    intrinsics = torch.tensor([[[focal, 0.0, size / 2], [0.0, focal, size / 2], [0.0, 0.0, 1.0]]])
    return Cameras(torch.eye(4)[None], intrinsics, size, size)


def textured_quad(image: np.ndarray, **material: object) -> trimesh.Trimesh:
    """The unit square at z = 0, facing +Z, with an image on it."""
    vertices = np.array([[-0.5, -0.5, 0], [0.5, -0.5, 0], [0.5, 0.5, 0], [-0.5, 0.5, 0]])
    uv = vertices[:, :2] + 0.5
    pbr = trimesh.visual.material.PBRMaterial(baseColorTexture=Image.fromarray(image), **material)
    return trimesh.Trimesh(
        vertices, [[0, 1, 2], [0, 2, 3]], visual=trimesh.visual.TextureVisuals(uv=uv, material=pbr), process=False
    )


def front(size: int, distance: float = 20.0) -> Cameras:
    """A far camera whose image the unit square fills exactly, up to perspective."""
    fov = 2 * np.degrees(np.arctan(0.5 / distance))
    return orbit(0.0, distance=distance, fov_deg=float(fov), size=size)


def by_intersection(vertices: np.ndarray, faces: np.ndarray, cameras: Cameras) -> tuple[np.ndarray, np.ndarray]:
    """Nearest face and depth per pixel of the first view by solving p0 + u e1 + v e2 = t d for every pair."""
    matrix = cameras.world_to_camera[0].double().numpy()
    inverse = np.linalg.inv(cameras.intrinsics[0].double().numpy())
    local = vertices @ matrix[:3, :3].T + matrix[:3, 3]
    nearest = np.full((cameras.height, cameras.width), -1)
    depth = np.full((cameras.height, cameras.width), np.inf)
    for y in range(cameras.height):
        for x in range(cameras.width):
            ray = inverse @ [x + 0.5, y + 0.5, 1.0]
            for f, (a, b, c) in enumerate(local[faces]):
                u, v, t = np.linalg.solve(np.stack([a - b, a - c, ray], -1), a)
                if min(u, v, 1 - u - v) >= 0 and 1e-3 < t < depth[y, x]:
                    nearest[y, x], depth[y, x] = f, t
    return nearest, depth


def test_faces_and_depths_agree_with_ray_intersection() -> None:
    mesh = trimesh.creation.icosphere(subdivisions=1, radius=0.5)
    cameras = orbit([25.0], [15.0], size=24)
    expected_face, expected_depth = by_intersection(mesh.vertices, mesh.faces, cameras)
    fragments = rasterize(mesh.vertices, mesh.faces, cameras)
    assert (expected_face >= 0).sum() > 100
    assert (fragments.face[0] == expected_face).mean() > 0.99  # a centre may lie on an edge
    both = (fragments.face[0] >= 0) & (expected_face >= 0)
    np.testing.assert_allclose(fragments.depth[0][both], expected_depth[both], rtol=1e-5)


def test_barycentrics_are_perspective_correct() -> None:
    # Corners at depths 1, 2 and 4: positions interpolated by the weights must project to the pixel's centre.
    vertices = np.array([[-0.4, -0.4, 1.0], [0.9, -0.8, 2.0], [0.0, 1.8, 4.0]])
    cameras = one_camera()
    fragments = rasterize(vertices, np.array([[0, 1, 2]]), cameras)
    rows, columns = np.nonzero(fragments.face[0] == 0)
    assert len(rows) > 10
    points = fragments.barycentric[0, rows, columns] @ vertices
    pixels, depth = cameras.project(torch.tensor(points, dtype=torch.float32))
    np.testing.assert_allclose(pixels[0].numpy(), np.stack([columns, rows], -1) + 0.5, atol=1e-4)
    np.testing.assert_allclose(depth[0].numpy(), fragments.depth[0, rows, columns], rtol=1e-5)


def test_empty_pixels_have_no_face_infinite_depth_and_zero_weights() -> None:
    fragments = rasterize(np.zeros((0, 3)), np.zeros((0, 3), int), one_camera())
    assert (fragments.face == -1).all()
    assert np.isinf(fragments.depth).all()
    assert (fragments.barycentric == 0).all()


def test_nearer_face_wins_whatever_the_order() -> None:
    near = np.array([[-1, -1, 2], [1, -1, 2], [0, 1, 2]], float)
    vertices = np.concatenate([near, near + np.array([0, 0, 1])])
    for faces in ([[0, 1, 2], [3, 4, 5]], [[3, 4, 5], [0, 1, 2]]):
        fragments = rasterize(vertices, np.array(faces), one_camera())
        assert fragments.depth[0, 4, 4] == pytest.approx(2)


def test_no_pixel_falls_between_faces_that_share_an_edge() -> None:
    # The diagonals of this grid run exactly through pixel centres.
    n = 8
    grid = np.stack(np.meshgrid(np.arange(n + 1), np.arange(n + 1)), -1).reshape(-1, 2) / n
    index = np.arange(n * n).reshape(n, n) + np.arange(n)[:, None]
    quads = np.stack([index, index + 1, index + n + 2, index + n + 1], -1).reshape(-1, 4)
    faces = np.concatenate([quads[:, [0, 1, 2]], quads[:, [0, 2, 3]]])
    for size in (8, 16, 24, 37):
        face, _ = rasterize_uv(grid, faces, size)
        assert (face >= 0).all(), size


def test_uv_row_zero_is_the_top_of_the_texture() -> None:
    top_left = np.array([[0.0, 1.0], [0.4, 1.0], [0.0, 0.6]])
    face, weights = rasterize_uv(top_left, np.array([[0, 1, 2]]), (10, 20))
    assert face.shape == (20, 10)
    assert weights.shape == (20, 10, 3)
    assert face[0, 0] == 0
    assert (face[10:] == -1).all()
    # Texel (0, 0) has its centre at u = 0.05, v = 0.975: weights follow from u = 0.4 w1, v = 1 - 0.4 w2.
    np.testing.assert_allclose(weights[0, 0], [1 - 0.125 - 0.0625, 0.125, 0.0625], atol=1e-5)


def test_both_windings_are_visible() -> None:
    vertices = np.array([[-1, -1, 2], [1, -1, 2], [0, 1, 2]], float)
    one = rasterize(vertices, np.array([[0, 1, 2]]), one_camera())
    other = rasterize(vertices, np.array([[0, 2, 1]]), one_camera())
    assert (one.face >= 0).sum() > 5
    np.testing.assert_array_equal(one.face, other.face)


def test_faces_behind_the_camera_are_not_drawn() -> None:
    vertices = np.array([[-1, -1, -2], [1, -1, -2], [0, 1, -2]], float)
    assert (rasterize(vertices, np.array([[0, 1, 2]]), one_camera()).face == -1).all()


def test_a_floor_reaching_behind_the_camera_fills_the_lower_half() -> None:
    # y = +1 is below the camera (y points down); the floor runs from z = -50 to z = 1000.
    vertices = np.array([[-900, 1, -50], [900, 1, -50], [900, 1, 1000], [-900, 1, 1000]], float)
    fragments = rasterize(vertices, np.array([[0, 1, 2], [0, 2, 3]]), one_camera(size=40, focal=20.0))
    assert (fragments.face[0, 21:] >= 0).all()
    assert (fragments.face[0, :20] == -1).all()
    # Row 39: ray slope (39.5 - 20) / 20, so it meets y = 1 at z = 20 / 19.5.
    np.testing.assert_allclose(fragments.depth[0, 39], 20 / 19.5, rtol=1e-4)


def test_surface_nearer_than_near_is_cut_away() -> None:
    vertices = np.array([[-1, -1, 0.5], [1, -1, 0.5], [0, 1, 0.5]], float)
    faces = np.array([[0, 1, 2]])
    assert (rasterize(vertices, faces, one_camera(), near=0.4).face >= 0).any()
    assert (rasterize(vertices, faces, one_camera(), near=0.6).face == -1).all()


def test_corners_that_are_not_finite_and_flat_faces_are_skipped() -> None:
    vertices = np.array([[-1, -1, 2], [1, -1, 2], [0, 1, 2], [np.nan, 0, 2], [np.inf, 0, 2]], float)
    fragments = rasterize(vertices, np.array([[0, 1, 3], [0, 1, 4], [1, 1, 2], [0, 1, 2]]), one_camera())
    assert set(np.unique(fragments.face)) == {-1, 3}


def test_camera_in_the_plane_of_a_face_sees_nothing_of_it() -> None:
    vertices = np.array([[0, -1, 1], [0, 1, 1], [0, 0, 5]], float)
    assert (rasterize(vertices, np.array([[0, 1, 2]]), one_camera(size=8)).face == -1).all()


def test_a_camera_without_batch_axis_is_one_view() -> None:
    cameras = one_camera()
    single = Cameras(cameras.world_to_camera[0], cameras.intrinsics[0], 9, 9)
    assert rasterize(np.eye(3) + 1, np.array([[0, 1, 2]]), single).face.shape == (1, 9, 9)


def test_wrong_shapes_and_indices_are_explained() -> None:
    with pytest.raises(InputError, match="triangulate"):
        rasterize(np.zeros((4, 3)), np.array([[0, 1, 2, 3]]), one_camera())
    with pytest.raises(InputError, match="count from 0"):
        rasterize(np.zeros((3, 3)), np.array([[1, 2, 3]]), one_camera())
    with pytest.raises(UsageError, match="studio"):
        render_mesh(trimesh.creation.box(), one_camera(), shading="toon")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="1 to 8"):
        render_mesh(trimesh.creation.box(), one_camera(), supersample=0)


def test_unlit_render_reproduces_the_texture_upright() -> None:
    image = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    picture = render_mesh(textured_quad(image), front(8, 1000.0), shading="unlit", supersample=1)[0]
    np.testing.assert_allclose(picture[..., :3].numpy(), image / 255, atol=0.01)
    assert (picture[..., 3] == 1).all()


def test_minified_texture_keeps_its_mean() -> None:
    # A one-texel checkerboard seen at a tenth of its resolution is even grey, not noise.
    image = np.indices((80, 80)).sum(0) % 2 * 255
    quad = textured_quad(np.repeat(image[..., None], 3, -1).astype(np.uint8))
    picture = render_mesh(quad, front(8, 1000.0), shading="unlit", supersample=1)[0, ..., :3]
    np.testing.assert_allclose(picture.numpy(), 0.5, atol=0.02)


def test_texture_repeats_outside_the_unit_square() -> None:
    image = np.random.default_rng(1).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    quad = textured_quad(image)
    picture = render_mesh(quad, front(16), shading="unlit")
    quad.visual.uv = quad.visual.uv + np.array([3.0, -2.0])
    np.testing.assert_allclose(render_mesh(quad, front(16), shading="unlit").numpy(), picture.numpy(), atol=1e-3)


def test_base_colour_factor_is_linear() -> None:
    # 128 / 255 = 0.502 of linear white is 0.7367 sRGB-encoded.
    quad = textured_quad(np.full((2, 2, 3), 255, np.uint8), baseColorFactor=[0.5, 0.5, 0.5, 1.0])
    picture = render_mesh(quad, front(4), shading="unlit")[0, ..., :3]
    np.testing.assert_allclose(picture.numpy(), 0.7367, atol=0.003)


def test_vertex_and_face_colours_are_drawn() -> None:
    quad = textured_quad(np.zeros((1, 1, 3), np.uint8))
    quad.visual = trimesh.visual.ColorVisuals(quad, vertex_colors=[[255, 0, 0, 255]] * 4)
    assert render_mesh(quad, front(4), shading="unlit")[0, 2, 2].tolist() == [1, 0, 0, 1]
    quad.visual = trimesh.visual.ColorVisuals(quad, face_colors=[[0, 255, 0, 255]] * 2)
    assert render_mesh(quad, front(4), shading="unlit")[0, 2, 2].tolist() == [0, 1, 0, 1]


def test_mesh_without_colour_is_plain_grey() -> None:
    picture = render_mesh(trimesh.creation.box(), front(4), shading="unlit")[0, 2, 2, :3]
    assert picture.min() == picture.max()
    assert 0.5 < picture[0] < 0.9


def test_studio_light_leaves_a_facing_surface_its_own_colour() -> None:
    image = np.full((4, 4, 3), 100, np.uint8)
    picture = render_mesh(textured_quad(image), front(9, 1000.0), shading="studio")[0, 4, 4, :3]
    np.testing.assert_allclose(picture.numpy(), 100 / 255, atol=0.03)


def test_studio_light_turns_with_the_camera() -> None:
    sphere = trimesh.creation.icosphere(subdivisions=3, radius=0.5)
    one, other = render_mesh(sphere, orbit([0.0, 90.0], size=32))
    assert (one - other).abs().mean() < 0.01


def test_normals_are_in_the_world_frame_and_face_the_camera() -> None:
    box = trimesh.creation.box()
    front_view, right_view = render_mesh(box, orbit([0.0, 90.0], size=9), shading="normals")[:, 4, 4, :3]
    np.testing.assert_allclose(front_view.numpy(), [0.5, 0.5, 1.0], atol=0.02)
    np.testing.assert_allclose(right_view.numpy(), [1.0, 0.5, 0.5], atol=0.02)
    box.invert()
    inside_out = render_mesh(box, orbit([0.0], size=9), shading="normals")[0, 4, 4, :3]
    np.testing.assert_allclose(inside_out.numpy(), [0.5, 0.5, 1.0], atol=0.02)


def test_alpha_is_the_covered_share_of_the_pixel() -> None:
    # The square's left edge at x = -0.5 moved to x = 0 covers exactly half of the middle column of three.
    quad = textured_quad(np.zeros((1, 1, 3), np.uint8))
    quad.vertices[[0, 3], 0] = 0.0
    alpha = render_mesh(quad, front(3, 1000.0), supersample=4)[0, 1, :, 3]
    np.testing.assert_allclose(alpha.numpy(), [0.0, 0.5, 1.0])


def test_straight_and_composited_colour_agree() -> None:
    sphere = trimesh.creation.icosphere(subdivisions=2, radius=0.5)
    straight = render_mesh(sphere, orbit([0.0], size=20), background=None)
    paper = torch.tensor([0.2, 0.4, 0.6])
    over = render_mesh(sphere, orbit([0.0], size=20), background=(0.2, 0.4, 0.6))
    alpha = straight[..., 3:]
    assert ((alpha > 0) & (alpha < 1)).any()
    torch.testing.assert_close(over[..., :3], straight[..., :3] * alpha + paper * (1 - alpha), atol=1e-5, rtol=0)
    assert (straight[..., :3][alpha[..., 0] == 0] == 0).all()
