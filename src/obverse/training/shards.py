"""Rendered views in tar files, laid out as WebDataset does: ``OBJECT/000.png`` beside ``OBJECT/000.json``.

Plain tar, no compression (the pictures are), members in order and without dates, so equal views give equal bytes.
A shard's ``.jsonl`` beside it tells what became of every object that was meant for it, and how many bytes the tar has.
Reading is by offset: nothing is unpacked, any view of millions can be fetched at once.
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from ..errors import InputError
from ..formats.files import atomic_path, atomic_write, read_bytes, reading, writing
from .view_data import ObjectViews, direction_of

ABOUT = "dataset.json"


def shard_path(folder: str | Path, number: int) -> Path:
    """Where a shard lies."""
    return Path(folder) / f"shard-{number:06d}.tar"


def write_shard(path: str | Path, objects: Sequence[ObjectViews], decisions: Sequence[dict[str, Any]]) -> Path:
    """Write a shard and, last, its decisions: a shard is finished when those are there.

    Raises:
        OutputError: the system refused.
    """
    path = Path(path)
    with atomic_path(path) as hidden, writing(path), tarfile.open(hidden, "w", format=tarfile.PAX_FORMAT) as archive:
        for views in objects:
            for number, (png, camera) in enumerate(zip(views.pngs, views.cameras, strict=True)):
                key = f"{views.name}/{number:03d}"
                for name, data in ((f"{key}.png", png), (f"{key}.json", json.dumps(camera).encode())):
                    member = tarfile.TarInfo(name)
                    member.size = len(data)
                    archive.addfile(member, io.BytesIO(data))
    end = {"shard": path.name, "objects": len(objects), "bytes": path.stat().st_size}
    lines = [json.dumps(row) for row in (*decisions, end)]
    atomic_write(path.with_suffix(".jsonl"), ("\n".join(lines) + "\n").encode())
    return path


def finished(path: str | Path) -> list[dict[str, Any]] | None:
    """The decisions of a shard that is whole; None where it has yet to be written."""
    path = Path(path)
    try:
        lines = path.with_suffix(".jsonl").read_text(encoding="utf-8").splitlines()
        rows = [json.loads(line) for line in lines]
        whole = rows[-1]["bytes"] == path.stat().st_size
    except (OSError, ValueError, LookupError, TypeError):
        return None
    return rows[:-1] if whole else None


@dataclass(frozen=True)
class View:
    """Where one view lies."""

    shard: int
    png: tuple[int, int]  # offset and size in the tar
    camera: tuple[int, int]


@dataclass(frozen=True)
class ShardedViews:
    """An opened dataset: objects with at least two views each."""

    paths: tuple[Path, ...]
    names: tuple[str, ...]  # of objects
    objects: tuple[tuple[View, ...], ...]

    def __len__(self) -> int:
        return len(self.objects)

    def subset(self, chosen: Sequence[int]) -> ShardedViews:
        """Some of the objects."""
        return ShardedViews(self.paths, tuple(self.names[i] for i in chosen), tuple(self.objects[i] for i in chosen))

    def image(self, number: int, view: int) -> np.ndarray:
        """A picture, uint8 [H, W, 4], straight alpha.

        Raises:
            InputError: it is damaged; the message names shard and member.
        """
        place = self.objects[number][view]
        path = self.paths[place.shard]
        try:
            with Image.open(io.BytesIO(_slice(path, *place.png))) as picture:
                return np.asarray(picture.convert("RGBA"))
        except (OSError, ValueError, SyntaxError, UnidentifiedImageError) as error:
            raise InputError(
                f"{path} is damaged at {self.names[number]}/{view:03d}.png ({error}); delete the shard and render again"
            ) from error

    def camera(self, number: int, view: int) -> tuple[float, float, float]:
        """A view's azimuth and elevation in degrees and distance in object units.

        Raises:
            InputError: it is damaged; the message names shard and member.
        """
        place = self.objects[number][view]
        path = self.paths[place.shard]
        try:
            return direction_of(json.loads(_slice(path, *place.camera)))
        except (OSError, ValueError, TypeError) as error:
            raise InputError(
                f"{path} is damaged at {self.names[number]}/{view:03d}.json ({error}); delete the shard and render "
                "again"
            ) from error


def open_shards(source: str | Path) -> ShardedViews:
    """Open a folder of shards, or one shard.

    Raises:
        InputError: there is none, one is damaged or unfinished, or no object has two views.
    """
    source = Path(source)
    paths = [source] if source.is_file() else sorted(source.glob("*.tar")) if source.is_dir() else []
    if not paths:
        raise InputError(f"{source} holds no shards (.tar); make them with obverse data render OBJECTS -o {source}")
    names: list[str] = []
    objects: list[tuple[View, ...]] = []
    for number, path in enumerate(paths):
        for name, views in _members(path, number).items():
            if len(views) > 1:
                names.append(name)
                objects.append(tuple(views))
    if not objects:
        raise InputError(f"{source} holds no object with two views; decisions.jsonl says what was left out")
    return ShardedViews(tuple(paths), tuple(names), tuple(objects))


def _members(path: Path, number: int) -> dict[str, list[View]]:
    """Views of every object of a shard."""
    expected = _told(path)
    found: dict[str, dict[str, tuple[int, int]]] = {}
    try:
        if expected is not None and expected != path.stat().st_size:
            raise InputError(
                f"it has {path.stat().st_size} bytes of {expected}; copy it again, or delete it and render again"
            )
        with tarfile.open(path, "r:") as archive:
            for member in archive:
                key, _, kind = member.name.rpartition(".")
                if member.isfile() and kind in ("png", "json"):
                    found.setdefault(key, {})[kind] = (member.offset_data, member.size)
    except (OSError, ValueError, tarfile.TarError) as error:
        raise InputError(f"{path} is a damaged shard ({error}); render or copy it again") from error
    objects: dict[str, list[View]] = {}
    for key, parts in sorted(found.items()):
        if len(parts) < 2:
            raise InputError(f"{path} is a damaged shard ({key} lacks its picture or camera); render it again")
        objects.setdefault(key.rpartition("/")[0], []).append(View(number, parts["png"], parts["json"]))
    return objects


def _told(path: Path) -> int | None:
    """How many bytes a shard has by its .jsonl, if it has one."""
    beside = path.with_suffix(".jsonl")
    if not beside.is_file():
        return None
    with reading(beside, "decisions"):
        return int(json.loads(read_bytes(beside).decode().splitlines()[-1])["bytes"])


def _slice(path: Path, offset: int, size: int) -> bytes:
    """Part of a file."""
    with path.open("rb") as file:
        file.seek(offset)
        data = file.read(size)
    if len(data) < size:
        raise ValueError(f"{len(data)} of {size} bytes are there")
    return data
