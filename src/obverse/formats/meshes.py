"""Meshes to and from files, by extension: .glb .obj .stl .3mf .usdz .ply.

Every reader returns, and every writer expects, the world frame: right-handed, +Y up, the photographed side faces +Z.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import trimesh

from ..errors import InputError, UsageError
from .files import Data, atomic_write_all, provenance_text, read_bytes, reading
from .gltf import glb_bytes
from .gltf_reader import parse_glb
from .mesh_arrays import from_trimesh, to_trimesh
from .mesh_ply import mesh_ply_bytes, parse_mesh_ply
from .printing import parse_stl, print_scale, stl_bytes
from .threemf import parse_3mf, threemf_bytes
from .usdz import parse_usdz, usdz_bytes
from .wavefront import obj_files, parse_obj

MESH_FORMATS = ("glb", "obj", "stl", "3mf", "usdz")  # what an asset's mesh can be; its .ply is the splat
_WRITTEN = (*MESH_FORMATS, "ply")


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
        print_height_mm: extent along Y in millimetres for .stl and .3mf, unless ``height_m`` is given; both stand
            upright on +Z, as slicers expect.

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
    if extension[1:] not in _WRITTEN:
        raise UsageError(f"meshes cannot be written as {extension!r}; use one of .{', .'.join(_WRITTEN)}")
    arrays = from_trimesh(mesh, height_m=height_m)
    text = provenance_text(provenance)
    metres = height_m is not None
    if extension == ".glb":
        return {path: glb_bytes(arrays, provenance=text, metres=metres)}
    if extension == ".obj":
        return obj_files(arrays, path, provenance=text)
    if extension == ".usdz":
        return {path: [usdz_bytes(arrays, provenance=text)]}
    if extension == ".ply":
        return {path: mesh_ply_bytes(arrays, provenance=text)}
    scale = print_scale(arrays, metres=metres, print_height_mm=print_height_mm)
    if extension == ".stl":
        return {path: stl_bytes(arrays, scale)}
    return {path: [threemf_bytes(arrays, scale, provenance=text)]}


def read_mesh(path: str | Path) -> trimesh.Trimesh:
    """Read .glb, .obj, .stl, .3mf, .usdz or mesh .ply of any writer → the mesh in the world frame.

    Units are the file's: metres for a GLB, USDZ, STL or 3MF (millimetres are converted), anything for OBJ and PLY; a
    print file of our own gives back the units it was made from. Nothing is merged beyond what the format cannot keep
    apart. Provenance, where the file has any, is ``mesh.metadata["provenance"]``.

    Raises:
        InputError: the file is missing, damaged, or not a mesh.
        MissingPackageError: a .usdz of another writer, without the extra ``usd``.
    """
    path = Path(path)
    extension = path.suffix.lower()
    if extension[1:] not in _WRITTEN:
        raise InputError(f"{path} is not a mesh by its name; expected one of .{', .'.join(_WRITTEN)}")
    with reading(path, extension[1:].upper()):
        if extension == ".obj":
            return to_trimesh(parse_obj(path))
        data = read_bytes(path)
        if extension == ".usdz":
            return to_trimesh(parse_usdz(data, path))
        return to_trimesh(_PARSERS[extension](data))


_PARSERS = {".glb": parse_glb, ".ply": parse_mesh_ply, ".stl": parse_stl, ".3mf": parse_3mf}
