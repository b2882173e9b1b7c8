"""Invented objects keep their promises for any seed, and every family of them occurs."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
import trimesh

from obverse.cameras import orbit
from obverse.errors import InputError
from obverse.render.triangles import render_mesh
from obverse.training.procedural import FACES, FAMILIES, THINNEST, _posed, family, procedural_object
from obverse.training.procedural_build import Build
from obverse.training.procedural_shapes import (
    Draw,
    Limb,
    Part,
    bend,
    blob,
    box,
    cylinder,
    extrude,
    lathe,
    loft,
    normals,
    polygon,
    quadric,
    ring,
    signed_volume,
    sweep,
    torus,
    wobbly,
)
from obverse.training.procedural_textures import PATTERNS, SIZE, Finish, painted, placed, tiles


def first_of_each_family() -> dict[str, int]:
    found: dict[str, int] = {}
    for seed in range(2000):
        found.setdefault(family(seed), seed)
        if len(found) == len(FAMILIES):
            break
    return found


SEEDS = first_of_each_family()


def digest(mesh: trimesh.Trimesh) -> str:
    arrays = [mesh.vertices, mesh.faces, mesh.vertex_normals]
    if isinstance(mesh.visual, trimesh.visual.TextureVisuals):
        arrays += [mesh.visual.uv, np.asarray(mesh.visual.material.baseColorTexture)]
    else:
        arrays.append(mesh.visual.vertex_colors)
    return hashlib.sha256(b"".join(np.ascontiguousarray(a).tobytes() for a in arrays)).hexdigest()


def welded(part: Part) -> trimesh.Trimesh:
    """The part with equal positions joined, so that seams do not count as borders."""
    keys = np.round(part.vertices / np.ptp(part.vertices, axis=0).max(), 7)
    _, first, inverse = np.unique(keys, axis=0, return_index=True, return_inverse=True)
    faces = inverse.ravel()[part.faces]
    faces = faces[(faces[:, 0] != faces[:, 1]) & (faces[:, 1] != faces[:, 2]) & (faces[:, 2] != faces[:, 0])]
    return trimesh.Trimesh(part.vertices[first], faces, process=False)


# objects


def test_every_family_occurs_among_two_thousand_seeds() -> None:
    assert set(SEEDS) == set(FAMILIES)


@pytest.mark.parametrize("name", list(FAMILIES))
def test_each_family_keeps_the_promised_limits(name: str) -> None:
    mesh = procedural_object(SEEDS[name])
    sides = np.ptp(mesh.vertices, axis=0)
    assert mesh.metadata["family"] == name
    assert 4 <= len(mesh.faces) <= FACES
    assert np.isfinite(mesh.vertices).all()
    np.testing.assert_allclose(mesh.bounds.sum(axis=0), 0, atol=1e-9)
    assert sides.max() == pytest.approx(1)
    assert sides.min() >= THINNEST
    np.testing.assert_allclose(np.linalg.norm(mesh.vertex_normals, axis=1), 1, atol=1e-6)
    assert mesh.volume > 0


@pytest.mark.parametrize("name", list(FAMILIES))
def test_each_family_can_be_drawn(name: str) -> None:
    image = render_mesh(procedural_object(SEEDS[name]), orbit([30.0], [20.0], size=64))[0].numpy()
    assert np.isfinite(image).all()
    inside = image[..., 3] > 0.5
    assert inside.sum() > 20
    assert image[inside][:, :3].std(axis=0).max() > 0.003


@pytest.mark.parametrize("name", ["carton", "cup", "assembly", "quadruped"])
def test_a_seed_gives_the_same_bytes_twice_and_neighbours_differ(name: str) -> None:
    seed = SEEDS[name]
    before = np.random.get_state()[1].copy()  # type: ignore[union-attr]
    assert digest(procedural_object(seed)) == digest(procedural_object(seed))
    assert (np.random.get_state()[1] == before).all()  # type: ignore[union-attr]
    assert digest(procedural_object(seed)) != digest(procedural_object(seed + 1))


def test_surface_normals_look_the_way_the_faces_do() -> None:
    for name in ("bottle", "carton", "doll", "shoe"):
        mesh = procedural_object(SEEDS[name])
        corner = mesh.vertex_normals[mesh.faces].mean(axis=1)
        assert ((corner * mesh.face_normals).sum(axis=1) > 0).mean() > 0.97


def test_four_objects_in_five_stand_upright() -> None:
    """600 draws of a probability of 0.8 have a standard deviation of 0.016; three of them are allowed for."""
    up = np.array([[0.0, 1, 0]])
    kept = [np.allclose(_posed(up, Draw(seed)), up) for seed in range(600)]
    assert 0.75 < np.mean(kept) < 0.85


def test_posing_keeps_lengths_and_handedness() -> None:
    for seed in range(60):
        turn = _posed(np.eye(3), Draw(seed)).T
        np.testing.assert_allclose(turn @ turn.T, np.eye(3), atol=1e-12)
        assert np.linalg.det(turn) == pytest.approx(1)


def test_a_negative_seed_is_refused() -> None:
    with pytest.raises(InputError, match="-3"):
        procedural_object(-3)
    with pytest.raises(InputError, match="negative"):
        family(-1)


# surfaces

EXACT = {
    "box": (box(1, 2, 3), 6.0, 1e-9),
    "cylinder": (cylinder(1, 2, sides=400), 2 * np.pi, 1e-3),
    "ball": (quadric((1, 1, 1), columns=200, rows=120), 4 / 3 * np.pi, 2e-3),
    "ring": (torus(1, 0.25, sides=200), 2 * np.pi**2 * 0.25**2, 0.06),
    "prism": (extrude(polygon(np.array([(1.0, 1), (-1, 1), (-1, -1), (1, -1)])), 0.5), 2.0, 1e-9),
}


@pytest.mark.parametrize("name", list(EXACT))
def test_closed_shapes_have_the_volume_of_their_formula(name: str) -> None:
    part, volume, tolerance = EXACT[name]
    mesh = welded(part)
    assert mesh.is_watertight
    assert mesh.is_winding_consistent
    assert signed_volume(part) == pytest.approx(volume, rel=max(tolerance, 1e-9))


@pytest.mark.parametrize("seed", range(6))
def test_random_shapes_are_closed_and_look_outwards(seed: int) -> None:
    d = Draw(seed)
    path = np.cumsum(d.rng.normal(0, 1, (6, 3)) * 0.3 + [1, 0, 0], axis=0)
    shapes = [
        box(d.between(0.2, 1), 1, d.between(0.2, 1), radius=d.between(0.01, 0.3), cuts=3, bulge=0.05),
        quadric((1, d.between(0.3, 2), 1), (d.between(0.2, 1.5), d.between(0.2, 1.5))),
        extrude(wobbly(d), 0.4, bevel=0.05),
        sweep(path, d.between(0.05, 0.2), round_ends=d.chance(0.5)),
        loft(np.stack([np.column_stack([ring(12) * s, np.full(12, z)]) for s, z in ((1, 0), (0.5, 1), (0, 2))])),
        lathe([(0, 0), (1, 0), (d.between(0.3, 1), 1), (0, 2)], 16),
    ]
    for part in shapes:
        assert welded(part).is_watertight
        assert signed_volume(part) > 0
        assert part.uv.min() >= 0
        assert part.uv.max() <= 1


def test_a_mirrored_part_still_looks_outwards() -> None:
    part = box(1, 2, 3, radius=0.2)
    assert signed_volume(part.scaled(-1, 1, 1)) == pytest.approx(signed_volume(part))


def test_a_ball_has_radial_normals_across_its_seam_and_poles() -> None:
    part = quadric((1, 1, 1), columns=40, rows=24)
    assert ((normals(part) * part.vertices).sum(axis=1) > 0.995).all()


def test_a_sharp_box_keeps_the_normals_of_its_faces() -> None:
    part = box(2, 2, 2)
    assert (np.abs(normals(part)).max(axis=1) > 1 - 1e-9).all()


def test_bending_keeps_the_length_of_the_axis() -> None:
    line = np.stack([np.zeros(50), np.linspace(0, 2, 50), np.zeros(50)], axis=1)
    assert np.linalg.norm(np.diff(bend(line, 90), axis=0), axis=1).sum() == pytest.approx(2, rel=1e-3)


def test_a_blob_is_closed_symmetric_and_near_the_asked_size() -> None:
    limbs = [
        Limb(np.array([0.0, 0, 0]), np.array([0.0, 1, 0]), (0.4, 0.3)),
        Limb(np.array([0.2, 1, 0]), np.array([1.0, 1, 0]), (0.2, 0.1), 1),
    ]
    part, colors = blob(limbs, 0.1, faces=2000)
    mesh = trimesh.Trimesh(part.vertices, part.faces, process=False)
    assert mesh.is_watertight
    assert mesh.volume > 0
    assert 1400 < len(part.faces) < 2600
    assert part.vertices[:, 0].min() == pytest.approx(-part.vertices[:, 0].max(), abs=1e-5)
    assert set(colors) == {0, 1}


# paint


@pytest.mark.parametrize("pattern", list(PATTERNS))
def test_every_pattern_paints_tiles_of_any_size(pattern: str) -> None:
    colors = np.random.default_rng(0).random((6, 3))
    for seed in range(4):
        for height, width in ((128, 128), (96, 128), (32, 32), (85, 64)):
            image = painted(Finish(pattern, colors, seed), height, width)
            assert image.shape == (height, width, 3)
            assert np.isfinite(image).all()
            assert image.min() >= 0
            assert image.max() <= 1


@pytest.mark.parametrize("count", range(1, 10))
def test_tiles_do_not_overlap_and_hold_their_coordinates(count: int) -> None:
    taken = np.zeros((SIZE, SIZE), int)
    corners = np.array([(0.0, 0), (1, 0), (0, 1), (1, 1)])
    for number, (top, left, bottom, right) in enumerate(tiles(count)):
        taken[top:bottom, left:right] += 1
        uv = placed(corners, number, count)
        assert (uv[:, 0] * SIZE > left).all() and (uv[:, 0] * SIZE < right).all()
        assert ((1 - uv[:, 1]) * SIZE > top).all() and ((1 - uv[:, 1]) * SIZE < bottom).all()
    assert taken.max() == 1


def test_parts_of_both_kinds_of_colour_make_one_mesh_with_colours_by_vertex() -> None:
    build = Build(Draw(5))
    red = build.finish("solid", color=np.array([1.0, 0, 0]), grain=0.0)
    build.add(box(1, 1, 1), red)
    build.eyes(np.array([0.2, 0.2, 0.5]), 0.1)
    mesh = build.mesh()
    assert mesh.visual.kind == "vertex"
    first = np.asarray(mesh.visual.vertex_colors)[0]
    assert first[0] > 200 and first[1] < 10
