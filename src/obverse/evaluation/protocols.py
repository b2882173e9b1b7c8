"""Protocols: how photos are taken, from where the result is judged, and in which units the scores are printed.

The presets follow the settings that the named papers give. They are run on the caller's objects, whose photos, framing
and lights are ours, so their figures are *ours on our objects*: what a preset shares with its paper is the rig, the
number of points, the unit and the threshold, never the data. ``differs`` says what else is known to be different.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from ..errors import UsageError

LARGEST_SIZE, LARGEST_POINTS = 1024, 1_000_000
Rig = tuple[tuple[float, float], ...]  # (azimuth, elevation) of each view, degrees


@dataclass(frozen=True)
class Protocol:
    """Everything that shapes the scores but the objects, the seeds and the methods."""

    name: str
    source: str  # whose settings these are
    differs: str  # what is known to be different from the source
    views: Rig  # the judged views: azimuth away from the photo, and elevation, degrees
    elevations_from: Literal["horizon", "photo"] = "horizon"  # what elevation 0 of a judged view means
    fov_deg: float = 30.0  # of the judged views; their distance frames the object from every side
    size: int = 256  # pixels a side of the judged views
    photo_elevations_deg: tuple[float, float] = (0.0, 25.0)  # the photo's elevation is drawn from this range
    photo_fov_deg: tuple[float, float] = (25.0, 45.0)  # and its field of view from this one
    photo_size: int = 512  # pixels a side
    align: Literal["similarity", "yaw-icp"] = "similarity"  # of the aligned geometry
    lead: Literal["placed", "aligned"] = "placed"  # placement of the views and of the leading geometry; see ``score``
    points: int = 30_000  # on each surface
    side: float = 1.0  # length of the truth's longest side in which distances are printed
    threshold: float = 0.05  # of the F-score in the table, in that unit

    def __post_init__(self) -> None:
        if not self.views or not np.isfinite(self.views).all():
            raise UsageError(f"views are {self.views}, they must be at least one pair of finite degrees")
        if self.elevations_from == "horizon" and max(abs(elevation) for _, elevation in self.views) > 90:
            raise UsageError(f"views are {self.views}, their elevations must be from -90 to 90 degrees")
        if self.align not in ("similarity", "yaw-icp"):
            raise UsageError(f"align is {self.align!r}, it must be 'similarity' or 'yaw-icp'")
        if self.lead not in ("placed", "aligned"):
            raise UsageError(f"lead is {self.lead!r}, it must be 'placed' or 'aligned'")
        if not 16 <= self.size <= LARGEST_SIZE or not 100 <= self.points <= LARGEST_POINTS:
            raise UsageError(
                f"size is {self.size} and points {self.points}; views must have 16 to {LARGEST_SIZE} pixels a side and "
                f"surfaces 100 to {LARGEST_POINTS} points"
            )

    def angles(self, photo_elevation_deg: float) -> tuple[list[float], list[float]]:
        """Azimuths and elevations of the judged views in the photo's frame, degrees."""
        base = photo_elevation_deg if self.elevations_from == "photo" else 0.0
        azimuths, elevations = zip(*self.views, strict=True)
        return list(azimuths), [float(np.clip(base + elevation, -89, 89)) for elevation in elevations]

    def to_dict(self) -> dict[str, Any]:
        """All fields as plain Python values, for JSON."""
        values = dataclasses.asdict(self) | {"views": [list(view) for view in self.views]}
        return {key: list(value) if isinstance(value, tuple) else value for key, value in values.items()}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Protocol:
        """The inverse of ``to_dict``."""
        views = tuple((float(azimuth), float(elevation)) for azimuth, elevation in values["views"])
        plain: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in values.items()
        }
        return cls(**(plain | {"views": views}))


def grid(azimuths: int, elevations_deg: Sequence[float]) -> Rig:
    """``azimuths`` evenly spaced azimuths from 0 at each elevation.

    Raises:
        UsageError: not from 1 to 360 azimuths, or no elevation.
    """
    if not 1 <= azimuths <= 360 or not elevations_deg:
        raise UsageError(f"{azimuths} azimuths at {len(elevations_deg)} elevations; give 1 to 360, and 1 elevation")
    return tuple((360.0 * i / azimuths, float(elevation)) for elevation in elevations_deg for i in range(azimuths))


def _orbit_21(elevations_deg: Sequence[float]) -> Rig:
    """Twenty-one views evenly around, the photo's azimuth last; the elevations taken in turn."""
    return tuple((round(360 * (i + 1) / 21 % 360, 4), elevations_deg[i % len(elevations_deg)]) for i in range(21))


def _wave_21() -> Rig:
    """An uneven orbit whose elevation swings once: azimuths jittered by up to 5°, and a sine of 20°."""
    jitter = np.random.default_rng(21).uniform(-5, 5, 21)
    jitter[20] = 0  # the last view has the photo's azimuth
    azimuths = [(360 * (i + 1) / 21 + float(jitter[i])) % 360 for i in range(21)]
    return tuple((round(a, 2), round(20 * math.sin(math.radians(a)), 2)) for a in azimuths)


def _hemisphere(count: int) -> Rig:
    """Random directions, evenly distributed over the upper half of the sphere; always the same ones."""
    random = np.random.default_rng(0)
    azimuths, heights = random.uniform(0, 360, count), random.uniform(0, 1, count)
    return tuple(
        (round(float(a), 2), round(math.degrees(math.asin(h)), 2)) for a, h in zip(azimuths, heights, strict=True)
    )


_FRAMING = "The photo is framed and lit by us, and the distance of the judged views frames the object."

PROTOCOLS: dict[str, Protocol] = {
    "obverse": Protocol(
        name="obverse",
        source="this package",
        differs="",
        views=grid(8, (0.0, 30.0)),
    ),
    "syncdreamer": Protocol(
        name="syncdreamer",
        source="SyncDreamer, arXiv 2309.03453: 16 fixed views every 22.5° at elevation 30°, 256 pixels, one photo",
        differs=f"{_FRAMING} The views are of the finished mesh, not the generated pictures; the field of view is "
        "theirs (49.1°); the paper does not state its convention of Chamfer distance.",
        views=grid(16, (30.0,)),
        fov_deg=49.13434,
        photo_size=256,
    ),
    "sv3d-static": Protocol(
        name="sv3d-static",
        source="SV3D, arXiv 2403.12008: 21 views evenly around at the photo's elevation, 576 pixels",
        differs=f"{_FRAMING} The views are of the finished mesh, not the generated pictures.",
        views=_orbit_21((0.0,)),
        elevations_from="photo",
        fov_deg=33.8,
        size=576,
        photo_size=576,
    ),
    "sv3d-dynamic": Protocol(
        name="sv3d-dynamic",
        source="SV3D, arXiv 2403.12008: 21 views at uneven azimuths with a sinusoidal elevation, 576 pixels",
        differs=f"{_FRAMING} The paper gives no amplitude or jitter: ours are 20° and 5°.",
        views=_wave_21(),
        elevations_from="photo",
        fov_deg=33.8,
        size=576,
        photo_size=576,
    ),
    "instantmesh-orbit": Protocol(
        name="instantmesh-orbit",
        source="InstantMesh, arXiv 2404.07191: 21 views around at elevations 30°, 0° and -30°; 16,000 points, boxes "
        "scaled to [-1, 1], F-score at 0.2",
        differs=f"{_FRAMING} How the elevations alternate and how meshes were aligned is not stated.",
        views=_orbit_21((30.0, 0.0, -30.0)),
        points=16_000,
        side=2.0,
        threshold=0.2,
    ),
    "instantmesh-random": Protocol(
        name="instantmesh-random",
        source="InstantMesh, arXiv 2404.07191: 16 random views of the upper hemisphere; 16,000 points, boxes scaled to "
        "[-1, 1], F-score at 0.2",
        differs=f"{_FRAMING} Their directions are not published; how meshes were aligned is not stated.",
        views=_hemisphere(16),
        points=16_000,
        side=2.0,
        threshold=0.2,
    ),
    "sf3d": Protocol(
        name="sf3d",
        source="SF3D, arXiv 2408.00653, after TripoSR, arXiv 2403.02151: search over yaw, then ICP; 10,000 points "
        "(TripoSR's number), F-score at 0.1",
        differs=f"{_FRAMING} Their scale is not stated: boxes of side 2 are assumed. Their judged views are not "
        "stated: ours are used.",
        views=grid(8, (0.0, 30.0)),
        align="yaw-icp",
        lead="aligned",
        points=10_000,
        side=2.0,
        threshold=0.1,
    ),
}


def protocol_named(name: str) -> Protocol:
    """A preset by name.

    Raises:
        UsageError: there is none of that name.
    """
    if name not in PROTOCOLS:
        raise UsageError(f"protocol is {name!r}, it must be one of: {', '.join(PROTOCOLS)}")
    return PROTOCOLS[name]
