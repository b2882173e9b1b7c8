"""Files: every layout the weights come in gives the same network, and nothing is taken silently."""

import json
import pickle
import sys
import types
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from obverse.errors import OutputError, UsageError, WeightsError
from obverse.multiview import zero123 as z
from obverse.multiview import zero123_layouts as layouts
from obverse.weights import KNOWN, resolve

from .test_zero123 import TINY

pytest.importorskip("diffusers")
pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def model():
    return z.build(TINY, seed=3)


@pytest.fixture(scope="module")
def tensors(model):
    return {key: value.contiguous() for key, value in layouts.to_original(model).items()}


def alike(a, b):
    left, right = a.state_dict(), b.state_dict()
    return left.keys() == right.keys() and all(torch.equal(left[key], right[key]) for key in left)


def averaged(tensors, factor=2.0):
    return {layouts.ema_name(key): factor * value for key, value in tensors.items() if key.startswith(layouts.UNET)}


def lightning(path, tensors, **rest):
    """A checkpoint as the published ones are: spare tensors, an optimiser, and a class of the trainer as a key."""
    spare = {
        "betas": torch.zeros(1000),
        "cond_stage_model.model.logit_scale": torch.tensor(1.0),
        "cond_stage_model.model.positional_embedding": torch.zeros(8, 16),
        "model_ema.decay": torch.tensor(0.9999),
        "model_ema.num_updates": torch.tensor(5),
    }
    torch.save({"state_dict": {**tensors, **spare}, "global_step": 105000, **rest}, path)
    return path


def test_the_original_checkpoint_its_safetensors_and_both_folders_are_the_same_network(model, tensors, tmp_path):
    save_file(tensors, tmp_path / "zero123-xl.safetensors")
    sources = [
        lightning(tmp_path / "105000.ckpt", tensors),
        tmp_path / "zero123-xl.safetensors",
        z.save(model, tmp_path / "zero123-xl"),
        z.save(model, tmp_path / "zero123-xl-diffusers", projection="clip_camera_projection"),
        z.save_checkpoint(model, tmp_path / "mine.ckpt"),
        z.save_checkpoint(model, tmp_path / "mine.safetensors"),
    ]
    for source in sources:
        loaded = z.load(source, sizes=TINY)
        assert alike(loaded, model) and loaded.family == "zero123", source
        assert not any(p.requires_grad for p in loaded.parameters()) and not loaded.training
    keys = load_file(tmp_path / "zero123-xl-diffusers/clip_camera_projection/diffusion_pytorch_model.safetensors")
    assert set(keys) == {"proj.weight", "proj.bias"}


def test_what_was_saved_here_knows_its_sizes_and_family(tmp_path):
    stable = z.build(TINY, family="stable-zero123", seed=4)
    for path in (
        z.save_checkpoint(stable, tmp_path / "a.ckpt"),
        z.save_checkpoint(stable, tmp_path / "b.safetensors"),
        z.save(stable, tmp_path / "folder"),
    ):
        loaded = z.load(path)
        assert loaded.sizes == TINY and loaded.family == "stable-zero123" and "by its own words" in loaded.loaded
        with pytest.raises(WeightsError, match="is stable-zero123 by its own words, and zero123 was asked for"):
            z.load(path, family="zero123")


def test_averaged_weights_are_taken_if_all_are_there_and_it_is_said(tensors, tmp_path):
    whole = z.load(lightning(tmp_path / "105000.ckpt", {**tensors, **averaged(tensors)}), sizes=TINY)
    assert "averaged weights (EMA)" in whole.loaded
    assert torch.equal(whole.unet.conv_in.bias, 2 * tensors["model.diffusion_model.input_blocks.0.0.bias"])
    assert torch.equal(whole.unet.conv_out.weight, 2 * tensors["model.diffusion_model.out.2.weight"])
    assert torch.equal(whole.projection.weight, tensors["cc_projection.weight"])

    plain = z.load(lightning(tmp_path / "165000.ckpt", tensors), sizes=TINY)
    assert "not averaged: it holds no averaged ones" in plain.loaded
    part = averaged(tensors)
    part.popitem()
    some = z.load(lightning(tmp_path / "230000.ckpt", {**tensors, **part}), sizes=TINY)
    assert f"not averaged: only {len(part)} of {len(part) + 1} averaged ones are there" in some.loaded
    assert torch.equal(some.unet.conv_in.weight, tensors["model.diffusion_model.input_blocks.0.0.weight"])


def test_averaged_weights_of_another_shape_are_an_error(tensors, tmp_path):
    wrong = averaged(tensors)
    wrong["model_ema.diffusion_modelout2bias"] = torch.zeros(3)
    with pytest.raises(WeightsError, match=r"1 of another shape, first 'model_ema\.diffusion_modelout2bias' \[3\]"):
        z.load(lightning(tmp_path / "105000.ckpt", {**tensors, **wrong}), sizes=TINY)


def test_a_missing_an_unknown_and_a_misshapen_key_are_named(tensors, tmp_path):
    bad = dict(tensors)
    bad["cc_projection.bias"] = torch.zeros(5)
    bad["model.diffusion_model.extra"] = bad.pop("model.diffusion_model.out.2.bias")
    with pytest.raises(WeightsError) as caught:
        z.load(lightning(tmp_path / "105000.ckpt", bad), sizes=TINY)
    for words in ("'model.diffusion_model.out.2.bias'", "'model.diffusion_model.extra'", "'cc_projection.bias' [5]"):
        assert words in str(caught.value)


def test_a_file_of_another_size_is_refused_as_not_the_published_one(tensors, tmp_path):
    with pytest.raises(WeightsError, match="this looks like Zero-1-to-3 of another size"):
        z.load(lightning(tmp_path / "105000.ckpt", tensors))


def test_the_family_is_told_by_names_and_never_guessed(tensors, tmp_path):
    for name, family in (
        ("300000.ckpt", "zero123"),
        ("zero123-xl.ckpt", "zero123"),
        ("stable_zero123.ckpt", "stable-zero123"),
        ("stable-zero123.ckpt", "stable-zero123"),
    ):
        loaded = z.load(lightning(tmp_path / name, tensors), sizes=TINY)
        assert loaded.family == family and f"{family} by its name" in loaded.loaded
    nameless = lightning(tmp_path / "model.ckpt", tensors)
    with pytest.raises(WeightsError, match=r"no name that tells which it is; pass family='zero123'"):
        z.load(nameless, sizes=TINY)
    assert "as asked for" in z.load(nameless, family="stable-zero123", sizes=TINY).loaded
    with pytest.raises(WeightsError, match="rename the file"):
        z.load(tmp_path / "stable_zero123.ckpt", family="zero123", sizes=TINY)
    with pytest.raises(UsageError, match="family is 'xl'"):
        z.load(nameless, family="xl", sizes=TINY)
    named = tmp_path / "stable-zero123"
    named.mkdir()
    assert z.load(lightning(named / "model.ckpt", tensors), sizes=TINY).family == "stable-zero123"
    assert layouts._family_by_name("sudo-ai/zero123plus-v1.1") is None


def test_betas_written_into_a_folder_are_not_believed(model, tmp_path):
    folder = z.save(model, tmp_path / "zero123-xl")
    config = folder / "scheduler" / "scheduler_config.json"
    said = json.loads(config.read_text())
    assert (said["beta_start"], said["beta_end"]) == (0.00085, 0.012)
    config.write_text(json.dumps({**said, "beta_start": 0.02, "beta_end": 0.085}))
    assert torch.equal(z.load(folder).alphas_cumprod, z.alphas_cumprod())


def test_folders_of_older_releases_are_read(model, tmp_path):
    folder = z.save(model, tmp_path / "zero123-xl")
    for part in ("unet", "vae", "image_encoder"):
        path = next((folder / part).glob("*.safetensors"))
        state = load_file(path)
        if part == "vae":
            for new, old in (("to_q", "query"), ("to_k", "key"), ("to_v", "value"), ("to_out.0", "proj_attn")):
                state = {key.replace(f"attentions.0.{new}.", f"attentions.0.{old}."): v for key, v in state.items()}
            assert any(".proj_attn." in key for key in state)
        if part == "image_encoder":
            state["vision_model.embeddings.position_ids"] = torch.arange(5)[None]
        name = "pytorch_model.bin" if part == "image_encoder" else "diffusion_pytorch_model.bin"
        torch.save(state, folder / part / name)
        path.unlink()
    assert alike(z.load(folder), model)


def test_whole_precision_is_preferred_and_an_average_is_known_by_its_files_name(model, tmp_path):
    folder = z.save(model, tmp_path / "zero123-xl")
    plain = folder / "unet" / "diffusion_pytorch_model.safetensors"
    halved = {key: value.half() for key, value in load_file(plain).items()}
    save_file(halved, folder / "unet" / "diffusion_pytorch_model.fp16_ema.safetensors")
    assert "does not say" in z.load(folder).loaded
    plain.unlink()
    loaded = z.load(folder)
    assert "averaged weights (EMA)" in loaded.loaded and loaded.unet.dtype == torch.float32
    torch.testing.assert_close(loaded.unet.conv_in.weight, model.unet.conv_in.weight, atol=1e-3, rtol=0)


def test_a_folder_lacking_a_part_says_which_files_it_needs(model, tmp_path):
    folder = z.save(model, tmp_path / "zero123-xl")
    next((folder / "vae").glob("*.safetensors")).unlink()
    with pytest.raises(WeightsError, match=r"holds none of vae/diffusion_pytorch_model\.safetensors"):
        z.load(folder)


def test_precision_is_that_asked_for_throughout(tensors, tmp_path):
    loaded = z.load(lightning(tmp_path / "105000.ckpt", tensors), sizes=TINY, dtype=torch.bfloat16)
    assert {p.dtype for p in loaded.parameters()} == {torch.bfloat16}
    assert loaded.image_encoder.vision_model.embeddings.position_ids.tolist() == [[0, 1, 2, 3, 4]]


def test_classes_of_the_trainer_in_a_published_pickle_do_not_stop_it_and_are_not_run(model, tensors, tmp_path):
    """The published files were written by Lightning 1.4, which used the classes of its callbacks as keys."""
    trainer = types.ModuleType("pytorch_lightning.callbacks.model_checkpoint")
    trainer.ModelCheckpoint = type("ModelCheckpoint", (), {"__module__": trainer.__name__})
    parents = [types.ModuleType(name) for name in ("pytorch_lightning", "pytorch_lightning.callbacks")]
    modules = {m.__name__: m for m in (*parents, trainer)}
    sys.modules.update(modules)
    try:
        state = {trainer.ModelCheckpoint: {"best_model_score": 1.0}}
        path = lightning(tmp_path / "105000.ckpt", tensors, callbacks=state)
    finally:
        for name in modules:
            del sys.modules[name]
    assert alike(z.load(path, sizes=TINY), model)

    class Evil:
        def __reduce__(self):
            return (print, ("run",))

    with pytest.raises(WeightsError, match="could run its code"):
        z.load(lightning(tmp_path / "165000.ckpt", tensors, callbacks=Evil()), sizes=TINY)
    with open(tmp_path / "230000.ckpt", "wb") as file:
        pickle.dump({"state_dict": {}}, file)
    with pytest.raises(WeightsError):
        z.load(tmp_path / "230000.ckpt", sizes=TINY)


def test_a_local_file_needs_no_network(tensors, tmp_path, monkeypatch):
    path = lightning(tmp_path / "105000.ckpt", tensors)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    monkeypatch.setattr("socket.socket", lambda *_, **__: pytest.fail("the network was touched"))
    assert z.load(path, sizes=TINY).family == "zero123"


def test_a_hub_id_is_resolved_file_by_file(model, tmp_path, monkeypatch):
    folder = z.save(model, tmp_path / "kxic" / "zero123-xl")
    asked = []

    def from_hub(source, names, *, download=True):
        asked.append((str(source), download))
        return resolve(folder, names)

    monkeypatch.setattr(layouts, "resolve", from_hub)
    loaded = z.load("kxic/zero123-xl", download=False)
    assert alike(loaded, model) and loaded.family == "zero123"
    assert asked == [("kxic/zero123-xl", False)] * 5  # the index and four parts


def test_nothing_is_written_over_or_half(model, tmp_path):
    folder = z.save(model, tmp_path / "zero123")
    with pytest.raises(OutputError, match="is not empty"):
        z.save(model, folder)
    with pytest.raises(WeightsError, match="cc_projection or clip_camera_projection"):
        z.save(model, tmp_path / "other", projection="projection")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["zero123"]


def test_sizes_that_cannot_be_meant_are_refused():
    with pytest.raises(WeightsError, match="cannot be meant"):
        layouts.sizes_from({"channels": [8, -1]}, z.Sizes)
    with pytest.raises(WeightsError, match="cannot be meant"):
        layouts.sizes_from({"depth": 3}, z.Sizes)
    with pytest.raises(WeightsError, match="cannot be meant"):
        layouts.sizes_from({"prediction": "sample"}, z.Sizes)


def test_what_the_unet_predicts_is_kept_and_told_to_diffusers(model, tmp_path):
    other = z.build(replace(model.sizes, prediction="v_prediction"), seed=0)
    for kept, said in ((model, "epsilon"), (other, "v_prediction")):
        folder = z.save(kept, tmp_path / said)
        schedule = json.loads((folder / "scheduler" / "scheduler_config.json").read_text())
        assert schedule["prediction_type"] == said
        assert z.load(folder).sizes.prediction == said
        assert z.load(z.save_checkpoint(kept, tmp_path / f"{said}.safetensors")).sizes.prediction == said


def test_the_published_weights_are_listed_with_files_that_are_looked_for():
    for name in ("zero123", "zero123-165000", "zero123-230000", "zero123-300000", "zero123-xl", "stable-zero123"):
        published = KNOWN[name]
        wanted = {
            *layouts.FILES,
            *layouts.FOLDER_MARKS,
            *(f for part in layouts.PARTS for f in layouts._candidates(part)),
        }
        assert set(published.files) <= wanted and not published.commercial
        family = layouts._family_by_name(published.files[0]) or layouts._family_by_name(published.repo)
        assert family == ("stable-zero123" if "stable" in name else "zero123")
