"""Views for reconstructors that need several: one photo → its object as the cameras of their rig see it.

LGM and InstantMesh were published behind multi-view models, ImageDream and Zero123++, which draw all views at once.
Those are not here yet. Until they are, Zero-1-to-3 draws the views, each on its own, and how good the reconstructions
are with that pairing was not measured. Whatever has the method ``views`` of ``ViewMaker`` can take its place.

The views are read as the rig's: pictures of Zero-1-to-3 are 49.1° wide with the object on 0.78 of their side, whatever
field of view the rig has, so the perspective of a rig with another one is not met.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from ..cameras import Cameras, Views
from ..photo import Subject
from .zero123_inputs import prepared, spherical

SAME_DEG = 0.5  # a camera of the rig that is no farther from the photo's has its pose


class ViewMaker(Protocol):
    """What makes views of a photo's object: ``zero123.Zero123``, and any model that draws them jointly.

    A model that knows one rig only, as Zero123++ and ImageDream do, raises ``InputError`` for other cameras.
    """

    @property
    def size(self) -> int:
        """Side of its pictures in pixels."""

    def views(self, subject: Subject, cameras: Cameras, *, seed: int, source_elevation_deg: float) -> Views:
        """The object seen by V cameras, which look at the origin; the photo's has azimuth 0.

        Args:
            subject: the photo's cut-out.
            cameras: V of them, in the world frame, at any one distance.
            seed: the same seed gives the same views on a CPU.
            source_elevation_deg: of the photo's camera above the horizon.

        Returns:
            Images [V, S, S, 3] in 0–1 on white, in the order of the cameras.
        """


def at_rig(maker: ViewMaker, subject: Subject, rig: Cameras, *, elevation_deg: float, seed: int) -> Views:
    """The photo's object at every camera of a rig: the photo itself where one has its pose, elsewhere views made of it.

    Args:
        maker: of views.
        subject: the photo's cut-out; where it is a view, it is framed as Zero-1-to-3 is shown it.
        rig: V cameras that look at the origin, in a reconstructor's own units.
        elevation_deg: of the photo's camera above the horizon; its azimuth is 0.
        seed: of the views.

    Returns:
        Images [V, S, S, 3] in 0–1 on white with the rig's own cameras, S being the maker's size.

    Raises:
        InputError: the maker cannot make such views, or nothing in the cut-out is opaque.
    """
    size = maker.size
    rig = rig.resized(size, size)
    known = has_pose(rig, elevation_deg)
    images = torch.empty(len(rig), size, size, 3)
    if bool(known.any()):
        images[known] = (prepared(subject, size)[0] / 2 + 0.5).permute(1, 2, 0).to(images)
    if not bool(known.all()):
        wanted = Cameras(rig.world_to_camera[~known], rig.intrinsics[~known], size, size)
        made = maker.views(subject, wanted, seed=seed, source_elevation_deg=elevation_deg)
        images[~known] = made.images.to(images)
    return Views(images, rig)


def has_pose(rig: Cameras, elevation_deg: float) -> Tensor:
    """Which cameras of a rig look from where the photo was taken, azimuth 0 and the given elevation → [V] bool."""
    elevation, azimuth, _ = spherical(rig)
    return (azimuth.abs() < SAME_DEG) & ((elevation - elevation_deg).abs() < SAME_DEG)
