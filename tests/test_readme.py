"""The README is executed: its Python as it stands, its commands as far as their words go."""

import re
import shlex
import shutil
from pathlib import Path

import pytest

from obverse.apps import cli

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
PYTHON = re.findall(r"```python\n(.*?)```", README, re.S)
COMMANDS = [
    line.split("#")[0].split("|")[-1].split(">")[0].strip()
    for block in re.findall(r"```sh\n(.*?)```", README, re.S)
    for line in block.splitlines()
    if "obverse " in line and not line.startswith("pip")
]


def test_the_first_screen_has_picture_sentence_and_commands():
    head = "\n".join(README.splitlines()[:25])
    for needed in ("![", "make demo", "make test", "pip install", "import obverse"):
        assert needed in head
    picture = re.search(r"!\[.*?\]\((.*?)\)", head).group(1)
    assert (ROOT / picture).exists()


def test_links_within_the_repository_lead_somewhere():
    links = [link for link in re.findall(r"\]\(([^)]+)\)", README) if "://" not in link]
    assert links and [link for link in links if not (ROOT / link).exists()] == []


@pytest.mark.parametrize("code", PYTHON)
def test_its_python_runs(code, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("chair.jpg", "mug.jpg"):
        shutil.copy(ROOT / "examples" / "mug.jpg", tmp_path / name)
    exec(compile(code, "README.md", "exec"), {})
    assert list(tmp_path.glob("*/asset.glb"))


@pytest.mark.parametrize("command", COMMANDS)
def test_its_commands_name_options_that_exist(command, capsys):
    """`--help` beside the other arguments stops before they are acted on, but after their names were checked."""
    words = shlex.split(command)
    assert words[0] == "obverse"
    verb = words[1:3] if words[1] in ("train", "weights", "data") else words[1:2]
    options = [word for word in words[2:] if re.match(r"--?[a-z]", word)]
    with pytest.raises(SystemExit) as stop:
        cli.main([*verb, "--help"])
    text = capsys.readouterr().out
    assert stop.value.code == 0
    assert [option for option in options if not re.search(rf"(?<![\w-]){option}\b", text)] == []
