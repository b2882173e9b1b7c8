"""GLB: the mesh as binary glTF 2.0 (Khronos specification, sections 3 and 4), written without errors or warnings."""

from __future__ import annotations

import json
import struct
from typing import Any

import numpy as np

from .. import __version__
from .files import Data, parse_provenance
from .images import srgb_to_linear
from .mesh_arrays import MeshArrays

FRAME = "right-handed, +Y up, the photographed side faces +Z"
_MAGIC, _JSON, _BIN = 0x46546C67, 0x4E4F534A, 0x004E4942
_FLOAT, _UINT16, _UINT32 = 5126, 5123, 5125
_ARRAY, _ELEMENT = 34962, 34963


def glb_bytes(arrays: MeshArrays, *, provenance: str = "", metres: bool = False) -> list[Data]:
    """A mesh as the pieces of a GLB file, to be written one after another.

    Positions, normals, one UV set (v flipped down) with an embedded sRGB image, or linear vertex colours; one opaque,
    single-sided, metallic-roughness material; no extensions.

    Args:
        arrays: the mesh.
        provenance: one line of JSON for ``asset.extras.provenance``, or "".
        metres: the positions are real metres, rather than units of the object's longest side.
    """
    document: dict[str, Any] = {
        "asset": {"version": "2.0", "generator": f"obverse {__version__}", "extras": _extras(provenance, metres)},
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0, "name": "object"}],
        "meshes": [{"name": "object", "primitives": [{"attributes": {}, "indices": 0, "mode": 4, "material": 0}]}],
        "materials": [_material(arrays)],
        "accessors": [],
        "bufferViews": [],
    }
    binary: list[Data] = []
    _add_geometry(document, binary, arrays)
    if arrays.image is not None and arrays.uv is not None:
        data, mime = arrays.texture
        document["images"] = [{"bufferView": _add_view(document, binary, data), "mimeType": mime, "name": "color"}]
        inside = arrays.uv.min() >= 0 and arrays.uv.max() <= 1
        wrap = 33071 if inside else 10497  # clamp keeps the border of an atlas clean; repeat only where it is used
        document["samplers"] = [{"magFilter": 9729, "minFilter": 9987, "wrapS": wrap, "wrapT": wrap}]
        document["textures"] = [{"sampler": 0, "source": 0}]
    size = sum(len(piece) for piece in binary)
    document["buffers"] = [{"byteLength": size}]
    text = json.dumps(document, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 4)
    total = 12 + 8 + len(text) + 8 + size
    head = struct.pack("<5I", _MAGIC, 2, total, len(text), _JSON) + text + struct.pack("<2I", size, _BIN)
    return [head, *binary]


def _extras(provenance: str, metres: bool) -> dict[str, Any]:
    extras: dict[str, Any] = {"frame": FRAME, "unit": "metre" if metres else "longest side of the object is 1"}
    if provenance:
        extras["provenance"] = parse_provenance(provenance)
    return extras


def _material(arrays: MeshArrays) -> dict[str, Any]:
    surface: dict[str, Any] = {"metallicFactor": arrays.metallic, "roughnessFactor": arrays.roughness}
    if arrays.base_color != (1.0, 1.0, 1.0, 1.0):
        surface["baseColorFactor"] = list(arrays.base_color)
    material: dict[str, Any] = {"name": "object", "pbrMetallicRoughness": surface, "doubleSided": False}
    if arrays.image is not None and arrays.uv is not None:
        surface["baseColorTexture"] = {"index": 0}
        if arrays.image.mode == "RGBA":
            material["alphaMode"] = "BLEND"
    return material


def _add_geometry(document: dict[str, Any], binary: list[Data], arrays: MeshArrays) -> None:
    """Accessors for indices, positions, normals and what colours the surface."""
    # The largest value of an index type restarts the primitive, so 65535 vertices (last index 65534) is uint16's end.
    index_type, code = ("<u2", _UINT16) if len(arrays.vertices) <= 65535 else ("<u4", _UINT32)
    _add_accessor(document, binary, arrays.faces.astype(index_type).reshape(-1), code, "SCALAR", _ELEMENT)
    attributes = document["meshes"][0]["primitives"][0]["attributes"]
    attributes["POSITION"] = _add_accessor(document, binary, arrays.vertices.astype("<f4"), _FLOAT, "VEC3", _ARRAY)
    document["accessors"][-1]["min"] = arrays.vertices.min(axis=0).tolist()
    document["accessors"][-1]["max"] = arrays.vertices.max(axis=0).tolist()
    attributes["NORMAL"] = _add_accessor(document, binary, arrays.normals.astype("<f4"), _FLOAT, "VEC3", _ARRAY)
    if arrays.image is not None and arrays.uv is not None:
        uv = np.stack([arrays.uv[:, 0], 1 - arrays.uv[:, 1]], axis=1).astype("<f4")
        attributes["TEXCOORD_0"] = _add_accessor(document, binary, uv, _FLOAT, "VEC2", _ARRAY)
    elif arrays.colors is not None:
        # Linear light in 8 bits loses dark colours; 16 bits keep every sRGB byte, and four of them stay aligned.
        colors = arrays.colors / 255
        colors[:, :3] = srgb_to_linear(colors[:, :3])
        attributes["COLOR_0"] = _add_accessor(
            document, binary, np.round(colors * 65535).astype("<u2"), _UINT16, "VEC4", _ARRAY, normalized=True
        )


def _add_accessor(
    document: dict[str, Any],
    binary: list[Data],
    values: np.ndarray,
    component: int,
    shape: str,
    target: int,
    *,
    normalized: bool = False,
) -> int:
    accessor: dict[str, Any] = {
        "bufferView": _add_view(document, binary, values.tobytes(), target),
        "componentType": component,
        "count": len(values),
        "type": shape,
    }
    if normalized:
        accessor["normalized"] = True
    document["accessors"].append(accessor)
    return len(document["accessors"]) - 1


def _add_view(document: dict[str, Any], binary: list[Data], data: bytes, target: int | None = None) -> int:
    """Append ``data``, padded to 4 bytes, and describe it → index of its bufferView."""
    offset = sum(len(piece) for piece in binary)
    binary.append(data + bytes(-len(data) % 4))
    view: dict[str, Any] = {"buffer": 0, "byteOffset": offset, "byteLength": len(data)}
    if target is not None:
        view["target"] = target
    document["bufferViews"].append(view)
    return len(document["bufferViews"]) - 1
