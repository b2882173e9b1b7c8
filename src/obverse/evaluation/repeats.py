"""Whether the front of an object is seen again from other sides: the Janus problem, measured from pictures alone.

Methods that judge every view by itself put a face on all sides (Poole et al. 2023, "DreamFusion"; Armandpour et al.
2023, "Perp-Neg", who count failures by eye). There is no published number for it without text or truth; this one
compares base colour with base colour. What is alike at every azimuth, bands around a vase or trousers below a shirt,
says nothing and is taken out; what remains of the input-side view is looked for in the others, as it is and mirrored.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np

F = np.float32
GRID = 64  # pixels a side at which views are compared
SHIFT = (5, 2, 5, 2)  # left, up, right, down: pixels of that grid a second front may be out of place
BLUR = 1.0  # pixels of that grid; finer structure never lines up
FAR_DEG = 60.0  # nearer views rightly show the front
LEAST_CONTRAST = 0.03  # sRGB; a front that varies less at equal height has nothing to be recognised by
FAINTEST = 0.1  # of the front's sum of squares; a fainter view is not made stronger to be like it
BETWEEN = 0.7  # of a copy's likeness; where no view between it and the front has less, the front just goes on
LEAST_CHANGE = 0.25  # a front that all views resemble more than 1 minus this is that of a turned object


@dataclass(frozen=True)
class Repeats:
    """How like the input-side view the views of an orbit are: 1 is the same picture, 0 and less nothing in common."""

    azimuth_deg: tuple[float, ...]  # of the views, from the input side; the first is 0
    plain: tuple[float, ...]  # similarity of each view to the first
    mirrored: tuple[float, ...]  # and to its mirror image; the first is the front's own symmetry
    contrast: float  # RMS of what distinguishes the front, sRGB

    @property
    def ordinary(self) -> float:
        """Similarity of the view least like the front: what a turned object has at every azimuth."""
        return max(0.0, min(map(max, self.plain[1:], self.mirrored[1:]), default=1.0))

    @property
    def distinctive(self) -> bool:
        """Whether the front can be told from the other sides at all."""
        return self.contrast >= LEAST_CONTRAST and self.ordinary <= 1 - LEAST_CHANGE

    def janus(self, *, up_to_deg: float = 180.0) -> tuple[float, float] | None:
        """How much of the front is seen again where a truthful object would not show it, and at which azimuth.

        A truthful object may be flat or have equal halves, and then shows mirrored copies of the front: one for every
        plane of symmetry through its axis. So only unmirrored copies count, and only those apart from the front: a
        view between must be less like it. That leaves objects which are the same on two or four sides, such as tables
        and crates: no picture tells them from a fault.

        Args:
            up_to_deg: distance from the front beyond which copies do not count.

        Returns:
            Score 0–1 and azimuth in degrees; None if the front is not distinctive.
        """
        scores, between = self._scores(self.plain), self._between()
        return self._best(np.where(between <= BETWEEN * scores, scores, 0), up_to_deg)

    def sides(self) -> tuple[float, float] | None:
        """As ``janus``, but up to 135° from the front only, and there only where the back is less like it."""
        oblique, behind = self.janus(up_to_deg=135.0), self.back()
        if oblique is None or behind is None:
            return None
        own = abs(float(_wrapped(np.asarray(oblique[1])))) < 135 - 1e-6 or oblique[0] > behind[0]
        return oblique if own else self.janus(up_to_deg=134.0)

    def back(self, *, mirrored: bool = True) -> tuple[float, float] | None:
        """How much of the front is seen again less than 45° from the back, and at which azimuth.

        Args:
            mirrored: whether mirrored copies count; things that are flat or have two equal halves show them rightly.

        Returns:
            Score 0–1 and azimuth in degrees; None if the front is not distinctive.
        """
        scores = self._scores(self.plain)
        if mirrored:
            scores = np.maximum(scores, self._scores(self.mirrored))
        behind = np.abs(_wrapped(np.asarray(self.azimuth_deg))) > 135
        return self._best(np.where(behind, scores, 0), 180.0)

    def _between(self) -> np.ndarray:
        """Of the views [V] between the front and each one, the shorter way, the least likeness to the front."""
        beyond = np.maximum(self.plain, self.mirrored) - self.ordinary
        scores = np.clip(beyond / max(1 - self.ordinary, 1e-6), 0, 1)
        turn = _wrapped(np.asarray(self.azimuth_deg))
        sides = [np.flatnonzero((turn * t > 0) & (np.abs(turn) < abs(t) - 1e-6)) for t in turn]
        return np.array([min(scores[inside], default=1.0) for inside in sides])

    def _best(self, scores: np.ndarray, up_to_deg: float) -> tuple[float, float] | None:
        """The largest of scores [V] and its azimuth."""
        scores = np.where(np.abs(_wrapped(np.asarray(self.azimuth_deg))) <= up_to_deg + 1e-6, scores, 0)
        best = int(np.argmax(scores))
        return (round(float(scores[best]), 4), self.azimuth_deg[best]) if self.distinctive else None

    def _scores(self, similarity: tuple[float, ...]) -> np.ndarray:
        """Similarity beyond the ordinary, as a share of what it could be [V]; 0 for views near the front."""
        away = np.abs(_wrapped(np.asarray(self.azimuth_deg)))
        beyond = (np.asarray(similarity) - self.ordinary) / max(1 - self.ordinary, 1e-6)
        return np.where(away >= FAR_DEG - 1e-6, np.clip(beyond, 0, 1), 0.0)


def repeats(images: np.ndarray, azimuth_deg: tuple[float, ...]) -> Repeats:
    """Compare views on one orbit with the first of them.

    Two views are alike by their normalised cross-correlation Σ a·b / √(Σ a·a Σ b·b), the sums of squares running over
    the whole silhouettes: a copy that is only partly there counts less. The mean of two such numbers is taken, of
    colour without each row's mean over all views, and of the gradient of grey.

    Args:
        images: [V, H, H, 4] float32, sRGB-encoded base colour with straight alpha; from one elevation, so framed that
            the object has one scale in all.
        azimuth_deg: one per view, the input side first, as 0.
    """
    pictures = np.stack([_centred(image) for image in np.asarray(images, F)])
    masks = (pictures[..., 3] > 0.5).astype(F)
    color, slope, contrast = _content(pictures[..., :3], masks)
    if masks[0].sum() == 0:
        return Repeats(azimuth_deg, (0.0,) * len(images), (0.0,) * len(images), 0.0)
    flipped = np.ascontiguousarray(color[0][:, ::-1]), np.ascontiguousarray(slope[0][:, ::-1] * np.array([-1, 1, 0], F))
    plain = [_alike((color[0], slope[0]), (c, s)) for c, s in zip(color, slope, strict=True)]
    mirrored = [_alike(flipped, (c, s)) for c, s in zip(color, slope, strict=True)]
    return Repeats(
        azimuth_deg, tuple(round(s, 4) for s in plain), tuple(round(s, 4) for s in mirrored), round(contrast, 4)
    )


def likeness(a: np.ndarray, b: np.ndarray) -> float | None:
    """Similarity of two pictures [H, H, 4] and [H', H', 4] of one object, as ``repeats`` measures it, at one scale.

    Their silhouettes are brought to the same longest side first. None if the first has nothing to be recognised by.
    """
    pictures = np.stack([_filling(np.asarray(picture, F)) for picture in (a, b)])
    color, slope, contrast = _content(pictures[..., :3], (pictures[..., 3] > 0.5).astype(F))
    if contrast < LEAST_CONTRAST:
        return None
    return round(_alike((color[0], slope[0]), (color[1], slope[1])), 4)


def _filling(image: np.ndarray) -> np.ndarray:
    """The square around a picture's silhouette at the common grid, with a margin for shifts."""
    mask = image[..., 3] > 0.5
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        return np.zeros((GRID, GRID, 4), F)
    side = round(1.2 * (max(int(np.ptp(rows)), int(np.ptp(columns))) + 1))
    top, left = (rows[0] + rows[-1] + 1 - side) // 2, (columns[0] + columns[-1] + 1 - side) // 2
    padded = np.pad(image, ((side, side), (side, side), (0, 0)))
    return _centred(padded[top + side : top + 2 * side, left + side : left + 2 * side])


def _wrapped(degrees: np.ndarray) -> np.ndarray:
    """Angles in −180 to 180 degrees."""
    return (degrees + 180) % 360 - 180


def _centred(image: np.ndarray) -> np.ndarray:
    """A view [H, H, 4] at the common grid, its silhouette's box in the middle; colour is 0 outside it."""
    mask = image[..., 3] > 0.5
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        return np.zeros((GRID, GRID, 4), F)
    scale = GRID / image.shape[0]
    x, y = (columns[0] + columns[-1] + 1) / 2, (rows[0] + rows[-1] + 1) / 2
    premultiplied = np.dstack([image[..., :3] * image[..., 3:], image[..., 3]]).astype(F)
    small = cv2.resize(premultiplied, (GRID, GRID), interpolation=cv2.INTER_AREA)
    move = np.array([[1, 0, GRID / 2 - x * scale], [0, 1, GRID / 2 - y * scale]], F)
    out = np.asarray(cv2.warpAffine(small, move, (GRID, GRID), flags=cv2.INTER_LINEAR), F)
    color = out[..., :3] / np.maximum(out[..., 3:], F(1e-6))
    return np.where(out[..., 3:] > 0.5, np.concatenate([color, out[..., 3:]], -1), F(0))


def _content(rgb: np.ndarray, masks: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """Pictures [V, H, W, 3] → colour beyond its row's mean and gradient of grey, both [V, H, W, 3], 0 outside.

    Also the RMS of the first picture's colour. Near the silhouette the gradient is that of a picture continued with
    its own blurred colours, so that the outline itself is not structure.
    """
    weight = masks.sum((0, 2))
    row = (rgb * masks[..., None]).sum((0, 2)) / np.maximum(weight, 1)[:, None]
    color = (rgb - row[None, :, None]) * masks[..., None]
    soft, slope = np.empty_like(color), np.zeros_like(color)
    for view, mask in enumerate(masks):
        share = cv2.GaussianBlur(mask, (0, 0), BLUR)
        soft[view] = cv2.GaussianBlur(color[view], (0, 0), BLUR) / np.maximum(share, F(1e-3))[..., None]
        grey = soft[view].mean(-1) * (share > 1e-3)
        inside = cv2.erode(mask, np.ones((3, 3), np.uint8), borderValue=0)
        slope[view, ..., 0] = cv2.Sobel(grey, cv2.CV_32F, 1, 0, scale=1 / 8) * inside
        slope[view, ..., 1] = cv2.Sobel(grey, cv2.CV_32F, 0, 1, scale=1 / 8) * inside
        soft[view] *= mask[..., None]
    front = soft[0][masks[0] > 0]
    return soft, slope, float(np.sqrt((front**2).mean())) if len(front) else 0.0


def _alike(a: tuple[np.ndarray, ...], b: tuple[np.ndarray, ...]) -> float:
    """Similarity of two views' contents at the best small shift."""
    total: np.ndarray | float = 0.0
    for one, other in zip(a, b, strict=True):
        own = float((one**2).sum())
        energy = math.sqrt(own * max(float((other**2).sum()), FAINTEST * own))
        padded = cv2.copyMakeBorder(other, SHIFT[1], SHIFT[3], SHIFT[0], SHIFT[2], cv2.BORDER_CONSTANT, value=0)
        total = total + cv2.matchTemplate(padded, one, cv2.TM_CCORR) / max(energy, 1e-9)
    return float(np.max(total)) / len(a)
