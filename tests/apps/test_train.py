import dataclasses
import json

import pytest
import trimesh
from typer.testing import CliRunner

from obverse.apps.cli import app
from obverse.apps.console import Console
from obverse.apps.train import TrainJob, prepare, split, weights_of
from obverse.errors import InputError, UsageError, WeightsError
from obverse.feedforward.embedded import Config, Network, load, save
from obverse.formats.meshes import write_mesh


def invoke(*arguments):
    return CliRunner().invoke(app, ["train", *map(str, arguments)], catch_exceptions=False)


def test_a_pack_and_invented_objects_become_weights_with_a_card(tmp_path):
    write_mesh(trimesh.creation.box((1, 0.8, 0.6)), tmp_path / "objects" / "box.glb")
    (tmp_path / "objects" / "index.csv").write_text("id,licence,author,source_repo\nbox,CC-BY-4.0,Ann,ann/boxes\n")
    assert invoke("pack", tmp_path / "objects", "-o", tmp_path / "o.pack").exit_code == 0
    done = invoke(
        "embedded", "--objects", tmp_path / "o.pack", "--procedural", 2, "--steps", 2, "--batch", 2, "--views", 2,
        "--workers", 1, "--device", "cpu", "-o", tmp_path / "run",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    assert load(tmp_path / "run" / "embedded.safetensors").config.photo == 128
    card = (tmp_path / "run" / "embedded.md").read_text(encoding="utf-8")
    assert "| steps | 2 |" in card
    # The box is held out, so it is not claimed to be learnt from.
    assert "0 objects (none) and 2 invented ones" in card
    assert json.loads((tmp_path / "run" / "left_out.json").read_text()) == {}


def test_time_or_steps_and_something_to_learn_from(tmp_path):
    with pytest.raises(UsageError, match="give one of the two"):
        invoke("embedded", "-o", tmp_path)
    with pytest.raises(UsageError, match="nothing to learn from"):
        invoke("embedded", "--procedural", 0, "--steps", 1, "--device", "cpu", "-o", tmp_path)


def test_every_sixth_scan_is_held_out():
    rows = [{"id": f"s{i}", "group": "scan"} for i in range(12)] + [{"id": "m", "group": "modelled"}]
    learnt, held = split(rows, 6)
    assert [r["id"] for r in held] == ["s0", "s4"]
    assert len(learnt) == 11


def test_deformed_copies_of_what_validates_are_not_learnt_from():
    rows = [{"id": f"s{i}", "group": "scan"} for i in range(7)]
    rows += [{"id": f"s{i}~0", "group": "variant", "of": f"s{i}"} for i in range(7)]
    learnt, held = split(rows, 6)
    assert [r["id"] for r in held] == ["s0", "s6"]
    assert {r.get("of", r["id"]) for r in learnt} == {"s1", "s2", "s3", "s4", "s5"}
    assert len(learnt) == 10


def test_scans_and_their_deformed_copies_share_what_scans_get():
    rows = [{"group": g} for g in ["scan"] * 5 + ["variant"] * 50 + ["modelled"] * 5]
    shares = weights_of(rows)
    assert sum(shares) == pytest.approx(1)
    assert sum(shares[:5]) == pytest.approx(0.1)
    assert sum(shares[5:55]) == pytest.approx(0.25)


def test_groups_are_drawn_by_their_shares_whatever_their_number():
    rows = [{"group": g} for g in ["scan"] * 5 + ["procedural"] * 70 + ["modelled"] * 20 + ["toys"] * 5]
    shares = weights_of(rows)
    assert sum(shares) == pytest.approx(1)
    assert sum(shares[:5]) == pytest.approx(0.35)
    assert sum(shares[75:]) == pytest.approx(0.3)


BRIEF = ["--steps", 1, "--batch", 1, "--views", 1, "--workers", 1, "--device", "cpu"]


def test_options_that_cannot_be_meant_leave_no_folder(tmp_path):
    for option, value in (("--batch", 0), ("--views", 0), ("--workers", -1), ("--seed", -1), ("--procedural", -1)):
        assert invoke("embedded", "--steps", 1, option, value, "-o", tmp_path / "run").exit_code == 2
    with pytest.raises(UsageError, match="steps is 0"):
        invoke("embedded", "--steps", 0, "-o", tmp_path / "run")
    assert not any(tmp_path.iterdir())


def test_a_start_of_another_size_is_refused_before_anything_is_written(tmp_path):
    save(
        Network(Config(photo=64, columns=32, width=16, middle=16, deep=16, heads=1, layers=1, fine=16)),
        tmp_path / "w.safetensors",
    )
    with pytest.raises(WeightsError, match="leave --init out"):
        invoke("embedded", "--procedural", 2, *BRIEF, "--init", tmp_path / "w.safetensors", "-o", tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_one_object_is_too_few_and_the_folder_keeps_to_its_objects(tmp_path):
    with pytest.raises(InputError, match="2 are needed"):
        invoke("embedded", "--procedural", 1, *BRIEF, "-o", tmp_path)
    with pytest.raises(UsageError, match="began with objects"):
        invoke("embedded", "--procedural", 2, *BRIEF, "-o", tmp_path)


def job(folder, **changes):
    plain = TrainJob(None, 1, 0, folder, 1, None, 1, 1, 0, "cpu", None, 6, 1)
    return dataclasses.replace(plain, **changes)


def test_one_scan_in_so_many_is_held_out_with_its_copies_and_the_run_keeps_to_it(tmp_path):
    rows = [{"id": f"s{i}", "group": "scan"} for i in range(8)]
    rows += [{"id": "m", "group": "modelled"}, {"id": "s4~0", "group": "variant", "of": "s4"}]
    learnt, held = split(rows, 4)
    assert [row["id"] for row in held] == ["s0", "s4"]
    assert [row["id"] for row in learnt] == ["s1", "s2", "s3", "s5", "s6", "s7", "m"]
    for _ in range(2):
        with pytest.raises(InputError, match="2 are needed"):
            prepare(job(tmp_path), Console())
    with pytest.raises(UsageError, match="began with hold_out 6"):
        prepare(job(tmp_path, hold_out=3), Console())


def test_a_run_keeps_to_its_start_and_to_what_is_in_its_objects(tmp_path):
    mesh, weights = tmp_path / "objects" / "ball.stl", tmp_path / "w.safetensors"
    write_mesh(trimesh.creation.icosphere(1), mesh)
    weights.write_bytes(b"some")
    begun = job(tmp_path / "run", objects=mesh.parent, procedural=0, start=weights)
    for _ in range(2):
        with pytest.raises(InputError, match="2 are needed"):
            prepare(begun, Console())
    with pytest.raises(UsageError, match=r"began with start w\.safetensors, SHA-256"):
        prepare(dataclasses.replace(begun, start=None), Console())
    size = mesh.stat().st_size
    write_mesh(trimesh.creation.icosphere(1, radius=2.0).apply_scale((1, 2, 1)), mesh)
    assert mesh.stat().st_size == size
    with pytest.raises(UsageError, match="began with objects"):
        prepare(begun, Console())


def test_objects_may_not_have_the_names_and_groups_of_those_made_here(tmp_path):
    for name in ("a", "a~0"):
        write_mesh(trimesh.creation.box(), tmp_path / "objects" / f"{name}.stl")
    index = tmp_path / "objects" / "index.csv"
    index.write_text("id,group\na,scan\n")
    with pytest.raises(InputError, match="'a~0' is an object and a deformed copy"):
        prepare(job(tmp_path / "run", objects=index.parent, variants=1), Console())
    index.write_text("id,group\na,variant\n")
    with pytest.raises(InputError, match="'a' of group 'variant'"):
        prepare(job(tmp_path / "run", objects=index.parent), Console())


def test_packing_says_why_objects_are_left_out(tmp_path):
    write_mesh(trimesh.creation.box((1, 0.8, 0.6)), tmp_path / "box.glb")
    write_mesh(trimesh.creation.box((1, 1, 0.001)), tmp_path / "sheet.glb")
    done = invoke("pack", tmp_path, "-o", tmp_path / "o.pack")
    assert "left out sheet:" in done.output and "a card" in done.output


def test_real_objects_may_not_pass_for_invented_ones(tmp_path):
    write_mesh(trimesh.creation.box(), tmp_path / "objects" / "procedural_000001.glb")
    with pytest.raises(InputError, match="choose others"):
        invoke("embedded", "--objects", tmp_path / "objects", *BRIEF, "-o", tmp_path / "run")
