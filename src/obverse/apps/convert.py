"""Files to files: conversions and the viewer page for anything obverse can read."""

from __future__ import annotations

from pathlib import Path

from ..errors import InputError, UsageError
from ..formats.meshes import MESH_FORMATS, mesh_bytes, read_mesh, write_mesh
from ..formats.page import viewer_page
from ..formats.splats import SPLAT_FORMATS, is_splat, read_splats, splat_bytes, write_splats
from ..surface.gaussians import mesh_to_gaussians

_SHOWN = (MESH_FORMATS, SPLAT_FORMATS)  # of each kind the first that an asset folder has


def convert_file(
    source: Path, target: Path, *, height: float | None, form: str, axes: str, gaussians: int
) -> list[Path]:
    """Read one file and write another → the files written.

    Raises:
        InputError: the source cannot be read. UsageError: the target's extension is unknown, or a mesh is asked of a
        splat.
    """
    extension = target.suffix.lower().lstrip(".")
    if extension not in {*MESH_FORMATS, *SPLAT_FORMATS}:
        known = ", ".join("." + name for name in [*MESH_FORMATS, *SPLAT_FORMATS])
        raise UsageError(f"{target.name} ends in {target.suffix!r}, it must be one of: {known}")
    if is_splat(source):
        if extension not in SPLAT_FORMATS:
            raise UsageError(
                f"{source.name} is a splat and .{extension} holds a mesh; choose one of "
                + ", ".join("." + name for name in SPLAT_FORMATS)
            )
        return write_splats(read_splats(source), target, form=form, axes=axes)  # type: ignore[arg-type]
    mesh = read_mesh(source)
    if extension in SPLAT_FORMATS:
        splats = mesh_to_gaussians(mesh, count=gaussians)
        return write_splats(splats, target, form=form, axes=axes)  # type: ignore[arg-type]
    return write_mesh(mesh, target, provenance=mesh.metadata.get("provenance"), height_m=height)


def viewer_for(asset: Path) -> str:
    """An asset folder, mesh or splat file → a self-contained HTML page that shows it.

    Raises:
        InputError: there is nothing to show.
    """
    if asset.is_dir():
        kinds = [[path for name in kind if (path := asset / f"asset.{name}").exists()] for kind in _SHOWN]
        present = [paths[0] for paths in kinds if paths]
        if not present:
            raise InputError(f"{asset} holds neither a mesh nor a splat of obverse; name a mesh or splat file instead")
    else:
        present = [asset]
    glb = splats = None
    for path in present:
        if is_splat(path):
            splats = splat_bytes(read_splats(path), ".splat")
        else:
            glb = mesh_bytes(read_mesh(path), ".glb")
    return viewer_page(glb=glb, splats=splats, title=asset.name)
