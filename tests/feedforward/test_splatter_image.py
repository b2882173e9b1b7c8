"""Against the published code: tests/parity/splatter-image was made by running it (keys*.json: checkpoints' layouts)."""

import math
from dataclasses import replace
from functools import partial

import pytest
import torch

from obverse.cameras import Cameras, Views, orbit, pinhole
from obverse.errors import InputError, UsageError, WeightsError
from obverse.feedforward import splatter_image as si
from obverse.weights import KNOWN, family_of, load_strict, shapes

from ..parity.cases import read_case, read_keys
from ..parity.cases import same as near
from ..parity.drawn import draw_all
from .shaped import report_of_a_disc

ONE = si.Config(size=32, blocks=1, attention=(8,), fov_deg=si.SRN_FOV_DEG, near=0.8, far=1.8)
TWO = replace(ONE, fov_deg=None, near=-2.0, far=2.0, from_distance=True, posed=True)

same = partial(near, atol=1e-4)
SMALL = si.Config(size=32, width=16, multipliers=(1, 2), blocks=1, attention=(16,))


def state_of(config):
    """Drawn weights in the published layout, with the constants that a checkpoint holds."""
    with torch.device("meta"):
        layout = shapes(si.SplatterImage(config))
    fixed = {key: torch.full(shape, 0.25) for key, shape in layout.items() if key.endswith("resample_filter")}
    fixed |= si.constants(config)
    return draw_all({key: shape for key, shape in layout.items() if key not in fixed}) | fixed


def built(config):
    with torch.device("meta"):
        network = si.SplatterImage(config)
    return load_strict(network, state_of(config), source="drawn")


@pytest.fixture(scope="module")
def one():
    return built(ONE)


@pytest.fixture(scope="module")
def two():
    return built(TWO)


@pytest.fixture(scope="module")
def case():
    return read_case("splatter-image")


@pytest.fixture(scope="module")
def dark(tmp_path_factory):
    """A folder with weights, in the published layout, that see what is darker than white as a thick red sheet."""
    path = tmp_path_factory.mktemp("weights") / "model_latest.pth"
    torch.save({"iteration": 1, "model_state_dict": dark_state(SMALL)}, path)
    return path.parent


def dark_state(config):
    """The first convolution gives darkness, the last layer reads it past all others, and opacity grows with it."""
    with torch.device("meta"):
        layout = shapes(si.SplatterImage(config))
    state = {key: torch.full(shape, 0.25 if "filter" in key else 0.0) for key, shape in layout.items()}
    top = f"{config.size}x{config.size}"
    enc, dec = f"network_with_offset.encoder.enc.{top}", f"network_with_offset.encoder.dec.{top}"
    state[f"{enc}_conv.weight"][:, :, 1, 1], state[f"{enc}_conv.bias"][:] = -1 / 3, 1
    state[f"{dec}_block{config.blocks}.skip.weight"][:, -config.width :, 0, 0] = torch.eye(config.width)
    state[f"{dec}_aux_norm.weight"][:] = 1
    state[f"{dec}_aux_conv.weight"][4, 0, 1, 1] = 10  # depth 0, offset 1 to 3, then opacity
    state["network_with_offset.out.weight"][:, :, 0, 0] = torch.eye(24)
    bias = state["network_with_offset.out.bias"]
    bias[4], bias[5:8], bias[8] = -5, torch.tensor([0.035, 0.035, 0.25]).log(), 1
    bias[12:15] = torch.tensor([1.5, -1.5, -1.5])
    return state | si.constants(config)


def compare(gaussians, case, name, quats):
    """Every column against theirs; a rotation may have either sign, theirs depends on the camera's quaternion."""
    same(gaussians.means, case[f"{name}_xyz"][0])
    same(gaussians.opacities, case[f"{name}_opacity"][0, :, 0])
    same(gaussians.scales, case[f"{name}_scaling"][0])
    theirs = case[f"{name}_rotation"][0]
    same(gaussians.quats * (gaussians.quats * theirs).sum(-1, keepdim=True).sign(), theirs)
    same(gaussians.sh[:, :1], case[f"{name}_features_dc"][0])
    same(gaussians.sh[:, 1:], case[f"{name}_features_rest"][0])


@pytest.mark.parametrize(("posed", "file"), [(False, "keys"), (True, "keys_two_view")])
def test_the_published_key_lists_are_exactly_the_layouts(posed, file):
    published = read_keys("splatter-image", file)
    with torch.device("meta"):
        network = si.SplatterImage(replace(si.PUBLISHED["model_cars.pth"], posed=posed))
        tensors = {key: torch.empty(shape) for key, shape in published["keys"].items()}
    load_strict(network, tensors, source=file, device="meta")
    assert len(published["keys"]) == published["num_tensors"]
    assert family_of(published["keys"]) == si.FAMILY


def test_one_view_becomes_the_published_gaussians_in_its_world(one, case):
    camera_to_world = case["single_view_to_world_T"][0].transpose(1, 2)
    cameras = Cameras(torch.linalg.inv(camera_to_world), pinhole(si.SRN_FOV_DEG, 32, 32)[None], 32, 32)
    images = case["single_images"][0]
    with torch.no_grad():
        same(one(images), case["single_net"])
    gaussians = si.from_views(one, Views(images.permute(0, 2, 3, 1), cameras))
    compare(gaussians, case, "single", case["single_quat"][0])


def test_two_posed_views_become_the_published_gaussians(two, case):
    camera_to_world = case["two_view_to_world_T"][0].transpose(1, 2)
    images = case["two_images"][0]
    with torch.no_grad():
        same(two(images[:, :3], camera_to_world), case["two_net"])
    intrinsics = pinhole(60, 32, 32).repeat(2, 1, 1)
    intrinsics[:, [0, 1], [0, 1]] = case["two_focals"][0]
    cameras = Cameras(torch.linalg.inv(camera_to_world), intrinsics, 32, 32)
    gaussians = si.from_views(two, Views(images[:, :3].permute(0, 2, 3, 1), cameras), distances=images[:, 3])
    compare(gaussians, case, "two", case["two_quat"][0])


def test_a_photo_becomes_gaussians_behind_its_own_pixels(dark):
    network = si.load(dark / "model_latest.pth", config=SMALL)
    alpha = torch.zeros(90, 120)
    alpha[10:70, 40:60], alpha[50:70, 40:100] = 1, 1  # an L, out of the middle
    image = torch.cat([torch.full((90, 120, 3), 0.2), alpha[..., None]], dim=-1)
    gaussians, camera = si.reconstruct(network, image)
    assert (camera.width, camera.height) == (120, 90) and len(camera) == 1
    same(camera.positions, torch.tensor([0.0, 0.0, 2.0]))
    solid = gaussians[gaussians.opacities > 0.5]
    pixels, depth = camera.project(solid.means)
    same(depth, torch.full_like(depth, 2.0), atol=1e-5)
    x, y = pixels.long().unbind(-1)
    assert alpha[y, x].mean() > 0.95 and len(solid) > 100
    side = 60 / SMALL.fill / SMALL.size  # of a picture's pixel in the photo: the L is 60 high and wide
    assert float(alpha.sum()) == pytest.approx(len(solid) * side**2, rel=0.2)
    assert solid.means[y < 38, 0].max() < 0 and solid.means[y < 38, 1].min() > 0  # the upper part is left and up
    same(solid.colors[0], torch.tensor([0.923, 0.077, 0.077]), atol=1e-3)


def test_a_checkpoint_in_the_published_layout_becomes_an_asset(dark, tmp_path, monkeypatch):
    monkeypatch.setitem(si.PUBLISHED, "model_latest.pth", SMALL)
    report = report_of_a_disc("splatter-image", dark, tmp_path)
    assert report["mesh"]["watertight"]["ok"]
    assert report["method"]["name"] == "splatter-image"
    assert report["method"]["weights_licence"] == KNOWN["splatter-image"].licence
    assert report["photo_agreement"]["silhouette_iou"] > 0.9  # the sheet lies behind the photo's own pixels
    disc = math.pi / 4 * (SMALL.fill * SMALL.size) ** 2
    assert report["gaussians"]["count"] == pytest.approx(disc, rel=0.1)
    assert any("Splatter Image" in sentence for sentence in report["guessed"])


def test_published_files_are_known_by_their_names():
    assert KNOWN["splatter-image"].files == si.FILES[:1] and si.PUBLISHED[si.FILES[0]] == si.Config()
    distances = [si.PUBLISHED[f"model_{name}.pth"].distance for name in ("latest", "cars", "chairs", "hydrants")]
    assert distances == pytest.approx([2.0, 1.3, 2.0, 0.0])  # with CO3D it is told


def test_weights_trained_with_another_field_of_view_are_refused(dark):
    with pytest.raises(WeightsError, match=r"trained with another ray_dirs .* field of view than 30"):
        si.load(dark, config=replace(SMALL, fov_deg=30.0))


def test_another_size_is_refused_with_the_first_difference(dark):
    with pytest.raises(WeightsError, match=r"as Splatter Image: .* keys missing.*looks like Splatter Image of another"):
        si.load(dark)


def test_bfloat16_stays_near_and_keeps_the_last_layers_exact(tmp_path):
    path = tmp_path / "other.pth"
    torch.save(state_of(SMALL), path)
    exact, network = (si.load(path, config=SMALL, dtype=dtype) for dtype in (torch.float32, torch.bfloat16))
    encoder = network.network_with_offset.encoder
    assert encoder.enc["16x16_block0"].qkv.weight.dtype == torch.bfloat16
    assert network.network_with_offset.out.weight.dtype == encoder.dec["32x32_aux_conv"].weight.dtype == torch.float32
    picture = torch.linspace(0, 1, 3 * 32 * 32).reshape(1, 3, 32, 32)
    with torch.no_grad():
        raw, expected = network(picture), exact(picture)
    assert raw.dtype == torch.float32 and 0 < (raw - expected).abs().mean() < 0.05 * expected.std()


def test_isotropic_networks_use_one_scale():
    raw = torch.arange(24.0)[:, None, None].expand(24, 2, 2) / 24
    gaussians = si.activated(raw, torch.ones(3, 2, 2), torch.zeros(2, 2), replace(ONE, isotropic=True))
    same(gaussians.scales, torch.full((4, 3), math.exp(5 / 24)))


def test_the_object_is_framed_and_laid_on_the_background():
    image = torch.zeros(10, 20, 4)
    image[2:6, 15:19] = torch.tensor([1.0, 0.0, 0.0, 1.0])
    left, top, side = si.window(image, 0.5)
    assert (left, top, side) == (13, 0, 8)
    picture = si.cut(image, left, top, side, 1.0)
    assert picture.shape == (8, 8, 3)
    assert ((picture == torch.tensor([1.0, 0.0, 0.0])).all(-1).nonzero().float().mean(0) == 3.5).all()
    assert (picture == 1).all(-1).sum() == 64 - 16  # white elsewhere, past the photo's border too
    assert si.window(torch.zeros(6, 6, 3), 0.5) == (0, 0, 6)


def test_pictures_are_resized_without_leaving_their_range():
    wide = torch.zeros(1, 64, 64, 3)
    wide[:, :, 32:] = 1
    small = si.pictures_of(wide, 32)
    assert small.shape == (1, 3, 32, 32) and small.min() >= 0 and small.max() <= 1
    same(small[0, 0, 5], torch.arange(32).ge(16).float(), atol=0.1)


def test_what_a_photo_cannot_tell_is_asked_for(one, two):
    with pytest.raises(UsageError, match=r"told focal length and distance.*from_views"):
        si.reconstruct(two, torch.zeros(8, 8, 3))
    cameras = orbit([0, 90], distance=1.3, fov_deg=si.SRN_FOV_DEG, size=32)
    images = torch.zeros(2, 32, 32, 3)
    with pytest.raises(InputError, match="knows one view, it was given 2"):
        si.from_views(one, Views(images, cameras))
    with pytest.raises(UsageError, match="needs distances; pass one for each view"):
        si.from_views(two, Views(images, cameras))
    with pytest.raises(UsageError, match="has no use for distances; leave them out"):
        si.from_views(one, Views(images[:1], cameras[:1]), distances=torch.ones(1))
    with pytest.raises(InputError, match=r"focal lengths of 59\.7 at 32 pixels"):
        si.from_views(one, Views(images[:1], orbit([0.0], fov_deg=30, size=32)))
    with pytest.raises(InputError, match=r"\[2, 32, 16, 3\], they must be \[V, H, H, 3\]"):
        si.from_views(one, Views(images[:, :, :16], cameras))
    with pytest.raises(InputError, match=r"\[8, 9, 3\], it must be \[H, W, 4\] or \[H, H, 3\]"):
        si.reconstruct(one, torch.zeros(8, 9, 3))
