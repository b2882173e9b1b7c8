"""Pages for a person: the report of one asset, and a viewer for any asset, each one HTML file that needs nothing else.

A page loads nothing: the script is ours (``viewer/*.js``, plain WebGL 2), the asset is embedded as base64, and a
Content-Security-Policy permits only that script and style by their hashes. So even a value that slipped through
escaping could not run, and the page works from ``file://`` without a network.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import html
import json
import math
import re
import unicodedata
from collections.abc import Iterable, Mapping
from importlib.resources import files
from typing import Any, TypeGuard

from ..errors import InputError

SCRIPTS = ("maths.js", "glb.js", "mesh.js", "splats.js", "orbit.js", "main.js")
SPLAT_RECORD_BYTES = 32

_IMAGE_TYPES = {b"\x89PNG\r\n\x1a\n": "image/png", b"\xff\xd8\xff": "image/jpeg", b"GIF8": "image/gif"}
_CAPTIONS = {
    "photo": "The photo",
    "cutout": "The object, cut out of it: what was reconstructed",
    "preview": "The asset from several sides",
}
_SEVERITIES = {
    "error": ("bad", "Problem"),
    "warning": ("warn", "Warning"),
    "note": ("", "Note"),
    "info": ("", "Note"),
    "ok": ("good", "Fine"),
}


def report_page(
    report: Mapping[str, Any],
    *,
    glb: bytes | None = None,
    splats: bytes | None = None,
    images: Mapping[str, bytes] | None = None,
    title: str = "Asset",
) -> str:
    """The report of one asset → the text of an HTML page that is complete in itself.

    Args:
        report: as ``create`` makes it and ``report.json`` holds it. Absent keys leave out their lines.
        glb: the mesh as a binary glTF file, in the world frame (+Y up, the photographed side faces +Z).
        splats: the Gaussians as a ``.splat`` file: 32-byte records in the (x, −y, −z) frame of such files.
        images: encoded PNG, JPEG, GIF or WebP files, embedded as they are; ``"photo"``, ``"cutout"`` and
            ``"preview"`` have captions of their own, any other key is its caption.
        title: heading of the page, as a rule the name of the photo. Any text is safe.

    Raises:
        InputError: ``glb``, ``splats`` or an image is not what it should be.
    """
    viewer = _viewer(glb, splats, title, place="page") if glb is not None or splats is not None else ""
    pictures = dict(images or {})
    preview = pictures.pop("preview", None)
    body = [
        "<main>",
        f"<h1>{_text(title)}</h1>",
        f'<p class="lead">{_lead(report)}</p>',
        viewer,
        _pictures(pictures),
        _pictures({"preview": preview}, wide=True) if preview is not None else "",
        _findings(report),
        _guessed(report),
        '<div class="columns">',
        _numbers(report),
        _files(report),
        _stages(report),
        _provenance(report),
        "</div>",
        _everything(report),
        "</main>",
        *_data_blocks(glb, splats),
    ]
    return _document(body, title=f"{title} – obverse report", scripted=bool(viewer))


def viewer_page(*, glb: bytes | None = None, splats: bytes | None = None, title: str = "Asset") -> str:
    """A viewer alone, filling the window → the text of an HTML page that is complete in itself.

    Args:
        glb, splats, title: as in ``report_page``; at least one of the first two.

    Raises:
        InputError: neither a mesh nor a splat is given, or one is not what it should be.
    """
    if glb is None and splats is None:
        raise InputError("viewer_page() was given neither a mesh nor a splat; pass glb=, splats= or both")
    body = [f"<h1>{_text(title)}</h1>", _viewer(glb, splats, title, place="window"), *_data_blocks(glb, splats)]
    return _document(body, title=f"{title} – obverse", scripted=True, alone=True)


# ---------------------------------------------------------------------------------------------------------------------
# The frame of a page


def _document(body: Iterable[str], *, title: str, scripted: bool, alone: bool = False) -> str:
    style = _asset("page.css")
    script = _script() if scripted else ""
    policy = f"default-src 'none'; img-src data:; base-uri 'none'; form-action 'none'; style-src '{_hash(style)}'"
    if scripted:
        policy += f"; script-src '{_hash(script)}'"
    return "\n".join(
        [
            "<!DOCTYPE html>",
            '<html lang="en">',
            "<head>",
            '<meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            '<meta name="referrer" content="no-referrer">',
            '<link rel="icon" href="data:,">',
            f"<title>{_text(title)}</title>",
            f"<style>{style}</style>",
            "</head>",
            '<body class="alone">' if alone else "<body>",
            *(part for part in body if part),
            f"<script>{script}</script>" if scripted else "",
            "</body>",
            "</html>",
            "",
        ]
    )


@functools.cache
def _asset(name: str) -> str:
    return files(__package__).joinpath("viewer").joinpath(name).read_text(encoding="utf-8")


@functools.cache
def _script() -> str:
    parts = "\n".join(_asset(name) for name in SCRIPTS)
    return f'\n"use strict";\n(() => {{\n{parts}}})();\n'


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _viewer(glb: bytes | None, splats: bytes | None, title: str, *, place: str) -> str:
    if glb is not None and glb[:4] != b"glTF":
        raise InputError(
            f"glb= starts with {glb[:4]!r}, a binary glTF file starts with b'glTF'; pass the bytes of a .glb"
        )
    if splats is not None and (not splats or len(splats) % SPLAT_RECORD_BYTES):
        raise InputError(
            f"splats= is {len(splats)} bytes, a .splat file is a positive multiple of {SPLAT_RECORD_BYTES}; "
            "pass the bytes of a .splat, not of a .ply"
        )
    stem = re.sub(r"\.[A-Za-z0-9]{1,5}$", "", title)
    name = re.sub(r"[^\w.-]+", "-", stem).strip("-.")[:80] or "asset"
    return _asset("viewer.html").replace("@PLACE@", place).replace("@NAME@", _text(name))


def _data_blocks(glb: bytes | None, splats: bytes | None) -> Iterable[str]:
    for name, data in (("glb-data", glb), ("splat-data", splats)):
        if data is not None:
            text = base64.b64encode(data).decode()
            yield f'<script type="application/octet-stream;base64" id="{name}">{text}</script>'


# ---------------------------------------------------------------------------------------------------------------------
# The parts of the report


def _lead(report: Mapping[str, Any]) -> str:
    source, method = _mapping(report, "input"), _mapping(report, "method")
    size = f"{source['width']} × {source['height']} pixels" if {"width", "height"} <= source.keys() else ""
    made = f"made by obverse {report['version']}" if report.get("version") else "made by obverse"
    if method.get("name"):
        made += f" with the method “{method['name']}”"
    if isinstance(report.get("seconds"), (int, float)):
        made += f" in {_number(report['seconds'])} s"
    return _text(", ".join(part for part in (size and f"Photo of {size}", made) if part) + ".")


def _pictures(images: Mapping[str, bytes], *, wide: bool = False) -> str:
    figures = []
    for key, data in images.items():
        caption = _text(_CAPTIONS.get(key, _words(key)))
        source = f"data:{_image_type(key, data)};base64,{base64.b64encode(data).decode()}"
        figures.append(f'<figure><img src="{source}" alt="{caption}"><figcaption>{caption}</figcaption></figure>')
    return f'<div class="pictures{" wide" if wide else ""}">{"".join(figures)}</div>' if figures else ""


def _image_type(key: str, data: bytes) -> str:
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "image/webp"
    for start, kind in _IMAGE_TYPES.items():
        if data.startswith(start):
            return kind
    raise InputError(f"image {key!r} starts with {data[:8]!r}; pass the bytes of a PNG, JPEG, GIF or WebP file")


def _findings(report: Mapping[str, Any]) -> str:
    checks = [check for check in _list(report, "checks") if isinstance(check, Mapping)]
    if "checks" not in report:
        return ""
    if not checks:
        return _section("Findings", "<p>Nothing about the photo or its cut-out called for a remark.</p>")
    rank = {severity: position for position, severity in enumerate(_SEVERITIES)}
    checks.sort(key=lambda check: rank.get(str(check.get("severity", "warning")), 1))
    items = []
    for check in checks:
        kind, word = _SEVERITIES.get(str(check.get("severity", "warning")), ("warn", "Warning"))
        name = _words(check.get("name", "check"))
        message = _sentence(check.get("message", "")) or f"Measured: {_value(check.get('value'))}."
        remedy = _sentence(check.get("remedy", ""))
        help_line = f'<p class="quiet">What to do: {_text(remedy)}</p>' if remedy else ""
        items.append(
            f'<li class="{kind}"><p class="mark">{word}: {_text(name)}</p><p>{_text(message)}</p>{help_line}</li>'
        )
    return _section("Findings", f'<ul class="findings">{"".join(items)}</ul>')


def _guessed(report: Mapping[str, Any]) -> str:
    notes = [note for key in ("guessed", "findings") for note in _list(report, key) if isinstance(note, str)]
    if not notes:
        return ""
    items = "".join(f"<li>{_text(_sentence(note))}</li>" for note in notes)
    return _section(
        "What was guessed",
        f'<p class="quiet">One photo shows one side. These things it does not tell:</p><ul class="plain">{items}</ul>',
    )


def _numbers(report: Mapping[str, Any]) -> str:
    mesh, matte = _mapping(report, "mesh"), _mapping(report, "matte")
    agreement = _mapping(report, "photo_agreement")
    rows: list[tuple[str, Any]] = [("Vertices", mesh.get("vertices")), ("Triangles", mesh.get("faces"))]
    rows += _watertight(mesh.get("watertight"))
    texture = mesh.get("texture")
    rows.append(("Texture", f"{texture} × {texture} texels" if isinstance(texture, int) else texture))
    seen = mesh.get("seen_fraction")
    rows.append(("Seen in the photo", f"{_share(seen)} of the surface" if _is_number(seen) else None))
    rows.append(("Gaussians", _mapping(report, "gaussians").get("count")))
    if _is_number(agreement.get("silhouette_iou")):
        rows.append(("Outline as in the cut-out", f"{_share(agreement['silhouette_iou'])} overlap (IoU)"))
    if _is_number(agreement.get("psnr_db")):
        rows.append(("Colour as in the photo", f"{_number(agreement['psnr_db'])} dB PSNR"))
    confidence = matte.get("confidence")
    certain = f", confidence {_number(confidence)}" if _is_number(confidence) else ""
    rows.append(("Cut-out", f"{matte['kind']}{certain}" if matte.get("kind") else None))
    height = report.get("height_m")
    rows.append(("Real height", f"{_number(height)} m, as given" if _is_number(height) else None))
    return _table("The asset", rows)


def _watertight(proof: Any) -> list[tuple[str, Any]]:
    """The verdict, what speaks against it, and what the surface is made of; zeros and repeats stay in the JSON."""
    if not isinstance(proof, Mapping):
        return [("Watertight", proof)]
    truths = [value for value in proof.values() if isinstance(value, bool)]
    verdict = proof.get("ok", proof.get("watertight", all(truths) if truths else None))
    counts = [(key, value) for key, value in proof.items() if str(key).endswith(("_faces", "_edges")) and value]
    denied = [f"not {_words(key).lower()}" for key, value in proof.items() if value is False and key != "ok"]
    faults = [f"{_value(value)} {_words(key).lower()}" for key, value in counts] + denied
    return [
        ("Watertight", verdict),
        ("Against it", ", ".join(faults)),
        ("Separate parts", proof.get("components")),
        ("Handles", proof.get("genus")),
    ]


def _files(report: Mapping[str, Any]) -> str:
    entries = [entry for entry in _list(report, "files") if isinstance(entry, Mapping)]
    return _table("Files", [(str(entry.get("name", "?")), _bytes(entry.get("bytes"))) for entry in entries], code=True)


def _stages(report: Mapping[str, Any]) -> str:
    stages = [stage for stage in _list(report, "stages") if isinstance(stage, Mapping)]
    if not stages:
        return ""
    rows = "".join(
        f'<tr><th scope="row">{_text(stage.get("name", "?"))}</th>'
        f'<td class="number">{_seconds(stage.get("seconds"))}</td>'
        f'<td class="number">{_megabytes(stage.get("peak_mb"))}</td></tr>'
        for stage in stages
    )
    total = sum(float(stage["seconds"]) for stage in stages if _is_number(stage.get("seconds")))
    peaks = [float(stage["peak_mb"]) for stage in stages if _is_number(stage.get("peak_mb"))]
    return _section(
        "Time and memory",
        '<div class="scroll"><table><thead><tr><th scope="col">Stage</th><th scope="col" class="number">seconds</th>'
        f'<th scope="col" class="number">peak memory</th></tr></thead><tbody>{rows}</tbody><tfoot><tr>'
        f'<th scope="row">Together</th><td class="number">{_seconds(total)}</td>'
        f'<td class="number">{_megabytes(max(peaks, default=None))}</td></tr></tfoot></table></div>',
    )


def _provenance(report: Mapping[str, Any]) -> str:
    method, source = _mapping(report, "method"), _mapping(report, "input")
    rows = [
        ("obverse", report.get("version")),
        ("Method", method.get("name")),
        ("Route", method.get("route")),
        ("Licence of the method", method.get("licence")),
        ("Licence of its weights", method.get("weights_licence")),
        ("After", method.get("source")),
        ("Seed", str(report["seed"]) if "seed" in report else None),
        ("Photo", source.get("name")),
        ("Its SHA-256", source.get("sha256")),
        ("Settings", _value(_mapping(report, "settings"))),
    ]
    return _table("Where it comes from", rows)


def _everything(report: Mapping[str, Any]) -> str:
    text = json.dumps(report, indent=2, ensure_ascii=False, default=str)
    return f"<details><summary>The whole report as JSON</summary><pre><code>{_text(text)}</code></pre></details>"


# ---------------------------------------------------------------------------------------------------------------------
# Words and numbers


def _section(heading: str, body: str) -> str:
    return f'<section class="part"><h2>{_text(heading)}</h2>{body}</section>'


def _table(heading: str, rows: Iterable[tuple[str, Any]], *, code: bool = False) -> str:
    """A table of names and values; rows without a value are left out, a table without rows too."""
    cells = []
    for name, value in rows:
        if value is None or value == "":
            continue
        label = f"<code>{_text(name)}</code>" if code else _text(name)
        shown = _text(_value(value))
        if isinstance(value, str) and re.fullmatch(r"[0-9a-f]{32,}", value):
            shown = f'<span class="hash">{shown}</span>'
        kind = ' class="number"' if code else ""
        cells.append(f'<tr><th scope="row">{label}</th><td{kind}>{shown}</td></tr>')
    return _section(heading, f"<table><tbody>{''.join(cells)}</tbody></table>") if cells else ""


def _text(value: Any) -> str:
    """Any value as inert HTML text.

    Control characters, half surrogates and direction overrides become "�"; "://" is broken up by an entity, so that
    a search of the page for addresses finds none.
    """
    return html.escape("".join(map(_visible, str(value))), quote=True).replace("://", ":&#47;&#47;")


def _visible(character: str) -> str:
    hidden = unicodedata.category(character) in ("Cc", "Cf", "Cs") and character not in "\n\t\u200c\u200d"
    return "\ufffd" if hidden else character


def _mapping(report: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = report.get(key)
    return value if isinstance(value, Mapping) else {}


def _list(report: Mapping[str, Any], key: str) -> list[Any]:
    value = report.get(key)
    return list(value) if isinstance(value, (list, tuple)) else []


def _words(key: Any) -> str:
    """``"touches-border"`` → ``"Touches border"``."""
    words = re.sub(r"[-_]+", " ", str(key)).strip()
    return words[:1].upper() + words[1:]


def _sentence(text: Any) -> str:
    """Capital letter in front, full stop behind."""
    text = str(text).strip()
    if not text:
        return ""
    return text[0].upper() + text[1:] + ("" if text[-1] in ".!?" else ".")


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _number(value: float) -> str:
    """Integers of five digits or more with thin spaces between thousands, others with three significant digits."""
    if float(value).is_integer() and abs(value) < 1e15:
        return f"{int(value):,}".replace(",", "\u202f") if abs(value) >= 10_000 else str(int(value))
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (int, float)):
        return _number(value) if _is_number(value) else str(value)
    if isinstance(value, Mapping):
        return ", ".join(f"{_words(key).lower()} {_value(item)}" for key, item in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(_value(item) for item in value)
    return "–" if value is None else str(value)


def _share(value: float) -> str:
    return f"{100 * value:.0f} %" if value < 0.995 or value >= 1 else f"{100 * value:.1f} %"


def _bytes(count: Any) -> str | None:
    if not _is_number(count):
        return None
    for unit, size in (("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:.3g} {unit}" if count < 1000 * size else f"{count / size:.0f} {unit}"
    return f"{int(count)} bytes"


def _seconds(value: Any) -> str:
    return f"{value:.2f}" if _is_number(value) else "–"


def _megabytes(value: Any) -> str:
    return f"{value:.0f} MB" if _is_number(value) else "–"
