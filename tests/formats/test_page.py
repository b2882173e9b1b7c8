"""The pages for a person: inert whatever the report says, complete in one file, and alive in a real browser."""

from __future__ import annotations

import base64
import hashlib
import html.parser
import io
import json
import re
import shutil
import struct
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from obverse.errors import InputError
from obverse.formats.page import SCRIPTS, report_page, viewer_page

EVIL = "<script>alert(1)</script>.png"
REPORT = {
    "version": "0.1.0",
    "method": {"name": "inflate", "route": "silhouette", "licence": "Apache-2.0", "weights_licence": "none needed"},
    "seed": 1234567,
    "input": {"name": EVIL, "sha256": "9f" * 32, "width": 640, "height": 480},
    "checks": [
        {"name": "small-object", "value": 90.0, "message": "it is 90 pixels high", "remedy": "", "severity": "note"},
        {
            "name": "touches-border",
            "value": 0.12,
            "message": "12 % of the outline lies on the border",
            "remedy": "leave space around the object",
            "severity": "warning",
        },
    ],
    "matte": {"kind": "alpha", "confidence": 0.953},
    "mesh": {
        "vertices": 10001,
        "faces": 20000,
        "watertight": {"ok": True, "open_edges": 0, "components": 1},
        "texture": 1024,
        "seen_fraction": 0.43,
    },
    "gaussians": {"count": 60000},
    "guessed": ["the back is a mirror image"],
    "stages": [{"name": "photo", "seconds": 0.25, "peak_mb": 400.0}, {"name": "mesh", "seconds": 0.5, "peak_mb": None}],
    "files": [{"name": "asset.glb", "bytes": 1834234}],
    "settings": {"resolution": 192},
}


class Page(html.parser.HTMLParser):
    """What a browser would see: elements with attributes, and the text outside scripts and styles."""

    VOID = frozenset({"meta", "link", "img", "br"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.raw: dict[str, list[str]] = {"script": [], "style": []}
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)
        if tag in self.raw:
            self.raw[tag].append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-3:]}"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] in self.raw:
            self.raw[self.open[-1]][-1] += data
        else:
            self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def splat_bytes(means: np.ndarray, colors: np.ndarray, size: float = 0.02) -> bytes:
    """Round opaque Gaussians as a .splat file: means [N, 3] in the world frame, colours [N, 3] 0–255."""
    records = np.zeros(len(means), [("mean", "<f4", 3), ("scale", "<f4", 3), ("rgba", "u1", 4), ("quat", "u1", 4)])
    records["mean"] = means * np.array([1, -1, -1])
    records["scale"] = size
    records["rgba"][:, :3], records["rgba"][:, 3] = colors, 255
    records["quat"] = [255, 128, 128, 128]
    return records.tobytes()


def glb_file(positions: np.ndarray, faces: np.ndarray, uv: np.ndarray, image: bytes) -> bytes:
    """A textured mesh as the smallest GLB that holds it; no normals, so it is shaded flat."""
    blobs = [
        positions.astype("<f4").tobytes(),
        uv.astype("<f4").tobytes(),
        faces.astype("<u2").tobytes(),
        image,
    ]
    views, binary = [], b""
    for blob in blobs:
        views.append({"buffer": 0, "byteOffset": len(binary), "byteLength": len(blob)})
        binary += blob + b"\0" * (-len(blob) % 4)
    document = {
        "asset": {"version": "2.0"},
        "buffers": [{"byteLength": len(binary)}],
        "bufferViews": views,
        "accessors": [
            {"bufferView": 0, "componentType": 5126, "count": len(positions), "type": "VEC3"},
            {"bufferView": 1, "componentType": 5126, "count": len(uv), "type": "VEC2"},
            {"bufferView": 2, "componentType": 5123, "count": faces.size, "type": "SCALAR"},
        ],
        "images": [{"bufferView": 3, "mimeType": "image/png"}],
        "textures": [{"source": 0}],
        "materials": [{"pbrMetallicRoughness": {"baseColorTexture": {"index": 0}}}],
        "meshes": [{"primitives": [{"attributes": {"POSITION": 0, "TEXCOORD_0": 1}, "indices": 2, "material": 0}]}],
        "nodes": [{"mesh": 0}],
        "scenes": [{"nodes": [0]}],
    }
    text = json.dumps(document).encode()
    text += b" " * (-len(text) % 4)
    total = 12 + 8 + len(text) + 8 + len(binary)
    header = struct.pack("<4sII", b"glTF", 2, total) + struct.pack("<II", len(text), 0x4E4F534A)
    return header + text + struct.pack("<II", len(binary), 0x004E4942) + binary


def png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "png")
    return buffer.getvalue()


SIDES = {  # outward direction: colour, all far apart
    (0, 0, 1): (200, 60, 60),
    (1, 0, 0): (60, 180, 60),
    (0, 0, -1): (200, 180, 60),
    (-1, 0, 0): (60, 180, 200),
    (0, 1, 0): (60, 60, 200),
    (0, -1, 0): (190, 60, 190),
}


def coloured_cube() -> tuple[bytes, bytes]:
    """A unit cube with one colour per side, as a GLB and as a splat."""
    corners, faces, uv, means, colors = [], [], [], [], []
    grid = (np.arange(24) + 0.5) / 24 - 0.5
    for index, (direction, color) in enumerate(SIDES.items()):
        normal = np.array(direction, float)
        u = np.roll(normal, 1)
        v = np.cross(normal, u)
        base = 4 * index
        corners += [(normal + a * u + b * v) / 2 for a, b in ((-1, -1), (1, -1), (1, 1), (-1, 1))]
        faces += [(base, base + 1, base + 2), (base, base + 2, base + 3)]
        uv += [((index + 0.5) / 6, 0.5)] * 4
        means += [normal / 2 + a * u + b * v for a in grid for b in grid]
        colors += [color] * grid.size**2
    image = png(np.repeat(np.array([list(SIDES.values())], np.uint8), 8, axis=1).repeat(8, axis=0))
    return glb_file(np.array(corners), np.array(faces), np.array(uv), image), splat_bytes(
        np.array(means), np.array(colors)
    )


GLB, SPLATS = coloured_cube()
PICTURE = png(np.full((4, 6, 3), 90, np.uint8))


def full_page(report: dict | None = None, title: str = EVIL) -> str:
    images = {"photo": PICTURE, "preview": PICTURE}
    return report_page(REPORT if report is None else report, glb=GLB, splats=SPLATS, images=images, title=title)


# ---------------------------------------------------------------------------------------------------------------------
# Safety: nothing in a page runs, loads or leads anywhere


def test_a_file_name_that_is_a_script_stays_text():
    page = Page(full_page())
    assert EVIL in page.text
    assert [script.get("type") for script in page.all("script")] == ["application/octet-stream;base64"] * 2 + [None]
    assert not any("alert(1)" in script for script in page.raw["script"])


@pytest.mark.parametrize("text", ['"><img src=x onerror=alert(1)>', "</title><b>", "</script><!--", "' onload='x"])
def test_hostile_text_anywhere_in_a_report_makes_no_element(text):
    def poison(value):
        if isinstance(value, dict):
            return {key: poison(item) for key, item in value.items()} | {text: text}
        if isinstance(value, list):
            return [poison(item) for item in value]
        return text

    clean, poisoned = Page(full_page()), Page(full_page(poison(REPORT), title=text))
    allowed = {tag for tag, _ in clean.elements}
    assert {tag for tag, _ in poisoned.elements} <= allowed
    assert not any(key.startswith("on") for _, attributes in poisoned.elements for key in attributes)
    assert len(poisoned.all("img")) == len(clean.all("img"))
    assert text in poisoned.text


def test_a_page_names_no_address_even_where_the_report_does():
    page = full_page({**REPORT, "guessed": ["see https://example.org/page for more"]})
    assert not re.search(r"(?i)(https?|ftp|wss?)://", page)
    assert "https://example.org/page" in Page(page).text


def test_nothing_is_loaded_from_outside_the_page():
    page = Page(full_page())
    for _, attributes in page.elements:
        for key in ("src", "href", "action", "srcset", "poster", "data"):
            assert (attributes.get(key) or "data:").startswith("data:")
    assert "url(" not in page.raw["style"][0] and "@import" not in page.raw["style"][0]
    assert not re.search(r"\b(fetch|XMLHttpRequest|WebSocket|importScripts|eval|sendBeacon)\b", page.raw["script"][-1])


def test_the_policy_permits_exactly_the_style_and_script_of_the_page():
    page = Page(full_page())
    (policy,) = [meta["content"] for meta in page.all("meta") if meta.get("http-equiv") == "Content-Security-Policy"]

    def digest(text):
        return "'sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() + "'"

    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == "'none'"
    assert rules["script-src"] == digest(page.raw["script"][-1])
    assert rules["style-src"] == digest(page.raw["style"][0])
    assert not any("style" in attributes for _, attributes in page.elements), "the policy blocks style attributes"


def test_invisible_and_direction_characters_cannot_disguise_a_name():
    page = full_page(title="cat\u202egnp.exe\x00\ud800")
    assert "cat\ufffdgnp.exe\ufffd\ufffd" in page
    page.encode()  # a half surrogate would fail here


# ---------------------------------------------------------------------------------------------------------------------
# Completeness: what the report holds is what the page says


def test_embedded_files_come_back_byte_for_byte():
    blocks = [text for text in Page(full_page()).raw["script"][:2]]
    assert [base64.b64decode(text) for text in blocks] == [GLB, SPLATS]


def test_the_page_is_hardly_larger_than_its_payload_in_base64():
    glb = GLB + b"\0" * 300_000
    page = report_page({}, glb=glb, splats=SPLATS)
    overhead = len(page) - 4 * (len(glb) + len(SPLATS)) / 3
    assert 0 < overhead < 60_000


def test_findings_state_the_remedy_and_warnings_come_first():
    text = Page(full_page()).text
    warning, note = text.index("Warning: Touches border"), text.index("Note: Small object")
    assert warning < note
    assert "12 % of the outline lies on the border." in text
    assert "What to do: Leave space around the object." in text
    assert text.count("What to do") == 1, "a check without a remedy promises none"


def test_no_checks_is_said_and_absent_checks_are_not():
    assert "Nothing about the photo" in report_page({"checks": []})
    assert "Nothing about the photo" not in report_page({})


def test_numbers_are_written_for_people():
    text = Page(full_page()).text
    for expected in ("20\u202f000", "43 % of the surface", "1.83 MB", "0.75", "400 MB", "alpha, confidence 0.953"):
        assert expected in text
    assert "1234567" in text, "a seed is copied by hand and keeps its digits together"


def test_a_closed_mesh_is_called_watertight_and_an_open_one_says_why_not():
    text = Page(full_page()).text
    assert re.search(r"Watertight\s*yes", text) and "Against it" not in text
    open_edged = {"ok": False, "closed": False, "oriented": True, "open_edges": 12, "duplicate_faces": 0}
    text = Page(full_page({**REPORT, "mesh": {"watertight": open_edged}})).text
    assert (
        re.search(r"Watertight\s*no", text)
        and "12 open edges, not closed" in text
        and "duplicate" not in text[: text.index("{")]
    )


def test_the_whole_report_is_in_the_page():
    text = Page(full_page()).text
    start = text.index("{\n")
    assert json.loads(text[start : text.rindex("}") + 1]) == REPORT


def test_an_empty_report_still_makes_a_page():
    page = Page(report_page({}))
    assert page.all("h1") and not page.open
    assert not page.all("canvas") and page.raw["script"] == []


@pytest.mark.parametrize("key", sorted(REPORT))
@pytest.mark.parametrize("value", [None, 7, "text", [], [None, 3, {}], {"x": float("nan")}])
def test_a_report_of_another_shape_is_no_reason_to_fail(key, value):
    page = Page(full_page({**REPORT, key: value}))
    assert not page.open


def test_equal_reports_give_equal_pages():
    assert full_page() == full_page()


# ---------------------------------------------------------------------------------------------------------------------
# Arguments


def test_a_viewer_without_anything_to_show_is_refused():
    with pytest.raises(InputError, match="pass glb=, splats= or both"):
        viewer_page(title="nothing")


@pytest.mark.parametrize(
    ("arguments", "remedy"),
    [
        ({"glb": b"solid stl"}, "pass the bytes of a .glb"),
        ({"splats": b"ply\n" * 5}, "pass the bytes of a .splat"),
        ({"splats": b""}, "pass the bytes of a .splat"),
    ],
)
def test_bytes_of_another_format_are_refused_with_a_remedy(arguments, remedy):
    with pytest.raises(InputError, match=re.escape(remedy)):
        viewer_page(**arguments)
    with pytest.raises(InputError, match=re.escape(remedy)):
        report_page({}, **arguments)


def test_an_image_that_is_none_is_refused():
    with pytest.raises(InputError, match="PNG, JPEG, GIF or WebP"):
        report_page({}, images={"photo": b"<svg onload=alert(1)>"})


@pytest.mark.parametrize("mode", ["PNG", "JPEG", "GIF", "WEBP"])
def test_images_are_embedded_with_their_own_type(mode):
    buffer = io.BytesIO()
    Image.new("RGB", (3, 2), (10, 20, 30)).save(buffer, mode)
    (image,) = Page(report_page({}, images={"cutout": buffer.getvalue()})).all("img")
    kind, data = re.fullmatch(r"data:image/(\w+);base64,(.+)", image["src"]).groups()
    assert kind == mode.lower() and base64.b64decode(data) == buffer.getvalue()
    assert image["alt"]


def test_a_saved_file_is_named_after_the_photo_and_stays_in_its_folder():
    page = Page(viewer_page(glb=GLB, title="../../etc/my cat (1).heic"))
    (name,) = [button["data-name"] for button in page.all("button") if button.get("data-save") == "mesh"]
    assert name == "etc-my-cat-1.glb"


# ---------------------------------------------------------------------------------------------------------------------
# The script and the style as files


def test_every_script_of_the_viewer_folder_is_used():
    import obverse.formats.page as module

    folder = Path(module.__file__).parent / "viewer"
    assert {path.name for path in folder.glob("*.js")} == set(SCRIPTS)
    for path in folder.iterdir():
        text = path.read_text(encoding="utf-8")
        assert "\r" not in text and "</script" not in text and "</style" not in text


def test_every_button_can_be_reached_and_named():
    page = Page(full_page())
    buttons = page.all("button")
    assert {"texture", "clay", "wire", "splat"} == {b["data-mode"] for b in buttons if "data-mode" in b}
    assert all(b.get("type") == "button" for b in buttons)
    (canvas,) = page.all("canvas")
    assert canvas["tabindex"] == "0" and canvas["aria-label"]
    assert all(group.get("aria-label") for group in page.all("div") if group.get("role") == "group")


# ---------------------------------------------------------------------------------------------------------------------
# In a browser, where there is one


def screenshot(tmp_path: Path, page: str, view: str) -> np.ndarray:
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if browser is None:
        pytest.skip("no chromium on PATH, so the page cannot be looked at")
    file, picture = tmp_path / "page.html", tmp_path / "picture.png"
    file.write_text(page, encoding="utf-8")
    command = [
        browser, "--headless", "--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader",
        "--disable-background-networking", "--no-first-run", f"--user-data-dir={tmp_path / 'profile'}",
        "--window-size=500,700", "--virtual-time-budget=3000", f"--screenshot={picture}", f"{file.as_uri()}#{view}",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, timeout=60)
    if not picture.exists():
        pytest.skip(f"the browser made no picture: {done.stderr.decode(errors='replace')[-300:]}")
    return np.asarray(Image.open(picture).convert("RGB")).astype(int)


def colour_shares(pixels: np.ndarray) -> dict[tuple[int, int, int], int]:
    """Pixels near each side's colour, counted by side."""
    return {
        side: int((np.abs(pixels - np.array(color)).max(-1) < 26).sum())
        for side, color in SIDES.items()
    }  # fmt: skip


@pytest.mark.parametrize("mode", ["texture", "splat"])
def test_in_a_browser_mesh_and_splat_both_show_the_right_side(tmp_path, mode):
    """Half-way between front and right, from above: +Z must be on the left, +X on the right, +Y on top."""
    view = f"mode={mode}&azimuth=45&elevation=30&turn=off&background=light"
    pixels = screenshot(tmp_path, viewer_page(glb=GLB, splats=SPLATS, title="cube"), view)
    shares = colour_shares(pixels)
    for side in ((0, 0, 1), (1, 0, 0), (0, 1, 0)):
        assert shares[side] > 4000, f"{side} is hardly seen: {shares}"
    for side in ((0, 0, -1), (-1, 0, 0), (0, -1, 0)):
        assert shares[side] < 200, f"{side} should be hidden: {shares}"

    def centre(side):
        rows, columns = np.nonzero(np.abs(pixels - np.array(SIDES[side])).max(-1) < 26)
        return rows.mean(), columns.mean()

    front, right, top = centre((0, 0, 1)), centre((1, 0, 0)), centre((0, 1, 0))
    assert front[1] < 240 < 260 < right[1] and top[0] < front[0] and top[0] < right[0]
