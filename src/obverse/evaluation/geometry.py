"""How near a result's surface and volume are to the truth's.

Conventions, stated because papers differ: the unit of ``compare`` is the longest side of the truth's bounding box.
Surfaces are compared by points of what can be seen from outside (``outer_surface``), never by points inside. The
Chamfer distance is the mean of the two one-way mean distances, not squared; the sum and the squared sum stand beside
it. Point sets have a floor: two independent samples of one surface of area A by N points are about ½ √(A / N) apart,
0.003 for 100,000 points on an object that fills the unit box.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import trimesh
from numpy.typing import NDArray

from ..errors import InputError
from ..surface.solid import solid_grid
from .alignment import How, checked_points, nearest, tree_of
from .alignment import Similarity as Similarity
from .alignment import align as align
from .outside import SurfaceSamples as SurfaceSamples
from .outside import outer_surface as outer_surface
from .outside import sound

THRESHOLDS = (0.01, 0.02, 0.05, 0.1, 0.2)  # of F-scores, in the unit given


@dataclass(frozen=True)
class Chamfer:
    """Distances between two surfaces, in the unit of their points (squared where said)."""

    to_truth: float  # mean distance from a point of the result to the nearest of the truth: what is too much
    from_truth: float  # mean distance from a point of the truth to the nearest of the result: what is missing
    mean: float  # of these two: what is meant here by "the Chamfer distance"
    sum: float  # of these two: what many papers print
    squared_sum: float  # of the two mean squared distances (Fan et al. 2017)


@dataclass(frozen=True)
class NormalConsistency:
    """Cosines between the normals of nearest points, 1 where surfaces are parallel."""

    to_truth: float  # mean |cos| over the result's points
    from_truth: float  # mean |cos| over the truth's points
    mean: float  # of these two
    signed: float  # the same mean of cos, so that opposite sides count −1


@dataclass(frozen=True)
class GeometryScores:
    """What ``compare`` measures; lengths are in units of the truth's longest side."""

    how: How  # the alignment
    similarity: Similarity  # that was applied to the result, in normalised units
    points: int  # of each surface
    chamfer: Chamfer
    f_scores: dict[float, float]  # threshold → F, 0–1
    normals: NormalConsistency
    volume_iou: float  # 0–1; NaN when neither mesh has an inside

    def to_dict(self) -> dict[str, float]:
        """Flat, rounded, ready for JSON or a table; a volume IoU that is undefined is left out."""
        found = {
            "chamfer": self.chamfer.mean,
            "chamfer_to_truth": self.chamfer.to_truth,
            "chamfer_from_truth": self.chamfer.from_truth,
            "chamfer_sum": self.chamfer.sum,
            "chamfer_squared_sum": self.chamfer.squared_sum,
            **{f"f_{threshold:g}": value for threshold, value in self.f_scores.items()},
            "normal_consistency": self.normals.mean,
            "normal_consistency_to_truth": self.normals.to_truth,
            "normal_consistency_from_truth": self.normals.from_truth,
            "normal_consistency_signed": self.normals.signed,
            "aligned_scale": self.similarity.scale,
            "aligned_shift": float(np.linalg.norm(self.similarity.translation)),
            "aligned_turn_deg": _angle_deg(self.similarity.rotation),
        }
        if math.isfinite(self.volume_iou):
            found["volume_iou"] = self.volume_iou
        return {name: round(float(value), 6) for name, value in found.items()}


def compare(
    mesh: trimesh.Trimesh,
    truth: trimesh.Trimesh,
    *,
    how: How = "similarity",
    points: int = 100_000,
    seed: int = 0,
    resolution: int = 64,
) -> GeometryScores:
    """Compare a result with the truth, both in one world frame.

    Both are moved and scaled alike so that the truth's bounding box is centred at the origin with longest side 1;
    then the result is aligned as ``how`` says (see ``align``) and everything is measured in that unit. To compare
    with papers that normalise to [−1, 1], halve their thresholds and distances.

    The two surfaces are drawn with different seeds, so that a perfect result scores the floor named above and not 0.

    Args:
        mesh: the result.
        truth: what it should be.
        how: ``"none"``, ``"similarity"`` (scale and translation) or ``"yaw-icp"`` (any rotation too).
        points: drawn on each outer surface.
        seed: of the draws.
        resolution: cells along the grid of the volume IoU.

    Raises:
        InputError: a mesh has no area or a position that is not finite.
        UsageError: ``how`` is not known.
    """
    mesh, truth = sound(mesh), sound(truth)
    unit = _to_unit(truth)
    mesh, truth = _moved(mesh, unit), _moved(truth, unit)
    found = outer_surface(mesh, points=points, seed=2 * seed + 1)
    wanted = outer_surface(truth, points=points, seed=2 * seed)
    similarity = align(found.points, wanted.points, how=how, seed=seed)
    return scores_under(similarity, (mesh, found), (truth, wanted), how=how, resolution=resolution)


def scores_under(
    similarity: Similarity,
    result: tuple[trimesh.Trimesh, SurfaceSamples],
    truth: tuple[trimesh.Trimesh, SurfaceSamples],
    *,
    how: How = "none",
    resolution: int = 64,
) -> GeometryScores:
    """``compare`` for surfaces already sampled and a map already known, so that several maps share the sampling.

    Args:
        similarity: what lays the result over the truth.
        result: mesh and samples, before that.
        truth: mesh and samples, its longest side 1.
        how: what the scores are to say of the map.
        resolution: cells along the grid of the volume IoU.

    Raises:
        InputError: as ``compare`` does.
    """
    (mesh, found), (wanted_mesh, wanted) = result, truth
    found = SurfaceSamples(similarity.apply(found.points), similarity.turn(found.normals))
    pairs = _Nearest.of(found.points, wanted.points)
    return GeometryScores(
        how,
        similarity,
        len(found),
        _chamfer(pairs),
        _f_scores(pairs, THRESHOLDS),
        _consistency(pairs, found, wanted),
        volume_iou(_moved(mesh, similarity), wanted_mesh, resolution=resolution),
    )


def chamfer(a: SurfaceSamples | NDArray, b: SurfaceSamples | NDArray) -> Chamfer:
    """Chamfer distance between the result's points ``a`` [N, 3] and the truth's ``b`` [M, 3], in their unit.

    Raises:
        InputError: fewer than 3 points, or points that are not finite or all in one place.
    """
    return _chamfer(_Nearest.of(_points(a), _points(b)))


def f_scores(
    a: SurfaceSamples | NDArray, b: SurfaceSamples | NDArray, thresholds: Sequence[float] = THRESHOLDS
) -> dict[float, float]:
    """F-score at each threshold t (Knapitsch et al. 2017): 2 P R / (P + R), in 0–1.

    P is the share of the result's points ``a`` [N, 3] at most t from the truth, R that of the truth's ``b`` [M, 3] at
    most t from the result. Thresholds are in the unit of the points.

    Raises:
        InputError: a threshold is not positive, or points cannot be used (see ``chamfer``).
    """
    return _f_scores(_Nearest.of(_points(a), _points(b)), thresholds)


def normal_consistency(a: SurfaceSamples, b: SurfaceSamples) -> NormalConsistency:
    """How parallel the normals of nearest points are, from the result ``a`` to the truth ``b`` and back.

    The unsigned means are those of Mescheder et al. 2019 (Occupancy Networks).

    Raises:
        InputError: points cannot be used (see ``chamfer``).
    """
    return _consistency(_Nearest.of(_points(a), _points(b)), a, b)


def volume_iou(mesh: trimesh.Trimesh, truth: trimesh.Trimesh, *, resolution: int = 64) -> float:
    """Intersection over union of two solids, 0–1, on cubic cells over the box of both; NaN if neither has an inside.

    Inside is what no camera outside can see (``surface.solid``), so meshes need not be closed. Resolution is that of
    the longest side of the common box: thin walls below two cells are blurred.

    Raises:
        InputError: a mesh has no area, or the resolution is below 2.
    """
    mesh, truth = sound(mesh), sound(truth)
    bounds = np.stack([mesh.bounds, truth.bounds])
    low, high = bounds[:, 0].min(0), bounds[:, 1].max(0)
    half = 0.5 * float((high - low).max()) * (1 + 2 / max(resolution, 2))
    corners = tuple((low + high) / 2 - half), tuple((low + high) / 2 + half)
    grids = [solid_grid(m, resolution=resolution, low=corners[0], high=corners[1]) for m in (mesh, truth)]
    union = int((grids[0] | grids[1]).sum())
    return int((grids[0] & grids[1]).sum()) / union if union else math.nan


@dataclass(frozen=True)
class _Nearest:
    """For each point of two sets, how far and which the nearest of the other set is."""

    there: NDArray[np.float64]  # [N] from the result
    to: NDArray[np.int64]  # [N]
    back: NDArray[np.float64]  # [M] from the truth
    of_: NDArray[np.int64]  # [M]

    @classmethod
    def of(cls, a: NDArray, b: NDArray) -> _Nearest:
        a, b = checked_points(a, "result"), checked_points(b, "truth")
        tree_a, tree_b = tree_of(a), tree_of(b)
        there, to, back, of = np.empty(len(a)), np.empty(len(a), np.int64), np.empty(len(b)), np.empty(len(b), np.int64)
        in_a, in_b = tree_a.indices, tree_b.indices  # neighbours asked one after another find their answers in cache
        there[in_a], to[in_a] = nearest(tree_b, a[in_a])
        back[in_b], of[in_b] = nearest(tree_a, b[in_b])
        return cls(there, to, back, of)


def _chamfer(pairs: _Nearest) -> Chamfer:
    there, back = float(pairs.there.mean()), float(pairs.back.mean())
    squared = float((pairs.there**2).mean() + (pairs.back**2).mean())
    return Chamfer(there, back, (there + back) / 2, there + back, squared)


def _f_scores(pairs: _Nearest, thresholds: Sequence[float]) -> dict[float, float]:
    scores = {}
    for threshold in thresholds:
        if not threshold > 0:
            raise InputError(f"F-score threshold is {threshold}, it must be above 0; 0.05 of the size is usual")
        precision, recall = (float((d <= threshold).mean()) for d in (pairs.there, pairs.back))
        scores[float(threshold)] = 2 * precision * recall / max(precision + recall, 1e-12)
    return scores


def _consistency(pairs: _Nearest, a: SurfaceSamples, b: SurfaceSamples) -> NormalConsistency:
    there = (a.normals * b.normals[pairs.to]).sum(1)
    back = (b.normals * a.normals[pairs.of_]).sum(1)
    to_truth, from_truth = float(np.abs(there).mean()), float(np.abs(back).mean())
    signed = float(there.mean() + back.mean()) / 2
    return NormalConsistency(to_truth, from_truth, (to_truth + from_truth) / 2, signed)


def _points(samples: SurfaceSamples | NDArray) -> NDArray:
    return samples.points if isinstance(samples, SurfaceSamples) else samples


def _to_unit(truth: trimesh.Trimesh) -> Similarity:
    """What centres the box of a mesh and makes its longest side 1."""
    low, high = np.asarray(truth.bounds, np.float64)
    factor = 1 / float((high - low).max())
    return Similarity(factor, translation=-factor * (low + high) / 2)


def _moved(mesh: trimesh.Trimesh, similarity: Similarity) -> trimesh.Trimesh:
    return trimesh.Trimesh(similarity.apply(mesh.vertices), mesh.faces, process=False)


def _angle_deg(rotation: NDArray) -> float:
    """Angle of a rotation [3, 3]."""
    return math.degrees(math.acos(min(1.0, max(-1.0, (float(np.trace(rotation)) - 1) / 2))))
