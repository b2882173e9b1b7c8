"""One mesh out of the several that a foreign file may hold: shared, packed or per-vertex colours."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
from PIL import Image

from ..errors import InputError
from .images import LARGEST_SIDE, linear_to_srgb, srgb_to_linear
from .mesh_arrays import MeshArrays, vertex_colors

_WHITE = (1.0, 1.0, 1.0, 1.0)
_MOST_REPEATS = 4  # of a texture along one axis; more would bloat the packed image


def join(parts: list[MeshArrays], provenance: dict[str, Any] | None = None) -> MeshArrays:
    """One mesh out of several.

    Parts of one texture share it. Parts without any get vertex colours if they differ in colour. Several textures are
    packed into one image. Roughness and metallic are the first part's.

    Raises:
        InputError: the textures do not fit into one image.
    """
    provenance = provenance or {}
    if len(parts) == 1:
        return replace(parts[0], provenance=provenance)
    first = parts[0]
    if len({id(part.image) for part in parts}) > 1 or (
        first.image is not None and len({part.base_color for part in parts}) > 1
    ):
        parts = _packed(parts)
        first = parts[0]
    offsets = np.cumsum([0] + [len(part.vertices) for part in parts[:-1]])
    same: dict[str, Any] = {
        "vertices": np.concatenate([part.vertices for part in parts]),
        "faces": np.concatenate([part.faces + offset for part, offset in zip(parts, offsets, strict=True)]),
        "normals": np.concatenate([part.normals for part in parts]),
        "roughness": first.roughness,
        "metallic": first.metallic,
        "provenance": provenance,
    }
    if first.image is not None:
        uv = np.concatenate([part.uv for part in parts if part.uv is not None])
        return MeshArrays(**same, uv=uv, image=first.image, base_color=first.base_color)
    if all(part.colors is None for part in parts) and len({part.base_color for part in parts}) == 1:
        return MeshArrays(**same, base_color=first.base_color)
    return MeshArrays(**same, colors=np.concatenate([vertex_colors(part) for part in parts]))


def _packed(parts: list[MeshArrays]) -> list[MeshArrays]:
    """The parts with one image in common: every texture, tinted and repeated as its part needs it, on shelves."""
    tiles = [_tile(part) for part in parts]
    places, width, height = _shelves([image.size for image, _ in tiles])
    if max(width, height) > LARGEST_SIDE:
        raise InputError(f"the textures together are {width} × {height} pixels, more than {LARGEST_SIDE}; shrink them")
    sheet = Image.new("RGBA" if any(image.mode == "RGBA" for image, _ in tiles) else "RGB", (width, height))
    result = []
    for part, (image, uv), (left, top) in zip(parts, tiles, places, strict=True):
        sheet.paste(image.convert(sheet.mode), (left, top))
        size = np.array(image.size)
        inside = np.clip(uv * size, 0.5, size - 0.5)  # half a texel in, so that filtering stays inside
        pixel = np.stack([left + inside[:, 0], height - top - size[1] + inside[:, 1]], axis=1)
        packed = (pixel / [width, height]).astype(np.float32)
        result.append(replace(part, uv=packed, image=sheet, colors=None, base_color=_WHITE))
    return result


def _tile(part: MeshArrays) -> tuple[Image.Image, np.ndarray]:
    """A part's texture with its tint, and coordinates in 0–1 of it; a single colour where there is no texture."""
    if part.image is None or part.uv is None:
        color = tuple(int(v) for v in np.median(vertex_colors(part), axis=0))
        return Image.new("RGB", (4, 4), color[:3]), np.full((len(part.vertices), 2), 0.5)
    image = part.image if part.base_color == _WHITE else _tinted(part.image, part.base_color)
    uv = part.uv.astype(np.float64)
    least = uv.min(axis=0)
    low = np.where((least < 0) | (uv.max(axis=0) > 1), np.floor(least), 0)
    repeats = np.maximum(np.ceil((uv - low).max(axis=0) - 1e-6), 1)
    if repeats.max() > _MOST_REPEATS:
        raise InputError(
            f"a texture repeats {int(repeats.max())} times and shares the mesh with others, at most {_MOST_REPEATS} "
            "repeats can be packed; bake the textures into one first"
        )
    if repeats.max() > 1:
        image = Image.fromarray(np.tile(np.asarray(image), (int(repeats[1]), int(repeats[0]), 1)))
    return image, (uv - low) / repeats


def _tinted(image: Image.Image, factor: tuple[float, float, float, float]) -> Image.Image:
    """The image times a linear factor."""
    pixels = np.asarray(image) / 255
    pixels[..., :3] = linear_to_srgb(srgb_to_linear(pixels[..., :3]) * np.array(factor[:3]))
    return Image.fromarray(np.round(pixels * 255).astype(np.uint8))


def _shelves(sizes: list[tuple[int, int]]) -> tuple[list[tuple[int, int]], int, int]:
    """Where to put rectangles (width, height) → (left, top) of each, and the sheet's width and height."""
    limit = max(max(w for w, _ in sizes), math.isqrt(sum(w * h for w, h in sizes)) + 1)
    places = [(0, 0)] * len(sizes)
    left = top = shelf = 0
    for index in sorted(range(len(sizes)), key=lambda i: -sizes[i][1]):
        width, height = sizes[index]
        if left and left + width > limit:
            left, top, shelf = 0, top + shelf, 0
        places[index] = (left, top)
        left, shelf = left + width, max(shelf, height)
    return places, max(x + w for (x, _), (w, _) in zip(places, sizes, strict=True)), top + shelf
