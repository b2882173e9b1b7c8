"""PLY as a container (Turk 1994): header, elements, properties; ascii and both byte orders.

What the elements mean is decided by the caller: a mesh, a splat, a compressed splat.
"""

from __future__ import annotations

import io
import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..errors import InputError
from .files import Data

_TYPES = {
    "char": "i1", "uchar": "u1", "short": "i2", "ushort": "u2", "int": "i4", "uint": "u4", "float": "f4",
    "double": "f8", "int8": "i1", "uint8": "u1", "int16": "i2", "uint16": "u2", "int32": "i4", "uint32": "u4",
    "float32": "f4", "float64": "f8",
}  # fmt: skip
_NAMES = {"u1": "uchar", "i4": "int", "u4": "uint", "f4": "float"}
_LONGEST_HEADER = 1 << 20  # bytes


@dataclass
class _Property:
    name: str
    type: str  # numpy code without byte order, of the items if it is a list
    count_type: str | None = None  # numpy code of the length, for a list


@dataclass
class Element:
    """One element of a PLY: scalar columns [N] by name, and lists of one constant length as [N, L] columns."""

    count: int
    columns: dict[str, np.ndarray] = field(default_factory=dict)


@dataclass
class Ply:
    """A parsed PLY file."""

    elements: dict[str, Element]
    comments: list[str]

    def comment(self, prefix: str) -> str | None:
        """What follows ``prefix`` in the first comment that starts with it."""
        return next((c[len(prefix) :].strip() for c in self.comments if c.startswith(prefix)), None)


def parse_ply(data: bytes) -> Ply:
    """Read a PLY file of any of the three forms.

    Faces (lists whose length varies) come back as triangles: each polygon is cut into a fan.

    Raises:
        InputError: not a PLY, an unknown type, or fewer bytes than the header promises.
    """
    form, layout, comments, start = _parse_header(data)
    body = memoryview(data)[start:]
    read = _read_ascii if form == "ascii" else _read_binary
    return Ply(read(body, layout, "<" if form == "binary_little_endian" else ">"), comments)


def ply_layout(data: bytes) -> dict[str, list[str]]:
    """Element names → property names, from the header alone.

    Raises:
        InputError: as :func:`parse_ply`.
    """
    return {name: [p.name for p in properties] for name, (_, properties) in _parse_header(data)[1].items()}


def _parse_header(data: bytes) -> tuple[str, dict[str, tuple[int, list[_Property]]], list[str], int]:
    if not data.startswith((b"ply\n", b"ply\r")):
        raise InputError(f"the file starts with {bytes(data[:4])!r}, not 'ply'; it is not a PLY file")
    end = data.find(b"end_header", 0, _LONGEST_HEADER)
    newline = data.find(b"\n", end)
    if end < 0 or newline < 0:
        raise InputError("the PLY header has no end_header line; the file is cut off, copy it again")
    form, comments = "", []
    layout: dict[str, tuple[int, list[_Property]]] = {}
    for line in data[:end].decode("utf-8", errors="replace").splitlines()[1:]:
        words = line.split()
        if not words:
            continue
        if words[0] in ("comment", "obj_info"):
            comments.append(line[len(words[0]) :].strip())
        elif words[0] == "format" and len(words) == 3:
            form = words[1]
        elif words[0] == "element" and len(words) == 3 and words[2].isdigit() and len(words[2]) < 18:
            layout[words[1]] = (int(words[2]), [])
        elif words[0] == "property" and layout:
            next(reversed(layout.values()))[1].append(_parse_property(words))
        else:
            raise InputError(f"the PLY header line {line[:60]!r} has no known meaning; it is damaged, export it again")
    if form not in ("ascii", "binary_little_endian", "binary_big_endian"):
        raise InputError(f"PLY format {form!r} is not ascii, binary_little_endian or binary_big_endian; convert it")
    return form, layout, comments, newline + 1


def _parse_property(words: list[str]) -> _Property:
    kinds = words[2:4] if len(words) == 5 and words[1] == "list" else words[1:2]
    if len(words) != (5 if len(kinds) == 2 else 3) or any(kind not in _TYPES for kind in kinds):
        raise InputError(f"the PLY property {' '.join(words)[:60]!r} has an unknown type; export it again")
    if len(kinds) == 2:
        return _Property(words[4], _TYPES[kinds[1]], _TYPES[kinds[0]])
    return _Property(words[2], _TYPES[kinds[0]])


def _read_binary(body: memoryview, layout: dict[str, tuple[int, list[_Property]]], order: str) -> dict[str, Element]:
    elements, position = {}, 0
    for name, (count, properties) in layout.items():
        left = len(body) - position
        if any(p.count_type for p in properties):
            element, used = _read_lists(body[position:], name, count, properties, order)
        else:
            record = np.dtype([(p.name, order + p.type) for p in _unique(properties)])
            used = record.itemsize * count
            _check_size(name, count, used, left)
            rows = np.frombuffer(body, record, count, position) if used else np.zeros(0, record)
            element = Element(count, {p.name: rows[p.name] for p in properties})
        elements[name] = element
        position += used
    return elements


def _read_lists(
    body: memoryview, name: str, count: int, properties: list[_Property], order: str
) -> tuple[Element, int]:
    """An element with lists: at once if every list is as long as the first record's, else record by record."""
    _check_size(name, count, count * sum(np.dtype(p.count_type or p.type).itemsize for p in properties), len(body))
    if count == 0:
        return Element(0, {p.name: np.zeros((0, 3), np.int64) if p.count_type else np.zeros(0) for p in properties}), 0
    fields: list[tuple] = []
    position, lengths = 0, {}
    for p in _unique(properties):
        if p.count_type:
            length = int(np.frombuffer(body, order + p.count_type, 1, position)[0])
            if not 0 <= length <= 4096:
                raise InputError(f"a PLY list {p.name!r} of element {name!r} has {length} entries; export it again")
            lengths[p.name] = length
            fields += [(f"#{p.name}", order + p.count_type), (p.name, order + p.type, (length,))]
            position += np.dtype(p.count_type).itemsize + length * np.dtype(p.type).itemsize
        else:
            fields.append((p.name, order + p.type))
            position += np.dtype(p.type).itemsize
    record = np.dtype(fields)
    if record.itemsize * count <= len(body):
        rows = np.frombuffer(body, record, count)
        if all((rows[f"#{key}"] == length).all() for key, length in lengths.items()):
            columns = {p.name: _fan(rows[p.name]) if p.count_type else rows[p.name] for p in properties}
            return Element(count, columns), record.itemsize * count
    return _read_ragged(body, name, count, properties, order)


def _read_ragged(
    body: memoryview, name: str, count: int, properties: list[_Property], order: str
) -> tuple[Element, int]:
    """Record by record: lists of different lengths become triangle fans; scalar columns stay per record."""
    scalars: dict[str, list] = {p.name: [] for p in properties if not p.count_type}
    fans: dict[str, list[np.ndarray]] = {p.name: [] for p in properties if p.count_type}
    position = 0
    try:
        for _ in range(count):
            for p in properties:
                if p.count_type:
                    length = int(np.frombuffer(body, order + p.count_type, 1, position)[0])
                    position += np.dtype(p.count_type).itemsize
                    items = np.frombuffer(body, order + p.type, max(length, 0), position) if length else np.zeros(0)
                    position += items.nbytes if length else 0
                    fans[p.name].append(_fan(items[None]))
                else:
                    scalars[p.name].append(np.frombuffer(body, order + p.type, 1, position)[0])
                    position += np.dtype(p.type).itemsize
    except ValueError as error:
        raise InputError(f"the PLY ends inside element {name!r} ({count} promised); copy the file again") from error
    columns = {key: np.concatenate(parts) for key, parts in fans.items()}
    return Element(count, columns | {key: np.array(values) for key, values in scalars.items()}), position


def _fan(polygons: np.ndarray) -> np.ndarray:
    """Polygons [N, L] → triangles [N·(L−2), 3] around their first corner; texture lists of six pass unchanged."""
    length = polygons.shape[1]
    if length <= 3 or polygons.dtype.kind == "f":
        return polygons if length == 3 or polygons.dtype.kind == "f" else np.zeros((0, 3), polygons.dtype)
    second = np.arange(1, length - 1)
    corners = np.stack([np.zeros_like(second), second, second + 1], axis=1)
    return polygons[:, corners].reshape(-1, 3)


def _read_ascii(body: memoryview, layout: dict[str, tuple[int, list[_Property]]], _order: str) -> dict[str, Element]:
    lines = (line for line in io.StringIO(bytes(body).decode("ascii", errors="replace")) if line.strip())
    elements = {}
    for name, (count, properties) in layout.items():
        _check_size(name, count, 2 * count * bool(properties), len(body))
        rows = [line.split() for line in itertools.islice(lines, count)]
        if len(rows) < count:
            raise InputError(f"the PLY holds {len(rows)} of {count} promised {name!r} lines; copy it again")
        if any(p.count_type for p in properties):
            elements[name] = _ascii_lists(rows, count, properties)
            continue
        table = np.array(rows, dtype=np.float64).reshape(count, -1)
        if table.shape[1] < len(properties) and count:
            raise InputError(
                f"a PLY {name!r} line has {table.shape[1]} values, expected {len(properties)}; export it again"
            )
        elements[name] = Element(count, {p.name: table[:, i].astype(p.type) for i, p in enumerate(properties)})
    return elements


def _ascii_lists(rows: list[list[str]], count: int, properties: list[_Property]) -> Element:
    columns: dict[str, list] = {p.name: [] for p in properties}
    for row in rows:
        words = iter(row)
        for p in properties:
            if p.count_type:
                items = np.array(list(itertools.islice(words, int(next(words)))), dtype=np.float64).astype(p.type)
                columns[p.name].append(_fan(items[None]))
            else:
                columns[p.name].append(float(next(words)))
    empty = np.zeros((0, 3), np.int64)
    return Element(
        count,
        {
            p.name: (np.concatenate(columns[p.name]) if count else empty) if p.count_type else np.array(columns[p.name])
            for p in properties
        },
    )


def _unique(properties: list[_Property]) -> list[_Property]:
    names = [p.name for p in properties]
    if len(set(names)) < len(names):
        raise InputError(f"the PLY header names a property twice ({names}); the file is damaged, export it again")
    return properties


def _check_size(name: str, count: int, needed: int, left: int) -> None:
    if needed > left:
        raise InputError(
            f"the PLY promises {count} of element {name!r} ({needed} bytes) and {left} bytes are left; "
            "the file is cut off or damaged, copy it again"
        )


def ply_bytes(elements: Mapping[str, np.ndarray | tuple[Iterable[str], np.ndarray]], comments: list[str]) -> list[Data]:
    """A binary little-endian PLY as pieces to be written one after another.

    Args:
        elements: name → a structured array (a field of shape (3,) becomes a ``uchar int`` list of three), or the names
            of float columns and their values [N, len(names)] float32.
        comments: lines for the header, without line breaks.
    """
    lines = ["ply", "format binary_little_endian 1.0", *(f"comment {c}" for c in comments)]
    bodies: list[Data] = []
    for name, content in elements.items():
        if isinstance(content, tuple):
            names, values = content
            lines += [f"element {name} {len(values)}", *(f"property float {key}" for key in names)]
            held: Any = np.ascontiguousarray(values, dtype="<f4")  # a buffer to some versions of the type stubs only
            bodies.append(memoryview(held).cast("B"))
            continue
        lines.append(f"element {name} {len(content)}")
        record: list[tuple] = []
        for key in content.dtype.names or ():
            base, shape = content.dtype[key].base, content.dtype[key].shape
            code = base.str[1:]
            if shape:
                lines.append(f"property list uchar {_NAMES[code]} {key}")
                record += [(f"#{key}", "u1"), (key, "<" + code, shape)]
            else:
                lines.append(f"property {_NAMES[code]} {key}")
                record.append((key, "<" + code))
        packed = np.empty(len(content), dtype=record)
        for key in content.dtype.names or ():
            packed[key] = content[key]
            if content.dtype[key].shape:
                packed[f"#{key}"] = content.dtype[key].shape[0]
        bodies.append(packed.tobytes())
    return ["\n".join([*lines, "end_header\n"]).encode("utf-8"), *bodies]
