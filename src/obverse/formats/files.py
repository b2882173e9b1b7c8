"""Files as a whole: written under a temporary name and renamed, read with every failure explained."""

from __future__ import annotations

import json
import math
import os
import secrets
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from ..errors import InputError, OutputError

Data = bytes | bytearray | memoryview

# What parsing a damaged file can raise before one of our own checks catches it; all of it means "this file is broken".
_DAMAGE = (
    ValueError, KeyError, IndexError, TypeError, AttributeError, OverflowError, MemoryError, RecursionError, EOFError,
    ArithmeticError, NotImplementedError, SyntaxError, RuntimeError, struct.error, zlib.error, zipfile.BadZipFile,
)  # fmt: skip


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """A temporary name beside ``path`` that becomes ``path`` when the block ends, and vanishes when it fails.

    Parent folders are made. A symbolic link is followed, so the link survives. A pipe or device cannot be replaced by
    a rename and is handed over as it is.

    Raises:
        OutputError: the system refused to write (no space, no permission, a folder of that name).
    """
    path = Path(path)
    try:
        final = path.resolve()
        if final.is_dir():
            raise IsADirectoryError(21, "a folder of that name exists")
        if final.exists() and not final.is_file():
            yield final
            return
        final.parent.mkdir(parents=True, exist_ok=True)
    except OutputError:
        raise
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise _refused(path, error) from error
    temporary = final.with_name(f".obverse-{secrets.token_hex(8)}.part")
    try:
        yield temporary
        os.replace(temporary, final)
    except OutputError:
        raise
    except OSError as error:
        raise _refused(path, error) from error
    finally:
        with suppress(OSError):  # already renamed, or never made
            temporary.unlink()


def atomic_write(path: str | Path, *pieces: Data) -> Path:
    """Write the concatenation of ``pieces`` to ``path``, all or nothing → the path.

    Raises:
        OutputError: as :func:`atomic_path`.
    """
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        for piece in pieces:
            file.write(piece)
    return Path(path)


def atomic_write_all(files: Mapping[Path, Sequence[Data]]) -> list[Path]:
    """Write several files that belong together: none appears before all of them are complete on disk.

    Raises:
        OutputError: as :func:`atomic_path`.
    """
    with ExitStack() as stack:
        for path, pieces in files.items():
            temporary = stack.enter_context(atomic_path(path))
            try:
                with open(temporary, "wb") as file:
                    file.writelines(pieces)
            except OSError as error:  # here, because the stack would blame the last path it entered
                raise _refused(path, error) from error
    return list(files)


@contextmanager
def writing(path: str | Path) -> Iterator[None]:
    """Turn what the system says when it refuses to write somewhere into one OutputError that names the place."""
    try:
        yield
    except OutputError:
        raise
    except OSError as error:
        raise _refused(Path(path), error) from error


def _refused(path: Path, error: OSError | ValueError) -> OutputError:
    reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return OutputError(f"{path} could not be written: {reason}; free some space or choose another place with -o")


def read_bytes(path: str | Path) -> bytes:
    """Everything in a file.

    Raises:
        InputError: the file is missing, a folder, empty, or may not be read.
    """
    try:
        data = Path(path).read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError(f"{path} could not be read: {reason}; check the path and its permissions") from error
    if not data:
        raise InputError(f"{path} is empty (0 bytes); it was probably never finished, write it again")
    return data


@contextmanager
def reading(path: str | Path, kind: str) -> Iterator[None]:
    """Turn whatever a damaged file makes a parser raise into one InputError that names the file and the format."""
    try:
        yield
    except InputError as error:
        if str(path) in str(error):
            raise
        raise InputError(f"{path}: {error}") from error
    except _DAMAGE as error:
        what = str(error) or type(error).__name__
        raise InputError(f"{path} is not a readable {kind} file ({what}); export it again from its source") from error


def provenance_text(provenance: Mapping[str, Any] | None, *, limit: int | None = None) -> str:
    """Provenance as one line of ASCII JSON with sorted keys (same content, same bytes); "" for None.

    Args:
        provenance: names → values made of strings, numbers, lists and dictionaries; numpy and torch scalars and paths
            are converted.
        limit: most characters allowed; the longest entries are replaced by their names under "omitted" until it fits.

    Raises:
        InputError: a value cannot be written as JSON.
    """
    if provenance is None:
        return ""
    try:
        kept = {str(key): _plain(value) for key, value in provenance.items()}
        text = json.dumps(kept, sort_keys=True, separators=(",", ":"), allow_nan=False)
        omitted: list[str] = []
        while limit is not None and len(text) > limit and len(kept) > bool(omitted):
            longest = max((k for k in kept if k != "omitted"), key=lambda k: len(json.dumps(kept[k])))
            del kept[longest]
            omitted.append(longest)
            text = json.dumps({**kept, "omitted": omitted}, sort_keys=True, separators=(",", ":"))
        return text
    except (TypeError, ValueError, RecursionError, AttributeError) as error:
        raise InputError(
            f"provenance cannot be written as JSON ({error}); use strings, numbers, lists and dictionaries only"
        ) from error


def parse_provenance(text: str) -> dict[str, Any]:
    """The dictionary behind one line of JSON, or {} when it is not one (a foreign file's comment)."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _plain(value: Any) -> Any:
    """A JSON value: containers converted throughout, scalars unwrapped, non-finite numbers null."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        items = sorted(value, key=str) if isinstance(value, (set, frozenset)) else value
        return [_plain(item) for item in items]
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "tolist"):  # numpy arrays and scalars, torch tensors
        return _plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
