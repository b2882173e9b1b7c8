"""SPZ (Niantic): about 20 bytes a splat, compressed. Axes are RUB, which is the world frame. Written as version 3."""

from __future__ import annotations

import itertools
import struct
import warnings
import zlib

import numpy as np

from ..errors import InputError, need
from .splat_arrays import SplatArrays, unit_quats

_MAGIC = 0x5053474E  # "NGSP"
_FRACTION_BITS = 12
_MOST_POINTS = 1 << 26
_COEFFICIENTS = (0, 3, 8, 15, 24)  # above degree 0, by degree
_COLOR_SCALE = 0.15


def spz_bytes(arrays: SplatArrays) -> bytes:
    """Gaussians in the world frame as an SPZ file of version 3 (gzip, without a date)."""
    count, rest = len(arrays.means), arrays.sh.shape[1] - 1
    largest = float(np.abs(arrays.means).max())
    bits = _FRACTION_BITS
    while bits > 0 and largest * 2**bits > 2**23 - 1:
        bits -= 1
    fixed = np.clip(np.round(arrays.means.astype(np.float64) * 2**bits), -(2**23), 2**23 - 1).astype("<i4")
    payload = b"".join(
        [
            struct.pack("<3I4B", _MAGIC, 3, count, _COEFFICIENTS.index(rest), bits, 0, 0),
            np.ascontiguousarray(fixed.view(np.uint8).reshape(count, 3, 4)[:, :, :3]).tobytes(),
            _bytes(arrays.opacities * 255),
            _bytes(arrays.sh[:, 0] * (_COLOR_SCALE * 255) + 127.5),
            _bytes((np.log(arrays.scales) + 10) * 16),
            _pack_rotation(arrays.quats).astype("<u4").tobytes(),
            _quantise_harmonics(arrays.sh[:, 1:]),
        ]
    )
    packer = zlib.compressobj(6, zlib.DEFLATED, 31)  # 31: a gzip header, in which zlib sets no date
    return packer.compress(payload) + packer.flush()


def _bytes(values: np.ndarray) -> bytes:
    return np.clip(np.round(values), 0, 255).astype(np.uint8).tobytes()


def _quantise_harmonics(harmonics: np.ndarray) -> bytes:
    """Coefficients [N, K − 1, 3] in steps of 1/128, rounded to 5 bits for degree 1 and 4 bits above."""
    bucket = np.where(np.arange(harmonics.shape[1]) < 3, 8, 16)[:, None]
    levels = np.round(harmonics * 128).astype(np.int64) + 128
    return np.clip((levels + bucket // 2) // bucket * bucket, 0, 255).astype(np.uint8).tobytes()


def _pack_rotation(quats: np.ndarray) -> np.ndarray:
    """Unit quaternions wxyz → smallest-three words: 2 bits of index, sign and 9 bits for the others, in xyzw order."""
    q = np.roll(quats, -1, axis=1).astype(np.float64)
    largest = np.abs(q).argmax(axis=1)
    negative = np.take_along_axis(q, largest[:, None], 1)[:, 0] < 0
    word = largest.astype(np.uint32)
    for i in range(4):
        magnitude = np.minimum(511 * np.abs(q[:, i]) * np.sqrt(2) + 0.5, 511).astype(np.uint32)
        sign = ((q[:, i] < 0) ^ negative).astype(np.uint32)
        word = np.where(largest == i, word, (word << np.uint32(10)) | (sign << np.uint32(9)) | magnitude)
    return word


def _unpack_rotation(words: np.ndarray) -> np.ndarray:
    """Smallest-three words → quaternions wxyz."""
    largest = (words >> np.uint32(30)).astype(np.int64)
    q = np.zeros((len(words), 4), dtype=np.float64)
    remaining = words.copy()
    for i in (3, 2, 1, 0):
        other = largest != i
        magnitude = (remaining & np.uint32(511)) / (511 * np.sqrt(2))
        q[:, i] = np.where(other, np.where((remaining >> np.uint32(9)) & np.uint32(1), -magnitude, magnitude), 0)
        remaining = np.where(other, remaining >> np.uint32(10), remaining)
    rest = np.sqrt(np.maximum(0, 1 - (q**2).sum(axis=1)))
    np.put_along_axis(q, largest[:, None], rest[:, None], 1)
    return unit_quats(np.roll(q, 1, axis=1))


def parse_spz(data: bytes) -> SplatArrays:
    """An SPZ file of version 1 to 4 → Gaussians in the world frame.

    Harmonics above degree 3 are left out, with a warning.

    Raises:
        InputError: not an SPZ, another version, or damaged.
        MissingPackageError: version 4, and zstandard is not installed.
    """
    if data[:4] == b"NGSP":
        version, count, degree, bits, streams = _open_zstd(data)
    elif data[:2] == b"\x1f\x8b":
        version, count, degree, bits, streams = _open_gzip(data)
    else:
        raise InputError(f"the file starts with {bytes(data[:4])!r}, an SPZ with gzip's mark or 'NGSP'; it is neither")
    positions, alphas, colors, scales, rotations, harmonics = streams
    rest = _COEFFICIENTS[degree]
    sh: np.ndarray = np.frombuffer(colors, np.uint8).reshape(count, 1, 3).astype(np.float32)
    sh = (sh / 255 - np.float32(0.5)) / np.float32(_COLOR_SCALE)
    if rest > 15:
        warnings.warn("the .spz has spherical harmonics of degree 4; degrees 0 to 3 are kept", stacklevel=4)
    above = (np.frombuffer(harmonics, np.uint8).reshape(count, rest, 3)[:, :15].astype(np.float32) - 128) / 128
    log_scales = np.frombuffer(scales, np.uint8).reshape(count, 3).astype(np.float32) / 16 - 10
    return SplatArrays(
        means=_positions(positions, count, version, bits),
        quats=_rotations(rotations, count, version),
        scales=np.exp(log_scales),
        opacities=np.frombuffer(alphas, np.uint8).astype(np.float32) / 255,
        sh=np.concatenate([sh, above], axis=1),
    )


def _positions(data: bytes, count: int, version: int, bits: int) -> np.ndarray:
    if version == 1:
        return np.frombuffer(data, "<f2").reshape(count, 3).astype(np.float32)
    words = np.zeros((count, 3, 4), dtype=np.uint8)
    words[:, :, 1:] = np.frombuffer(data, np.uint8).reshape(count, 3, 3)
    return ((words.view("<i4")[:, :, 0] >> 8) / np.float64(2.0**bits)).astype(np.float32)  # >> 8 carries the sign


def _rotations(data: bytes, count: int, version: int) -> np.ndarray:
    if version >= 3:
        return _unpack_rotation(np.frombuffer(data, "<u4").astype(np.uint32))
    xyz = np.frombuffer(data, np.uint8).reshape(count, 3) / 127.5 - 1
    w = np.sqrt(np.maximum(0, 1 - (xyz**2).sum(axis=1, keepdims=True)))
    return unit_quats(np.concatenate([w, xyz], axis=1))


def _sizes(version: int, count: int, degree: int) -> list[int]:
    """Bytes of each attribute, in file order; also the check of what the header claims."""
    if count < 1 or count > _MOST_POINTS or degree >= len(_COEFFICIENTS):
        raise InputError(
            f"the .spz promises {count} splats of degree {degree}, expected 1 to {_MOST_POINTS} of degree 0 to 4; "
            "export it again, in parts if need be"
        )
    per_point = (6 if version == 1 else 9, 1, 3, 3, 3 if version < 3 else 4, 3 * _COEFFICIENTS[degree])
    return [count * size for size in per_point]


def _open_gzip(data: bytes) -> tuple[int, int, int, int, list[bytes]]:
    """Versions 1 to 3 → (version, count, degree, fraction bits, attributes)."""
    unpacker = zlib.decompressobj(31)
    header = unpacker.decompress(data, 16)
    if len(header) < 16:
        raise InputError("the .spz ends inside its header; it is cut off, copy it again")
    magic, version, count, degree, bits, _flags, _ = struct.unpack("<3I4B", header)
    if magic != _MAGIC or version not in (1, 2, 3):
        raise InputError(
            f"the .spz has magic {magic:#x}, version {version}, expected {_MAGIC:#x} and 1 to 3; convert it"
        )
    sizes = _sizes(version, count, degree)
    if sum(sizes) > 1040 * len(data):  # Deflate cannot pack tighter
        raise InputError(
            f"the .spz promises {count} splats in {len(data)} bytes; it is cut off or damaged, copy it again"
        )
    body = unpacker.decompress(unpacker.unconsumed_tail, sum(sizes))
    if len(body) < sum(sizes):
        raise InputError(f"the .spz holds {len(body)} of {sum(sizes)} promised bytes; it is cut off, copy it again")
    ends = np.cumsum([0, *sizes]).tolist()
    return version, count, degree, bits, [body[a:b] for a, b in itertools.pairwise(ends)]


def _open_zstd(data: bytes) -> tuple[int, int, int, int, list[bytes]]:
    """Version 4 → as :func:`_open_gzip`."""
    if len(data) < 32:
        raise InputError(f"the .spz ends inside its header ({len(data)} bytes); it is cut off, copy it again")
    _, version, count, degree, bits, _flags, streams, start = struct.unpack_from("<3I4BI", data)
    if version != 4:
        raise InputError(f"the .spz has version {version}, versions 1 to 4 are read; convert it")
    sizes = _sizes(version, count, degree)
    expected = [size for size in sizes if size]
    if streams != len(expected) or start < 32 or start + 16 * streams > len(data):
        raise InputError(f"the .spz has {streams} streams, expected {len(expected)}; it is damaged, export it again")
    zstandard = need("zstandard", extra="spz", purpose="reading .spz version 4")
    position, found = start + 16 * streams, []
    for i, size in enumerate(expected):
        packed, unpacked = struct.unpack_from("<2Q", data, start + 16 * i)
        if unpacked != size or position + packed > len(data):
            raise InputError(f"stream {i} of the .spz has {unpacked} bytes, expected {size}; export it again")
        try:
            with zstandard.ZstdDecompressor().stream_reader(data[position : position + packed]) as reader:
                found.append(reader.read(size))
        except zstandard.ZstdError as error:
            raise InputError(f"stream {i} of the .spz cannot be unpacked ({error}); copy the file again") from error
        if len(found[-1]) != size:
            raise InputError(f"stream {i} of the .spz holds {len(found[-1])} of {size} bytes; copy it again")
        position += packed
    return version, count, degree, bits, [*found, b""][:6]
