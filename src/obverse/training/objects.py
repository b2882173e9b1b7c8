"""Objects to train on and to measure with: found in a folder, loaded, normalised, and refused when they are unfit."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import trimesh

from ..errors import InputError, ObverseError
from ..formats.meshes import read_mesh

EXTENSIONS = (".glb", ".obj", ".ply", ".stl", ".3mf", ".usdz")
SCANS = ("gso_", "ycb_", "urdf_")  # identifiers of real scans in the collection the embedded model is trained on
FLATTEST = 0.015  # shortest over longest side below which an object is a card
FEWEST = 8  # faces


@dataclass(frozen=True)
class Item:
    """One object of a collection, not loaded yet."""

    path: Path
    id: str
    group: str  # "scan" or "modelled", or what the index's column ``group`` says
    licence: str = ""
    author: str = ""
    source: str = ""


def find_objects(folder: str | Path) -> list[Item]:
    """Every mesh below a folder, sorted by identifier.

    An ``index.csv`` in the folder or one level up may hold a row per object: ``id`` (the file's stem) and any of
    ``group``, ``licence``, ``author``, ``source_repo``.

    Raises:
        InputError: there is none.
    """
    folder = Path(folder)
    index = next((p for p in (folder / "index.csv", folder.parent / "index.csv") if p.is_file()), None)
    rows: dict[str, dict[str, str]] = {}
    if index is not None:
        with index.open(newline="", encoding="utf-8") as lines:
            rows = {row["id"]: row for row in csv.DictReader(lines) if row.get("id")}
    paths = sorted((p for p in folder.rglob("*") if p.suffix.lower() in EXTENSIONS), key=lambda p: (p.stem, str(p)))
    if not paths:
        raise InputError(f"{folder} holds no mesh; give a folder of {', '.join(EXTENSIONS)} files")
    items = []
    for path in paths:
        row = rows.get(path.stem, {})
        group = row.get("group") or ("scan" if path.stem.startswith(SCANS) else "modelled")
        items.append(
            Item(path, path.stem, group, row.get("licence", ""), row.get("author", ""), row.get("source_repo", ""))
        )
    return items


def load_object(path: str | Path) -> trimesh.Trimesh:
    """Read a mesh and centre its box at the origin with longest side 1.

    Raises:
        InputError: it cannot be read, or is unfit to learn from: see ``flaws``.
    """
    mesh = normalised(read_mesh(path))
    found = flaws(mesh)
    if found:
        raise InputError(f"{Path(path).name} {'; '.join(found)}; leave it out of the collection")
    return mesh


def normalised(mesh: trimesh.Trimesh) -> trimesh.Trimesh:
    """A copy with the box of its used vertices centred at the origin and longest side 1; faces with NaN are dropped."""
    points, faces = np.asarray(mesh.vertices, np.float64), np.asarray(mesh.faces)
    faces = faces[np.isfinite(points[faces]).all((1, 2))] if len(faces) else faces
    if not len(faces):
        raise InputError("the mesh has no face with finite corners; leave it out of the collection")
    used = points[np.unique(faces)]
    low, high = used.min(0), used.max(0)
    extent = float((high - low).max())
    if extent <= 0:
        raise InputError("the mesh is a single point; leave it out of the collection")
    copy = mesh.copy()
    if len(faces) != len(mesh.faces):
        copy.update_faces(np.isfinite(points[np.asarray(mesh.faces)]).all((1, 2)))
    copy.vertices = np.nan_to_num((points - (low + high) / 2) / extent)
    return copy


def flaws(mesh: trimesh.Trimesh) -> list[str]:
    """What makes a normalised mesh unfit to learn from, in words; empty when nothing does."""
    found = []
    if len(mesh.faces) < FEWEST:
        found.append(f"has {len(mesh.faces)} faces, at least {FEWEST} are needed")
    sides = np.sort(np.ptp(np.asarray(mesh.vertices), axis=0))
    if sides[0] < FLATTEST * sides[2]:
        found.append(f"is {100 * sides[0] / sides[2]:.1f} % as thick as long, a card")
    if sides[1] < 2 * FLATTEST * sides[2]:
        found.append(f"is {100 * sides[1] / sides[2]:.1f} % as wide as long, a line")
    if float(mesh.area) <= 1e-6:
        found.append("has no area")
    return found


def usable(items: list[Item]) -> tuple[list[Item], dict[str, str]]:
    """Items that load and have no flaws, and why each other one was left out, by identifier."""
    kept, refused = [], {}
    for item in items:
        try:
            load_object(item.path)
            kept.append(item)
        except ObverseError as error:
            refused[item.id] = str(error)
    return kept, refused
