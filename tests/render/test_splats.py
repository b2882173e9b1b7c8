"""Splats: the plain renderer against closed forms, the compiled one against the plain one in double precision.

The two thresholds (alpha below 1/255 is skipped, a pixel ends at transmittance 1e-4) make the image discontinuous, so
rounding may flip single contributions: images are compared by their mean, with an allowance for a few pixels.
"""

from __future__ import annotations

import math
import platform
import re
from collections.abc import Callable
from dataclasses import replace

import numba
import numpy as np
import pytest
import torch
from llvmlite import binding

from obverse.cameras import Cameras, orbit
from obverse.errors import InputError
from obverse.gaussians import Gaussians, from_colors
from obverse.parallel import set_threads
from obverse.render import splat_kernels as sk
from obverse.render import splats_cpu
from obverse.render.splats import MAX_ALPHA, MIN_ALPHA, Rendering, render, render_plain

Renderer = Callable[..., Rendering]
both = pytest.mark.parametrize("renderer", [render, render_plain], ids=["compiled", "plain"])


def cloud(count: int, *, seed: int = 0, size: float = 0.04, degree: int = 0) -> Gaussians:
    """Random Gaussians on a sphere of radius 0.4, faint and opaque."""
    rng = torch.Generator().manual_seed(seed)
    means = 0.4 * torch.nn.functional.normalize(torch.randn(count, 3, generator=rng), dim=-1)
    quats = torch.nn.functional.normalize(torch.randn(count, 4, generator=rng), dim=-1)
    scales = size * (0.2 + torch.rand(count, 3, generator=rng))
    sh = 0.3 * torch.randn(count, (degree + 1) ** 2, 3, generator=rng)
    return Gaussians(means, quats, scales, torch.rand(count, generator=rng), sh)


def single(*, scale: float = 0.1, opacity: float = 0.8, z: float = 2.0, color: float = 1.0) -> Gaussians:
    """One round Gaussian on the axis of ``axis_camera`` at depth z."""
    return from_colors(
        torch.tensor([[0.0, 0.0, z]]),
        torch.tensor([[1.0, 0.0, 0.0, 0.0]]),
        torch.full((1, 3), scale),
        torch.tensor([opacity]),
        torch.full((1, 3), color),
    )


def axis_camera(size: int = 31, focal: float = 40.0) -> Cameras:
    """At the origin, looking along +Z; camera space is world space; the axis meets the middle pixel's centre."""
    intrinsics = torch.tensor([[[focal, 0.0, size / 2], [0.0, focal, size / 2], [0.0, 0.0, 1.0]]])
    return Cameras(torch.eye(4)[None], intrinsics, size, size)


def joined(*sets: Gaussians) -> Gaussians:
    return Gaussians(*(torch.cat([getattr(s, f) for s in sets]) for f in Gaussians.__dataclass_fields__))


@both
def test_one_gaussian_has_the_closed_form_profile(renderer: Renderer) -> None:
    # σ² = (f s / z)² + 0.3 = (40 · 0.1 / 2)² + 0.3 = 4.3 px²; α(d) = 0.8 exp(-d² / 8.6).
    alpha = renderer(single(), axis_camera()).alpha[0]
    for d in range(5):
        expected = 0.8 * math.exp(-d * d / 8.6)
        assert alpha[15, 15 + d].item() == pytest.approx(expected, abs=1e-5)
        assert alpha[15 - d, 15].item() == pytest.approx(expected, abs=1e-5)


@both
def test_contributions_below_a_255th_are_skipped(renderer: Renderer) -> None:
    alpha = renderer(single(), axis_camera()).alpha
    assert alpha[alpha > 0].min() >= MIN_ALPHA * (1 - 1e-4)
    assert (renderer(single(opacity=0.9 / 255), axis_camera()).alpha == 0).all()


@both
def test_alpha_of_one_splat_is_capped(renderer: Renderer) -> None:
    alpha = renderer(single(scale=1.0, opacity=1.0), axis_camera()).alpha
    assert alpha.max().item() == pytest.approx(MAX_ALPHA, abs=1e-6)


@both
def test_nearer_splat_covers_the_farther_one_whatever_the_order(renderer: Renderer) -> None:
    # Middle pixel: 0.5 · 1 + 0.5 · 0.5 · 0 + 0.25 · background 0 = 0.5 with white in front, 0.25 with white behind.
    white, black = single(opacity=0.5, z=2.0, color=1.0), single(opacity=0.5, z=3.0, color=0.0)
    for scene in (joined(white, black), joined(black, white)):
        picture = renderer(scene, axis_camera(), background=(0, 0, 0))
        assert picture.color[0, 15, 15, 0].item() == pytest.approx(0.5, abs=1e-5)
        assert picture.alpha[0, 15, 15].item() == pytest.approx(0.75, abs=1e-5)
    behind = joined(replace(white, means=white.means + torch.tensor([0, 0, 2.0])), black)
    assert renderer(behind, axis_camera(), background=(0, 0, 0)).color[0, 15, 15, 0].item() == pytest.approx(
        0.25, abs=1e-5
    )


@both
def test_splat_that_would_end_a_pixel_is_not_composited(renderer: Renderer) -> None:
    # 0.995 leaves 0.005; a second 0.995 would leave 2.5e-5 < 1e-4, so it and all behind it are dropped.
    layers = [single(scale=0.5, opacity=0.995, z=z, color=c) for z, c in ((2.0, 1.0), (3.0, 0.0), (4.0, 0.0))]
    alpha = renderer(joined(*layers), axis_camera(size=1)).alpha[0, 0, 0].item()
    assert alpha == pytest.approx(0.995, abs=1e-4)


@both
def test_background_may_be_a_colour_or_an_image(renderer: Renderer) -> None:
    paper = torch.rand(1, 31, 31, 3, generator=torch.Generator().manual_seed(0))
    picture = renderer(single(), axis_camera(), background=paper)
    expected = picture.alpha[..., None] + (1 - picture.alpha)[..., None] * paper  # the splat is white
    torch.testing.assert_close(picture.color, expected, atol=1e-5, rtol=0)
    corner = renderer(single(), axis_camera(), background=(0.1, 0.2, 0.3)).color[0, 0, 0]
    torch.testing.assert_close(corner, torch.tensor([0.1, 0.2, 0.3]))


@both
def test_depth_is_that_of_the_splat_and_infinite_where_nothing_is(renderer: Renderer) -> None:
    picture = renderer(single(z=2.5), axis_camera())
    assert picture.depth[0, 15, 15].item() == pytest.approx(2.5, abs=1e-5)
    assert torch.isinf(picture.depth[picture.alpha == 0]).all()
    assert (picture.alpha == 0).any()


@both
def test_turning_camera_and_object_together_changes_nothing(renderer: Renderer) -> None:
    scene = cloud(60)
    # A quarter turn about Y: (x, y, z) → (z, y, -x), as a quaternion (√½, 0, √½, 0) from the left.
    s = math.sqrt(0.5)
    w, x, y, z = scene.quats.unbind(-1)
    turned = torch.stack([s * (w - y), s * (x + z), s * (y + w), s * (z - x)], -1)
    moved = replace(scene, means=scene.means[:, [2, 1, 0]] * torch.tensor([1.0, 1.0, -1.0]), quats=turned)
    one = renderer(scene, orbit(0.0, size=40)).color
    other = renderer(moved, orbit(90.0, size=40)).color
    assert one.std() > 0.05
    assert (one - other).abs().mean() < 1e-5


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
def test_compiled_matches_plain_in_double_precision(degree: int) -> None:
    scene, cameras = cloud(400, degree=degree), orbit([0.0, 130.0], [10.0, -40.0], size=(50, 45))
    fast, exact = render(scene, cameras), render_plain(scene.to(torch.float64), cameras)
    assert fast.color.shape == (2, 45, 50, 3)
    assert exact.alpha.max() > 0.99
    for name in ("color", "alpha"):
        error = (getattr(fast, name) - getattr(exact, name)).abs()
        assert error.mean() < 1e-5, name
        assert (error > 1e-3).float().mean() < 1e-3, name
    seen = (exact.alpha > 0.05) & torch.isfinite(fast.depth)
    assert (fast.depth - exact.depth)[seen].abs().mean() < 1e-4


def test_compiled_matches_plain_with_any_intrinsics() -> None:
    intrinsics = torch.tensor([[[70.0, 3.0, 5.0], [0.0, 55.0, 40.0], [0.0, 0.0, 1.0]]])
    cameras = replace(orbit([20.0], size=48), intrinsics=intrinsics)
    fast, exact = render(cloud(200), cameras), render_plain(cloud(200).to(torch.float64), cameras)
    assert exact.alpha.mean() > 0.05
    assert (fast.color - exact.color).abs().mean() < 1e-5


def test_compiled_matches_plain_beyond_one_slice_and_one_batch() -> None:
    # Faint splats so that no pixel ends early: every list is walked to its end.
    scene = replace(cloud(6000, size=0.02), opacities=torch.full((6000,), 0.03))
    fast, exact = render(scene, orbit(0.0, size=20)), render_plain(scene.to(torch.float64), orbit(0.0, size=20))
    assert 0.5 < exact.alpha.max() < 0.9999
    assert (fast.color - exact.color).abs().mean() < 1e-5


def test_needles_are_drawn_as_in_double_precision() -> None:
    # 1 : 10⁵ aspect and 400 px long: the determinant cancels in single precision.
    scene = replace(cloud(40), scales=torch.tensor([[2.0, 1e-5, 1e-5]]).expand(40, 3).contiguous())
    fast, exact = render(scene, orbit(0.0, size=64)), render_plain(scene.to(torch.float64), orbit(0.0, size=64))
    assert exact.alpha.mean() > 0.01
    assert (fast.alpha - exact.alpha).abs().mean() < 1e-4


def test_result_does_not_depend_on_the_number_of_threads() -> None:
    before = numba.get_num_threads()
    scene, cameras = cloud(3000), orbit(0.0, size=40)
    try:
        set_threads(1)
        one = render(scene, cameras)
        set_threads(None)
        many = render(scene, cameras)
    finally:
        set_threads(before)
    assert torch.equal(one.color, many.color)
    assert torch.equal(one.alpha, many.alpha)


def test_gradients_are_finite_beside_gaussians_that_are_not_drawn() -> None:
    scene = joined(single(), single(z=-1.0), single(z=0.0), single(scale=float("nan")))
    means = scene.means.clone().requires_grad_()
    render(replace(scene, means=means), axis_camera()).alpha[0, :14].sum().backward()
    assert means.grad is not None
    assert torch.isfinite(means.grad).all()
    assert means.grad[0].abs().sum() > 0


def test_render_is_differentiable_when_a_gradient_is_wanted() -> None:
    opacities = torch.tensor([0.5], requires_grad=True)
    scene = replace(single(), opacities=opacities)
    assert render(scene, axis_camera()).color.requires_grad
    with torch.no_grad():
        assert not render(scene, axis_camera()).color.requires_grad


HOSTILE = {
    "zero quaternion": {"quats": torch.zeros(1, 4)},
    "mean not a number": {"means": torch.full((1, 3), float("nan"))},
    "infinite mean": {"means": torch.tensor([[0.0, float("inf"), 2.0]])},
    "behind the camera": {"means": torch.tensor([[0.0, 0.0, -2.0]])},
    "on the camera plane": {"means": torch.tensor([[0.3, 0.0, 0.0]])},
    "at the camera": {"means": torch.zeros(1, 3)},
    "huge": {"scales": torch.full((1, 3), 1e30)},
    "large": {"scales": torch.full((1, 3), 1e4)},
    "tiny": {"scales": torch.full((1, 3), 1e-30)},
    "zero scale": {"scales": torch.zeros(1, 3)},
    "infinite scale": {"scales": torch.full((1, 3), float("inf"))},
    "opacity not a number": {"opacities": torch.tensor([float("nan")])},
    "opacity above one": {"opacities": torch.tensor([3.0])},
    "negative opacity": {"opacities": torch.tensor([-1.0])},
    "colour not a number": {"sh": torch.full((1, 1, 3), float("nan"))},
    "far aside": {"means": torch.tensor([[1e30, 0.0, 2.0]])},
}


@both
@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_gaussians_are_contained(renderer: Renderer, name: str) -> None:
    hostile = replace(single(), **HOSTILE[name])
    beside = replace(single(opacity=0.9, color=0.25), means=torch.tensor([[0.5, 0.5, 3.0]]))
    seen = renderer(joined(hostile, beside), axis_camera())
    assert torch.isfinite(seen.color).all()
    assert ((seen.alpha >= 0) & (seen.alpha <= 1)).all()
    assert seen.alpha.max() > 0.5  # the sound one beside it, if nothing else
    assert seen.color.min() >= 0
    assert seen.color.max() <= 1 + 1e-5


def test_zero_quaternion_means_no_rotation() -> None:
    flat = replace(single(), scales=torch.tensor([[0.2, 0.05, 0.05]]))
    turned = replace(flat, quats=torch.zeros(1, 4))
    torch.testing.assert_close(render(turned, axis_camera()).alpha, render(flat, axis_camera()).alpha)


@both
def test_no_gaussians_give_the_background(renderer: Renderer) -> None:
    picture = renderer(cloud(0), orbit([0.0, 90.0], size=(5, 3)), background=(0.2, 0.3, 0.4))
    assert picture.color.shape == (2, 3, 5, 3)
    torch.testing.assert_close(picture.color, torch.tensor([0.2, 0.3, 0.4]).expand(2, 3, 5, 3))
    assert (picture.alpha == 0).all()


@both
def test_an_image_of_one_pixel_is_drawn(renderer: Renderer) -> None:
    alpha = renderer(single(), axis_camera(size=1)).alpha
    assert alpha.shape == (1, 1, 1)
    assert alpha.item() == pytest.approx(0.8, abs=1e-5)


@both
def test_near_and_far_bound_what_is_drawn(renderer: Renderer) -> None:
    assert (renderer(single(z=2.0), axis_camera(), near=2.1).alpha == 0).all()
    assert (renderer(single(z=2.0), axis_camera(), far=1.9).alpha == 0).all()
    with pytest.raises(InputError, match="near < far"):
        renderer(single(), axis_camera(), near=0.0)


@both
def test_batched_gaussians_are_refused_with_a_remedy(renderer: Renderer) -> None:
    batch = Gaussians(*(getattr(single(), f)[None] for f in Gaussians.__dataclass_fields__))
    with pytest.raises(InputError, match="each set by itself"):
        renderer(batch, axis_camera())


def test_tile_lists_are_sorted_by_depth_and_reach_every_tile_once() -> None:
    scene, cameras = cloud(2500), orbit([0.0, 90.0], size=70)
    options = splats_cpu.Options(70, 70, 0.01, 1e4, False)
    parts = [getattr(scene, name) for name in Gaussians.__dataclass_fields__]
    packed = splats_cpu._scene(parts, cameras.world_to_camera, cameras.intrinsics, options)
    lists, _ = splats_cpu.tile_lists(packed, np.empty((2, 2500), np.float32))
    assert len(lists.starts) == 2 * 5 * 5 + 1
    assert lists.starts[-1] == len(lists.entries) > 4000
    for start, stop in zip(lists.starts[:-1], lists.starts[1:], strict=True):
        entries = lists.entries[start:stop]
        depths = lists.records[entries, sk.DEPTH]
        assert (depths[1:] >= depths[:-1]).all()
        assert len(set(entries)) == len(entries)
    owners = np.repeat(np.arange(2 * 2500), np.diff(lists.offsets))
    assert (lists.entries[lists.slots] == owners).all()  # every pair is found again by its Gaussian


def test_every_pixel_of_a_splat_is_visited_once_and_in_depth_order() -> None:
    scene, cameras = cloud(300, size=0.03), orbit(0.0, size=16)
    options = splats_cpu.Options(16, 16, 0.01, 1e4, False)
    parts = [getattr(scene, name) for name in Gaussians.__dataclass_fields__]
    packed = splats_cpu._scene(parts, cameras.world_to_camera, cameras.intrinsics, options)
    lists, _ = splats_cpu.tile_lists(packed, np.empty((1, 300), np.float32))
    batch = np.zeros((sk.BATCH + sk.ELLIPSE, sk.RECORD), np.float32)
    spans, jobs = np.zeros((sk.STRIPS, 2, sk.BATCH), np.int32), np.zeros(sk.JOBS, np.uint8)
    work, visited, reached = sk.new_work(0), 0, 0
    for entry in range(0, len(lists.entries), sk.BATCH):
        size = min(sk.BATCH, len(lists.entries) - entry)
        count = sk.gather_batch(lists.records, lists.entries, entry, size, (0, 0), batch, spans, jobs)
        made = jobs[:count].tolist()
        assert made == sorted(set(made))  # by Gaussian, nearest first, then by block
        for i, m in enumerate(lists.entries[entry : entry + size]):
            r = lists.records[m]
            dx, dy = work[:256] - r[sk.U], work[256:512] - r[sk.V]
            p = dx * (r[sk.A] * dx + r[sk.B] * dy) + r[sk.C] * dy * dy + r[sk.LOG_OPACITY]
            blocks = np.flatnonzero((p >= sk.LOG_MIN_ALPHA).reshape(16, 16).any(1))
            assert {16 * i + int(block) for block in blocks} <= set(made)
            reached += len(blocks)
        visited += count
    assert reached > 300
    assert visited < 1.5 * reached  # few blocks in vain


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="reads x86 assembly")
@pytest.mark.parametrize("name", ["composite", "scatter"])
def test_rows_of_pixels_are_vectorised(name: str) -> None:
    means = cloud(10).means.requires_grad_()
    render(replace(cloud(10), means=means), orbit(0.0, size=16)).alpha.sum().backward()
    cached = getattr(splats_cpu, name).dispatcher
    options = {"nogil": True, "parallel": True, "fastmath": True}
    assert {k: cached.targetoptions[k] for k in options} == options
    fresh = numba.njit(**options)(cached.py_func)  # only freshly compiled code can be inspected
    fresh.compile(cached.signatures[0])
    assembly = "\n".join(fresh.inspect_asm().values())
    packed = re.findall(r"\bv?(?:mul|f[n]?m(?:add|sub)\d+)ps\b", assembly)
    assert len(packed) >= 10, f"the inner loop of {name} is no longer vectorised"
    if binding.get_host_cpu_features().get("avx512f"):
        assert re.search(r"vfmadd\w+ps.*zmm", assembly), f"{name} does without the processor's widest vectors"
