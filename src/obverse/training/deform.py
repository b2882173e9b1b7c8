"""Known objects bent into new ones: a collection with few scans teaches more when each is also seen otherwise shaped.

Every map is smooth and one to one, keeps up upright and carries texture coordinates along, so a solid stays a solid
and a photograph of it stays a photograph of something that could be.
"""

from __future__ import annotations

import math

import numpy as np
import trimesh

from .objects import normalised

STRETCH = 0.5  # a side is at most e to this longer or shorter
TAPER = 0.4  # ends are at most e to this wider or narrower than the middle
TWIST_DEG = 40.0  # from bottom to top
BEND = 0.5  # sideways shift of an end, in units of half the height
SWELL = 0.5  # steepest slope of the waves, below 1 so that nothing folds over
WAVES = 5
FINE = 2000  # faces from which a mesh follows more than stretching


def deformed(mesh: trimesh.Trimesh, *, seed: int) -> trimesh.Trimesh:
    """Another object: stretched along its axes and, where its faces are small, tapered, twisted, bent, swollen.

    Args:
        mesh: normalised (``objects.normalised``), +Y up.
        seed: decides everything.

    Returns:
        a normalised copy with the same faces and texture.
    """
    rng = np.random.default_rng([seed, 0xDEF0])
    points = np.asarray(mesh.vertices, np.float64) * np.exp(rng.uniform(-STRETCH, STRETCH, 3))
    if len(mesh.faces) >= FINE:
        half = max(float(np.abs(points[:, 1]).max()), 1e-9)
        for move, chance in ((_swollen, 0.5), (_tapered, 0.4), (_twisted, 0.25), (_bent, 0.3)):
            if rng.random() < chance:
                points = move(points, half, rng)
    copy = mesh.copy()
    copy.vertices = points
    return normalised(copy)


def _tapered(points: np.ndarray, half: float, rng: np.random.Generator) -> np.ndarray:
    """Wider at one end than at the other; points [V, 3], ``half`` the height."""
    factor = np.exp(rng.uniform(-TAPER, TAPER) * points[:, 1:2] / half)
    return points * np.concatenate([factor, np.ones_like(factor), factor], -1)


def _twisted(points: np.ndarray, half: float, rng: np.random.Generator) -> np.ndarray:
    """Turned about +Y in proportion to height."""
    angle = math.radians(rng.uniform(-TWIST_DEG, TWIST_DEG) / 2) * points[:, 1] / half
    cos, sin = np.cos(angle), np.sin(angle)
    x, y, z = points.T
    return np.stack([cos * x + sin * z, y, cos * z - sin * x], -1)


def _bent(points: np.ndarray, half: float, rng: np.random.Generator) -> np.ndarray:
    """Both ends shifted sideways, as the square of height."""
    toward, shift = rng.uniform(0, 2 * math.pi), rng.uniform(0, BEND) * half
    offset = shift * (points[:, 1:2] / half) ** 2
    return points + offset * np.array([math.sin(toward), 0, math.cos(toward)])


def _swollen(points: np.ndarray, half: float, rng: np.random.Generator) -> np.ndarray:
    """Slow waves through space; their slopes add up to less than one, so the map can be undone."""
    moved = points.copy()
    for _ in range(WAVES):
        wave = rng.normal(size=3)
        wave *= rng.uniform(0.5, 1.6) * math.pi / np.linalg.norm(wave)
        toward = rng.normal(size=3)
        toward *= SWELL / WAVES / np.linalg.norm(wave) / np.linalg.norm(toward)
        moved += np.sin(points @ wave + rng.uniform(0, 2 * math.pi))[:, None] * toward
    return moved
