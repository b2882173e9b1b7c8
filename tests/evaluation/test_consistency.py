"""Faults that an asset gives away by itself: each is built on purpose and found; its harmless twin is not accused."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
import trimesh

from obverse.cameras import orbit
from obverse.errors import InputError
from obverse.evaluation.consistency import inspect
from obverse.evaluation.repeats import Repeats
from obverse.evaluation.soundness import Welded, flatness, floaters, seams
from obverse.evaluation.steadiness import mesh_frames, picture_agreement, steadiness, warp_error
from obverse.gaussians import SH_C0, from_colors, merge
from obverse.surface.gaussians import mesh_to_gaussians

SMALL = {"size": 64}
ORIGIN = np.zeros(3)
SKIN, INK = np.array([0.85, 0.65, 0.5]), np.array([0.1, 0.1, 0.3])


def painted(mesh, rgb):
    """A mesh with vertex colours [n, 3] in 0–1."""
    rgba = np.column_stack([255 * np.asarray(rgb), np.full(len(mesh.vertices), 255)]).round().astype(np.uint8)
    mesh.visual = trimesh.visual.ColorVisuals(mesh, vertex_colors=rgba)
    return mesh


def face_at(points, azimuth_deg, *, one_eyed=False):
    """Where ink of a face lies whose nose is at an azimuth: two eyes and a mouth, angles around the axis against y."""
    turn = np.degrees(np.arctan2(points[:, 0], points[:, 2])) - azimuth_deg
    turn = (turn + 180) % 360 - 180
    height = 100 * points[:, 1]
    right = np.hypot(turn - 20, height - 12) < 10
    left = (np.hypot(turn + 20, height - 12) < 10) & (not one_eyed)
    return right | left | (np.hypot(turn / 2.2, height + 15) < 9)


def head(*azimuths, one_eyed=False):
    ball = trimesh.creation.icosphere(4, 0.5)
    ink = np.zeros(len(ball.vertices), bool)
    for azimuth in azimuths:
        ink |= face_at(ball.vertices, azimuth, one_eyed=one_eyed)
    return painted(ball, np.where(ink[:, None], INK, SKIN))


def dice(sides):
    """A cube with the same thick L painted on some of its four upright sides."""
    box = trimesh.creation.box((0.8, 0.8, 0.8))
    for _ in range(5):
        box = box.subdivide()
    p = box.vertices
    rgb = np.tile(SKIN, (len(p), 1))
    for side in sides:
        a = np.radians(90 * side)
        out, across = p[:, 2] * np.cos(a) + p[:, 0] * np.sin(a), p[:, 0] * np.cos(a) - p[:, 2] * np.sin(a)
        ell = ((across > -0.25) & (across < -0.08) & (abs(p[:, 1]) < 0.3)) | (
            (abs(across) < 0.25) & (p[:, 1] > -0.3) & (p[:, 1] < -0.14)
        )
        rgb[(out > 0.39) & ell] = INK
    return painted(box, rgb)


def names(result):
    return {check.name for check in result.findings}


# The front seen again


@pytest.mark.parametrize("azimuths", [(0, 90, 180, 270), (0, 120, 240), (0, 90)])
def test_faces_on_several_sides_are_found(azimuths):
    result = inspect(head(*azimuths), **SMALL)
    assert result.repeats.janus()[0] > 0.6 and "front-repeats" in names(result)


def test_a_cube_with_its_front_on_four_sides_is_found_and_one_with_a_single_front_is_not():
    assert inspect(dice([0, 1, 2, 3]), **SMALL).repeats.janus()[0] > 0.9
    single = inspect(dice([0]), **SMALL)
    assert single.repeats.janus()[0] < 0.2 and not names(single) & {"front-repeats", "back-repeats-front"}


def test_a_second_face_at_the_back_scores_high_and_is_a_note():
    result = inspect(head(0, 180), **SMALL)
    assert result.repeats.janus() == (pytest.approx(1, abs=0.05), 180)
    note = next(check for check in result.findings if check.name == "back-repeats-front")
    assert note.severity == "note" and "the front is seen again from azimuth 180" in note.message
    assert "front-repeats" not in names(result)


def test_one_face_is_not_accused():
    result = inspect(head(0), **SMALL)
    assert result.repeats.distinctive and result.repeats.janus()[0] < 0.2
    assert not names(result) & {"front-repeats", "back-repeats-front"}


def test_two_equal_sides_are_no_janus_but_are_said():
    ball = trimesh.creation.icosphere(4, 0.5)
    front, back = (face_at(ball.vertices * [1, 1, side], 25, one_eyed=True) for side in (1, -1))
    result = inspect(painted(ball, np.where((front | back)[:, None], INK, SKIN)), **SMALL)
    assert result.repeats.back()[0] > 0.9  # the mirror image
    assert result.repeats.janus()[0] < 0.5 and result.repeats.back(mirrored=False)[0] < 0.5
    assert not names(result) & {"front-repeats", "back-repeats-front"}


def fish(nose_deg):
    """A flat body along an axis, with an eye and an oblique stripe on both sides, as fishes have them."""
    body = trimesh.creation.icosphere(5, 0.5)
    along, up = body.vertices[:, 2], body.vertices[:, 1]
    ink = (np.hypot(along - 0.25, up - 0.1) < 0.08) | (abs(along + 0.6 * up + 0.1) < 0.07)
    body.vertices *= [0.2, 0.8, 1]
    body.apply_transform(trimesh.transformations.rotation_matrix(np.radians(nose_deg), [0, 1, 0]))
    return painted(body, np.where(ink[:, None], INK, SKIN))


@pytest.mark.parametrize("nose_deg", [90, 65, 45, 30])
def test_both_sides_of_a_flat_thing_may_look_alike(nose_deg):
    result = inspect(fish(nose_deg), **SMALL)
    assert result.repeats.distinctive and not names(result) & {"front-repeats", "back-repeats-front"}


def test_equal_quarters_seen_from_a_corner_are_mirror_images_and_no_janus():
    box = trimesh.creation.box((0.8, 0.5, 0.4))
    for _ in range(5):
        box = box.subdivide()
    x, y, z = box.vertices.T
    ink = (abs(abs(z) - 0.2) < 1e-6) & (abs(abs(x) - 0.25) < 0.1) | (abs(abs(x) - 0.4) < 1e-6) & (y > 0)
    box.apply_transform(trimesh.transformations.rotation_matrix(np.radians(45), [0, 1, 0]))
    result = inspect(painted(box, np.where(ink[:, None], INK, SKIN)), **SMALL)
    assert max(result.repeats.mirrored[1:]) > 0.9 and "front-repeats" not in names(result)


def test_a_front_that_reaches_far_round_is_not_seen_again():
    around = tuple(45.0 * i for i in range(8))
    for between, seen_again in ((0.9, 0.0), (0.2, 0.8)):
        alike = (1.0, between, 0.8, 0.1, 0.0, 0.0, 0.0, 0.3)
        assert Repeats(around, alike, alike, contrast=0.1).sides()[0] == seen_again


def test_what_is_alike_all_around_has_no_front_to_repeat():
    ball = trimesh.creation.icosphere(4, 0.5)
    plain = painted(ball.copy(), np.tile(SKIN, (len(ball.vertices), 1)))
    bands = painted(ball.copy(), np.where((ball.vertices[:, 1:2] * 10) % 2 > 1, INK, SKIN))
    mug = trimesh.util.concatenate(
        [
            trimesh.creation.cylinder(0.35, segment=[[0, -0.45, 0], [0, 0.45, 0]], sections=48),
            trimesh.creation.box((0.25, 0.4, 0.08), trimesh.transformations.translation_matrix([0.4, 0, 0])),
        ]
    )
    for mesh in (plain, bands, painted(mug, np.tile(INK, (len(mug.vertices), 1)))):
        result = inspect(mesh, **SMALL)
        assert result.repeats.janus() is None and not names(result) & {"front-repeats", "back-repeats-front"}


def test_the_input_side_is_where_the_camera_stands():
    result = inspect(head(90), camera=orbit(90.0, 20.0, distance=3.0)[0], **SMALL)
    assert result.azimuth_deg[0] == pytest.approx(90, abs=1e-3) and result.repeats.contrast > 0.05
    assert result.repeats.janus()[0] < 0.2
    elsewhere = inspect(head(90), **SMALL)  # from azimuth 0, where the face is not
    assert elsewhere.azimuth_deg[0] == 0 and elsewhere.repeats.contrast < result.repeats.contrast / 2


def test_a_shape_that_only_fits_from_the_photos_own_place_is_found(disc_asset):
    mesh, subject, camera = disc_asset.mesh, disc_asset.subject, disc_asset.camera
    assert "front-distorted" not in names(inspect(mesh, subject=subject, camera=camera, **SMALL))
    eye = camera.positions.reshape(3).double().numpy()
    stretched = mesh.copy()
    towards = np.asarray(mesh.vertices) - eye  # moved along the rays of the photo, which therefore does not change
    stretched.vertices = eye + towards * np.where(mesh.vertices[:, 1:2] > 0, 1.0, 4.0)
    assert "front-distorted" in names(inspect(stretched, subject=subject, camera=camera, **SMALL))


# Flat as a card


def solid_of(mesh):
    return Welded.of(mesh, ORIGIN, 1.0)


FRONT = np.array([0.0, 0.0, 1.0])


def test_flatness_of_ball_and_box_is_known():
    ball = flatness(solid_of(trimesh.creation.icosphere(4, 0.5)), FRONT)
    assert ball.thinness == pytest.approx(1, abs=0.01)
    assert ball.mean_depth == pytest.approx(4 / 3 / np.sqrt(np.pi), abs=0.02)  # (4/3 π r³) / (π r²)^(3/2)
    assert ball.fill == pytest.approx(2 / 3, abs=0.02)
    box = flatness(solid_of(trimesh.creation.box((1, 0.5, 0.2))), FRONT)
    assert box.thinness == pytest.approx(0.2, abs=0.01) and box.fill == pytest.approx(1, abs=0.03)
    assert box.mean_depth == pytest.approx(0.2 / np.sqrt(0.5), abs=0.02)


def test_an_open_surface_has_no_volume():
    cup = trimesh.creation.icosphere(3, 0.5)
    cup.update_faces(cup.triangles_center[:, 1] < 0)
    assert flatness(solid_of(cup), FRONT).mean_depth is None


def bent_card(thickness):
    """A quarter of a tube of radius 0.5 whose outside faces +Z."""
    outline = []
    angles = np.radians(np.linspace(-60, 60, 25))
    for radius, turn in ((0.5, angles), (0.5 - thickness, angles[::-1])):
        outline += [(radius * np.sin(a), radius * np.cos(a)) for a in turn]
    ring = np.array(outline)
    n = len(ring)
    low, high = (np.column_stack([ring[:, 0], np.full(n, y), ring[:, 1]]) for y in (-0.4, 0.4))
    faces = [[i, (i + 1) % n, n + i] for i in range(n)] + [[(i + 1) % n, n + (i + 1) % n, n + i] for i in range(n)]
    half = range(n // 2 - 1)
    caps = [[i, n - 1 - i, i + 1] for i in half] + [[i + 1, n - 1 - i, n - 2 - i] for i in half]
    faces += caps + [[n + a for a in c[::-1]] for c in caps]
    return trimesh.Trimesh(np.vstack([low, high]), faces, process=False)


def test_cards_are_called_cards_and_boxes_are_not():
    assert solid_of(bent_card(0.02)).closed and solid_of(bent_card(0.2)).closed
    for mesh, fires in (
        (trimesh.creation.box((1, 0.8, 0.02)), True),
        (trimesh.creation.box((1, 0.8, 0.12)), False),
        (bent_card(0.02), True),
        (bent_card(0.2), False),
    ):
        assert ("card-like" in names(inspect(mesh, **SMALL))) is fires


# Crumbs in the air


def beside(mesh, other, *offset):
    other = other.copy()
    other.apply_translation(offset)
    return trimesh.util.concatenate([mesh, other])


def test_crumbs_away_from_the_rest_are_counted_and_parts_that_touch_are_not():
    body, crumb = trimesh.creation.icosphere(3, 0.4), trimesh.creation.icosphere(2, 0.04)
    assert floaters(solid_of(body), None).parts == 1
    attached = floaters(solid_of(beside(body, crumb, 0.42, 0, 0)), None)
    assert (attached.parts, attached.count) == (1, 0)
    loose = floaters(solid_of(beside(beside(body, crumb, 0.5, 0.3, 0), crumb, -0.5, 0.3, 0)), None)
    assert (loose.parts, loose.count) == (3, 2)
    assert loose.volume_share == pytest.approx(2e-3, rel=0.15)  # 2 · 0.1³
    assert "floaters" in names(inspect(beside(body, crumb, 0.5, 0.3, 0), **SMALL))


def test_a_pair_of_equal_things_is_no_crumb():
    shoe = trimesh.creation.icosphere(3, 0.25)
    pair = floaters(solid_of(beside(shoe, shoe, 0.6, 0, 0)), None)
    assert (pair.parts, pair.count) == (2, 0)


def test_parts_split_only_by_the_texture_are_one():
    ball = trimesh.creation.icosphere(2, 0.4)
    split = trimesh.Trimesh(ball.triangles.reshape(-1, 3), np.arange(3 * len(ball.faces)).reshape(-1, 3), process=False)
    assert floaters(solid_of(split), None).parts == 1


def test_the_share_of_gaussians_far_from_the_mesh_is_measured():
    ball = head(0)
    gaussians = mesh_to_gaussians(ball, count=1000, seed=0)
    gaussians = replace(gaussians, scales=torch.full_like(gaussians.scales, 0.01), opacities=torch.ones(1000))
    assert floaters(solid_of(ball), gaussians).stray_share == 0
    means = gaussians.means.clone()
    means[::10] *= 1.5
    fog = replace(gaussians, means=means)
    assert floaters(solid_of(ball), fog).stray_share == pytest.approx(0.1, abs=1e-6)
    assert "stray-gaussians" in names(inspect(ball, gaussians=fog, **SMALL))


# Seams


def two_charts(left, right):
    """Two squares side by side, cut apart in the texture, each of one grey (bytes)."""
    from PIL import Image

    vertices = np.array([[-1, 0, 0], [0, 0, 0], [0, 1, 0], [-1, 1, 0], [0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]])
    faces = [[0, 1, 2], [0, 2, 3], [4, 5, 6], [4, 6, 7]]
    u = np.array([0.05, 0.4, 0.4, 0.05, 0.6, 0.95, 0.95, 0.6])
    v = np.array([0.1, 0.1, 0.9, 0.9] * 2)
    image = np.full((64, 64, 3), left, np.uint8)
    image[:, 32:] = right
    material = trimesh.visual.material.PBRMaterial(baseColorTexture=Image.fromarray(image))
    visual = trimesh.visual.TextureVisuals(uv=np.column_stack([u, v]), material=material)
    return trimesh.Trimesh(vertices / 2, faces, visual=visual, process=False)


def test_the_jump_of_colour_at_a_cut_is_the_difference_of_its_sides():
    found = seams(two_charts(51, 204), solid_of(two_charts(51, 204)), None)
    assert found.charts == pytest.approx(0.6, abs=0.005) and found.inside == 0 and found.seen is None
    assert seams(two_charts(51, 51), solid_of(two_charts(51, 51)), None).charts == 0
    assert "texture-seams" in names(inspect(two_charts(51, 204), **SMALL))
    assert "texture-seams" not in names(inspect(two_charts(51, 55), **SMALL))


def test_an_edge_of_the_photo_that_shows_is_found():
    camera = orbit(0.0, 0.0, distance=3.0, size=128)[0]
    ball = trimesh.creation.icosphere(5, 0.5)
    # From 3 away, the cosine to the view falls to a quarter at a height z over the middle of about 0.196.
    sharp = painted(ball.copy(), np.where(ball.vertices[:, 2:] > 0.196, SKIN, INK))
    soft = painted(ball.copy(), SKIN + (INK - SKIN) * (0.5 - ball.vertices[:, 2:]))
    assert "photo-edge" in names(inspect(sharp, camera=camera, **SMALL))
    result = inspect(soft, camera=camera, **SMALL)
    assert "photo-edge" not in names(result) and result.seams.seen is not None
    assert inspect(sharp, **SMALL).seams.seen is None  # no camera, no photo


# Flicker and popping


def turning(step_deg, frames=6, size=64):
    return orbit([step_deg * i for i in range(frames)], 10.0, distance=2.5, size=size)


def test_what_stands_still_does_not_flicker():
    cameras = turning(0.0)
    assert steadiness(mesh_frames(head(0), cameras), cameras).warp_error == 0


def test_motion_is_no_flicker_and_is_told_from_it():
    cameras = turning(3.0)
    frames = mesh_frames(head(0), cameras)
    moved = steadiness(frames, cameras)
    plain = float(np.abs(frames.color[1] - frames.color[0])[frames.alpha[0] > 0.5].mean())
    assert 0 < moved.warp_error < plain / 2 and moved.popping < 0.004
    noise = np.random.default_rng(0).normal(0, 0.1, frames.color.shape).astype(np.float32)
    assert steadiness(replace(frames, color=frames.color + noise), cameras).warp_error > moved.warp_error + 0.05


def test_a_change_at_once_is_a_pop_of_its_size_and_a_slow_one_is_none():
    cameras = turning(3.0, frames=8)
    ball = painted(trimesh.creation.icosphere(4, 0.5), np.full((2562, 3), 0.4))
    frames = mesh_frames(ball, cameras)
    at_once = np.where(np.arange(8) < 4, 0, 0.1).astype(np.float32)[:, None, None, None]
    slowly = np.linspace(0, 0.1, 8, dtype=np.float32)[:, None, None, None]
    assert steadiness(replace(frames, color=frames.color + at_once), cameras).popping == pytest.approx(0.1, abs=1e-3)
    assert steadiness(replace(frames, color=frames.color + slowly), cameras).popping == pytest.approx(0, abs=1e-3)


def test_frames_that_share_too_little_are_not_compared():
    cameras = turning(180.0, frames=2)
    assert warp_error(mesh_frames(head(0), cameras), cameras, 0, 1) is None


@pytest.fixture(scope="module")
def whole():
    mesh = head(0)
    return mesh, mesh_to_gaussians(mesh, count=20_000, seed=0)


def test_a_good_splat_is_not_accused(whole):
    mesh, gaussians = whole
    result = inspect(mesh, gaussians=gaussians, size=96)
    assert result.findings == ()
    assert result.agreement.worst_mask_iou > 0.85 and result.agreement.psnr_db > 25


def test_a_splat_whose_colours_depend_wildly_on_the_view_flickers(whole):
    mesh, gaussians = whole
    wild = torch.randn(len(gaussians), 3, 3, generator=torch.Generator().manual_seed(0))
    result = inspect(mesh, gaussians=replace(gaussians, sh=torch.cat([gaussians.sh, wild], 1)), size=96)
    assert "flicker" in names(result)


def test_two_large_splats_that_change_places_pop(whole):
    mesh, gaussians = whole
    # Side by side at azimuth 45°, the middle of the path: until there one is nearer, from there on the other.
    away, along = np.array([1.0, 0, 1]) / np.sqrt(2), np.array([1.0, 0, -1]) / np.sqrt(2)
    means = torch.tensor(np.stack([0.5 * away + 0.02 * along, 0.5 * away - 0.02 * along]), dtype=torch.float32)
    for colors, pops in (([[1.0, 0, 0], [0, 0, 1.0]], True), ([[0.5, 0, 0.5], [0.5, 0, 0.5]], False)):
        pair = from_colors(
            means,
            torch.tensor([[1.0, 0, 0, 0]] * 2),
            torch.full((2, 3), 0.1),
            torch.full((2,), 0.99),
            torch.tensor(colors),
        )
        assert ("popping" in names(inspect(mesh, gaussians=merge(gaussians, pair), size=96))) is pops


# Mesh and splat


def test_agreement_of_pictures_is_the_definition():
    frames = mesh_frames(head(0), turning(45.0, frames=2))
    psnr, overlap = picture_agreement(frames, frames)
    assert psnr == [99.0, 99.0] and overlap == [1.0, 1.0]
    psnr, overlap = picture_agreement(frames, replace(frames, color=frames.color - 0.1))
    assert psnr == pytest.approx([20.0, 20.0], abs=1e-3) and overlap == [1.0, 1.0]
    psnr, overlap = picture_agreement(frames, replace(frames, alpha=np.zeros_like(frames.alpha)))
    assert psnr == [0.0, 0.0] and overlap == [0.0, 0.0]


def test_a_broken_splat_is_found(whole):
    mesh, gaussians = whole
    swapped = replace(gaussians, sh=(gaussians.sh.flip(-1) - 0.5 / SH_C0))
    for broken in (gaussians[gaussians.means[:, 1] > 0], swapped):
        assert "splat-disagrees" in names(inspect(mesh, gaussians=broken, **SMALL))
    gone = inspect(mesh, gaussians=replace(gaussians, opacities=torch.zeros(len(gaussians))), **SMALL)
    assert {"empty-view", "splat-disagrees"} <= names(gone) and "splat" in gone.findings[0].message


def test_a_view_in_which_the_object_vanishes_is_found():
    sheet = trimesh.Trimesh([[-0.5, -0.5, 0], [0.5, -0.5, 0], [0.5, 0.5, 0], [-0.5, 0.5, 0]], [[0, 1, 2], [0, 2, 3]])
    result = inspect(sheet, **SMALL)
    empty = next(check for check in result.findings if check.name == "empty-view")
    assert "mesh" in empty.message and "azimuth 90°" in empty.message
    assert "empty-view" not in names(inspect(trimesh.creation.box((1, 1, 0.1)), **SMALL))


# The whole


def test_place_and_size_do_not_matter():
    mesh = beside(head(0, 90), trimesh.creation.icosphere(2, 0.02), 0.55, 0.4, 0)
    moved = mesh.copy()
    moved.apply_scale(40)
    moved.apply_translation([7, -3, 5])
    a, b = inspect(mesh, **SMALL), inspect(moved, **SMALL)
    assert names(a) == names(b) >= {"front-repeats", "floaters"}
    np.testing.assert_allclose(a.repeats.plain, b.repeats.plain, atol=0.02)
    assert a.mesh_steadiness.warp_error == pytest.approx(b.mesh_steadiness.warp_error, abs=1e-3)
    assert a.flatness.thinness == pytest.approx(b.flatness.thinness, abs=1e-3)


def test_what_cannot_be_inspected_is_refused_with_a_remedy():
    with pytest.raises(InputError, match=r"4 views of 64 pixels .* at least 8"):
        inspect(head(0), views=4, size=64)
    with pytest.raises(InputError, match="no faces"):
        inspect(trimesh.Trimesh(np.zeros((3, 3)), np.zeros((0, 3), int)), **SMALL)
    with pytest.raises(InputError, match="not finite"):
        inspect(trimesh.Trimesh([[0, 0, np.nan], [1, 0, 0], [0, 1, 0]], [[0, 1, 2]], process=False), **SMALL)
    with pytest.raises(InputError, match="single point"):
        inspect(trimesh.Trimesh(np.ones((3, 3)), [[0, 1, 2]], process=False), **SMALL)


def test_every_finding_has_a_value_a_rule_and_a_remedy(disc_asset):
    inspection = disc_asset.report["inspection"]
    json.dumps(inspection)
    assert inspection["front_likeness"] > 0.8 and len(inspection["repeats"]["plain"]) == 8
    assert "inspect" in [row["name"] for row in disc_asset.report["stages"]]
    found = inspect(beside(head(0, 90, 180), trimesh.creation.icosphere(2, 0.02), 0.55, 0.4, 0), **SMALL).findings
    assert len(found) >= 3
    for check in found:
        assert check.remedy and check.severity in ("note", "warning") and np.isfinite(check.value)
        assert any(word in check.message for word in ("at least", "more than", "less than", "over", "at most"))


def test_the_mirrored_back_of_a_silhouette_is_said(disc_asset):
    assert "back-repeats-front" in [check["name"] for check in disc_asset.report["checks"]]
