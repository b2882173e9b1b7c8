"""The camera that explains the photo, for methods that were told none: where it stood is learned, how it was cropped
is fitted here."""

from __future__ import annotations

import torch
from torch import Tensor

from ..cameras import Cameras
from ..render.fields import Field, SampledOnGrids, insideness

CELLS = 56  # of the grid on which the surface is looked for; crossings are interpolated, so this is fine enough
MOST = 2.0  # by which a photo is taken to be cropped tighter or wider than in training


def framed(field: Field, alpha: Tensor, camera: Cameras) -> Cameras:
    """The same camera with focal length and principal point such that the field's outline spans the photo's cut-out.

    The four sides of the outline's box are met in the sense of least squares, by one scale and one shift, as a crop of
    the photo would do.

    Args:
        field: the solid, in the world frame.
        alpha: the photo's cut-out [H, W] in 0–1.
        camera: one camera, for an image of any size of the same shape; what it sees of the field is measured.

    Returns:
        One camera for images of the size of ``alpha``. Where nothing is solid it sees what ``camera`` saw.
    """
    height, width = alpha.shape
    camera = camera.resized(width, height)
    solid = alpha > 0.5
    points = crossings(field)
    if not len(points) or not bool(solid.any()):
        return camera
    pixels, _ = camera.project(points)
    low, high = pixels.amin(0), pixels.amax(0)
    rows, columns = solid.any(1).nonzero()[:, 0], solid.any(0).nonzero()[:, 0]
    wanted_low = torch.tensor([float(columns[0]), float(rows[0])])
    wanted_high = torch.tensor([float(columns[-1]) + 1, float(rows[-1]) + 1])
    # Minimise Σ |scale · side + shift − wanted side|²: the shift joins the middles, the scale weighs long sides more.
    size, wanted = high - low, wanted_high - wanted_low
    scale = float(((size * wanted).sum() / (size * size).sum().clamp_min(1e-9)).clamp(1 / MOST, MOST))
    shift = (wanted_low + wanted_high) / 2 - scale * (low + high) / 2
    intrinsics = camera.intrinsics.clone()
    intrinsics[:2] *= scale
    intrinsics[:2, 2] += shift
    return Cameras(camera.world_to_camera, intrinsics, width, height)


def crossings(field: Field, cells: int = CELLS) -> Tensor:
    """Points [N, 3] where the surface of a field crosses the edges of a regular grid, by linear interpolation."""
    low, high = (torch.tensor(side) for side in field.bounds)
    step = float((high - low).max()) / cells
    shape = [int(n) + 1 for n in ((high - low) / step + 1e-6).tolist()]
    index = torch.cartesian_prod(*(torch.arange(n) for n in shape))
    with torch.no_grad():
        if isinstance(field, SampledOnGrids):
            values = field.on_grid(low.tolist(), step, shape)(index)
        else:
            values = insideness(field, low + step * index)
    grid, places = values.cpu().reshape(shape), (low + step * index).reshape(*shape, 3)
    found = []
    for axis in range(3):
        n = shape[axis] - 1
        a, b = grid.narrow(axis, 0, n), grid.narrow(axis, 1, n)
        crossed = (a > 0) != (b > 0)
        share = (a[crossed] / (a[crossed] - b[crossed]))[:, None]
        start, stop = places.narrow(axis, 0, n)[crossed], places.narrow(axis, 1, n)[crossed]
        found.append(start + share * (stop - start))
    return torch.cat(found)
