import io
import json
import sys

import numpy as np
import pytest
from PIL import Image

from obverse.apps import cli
from obverse.errors import EXIT_CODES

from ..conftest import disc_photo, ring_photo

SMALL = ["--resolution", "48", "--faces", "1000", "--texture", "256", "--gaussians", "500", "--formats", "glb,ply"]


def run(*arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main([str(a) for a in arguments])
    out = capsys.readouterr()
    return stop.value.code, out.out, out.err


def test_help_lists_the_verbs_and_exit_codes(capsys):
    code, out, _ = run("--help", capsys=capsys)
    assert code == 0
    for verb in ("create", "cutout", "methods", "doctor", "convert", "show"):
        assert verb in out
    assert all(meaning.split()[0] in out for meaning in EXIT_CODES.values())


def test_create_writes_a_folder_and_says_where(photo, tmp_path, capsys):
    code, out, err = run("create", photo, "-o", tmp_path / "out", *SMALL, capsys=capsys)
    assert code == 0 and "warning" not in err
    assert "asset.glb" in out
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"asset.glb", "asset.ply", "report.json"}


def test_json_output_is_one_object_per_line(photo, tmp_path, capsys):
    code, out, _ = run("create", photo, "-o", tmp_path / "out", "--json", *SMALL, capsys=capsys)
    record = json.loads(out)
    assert code == 0 and record["status"] == "done" and record["watertight"] is True


def test_existing_assets_are_refused_skipped_or_overwritten(photo, tmp_path, capsys):
    command = ["create", photo, "-o", tmp_path / "out", *SMALL]
    assert run(*command, capsys=capsys)[0] == 0
    before = (tmp_path / "out" / "report.json").stat().st_mtime_ns
    code, _, err = run(*command, capsys=capsys)
    assert code == 2 and "--overwrite" in err and "--skip-existing" in err
    code, out, _ = run(*command, "--skip-existing", "--json", capsys=capsys)
    assert code == 0 and json.loads(out)["status"] == "skipped"
    assert (tmp_path / "out" / "report.json").stat().st_mtime_ns == before
    assert run(*command, "--overwrite", capsys=capsys)[0] == 0
    assert (tmp_path / "out" / "report.json").stat().st_mtime_ns > before
    assert run(*command, "--overwrite", "--skip-existing", capsys=capsys)[0] == 2


def test_a_folder_of_photos_gives_a_folder_each_and_survives_a_bad_one(photo, tmp_path, capsys):
    (tmp_path / "in").mkdir()
    photo.rename(tmp_path / "in" / "a.png")
    (tmp_path / "in" / "b.jpg").write_bytes(b"not an image")
    code, out, err = run("create", tmp_path / "in", "-o", tmp_path / "out", "--json", *SMALL, capsys=capsys)
    records = [json.loads(line) for line in out.splitlines()]
    assert code == 4 and "1 of 2 photos failed" in err
    assert [r["status"] for r in records] == ["done", "failed"]
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["a"]


def test_a_folder_of_one_photo_gives_a_folder_inside_too(photo, tmp_path, capsys):
    (tmp_path / "in").mkdir()
    photo.rename(tmp_path / "in" / "a.png")
    for source in (tmp_path / "in", tmp_path / "in" / "*.png"):
        code, out, _ = run("create", source, "-o", tmp_path / "out", "--json", "--skip-existing", *SMALL, capsys=capsys)
        assert code == 0 and json.loads(out)["output"] == str(tmp_path / "out" / "a")


def test_a_bug_met_in_one_photo_does_not_stop_the_others(photo, tmp_path, capsys, monkeypatch):
    from obverse.apps import batch

    def fragile(source, **_):
        raise ZeroDivisionError(f"by {source}")

    monkeypatch.setattr(batch, "read_photo", fragile)
    code, out, err = run("create", photo, tmp_path / "b.png", "-o", tmp_path / "out", "--json", capsys=capsys)
    records = [json.loads(line) for line in out.splitlines()]
    assert code == 4 and "2 of 2 photos failed" in err
    assert [r["status"] for r in records] == ["failed", "failed"] and "ZeroDivisionError" in records[1]["error"]


@pytest.mark.parametrize(("stream", "code"), [("stdin", 6), ("stdout", 8), ("stderr", 6)])
def test_a_closed_standard_stream_is_no_bug(stream, code, photo, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO()))
    monkeypatch.setattr(sys, stream, None)
    source = str(photo) if stream == "stdout" else "-"
    with pytest.raises(SystemExit) as stop:
        cli.main(["create", source, "-o", "-", *SMALL[:-2]])
    assert stop.value.code == code


def test_standard_input_to_standard_output_is_a_glb(tmp_path, capfdbinary, monkeypatch):
    buffer = io.BytesIO()
    Image.fromarray(disc_photo()).save(buffer, "PNG")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(buffer.getvalue())))
    with pytest.raises(SystemExit) as stop:
        cli.main(["create", "-", "-o", "-", *SMALL[:-2]])
    out = capfdbinary.readouterr().out
    assert stop.value.code == 0
    assert out[:4] == b"glTF" and int.from_bytes(out[8:12], "little") == len(out)


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["create", "nowhere.jpg"], 6, "nowhere.jpg"),
        (["create", "PHOTO", "--method", "magic"], 2, "inflate"),
        (["create", "PHOTO", "--formats", "fbx"], 2, "fbx"),
        (["create", "PHOTO", "--texture", "9"], 2, "256"),
        (["create", "PHOTO", "--box", "1,2"], 2, "x,y,w,h"),
        (["create", "PHOTO", "--matte", "wand"], 2, "wand"),
        (["create", "PHOTO", "--device", "tpu"], 2, "cpu"),
        (["create", "PHOTO", "--height", "-1"], 2, "height"),
        (["create", "PHOTO", "--height", "nan"], 2, "height"),
        (["create", "PHOTO", "--seed", "-1"], 2, "seed"),
        (["create", "PHOTO", "-o", "PHOTO"], 8, "is a file"),
        (["create", "PHOTO", "-o", "-", "--formats", "usdz"], 2, "GLB"),
        (["create", "PHOTO", "-o", "-", "--json"], 2, "--json"),
        (["create"], 2, "photos"),
        (["create", "PHOTO", "PHOTO2", "-o", "-"], 2, "one photo"),
        (["create", "*.nothing"], 6, "pattern"),
        (["convert", "PHOTO", "OUT.xyz"], 2, "glb"),
        (["dance"], 2, "dance"),
    ],
)
def test_mistakes_get_one_sentence_and_their_exit_code(arguments, code, words, photo, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    given = [a.replace("PHOTO2", "other.png").replace("PHOTO", str(photo)) for a in arguments]
    got, _, err = run(*given, capsys=capsys)
    assert got == code
    assert words in err and "Traceback" not in err
    assert not (tmp_path / "out").exists()


def test_a_blank_photo_has_its_own_exit_code(tmp_path, capsys):
    Image.fromarray(np.full((64, 64, 3), 240, np.uint8)).save(tmp_path / "blank.png")
    code, _, err = run("create", tmp_path / "blank.png", "-o", tmp_path / "out", capsys=capsys)
    assert code == 3 and "Traceback" not in err
    assert not (tmp_path / "out").exists()


def test_cutout_writes_a_png_with_alpha(photo, tmp_path, capsys):
    code, out, _ = run("cutout", photo, "-o", tmp_path / "cut.png", "--json", capsys=capsys)
    assert code == 0 and json.loads(out)["matte"] == "alpha"
    with Image.open(tmp_path / "cut.png") as image:
        assert image.mode == "RGBA" and image.size == (256, 256)
        assert image.getpixel((128, 128))[3] == 255 and image.getpixel((2, 2))[3] == 0


def test_doubts_are_said_before_the_long_work(tmp_path, capsys):
    Image.fromarray(disc_photo(center=(20, 64))).save(tmp_path / "cut.png")
    code, _, err = run("create", tmp_path / "cut.png", "-o", tmp_path / "out", *SMALL, capsys=capsys)
    assert code == 0 and "warning [touches-border]" in err


def test_an_outline_that_was_lost_is_said_and_reported(tmp_path, capsys):
    Image.fromarray(ring_photo(outer=48, inner=44)).save(tmp_path / "wire.png")
    small = ["--resolution", "32", "--faces", "200", "--texture", "256", "--gaussians", "200", "--formats", "png"]
    code, out, err = run("create", tmp_path / "wire.png", "-o", tmp_path / "out", "--json", *small, capsys=capsys)
    assert code == 0 and "warning [outline-lost]" in err
    assert "outline-lost" in json.loads(out)["checks"]


def test_methods_are_listed_with_licences(capsys):
    code, out, _ = run("methods", "--json", capsys=capsys)
    rows = [json.loads(line) for line in out.splitlines()]
    assert code == 0 and rows[0]["name"] == "inflate" and rows[0]["weights_licence"]
    assert "inflate" in run("methods", capsys=capsys)[1]


def test_convert_goes_between_formats_and_from_mesh_to_splat(disc_asset, tmp_path, capsys):
    disc_asset.save(tmp_path / "a", formats=["glb", "ply"])
    for source, target in [
        ("asset.glb", "b.obj"),
        ("asset.glb", "b.stl"),
        ("asset.ply", "b.splat"),
        ("asset.glb", "c.spz"),
    ]:
        code, _, _ = run("convert", tmp_path / "a" / source, tmp_path / target, "--gaussians", "300", capsys=capsys)
        assert code == 0 and (tmp_path / target).stat().st_size > 0
    code, _, err = run("convert", tmp_path / "a" / "asset.glb", tmp_path / "b.obj", capsys=capsys)
    assert code == 2 and "exists" in err
    code, _, err = run("convert", tmp_path / "a" / "asset.ply", tmp_path / "d.glb", capsys=capsys)
    assert code == 2 and "splat" in err


def test_show_writes_a_page_for_a_folder_a_mesh_and_a_splat(disc_asset, tmp_path, capsys):
    disc_asset.save(tmp_path / "a", formats=["glb", "ply"])
    for source in ("a", "a/asset.glb", "a/asset.ply"):
        code, _, _ = run("show", tmp_path / source, "-o", tmp_path / "page.html", capsys=capsys)
        assert code == 0 and "</html>" in (tmp_path / "page.html").read_text()
    code, _, err = run("show", tmp_path, "-o", tmp_path / "page.html", capsys=capsys)
    assert code == 6 and "neither" in err
    disc_asset.save(tmp_path / "b", formats=["usdz", "spz"])
    assert run("show", tmp_path / "b", "-o", tmp_path / "page.html", capsys=capsys)[0] == 0


def test_doctor_passes_its_own_test(capsys):
    code, out, _ = run("doctor", "--json", capsys=capsys)
    record = json.loads(out)
    assert code == 0 and record["self_test"]["ok"] and record["packages"]["torch"]


def test_an_interrupt_is_exit_code_130(capsys):
    def interrupted():
        raise KeyboardInterrupt

    assert cli.guarded(interrupted) == 130
    assert "interrupted" in capsys.readouterr().err


def test_an_unexpected_error_is_named_without_a_traceback(capsys):
    def broken():
        raise ZeroDivisionError("division by zero")

    assert cli.guarded(broken) == 1
    err = capsys.readouterr().err
    assert "ZeroDivisionError" in err and "Traceback" not in err


def test_folder_names_do_not_collide():
    from obverse.apps.batch import folder_names

    assert folder_names(["x/a.png", "y/a.jpg", "b.png"]) == ["a_png", "a_jpg", "b"]
    assert folder_names(["x/a.png", "y/a.png", "z/a.png"]) == ["a_png", "a_png_2", "a_png_3"]
    assert folder_names(["x/a.png", "y/a.png", "a_png_2.jpg"]) == ["a_png", "a_png_2", "a_png_2_2"]


def test_a_photo_named_twice_is_done_once(tmp_path, monkeypatch):
    from obverse.apps.batch import expand

    monkeypatch.chdir(tmp_path)
    assert expand(["b.png", "./a.png", "a.png", str(tmp_path / "b.png"), "-", "-"]) == ["b.png", "./a.png", "-"]


def test_skipping_is_for_the_same_photo_only(photo, tmp_path, capsys):
    other = tmp_path / "ring.png"
    Image.fromarray(disc_photo(size=256, radius=60, center=(128, 128))).save(other)
    assert run("create", photo, "-o", tmp_path / "out", *SMALL, capsys=capsys)[0] == 0
    code, _, err = run("create", other, "-o", tmp_path / "out", "--skip-existing", *SMALL, capsys=capsys)
    assert code == 2 and "another photo" in err
