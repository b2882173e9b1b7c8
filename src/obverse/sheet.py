"""The contact sheet: photo, cut-out, and the asset from all around, labelled, in one picture to look at."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from .cameras import Views
from .photo import Subject

if TYPE_CHECKING:
    from .asset import Asset

AZIMUTHS = (0, 45, 90, 135, 180, 225, 270, 315)
ELEVATION = 15
PAPER, INK, GRID = (255, 255, 255), (40, 40, 46), (226, 228, 232)


def contact_sheet(asset: Asset, *, cell: int = 224) -> Image.Image:
    """Two rows: the photo above its cut-out, then eight views of the mesh above the same views of the splat.

    Args:
        asset: what to show.
        cell: side of one picture in pixels.
    """
    sheet, put = _paper(len(AZIMUTHS) + 1, 2, cell)
    put(0, 0, letterbox(as_shown(asset.subject), cell), "photo")
    put(0, 1, over_checkerboard(asset.subject.resized(cell)), f"cut-out ({asset.subject.matte})")
    for row, kind in enumerate(("mesh", "splat")):
        views = asset.views(AZIMUTHS, ELEVATION, size=cell, of=kind)  # type: ignore[arg-type]
        for column, azimuth in enumerate(AZIMUTHS):
            put(column + 1, row, to_image(views.images[column, ..., :3]), f"{kind} {azimuth}°")
    return sheet


def views_sheet(subject: Subject, views: Views, labels: Sequence[str], *, cell: int = 224) -> Image.Image:
    """The photo and its cut-out, then views [V, H, W, 3 or 4] with a label each, in rows of at most eight.

    Args:
        subject: what the views were made from.
        views: what to show.
        labels: one per view.
        cell: side of one picture in pixels.
    """
    pictures = [letterbox(as_shown(subject), cell), over_checkerboard(subject.resized(cell))]
    for image in views.images:
        opaque = image.shape[-1] == 3
        pictures.append(to_image(image) if opaque else to_image(image[..., :3] * image[..., 3:] + 1 - image[..., 3:]))
    columns = min(8, len(pictures))
    sheet, put = _paper(columns, math.ceil(len(pictures) / columns), cell)
    for place, (picture, label) in enumerate(zip(pictures, ["photo", "cut-out", *labels], strict=True)):
        put(place % columns, place // columns, picture, label)
    return sheet


def _paper(columns: int, rows: int, cell: int) -> tuple[Image.Image, Callable[[int, int, Image.Image, str], None]]:
    """An empty sheet, and a function that puts a labelled picture into (column, row) of it."""
    label, gap = max(14, cell // 12), 6
    height = cell + label
    sheet = Image.new("RGB", (columns * (cell + gap) + gap, rows * (height + gap) + gap), PAPER)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(label * 0.72)

    def put(column: int, row: int, image: Image.Image, text: str) -> None:
        x, y = gap + column * (cell + gap), gap + row * (height + gap)
        sheet.paste(
            image.resize((cell, cell), Image.Resampling.LANCZOS) if image.size != (cell, cell) else image, (x, y)
        )
        draw.rectangle((x - 1, y - 1, x + cell, y + height), outline=GRID)
        draw.text((x + 5, y + cell + 1), text, fill=INK, font=font)

    return sheet, put


def to_image(pixels: Tensor) -> Image.Image:
    """Pixels [H, W, 3 or 4] in 0–1 → 8-bit PIL image."""
    return Image.fromarray((pixels.clamp(0, 1) * 255 + 0.5).to(torch.uint8).numpy())


def png_bytes(image: Image.Image) -> bytes:
    """A PIL image as PNG, at a compression level that favours speed."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=3)
    return buffer.getvalue()


def as_shown(subject: Subject) -> Tensor:
    """The photo as an image viewer shows it → [H, W, 3]: one with an alpha of its own over white."""
    if subject.matte != "alpha":
        return subject.photo
    alpha = subject.alpha[..., None]
    return subject.photo * alpha + (1 - alpha)


def letterbox(photo: Tensor, side: int) -> Image.Image:
    """Photo [H, W, 3] → a square picture that shows all of it."""
    image = to_image(photo)
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    square = Image.new("RGB", (side, side), (246, 246, 248))
    square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return square


def over_checkerboard(rgba: Tensor) -> Image.Image:
    """Cut-out [S, S, 4] over the grey squares that mean "transparent"."""
    side = rgba.shape[0]
    squares = np.add.outer(np.arange(side) // 12, np.arange(side) // 12) % 2
    board = torch.from_numpy(np.where(squares, 0.94, 0.82).astype(np.float32))[..., None]
    return to_image(rgba[..., :3] * rgba[..., 3:] + board * (1 - rgba[..., 3:]))
