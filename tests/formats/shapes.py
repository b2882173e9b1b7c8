"""One lopsided object as a mesh and as Gaussians: its topmost point is red, its frontmost point is blue."""

import numpy as np
import torch
import trimesh
from PIL import Image
from trimesh.visual import TextureVisuals
from trimesh.visual.material import PBRMaterial

from obverse.formats.mesh_arrays import from_trimesh, vertex_colors
from obverse.gaussians import from_colors

# right, left, top, bottom, front, back: an octahedron pulled out of shape, in the world frame
POINTS = np.array(
    [[0.4, 0, 0.05], [-0.5, 0.1, 0], [0.1, 0.45, -0.05], [0, -0.35, 0.1], [-0.2, 0.05, 0.3], [0.15, 0, -0.25]]
)
COLORS = np.array([[60, 180, 75], [240, 200, 20], [220, 30, 40], [128, 64, 0], [20, 60, 230], [90, 90, 90]])
TOP, FRONT = 2, 4
FACES = np.array([[4, 0, 2], [0, 5, 2], [5, 1, 2], [1, 4, 2], [0, 4, 3], [5, 0, 3], [1, 5, 3], [4, 1, 3]])
PROVENANCE = {"method": "embedded", "seed": 3, "note": 'naïve "quotes" \\ and\nlines', "settings": {"faces": 8}}


def textured_mesh():
    """Every point has its own 16-pixel tile; the top is split by a seam between two tiles of one colour."""
    tiles = [*COLORS, COLORS[TOP], (0, 0, 0)]
    image = np.concatenate([np.tile(np.uint8(c), (16, 16, 1)) for c in tiles], axis=1)
    vertices = np.concatenate([POINTS, POINTS[TOP : TOP + 1]])
    faces = FACES.copy()
    faces[2:4][faces[2:4] == TOP] = 6
    uv = np.stack([(np.arange(7) + 0.5) / 8, np.linspace(0.2, 0.8, 7)], axis=1)
    material = PBRMaterial(baseColorTexture=Image.fromarray(image), metallicFactor=0.0, roughnessFactor=0.75)
    normals = vertices / np.linalg.norm(vertices, axis=1, keepdims=True)
    visual = TextureVisuals(uv=uv, material=material)
    return trimesh.Trimesh(vertices, faces, vertex_normals=normals, visual=visual, process=False)


def colored_mesh():
    rgba = np.concatenate([COLORS, np.full((6, 1), 255)], axis=1).astype(np.uint8)
    return trimesh.Trimesh(POINTS, FACES, vertex_colors=rgba, process=False)


def plain_mesh():
    return trimesh.Trimesh(POINTS, FACES, process=False)


MESHES = {"textured": textured_mesh, "colored": colored_mesh, "plain": plain_mesh}


def gaussians(count=300, degree=0, seed=0):
    """The six points, and dimmer ones inside them; with coefficients above degree 0 on request."""
    generator = torch.Generator().manual_seed(seed)
    weights = torch.rand(count, 6, generator=generator) ** 3
    inside = (weights / weights.sum(-1, keepdim=True)) @ torch.tensor(POINTS, dtype=torch.float32) * 0.9
    means = torch.cat([torch.tensor(POINTS, dtype=torch.float32), inside])
    total = len(means)
    colors = torch.rand(total, 3, generator=generator)
    colors[:6] = torch.tensor(COLORS / 255, dtype=torch.float32)
    quats = torch.nn.functional.normalize(torch.randn(total, 4, generator=generator), dim=-1)
    quats = torch.where(quats[:, :1] < 0, -quats, quats)
    scales = 0.002 + 0.02 * torch.rand(total, 3, generator=generator)
    opacities = 0.05 + 0.9 * torch.rand(total, generator=generator)
    plain = from_colors(means, quats, scales, opacities, colors)
    rest = 0.1 * torch.randn(total, (degree + 1) ** 2 - 1, 3, generator=generator)
    return type(plain)(means, quats, scales, opacities, torch.cat([plain.sh, rest], dim=1))


def landmarks(points, colors):
    """→ (topmost point, its colour, frontmost point, its colour), colours 0–255."""
    top, front = points[:, 1].argmax(), points[:, 2].argmax()
    return points[top], colors[top], points[front], colors[front]


def mesh_colors(mesh):
    """Colour of every vertex [V, 3], 0–255, from texture or vertex colours."""
    return vertex_colors(from_trimesh(mesh))[:, :3].astype(float)


def is_welded_closed(mesh):
    """Closed by position, however the texture splits it."""
    return trimesh.Trimesh(mesh.vertices, mesh.faces, process=True).is_watertight
