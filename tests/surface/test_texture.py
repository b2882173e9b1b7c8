from __future__ import annotations

import importlib.util
import math

import cv2
import numpy as np
import pytest
import torch
import trimesh
from torch import Tensor

from obverse.cameras import Cameras, orbit
from obverse.errors import InputError, UsageError
from obverse.render.triangles import rasterize, rasterize_uv, render_mesh
from obverse.surface import texture
from obverse.surface.texture import Textured, smooth_normals, texture_mesh

SIZE = 256  # texels and photo pixels
GREEN, BLUE, RED = (0.2, 0.7, 0.3), (0.2, 0.3, 0.8), (0.9, 0.2, 0.1)


def ball(radius: float = 0.5) -> trimesh.Trimesh:
    return trimesh.creation.icosphere(4, radius=radius)


def box() -> trimesh.Trimesh:
    return trimesh.creation.box((0.8, 0.6, 0.5))


def camera_at(azimuth: float = 0.0, elevation: float = 0.0) -> Cameras:
    return orbit(azimuth, elevation, distance=2.4, size=SIZE)[0]


def plain(color: tuple[float, float, float]):
    """A predictor that knows one colour."""
    return lambda points: torch.tensor(color).expand(len(points), 3)


def waves(points: Tensor) -> Tensor:
    """A texture given in space, with waves about a tenth of the object long."""
    x, y, z = points.T
    return 0.5 + 0.3 * torch.stack([torch.sin(30 * x + 5 * y), torch.sin(34 * y), torch.sin(25 * z + 20 * x)], dim=1)


def photograph(mesh: trimesh.Trimesh, camera: Cameras, color) -> Tensor:
    """What the camera sees, [S, S, 4]: 16 samples per pixel, colour carried past the silhouette."""
    fine = camera.resized(4 * camera.width, 4 * camera.height)
    seen = rasterize(mesh.vertices, mesh.faces, fine)
    face, weights = seen.face[0], seen.barycentric[0]
    hit = face >= 0
    points = np.einsum("nk,nkc->nc", weights[hit], mesh.triangles[face[hit]])
    image = np.zeros((*face.shape, 4), np.float32)
    image[hit, :3], image[hit, 3] = color(torch.tensor(points, dtype=torch.float32)).numpy(), 1
    image = cv2.resize(image, (camera.width, camera.height), interpolation=cv2.INTER_AREA)
    alpha = image[..., 3:].copy()
    rgb = image[..., :3] / np.maximum(alpha, 1e-6)
    for _ in range(4):  # each round colours the ring of pixels around what has colour
        known = (rgb.sum(-1, keepdims=True) > 0).astype(np.float32)
        blurred, share = cv2.blur(rgb * known, (3, 3)), cv2.blur(known, (3, 3))[..., None]
        rgb = np.where(known > 0, rgb, blurred / np.maximum(share, 1e-6))
    return torch.from_numpy(np.concatenate([rgb, alpha], axis=-1).astype(np.float32))


def texels(textured: Textured) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Texture [S, S, 3] in 0–1, the face of each texel, and its point on the surface."""
    mesh = textured.mesh
    image = np.asarray(mesh.visual.material.baseColorTexture, np.float32) / 255
    face, weights = rasterize_uv(mesh.visual.uv, mesh.faces, image.shape[0])
    points = np.einsum("hwk,hwkc->hwc", weights, mesh.triangles[np.maximum(face, 0)])
    return image, face, points


@pytest.fixture(scope="module")
def waved() -> tuple[Textured, Tensor, Cameras]:
    mesh, camera = ball(), camera_at(0.0, 10.0)
    photo = photograph(mesh, camera, waves)
    return texture_mesh(mesh, predicted=plain(GREEN), photo=photo, camera=camera, size=512), photo, camera


# The seen side


def test_the_photo_comes_back_from_its_own_view(waved) -> None:
    textured, photo, camera = waved
    image = render_mesh(textured.mesh, camera, shading="unlit", background=None)[0].numpy()
    inside = cv2.erode((photo[..., 3].numpy() > 0.999).astype(np.uint8), np.ones((25, 25), np.uint8)) > 0
    error = ((image[..., :3] - photo[..., :3].numpy())[inside] ** 2).mean()
    assert inside.sum() > 5000 and -10 * math.log10(error) > 35


def test_where_the_photo_counts_fully_its_pixels_are_kept_exactly() -> None:
    # a photo whose colour is a linear ramp is interpolated without error: texel = ramp at its pixel, to 8 bits
    mesh, camera = ball(), camera_at()
    ramp = (torch.arange(SIZE, dtype=torch.float32) + 0.5) / SIZE
    photo = torch.stack([ramp.expand(SIZE, SIZE), ramp[:, None].expand(SIZE, SIZE), ramp.expand(SIZE, SIZE) * 0.5], -1)
    photo = torch.cat([photo, torch.ones(SIZE, SIZE, 1)], dim=-1)
    textured = texture_mesh(mesh, predicted=plain(GREEN), photo=photo, camera=camera, size=512)
    image, face, points = texels(textured)
    towards = camera.positions.numpy() - points
    cosine = (points / 0.5 * towards).sum(-1) / np.linalg.norm(towards, axis=-1)
    full = (face >= 0) & (cosine > texture.GRAZING[1] + 0.05)
    pixel = camera.project(torch.tensor(points[full], dtype=torch.float32))[0].numpy() / SIZE
    expected = np.stack([pixel[:, 0], pixel[:, 1], 0.5 * pixel[:, 0]], axis=1)
    assert full.sum() > 20_000
    assert np.abs(image[full] - expected).max() < 1.6 / 255


def test_no_point_that_faces_the_camera_is_peppered() -> None:
    mesh = ball()
    p = np.asarray(mesh.vertices)
    p = p * (1 + 0.06 * np.sin(11 * p[:, :1]) * np.sin(12 * p[:, 1:2]))
    mesh = trimesh.Trimesh(p, mesh.faces, process=False)
    camera = camera_at()
    photo = torch.ones(SIZE, SIZE, 4)
    view = texture._View.of(np.asarray(p, np.float32), np.asarray(mesh.faces, np.int32), photo, camera)
    towards = camera.positions.numpy() - mesh.triangles_center
    facing = (mesh.face_normals * towards).sum(1) / np.linalg.norm(towards, axis=1)
    weight, shown = view.weigh(mesh.triangles_center.astype(np.float32), mesh.face_normals.astype(np.float32))
    assert (facing > 0.5).sum() > 500
    assert (weight[facing > 0.5] == 1).all() and shown[facing > 0.5].all()


def test_the_back_and_what_is_hidden_get_no_photo() -> None:
    # a small plate before a large one: the photo shows red before blue; everything unseen is predicted green
    front, back = trimesh.creation.box((0.3, 0.3, 0.05)), trimesh.creation.box((0.9, 0.9, 0.05))
    front.apply_translation([0, 0, 0.3])
    mesh = trimesh.util.concatenate([front, back]).subdivide().subdivide()
    camera = camera_at()
    photo = photograph(mesh, camera, lambda p: torch.where(p[:, 2:] > 0.2, torch.tensor(RED), torch.tensor(BLUE)))
    predicted = plain(GREEN)
    textured = texture_mesh(mesh, predicted=predicted, photo=photo, camera=camera, size=512)
    image, face, points = texels(textured)
    behind = (face >= 0) & (points[..., 2] < 0.1)
    shadow = behind & (points[..., 2] > 0.02) & (np.abs(points[..., :2]).max(-1) < 0.12)
    assert shadow.sum() > 500
    assert image[behind][:, 0].max() < 0.35  # no red on the plate behind
    center = np.asarray(mesh.triangles_center)
    hidden = (center[:, 2] < 0.03) & (center[:, 2] > 0.02) & (np.abs(center[:, :2]).max(1) < 0.12)
    assert hidden.any() and (textured.seen[hidden] == 0).all()
    assert (textured.seen[np.asarray(mesh.face_normals)[:, 2] < 0.1] == 0).all()
    assert textured.seen[(center[:, 2] > 0.32) & (np.abs(center[:, :2]).max(1) < 0.1)].min() == 1


def test_seen_fraction_is_the_share_of_area_that_carries_the_photo() -> None:
    # on a ball seen from far away the weight passes one half where the cosine does (0.15 + 0.40) / 2 = 0.275,
    # and a cap with cosine above c has the share (1 − c) / 2 of a ball's area
    camera = orbit(0.0, 0.0, distance=50.0, fov_deg=1.4, size=SIZE)[0]
    mesh = ball()
    photo = photograph(mesh, camera, waves)
    textured = texture_mesh(mesh, predicted=plain(GREEN), photo=photo, camera=camera, size=256)
    assert textured.seen_fraction == pytest.approx((1 - 0.275) / 2, abs=0.02)


# The unseen side, and the way between


@pytest.mark.parametrize("make", [ball, box])
def test_a_constant_offset_between_photo_and_prediction_leaves_no_step(make) -> None:
    mesh, camera = make(), camera_at(25.0, 15.0)
    photo = photograph(mesh, camera, plain((0.60, 0.45, 0.50)))
    textured = texture_mesh(mesh, predicted=plain((0.50, 0.50, 0.40)), photo=photo, camera=camera, size=512)
    views = orbit([25, 70, 115, 160, 205, 250, 295, 340], [15, 40, -30, 0, 20, -50, 0, 50], distance=2.4, size=200)
    images = render_mesh(textured.mesh, views, shading="unlit", background=None, supersample=1).numpy()
    solid = np.stack([cv2.erode(image[..., 3], np.ones((9, 9), np.uint8)) for image in images])
    for axis in (1, 2):  # away from outlines, where neighbouring pixels are far apart on the surface
        both = np.minimum(*(np.take(solid, range(s, 199 + s), axis=axis) for s in (0, 1))) > 0.5
        step = np.abs(np.diff(images[..., :3], axis=axis)).max(-1)
        assert both.sum() > 10_000
        assert step[both].max() < 5 / 255  # the offset itself is 25 levels


def test_far_from_the_photo_the_prediction_returns() -> None:
    rod = trimesh.creation.box((0.2, 0.2, 2.4)).subdivide().subdivide().subdivide().subdivide()
    camera = orbit(0.0, 0.0, distance=4.0, size=SIZE)[0]
    photo = photograph(rod, camera, plain(RED))
    image, face, points = texels(texture_mesh(rod, predicted=plain(BLUE), photo=photo, camera=camera, size=256))
    assert np.abs(image[(face >= 0) & (points[..., 2] > 1.19)].mean(0) - RED).max() < 0.1
    assert np.abs(image[(face >= 0) & (points[..., 2] < -1.1)] - BLUE).max() < 0.02


def test_without_a_photo_every_texel_is_predicted() -> None:
    textured = texture_mesh(ball(), predicted=waves, size=256)
    image, face, points = texels(textured)
    expected = waves(torch.tensor(points[face >= 0], dtype=torch.float32)).numpy()
    assert np.abs(image[face >= 0] - expected).max() < 1.5 / 255
    assert textured.seen_fraction == 0 and not textured.seen.any() and textured.texels_per_pixel == 0


def test_a_camera_that_does_not_see_the_object_changes_nothing() -> None:
    away = orbit(0.0, 0.0, distance=2.4, size=64)[0]
    away = Cameras(torch.diag(torch.tensor([-1.0, 1, -1, 1])) @ away.world_to_camera, away.intrinsics, 64, 64)
    textured = texture_mesh(ball(), predicted=plain(GREEN), photo=torch.ones(64, 64, 4), camera=away, size=256)
    assert textured.seen_fraction == 0
    assert np.abs(texels(textured)[0] - GREEN).max() < 1 / 255


def test_a_photo_without_an_object_changes_nothing() -> None:
    photo = torch.cat([torch.ones(64, 64, 3), torch.zeros(64, 64, 1)], dim=-1)
    textured = texture_mesh(ball(), predicted=plain(GREEN), photo=photo, camera=camera_at(), size=256)
    assert textured.seen_fraction == 0
    assert np.abs(texels(textured)[0] - GREEN).max() < 1 / 255


def test_the_gutter_continues_the_charts() -> None:
    image, face, _ = texels(texture_mesh(ball(), predicted=plain(GREEN), size=256))
    assert (face < 0).any()
    assert np.abs(image - GREEN).max() < 1 / 255


def test_the_spread_correction_solves_its_equation() -> None:
    rng = np.random.default_rng(0)
    mesh = trimesh.creation.icosphere(1, radius=0.5)
    faces = np.asarray(mesh.faces, np.int32)
    matrix = texture._laplacian(texture._links(np.asarray(mesh.vertices, np.float32), faces))
    assert np.abs(matrix.sum(1)).max() < 1e-9 and (matrix != matrix.T).nnz == 0
    assert np.linalg.eigvalsh(matrix.toarray()).min() > -1e-9
    matrix = (matrix + texture.sparse.diags(rng.uniform(0.1, 1, len(mesh.vertices)))).tocsr()
    target = rng.normal(size=(len(mesh.vertices), 3))
    exact = np.linalg.solve(matrix.toarray(), target)
    assert np.abs(texture._solve(matrix, target, tolerance=1e-8) - exact).max() < 1e-5


def test_a_constant_gap_known_everywhere_is_returned_almost_whole() -> None:
    # constant c minimises c² / DECAY² + (c − g)² / SMOOTHING²: c = g / (1 + (SMOOTHING / DECAY)²)
    solid = texture._Solid.of(ball(), 40.0)
    count = len(solid.faces)
    third, gap = np.full((count, 3), 1 / 3, np.float32), np.full((count, 3), 0.2)
    spread = texture._correction(solid, np.arange(count), third, gap, solid.areas)
    assert spread == pytest.approx(0.2 / (1 + (texture.SMOOTHING / texture.DECAY) ** 2), rel=2e-3)


def test_beside_the_photo_the_predictions_own_edge_does_not_show() -> None:
    # photo and prediction agree where the photo is, above z = 0.1; below 0.085 the prediction is another colour
    solid = texture._Solid.of(trimesh.creation.icosphere(5, radius=0.5), 40.0)
    z = solid.vertices[:, 2]
    guess = np.where(z[:, None] > 0.085, RED, BLUE).astype(np.float32)
    face = np.flatnonzero(solid.centres[:, 2] > 0.1)
    third, gap = np.full((len(face), 3), 1 / 3, np.float32), np.zeros((len(face), 3))
    correction = texture._correction(solid, face, third, gap, solid.areas[face], guess=guess)
    red = (guess + correction)[:, 0]
    assert np.abs(correction[z > 0.13]).max() < 0.02  # the photo stays
    assert red[(z > 0.03) & (z < 0.07)].mean() > (RED[0] + BLUE[0]) / 2  # behind the edge its colour goes on
    assert red[z < -0.45].mean() < BLUE[0] + 0.15  # and fades towards the back


def test_a_prediction_of_one_colour_needs_no_care_at_the_border() -> None:
    solid = texture._Solid.of(ball(), 40.0)
    face = np.flatnonzero(solid.centres[:, 2] > 0.1)
    third, gap = np.full((len(face), 3), 1 / 3, np.float32), np.full((len(face), 3), 0.2)
    flat = np.full((len(solid.vertices), 3), 0.4, np.float32)
    plainly = texture._correction(solid, face, third, gap, solid.areas[face])
    guided = texture._correction(solid, face, third, gap, solid.areas[face], guess=flat)
    assert guided == pytest.approx(plainly, abs=1e-5)


# The mesh


def test_positions_are_bit_identical_across_seams(waved) -> None:
    textured, _, _ = waved
    given = np.asarray(ball().vertices, np.float32)
    out = np.asarray(textured.mesh.vertices)
    assert len(out) > len(given)
    assert (out.astype(np.float32) == out).all()
    assert (out == given[textured.vertex_map]).all()
    assert len(np.unique(out, axis=0)) == len(given)


def test_the_material_is_plain_matte_colour(waved) -> None:
    material = waved[0].mesh.visual.material
    assert (material.metallicFactor, material.roughnessFactor) == (0.0, 0.9)
    assert material.baseColorTexture.mode == "RGB" and material.baseColorTexture.size == (512, 512)


def test_the_photographed_side_gets_a_texel_per_pixel_where_there_is_room(waved) -> None:
    textured, _, _ = waved
    assert textured.texels_per_pixel > 0.9
    assert textured.utilisation > 0.55 and textured.charts >= 2


def test_a_small_texture_favours_the_photographed_side() -> None:
    mesh, camera = ball(), camera_at().resized(1024, 1024)
    photo = torch.ones(1024, 1024, 4)
    textured = texture_mesh(mesh, predicted=plain(GREEN), photo=photo, camera=camera, size=256)
    focal = float(camera.intrinsics[0, 0])
    seen = textured.texels_per_pixel * focal / (2.4 - 0.5)  # texels per unit at the ball's front
    assert seen > 1.5 * textured.texels_per_unit


def test_a_box_keeps_its_edges_and_a_ball_is_round() -> None:
    for mesh, count in ((box(), 24), (ball(), 2562)):
        group, normals = smooth_normals(np.asarray(mesh.vertices, np.float32), np.asarray(mesh.faces, np.int32))
        assert len(normals) == count
        assert np.linalg.norm(normals, axis=1) == pytest.approx(1, abs=1e-5)
        flat = np.asarray(mesh.face_normals)[:, None, :]
        assert (normals[group] * flat).sum(-1).min() > (0.99999 if count == 24 else 0.99)


def test_a_wider_crease_angle_rounds_the_box() -> None:
    mesh = box()
    _, normals = smooth_normals(np.asarray(mesh.vertices, np.float32), np.asarray(mesh.faces, np.int32), crease_deg=100)
    # angle weights make the corner's normal independent of how the sides are cut into triangles
    assert np.abs(normals) == pytest.approx(1 / math.sqrt(3), abs=1e-5)


def test_normals_are_written_with_the_mesh() -> None:
    textured = texture_mesh(box(), predicted=plain(GREEN), size=256)
    normals = np.asarray(textured.mesh.vertex_normals)
    assert len(textured.mesh.vertices) == 24
    assert np.sort(np.abs(normals), axis=1) == pytest.approx(np.tile([0.0, 0, 1], (24, 1)), abs=1e-6)


def test_degenerate_faces_do_not_poison_normals() -> None:
    faces = np.vstack([box().faces, [[0, 0, 1]]]).astype(np.int32)
    _, normals = smooth_normals(np.asarray(box().vertices, np.float32), faces)
    assert np.isfinite(normals).all()


def test_the_same_inputs_give_the_same_bytes() -> None:
    camera = camera_at()
    photo = photograph(ball(), camera, waves)
    a, b = (texture_mesh(ball(), predicted=plain(GREEN), photo=photo, camera=camera, size=256) for _ in range(2))
    assert a.mesh.visual.material.baseColorTexture.tobytes() == b.mesh.visual.material.baseColorTexture.tobytes()
    assert (a.mesh.vertices == b.mesh.vertices).all()


def test_a_photo_larger_than_its_cameras_image_is_used_at_its_own_size() -> None:
    mesh, camera = ball(), camera_at()
    photo = photograph(mesh, camera, waves)
    same = texture_mesh(mesh, predicted=plain(GREEN), photo=photo, camera=camera.resized(64, 64), size=256)
    assert (
        np.abs(
            texels(same)[0]
            - texels(texture_mesh(mesh, predicted=plain(GREEN), photo=photo, camera=camera, size=256))[0]
        ).max()
        < 0.02
    )


# What cannot be used


def test_photo_and_camera_come_together() -> None:
    with pytest.raises(InputError, match=r"camera is missing.*both"):
        texture_mesh(ball(), predicted=plain(GREEN), photo=torch.ones(8, 8, 4))
    with pytest.raises(InputError, match=r"photo is missing.*both"):
        texture_mesh(ball(), predicted=plain(GREEN), camera=camera_at())


def test_a_photo_without_alpha_is_refused() -> None:
    with pytest.raises(InputError, match=r"\[8, 8, 3\].*\[S, S, 4\]"):
        texture_mesh(ball(), predicted=plain(GREEN), photo=torch.ones(8, 8, 3), camera=camera_at())


def test_several_cameras_for_one_photo_are_refused() -> None:
    with pytest.raises(InputError, match=r"3 cameras.*cameras\[0\]"):
        texture_mesh(ball(), predicted=plain(GREEN), photo=torch.ones(8, 8, 4), camera=orbit([0, 10, 20]))


def test_an_empty_mesh_is_refused() -> None:
    with pytest.raises(InputError, match="no faces"):
        texture_mesh(trimesh.Trimesh(), predicted=plain(GREEN))


def test_a_texture_size_out_of_range_is_refused_before_any_work() -> None:
    def never(points: Tensor) -> Tensor:
        raise AssertionError("the predictor was asked")

    with pytest.raises(UsageError, match=r"8192.*256 and 4096"):
        texture_mesh(ball(), predicted=never, size=8192)


@pytest.mark.skipif(importlib.util.find_spec("xatlas") is None, reason="the xatlas package is not installed")
def test_the_photo_comes_back_through_xatlas_too() -> None:
    mesh, camera = trimesh.creation.icosphere(3, radius=0.5), camera_at()
    photo = photograph(mesh, camera, waves)
    textured = texture_mesh(mesh, predicted=plain(GREEN), photo=photo, camera=camera, size=512, atlas="xatlas")
    image = render_mesh(textured.mesh, camera, shading="unlit", background=None)[0].numpy()
    inside = cv2.erode((photo[..., 3].numpy() > 0.999).astype(np.uint8), np.ones((25, 25), np.uint8)) > 0
    error = ((image[..., :3] - photo[..., :3].numpy())[inside] ** 2).mean()
    assert inside.sum() > 5000 and -10 * math.log10(error) > 30
