"""Photographs of meshes: light that stays with the world, for inputs and truths of training and evaluation.

Previews (``render_mesh``) carry their lights with the camera so that every side looks alike. A photograph does not:
the lamp stands where it stands, so that the shading tells shape, and two views of one object agree on it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
import trimesh
from torch import Tensor

from ..cameras import Cameras
from .materials import decode_srgb, encode_srgb
from .triangles import render_mesh

F = np.float32
MEAN_LIGHT = 0.85  # irradiance over albedo of a surface facing the first camera, averaged over rigs


@dataclass(frozen=True)
class Studio:
    """Lights in the world frame; colours are linear and a surface in light (1, 1, 1) shows its own colour."""

    sky: tuple[float, float, float] = (0.55, 0.55, 0.55)  # ambient light from above
    ground: tuple[float, float, float] = (0.35, 0.35, 0.35)  # and from below
    lamps: tuple[tuple[tuple[float, float, float], tuple[float, float, float]], ...] = (
        ((0.35, 0.62, 0.7), (0.6, 0.6, 0.6)),
        ((-0.7, 0.3, 0.64), (0.2, 0.2, 0.2)),
    )  # (unit direction towards the lamp, colour)
    gloss: float = 0.0  # share of a lamp's light that is mirrored
    shininess: float = 24.0  # exponent of Blinn's highlight


def random_studio(seed: int, *, azimuth_deg: float = 0.0) -> Studio:
    """A plausible rig: soft sky, a key lamp on the photographer's side and sometimes a second one; mildly tinted.

    Args:
        seed: decides everything.
        azimuth_deg: where the photographer stands; the key lamp is within 75° of it.
    """
    rng = np.random.default_rng([seed, 0x57D10])
    ambient = rng.uniform(0.35, 0.75)
    floor = ambient * rng.uniform(0.4, 0.95)
    lamps = []
    for strength in (MEAN_LIGHT + 0.25 - ambient, rng.choice([0.0, 0.25])):
        azimuth = math.radians(azimuth_deg + rng.uniform(-75, 75))
        elevation = math.radians(rng.uniform(10, 75))
        direction = (
            math.sin(azimuth) * math.cos(elevation),
            math.sin(elevation),
            math.cos(azimuth) * math.cos(elevation),
        )
        tint = strength * rng.uniform(0.8, 1.2) * rng.uniform(0.94, 1.06, 3)
        if strength > 0:
            lamps.append((direction, (float(tint[0]), float(tint[1]), float(tint[2]))))
    glossy = rng.random() < 0.4
    return Studio(
        sky=(ambient, ambient, ambient),
        ground=(floor, floor, floor),
        lamps=tuple(lamps),
        gloss=float(rng.uniform(0.05, 0.35)) if glossy else 0.0,
        shininess=float(rng.uniform(10, 60)),
    )


def irradiance(studio: Studio, normals: np.ndarray) -> np.ndarray:
    """Unit normals [..., 3] → light that falls there [..., 3], linear, as a factor of the albedo; no shadows."""
    upward = 0.5 + 0.5 * normals[..., 1:2]
    light = np.asarray(studio.ground, F) * (1 - upward) + np.asarray(studio.sky, F) * upward
    for direction, color in studio.lamps:
        light = light + np.maximum(normals @ np.asarray(direction, F), 0)[..., None] * np.asarray(color, F)
    return light


def photograph(
    mesh: trimesh.Trimesh,
    cameras: Cameras,
    *,
    studio: Studio | None = None,
    background: tuple[float, float, float] | None = None,
    supersample: int = 2,
) -> Tensor:
    """Pictures of a mesh under a rig's light, in linear light: hemisphere ambient, Lambert, Blinn 1977 highlights.

    Args:
        mesh: world frame.
        cameras: V views, or one without a batch axis (V = 1).
        studio: the lights; by default a neutral key and fill in front of azimuth 0.
        background: sRGB-encoded colour behind the object; None leaves colour straight and the background transparent.
        supersample: samples per pixel along each axis.

    Returns:
        [V, H, W, 4] float32 0–1, sRGB-encoded; the fourth channel is the covered share of each pixel.
    """
    studio = studio or Studio()
    base = render_mesh(mesh, cameras, background=None, supersample=supersample, shading="unlit").numpy()
    encoded = render_mesh(mesh, cameras, background=None, supersample=supersample, shading="normals").numpy()
    normals = 2 * encoded[..., :3] - 1
    normals /= np.maximum(np.linalg.norm(normals, axis=-1, keepdims=True), F(1e-6))
    light = irradiance(studio, normals)
    shine = np.zeros_like(light)
    eyes = -cameras.world_to_camera.reshape(-1, 4, 4)[:, 2, :3].numpy().astype(F)[:, None, None]
    for direction, color in studio.lamps:
        toward = np.asarray(direction, F)
        if studio.gloss:
            half = toward + eyes
            half /= np.linalg.norm(half, axis=-1, keepdims=True)
            glint = np.maximum((normals * half).sum(-1, keepdims=True), 0) ** F(studio.shininess)
            shine = shine + studio.gloss * glint * np.asarray(color, F)
    lit = encode_srgb(np.clip(decode_srgb(base[..., :3]) * light + shine, 0, 1)).astype(F)
    alpha = base[..., 3:]
    if background is not None:
        lit = lit * alpha + np.asarray(background, F) * (1 - alpha)
    else:
        lit = np.where(alpha > 0, lit, 0).astype(F)
    return torch.from_numpy(np.concatenate([lit, alpha], -1).astype(F))
