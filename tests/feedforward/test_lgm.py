"""Against the published code: tests/parity/lgm was made by running it (keys*.json: the layouts of its three sizes)."""

import math
from dataclasses import replace
from functools import partial

import pytest
import torch
from safetensors.torch import save_file

from obverse.cameras import Cameras, Views, orbit
from obverse.errors import InputError, WeightsError
from obverse.feedforward import lgm
from obverse.gaussians import Gaussians, prune, transformed
from obverse.weights import KNOWN, family_of, load_strict, shapes

from ..parity.cases import read_case, read_keys
from ..parity.cases import same as near
from ..parity.drawn import draw_all

same = partial(near, atol=1e-4)

TINY = lgm.Config(
    image_size=32,
    down=(32, 64, 64, 96),
    down_attention=(False, True, True, True),
    up=(96, 64, 64),
    up_attention=(True, True, False),
)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    path = tmp_path_factory.mktemp("tiny") / lgm.FILES[0]
    with torch.device("meta"):
        layout = shapes(lgm.LGM(TINY))
    save_file({key: value.half() for key, value in draw_all(layout).items()}, path)
    return path


@pytest.fixture(scope="module")
def network():
    with torch.device("meta"):
        network = lgm.LGM(TINY)
    return load_strict(network, draw_all(shapes(network)), source="drawn")


@pytest.fixture(scope="module")
def case():
    return read_case("lgm")


@pytest.fixture(scope="module")
def views(case):
    return Views(case["images"].permute(0, 2, 3, 1), lgm.rig(32))


def poses(cameras):
    """Camera to world with their axes: y up, z backwards."""
    return torch.linalg.inv(cameras.world_to_camera) @ torch.diag(torch.tensor([1.0, -1, -1, 1]))


def columns(gaussians):
    """Their order: position, opacity, scale, rotation, colour."""
    parts = [gaussians.means, gaussians.opacities[:, None], gaussians.scales, gaussians.quats, gaussians.colors]
    return torch.cat(parts, dim=1)


@pytest.mark.parametrize(("size", "file"), [("big", "keys"), ("small", "keys_small"), ("tiny", "keys_tiny")])
def test_the_published_key_lists_are_exactly_the_layouts(size, file):
    published = read_keys("lgm", file)
    with torch.device("meta"):
        network = lgm.LGM(lgm.SIZES[size])
        load_strict(
            network, {key: torch.empty(shape) for key, shape in published["keys"].items()}, source=file, device="meta"
        )
    assert lgm.SIZES[size].splat_size == published["config"]["splat_size"]
    assert family_of(published["keys"]) == lgm.FAMILY


def test_the_table_of_weights_names_the_file_with_the_mended_rotations():
    assert KNOWN["lgm"].files == lgm.FILES and KNOWN["lgm"].megabytes == 830  # 415,042,848 numbers of two bytes


def test_the_rig_and_its_rays_are_the_published_ones(case):
    same(poses(lgm.rig()), case["cam_poses"], atol=1e-6)
    same(lgm.rays(lgm.rig(32)), case["rays"], atol=1e-6)


def test_their_elevations_look_up_where_ours_look_down(case):
    cameras = orbit([0, 90, 45], [0, 0, -30], distance=lgm.DISTANCE, fov_deg=lgm.FOV_DEG)
    same(poses(cameras), case["extra_poses"], atol=1e-6)


def test_the_network_gives_the_published_numbers(network, case, views):
    seen, steps = (
        {},
        {
            "down1_attn0": network.unet.down_blocks[1].attns[0],
            "down_last": network.unet.down_blocks[-1],
            "mid": network.unet.mid_block,
            "unet_out": network.unet.conv_out,
        },
    )
    hooks = [
        step.register_forward_hook(lambda *a, name=name: seen.update({name: a[2]})) for name, step in steps.items()
    ]
    pictures = torch.cat([lgm.normalised(lgm.on_white(views.images, 32)), lgm.rays(views.cameras)], dim=1)
    with torch.no_grad():
        gaussians = lgm.activated(network(pictures))
    for hook in hooks:
        hook.remove()
    for name in steps:
        same(seen[name][-1] if name == "down_last" else seen[name], case[name])
    same(columns(gaussians), case["gaussians"][0])
    assert 0.05 < (gaussians.means.abs() == 1).float().mean() < 0.15  # the cube's limit is met


def test_four_views_become_the_published_gaussians_that_can_be_seen(network, case, views):
    gaussians = lgm.reconstruct(network, views)
    expected = case["gaussians"][0]
    same(columns(gaussians), expected[expected[:, 3] >= lgm.FAINT])
    same(gaussians.quats.norm(dim=-1), torch.ones(len(gaussians)))


def test_views_from_elsewhere_give_the_same_object_there(network, views):
    turn = orbit(70, 25, distance=1.0).world_to_camera[0]
    turn[:3, 3] = 0
    rig = views.cameras
    matrices = rig.world_to_camera @ torch.linalg.inv(turn)  # the world is turned, then all is twice as large
    matrices[:, :3, 3] *= 2
    moved = lgm.reconstruct(network, Views(views.images, replace(rig, world_to_camera=matrices)))
    turn[:3, :3] *= 2
    here = transformed(lgm.reconstruct(network, views), turn)
    for name in ("means", "scales", "opacities", "sh"):
        same(getattr(moved, name), getattr(here, name), atol=1e-4)  # their rays differ by rounding
    same((moved.quats * here.quats).sum(-1).abs(), torch.ones(len(here)), atol=1e-4)


def test_transparent_pixels_become_white_and_pictures_are_resized():
    image = torch.tensor([0.0, 1.0, 0.0, 0.25]).expand(2, 8, 8, 4)
    same(lgm.on_white(image, 4), torch.tensor([0.75, 1.0, 0.75])[:, None, None].expand(2, 3, 4, 4), atol=1e-6)


def test_what_cannot_be_seen_is_dropped():
    raw = torch.zeros(4, 14, 2, 2)
    raw[:, 3] = -5.4  # sigmoid 0.0045
    raw[0, 3], raw[:, 7] = -5.2, 1.0  # sigmoid 0.0055
    gaussians = prune(lgm.activated(raw), min_opacity=lgm.FAINT)
    assert isinstance(gaussians, Gaussians) and len(gaussians) == 4
    same(gaussians.scales, torch.full((4, 3), 0.1 * math.log(2)))


def test_a_file_of_half_precision_stays_near_in_both_precisions(checkpoint, case, views):
    for dtype, limit in ((torch.float32, 0.01), (torch.bfloat16, 0.1)):
        network = lgm.load(checkpoint.parent, config=TINY, dtype=dtype)
        assert network.unet.mid_block.attns[0].attn.qkv.weight.dtype == dtype
        assert network.unet.conv_out.weight.dtype == network.unet.conv_in.bias.dtype == torch.float32
        pictures = torch.cat([lgm.normalised(lgm.on_white(views.images, 32)), lgm.rays(views.cameras)], dim=1)
        with torch.no_grad():
            error = (columns(lgm.activated(network(pictures))) - case["gaussians"][0]).abs()
        assert 0 < error.mean() < limit, dtype


def test_weights_of_before_the_mended_rotations_are_refused(tmp_path):
    (tmp_path / "model_fp16.safetensors").write_bytes(b"")
    with pytest.raises(WeightsError, match=r"wrong axis.*pass model_fp16_fixrot\.safetensors"):
        lgm.load(tmp_path / "model_fp16.safetensors")


def test_another_size_is_refused_with_the_first_difference(checkpoint):
    with pytest.raises(WeightsError, match=r"as LGM: .* keys missing.*looks like LGM of another size"):
        lgm.load(checkpoint)


def test_other_than_four_square_views_around_an_object_are_refused(network, views):
    three = Views(views.images[:3], views.cameras[:3])
    with pytest.raises(InputError, match=r"images \[3, 32, 32, 3\] and 3 cameras; it takes four square views"):
        lgm.reconstruct(network, three)
    inside = Cameras(torch.eye(4).expand(4, 4, 4), views.cameras.intrinsics, 32, 32)
    with pytest.raises(InputError, match="all at the origin"):
        lgm.reconstruct(network, Views(views.images, inside))
