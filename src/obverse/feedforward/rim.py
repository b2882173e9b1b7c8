"""How a solid made of a photo's columns ends at the photo's outline: as thin as its thickness farther in foretells.

A column is as wide as a cell of the grid, so a solid cut out along the outline ends in a wall as high as its last
column is thick: on a ball of 60 columns, a fifth of its diameter. Near the outline of a smooth body the thickness grows
with the square root of the distance to the outline (the outline is where the line of sight is tangent to it), on a box
seen face on it does not grow at all. The power between the two is read off the solid a few columns further in.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ..parallel import kernel

F = np.float32
NEAR, FAR = 2.0, 4.5  # columns from the outline: the thickness at these two decides how it goes on outwards
STEEPEST = 0.6  # power: a little above that of a smooth body
THIN, THICK = 4.0, 8.0  # columns: parts up to the first are taken to be round, parts from the second on are not
CALM = 1.25  # columns over which what was read off is averaged
GENTLE = 0.5  # value per cell next to a surface that was drawn in


def tapered(
    values: NDArray[np.float32], outline: NDArray[np.float32], width: NDArray[np.float32], *, columns: int
) -> NDArray[np.float32]:
    """Thin a solid out towards its outline.

    Args:
        values: [D, N, N] positive where full, near to far; columns outside the outline hold what their nearest
            neighbours inside do.
        outline: [N, N] distance to the outline in pixels of N, positive inside.
        width: [N, N] of the part each place belongs to, in the same pixels.
        columns: the solid's own resolution, at most N: how much of its rim is not to be trusted.

    Returns:
        [D, N, N]: the same values but for the stretches of columns near the outline, each drawn in around its middle.
    """
    scale = F(values.shape[1] / columns)
    near = np.minimum(NEAR * scale, 0.3 * width).clip(1e-3)
    far = np.minimum(FAR * scale, 0.5 * width).clip(2e-3)
    thickness = np.empty_like(outline)
    _thickness(values, thickness)
    inner, power = _read_off(thickness, outline, near, far, float(CALM * scale))
    round_parts = ((THICK * scale - width) / ((THICK - THIN) * scale)).clip(0, 1)
    power = np.maximum(power, 0.5 * round_parts)
    # Beyond the outline what is round goes on as less than nothing, so that between two pixels it ends at the outline.
    beyond = np.where(outline > 0, 1.0, 1 - 4 * power.clip(0, 0.5))
    wanted = inner * beyond * (np.abs(outline) / near) ** power
    share = np.where(outline < near, wanted / thickness.clip(1e-3, None), 1.0).clip(-1, 1).astype(F)
    drawn = values.copy()
    _draw_in(drawn, share, inner.clip(2, None).astype(F), F(GENTLE))
    return drawn


def _read_off(
    thickness: NDArray, outline: NDArray, near: NDArray, far: NDArray, calm: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Thickness [N, N] ``near`` the outline, straight inwards, and the power with which it grows from there to ``far``.

    Both are averaged along the outline, over ``calm`` pixels.
    """
    down, right = np.gradient(ndimage.gaussian_filter(outline, 1.0))
    norm = np.hypot(down, right).clip(1e-3)
    rows, columns = np.indices(outline.shape)
    inside = outline > 0.5
    smooth = _mean_where(inside, thickness, 1.0)

    def inwards(distance: NDArray) -> NDArray:
        step = (distance - outline) / norm
        return ndimage.map_coordinates(smooth, [rows + step * down, columns + step * right], order=1, mode="nearest")

    inner, deeper = inwards(near).clip(1e-3, None), inwards(far).clip(1e-3, None)
    power = (np.log(deeper / inner) / np.log((far / near).clip(1.2, None))).clip(0, STEEPEST)
    rim = (outline < far) & (outline > -2)
    return _mean_where(rim, inner, calm), _mean_where(rim, power, calm)


def _mean_where(mask: NDArray, image: NDArray, sigma: float) -> NDArray[np.float64]:
    """Gaussian average [N, N] of an image over a mask."""
    weight = ndimage.gaussian_filter(mask.astype(np.float64), sigma)
    return ndimage.gaussian_filter(np.where(mask, image, 0.0).astype(np.float64), sigma) / weight.clip(1e-6)


@kernel()
def _thickness(values: np.ndarray, found: np.ndarray) -> None:
    """Cells [N, N] from where a column is first full to where it is last, to fractions: a cup is as thick as a can."""
    depths, rows, columns = values.shape
    for r in range(rows):
        for c in range(columns):
            start, end = F(-1), F(0)
            for z in range(depths - 1):
                a, b = values[z, r, c], values[z + 1, r, c]
                if a <= 0 and b > 0 and start < 0:
                    start = z + a / (a - b)
                if a > 0 and b <= 0:
                    end = z + a / (a - b)
            if values[0, r, c] > 0:
                start = F(0)
            if values[depths - 1, r, c] > 0:
                end = F(depths - 1)
            found[r, c] = max(end - start, F(0)) if start >= 0 else F(0)


@kernel()
def _draw_in(values: np.ndarray, share: np.ndarray, scale: np.ndarray, gentle: float) -> None:
    """Shorten every full stretch of a column to its ``share`` [N, N], around its middle; in place.

    Values are differences of squares, over a ``scale`` [N, N], as the square of a round body's thickness grows linearly
    from the outline: what is interpolated between pixels is round as well.
    """
    depths, rows, columns = values.shape
    reach = np.empty(depths, np.float32)
    for r in range(rows):
        for c in range(columns):
            if share[r, c] >= 1:
                continue
            reach[:] = F(-1e6)
            start = F(-0.5)
            for z in range(depths):
                here = values[z, r, c]
                after = values[z + 1, r, c] if z + 1 < depths else F(-1e9)
                if here <= 0 and after > 0:
                    start = z + here / (here - after)
                if here > 0 and after <= 0:
                    end = z + here / (here - after)
                    half = F(0.5) * (end - start) * share[r, c]
                    for k in range(depths):
                        beside = k - F(0.5) * (start + end)
                        reach[k] = max(reach[k], (half * abs(half) - beside * beside) / scale[r, c])
            for k in range(depths):
                values[k, r, c] = min(values[k, r, c], max(gentle * reach[k], F(-2)))
