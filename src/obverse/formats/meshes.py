"""Meshes to and from files, by extension: .glb .obj .stl .3mf .usdz .ply.

Every reader returns, and every writer expects, the world frame: right-handed, +Y up, the photographed side faces +Z.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import trimesh

from ..errors import UsageError
from .files import Data, atomic_write_all, provenance_text
from .gltf import glb_bytes
from .mesh_arrays import from_trimesh

MESH_FORMATS = ("glb",)  # .ply too, by write_mesh; not listed because a .ply of an asset is its splat


def write_mesh(
    mesh: trimesh.Trimesh,
    path: str | Path,
    *,
    provenance: dict[str, Any] | None = None,
    height_m: float | None = None,
    print_height_mm: float = 100.0,
) -> list[Path]:
    """Write a mesh in the format its extension names → every file written, the named one first.

    Same input, same bytes. Files appear under their names only when all of them are complete.

    Args:
        mesh: in the world frame; textured, vertex-coloured or plain.
        path: where; the folder is made if needed.
        provenance: kept inside the file where the format has a place for it.
        height_m: real extent along Y in metres; without it one unit is the object's longest side.
        print_height_mm: extent along Y in millimetres for .stl and .3mf, unless ``height_m`` is given.

    Raises:
        UsageError: the extension is not one of ours.
        InputError: the mesh cannot be written as it is.
        OutputError: the system refused.
    """
    path = Path(path)
    files = _encode(
        mesh, path, path.suffix.lower(), provenance=provenance, height_m=height_m, print_height_mm=print_height_mm
    )
    return atomic_write_all(files)


def mesh_bytes(
    mesh: trimesh.Trimesh,
    extension: str,
    *,
    provenance: dict[str, Any] | None = None,
    height_m: float | None = None,
    print_height_mm: float = 100.0,
) -> bytes:
    """The one file that :func:`write_mesh` would write, as bytes; arguments and errors as there.

    Raises:
        UsageError: also for .obj, which is three files.
    """
    extension = "." + extension.lower().lstrip(".")
    if extension == ".obj":
        raise UsageError(".obj is three files and cannot be one stream; ask for .glb, or write .obj to a path")
    files = _encode(
        mesh,
        Path("object" + extension),
        extension,
        provenance=provenance,
        height_m=height_m,
        print_height_mm=print_height_mm,
    )
    return b"".join(next(iter(files.values())))


def _encode(
    mesh: trimesh.Trimesh,
    path: Path,
    extension: str,
    *,
    provenance: dict[str, Any] | None,
    height_m: float | None,
    print_height_mm: float,
) -> dict[Path, list[Data]]:
    """The files of a mesh: path → pieces, the named one first."""
    if extension[1:] not in MESH_FORMATS:
        raise UsageError(f"meshes cannot be written as {extension!r}; use one of .{', .'.join(MESH_FORMATS)}")
    arrays = from_trimesh(mesh, height_m=height_m)
    text = provenance_text(provenance)
    return {path: glb_bytes(arrays, provenance=text, metres=height_m is not None)}
