"""PLY as a mesh: positions, normals, byte colours, triangles. A texture becomes a colour at every vertex."""

from __future__ import annotations

import numpy as np

from .. import __version__
from ..errors import InputError
from .files import Data, parse_provenance
from .mesh_arrays import MeshArrays, smooth_normals, unit_normals, vertex_colors
from .ply import parse_ply, ply_bytes


def mesh_ply_bytes(arrays: MeshArrays, *, provenance: str = "") -> list[Data]:
    """A mesh as the pieces of a binary PLY in the world frame."""
    colors = ("red", "green", "blue", "alpha") if arrays.is_colored else ()
    fields = [(name, "<f4") for name in ("x", "y", "z", "nx", "ny", "nz")] + [(name, "u1") for name in colors]
    vertex = np.empty(len(arrays.vertices), dtype=fields)
    for i, axis in enumerate("xyz"):
        vertex[axis], vertex["n" + axis] = arrays.vertices[:, i], arrays.normals[:, i]
    if colors:
        for name, channel in zip(colors, vertex_colors(arrays).T, strict=True):
            vertex[name] = channel
    face = np.empty(len(arrays.faces), dtype=[("vertex_indices", "<i4", (3,))])
    face["vertex_indices"] = arrays.faces
    comments = [f"mesh written by obverse {__version__}: +Y up, the photographed side faces +Z"]
    if provenance:
        comments.append(f"obverse-provenance {provenance}")
    return ply_bytes({"vertex": vertex, "face": face}, comments)


def parse_mesh_ply(data: bytes) -> MeshArrays:
    """A mesh PLY of any writer → its mesh, taken to be in the world frame.

    Raises:
        InputError: damaged, or a splat or point cloud rather than a mesh.
    """
    ply = parse_ply(data)
    vertex, face = ply.elements.get("vertex"), ply.elements.get("face")
    if vertex is None or not {"x", "y", "z"} <= set(vertex.columns):
        raise InputError("the PLY has no vertices with x, y and z, so it is not a mesh; export one with faces")
    columns = vertex.columns
    indices = next((face.columns[k] for k in ("vertex_indices", "vertex_index") if face and k in face.columns), None)
    if indices is None or len(indices) == 0:
        kind = (
            "a splat, not a mesh; open it with read_splats"
            if "scale_0" in columns
            else "a point cloud; export a mesh with faces"
        )
        raise InputError(f"this PLY is {kind}")
    faces = indices.reshape(-1, 3).astype(np.int64)
    if faces.min() < 0 or faces.max() >= vertex.count:
        raise InputError(f"a PLY face names vertex {faces.max()} of {vertex.count}; it is damaged, export it again")
    vertices = np.stack([columns[axis] for axis in "xyz"], axis=1).astype(np.float32)
    if not np.isfinite(vertices).all():
        raise InputError("the PLY has vertices that are not finite; export it again")
    if {"nx", "ny", "nz"} <= set(columns):
        normals = unit_normals(np.stack([columns["n" + axis] for axis in "xyz"], axis=1))
    else:
        normals = smooth_normals(vertices, faces)
    colors = None
    if {"red", "green", "blue"} <= set(columns):
        names = ["red", "green", "blue"] + ["alpha"] * ("alpha" in columns)
        rgba = np.stack([_byte(columns[name]) for name in names], axis=1)
        colors = rgba if rgba.shape[1] == 4 else np.pad(rgba, ((0, 0), (0, 1)), constant_values=255)
    provenance = parse_provenance(ply.comment("obverse-provenance") or "")
    return MeshArrays(vertices, faces, normals, colors=colors, provenance=provenance)


def _byte(values: np.ndarray) -> np.ndarray:
    """A colour channel as uint8: integers 0–255 as they are, floats 0–1 scaled."""
    scaled = np.nan_to_num(values) * (255 if values.dtype.kind == "f" else 1)
    return np.clip(np.round(scaled), 0, 255).astype(np.uint8)
