"""Files to files: conversions and the viewer page for anything obverse can read."""

from __future__ import annotations

from pathlib import Path

from ..errors import InputError, UsageError
from ..formats.files import read_bytes
from ..formats.meshes import MESH_FORMATS, mesh_bytes, read_mesh, write_mesh
from ..formats.page import viewer_page
from ..formats.splats import SPLAT_FORMATS, read_splats, splat_bytes, write_splats
from ..surface.gaussians import mesh_to_gaussians


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
        files = [asset / "asset.glb", asset / "asset.ply"]
        present = [path for path in files if path.exists()]
        if not present:
            raise InputError(f"{asset} holds neither asset.glb nor asset.ply; name a mesh or splat file instead")
    else:
        present = [asset]
    glb = splats = None
    for path in present:
        if is_splat(path):
            splats = splat_bytes(read_splats(path), ".splat")
        else:
            glb = mesh_bytes(read_mesh(path), ".glb")
    return viewer_page(glb=glb, splats=splats, title=asset.name)


def is_splat(path: Path) -> bool:
    """Whether a file holds Gaussians: by extension, and for .ply by the properties its header declares."""
    suffix = path.suffix.lower()
    if suffix != ".ply":
        return suffix in {".splat", ".spz"}
    header = read_bytes(path)[:20_000].split(b"end_header")[0]
    return b"scale_0" in header or b"packed_position" in header
