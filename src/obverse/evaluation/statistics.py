"""Means over objects with their confidence intervals.

Objects are the unit: several photos, or several seeds, of one object are averaged first, because they are not
independent. Intervals are percentiles of the means of bootstrap resamples of the objects (Efron 1979).
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

RESAMPLES = 1000
LEVEL = 0.95
CHUNK = 1 << 22  # numbers held at once while resampling


@dataclass(frozen=True)
class Estimate:
    """A mean over objects."""

    mean: float
    low: float | None  # of the interval; None with a single object, which says nothing about others
    high: float | None
    objects: int

    def to_dict(self) -> dict[str, float | int | None]:
        """Rounded, for JSON."""
        ends = (None if end is None else round(end, 6) for end in (self.low, self.high))
        low, high = ends
        return {"mean": round(self.mean, 6), "low": low, "high": high, "objects": self.objects}


def estimate(values: Mapping[str, list[float]], *, label: str = "") -> Estimate | None:
    """Values by object → mean of the objects' means, with its interval; None without any value.

    Args:
        values: object → what was measured on it, once per photo and seed; objects without values are left out.
        label: decides the resamples together with nothing else, so that a rerun gives the same interval.
    """
    means = np.array([np.mean(found) for _, found in sorted(values.items()) if found])
    if not len(means):
        return None
    if len(means) == 1:
        return Estimate(float(means[0]), None, None, 1)
    low, high = bootstrap(means, seed=zlib.crc32(label.encode()))
    return Estimate(float(means.mean()), low, high, len(means))


def bootstrap(values: np.ndarray, *, resamples: int = RESAMPLES, seed: int = 0) -> tuple[float, float]:
    """Percentile interval of the mean of values [n], at 95 %."""
    random = np.random.default_rng(seed)
    found, at_once = [], max(1, CHUNK // len(values))
    for start in range(0, resamples, at_once):
        rows = min(at_once, resamples - start)
        # Offsets from the first value: constant values then give exactly themselves.
        picked = values[random.integers(0, len(values), (rows, len(values)))] - values[0]
        found.append(values[0] + picked.mean(1))
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(np.concatenate(found), [tail, 1 - tail])
    return float(low), float(high)


def difference(
    mine: Mapping[str, list[float]], theirs: Mapping[str, list[float]], *, label: str = ""
) -> Estimate | None:
    """Paired difference of means, mine less theirs, over the objects that both have values for."""
    both = sorted(name for name in mine if mine[name] and theirs.get(name))
    return estimate({name: [float(np.mean(mine[name]) - np.mean(theirs[name]))] for name in both}, label=label)
