"""Which objects are fit to teach a novel-view model, decided by measures that are written down with each decision.

Collections from the open web hold scans of one colour, textures that lie nowhere, ground plates, shop signs and whole
scenes. Every rule is a heuristic on the mesh itself, no picture is judged; its measure is recorded whatever it decided,
so that thresholds can be moved and past decisions checked without measuring again.
"""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import trimesh
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from ..errors import InputError
from ..render.materials import surface_of
from .objects import flaws

MARKS = re.compile(r"watermark|copyright|turbosquid|cgtrader|sketchfab|preview_?only|free_?sample", re.IGNORECASE)
LIMIT_JSON = 64 * 2**20  # bytes of a GLB's description that are searched for names


@dataclass(frozen=True)
class Limits:
    """Where the rules draw the line."""

    most_faces: int = 2_000_000  # beyond, rendering takes minutes and gains nothing at 512 pixels
    least_spread: float = 0.02  # standard deviation of the colours, 0–1, below which an object has one flat colour
    flat_light: float = 0.02  # standard deviation of a clay shading over faces, below which it would look flat too
    stray_uv: float = 0.05  # share of the area whose texture coordinates are not finite or beyond ±1000
    collapsed_uv: float = 0.999  # share of the area whose texture coordinates are all one point
    smeared_uv: float = 0.3  # share of the area with under 1/400 of the usual texels per area, streaks of detail
    streak: float = 0.04  # unevenness of the colours along a face's longest edge, 0–1, above which they are detail
    apart: float = 0.03  # gap between parts, in longest sides, that makes them two things
    second: float = 0.2  # area of the second thing over that of the first, above which there are several
    plate: float = 0.25  # share of the area of one flat separate piece, above which it is a ground plate or a sign


@dataclass(frozen=True)
class Decision:
    """What became of one object."""

    id: str
    kept: bool
    reasons: tuple[str, ...] = ()  # empty if it was kept
    measures: dict[str, float] = field(default_factory=dict)

    def row(self) -> dict[str, Any]:
        """As a line of JSON."""
        return {"id": self.id, "kept": self.kept, "reasons": list(self.reasons), "measures": self.measures}


def judge(
    mesh: trimesh.Trimesh, name: str, *, path: str | Path | None = None, limits: Limits | None = None
) -> Decision:
    """Decide about one object.

    Args:
        mesh: normalised (``objects.normalised``).
        name: its identifier.
        path: its file, searched for names that say it carries a watermark.
        limits: where the rules draw the line.
    """
    limits = limits or Limits()
    faces = len(mesh.faces)
    degenerate = flaws(mesh)
    if faces > limits.most_faces:
        degenerate.append(f"has {faces} faces, more than {limits.most_faces}")
    if degenerate:
        return Decision(name, False, tuple(f"degenerate: {why}" for why in degenerate), {"faces": faces})
    reasons: list[str] = []
    measures: dict[str, float] = {"faces": faces}
    rules: tuple[Callable[[trimesh.Trimesh, Limits], tuple[dict[str, float], list[str]]], ...]
    rules = (_coordinates, _colours, _pieces)
    for rule in rules:
        found, why = rule(mesh, limits)
        measures |= {key: round(value, 4) for key, value in found.items()}
        reasons += why
    marks = marked(path) if path is not None else []
    if marks:
        reasons.append(f"watermark: a part is called {marks[0]!r}")
    return Decision(name, not reasons, tuple(reasons), measures)


def _areas(mesh: trimesh.Trimesh) -> np.ndarray:
    """Share of the surface of each face, [m], adding up to 1."""
    areas = np.asarray(mesh.area_faces, np.float64)
    return areas / max(float(areas.sum()), 1e-30)


def _colours(mesh: trimesh.Trimesh, limits: Limits) -> tuple[dict[str, float], list[str]]:
    """One colour all over, so that views of it hold nothing but outlines and shading."""
    colors, areas = face_colors(mesh), _areas(mesh)
    mean = (areas[:, None] * colors).sum(0)
    spread = float(np.sqrt((areas[:, None] * (colors - mean) ** 2).sum(0).max()))
    light = np.asarray(mesh.face_normals) @ np.array([0.36, 0.8, 0.48])
    shading = float(np.sqrt((areas * (light - (areas * light).sum()) ** 2).sum()))
    measures = {"color_spread": spread, "normal_spread": shading}
    if spread >= limits.least_spread:
        return measures, []
    return measures, [f"flat shading: colours spread by {spread:.3f}, less than {limits.least_spread}"]


def face_colors(mesh: trimesh.Trimesh) -> np.ndarray:
    """Base colour in the middle of each face, [m, 3] 0–1, sRGB-encoded: what a view without light would show."""
    surface = surface_of(mesh)
    colors = surface.colors.mean(1).astype(np.float64)
    _, width, height = (int(v) for v in surface.texture.levels[0])
    if width * height > 1:
        uv = surface.uv.mean(1).astype(np.float64)
        x = np.floor((uv[:, 0] % 1) * width).astype(int).clip(0, width - 1)
        y = np.floor(((1 - uv[:, 1]) % 1) * height).astype(int).clip(0, height - 1)
        colors = colors * surface.texture.texels[y * width + x, :3] / 255
    return colors


def _coordinates(mesh: trimesh.Trimesh, limits: Limits) -> tuple[dict[str, float], list[str]]:
    """Texture coordinates that lie nowhere, in one point, or smear texels over the surface.

    Palettes colour whole parts by one texel or a strip of them, and are no fault. So a collapse counts only where
    all faces have the same point, and a smear only where the line of texels that a face is drawn from is uneven: the
    strips of palettes are smooth.
    """
    uv = getattr(mesh.visual, "uv", None)
    material = getattr(mesh.visual, "material", None)
    picture = getattr(material, "baseColorTexture", None)
    picture = getattr(material, "image", None) if picture is None else picture
    if uv is None or picture is None or min(picture.size) < 2:
        return {}, []
    corners = np.asarray(uv, np.float64)[np.asarray(mesh.faces)][..., :2]
    areas = _areas(mesh)
    stray = ~(np.abs(corners) < 1000).all((1, 2))
    measures = {"stray_uv": float(areas[stray].sum())}
    if measures["stray_uv"] > limits.stray_uv:
        share = 100 * measures["stray_uv"]
        return measures, [f"broken UVs: {share:.0f} % of the surface lies beyond ±1000 or nowhere"]
    kept = corners[~stray]
    a, b = kept[:, 1] - kept[:, 0], kept[:, 2] - kept[:, 0]
    texels = np.abs(a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]) / 2
    one = np.abs(kept - np.median(kept.reshape(-1, 2), axis=0)).max((1, 2)) < 0.25 / max(picture.size)
    measures["collapsed_uv"] = float(areas[~stray][one].sum())
    density = texels / np.maximum(np.asarray(mesh.area_faces)[~stray], 1e-12)
    thin = density < texels.sum() / max(float(np.asarray(mesh.area_faces)[~stray].sum()), 1e-12) / 400
    streaked = _streaked(kept, np.asarray(picture.convert("RGB")), limits.streak) & thin
    measures["smeared_uv"] = float(areas[~stray][streaked].sum())
    if measures["collapsed_uv"] > limits.collapsed_uv and np.asarray(picture.convert("RGB")).std() > 2:
        return measures, [f"broken UVs: {100 * measures['collapsed_uv']:.0f} % of the surface shows one point"]
    if measures["smeared_uv"] > limits.smeared_uv:
        return measures, [f"broken UVs: {100 * measures['smeared_uv']:.0f} % of the surface shows smeared texels"]
    return measures, []


def _streaked(corners: np.ndarray, picture: np.ndarray, limit: float) -> np.ndarray:
    """Whether the texels along the longest edge of each face [n, 3, 2] are detail, not one colour or a ramp, [n]."""
    ends = np.roll(corners, -1, axis=1)
    longest = np.linalg.norm(ends - corners, axis=-1).argmax(1)
    rows = np.arange(len(corners))
    start, end = corners[rows, longest], ends[rows, longest]
    along = start[:, None] + np.linspace(0, 1, 17)[None, :, None] * (end - start)[:, None]
    height, width = picture.shape[:2]
    x = ((along[..., 0] % 1) * width).astype(int).clip(0, width - 1)
    y = (((1 - along[..., 1]) % 1) * height).astype(int).clip(0, height - 1)
    colors = picture[y, x].astype(np.float64) / 255
    uneven = colors[:, 2:] - 2 * colors[:, 1:-1] + colors[:, :-2]
    return np.sqrt((uneven**2).mean((1, 2))) > limit


def _pieces(mesh: trimesh.Trimesh, limits: Limits) -> tuple[dict[str, float], list[str]]:
    """Several things that do not touch, or a large flat piece of few faces beside the object."""
    labels, count = connected(mesh)
    areas = _areas(mesh)
    points = np.asarray(mesh.vertices)[np.asarray(mesh.faces)]
    low = np.full((count, 3), np.inf)
    high = np.full((count, 3), -np.inf)
    np.minimum.at(low, labels, points.min(1))
    np.maximum.at(high, labels, points.max(1))
    area = np.bincount(labels, areas, count)
    faces = np.bincount(labels, minlength=count)
    plates = ((high - low).min(1) < 0.01) & (faces <= 12)
    plate = float(area[plates].max()) if plates.any() and count > 1 else 0.0
    things = np.sort(np.bincount(_joined(low, high, limits.apart), area))[::-1]
    second = float(things[1] / things[0]) if len(things) > 1 else 0.0
    measures = {"pieces": float(count), "second_thing": second, "plate": plate}
    reasons = []
    if second > limits.second:
        reasons.append(f"several objects: {len(things)} that do not touch, the second {100 * second:.0f} % as large")
    if plate > limits.plate:
        reasons.append(f"watermark or ground: a flat separate piece is {100 * plate:.0f} % of the surface")
    return measures, reasons


def connected(mesh: trimesh.Trimesh) -> tuple[np.ndarray, int]:
    """Faces that hang together where their corners have the same position → label of each face [m], and how many."""
    _, merged = np.unique(np.round(np.asarray(mesh.vertices), 5), axis=0, return_inverse=True)
    corners = merged.reshape(-1)[np.asarray(mesh.faces)]
    rows, columns = corners[:, [0, 1]].ravel(), corners[:, [1, 2]].ravel()
    size = int(corners.max()) + 1
    _, labels = connected_components(coo_matrix((np.ones(len(rows)), (rows, columns)), (size, size)), directed=False)
    values, of_face = np.unique(labels[corners[:, 0]], return_inverse=True)
    return of_face.reshape(-1), len(values)


def _joined(low: np.ndarray, high: np.ndarray, gap: float) -> np.ndarray:
    """Boxes [n, 3] twice, joined where they come nearer than ``gap`` along every axis → label of each [n]."""
    count = len(low)
    if count > 3000:  # a swarm of small pieces: pairs would fill the memory, and such objects count as one
        return np.zeros(count, int)
    near = ((low[:, None] - gap <= high[None]) & (high[:, None] + gap >= low[None])).all(-1)
    return connected_components(coo_matrix(near), directed=False)[1]


def marked(path: str | Path) -> list[str]:
    """Names in a file that speak of a watermark or a shop's preview; of a .glb its parts' and pictures', else none."""
    path = Path(path)
    if path.suffix.lower() != ".glb":
        return []
    try:
        with path.open("rb") as file:
            magic, _, _, length, kind = struct.unpack("<4sIIII", file.read(20))
            if magic != b"glTF" or kind != 0x4E4F534A or length > LIMIT_JSON:
                return []
            tree = json.loads(file.read(length))
    except (OSError, ValueError, struct.error):
        return []
    rows = (row for key in ("nodes", "meshes", "materials", "images", "textures") for row in _list(tree, key))
    names = [str(row.get("name", "")) for row in rows if isinstance(row, dict)]
    return [name for name in names if MARKS.search(name)]


def _list(tree: Any, key: str) -> list[Any]:
    found = tree.get(key) if isinstance(tree, dict) else None
    return found if isinstance(found, list) else []


def refused(name: str, error: Exception) -> Decision:
    """The decision about an object that could not be read or rendered."""
    kind = "unreadable" if isinstance(error, InputError) else f"failed ({type(error).__name__})"
    return Decision(name, False, (f"{kind}: {' '.join(str(error).split())[:300]}",))
