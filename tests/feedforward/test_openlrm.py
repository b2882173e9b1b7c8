"""Against the published code: tests/parity/openlrm was made by running it (keys*.json: the checkpoints' layouts)."""

import math
import types
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from obverse.cameras import Cameras, orbit
from obverse.errors import InputError, MissingPackageError, UsageError, WeightsError
from obverse.feedforward import dino, dinov2, lrm, openlrm
from obverse.photo import read_photo
from obverse.render.fields import Field
from obverse.render.volume import camera_rays
from obverse.weights import KNOWN, family_of

from ..conftest import disc_photo
from ..parity.cases import read_case, read_keys, same
from ..parity.drawn import draw_all
from .shaped import openlrm_ball, report_of_a_disc

pytest.importorskip("transformers")

TINY = openlrm.Config(
    image_size=84,
    encoder=dinov2.Dinov2(width=48, layers=2, heads=3, stored_size=70),
    camera_width=24,
    plane_size=6,
    width=32,
    heads=4,
    layers=2,
    features=8,
    samples=16,
)
OLD = replace(TINY, image_size=48, encoder=dino.Dino(width=48, layers=2, heads=3, hidden=96, patch=8, stored_size=32))
KEYS = {
    "small-1.1": "keys_small",
    "base-1.1": "keys",
    "large-1.1": "keys_large",
    "small-1.0": "keys_v1.0_small",
    "base-1.0": "keys_v1.0_base",
    "large-1.0": "keys_v1.0_large",
}
TURN = torch.tensor([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]])  # their frame → the world: x, z, −y


def meta(config):
    with torch.device("meta"):
        return openlrm.OpenLRM(config)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    path = tmp_path_factory.mktemp("tiny") / "pytorch_model.bin"
    torch.save(draw_all(openlrm.layout(meta(TINY))), path)
    return path


@pytest.fixture(scope="module")
def network(checkpoint):
    return openlrm.load(checkpoint, config=TINY)


@pytest.fixture(scope="module")
def case():
    return read_case("openlrm")


@pytest.fixture(scope="module")
def solid(network, case):
    return network.field(case["planes"][0])


def cameras_of(published, anchors, side, region):
    """Their 4 × 4 camera-to-world (OpenGL axes) and 3 × 3 intrinsics, cut to a region of the image → ours."""
    pose, intrinsics = published[:, :16].reshape(-1, 4, 4).clone(), published[:, 16:].reshape(-1, 3, 3).clone()
    pose[:, :3] = TURN @ pose[:, :3] @ torch.diag(torch.tensor([1.0, -1, -1, 1]))
    intrinsics[:, :2] *= side
    intrinsics[:, :2, 2] -= anchors.flip(-1)
    return Cameras(torch.linalg.inv(pose), intrinsics, region, region)


@pytest.fixture(scope="module")
def cameras(case):
    return cameras_of(case["render_cameras"][0], case["anchors"][0], 10, 8)


@pytest.mark.parametrize("name", openlrm.PUBLISHED)
def test_the_published_key_lists_load_strictly_and_are_recognised(name):
    keys = read_keys("openlrm", KEYS[name])
    network = meta(openlrm.PUBLISHED[name])
    assert {key: list(shape) for key, shape in openlrm.layout(network).items()} == keys["keys"]
    assert family_of(keys["keys"]) == f"OpenLRM {name[-3:]}"
    tensors = {key: torch.empty(shape, device="meta") for key, shape in keys["keys"].items()}
    openlrm.assign(network, tensors, source=name, device="meta")
    assert not any(parameter.requires_grad for parameter in network.parameters())
    config = openlrm.PUBLISHED[name]
    model = keys["config"]
    assert (config.heads, config.samples) == (model["transformer_heads"], model["rendering_samples_per_ray"])
    own = {"kwargs": {"model": model, "infer": {"source_size": config.image_size}}}
    assert openlrm.recognised(openlrm.Checkpoint(Path(name), tensors, own)) == config


def test_the_encoder_and_the_camera_give_the_published_tokens(network, case):
    with torch.no_grad():
        same(network.tokens_of(case["image"]), case["image_feats"])
        same(network.camera(case["source_camera"]), case["camera_embed"])
    same(openlrm.source_camera(), case["source_camera"])


def test_the_transformer_and_the_planes_are_the_published_ones(network, case):
    with torch.no_grad():
        same(network.refine(case["image_feats"], case["camera_embed"]), case["tokens"])
        same(network(case["image"], case["source_camera"]), case["planes"], atol=2e-5)


def test_version_1_0_gives_the_published_tokens_and_planes(tmp_path):
    case = read_case("openlrm", "tiny_v1.0")
    torch.save(draw_all(openlrm.layout(meta(OLD))), tmp_path / "model.pth")
    network = openlrm.load(tmp_path, config=OLD)
    with torch.no_grad():
        same(network.tokens_of(case["image"]), case["image_feats"])
        same(network(case["image"], case["source_camera"]), case["planes"], atol=2e-5)


def test_density_and_colour_at_points_are_the_published_ones(solid, case):
    points = case["points"][0] @ TURN.T
    assert (points.abs() > 1).any()
    with torch.no_grad():
        same(solid.density_or_sdf(points), case["point_sigma"][0, :, 0])
        same(solid.color(points), case["point_rgb"][0])


def test_the_density_grid_is_the_published_one(solid, case):
    line = torch.linspace(-1, 1, 7)
    with torch.no_grad():
        grid = solid.density_or_sdf(torch.cartesian_prod(line, line, line) @ TURN.T)
    same(grid.reshape(7, 7, 7), case["grid_sigma"][0])


def test_rays_and_images_are_the_published_ones(solid, cameras, case):
    origins, directions = camera_rays(cameras)
    same(origins.reshape(2, 64, 3) @ TURN, case["ray_origins"])
    same(F.normalize(directions, dim=-1).reshape(2, 64, 3) @ TURN, case["ray_dirs"])
    jitter = case["u_coarse"].reshape(128, 8), case["u_fine"] * 8 - torch.arange(8)  # theirs lie anywhere in 0–1
    background = case["bg_colors"][0, :, 0, None, None, None]
    with torch.no_grad():
        color, alpha, distance = lrm.render(solid, cameras, samples=16, background=background, jitter=jitter)
    same(color.movedim(-1, 1), case["images_rgb"][0])
    same(alpha, case["images_weight"][0, :, 0])
    same(distance, case["images_depth"][0, :, 0])


def test_its_orbit_is_the_published_one(case):
    azimuths = torch.linspace(0, 360, 5).tolist()
    found = orbit(azimuths, math.degrees(math.asin(0.8 / 2)), distance=2.0)
    pose = torch.linalg.inv(found.world_to_camera)
    same((TURN.T @ pose[:, :3]) @ torch.diag(torch.tensor([1.0, -1, -1, 1])), case["orbit_extrinsics"])


def test_the_camera_that_is_told_is_the_camera_of_the_photo():
    told = openlrm.source_camera()[0]
    pose = torch.cat([told[:12].reshape(3, 4), torch.tensor([[0.0, 0, 0, 1]])])
    fx, fy, cx, cy = told[12:]
    intrinsics = torch.tensor([[fx, 0, cx], [0, fy, cy], [0, 0, 1]])
    theirs = cameras_of(torch.cat([pose.flatten(), intrinsics.flatten()])[None], torch.zeros(1, 2), 64, 64)
    ours = openlrm.input_camera(64)
    same(ours.world_to_camera, theirs.world_to_camera[0])
    same(ours.intrinsics, theirs.intrinsics[0], atol=1e-4)


def test_without_jitter_an_image_is_the_same_every_time_and_rays_beside_the_box_see_the_background(solid):
    away = orbit(0.0, distance=4.0, fov_deg=80.0, size=6)
    with torch.no_grad():
        first, second = (lrm.render(solid, away, samples=8, background=0.3) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    same(first[0][0, 0, 0], torch.full((3,), 0.3))
    assert first[1][0, 0, 0] == 0 and first[1][0, 3, 3] > 0
    with pytest.raises(UsageError, match="samples is 7"):
        lrm.render(solid, away, samples=7)


def test_it_is_a_field_in_the_world_frame(solid):
    assert isinstance(solid, Field) and solid.bounds == ((-1.0,) * 3, (1.0,) * 3)
    assert solid.level == pytest.approx(3.0)


def test_bfloat16_stays_near_and_keeps_the_decoder_exact(checkpoint, case):
    network = openlrm.load(checkpoint, config=TINY, dtype=torch.bfloat16)
    assert network.blocks[0].mlp.up.weight.dtype == torch.bfloat16
    assert network.blocks[0].norm1.norm.weight.dtype == network.decoder[0].weight.dtype == torch.float32
    planes = openlrm.reconstruct(network, case["image"][0].movedim(0, -1)).planes
    error = (planes - case["planes"][0]).abs()
    assert planes.dtype == torch.float32 and 0 < error.mean() < 0.02 * case["planes"].abs().mean()


def test_a_file_of_version_1_0_is_read_with_the_sizes_it_states(tmp_path, monkeypatch):
    monkeypatch.setattr(openlrm, "PUBLISHED", {"base-1.1": TINY, "small-1.0": OLD})
    stated = {"model": {"transformer_heads": 8, "rendering_samples_per_ray": 32}, "infer": {"source_size": 32}}
    weights = draw_all(openlrm.layout(meta(OLD)))
    torch.save({"weights": weights, "kwargs": stated}, tmp_path / "model.pth")
    config = openlrm.load(tmp_path).config
    assert (config.heads, config.samples, config.image_size) == (8, 32, 32)
    for wrong in ({}, {"kwargs": {**stated, "infer": {"source_size": 33}}}, {"kwargs": [1]}):
        torch.save({"weights": weights, **wrong}, tmp_path / "model.pth")
        with pytest.raises(WeightsError, match=r"OpenLRM 1\.0 and does not say its number of heads"):
            openlrm.load(tmp_path)


def test_other_weights_are_refused_with_the_family_they_resemble(tmp_path):
    keys = ["tokenizer.embeddings", "backbone.transformer_blocks.0.norm1.weight", "post_processor.upsample.weight"]
    torch.save({key: torch.zeros(2, 2) for key in keys}, tmp_path / "other.pth")
    with pytest.raises(WeightsError, match=r"432 of 432 keys missing.*3 unexpected.*looks like .*TripoSR"):
        openlrm.load(tmp_path / "other.pth")


def test_another_size_of_the_same_family_is_refused_with_the_first_difference(checkpoint):
    with pytest.raises(WeightsError, match=r"of another shape, first .*OpenLRM 1\.1 of another size"):
        openlrm.load(checkpoint)


def test_an_image_is_blended_with_white_and_its_corners_stay_in_place():
    image = torch.zeros(3, 3, 4)
    image[0, 0] = torch.tensor([0.0, 1.0, 0.0, 0.25])
    found = openlrm.on_white(image, 5)
    same(found[:, 0, 0], torch.tensor([0.75, 1.0, 0.75]))
    same(found[:, ::4, ::4][:, 1, 1], torch.ones(3))
    with pytest.raises(InputError, match=r"\[4, 5, 3\], it must be \[H, H, 3 or 4\]"):
        openlrm.on_white(torch.zeros(4, 5, 3), 8)


def test_a_cut_out_is_centred_and_fills_four_fifths():
    subject = read_photo(disc_photo(size=256, radius=60, center=(90, 150)))
    picture = openlrm.centred(subject.rgba)
    dark = (picture < 0.99).any(-1)
    rows, columns = dark.any(1).nonzero()[:, 0], dark.any(0).nonzero()[:, 0]
    side = len(picture)
    for found in (rows, columns):
        assert int(found[-1] - found[0] + 1) == pytest.approx(0.8 * side, abs=3)
        assert int(found[0] + found[-1] + 1) == pytest.approx(side, abs=2)
    assert len(openlrm.centred(torch.ones(700, 700, 4))) == openlrm.DRAFT


def test_positions_of_dinov2_are_resized_by_the_exact_factor():
    stored = torch.arange(17.0).reshape(1, 17, 1)
    assert dinov2.resized_positions(stored, 4) is stored
    half = dinov2.resized_positions(stored, 2)
    assert half.shape == (1, 5, 1) and half[0, 0, 0] == 0
    same(half[0, 1:].mean(), torch.tensor(8.5))  # symmetric weights keep the mean of a plane
    plain = F.interpolate(stored[:, 1:].reshape(1, 1, 4, 4), size=(2, 2), mode="bicubic").flatten()
    assert (half[0, 1:, 0] - plain).abs().max() > 0.01  # antialiased


def test_a_transformers_without_registers_says_which_one_has_them(monkeypatch):
    monkeypatch.setattr(dinov2, "need", lambda *_, **__: types.SimpleNamespace(__version__="4.40.0"))
    with pytest.raises(MissingPackageError, match=r"transformers 4\.40\.0 has no DINOv2 with registers.*>=4\.48"):
        meta(TINY)


def test_a_checkpoint_in_the_published_layout_becomes_an_asset(tmp_path, monkeypatch):
    config = openlrm.Config(
        image_size=28,
        encoder=dinov2.Dinov2(width=16, layers=1, heads=2, stored_size=42),
        camera_width=8,
        plane_size=16,
        width=16,
        heads=2,
        layers=1,
        features=4,
        hidden=8,
    )
    monkeypatch.setattr(openlrm, "PUBLISHED", {"tiny-1.1": config})
    (tmp_path / "weights").mkdir()
    save_file(openlrm_ball(config, radius=0.6), tmp_path / "weights" / "model.safetensors")
    report = report_of_a_disc("openlrm", tmp_path / "weights", tmp_path)
    assert report["method"]["name"] == "openlrm" and report["method"]["version"] == "1.1"
    assert "NC" in report["method"]["weights_licence"] and not KNOWN["openlrm"].commercial
    assert report["mesh"]["watertight"]["ok"]
    assert report["photo_agreement"]["silhouette_iou"] > 0.95  # the ball is framed to the disc
    assert any("OpenLRM" in sentence for sentence in report["guessed"])
