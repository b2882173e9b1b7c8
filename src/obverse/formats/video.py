"""Turntables and other short films: .webp and .gif, which loop, and .mp4 (H.264, for everything else)."""

from __future__ import annotations

import io
import math
import os
import struct
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from ..errors import InputError, OutputError, UsageError, need
from .files import atomic_path, atomic_write, read_bytes, reading
from .images import LARGEST_SIDE

VIDEO_FORMATS = ("webp", "gif", "mp4")
# Measured on 36 turntable frames of 384²: method 2 is smaller than Pillow's animation encoder at twice its speed.
_WEBP = {"method": 2, "quality": 80}
_MOST_PIXELS = 2**28  # of all frames together, when reading
_LARGEST_FRAME = 2**25  # pixels: 8K


def write_video(frames: torch.Tensor | np.ndarray, path: str | Path, *, fps: float = 30) -> list[Path]:
    """Write frames as a film that loops without a seam if the first frame follows the last → the file written.

    Args:
        frames: [T, H, W, 3] in 0–1, sRGB-encoded.
        path: ``.webp``, ``.gif`` (256 colours a frame, times rounded to 1/100 s) or ``.mp4`` (H.264, yuv420p; odd
            sides are padded by one repeated pixel).
        fps: frames per second, above 0 and at most 100.

    Raises:
        UsageError: unknown extension or impossible ``fps``.
        InputError: frames of another shape, none at all, or not finite.
        MissingPackageError: ``.mp4`` without the extra ``video``.
        OutputError: the system, or the encoder, refused.
    """
    path = Path(path)
    extension = path.suffix.lower()
    if extension[1:] not in VIDEO_FORMATS:
        raise UsageError(f"films cannot be written as {extension!r}; use one of .{', .'.join(VIDEO_FORMATS)}")
    if not (math.isfinite(fps) and 0 < fps <= 100):
        raise UsageError(f"fps is {fps}, it must be above 0 and at most 100; 30 is usual")
    pixels = _to_bytes(frames)
    if extension == ".mp4":
        return [_write_mp4(pixels, path, fps)]
    return [atomic_write(path, (_webp if extension == ".webp" else _gif)(pixels, fps))]


def _to_bytes(frames: torch.Tensor | np.ndarray) -> np.ndarray:
    """Frames [T, H, W, 3] in 0–1 → uint8, rounded."""
    array = frames.detach().cpu().numpy() if isinstance(frames, torch.Tensor) else np.asarray(frames)
    if array.ndim != 4 or array.shape[-1] != 3 or 0 in array.shape or max(array.shape[1:3]) > LARGEST_SIDE:
        raise InputError(
            f"frames are {list(array.shape)}, expected [T, H, W, 3] with at least one frame and sides of 1 to 16384"
        )
    if array.dtype.kind != "f":
        raise InputError(f"frames are {array.dtype}, expected floats in 0–1; divide bytes by 255")
    if not np.isfinite(array).all():
        raise InputError("frames have values that are not finite; replace them before writing")
    return (np.clip(array, 0, 1) * 255 + 0.5).astype(np.uint8)


def _durations(count: int, fps: float, ticks: int) -> list[int]:
    """Length of each frame in 1/ticks s, rounded so that the errors do not add up; never 0."""
    ends = [round((i + 1) * ticks / fps) for i in range(count)]
    return [max(1, end - start) for start, end in zip([0, *ends], ends, strict=False)]


def _each(function: Callable[[np.ndarray], Any], pixels: np.ndarray) -> list[Any]:
    """``function`` of every frame, on a few threads: Pillow's encoders release the interpreter lock."""
    with ThreadPoolExecutor(max_workers=min(len(pixels), os.cpu_count() or 1, 8)) as pool:
        return list(pool.map(function, pixels))


def _webp(pixels: np.ndarray, fps: float) -> bytes:
    """Animated WebP (RIFF container specification): every frame a still of its own, so that they encode in parallel."""
    height, width = pixels.shape[1:3]

    def still(frame: np.ndarray) -> bytes:
        buffer = io.BytesIO()
        Image.fromarray(frame).save(buffer, "WEBP", **_WEBP)
        return buffer.getvalue()[12:]  # without the RIFF header: the image's own chunk

    size = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    chunks = [_chunk(b"VP8X", bytes([0x02, 0, 0, 0]) + size), _chunk(b"ANIM", b"\xff\xff\xff\xff" + bytes(2))]
    for data, duration in zip(_each(still, pixels), _durations(len(pixels), fps, 1000), strict=True):
        # Offset (0, 0), full size; 0x02: replace what was there rather than blend.
        chunks.append(_chunk(b"ANMF", bytes(6) + size + duration.to_bytes(3, "little") + b"\x02" + data))
    body = b"WEBP" + b"".join(chunks)
    return b"RIFF" + struct.pack("<I", len(body)) + body


def _chunk(name: bytes, data: bytes) -> bytes:
    return name + struct.pack("<I", len(data)) + data + bytes(len(data) % 2)


def _gif(pixels: np.ndarray, fps: float) -> bytes:
    def palette(frame: np.ndarray) -> Image.Image:
        return Image.fromarray(frame).quantize(256, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.FLOYDSTEINBERG)

    images = _each(palette, pixels)
    # Browsers slow anything below 2/100 s down to 1/10 s.
    durations = [10 * max(2, d) for d in _durations(len(pixels), fps, 100)]
    buffer = io.BytesIO()
    images[0].save(
        buffer, "GIF", save_all=True, append_images=images[1:], duration=durations, loop=0, disposal=1, optimize=False
    )
    return buffer.getvalue()


def _write_mp4(pixels: np.ndarray, path: Path, fps: float) -> Path:
    """H.264 by the ffmpeg that imageio-ffmpeg brings; bit-exact flags keep times and versions out of the file."""
    ffmpeg = need("imageio_ffmpeg", extra="video", purpose="writing .mp4")
    height, width = pixels.shape[1:3]
    pixels = np.pad(pixels, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    options = ["-crf", "18", "-preset", "medium", "-movflags", "+faststart", "-threads", "1", "-map_metadata", "-1"]
    with atomic_path(path) as temporary:
        writer = ffmpeg.write_frames(
            str(temporary),
            (pixels.shape[2], pixels.shape[1]),
            fps=fps,
            codec="libx264",
            quality=None,
            pix_fmt_out="yuv420p",
            macro_block_size=1,
            ffmpeg_log_level="error",
            output_params=[*options, "-fflags", "+bitexact", "-flags:v", "+bitexact", "-f", "mp4"],
        )
        try:
            writer.send(None)
            for frame in pixels:
                writer.send(np.ascontiguousarray(frame))
            writer.close()
        except (OSError, RuntimeError, StopIteration) as error:
            raise OutputError(
                f"{path} could not be written by ffmpeg: {error}; free some space or write .webp instead"
            ) from error
        if not temporary.exists() or temporary.stat().st_size == 0:
            raise OutputError(f"{path} could not be written: ffmpeg made no file; write .webp instead")
    return path


def read_video(path: str | Path) -> np.ndarray:
    """Read a film → frames [T, H, W, 3] float32 in 0–1; transparency shows white.

    Raises:
        InputError: missing, damaged, another format, larger than 2²⁵ pixels a frame or 2²⁸ in all.
        MissingPackageError: ``.mp4`` without the extra ``video``.
    """
    path = Path(path)
    extension = path.suffix.lower()
    if extension[1:] not in VIDEO_FORMATS:
        raise InputError(f"{path} is not a film by its name; expected one of .{', .'.join(VIDEO_FORMATS)}")
    data = read_bytes(path)
    with reading(path, extension[1:]):
        frames = list(_mp4_frames(path) if extension == ".mp4" else _image_frames(data))
    return np.stack(frames).astype(np.float32) / 255


def _image_frames(data: bytes) -> Iterator[np.ndarray]:
    if data[12:16] == b"VP8X":  # Pillow's decoder fills the whole canvas before it says how large it is
        width, height = (1 + int.from_bytes(data[at : at + 3], "little") for at in (24, 27))
        if width * height > _LARGEST_FRAME:
            raise InputError(f"the film is {width} × {height}, more than {_LARGEST_FRAME} pixels; shrink it")
    try:
        image = Image.open(io.BytesIO(data), formats=("WEBP", "GIF"))
        count = int(getattr(image, "n_frames", 1))
        shape, size = image.size, image.size[0] * image.size[1]
        if size > _LARGEST_FRAME or count * size > _MOST_PIXELS:
            raise InputError(
                f"{count} frames of {shape} are more than {_LARGEST_FRAME} pixels each or {_MOST_PIXELS} in all; "
                "shorten or shrink the film"
            )
        for index in range(count):
            image.seek(index)
            if image.size != shape:
                raise InputError(f"frame {index} is {image.size} and the film {shape}; it is damaged, export it again")
            rgba = image.convert("RGBA")
            yield np.asarray(Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB"))
    except (OSError, Image.DecompressionBombError) as error:
        raise InputError(f"the film cannot be decoded ({error}); write it again") from error


def _mp4_frames(path: Path) -> Iterator[np.ndarray]:
    ffmpeg = need("imageio_ffmpeg", extra="video", purpose="reading .mp4")
    try:
        reader = ffmpeg.read_frames(str(path), pix_fmt="rgb24")
        try:
            width, height = next(reader)["size"]
            total = 0
            for frame in reader:
                total += width * height
                if total > _MOST_PIXELS:
                    raise InputError(f"the film has more than {_MOST_PIXELS} pixels; shorten it")
                yield np.frombuffer(frame, np.uint8).reshape(height, width, 3)
        finally:
            reader.close()
    except (OSError, StopIteration) as error:
        raise InputError(f"ffmpeg cannot decode the film ({error}); write it again") from error
