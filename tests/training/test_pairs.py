import numpy as np
import pytest
import torch
import trimesh

from obverse.cameras import orbit
from obverse.errors import UsageError
from obverse.multiview.zero123_inputs import FOV_DEG, pose_embedding
from obverse.training.pairs import Pairs, batches, draw, kept, mirrored, on_white, relative_pose, varied
from obverse.training.shards import open_shards, shard_path, write_shard
from obverse.training.view_data import photograph_object


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("views")
    boxes = [trimesh.creation.box((1, 0.3 + 0.1 * i, 0.5)) for i in range(3)]
    views = [photograph_object(box, f"box{i}", views=4, size=16) for i, box in enumerate(boxes)]
    write_shard(shard_path(folder, 0), views, [])
    return Pairs(open_shards(folder), 16)


def test_objects_and_ordered_pairs_of_views_are_drawn_alike(pairs):
    drawn = draw(pairs, count=7200, latent_size=1, seed=0, number=0)
    assert (drawn.sources != drawn.targets).all()
    seen, counts = np.unique(np.stack([drawn.objects, drawn.sources, drawn.targets]), axis=1, return_counts=True)
    assert seen.shape[1] == 3 * 4 * 3
    assert counts.min() > 140 and counts.max() < 260  # 200 each, standard deviation 14


def test_timesteps_are_uniform_over_all_thousand(pairs):
    steps = draw(pairs, count=20_000, latent_size=1, seed=0, number=0).tensors["timesteps"]
    assert steps.min() == 0 and steps.max() == 999
    assert float(steps.double().mean()) == pytest.approx(499.5, abs=8)


def test_a_batch_depends_on_seed_and_number_only(pairs):
    first, again = (draw(pairs, count=5, latent_size=2, seed=3, number=9) for _ in range(2))
    assert all(torch.equal(first.tensors[key], again.tensors[key]) for key in first.tensors)
    assert not torch.equal(
        first.tensors["noise"], draw(pairs, count=5, latent_size=2, seed=3, number=8).tensors["noise"]
    )


def test_drop_outs_split_the_unit_interval_as_published():
    """p = 0.05: below 0.05 the embedding is lost, to 0.1 both, to 0.15 the latents, above nothing."""
    assert kept(np.array([0.0, 0.049, 0.051, 0.099, 0.101, 0.149, 0.151, 0.999])).tolist() == [
        [0, 1], [0, 1], [0, 0], [0, 0], [1, 0], [1, 0], [1, 1], [1, 1],
    ]  # fmt: skip


def test_each_kind_of_drop_out_happens_in_a_twentieth_of_the_pairs(pairs):
    keep = draw(pairs, count=20_000, latent_size=1, seed=1, number=0).tensors["keep"]
    embedding, latents = keep.bool().unbind(-1)
    for case in (~embedding & latents, ~embedding & ~latents, embedding & ~latents):
        assert float(case.double().mean()) == pytest.approx(0.05, abs=0.006)


def test_poses_are_those_of_the_model_for_the_same_cameras():
    source, target = (30.0, 20.0, 1.6), (100.0, -10.0, 2.0)
    camera = orbit(100.0, -10.0, distance=2.0, fov_deg=FOV_DEG)
    for family in ("zero123", "stable-zero123"):
        expected = pose_embedding(
            camera, source_elevation_deg=20.0, source_azimuth_deg=30.0, source_distance=1.6, family=family
        )
        assert torch.allclose(relative_pose(source, target, family=family), expected[0], atol=1e-5)


def test_a_mirrored_pair_turns_the_other_way():
    source, target = (30.0, 20.0, 1.6), (100.0, -10.0, 2.0)
    plain = relative_pose(source, target)
    turned = relative_pose(mirrored(source), mirrored(target))
    assert torch.allclose(turned, plain * torch.tensor([1.0, -1.0, 1.0, 1.0]), atol=1e-6)


def test_a_mirrored_camera_sees_the_mirrored_object():
    camera = (50.0, 10.0, 1.8)
    mesh = trimesh.creation.icosphere(subdivisions=3, radius=0.3)
    mesh.apply_translation([0.2, 0.1, 0.0])
    other = mesh.copy()
    other.apply_transform(np.diag([-1.0, 1.0, 1.0, 1.0]))
    from obverse.render.triangles import render_mesh

    images = [
        render_mesh(m, orbit(a, e, distance=d, fov_deg=FOV_DEG, size=32), shading="normals")[0, ..., 3].numpy()
        for m, (a, e, d) in ((mesh, camera), (other, mirrored(camera)))
    ]
    assert np.abs(varied(images[1][None], 1)[0] - images[0]).mean() < 0.01


def test_hard_edges_take_the_colour_in_full_and_soft_edges_blend():
    rgba = np.zeros((2, 2, 4), np.uint8)
    rgba[0, 0], rgba[0, 1] = (255, 0, 0, 255), (255, 0, 0, 51)
    hard, soft = (on_white(rgba, 2, edges=edges) for edges in ("hard", "soft"))
    assert hard[:, 0, 1].tolist() == [1, -1, -1] and hard[:, 1, 0].tolist() == [1, 1, 1]
    assert soft[:, 0, 1] == pytest.approx([1, 0.6, 0.6])
    with pytest.raises(UsageError, match="hard"):
        on_white(rgba, 2, edges="round")


def test_pictures_are_scaled_to_the_network():
    assert on_white(np.full((32, 32, 4), 255, np.uint8), 8).shape == (3, 8, 8)


def test_a_batch_holds_pictures_and_what_belongs_to_them(pairs):
    batch = batches(pairs, size=3, latent_size=2, seed=0)(4)
    drawn = draw(pairs, count=3, latent_size=2, seed=0, number=4)
    assert batch["source"].shape == batch["target"].shape == (3, 3, 16, 16) and batch["pose"].shape == (3, 4)
    number, source, target = (int(values[1]) for values in (drawn.objects, drawn.sources, drawn.targets))
    assert np.array_equal(batch["source"][1].numpy(), pairs.picture(number, source))
    assert torch.equal(batch["pose"][1], pairs.pose(number, source, target))


def test_augmented_pairs_share_mirroring_and_colours(pairs):
    wide = Pairs(pairs.views, 16, augment=True)
    assert wide.variants(0) == (0, 3) and wide.variants(1) == (0, 5)
    drawn = draw(wide, count=400, latent_size=1, seed=0, number=0)
    assert set(drawn.variants.tolist()) == {0, 3, 5}
    assert 150 < (drawn.variants == 0).sum() < 250
    plain, other = pairs.picture(0, 1), wide.picture(0, 1, 3)
    assert np.array_equal(other, np.roll(plain[..., ::-1], 1, axis=0))
