"""From a photo to a Subject: crop, colours, options, and every check firing and not firing."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import numpy as np
import pytest
import torch

from obverse.checks import Scene, check_subject, read_as_steep
from obverse.errors import InputError, NoObjectError, UsageError
from obverse.photo import Subject, clean_colors, read_photo

PHOTOS = Path(os.environ.get("OBVERSE_PHOTOS", Path(__file__).parents[2] / "shared" / "photos"))


def drawing(height: int = 200, width: int = 240, *, color: tuple[float, ...] = (0.7, 0.2, 0.1)) -> np.ndarray:
    """A striped block, 100 high and 60 wide, on light grey → uint8 [H, W, 3]."""
    photo = np.full((height, width, 3), 0.85)
    photo[50:150, 80:140] = color
    photo[50:150:10, 80:140] *= 0.5
    return (photo * 255).astype(np.uint8)


def with_alpha(alpha: np.ndarray) -> np.ndarray:
    return np.dstack([np.full((*alpha.shape, 3), 150, np.uint8), alpha.astype(np.uint8)])


def names(subject: Subject) -> set[str]:
    return {check.name for check in subject.checks}


def test_the_crop_is_a_square_copy_with_the_object_at_the_chosen_ratio() -> None:
    photo = drawing()
    for ratio in (0.85, 0.5, 1.0):
        subject = read_photo(photo, foreground_ratio=ratio)
        x, y, side = subject.crop
        assert subject.rgba.shape == (side, side, 4) and subject.rgba.dtype == torch.float32
        rows = torch.where((subject.rgba[..., 3] > 0.5).any(1))[0]
        assert abs((rows[-1] - rows[0] + 1) / side - ratio) < 0.02
        assert abs(x + side / 2 - 110) <= 1 and abs(y + side / 2 - 100) <= 1
        core = subject.rgba[60 - y : 140 - y, 90 - x : 130 - x, :3]
        assert torch.equal(core, torch.from_numpy(photo[60:140, 90:130]).float() / 255)


def test_a_crop_that_leaves_the_photo_is_transparent_there() -> None:
    alpha = np.zeros((80, 80))
    alpha[10:70, 0:20] = 255
    subject = read_photo(with_alpha(alpha))
    x, _, side = subject.crop
    assert x < 0 and subject.rgba.shape == (side, side, 4)
    assert subject.rgba[:, :-x, 3].max() == 0


def test_the_photo_and_its_alpha_have_one_size() -> None:
    subject = read_photo(drawing())
    assert subject.photo.shape == (200, 240, 3) and subject.alpha.shape == (200, 240)
    assert subject.matte == "border" and 0.5 < subject.confidence <= 1


def test_colours_continue_past_the_rim_and_hold_no_background() -> None:
    subject = read_photo(drawing(color=(0.1, 0.3, 0.7)))
    x, y, _ = subject.crop
    past = subject.rgba[100 - y, 140 + 6 - x]
    assert past[3] == 0
    assert past[2] > past[0] + 0.2  # blue, not the light grey that is there in the photo


def test_clean_colours_ignore_what_shines_through() -> None:
    alpha = np.zeros((9, 9), np.float32)
    alpha[3:6, 1:8] = 1
    alpha[2, 1:8] = 0.2
    rgb = np.where(alpha[..., None] == 1, np.float32([1, 0, 0]), np.float32([0, 1, 0])).astype(np.float32)
    cleaned = clean_colors(rgb, alpha)
    assert np.allclose(cleaned[2, 2:7], [0.96, 0.04, 0])  # α² = 0.04 of its own colour
    assert np.allclose(cleaned[0], [1, 0, 0])


def test_clean_colours_survive_masks_without_a_solid_pixel() -> None:
    rgb = np.random.default_rng(0).random((5, 5, 3)).astype(np.float32)
    for level in (0.0, 0.3, 0.7, 1.0):
        assert np.isfinite(clean_colors(rgb, np.full((5, 5), level, np.float32))).all()


def test_the_cutout_has_the_photos_size_and_nothing_outside() -> None:
    subject = read_photo(drawing())
    assert subject.cutout.shape == (200, 240, 4)
    assert torch.equal(subject.cutout[..., 3], subject.alpha)
    assert subject.cutout[0, 0].max() == 0
    assert torch.equal(subject.cutout[100, 110, :3], subject.photo[100, 110])


def test_resizing_averages_and_weighs_colours_by_alpha() -> None:
    subject = read_photo(drawing())
    small = subject.resized(32)
    assert small.shape == (32, 32, 4)
    assert small[..., 3].mean() == pytest.approx(float(subject.rgba[..., 3].mean()), abs=0.01)
    red = small[small[..., 3] > 0.2]
    assert len(red) > 100 and (red[:, 0] > red[:, 1] * 1.5).all()  # no grey from outside
    assert subject.resized(subject.rgba.shape[0]) is subject.rgba
    assert subject.resized(512).shape == (512, 512, 4)
    for size in (0, 9000, 2.5):
        with pytest.raises(UsageError, match="512 suits"):
            subject.resized(size)


def test_a_tiny_object_is_enlarged_and_says_so() -> None:
    alpha = np.zeros((40, 40))
    alpha[15:25, 18:22] = 255
    subject = read_photo(with_alpha(alpha))
    assert subject.rgba.shape == (64, 64, 4) and subject.crop[2] == 12
    assert "too-small" in names(subject)
    assert subject.cutout.shape == (40, 40, 4)


def test_large_photos_are_reduced_and_crops_stay_within_max_side() -> None:
    alpha = np.full((300, 400), 255)
    alpha[:9] = 0
    subject = read_photo(with_alpha(alpha), max_side=128)
    assert subject.photo.shape == (96, 128, 3) and subject.rgba.shape == (128, 128, 4) and subject.crop[2] > 128
    assert "reduced" in names(subject)


# ------------------------------------------------------------------------------------------- cutting out


def test_auto_prefers_the_photos_own_alpha_unless_it_says_nothing() -> None:
    alpha = np.zeros((200, 240))
    alpha[60:140, 60:200] = 255
    rgba = np.dstack([drawing(), alpha.astype(np.uint8)])
    subject = read_photo(rgba)
    assert subject.matte == "alpha" and subject.confidence == 1
    assert torch.equal(subject.alpha, torch.from_numpy(alpha).float() / 255)
    rgba[..., 3] = 255
    assert read_photo(rgba).matte == "border"


def test_alpha_is_demanded_in_vain_from_an_opaque_photo() -> None:
    with pytest.raises(InputError, match="no alpha channel; use matte 'auto'"):
        read_photo(drawing(), matte="alpha")


def test_none_takes_the_whole_picture() -> None:
    subject = read_photo(drawing(), matte="none")
    assert subject.matte == "none" and subject.alpha.min() == 1
    assert not names(subject) & {"touches-border", "covers-everything"}


def test_a_texture_goes_to_grabcut() -> None:
    photo = drawing()
    texture = np.random.default_rng(0).integers(90, 200, (200, 240, 1), dtype=np.uint8)
    outside = np.ones((200, 240), bool)
    outside[50:150, 80:140] = False
    photo[outside] = np.repeat(texture, 3, axis=2)[outside]
    subject = read_photo(photo)
    assert subject.matte == "grabcut"
    assert subject.alpha[60:140, 85:135].min() > 0.9


@pytest.mark.parametrize("kind", ["bool", "uint8", "float", "tensor", "rgba", "half size"])
def test_masks_of_every_kind_are_used(kind: str) -> None:
    mask = np.zeros((200, 240), bool)
    mask[40:160, 70:150] = True
    given = {
        "bool": mask,
        "uint8": mask.astype(np.uint8) * 255,
        "float": mask.astype(float),
        "tensor": torch.from_numpy(mask),
        "rgba": with_alpha(mask * 255),
        "half size": mask[::2, ::2],
    }[kind]
    subject = read_photo(drawing(), mask=given)
    assert subject.matte == "mask"
    assert (subject.alpha.numpy() - mask).__abs__().mean() < 0.01


def test_masks_that_do_not_fit_are_refused() -> None:
    with pytest.raises(InputError, match="mask is 100x100 and the photo 240x200"):
        read_photo(drawing(), mask=np.ones((100, 100)))
    with pytest.raises(InputError, match=r"the mask cannot be used: .*does not exist"):
        read_photo(drawing(), mask="nowhere.png")
    with pytest.raises(NoObjectError, match="white on black"):
        read_photo(drawing(), mask=np.zeros((200, 240)))


def test_a_box_is_given_in_pixels_of_the_photo_before_reduction() -> None:
    photo = drawing(400, 480)
    photo[250:350, 300:400] = (20, 60, 200)
    subject = read_photo(photo, box=(280, 230, 140, 140), max_side=240)
    assert subject.matte == "box"
    assert subject.alpha[130:170, 155:195].min() > 0.9 and subject.alpha[20:80, 35:75].max() == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"matte": "magic"}, "choose one of auto, alpha"),
        ({"box": (1, 2, 3)}, "four numbers"),
        ({"box": "abcd"}, "four numbers"),
        ({"box": (0, 0, float("nan"), 5)}, "finite"),
        ({"box": (0, 0, 0, 5)}, "at least 1 pixel"),
        ({"box": (900, 900, 50, 50)}, "outside the photo, which is 240x200"),
        ({"box": (0, 0, 9, 9), "mask": np.ones((200, 240))}, "give one of them"),
        ({"matte": "alpha", "mask": np.ones((200, 240))}, "exclude each other"),
        ({"matte": "border", "box": (0, 0, 9, 9)}, "exclude each other"),
        ({"foreground_ratio": 0.0}, "from 0.1 to 1"),
        ({"foreground_ratio": float("nan")}, "from 0.1 to 1"),
        ({"foreground_ratio": "big"}, "from 0.1 to 1"),
        ({"max_side": 10}, "from 64 to 8192"),
        ({"max_side": 512.0}, "from 64 to 8192"),
    ],
)
def test_options_that_cannot_be_meant_are_refused(options: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        read_photo(drawing(), **options)


def test_nothing_found_has_its_own_error() -> None:
    for photo in (np.full((64, 64, 3), 200, np.uint8), with_alpha(np.zeros((64, 64))), np.zeros((1, 1), np.uint8)):
        with pytest.raises(NoObjectError, match=r"no object found .* the least is 0\.05 %"):
            read_photo(photo)


@pytest.mark.parametrize("shape", [(1, 1), (2, 2), (1, 300), (2, 3000), (9, 7), (33, 65)])
def test_odd_shapes_give_a_subject_or_an_error_of_ours(shape: tuple[int, int]) -> None:
    photo = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    assert read_photo(photo, matte="none").rgba.shape[2] == 4
    for matte in ("auto", "border", "grabcut"):
        try:
            subject = read_photo(photo, matte=matte)
        except NoObjectError:
            continue
        assert torch.isfinite(subject.rgba).all()


# ------------------------------------------------------------------------------------------------ checks


def block(rows: slice, columns: slice, *, size: int = 400) -> np.ndarray:
    alpha = np.zeros((size, size))
    alpha[rows, columns] = 255
    return alpha


GOOD = block(slice(60, 340), slice(100, 300))


def sharp_photo(alpha: np.ndarray) -> np.ndarray:
    """Random blocks of 8 pixels, so that nothing is blurred."""
    random = np.random.default_rng(0)
    coarse = random.integers(40, 220, (alpha.shape[0] // 8, alpha.shape[1] // 8, 3), dtype=np.uint8)
    return np.dstack([coarse.repeat(8, axis=0).repeat(8, axis=1), alpha.astype(np.uint8)])


def test_a_good_photo_raises_no_check() -> None:
    assert read_photo(sharp_photo(GOOD)).checks == ()


@pytest.mark.parametrize(
    ("name", "alpha"),
    [
        ("touches-border", block(slice(60, 400), slice(100, 300))),
        ("covers-everything", block(slice(4, 396), slice(4, 396))),
        ("several-objects", block(slice(60, 340), slice(40, 150)) + block(slice(60, 340), slice(250, 360))),
        ("too-small", block(slice(180, 240), slice(180, 240))),
    ],
)
def test_checks_of_the_silhouette_fire_alone(name: str, alpha: np.ndarray) -> None:
    subject = read_photo(sharp_photo(alpha))
    assert names(subject) == {name}
    check = subject.checks[0]
    assert check.severity == "warning" and check.remedy and name in str(check)
    assert np.isfinite(check.value)


def test_low_contrast_depends_on_the_background() -> None:
    mask = GOOD / 255
    for background, fires in ((120, True), (250, False)):
        photo = np.full((400, 400, 3), background, np.uint8)
        photo[mask > 0] = 110
        subject = read_photo(photo, mask=mask)
        assert ("low-contrast" in names(subject)) is fires


def test_blur_is_noticed_and_sharpness_is_not_mistaken_for_it() -> None:
    import cv2

    photo = sharp_photo(GOOD)
    assert "blurred" not in names(read_photo(photo))
    photo[..., :3] = cv2.GaussianBlur(photo[..., :3], (0, 0), 4)
    subject = read_photo(photo)
    assert names(subject) == {"blurred"}


def test_a_plain_object_is_not_called_blurred() -> None:
    assert "blurred" not in names(read_photo(with_alpha(GOOD)))


def test_a_busy_picture_looks_like_a_scene_and_a_studio_does_not() -> None:
    scene = np.repeat(sharp_photo(GOOD)[..., :3], 1, axis=0)
    scene[GOOD > 0] = (250, 20, 20)
    busy = read_photo(scene, matte="grabcut")
    assert "looks-like-a-scene" in names(busy)
    assert "looks-like-a-scene" not in names(read_photo(drawing(), matte="grabcut"))


def test_a_steep_view_is_told_by_the_phone() -> None:
    rgb, alpha = np.zeros((200, 200, 3), np.float32), np.zeros((200, 200), np.float32)
    alpha[20:180, 20:180] = 1
    for pitch, fires in ((80.0, True), (20.0, False), (None, False)):
        found = check_subject(Scene(rgb, alpha, "alpha", 1.0, pitch))
        assert ("top-down-view" in {check.name for check in found}) is fires


def test_a_steep_view_is_told_by_the_model() -> None:
    for degrees, fires in ((33.0, True), (20.0, False), (None, False)):
        found = read_as_steep(degrees)
        assert (found is not None and "33 degrees, more than 30" in found.message) is fires


def test_doubt_is_said_below_one_half() -> None:
    rgb, alpha = np.zeros((200, 200, 3), np.float32), np.zeros((200, 200), np.float32)
    alpha[20:180, 20:180] = 1
    for confidence, fires in ((0.3, True), (0.8, False)):
        found = check_subject(Scene(rgb, alpha, "alpha", confidence))
        assert ("doubtful-cut-out" in {check.name for check in found}) is fires


def test_notes_about_the_file_come_with_the_subject(tmp_path: Path) -> None:
    from PIL import Image

    frames = [Image.fromarray(drawing()), Image.fromarray(drawing()[::-1])]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    subject = read_photo(tmp_path / "a.gif")
    assert [check.severity for check in subject.checks if check.name == "first-frame"] == ["note"]
    assert subject.source.name == "a.gif" and struct.calcsize("B") * len(subject.source.sha256) == 64


@pytest.mark.skipif(not PHOTOS.is_dir(), reason="the example photos are not beside this checkout")
def test_real_photos_are_cut_out_as_expected() -> None:
    expected = {"teapot.jpg": "border", "cake.jpg": "border", "cat_statue.jpg": "grabcut", "chair.png": "alpha"}
    for name, matte in expected.items():
        subject = read_photo(PHOTOS / name)
        assert subject.matte == matte and subject.confidence > 0.6
        assert not names(subject) & {"touches-border", "several-objects", "covers-everything", "doubtful-cut-out"}
