"""The README is executed: its Python as it stands, its commands, and those of the docs, as far as their words go."""

import re
import shlex
import shutil
from pathlib import Path

import pytest
from typer.main import get_command

import obverse
from obverse.apps import cli

ROOT = Path(__file__).parent.parent
PACKAGE = Path(obverse.__file__).parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
PYTHON = re.findall(r"```python\n(.*?)```", README, re.S)
COMMANDS = get_command(cli.app)
DOCS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def written(start):
    """Every command in README and docs that begins so, in blocks, indented or inline."""
    found = []
    for path in DOCS:
        text = path.read_text(encoding="utf-8")
        blocks = "".join(re.findall(r"```sh\n(.*?)```", text, re.S) + re.findall(r"^    (\S.*\n)", text, re.M))
        lines = [re.split(r"&&|\|", line.split("#")[0])[-1] for line in blocks.replace("\\\n", " ").splitlines()]
        inline = re.findall(r"`([^`]+)`", re.sub(r"```.*?```", "", text, flags=re.S))
        for command in (" ".join(line.split(" > ")[0].split()) for line in lines + inline):
            if command.startswith(start + " "):
                found.append(pytest.param(command, id=f"{path.stem}: {command[:60]}"))
    return found


def test_the_first_screen_has_picture_sentence_and_commands():
    head = "\n".join(README.splitlines()[:25])
    for needed in ("![", "make demo", "make test", "pip install", "import obverse"):
        assert needed in head
    picture = re.search(r"!\[.*?\]\((.*?)\)", head).group(1)
    assert (ROOT / picture).exists()


@pytest.mark.parametrize("code", PYTHON)
def test_its_python_runs(code, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("chair.jpg", "mug.jpg"):
        shutil.copy(ROOT / "examples" / "mug.jpg", tmp_path / name)
    exec(compile(code, "README.md", "exec"), {})
    assert list(tmp_path.glob("*/asset.glb"))


@pytest.mark.parametrize("command", written("obverse"))
def test_commands_parse_as_they_are_written(command):
    """Their names, options and values, where more than a name is given."""
    parser, words = COMMANDS, shlex.split(command)[1:]
    while isinstance(commands := getattr(parser, "commands", None), dict) and words:
        parser = commands[words.pop(0)]
    if words and words != ["--help"]:
        parser.make_context("obverse", words)


@pytest.mark.parametrize("command", written("python"))
def test_scripts_named_beside_figures_exist_and_know_the_options(command):
    script, *words = shlex.split(command)[1:]
    source = (ROOT / script).read_text(encoding="utf-8")
    options = [word for word in words if word.startswith("-")]
    assert [option for option in options if f'"{option}"' not in source] == []


@pytest.mark.parametrize("path", DOCS, ids=lambda path: path.stem)
def test_files_named_in_passing_exist(path):
    text = path.read_text(encoding="utf-8")
    named = re.findall(r"`((?:benchmarks|tests|examples|evaluation|surface|lifting)/[\w/.]+)`", text)
    linked = [link for link in re.findall(r"\]\(([^)#]+)\)", text) if "://" not in link]
    places = [(ROOT, name) for name in named] + [(path.parent, link) for link in linked]
    lost = [name for place, name in places if not ((place / name).exists() or (PACKAGE / name).exists())]
    assert lost == []
