"""What Blender itself makes of our cameras; skipped where its package is not installed."""

import io

import numpy as np
import pytest
import trimesh
from PIL import Image

from obverse.training import blender, view_data
from obverse.training.objects import normalised

pytest.importorskip("bpy", reason="the extra blender is not installed")


def test_cycles_sees_the_object_where_our_rasteriser_does():
    boot = trimesh.util.concatenate(
        [
            trimesh.creation.box((0.3, 1.0, 0.3)),
            trimesh.creation.box((0.3, 0.3, 0.9)).apply_translation((0, -0.35, 0.3)),
        ]
    )
    shape = normalised(boot)
    theirs = blender.photograph_object(shape, "boot", views=2, size=40, seed=0)
    ours = view_data.photograph_object(shape, "boot", views=2, size=40, seed=0)
    for one, other in zip(theirs.pngs, ours.pngs, strict=True):
        a, b = (np.asarray(Image.open(io.BytesIO(png)))[..., 3] > 127 for png in (one, other))
        assert (a & b).sum() / (a | b).sum() > 0.9
