import numpy as np
import pytest
import torch
import trimesh

from obverse.errors import InputError
from obverse.feedforward.embedded import Network, Prediction
from obverse.training.embedded import batches, collect, gather, loss, prepare, sample_colors, validation


def block(color):
    mesh = trimesh.creation.box((0.5, 1.0, 0.7))
    mesh.visual.vertex_colors = np.tile(np.array([*color, 255], np.uint8), (len(mesh.vertices), 1))
    return mesh


@pytest.fixture(scope="module")
def collection(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photographs")
    paths = [
        prepare(lambda: block((200, 40, 40)), "red", folder, views=5),
        prepare(lambda: block((40, 40, 200)), "blue", folder, views=3),
    ]
    return collect(paths, [3.0, 1.0])


def test_prepared_photographs_are_not_taken_again(tmp_path):
    path = prepare(lambda: block((9, 9, 9)), "one", tmp_path, views=1)
    before = path.stat().st_mtime_ns

    def forbidden():
        raise AssertionError

    assert prepare(forbidden, "one", tmp_path, views=1).stat().st_mtime_ns == before
    assert [p.name for p in tmp_path.iterdir()] == ["one.npz"]


def test_objects_are_drawn_by_their_shares(collection):
    assert len(collection) == 8
    assert collection.shares.tolist() == [0.75, 0.25]
    assert collection.starts.tolist() == [0, 5, 8]


def test_a_step_gives_the_same_batch_whenever_it_is_asked_for(collection):
    batch = batches(collection, size=4, seed=1)
    for name, value in batch(3).items():
        torch.testing.assert_close(batch(3)[name], value, rtol=0, atol=0, equal_nan=True)
    assert not torch.equal(batch(3)["photo"], batch(4)["photo"])


def test_photo_cells_and_points_are_mirrored_together(collection):
    rows = np.arange(8)
    for seed in range(3):
        given = gather(collection, rows, np.random.default_rng(seed))
        full = given["occupancy"].amax(1).bool()
        alpha = torch.nn.functional.avg_pool2d(given["photo"][:, 3:4], 2)[:, 0]
        assert full[alpha > 0.9].float().mean() > 0.99 and full[alpha < 0.1].float().mean() < 0.01
        cells = ((given["points"] + 1) / 2 * 64).long().clamp(0, 63)
        near = torch.nn.functional.max_pool3d(given["occupancy"].float()[:, None], 3, 1, 1)[:, 0]
        hit = near[torch.arange(8)[:, None], cells[..., 2], cells[..., 1], cells[..., 0]]
        assert hit.mean() > 0.97


def test_recolouring_changes_photo_and_answer_alike(collection):
    given = gather(collection, np.zeros(6, int), np.random.default_rng(0))
    photo = (given["photo"][:, :3] + 1) / 2
    solid = given["photo"][:, 3:4] > 0.99
    seen = [p[:, s[0]].mean(1) for p, s in zip(photo, solid, strict=True)]
    for mine, answer in zip(seen, given["colors"], strict=True):
        assert (mine - answer.mean(0)).abs().max() < 0.25
    assert torch.stack(seen).std(0).max() > 0.1


class Oracle(torch.nn.Module):
    """Answers what it is told."""

    def __init__(self, batch, certainty=8.0):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.answer = Prediction(
            certainty * (2 * batch["occupancy"].float() - 1),
            batch["colors"].mean((0, 1))[None, :, None, None, None].expand(len(batch["photo"]), 3, 2, 64, 64),
            batch["elevation_deg"].nan_to_num(),
        )

    def forward(self, photo):
        return self.answer


def test_the_loss_is_small_for_the_truth_and_large_for_its_opposite(collection):
    batch = gather(collection, np.arange(4), None)
    truth, opposite = loss(Oracle(batch), batch), loss(Oracle(batch, -8.0), batch)
    assert truth["cells"] < 0.001 and truth["dice"] < 0.01 and truth["tilt"] == 0
    assert opposite["cells"] > 5 and opposite["dice"] > 0.9


def test_a_thin_column_counts_as_much_as_a_thick_one_where_columns_are_taken_apart(collection):
    batch = dict(gather(collection, np.arange(1), None))
    cells = torch.zeros(1, 64, 64, 64, dtype=batch["occupancy"].dtype)
    cells[0, 10:50, 10:20], cells[0, 30:32, 40:50] = 1, 1  # a thick slab and a thin one of as many columns
    batch["occupancy"] = cells
    wrong_thin, wrong_thick = (Oracle(batch) for _ in range(2))
    wrong_thin.answer.occupancy[0, :, 40:50] = -8
    wrong_thick.answer.occupancy[0, :, 10:20] = -8
    thin, thick = loss(wrong_thin, batch), loss(wrong_thick, batch)
    assert float(thin["columns"]) == pytest.approx(float(thick["columns"]), abs=0.01)
    assert float(thin["columns"]) == pytest.approx(0.5, abs=0.01)
    assert thin["dice"] < 0.1 * thick["dice"]


def test_an_unknown_elevation_is_not_learnt(collection):
    batch = dict(gather(collection, np.arange(4), None))
    batch["elevation_deg"] = torch.full((4,), float("nan"))
    assert loss(Oracle(batch), batch)["tilt"] == 0


def test_colours_are_looked_up_right_down_and_away():
    volume = torch.zeros(1, 3, 4, 8, 8)
    volume[0, 0, 3, 2, 6] = 1.0
    place = torch.tensor([[[2 * 6.5 / 8 - 1, 2 * 2.5 / 8 - 1, 2 * 3.5 / 4 - 1]]])
    assert sample_colors(volume, place)[0, 0].tolist() == pytest.approx([1.0, 0, 0], abs=1e-5)


def test_one_step_of_the_network_has_a_finite_gradient_everywhere(collection):
    torch.manual_seed(0)
    network = Network()
    loss(network, gather(collection, np.arange(2), None))["loss"].backward()
    assert [name for name, p in network.named_parameters() if p.grad is None or not p.grad.isfinite().all()] == []


def test_validation_of_the_truth_is_perfect(collection):
    measure = validation(collection, count=2, size=2)
    rng = np.random.default_rng(0)
    rows = rng.integers(collection.starts[np.arange(2)], collection.starts[np.arange(2) + 1])
    found = measure(Oracle(gather(collection, rows, None)))
    assert found["val_iou"] == 1 and found["val_elevation_deg"] == 0


@pytest.fixture
def files(tmp_path):
    rng = np.random.default_rng(0)
    paths = []
    for number, count in enumerate((2, 3)):
        paths.append(tmp_path / f"{number}.npz")
        np.savez(
            paths[-1],
            rgba=rng.integers(0, 256, (count, 8, 8, 4), np.uint8),
            occupancy=rng.integers(0, 256, (count, 4, 4, 1), np.uint8),
            points=rng.random((count, 5, 3)).astype(np.float16),
            colors=rng.integers(0, 256, (count, 5, 3), np.uint8),
            elevation_deg=rng.random(count).astype(np.float32),
        )
    return paths


def test_photographs_that_processes_share_are_those_each_would_hold(files, tmp_path):
    own, shared = collect(files, [1.0, 3.0]), collect(files, [1.0, 3.0], shared=tmp_path / "shared")
    assert all(isinstance(array, np.memmap) for array in shared.arrays.values())
    for field, array in own.arrays.items():
        assert array.dtype == shared.arrays[field].dtype and np.array_equal(array, shared.arrays[field])
    assert np.array_equal(own.starts, shared.starts) and np.array_equal(own.shares, shared.shares)


def test_shared_photographs_are_written_by_the_first_who_finds_them_missing_or_of_other_files(files, tmp_path):
    folder = tmp_path / "shared"
    collect(files, [1.0, 1.0], shared=folder)
    kept = np.load(folder / "rgba.npy")
    np.save(folder / "rgba.npy", 255 - kept)
    assert np.array_equal(collect(files, [1.0, 1.0], shared=folder).arrays["rgba"], 255 - kept)
    assert np.array_equal(collect(files[1:], [1.0], shared=folder).arrays["rgba"], kept[2:])
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == ["shared"]


def test_nothing_to_learn_from_is_said():
    with pytest.raises(InputError, match="prepare some objects"):
        collect([], [])


def test_photographs_are_taken_again_when_their_number_differs_or_the_file_is_damaged(tmp_path):
    (tmp_path / "one.npz").write_bytes(b"PK\x03\x04 cut short")
    for views in (2, 1):
        with np.load(prepare(lambda: block((9, 9, 9)), "one", tmp_path, views=views)) as stored:
            assert len(stored["rgba"]) == views
