"""Laying a result over the truth by the photo's outline: the placement its user would make.

One photo tells neither scale nor distance, so a result must be placed before it can be shown beside the truth. The
alignment with the least Chamfer distance is no good for that: where the shape is wrong it shrinks the result to a
crumb in the truth's middle, which is nearer to everything on average (seen on chopsticks and bottles photographed end
on, scale 0.15). The outline in the photo is what a method was given and should repeat.
"""

from __future__ import annotations

import numpy as np
import torch
import trimesh

from ..render.triangles import rasterize
from .alignment import Similarity
from .cases import Scene

SIZE = 256  # pixels a side of the pictures compared
STEPS = 8
SETTLED = 1e-3  # relative change of scale below which steps stop
LIMITS = (0.1, 10.0)  # of the scale


def by_outline(mesh: trimesh.Trimesh, scene: Scene) -> Similarity:
    """The scale and shift after which a result covers as much of the photo as the truth does, around the same pixel.

    The shift is across the photo's line of sight; along it, box centres stay level, as they are before. No rotation.

    Args:
        mesh: in the photo's frame, its box centred at the origin.
        scene: with the truth in the same frame.

    Returns:
        The map; the identity if the photo's camera sees nothing of the mesh.
    """
    camera = scene.camera.resized(SIZE, SIZE)
    matrix = camera.world_to_camera[0].double().numpy()
    focal, distance = float(camera.intrinsics[0, 0, 0]), float(torch.linalg.norm(camera.positions[0]))

    def outline(vertices: np.ndarray, faces: np.ndarray) -> tuple[float, np.ndarray]:
        """Covered pixels and their mean position [2]."""
        rows, columns = np.nonzero(rasterize(vertices, faces, camera).face[0] >= 0)
        return float(len(rows)), np.array([columns.mean(), rows.mean()]) if len(rows) else np.zeros(2)

    wanted, middle = outline(np.asarray(scene.truth.vertices), np.asarray(scene.truth.faces))
    vertices, faces = np.asarray(mesh.vertices), np.asarray(mesh.faces)
    scale, shift = 1.0, np.zeros(3)
    for _ in range(STEPS):
        area, center = outline(scale * vertices + shift, faces)
        if not area or not wanted:
            break
        factor = float(np.sqrt(wanted / area))
        scale = float(np.clip(scale * factor, *LIMITS))
        across, down = (middle - center) * distance / focal
        shift = shift + across * matrix[0, :3] + down * matrix[1, :3]
        if abs(factor - 1) < SETTLED and abs(across) + abs(down) < SETTLED:
            break
    return Similarity(scale, translation=shift)
