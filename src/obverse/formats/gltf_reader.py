"""GLB of any writer → one mesh: the scene's nodes applied, triangles of every primitive joined."""

from __future__ import annotations

import base64
import json
import struct
from typing import Any

import numpy as np
from PIL import Image

from ..errors import InputError
from .images import decode_texture, linear_to_srgb
from .joining import join
from .mesh_arrays import METALLIC, ROUGHNESS, MeshArrays, smooth_normals, unit_normals

_MAGIC, _JSON, _BIN = 0x46546C67, 0x4E4F534A, 0x004E4942
_COMPONENTS = {5120: "<i1", 5121: "<u1", 5122: "<i2", 5123: "<u2", 5125: "<u4", 5126: "<f4"}
_WIDTHS = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4}
_UNREADABLE = {
    "KHR_draco_mesh_compression",
    "EXT_meshopt_compression",
    "KHR_meshopt_compression",
    "KHR_texture_basisu",
}
_MOST_VALUES = 1 << 28  # of one accessor, and vertices altogether; more is a mistake or an attack
_MOST_ZEROS = 1 << 24  # values of an accessor that has no data behind it


def parse_glb(data: bytes) -> MeshArrays:
    """A binary glTF 2.0 file → its mesh in the scene's frame, provenance included.

    Points and lines are passed over; animation, skins and morph targets are left at rest.

    Raises:
        InputError: not a GLB 2.0, damaged, compressed by an extension, or without triangles.
    """
    document, binary = _chunks(data)
    required = _UNREADABLE & set(document.get("extensionsRequired", ()))
    if required:
        raise InputError(f"the GLB is compressed with {', '.join(sorted(required))}; export it without compression")
    reader = _Reader(document, binary)
    parts, total = [], 0
    for mesh, matrix in reader.placed_meshes():
        for primitive in mesh["primitives"]:
            part = reader.primitive(primitive, matrix) if primitive.get("mode", 4) in (4, 5, 6) else None
            if part is not None:
                parts.append(part)
                total += len(part.vertices)
            if total > _MOST_VALUES:
                raise InputError(f"the GLB places more than {_MOST_VALUES} vertices; simplify it")
    if not parts:
        raise InputError("the GLB holds no triangles (only points, lines or nothing); export a mesh")
    provenance = document.get("asset", {}).get("extras", {})
    provenance = provenance.get("provenance", {}) if isinstance(provenance, dict) else {}
    return join(parts, provenance if isinstance(provenance, dict) else {})


def _chunks(data: bytes) -> tuple[dict[str, Any], bytes]:
    """Header and chunks (specification, section 4.4) → (JSON document, binary buffer)."""
    if len(data) < 20 or struct.unpack_from("<I", data)[0] != _MAGIC:
        raise InputError(f"the file starts with {bytes(data[:4])!r}, a GLB starts with b'glTF'; it is another format")
    version, length = struct.unpack_from("<2I", data, 4)
    if version != 2:
        raise InputError(f"this is GLB version {version}, only version 2 is read; convert it to glTF 2.0")
    if length > len(data):
        raise InputError(f"the GLB promises {length} bytes and has {len(data)}; it is cut off, copy it again")
    found: dict[int, bytes] = {}
    position = 12
    while position + 8 <= length:
        size, kind = struct.unpack_from("<2I", data, position)
        if position + 8 + size > length:
            raise InputError(f"a GLB chunk of {size} bytes runs past the end; the file is damaged, copy it again")
        found.setdefault(kind, data[position + 8 : position + 8 + size])
        position += 8 + size
    document = json.loads(found.get(_JSON, b""))
    if not isinstance(document, dict):
        raise InputError("the GLB's JSON is not an object; the file is damaged, export it again")
    return document, found.get(_BIN, b"")


class _Reader:
    """Looks things up in one document; images are decoded once, however many materials use them."""

    def __init__(self, document: dict[str, Any], binary: bytes) -> None:
        self.document = document
        self.binary = binary
        self.images: dict[int, Image.Image] = {}

    def placed_meshes(self) -> list[tuple[dict[str, Any], np.ndarray]]:
        """Every mesh of the scene with its world matrix [4, 4]; every mesh as it is if there is no scene."""
        meshes, nodes = self.document.get("meshes", []), self.document.get("nodes", [])
        scenes = self.document.get("scenes", [])
        if not scenes or not nodes:
            return [(mesh, np.eye(4)) for mesh in meshes]
        stack = [(index, np.eye(4)) for index in _item(scenes, self.document.get("scene", 0), "scene").get("nodes", [])]
        placed, seen = [], set()
        while stack:
            index, parent = stack.pop()
            if index in seen:
                raise InputError(f"glTF node {index} hangs in two places or in a circle; export it again")
            seen.add(index)
            node = _item(nodes, index, "node")
            matrix = parent @ _local_matrix(node)
            if "mesh" in node:
                placed.append((_item(meshes, node["mesh"], "mesh"), matrix))
            stack += [(child, matrix) for child in node.get("children", [])]
        return placed

    def primitive(self, primitive: dict[str, Any], matrix: np.ndarray) -> MeshArrays | None:
        """One primitive in world coordinates, or None if it has no triangles."""
        attributes = primitive["attributes"]
        points = self.accessor(attributes["POSITION"], 3).astype(np.float64)
        order = self._indices(primitive, len(points))
        faces = _triangles(order, primitive.get("mode", 4))
        if len(faces) == 0:
            return None
        if faces.max() >= len(points):
            raise InputError(f"a glTF index is {faces.max()} and there are {len(points)} vertices; export it again")
        linear = matrix[:3, :3]
        if np.linalg.det(linear) < 0:
            faces = faces[:, ::-1]
        vertices = (points @ linear.T + matrix[:3, 3]).astype(np.float32)
        if not np.isfinite(vertices).all():
            raise InputError("the GLB has vertices that are not finite; export it again")
        if "NORMAL" in attributes and abs(np.linalg.det(linear)) > 1e-30:
            normals = self.accessor(attributes["NORMAL"], 3, len(points))
            normals = unit_normals(normals @ np.linalg.inv(linear))  # the inverse transpose, on row vectors
        else:
            normals = smooth_normals(vertices, faces)
        return MeshArrays(vertices, faces, normals, **self._look(primitive, len(points)))

    def _indices(self, primitive: dict[str, Any], count: int) -> np.ndarray:
        if "indices" not in primitive:
            return np.arange(count)
        return self.accessor(primitive["indices"], 1).astype(np.int64).ravel()

    def _look(self, primitive: dict[str, Any], count: int) -> dict[str, Any]:
        """Texture, colours and factors of a primitive as keyword arguments of MeshArrays."""
        attributes = primitive["attributes"]
        material = (
            _item(self.document.get("materials", []), primitive["material"], "material")
            if "material" in primitive
            else {}
        )
        surface = material.get("pbrMetallicRoughness", {})
        factor = tuple(float(v) for v in surface.get("baseColorFactor", (1, 1, 1, 1)))
        if len(factor) != 4:
            raise InputError(f"a glTF baseColorFactor has {len(factor)} values, expected 4; export the file again")
        look: dict[str, Any] = {
            "base_color": factor,
            "roughness": float(surface.get("roughnessFactor", 1.0)) if material else ROUGHNESS,
            "metallic": float(surface.get("metallicFactor", 1.0)) if material else METALLIC,
        }
        texture = surface.get("baseColorTexture")
        if texture is not None and "index" in texture:
            extension = texture.get("extensions", {}).get("KHR_texture_transform", {})
            name = f"TEXCOORD_{extension.get('texCoord', texture.get('texCoord', 0))}"
            image = self._image(texture["index"])
            if name in attributes and image is not None:
                uv = _transformed(self.accessor(attributes[name], 2, count), extension)
                flipped = np.stack([uv[:, 0], 1 - uv[:, 1]], axis=1).astype(np.float32)
                if not np.isfinite(flipped).all():
                    raise InputError("the GLB has texture coordinates that are not finite; export it again")
                return look | {"uv": flipped, "image": image}
        if "COLOR_0" in attributes:
            linear = self.accessor(attributes["COLOR_0"], None, count)
            alpha = linear[:, 3:] if linear.shape[1] == 4 else np.ones((count, 1))
            rgba = np.concatenate([linear_to_srgb(linear[:, :3].astype(np.float64)), np.clip(alpha, 0, 1)], axis=1)
            look["colors"] = np.round(np.nan_to_num(rgba) * 255).astype(np.uint8)
        return look

    def _image(self, texture_index: int) -> Image.Image | None:
        texture = _item(self.document.get("textures", []), texture_index, "texture")
        webp = texture.get("extensions", {}).get("EXT_texture_webp", {})
        index = webp.get("source", texture.get("source"))
        if index is None:
            return None
        if index not in self.images:
            image = _item(self.document.get("images", []), index, "image")
            data = self._view(image["bufferView"])[0] if "bufferView" in image else _data_uri(image.get("uri", ""))
            self.images[index] = decode_texture(bytes(data))
        return self.images[index]

    def _view(self, index: int) -> tuple[memoryview, int]:
        """Bytes of a bufferView and its stride (0 when packed)."""
        view = _item(self.document.get("bufferViews", []), index, "bufferView")
        buffer = _item(self.document.get("buffers", []), view.get("buffer", 0), "buffer")
        data = _data_uri(buffer["uri"]) if "uri" in buffer else self.binary
        start, size = view.get("byteOffset", 0), view["byteLength"]
        if start < 0 or size < 0 or start + size > len(data):
            raise InputError(f"glTF bufferView {index} runs past its buffer of {len(data)} bytes; export it again")
        return memoryview(data)[start : start + size], view.get("byteStride", 0)

    def accessor(self, index: int, width: int | None, count: int | None = None) -> np.ndarray:
        """Values [count, width] of an accessor: normalised integers as floats, others in their own type."""
        accessor = _item(self.document.get("accessors", []), index, "accessor")
        columns = _WIDTHS.get(accessor["type"], 0)
        rows, code = accessor["count"], _COMPONENTS.get(accessor["componentType"])
        if code is None or columns == 0 or (width is not None and columns != width):
            raise InputError(
                f"glTF accessor {index} is {accessor['type']} of {accessor['componentType']}, expected {width} values; "
                "export the file again"
            )
        if not 0 < rows * columns <= _MOST_VALUES or (count is not None and rows != count):
            raise InputError(
                f"glTF accessor {index} has {rows} entries, expected {count or 'more than 0'}; export the file again"
            )
        if "bufferView" in accessor:
            values = self._rows(accessor["bufferView"], accessor.get("byteOffset", 0), rows, columns, code)
        else:
            if rows * columns > _MOST_ZEROS:
                raise InputError(f"glTF accessor {index} has {rows} entries and no data; export it again")
            values = np.zeros((rows, columns), dtype=code)
        if "sparse" in accessor:
            values = self._sparse(values, accessor["sparse"], columns, code)
        if accessor.get("normalized") and values.dtype.kind in "iu":
            return np.maximum(values / np.float64(np.iinfo(values.dtype).max), -1)
        return values

    def _rows(self, view: int, offset: int, rows: int, columns: int, code: str) -> np.ndarray:
        data, stride = self._view(view)
        item = np.dtype(code).itemsize * columns
        stride = stride or item
        if offset < 0 or stride < item or offset + stride * (rows - 1) + item > len(data):
            raise InputError(f"glTF bufferView {view} is too short for {rows} entries; it is damaged, export it again")
        packed = np.ndarray((rows, columns), code, data, offset, (stride, np.dtype(code).itemsize))
        return np.ascontiguousarray(packed)

    def _sparse(self, values: np.ndarray, sparse: dict[str, Any], columns: int, code: str) -> np.ndarray:
        count, where, what = sparse["count"], sparse["indices"], sparse["values"]
        index_code = _COMPONENTS[where["componentType"]]
        places = self._rows(where["bufferView"], where.get("byteOffset", 0), count, 1, index_code).ravel()
        values = values.copy()
        values[places] = self._rows(what["bufferView"], what.get("byteOffset", 0), count, columns, code)
        return values


def _item(items: Any, index: Any, kind: str) -> dict[str, Any]:
    """``items[index]``, which must be an object."""
    if not (isinstance(items, list) and isinstance(index, int) and 0 <= index < len(items)):
        raise InputError(f"glTF {kind} {index!r} does not exist; the file is damaged, export it again")
    if not isinstance(items[index], dict):
        raise InputError(f"glTF {kind} {index} is not an object; the file is damaged, export it again")
    return items[index]


def _local_matrix(node: dict[str, Any]) -> np.ndarray:
    """A node's matrix [4, 4]: given column by column, or as translation · rotation · scale."""
    if "matrix" in node:
        return np.array(node["matrix"], dtype=np.float64).reshape(4, 4).T
    x, y, z, w = (float(v) for v in node.get("rotation", (0, 0, 0, 1)))
    rotation = np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )
    matrix = np.eye(4)
    matrix[:3, :3] = rotation * np.array(node.get("scale", (1, 1, 1)), dtype=np.float64)
    matrix[:3, 3] = node.get("translation", (0, 0, 0))
    return matrix


def _triangles(order: np.ndarray, mode: int) -> np.ndarray:
    """Indices of a list (4), strip (5) or fan (6) → faces [F, 3]."""
    if mode == 4:
        return order[: len(order) // 3 * 3].reshape(-1, 3)
    if len(order) < 3:
        return np.zeros((0, 3), dtype=np.int64)
    if mode == 6:
        return np.stack([np.full(len(order) - 2, order[0]), order[1:-1], order[2:]], axis=1)
    faces = np.stack([order[:-2], order[1:-1], order[2:]], axis=1)
    faces[1::2] = faces[1::2, [1, 0, 2]]
    return faces


def _transformed(uv: np.ndarray, transform: dict[str, Any]) -> np.ndarray:
    """KHR_texture_transform: scale, then rotate, then move."""
    if not transform:
        return uv
    angle = float(transform.get("rotation", 0))
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    return uv * np.asarray(transform.get("scale", (1, 1)), float) @ turn.T + np.asarray(transform.get("offset", (0, 0)))


def _data_uri(uri: str) -> bytes:
    """Bytes of a base64 data URI; files beside a GLB are not opened."""
    head, comma, body = uri.partition(",")
    if not (head.startswith("data:") and head.endswith(";base64") and comma):
        raise InputError(f"the GLB points to another file ({uri[:40]!r}); export it with everything embedded")
    return base64.b64decode(body, validate=True)
