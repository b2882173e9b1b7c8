"""3MF: a ZIP of XML for printers (3MF core specification 1.3; materials and properties 1.2); frame of printing.py."""

from __future__ import annotations

import io
import posixpath
import xml.etree.ElementTree as ElementTree
import zipfile
from collections import defaultdict
from typing import Any
from xml.sax.saxutils import escape

import numpy as np
from PIL import Image

from .. import __version__
from ..errors import InputError
from ..topology import first_of_each
from .files import Data, parse_provenance
from .images import decode_texture
from .joining import join
from .mesh_arrays import MeshArrays, smooth_normals
from .printing import from_upright, upright, warn_if_open
from .texts import format_rows, zip_bytes, zip_member

_CORE = "{http://schemas.microsoft.com/3dmanufacturing/core/2015/02}"
_COLORS = "{http://schemas.microsoft.com/3dmanufacturing/material/2015/02}"
_PARTS = "{http://schemas.microsoft.com/3dmanufacturing/production/2015/06}"
_MODEL_TYPE = "http://schemas.microsoft.com/3dmanufacturing/2013/01/3dmodel"
_TEXTURE_TYPE = "http://schemas.microsoft.com/3dmanufacturing/2013/01/3dtexture"
_RELATIONS = "http://schemas.openxmlformats.org/package/2006/relationships"
_UNITS_MM = {"micron": 0.001, "millimeter": 1.0, "centimeter": 10.0, "inch": 25.4, "foot": 304.8, "meter": 1000.0}
_MOST_PLACEMENTS = 4096  # of objects in objects; more is a mistake or an attack
_XML = '<?xml version="1.0" encoding="UTF-8"?>\n'


def threemf_bytes(arrays: MeshArrays, scale: float, *, provenance: str = "") -> bytes:
    """A 3MF package: one closed object in millimetres, with its texture or colours.

    Positions are shared across texture seams, as the format demands; the build item puts the object on the bed.

    Args:
        arrays: the mesh.
        scale: millimetres per unit of the mesh.
        provenance: one line of JSON for the description, or "".
    """
    warn_if_open(arrays, "3MF")
    first, number = first_of_each(arrays.vertices)
    points = upright(arrays.vertices[first]).astype(np.float64) * scale
    faces = number[arrays.faces]
    solid = (faces != np.roll(faces, 1, axis=1)).all(axis=1)
    resource, members = _write_colors(arrays)
    attributes = ' pid="2" pindex="0"' if resource else ""
    if resource:
        table = np.concatenate([faces, arrays.faces], axis=1)[solid]
        triangles = format_rows('<triangle v1="%d" v2="%d" v3="%d" pid="2" p1="%d" p2="%d" p3="%d"/>\n', table)
    else:
        triangles = format_rows('<triangle v1="%d" v2="%d" v3="%d"/>\n', faces[solid])
    x, y, z = -points.min(axis=0)
    notes = {"Application": f"obverse {__version__}", "Description": provenance, "obverse:scale": repr(float(scale))}
    metadata = "".join(f'<metadata name="{name}">{escape(text)}</metadata>\n' for name, text in notes.items() if text)
    model = (
        f'{_XML}<model unit="millimeter" xml:lang="en-US" xmlns="{_CORE[1:-1]}" xmlns:m="{_COLORS[1:-1]}" '
        f'xmlns:obverse="urn:obverse">\n{metadata}<resources>\n{resource}'
        f'<object id="1" type="model" name="object"{attributes}>'
        "<mesh>\n<vertices>\n" + format_rows('<vertex x="%.9g" y="%.9g" z="%.9g"/>\n', points) + "</vertices>\n"
        f"<triangles>\n{triangles}</triangles>\n</mesh></object>\n</resources>\n"
        f'<build><item objectid="1" transform="1 0 0 0 1 0 0 0 1 {x:.9g} {y:.9g} {z:.9g}"/></build>\n</model>\n'
    )
    types = {"rels": "application/vnd.openxmlformats-package.relationships+xml"}
    types |= {"model": "application/vnd.ms-package.3dmanufacturing-3dmodel+xml"}
    types |= {"png": "image/png", "jpg": "image/jpeg"}
    defaults = "".join(f'<Default Extension="{k}" ContentType="{v}"/>' for k, v in types.items())
    content = f'{_XML}<Types xmlns="http://schemas.openxmlformats.org/package/2006/content-types">{defaults}</Types>'
    return zip_bytes(
        {
            "[Content_Types].xml": content.encode(),
            "_rels/.rels": _relation("/3D/3dmodel.model", _MODEL_TYPE),
            "3D/3dmodel.model": model.encode(),
            **members,
        }
    )


def _relation(target: str, kind: str) -> bytes:
    entry = f'<Relationship Target="{target}" Id="rel0" Type="{kind}"/>'
    return f'{_XML}<Relationships xmlns="{_RELATIONS}">{entry}</Relationships>'.encode()


def _write_colors(arrays: MeshArrays) -> tuple[str, dict[str, Data]]:
    """The XML of a texture or colour group numbered like the vertices, and the package members it needs."""
    if arrays.image is not None and arrays.uv is not None:
        data, mime = arrays.texture
        name = "3D/Textures/color." + ("png" if mime == "image/png" else "jpg")
        xml = f'<m:texture2d id="3" path="/{name}" contenttype="{mime}" tilestyleu="clamp" tilestylev="clamp"/>\n'
        rows = format_rows('<m:tex2coord u="%.9g" v="%.9g"/>\n', arrays.uv)
        xml += f'<m:texture2dgroup id="2" texid="3">\n{rows}</m:texture2dgroup>\n'
        return xml, {name: data, "3D/_rels/3dmodel.model.rels": _relation("/" + name, _TEXTURE_TYPE)}
    if arrays.colors is not None:
        rows = format_rows('<m:color color="#%02X%02X%02X%02X"/>\n', arrays.colors)
        return f'<m:colorgroup id="2">\n{rows}</m:colorgroup>\n', {}
    return "", {}


def parse_3mf(data: bytes) -> MeshArrays:
    """A 3MF of any writer → everything on its build plate as one mesh in the world frame.

    Our own files come back as the mesh was, others in metres.

    Raises:
        InputError: not a 3MF, damaged, or nothing to build.
    """
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        package = _Package(archive)
        root = package.model(package.root_path())
        notes = {item.get("name", ""): item.text or "" for item in root.findall(f"{_CORE}metadata")}
        own = notes.get("obverse:scale")
        unit = _UNITS_MM.get(root.get("unit", "millimeter"))
        if unit is None:
            raise InputError(
                f"the 3MF's unit {root.get('unit')!r} is not one of {', '.join(_UNITS_MM)}; export it again"
            )
        scale = float(own) if own else 1000.0 / unit
        if not (np.isfinite(scale) and scale > 0):
            raise InputError(f"the 3MF notes a scale of {scale}, it must be positive; export it again")
        parts = []
        for item in root.iterfind(f"{_CORE}build/{_CORE}item"):
            place = np.eye(4) if own else _transform(item.get("transform"))
            parts += package.parts(item.get(f"{_PARTS}path") or package.root_path(), item.get("objectid", ""), place)
    if not parts:
        raise InputError("the 3MF builds no object; put the mesh on the plate and export it again")
    return join([_placed(part, scale) for part in parts], parse_provenance(notes.get("Description", "")))


def _placed(part: MeshArrays, scale: float) -> MeshArrays:
    vertices = (from_upright(part.vertices.astype(np.float64)) / scale).astype(np.float32) + np.float32(0)
    if not np.isfinite(vertices).all():
        raise InputError("the 3MF has vertices that are not finite; export it again")
    normals = smooth_normals(vertices, part.faces)
    return MeshArrays(vertices, part.faces, normals, part.uv, part.image, part.colors)


class _Package:
    """The members of one archive, each parsed once."""

    def __init__(self, archive: zipfile.ZipFile) -> None:
        self.archive = archive
        self.trees: dict[str, ElementTree.Element] = {}
        self.images: dict[str, Image.Image] = {}
        self.placements = 0

    def root_path(self) -> str:
        for relation in self._xml("_rels/.rels"):
            if relation.get("Type") == _MODEL_TYPE:
                return relation.get("Target", "").lstrip("/")
        raise InputError("the archive names no 3D model; it is a ZIP, but not a 3MF")

    def model(self, path: str) -> ElementTree.Element:
        return self._xml(posixpath.normpath(path).lstrip("/"))

    def _xml(self, name: str) -> ElementTree.Element:
        if name not in self.trees:
            text = zip_member(self.archive, name)
            if b"<!DOCTYPE" in text or b"<!ENTITY" in text:
                raise InputError(f"{name!r} declares XML entities, which 3MF forbids; export it again")
            self.trees[name] = ElementTree.fromstring(text)
        return self.trees[name]

    def parts(self, path: str, number: str, place: np.ndarray, depth: int = 0) -> list[MeshArrays]:
        """The meshes of an object and of its components, placed (vertices times ``place`` [4, 4], row vectors)."""
        self.placements += 1
        if self.placements > _MOST_PLACEMENTS or depth > 32:
            raise InputError(f"the 3MF places more than {_MOST_PLACEMENTS} objects, or in a circle; simplify it")
        root = self.model(path)
        found = next((o for o in root.iterfind(f"{_CORE}resources/{_CORE}object") if o.get("id") == number), None)
        if found is None:
            raise InputError(f"the 3MF builds object {number!r}, which {path!r} does not have; export it again")
        parts: list[MeshArrays] = []
        mesh = found.find(f"{_CORE}mesh")
        if mesh is not None:
            parts += self._mesh(root, found, mesh, place)
        for component in found.iterfind(f"{_CORE}components/{_CORE}component"):
            inner = _transform(component.get("transform")) @ place
            parts += self.parts(component.get(f"{_PARTS}path") or path, component.get("objectid", ""), inner, depth + 1)
        return parts

    def _mesh(
        self, root: ElementTree.Element, owner: ElementTree.Element, mesh: ElementTree.Element, place: np.ndarray
    ) -> list[MeshArrays]:
        """One part for every property group that the triangles use."""
        rows = [[v.get("x"), v.get("y"), v.get("z")] for v in mesh.iterfind(f"{_CORE}vertices/{_CORE}vertex")]
        points = np.array(rows, dtype=np.float64).reshape(-1, 3) @ place[:3, :3] + place[3, :3]
        groups: dict[str, list[list[int]]] = defaultdict(list)
        for t in mesh.iterfind(f"{_CORE}triangles/{_CORE}triangle"):
            triangle = [int(t.get(key, "-1")) for key in ("v1", "v2", "v3")]
            group = t.get("pid", owner.get("pid", ""))
            p1 = int(t.get("p1", owner.get("pindex", "0")))
            groups[group].append([*triangle, p1, int(t.get("p2", p1)), int(t.get("p3", p1))])
        parts = []
        for group, lists in groups.items():
            table = np.array(lists, dtype=np.int64)
            corners, properties = table[:, :3], table[:, 3:]
            if corners.min() < 0 or corners.max() >= len(points):
                raise InputError(f"a 3MF triangle names vertex {corners.max()} of {len(points)}; export it again")
            if np.linalg.det(place[:3, :3]) < 0:
                corners, properties = corners[:, ::-1], properties[:, ::-1]
            parts.append(_wedges(points, corners, properties, self._property(root, group)))
        return parts

    def _property(self, root: ElementTree.Element, group: str) -> dict[str, Any]:
        """What a property group holds: ``colors`` [P, 4], or ``uv`` [P, 2] and its ``image``; {} for neither."""
        resources = root.find(f"{_CORE}resources")
        found = next((r for r in resources if r.get("id") == group), None) if group and resources is not None else None
        if found is None:
            return {}
        if found.tag == f"{_COLORS}colorgroup":
            return {"colors": _colors([c.get("color", "") for c in found])}
        if found.tag == f"{_CORE}basematerials":
            return {"colors": _colors([c.get("displaycolor", "") for c in found])}
        if found.tag == f"{_COLORS}texture2dgroup" and resources is not None:
            texture = next((r for r in resources if r.get("id") == found.get("texid")), None)
            if texture is None:
                raise InputError(f"the 3MF names texture {found.get('texid')!r}, which is not there; export it again")
            name = texture.get("path", "").lstrip("/")
            if name not in self.images:
                self.images[name] = decode_texture(zip_member(self.archive, name))
            rows = [[c.get("u"), c.get("v")] for c in found]
            uv = np.array(rows, dtype=np.float64).reshape(-1, 2)
            return {"uv": uv.astype(np.float32), "image": self.images[name]}
        return {}


def _wedges(points: np.ndarray, corners: np.ndarray, properties: np.ndarray, values: dict[str, Any]) -> MeshArrays:
    """A mesh with one vertex for every distinct (position, property) pair."""
    if not values:
        used, number = np.unique(corners, return_inverse=True)
        vertices, faces = points[used].astype(np.float32), number.reshape(-1, 3)
        return MeshArrays(vertices, faces, np.zeros_like(vertices))
    table = values["uv"] if "uv" in values else values["colors"]
    if properties.min() < 0 or properties.max() >= len(table):
        raise InputError(f"a 3MF triangle names property {properties.max()} of {len(table)}; export it again")
    keys = corners * np.int64(len(table)) + properties
    _, first, number = np.unique(keys, return_index=True, return_inverse=True)
    vertices = points[corners.ravel()[first]].astype(np.float32)
    chosen = table[properties.ravel()[first]]
    look = {"uv": chosen, "image": values["image"]} if "uv" in values else {"colors": chosen}
    return MeshArrays(vertices, number.reshape(-1, 3), np.zeros_like(vertices), **look)


def _colors(texts: list[str]) -> np.ndarray:
    """``#RRGGBB`` or ``#RRGGBBAA`` → [P, 4] uint8."""
    return np.array([list(bytes.fromhex((text.lstrip("#") + "FF")[:8])) for text in texts], dtype=np.uint8)


def _transform(text: str | None) -> np.ndarray:
    """Twelve numbers, row by row → [4, 4] for row vectors; the identity if absent."""
    matrix = np.eye(4)
    if text:
        matrix[:, :3] = np.array(text.split(), dtype=np.float64).reshape(4, 3)
    return matrix
