"""Textures as bytes: lossless unless that would be large."""

from __future__ import annotations

import io
import warnings

import numpy as np
from PIL import Image

from ..errors import InputError

# A 1024² baked photo is about 0.9 MB as PNG and stays lossless; 4 MiB is reached around 2048², where a JPEG of
# quality 95 without colour subsampling is four times smaller and differs by less than baking itself does.
LARGEST_PNG = 4 * 2**20
_Z_RLE = 3  # zlib's strategy number
LARGEST_SIDE = 16384  # pixels; a hostile file could claim gigabytes


def encode_texture(image: Image.Image) -> tuple[bytes, str]:
    """Image → (file bytes, MIME type): PNG, or JPEG for opaque images whose PNG exceeds 4 MiB."""
    if image.mode not in ("RGB", "RGBA"):
        image = image.convert("RGBA" if "A" in image.getbands() or "transparency" in image.info else "RGB")
    image = image.copy()
    image.info.clear()  # colour profiles and resolutions of some earlier file: a glTF texture is plain sRGB
    png = encode_png(image)
    if len(png) <= LARGEST_PNG or image.mode == "RGBA":
        return png, "image/png"
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=95, subsampling=0)
    return buffer.getvalue(), "image/jpeg"


def encode_png(image: Image.Image) -> bytes:
    """Lossless PNG, fast: run-length matching beats Deflate's default search on filtered photos in size and time."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=1, compress_type=_Z_RLE)
    return buffer.getvalue()


def decode_texture(data: bytes) -> Image.Image:
    """File bytes → RGB or RGBA image, fully decoded.

    Raises:
        InputError: not an image Pillow reads, damaged, or larger than 16384 pixels a side.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(data))
            if max(image.size) > LARGEST_SIDE:
                raise InputError(f"a texture is {image.size} pixels, more than {LARGEST_SIDE} a side; shrink it")
            image.load()
    except InputError:
        raise
    except (
        OSError,
        ValueError,
        SyntaxError,
        EOFError,
        TypeError,
        IndexError,
        Warning,
        Image.DecompressionBombError,
    ) as e:
        raise InputError(f"a texture of {len(data)} bytes cannot be decoded ({e}); export it as PNG or JPEG") from e
    return image if image.mode in ("RGB", "RGBA") else image.convert("RGBA" if "A" in image.getbands() else "RGB")


def srgb_to_linear(values: np.ndarray) -> np.ndarray:
    """sRGB-encoded values [...] in 0–1 → linear ones [...] in 0–1 (IEC 61966-2-1)."""
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def linear_to_srgb(values: np.ndarray) -> np.ndarray:
    """Linear values [...] in 0–1 → sRGB-encoded ones [...] in 0–1 (IEC 61966-2-1)."""
    values = np.clip(values, 0, 1)
    return np.where(values <= 0.0031308, values * 12.92, 1.055 * values ** (1 / 2.4) - 0.055)
