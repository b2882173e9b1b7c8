"""The Triton renderer against the plain one in double precision: on a GPU where there is one, else interpreted.

Triton decides when it is imported whether kernels are compiled or interpreted (``tests/conftest.py``), and again when
ours are. The interpreter is slow: scenes are tiny, which also means that no contribution lies on a threshold, so every
pixel can be asked for.
"""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from obverse.cameras import Cameras, orbit
from obverse.errors import MissingPackageError
from obverse.gaussians import Gaussians
from obverse.render import splats
from obverse.render.splats import Rendering, render, render_plain

from .test_splat_gradients import LENS, PARTS, gradients
from .test_splats import HOSTILE, axis_camera, cloud, joined, single


def load() -> Any:
    """``splats_gpu``, its kernels interpreted if there is no GPU to compile them for."""
    pytest.importorskip("triton", reason="Triton is not installed; it exists for Linux on x86-64")
    from obverse.render import splats_gpu

    return splats_gpu


gpu = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
probe = torch.empty(0, device=gpu)
DEVICE = probe.device if probe.is_cuda or probe.is_xpu else torch.device("cpu")
if DEVICE.type == "cpu":
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("TRITON_INTERPRET", "1")
        splats_gpu = load()
else:
    splats_gpu = load()

TINY: dict[str, tuple[Gaussians, Cameras, dict[str, Any]]] = {
    "degree 0, anti-aliased": (
        cloud(40, size=0.06), orbit([0.0, 130.0], [10.0, -40.0], size=(30, 17)), {"antialiased": True},
    ),
    "degree 1, off-centre lens": (
        cloud(30, degree=1, size=0.1),
        replace(
            orbit([20.0], size=(40, 21)),
            intrinsics=torch.tensor([[[40.0, 2.0, 9.0], [0.0, 35.0, 18.0], [0.0, 0.0, 1.0]]]),
        ),
        {},
    ),
    "degree 2, around the camera plane": (
        replace(
            cloud(30, degree=2, size=0.2), means=cloud(30, size=0.2).means * torch.tensor([1.0, 1.0, 3.0])
        ),
        replace(axis_camera(20, 20.0), width=18),
        {"near": 0.05},
    ),
    "degree 3, beyond a chunk": (cloud(60, degree=3, size=0.15), orbit([50.0], size=(16, 19)), {}),
}  # fmt: skip


@pytest.fixture(autouse=True)
def triton_renders(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Without a GPU, tensors of the CPU go to Triton's interpreter; no pass may then fall back to another renderer."""
    if DEVICE.type == "cpu":
        monkeypatch.setenv("TRITON_INTERPRET", "1")  # what it imports at the first launch asks again
        monkeypatch.setattr(splats, "_compiled", lambda gaussians: splats_gpu.render_views)
    yield


def on_device(scene: Gaussians, cameras: Cameras, **options: Any) -> Rendering:
    """``render`` with what tests hold on the CPU taken to the device; results come back."""
    paper = options.pop("background", (1.0, 1.0, 1.0))
    paper = paper.to(DEVICE) if isinstance(paper, Tensor) else paper
    seen = render(scene.to(DEVICE), cameras, background=paper, **options)
    images = (getattr(seen, name).cpu() for name in ("color", "alpha", "depth"))
    return Rendering(*images, seen.statistics, lambda: seen.normal.cpu())


@pytest.mark.parametrize("name", TINY)
def test_images_gradients_and_statistics_match_the_plain_ones_in_double_precision(name: str) -> None:
    scene, cameras, options = TINY[name]
    fast, found = gradients(on_device, scene, cameras, **options)
    exact, expected = gradients(render_plain, scene, cameras, torch.float64, **options)
    assert exact.alpha.mean() > 0.04
    assert (fast.color - exact.color).abs().max() < 1e-5
    assert (fast.alpha - exact.alpha).abs().max() < 1e-5
    assert torch.equal(torch.isinf(fast.depth), torch.isinf(exact.depth))
    deep = exact.alpha > 0.05
    assert (fast.depth - exact.depth)[deep].abs().max() < 1e-4
    found["intrinsics"] = found["intrinsics"].flatten(1)[:, LENS]
    expected["intrinsics"] = expected["intrinsics"].flatten(1)[:, LENS]
    for part, truth in expected.items():
        assert truth.norm() > 0, part
        assert (found[part] - truth).norm() < 1e-4 * truth.norm(), part
    for statistic in ("radii", "center_gradients"):
        one, other = getattr(fast.statistics, statistic).cpu(), getattr(exact.statistics, statistic)
        assert other.norm() > 0
        assert (one - other).norm() < 1e-4 * other.norm(), statistic


def test_opaque_layers_end_pixels_where_the_plain_renderer_does() -> None:
    # 0.12⁴ = 2.1e-4 is left by four layers; the fifth would leave 2.5e-5 and is dropped, with the 15 behind it.
    layers = joined(*(single(scale=5.0, opacity=0.88, z=2.0 + 0.1 * i, color=0.1 + i / 30) for i in range(20)))
    fast, found = gradients(on_device, layers, axis_camera(18))
    exact, expected = gradients(render_plain, layers, axis_camera(18), torch.float64)
    assert (fast.color - exact.color).abs().max() < 1e-5
    assert (found["opacities"][:4] != 0).all()
    assert (found["opacities"][4:] == 0).all()
    for part in ("means", "scales", "opacities", "sh"):
        assert (found[part] - expected[part]).norm() < 1e-4 * expected[part].norm(), part


def test_normals_are_those_of_the_plain_renderer() -> None:
    flat = replace(single(opacity=0.99), scales=torch.tensor([[0.3, 0.3, 0.01]]))
    seen = on_device(flat, axis_camera(9, 12.0))
    torch.testing.assert_close(seen.normal[0, 4, 4], torch.tensor([0.0, 0.0, -1.0]), atol=1e-4, rtol=0)
    torch.testing.assert_close(seen.normal, render_plain(flat, axis_camera(9, 12.0)).normal, atol=1e-4, rtol=0)


@pytest.mark.parametrize("degree", [0, 3])
@pytest.mark.filterwarnings("ignore:invalid value")  # NumPy's, in lanes of the interpreter that are masked
def test_hostile_gaussians_are_contained(degree: int) -> None:
    sound = replace(single(opacity=0.9, color=0.25), means=torch.tensor([[0.5, 0.5, 3.0]]))
    scene = joined(*(replace(single(), **hostile) for hostile in HOSTILE.values()), sound)
    if degree:
        scene = replace(scene, sh=torch.cat([scene.sh, 0.1 * scene.sh.expand(-1, 15, -1)], 1))
    seen, found = gradients(on_device, scene, axis_camera(20, 26.0))
    assert torch.isfinite(seen.color).all()
    assert ((seen.alpha >= 0) & (seen.alpha <= 1)).all()
    visible = seen.statistics.visible[0].cpu()
    assert torch.equal(visible, render_plain(scene.to(torch.float64), axis_camera(20, 26.0)).statistics.visible[0])
    for part, gradient in found.items():
        assert torch.isfinite(gradient).all(), part
        if part in PARTS:
            assert (gradient[~visible] == 0).all(), part
    assert visible[-1]


def test_no_gaussians_give_the_background_and_empty_gradients() -> None:
    seen, found = gradients(on_device, cloud(0), orbit([0.0, 90.0], size=(5, 3)))
    torch.testing.assert_close(seen.color, torch.tensor([0.2, 0.5, 0.9]).expand(2, 3, 5, 3))
    assert (seen.alpha == 0).all()
    assert found["means"].shape == (0, 3)
    assert (found["world_to_camera"] == 0).all()


def test_an_image_of_one_pixel_is_drawn_and_differentiated() -> None:
    scene = replace(single(), opacities=torch.tensor([0.8], requires_grad=True))
    alpha = on_device(scene, axis_camera(size=1)).alpha
    assert alpha.item() == pytest.approx(0.8, abs=1e-5)
    (found,) = torch.autograd.grad(alpha.sum(), scene.opacities)
    assert found.item() == pytest.approx(1.0, abs=1e-5)  # α = o at the centre


def test_a_background_image_and_its_gradient() -> None:
    paper = torch.rand(2, 18, 18, 3, generator=torch.Generator().manual_seed(0)).requires_grad_()
    cameras = Cameras(
        axis_camera().world_to_camera.repeat(2, 1, 1), axis_camera(18, 20.0).intrinsics.repeat(2, 1, 1), 18, 18
    )
    seen = on_device(single(), cameras, background=paper)
    expected = seen.alpha[..., None] + (1 - seen.alpha)[..., None] * paper  # the splat is white
    torch.testing.assert_close(seen.color, expected, atol=1e-5, rtol=0)
    (found,) = torch.autograd.grad(seen.color.sum(), paper)
    torch.testing.assert_close(found, (1 - seen.alpha)[..., None].expand_as(found), rtol=1e-4, atol=1e-5)


def test_views_in_batches_and_a_second_run_give_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    scene, cameras = cloud(12, size=0.1), orbit([0.0, 90.0], size=(17, 9))
    whole, expected = gradients(on_device, scene, cameras)
    monkeypatch.setattr(splats_gpu, "INSTANCES", 12)
    parts, found = gradients(on_device, scene, cameras)
    assert torch.equal(whole.color, parts.color)
    for statistic in ("radii", "center_gradients"):
        assert torch.equal(getattr(whole.statistics, statistic), getattr(parts.statistics, statistic))
    for name in ("world_to_camera", "intrinsics"):
        assert torch.equal(found[name], expected[name]), name
    for name in PARTS:  # sums over views are rounded in another order
        torch.testing.assert_close(found[name], expected[name], rtol=1e-5, atol=1e-5)


def test_tile_lists_are_sorted_by_depth_and_every_pair_is_found_again() -> None:
    scene, cameras = cloud(150, size=0.1), orbit([0.0, 90.0], size=(40, 33))
    options = splats.Options(40, 33, 0.01, 1e4, False)
    parts = tuple(getattr(scene.to(DEVICE), name) for name in PARTS)
    poses = splats_gpu._cameras(cameras.world_to_camera.to(DEVICE), cameras.intrinsics.to(DEVICE), options)
    lists = splats_gpu.tile_lists(parts, poses, options, torch.empty(2, 150, device=DEVICE))
    records, entries, slots, starts, firsts, reached = (t.cpu() for t in lists)
    assert len(starts) == 2 * 3 * 3 + 1
    assert starts[-1] == len(entries) == reached.sum() > 300
    for start, stop in zip(starts[:-1].tolist(), starts[1:].tolist(), strict=True):
        depths = records[entries[start:stop].long(), 9]
        assert (depths[1:] >= depths[:-1]).all()
    owners = torch.full((len(entries),), -1)
    for m in range(300):
        owners[firsts[m] : firsts[m] + reached[m]] = m
    assert torch.equal(owners[slots.long()], entries.long())


def stand_in(dtype: torch.dtype, device: str) -> Any:
    """As much of a scene as the choice of a renderer looks at."""
    tensor = SimpleNamespace(dtype=dtype, is_cpu=device == "cpu", is_cuda=device == "gpu", is_xpu=False)
    return SimpleNamespace(**dict.fromkeys(PARTS, tensor))


def test_the_device_of_the_tensors_chooses_the_renderer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()  # the choice itself, not what the fixture put in its place
    from obverse.render import splats_cpu

    splats._triton_views.cache_clear()
    assert splats._compiled(stand_in(torch.float32, "cpu")) is splats_cpu.render_views
    assert splats._compiled(stand_in(torch.float32, "gpu")) is splats_gpu.render_views
    assert splats._compiled(stand_in(torch.float32, "elsewhere")) is None
    assert splats._compiled(stand_in(torch.float64, "gpu")) is None


def test_a_gpu_without_triton_gets_the_plain_renderer_and_one_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()

    def missing(package: str, **_: str) -> None:
        raise MissingPackageError(f"no {package}")

    monkeypatch.setattr(splats, "need", missing)
    splats._triton_views.cache_clear()
    try:
        with pytest.warns(UserWarning, match="no triton; until then the plain renderer is used"):
            assert splats._compiled(stand_in(torch.float32, "gpu")) is None
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert splats._compiled(stand_in(torch.float32, "gpu")) is None
    finally:
        splats._triton_views.cache_clear()


COMPILE = """
import sys
import obverse.render.splats
assert "triton" not in sys.modules
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from obverse.render import splats_gpu as s

WHOLE = {"count", "width", "height", "view", "tiles_x", "tiles_y", "paper_v", "paper_y", "paper_x"}
LISTS = {"entries", "slots", "starts", "firsts", "reached", "boxes", "last"}
WIDE = {"WIDE": s.tl.float64, "BLOCK": s.BLOCK, "K": 1, "ANTIALIASED": True}

def kind(name, constants):
    if name in constants:
        return "constexpr"
    if name in WHOLE:
        return "i32"
    return "*i32" if name in LISTS else "*fp64" if name in ("cameras", "to_cameras") else "*fp32"

for kernel, chosen in (
    (s.project, WIDE), (s.composite, s.FORWARD), (s.scatter, s.BACKWARD), (s.sum_rows, s.SUMMING),
    (s.gather, {**WIDE, "POSE": True}),
):
    constants = {name: value for name, value in chosen.items() if name != "num_warps"}
    signature = {name: kind(name, constants) for name in kernel.arg_names}
    indices = {(kernel.arg_names.index(name),): value for name, value in constants.items()}
    warps = {"num_warps": chosen.get("num_warps", 4)}
    made = triton.compile(ASTSource(kernel, signature, indices), GPUTarget("cuda", 90, 32), warps)
    assert made.asm["cubin"][1:4] == b"ELF", kernel
    print(kernel.__name__, "local" in made.asm["ptx"])
"""


@pytest.mark.skipif(sys.platform != "linux", reason="Triton brings NVIDIA's assembler on Linux only")
def test_kernels_load_on_demand_and_compile_for_a_gpu_without_one(tmp_path: Path) -> None:
    surroundings = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    surroundings["TRITON_CACHE_DIR"] = str(tmp_path)
    done = subprocess.run([sys.executable, "-c", COMPILE], capture_output=True, text=True, env=surroundings)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [
        word for name in ("project", "composite", "scatter", "sum_rows", "gather") for word in (name, "False")
    ]  # fmt: skip
