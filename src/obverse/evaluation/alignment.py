"""Laying a result over the truth before they are compared: uniform scale, translation and, if asked, rotation.

One photo gives neither scale nor distance, and published systems differ in the frame they answer in, so tables are
made after an alignment. Which one decides the ranking; it is therefore an argument everywhere, and stated.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

import numba
import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from ..errors import InputError, UsageError

How = Literal["none", "similarity", "yaw-icp"]
HOWS = ("none", "similarity", "yaw-icp")
COARSE = 1500  # points of the search among starts
SETTLED = 1e-5  # relative gain of a step below which steps stop
SOFT = 1e-3  # share of the target's size below which a residual counts as squared, so that weights stay finite


@dataclass(frozen=True)
class Similarity:
    """x → scale · rotation x + translation."""

    scale: float = 1.0
    rotation: NDArray[np.float64] = field(default_factory=lambda: np.eye(3))  # [3, 3] proper
    translation: NDArray[np.float64] = field(default_factory=lambda: np.zeros(3))  # [3]

    def apply(self, points: NDArray) -> NDArray[np.float64]:
        """Points [..., 3] → points [..., 3]."""
        return self.scale * (np.asarray(points, np.float64) @ self.rotation.T) + self.translation

    def turn(self, normals: NDArray) -> NDArray[np.float64]:
        """Unit normals [..., 3] → unit normals [..., 3]: the rotation alone."""
        return np.asarray(normals, np.float64) @ self.rotation.T

    def inverse(self) -> Similarity:
        """The map that undoes this one."""
        back = self.rotation.T
        return Similarity(1 / self.scale, back, -(back @ self.translation) / self.scale)


def align(
    source_points: NDArray,
    target_points: NDArray,
    *,
    how: How,
    scale: bool = True,
    yaw_step_deg: float = 10.0,
    iterations: int = 60,
    sample: int = 5000,
    seed: int = 0,
) -> Similarity:
    """The map of source points that brings them nearest to target points in Chamfer distance (see ``chamfer``).

    - ``"none"``: the identity.
    - ``"similarity"``: uniform scale and translation, no rotation. Starts from the identity, from equal bounding
      boxes (centre and diagonal) and from equal means and spreads; each is refined, the best is refined further.
    - ``"yaw-icp"``: every ``yaw_step_deg`` about +Y with equal means and spreads, and with equal boxes; the four
      nearest are refined with any rotation, the best further. So described by TripoSR (arXiv 2403.02151) and SF3D
      (arXiv 2408.00653), who state neither step nor starts.

    A refinement step pairs each point with its nearest of the other set, both ways, and solves for the map in closed
    form (Umeyama 1991) with weights 1 / distance, so that it descends the mean distance and not the squared one.
    The map returned is the best met, so it is never farther than the identity on the points used.

    Args:
        source_points: [N, 3], those to move.
        target_points: [M, 3].
        how: as above.
        scale: fit the scale; if not it stays 1.
        yaw_step_deg: of ``"yaw-icp"``.
        iterations: steps at most, of each refinement.
        sample: points of each set used, drawn with ``seed``.
        seed: of that draw; the result is deterministic.

    Raises:
        UsageError: ``how`` or a number is not one of those possible.
        InputError: a set has fewer than 3 points, points that are not finite, or all in one place.
    """
    if how not in HOWS:
        raise UsageError(f"alignment {how!r} is not known; choose one of {', '.join(HOWS)}")
    if not 0 < yaw_step_deg <= 360 or iterations < 1 or sample < 3:
        raise UsageError(
            f"alignment with yaw steps of {yaw_step_deg}°, {iterations} iterations and {sample} points cannot be "
            "done; give steps in 0° to 360°, at least 1 iteration and 3 points"
        )
    source, target = (checked_points(p, name) for p, name in ((source_points, "source"), (target_points, "target")))
    if how == "none":
        return Similarity()
    rng = np.random.default_rng(seed)
    source, target = (p if len(p) <= sample else p[rng.choice(len(p), sample, replace=False)] for p in (source, target))
    coarse = _Pair.of(source[:COARSE], target[:COARSE], scale=scale, rotate=how == "yaw-icp")
    fine = _Pair.of(source, target, scale=scale, rotate=how == "yaw-icp")
    turns = [np.eye(3)] if how == "similarity" else _yaws(yaw_step_deg)
    starts = [Similarity(), *(s for turn in turns for s in _starts(source, target, turn, scale))]
    if len(starts) > 4:
        starts = sorted(starts, key=lambda s: coarse.step(s)[0])[:4]
    refined = [coarse.refine(s, iterations)[1] for s in starts]
    best = min(refined, key=lambda s: fine.step(s)[0])
    value, best = fine.refine(best, iterations)
    return best if value < fine.step(Similarity())[0] else Similarity()


def checked_points(points: NDArray, name: str) -> NDArray[np.float64]:
    """Points [N, 3] as float64, or an error that names them.

    Raises:
        InputError: fewer than 3, not finite, or all in one place.
    """
    array = np.asarray(points, np.float64)
    if array.ndim != 2 or array.shape[1] != 3 or len(array) < 3:
        raise InputError(f"{name} points are {list(array.shape)}, they must be [N, 3] with N at least 3; sample more")
    if not np.isfinite(array).all():
        raise InputError(f"{int((~np.isfinite(array)).any(1).sum())} {name} points are not finite; repair the mesh")
    if not np.ptp(array, axis=0).max() > 0:
        raise InputError(f"all {len(array)} {name} points are in one place, a surface needs an extent; check the mesh")
    return array


def tree_of(points: NDArray) -> cKDTree:
    """Tree of points [N, 3]; large leaves, because surfaces that lie apart make small ones slow."""
    return cKDTree(points, leafsize=64)


def nearest(tree: cKDTree, points: NDArray) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Distance [N] to, and number [N] of, the point of a tree nearest to each of points [N, 3]."""
    distance, index = tree.query(points, workers=numba.get_num_threads())
    return distance, index


@dataclass(frozen=True)
class _Pair:
    """Two sets of points with their trees, and what of the map is free."""

    source: NDArray[np.float64]
    target: NDArray[np.float64]
    source_tree: cKDTree
    target_tree: cKDTree
    soft: float
    scale: bool
    rotate: bool

    @classmethod
    def of(cls, source: NDArray, target: NDArray, *, scale: bool, rotate: bool) -> _Pair:
        soft = SOFT * float(np.linalg.norm(np.ptp(target, axis=0)))
        return cls(source, target, tree_of(source), tree_of(target), soft, scale, rotate)

    def step(self, current: Similarity) -> tuple[float, Similarity]:
        """The Chamfer distance under a map, and the map one step on."""
        there, to = nearest(self.target_tree, current.apply(self.source))
        back, of = nearest(self.source_tree, current.inverse().apply(self.target))
        back = back * current.scale
        moving = np.concatenate([self.source, self.source[of]])
        fixed = np.concatenate([self.target[to], self.target])
        weights = np.concatenate(
            [1 / (len(there) * np.maximum(there, self.soft)), 1 / (len(back) * np.maximum(back, self.soft))]
        )
        return float(there.mean() + back.mean()) / 2, self._solve(moving, fixed, weights / weights.sum(), current)

    def refine(self, start: Similarity, iterations: int) -> tuple[float, Similarity]:
        """Steps until they gain nothing → the least Chamfer distance met and its map."""
        least, best, current, idle = math.inf, start, start, 0
        for _ in range(iterations):
            value, following = self.step(current)
            idle = idle + 1 if value > least * (1 - SETTLED) else 0
            if value < least:
                least, best = value, current
            if idle >= 3:
                break
            current = following
        return least, best

    def _solve(self, moving: NDArray, fixed: NDArray, weights: NDArray, current: Similarity) -> Similarity:
        """The map that minimises Σ w |s R p + t − q|² over what is free (Umeyama 1991, eqs. 39–42)."""
        p_mean, q_mean = weights @ moving, weights @ fixed
        p, q = moving - p_mean, fixed - q_mean
        covariance = (weights[:, None] * q).T @ p
        rotation = current.rotation
        if self.rotate:
            u, _, vt = np.linalg.svd(covariance)
            rotation = u @ np.diag([1.0, 1.0, np.sign(np.linalg.det(u @ vt))]) @ vt
        scale = current.scale
        if self.scale:
            ratio = float((rotation * covariance).sum() / max(float(weights @ (p * p).sum(1)), 1e-300))
            scale = min(max(ratio, 0.5 * scale), 2 * scale)  # a bad pairing must not collapse the source
        return Similarity(scale, rotation, q_mean - scale * (rotation @ p_mean))


def _starts(source: NDArray, target: NDArray, turn: NDArray, scale: bool) -> list[Similarity]:
    """Maps that turn the source and then make boxes, or means and spreads, equal."""
    turned = source @ turn.T
    found = []
    for middle, size in ((_box_middle, _box_size), (_mean, _spread)):
        factor = size(target) / size(turned) if scale else 1.0
        found.append(Similarity(factor, turn, middle(target) - factor * middle(turned)))
    return found


def _box_middle(points: NDArray) -> NDArray:
    return (points.min(0) + points.max(0)) / 2


def _box_size(points: NDArray) -> float:
    return float(np.linalg.norm(np.ptp(points, axis=0)))


def _mean(points: NDArray) -> NDArray:
    return points.mean(0)


def _spread(points: NDArray) -> float:
    return float(np.sqrt(((points - points.mean(0)) ** 2).sum(1).mean()))


def _yaws(step_deg: float) -> list[NDArray]:
    """Rotations [3, 3] about +Y, from +Z towards +X, every ``step_deg``."""
    turns = []
    for angle in np.deg2rad(np.arange(0, 360 - 1e-9, step_deg)):
        c, s = math.cos(angle), math.sin(angle)
        turns.append(np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]]))
    return turns
