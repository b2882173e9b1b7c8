"""USDZ made elsewhere, read by OpenUSD (package ``usd-core``, extra ``usd``)."""

from __future__ import annotations

import tempfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import InputError, need
from .files import parse_provenance
from .images import decode_texture, linear_to_srgb
from .joining import join
from .mesh_arrays import MeshArrays, smooth_normals
from .texts import zip_member


def read_with_openusd(data: bytes, path: Path) -> MeshArrays:
    """Every mesh of a USDZ package at its default time, turned to +Y up and metres.

    Raises:
        InputError: OpenUSD cannot open it, or it holds no mesh.
        MissingPackageError: usd-core is not installed.
    """
    usd = need("pxr.Usd", extra="usd", purpose=f"reading {path.name}, which obverse did not write,")
    geometry = need("pxr.UsdGeom", extra="usd", purpose="reading .usdz")
    with tempfile.TemporaryDirectory(prefix="obverse-") as folder:
        copy = Path(folder) / "package.usdz"
        copy.write_bytes(data)
        try:
            stage = usd.Stage.Open(str(copy))
            if stage is None:
                raise InputError("OpenUSD cannot open the package; export it again")
            turn = np.eye(4)
            if geometry.GetStageUpAxis(stage) == "Z":
                turn = np.array([[1, 0, 0, 0], [0, 0, -1, 0], [0, 1, 0, 0], [0, 0, 0, 1]], dtype=np.float64)
            turn[:3, :3] *= float(geometry.GetStageMetersPerUnit(stage))
            cache = geometry.XformCache()
            with zipfile.ZipFile(copy) as archive:
                parts = [
                    part
                    for prim in stage.Traverse()
                    if prim.IsA(geometry.Mesh)
                    and (part := _part(prim, np.array(cache.GetLocalToWorldTransform(prim)) @ turn, archive))
                    is not None
                ]
            note = stage.GetRootLayer().customLayerData.get("provenance", "")
        except Exception as error:
            # OpenUSD's bindings raise their own Tf.ErrorException, whose only common base is Exception.
            if isinstance(error, InputError):
                raise
            raise InputError(f"OpenUSD cannot read the package ({str(error)[:200]}); export it again") from error
    if not parts:
        raise InputError("the USDZ holds no mesh; export one")
    return join(parts, parse_provenance(note if isinstance(note, str) else ""))


def _part(prim: Any, matrix: np.ndarray, archive: zipfile.ZipFile) -> MeshArrays | None:
    """One UsdGeomMesh: triangles with one vertex a corner, merged again where everything agrees."""
    geometry = need("pxr.UsdGeom", extra="usd")
    mesh = geometry.Mesh(prim)
    points = np.array(mesh.GetPointsAttr().Get(), dtype=np.float64).reshape(-1, 3)
    counts = np.array(mesh.GetFaceVertexCountsAttr().Get(), dtype=np.int64)
    indices = np.array(mesh.GetFaceVertexIndicesAttr().Get(), dtype=np.int64)
    if counts.sum() != len(indices) or len(indices) == 0:
        return None
    if indices.min() < 0 or indices.max() >= len(points):
        raise InputError(f"a USD face names point {indices.max()} of {len(points)}; it is damaged, export it again")
    corners, face_of = _fans(counts)
    if (np.linalg.det(matrix[:3, :3]) < 0) != (mesh.GetOrientationAttr().Get() == "leftHanded"):
        corners = corners[:, ::-1]
    world = (points @ matrix[:3, :3] + matrix[3, :3]).astype(np.float32)
    primvars = geometry.PrimvarsAPI(prim)
    look: dict[str, Any] = {}
    texture, factor = _material(prim, archive)
    uv = _corner_values(primvars.GetPrimvar("st"), indices, corners, face_of, 2)
    color = _corner_values(primvars.GetPrimvar("displayColor"), indices, corners, face_of, 3)
    flat = indices[corners].ravel()
    if uv is not None and texture is not None:
        merged, number = np.unique(np.column_stack([flat, uv.view(np.int32)]), axis=0, return_inverse=True)
        look = {"uv": np.ascontiguousarray(merged[:, 1:].astype(np.int32)).view(np.float32), "image": texture}
    elif color is not None:
        rgb = np.round(linear_to_srgb(color.astype(np.float64)) * 255).astype(np.int64)
        merged, number = np.unique(np.column_stack([flat, rgb]), axis=0, return_inverse=True)
        look = {"colors": np.pad(merged[:, 1:].astype(np.uint8), ((0, 0), (0, 1)), constant_values=255)}
    else:
        merged, number = np.unique(flat[:, None], axis=0, return_inverse=True)
        look = {"base_color": factor}
    vertices, faces = world[merged[:, 0]], number.reshape(-1, 3)
    return MeshArrays(vertices, faces, smooth_normals(vertices, faces), **look)


def _fans(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Corners per face [F] → (triangles as positions in the list of corners [T, 3], the face of each [T])."""
    starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
    triangles = np.maximum(counts - 2, 0)
    face_of = np.repeat(np.arange(len(counts)), triangles)
    step = np.arange(len(face_of)) - np.repeat(np.cumsum(triangles) - triangles, triangles)
    first = starts[face_of]
    return np.stack([first, first + step + 1, first + step + 2], axis=1), face_of


def _corner_values(
    primvar: Any, indices: np.ndarray, corners: np.ndarray, face_of: np.ndarray, width: int
) -> np.ndarray | None:
    """A primvar at every corner of every triangle [3T, width] float32, whatever its interpolation; None if absent."""
    value = primvar.ComputeFlattened() if primvar and primvar.HasValue() else None
    if value is None:
        return None
    values = np.array(value, dtype=np.float32).reshape(-1, width)
    kind = primvar.GetInterpolation()
    where = {
        "constant": np.zeros(corners.size, dtype=np.int64),
        "uniform": np.repeat(face_of, 3),
        "faceVarying": corners.ravel(),
    }.get(kind, indices[corners].ravel())
    return np.ascontiguousarray(values[where]) if len(where) and where.max() < len(values) else None


def _material(prim: Any, archive: zipfile.ZipFile) -> tuple[Any, tuple[float, float, float, float]]:
    """The image and the constant colour (linear) of the UsdPreviewSurface bound to a mesh."""
    shade = need("pxr.UsdShade", extra="usd")
    white = (1.0, 1.0, 1.0, 1.0)
    material = shade.MaterialBindingAPI(prim).ComputeBoundMaterial()[0]
    surface = material.ComputeSurfaceSource()[0] if material else None
    diffuse = surface.GetInput("diffuseColor") if surface else None
    if not diffuse:
        return None, white
    if not diffuse.HasConnectedSource():
        value = diffuse.Get()
        return None, (float(value[0]), float(value[1]), float(value[2]), 1.0) if value is not None else white
    source = shade.Shader(diffuse.GetConnectedSource()[0].GetPrim())
    file = source.GetInput("file")
    asset = file.Get() if file else None
    if asset is None:
        return None, white
    name = asset.path.lstrip("./")
    return (decode_texture(zip_member(archive, name)) if name in archive.namelist() else None), white
