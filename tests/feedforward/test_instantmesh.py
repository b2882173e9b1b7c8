"""Against the published code: tests/parity/instantmesh was made by running it (keys*.json: checkpoints' layouts)."""

import json
from dataclasses import replace

import pytest
import torch

from obverse.cameras import Cameras, Views, orbit
from obverse.errors import InputError, WeightsError
from obverse.feedforward import dino, instantmesh, lrm
from obverse.formats.datasets import write_transforms
from obverse.render.fields import Field, FlexiField, SampledOnGrids
from obverse.render.triangles import render_mesh
from obverse.surface import flexicubes as fc
from obverse.weights import KNOWN, family_of

from ..lifting.scenes import RADIUS, ball_mesh
from ..parity.cases import read_case, read_keys, same
from ..parity.drawn import draw_all
from ..parity.meshes import same_mesh
from .shaped import SMALL, command, instantmesh_ball

NERF = instantmesh.Config(
    "nerf",
    image_size=48,
    encoder=dino.Dino(width=48, layers=2, heads=3, hidden=96, patch=8, stored_size=32),
    plane_size=6,
    width=32,
    heads=4,
    layers=2,
    features=8,
    samples=16,
    cells=8,
)
MESH = replace(NERF, kind="mesh")
LISTS = ("keys", "keys_instant_mesh_base", "keys_instant_nerf_large", "keys_instant_nerf_base")
KEYS = dict(zip(instantmesh.FILES, LISTS, strict=True))
THEIRS, WORLD = instantmesh.THEIRS, instantmesh.WORLD


def meta(config):
    with torch.device("meta"):
        return instantmesh.InstantMesh(config)


def drawn_state(config):
    """Drawn weights in the published layout, by the keys without their prefix, and what else such files hold."""
    layout = instantmesh.layout(meta(config))
    bare = draw_all({key.removeprefix(instantmesh.PREFIX): shape for key, shape in layout.items()})
    return {instantmesh.PREFIX + key: value for key, value in bare.items()} | {"lpips.net.0.weight": torch.ones(2)}


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny")
    for config, name in ((NERF, "instant_nerf_base.ckpt"), (MESH, "instant_mesh_base.ckpt")):
        torch.save({"state_dict": drawn_state(config), "epoch": 1}, folder / name)
    return folder


@pytest.fixture(scope="module")
def nerf(checkpoints):
    return instantmesh.load(checkpoints / "instant_nerf_base.ckpt", config=NERF)


@pytest.fixture(scope="module")
def mesh(checkpoints):
    return instantmesh.load(checkpoints / "instant_mesh_base.ckpt", config=MESH)


@pytest.fixture(scope="module")
def case():
    return read_case("instantmesh", "tiny_nerf")


@pytest.fixture(scope="module")
def mesh_case():
    return read_case("instantmesh", "tiny_mesh")


@pytest.fixture(scope="module")
def views(case):
    return Views(case["images"][0].movedim(1, -1), instantmesh.rig(48))


@pytest.mark.parametrize("name", instantmesh.PUBLISHED)
def test_the_published_key_lists_load_strictly_and_are_recognised(name):
    keys = read_keys("instantmesh", KEYS[name])
    config = instantmesh.PUBLISHED[name]
    network = meta(config)
    assert {key: list(shape) for key, shape in instantmesh.layout(network).items()} == keys["keys"]
    assert family_of(keys["keys"]) == f"InstantMesh, {instantmesh.FAMILIES[config.kind]}"
    tensors = {key: torch.empty(shape, device="meta") for key, shape in keys["keys"].items()}
    instantmesh.assign(network, tensors, source=name, device="meta")
    assert instantmesh.recognised(tensors) == config
    model = keys["config"]
    assert (config.heads, config.samples) == (model["transformer_heads"], model["rendering_samples_per_ray"])
    assert config.kind == "nerf" or (config.cells, config.grid_scale) == (model["grid_res"], model["grid_scale"])


def test_the_table_of_weights_names_the_default_file():
    assert KNOWN["instantmesh"].files == instantmesh.FILES[:1]
    assert KNOWN["instantmesh"].megabytes == round(378_657_644 * 4 / 1e6)


def test_the_rig_is_described_as_published(case):
    same(instantmesh.described(instantmesh.rig(48)), case["cameras"][0])


def test_the_encoder_and_the_planes_are_the_published_ones(nerf, case):
    with torch.no_grad():
        same(nerf.encoder(case["images"][0], case["cameras"][0]), case["image_feats"], atol=2e-5)
        same(nerf(case["images"], case["cameras"]), case["planes"], atol=2e-5)


def test_views_become_the_published_planes_in_any_order_and_at_any_scale(nerf, mesh, case, mesh_case, views):
    same(instantmesh.reconstruct(nerf, views).planes, case["planes"][0], atol=2e-5)
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    big = views.cameras.world_to_camera[order].clone()
    big[:, :3, 3] *= 2.5
    other = Views(views.images[order], replace(views.cameras, world_to_camera=big))
    found = instantmesh.reconstruct(mesh, other)
    same(found.planes, mesh_case["planes"][0], atol=2e-5)
    assert found.radius == pytest.approx(2.5) and found.bounds[1][0] == pytest.approx(2.5 * 1.05)


def test_density_and_colour_at_points_are_the_published_ones(nerf, case):
    field = nerf.field(case["planes"][0])
    points = case["points"][0][:, WORLD]
    assert (points.abs() > 1).any() and isinstance(field, Field) and field.level == pytest.approx(10.0)
    line = torch.linspace(-1, 1, 7)
    with torch.no_grad():
        same(field.density_or_sdf(points), case["point_sigma"][0, :, 0])
        same(field.color(points), case["point_rgb"][0].clamp(0, 1))
        grid = field.density_or_sdf(torch.cartesian_prod(line, line, line)[:, WORLD])
    same(grid.reshape(7, 7, 7), case["grid_sigma"][0])


def test_its_images_are_the_published_ones(nerf, case):
    cameras = orbit([0, 90], 20, distance=instantmesh.DISTANCE, fov_deg=instantmesh.FOV_DEG, size=8)
    jitter = case["u_coarse"].reshape(128, 8), case["u_fine"] * 8 - torch.arange(8)  # theirs lie anywhere in 0–1
    field = nerf.field(case["planes"][0])
    with torch.no_grad():
        color, alpha, distance = lrm.render(field, cameras, samples=16, jitter=jitter)
    same(color.movedim(-1, 1), case["images_rgb"][0])
    same(alpha, case["images_weight"][0, :, 0])
    # Theirs is not divided by alpha, and then clamped to the samples' range; where all are faint its low end is left.
    low = float(case["images_depth"].min())
    same((alpha * distance).clamp_min(low), case["images_depth"][0, :, 0], atol=1e-4)


def test_a_larger_frame_changes_only_the_scale_of_its_images(nerf, case):
    small, large = nerf.field(case["planes"][0]), nerf.field(case["planes"][0], radius=3.0)
    near, far = (orbit(40, 10, distance=d, fov_deg=30, size=6) for d in (4.0, 12.0))
    with torch.no_grad():
        one, two = lrm.render(small, near, samples=8), lrm.render(large, far, samples=8)
    same(one[0], two[0]), same(one[1], two[1]), same(3 * one[2], two[2], atol=1e-4)
    assert large.level == pytest.approx(10 / 3)  # per object unit


def test_a_mesh_network_is_read_on_its_grid_as_published(mesh, mesh_case):
    field = mesh.field(mesh_case["planes"][0])
    assert isinstance(field, FlexiField) and isinstance(field, SampledOnGrids)
    theirs = torch.cartesian_prod(*[torch.arange(9)] * 3)
    low, step, shape = field._grid
    with torch.no_grad():
        same(field.density_or_sdf(mesh_case["grid_vertices"][:, WORLD]), mesh_case["sdf_raw"][0, :, 0])
        same(-field.on_grid(low, step, shape)(theirs[:, WORLD]), mesh_case["sdf"][0, :, 0])
        same(field.offsets(theirs[:, WORLD])[:, THEIRS], mesh_case["deformation"][0], atol=1e-6)
        lowest = theirs[(theirs < 8).all(1)]
        same(field.cube_weights(lowest[:, WORLD]), mesh_case["weight"][0])
        same(field.color(mesh_case["points"][0][:, WORLD]), mesh_case["point_rgb"][0].clamp(0, 1))


def test_the_mesh_and_its_colours_are_the_published_ones(mesh, mesh_case):
    field = mesh.field(mesh_case["planes"][0])
    theirs = torch.cartesian_prod(*[torch.arange(9)] * 3)
    lowest = theirs[(theirs < 8).all(1)]
    cubes = (lowest[:, None] + torch.tensor(fc.CORNERS)) @ torch.tensor([81, 9, 1])
    assert torch.equal(cubes, mesh_case["grid_cubes"].long())
    low, step, shape = field._grid
    with torch.no_grad():
        values = -field.on_grid(low, step, shape)(theirs[:, WORLD])
        points = torch.tensor(low) + step * theirs + field.offsets(theirs[:, WORLD])[:, THEIRS]
        weights = fc.activated(field.cube_weights(lowest[:, WORLD]))
        vertices, faces = fc.flexicubes(points, values, cubes, weights=weights)
        colors = field.color(mesh_case["vertices"][:, WORLD])
    same_mesh(vertices, faces, mesh_case["vertices"], mesh_case["faces"], atol=1e-5)
    same((colors * 255).floor(), mesh_case["vertex_colors_u8"].float(), atol=1)  # truncated: rounding may tip one


def test_bfloat16_stays_near_and_keeps_the_heads_exact(checkpoints, mesh_case, views):
    network = instantmesh.load(checkpoints / "instant_mesh_base.ckpt", config=MESH, dtype=torch.bfloat16)
    assert network.encoder.layers[0].attn.to_q.weight.dtype == torch.bfloat16
    assert network.decoder["net_sdf"][0].weight.dtype == network.blocks[0].norm1.weight.dtype == torch.float32
    planes = instantmesh.reconstruct(network, views).planes
    error = (planes - mesh_case["planes"][0]).abs()
    assert planes.dtype == torch.float32 and 0 < error.mean() < 0.02 * mesh_case["planes"].abs().mean()


def test_a_folder_gives_the_larger_mesh_network_first(checkpoints, monkeypatch):
    monkeypatch.setattr(instantmesh, "PUBLISHED", {"instant_mesh_base.ckpt": MESH, "instant_nerf_base.ckpt": NERF})
    assert instantmesh.load(checkpoints).config == MESH
    assert instantmesh.load(checkpoints / "instant_nerf_base.ckpt").config == NERF


@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_a_folder_of_six_views_becomes_an_asset(tmp_path, monkeypatch, scale):
    config = replace(MESH, image_size=32, plane_size=16, width=16, heads=2, layers=1, features=4, hidden=8, cells=24)
    monkeypatch.setattr(instantmesh, "PUBLISHED", {"tiny.ckpt": config})
    torch.save(instantmesh_ball(config, radius=RADIUS), tmp_path / "tiny.ckpt")
    cameras = instantmesh.rig(64)
    cameras.world_to_camera[:, :3, 3] *= scale
    images = render_mesh(ball_mesh(radius=RADIUS * scale), cameras, background=None, shading="unlit")
    write_transforms(Views(images, cameras), tmp_path / "views")
    options = ["--to", "instantmesh", "--weights", tmp_path / "tiny.ckpt", "-o", tmp_path / "out", *SMALL]
    command("fit", tmp_path / "views", *options, "--formats", "glb")
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["mesh"]["watertight"]["ok"] and report["photo_agreement"]["silhouette_iou"] > 0.95
    assert report["fit"]["to"] == "instantmesh" and report["fit"]["recipe"]["kind"] == "mesh"
    assert "InstantMesh" in report["method"]["source"] and report["method"]["weights_licence"] == "unverified"
    assert any("InstantMesh's prediction" in sentence for sentence in report["guessed"])
    assert report["views"]["psnr_db"] > 8  # colours are drawn, the outline is the ball's


def test_other_weights_are_refused_with_the_family_they_resemble(tmp_path, checkpoints):
    keys = ["tokenizer.embeddings", "backbone.transformer_blocks.0.norm1.weight", "post_processor.upsample.weight"]
    torch.save({key: torch.zeros(2, 2) for key in keys}, tmp_path / "other.ckpt")
    with pytest.raises(WeightsError, match=r"519 of 519 keys missing.*3 unexpected.*looks like .*TripoSR"):
        instantmesh.load(tmp_path / "other.ckpt")
    with pytest.raises(WeightsError, match=r"as InstantMesh, mesh: .*keys missing.*InstantMesh, mesh of another size"):
        instantmesh.load(checkpoints / "instant_mesh_base.ckpt")
    with pytest.raises(WeightsError, match=r"as InstantMesh, mesh: .*looks like a checkpoint of InstantMesh, NeRF"):
        instantmesh.load(checkpoints / "instant_nerf_base.ckpt", config=MESH)


def test_pictures_are_laid_on_white_and_resized():
    image = torch.tensor([0.0, 1.0, 0.0, 0.25]).expand(2, 8, 8, 4)
    same(instantmesh.on_white(image, 4), torch.tensor([0.75, 1.0, 0.75])[:, None, None].expand(2, 3, 4, 4))


def test_a_sheet_of_views_is_read_row_by_row():
    sheet = torch.arange(6.0).reshape(3, 2).repeat_interleave(4, 0).repeat_interleave(4, 1)[..., None].expand(12, 8, 3)
    views = instantmesh.of_sheet(sheet)
    assert views.images.shape == (6, 4, 4, 3) and views.images[:, 0, 0, 0].tolist() == [0, 1, 2, 3, 4, 5]
    assert all((image == image[0, 0]).all() for image in views.images)
    azimuth = torch.atan2(views.cameras.positions[:, 0], views.cameras.positions[:, 2]).rad2deg() % 360
    same(azimuth, torch.tensor(instantmesh.AZIMUTHS_DEG), atol=1e-3)
    with pytest.raises(InputError, match=r"the sheet is \[8, 12, 3\]"):
        instantmesh.of_sheet(sheet.movedim(0, 1))


def test_other_than_square_views_around_an_object_are_refused(nerf, views):
    with pytest.raises(InputError, match=r"images \[6, 48, 40, 3\] and 6 cameras; it takes square views"):
        instantmesh.reconstruct(nerf, Views(views.images[:, :, :40], views.cameras))
    inside = Cameras(torch.eye(4).expand(6, 4, 4), views.cameras.intrinsics, 48, 48)
    with pytest.raises(InputError, match="all at the origin"):
        instantmesh.reconstruct(nerf, Views(views.images, inside))
    with pytest.raises(InputError, match="of kind 'sdf'"):
        lrm.render(replace(nerf.field(torch.zeros(3, 8, 12, 12)), kind="sdf"), views.cameras)
