import json
import struct

import numpy as np
import pytest
import trimesh
from PIL import Image

from obverse.errors import InputError
from obverse.training.object_filter import judge, marked, refused
from obverse.training.objects import normalised


def painted(mesh):
    """The mesh with a colour per face that varies with its place."""
    middle = mesh.triangles_center
    low, high = middle.min(0), middle.max(0)
    colors = np.full((len(mesh.faces), 4), 255, np.uint8)
    colors[:, :3] = 255 * (middle - low) / np.maximum(high - low, 1e-9)
    return trimesh.Trimesh(mesh.vertices, mesh.faces, face_colors=colors, process=False)


def textured(mesh, uv, image):
    material = trimesh.visual.material.PBRMaterial(baseColorTexture=image)
    return trimesh.Trimesh(
        mesh.vertices, mesh.faces, visual=trimesh.visual.TextureVisuals(uv=uv, material=material), process=False
    )


def noise(side=32):
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8))


@pytest.fixture(scope="module")
def ball():
    return normalised(trimesh.creation.icosphere(subdivisions=3))


def spread(mesh):
    """Coordinates that unwrap a star-shaped mesh along longitude and height."""
    x, y, z = mesh.vertices.T
    return np.stack([0.05 + 0.9 * (np.arctan2(x, z) / (2 * np.pi) + 0.5), 0.05 + 0.9 * (y + 0.5)], -1)


def cause(decision):
    return [reason.split(":")[0] for reason in decision.reasons]


def test_a_painted_ball_is_kept_and_its_measures_are_told(ball):
    decision = judge(painted(ball), "ball")
    assert decision.kept and decision.reasons == ()
    row = json.loads(json.dumps(decision.row()))
    assert row["id"] == "ball" and row["measures"]["pieces"] == 1 and row["measures"]["color_spread"] > 0.1


def test_one_colour_all_over_is_flat(ball):
    decision = judge(ball, "plain")
    assert not decision.kept and cause(decision) == ["flat shading"]


def test_a_ball_with_a_picture_on_it_is_kept(ball):
    assert judge(textured(ball, spread(ball), noise()), "ball").kept


@pytest.mark.parametrize("bad", [np.nan, 5000.0])
def test_coordinates_that_lie_nowhere_are_broken(ball, bad):
    uv = spread(ball)
    uv[: len(uv) // 2] = bad
    assert "broken UVs" in cause(judge(textured(ball, uv, noise()), "ball"))


def test_coordinates_in_one_point_of_a_picture_are_broken(ball):
    uv = np.full((len(ball.vertices), 2), 0.4)
    assert "broken UVs" in cause(judge(textured(ball, uv, noise()), "ball"))


def test_texels_smeared_over_half_of_the_surface_are_broken_but_strips_of_a_palette_are_not(ball):
    uv = spread(ball)
    low = ball.vertices[:, 1] < 0.05
    uv[low, 0] = 0.5  # the lower half is drawn from one column of texels
    assert "broken UVs" in cause(judge(textured(ball, uv, noise(64)), "ball"))
    ramp = np.tile(np.linspace(0, 255, 64).astype(np.uint8)[:, None, None], (1, 64, 3))
    assert judge(textured(ball, uv, Image.fromarray(ramp)), "ball").kept


def test_things_that_do_not_touch_are_several_objects_and_parts_that_nearly_do_are_one(ball):
    def pair(gap):
        other = ball.copy()
        other.apply_translation([1 + gap, 0, 0])
        return normalised(painted(trimesh.util.concatenate([ball, other])))

    assert cause(judge(pair(0.5), "two")) == ["several objects"]
    assert judge(pair(0.02), "one").kept


def test_a_ground_plate_is_refused(ball):
    plate = trimesh.creation.box((4, 0.004, 4))
    plate.apply_translation([0, -0.5, 0])
    decision = judge(normalised(painted(trimesh.util.concatenate([ball, plate]))), "on a plate")
    assert cause(decision) == ["watermark or ground"]


def test_degenerate_meshes_are_refused_without_further_rules():
    card = normalised(trimesh.creation.box((1, 1, 0.001)))
    decision = judge(card, "card")
    assert cause(decision) == ["degenerate"] and "card" in decision.reasons[0]


def glb(tmp_path, names):
    text = json.dumps({"asset": {"version": "2.0"}, "nodes": [{"name": name} for name in names]}).encode()
    text += b" " * (-len(text) % 4)
    path = tmp_path / "object.glb"
    path.write_bytes(struct.pack("<4sIIII", b"glTF", 2, 20 + len(text), len(text), 0x4E4F534A) + text)
    return path


def test_a_part_named_after_a_watermark_gives_it_away(ball, tmp_path):
    path = glb(tmp_path, ["body", "Shop_WaterMark_01"])
    assert marked(path) == ["Shop_WaterMark_01"]
    assert cause(judge(painted(ball), "ball", path=path)) == ["watermark"]
    assert judge(painted(ball), "ball", path=glb(tmp_path, ["body", "mark"])).kept


def test_an_object_that_cannot_be_read_gets_a_decision_too():
    assert cause(refused("x", InputError("it is empty"))) == ["unreadable"]
    assert cause(refused("x", ZeroDivisionError("no"))) == ["failed (ZeroDivisionError)"]
