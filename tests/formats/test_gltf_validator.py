"""GLB files pass the Khronos glTF validator without an error, a warning or a remark."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import trimesh
from PIL import Image
from trimesh.visual import TextureVisuals
from trimesh.visual.material import PBRMaterial

from obverse.formats.meshes import write_mesh

from .shapes import PROVENANCE, colored_mesh, plain_mesh, textured_mesh

MODULES = Path(os.environ.get("OBVERSE_GLTF_VALIDATOR") or Path(__file__).parents[2] / "node_modules")


def large_mesh():
    """More vertices than 16-bit indices can name."""
    side = np.linspace(0, 1, 260)
    x, y = np.meshgrid(side, side)
    points = np.stack([x, y, np.sin(6 * x) * y], axis=-1).reshape(-1, 3)
    corner = (np.arange(259)[:, None] * 260 + np.arange(259)).ravel()
    faces = np.concatenate([np.stack([corner, corner + 1, corner + 260], 1), [[67598, 67599, 67000]]])
    return trimesh.Trimesh(points, faces, process=False)


def profiled_mesh():
    """A texture that carries the resolution and gamma of the photo it came from."""
    mesh = textured_mesh()
    image = mesh.visual.material.baseColorTexture.resize((64, 64))
    image.info |= {"dpi": (300, 72), "gamma": 0.5, "icc_profile": b"not a profile"}
    mesh.visual.material.baseColorTexture = image
    return mesh


def blended_mesh():
    """A texture with transparency that is meant."""
    mesh = textured_mesh()
    material = PBRMaterial(baseColorTexture=Image.new("RGBA", (32, 16), (9, 9, 9, 99)), alphaMode="BLEND")
    visual = TextureVisuals(uv=mesh.visual.uv * 3, material=material)
    return trimesh.Trimesh(mesh.vertices, mesh.faces, visual=visual, process=False)


def degenerate_mesh():
    """Faces without an area, and normals that are zero or not finite."""
    mesh = plain_mesh()
    normals = np.array(mesh.vertex_normals)
    normals[0], normals[1] = 0, np.nan
    faces = np.concatenate([mesh.faces, [[0, 0, 1]]])
    return trimesh.Trimesh(mesh.vertices, faces, vertex_normals=normals, process=False)


MAKERS = (textured_mesh, colored_mesh, plain_mesh, large_mesh, profiled_mesh, blended_mesh, degenerate_mesh)


def test_the_khronos_validator_has_nothing_to_say(tmp_path):
    package = MODULES.resolve() / "gltf-validator"
    if shutil.which("node") is None or not package.is_dir():
        pytest.skip(
            "needs node and gltf-validator: npm install gltf-validator, or OBVERSE_GLTF_VALIDATOR=<node_modules>"
        )
    files = [write_mesh(make(), tmp_path / f"{make.__name__}.glb", provenance=PROVENANCE)[0] for make in MAKERS]
    files += write_mesh(textured_mesh(), tmp_path / "tall.glb", height_m=1.75)
    runner = Path(__file__).with_name("validate_gltf.mjs")
    done = subprocess.run(["node", runner, package, *files], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    reports = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(reports) == len(files) == 8
    assert [(Path(r["file"]).name, r["issues"]["messages"]) for r in reports if r["issues"]["messages"]] == []
    assert [r["info"]["totalTriangleCount"] for r in reports][:3] == [8, 8, 8]
