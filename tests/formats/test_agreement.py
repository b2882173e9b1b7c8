"""Every output of one object shows the same object: same topmost and frontmost point, same colours there."""

import numpy as np
import pytest

from obverse.formats.meshes import read_mesh, write_mesh
from obverse.formats.splats import read_splats, write_splats

from .shapes import COLORS, FRONT, POINTS, TOP, colored_mesh, gaussians, landmarks, mesh_colors, textured_mesh


def check(points, colors, *, points_within, colors_within):
    top, top_color, front, front_color = landmarks(points, colors)
    np.testing.assert_allclose(top, POINTS[TOP], atol=points_within)
    np.testing.assert_allclose(front, POINTS[FRONT], atol=points_within)
    if colors_within is not None:
        np.testing.assert_allclose(top_color, COLORS[TOP], atol=colors_within)
        np.testing.assert_allclose(front_color, COLORS[FRONT], atol=colors_within)


@pytest.mark.parametrize("make", [textured_mesh, colored_mesh])
@pytest.mark.parametrize("extension", ["glb", "obj", "stl", "3mf", "usdz", "ply"])
def test_a_mesh_file_has_the_same_top_and_front(tmp_path, extension, make):
    written = write_mesh(make(), tmp_path / f"asset.{extension}")
    mesh = read_mesh(written[0])
    colors = None if extension == "stl" else 0.5  # STL has no colours
    check(mesh.vertices, mesh_colors(mesh), points_within=1e-6, colors_within=colors)
    assert mesh.volume > 0


SPLATS = [  # extension, form, axes, position step, colour step out of 255
    ("ply", "full", "opencv", 1e-7, 0.01),
    ("ply", "full", "gltf", 1e-7, 0.01),
    ("ply", "compact", "opencv", 1e-7, 0.01),
    ("ply", "compressed", "opencv", 1 / 1023, 1),
    ("ply", "compressed", "gltf", 1 / 1023, 1),
    ("splat", "full", "opencv", 1e-7, 0.51),
    ("spz", "full", "opencv", 1 / 8192, 1.01),
]


@pytest.mark.parametrize(("extension", "form", "axes", "step", "color_step"), SPLATS)
def test_a_splat_file_has_the_same_top_and_front(tmp_path, extension, form, axes, step, color_step):
    [path] = write_splats(gaussians(), tmp_path / f"asset.{extension}", form=form, axes=axes)
    found = read_splats(path)
    check(found.means.numpy(), 255 * found.colors.numpy(), points_within=step, colors_within=color_step)


@pytest.mark.parametrize("extension", ["glb", "obj", "usdz"])
def test_height_is_metres_along_y(tmp_path, extension):
    written = write_mesh(textured_mesh(), tmp_path / f"asset.{extension}", height_m=2.4)
    mesh = read_mesh(written[0])
    assert np.ptp(mesh.vertices[:, 1]) == pytest.approx(2.4)
    np.testing.assert_allclose(mesh.vertices[mesh.vertices[:, 1].argmax()], POINTS[TOP] * 3, rtol=1e-6)  # 2.4 / 0.8


@pytest.mark.parametrize("extension", ["stl", "3mf"])
def test_print_files_with_a_real_height_read_back_in_metres(tmp_path, extension):
    mesh = read_mesh(write_mesh(colored_mesh(), tmp_path / f"asset.{extension}", height_m=0.16)[0])
    np.testing.assert_allclose(mesh.vertices[mesh.vertices[:, 1].argmax()], POINTS[TOP] * 0.2, atol=1e-6)
