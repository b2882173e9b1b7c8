"""Density fields → images: differentiable volume rendering, in plain torch.

A density σ is the chance per object unit of meeting the solid (Max 1995, "Optical Models for Direct Volume
Rendering"). The colour along a ray is the sum of T_i (1 − exp(−σ_i δ_i)) c_i with T_i = exp(−Σ_{j<i} σ_j δ_j)
(Mildenhall et al. 2020, "NeRF", equation 3), from stratified samples and a second, denser set where the first found
weight (equation 5). δ_i is the part of the ray nearer to sample i than to any other, so that the parts add up to the
whole way through the field's box. Distance fields are turned into densities by ``LaplaceDensity`` first.

Below ``render_field`` are the small functions it is made of. R is the number of rays, S of samples along one; ``t``
is the distance along the camera's +Z, in object units, because directions have length 1 along that axis.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Literal

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ..cameras import Cameras, background_for
from ..errors import InputError, UsageError
from .fields import Field, insideness

FAINT = 1e-3  # density that may be skipped: even through a unit box's diagonal it hides under half a level of 255
PADDING = 0.05  # share of a ray's weight spread evenly, so that nothing the first samples missed stays unseen
PARALLEL = 1e-12  # a direction's component below this counts as parallel to the box's side


@dataclass(frozen=True)
class FieldRendering:
    """What V cameras see of a field."""

    color: Tensor  # [V, H, W, 3] sRGB-encoded, over the background
    alpha: Tensor  # [V, H, W] 0–1
    depth: Tensor  # [V, H, W] mean along the camera's +Z, weighted as colour is, object units; inf where alpha is 0


@dataclass(frozen=True)
class LaplaceDensity:
    """The density of a signed distance field: the Laplace distribution's cumulative function of depth inside.

    σ(x) = Ψ_β(level − sdf(x)) / β, which falls off as exp(−distance / β) outside and nears 1 / β inside (Yariv et al.
    2021, "VolSDF", equations 2 and 3, with α = 1 / β). The surface lies at density 1 / 2β.
    """

    field: Field  # of kind "sdf"
    beta: float | Tensor  # object units, above 0; a tensor of one element is differentiated
    kind: Literal["density"] = "density"

    def __post_init__(self) -> None:
        if self.field.kind != "sdf":
            raise InputError(f'the field\'s kind is "{self.field.kind}", it must be "sdf"; render a density as it is')
        if not 0 < _number(self.beta) < math.inf:
            raise UsageError(
                f"beta is {self.beta}, it must be one finite number above 0; 0.01 gives a crisp unit object"
            )

    @property
    def level(self) -> float:
        """The density on the surface."""
        return 0.5 / _number(self.beta)

    @property
    def bounds(self) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
        """Those of the distance field; the density's tail beyond them is cut off."""
        return self.field.bounds

    def density_or_sdf(self, points: Tensor) -> Tensor:
        """World points [N, 3] → densities [N], per object unit."""
        return self.within(points, 0.0)

    def within(self, points: Tensor, radius: float) -> Tensor:
        """Largest density [N] that can lie within ``radius`` of points [N, 3], if no distance is overstated."""
        depth = insideness(self.field, points) + radius
        beta = self.beta.to(depth).reshape(()) if isinstance(self.beta, Tensor) else self.beta
        inside = 1 - 0.5 * torch.exp(-depth.clamp_min(0) / beta)
        outside = 0.5 * torch.exp(depth.clamp_max(0) / beta)
        return torch.where(depth > 0, inside, outside) / beta

    def color(self, points: Tensor) -> Tensor:
        """World points [N, 3] → the distance field's colours [N, 3]."""
        return self.field.color(points)


@dataclass(frozen=True)
class _March:
    """What is the same for every ray."""

    field: Field
    box: Tensor  # [2, 3] low and high corner
    samples: int
    importance: int
    occupancy: Tensor | None


def render_field(
    field: Field,
    cameras: Cameras,
    *,
    background: Sequence[float] | Tensor = (1.0, 1.0, 1.0),
    samples: int = 64,
    importance: int = 64,
    generator: torch.Generator | None = None,
    occupancy: Tensor | None = None,
    chunk: int = 4096,
) -> FieldRendering:
    """Images of a density field from V cameras, differentiable in the field, cameras and background.

    Computed where the cameras are and in their precision (float32 or float64), so they belong on the field's device.
    Negative densities count as 0. Rays that miss the field's bounds show the background and ask the field nothing;
    a camera inside the bounds sees what lies before it. Gradients do not flow through the choice of the second set's
    places. Above ``chunk`` rays the backward pass computes each chunk anew, so that memory stays bounded.

    Args:
        field: of kind "density"; wrap one of kind "sdf" in ``LaplaceDensity``.
        cameras: V views, or one without a batch axis (V = 1).
        background: sRGB-encoded colour [3], or a tensor that broadcasts to [V, H, W, 3].
        samples: stratified along each ray. They should lie no further apart than the thinnest part is thick: what
            all of them miss draws no importance samples either.
        importance: further ones, where the first found weight; 0 for none, which suits fog without surfaces.
        generator: jitters the samples, by one offset for each ray and set; without it they sit in the middle of
            their strata, and the image is the same every time.
        occupancy: bool [X, Y, Z] that spans the bounds; samples in cells that are False are empty without asking the
            field. ``occupancy_grid`` makes one.
        chunk: rays marched at once; at most chunk · max(samples, importance) points are asked in one call, and
            chunk · (samples + importance) when colours are.

    Raises:
        InputError: the field is an sdf, has unusable bounds, or answers NaN or infinity; cameras, background or
            occupancy do not fit.
        UsageError: ``samples``, ``importance`` or ``chunk`` cannot be meant.
    """
    _check(field, samples, importance, occupancy, chunk)
    cameras = _batch(cameras)
    like = cameras.world_to_camera
    paper = background_for(cameras, background, cameras.world_to_camera)
    cells = None if occupancy is None else occupancy.to(like.device)
    march = _March(field, _box(field).to(like), samples, importance, cells)
    rays = cameras.width * cameras.height
    jitter = None
    if generator is not None:  # one draw for the whole image, or chunks would change it
        drawn = torch.rand(2, len(cameras), rays, generator=generator, device=generator.device, dtype=like.dtype)
        jitter = drawn.to(like.device)
    recompute = torch.is_grad_enabled() and len(cameras) * rays > chunk
    seen = []
    for view in range(len(cameras)):
        offsets = None if jitter is None else jitter[:, view]
        seen.append(_view(march, cameras[view], offsets, chunk, recompute))
    color, alpha, depth = torch.stack(seen).split([3, 1, 1], dim=-1)
    return FieldRendering(color + (1 - alpha) * paper, alpha[..., 0], depth[..., 0])


def occupancy_grid(
    field: Field, resolution: int = 64, *, threshold: float = FAINT, device: torch.device | str | None = None
) -> Tensor:
    """Cells of a density field's bounds that may hold more than ``threshold`` → bool [X, Y, Z].

    Every cell is asked at its corners, edges' middles, faces' middles and centre, and found cells are grown by one in
    every direction, so that only a part thinner than half a cell, and more than a cell from any part that was found,
    could be missed. A ``LaplaceDensity`` of true distances is bounded between the samples too: it misses nothing.

    Args:
        field: of kind "density"; wrap one of kind "sdf" in ``LaplaceDensity``.
        resolution: cells along the longest side of the bounds, 1 to 512.
        threshold: per object unit; a path of length d through skipped cells hides at most threshold · d.
        device: where the field is asked, by default the CPU.

    Raises:
        InputError: the field is an sdf, has unusable bounds, or answers NaN or infinity.
        UsageError: ``resolution`` or ``threshold`` cannot be meant.
    """
    _need_density(field)
    _need_count("resolution", resolution, 1, 512)
    if not 0 <= threshold < math.inf:
        raise UsageError(f"threshold is {threshold}, it must be a finite density of at least 0; {FAINT:g} suits most")
    box = _box(field)
    size = box[1] - box[0]
    counts = [max(1, math.ceil(n - 1e-6)) for n in (size / size.max() * resolution).tolist()]
    sides = zip(box[0].tolist(), box[1].tolist(), counts, strict=True)
    lines = [torch.linspace(low, high, 2 * n + 1, device=device) for low, high, n in sides]
    reach = 0.25 * math.hypot(*(float(s) / n for s, n in zip(size, counts, strict=True)))  # to the nearest sample
    planes = []
    with torch.no_grad():
        for x in lines[0]:
            points = torch.cartesian_prod(x[None], lines[1], lines[2])
            raw = field.within(points, reach) if isinstance(field, LaplaceDensity) else field.density_or_sdf(points)
            values = _answer(raw, points, "density", (len(points),))
            planes.append((values > threshold).reshape(len(lines[1]), len(lines[2])))
    found = torch.stack(planes)
    for axis in range(3):
        found = found.unfold(axis, 3, 2).any(-1)  # a cell has three samples across: edge, middle, edge
    for axis, n in enumerate(counts):
        grown = found.clone()
        grown.narrow(axis, 1, n - 1).logical_or_(found.narrow(axis, 0, n - 1))
        grown.narrow(axis, 0, n - 1).logical_or_(found.narrow(axis, 1, n - 1))
        found = grown
    return found


def camera_rays(cameras: Cameras) -> tuple[Tensor, Tensor]:
    """Rays through the pixels' centres: origins and directions, both [..., H, W, 3] in the world frame.

    Directions have length 1 along the camera's +Z, so that origin + t · direction has depth t.

    Raises:
        InputError: intrinsics that cannot be inverted.
    """
    like = cameras.world_to_camera
    u = torch.arange(cameras.width, device=like.device, dtype=like.dtype) + 0.5
    v = torch.arange(cameras.height, device=like.device, dtype=like.dtype) + 0.5
    pixels = torch.stack([*torch.meshgrid(u, v, indexing="xy"), torch.ones_like(u).expand(len(v), -1)], -1)
    inverse, singular = torch.linalg.inv_ex(cameras.intrinsics.to(like))
    if bool(singular.any()):
        raise InputError("a camera's intrinsics cannot be inverted; focal lengths must not be 0")
    to_world = like[..., :3, :3].transpose(-1, -2) @ inverse
    directions = (to_world[..., None, None, :, :] @ pixels[..., None])[..., 0]
    return cameras.positions[..., None, None, :].expand_as(directions), directions


def intersect_box(origins: Tensor, directions: Tensor, box: Tensor) -> tuple[Tensor, Tensor]:
    """Where rays [R, 3] enter and leave a box [2, 3] (low and high corner): t of both, [R].

    What lies behind the origin does not count: a ray that starts inside enters at 0. A ray that misses has
    far ≤ near.
    """
    parallel = directions.abs() < PARALLEL
    slope = torch.where(parallel, torch.full_like(directions, PARALLEL), directions)
    first, second = (box[0] - origins) / slope, (box[1] - origins) / slope
    near = torch.minimum(first, second).amax(-1).clamp_min(0)
    return near, torch.maximum(first, second).amin(-1)


def stratified(near: Tensor, far: Tensor, samples: int, jitter: Tensor | None = None) -> Tensor:
    """One sample in each of S equal parts of [near, far], both [R] → ascending t [R, S] (NeRF, equation 2).

    ``jitter`` in 0–1 says where in its part a sample sits, [R, 1] or [R, S]; by default in the middle.
    """
    place = _places(samples, near, jitter)
    return near[:, None] + (far - near)[:, None] * place


def cell_edges(t: Tensor, near: Tensor, far: Tensor) -> Tensor:
    """Edges [R, S + 1] of the parts of [near, far] that are nearest to each of ascending samples t [R, S]."""
    return torch.cat([near[:, None], 0.5 * (t[:, 1:] + t[:, :-1]), far[:, None]], -1)


def compositing_weights(densities: Tensor, lengths: Tensor) -> Tensor:
    """Share of each sample in its ray's colour [..., S], from densities and lengths [..., S] (NeRF, equation 3).

    They sum to 1 − exp(−Σ σ δ), the ray's alpha. The product of what earlier samples let through is taken as the
    exponential of a sum that leaves the sample itself out, which is exact behind an opaque one.
    """
    thickness = densities * lengths
    before = torch.cat([torch.zeros_like(thickness[..., :1]), thickness[..., :-1]], -1).cumsum(-1)
    return torch.exp(-before) * -torch.expm1(-thickness)


def widened(weights: Tensor, floor: float | None = None) -> Tensor:
    """Weights [R, S] that reach their neighbours and are nowhere 0, to draw samples by.

    Half the larger of each two neighbours' maxima, as in mip-NeRF (Barron et al. 2021, equation 18), and ``floor``, by
    default PADDING of the ray's largest possible weight shared evenly.
    """
    pairs = torch.maximum(weights[:, 1:], weights[:, :-1])
    left, right = torch.cat([weights[:, :1], pairs], -1), torch.cat([pairs, weights[:, -1:]], -1)
    return 0.5 * (left + right) + (PADDING / weights.shape[-1] if floor is None else floor)


def resample(edges: Tensor, weights: Tensor, count: int, jitter: Tensor | None = None) -> Tensor:
    """``count`` places distributed as a step function: inverse transform sampling (NeRF, section 5.2) → [R, count].

    Args:
        edges: ascending [R, S + 1].
        weights: of the steps between them [R, S], not negative, of any sum; where all are 0, steps count alike.
        count: of places for each ray, ascending.
        jitter: as for ``stratified``, of the cumulative function's parts.
    """
    total = weights.sum(-1, keepdim=True)
    share = torch.where(total > 0, weights / torch.where(total > 0, total, 1), 1 / weights.shape[-1])
    cumulative = torch.cat([torch.zeros_like(total), share.cumsum(-1)], -1)
    place = _places(count, edges, jitter).expand(len(edges), count).contiguous()
    step = (torch.searchsorted(cumulative, place, right=True) - 1).clamp(0, weights.shape[-1] - 1)
    start, width = cumulative.gather(-1, step), share.gather(-1, step)
    along = torch.where(width > 0, (place - start) / torch.where(width > 0, width, 1), 0.5).clamp(0, 1)
    low, high = edges.gather(-1, step), edges.gather(-1, step + 1)
    return low + along * (high - low)


def _view(march: _March, camera: Cameras, jitter: Tensor | None, chunk: int, recompute: bool) -> Tensor:
    """One camera's image [H, W, 5]: premultiplied colour, alpha and depth. ``jitter`` is [2, H · W]."""
    origins, directions = (side.reshape(-1, 3) for side in camera_rays(camera))
    near, far = intersect_box(origins, directions, march.box)
    image = torch.tensor([0.0, 0.0, 0.0, 0.0, math.inf]).to(near).repeat(len(near), 1)
    for part in (far > near).nonzero()[:, 0].split(chunk):
        offsets = None if jitter is None else jitter[:, part]
        given = (march, origins[part], directions[part], near[part], far[part], offsets)
        found = checkpoint(_march, *given, use_reentrant=False) if recompute else _march(*given)
        image = image.index_put((part,), found)
    return image.reshape(camera.height, camera.width, 5)


def _march(
    march: _March, origins: Tensor, directions: Tensor, near: Tensor, far: Tensor, jitter: Tensor | None
) -> Tensor:
    """Rays [R, 3] that hit the box → premultiplied colour, alpha and depth, [R, 5]."""
    first, second = (None, None) if jitter is None else (jitter[0, :, None], jitter[1, :, None])
    speed = directions.norm(dim=-1, keepdim=True)  # object units of path for each unit of t
    t = stratified(near, far, march.samples, first)
    densities = _densities(march, _points(origins, directions, t))
    if march.importance:
        with torch.no_grad():
            edges = cell_edges(t, near, far)
            found = compositing_weights(densities, edges.diff(dim=-1) * speed)
            more = resample(edges, widened(found), march.importance, second)
        denser = _densities(march, _points(origins, directions, more))
        t, order = torch.cat([t, more], -1).sort(stable=True, dim=-1)
        densities = torch.cat([densities, denser], -1).gather(-1, order)
    lengths = cell_edges(t, near, far).diff(dim=-1) * speed
    weights = compositing_weights(densities, lengths)
    alpha = -torch.expm1(-(densities * lengths).sum(-1))
    color = (weights[..., None] * _colors(march, _points(origins, directions, t), weights)).sum(-2)
    total = weights.sum(-1)
    empty = total <= 0
    depth = torch.where(empty, math.inf, (weights * t).sum(-1) / torch.where(empty, 1, total))
    return torch.cat([color, alpha[:, None], depth[:, None]], -1)


def _points(origins: Tensor, directions: Tensor, t: Tensor) -> Tensor:
    """Rays [R, 3] at t [R, S] → world points [R, S, 3]."""
    return origins[:, None] + t[..., None] * directions[:, None]


def _densities(march: _March, points: Tensor) -> Tensor:
    """World points [R, S, 3] → densities [R, S], 0 without asking where the occupancy grid is empty."""
    wanted = None if march.occupancy is None else _occupied(march.occupancy, march.box, points)
    return _ask(march.field.density_or_sdf, "density", points, wanted, ()).clamp_min(0)


def _colors(march: _March, points: Tensor, weights: Tensor) -> Tensor:
    """World points [R, S, 3] → colours [R, S, 3], 0 without asking where they cannot matter.

    Where the weight is 0 the colour still matters to the density's gradient, but not to the image.
    """
    if not torch.is_grad_enabled():
        wanted: Tensor | None = weights > 0
    else:
        wanted = None if march.occupancy is None else _occupied(march.occupancy, march.box, points)
    return _ask(march.field.color, "colour", points, wanted, (3,))


def _ask(
    question: Callable[[Tensor], Tensor], what: str, points: Tensor, wanted: Tensor | None, tail: tuple[int, ...]
) -> Tensor:
    """A field's answers [R, S, *tail] at points [R, S, 3], 0 where they are not wanted [R, S]."""
    if wanted is None:
        flat = points.reshape(-1, 3)
        return _answer(question(flat), flat, what, (len(flat), *tail)).reshape(*points.shape[:-1], *tail)
    answers = points.new_zeros(*points.shape[:-1], *tail)
    place = wanted.nonzero(as_tuple=True)
    if not len(place[0]):
        return answers
    chosen = points[place]
    return answers.index_put(place, _answer(question(chosen), chosen, what, (len(chosen), *tail)))


def _occupied(occupancy: Tensor, box: Tensor, points: Tensor) -> Tensor:
    """World points [..., 3] inside the box → mask [...] of those whose cell may hold something."""
    counts = torch.tensor(occupancy.shape, device=points.device)
    cells = ((points.detach() - box[0]) * (counts / (box[1] - box[0]))).long()
    x, y, z = torch.minimum(cells.clamp_min(0), counts - 1).unbind(-1)
    return occupancy.reshape(-1)[(x * occupancy.shape[1] + y) * occupancy.shape[2] + z]


def _places(count: int, like: Tensor, jitter: Tensor | None) -> Tensor:
    """One place in each of ``count`` equal parts of 0–1, [1 or R, count]."""
    offset = 0.5 if jitter is None else jitter
    return (torch.arange(count, device=like.device, dtype=like.dtype)[None] + offset) / count


def _answer(values: Tensor, points: Tensor, what: str, shape: tuple[int, ...]) -> Tensor:
    """A field's answer in the points' precision, checked."""
    if tuple(values.shape) != shape:
        raise InputError(
            f"the field's {what} of {len(points)} points is {list(values.shape)}, it must be {list(shape)}; "
            "reshape what the field returns"
        )
    fine = torch.isfinite(values)
    if not bool(fine.all()):
        bad = ~fine.reshape(len(points), -1).all(-1)
        x, y, z = points[bad][0].tolist()
        raise InputError(
            f"the field's {what} is NaN or infinite at {int(bad.sum())} of {len(points)} points, first at "
            f"({x:.4g}, {y:.4g}, {z:.4g}); it must be finite inside its bounds: clamp it, or look for a division by 0"
        )
    return values.to(points)


def _box(field: Field) -> Tensor:
    """The field's bounds as a float64 tensor [2, 3], checked."""
    box = torch.tensor(field.bounds, dtype=torch.float64)
    if box.shape != (2, 3) or not bool(torch.isfinite(box).all()) or not bool((box[1] > box[0]).all()):
        raise InputError(
            f"the field's bounds are {field.bounds}, but every low corner must be finite and below its high corner"
        )
    return box


def _batch(cameras: Cameras) -> Cameras:
    """The cameras with one batch axis, checked."""
    matrices, intrinsics = cameras.world_to_camera.reshape(-1, 4, 4), cameras.intrinsics.reshape(-1, 3, 3)
    if matrices.dtype not in (torch.float32, torch.float64):
        raise InputError(
            f"the cameras are {matrices.dtype}, too coarse to place samples; convert them to torch.float32"
        )
    if not len(matrices):
        raise InputError("there are no cameras, so there is nothing to render; pass at least one")
    if not bool(torch.isfinite(matrices).all() and torch.isfinite(intrinsics).all()):
        raise InputError("a camera's matrix has NaN or infinite entries; leave out views whose pose is not known")
    return Cameras(matrices, intrinsics.to(matrices), cameras.width, cameras.height)


def _number(value: float | Tensor) -> float:
    """The value without its gradient; NaN for a tensor that is not one number."""
    if not isinstance(value, Tensor):
        return float(value)
    return float(value.detach()) if value.numel() == 1 else math.nan


def _need_density(field: Field) -> None:
    if field.kind != "density":
        raise InputError(
            f'the field\'s kind is "{field.kind}", it must be "density"; '
            "wrap distances as LaplaceDensity(field, beta=0.01)"
        )


def _need_count(name: str, value: int, least: int, most: int) -> None:
    if isinstance(value, bool) or not isinstance(value, Integral) or not least <= value <= most:
        raise UsageError(f"{name} is {value!r}, it must be an integer from {least} to {most}")


def _check(field: Field, samples: int, importance: int, occupancy: Tensor | None, chunk: int) -> None:
    """Raise for a field or options that cannot be meant."""
    _need_density(field)
    _need_count("samples", samples, 1, 1 << 16)
    _need_count("importance", importance, 0, 1 << 16)
    _need_count("chunk", chunk, 1, 1 << 30)
    if occupancy is None:
        return
    if occupancy.dtype != torch.bool or occupancy.ndim != 3 or not occupancy.numel():
        raise InputError(
            f"occupancy is {occupancy.dtype} {list(occupancy.shape)}, it must be bool [X, Y, Z] over the field's "
            "bounds; make one with occupancy_grid(field)"
        )
