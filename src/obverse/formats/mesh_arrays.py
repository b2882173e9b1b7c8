"""What every mesh writer needs, taken out of a ``trimesh.Trimesh`` once; and the way back."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import trimesh
from PIL import Image
from trimesh.visual import ColorVisuals, TextureVisuals
from trimesh.visual.material import PBRMaterial

from ..errors import InputError
from ..topology import first_of_each
from .images import encode_texture, linear_to_srgb, srgb_to_linear

ROUGHNESS = 0.9  # where nothing was predicted: glTF's own default of a rough metal is never meant
METALLIC = 0.0


@dataclass(frozen=True)
class MeshArrays:
    """A triangle mesh in the world frame (+Y up, front +Z), as the arrays that files are made of."""

    vertices: np.ndarray  # [V, 3] float32
    faces: np.ndarray  # [F, 3] int64, counter-clockwise from outside, no index twice in a face
    normals: np.ndarray  # [V, 3] float32, unit
    uv: np.ndarray | None = None  # [V, 2] float32, v up (as trimesh, OBJ and USD; glTF flips it)
    image: Image.Image | None = None  # base colour, RGB or RGBA, sRGB-encoded
    colors: np.ndarray | None = None  # [V, 4] uint8, sRGB-encoded, straight alpha
    roughness: float = ROUGHNESS
    metallic: float = METALLIC
    base_color: tuple[float, float, float, float] = (1.0, 1.0, 1.0, 1.0)  # linear factor, multiplies the image
    provenance: dict[str, Any] = field(default_factory=dict)

    @property
    def is_colored(self) -> bool:
        """Whether anything but the plain white default is known about the colour."""
        return self.image is not None or self.colors is not None or self.base_color != (1.0, 1.0, 1.0, 1.0)

    @functools.cached_property
    def texture(self) -> tuple[bytes, str]:
        """The image as (file bytes, MIME type), encoded once."""
        assert self.image is not None, "texture is asked for only where there is an image"
        return encode_texture(self.image)


def from_trimesh(mesh: trimesh.Trimesh, *, height_m: float | None = None) -> MeshArrays:
    """Arrays of a mesh, optionally scaled so that its extent along Y is ``height_m`` metres.

    Normals given explicitly are kept; otherwise they are computed smoothly across texture seams. A texture wins over
    vertex colours. Faces that name a vertex twice have no area and are left out.

    Raises:
        InputError: not a mesh, no faces, numbers that are not finite, indices out of range, or a height that is not a
            positive number.
    """
    if not isinstance(mesh, trimesh.Trimesh):
        raise InputError(f"a mesh writer was given a {type(mesh).__name__}, not a trimesh.Trimesh; convert it first")
    vertices = np.asarray(mesh.vertices, dtype=np.float64) * _height_factor(mesh.vertices, height_m)
    faces = np.asarray(mesh.faces, dtype=np.int64).reshape(-1, 3)
    if len(faces) and (faces.min() < 0 or faces.max() >= len(vertices)):
        raise InputError(f"a face names vertex {faces.max()} of {len(vertices)}; the mesh is damaged, rebuild it")
    faces = faces[(faces != np.roll(faces, 1, axis=1)).all(axis=1)]
    if len(faces) == 0:
        raise InputError(
            f"the mesh has {len(vertices)} vertices and no faces with an area, so nothing to write; pass a surface"
        )
    points = vertices.astype(np.float32) + np.float32(0)  # adding 0 turns −0 into 0, so that equal means same bytes
    if not np.isfinite(points).all():
        raise InputError("the mesh has vertices that are not finite; remove them before writing")
    # trimesh keeps normals that were given in its cache and offers no other way to tell them from computed ones.
    given = mesh.vertex_normals if "vertex_normals" in mesh._cache.cache else None
    normals = smooth_normals(points, faces) if given is None or len(given) != len(points) else unit_normals(given)
    return MeshArrays(points, faces, normals, **_appearance(mesh, len(points)))


def _height_factor(vertices: np.ndarray, height_m: float | None) -> float:
    """What to multiply by so that the extent along Y becomes ``height_m``; 1 when no height is given."""
    if height_m is None:
        return 1.0
    if not (isinstance(height_m, (int, float)) and math.isfinite(height_m) and height_m > 0):
        raise InputError(f"height {height_m!r} is not a positive number of metres; give for example 0.25")
    extent = float(np.ptp(np.asarray(vertices)[:, 1])) if len(vertices) else 0.0
    if not extent > 0:
        raise InputError(f"the mesh is {extent} high, so it cannot be made {height_m} m; leave the height out")
    return height_m / extent


def _appearance(mesh: trimesh.Trimesh, count: int) -> dict[str, Any]:
    """Texture or vertex colours, and the material factors, as keyword arguments of MeshArrays."""
    visual = mesh.visual
    if isinstance(visual, TextureVisuals):
        material = visual.material
        image = getattr(material, "baseColorTexture", None)
        image = getattr(material, "image", None) if image is None else image
        found: dict[str, Any] = _factors(material)
        uv = None if visual.uv is None else np.asarray(visual.uv)
        if uv is not None and image is not None:
            if uv.shape != (count, 2) or not np.isfinite(uv).all():
                raise InputError(
                    f"texture coordinates are {list(uv.shape)}, expected finite {[count, 2]}; unwrap again"
                )
            found |= {"uv": uv.astype(np.float32), "image": _opaque(image, getattr(material, "alphaMode", None))}
        return found
    if isinstance(visual, ColorVisuals) and visual.kind in ("vertex", "face"):
        colors = np.asarray(visual.vertex_colors)
        if colors.shape == (count, 4):
            return {"colors": colors.astype(np.uint8)}
    return {}


def _factors(material: Any) -> dict[str, Any]:
    """Roughness, metallic and base colour of a trimesh material, with our defaults where it says nothing."""
    found: dict[str, Any] = {}
    for name, key in (("roughnessFactor", "roughness"), ("metallicFactor", "metallic")):
        value = getattr(material, name, None)
        if value is not None and math.isfinite(value):
            found[key] = min(max(float(value), 0.0), 1.0)
    factor = getattr(material, "baseColorFactor", None)
    if factor is not None:
        rgba = np.asarray(factor, dtype=np.float64).ravel()
        rgba = rgba / 255 if np.asarray(factor).dtype == np.uint8 else rgba
        if rgba.size in (3, 4) and np.isfinite(rgba).all():
            found["base_color"] = tuple(float(v) for v in np.clip(np.append(rgba, 1.0)[:4], 0, 1))
    return found


def _opaque(image: Image.Image, alpha_mode: str | None) -> Image.Image:
    """The image without an alpha channel that viewers would ignore."""
    if image.mode == "RGB" or (image.mode == "RGBA" and alpha_mode in ("BLEND", "MASK")):
        return image
    return image.convert("RGB")


def to_trimesh(arrays: MeshArrays) -> trimesh.Trimesh:
    """The mesh as trimesh holds it: nothing merged or reordered, normals explicit, provenance in ``metadata``."""
    visual = None
    if arrays.uv is not None and arrays.image is not None:
        material = PBRMaterial(
            baseColorTexture=arrays.image,
            baseColorFactor=np.round(np.array(arrays.base_color) * 255).astype(np.uint8),
            metallicFactor=arrays.metallic,
            roughnessFactor=arrays.roughness,
            doubleSided=False,
        )
        visual = TextureVisuals(uv=arrays.uv.astype(np.float64), material=material)
    mesh = trimesh.Trimesh(
        vertices=arrays.vertices.astype(np.float64),
        faces=arrays.faces,
        vertex_normals=arrays.normals.astype(np.float64),
        visual=visual,
        vertex_colors=vertex_colors(arrays) if visual is None and arrays.is_colored else None,
        process=False,
    )
    mesh.metadata["provenance"] = arrays.provenance
    return mesh


def vertex_colors(arrays: MeshArrays) -> np.ndarray:
    """A colour for every vertex [V, 4] uint8, sRGB-encoded: its own, or its texture's, times the base colour."""
    if arrays.colors is not None:
        rgba = arrays.colors / 255
    elif arrays.image is not None and arrays.uv is not None:
        pixels = np.asarray(arrays.image.convert("RGBA"))
        height, width = pixels.shape[:2]
        inside = np.where((arrays.uv < 0) | (arrays.uv > 1), arrays.uv - np.floor(arrays.uv), arrays.uv)
        column = np.minimum(inside[:, 0] * width, width - 1).astype(np.int64)
        row = np.minimum((1 - inside[:, 1]) * height, height - 1).astype(np.int64)
        rgba = pixels[row, column] / 255
    else:
        rgba = np.ones((len(arrays.vertices), 4))
    linear = np.concatenate([srgb_to_linear(rgba[:, :3]), rgba[:, 3:]], axis=1) * np.array(arrays.base_color)
    return np.round(np.concatenate([linear_to_srgb(linear[:, :3]), linear[:, 3:]], axis=1) * 255).astype(np.uint8)


def is_closed(vertices: np.ndarray, faces: np.ndarray) -> bool:
    """Whether each directed edge of faces [m, 3] has exactly one opposite, equal vertices [n, 3] welded: watertight."""
    _, number = first_of_each(vertices)
    f = number[faces]
    start, end = f.ravel(), np.roll(f, -1, axis=1).ravel()
    count = np.int64(len(vertices) + 1)
    forward, backward = np.sort(start * count + end), np.sort(end * count + start)
    return bool((forward == backward).all() and (forward[1:] != forward[:-1]).all())


def smooth_normals(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Unit normals [V, 3] float32: area-weighted means over the faces around each position, so seams do not show."""
    first, number = first_of_each(vertices)
    corners = vertices.astype(np.float64)[faces]
    cross = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    index = number[faces].ravel()
    total = np.stack([np.bincount(index, np.repeat(cross[:, axis], 3), len(first)) for axis in range(3)], axis=1)
    return unit_normals(total)[number]


def unit_normals(normals: np.ndarray) -> np.ndarray:
    """Normals [n, 3] scaled to length 1 → float32 [n, 3]; those without a direction become +Y."""
    normals = np.asarray(normals, dtype=np.float64)
    length = np.linalg.norm(normals, axis=1, keepdims=True)
    good = np.isfinite(length) & (length > 1e-30)
    return np.where(good, normals / np.where(good, length, 1), [0.0, 1.0, 0.0]).astype(np.float32)
