"""Objects made from a seed: an unlimited supply of textured meshes to teach a model from nothing.

The idea is that of LRM-Zero (Xie et al. 2024): a model that infers shape from pictures learns it from invented
objects too. There the objects are random compositions of primitives. Here most resemble household things (vessels,
packages, tools, toys, animals, furniture), because such things are what the model will be shown.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import trimesh

from ..errors import InputError
from . import procedural_creatures as grown
from . import procedural_furniture as large
from . import procedural_things as made
from . import procedural_vessels as vessels
from .procedural_build import Build
from .procedural_shapes import Array, Draw, ripple, rotation

FACES = 6000  # at most so many in an object
THINNEST = 0.02  # shortest side over longest, at least
TRIES = 20  # until an object keeps both

# family → its maker and how often it is drawn, in shares
FAMILIES: dict[str, tuple[Callable[[Build], None], float]] = {
    "bottle": (vessels.bottle, 8),
    "can": (vessels.can, 5),
    "cup": (vessels.cup, 6),
    "bowl": (vessels.bowl, 5),
    "pot": (vessels.pot, 5),
    "vase": (vessels.vase, 4),
    "lamp": (vessels.lamp, 2),
    "carton": (vessels.carton, 10),
    "books": (vessels.books, 2),
    "pouch": (vessels.pouch, 4),
    "bag": (vessels.bag, 3),
    "blocks": (vessels.blocks, 3),
    "tool": (made.tool, 6),
    "drill": (made.drill, 2),
    "gadget": (made.gadget, 5),
    "furniture": (large.furniture, 4),
    "vehicle": (large.vehicle, 5),
    "shoe": (made.shoe, 7),
    "hat": (made.hat, 2),
    "ball": (made.ball, 4),
    "figure": (made.figure, 5),
    "cutout": (made.cutout, 4),
    "hose": (made.hose, 2),
    "assembly": (made.assembly, 7),
    "quadruped": (grown.quadruped, 6),
    "dinosaur": (grown.dinosaur, 4),
    "doll": (grown.doll, 6),
    "swimmer": (grown.swimmer, 3),
    "fruit": (grown.fruit, 5),
    "plant": (grown.plant, 3),
    "lump": (grown.lump, 3),
}


def family(seed: int) -> str:
    """The family of the object that ``procedural_object`` makes of this seed."""
    return _family(_start(seed))


def procedural_object(seed: int) -> trimesh.Trimesh:
    """A textured object, the same for the same seed.

    Args:
        seed: 0 or more; every number gives another object.

    Returns:
        At most 6,000 faces in world axes, +Y up: it stands as such a thing would or, once in five, lies turned. Its
        box is centred at the origin, its longest side 1, its shortest at least 0.02. It has a PBR base colour
        texture of 128 texels a side, or colours by vertex, and unit normals. Parts are closed and outward, but may
        overlap; vertices are repeated along texture seams and sharp edges. ``metadata`` holds "family" and "seed".

    Raises:
        InputError: the seed is negative.
    """
    draw = _start(seed)
    name = _family(draw)
    for attempt in range(TRIES):
        build = Build(Draw(seed, 1 + attempt))
        FAMILIES[name][0](build)
        _worn(build)
        mesh = build.mesh()
        points = _posed(np.asarray(mesh.vertices), draw)
        sides = np.ptp(points, axis=0)
        if len(mesh.faces) <= FACES and sides.min() >= THINNEST * sides.max() and np.isfinite(points).all():
            break
    else:
        raise InputError(f"seed {seed} ({name}) gave no object within the limits in {TRIES} tries; use another seed")
    return _finished(mesh, points, name, seed)


def _start(seed: int) -> Draw:
    """The dice of a seed."""
    if seed < 0:
        raise InputError(f"the seed is {seed}, but it must not be negative; use 0, 1, 2, …")
    return Draw(seed, 0)


def _family(draw: Draw) -> str:
    """A family by its share."""
    return draw.pick(list(FAMILIES), [share for _, share in FAMILIES.values()])


def _worn(build: Build) -> None:
    """Sometimes the whole object is a little uneven, as a scan is, or stretched."""
    draw = build.draw
    if draw.chance(0.3):
        amount, waves = draw.between(0.002, 0.012), draw.between(1.5, 6)
        build.deform(lambda points: ripple(points, draw, amount, waves))
    if draw.chance(0.35):
        factors = np.exp(draw.vector(0.12))
        build.deform(lambda points: points * factors)


def _posed(points: Array, draw: Draw) -> Array:
    """Points [n, 3] upright and turned about the vertical by a quarter or freely, or once in five in any attitude."""
    if draw.chance(0.2):
        if draw.chance(0.5):
            return points @ rotation(draw.pick((0, 2)), 90).T @ rotation(1, draw.between(0, 360)).T
        q, r = np.linalg.qr(draw.rng.standard_normal((3, 3)))
        q = q * np.sign(np.diag(r))
        return points @ (q * np.linalg.det(q)).T
    return points @ rotation(1, draw.pick((0.0, 0.0, 90.0, 180.0, 270.0, draw.between(0, 360)))).T


def _finished(mesh: trimesh.Trimesh, points: Array, name: str, seed: int) -> trimesh.Trimesh:
    """The mesh at posed points, centred and with its longest side 1, its normals turned along."""
    low, high = points.min(axis=0), points.max(axis=0)
    old = np.asarray(mesh.vertices)
    turn = np.linalg.lstsq(old - old.mean(axis=0), points - points.mean(axis=0), rcond=None)[0]
    normals = np.asarray(mesh.vertex_normals) @ turn
    unit = (points - (low + high) / 2) / (high - low).max()
    finished = trimesh.Trimesh(unit, mesh.faces, vertex_normals=normals, visual=mesh.visual, process=False)
    finished.metadata.update({"family": name, "seed": int(seed)})
    return finished
