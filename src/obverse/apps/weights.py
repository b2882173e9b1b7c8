"""``obverse weights``: what published methods need, under which licence; fetching it once; proving that it is whole."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import UsageError, WeightsError
from .console import Console
from .options import Json

app = typer.Typer(
    help="Published weights: what there is, fetching it once, proving that it is whole.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

Commercial = Annotated[bool, typer.Option("--commercial-ok", help="Only weights that may be used commercially.")]
Names = Annotated[list[str] | None, typer.Argument(metavar="METHOD...", help="See: obverse weights list.")]


@app.command("list")
def list_weights(commercial_ok: Commercial = False, json_output: Json = False) -> None:
    """List published weights: size, licence, whether commercial use is allowed, whether they are here.

    Where others make the views of a photo that a method needs, the stricter licence decides about commercial use.
    """
    from ..weights import KNOWN, commercial

    console = Console(json_output=json_output)
    for name, weights in KNOWN.items():
        if commercial_ok and not commercial(name):
            continue
        paths = [_cached(weights.repo, file) for file in weights.files]
        here = all(paths)
        record = {
            "name": name,
            "repo": weights.repo,
            "files": list(weights.files),
            "megabytes": weights.megabytes,
            "licence": weights.licence,
            "commercial": commercial(name),
            "views": weights.views or None,
            "in_cache": here,
        }
        text = f"{name}: {weights.words}; {weights.repo}; {'in the cache' if here else 'not fetched'}"
        if weights.views:
            text += f"; views of photos by {weights.views}: {KNOWN[weights.views].words}"
        console.result(record, text)


@app.command("fetch")
def fetch_weights(
    names: Names = None,
    folder: Annotated[
        Path | None, typer.Option("--dir", help="A folder instead of the Hub's cache; then: create --weights FOLDER.")
    ] = None,
    alone: Annotated[
        bool, typer.Option("--alone", help="Not the weights that make the views which the named ones need of a photo.")
    ] = False,
    commercial_ok: Commercial = False,
    json_output: Json = False,
) -> None:
    """Download everything a method needs; afterwards it works offline.

    With --dir, weights that make the views for others go into a folder of their own name inside: create --view-weights.
    """
    from ..weights import KNOWN, fetch, for_photos

    console = Console(json_output=json_output)
    if not names:
        raise UsageError(f"name what to fetch; there are: {', '.join(KNOWN)}")
    unknown = [name for name in names if name not in KNOWN]
    if unknown:
        raise UsageError(f"{unknown[0]!r} has no published weights here; there are: {', '.join(KNOWN)}")
    parts = dict.fromkeys(names) if alone else {part: None for name in names for part in for_photos(name)}
    for name in parts:
        if commercial_ok and not KNOWN[name].commercial:
            needed = [named for named in names if KNOWN[named].views == name and name not in names]
            why = f"{name}, which makes the views for {needed[0]}," if needed else name
            raise UsageError(
                f"{why} is {KNOWN[name].licence}: not for commercial use; leave --commercial-ok out to fetch it"
                + (", or pass --alone to fetch the others, for views of your own" if needed else "")
            )
    for name in parts:
        weights = KNOWN[name]
        where = folder / name if folder is not None and name not in names else folder
        console.say(f"fetching {name}: {weights.words}")
        paths = fetch(weights, folder=where)
        record = {"name": name, "files": [str(path) for path in paths], "licence": weights.licence}
        console.result(record, "\n".join(f"{name}: {path}" for path in paths))


@app.command("verify")
def verify_weights(
    names: Annotated[list[str] | None, typer.Argument(metavar="METHOD|PATH...", help="By default all methods.")] = None,
    json_output: Json = False,
) -> None:
    """Check files against their published sha256 where one is known, open them, and say which family they are of."""
    from ..weights import KNOWN

    console = Console(json_output=json_output)
    files = [(path, KNOWN.get(name)) for name in names or KNOWN for path in _files_of(name, missing_ok=not names)]
    for path, weights in files:
        record = examine(path, weights)
        proof = "the published sha256" if record["as_published"] else "no published sha256 to compare with"
        text = f"{path}: {record['megabytes']} MB, {record['tensors']} tensors, {record['family']}; {proof}"
        console.result(record, text)
    if not files:
        console.say("no published weights are in the Hub's cache; run: obverse weights fetch METHOD")


def examine(path: Path, weights: Any = None) -> dict[str, Any]:
    """Size, checksum, number of tensors and family of a weights file.

    Raises:
        WeightsError: it is missing or damaged.
    """
    from ..weights import check_sha256, family_of, known_sha256, read_checkpoint, sha256_of

    checkpoint = read_checkpoint(path)
    expected = known_sha256(path, weights)
    return {
        "file": str(path),
        "megabytes": round(path.stat().st_size / 1e6, 1),
        "sha256": check_sha256(path, expected) if expected else sha256_of(path),
        "as_published": expected is not None,
        "tensors": len(checkpoint.tensors),
        "family": family_of(checkpoint.tensors) or "of no known family",
    }


def _files_of(name: str, *, missing_ok: bool) -> list[Path]:
    """Weights files of a method in the Hub's cache, or at a path: a file, or a folder of them.

    Raises:
        WeightsError: there are none, and that is not fine.
    """
    from ..weights import KNOWN, SUFFIXES

    if name in KNOWN:
        found = [path for file in KNOWN[name].files if (path := _cached(KNOWN[name].repo, file))]
        where = f"{name} is not in the Hub's cache; run: obverse weights fetch {name}"
    elif Path(name).is_dir():
        found = sorted(path for path in Path(name).iterdir() if path.suffix in SUFFIXES)
        where = f"{name} holds no weights file ({', '.join(SUFFIXES)}); name the file itself"
    else:
        return [Path(name)]
    if not found and not missing_ok:
        raise WeightsError(where)
    return found


def _cached(repo: str, file: str) -> Path | None:
    """Where a file of a repository lies in the Hub's cache, if it does."""
    from ..weights import resolve

    try:
        return resolve(repo, (file,), download=False)
    except WeightsError:
        return None
