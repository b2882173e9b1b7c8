"""Line charts with bands, drawn with Pillow: enough for quality by angle, without a plotting package."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

PAPER, INK, GRID = (255, 255, 255), (40, 40, 46), (226, 228, 232)
# Told apart by colour-blind readers too (Okabe & Ito 2008).
COLORS = ((0, 114, 178), (213, 94, 0), (0, 158, 115), (204, 121, 167), (230, 159, 0), (86, 180, 233), (110, 110, 110))
BAND = 46  # opacity of intervals, 0–255
SCALE = 2  # drawn at twice the size and halved: smooth lines


@dataclass(frozen=True)
class Line:
    """One curve: points from left to right, each with an interval or none."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float | None]
    high: Sequence[float | None]


@dataclass(frozen=True)
class Panel:
    """One chart."""

    title: str
    x_title: str
    lines: Sequence[Line]
    x_ticks: Sequence[float]


def draw_panels(panels: Sequence[Panel], *, columns: int = 3, size: tuple[int, int] = (420, 300)) -> Image.Image:
    """Charts in rows of ``columns``, with one legend for all above them; a name has one colour throughout."""
    names = list(dict.fromkeys(line.name for panel in panels for line in panel.lines))
    colors = {name: COLORS[i % len(COLORS)] for i, name in enumerate(names)}
    width, height, head = size[0] * SCALE, size[1] * SCALE, 36 * SCALE
    rows = math.ceil(len(panels) / columns)
    sheet = Image.new("RGBA", (width * min(columns, len(panels)), head + height * rows), (*PAPER, 255))
    draw, font, x = ImageDraw.Draw(sheet), ImageFont.load_default(13 * SCALE), 16 * SCALE
    for name in names:
        draw.line((x, head * 0.6, x + 22 * SCALE, head * 0.6), fill=colors[name], width=3 * SCALE)
        draw.text((x + 28 * SCALE, head * 0.6), name, fill=INK, font=font, anchor="lm")
        x += 28 * SCALE + int(draw.textlength(name, font=font)) + 22 * SCALE
    for i, panel in enumerate(panels):
        chart = _chart(panel, colors, (width, height))
        sheet.paste(chart, (width * (i % columns), head + height * (i // columns)))
    return sheet.convert("RGB").resize((sheet.width // SCALE, sheet.height // SCALE), Image.Resampling.LANCZOS)


def _chart(panel: Panel, colors: dict[str, tuple[int, int, int]], size: tuple[int, int]) -> Image.Image:
    """One panel at its drawn size."""
    width, height = size
    left, right, top, bottom = 58 * SCALE, width - 16 * SCALE, 30 * SCALE, height - 46 * SCALE
    image = Image.new("RGBA", size, (*PAPER, 255))
    small, bold = ImageFont.load_default(11 * SCALE), ImageFont.load_default(13 * SCALE)
    values = [v for line in panel.lines for side in (line.y, line.low, line.high) for v in side if v is not None]
    ticks = nice_ticks(min(values), max(values)) if values else [0.0, 1.0]
    x_low, x_high = min(panel.x_ticks), max(panel.x_ticks)
    x_low, x_high = (x_low, x_high) if x_high > x_low else (x_low - 1, x_high + 1)

    def at(x: float, y: float) -> tuple[float, float]:
        return (
            left + (x - x_low) / (x_high - x_low) * (right - left),
            bottom - (y - ticks[0]) / (ticks[-1] - ticks[0]) * (bottom - top),
        )

    draw = ImageDraw.Draw(image)
    for tick in ticks:
        draw.line((*at(x_low, tick), *at(x_high, tick)), fill=GRID, width=SCALE)
        draw.text((left - 6 * SCALE, at(x_low, tick)[1]), f"{tick:g}", fill=INK, font=small, anchor="rm")
    for tick in panel.x_ticks:
        place = at(tick, ticks[0])
        draw.line((*place, place[0], place[1] + 4 * SCALE), fill=INK, width=SCALE)
        draw.text((place[0], place[1] + 7 * SCALE), f"{tick:g}°", fill=INK, font=small, anchor="mt")
    draw.line((left, bottom, right, bottom), fill=INK, width=SCALE)
    draw.text((left, 8 * SCALE), panel.title, fill=INK, font=bold, anchor="lt")
    draw.text(((left + right) / 2, height - 8 * SCALE), panel.x_title, fill=INK, font=small, anchor="mb")
    for line in panel.lines:
        _band(image, [at(x, y) for x, y in _around(line)], colors[line.name])
    draw = ImageDraw.Draw(image)
    for line in panel.lines:
        points = [at(x, y) for x, y in zip(line.x, line.y, strict=True)]
        if len(points) > 1:
            draw.line(points, fill=colors[line.name], width=2 * SCALE, joint="curve")
        for x, y in points:
            r = 3 * SCALE
            draw.ellipse((x - r, y - r, x + r, y + r), fill=colors[line.name])
    return image


def _around(line: Line) -> list[tuple[float, float]]:
    """Corners of the band: along the upper ends and back along the lower ones; nothing where ends are missing."""
    both = [(x, a, b) for x, a, b in zip(line.x, line.low, line.high, strict=True) if a is not None and b is not None]
    return [(x, b) for x, _, b in both] + [(x, a) for x, a, _ in reversed(both)] if len(both) > 1 else []


def _band(image: Image.Image, corners: list[tuple[float, float]], color: tuple[int, int, int]) -> None:
    """Lay a translucent polygon over an RGBA image."""
    if corners:
        layer = Image.new("RGBA", image.size, (*color, 0))
        ImageDraw.Draw(layer).polygon(corners, fill=(*color, BAND))
        image.alpha_composite(layer)


def nice_ticks(low: float, high: float, *, count: int = 5) -> list[float]:
    """About ``count`` round numbers, the first not above ``low`` and the last not below ``high``."""
    span = high - low if high > low else max(abs(low), 1.0) * 0.1
    power = 10 ** math.floor(math.log10(span / count))
    step = next(power * m for m in (1, 2, 2.5, 5, 10) if power * m * count >= span)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(i * step, 10) for i in range(first, max(last, first + 1) + 1)]
