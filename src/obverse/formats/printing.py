"""Meshes for printing: binary .stl, and what it shares with .3mf; millimetres, upright (+Z up, as slicers have it).

The world frame (x, y, z) becomes (x, −z, y): the photographed side faces −Y, the front of the print bed. Files of our
own note how many millimetres a unit became, so that reading them gives back the mesh as it was; other files are taken
to be upright and are read in metres.
"""

from __future__ import annotations

import math
import re
import warnings

import numpy as np

from .. import __version__
from ..errors import InputError
from ..topology import first_of_each
from .files import Data
from .mesh_arrays import MeshArrays, is_closed, smooth_normals

_STL_TRIANGLE = np.dtype([("normal", "<f4", 3), ("corners", "<f4", (3, 3)), ("attribute", "<u2")])


def print_scale(arrays: MeshArrays, *, metres: bool, print_height_mm: float) -> float:
    """Millimetres per unit of the mesh: 1000 if it is in metres, else what makes it ``print_height_mm`` high.

    Raises:
        InputError: the height is not a positive number, or the mesh is flat.
    """
    if metres:
        return 1000.0
    extent = float(np.ptp(arrays.vertices[:, 1]))
    if not (math.isfinite(print_height_mm) and print_height_mm > 0 and extent > 0):
        raise InputError(f"a mesh {extent:.4g} high cannot be printed {print_height_mm} mm high; both must be above 0")
    return print_height_mm / extent


def upright(points: np.ndarray) -> np.ndarray:
    """World frame [..., 3] → the printer's, +Z up and the front facing −Y."""
    return np.stack([points[..., 0], -points[..., 2], points[..., 1]], axis=-1)


def from_upright(points: np.ndarray) -> np.ndarray:
    """The printer's frame [..., 3] → the world frame."""
    return np.stack([points[..., 0], points[..., 2], -points[..., 1]], axis=-1)


def warn_if_open(arrays: MeshArrays, kind: str) -> None:
    """Warn that a mesh is not closed, so not printable as it is."""
    if not is_closed(arrays.vertices, arrays.faces):
        warnings.warn(
            f"the mesh written as {kind} is not closed, and printers need it closed; repair it before printing",
            stacklevel=4,
        )


def stl_bytes(arrays: MeshArrays, scale: float) -> list[Data]:
    """A binary STL: 80 bytes of header, the number of triangles, 50 bytes each."""
    warn_if_open(arrays, "STL")
    points = upright(arrays.vertices) * np.float32(scale)
    corners = points[arrays.faces]
    rows = np.zeros(len(corners), dtype=_STL_TRIANGLE)
    rows["corners"] = corners
    cross = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    length = np.linalg.norm(cross, axis=1, keepdims=True)
    rows["normal"] = np.divide(cross, length, out=np.zeros_like(cross), where=length > 0)
    header = f"obverse {__version__} unit=mm up=+Z scale={scale!r}".encode().ljust(80)[:80]
    return [header + len(rows).to_bytes(4, "little"), rows.tobytes()]


def parse_stl(data: bytes) -> MeshArrays:
    """An STL, binary or text → its mesh in the world frame, equal positions merged.

    Raises:
        InputError: neither form, cut off, or without triangles.
    """
    count = int.from_bytes(data[80:84], "little")
    scale = 1000.0
    text = data.lstrip()[:5].lower() == b"solid"
    if len(data) == 84 + 50 * count or (not text and len(data) >= 84 + 50 * count):
        corners = np.frombuffer(data, _STL_TRIANGLE, count, 84)["corners"]
        noted = re.match(rb"obverse \S+ unit=mm up=\+Z scale=([0-9.e+-]+)", data[:80])
        scale = float(noted.group(1)) if noted else scale
    elif text:
        numbers = re.findall(rb"vertex\s+(\S+)\s+(\S+)\s+(\S+)", data)
        corners = np.array(numbers, dtype="S64").astype(np.float64)[: len(numbers) // 3 * 3].reshape(-1, 3, 3)
    else:
        raise InputError(
            f"the STL has {len(data)} bytes and promises {count} triangles ({84 + 50 * count} bytes); copy it again"
        )
    if len(corners) == 0 or not scale > 0:
        raise InputError("the STL has no triangles; export it again")
    points = (from_upright(corners.reshape(-1, 3).astype(np.float64)) / scale).astype(np.float32) + np.float32(0)
    if not np.isfinite(points).all():
        raise InputError("the STL has corners that are not finite; export it again")
    first, number = first_of_each(points)
    faces = number.reshape(-1, 3)
    return MeshArrays(points[first], faces, smooth_normals(points[first], faces))
