"""Gaussian splats to and from files: .ply (full, compact, compressed), .splat, .spz.

Splat PLY and ``.splat`` are written with the (x, −y, −z) flip their viewers expect and say so in a comment; ``.spz`` is
in the world frame already. Every reader returns the world frame: right-handed, +Y up, the photographed side faces +Z.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any, Literal

import numpy as np

from .. import __version__
from ..errors import InputError, UsageError
from ..gaussians import SH_C0, Gaussians
from .compressed_ply import compressed_ply_bytes, decode_compressed
from .files import Data, atomic_write, parse_provenance, provenance_text, read_bytes, reading
from .ply import Ply, parse_ply, ply_bytes, ply_layout
from .splat_arrays import Axes, SplatArrays, flip, from_gaussians, logit, sigmoid, to_gaussians
from .spz import parse_spz, spz_bytes

SPLAT_FORMATS = ("ply", "splat", "spz")
_SPLAT_RECORD = np.dtype([("mean", "<f4", 3), ("scale", "<f4", 3), ("rgba", "u1", 4), ("quat", "u1", 4)])
# Web viewers look for the end of the header in the first 10 KB.
_LONGEST_PROVENANCE = 6000  # characters


def write_splats(
    gaussians: Gaussians,
    path: str | Path,
    *,
    provenance: dict[str, Any] | None = None,
    form: Literal["full", "compact", "compressed"] = "full",
    axes: Axes = "opencv",
) -> list[Path]:
    """Write Gaussians [N] in the format the extension names → the file written.

    Args:
        gaussians: in the world frame, unbatched; degree-3 harmonics or lower.
        path: ``.ply``, ``.splat`` (degree 0 only) or ``.spz`` (version 3).
        provenance: kept in a PLY comment; the other two formats have no place for it.
        form: of a ``.ply``: ``full`` is the 62-float record every viewer takes, ``compact`` leaves the harmonics above
            those in use and the normals out, ``compressed`` is the 16-byte PlayCanvas record.
        axes: frame of ``.ply`` and ``.splat``: ``opencv`` (−Y up, what their viewers expect) or ``gltf`` (unflipped).

    Raises:
        UsageError: unknown extension, form or axes.
        InputError: nothing to write, or numbers that are not finite.
        OutputError: the system refused.
    """
    extension = Path(path).suffix.lower()
    pieces = _encode(gaussians, extension, provenance=provenance, form=form, axes=axes)
    return [atomic_write(path, *pieces)]


def splat_bytes(
    gaussians: Gaussians,
    extension: str,
    *,
    provenance: dict[str, Any] | None = None,
    form: Literal["full", "compact", "compressed"] = "full",
    axes: Axes = "opencv",
) -> bytes:
    """The file that :func:`write_splats` would write, as bytes; arguments and errors as there."""
    extension = "." + extension.lower().lstrip(".")
    return b"".join(_encode(gaussians, extension, provenance=provenance, form=form, axes=axes))


def _encode(
    gaussians: Gaussians, extension: str, *, provenance: dict[str, Any] | None, form: str, axes: Axes
) -> list[Data]:
    if extension[1:] not in SPLAT_FORMATS:
        raise UsageError(f"splats cannot be written as {extension!r}; use one of .{', .'.join(SPLAT_FORMATS)}")
    if axes not in ("opencv", "gltf"):
        raise UsageError(f"axes {axes!r} is not 'opencv' (flipped, for viewers) or 'gltf' (as in the mesh); choose one")
    if form not in ("full", "compact", "compressed"):
        raise UsageError(f"form {form!r} is not 'full', 'compact' or 'compressed'; choose one of them")
    arrays = from_gaussians(gaussians)
    if extension == ".spz":
        return [spz_bytes(arrays)]
    if axes == "opencv":
        arrays = flip(arrays)
    if extension == ".splat":
        return [_encode_splat(arrays)]
    text = provenance_text(provenance, limit=_LONGEST_PROVENANCE)
    comments = _comments(text, axes)
    return compressed_ply_bytes(arrays, comments) if form == "compressed" else _encode_ply(arrays, form, comments)


def _comments(provenance: str, axes: Axes) -> list[str]:
    note = "(x, -y, -z) of the glTF frame: -Y is up" if axes == "opencv" else "the glTF frame: +Y is up"
    lines = [f"Gaussian splat written by obverse {__version__}", f"obverse-axes {axes} {note}"]
    return [*lines, f"obverse-provenance {provenance}"] if provenance else lines


def _encode_ply(arrays: SplatArrays, form: str, comments: list[str]) -> list[Data]:
    """The INRIA record (Kerbl et al. 2023): logarithms of scales, logits of opacities, channel-major harmonics."""
    full = form == "full"
    rest = 15 if full else arrays.sh.shape[1] - 1
    normals = ["nx", "ny", "nz"] if full else []
    names = ["x", "y", "z", *normals, "f_dc_0", "f_dc_1", "f_dc_2", *(f"f_rest_{i}" for i in range(3 * rest))]
    names += ["opacity", "scale_0", "scale_1", "scale_2", "rot_0", "rot_1", "rot_2", "rot_3"]
    count, stored, base = len(arrays.means), arrays.sh.shape[1] - 1, 3 + len(normals)
    values = np.zeros((count, len(names)), dtype=np.float32)
    values[:, :3] = arrays.means
    values[:, base : base + 3] = arrays.sh[:, 0]
    if stored:
        for channel in range(3):
            start = base + 3 + channel * rest
            values[:, start : start + stored] = arrays.sh[:, 1:, channel]
    values[:, -8] = logit(arrays.opacities)
    values[:, -7:-4] = np.log(arrays.scales)
    values[:, -4:] = arrays.quats
    return ply_bytes({"vertex": (names, values)}, comments)


def _encode_splat(arrays: SplatArrays) -> bytes:
    """antimatter15's 32-byte records, the most visible Gaussians first."""
    order = np.argsort(-arrays.scales.prod(axis=1, dtype=np.float64) * arrays.opacities, kind="stable")
    rows = np.empty(len(order), dtype=_SPLAT_RECORD)
    rows["mean"], rows["scale"] = arrays.means[order], arrays.scales[order]
    rgba = np.concatenate([0.5 + SH_C0 * arrays.sh[order, 0], arrays.opacities[order, None]], axis=1)
    rows["rgba"] = np.clip(np.round(rgba * 255), 0, 255)
    rows["quat"] = np.clip(np.round(arrays.quats[order] * 128 + 128), 0, 255)
    return rows.tobytes()


def read_splats(path: str | Path, *, axes: Axes | None = None) -> Gaussians:
    """Read a splat file → Gaussians [N] in the world frame, float32 on the CPU.

    Args:
        path: ``.ply`` of any writer (full, compact, compressed; any property order, byte order or number type),
            ``.splat``, or ``.spz`` of version 1 to 4.
        axes: frame of a ``.ply`` or ``.splat``. None: what the PLY comment says, otherwise ``opencv``, as by custom.

    Raises:
        InputError: the file is missing, damaged, or something else than a splat (a mesh, a point cloud).
        MissingPackageError: an ``.spz`` of version 4 without the extra ``spz``.
    """
    path, extension = Path(path), Path(path).suffix.lower()
    data = read_bytes(path)
    with reading(path, "splat"):
        if extension == ".ply":
            ply = parse_ply(data)
            arrays = _decode_ply(ply)
            said = (ply.comment("obverse-axes") or "opencv").split()[0]
            axes = axes or ("gltf" if said == "gltf" else "opencv")
        elif extension == ".splat":
            arrays = _decode_splat(data)
        elif extension == ".spz":
            return to_gaussians(parse_spz(data))
        else:
            raise InputError(f"{path.name} is not a splat by its name; expected one of .{', .'.join(SPLAT_FORMATS)}")
        return to_gaussians(arrays if axes == "gltf" else flip(arrays))


def is_splat(path: str | Path) -> bool:
    """Whether a file holds Gaussians: ``.splat`` and ``.spz`` by name, a ``.ply`` by the properties in its header.

    Raises:
        InputError: a ``.ply`` that cannot be read, or is none.
    """
    extension = Path(path).suffix.lower()
    if extension != ".ply":
        return extension in (".splat", ".spz")
    with reading(path, "PLY"):
        layout = ply_layout(read_bytes(path))
    vertex = layout.get("vertex", ())
    return {"scale_0", "rot_0"} <= set(vertex) or "packed_rotation" in vertex


def splat_provenance(path: str | Path) -> dict[str, Any]:
    """The provenance in a splat PLY's comment; {} where there is none.

    Raises:
        InputError: the file cannot be read, or is not a PLY.
    """
    data = read_bytes(path)
    with reading(path, "splat"):
        return parse_provenance(parse_ply(data).comment("obverse-provenance") or "")


def _decode_ply(ply: Ply) -> SplatArrays:
    vertex = ply.elements.get("vertex")
    if vertex is None or vertex.count == 0:
        raise InputError("the PLY has no vertices, so no splats; check how it was exported")
    columns = vertex.columns
    if "packed_rotation" in columns:
        return decode_compressed(ply)
    missing = [name for name in ("x", "y", "z", "opacity", "scale_0", "scale_1", "rot_0") if name not in columns]
    if missing:
        kind = "a mesh" if ply.elements.get("face") else "a point cloud"
        raise InputError(
            f"this PLY is {kind}, not a splat: it has no {', '.join(missing)}; "
            + ("open it with read_mesh" if kind == "a mesh" else "export Gaussians instead of points")
        )

    def stack(*names: str) -> np.ndarray:
        return np.stack([columns[name] for name in names], axis=1).astype(np.float32)

    logits, raw = columns["opacity"].astype(np.float32), stack("scale_0", "scale_1")
    raw = np.concatenate([raw, stack("scale_2") if "scale_2" in columns else np.full_like(raw[:, :1], -18.4)], axis=1)
    means = stack("x", "y", "z")
    _warn_if_not_encoded(means, raw, logits)
    with np.errstate(over="ignore"):
        scales = np.exp(raw)
    quats = stack("rot_0", "rot_1", "rot_2", "rot_3")
    return SplatArrays(means, quats, scales, sigmoid(logits), _decode_harmonics(columns, vertex.count))


def _decode_harmonics(columns: dict[str, np.ndarray], count: int) -> np.ndarray:
    """Harmonics [N, K, 3] from channel-major f_rest columns; plain red, green, blue where there are none.

    Degrees that are zero throughout, as in the full record of a file without harmonics, are left out.
    """
    if "f_dc_0" in columns:
        base = np.stack([columns[f"f_dc_{i}"] for i in range(3)], axis=1).astype(np.float32)
    elif "red" in columns:
        rgb = np.stack([columns[name] for name in ("red", "green", "blue")], axis=1)
        base = ((rgb / 255 if rgb.dtype.kind == "u" else rgb) - 0.5).astype(np.float32) / np.float32(SH_C0)
    else:
        raise InputError("the splat PLY has neither f_dc_0..2 nor red, green, blue; export it with colours")
    rest = sum(name.startswith("f_rest_") for name in columns)
    if rest not in (0, 9, 24, 45, 72):
        raise InputError(f"the splat PLY has {rest} f_rest properties, expected 0, 9, 24 or 45; export it again")
    if rest == 72:
        warnings.warn("the splat PLY has spherical harmonics of degree 4; degrees 0 to 3 are kept", stacklevel=4)
    per_channel = rest // 3
    kept = min(per_channel, 15)
    used = [i for i in range(kept) if any(columns[f"f_rest_{c * per_channel + i}"].any() for c in range(3))]
    kept = next(k for k in (0, 3, 8, 15) if k > max(used, default=-1))
    harmonics = np.empty((count, 1 + kept, 3), dtype=np.float32)
    harmonics[:, 0] = base
    for channel in range(3):
        for i in range(kept):
            harmonics[:, 1 + i, channel] = columns[f"f_rest_{channel * per_channel + i}"]
    return harmonics


def _warn_if_not_encoded(means: np.ndarray, log_scales: np.ndarray, logits: np.ndarray) -> None:
    """Say so if the file seems to store plain scales or opacities where logarithms and logits belong."""
    with np.errstate(invalid="ignore", over="ignore"):
        size = float(np.ptp(means, axis=0).max())
        if len(means) > 1 and (log_scales > 0).mean() > 0.5 and size < 20:
            warnings.warn(
                f"most scale_* values are positive, Gaussians larger than 1 in a scene of size {size:.3g}: the file "
                "seems to store scales where their logarithms belong; export it again if it looks like fog",
                stacklevel=4,
            )
        if len(means) > 1 and ((logits >= 0) & (logits <= 1)).all() and np.ptp(logits) > 0:
            warnings.warn(
                "every opacity lies in 0–1: the file seems to store opacities where their logits belong; export it "
                "again if it looks half transparent",
                stacklevel=4,
            )


def _decode_splat(data: bytes) -> SplatArrays:
    if len(data) % 32:
        raise InputError(f"the .splat has {len(data)} bytes, not a multiple of 32; copy it again, or pass a .splat")
    rows = np.frombuffer(data, _SPLAT_RECORD)
    rgba = rows["rgba"].astype(np.float32) / 255
    quats = (rows["quat"].astype(np.float32) - 128) / 128
    harmonics = (rgba[:, None, :3] - 0.5) / np.float32(SH_C0)
    return SplatArrays(rows["mean"].copy(), quats, rows["scale"].copy(), rgba[:, 3], harmonics)
