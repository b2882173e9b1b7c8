"""Cut-outs of drawn scenes whose true silhouette is known."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from obverse.backdrop import border_matte, fit_studio
from obverse.errors import MissingPackageError, WeightsError
from obverse.matte import edge_support, grabcut_matte, refine, rembg_matte, solidity, tidy
from obverse.outline import edge_cost, least_cut, object_evidence, to_lab
from obverse.photo import read_photo

EXAMPLES = Path(__file__).parents[1] / "examples"
SIDE = 192
BLUE, GREY, DARK, WHITE = (0.2, 0.4, 0.8), (0.5, 0.5, 0.5), (0.08, 0.08, 0.08), (0.95, 0.95, 0.95)


def backdrop(kind: str, side: int) -> np.ndarray:
    y, x = np.mgrid[0:side, 0:side] / side
    light = {
        "white": np.full_like(x, 0.99),
        "gradient": 0.55 + 0.35 * y,
        "dark": np.full_like(x, 0.04),
        "vignette": 0.85 - 0.5 * ((x - 0.5) ** 2 + (y - 0.5) ** 2),
    }[kind]
    return light[..., None] * np.array([0.97, 1.0, 1.03] if kind == "vignette" else [1.0, 1.0, 1.0])


def mug(kind: str, color: tuple[float, ...], *, shadow: float = 0.45) -> tuple[np.ndarray, np.ndarray]:
    """A mug with an open handle and a contact shadow → photo [192, 192, 3], true alpha [192, 192]."""
    side = 3 * SIDE
    y, x = np.mgrid[0:side, 0:side] / side
    dark = shadow * np.exp(-(((x - 0.45) / 0.3) ** 2 + ((y - 0.80) / 0.045) ** 2))
    radius = np.hypot(x - 0.62, y - 0.5)
    body = (np.abs(x - 0.42) < 0.2) & (y > 0.25) & (y < 0.8)
    mask = body | ((radius < 0.16) & (radius > 0.10) & (x > 0.6))
    shade = (0.6 + 0.4 * np.cos((x - 0.38) * 5))[..., None]
    photo = np.where(mask[..., None], np.array(color) * shade, backdrop(kind, side) * (1 - dark)[..., None])
    grain = np.random.default_rng(0).normal(0, 0.005, (SIDE, SIDE, 3))
    return np.clip(shrunk(photo) + grain, 0, 1).astype(np.float32), shrunk(mask)


def shrunk(pixels: np.ndarray) -> np.ndarray:
    return pixels.reshape(SIDE, 3, SIDE, 3, *pixels.shape[2:]).mean(axis=(1, 3)).astype(np.float32)


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    """Intersection over union of two alphas."""
    return float(np.minimum(a, b).sum() / np.maximum(a, b).sum())


@pytest.mark.parametrize("kind", ["white", "gradient", "dark", "vignette"])
@pytest.mark.parametrize("color", [BLUE, (0.8, 0.3, 0.1)])
def test_a_coloured_mug_is_cut_from_a_studio_backdrop_without_its_shadow(kind: str, color: tuple[float, ...]) -> None:
    photo, truth = mug(kind, color)
    assert overlap(border_matte(photo).alpha, truth) > 0.97


@pytest.mark.parametrize("kind", ["white", "gradient", "vignette"])
def test_a_black_mug_is_cut_from_light_backdrops(kind: str) -> None:
    photo, truth = mug(kind, DARK)
    assert overlap(border_matte(photo).alpha, truth) > 0.97


def test_a_grey_mug_on_grey_keeps_its_body() -> None:
    photo, truth = mug("vignette", GREY)
    assert overlap(border_matte(photo).alpha, truth) > 0.9


def test_the_hole_of_a_handle_stays_open() -> None:
    for kind in ("white", "gradient"):
        photo, truth = mug(kind, BLUE)
        hole = np.s_[round(0.46 * SIDE) : round(0.54 * SIDE), round(0.645 * SIDE) : round(0.69 * SIDE)]
        assert truth[hole].max() == 0
        assert border_matte(photo).alpha[hole].max() < 0.05


def test_a_ring_is_open_in_both_methods() -> None:
    y, x = np.mgrid[0:SIDE, 0:SIDE] - (SIDE - 1) / 2
    radius = np.hypot(x, y)
    truth = ((radius < 70) & (radius > 45)).astype(np.float32)
    photo = (backdrop("gradient", SIDE) * (1 - truth[..., None]) + truth[..., None] * np.array([0.7, 0.5, 0.1])).astype(
        np.float32
    )
    for matte in (border_matte(photo), grabcut_matte(photo)):
        assert overlap(matte.alpha, truth) > 0.95
        assert matte.alpha[radius < 40].max() < 0.05


def test_a_pale_belt_that_meets_the_backdrop_keeps_its_outline() -> None:
    photo, truth = mug("gradient", BLUE)
    clean = 0.55 + 0.35 * np.arange(SIDE)[:, None] / SIDE
    rows = np.s_[80:115]
    belt = (truth[rows] == 1) & (np.arange(SIDE) < 0.62 * SIDE)
    pale = clean[rows, :, None] * np.array([1.03, 1.0, 0.91])
    photo[rows][belt] = np.broadcast_to(pale, (*belt.shape, 3))[belt]
    matte = border_matte(photo)
    assert overlap(matte.alpha, truth) > 0.97
    left = (matte.alpha[rows] > 0.5).argmax(axis=1)
    assert np.abs(left - (truth[rows] > 0.5).argmax(axis=1)).max() <= 2


def test_a_grey_part_with_a_crisp_edge_is_not_taken_for_shadow() -> None:
    truth = np.zeros((SIDE, SIDE), np.float32)
    truth[60:160, 50:140] = 1
    photo = np.where(truth[..., None] > 0, np.float32([0.5, 0.15, 0.15]), np.float32(0.98)).astype(np.float32)
    truth[48:60, 88:102] = 1
    photo[48:60, 88:102] = 0.4
    assert border_matte(photo).alpha[50:58, 90:100].min() > 0.9


def pale_topped_car() -> tuple[np.ndarray, np.ndarray]:
    """A red block with a cream roof on a table before a blurred shelf → photo [192, 192, 3], truth [192, 192]."""
    side = 3 * SIDE
    y, x = np.mgrid[0:side, 0:side] / side
    wall = np.array([0.55, 0.58, 0.58]) * np.ones((side, side, 1))
    books = (0.5 + 0.5 * np.tanh((0.2 - y) * 30))[..., None] * (0.5 + 0.5 * np.sin(x * 50))[..., None]
    wall = wall * (1 - books) + books * np.array([0.8, 0.75, 0.65])
    grain = 1 + 0.08 * np.sin(y * 90 + 2 * np.sin(x * 9))
    table = np.array([0.62, 0.43, 0.27]) * grain[..., None]
    table = table * (1 - 0.6 * np.exp(-(((x - 0.55) / 0.3) ** 2 + ((y - 0.76) / 0.05) ** 2)))[..., None]
    body = (np.abs(x - 0.5) < 0.3) & (y > 0.5) & (y < 0.75)
    roof = (np.abs(x - 0.45) < 0.17) & (y > 0.41) & (y <= 0.5)
    photo = np.where((y > 0.46)[..., None], table, wall)
    photo = np.where(body[..., None], np.array([0.8, 0.2, 0.12]), photo)
    photo = np.where(roof[..., None], np.array([0.78, 0.75, 0.68]), photo)
    noise = np.random.default_rng(0).normal(0, 0.005, (SIDE, SIDE, 3))
    return np.clip(shrunk(photo) + noise, 0, 1).astype(np.float32), shrunk(body | roof)


def test_a_pale_roof_stays_and_the_shadow_on_the_table_goes() -> None:
    photo, truth = pale_topped_car()
    assert overlap(grabcut_matte(photo).alpha, truth) > 0.96


def test_the_example_mug_is_open_at_its_handle_and_rid_of_its_shadow() -> None:
    subject = read_photo(EXAMPLES / "mug.jpg")
    alpha = subject.alpha.numpy()
    assert subject.matte == "border" and subject.confidence > 0.7
    assert alpha[470:530, 710:770].max() == 0  # the hole
    assert alpha[845:, :].max() == 0 and alpha[828:834, 636:646].max() == 0  # beneath the foot
    assert alpha[300:720, 260:600].min() == 1
    rows = np.arange(330, 700, 4)
    left = (alpha[rows] > 0.5).argmax(axis=1)
    off = np.abs(left - np.polyval(np.polyfit(rows, left, 3), rows))
    assert off.max() < 5 and np.percentile(off, 95) < 3  # the side is smooth, pale belt included


def test_the_example_car_keeps_roof_and_bumper_and_leaves_the_table() -> None:
    subject = read_photo(EXAMPLES / "toy_car.jpg")
    alpha = subject.alpha.numpy()
    for name, x, y in (("roof", 430, 330), ("pillar", 345, 420), ("bumper", 790, 690), ("headlight", 840, 540)):
        assert alpha[y - 3 : y + 4, x - 3 : x + 4].min() > 0.95, name
    for name, x, y in (("shadow", 820, 760), ("table", 500, 900), ("shelf", 500, 150), ("wall", 430, 280)):
        assert alpha[y - 3 : y + 4, x - 3 : x + 4].max() == 0, name
    assert subject.confidence > 0.6
    assert "several-objects" not in {check.name for check in subject.checks}


def test_a_cut_out_that_failed_is_called_doubtful() -> None:
    photo, truth = mug("vignette", WHITE)
    assert overlap(border_matte(photo).alpha, truth) < 0.5  # white before white: the body is lost
    assert border_matte(photo).confidence < 0.5
    assert "doubtful-cut-out" in {check.name for check in read_photo(photo).checks}


def test_a_highlight_with_the_backdrops_colour_is_not_a_hole() -> None:
    photo, truth = mug("white", BLUE)
    y, x = np.mgrid[0:SIDE, 0:SIDE]
    glow = np.exp(-((x - 70) ** 2 + (y - 90) ** 2) / 250.0)[..., None]  # soft, as highlights are
    photo = (photo * (1 - glow) + glow).astype(np.float32)
    assert border_matte(photo).alpha[truth == 1].min() > 0.9


def test_edges_are_soft_where_pixels_are_shared() -> None:
    photo, truth = mug("white", BLUE, shadow=0)
    alpha = border_matte(photo).alpha
    shared = (truth > 0.2) & (truth < 0.8)
    assert shared.sum() > 50
    assert np.abs(alpha - truth)[shared].mean() < 0.15


def test_the_backdrop_model_fits_studios_and_not_textures() -> None:
    assert fit_studio(mug("vignette", BLUE)[0]).fits
    noise = np.random.default_rng(0).random((SIDE, SIDE, 3)).astype(np.float32)
    assert not fit_studio(noise).fits


def test_the_backdrop_is_recovered_behind_the_object() -> None:
    photo, _ = mug("vignette", BLUE, shadow=0)
    field = fit_studio(photo).field
    assert np.abs(field - shrunk(backdrop("vignette", 3 * SIDE))).max() < 0.06


def test_grabcut_separates_an_object_from_a_texture() -> None:
    _, truth = mug("white", BLUE)
    random = np.random.default_rng(0)
    texture = np.array([0.5, 0.45, 0.2]) * random.uniform(0.6, 1.2, (SIDE, SIDE, 1))
    photo = np.clip(texture * (1 - truth[..., None]) + np.array(BLUE) * truth[..., None], 0, 1).astype(np.float32)
    matte = grabcut_matte(photo)
    assert matte.kind == "grabcut" and matte.confidence > 0.5
    assert overlap(matte.alpha, truth) > 0.93


def test_a_box_chooses_between_two_objects() -> None:
    photo = np.full((96, 160, 3), 0.8, np.float32)
    photo[30:70, 20:60] = (0.7, 0.1, 0.1)
    photo[30:70, 100:140] = (0.1, 0.2, 0.7)
    matte = grabcut_matte(photo, box=(90, 20, 60, 60))
    assert matte.kind == "box"
    assert matte.alpha[40:60, 105:135].min() > 0.95 and matte.alpha[:, :85].max() == 0


def test_the_same_photo_gives_the_same_cut_out_twice() -> None:
    photo, _ = mug("gradient", BLUE)
    first = grabcut_matte(photo).alpha
    np.random.default_rng().random()
    assert np.array_equal(first, grabcut_matte(photo).alpha)


def test_confidence_is_lower_where_object_and_backdrop_are_alike() -> None:
    clear, faint = border_matte(mug("white", BLUE)[0]), border_matte(mug("dark", DARK)[0])
    assert clear.confidence > 0.8 > 0.6 > faint.confidence


def test_nothing_is_found_in_an_empty_backdrop() -> None:
    assert border_matte(backdrop("gradient", SIDE).astype(np.float32)).alpha.max() == 0


def test_tiny_pictures_do_not_fail() -> None:
    for shape in ((1, 1), (1, 50), (50, 1), (2, 3), (7, 9), (8, 8)):
        photo = np.random.default_rng(0).random((*shape, 3)).astype(np.float32)
        for matte in (border_matte(photo), grabcut_matte(photo)):
            assert matte.alpha.shape == shape and np.isfinite(matte.alpha).all()


def test_refining_restores_an_edge_at_full_resolution() -> None:
    y, x = np.mgrid[0:256, 0:256] - 127.5
    truth = (np.hypot(x, y) < 80).astype(np.float32)
    photo = (0.9 - 0.7 * truth[..., None] * np.array([1, 0.5, 0.2])).astype(np.float32)
    coarse = truth.reshape(32, 8, 32, 8).mean(axis=(1, 3)) > 0.5
    blocky = coarse.repeat(8, axis=0).repeat(8, axis=1).astype(np.float32)
    refined = refine(photo, coarse)
    assert overlap(refined, truth) > 0.99 > overlap(blocky, truth)


def test_tidying_drops_specks_and_fills_pinholes() -> None:
    mask = np.zeros((40, 40), bool)
    mask[5:35, 5:35] = True
    expected = mask.copy()
    mask[20, 20], mask[1, 1] = False, True
    assert np.array_equal(tidy(mask), expected)


def test_a_hollow_outline_is_not_solid() -> None:
    mask = np.zeros((40, 40), bool)
    mask[5:35, 5:35] = True
    assert solidity(mask) == 1
    mask[7:33, 7:33] = False
    assert solidity(mask) == 0


def test_edge_support_counts_only_outlines_with_contrast() -> None:
    mask = np.zeros((40, 40), bool)
    mask[10:30, 10:30] = True
    flat = np.full((40, 40, 3), 0.5, np.float32)
    assert edge_support(flat, mask) == 0
    flat[mask] = 1
    assert edge_support(flat, mask) > 0.9


def test_rembg_is_used_through_its_mask(monkeypatch: pytest.MonkeyPatch) -> None:
    def remove(image: Image.Image, only_mask: bool) -> Image.Image:
        assert only_mask
        return Image.new("L", image.size, 255)

    monkeypatch.setitem(sys.modules, "rembg", SimpleNamespace(remove=remove))
    matte = rembg_matte(np.zeros((8, 9, 3), np.float32))
    assert matte.kind == "rembg" and matte.alpha.shape == (8, 9) and matte.alpha.min() == 1 and matte.confidence == 1


def test_rembg_failures_say_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rembg", None)
    with pytest.raises(MissingPackageError, match=r"obverse\[matte\]"):
        rembg_matte(np.zeros((8, 8, 3), np.float32))

    def remove(image: Image.Image, only_mask: bool) -> Image.Image:
        raise ConnectionError("no route to host")

    monkeypatch.setitem(sys.modules, "rembg", SimpleNamespace(remove=remove))
    with pytest.raises(WeightsError, match=r"no route to host.*--matte grabcut"):
        rembg_matte(np.zeros((8, 8, 3), np.float32))


def test_the_least_cut_keeps_what_evidence_and_edges_hold_and_drops_specks() -> None:
    y, x = np.mgrid[0:96, 0:96]
    disc = np.hypot(x - 48, y - 48) < 30
    evidence = np.where(disc, 1, -1).astype(np.float32)
    evidence[5, 5], evidence[48, 48] = 1, -1
    even = np.full((96, 96), 2, np.float32)
    found = least_cut(evidence, even, np.zeros((96, 96), bool))
    assert not found[5, 5] and found[48, 48]
    assert (found ^ disc).mean() < 0.01
    assert (least_cut(evidence, even, disc) ^ found).mean() < 0.002  # the start decides nothing


def test_the_least_cut_bridges_a_gap_in_the_evidence_straight() -> None:
    evidence = np.full((96, 96), -1, np.float32)
    evidence[20:76, 30:70] = 1
    evidence[40:56, 24:36] = 0  # undecided on both sides of the left edge
    found = least_cut(evidence, np.full((96, 96), 2, np.float32), np.zeros((96, 96), bool))
    assert np.abs(found[26:70].argmax(axis=1) - 30).max() <= 1


def test_an_outline_is_cheap_on_edges_only() -> None:
    photo = np.full((40, 40, 3), 0.5, np.float32)
    photo[:, 20:] = 0.9
    cost = edge_cost(to_lab(photo), 3)
    assert cost[:, 19:21].max() < 0.2 and cost[:, :15].min() > 1.9


def test_known_colours_decide_between_the_levels() -> None:
    lab = np.zeros((4, 4, 3), np.float32)
    lab[:2, :, 1] = 30
    unlike = np.full((4, 4), 8, np.float32)
    examples = np.zeros((4, 4), bool)
    examples[0] = True
    evidence = object_evidence(lab, unlike, examples, level=6)
    assert evidence[1].min() > 0 > evidence[2:].max()
