import json

import numpy as np
import pytest
import torch

from obverse.apps import cli
from obverse.apps.console import Console
from obverse.apps.train_zero123 import curves, pictures, reporter
from obverse.multiview.zero123 import load
from obverse.training import zero123 as training
from obverse.training.shards import shard_path

from ..training.smallest import SMALLEST, write_boxes

pytest.importorskip("diffusers")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_boxes(tmp_path_factory.mktemp("views"), views=2)


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setitem(training.SIZES, "tiny", SMALLEST)


def call(*words):
    with pytest.raises(SystemExit) as stop:
        cli.main(["train", "zero123", *(str(word) for word in words)])
    return stop.value.code


def start(data, output, *more):
    return call("--data", data, "-o", output, "--batch", 2, "--autoencoder-steps", 2, "--device", "cpu", *more)


@pytest.fixture(scope="module")
def finished(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(training.SIZES, "tiny", SMALLEST)
        assert start(data, folder, "--steps", 3, "--check-every", 2) == 0
    return folder


def test_the_command_leaves_a_model_curves_and_pictures(finished):
    model = load(finished / "model")
    assert model.sizes == SMALLEST and load(finished / "model.safetensors").sizes == SMALLEST
    rows = [json.loads(line) for line in (finished / "log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if "val_loss" in row] == [2]
    assert len(list((finished / "validation").glob("*.png"))) == 2  # at step 2, and at the end
    result = json.loads((finished / "result.json").read_text())
    assert result["steps"] == 3 and np.isfinite(result["val_loss"])
    began = json.loads((finished / "run.json").read_text())
    assert began["objects"] == 2  # of three, the last was held out


def test_other_settings_in_the_same_folder_are_refused(data, finished, capsys):
    assert start(data, finished, "--steps", 3, "--seed", 1) == 2
    assert "seed 0, now 1" in capsys.readouterr().err


def test_adapters_start_from_a_saved_model_and_are_added_in(data, finished, tmp_path):
    words = ("--init", finished / "model", "--lora", 2, "--steps", 2, "--rate", 1e-2, "--family", "zero123")
    assert start(data, tmp_path, *words) == 0
    before, after = (load(folder / "model") for folder in (finished, tmp_path))
    changed = [n for n, v in after.unet.state_dict().items() if not torch.equal(v, before.unet.state_dict()[n])]
    assert changed and all("attn" in name for name in changed)
    assert not (tmp_path / "autoencoder").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "give one of the two"),
        (("--steps", 1, "--minutes", 1), "give one of the two"),
        (("--steps", 1, "--lora", 4), "need a trained network"),
        (("--steps", 1, "--sizes", "huge"), "published, tiny"),
        (("--steps", 1, "--edges", "round"), "hard, soft"),
    ],
)
def test_what_cannot_be_meant_is_refused_before_anything_is_written(data, tmp_path, words, said, capsys):
    assert start(data, tmp_path / "run", *words) == 2
    assert said in capsys.readouterr().err and not (tmp_path / "run").exists()


def test_data_that_is_missing_or_damaged_is_named(data, tmp_path, capsys):
    assert start(tmp_path, tmp_path / "run", "--steps", 1) == 6
    assert "holds no shards" in capsys.readouterr().err
    whole = shard_path(data, 0).read_bytes()
    shard_path(tmp_path / "bad", 7).parent.mkdir()
    shard_path(tmp_path / "bad", 7).write_bytes(whole[:2000])
    assert start(tmp_path / "bad", tmp_path / "run", "--steps", 1) == 6
    assert "shard-000007.tar is a damaged shard" in capsys.readouterr().err


def test_tensorboard_finds_the_numbers_and_pictures_of_a_run(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    writer = curves(tmp_path, Console())
    report, show = reporter(writer, Console()), pictures(tmp_path, writer)
    report({"step": 20, "squared": 0.25, "seconds": 1.0})
    report({"step": 2, "loss": 0.5, "seconds": 3.0})
    show(np.full((4, 6, 3), 200, np.uint8), 0)
    found = EventAccumulator(str(tmp_path / "curves"))
    found.Reload()
    assert set(found.Tags()["scalars"]) == {"autoencoder/squared", "autoencoder/seconds", "loss", "seconds"}
    assert [(event.step, event.value) for event in found.Scalars("loss")] == [(2, 0.5)]
    (picture,) = found.Images("validation")
    assert (picture.width, picture.height) == (6, 4) and (tmp_path / "validation" / "0000.png").exists()
