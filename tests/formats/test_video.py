"""Turntables: the frames, their times, and the loop."""

import hashlib
import io
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from obverse.errors import InputError, MissingPackageError, UsageError
from obverse.formats.video import read_video, write_video


def ramp(count=6, height=48, width=64):
    """A bright bar that walks to the right over a grey ground."""
    frames = np.full((count, height, width, 3), 0.5, dtype=np.float32)
    for i in range(count):
        frames[i, :, 8 * i : 8 * i + 8] = (0.9, 0.2, 0.1)
    return frames


@pytest.mark.parametrize("extension", ["webp", "gif", "mp4"])
def test_frames_come_back_in_order(tmp_path, extension):
    if extension == "mp4":
        pytest.importorskip("imageio_ffmpeg", reason="needs imageio-ffmpeg")
    [path] = write_video(torch.from_numpy(ramp()), tmp_path / f"a.{extension}", fps=10)
    found = read_video(path)
    assert found.shape == (6, 48, 64, 3) and found.dtype == np.float32
    np.testing.assert_allclose(found.mean(axis=(1, 2)), ramp().mean(axis=(1, 2)), atol=0.02)
    for i in range(6):
        assert found[i, :, 8 * i + 2 : 8 * i + 6, 0].mean() == pytest.approx(0.9, abs=0.06)
        assert found[i, :, 8 * i + 2 : 8 * i + 6, 2].mean() == pytest.approx(0.1, abs=0.06)


@pytest.mark.parametrize(("extension", "expected"), [("webp", [33, 34, 33] * 2), ("gif", [30, 40, 30] * 2)])
def test_times_add_up_and_the_film_loops_forever(tmp_path, extension, expected):
    [path] = write_video(ramp(), tmp_path / f"a.{extension}", fps=30)
    with Image.open(path) as image:
        times = []
        for i in range(image.n_frames):
            image.seek(i)
            image.load()
            times.append(image.info["duration"])
        assert image.info["loop"] == 0
    assert times == expected


@pytest.mark.parametrize("extension", ["webp", "gif", "mp4"])
def test_the_same_frames_give_the_same_bytes(tmp_path, extension):
    if extension == "mp4":
        pytest.importorskip("imageio_ffmpeg", reason="needs imageio-ffmpeg")
    paths = [write_video(ramp(), tmp_path / f"{i}.{extension}")[0] for i in range(2)]
    assert len({hashlib.sha256(path.read_bytes()).digest() for path in paths}) == 1


def test_odd_sides_are_padded_for_mp4(tmp_path):
    pytest.importorskip("imageio_ffmpeg", reason="needs imageio-ffmpeg")
    found = read_video(write_video(ramp(height=47, width=63), tmp_path / "a.mp4")[0])
    assert found.shape == (6, 48, 64, 3)


def test_odd_sides_stay_in_webp_and_gif(tmp_path):
    for name in ("a.webp", "a.gif"):
        assert read_video(write_video(ramp(height=47, width=63), tmp_path / name)[0]).shape == (6, 47, 63, 3)


def test_one_frame_is_a_film_too(tmp_path):
    for name in ("a.webp", "a.gif"):
        assert read_video(write_video(ramp(1), tmp_path / name)[0]).shape[0] == 1


def test_webp_holds_still_frames_of_full_size(tmp_path):
    data = write_video(ramp(), tmp_path / "a.webp")[0].read_bytes()
    assert (data[:4], data[8:16]) == (b"RIFF", b"WEBPVP8X")
    assert int.from_bytes(data[4:8], "little") + 8 == len(data)
    assert data.count(b"ANMF") == 6


@pytest.mark.parametrize(
    ("frames", "message"),
    [
        (np.zeros((0, 4, 4, 3), np.float32), "at least one frame"),
        (np.zeros((2, 4, 4), np.float32), r"\[2, 4, 4\], expected \[T, H, W, 3\]"),
        (np.zeros((2, 4, 4, 4), np.float32), r"expected \[T, H, W, 3\]"),
        (np.zeros((2, 4, 4, 3), np.uint8), "divide bytes by 255"),
        (np.full((2, 4, 4, 3), np.nan), "not finite"),
    ],
)
def test_other_shapes_are_refused(tmp_path, frames, message):
    with pytest.raises(InputError, match=message):
        write_video(frames, tmp_path / "a.webp")


@pytest.mark.parametrize("fps", [0, -1, 1000, float("nan")])
def test_impossible_rates_are_refused(tmp_path, fps):
    with pytest.raises(UsageError, match="fps"):
        write_video(ramp(), tmp_path / "a.gif", fps=fps)


def test_unknown_extensions_are_named(tmp_path):
    with pytest.raises(UsageError, match=r"\.webp, \.gif, \.mp4"):
        write_video(ramp(), tmp_path / "a.avi")
    with pytest.raises(InputError, match=r"\.webp, \.gif, \.mp4"):
        read_video(tmp_path / "a.avi")


def test_mp4_without_its_package_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    with pytest.raises(MissingPackageError, match=r'pip install "obverse\[video\]"'):
        write_video(ramp(), tmp_path / "a.mp4")
    assert list(tmp_path.iterdir()) == []


def test_transparency_is_read_over_white(tmp_path):
    buffer = io.BytesIO()
    Image.new("RGBA", (4, 4), (0, 0, 0, 0)).save(buffer, "WEBP", lossless=True)
    (tmp_path / "a.webp").write_bytes(buffer.getvalue())
    assert (read_video(tmp_path / "a.webp") == 1).all()
