"""Triton kernels of the splat renderer, backward: from image gradients to those of Gaussians and cameras.

The formulas are those of ``splat_gradients``, the layout is that of ``splats_gpu_kernels``. ``scatter`` walks every
tile back to front and writes one row of ten sums per (tile, instance) pair, ``sum_rows`` adds up the rows of each
instance, ``gather`` carries them through the projection. Nothing is added atomically: the same input gives the same
bits.
"""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl

from .splats_gpu_kernels import (
    BLUE,
    CAMERA,
    GREEN,
    HALF_MARGIN,
    LEAST_NORM,
    LENS,
    LOW_PASS,
    MAX_ALPHA,
    PIXELS,
    RECORD,
    RED,
    alphas_of,
    camera_rows,
    colors_of,
    held,
    pixels_of,
    rotation_of,
    sh_value,
    triple,
    unit_quaternion,
)

# A row of sums: Σ v (1, dx, dx², dy, dx dy, dy²) with v = ∂L/∂ln α, then Σ w (∂L/∂C, ∂L/∂D).
S, SX, SXX, SY, SXY, SYY, S_RED, S_GREEN, S_BLUE, S_DEPTH = (tl.constexpr(i) for i in range(10))
ROW = tl.constexpr(10)
POSED = tl.constexpr(17)  # numbers of a camera that have a gradient


@triton.jit(do_not_specialize=["width", "height", "tiles_x", "tiles_y", "paper_v", "paper_y", "paper_x"])
def scatter(
    records: tl.tensor,
    entries: tl.tensor,
    slots: tl.tensor,
    starts: tl.tensor,
    paper: tl.tensor,
    depth: tl.tensor,
    through: tl.tensor,
    last: tl.tensor,
    color_gradient: tl.tensor,
    alpha_gradient: tl.tensor,
    depth_gradient: tl.tensor,
    rows: tl.tensor,
    width: tl.tensor,
    height: tl.tensor,
    tiles_x: tl.tensor,
    tiles_y: tl.tensor,
    paper_v: tl.tensor,
    paper_y: tl.tensor,
    paper_x: tl.tensor,
    CHUNK: tl.constexpr,
) -> None:
    """Walk one tile back to front from what its pixels used last, and write one row of sums per pair.

    ``slots`` [P] says which of ``rows`` [P, ROW] belongs to a pair; rows of pairs no pixel used are not written. With
    the names of ``splat_gradients``: q is the worth of a unit of weight, R = Σ_{j > i} w_j q_j what is left behind, and
    ∂L/∂ln α = w q − R α / (1 − α). Long, since the state of a pixel must stay in registers. Grid: tiles of all views.
    """
    tile = tl.program_id(0)
    view, column, row, inside = pixels_of(tile, tiles_x, tiles_y, width, height)
    x, y = column.to(tl.float32) + 0.5, row.to(tl.float32) + 0.5
    at = (view * height + row).to(tl.int64) * width + column
    used = tl.load(last + at, mask=inside, other=0)
    running = tl.load(through + at, mask=inside, other=1.0)
    g_red = tl.load(color_gradient + 3 * at, mask=inside, other=0.0)
    g_green = tl.load(color_gradient + 3 * at + 1, mask=inside, other=0.0)
    g_blue = tl.load(color_gradient + 3 * at + 2, mask=inside, other=0.0)
    behind = paper + view.to(tl.int64) * paper_v + row.to(tl.int64) * paper_y + column.to(tl.int64) * paper_x
    # C = Σ w c + T·paper and D = Σ w z / A: a unit of weight also hides paper and pulls the mean towards it.
    g_alpha = tl.load(alpha_gradient + at, mask=inside, other=0.0)
    g_alpha -= g_red * tl.load(behind, mask=inside, other=0.0)
    g_alpha -= g_green * tl.load(behind + 1, mask=inside, other=0.0)
    g_alpha -= g_blue * tl.load(behind + 2, mask=inside, other=0.0)
    seen = used > 0
    g_depth = tl.load(depth_gradient + at, mask=inside & seen, other=0.0) / tl.where(seen, 1 - running, 1.0)
    g_alpha -= g_depth * tl.load(depth + at, mask=inside & seen, other=0.0)
    left = tl.zeros([PIXELS], tl.float32)
    first = tl.load(starts + tile)
    entry = tl.max(used, 0)
    while entry > 0:
        index = entry - 1 - tl.arange(0, CHUNK)
        valid = index >= 0
        record = records + tl.load(entries + first + index, mask=valid, other=0) * RECORD
        dx, dy, full, a = alphas_of(record, valid, x, y)
        a = tl.where(index[:, None] < used[None, :], a, 0.0)
        odds = a / (1 - a)
        before = running[None, :] / tl.cumprod(1 - a, 0)
        w = a * before
        r, g, b, z = colors_of(record, valid)
        worth = r * g_red[None, :] + g * g_green[None, :] + (b * g_blue[None, :] + z * g_depth[None, :])
        worth = w * (worth + g_alpha[None, :])
        slope = worth - odds * (left[None, :] + (tl.cumsum(worth, 0) - worth))
        slope = tl.where(full <= MAX_ALPHA, slope, 0.0)
        row_of = rows + tl.load(slots + first + index, mask=valid, other=0).to(tl.int64) * ROW
        tl.store(row_of + S_RED, tl.sum(w * g_red[None, :], 1), mask=valid)
        tl.store(row_of + S_GREEN, tl.sum(w * g_green[None, :], 1), mask=valid)
        tl.store(row_of + S_BLUE, tl.sum(w * g_blue[None, :], 1), mask=valid)
        tl.store(row_of + S_DEPTH, tl.sum(w * g_depth[None, :], 1), mask=valid)
        tl.store(row_of + S, tl.sum(slope, 1), mask=valid)
        tl.store(row_of + SX, tl.sum(slope * dx, 1), mask=valid)
        tl.store(row_of + SXX, tl.sum(slope * dx * dx, 1), mask=valid)
        slope = slope * dy
        tl.store(row_of + SY, tl.sum(slope, 1), mask=valid)
        tl.store(row_of + SXY, tl.sum(slope * dx, 1), mask=valid)
        tl.store(row_of + SYY, tl.sum(slope * dy, 1), mask=valid)
        left += tl.sum(worth, 0)
        running = tl.max(before, 0)
        entry -= CHUNK


@triton.jit(do_not_specialize=["count"])
def sum_rows(
    rows: tl.tensor,
    firsts: tl.tensor,
    reached: tl.tensor,
    totals: tl.tensor,
    count: tl.tensor,
    BLOCK: tl.constexpr,
    LONG: tl.constexpr,
) -> None:
    """Add up the rows of each instance, which lie side by side, LONG at a time into ``totals`` [V · N, ROW].

    Grid: blocks of instances.
    """
    m = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    length = tl.load(reached + m, mask=m < count, other=0)
    first = tl.load(firsts + m, mask=m < count, other=0).to(tl.int64)
    j = tl.arange(0, 16)[None, None, :]
    total = tl.zeros([BLOCK, 16], tl.float32)
    longest = tl.max(length, 0)
    start = 0
    while start < longest:
        offset = (start + tl.arange(0, LONG))[None, :, None]
        here = (offset < length[:, None, None]) & (j < ROW)
        total += tl.sum(tl.load(rows + (first[:, None, None] + offset) * ROW + j, mask=here, other=0.0), 1)
        start += LONG
    j = tl.arange(0, 16)[None, :]
    tl.store(totals + m[:, None] * ROW + j, total, mask=(m[:, None] < count) & (j < ROW))


@triton.jit
def sh_slope(k: tl.constexpr, x: tl.tensor, y: tl.tensor, z: tl.tensor, g: tl.tensor) -> Any:
    """∂(g · sh_value)/∂(x, y, z)."""
    dx, dy, dz = tl.zeros_like(x), tl.zeros_like(x), tl.zeros_like(x)
    if k == 1:
        dy = -0.4886025119029199 * g
    elif k == 2:
        dz = 0.4886025119029199 * g
    elif k == 3:
        dx = -0.4886025119029199 * g
    elif k == 4:
        dx, dy = 1.0925484305920792 * g * y, 1.0925484305920792 * g * x
    elif k == 5:
        dy, dz = -1.0925484305920792 * g * z, -1.0925484305920792 * g * y
    elif k == 6:
        g = 0.31539156525252005 * g
        dx, dy, dz = -2 * g * x, -2 * g * y, 4 * g * z
    elif k == 7:
        dx, dz = -1.0925484305920792 * g * z, -1.0925484305920792 * g * x
    elif k == 8:
        dx, dy = 1.0925484305920792 * g * x, -1.0925484305920792 * g * y
    elif k == 9:
        g = 0.5900435899266435 * g
        dx, dy = -6 * g * x * y, -3 * g * (x * x - y * y)
    elif k == 10:
        g = 2.890611442640554 * g
        dx, dy, dz = g * y * z, g * x * z, g * x * y
    elif k == 11:
        g = 0.4570457994644658 * g
        dx, dy, dz = 2 * g * x * y, -g * (4 * z * z - x * x - 3 * y * y), -8 * g * y * z
    elif k == 12:
        g = 0.3731763325901154 * g
        dx, dy, dz = -6 * g * x * z, -6 * g * y * z, g * (6 * z * z - 3 * x * x - 3 * y * y)
    elif k == 13:
        g = 0.4570457994644658 * g
        dx, dy, dz = -g * (4 * z * z - 3 * x * x - y * y), 2 * g * x * y, -8 * g * x * z
    elif k == 14:
        g = 1.445305721320277 * g
        dx, dy, dz = 2 * g * x * z, -2 * g * y * z, g * (x * x - y * y)
    elif k == 15:
        g = 0.5900435899266435 * g
        dx, dy = -3 * g * (x * x - y * y), 6 * g * x * y
    return dx, dy, dz


@triton.jit
def add(pointer: tl.tensor, value: tl.tensor, touched: tl.tensor, inside: tl.tensor, again: tl.tensor) -> None:
    """Store a gradient, zero where nothing was touched, on top of what earlier views left."""
    before = tl.load(pointer, mask=again, other=0.0)
    tl.store(pointer, before + tl.where(touched, value, 0.0).to(tl.float32), mask=inside)


@triton.jit
def note(pointer: tl.tensor, value: tl.tensor, touched: tl.tensor) -> None:
    """Store the sum of a camera's gradient over a block of Gaussians."""
    tl.store(pointer, tl.sum(tl.where(touched, value, 0.0), 0))


@triton.jit(do_not_specialize=["count", "view", "width", "height"])
def gather(
    means: tl.tensor,
    quats: tl.tensor,
    scales: tl.tensor,
    opacities: tl.tensor,
    sh: tl.tensor,
    cameras: tl.tensor,
    records: tl.tensor,
    totals: tl.tensor,
    to_means: tl.tensor,
    to_quats: tl.tensor,
    to_scales: tl.tensor,
    to_opacities: tl.tensor,
    to_sh: tl.tensor,
    to_centers: tl.tensor,
    to_cameras: tl.tensor,
    count: tl.tensor,
    view: tl.tensor,
    width: tl.tensor,
    height: tl.tensor,
    K: tl.constexpr,
    ANTIALIASED: tl.constexpr,
    POSE: tl.constexpr,
    WIDE: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """Carry one view's sums through the projection and add them to the gradients of earlier views.

    A leading ``d`` marks ∂L/∂ of what follows. ``to_centers`` [V, N] receives the length of ∂L/∂(u, v), ``to_cameras``
    [V, blocks, POSED] what the blocks find for the camera, if ``POSE``. K = Σ'⁻¹: ∂L/∂Σ' = −K (∂L/∂K) K and
    ∂L/∂Q = 2 (∂L/∂Σ') Q. Grid: blocks of Gaussians. Long because it is one chain rule.
    """
    n = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = n < count
    m = view * count + n
    again = inside & (m >= count)  # earlier views have been here
    total = totals + m * ROW
    ts = tl.load(total + S, mask=inside, other=0.0).to(WIDE)
    tx = tl.load(total + SX, mask=inside, other=0.0).to(WIDE)
    txx = tl.load(total + SXX, mask=inside, other=0.0).to(WIDE)
    ty = tl.load(total + SY, mask=inside, other=0.0).to(WIDE)
    txy = tl.load(total + SXY, mask=inside, other=0.0).to(WIDE)
    tyy = tl.load(total + SYY, mask=inside, other=0.0).to(WIDE)
    dred = tl.load(total + S_RED, mask=inside, other=0.0)
    dgreen = tl.load(total + S_GREEN, mask=inside, other=0.0)
    dblue = tl.load(total + S_BLUE, mask=inside, other=0.0)
    ddepth = tl.load(total + S_DEPTH, mask=inside, other=0.0).to(WIDE)
    touched = (ts != 0) | (tx != 0) | (txx != 0) | (ty != 0) | (txy != 0) | (tyy != 0)
    touched = touched | (dred != 0) | (dgreen != 0) | (dblue != 0) | (ddepth != 0)

    camera = cameras + view * CAMERA
    c0, c1, c2, c3, c4, c5, c6, c7, c8, c9, c10, c11 = camera_rows(camera)
    fx, skew, fy = tl.load(camera + LENS), tl.load(camera + LENS + 1), tl.load(camera + LENS + 3)
    mx, my, mz = triple(means, n, inside, WIDE)
    x, y, z = (
        c0 * mx + c1 * my + c2 * mz + c3,
        c4 * mx + c5 * my + c6 * mz + c7,
        c8 * mx + c9 * my + c10 * mz + c11,
    )
    nearness = 1 / tl.where(touched, z, 1.0)
    slope_x, free_x = held(x * nearness, width * HALF_MARGIN / fx)
    slope_y, free_y = held(y * nearness, height * HALF_MARGIN / fy)
    ex, ey, ez = (c0 - slope_x * c8) * nearness, (c1 - slope_x * c9) * nearness, (c2 - slope_x * c10) * nearness
    gx, gy, gz = (c4 - slope_y * c8) * nearness, (c5 - slope_y * c9) * nearness, (c6 - slope_y * c10) * nearness
    ax, ay, az = fx * ex + skew * gx, fx * ey + skew * gy, fx * ez + skew * gz
    bx, by, bz = fy * gx, fy * gy, fy * gz
    qw, qx, qy, qz, norm = unit_quaternion(quats, n, inside, WIDE)
    r0, r1, r2, r3, r4, r5, r6, r7, r8 = rotation_of(qw, qx, qy, qz)
    s0, s1, s2 = triple(scales, n, inside, WIDE)
    p0, p1, p2 = ax * r0 + ay * r3 + az * r6, ax * r1 + ay * r4 + az * r7, ax * r2 + ay * r5 + az * r8
    q0, q1, q2 = bx * r0 + by * r3 + bz * r6, bx * r1 + by * r4 + bz * r7, bx * r2 + by * r5 + bz * r8
    a0, a1, a2, b0, b1, b2 = s0 * p0, s1 * p1, s2 * p2, s0 * q0, s1 * q1, s2 * q2
    sxx, sxy, syy = a0 * a0 + a1 * a1 + a2 * a2, a0 * b0 + a1 * b1 + a2 * b2, b0 * b0 + b1 * b1 + b2 * b2
    sharp = sxx * syy - sxy * sxy
    det = (sxx + LOW_PASS) * (syy + LOW_PASS) - sxy * sxy
    per_det = 1 / tl.where(touched, det, 1.0)
    kxx, kxy, kyy = (syy + LOW_PASS) * per_det, -sxy * per_det, (sxx + LOW_PASS) * per_det

    # The image plane: centre, conic, opacity.
    du, dv = kxx * tx + kxy * ty, kxy * tx + kyy * ty
    tl.store(to_centers + m, tl.where(touched, tl.sqrt(du * du + dv * dv), 0.0).to(tl.float32), mask=inside)
    opacity = tl.load(opacities + n, mask=inside, other=1.0).to(WIDE)
    add(to_opacities + n, ts / tl.where(touched, opacity, 1.0), touched, inside, again)
    hxx, hxy = kxx * txx + kxy * txy, kxx * txy + kxy * tyy
    hyx, hyy = kxy * txx + kyy * txy, kxy * txy + kyy * tyy
    dxx, dxy = 0.5 * (hxx * kxx + hxy * kxy), 0.5 * (hxx * kxy + hxy * kyy)
    dyy = 0.5 * (hyx * kxy + hyy * kyy)
    if ANTIALIASED:  # opacity · √(det Σ / det Σ')
        solid = sharp > 0
        per_sharp = 1 / tl.where(solid, sharp, 1.0)
        dxx += tl.where(solid, 0.5 * ts * (syy * per_sharp - kxx), 0.0)
        dxy += tl.where(solid, 0.5 * ts * (-sxy * per_sharp - kxy), 0.0)
        dyy += tl.where(solid, 0.5 * ts * (sxx * per_sharp - kyy), 0.0)
    da0, da1, da2 = 2 * (dxx * a0 + dxy * b0), 2 * (dxx * a1 + dxy * b1), 2 * (dxx * a2 + dxy * b2)
    db0, db1, db2 = 2 * (dxy * a0 + dyy * b0), 2 * (dxy * a1 + dyy * b1), 2 * (dxy * a2 + dyy * b2)

    # Scales, rotation, and the rows of J W.
    add(to_scales + 3 * n, da0 * p0 + db0 * q0, touched, inside, again)
    add(to_scales + 3 * n + 1, da1 * p1 + db1 * q1, touched, inside, again)
    add(to_scales + 3 * n + 2, da2 * p2 + db2 * q2, touched, inside, again)
    da0, da1, da2, db0, db1, db2 = da0 * s0, da1 * s1, da2 * s2, db0 * s0, db1 * s1, db2 * s2
    t0, t1, t2 = da0 * ax + db0 * bx, da1 * ax + db1 * bx, da2 * ax + db2 * bx
    t3, t4, t5 = da0 * ay + db0 * by, da1 * ay + db1 * by, da2 * ay + db2 * by
    t6, t7, t8 = da0 * az + db0 * bz, da1 * az + db1 * bz, da2 * az + db2 * bz
    dw = 2 * (qx * (t7 - t5) + qy * (t2 - t6) + qz * (t3 - t1))
    di = 2 * (qy * (t1 + t3) + qz * (t2 + t6) + qw * (t7 - t5)) - 4 * qx * (t4 + t8)
    dj = 2 * (qx * (t1 + t3) + qz * (t5 + t7) + qw * (t2 - t6)) - 4 * qy * (t0 + t8)
    dk = 2 * (qx * (t2 + t6) + qy * (t5 + t7) + qw * (t3 - t1)) - 4 * qz * (t0 + t4)
    along = dw * qw + di * qx + dj * qy + dk * qz  # the length does not matter
    add(to_quats + 4 * n, (dw - along * qw) / norm, touched, inside, again)
    add(to_quats + 4 * n + 1, (di - along * qx) / norm, touched, inside, again)
    add(to_quats + 4 * n + 2, (dj - along * qy) / norm, touched, inside, again)
    add(to_quats + 4 * n + 3, (dk - along * qz) / norm, touched, inside, again)
    dax, day = da0 * r0 + da1 * r1 + da2 * r2, da0 * r3 + da1 * r4 + da2 * r5
    daz = da0 * r6 + da1 * r7 + da2 * r8
    dbx, dby = db0 * r0 + db1 * r1 + db2 * r2, db0 * r3 + db1 * r4 + db2 * r5
    dbz = db0 * r6 + db1 * r7 + db2 * r8
    dex, dey, dez = fx * dax, fx * day, fx * daz
    dgx, dgy, dgz = skew * dax + fy * dbx, skew * day + fy * dby, skew * daz + fy * dbz

    # The camera point: through J, through the centre, through the depth.
    dz = ddepth - (ex * dex + ey * dey + ez * dez + gx * dgx + gy * dgy + gz * dgz) * nearness
    across = du * fx - (c8 * dex + c9 * dey + c10 * dez) * nearness * free_x
    down = du * skew + dv * fy - (c8 * dgx + c9 * dgy + c10 * dgz) * nearness * free_y
    dx, dy, dz = across * nearness, down * nearness, dz - (across * x + down * y) * (nearness * nearness)
    dmx = c0 * dx + c4 * dy + c8 * dz
    dmy = c1 * dx + c5 * dy + c9 * dz
    dmz = c2 * dx + c6 * dy + c10 * dz

    # Colour, and through its spherical harmonics the direction it is seen from.
    record = records + m * RECORD
    dred = tl.where(tl.load(record + RED, mask=touched, other=0.0) > 0, dred, 0.0)
    dgreen = tl.where(tl.load(record + GREEN, mask=touched, other=0.0) > 0, dgreen, 0.0)
    dblue = tl.where(tl.load(record + BLUE, mask=touched, other=0.0) > 0, dblue, 0.0)
    vx, vy, vz = (
        mx + c0 * c3 + c4 * c7 + c8 * c11,
        my + c1 * c3 + c5 * c7 + c9 * c11,
        mz + c2 * c3 + c6 * c7 + c10 * c11,
    )
    shrink = 1 / tl.maximum(tl.sqrt(vx * vx + vy * vy + vz * vz), LEAST_NORM)
    vx, vy, vz = (vx * shrink).to(tl.float32), (vy * shrink).to(tl.float32), (vz * shrink).to(tl.float32)
    dvx, dvy, dvz = tl.zeros_like(vx), tl.zeros_like(vx), tl.zeros_like(vx)
    coefficient = n.to(tl.int64) * (3 * K)
    for k in tl.static_range(K):
        value = sh_value(k, vx, vy, vz)
        add(to_sh + coefficient + 3 * k, value * dred, touched, inside, again)
        add(to_sh + coefficient + 3 * k + 1, value * dgreen, touched, inside, again)
        add(to_sh + coefficient + 3 * k + 2, value * dblue, touched, inside, again)
        if k > 0:
            asked = dred * tl.load(sh + coefficient + 3 * k, mask=touched, other=0.0)
            asked += dgreen * tl.load(sh + coefficient + 3 * k + 1, mask=touched, other=0.0)
            asked += dblue * tl.load(sh + coefficient + 3 * k + 2, mask=touched, other=0.0)
            kx, ky, kz = sh_slope(k, vx, vy, vz, asked)
            dvx, dvy, dvz = dvx + kx, dvy + ky, dvz + kz
    outward = dvx * vx + dvy * vy + dvz * vz
    dvx, dvy, dvz = (dvx - outward * vx) * shrink, (dvy - outward * vy) * shrink, (dvz - outward * vz) * shrink
    add(to_means + 3 * n, dmx + dvx, touched, inside, again)
    add(to_means + 3 * n + 1, dmy + dvy, touched, inside, again)
    add(to_means + 3 * n + 2, dmz + dvz, touched, inside, again)

    if POSE:
        found = to_cameras + (view * tl.num_programs(0) + tl.program_id(0)) * POSED
        note(found, dx * mx + dex * nearness + c3 * dvx, touched)
        note(found + 1, dx * my + dey * nearness + c3 * dvy, touched)
        note(found + 2, dx * mz + dez * nearness + c3 * dvz, touched)
        note(found + 3, dx + c0 * dvx + c1 * dvy + c2 * dvz, touched)
        note(found + 4, dy * mx + dgx * nearness + c7 * dvx, touched)
        note(found + 5, dy * my + dgy * nearness + c7 * dvy, touched)
        note(found + 6, dy * mz + dgz * nearness + c7 * dvz, touched)
        note(found + 7, dy + c4 * dvx + c5 * dvy + c6 * dvz, touched)
        note(found + 8, dz * mx - (slope_x * dex + slope_y * dgx) * nearness + c11 * dvx, touched)
        note(found + 9, dz * my - (slope_x * dey + slope_y * dgy) * nearness + c11 * dvy, touched)
        note(found + 10, dz * mz - (slope_x * dez + slope_y * dgz) * nearness + c11 * dvz, touched)
        note(found + 11, dz + c8 * dvx + c9 * dvy + c10 * dvz, touched)
        note(found + LENS, du * x * nearness + ex * dax + ey * day + ez * daz, touched)
        note(found + LENS + 1, du * y * nearness + gx * dax + gy * day + gz * daz, touched)
        note(found + LENS + 2, du, touched)
        note(found + LENS + 3, dv * y * nearness + gx * dbx + gy * dby + gz * dbz, touched)
        note(found + LENS + 4, dv, touched)
