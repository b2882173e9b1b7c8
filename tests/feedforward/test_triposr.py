"""Against the published code: tests/parity/triposr was made by running it (keys.json: the checkpoint's layout)."""

import math

import pytest
import torch
import torch.nn.functional as F

from obverse.cameras import orbit
from obverse.errors import InputError, WeightsError
from obverse.feedforward import dino, triposr
from obverse.feedforward.framing import framed
from obverse.render.fields import CallableField, Field
from obverse.render.volume import camera_rays
from obverse.surface.extract import extract
from obverse.weights import family_of

from ..parity.cases import read_case, read_keys, same
from ..parity.drawn import draw_all

pytest.importorskip("transformers")

TINY = triposr.Config(
    image_size=64,
    encoder=dino.Dino(width=48, layers=2, heads=3, hidden=96, patch=8, stored_size=32),
    plane_size=8,
    width=64,
    heads=4,
    layers=2,
    features=8,
    hidden=16,
    depth=3,
)
THEIRS = [2, 0, 1]  # world x, y, z → their frame: x = our +Z, y = our +X, z = our +Y
OURS = [1, 2, 0]  # and back


def tiny_layout():
    with torch.device("meta"):
        return triposr.layout(triposr.TripoSR(TINY))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    path = tmp_path_factory.mktemp("tiny") / "model.ckpt"
    torch.save(draw_all(tiny_layout()), path)
    return path


@pytest.fixture(scope="module")
def network(checkpoint):
    return triposr.load(checkpoint, config=TINY)


@pytest.fixture(scope="module")
def case():
    return read_case("triposr")


@pytest.fixture(scope="module")
def solid(network, case):
    return triposr.reconstruct(network, case["image"])


def test_the_published_key_list_is_exactly_the_layout():
    keys = read_keys("triposr")
    with torch.device("meta"):
        network = triposr.TripoSR(triposr.PUBLISHED)
    assert {key: list(shape) for key, shape in triposr.layout(network).items()} == keys["keys"]
    assert family_of(keys["keys"]) == triposr.FAMILY


def test_the_picture_is_resized_as_published(case):
    same(triposr.on_grey(case["image"], 64).permute(1, 2, 0), case["cond_image"])


def test_the_encoder_gives_the_published_tokens(network, case):
    picture = dino.normalised(case["cond_image"].permute(2, 0, 1)[None])
    with torch.no_grad():
        same(network.encoder.embeddings(picture), case["embeddings"])
        same(network.encoder(picture).last_hidden_state, case["image_tokens"])


def test_positions_between_the_stored_ones_follow_the_published_factor():
    stored = torch.arange(5.0).reshape(1, 5, 1)
    assert dino.resized_positions(stored, 2) is stored
    wide = dino.resized_positions(stored, 4)
    assert wide.shape == (1, 17, 1) and wide[0, 0] == 0
    exact = F.interpolate(stored[:, 1:].reshape(1, 1, 2, 2), size=(4, 4), mode="bicubic").flatten()
    assert (wide[0, 1:, 0] - exact).abs().max() > 0.01  # the factor is 4.1 / 2, not 4 / 2


def test_the_transformer_and_the_planes_are_the_published_ones(network, case):
    with torch.no_grad():
        same(network.refine(case["image_tokens"]), case["backbone_out"])
        same(network(case["cond_image"].permute(2, 0, 1)[None]), case["scene_codes"], atol=2e-5)


def test_density_and_colour_at_points_are_the_published_ones(solid, case):
    points = case["points"][:, OURS]
    with torch.no_grad():
        same(solid.density_or_sdf(points), case["density_act"][:, 0])
        same(solid.density_or_sdf(points).log() + 1, case["density"][:, 0])
        same(solid.color(points), case["color"])


def test_its_cameras_and_images_are_the_published_ones(solid, case):
    cameras = orbit([0, 90, 180, 270], 20, distance=triposr.DISTANCE, fov_deg=triposr.FOV_DEG, size=12)
    origins, directions = camera_rays(cameras)
    same(origins[..., THEIRS], case["rays_o"])
    same(F.normalize(directions, dim=-1)[..., THEIRS], case["rays_d"])
    with torch.no_grad():
        same(triposr.render(solid, cameras, samples=16), case["render"])


def test_the_density_grid_and_the_mesh_on_it_are_the_published_ones(solid, case):
    line = torch.linspace(-0.87, 0.87, 9)
    with torch.no_grad():
        grid = solid.density_or_sdf(torch.cartesian_prod(line, line, line)[:, OURS]).reshape(9, 9, 9)
    same(grid, case["density_grid"])
    # Their marching cubes put a vertex where the density, linear along an edge of the grid, crosses the level.
    place = (case["mesh_vertices"].double() / 0.87 + 1) * 4
    low = place.floor().clamp(0, 7)
    part = place - low
    value = torch.zeros(len(place), dtype=torch.float64)
    for corner in torch.cartesian_prod(*[torch.arange(2)] * 3):
        weight = torch.where(corner.bool(), part, 1 - part).prod(-1)
        value += weight * grid.double()[tuple((low + corner).long().T)]
    # Looser than the rest: their positions are float32 and the density changes by ten per unit of the grid.
    torch.testing.assert_close(value, torch.full_like(value, float(case["mesh_threshold"])), atol=1e-4, rtol=0)


def test_bfloat16_stays_near_and_keeps_the_decoder_exact(checkpoint, case):
    network = triposr.load(checkpoint, config=TINY, dtype=torch.bfloat16)
    assert network.blocks[0].ff.up.weight.dtype == torch.bfloat16
    assert network.blocks[0].norm1.weight.dtype == network.decoder[0].weight.dtype == torch.float32
    planes = triposr.reconstruct(network, case["image"]).planes
    error = (planes - case["scene_codes"][0]).abs()
    assert planes.dtype == torch.float32 and 0 < error.mean() < 0.01 * case["scene_codes"].abs().mean()


def test_it_is_a_field_in_the_world_frame_that_can_be_meshed(solid):
    assert isinstance(solid, Field) and solid.bounds == ((-0.87,) * 3, (0.87,) * 3)
    assert solid.level == pytest.approx(25.0)
    with pytest.raises(InputError, match="empty"):  # drawn weights: nothing is as dense as 25
        extract(solid, resolution=16)


def test_other_weights_are_refused_with_the_family_they_resemble(tmp_path):
    keys = ["encoder.model.blocks.0.norm1.weight", "upsampler.weight", "synthesizer.decoder.net.0.weight"]
    torch.save({key: torch.zeros(2, 2) for key in keys}, tmp_path / "other.pth")
    with pytest.raises(WeightsError, match=r"549 of 549 keys missing.*3 unexpected.*looks like .*OpenLRM 1\.1"):
        triposr.load(tmp_path / "other.pth")


def test_another_size_of_the_same_family_is_refused_with_the_first_difference(checkpoint):
    with pytest.raises(WeightsError, match=r"of another shape, first .* instead of .*TripoSR of another size"):
        triposr.load(checkpoint)


def test_an_image_that_is_no_square_is_refused():
    with pytest.raises(InputError, match=r"\[4, 5, 3\], it must be \[H, H, 3 or 4\]"):
        triposr.on_grey(torch.zeros(4, 5, 3), 8)


def test_transparent_pixels_become_grey():
    image = torch.tensor([0.0, 1.0, 0.0, 0.25]).expand(8, 8, 4)
    same(triposr.on_grey(image, 4)[:, 0, 0], torch.tensor([0.375, 0.625, 0.375]))


def test_the_camera_is_framed_so_that_outlines_coincide():
    ball = CallableField(lambda p: (p - torch.tensor([0.1, -0.05, 0.0])).norm(dim=-1) - 0.3)
    y, x = torch.meshgrid(torch.arange(100) + 0.5, torch.arange(100) + 0.5, indexing="ij")
    alpha = ((x - 40).square() + (y - 55).square() < 30**2).float()
    camera = framed(ball, alpha, triposr.input_camera(256))
    assert (camera.width, camera.height) == (100, 100)
    turn = torch.linspace(0, 2 * math.pi, 200)
    rim = torch.stack([0.1 + 0.3 * turn.cos(), -0.05 + 0.3 * turn.sin(), torch.zeros(200)], -1)
    pixels, _ = camera.project(rim)
    torch.testing.assert_close(pixels.amin(0), torch.tensor([10.0, 25.0]), atol=1.5, rtol=0)
    torch.testing.assert_close(pixels.amax(0), torch.tensor([70.0, 85.0]), atol=1.5, rtol=0)


def test_framing_leaves_the_camera_alone_where_nothing_is_solid():
    nothing = CallableField(lambda p: p.norm(dim=-1) + 1)
    camera = triposr.input_camera(64)
    torch.testing.assert_close(framed(nothing, torch.ones(64, 64), camera).intrinsics, camera.intrinsics)
