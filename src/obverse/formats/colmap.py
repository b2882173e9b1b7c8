"""COLMAP sparse models, text and binary: the cameras and images of ``sparse/0`` (colmap.github.io, "Output format")."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..errors import InputError
from .files import read_bytes, reading

# Number in binary files → name, count of parameters, how many of them come before the distortion.
MODELS = {
    0: ("SIMPLE_PINHOLE", 3, 3),
    1: ("PINHOLE", 4, 4),
    2: ("SIMPLE_RADIAL", 4, 3),
    3: ("RADIAL", 5, 3),
    4: ("OPENCV", 8, 4),
    5: ("OPENCV_FISHEYE", 8, None),
    6: ("FULL_OPENCV", 12, 4),
    7: ("FOV", 5, None),
    8: ("SIMPLE_RADIAL_FISHEYE", 4, None),
    9: ("RADIAL_FISHEYE", 5, None),
    10: ("THIN_PRISM_FISHEYE", 12, None),
}
PLACES = ("sparse/0", "sparse", "colmap/sparse/0", ".")


@dataclass(frozen=True)
class Picture:
    """One registered image."""

    name: str
    world_to_camera: np.ndarray  # [4, 4] OpenCV axes
    intrinsics: np.ndarray  # [3, 3] pixels
    size: tuple[int, int]  # width, height


def find_model(folder: Path) -> Path | None:
    """The folder with ``cameras`` and ``images`` files at or below ``folder``, or None."""
    for place in PLACES:
        for suffix in (".bin", ".txt"):
            if all((folder / place / f"{stem}{suffix}").is_file() for stem in ("cameras", "images")):
                return (folder / place).resolve()
    return None


def read_model(folder: Path) -> list[Picture]:
    """Registered images of a model folder; the binary files are taken where both kinds are there.

    Raises:
        InputError: a file is damaged, a lens has distortion, or no image is registered.
    """
    suffix = ".bin" if (folder / "images.bin").is_file() and (folder / "cameras.bin").is_file() else ".txt"
    lenses, images = folder / f"cameras{suffix}", folder / f"images{suffix}"
    with reading(lenses, "COLMAP cameras"):
        data = read_bytes(lenses)
        cameras = dict(_binary_cameras(data) if suffix == ".bin" else _text_cameras(data))
    with reading(images, "COLMAP images"):
        data = read_bytes(images)
        entries = list(_binary_images(data) if suffix == ".bin" else _text_images(data))
        if not entries:
            raise InputError("no image is registered in it; the reconstruction failed, run COLMAP again")
        return [Picture(name, _matrix(pose), *cameras[camera]) for name, pose, camera in entries]


Lens = tuple[np.ndarray, tuple[int, int]]
Entry = tuple[str, list[float], int]


def _lens(model: str, size: tuple[int, int], parameters: list[float]) -> Lens:
    """Intrinsics [3, 3] and size; distortion is accepted only where all of it is zero."""
    plain = {name: straight for name, _, straight in MODELS.values()}.get(model)
    if plain is None or any(abs(value) > 1e-8 for value in parameters[plain:]):
        raise InputError(
            f"its camera model is {model} with distortion, and obverse needs pinhole pictures; run colmap "
            "image_undistorter and use the folder it writes"
        )
    fx, rest = parameters[0], parameters[1:plain]
    fy, cx, cy = rest if plain == 4 else (fx, *rest)
    return np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]], np.float64), size


def _matrix(pose: list[float]) -> np.ndarray:
    """Quaternion wxyz and translation [7] → world_to_camera [4, 4]."""
    q = np.array(pose[:4], np.float64)
    length = np.linalg.norm(q)
    if not (np.isfinite(pose).all() and length > 1e-6):
        raise InputError(f"a pose is {pose}; its quaternion must be finite and not zero. Export the model again")
    w, x, y, z = q / length
    out = np.eye(4)
    out[:3, :3] = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    out[:3, 3] = pose[4:]
    return out


def _lines(data: bytes) -> list[str]:
    return [line for line in data.decode().splitlines() if not line.startswith("#")]


def _text_cameras(data: bytes) -> Iterator[tuple[int, Lens]]:
    for line in _lines(data):
        if line.strip():
            number, model, width, height, *rest = line.split()
            yield int(number), _lens(model, (int(width), int(height)), [float(value) for value in rest])


def _text_images(data: bytes) -> Iterator[Entry]:
    """Every image has two lines; the second, its points, may be empty."""
    lines = _lines(data)
    while lines and not lines[0].strip():
        lines.pop(0)
    for line in lines[::2]:
        if line.strip():
            _, *pose, camera, name = line.split(maxsplit=9)
            yield name.strip(), [float(value) for value in pose], int(camera)


def _binary_cameras(data: bytes) -> Iterator[tuple[int, Lens]]:
    (count,) = struct.unpack_from("<Q", data)
    at = 8
    for _ in range(count):
        number, kind, width, height = struct.unpack_from("<iiQQ", data, at)
        model, parameters, _ = MODELS[kind]
        yield number, _lens(model, (width, height), list(struct.unpack_from(f"<{parameters}d", data, at + 24)))
        at += 24 + 8 * parameters


def _binary_images(data: bytes) -> Iterator[Entry]:
    (count,) = struct.unpack_from("<Q", data)
    at = 8
    for _ in range(count):
        _, *pose, camera = struct.unpack_from("<i7di", data, at)
        end = data.index(b"\0", at + 64)
        (points,) = struct.unpack_from("<Q", data, end + 1)
        yield data[at + 64 : end].decode(), pose, camera
        at = end + 9 + 24 * points
