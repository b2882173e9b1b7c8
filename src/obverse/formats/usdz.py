"""USDZ for AR Quick Look: an uncompressed ZIP, every file on a 64-byte boundary, a text layer and its texture.

The layer is written by hand (OpenUSD, UsdPreviewSurface specification), so that no package is needed. Layers of our own
are read the same way; any other USDZ is read by OpenUSD itself, which the extra ``usd`` brings.
"""

from __future__ import annotations

import io
import json
import re
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from .. import __version__
from ..errors import InputError
from .files import Data, parse_provenance
from .images import decode_texture, linear_to_srgb, srgb_to_linear
from .mesh_arrays import MeshArrays
from .texts import format_rows, zip_entry, zip_member

_ALIGNMENT, _PADDING_ID = 64, 0x1986
_HEADER = 30  # bytes of a ZIP local header before the name
_MARK = '#usda 1.0\n(\n    customLayerData = {\n        string generator = "obverse '


def usdz_bytes(arrays: MeshArrays, *, provenance: str = "") -> bytes:
    """A mesh as a USDZ package, +Y up, one unit a metre."""
    textured = arrays.image is not None and arrays.uv is not None
    members: dict[str, Data] = {}
    if textured:
        data, mime = arrays.texture
        members["color.png" if mime == "image/png" else "color.jpg"] = data
    layer = _layer(arrays, next(iter(members), None), provenance)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, content in {"object.usda": layer.encode(), **members}.items():
            entry = zip_entry(name, compress=False)
            gap = -(buffer.tell() + _HEADER + len(name)) % _ALIGNMENT
            if 0 < gap < 4:  # an extra field is four bytes at least
                gap += _ALIGNMENT
            if gap:
                entry.extra = _PADDING_ID.to_bytes(2, "little") + (gap - 4).to_bytes(2, "little") + bytes(gap - 4)
            archive.writestr(entry, bytes(content))
    return buffer.getvalue()


def _layer(arrays: MeshArrays, texture: str | None, provenance: str) -> str:
    """The root layer as text."""
    low, high = arrays.vertices.min(axis=0), arrays.vertices.max(axis=0)
    extent = format_rows("(%.9g, %.9g, %.9g), ", np.stack([low, high])).rstrip(", ")
    colors = texture is None and arrays.colors is not None
    note = json.dumps(provenance, ensure_ascii=True)
    return f"""{_MARK}{__version__}"
        string provenance = {note}
    }}
    defaultPrim = "object"
    doc = "Made by obverse {__version__}: +Y up, the photographed side faces +Z"
    metersPerUnit = 1
    upAxis = "Y"
)

def Xform "object" (
    kind = "component"
)
{{
    def Mesh "mesh" (
        prepend apiSchemas = ["MaterialBindingAPI"]
    )
    {{
        uniform bool doubleSided = 0
        float3[] extent = [{extent}]
        int[] faceVertexCounts = [{", ".join(["3"] * len(arrays.faces))}]
        int[] faceVertexIndices = [{", ".join(map(str, arrays.faces.ravel().tolist()))}]
        rel material:binding = </object/Materials/surface>
        normal3f[] normals = [{_tuples(arrays.normals)}] (
            interpolation = "vertex"
        )
        point3f[] points = [{_tuples(arrays.vertices)}]
{_primvars(arrays, texture)}        uniform token subdivisionScheme = "none"
    }}

    def Scope "Materials"
    {{
        def Material "surface"
        {{
            token outputs:surface.connect = </object/Materials/surface/shader.outputs:surface>

            def Shader "shader"
            {{
                uniform token info:id = "UsdPreviewSurface"
{_diffuse(arrays, texture, colors)}
                float inputs:metallic = {arrays.metallic:.9g}
                float inputs:roughness = {arrays.roughness:.9g}
                token outputs:surface
            }}
{_readers(arrays, texture, colors)}        }}
    }}
}}
"""


def _primvars(arrays: MeshArrays, texture: str | None) -> str:
    """Texture coordinates where there is a texture, else colours where there are any, as lines of the mesh."""
    if texture is not None and arrays.uv is not None:
        name, rows = "texCoord2f[] primvars:st", _tuples(arrays.uv)
    elif texture is None and arrays.colors is not None:
        name = "color3f[] primvars:displayColor"
        rows = _tuples(srgb_to_linear(arrays.colors[:, :3] / 255).astype(np.float32))
    else:
        return ""
    return f'        {name} = [{rows}] (\n            interpolation = "vertex"\n        )\n'


def _tuples(values: np.ndarray) -> str:
    return format_rows("(" + ", ".join(["%.9g"] * values.shape[1]) + "), ", values)[:-2]


def _diffuse(arrays: MeshArrays, texture: str | None, colors: bool) -> str:
    """The base colour input: a texture, the vertex colours, or a constant."""
    indent = " " * 16
    if texture is not None:
        return f"{indent}color3f inputs:diffuseColor.connect = </object/Materials/surface/color.outputs:rgb>"
    if colors:
        return f"{indent}color3f inputs:diffuseColor.connect = </object/Materials/surface/color.outputs:result>"
    return f"{indent}color3f inputs:diffuseColor = ({', '.join(f'{v:.9g}' for v in arrays.base_color[:3])})"


def _readers(arrays: MeshArrays, texture: str | None, colors: bool) -> str:
    """The shaders that bring the texture or the vertex colours."""
    if texture is not None:
        red, green, blue, alpha = (f"{v:.9g}" for v in arrays.base_color)
        scale = "" if arrays.base_color == (1.0, 1.0, 1.0, 1.0) else f"({red}, {green}, {blue}, {alpha})"
        factor = f"                float4 inputs:scale = {scale}\n" if scale else ""
        return f"""
            def Shader "coordinates"
            {{
                uniform token info:id = "UsdPrimvarReader_float2"
                string inputs:varname = "st"
                float2 outputs:result
            }}

            def Shader "color"
            {{
                uniform token info:id = "UsdUVTexture"
                asset inputs:file = @{texture}@
{factor}                token inputs:sourceColorSpace = "sRGB"
                float2 inputs:st.connect = </object/Materials/surface/coordinates.outputs:result>
                token inputs:wrapS = "clamp"
                token inputs:wrapT = "clamp"
                float3 outputs:rgb
            }}
"""
    if colors:
        return """
            def Shader "color"
            {
                uniform token info:id = "UsdPrimvarReader_float3"
                string inputs:varname = "displayColor"
                float3 outputs:result
            }
"""
    return ""


def parse_usdz(data: bytes, path: Path) -> MeshArrays:
    """A USDZ → its mesh in the world frame, in metres.

    Raises:
        InputError: damaged, or without a mesh.
        MissingPackageError: another writer's file, and OpenUSD is not installed.
    """
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        names = archive.namelist()
        if not names:
            raise InputError("the USDZ is an empty archive; export it again")
        if names[0].endswith(".usda"):
            layer = zip_member(archive, names[0]).decode("utf-8", errors="replace")
            if layer.startswith(_MARK):
                return _parse_layer(layer, archive)
    from .usd import read_with_openusd

    return read_with_openusd(data, path)


def _parse_layer(layer: str, archive: zipfile.ZipFile) -> MeshArrays:
    """What :func:`_layer` wrote."""
    vertices, normals = _array(layer, "point3f[] points", 3), _array(layer, "normal3f[] normals", 3)
    faces = _array(layer, "int[] faceVertexIndices", 3).astype(np.int64)
    if len(faces) == 0 or faces.min() < 0 or faces.max() >= len(vertices) or len(normals) != len(vertices):
        raise InputError(
            f"the USD mesh has {len(faces)} faces and {len(vertices)} points that do not fit together; export it again"
        )
    look: dict[str, Any] = {"roughness": _number(layer, "roughness"), "metallic": _number(layer, "metallic")}
    file = re.search(r"asset inputs:file = @([^@\n]+)@", layer)
    if file:
        uv = _array(layer, "texCoord2f[] primvars:st", 2)
        if len(uv) != len(vertices):
            raise InputError(
                f"the USD mesh has {len(uv)} texture coordinates for {len(vertices)} points; export it again"
            )
        look |= {"uv": uv.astype(np.float32), "image": decode_texture(zip_member(archive, file.group(1)))}
    elif "primvars:displayColor" in layer:
        rgb = linear_to_srgb(_array(layer, "color3f[] primvars:displayColor", 3)) * 255
        if len(rgb) != len(vertices):
            raise InputError(f"the USD mesh has {len(rgb)} colours for {len(vertices)} points; export it again")
        look["colors"] = np.pad(np.round(rgb).astype(np.uint8), ((0, 0), (0, 1)), constant_values=255)
    factor = re.search(r"float4 inputs:scale = \(([^)\n]*)\)|color3f inputs:diffuseColor = \(([^)\n]*)\)", layer)
    if factor:
        values = [float(v) for v in (factor.group(1) or factor.group(2)).split(",")]
        red, green, blue, alpha = [*values, 1.0][:4]
        look["base_color"] = (red, green, blue, alpha)
    note = re.search(r'^        string provenance = ("(?:[^"\\]|\\.)*")$', layer, re.MULTILINE)
    provenance = parse_provenance(json.loads(note.group(1))) if note else {}
    return MeshArrays(vertices.astype(np.float32), faces, normals.astype(np.float32), **look, provenance=provenance)


def _array(layer: str, name: str, width: int) -> np.ndarray:
    """Numbers of ``name = [...]`` as finite float64 [N, width]."""
    start = layer.find(f" {name} = [")
    end = layer.find("]", start + len(name) + 5)
    if start < 0 or end < 0:
        raise InputError(f"the USD layer has no {name!r}; the file is damaged, export it again")
    text = layer[start + len(name) + 5 : end].replace("(", " ").replace(")", " ").replace(",", " ")
    values = np.array(text.split(), dtype=np.float64).reshape(-1, width)
    if not np.isfinite(values).all():
        raise InputError(f"the USD array {name!r} has values that are not finite; export it again")
    return values


def _number(layer: str, name: str) -> float:
    found = re.search(rf"float inputs:{name} = ([0-9.e+-]+)$", layer, re.MULTILINE)
    if not found:
        raise InputError(f"the USD material has no {name}; the file is damaged, export it again")
    return float(found.group(1))
