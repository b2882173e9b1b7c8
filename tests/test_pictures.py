"""Anything a user may hand over: decoded upright and in sRGB, or refused with a reason and a remedy."""

from __future__ import annotations

import hashlib
import io
import struct
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms, ImageOps, features

import obverse.pictures as pictures
from obverse.errors import InputError, MissingPackageError
from obverse.pictures import pitch_from_maker_note, read_picture


@pytest.fixture
def pixels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (6, 9, 3), dtype=np.uint8)


def encode(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def as_bytes(rgb: np.ndarray) -> np.ndarray:
    return np.round(rgb * 255).astype(np.uint8)


def test_path_bytes_stream_image_array_and_tensor_give_the_same_pixels(tmp_path: Path, pixels: np.ndarray) -> None:
    data = encode(Image.fromarray(pixels))
    path = tmp_path / "a.png"
    path.write_bytes(data)
    floats = torch.from_numpy(pixels).float() / 255
    for source in (path, str(path), data, bytearray(data), io.BytesIO(data), Image.fromarray(pixels), pixels, floats):
        assert np.array_equal(as_bytes(read_picture(source).rgb), pixels)


def test_digest_belongs_to_the_bytes(pixels: np.ndarray) -> None:
    data = encode(Image.fromarray(pixels))
    assert read_picture(data).source.sha256 == hashlib.sha256(data).hexdigest()
    assert read_picture(pixels).source.sha256 != read_picture(pixels[:, ::-1]).source.sha256


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_exif_orientation_comes_out_upright(pixels: np.ndarray, orientation: int) -> None:
    image = Image.fromarray(pixels)
    exif = image.getexif()
    exif[0x0112] = orientation
    data = encode(image, exif=exif)
    expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))))
    picture = read_picture(data)
    assert np.array_equal(as_bytes(picture.rgb), expected)
    assert (picture.source.height, picture.source.width) == expected.shape[:2]


def test_damaged_exif_is_noted_and_ignored(pixels: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: Image.Image) -> None:
        raise SyntaxError("not a TIFF")

    monkeypatch.setattr(Image.Image, "getexif", broken)
    picture = read_picture(encode(Image.fromarray(pixels)))
    assert [note.name for note in picture.notes] == ["exif-unreadable"]


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "CMYK", "YCbCr", "HSV", "LAB"])
def test_modes_without_alpha_become_rgb(mode: str) -> None:
    gray = np.tile(np.array([0, 255], np.uint8), (4, 4))
    image = Image.fromarray(np.repeat(gray[..., None], 3, axis=2))
    if mode == "LAB":
        image = ImageCms.profileToProfile(
            image, ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), outputMode="LAB"
        )
    else:
        image = image.convert(mode)
    picture = read_picture(image)
    assert picture.alpha is None
    assert np.abs(picture.rgb[..., 0] - gray / 255).max() < 0.03


@pytest.mark.parametrize("mode", ["LA", "RGBA", "PA", "La", "RGBa"])
def test_modes_with_alpha_keep_it_straight(mode: str) -> None:
    rgba = np.full((4, 4, 4), 200, np.uint8)
    rgba[..., 3] = 255
    rgba[:2, :, 3] = 0 if mode == "PA" else 128
    image = Image.fromarray(rgba)
    if mode == "PA":
        image = Image.fromarray(rgba[..., 0]).convert("P")
        image.putalpha(Image.fromarray(rgba[..., 3]))
        assert image.mode == "PA"
    else:
        for step in {"LA": ["LA"], "RGBA": [], "La": ["LA", "La"], "RGBa": ["RGBa"]}[mode]:
            image = image.convert(step)
    picture = read_picture(image)
    assert picture.alpha is not None
    assert np.abs(picture.alpha * 255 - rgba[..., 3]).max() < 1
    assert np.abs(picture.rgb[2:] - 200 / 255).max() < 0.01
    if mode != "PA":
        assert np.abs(picture.rgb[:2] - 200 / 255).max() < 0.01


def test_palette_transparency_becomes_alpha() -> None:
    image = Image.fromarray(np.array([[0, 1], [1, 0]], np.uint8), "L").convert("P")
    picture = read_picture(encode(image, transparency=0))
    assert picture.alpha is not None
    assert picture.alpha.tolist() == [[0, 1], [1, 0]]


def test_sixteen_bit_grey_keeps_its_range() -> None:
    ramp = np.linspace(0, 65535, 64).astype(np.uint16).reshape(8, 8)
    picture = read_picture(encode(Image.fromarray(ramp)))
    assert np.abs(picture.rgb[..., 1] - ramp / 65535).max() < 1e-4


def test_a_wide_profile_is_converted_and_srgb_is_left_alone(pixels: np.ndarray) -> None:
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
    same = read_picture(encode(Image.fromarray(pixels), icc_profile=srgb.tobytes()))
    assert np.array_equal(as_bytes(same.rgb), pixels)
    gamma = bytearray(srgb.tobytes())
    # Exchanging the tag names of the red and green primaries makes a profile whose red is sRGB's green.
    gamma = bytes(gamma).replace(b"rXYZ", b"@XYZ").replace(b"gXYZ", b"rXYZ").replace(b"@XYZ", b"gXYZ")
    gamma = gamma.replace("sRGB".encode("utf-16-be"), "swap".encode("utf-16-be")).replace(b"sRGB", b"swap")
    red = np.zeros((4, 4, 3), np.uint8)
    red[..., 0] = 255
    swapped = read_picture(encode(Image.fromarray(red), icc_profile=gamma))
    assert swapped.notes == ()
    assert swapped.rgb[0, 0].round(1).tolist() == [0, 1, 0]


def test_a_broken_profile_is_noted_and_ignored(pixels: np.ndarray) -> None:
    picture = read_picture(encode(Image.fromarray(pixels), icc_profile=b"no profile at all"))
    assert [note.name for note in picture.notes] == ["icc-ignored"]
    assert np.array_equal(as_bytes(picture.rgb), pixels)


def test_an_animation_gives_its_first_frame_and_a_note() -> None:
    frames = [Image.new("RGB", (8, 8), color) for color in ("red", "blue", "green")]
    for kind in ("GIF", "PNG"):
        picture = read_picture(encode(frames[0], kind, save_all=True, append_images=frames[1:]))
        assert [(note.name, note.value) for note in picture.notes] == [("first-frame", 3.0)]
        assert picture.rgb[0, 0].round(1).tolist() == [1, 0, 0]


def test_large_pictures_are_reduced_in_proportion_and_say_so() -> None:
    data = encode(Image.new("RGB", (300, 120), "teal"), "JPEG")
    for source in (data, np.zeros((120, 300, 4), np.float32)):
        picture = read_picture(source, max_side=100)
        assert picture.rgb.shape == (40, 100, 3)
        assert (picture.source.width, picture.source.height) == (300, 120)
        assert [(note.name, note.value) for note in picture.notes] == [("reduced", 3.0)]


def test_reducing_does_not_mix_in_the_colour_of_transparent_pixels() -> None:
    array = np.zeros((64, 64, 4), np.float32)
    array[:, 1::2] = 1  # transparent black beside opaque white
    picture = read_picture(array, max_side=32)
    assert picture.alpha is not None
    assert np.allclose(picture.alpha, 0.5) and np.allclose(picture.rgb, 1)


def test_too_many_pixels_are_refused_before_decoding() -> None:
    for side, message in (
        (13_000, r"13000x13000 = 169 megapixels, the limit is 120; reduce"),
        (60_000, "the limit is 120"),
    ):
        header = b"\x89PNG\r\n\x1a\n" + struct.pack(">I4sIIBBBBB", 13, b"IHDR", side, side, 8, 2, 0, 0, 0)
        header += struct.pack(">I", zlib.crc32(header[12:]))
        with pytest.raises(InputError, match=message):
            read_picture(header + struct.pack(">I4sI", 0, b"IDAT", zlib.crc32(b"IDAT")))
    with pytest.raises(InputError, match="megapixels"):
        read_picture(np.broadcast_to(np.float32(0), (20_000, 20_000, 3)))


def test_files_that_cannot_be_meant_are_refused_with_a_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "page.jpg").write_bytes(b"<!DOCTYPE html><html></html>")
    (tmp_path / "text.png").write_bytes(b"hello there, not an image")
    cases = {
        "missing.png": "does not exist; check",
        "empty.png": "is empty .* download it again",
        "page.jpg": "web page.* download the picture",
        "text.png": "not an image .* use a complete JPEG",
        ".": "is a folder; give one image file",
    }
    for name, message in cases.items():
        with pytest.raises(InputError, match=message):
            read_picture(tmp_path / name)
    for name in ("a\0b", "x" * 5000):
        with pytest.raises(InputError):
            read_picture(name)
    with pytest.raises(InputError, match="download it"):
        read_picture("https://example.org/a.png")
    monkeypatch.setattr(pictures, "MAX_BYTES", 4)
    with pytest.raises(InputError, match="limit is"):
        read_picture(tmp_path / "text.png")


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "JPEG2000"])
def test_truncated_files_are_refused_as_damaged(kind: str) -> None:
    if kind == "JPEG2000" and not features.check("jpg_2000"):
        pytest.skip("this Pillow cannot write JPEG 2000")
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    data = encode(Image.fromarray(noise), kind)
    assert read_picture(data).rgb.shape == (64, 64, 3)
    with pytest.raises(InputError, match=r"damaged|complete"):
        read_picture(data[: len(data) // 2])


def test_no_damage_escapes_as_a_foreign_exception() -> None:
    random = np.random.default_rng(0)
    images = [Image.fromarray(random.integers(0, 256, (16, 16, 3), dtype=np.uint8))]
    outcomes = {True: 0, False: 0}
    for kind in ("PNG", "JPEG", "GIF", "BMP", "WEBP", "PPM", "TGA"):
        whole = encode(images[0], kind)
        for _ in range(30):
            data = bytearray(whole)
            for _ in range(4):
                data[random.integers(len(data))] = random.integers(256)
            try:
                picture = read_picture(bytes(data))
                outcomes[True] += 1
                assert np.isfinite(picture.rgb).all()
            except InputError:
                outcomes[False] += 1
    assert min(outcomes.values()) > 20


class Sulking:
    def read(self, size: int = -1) -> bytes:
        raise RuntimeError("not today")


@pytest.mark.parametrize("stream", [io.StringIO("text"), io.BytesIO(b""), Sulking()])
def test_unusable_streams_are_refused(stream: object) -> None:
    with pytest.raises(InputError, match=r"mode 'rb'|seek\(0\)"):
        read_picture(stream)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((3, 8, 9)), r"transpose\(1, 2, 0\)"),
        (np.zeros((8, 8, 5)), "channels last"),
        (np.zeros((1, 8, 8, 3)), "one picture"),
        (np.zeros((0, 8, 3)), "no pixels"),
        (np.float32(3), "no axes"),
        (np.full((8, 8, 3), np.nan), "192 of the array's 192 values are NaN"),
        (np.full((8, 8), np.inf), "NaN or infinite"),
        (np.full((8, 8, 3), 200.0), "divide it by 255"),
        (np.full((8, 8, 3), -3.0), "scale it to 0–1"),
        (np.zeros((8, 8, 3), np.int64), r"astype\('uint8'\)"),
        (np.zeros((8, 8), bool), "mask="),
        (np.zeros((8, 8), object), "dtype object"),
        (np.zeros((8, 8), complex), "dtype complex"),
    ],
)
def test_arrays_that_cannot_be_meant_are_refused_with_a_remedy(array: np.ndarray, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_picture(array)


def test_array_types_share_one_range() -> None:
    for array in (
        np.full((4, 4), 255, np.uint8),
        np.full((4, 4, 1), 65535, np.uint16),
        np.ones((4, 4, 2), np.float64),
        torch.ones(4, 4, 4, dtype=torch.bfloat16, requires_grad=True),
    ):
        picture = read_picture(array)
        assert picture.rgb.shape == (4, 4, 3) and picture.rgb.dtype == np.float32 and (picture.rgb == 1).all()


def test_objects_that_are_no_picture_are_refused() -> None:
    for source in (None, 3, ["a.png"], {}):
        with pytest.raises(InputError, match="give a path"):
            read_picture(source)


def test_heic_without_its_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(MissingPackageError, match=r"obverse\[heic\]"):
        read_picture(b"\0\0\0\x18ftypheic" + bytes(32))


def test_heic_is_read_where_its_package_is() -> None:
    pillow_heif = pytest.importorskip("pillow_heif")
    pillow_heif.register_heif_opener()
    picture = read_picture(encode(Image.new("RGB", (64, 64), "red"), "HEIF", quality=95))
    assert picture.source.format == "HEIF"
    assert np.abs(picture.rgb - [1, 0, 0]).max() < 0.1


def maker_note(x: int, y: int, z: int, divisor: int = 1000) -> bytes:
    entry = struct.pack(">HHHII", 1, 8, 10, 3, 32)
    return b"Apple iOS\0\0\1MM" + entry + bytes(4) + struct.pack(">6i", x, divisor, y, divisor, z, divisor)


def test_a_phone_says_how_far_down_it_looked() -> None:
    assert pitch_from_maker_note(maker_note(0, 0, -1000)) == pytest.approx(90)
    assert pitch_from_maker_note(maker_note(0, -1000, 0)) == pytest.approx(0)
    assert pitch_from_maker_note(maker_note(0, -707, -707)) == pytest.approx(45)
    for unusable in (None, b"", b"Apple iOS\0\0\1MM", maker_note(0, 0, 0), maker_note(0, 0, 1, 0), b"Nikon" * 9):
        assert pitch_from_maker_note(unusable) is None


def test_a_pitch_in_a_photo_is_read(pixels: np.ndarray) -> None:
    image = Image.fromarray(pixels)
    exif = image.getexif()
    exif.get_ifd(0x8769)[0x927C] = maker_note(0, 0, -1000)
    picture = read_picture(encode(image, "JPEG", exif=exif))
    assert picture.pitch_down_deg == pytest.approx(90)
