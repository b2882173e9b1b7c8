"""Mesh to Gaussians: counts, spacing, closedness, colours and silhouettes on shapes whose truth is plain."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import trimesh
from PIL import Image
from scipy.spatial import cKDTree

from obverse.cameras import orbit
from obverse.errors import InputError
from obverse.gaussians import Gaussians, rotation_matrices
from obverse.render.splats import render
from obverse.render.triangles import render_mesh
from obverse.surface.gaussians import mesh_to_gaussians

FIELDS = ("means", "quats", "scales", "opacities", "sh")


def square(image: np.ndarray | None = None) -> trimesh.Trimesh:
    """The unit square at z = 0 facing +Z, white or with an image."""
    vertices = np.array([[-0.5, -0.5, 0], [0.5, -0.5, 0], [0.5, 0.5, 0], [-0.5, 0.5, 0]])
    picture = Image.fromarray(np.full((2, 2, 3), 255, np.uint8) if image is None else image)
    material = trimesh.visual.material.PBRMaterial(baseColorTexture=picture)
    visual = trimesh.visual.TextureVisuals(uv=vertices[:, :2] + 0.5, material=material)
    return trimesh.Trimesh(vertices, [[0, 1, 2], [0, 2, 3]], visual=visual, process=False)


def sphere(subdivisions: int = 4) -> trimesh.Trimesh:
    return trimesh.creation.icosphere(subdivisions=subdivisions, radius=0.5)


def equal(a: Gaussians, b: Gaussians) -> bool:
    return all(torch.equal(getattr(a, f), getattr(b, f)) for f in FIELDS)


@pytest.mark.parametrize("count", [1, 2, 37, 1000])
def test_count_is_exact(count: int) -> None:
    for mesh in (square(), sphere(1)):
        gaussians = mesh_to_gaussians(mesh, count=count)
        assert len(gaussians) == count
        assert all(torch.isfinite(getattr(gaussians, f)).all() for f in FIELDS)


def test_same_seed_gives_the_same_gaussians_and_another_does_not() -> None:
    one, again, other = (mesh_to_gaussians(sphere(2), count=300, seed=s) for s in (3, 3, 4))
    assert equal(one, again)
    assert not equal(one, other)


def test_gaussians_lie_on_the_surface_or_just_below() -> None:
    # Spacing is √(4π 0.25 / 4000) = 0.028; the inset is at most half of it, chords of the icosphere less than 0.001.
    radius = mesh_to_gaussians(sphere(), count=4000).means.norm(dim=-1)
    assert radius.max() < 0.5
    assert radius.min() > 0.5 - 0.014 - 0.002


def test_discs_are_thin_along_the_normal() -> None:
    gaussians = mesh_to_gaussians(sphere(), count=4000)
    axis = rotation_matrices(gaussians.quats)[:, :, 2]
    cosine = (axis * torch.nn.functional.normalize(gaussians.means, dim=-1)).sum(-1)
    assert cosine.min() > 0.99
    assert (gaussians.scales[:, 2] < 0.35 * gaussians.scales[:, :2].min(-1).values).all()


def test_quaternions_are_unit_also_for_normals_along_minus_z() -> None:
    flipped = square()
    flipped.invert()
    gaussians = mesh_to_gaussians(flipped, count=50)
    torch.testing.assert_close(gaussians.quats.norm(dim=-1), torch.ones(50))
    torch.testing.assert_close(
        rotation_matrices(gaussians.quats)[:, :, 2], torch.tensor([0.0, 0.0, -1.0]).expand(50, 3), atol=1e-5, rtol=0
    )


def test_spacing_is_even_where_independent_points_leave_holes() -> None:
    gaussians = mesh_to_gaussians(square(), count=2000)
    grid = (np.stack(np.meshgrid(np.arange(200), np.arange(200)), -1).reshape(-1, 2) + 0.5) / 200 - 0.5
    spacing = 1 / np.sqrt(2000)
    farthest = cKDTree(gaussians.means[:, :2].numpy()).query(grid)[0].max()
    random = np.random.default_rng(0).random((2000, 2)) - 0.5
    assert farthest < 1.15 * spacing  # a hexagonal lattice has 0.62
    assert cKDTree(random).query(grid)[0].max() > 1.5 * spacing
    nearest = cKDTree(gaussians.means[:, :2].numpy()).query(gaussians.means[:, :2].numpy(), k=2)[0][:, 1]
    assert nearest.min() > 0.25 * spacing


def test_boost_multiplies_the_density_of_a_face() -> None:
    gaussians = mesh_to_gaussians(square(), count=4000, boost=np.array([3.0, 1.0]))
    below_diagonal = gaussians.means[:, 0] > gaussians.means[:, 1]  # the first face
    assert below_diagonal.float().mean().item() == pytest.approx(0.75, abs=0.02)
    ratio = gaussians.scales[below_diagonal, 0].median() / gaussians.scales[~below_diagonal, 0].median()
    assert ratio.item() == pytest.approx(1 / np.sqrt(3), rel=0.1)


def test_faces_with_zero_boost_get_none() -> None:
    gaussians = mesh_to_gaussians(square(), count=500, boost=np.array([1.0, 0.0]))
    assert (gaussians.means[:, 0] > gaussians.means[:, 1]).all()


def test_closed_shape_has_no_pinholes() -> None:
    cameras = orbit([0.0, 70.0], [0.0, 35.0], size=96)
    mesh = sphere()
    alpha = render(mesh_to_gaussians(mesh, count=8000), cameras).alpha
    inside = render_mesh(mesh, cameras)[..., 3] == 1
    assert inside.sum() > 5000
    assert alpha[inside].min() > 0.98
    assert (alpha[inside] > 0.99).float().mean() > 0.995


def test_single_sheet_is_closed_too() -> None:
    alpha = render(mesh_to_gaussians(square(), count=6000), orbit(0.0, size=96)).alpha[0, 36:60, 36:60]
    assert alpha.min() > 0.85
    assert alpha.mean() > 0.97


def test_silhouette_grows_by_at_most_a_pixel() -> None:
    cameras = orbit([20.0, 45.0], [10.0, 0.0], size=192)
    for mesh in (sphere(), trimesh.creation.box((0.7, 0.7, 0.7))):
        covered = render_mesh(mesh, cameras, supersample=4)[..., 3]
        alpha = render(mesh_to_gaussians(mesh, count=20_000), cameras).alpha
        reach = torch.nn.functional.max_pool2d(covered[:, None], 3, stride=1, padding=1)[:, 0]
        grown = (alpha > 0.5) & (reach == 0)
        assert (covered > 0.5).sum() > 10_000
        assert not grown.any()


def test_colours_are_those_of_the_texture_in_place() -> None:
    image = np.zeros((2, 2, 3), np.uint8)
    image[0, 0], image[0, 1], image[1, 0], image[1, 1] = [255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 255]
    large = np.kron(image, np.ones((32, 32, 1), np.uint8))
    gaussians = mesh_to_gaussians(square(large), count=2000)
    x, y = gaussians.means[:, 0], gaussians.means[:, 1]
    # Away from the borders between colours, one of which is the image's own edge, as textures repeat.
    for sx, sy, color in ((-1, 1, [1, 0, 0]), (1, 1, [0, 1, 0]), (-1, -1, [0, 0, 1]), (1, -1, [1, 1, 1])):
        quarter = gaussians.colors[(sx * x > 0.05) & (sy * y > 0.05) & (torch.maximum(x.abs(), y.abs()) < 0.45)]
        assert len(quarter) > 200
        torch.testing.assert_close(quarter, torch.tensor(color).float().expand_as(quarter), atol=1e-3, rtol=0)


def test_fine_texture_is_averaged_over_each_gaussian() -> None:
    # A one-texel checkerboard of 256² under 400 Gaussians: each covers some 160 texels, half of them white.
    checker = np.repeat((np.indices((256, 256)).sum(0) % 2 * 255)[..., None], 3, -1).astype(np.uint8)
    colors = mesh_to_gaussians(square(checker), count=400).colors
    assert (colors - 0.5).abs().max() < 0.12


def test_render_resembles_the_mesh() -> None:
    rng = np.random.default_rng(0)
    smooth = np.asarray(Image.fromarray(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8)).resize((96, 96)))
    mesh, camera = square(smooth), orbit(0.0, size=96)
    truth = render_mesh(mesh, camera, shading="unlit", supersample=4)[0, 22:74, 22:74, :3]
    picture = render(mesh_to_gaussians(mesh, count=10_000), camera).color[0, 22:74, 22:74]
    assert truth.std() > 0.1
    assert -10 * torch.log10((picture - truth).square().mean()) > 28


def test_thin_wall_shows_the_near_side_from_both_sides() -> None:
    # A red and a blue sheet, 0.004 apart: a tenth of the spacing, which the inset must not cross.
    front, back = square(), square()
    back.invert()
    front.vertices[:, 2] += 0.002
    back.vertices[:, 2] -= 0.002
    colors = np.repeat([[255, 0, 0, 255], [0, 0, 255, 255]], 4, axis=0)
    wall = trimesh.util.concatenate([front, back])
    wall.visual = trimesh.visual.ColorVisuals(wall, vertex_colors=colors)
    seen = render(mesh_to_gaussians(wall, count=1200), orbit([0.0, 180.0], size=64)).color[:, 28:36, 28:36]
    assert seen[0, ..., 0].min() > 0.8
    assert seen[0, ..., 2].max() < 0.2
    assert seen[1, ..., 2].min() > 0.8
    assert seen[1, ..., 0].max() < 0.2


def test_degenerate_faces_and_missing_corners_are_passed_over() -> None:
    mesh = square()
    broken = trimesh.Trimesh(
        np.concatenate([mesh.vertices, [[np.nan, 0, 0]]]), [[0, 1, 2], [0, 0, 1], [0, 1, 4], [0, 2, 3]], process=False
    )
    gaussians = mesh_to_gaussians(broken, count=200)
    assert len(gaussians) == 200
    assert torch.isfinite(gaussians.means).all()


def test_faces_that_coincide_still_give_the_count() -> None:
    mesh = square()
    doubled = trimesh.Trimesh(mesh.vertices, np.tile(mesh.faces, (3, 1)), process=False)
    assert len(mesh_to_gaussians(doubled, count=500)) == 500


def test_unusable_arguments_are_explained() -> None:
    with pytest.raises(InputError, match="at least 1"):
        mesh_to_gaussians(square(), count=0)
    with pytest.raises(InputError, match="no area"):
        mesh_to_gaussians(trimesh.Trimesh(np.zeros((3, 3)), [[0, 1, 2]], process=False))
    with pytest.raises(InputError, match="one finite number"):
        mesh_to_gaussians(square(), boost=np.ones(3))
    with pytest.raises(InputError, match="above 0"):
        mesh_to_gaussians(square(), boost=np.zeros(2))
