"""What a mesh looks like at any point of its surface: per-corner attributes and a filtered texture.

Colours stay sRGB-encoded throughout, as everywhere in the package: textures are filtered and surfaces are shaded on
the encoded values. glTF's base colour factor is linear and is applied in linear light, once, to the texture.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numba
import numpy as np
import trimesh

from ..errors import InputError
from ..parallel import kernel

F = np.float32
GREY = 0.72  # sRGB-encoded colour of a mesh without any
CREASE_COSINE = 0.64  # 50°: a vertex normal further than this from the face's own is the average over a sharp edge


@dataclass(frozen=True)
class Texture:
    """An RGB image and its successive halvings, texel after texel, level after level."""

    texels: np.ndarray  # uint8 [T, 4] sRGB-encoded; the fourth byte is padding
    levels: np.ndarray  # int32 [L, 3]: first texel, width, height


@dataclass(frozen=True)
class Surface:
    """Appearance of a mesh with M faces; base colour = corner colour, interpolated, times texture."""

    normals: np.ndarray  # float32 [M, 3, 3] unit, one per face corner
    uv: np.ndarray  # float32 [M, 3, 2] v up, repeating
    colors: np.ndarray  # float32 [M, 3, 3] sRGB-encoded 0–1
    texture: Texture


def surface_of(mesh: trimesh.Trimesh) -> Surface:
    """Appearance of a mesh: its texture, its vertex or face colours, or plain grey; smooth normals except at creases.

    Texture alpha is ignored: cut-out and translucent materials are opaque here.
    """
    faces = np.asarray(mesh.faces)
    uv = np.zeros((len(faces), 3, 2), F)
    colors = np.ones((len(faces), 3, 3), F)
    image: np.ndarray | None = None
    visual: Any = mesh.visual
    if isinstance(visual, trimesh.visual.TextureVisuals):
        image, factor = _base_color(visual.material)
        if visual.uv is not None and len(visual.uv) == len(mesh.vertices):
            uv = np.nan_to_num(np.asarray(visual.uv, F)[faces][..., :2], posinf=0, neginf=0)
        else:
            image = None
        if image is None:
            colors *= encode_srgb(factor)
        elif (factor < 1).any():
            image = np.rint(255 * encode_srgb(decode_srgb(image / F(255)) * factor)).astype(np.uint8)
    elif visual.kind == "face":
        colors *= np.asarray(visual.face_colors, F)[:, None, :3] / 255
    elif visual.kind == "vertex":
        colors = np.asarray(visual.vertex_colors, F)[faces][..., :3] / F(255)
    else:
        colors *= F(GREY)
    if image is None:
        image = np.full((1, 1, 3), 255, np.uint8)
    return Surface(_corner_normals(mesh), np.ascontiguousarray(uv), np.ascontiguousarray(colors), pyramid(image))


def _base_color(material: Any) -> tuple[np.ndarray | None, np.ndarray]:
    """Material → base colour image [H, W, 3] uint8 or None, and linear factor [3] float32."""
    picture: Any = None
    factor: np.ndarray = np.ones(3, F)
    if isinstance(material, trimesh.visual.material.MultiMaterial):
        raise InputError(
            f"the mesh has {len(material.materials)} materials, one is expected; "
            "load it with trimesh.load(path, force='mesh'), which merges them"
        )
    if isinstance(material, trimesh.visual.material.PBRMaterial):
        picture = material.baseColorTexture
        if material.baseColorFactor is not None:
            factor = np.asarray(material.baseColorFactor, F)[:3] / 255
    elif material is not None:
        picture = material.image
        if picture is None:
            factor = decode_srgb(np.asarray(material.diffuse, F)[:3] / 255)
    if picture is None:
        return None, factor
    return np.asarray(picture.convert("RGB")), factor


def _corner_normals(mesh: trimesh.Trimesh) -> np.ndarray:
    """Unit normals [M, 3, 3] of the face corners: the vertex normal, or the face's own across a crease."""
    corners = np.asarray(mesh.vertices, np.float64)[mesh.faces]
    flat = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    flat /= np.maximum(np.linalg.norm(flat, axis=-1, keepdims=True), 1e-30)
    smooth = np.asarray(mesh.vertex_normals)[mesh.faces]
    crease = (smooth * flat[:, None]).sum(-1, keepdims=True) < CREASE_COSINE
    return np.ascontiguousarray(np.where(crease, flat[:, None], smooth), F)


def pyramid(image: np.ndarray) -> Texture:
    """Image [H, W, 3] uint8 → the image and its halvings down to one texel (area averages; Williams 1983)."""
    parts, levels, start = [], [], 0
    while True:
        height, width = image.shape[:2]
        parts.append(np.pad(image.reshape(-1, 3), ((0, 0), (0, 1))))
        levels.append((start, width, height))
        start += width * height
        if width == height == 1:
            break
        smaller = (max(1, width // 2), max(1, height // 2))
        image = cv2.resize(image, smaller, interpolation=cv2.INTER_AREA).reshape(smaller[1], smaller[0], 3)
    return Texture(np.ascontiguousarray(np.concatenate(parts)), np.array(levels, np.int32))


def decode_srgb(encoded: np.ndarray) -> np.ndarray:
    """sRGB-encoded values [...] → linear light [...], float32 (IEC 61966-2-1)."""
    e = np.asarray(encoded, F)
    return np.where(e <= 0.04045, e / F(12.92), ((e + F(0.055)) / F(1.055)) ** F(2.4)).astype(F)


def encode_srgb(linear: np.ndarray) -> np.ndarray:
    """Linear light [...] in 0–1 → sRGB-encoded values [...], float32 (IEC 61966-2-1)."""
    x = np.clip(np.asarray(linear, F), 0, 1)
    return np.where(x <= 0.0031308, F(12.92) * x, F(1.055) * x ** F(1 / 2.4) - F(0.055)).astype(F)


@kernel()
def bilinear(texels: np.ndarray, levels: np.ndarray, level: int, u: float, v: float) -> tuple[float, float, float]:
    """Colour 0–1 of one texture level at (u, v), v up, repeating; texels [T, 4] and levels [L, 3] of a ``Texture``."""
    first, width, height = levels[level, 0], levels[level, 1], levels[level, 2]
    x = (u - np.floor(u)) * F(width) - F(0.5)
    y = (np.ceil(v) - v) * F(height) - F(0.5)
    fx, fy = np.floor(x), np.floor(y)
    ax, ay = x - fx, y - fy
    x0, y0 = np.int32(fx), np.int32(fy)
    x1, y1 = x0 + 1, y0 + 1
    x0 = width - 1 if x0 < 0 else x0
    y0 = height - 1 if y0 < 0 else y0
    x1 = np.int32(0) if x1 >= width else x1
    y1 = np.int32(0) if y1 >= height else y1
    i00, i01 = first + y0 * width + x0, first + y0 * width + x1
    i10, i11 = first + y1 * width + x0, first + y1 * width + x1
    w11 = ax * ay
    w01, w10 = ax - w11, ay - w11
    w00 = F(1) - ax - w10
    scale = F(1 / 255)
    r = w00 * F(texels[i00, 0]) + w01 * F(texels[i01, 0]) + w10 * F(texels[i10, 0]) + w11 * F(texels[i11, 0])
    g = w00 * F(texels[i00, 1]) + w01 * F(texels[i01, 1]) + w10 * F(texels[i10, 1]) + w11 * F(texels[i11, 1])
    b = w00 * F(texels[i00, 2]) + w01 * F(texels[i01, 2]) + w10 * F(texels[i10, 2]) + w11 * F(texels[i11, 2])
    return r * scale, g * scale, b * scale


@kernel()
def sample(
    texels: np.ndarray, levels: np.ndarray, u: float, v: float, footprint: np.float32
) -> tuple[float, float, float]:
    """Colour 0–1 at (u, v) averaged over ``footprint`` texels of the full image, by blending two levels.

    Texels [T, 4] and levels [L, 3] are those of a ``Texture``. Between powers of two the blend is linear in the
    footprint rather than in its logarithm, which needs no log.
    """
    level, last = 0, len(levels) - 1
    while footprint >= F(2) and level < last:
        footprint *= F(0.5)
        level += 1
    r, g, b = bilinear(texels, levels, level, u, v)
    blend = min(footprint - F(1), F(1))
    if blend > F(0.02) and level < last:
        r2, g2, b2 = bilinear(texels, levels, level + 1, u, v)
        r, g, b = r + blend * (r2 - r), g + blend * (g2 - g), b + blend * (b2 - b)
    return r, g, b


def sample_texture(texture: Texture, uv: np.ndarray, footprint: np.ndarray) -> np.ndarray:
    """Colours [n, 3] float32 of a texture at uv [n, 2] (v up, repeating), averaged over ``footprint`` [n] texels."""
    colors = np.empty((len(uv), 3), F)
    _sample_all(texture.texels, texture.levels, np.ascontiguousarray(uv, F), np.ascontiguousarray(footprint, F), colors)
    return colors


@kernel(parallel=True)
def _sample_all(
    texels: np.ndarray, levels: np.ndarray, uv: np.ndarray, footprint: np.ndarray, colors: np.ndarray
) -> None:
    for n in numba.prange(len(uv)):
        colors[n, 0], colors[n, 1], colors[n, 2] = sample(texels, levels, uv[n, 0], uv[n, 1], footprint[n])
