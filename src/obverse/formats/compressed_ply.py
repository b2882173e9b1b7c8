"""Compressed splat PLY (PlayCanvas, SuperSplat): 16 bytes a splat, quantised inside chunks of 256 neighbours."""

from __future__ import annotations

import numpy as np

from ..errors import InputError
from ..gaussians import SH_C0
from .files import Data
from .ply import Ply, ply_bytes
from .splat_arrays import SplatArrays, unit_quats

_CHUNK = 256
_GROUPS = (("", "xyz"), ("scale_", "xyz"), ("", "rgb"))  # of bounds: position, logarithm of scale, colour
_BOUNDS = [f"{end}_{prefix}{axis}" for prefix, axes in _GROUPS for end in ("min", "max") for axis in axes]


def compressed_ply_bytes(arrays: SplatArrays, comments: list[str]) -> list[Data]:
    """Gaussians as the pieces of a compressed PLY; those too faint to be drawn (opacity ≤ 1/255) are left out.

    Raises:
        InputError: none of them can be seen.
    """
    order = _morton_order(arrays.means)
    order = order[arrays.opacities[order] > 1 / 255]
    if len(order) == 0:
        raise InputError(
            "every Gaussian has an opacity of 1/255 or less, so there is nothing to write; check their source"
        )
    position, log_scale = arrays.means[order], np.clip(np.log(arrays.scales[order]), -20, 20)
    color = (0.5 + SH_C0 * arrays.sh[order, 0]).astype(np.float32)
    bounds, units = [], []
    for values in (position, log_scale, color):
        low, high = _chunk_bounds(values)
        bounds += [low, high]
        span = np.repeat(high - low, _CHUNK, axis=0)[: len(values)]
        offset = values - np.repeat(low, _CHUNK, axis=0)[: len(values)]
        units.append(np.divide(offset, span, out=np.zeros_like(offset), where=span > 0))
    rgba = np.concatenate([units[2], arrays.opacities[order, None]], axis=1)
    vertex = np.empty(
        len(order), dtype=[(f"packed_{name}", "<u4") for name in ("position", "rotation", "scale", "color")]
    )
    vertex["packed_position"] = _pack(units[0], (11, 10, 11))
    vertex["packed_rotation"] = _pack_rotation(arrays.quats[order])
    vertex["packed_scale"] = _pack(units[1], (11, 10, 11))
    vertex["packed_color"] = _pack(rgba, (8, 8, 8, 8))
    elements: dict = {"chunk": (_BOUNDS, np.concatenate(bounds, axis=1)), "vertex": vertex}
    rest = arrays.sh.shape[1] - 1
    if rest:
        harmonics = np.empty(len(order), dtype=[(f"f_rest_{i}", "u1") for i in range(3 * rest)])
        levels = np.clip(np.trunc((arrays.sh[order, 1:] / 8 + 0.5) * 256), 0, 255)
        for i, column in enumerate(levels.transpose(2, 1, 0).reshape(3 * rest, -1)):
            harmonics[f"f_rest_{i}"] = column
        elements["sh"] = harmonics
    return ply_bytes(elements, comments)


def decode_compressed(ply: Ply) -> SplatArrays:
    """Gaussians from the elements of a compressed PLY, in the file's frame.

    Raises:
        InputError: elements or properties are missing, or do not fit together.
    """
    chunk, vertex = ply.elements.get("chunk"), ply.elements["vertex"]
    names = ("packed_position", "packed_rotation", "packed_scale", "packed_color")
    missing = [name for name in names if name not in vertex.columns]
    if chunk is None or missing or not set(_BOUNDS[:12]) <= set(chunk.columns):
        raise InputError(f"the compressed PLY lacks {', '.join(missing) or 'its chunk bounds'}; export it again")
    if vertex.count > _CHUNK * chunk.count:
        raise InputError(f"the compressed PLY has {chunk.count} chunks for {vertex.count} splats; export it again")
    packed = [np.asarray(vertex.columns[name]).astype(np.uint32) for name in names]
    number = np.arange(vertex.count) // _CHUNK

    def spread(unit: np.ndarray, group: int) -> np.ndarray:
        low_high = _BOUNDS[6 * group : 6 * group + 6]
        if low_high[0] not in chunk.columns:  # before version 2, colours had no bounds
            return unit
        low, high = (np.stack([chunk.columns[n] for n in low_high[i : i + 3]], 1)[number] for i in (0, 3))
        return (low + (high - low) * unit).astype(np.float32)

    rgba = _unpack(packed[3], (8, 8, 8, 8))
    base = (spread(rgba[:, :3], 2) - 0.5) / np.float32(SH_C0)
    with np.errstate(over="ignore"):
        scales = np.exp(spread(_unpack(packed[2], (11, 10, 11)), 1))
    return SplatArrays(
        means=spread(_unpack(packed[0], (11, 10, 11)), 0),
        quats=_unpack_rotation(packed[1]),
        scales=scales,
        opacities=rgba[:, 3],
        sh=np.concatenate([base[:, None], _decode_harmonics(ply, vertex.count)], axis=1),
    )


def _decode_harmonics(ply: Ply, count: int) -> np.ndarray:
    """Coefficients above degree 0, [N, K − 1, 3]; K = 1 when the file has none."""
    element = ply.elements.get("sh")
    names = [name for name in element.columns if name.startswith("f_rest_")] if element else []
    if element is None or not names:
        return np.zeros((count, 0, 3), dtype=np.float32)
    if len(names) not in (9, 24, 45) or element.count != count:
        raise InputError(
            f"the compressed PLY has {element.count} × {len(names)} harmonics for {count} splats; export it again"
        )
    levels = np.stack([element.columns[f"f_rest_{i}"] for i in range(len(names))], axis=1).astype(np.float32)
    unit = np.where(levels == 0, 0, np.where(levels == 255, 1, (levels + 0.5) / 256))
    return ((unit - 0.5) * 8).reshape(count, 3, -1).transpose(0, 2, 1).astype(np.float32)


def _morton_order(means: np.ndarray) -> np.ndarray:
    """Order along a Z-curve of 1024³ cells, so that a chunk's Gaussians are neighbours."""
    low, high = means.min(axis=0), means.max(axis=0)
    cells = ((means - low) / np.maximum(high - low, 1e-12) * 1023).astype(np.uint32)
    code = np.zeros(len(means), dtype=np.uint32)
    for bit in range(10):
        for axis in range(3):
            code |= ((cells[:, axis] >> np.uint32(bit)) & np.uint32(1)) << np.uint32(3 * bit + axis)
    return np.argsort(code, kind="stable")


def _chunk_bounds(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Least and greatest of every 256 rows: two [C, 3]."""
    starts = np.arange(0, len(values), _CHUNK)
    return np.minimum.reduceat(values, starts), np.maximum.reduceat(values, starts)


def _pack(units: np.ndarray, bits: tuple[int, ...]) -> np.ndarray:
    """Numbers 0–1 [N, K] as fields of one uint32, the first in the highest bits."""
    word = np.zeros(len(units), dtype=np.uint32)
    for column, width in zip(units.T, bits, strict=True):
        top = (1 << width) - 1
        word = (word << np.uint32(width)) | np.clip(np.floor(column * top + 0.5), 0, top).astype(np.uint32)
    return word


def _unpack(words: np.ndarray, bits: tuple[int, ...]) -> np.ndarray:
    fields, shift = [], sum(bits)
    for width in bits:
        shift -= width
        fields.append(((words >> np.uint32(shift)) & np.uint32((1 << width) - 1)) / np.float32((1 << width) - 1))
    return np.stack(fields, axis=1).astype(np.float32)


def _pack_rotation(quats: np.ndarray) -> np.ndarray:
    """Unit quaternions wxyz: number of the largest component in 2 bits, the other three in 10 bits each."""
    largest = np.abs(quats).argmax(axis=1)
    signed = quats * np.where(np.take_along_axis(quats, largest[:, None], 1) < 0, -1, 1)
    others = np.array([[1, 2, 3], [0, 2, 3], [0, 1, 3], [0, 1, 2]])[largest]
    units = np.take_along_axis(signed, others, 1) * np.sqrt(0.5) + 0.5
    return (largest.astype(np.uint32) << np.uint32(30)) | _pack(units, (10, 10, 10))


def _unpack_rotation(words: np.ndarray) -> np.ndarray:
    others = (_unpack(words, (10, 10, 10)) - 0.5) * np.float32(np.sqrt(2))
    largest = (words >> np.uint32(30)).astype(np.int64)
    rest = np.sqrt(np.maximum(0, 1 - (others**2).sum(axis=1)))
    quats = np.empty((len(words), 4), dtype=np.float32)
    np.put_along_axis(quats, np.array([[1, 2, 3], [0, 2, 3], [0, 1, 3], [0, 1, 2]])[largest], others, 1)
    np.put_along_axis(quats, largest[:, None], rest[:, None], 1)
    return unit_quats(quats)
