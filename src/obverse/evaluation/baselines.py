"""What every method is measured against: the photo on a flat card, and our own lifting of views that are all true.

The card is what a method must beat to be worth anything. The oracle is what a perfect multi-view model would reach
with this package behind it; what it lacks, lifting lacks (SV3D, arXiv 2403.12008, gives such a line too). The oracle's
settings are cheaper than those of ``obverse fit``, because it runs once per case.
"""

from __future__ import annotations

import numpy as np
import torch
import trimesh
from PIL import Image
from scipy.spatial import cKDTree
from torch import Tensor

from ..cameras import Views, framing_distance, orbit
from ..lifting.carve import carve, colors_from_views, mesh_depths, start_gaussians
from ..lifting.fit import Recipe, fit
from ..render.fields import GridField
from ..surface.extract import extract
from ..surface.fusion import gaussians_to_mesh
from ..surface.repair import simplify
from ..surface.texture import texture_mesh
from .cases import Scene

CARD_THICKNESS = 0.02  # of its longest side
CARD_CELLS = 96  # along the photo's side
ORACLE_VIEWS, ORACLE_SIZE = 24, 256
ORACLE_ELEVATIONS = (-20.0, 10.0, 40.0)  # in turn
ORACLE_STEPS, ORACLE_GAUSSIANS = 300, 10_000
ORACLE_RESOLUTION, ORACLE_FACES, ORACLE_TEXTURE = 128, 20_000, 512


def card(scene: Scene) -> trimesh.Trimesh:
    """The photo on a flat card cut out along the silhouette, standing upright, the photo on both of its sides."""
    subject = scene.subject
    alpha = subject.resized(CARD_CELLS)[..., 3]
    step = 1.0 / CARD_CELLS
    layers = max(2, round(CARD_THICKNESS / step))
    # Pixel (row, column) → x to the right, y up; one empty sample around everything.
    flat = torch.nn.functional.pad(alpha.flip(0).T, (1, 1, 1, 1))
    values = torch.nn.functional.pad(flat[..., None].expand(-1, -1, layers), (1, 1))
    low = -(0.5 + 0.5 * step)
    grid = GridField(values.contiguous(), (low, low, -0.5 * step * (layers + 1)), step, level=0.5)
    shape = extract(grid, resolution=max(values.shape) - 1, mode="dense", min_component=0.0)
    uv = np.asarray(shape.vertices)[:, :2] + 0.5
    pixels = (subject.rgba[..., :3].clamp(0, 1) * 255 + 0.5).to(torch.uint8).numpy()
    material = trimesh.visual.material.PBRMaterial(
        baseColorTexture=Image.fromarray(pixels), metallicFactor=0.0, roughnessFactor=1.0
    )
    shape.visual = trimesh.visual.TextureVisuals(uv=uv, material=material)
    return _unit(shape)


def oracle(scene: Scene) -> trimesh.Trimesh:
    """True views all around, lifted by this package: hull, fitted Gaussians, opacity level set, colours of the views.

    The views are true in shape, colour and light, and are other ones than those that are judged.
    """
    views = oracle_views(scene)
    start = start_gaussians(carve(views), views, count=ORACLE_GAUSSIANS // 2, seed=scene.case.seed)
    recipe = Recipe(steps=ORACLE_STEPS)
    fitted = fit(views, start, gaussians=ORACLE_GAUSSIANS, recipe=recipe, seed=scene.case.seed)
    mesh = simplify(gaussians_to_mesh(fitted.gaussians, resolution=ORACLE_RESOLUTION), ORACLE_FACES, strict=False)
    depths = mesh_depths(mesh, views.cameras)
    tree, normals = cKDTree(mesh.vertices), torch.from_numpy(np.array(mesh.vertex_normals, np.float32))

    def predicted(points: Tensor) -> Tensor:
        nearest = torch.from_numpy(np.asarray(tree.query(points.numpy())[1], np.int64))
        return colors_from_views(points, normals[nearest], views, depths)[0].clamp(0, 1)

    return texture_mesh(mesh, predicted=predicted, size=ORACLE_TEXTURE).mesh


def oracle_views(scene: Scene) -> Views:
    """The 24 pictures that the oracle is given: every 15° of azimuth, elevations −20°, 10° and 40° in turn."""
    vertices = np.asarray(scene.truth.vertices)
    radius, half_height = np.hypot(vertices[:, 0], vertices[:, 2]).max(), np.abs(vertices[:, 1]).max()
    steepest = max(ORACLE_ELEVATIONS, key=abs)
    distance = framing_distance(float(radius), float(half_height), elevation_deg=steepest)
    azimuths = [360.0 / ORACLE_VIEWS * (i + 0.5) for i in range(ORACLE_VIEWS)]
    elevations = [ORACLE_ELEVATIONS[i % len(ORACLE_ELEVATIONS)] for i in range(ORACLE_VIEWS)]
    cameras = orbit(azimuths, elevations, distance=distance, size=ORACLE_SIZE)
    return Views(scene.take(cameras), cameras)


def _unit(mesh: trimesh.Trimesh) -> trimesh.Trimesh:
    """Centre the box at the origin and scale its longest side to 1, in place → the mesh."""
    low, high = mesh.bounds
    mesh.apply_translation(-(low + high) / 2)
    mesh.apply_scale(1 / float((high - low).max()))
    return mesh
