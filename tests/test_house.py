"""The house itself: import order, public names, silence, and rules that hold for every file."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import obverse

PACKAGE = Path(obverse.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))

# Lower may not import higher; names are the first part of the module path below obverse.
LEVELS = [
    {"errors", "parallel", "stages"},
    {"cameras", "gaussians", "topology", "pictures", "outline", "backdrop", "matte", "checks", "photo", "weights"},
    {"render", "formats"},
    {"surface", "multiview", "feedforward"},
    {"lifting"},
    {"asset", "sheet", "evaluation", "training"},
    {"create", "finishing"},
    {"apps"},
]
STRANGERS = [{"surface", "multiview"}, {"surface", "feedforward"}, {"multiview", "feedforward"}]
STRANGERS += [{"lifting", "multiview"}, {"lifting", "feedforward"}, {"evaluation", "training"}]


def level(room):
    return next((i for i, rooms in enumerate(LEVELS) if room in rooms), None)


def imports_of(path):
    """Top rooms of obverse that a file imports, wherever in the file."""
    here = path.relative_to(PACKAGE).with_suffix("").parts
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = here[: len(here) - node.level]
            target = [*base, *(node.module.split(".") if node.module else [])]
            yield from [target[0]] if target else [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "obverse":
            yield [*node.module.split("."), "__init__"][1]
        elif isinstance(node, ast.Import):
            yield from (a.name.split(".")[1] for a in node.names if a.name.startswith("obverse."))


def test_every_module_has_a_level():
    rooms = {path.relative_to(PACKAGE).parts[0].removesuffix(".py") for path in FILES} - {"__init__", "__main__"}
    assert {room for room in rooms if level(room) is None} == set()


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_only_go_down(path):
    room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    if room in ("__init__", "__main__"):
        return
    for target in imports_of(path):
        if target in ("__version__", "__init__"):
            continue
        assert level(target) is not None, f"{path.name} imports obverse.{target}, which has no level"
        assert level(target) <= level(room), f"{path.name} (level {level(room)}) imports {target} ({level(target)})"
        assert {room, target} not in STRANGERS, f"{room} and {target} must not know each other"


def test_public_names_are_these():
    assert sorted(obverse.__all__) == [
        "Asset",
        "Cameras",
        "Gaussians",
        "InputError",
        "METHODS",
        "NoObjectError",
        "ObverseError",
        "Settings",
        "Subject",
        "Views",
        "__version__",
        "create",
        "orbit",
        "read_mesh",
        "read_photo",
        "read_splats",
    ]


def test_every_public_name_resolves():
    assert [name for name in obverse.__all__ if getattr(obverse, name, None) is None] == []
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = obverse.nothing


def test_import_is_silent_and_loads_no_heavy_package():
    code = (
        "import sys, obverse; "
        "heavy = {'torch', 'numpy', 'numba', 'trimesh', 'cv2', 'scipy', 'PIL', 'rich'} & set(sys.modules); "
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_files_stay_readable(path):
    text = path.read_text(encoding="utf-8")
    assert text.count("\n") <= 600
    tree = ast.parse(text)
    assert ast.get_docstring(tree), "every module says what it is for"
    if "apps" not in path.parts:
        for node in ast.walk(tree):
            called = node.func.id if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) else None
            assert called != "print", f"line {node.lineno}: only apps/ prints"
            assert not (isinstance(node, ast.ExceptHandler) and node.type is None), f"line {node.lineno}: bare except"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_functions_stay_readable(path):
    """At most 60 lines and 8 parameters; compiled kernels may be longer if they say why, and take arrays apart."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.FunctionDef):
            continue
        decorators = {ast.unparse(decorator).split("(")[0] for decorator in node.decorator_list}
        kernel, where = bool(decorators & {"kernel", "triton.jit"}), f"{node.name}, line {node.lineno}"
        says_why = kernel and re.search(r"\b[Ll]ong(er)?\b", ast.get_docstring(node) or "")
        assert node.end_lineno - node.lineno < 60 or says_why, f"{where}: {node.end_lineno - node.lineno + 1} lines"
        if not (kernel or "staticmethod" in decorators or "apps" in path.parts):  # options; torch's Function.forward
            count = (
                len(node.args.args)
                + len(node.args.kwonlyargs)
                - (ast.unparse(node.args).split(",")[0] in ("self", "cls"))
            )
            assert count <= 8, f"{where}: {count} parameters"


def test_doctor_knows_every_extra():
    from obverse.apps.doctor import EXTRAS

    project = (Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8")
    listed = project.split("[project.optional-dependencies]")[1].split("\n[")[0]
    assert set(re.findall(r"^(\w+) = \[", listed, re.M)) - {"dev"} == set(EXTRAS)


def test_help_loads_no_heavy_package():
    code = (
        "import sys; from obverse.apps import cli\n"
        "cli.guarded(lambda: cli.app(args=['--help'], standalone_mode=False))\n"
        "heavy = {'torch', 'numpy', 'numba', 'trimesh', 'cv2', 'scipy', 'PIL'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "create" in done.stdout
