"""Numbers as text, many at once; and ZIP archives whose bytes depend on their content alone."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping

import numpy as np

from ..errors import InputError
from .files import Data

_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_LARGEST_MEMBER = 1 << 30  # bytes unpacked; a hostile archive could claim anything


def format_rows(row: str, values: np.ndarray) -> str:
    """The old-style format ``row`` applied to every row of ``values`` [N, K]; ``%.9g`` keeps a float32 exactly."""
    values = values.reshape(len(values), -1)
    return (row * len(values)) % tuple(values.ravel().tolist())


def zip_bytes(members: Mapping[str, Data], *, compress: bool = True) -> bytes:
    """A ZIP archive: fixed dates, no traces of the system that made it."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in members.items():
            archive.writestr(zip_entry(name, compress=compress), bytes(data), compresslevel=6)
    return buffer.getvalue()


def zip_entry(name: str, *, compress: bool) -> zipfile.ZipInfo:
    """A member's header, the same on every day and system."""
    entry = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
    entry.compress_type = zipfile.ZIP_DEFLATED if compress else zipfile.ZIP_STORED
    entry.create_system = 3
    entry.external_attr = 0o644 << 16
    return entry


def zip_member(archive: zipfile.ZipFile, name: str) -> bytes:
    """A member's bytes, refused when they would unpack to more than 1 GiB.

    Raises:
        InputError: it does not exist, is encrypted, or is too large.
    """
    try:
        entry = archive.getinfo(name)
    except KeyError as error:
        raise InputError(f"the archive has no {name!r}; it is damaged, export it again") from error
    if entry.file_size > _LARGEST_MEMBER or entry.flag_bits & 1 or entry.compress_type not in _METHODS:
        raise InputError(
            f"{name!r} unpacks to {entry.file_size} bytes with method {entry.compress_type}; it must be at most "
            f"{_LARGEST_MEMBER} bytes, not encrypted, and stored or deflated"
        )
    return archive.read(entry)
