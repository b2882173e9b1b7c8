"""Gradients of the splat renderers: the plain one against finite differences, the compiled one against the plain one.

As with images, the two thresholds (1/255 and 1e-4) may flip single contributions between precisions. Up to one pixel in
a thousand may therefore differ by more than 1e-5; gradients are compared over the whole scene, where a flip is lost.
"""

from __future__ import annotations

import multiprocessing
import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numba
import pytest
import torch
from torch import Tensor

from obverse.cameras import Cameras, orbit
from obverse.errors import InputError
from obverse.gaussians import Gaussians
from obverse.parallel import set_threads
from obverse.render import splats_cpu
from obverse.render.splats import Rendering, render, render_plain

from .test_splats import HOSTILE, axis_camera, both, cloud, joined, single

PARTS = ("means", "quats", "scales", "opacities", "sh")
NAMES = (*PARTS, "world_to_camera", "intrinsics", "background")
LENS = [0, 1, 2, 4, 5]  # fx, skew, cx, fy, cy in a flattened [3, 3]


def gradients(
    renderer: Callable[..., Rendering],
    scene: Gaussians,
    cameras: Cameras,
    dtype: torch.dtype = torch.float32,
    **options: Any,
) -> tuple[Rendering, dict[str, Tensor]]:
    """Render, and differentiate a weighted sum of colour, alpha and depth (where alpha is sound) by everything."""
    leaves = [getattr(scene, name).to(dtype).clone().requires_grad_() for name in PARTS]
    leaves += [t.to(dtype).clone().requires_grad_() for t in (cameras.world_to_camera, cameras.intrinsics)]
    leaves.append(torch.tensor([0.2, 0.5, 0.9], dtype=dtype, requires_grad=True))
    views = Cameras(leaves[5], leaves[6], cameras.width, cameras.height)
    seen = renderer(Gaussians(*leaves[:5]), views, background=leaves[7], **options)
    rng = torch.Generator().manual_seed(1)
    weights = torch.randn(*seen.alpha.shape, 5, generator=rng, dtype=torch.float64).to(dtype)
    loss = (weights[..., :3] * seen.color).sum() + (weights[..., 3] * seen.alpha).sum()
    sound = seen.alpha.detach() > 0.3
    loss = loss + (weights[..., 4] * seen.depth)[sound].sum()
    found = torch.autograd.grad(loss, leaves)
    return seen, dict(zip(NAMES, found, strict=True))


def pair() -> Cameras:
    return orbit([0.0, 130.0], [10.0, -40.0], size=(50, 45))


def lens() -> Cameras:
    intrinsics = torch.tensor([[[70.0, 3.0, 5.0], [0.0, 55.0, 40.0], [0.0, 0.0, 1.0]]])
    return replace(orbit([20.0], size=48), intrinsics=intrinsics)


def crossing() -> Gaussians:
    """Around, behind and on the plane of ``axis_camera``."""
    scene = cloud(200, size=0.2)
    depths = torch.linspace(-1, 1.5, 200)
    depths[::20] = 0.0
    return replace(scene, means=torch.stack([*scene.means[:, :2].unbind(-1), depths], -1))


SCENES: dict[str, tuple[Gaussians, Cameras, dict[str, Any]]] = {
    "random": (cloud(400), pair(), {}),
    "degree 1": (cloud(200, degree=1), pair(), {}),
    "degree 2": (cloud(200, degree=2), pair(), {}),
    "degree 3": (cloud(300, degree=3), pair(), {}),
    "anisotropic": (replace(cloud(200), scales=cloud(200).scales * torch.tensor([6.0, 1.0, 0.1])), pair(), {}),
    "behind and on the camera plane": (crossing(), axis_camera(), {"near": 0.05}),
    "many overlapping": (cloud(3000, size=0.1), orbit([0.0], size=40), {}),
    "anti-aliased": (cloud(400, size=0.015), pair(), {"antialiased": True}),
    "off-centre lens": (cloud(200, degree=1), lens(), {}),
}


@pytest.mark.parametrize("name", SCENES)
def test_compiled_gradients_match_the_plain_ones_in_double_precision(name: str) -> None:
    scene, cameras, options = SCENES[name]
    fast, found = gradients(render, scene, cameras, **options)
    exact, expected = gradients(render_plain, scene, cameras, torch.float64, **options)
    assert exact.alpha.mean() > 0.04
    for image in ("color", "alpha"):
        error = (getattr(fast, image) - getattr(exact, image)).abs()
        assert (error > 1e-5).float().mean() <= 1e-3, image
    found["intrinsics"] = found["intrinsics"].flatten(1)[:, LENS]
    expected["intrinsics"] = expected["intrinsics"].flatten(1)[:, LENS]
    for part, truth in expected.items():
        assert truth.norm() > 0, part
        assert (found[part] - truth).norm() < 1e-4 * truth.norm() + 1e-5, part
    for statistic in ("radii", "center_gradients"):
        one, other = getattr(fast.statistics, statistic), getattr(exact.statistics, statistic)
        assert other.norm() > 0
        assert (one - other).norm() < 1e-4 * other.norm(), statistic
    assert torch.equal(fast.statistics.visible, exact.statistics.visible)


@pytest.mark.parametrize("antialiased", [False, True])
def test_plain_gradients_pass_gradcheck_for_scene_camera_and_background(antialiased: bool) -> None:
    rng = torch.Generator().manual_seed(3)
    means = (torch.rand(3, 3, generator=rng, dtype=torch.float64) - 0.5) * 0.4 + torch.tensor([0.0, 0.0, 2.0])
    quats = torch.randn(3, 4, generator=rng, dtype=torch.float64)
    scales = 0.3 + 0.2 * torch.rand(3, 3, generator=rng, dtype=torch.float64)
    opacities = torch.tensor([0.8, 0.9, 0.85], dtype=torch.float64)
    sh = 0.1 * torch.randn(3, 4, 3, generator=rng, dtype=torch.float64)
    camera = axis_camera(size=4, focal=4.0)

    def picture(*leaves: Tensor) -> Tensor:
        view = Cameras(leaves[5], leaves[6], 4, 4)
        seen = render_plain(Gaussians(*leaves[:5]), view, background=leaves[7], antialiased=antialiased)
        return torch.cat([seen.color.flatten(), seen.alpha.flatten(), seen.depth.flatten()])

    pose, focal, paper = camera.world_to_camera.double(), camera.intrinsics.double(), torch.rand(3).double()
    inputs = tuple(t.clone().requires_grad_() for t in (means, quats, scales, opacities, sh, pose, focal, paper))
    assert torch.autograd.gradcheck(picture, inputs, eps=1e-6, atol=1e-5)


def test_compiled_pose_gradient_matches_finite_differences() -> None:
    # Wide enough that no splat's rim, where alpha jumps by 1/255, is in the image.
    scene = joined(single(scale=0.6, color=0.9), single(scale=0.8, z=2.5, color=0.1))
    camera, step = axis_camera(), 1e-3

    def loss(pose: Tensor) -> Tensor:
        seen = render(scene, replace(camera, world_to_camera=pose), background=(0.0, 0.0, 0.0))
        return (seen.color[0, :, :, 0] * torch.linspace(0, 1, 31)).sum() / 100

    pose = camera.world_to_camera.clone().requires_grad_()
    found = torch.autograd.grad(loss(pose), pose)[0][0]
    for i, j in ((0, 3), (2, 3), (0, 2), (0, 0)):
        ahead, behind = camera.world_to_camera.clone(), camera.world_to_camera.clone()
        ahead[0, i, j] += step
        behind[0, i, j] -= step
        expected = (loss(ahead) - loss(behind)).item() / (2 * step)
        assert abs(expected) > 0.01
        assert found[i, j].item() == pytest.approx(expected, rel=0.02)
    assert (found[3] == 0).all()


@both
def test_depth_follows_a_lone_splat(renderer: Callable[..., Rendering]) -> None:
    scene = single(z=2.5)
    means = scene.means.clone().requires_grad_()
    seen = renderer(replace(scene, means=means), axis_camera())
    (found,) = torch.autograd.grad(seen.depth[0, 15, 15], means)
    torch.testing.assert_close(found, torch.tensor([[0.0, 0.0, 1.0]]), atol=1e-4, rtol=0)


@both
def test_background_gradient_is_what_the_splats_let_through(renderer: Callable[..., Rendering]) -> None:
    for shape in ((3,), (1, 31, 31, 3)):
        paper = torch.full(shape, 0.5, requires_grad=True)
        seen = renderer(single(), axis_camera(), background=paper)
        (found,) = torch.autograd.grad(seen.color.sum(), paper)
        expected = (1 - seen.alpha)[..., None].expand(1, 31, 31, 3)
        torch.testing.assert_close(found, expected.sum_to_size(shape), rtol=1e-4, atol=1e-5)


def test_gradients_are_the_same_bits_whatever_the_number_of_threads() -> None:
    before = numba.get_num_threads()
    try:
        set_threads(1)
        _, one = gradients(render, cloud(3000, degree=1), pair())
        _, again = gradients(render, cloud(3000, degree=1), pair())
        set_threads(None)
        _, many = gradients(render, cloud(3000, degree=1), pair())
    finally:
        set_threads(before)
    for name in NAMES[:-1]:
        assert torch.equal(one[name], again[name]), name
        assert torch.equal(one[name], many[name]), name


def test_many_views_are_rendered_in_batches_with_the_same_result(monkeypatch: pytest.MonkeyPatch) -> None:
    scene, cameras = cloud(100), orbit([0.0, 90.0, 180.0], size=20)
    whole, expected = gradients(render, scene, cameras)
    monkeypatch.setattr(splats_cpu, "INSTANCES", 200)
    parts, found = gradients(render, scene, cameras)
    assert torch.equal(whole.color, parts.color)
    assert torch.equal(whole.statistics.radii, parts.statistics.radii)
    assert torch.equal(whole.statistics.center_gradients, parts.statistics.center_gradients)
    for name in NAMES:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-4, atol=1e-4)


@both
@pytest.mark.parametrize("degree", [0, 3])
@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_gaussians_get_finite_gradients_and_none_where_hidden(
    renderer: Callable[..., Rendering], name: str, degree: int
) -> None:
    sound = replace(single(opacity=0.9), means=torch.tensor([[0.2, 0.2, 3.0]]))
    scene = joined(replace(single(), **HOSTILE[name]), sound)
    if degree:
        scene = replace(scene, sh=torch.cat([scene.sh, scene.sh[:, :1].expand(2, 15, 3) * 0.1], 1))
    leaves = [getattr(scene, part).clone().requires_grad_() for part in PARTS]
    pose = axis_camera().world_to_camera.clone().requires_grad_()
    seen = renderer(Gaussians(*leaves), replace(axis_camera(), world_to_camera=pose))
    found = torch.autograd.grad(seen.color.sum() + seen.alpha.square().sum(), [*leaves, pose])
    hidden = not seen.statistics.visible[0, 0]
    for part, gradient in zip((*PARTS, "pose"), found, strict=True):
        assert torch.isfinite(gradient).all(), part
        if hidden and part != "pose":
            assert (gradient[0] == 0).all(), part
    assert seen.statistics.visible[0, 1]


@both
def test_splats_behind_an_opaque_wall_get_no_gradient(renderer: Callable[..., Rendering]) -> None:
    wall = joined(*(single(scale=50.0, opacity=1.0, z=z) for z in (1.0, 1.1)))
    opacities = torch.tensor([1.0, 1.0, 0.8], requires_grad=True)
    scene = replace(joined(wall, single(z=2.0)), opacities=opacities)
    seen = renderer(scene, axis_camera(), background=(0.0, 0.0, 0.0))
    (found,) = torch.autograd.grad(seen.color.sum(), opacities)
    assert found[2] == 0
    assert seen.alpha.min() > 0.99


@both
def test_no_gaussians_and_single_pixels_can_be_differentiated(renderer: Callable[..., Rendering]) -> None:
    for scene in (cloud(0), single()):
        opacities = scene.opacities.clone().requires_grad_()
        seen = renderer(replace(scene, opacities=opacities), axis_camera(size=1))
        loss = seen.alpha.sum() + 0 * opacities.sum()
        (found,) = torch.autograd.grad(loss, opacities)
        assert found.shape == opacities.shape
        assert torch.isfinite(found).all()
    assert found.item() == pytest.approx(1.0, abs=1e-5)  # α = o at the centre


@both
def test_normals_of_flat_splats_face_the_camera(renderer: Callable[..., Rendering]) -> None:
    # Discs across the axis: the shortest axis is z, and the camera looks along +Z, so normals are −Z.
    flat = replace(single(opacity=0.99), scales=torch.tensor([[0.3, 0.3, 0.01]]))
    seen = renderer(flat, axis_camera())
    torch.testing.assert_close(seen.normal[0, 15, 15], torch.tensor([0.0, 0.0, -1.0]), atol=1e-4, rtol=0)
    assert (seen.normal[seen.alpha == 0] == 0).all()
    quats = torch.tensor([[1.0, 0.2, 0.0, 0.0]], requires_grad=True)
    tilted = renderer(replace(flat, quats=quats), axis_camera()).normal
    assert torch.autograd.grad(tilted[0, 15, 15, 1], quats)[0].norm() > 0.1


def test_antialiasing_keeps_the_light_of_small_splats() -> None:
    # Σ = (40 s / 2)² = 0.04 px² for s = 0.01: opacity falls by 0.04 / 0.34.
    plain = render(single(scale=0.01), axis_camera()).alpha[0, 15, 15]
    kept = render(single(scale=0.01), axis_camera(), antialiased=True).alpha[0, 15, 15]
    assert (kept / plain).item() == pytest.approx(0.04 / 0.34, rel=1e-3)


def test_a_background_of_the_wrong_shape_is_refused() -> None:
    with pytest.raises(InputError, match=r"broadcast to \[1, 31, 31, 3\]"):
        render(single(), axis_camera(), background=torch.zeros(30, 31, 3))


def fit_step(_: int = 0) -> Tensor:
    """Gradients of a small scene, for workers."""
    _, found = gradients(render, cloud(150), orbit([0.0], size=24))
    return torch.cat([found[name].flatten() for name in PARTS])


def test_threads_that_render_at_once_agree() -> None:
    expected, results = fit_step(), [torch.empty(0)] * 4

    def work(i: int) -> None:
        for _ in range(3):
            results[i] = fit_step()

    workers = [threading.Thread(target=work, args=(i,), daemon=True) for i in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(120)
        assert not worker.is_alive(), "rendering from several threads at once hangs"
    assert all(torch.equal(result, expected) for result in results)


def send_step(results: Any) -> None:
    results.put(fit_step().tolist())


@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork.*:DeprecationWarning")
def test_worker_processes_agree(method: str) -> None:
    if method not in multiprocessing.get_all_start_methods():
        pytest.skip(f"this system cannot {method}")
    expected = fit_step()  # the parent's threads have run: what a forked child inherits
    context = multiprocessing.get_context(method)
    results = context.Queue()
    workers = [context.Process(target=send_step, args=(results,), daemon=True) for _ in range(2)]
    for worker in workers:
        worker.start()
    found = [torch.tensor(results.get(timeout=240)) for _ in workers]
    for worker in workers:
        worker.join(60)
    assert all(torch.equal(result, expected) for result in found)
