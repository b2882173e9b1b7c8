"""Shapes shared by tests: small photos drawn in code, and one finished asset. Triton is told to interpret first."""

import contextlib

import numpy as np
import pytest
import torch

# Without a GPU, kernels are interpreted. Triton decides when it is imported, and diffusers imports it too.
if not torch.accelerator.is_available():
    with pytest.MonkeyPatch.context() as environment, contextlib.suppress(ImportError):
        environment.setenv("TRITON_INTERPRET", "1")
        import triton  # noqa: F401


def disc_photo(size=128, radius=40, center=(64, 64), alpha=True):
    """An orange disc with a dark dot near its top, [size, size, 4] uint8 (or RGB on light grey)."""
    y, x = np.mgrid[0:size, 0:size] + 0.5
    inside = np.hypot(x - center[0], y - center[1]) < radius
    rgb = np.full((size, size, 3), 225, np.uint8)
    rgb[inside] = (230, 120, 40)
    rgb[np.hypot(x - center[0], y - center[1] + radius / 2) < radius / 6] = (20, 20, 60)
    return np.dstack([rgb, 255 * inside]).astype(np.uint8) if alpha else rgb


def ring_photo(size=128, outer=48, inner=22):
    """A green ring with alpha: an object with a hole."""
    y, x = np.mgrid[0:size, 0:size] + 0.5
    r = np.hypot(x - size / 2, y - size / 2)
    rgb = np.zeros((size, size, 3), np.uint8) + np.array([60, 160, 90], np.uint8)
    return np.dstack([rgb, 255 * ((r < outer) & (r > inner))]).astype(np.uint8)


@pytest.fixture(scope="session")
def small_settings():
    from obverse.create import Settings

    return Settings(resolution=64, faces=2000, texture=256, gaussians=3000)


@pytest.fixture(scope="session")
def disc_asset(small_settings):
    from obverse.create import create

    return create(disc_photo(), settings=small_settings, seed=3)
