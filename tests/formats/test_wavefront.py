"""OBJ: three files that belong together, and what other writers do."""

import numpy as np
import pytest

from obverse.errors import InputError
from obverse.formats.meshes import read_mesh, write_mesh

from .shapes import colored_mesh, textured_mesh


def test_three_files_whose_names_have_no_spaces(tmp_path):
    files = write_mesh(textured_mesh(), tmp_path / "my chair.obj")
    assert [path.name for path in files] == ["my chair.obj", "my_chair.mtl", "my_chair.png"]
    assert "mtllib my_chair.mtl\n" in files[0].read_text()
    assert "map_Kd my_chair.png\n" in files[1].read_text()


def test_positions_are_shared_across_the_seam(tmp_path):
    text = write_mesh(textured_mesh(), tmp_path / "a.obj")[0].read_text().splitlines()
    assert sum(line.startswith("v ") for line in text) == 6
    assert sum(line.startswith("vt ") for line in text) == 7


def test_vertex_colours_follow_the_position(tmp_path):
    lines = write_mesh(colored_mesh(), tmp_path / "a.obj")[0].read_text().splitlines()
    top = next(line.split() for line in lines if line.startswith("v 0.1"))
    np.testing.assert_allclose([float(v) * 255 for v in top[4:]], [220, 30, 40], atol=0.01)


def test_polygons_negative_numbers_and_continued_lines(tmp_path):
    path = tmp_path / "a.obj"
    path.write_text("v 0 0 0\nv 1 0 0\nv 1 1 0\nv 0 1 0\n# a quad\nf -4 -3 \\\n -2 -1\n")
    mesh = read_mesh(path)
    assert mesh.area == pytest.approx(1.0)
    np.testing.assert_allclose(mesh.face_normals, [[0, 0, 1], [0, 0, 1]])


def test_two_materials_without_images_become_colours(tmp_path):
    (tmp_path / "m.mtl").write_text("newmtl red\nKd 1 0 0\nnewmtl dim\nKd 0.5 0.5 0.5\n")
    path = tmp_path / "a.obj"
    path.write_text("mtllib m.mtl\nv 0 0 0\nv 1 0 0\nv 0 1 0\nusemtl red\nf 1 2 3\nusemtl dim\nf 3 2 1\n")
    colors = read_mesh(path).visual.vertex_colors
    assert {tuple(c) for c in colors.tolist()} == {(255, 0, 0, 255), (128, 128, 128, 255)}


def test_textures_outside_the_folder_are_not_opened(tmp_path):
    inner = tmp_path / "inner"
    files = write_mesh(textured_mesh(), inner / "a.obj")
    files[2].rename(tmp_path / "a.png")
    files[1].write_text(files[1].read_text().replace("a.png", "../a.png"))
    assert read_mesh(files[0]).visual.kind is None


def test_a_missing_material_leaves_a_mesh(tmp_path):
    files = write_mesh(textured_mesh(), tmp_path / "a.obj")
    files[1].unlink()
    assert len(read_mesh(files[0]).faces) == 8


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("v 0 0 0\n", "no faces"),
        ("v 0 0 0\nf 1 2 3\n", "names an entry past"),
        ("v 0 0 0\nf -5 1 1\n", "counts back past"),
        ("v 0 0 nan\nv 1 0 0\nv 0 1 0\nf 1 2 3\n", "not finite"),
        ("v 0 0 x\nf 1 1 1\n", "not a readable OBJ"),
        ("v 0 0 0\nf 0/0 0/0 0/0\n", "names an entry past"),
    ],
)
def test_impossible_objs_are_explained(tmp_path, text, message):
    path = tmp_path / "a.obj"
    path.write_text(text)
    with pytest.raises(InputError, match=message) as caught:
        read_mesh(path)
    assert str(path) in str(caught.value)
