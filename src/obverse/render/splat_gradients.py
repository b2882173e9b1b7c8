"""Compiled kernels of the splat renderer, backward: from image gradients to those of Gaussians and cameras.

Two steps, neither with atomic additions, so the result does not depend on the number of threads. ``scatter`` walks
every tile front to back as the forward pass did and writes one row of ten sums per (tile, instance) pair. ``gather``
adds up the rows of each Gaussian in a fixed order and carries them through the projection.

Along a pixel, with q = c · ∂L/∂C + z ∂L/∂D + ∂L/∂A the worth of a unit of weight, w = α T and R = Σ_{j > i} w_j q_j
what is left behind: ∂L/∂ ln α = w q − R α / (1 − α). R starts as the whole sum, known from the image,
and is reduced on the way, so there is neither a second walk nor a division by recovered transmittances.
"""

from __future__ import annotations

from typing import NamedTuple

import numba
import numpy as np

from ..parallel import kernel, prefetch, wide_vectors
from .splat_kernels import (
    BATCH,
    BLUE,
    CHUNKS,
    DEPTH,
    E0,
    E1,
    E2,
    E3,
    E4,
    E5,
    ELLIPSE,
    GREEN,
    JOBS,
    LANE_X,
    LANE_Y,
    LOG_MIN_ALPHA,
    LOG_OPACITY,
    LOW_PASS,
    MAX_ALPHA,
    MIN_TRANSMITTANCE,
    ONE,
    RECORD,
    RED,
    SHIFT,
    STRIPS,
    TILE,
    ZERO,
    A,
    B,
    C,
    F,
    Lists,
    Scene,
    Turns,
    U,
    V,
    aligned,
    camera_of,
    camera_point,
    fill_sh_basis,
    gather_batch,
    held_slopes,
    lane_of,
    new_work,
    rotation_of,
    slope_rows,
    viewing_direction,
)

# A row: Σ v (1, dx, dx², dy, dx dy, dy²) with v = ∂L/∂ ln α, then Σ w (∂L/∂C, ∂L/∂D).
S, SX, SXX, SY, SXY, SYY, S_RED, S_GREEN, S_BLUE, S_DEPTH, ROW = range(11)

# The flat work array of a tile: coordinates of its pixels, then channels of 256 pixels, block by block.
PIXELS, CHANNELS = 512, 7
THROUGH, LEFT, G_RED, G_GREEN, G_BLUE, G_ALPHA, G_DEPTH = (PIXELS + 256 * i for i in range(CHANNELS))

BLOCK = 32  # Gaussians whose rows are added up at once
CAMERA = 17  # gradients of one camera: as Scene.cameras


class Image(NamedTuple):
    """What the forward pass drew, and the gradients that came back for it."""

    color: np.ndarray  # float32 [V, H, W, 3]
    alpha: np.ndarray  # float32 [V, H, W]
    depth: np.ndarray  # float32 [V, H, W]
    color_gradient: np.ndarray  # as color
    alpha_gradient: np.ndarray  # as alpha
    depth_gradient: np.ndarray  # as depth


class Gradients(NamedTuple):
    """What the backward pass fills."""

    means: np.ndarray  # float32 [N, 3]
    quats: np.ndarray  # float32 [N, 4]
    scales: np.ndarray  # float32 [N, 3]
    opacities: np.ndarray  # float32 [N]
    sh: np.ndarray  # float32 [N, K, 3]
    centers: np.ndarray  # float32 [V, N] length of ∂L/∂(u, v), 1 / px
    cameras: np.ndarray  # float64 [CHUNKS, V, CAMERA] to be added up over the first axis


@kernel(fastmath=True)
def load_pixels(image: Image, paper: np.ndarray, view: int, left: int, top: int, work: np.ndarray) -> None:
    """Start a tile's channels: what reaches each pixel's gradient, and R = Σ w q over all its splats.

    Pixels outside the image are finished from the start.
    """
    height, width = image.alpha.shape[1], image.alpha.shape[2]
    work[PIXELS:] = ZERO
    right = min(left + TILE, width)
    papers = paper[view if len(paper) > 1 else 0]
    step = 1 if paper.shape[2] > 1 else 0
    for row in range(min(TILE, height - top)):
        y = top + row
        line = papers[y if paper.shape[1] > 1 else 0, left * step :]
        colors, g_colors = image.color[view, y, left:right], image.color_gradient[view, y, left:right]
        alphas, g_alphas = image.alpha[view, y, left:right], image.alpha_gradient[view, y, left:right]
        depths, g_depths = image.depth[view, y, left:right], image.depth_gradient[view, y, left:right]
        for column in range(right - left):
            i = lane_of(row, column)
            red, green, blue = g_colors[column, 0], g_colors[column, 1], g_colors[column, 2]
            seen = red * colors[column, 0] + green * colors[column, 1] + blue * colors[column, 2]
            at = column * step
            behind = red * line[at, 0] + green * line[at, 1] + blue * line[at, 2]
            alpha, g_alpha = alphas[column], g_alphas[column]
            g_depth = g_depths[column] / alpha if alpha > ZERO else ZERO
            # C = Σ w c + T·paper and D = Σ w z / A: a unit of weight also hides paper and pulls the mean towards it.
            work[THROUGH + i] = ONE
            work[LEFT + i] = seen - behind + alpha * g_alpha
            work[G_RED + i], work[G_GREEN + i], work[G_BLUE + i] = red, green, blue
            work[G_ALPHA + i] = g_alpha - behind - g_depth * depths[column]
            work[G_DEPTH + i] = g_depth


@kernel(parallel=True, fastmath=True)
def scatter(lists: Lists, turns: Turns, tiles: np.ndarray, paper: np.ndarray, image: Image, rows: np.ndarray) -> None:
    """Walk every tile front to back and write one row of sums per pair into ``rows`` [P, ROW].

    Laid out as ``splat_kernels.composite``, and visits the same pixels. Sums of the 16 lanes stay apart until a batch
    is done and are then added in pairs, four times, for all its Gaussians at once. Long, because splitting it would
    keep the blocks from being vectorised.
    """
    records, starts, entries = lists.records, lists.starts, lists.entries
    tiles_x, per_view = tiles[0], tiles[0] * tiles[1]
    order, shares = turns.order, turns.shares
    flat = rows.reshape(-1)
    for worker in numba.prange(len(shares) - 1):
        wide_vectors()
        work = new_work(CHANNELS)
        batch, spans = aligned((BATCH + ELLIPSE) * RECORD).reshape(-1, RECORD), np.empty((STRIPS, 2, BATCH), np.int32)
        jobs = np.empty(JOBS, np.uint8)
        sums, half, quarter = aligned(BATCH * 160), aligned(BATCH * 80), aligned(BATCH * 40)
        eighth = aligned(BATCH * 20)
        for k in range(shares[worker], shares[worker + 1]):
            tile = order[k]
            view, place = tile // per_view, tile % per_view
            left, top = (place % tiles_x) << SHIFT, (place // tiles_x) << SHIFT
            entry, stop = starts[tile], starts[tile + 1]
            if entry < stop:
                load_pixels(image, paper, view, left, top, work)
            while entry < stop:
                size = min(BATCH, stop - entry)
                count = gather_batch(records, entries, entry, size, (left, top), batch, spans, jobs)
                sums[:] = ZERO
                for job in range(count):
                    i = (jobs[job] >> 4) & 15
                    base = (jobs[job] & 15) << 4
                    to = i * 160
                    u, v, qa, qb, qc, log_opacity = (
                        batch[i, U], batch[i, V], batch[i, A], batch[i, B], batch[i, C], batch[i, LOG_OPACITY],
                    )  # fmt: skip
                    red, green, blue, z = batch[i, RED], batch[i, GREEN], batch[i, BLUE], batch[i, DEPTH]
                    for lane in range(16):
                        dx = work[LANE_X + base + lane] - u
                        dy = work[LANE_Y + base + lane] - v
                        p = dx * (qa * dx + qb * dy) + (qc * dy * dy + log_opacity)
                        e = ((((E5 * p + E4) * p + E3) * p + E2) * p + E1) * p + E0
                        e = e * e
                        e = e * e
                        e = e * e
                        a = min(e, MAX_ALPHA)
                        a = a if p >= LOG_MIN_ALPHA else ZERO
                        t = work[THROUGH + base + lane]
                        next_t = t - t * a
                        live = next_t > MIN_TRANSMITTANCE
                        w = a * t if live else ZERO
                        work[THROUGH + base + lane] = next_t if live else -abs(t)
                        gr, gg = work[G_RED + base + lane], work[G_GREEN + base + lane]
                        gb, gz = work[G_BLUE + base + lane], work[G_DEPTH + base + lane]
                        worth = red * gr + green * gg + (blue * gb + z * gz) + work[G_ALPHA + base + lane]
                        worth = w * worth
                        rest = work[LEFT + base + lane] - worth
                        work[LEFT + base + lane] = rest
                        slope = worth - rest * (a / (ONE - a))
                        slope = slope if live else ZERO
                        slope = slope if e <= MAX_ALPHA else ZERO
                        along, down = slope * dx, slope * dy
                        sums[to + lane] += slope
                        sums[to + 16 + lane] += along
                        sums[to + 32 + lane] += along * dx
                        sums[to + 48 + lane] += down
                        sums[to + 64 + lane] += down * dx
                        sums[to + 80 + lane] += down * dy
                        sums[to + 96 + lane] += w * gr
                        sums[to + 112 + lane] += w * gg
                        sums[to + 128 + lane] += w * gb
                        sums[to + 144 + lane] += w * gz
                for i in range(BATCH * 80):
                    half[i] = sums[2 * i] + sums[2 * i + 1]
                for i in range(BATCH * 40):
                    quarter[i] = half[2 * i] + half[2 * i + 1]
                for i in range(BATCH * 20):
                    eighth[i] = quarter[2 * i] + quarter[2 * i + 1]
                for i in range(size * 10):
                    flat[entry * 10 + i] = eighth[2 * i] + eighth[2 * i + 1]
                entry += size
                alive = np.int32(0)
                for i in range(256):
                    alive += np.int32(work[THROUGH + i] > ZERO)
                if alive == 0:
                    break
            rows[entry:stop] = ZERO


@kernel()
def direction_gradient(
    x: float, y: float, z: float, sh: np.ndarray, n: int, gradient: tuple[float, float, float]
) -> tuple[float, float, float]:
    """∂L/∂direction of one Gaussian's spherical harmonics, from ∂L/∂colour: derivatives of ``fill_sh_basis``."""
    dx = dy = dz = 0.0
    xx, yy, zz = x * x, y * y, z * z
    for k in range(1, sh.shape[1]):
        g = gradient[0] * sh[n, k, 0] + gradient[1] * sh[n, k, 1] + gradient[2] * sh[n, k, 2]
        if k == 1:
            dy -= 0.4886025119029199 * g
        elif k == 2:
            dz += 0.4886025119029199 * g
        elif k == 3:
            dx -= 0.4886025119029199 * g
        elif k == 4:
            g *= 1.0925484305920792
            dx, dy = dx + g * y, dy + g * x
        elif k == 5:
            g *= 1.0925484305920792
            dy, dz = dy - g * z, dz - g * y
        elif k == 6:
            g *= 0.31539156525252005
            dx, dy, dz = dx - 2 * g * x, dy - 2 * g * y, dz + 4 * g * z
        elif k == 7:
            g *= 1.0925484305920792
            dx, dz = dx - g * z, dz - g * x
        elif k == 8:
            g *= 0.5462742152960396
            dx, dy = dx + 2 * g * x, dy - 2 * g * y
        elif k == 9:
            g *= 0.5900435899266435
            dx, dy = dx - 6 * g * x * y, dy - 3 * g * (xx - yy)
        elif k == 10:
            g *= 2.890611442640554
            dx, dy, dz = dx + g * y * z, dy + g * x * z, dz + g * x * y
        elif k == 11:
            g *= 0.4570457994644658
            dx, dy, dz = dx + 2 * g * x * y, dy - g * (4 * zz - xx - 3 * yy), dz - 8 * g * y * z
        elif k == 12:
            g *= 0.3731763325901154
            dx, dy, dz = dx - 6 * g * x * z, dy - 6 * g * y * z, dz + g * (6 * zz - 3 * xx - 3 * yy)
        elif k == 13:
            g *= 0.4570457994644658
            dx, dy, dz = dx - g * (4 * zz - 3 * xx - yy), dy + 2 * g * x * y, dz - 8 * g * x * z
        elif k == 14:
            g *= 1.445305721320277
            dx, dy, dz = dx + 2 * g * x * z, dy - 2 * g * y * z, dz + g * (xx - yy)
        else:
            g *= 0.5900435899266435
            dx, dy = dx - 3 * g * (xx - yy), dy + 6 * g * x * y
    return dx, dy, dz


@kernel()
def rotation_gradient(quats: np.ndarray, n: int, turn: np.ndarray) -> tuple[float, float, float, float]:
    """∂L/∂quaternion (wxyz, any length) of one Gaussian from ∂L/∂R, nine numbers by rows."""
    w, x, y, z = float(quats[n, 0]), float(quats[n, 1]), float(quats[n, 2]), float(quats[n, 3])
    norm = max(np.sqrt(w * w + x * x + y * y + z * z), 1e-12)
    w, x, y, z = w / norm, x / norm, y / norm, z / norm
    d0, d1, d2, d3, d4, d5, d6, d7, d8 = (
        turn[0], turn[1], turn[2], turn[3], turn[4], turn[5], turn[6], turn[7], turn[8],
    )  # fmt: skip
    gw = 2 * (x * (d7 - d5) + y * (d2 - d6) + z * (d3 - d1))
    gx = 2 * (y * (d1 + d3) + z * (d2 + d6) + w * (d7 - d5)) - 4 * x * (d4 + d8)
    gy = 2 * (x * (d1 + d3) + z * (d5 + d7) + w * (d2 - d6)) - 4 * y * (d0 + d8)
    gz = 2 * (x * (d2 + d6) + y * (d5 + d7) + w * (d3 - d1)) - 4 * z * (d0 + d4)
    along = gw * w + gx * x + gy * y + gz * z  # the length does not matter
    return (gw - along * w) / norm, (gx - along * x) / norm, (gy - along * y) / norm, (gz - along * z) / norm


@kernel()
def add_rows(lists: Lists, rows: np.ndarray, first: int, size: int, count: int, totals: np.ndarray) -> None:
    """Sums [V, BLOCK, ROW] of the rows of consecutive Gaussians; apart from what follows, so that fetches overlap."""
    offsets, slots = lists.offsets, lists.slots
    for view in range(len(totals)):
        for slot in range(offsets[view * count + first], offsets[view * count + first + size]):
            prefetch(rows, slots[slot])
        for i in range(size):
            m = view * count + first + i
            s0 = s1 = s2 = s3 = s4 = s5 = s6 = s7 = s8 = s9 = ZERO
            for slot in range(offsets[m], offsets[m + 1]):
                row = slots[slot]
                s0, s1, s2, s3, s4 = (
                    s0 + rows[row, 0],
                    s1 + rows[row, 1],
                    s2 + rows[row, 2],
                    s3 + rows[row, 3],
                    s4 + rows[row, 4],
                )
                s5, s6, s7, s8, s9 = (
                    s5 + rows[row, 5],
                    s6 + rows[row, 6],
                    s7 + rows[row, 7],
                    s8 + rows[row, 8],
                    s9 + rows[row, 9],
                )
            totals[view, i, 0], totals[view, i, 1], totals[view, i, 2], totals[view, i, 3], totals[view, i, 4] = (
                s0,
                s1,
                s2,
                s3,
                s4,
            )
            totals[view, i, 5], totals[view, i, 6], totals[view, i, 7], totals[view, i, 8], totals[view, i, 9] = (
                s5,
                s6,
                s7,
                s8,
                s9,
            )


@kernel(parallel=True, fastmath=True)
def gather(scene: Scene, lists: Lists, rows: np.ndarray, gradients: Gradients) -> None:
    """Add up the rows of each Gaussian over its tiles and views, and carry them through the projection.

    Names follow ``splat_kernels.project``; a leading ``d`` marks ∂L/∂ of what follows. Q = J W R S has rows a and b,
    Σ' = Q Qᵀ + 0.3 I, K = Σ'⁻¹: ∂L/∂Σ' = −K (∂L/∂K) K and ∂L/∂Q = 2 (∂L/∂Σ') Q. Long because it is one chain rule.
    """
    means, quats, scales, opacities, sh = scene.means, scene.quats, scene.scales, scene.opacities, scene.sh
    cameras, limits, records = scene.cameras, scene.limits, lists.records
    count = len(means)
    # Arrays of a tuple must be unpacked to be written to in a parallel loop.
    to_means, to_quats, to_scales, to_opacities = (
        gradients.means,
        gradients.quats,
        gradients.scales,
        gradients.opacities,
    )
    to_sh, to_centers, to_cameras = gradients.sh, gradients.centers, gradients.cameras
    for chunk in numba.prange(CHUNKS):
        basis, turn = np.empty(sh.shape[1], np.float64), np.empty(9, np.float64)
        totals = np.empty((len(cameras), BLOCK, ROW), np.float32)
        fill_sh_basis(0.0, 0.0, 0.0, basis)
        for n in range(chunk * count // CHUNKS, (chunk + 1) * count // CHUNKS):
            ahead = (n - chunk * count // CHUNKS) % BLOCK
            if ahead == 0:
                add_rows(lists, rows, n, min(BLOCK, (chunk + 1) * count // CHUNKS - n), count, totals)
            dmx = dmy = dmz = ds0 = ds1 = ds2 = dopacity = 0.0
            turn[:] = 0.0
            seen = False
            to_sh[n] = ZERO
            r0, r1, r2, r3, r4, r5, r6, r7, r8 = rotation_of(quats, n)
            for view in range(len(cameras)):
                m = view * count + n
                to_centers[view, n] = ZERO
                touched = False
                for j in range(ROW):
                    touched |= totals[view, ahead, j] != 0
                if not touched:
                    continue
                seen = True
                camera = camera_of(cameras, view)
                sum_1, sum_x, sum_xx = totals[view, ahead, S], totals[view, ahead, SX], totals[view, ahead, SXX]
                sum_y, sum_xy, sum_yy = totals[view, ahead, SY], totals[view, ahead, SXY], totals[view, ahead, SYY]
                sum_depth = totals[view, ahead, S_DEPTH]
                fx, skew, fy = camera[12], camera[13], camera[15]
                x, y, z = camera_point(camera, means, n)
                slope_x, slope_y, free_x, free_y = held_slopes(camera, limits, x, y, z)
                nearness = 1 / z
                ex, ey, ez, gx, gy, gz = slope_rows(camera, slope_x, slope_y, nearness)
                ax, ay, az = fx * ex + skew * gx, fx * ey + skew * gy, fx * ez + skew * gz
                bx, by, bz = fy * gx, fy * gy, fy * gz
                s0, s1, s2 = float(scales[n, 0]), float(scales[n, 1]), float(scales[n, 2])
                p0, p1, p2 = ax * r0 + ay * r3 + az * r6, ax * r1 + ay * r4 + az * r7, ax * r2 + ay * r5 + az * r8
                q0, q1, q2 = bx * r0 + by * r3 + bz * r6, bx * r1 + by * r4 + bz * r7, bx * r2 + by * r5 + bz * r8
                a0, a1, a2, b0, b1, b2 = s0 * p0, s1 * p1, s2 * p2, s0 * q0, s1 * q1, s2 * q2
                sxx = a0 * a0 + a1 * a1 + a2 * a2
                sxy = a0 * b0 + a1 * b1 + a2 * b2
                syy = b0 * b0 + b1 * b1 + b2 * b2
                sharp = sxx * syy - sxy * sxy
                det = (sxx + LOW_PASS) * (syy + LOW_PASS) - sxy * sxy
                per_det = 1 / det
                kxx, kxy, kyy = (syy + LOW_PASS) * per_det, -sxy * per_det, (sxx + LOW_PASS) * per_det

                # The image plane: centre, conic, opacity.
                du, dv = (
                    kxx * sum_x + kxy * sum_y,
                    kxy * sum_x + kyy * sum_y,
                )
                to_centers[view, n] = np.sqrt(du * du + dv * dv)
                dopacity += sum_1 / float(opacities[n])
                hxx, hxy = (
                    kxx * sum_xx + kxy * sum_xy,
                    kxx * sum_xy + kxy * sum_yy,
                )
                hyx, hyy = (
                    kxy * sum_xx + kyy * sum_xy,
                    kxy * sum_xy + kyy * sum_yy,
                )
                dxx, dxy = 0.5 * (hxx * kxx + hxy * kxy), 0.5 * (hxx * kxy + hxy * kyy)
                dyy = 0.5 * (hyx * kxy + hyy * kyy)
                if limits[4] > 0 and sharp > 0:  # opacity · √(det Σ / det Σ')
                    dxx += 0.5 * sum_1 * (syy / sharp - kxx)
                    dxy += 0.5 * sum_1 * (-sxy / sharp - kxy)
                    dyy += 0.5 * sum_1 * (sxx / sharp - kyy)
                da0, da1, da2 = 2 * (dxx * a0 + dxy * b0), 2 * (dxx * a1 + dxy * b1), 2 * (dxx * a2 + dxy * b2)
                db0, db1, db2 = 2 * (dxy * a0 + dyy * b0), 2 * (dxy * a1 + dyy * b1), 2 * (dxy * a2 + dyy * b2)

                # Scales, rotation, and the rows of J W.
                ds0, ds1, ds2 = ds0 + da0 * p0 + db0 * q0, ds1 + da1 * p1 + db1 * q1, ds2 + da2 * p2 + db2 * q2
                da0, da1, da2, db0, db1, db2 = da0 * s0, da1 * s1, da2 * s2, db0 * s0, db1 * s1, db2 * s2
                turn[0], turn[1], turn[2] = (
                    turn[0] + da0 * ax + db0 * bx, turn[1] + da1 * ax + db1 * bx, turn[2] + da2 * ax + db2 * bx,
                )  # fmt: skip
                turn[3], turn[4], turn[5] = (
                    turn[3] + da0 * ay + db0 * by, turn[4] + da1 * ay + db1 * by, turn[5] + da2 * ay + db2 * by,
                )  # fmt: skip
                turn[6], turn[7], turn[8] = (
                    turn[6] + da0 * az + db0 * bz, turn[7] + da1 * az + db1 * bz, turn[8] + da2 * az + db2 * bz,
                )  # fmt: skip
                dax, day, daz = (
                    da0 * r0 + da1 * r1 + da2 * r2,
                    da0 * r3 + da1 * r4 + da2 * r5,
                    da0 * r6 + da1 * r7 + da2 * r8,
                )
                dbx, dby, dbz = (
                    db0 * r0 + db1 * r1 + db2 * r2,
                    db0 * r3 + db1 * r4 + db2 * r5,
                    db0 * r6 + db1 * r7 + db2 * r8,
                )
                dex, dey, dez = fx * dax, fx * day, fx * daz
                dgx, dgy, dgz = skew * dax + fy * dbx, skew * day + fy * dby, skew * daz + fy * dbz
                dslope_x = -(camera[8] * dex + camera[9] * dey + camera[10] * dez) * nearness
                dslope_y = -(camera[8] * dgx + camera[9] * dgy + camera[10] * dgz) * nearness

                # The camera point: through J, through the centre, through the depth.
                dz = sum_depth - (ex * dex + ey * dey + ez * dez + gx * dgx + gy * dgy + gz * dgz) * nearness
                across, down = du * fx, du * skew + dv * fy
                across += dslope_x * free_x
                down += dslope_y * free_y
                dx, dy, dz = across * nearness, down * nearness, dz - (across * x + down * y) * (nearness * nearness)
                mx, my, mz = float(means[n, 0]), float(means[n, 1]), float(means[n, 2])
                dmx += camera[0] * dx + camera[4] * dy + camera[8] * dz
                dmy += camera[1] * dx + camera[5] * dy + camera[9] * dz
                dmz += camera[2] * dx + camera[6] * dy + camera[10] * dz
                to_cameras[chunk, view, 0] += dx * mx + dex * nearness
                to_cameras[chunk, view, 1] += dx * my + dey * nearness
                to_cameras[chunk, view, 2] += dx * mz + dez * nearness
                to_cameras[chunk, view, 3] += dx
                to_cameras[chunk, view, 4] += dy * mx + dgx * nearness
                to_cameras[chunk, view, 5] += dy * my + dgy * nearness
                to_cameras[chunk, view, 6] += dy * mz + dgz * nearness
                to_cameras[chunk, view, 7] += dy
                to_cameras[chunk, view, 8] += dz * mx - (slope_x * dex + slope_y * dgx) * nearness
                to_cameras[chunk, view, 9] += dz * my - (slope_x * dey + slope_y * dgy) * nearness
                to_cameras[chunk, view, 10] += dz * mz - (slope_x * dez + slope_y * dgz) * nearness
                to_cameras[chunk, view, 11] += dz
                to_cameras[chunk, view, 12] += du * x * nearness + ex * dax + ey * day + ez * daz
                to_cameras[chunk, view, 13] += du * y * nearness + gx * dax + gy * day + gz * daz
                to_cameras[chunk, view, 14] += du
                to_cameras[chunk, view, 15] += dv * y * nearness + gx * dbx + gy * dby + gz * dbz
                to_cameras[chunk, view, 16] += dv

                # Colour, and through its spherical harmonics the direction it is seen from.
                dred = totals[view, ahead, S_RED] if records[m, RED] > 0 else 0.0
                dgreen = totals[view, ahead, S_GREEN] if records[m, GREEN] > 0 else 0.0
                dblue = totals[view, ahead, S_BLUE] if records[m, BLUE] > 0 else 0.0
                if len(basis) > 1:
                    vx, vy, vz, distance = viewing_direction(camera, means, n)
                    fill_sh_basis(vx, vy, vz, basis)
                for k in range(len(basis)):
                    to_sh[n, k, 0] += F(basis[k] * dred)
                    to_sh[n, k, 1] += F(basis[k] * dgreen)
                    to_sh[n, k, 2] += F(basis[k] * dblue)
                if len(basis) > 1:
                    dvx, dvy, dvz = direction_gradient(vx, vy, vz, sh, n, (dred, dgreen, dblue))
                    along = dvx * vx + dvy * vy + dvz * vz
                    dvx, dvy, dvz = (
                        (dvx - along * vx) / distance,
                        (dvy - along * vy) / distance,
                        (dvz - along * vz) / distance,
                    )
                    dmx, dmy, dmz = dmx + dvx, dmy + dvy, dmz + dvz
                    for i in range(3):
                        tau = cameras[view, 4 * i + 3]
                        to_cameras[chunk, view, 4 * i] += tau * dvx
                        to_cameras[chunk, view, 4 * i + 1] += tau * dvy
                        to_cameras[chunk, view, 4 * i + 2] += tau * dvz
                        to_cameras[chunk, view, 4 * i + 3] += (
                            cameras[view, 4 * i] * dvx + cameras[view, 4 * i + 1] * dvy + cameras[view, 4 * i + 2] * dvz
                        )
            to_means[n, 0], to_means[n, 1], to_means[n, 2] = dmx, dmy, dmz
            to_scales[n, 0], to_scales[n, 1], to_scales[n, 2] = ds0, ds1, ds2
            to_opacities[n] = dopacity
            qw = qx = qy = qz = 0.0
            if seen:  # else its quaternion may be anything
                qw, qx, qy, qz = rotation_gradient(quats, n, turn)
            to_quats[n, 0], to_quats[n, 1] = qw, qx
            to_quats[n, 2], to_quats[n, 3] = qy, qz
