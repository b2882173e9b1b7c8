"""Pictures: anything a user may hand over as a photo → float RGB and alpha, upright, sRGB and of bounded size.

Decoders are foreign code fed with foreign bytes. Whatever they raise becomes an ``InputError`` that says what was
given, which rule it breaks and what to do.
"""

from __future__ import annotations

import hashlib
import io
import os
import stat
import struct
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .checks import Check
from .errors import InputError, need

if TYPE_CHECKING:
    from PIL import Image

FloatArray = NDArray[np.float32]

MAX_PIXELS = 120_000_000  # 108-megapixel phone sensors pass; beyond that decoding alone takes half a gigabyte
MAX_BYTES = 512 * 2**20
EXIF_ORIENTATION = 0x0112
EXIF_IFD, EXIF_MAKER_NOTE = 0x8769, 0x927C

_NOT_IMAGES = {
    b"%PDF": "a PDF document; export the page as PNG",
    b"<svg": "an SVG drawing; export it as PNG",
    b"<?xml": "an XML or SVG document; export it as PNG",
    b"<!DOC": "a web page, not the picture on it; download the picture itself",
    b"<html": "a web page, not the picture on it; download the picture itself",
    b"version https://git-lfs": "a Git LFS pointer; run git lfs pull",
    b"glTF": "a 3D model; give a photo",
    b"PK\x03\x04": "a ZIP archive; unpack it first",
}
_HEIF_BRANDS = {b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1"}


@dataclass(frozen=True)
class Source:
    """Where a picture came from."""

    name: str  # file name, or what kind of object it was
    sha256: str  # hex digest of the bytes, or of the array with its shape and type
    width: int  # pixels, upright, before any reduction
    height: int
    format: str  # "JPEG", "PNG", ..., "array"
    mode: str  # Pillow mode or array dtype as given


@dataclass(frozen=True)
class Picture:
    """A decoded picture, at most ``max_side`` pixels long."""

    rgb: FloatArray  # [H, W, 3] 0–1, sRGB
    alpha: FloatArray | None  # [H, W] 0–1, straight; None where the input has none
    source: Source
    notes: tuple[Check, ...] = ()
    pitch_down_deg: float | None = None  # how far below the horizon the camera looked, if the file says so


def read_picture(source: Any, *, max_side: int = 2048, allow_bool: bool = False) -> Picture:
    """Read a path, bytes, binary file object, Pillow image, array or tensor → Picture.

    Args:
        source: arrays are [H, W], [H, W, 1], [H, W, 2] (grey and alpha), [H, W, 3] or [H, W, 4]; uint8 0–255,
            uint16 0–65535 or floating point 0–1.
        max_side: larger pictures are reduced to this many pixels along their longest side.
        allow_bool: accept boolean arrays, as masks are.

    Raises:
        InputError: the input cannot be read, is damaged, empty or too large, or has an unusable type or shape.
        MissingPackageError: the photo is HEIC and pillow-heif is not installed.
    """
    from PIL import Image

    if isinstance(source, Image.Image):
        return _from_pillow(source, "image", None, max_side)
    if isinstance(source, (str, os.PathLike)):
        path = os.fspath(source)
        name = os.fsdecode(path) if isinstance(path, bytes) else path
        return _from_bytes(_read_file(name), _short(os.path.basename(name) or name), max_side)
    if isinstance(source, (bytes, bytearray, memoryview)):
        return _from_bytes(bytes(source), "bytes", max_side)
    if hasattr(source, "read"):
        name = getattr(source, "name", "file")
        data = _read_stream(source)
        return _from_bytes(data, _short(os.path.basename(name)) if isinstance(name, str) else "file", max_side)
    if hasattr(source, "__array__") or type(source).__module__.split(".")[0] == "torch":
        return _from_array(_as_numpy(source), max_side, allow_bool)
    raise InputError(
        f"a photo of type {type(source).__name__} cannot be read; "
        "give a path, bytes, a binary file object, a Pillow image, an array or a tensor"
    )


# ---------------------------------------------------------------------------------------------- bytes in


def _short(text: str) -> str:
    """Text that may be anything, at most 80 characters of it, printable."""
    text = text if len(text) <= 80 else text[:77] + "..."
    return "".join(c if c.isprintable() else "?" for c in text)


def _read_file(name: str) -> bytes:
    """The bytes of a regular file of reasonable size."""
    shown = repr(_short(name))
    if "://" in name[:12]:
        raise InputError(f"{shown} is an address, and only local files are read; download it and give the file")
    try:
        info = os.stat(name)
    except FileNotFoundError:
        raise InputError(f"{shown} does not exist; check the path and the working folder") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{shown} cannot be opened ({_reason(error)}); give the path of an image file") from error
    if stat.S_ISDIR(info.st_mode):
        raise InputError(f"{shown} is a folder; give one image file inside it")
    if not stat.S_ISREG(info.st_mode):
        raise InputError(f"{shown} is not a regular file; read it yourself and pass the bytes")
    if info.st_size > MAX_BYTES:
        raise _too_many_bytes(shown, info.st_size)
    try:
        with open(name, "rb") as file:
            return file.read(MAX_BYTES)
    except (OSError, MemoryError) as error:
        raise InputError(f"{shown} cannot be read ({_reason(error)}); check its permissions") from error


def _read_stream(stream: Any) -> bytes:
    """What a file object still has to give."""
    try:
        data = stream.read(MAX_BYTES + 1)
    except Exception as error:  # any class with a read method may come here
        raise InputError(f"the file object cannot be read ({_reason(error)}); open it in mode 'rb'") from error
    if not isinstance(data, (bytes, bytearray, memoryview)):
        raise InputError(f"the file object gave {type(data).__name__}, not bytes; open it in mode 'rb'")
    if len(data) > MAX_BYTES:
        raise _too_many_bytes("the file object", len(data))
    if not data:
        raise InputError("the file object gave 0 bytes; it may be at its end: call seek(0) first")
    return bytes(data)


def _too_many_bytes(what: str, size: int) -> InputError:
    return InputError(
        f"{what} has {size / 2**20:.0f} MiB or more, the limit is {MAX_BYTES // 2**20} MiB; save the photo as JPEG"
    )


def _reason(error: BaseException) -> str:
    """One short line about a foreign exception."""
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return _short(" ".join(str(text).split()))


def _from_bytes(data: bytes, name: str, max_side: int) -> Picture:
    """Decode an image file held in memory."""
    from PIL import Image

    if not data:
        raise InputError(f"{name} is empty (0 bytes); copy or download it again")
    if data[4:8] == b"ftyp" and data[8:12] in _HEIF_BRANDS:
        need("pillow_heif", extra="heic", purpose=f"{name} is a HEIC photo: reading it").register_heif_opener()
    digest = hashlib.sha256(data).hexdigest()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # sizes are checked below; what Pillow says of metadata does not matter here
        try:
            image = Image.open(io.BytesIO(data))
        except Image.DecompressionBombError as error:
            raise InputError(
                f"{name}: {_reason(error)}; the limit is {MAX_PIXELS // 10**6} megapixels: reduce the photo first"
            ) from error
        except Exception as error:  # decoders raise nearly anything on damaged headers
            raise InputError(_not_an_image(name, data)) from error
        return _from_pillow(image, name, digest, max_side)


def _not_an_image(name: str, data: bytes) -> str:
    for start, what in _NOT_IMAGES.items():
        if data[:64].lstrip().lower().startswith(start.lower()):
            return f"{name} is {what}"
    return (
        f"{name} ({len(data)} bytes, starting {_short(repr(data[:8]))}) is not an image that can be read; "
        "use a complete JPEG, PNG, WebP, TIFF, BMP, GIF or HEIC file"
    )


# ------------------------------------------------------------------------------------- Pillow to arrays


def _from_pillow(image: Image.Image, name: str, digest: str | None, max_side: int) -> Picture:
    """Check the size, decode, convert to upright sRGB. ``digest`` None means the image belongs to the caller."""
    if image.format in ("EPS", "WMF"):
        raise InputError(f"{name} is {image.format}, which needs an outside program to draw; export it as PNG")
    width, height = image.size
    check_size(name, width, height)
    notes: list[Check] = []
    kind, given = image.format or "image", image.mode
    frames = _frames(image)
    if frames > 1 and kind != "MPO":  # MPO: a phone's JPEG with its depth map or preview behind it
        notes.append(_first_frame(frames))
    orientation, pitch_deg = _exif(image, notes)
    try:
        if digest is not None and kind == "JPEG":
            image.draft(None, fitting(width, height, max_side))  # decodes at 1/2, 1/4 or 1/8 where that is enough
        image.load()
        if digest is None:
            digest = hashlib.sha256(f"{image.mode} {image.size}".encode() + image.tobytes()).hexdigest()
        rgb, alpha = _convert(image, max_side, notes)
    except InputError:
        raise
    except Exception as error:  # decoders raise nearly anything on damaged data
        raise InputError(
            f"{name} starts as a {kind} image, but cannot be decoded ({_reason(error)}); "
            "it is damaged or incomplete: copy, download or export it again"
        ) from error
    if max(rgb.shape[:2]) < max(width, height):
        notes.append(_reduced(width, height, rgb))
    rgb, alpha = _upright(rgb, orientation), None if alpha is None else _upright(alpha, orientation)
    if orientation >= 5:
        width, height = height, width
    return Picture(rgb, alpha, Source(name, digest, width, height, kind, given), tuple(notes), pitch_deg)


def check_size(name: str, width: int, height: int) -> None:
    """Raise InputError unless the picture has pixels, and not too many to decode."""
    if width < 1 or height < 1:
        raise InputError(f"{name} is {width}x{height}, which has no pixels; give a real photo")
    if width * height > MAX_PIXELS:
        raise InputError(
            f"{name} is {width}x{height} = {width * height / 1e6:.0f} megapixels, the limit is "
            f"{MAX_PIXELS // 10**6}; reduce it first (2048 pixels a side is all that is used)"
        )


def fitting(width: int, height: int, max_side: int) -> tuple[int, int]:
    """The size with the same shape whose longest side is at most ``max_side``."""
    scale = min(1.0, max_side / max(width, height))
    return max(1, round(width * scale)), max(1, round(height * scale))


def _frames(image: Image.Image) -> int:
    """How many pictures the file holds; 1 where it cannot be told."""
    try:
        return int(getattr(image, "n_frames", 1))
    except Exception:  # counting walks through damaged data too; decoding will say so if it matters
        return 1


def _first_frame(frames: int) -> Check:
    return Check(
        "first-frame",
        float(frames),
        f"the file holds {frames} pictures and only the first is used",
        "save the picture you want on its own",
        "note",
    )


def _reduced(width: int, height: int, rgb: FloatArray) -> Check:
    factor = max(width, height) / max(rgb.shape[:2])
    return Check(
        "reduced",
        round(factor, 2),
        f"{width}x{height} was reduced {factor:.1f} times to at most {max(rgb.shape[:2])} pixels a side",
        "raise max_side to keep more, at the cost of time and memory",
        "note",
    )


def _exif(image: Image.Image, notes: list[Check]) -> tuple[int, float | None]:
    """Orientation 1–8 and, from phones that record it, how far below the horizon the camera looked (degrees)."""
    try:
        exif = image.getexif()
        orientation = exif.get(EXIF_ORIENTATION, 1)
        maker_note = exif.get_ifd(EXIF_IFD).get(EXIF_MAKER_NOTE) if EXIF_IFD in exif else None
    except Exception as error:  # EXIF is a TIFF inside the file, with everything that can be wrong in one
        notes.append(
            Check(
                "exif-unreadable",
                1.0,
                f"the EXIF block is damaged ({_reason(error)}) and was ignored, so the photo may lie on its side",
                "rotate it upright and save it again if so",
                "note",
            )
        )
        return 1, None
    if not isinstance(orientation, int) or not 1 <= orientation <= 8:
        orientation = 1
    return orientation, pitch_from_maker_note(maker_note)


def pitch_from_maker_note(note: object) -> float | None:
    """How far below the horizon an iPhone's rear camera looked, in degrees, from Apple's maker note; else None.

    Layout: ``"Apple iOS\\0"``, a version, ``"MM"``, then a big-endian TIFF directory; tag 8 holds the accelerometer's
    three signed rationals in g (ExifTool's tag table "Apple", AccelerationVector). The third is −1 when the screen
    faces up, that is when the rear camera looks straight down.
    """
    if not isinstance(note, bytes) or not note.startswith(b"Apple iOS\0") or note[12:14] != b"MM":
        return None
    try:
        (count,) = struct.unpack_from(">H", note, 14)
        for i in range(min(count, 200)):
            tag, kind, number, offset = struct.unpack_from(">HHII", note, 16 + 12 * i)
            if (tag, kind, number) != (8, 10, 3):
                continue
            raw = struct.unpack_from(">6i", note, offset)
            vector = np.array([raw[0] / raw[1], raw[2] / raw[3], raw[4] / raw[5]])
            length = float(np.linalg.norm(vector))
            if not 0.8 < length < 1.2:  # the phone was being moved: that is not gravity
                return None
            return float(np.degrees(np.arcsin(np.clip(-vector[2] / length, -1.0, 1.0))))
    except (struct.error, ZeroDivisionError):
        return None
    return None


def _upright(pixels: FloatArray, orientation: int) -> FloatArray:
    """Apply an EXIF orientation (EXIF 2.32, tag 274) to [H, W] or [H, W, C]."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)


def _convert(image: Image.Image, max_side: int, notes: list[Check]) -> tuple[FloatArray, FloatArray | None]:
    """A loaded image in any mode → sRGB [h, w, 3] and alpha [h, w] or None, at most ``max_side`` long."""
    from PIL import Image

    profile = image.info.get("icc_profile")
    mode = image.mode
    if mode == "F" or mode.startswith("I"):  # 16- and 32-bit grey: Pillow itself would clip it to 8 bits
        return _reduce(*_split(_deep_grey(np.asarray(image), mode)), max_side)
    if mode in ("P", "PA", "1") or "transparency" in image.info:
        has_alpha = mode == "PA" or "transparency" in image.info
        image = image.convert("RGBA" if has_alpha else "RGB")
    elif mode in ("La", "RGBa"):
        image = image.convert("LA" if mode == "La" else "RGBA")
    elif mode not in ("L", "LA", "RGB", "RGBA", "CMYK", "LAB"):
        image = image.convert("RGB")
    size = fitting(*image.size, max_side)
    if size != image.size:
        image = image.resize(size, Image.Resampling.BICUBIC, reducing_gap=3.0)  # with alpha premultiplied
    alpha = None
    if image.mode in ("LA", "RGBA"):
        alpha = np.asarray(image.getchannel("A"), dtype=np.float32) / np.float32(255)
        image = image.convert(image.mode[:-1])
    image = _to_srgb(image, profile, notes)
    return np.asarray(image, dtype=np.float32) / np.float32(255), alpha


def _deep_grey(values: NDArray[Any], mode: str) -> FloatArray:
    """Grey of 16 bits, 32 bits or floating point → [H, W] in 0–1."""
    grey = values.astype(np.float32)
    if not np.isfinite(grey).all():
        raise InputError("the image holds NaN or infinite values; replace them before saving")
    top = float(grey.max())
    if mode.startswith("I;16") or (mode == "I" and 255 < top <= 65535):
        top = 65535.0
    elif top <= 1:
        top = 1.0
    elif top <= 255:
        top = 255.0
    return np.clip(grey / np.float32(top), 0, 1)


def _to_srgb(image: Image.Image, profile: object, notes: list[Check]) -> Image.Image:
    """L, RGB, CMYK or LAB → RGB in sRGB, through the embedded ICC profile where there is a usable one."""
    try:
        if image.mode == "LAB":
            return _icc(image, None)
        if isinstance(profile, bytes) and profile:
            return _icc(image, profile)
    except Exception as error:  # the colour library reports damage as OSError, ValueError, TypeError or its own class
        notes.append(
            Check(
                "icc-ignored",
                1.0,
                f"the colour profile cannot be used ({_reason(error)}) and was ignored; colours are read as sRGB",
                "export the photo as sRGB if its colours look wrong",
                "note",
            )
        )
    return image.convert("RGB")


def _icc(image: Image.Image, profile: bytes | None) -> Image.Image:
    """Convert with LittleCMS; ``profile`` None means CIE Lab pixels."""
    from PIL import ImageCms

    source = ImageCms.ImageCmsProfile(io.BytesIO(profile)) if profile else ImageCms.createProfile("LAB")
    if isinstance(source, ImageCms.ImageCmsProfile):
        space = source.profile.xcolor_space.strip()
        if space == "RGB":
            image = image.convert("RGB")
            if "srgb" in (source.profile.profile_description or "").lower():
                return image  # the identity, but for rounding
        elif {"GRAY": "L", "CMYK": "CMYK"}.get(space) != image.mode:
            raise ValueError(f"a {space} profile in a {image.mode} image")
    result = ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
    if result is None:
        raise ValueError("the colour library returned nothing")
    return result


# ------------------------------------------------------------------------------------------------ arrays


def _as_numpy(source: Any) -> NDArray[Any]:
    """An array or tensor of any library → NumPy."""
    try:
        if type(source).__module__.split(".")[0] == "torch":
            source = source.detach().cpu()
            source = source.float() if source.is_floating_point() else source
            return np.asarray(source.numpy())
        return np.asarray(source)
    except Exception as error:  # whatever another array library raises
        raise InputError(
            f"the {type(source).__name__} cannot be read as an array ({_reason(error)}); convert it to NumPy first"
        ) from error


def _from_array(array: NDArray[Any], max_side: int, allow_bool: bool) -> Picture:
    """[H, W], [H, W, 1], [H, W, 2], [H, W, 3] or [H, W, 4] of uint8, uint16, floating point (or bool) → Picture."""
    shape = "x".join(map(str, array.shape)) or "no axes"
    if array.ndim == 3 and array.shape[0] in (1, 3, 4) and array.shape[2] not in (1, 2, 3, 4):
        raise InputError(
            f"the array is {shape}, which looks like channels first; photos are [H, W, C]: "
            "use array.transpose(1, 2, 0), or tensor.permute(1, 2, 0)"
        )
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (1, 2, 3, 4)):
        raise InputError(
            f"the array is {shape}; a photo is [H, W], [H, W, 1], [H, W, 2] (grey and alpha), [H, W, 3] or [H, W, 4]: "
            "take one picture, with its channels last"
        )
    height, width = array.shape[:2]
    check_size("the array", width, height)
    array = np.ascontiguousarray(array)
    values = _unit_range(array, allow_bool)
    digest = hashlib.sha256(f"{array.dtype} {array.shape}".encode() + array.tobytes()).hexdigest()
    rgb, alpha = _reduce(*_split(values), max_side)
    notes = (_reduced(width, height, rgb),) if max(rgb.shape[:2]) < max(width, height) else ()
    return Picture(rgb, alpha, Source("array", digest, width, height, "array", str(array.dtype)), notes)


def _unit_range(array: NDArray[Any], allow_bool: bool) -> FloatArray:
    """Check type and values, and scale to 0–1."""
    if array.dtype == np.uint8:
        return array.astype(np.float32) / np.float32(255)
    if array.dtype.kind == "u" and array.dtype.itemsize == 2:
        return array.astype(np.float32) / np.float32(65535)
    if array.dtype == np.bool_:
        if allow_bool:
            return array.astype(np.float32)
        raise InputError("a boolean array is a mask, not a photo; pass it as mask=, beside the photo")
    if array.dtype.kind != "f":
        raise InputError(
            f"the array has dtype {array.dtype}; photos are uint8 (0–255), uint16 (0–65535) or floating point (0–1): "
            "use array.astype('uint8') if its values are 0–255"
        )
    if not np.isfinite(array).all():
        bad = int(array.size - np.isfinite(array).sum())
        raise InputError(f"{bad} of the array's {array.size} values are NaN or infinite; replace them first")
    low, high = float(array.min()), float(array.max())
    if low < -1e-3 or high > 1.001:
        hint = "divide it by 255" if low >= -1e-3 and 2 < high <= 255 else "scale it to 0–1"
        raise InputError(f"the array holds {low:.4g} to {high:.4g}; floating-point photos are 0–1: {hint}")
    return np.clip(array.astype(np.float32), 0, 1)


def _split(values: FloatArray) -> tuple[FloatArray, FloatArray | None]:
    """[H, W] or [H, W, 1–4] → colour [H, W, 3] and alpha [H, W] or None."""
    if values.ndim == 2:
        values = values[..., None]
    colors, alpha = (values[..., :-1], values[..., -1]) if values.shape[2] in (2, 4) else (values, None)
    rgb = np.repeat(colors, 3, axis=2) if colors.shape[2] == 1 else np.ascontiguousarray(colors)
    return rgb, None if alpha is None else np.ascontiguousarray(alpha)


def _reduce(rgb: FloatArray, alpha: FloatArray | None, max_side: int) -> tuple[FloatArray, FloatArray | None]:
    """Average down to at most ``max_side`` along the longest side, colours weighted by alpha."""
    size = fitting(rgb.shape[1], rgb.shape[0], max_side)
    if size == (rgb.shape[1], rgb.shape[0]):
        return rgb, alpha
    import cv2

    if alpha is None:
        return np.asarray(cv2.resize(rgb, size, interpolation=cv2.INTER_AREA), np.float32), None
    small = cv2.resize(alpha, size, interpolation=cv2.INTER_AREA)
    colors = cv2.resize(rgb * alpha[..., None], size, interpolation=cv2.INTER_AREA) / np.maximum(small, 1e-6)[..., None]
    return np.clip(colors, 0, 1).astype(np.float32), small.astype(np.float32)
