"""Triton kernels of the splat renderer, forward: project and composite.

Arrays: V views, N Gaussians, instance m = view · N + n, P pairs of a 16 × 16 tile and an instance that may touch it.
The formulas are those of ``splat_kernels``: projection in double precision where the device has it (``WIDE``),
compositing in single.

Kernels take pointers one by one, since Triton passes no records: hence more than eight parameters. Blocks of
compositing are [CHUNK, 256], Gaussians by pixels: Triton then deals the pixels to the threads and leaves a pixel's
whole chunk to one thread, so that running products and sums along it stay in registers.
"""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl

from . import splats

TILE = tl.constexpr(16)
PIXELS = tl.constexpr(16 * 16)

# A record of a projected Gaussian: α = 2^p, p = dx (A dx + B dy) + C dy² + log₂ o; base 2 is what the hardware has.
U, V, A, B, C, LOG_OPACITY, RED, GREEN, BLUE, DEPTH = (tl.constexpr(i) for i in range(10))
RECORD = tl.constexpr(10)
# A camera: upper three rows of world_to_camera, then fx, skew, cx, fy, cy, then near and far.
LENS, NEAR, FAR, CAMERA = (tl.constexpr(i) for i in (12, 17, 18, 19))

LOW_PASS = tl.constexpr(splats.LOW_PASS)
MAX_ALPHA = tl.constexpr(splats.MAX_ALPHA)
MIN_ALPHA = tl.constexpr(splats.MIN_ALPHA)
MIN_TRANSMITTANCE = tl.constexpr(splats.MIN_TRANSMITTANCE)
HALF_MARGIN = tl.constexpr(0.5 * splats.FIELD_MARGIN)
LOG2_E = tl.constexpr(1.4426950408889634)
LOG2_MIN_ALPHA = tl.constexpr(-7.994353436858858)  # log₂ 1/255
NOTHING = tl.constexpr(-1e4)  # log₂ of an opacity that no pixel sees
LEAST_NORM = tl.constexpr(1e-12)
MOST_RADIUS = tl.constexpr(1e9)  # px, as the compiled renderer of the CPU holds it


@triton.jit
def triple(base: tl.tensor, n: tl.tensor, inside: tl.tensor, WIDE: tl.constexpr) -> Any:
    """Rows n of an array [N, 3]."""
    x = tl.load(base + 3 * n, mask=inside, other=0.0).to(WIDE)
    y = tl.load(base + 3 * n + 1, mask=inside, other=0.0).to(WIDE)
    z = tl.load(base + 3 * n + 2, mask=inside, other=0.0).to(WIDE)
    return x, y, z


@triton.jit
def unit_quaternion(quats: tl.tensor, n: tl.tensor, inside: tl.tensor, WIDE: tl.constexpr) -> Any:
    """w, x, y, z of length one, or zero if they were, and the length they had."""
    w = tl.load(quats + 4 * n, mask=inside, other=0.0).to(WIDE)
    x = tl.load(quats + 4 * n + 1, mask=inside, other=0.0).to(WIDE)
    y = tl.load(quats + 4 * n + 2, mask=inside, other=0.0).to(WIDE)
    z = tl.load(quats + 4 * n + 3, mask=inside, other=0.0).to(WIDE)
    norm = tl.maximum(tl.sqrt(w * w + x * x + y * y + z * z), LEAST_NORM)
    return w / norm, x / norm, y / norm, z / norm, norm


@triton.jit
def rotation_of(w: tl.tensor, x: tl.tensor, y: tl.tensor, z: tl.tensor) -> Any:
    """Nine entries of the rotation matrix of a unit quaternion, by rows; the identity for zero."""
    return (
        1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y),
        2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x),
        2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y),
    )  # fmt: skip


@triton.jit
def camera_rows(camera: tl.tensor) -> Any:
    """The upper three rows of world_to_camera, twelve numbers."""
    return (
        tl.load(camera), tl.load(camera + 1), tl.load(camera + 2), tl.load(camera + 3),
        tl.load(camera + 4), tl.load(camera + 5), tl.load(camera + 6), tl.load(camera + 7),
        tl.load(camera + 8), tl.load(camera + 9), tl.load(camera + 10), tl.load(camera + 11),
    )  # fmt: skip


@triton.jit
def held(slope: tl.tensor, most: tl.tensor) -> Any:
    """A slope held to ±most, and 1 where it was free."""
    return tl.minimum(tl.maximum(slope, -most), most), tl.where(tl.abs(slope) <= most, 1.0, 0.0).to(slope.dtype)


@triton.jit
def sh_value(k: tl.constexpr, x: tl.tensor, y: tl.tensor, z: tl.tensor) -> Any:
    """The k-th real spherical harmonic of a unit direction, as ``gaussians.sh_basis``."""
    if k == 0:
        value = tl.full(x.shape, 0.28209479177387814, x.dtype)
    elif k == 1:
        value = -0.4886025119029199 * y
    elif k == 2:
        value = 0.4886025119029199 * z
    elif k == 3:
        value = -0.4886025119029199 * x
    elif k == 4:
        value = 1.0925484305920792 * x * y
    elif k == 5:
        value = -1.0925484305920792 * y * z
    elif k == 6:
        value = 0.31539156525252005 * (2 * z * z - x * x - y * y)
    elif k == 7:
        value = -1.0925484305920792 * x * z
    elif k == 8:
        value = 0.5462742152960396 * (x * x - y * y)
    elif k == 9:
        value = -0.5900435899266435 * y * (3 * x * x - y * y)
    elif k == 10:
        value = 2.890611442640554 * x * y * z
    elif k == 11:
        value = -0.4570457994644658 * y * (4 * z * z - x * x - y * y)
    elif k == 12:
        value = 0.3731763325901154 * z * (2 * z * z - 3 * x * x - 3 * y * y)
    elif k == 13:
        value = -0.4570457994644658 * x * (4 * z * z - x * x - y * y)
    elif k == 14:
        value = 1.445305721320277 * z * (x * x - y * y)
    else:
        value = -0.5900435899266435 * x * (x * x - 3 * y * y)
    return value


@triton.jit(do_not_specialize=["count", "width", "height"])
def project(
    means: tl.tensor,
    quats: tl.tensor,
    scales: tl.tensor,
    opacities: tl.tensor,
    sh: tl.tensor,
    cameras: tl.tensor,
    records: tl.tensor,
    boxes: tl.tensor,
    reached: tl.tensor,
    depths: tl.tensor,
    radii: tl.tensor,
    count: tl.tensor,
    width: tl.tensor,
    height: tl.tensor,
    K: tl.constexpr,
    ANTIALIASED: tl.constexpr,
    WIDE: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """Per instance: its record, the box of tiles it reaches, how many those are, its depth and its radius in pixels.

    ``boxes`` [V · N, 3] holds the first tile in x and y and the number of tiles across; ``reached``, ``depths`` and
    ``radii`` are 0 where nothing is drawn. Grid: blocks of Gaussians, views. Long because everything one Gaussian needs
    stays in registers.
    """
    view = tl.program_id(1)
    n = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = n < count
    m = view * count + n
    camera = cameras + view * CAMERA
    c0, c1, c2, c3, c4, c5, c6, c7, c8, c9, c10, c11 = camera_rows(camera)
    fx, skew, cx = tl.load(camera + LENS), tl.load(camera + LENS + 1), tl.load(camera + LENS + 2)
    fy, cy = tl.load(camera + LENS + 3), tl.load(camera + LENS + 4)
    mx, my, mz = triple(means, n, inside, WIDE)
    x, y, z = (
        c0 * mx + c1 * my + c2 * mz + c3,
        c4 * mx + c5 * my + c6 * mz + c7,
        c8 * mx + c9 * my + c10 * mz + c11,
    )
    opacity = tl.load(opacities + n, mask=inside, other=0.0).to(WIDE)
    drawn = inside & (z >= tl.load(camera + NEAR)) & (z <= tl.load(camera + FAR)) & (opacity >= MIN_ALPHA)
    nearness = 1 / tl.where(drawn, z, 1.0)
    u, v = (fx * x + skew * y) * nearness + cx, fy * y * nearness + cy

    # Σ' = Q Qᵀ + 0.3 I, where Q = J W R S has rows a and b.
    slope_x, _ = held(x * nearness, width * HALF_MARGIN / fx)
    slope_y, _ = held(y * nearness, height * HALF_MARGIN / fy)
    ex, ey, ez = (c0 - slope_x * c8) * nearness, (c1 - slope_x * c9) * nearness, (c2 - slope_x * c10) * nearness
    gx, gy, gz = (c4 - slope_y * c8) * nearness, (c5 - slope_y * c9) * nearness, (c6 - slope_y * c10) * nearness
    ax, ay, az = fx * ex + skew * gx, fx * ey + skew * gy, fx * ez + skew * gz
    bx, by, bz = fy * gx, fy * gy, fy * gz
    qw, qx, qy, qz, _ = unit_quaternion(quats, n, inside, WIDE)
    r0, r1, r2, r3, r4, r5, r6, r7, r8 = rotation_of(qw, qx, qy, qz)
    s0, s1, s2 = triple(scales, n, inside, WIDE)
    a0, b0 = s0 * (ax * r0 + ay * r3 + az * r6), s0 * (bx * r0 + by * r3 + bz * r6)
    a1, b1 = s1 * (ax * r1 + ay * r4 + az * r7), s1 * (bx * r1 + by * r4 + bz * r7)
    a2, b2 = s2 * (ax * r2 + ay * r5 + az * r8), s2 * (bx * r2 + by * r5 + bz * r8)
    sxx, sxy, syy = a0 * a0 + a1 * a1 + a2 * a2, a0 * b0 + a1 * b1 + a2 * b2, b0 * b0 + b1 * b1 + b2 * b2
    sharp = sxx * syy - sxy * sxy
    sxx, syy = sxx + LOW_PASS, syy + LOW_PASS
    det = sxx * syy - sxy * sxy
    drawn = drawn & (tl.abs(u + v + det) < float("inf")) & (det > 0)
    det = tl.where(drawn, det, 1.0)
    if ANTIALIASED:
        opacity = opacity * tl.sqrt(tl.maximum(sharp, 0.0) / det)
        drawn = drawn & (opacity >= MIN_ALPHA)
    opacity = tl.where(drawn, opacity, 1.0)
    tau = tl.maximum(2 * tl.log(opacity / MIN_ALPHA), 1e-6)
    reach_x, reach_y = tl.sqrt(tau * sxx), tl.sqrt(tau * syy)
    drawn = drawn & (u + reach_x > 0) & (u - reach_x < width) & (v + reach_y > 0) & (v - reach_y < height)

    # Colour, seen from the camera centre −Wᵀτ.
    dx, dy, dz = (
        mx + c0 * c3 + c4 * c7 + c8 * c11,
        my + c1 * c3 + c5 * c7 + c9 * c11,
        mz + c2 * c3 + c6 * c7 + c10 * c11,
    )
    shrink = 1 / tl.maximum(tl.sqrt(dx * dx + dy * dy + dz * dz), LEAST_NORM)
    dx, dy, dz = (dx * shrink).to(tl.float32), (dy * shrink).to(tl.float32), (dz * shrink).to(tl.float32)
    red, green, blue = (
        tl.full([BLOCK], 0.5, tl.float32),
        tl.full([BLOCK], 0.5, tl.float32),
        tl.full([BLOCK], 0.5, tl.float32),
    )
    coefficients = sh + n.to(tl.int64) * (3 * K)
    for k in tl.static_range(K):
        value = sh_value(k, dx, dy, dz)
        red += value * tl.load(coefficients + 3 * k, mask=drawn, other=0.0)
        green += value * tl.load(coefficients + 3 * k + 1, mask=drawn, other=0.0)
        blue += value * tl.load(coefficients + 3 * k + 2, mask=drawn, other=0.0)
    drawn = drawn & (tl.abs(red + green + blue + opacity.to(tl.float32)) < float("inf"))

    record = records + m * RECORD
    half = 0.5 / det * LOG2_E  # not the other way round: interpreters before 3.9 stumble over a constant on the left
    tl.store(record + U, u.to(tl.float32), mask=drawn)
    tl.store(record + V, v.to(tl.float32), mask=drawn)
    tl.store(record + A, (-half * syy).to(tl.float32), mask=drawn)
    tl.store(record + B, (2 * half * sxy).to(tl.float32), mask=drawn)
    tl.store(record + C, (-half * sxx).to(tl.float32), mask=drawn)
    tl.store(record + LOG_OPACITY, (tl.log(opacity) * LOG2_E).to(tl.float32), mask=drawn)
    tl.store(record + RED, tl.maximum(red, 0.0), mask=drawn)
    tl.store(record + GREEN, tl.maximum(green, 0.0), mask=drawn)
    tl.store(record + BLUE, tl.maximum(blue, 0.0), mask=drawn)
    tl.store(record + DEPTH, z.to(tl.float32), mask=drawn)
    left = tl.where(drawn, tl.maximum(u - reach_x, 0.0), 0.0).to(tl.int32) // TILE
    right = tl.where(drawn, tl.minimum(u + reach_x, width - 1.0), 0.0).to(tl.int32) // TILE + 1
    top = tl.where(drawn, tl.maximum(v - reach_y, 0.0), 0.0).to(tl.int32) // TILE
    bottom = tl.where(drawn, tl.minimum(v + reach_y, height - 1.0), 0.0).to(tl.int32) // TILE + 1
    tl.store(boxes + 3 * m, left, mask=inside)
    tl.store(boxes + 3 * m + 1, top, mask=inside)
    tl.store(boxes + 3 * m + 2, right - left, mask=inside)
    tl.store(reached + m, tl.where(drawn, (right - left) * (bottom - top), 0), mask=inside)
    tl.store(depths + m, tl.where(drawn, z, 0.0).to(tl.float32), mask=inside)
    radius = tl.minimum(tl.maximum(reach_x, reach_y), MOST_RADIUS)
    tl.store(radii + m, tl.where(drawn, radius, 0.0).to(tl.float32), mask=inside)


@triton.jit
def pixels_of(tile: tl.tensor, tiles_x: tl.tensor, tiles_y: tl.tensor, width: tl.tensor, height: tl.tensor) -> Any:
    """View of a tile, column and row of its 256 pixels, and which of them are in the image."""
    place = tile % (tiles_x * tiles_y)
    pixel = tl.arange(0, PIXELS)
    column, row = (place % tiles_x) * TILE + pixel % TILE, (place // tiles_x) * TILE + pixel // TILE
    return tile // (tiles_x * tiles_y), column, row, (column < width) & (row < height)


@triton.jit
def alphas_of(record: tl.tensor, valid: tl.tensor, x: tl.tensor, y: tl.tensor) -> Any:
    """[CHUNK, 256]: dx, dy, α before it is capped, and α as it is composited, of Gaussians at pixels x, y [256].

    Long-lived values are few on purpose: every one costs CHUNK registers per pixel a thread has.
    """
    dx = x[None, :] - tl.load(record + U, mask=valid, other=0.0)[:, None]
    dy = y[None, :] - tl.load(record + V, mask=valid, other=0.0)[:, None]
    qa, qb = tl.load(record + A, mask=valid, other=0.0)[:, None], tl.load(record + B, mask=valid, other=0.0)[:, None]
    qc = tl.load(record + C, mask=valid, other=0.0)[:, None]
    p = dx * (qa * dx + qb * dy) + (qc * dy * dy + tl.load(record + LOG_OPACITY, mask=valid, other=NOTHING)[:, None])
    full = tl.exp2(p)
    return dx, dy, full, tl.where(p >= LOG2_MIN_ALPHA, tl.minimum(full, MAX_ALPHA), 0.0)


@triton.jit
def colors_of(record: tl.tensor, valid: tl.tensor) -> Any:
    """[CHUNK, 1]: red, green, blue and depth of Gaussians."""
    return (
        tl.load(record + RED, mask=valid, other=0.0)[:, None],
        tl.load(record + GREEN, mask=valid, other=0.0)[:, None],
        tl.load(record + BLUE, mask=valid, other=0.0)[:, None],
        tl.load(record + DEPTH, mask=valid, other=0.0)[:, None],
    )


@triton.jit(do_not_specialize=["width", "height", "tiles_x", "tiles_y", "paper_v", "paper_y", "paper_x"])
def composite(
    records: tl.tensor,
    entries: tl.tensor,
    starts: tl.tensor,
    paper: tl.tensor,
    color: tl.tensor,
    alpha: tl.tensor,
    depth: tl.tensor,
    through: tl.tensor,
    last: tl.tensor,
    width: tl.tensor,
    height: tl.tensor,
    tiles_x: tl.tensor,
    tiles_y: tl.tensor,
    paper_v: tl.tensor,
    paper_y: tl.tensor,
    paper_x: tl.tensor,
    CHUNK: tl.constexpr,
) -> None:
    """Composite one tile front to back, CHUNK Gaussians at a time, until its list ends or all its pixels have.

    ``starts`` [V · T + 1] bounds each tile's ``entries`` [P], instances nearest first. ``through`` receives the
    transmittance that is left and ``last`` how much of the list the pixel used, both for the way back. ``paper`` is the
    background, with its strides. Depth is infinite where nothing is. Long, since the state of a pixel must stay in
    registers. Grid: tiles of all views.
    """
    tile = tl.program_id(0)
    view, column, row, inside = pixels_of(tile, tiles_x, tiles_y, width, height)
    x, y = column.to(tl.float32) + 0.5, row.to(tl.float32) + 0.5
    first, stop = tl.load(starts + tile), tl.load(starts + tile + 1)
    running = tl.where(inside, 1.0, 0.0)  # goes on falling when a pixel has ended; those outside have from the start
    kept = tl.full([PIXELS], 1.0, tl.float32)
    used = tl.zeros([PIXELS], tl.int32)
    red, green = tl.zeros([PIXELS], tl.float32), tl.zeros([PIXELS], tl.float32)
    blue, far = tl.zeros([PIXELS], tl.float32), tl.zeros([PIXELS], tl.float32)
    entry = first
    going = entry < stop
    while going:
        index = entry + tl.arange(0, CHUNK)
        valid = index < stop
        record = records + tl.load(entries + index, mask=valid, other=0) * RECORD
        _, _, _, a = alphas_of(record, valid, x, y)
        after = running[None, :] * tl.cumprod(1 - a, 0)
        live = after > MIN_TRANSMITTANCE
        w = tl.where(live, after * (a / (1 - a)), 0.0)
        r, g, b, z = colors_of(record, valid)
        red += tl.sum(w * r, 0)
        green += tl.sum(w * g, 0)
        blue += tl.sum(w * b, 0)
        far += tl.sum(w * z, 0)
        kept = tl.minimum(kept, tl.min(tl.where(live, after, 1.0), 0))
        used = tl.maximum(used, tl.max(tl.where(w > 0, (index - first + 1)[:, None], 0), 0))
        running = tl.min(after, 0)
        entry += CHUNK
        going = (entry < stop) & (tl.max(running, 0) > MIN_TRANSMITTANCE)
    at = (view * height + row).to(tl.int64) * width + column
    behind = paper + view.to(tl.int64) * paper_v + row.to(tl.int64) * paper_y + column.to(tl.int64) * paper_x
    tl.store(color + 3 * at, red + kept * tl.load(behind, mask=inside, other=0.0), mask=inside)
    tl.store(color + 3 * at + 1, green + kept * tl.load(behind + 1, mask=inside, other=0.0), mask=inside)
    tl.store(color + 3 * at + 2, blue + kept * tl.load(behind + 2, mask=inside, other=0.0), mask=inside)
    covered = 1 - kept
    tl.store(alpha + at, covered, mask=inside)
    tl.store(depth + at, tl.where(covered > 0, far / tl.where(covered > 0, covered, 1.0), float("inf")), mask=inside)
    tl.store(through + at, kept, mask=inside)
    tl.store(last + at, used, mask=inside)
