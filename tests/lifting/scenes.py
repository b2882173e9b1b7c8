"""A small object seen from all around: a ball of two colours, drawn in closed form."""

import numpy as np
import torch
import trimesh

from obverse.cameras import Views, orbit
from obverse.render.triangles import render_mesh

RADIUS = 0.4


def ball_mesh(subdivisions=3, radius=RADIUS):
    """Red where x > 0, blue elsewhere, green on top."""
    mesh = trimesh.creation.icosphere(subdivisions=subdivisions, radius=radius)
    colors = np.where(mesh.triangles_center[:, :1] > 0, [[220, 60, 40, 255]], [[40, 70, 210, 255]])
    colors[mesh.triangles_center[:, 1] > 0.6 * radius] = [60, 190, 80, 255]
    mesh.visual.face_colors = colors.astype(np.uint8)
    return mesh


def ball_views(count=8, size=40):
    """RGBA pictures from two rings."""
    cameras = orbit([360 * i / count for i in range(count)], [(-25, 35)[i % 2] for i in range(count)], size=size)
    return Views(render_mesh(ball_mesh(), cameras, background=None, shading="unlit"), cameras)


def over_white(images):
    return images[..., :3] * images[..., 3:] + 1 - images[..., 3:]


def without_alpha(views):
    return Views(over_white(views.images), views.cameras)


def spot(count=1, scale=0.1, opacity=0.5):
    """Isotropic grey Gaussians in a row along x."""
    from obverse.gaussians import from_colors

    means = torch.zeros(count, 3)
    means[:, 0] = 0.2 * torch.arange(count)
    quats = torch.tensor([1.0, 0, 0, 0]).repeat(count, 1)
    return from_colors(
        means, quats, torch.full((count, 3), scale), torch.full((count,), opacity), torch.full((count, 3), 0.3)
    )
