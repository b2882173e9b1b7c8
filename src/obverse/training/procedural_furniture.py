"""Families of things to sit in or on: furniture and vehicles.

Each function puts one random object of its family on a ``Build``: +Y up, in any unit.
"""

from __future__ import annotations

import numpy as np

from .procedural_build import Build
from .procedural_shapes import box, cylinder, extrude, loft, polygon, quadric, ring, spline, sweep, taper


def legs(b: Build, width: float, depth: float, height: float, finish: int) -> None:
    """Four legs under a seat or table top whose underside is at y = height."""
    d = b.draw
    r, lean = d.between(0.03, 0.08), d.between(0.0, 0.12)
    x, z = width / 2 - r * 1.5, depth / 2 - r * 1.5
    round_leg = d.chance(0.5)
    for side in (1, -1):
        path = np.array([(x + lean, 0.0, side * (z + lean)), (x, height + 0.01, side * z)])
        part = sweep(
            spline(path, 3), np.linspace(r * 0.7, r, 3), outline=ring(12) if round_leg else ring(4), round_ends=False
        )
        b.pair(part, finish)
    if d.chance(0.4):
        y = height * d.between(0.3, 0.6)
        b.pair(box(r, r, depth - 2 * r).moved(x, y, 0), finish)


def furniture(b: Build) -> None:
    """Chairs, stools, tables, shelves, sofas and chests of drawers."""
    d = b.draw
    frame_finish, cover = (
        b.finish("wood", "wood", "solid", "metal"),
        b.finish("cloth", "solid", "stripes", "wood", boxed=True),
    )
    kind = d.pick(("chair", "table", "shelf", "sofa", "chest", "stool"))
    if kind in ("chair", "table", "stool"):
        _seat(b, kind, frame_finish, cover)
    elif kind == "shelf":
        w, h, z = d.between(0.6, 1.4), d.between(1.0, 2.2), d.between(0.3, 0.6)
        b.pair(box(0.06, h, z).moved(w / 2, h / 2, 0), frame_finish)
        count = d.whole(2, 5)
        for i in range(count + 1):
            b.add(box(w, 0.05, z).moved(0, 0.03 + (h - 0.06) * i / count, 0), frame_finish)
        if d.chance(0.7):
            b.add(box(w, h, 0.03).moved(0, h / 2, -z / 2 + 0.02), frame_finish)
    elif kind == "sofa":
        w = d.between(1.2, 2.4)
        soft = lambda *s: box(*s, radius=0.1, cuts=2, bulge=0.02)  # noqa: E731
        b.add(soft(w, 0.45, 1.0).moved(0, 0.3, 0), cover)
        b.add(soft(w, 0.9, 0.3).moved(0, 0.65, -0.4), cover)
        b.pair(soft(0.25, 0.65, 1.0).moved(w / 2, 0.4, 0), cover)
    else:
        w, h, z = d.between(0.7, 1.5), d.between(0.7, 1.5), d.between(0.5, 0.8)
        b.add(box(w, h, z, radius=0.01).moved(0, h / 2, 0), frame_finish)
        count = d.whole(1, 4)
        for i in range(count):
            y = h * (i + 0.5) / count
            b.add(box(w * 0.9, h / count * 0.85, 0.04).moved(0, y, z / 2), cover)
            b.add(quadric((0.04, 0.04, 0.04), columns=10, rows=6).moved(0, y, z / 2 + 0.05), frame_finish)


def _seat(b: Build, kind: str, frame_finish: int, cover: int) -> None:
    """A chair, table or stool."""
    d = b.draw
    w, z = d.between(0.8, 1.1), d.between(0.8, 1.1)
    if kind == "table":
        w, z = d.between(1.0, 2.2), d.between(0.7, 1.2)
    h = d.between(0.7, 1.1)
    seat = box(w, d.between(0.05, 0.16), z, radius=d.pick((0.0, 0.03)), cuts=3)
    if kind != "chair" and d.chance(0.4):
        seat = cylinder(w / 2, 0.1, sides=32, bevel=0.02).moved(0, -0.05, 0).scaled(1, 1, z / w)
        w, z = w * 0.75, z * 0.75
    b.add(seat.moved(0, h, 0), cover)
    legs(b, w, z, h, frame_finish)
    if kind == "chair":
        tall = d.between(0.7, 1.2)
        if d.chance(0.5):
            back = box(w * 0.95, tall, 0.09, radius=0.03, cuts=4)
            curve = d.between(0, 0.3)
            b.add(
                back.mapped(back.vertices - np.outer(curve * (back.vertices[:, 1] / tall + 0.5) ** 2, [0, 0, 1])).moved(
                    0, h + tall / 2, -z / 2 + 0.05
                ),
                cover,
            )
        else:
            b.pair(box(0.07, tall, 0.07).moved(w / 2 - 0.06, h + tall / 2, -z / 2 + 0.05), frame_finish)
            for i in range(d.whole(1, 4)):
                b.add(box(w - 0.1, 0.1, 0.05).moved(0, h + tall * (0.95 - 0.25 * i), -z / 2 + 0.05), frame_finish)
        if d.chance(0.3):
            b.pair(box(0.08, 0.06, z * 0.9).moved(w / 2, h + 0.35, 0), frame_finish)
            b.pair(box(0.06, 0.36, 0.06).moved(w / 2, h + 0.17, z * 0.35), frame_finish)


def vehicle(b: Build) -> None:
    """Cars, lorries, buses, trains, planes and boats."""
    b.draw.pick((_car, _lorry, _bus, _plane, _boat), (0.45, 0.2, 0.12, 0.13, 0.1))(b)
    if b.draw.chance(0.5):
        b.deform(lambda p: p @ np.array([[0, 0, 1], [0, 1, 0], [-1, 0, 0.0]]))


def _wheels(b: Build, stations: tuple[float, ...], wide: float, radius: float) -> None:
    """Wheels with hubs on both sides at these places along x."""
    rubber, shine = b.finish("solid", color=np.array([0.1, 0.1, 0.11])), b.finish("metal", "solid", color=4)
    wheel = cylinder(radius, 0.2, sides=20, bevel=0.03).turned(0, 90)
    hub = cylinder(radius * b.draw.between(0.4, 0.7), 0.22, sides=14).turned(0, 90)
    for x in stations:
        for side in (1, -1):
            b.add(wheel.moved(x, radius, side * wide * 0.48 - 0.1), rubber)
            b.add(hub.moved(x, radius, side * wide * 0.48 - 0.11), shine)


def _car(b: Build) -> None:
    """A car: a body with a bonnet, a glass cabin that tapers, a roof, lamps."""
    d = b.draw
    long, wide = d.between(1.7, 2.8), d.between(0.85, 1.15)
    paint, glass = b.finish("solid", "solid", "emblem", "stripes", "panels"), b.finish("solid", color=5)
    radius = d.between(0.2, 0.34)
    low, waist = radius * 0.7, d.between(0.32, 0.55)
    nose, rear = d.between(0.5, 0.95), d.between(0.6, 1.0)
    side = [
        (-1, 0),
        (1, 0),
        (1.02, waist * nose * 0.6),
        (0.96, waist * nose),
        (0.4, waist),
        (-0.5, waist),
        (-0.98, waist * rear),
    ]
    flank = (np.array(side) - [0, waist * 0.5]) * [long / 2, 1]
    line = spline([*flank, flank[0]], 42)[:-1] if d.chance(0.4) else polygon(flank)
    b.add(extrude(line, wide, bevel=d.between(0.03, 0.08)).moved(0, waist * 0.5 + low, 0), paint)
    tall, span, place = d.between(0.25, 0.5), long * d.between(0.4, 0.62), -long * d.between(0.0, 0.16)
    if d.chance(0.88):
        cabin = box(span, tall, wide * 0.9, radius=0.05)
        lean = d.between(0.08, 0.3)
        b.add(cabin.mapped(taper(cabin.vertices, lean)).moved(place, low + waist + tall / 2 - 0.03, 0), glass)
        roof = box(span * (1 - lean), 0.09, wide * 0.92 * (1 - lean), radius=0.04)
        b.add(roof.moved(place, low + waist + tall, 0), paint)
        for x in (0.0, 0.46, -0.46):
            post = box(0.07, tall, wide * 0.92, radius=0.0)
            b.add(
                post.mapped(taper(post.vertices, lean)).moved(
                    place + x * span * 0.94, low + waist + tall / 2 - 0.02, 0
                ),
                paint,
            )
    lamp_finish = b.finish("solid", color=np.array([1.0, 0.96, 0.8]))
    for z in (0.33, -0.33):
        lamp = cylinder(0.08, 0.08, sides=12).turned(2, -90)
        b.add(lamp.moved(long * 0.48, low + waist * nose * 0.55, z * wide), lamp_finish)
    _wheels(b, (long * 0.31, -long * 0.31), wide, radius)


def _lorry(b: Build) -> None:
    """A lorry, tipper or pick-up: a frame, a cab with a windscreen, a load."""
    d = b.draw
    long, wide, high = d.between(1.9, 3.0), d.between(0.8, 1.1), d.between(0.75, 1.1)
    paint, glass = b.finish("solid", "solid", "emblem", "panels"), b.finish("solid", color=5)
    low, radius = 0.25, d.between(0.2, 0.32)
    b.add(box(long, high * 0.2, wide * 0.9, radius=0.03).moved(0, low + high * 0.1, 0), glass)
    b.add(box(long * 0.28, high, wide, radius=0.06).moved(long * 0.36, low + high * 0.5, 0), paint)
    b.add(box(long * 0.1, high * 0.35, wide * 0.88).moved(long * 0.458, low + high * 0.72, 0), glass)
    b.add(box(long * 0.14, high * 0.32, wide * 1.01).moved(long * 0.38, low + high * 0.72, 0), glass)
    load = b.finish("solid", "printed", "stripes", "wood", "emblem", boxed=True)
    if d.chance(0.25):
        tank = cylinder(wide * 0.48, long * 0.66, sides=24, bevel=0.06).turned(2, 90)
        b.add(tank.moved(long * 0.19, low + high * 0.2 + wide * 0.45, 0), load)
    else:
        tall = high * d.between(0.4, 1.3)
        b.add(box(long * 0.66, tall, wide, radius=0.02).moved(-long * 0.16, low + high * 0.18 + tall / 2, 0), load)
    places = (0.36, -0.2, -0.38) if d.chance(0.4) else (0.34, -0.3)
    _wheels(b, tuple(long * x for x in places), wide, radius)


def _bus(b: Build) -> None:
    """A bus, van or railway carriage: a long body with bands of windows."""
    d = b.draw
    long, wide, high = d.between(1.8, 3.2), d.between(0.8, 1.1), d.between(0.8, 1.4)
    paint, glass = b.finish("solid", "solid", "stripes", "printed", boxed=True), b.finish("solid", color=5)
    b.add(box(long, high, wide, radius=d.between(0.03, 0.2)).moved(0, 0.2 + high / 2, 0), paint)
    count = d.whole(3, 7)
    for i in range(count):
        x = long * 0.86 * ((i + 0.5) / count - 0.5)
        b.add(box(long * 0.7 / count, high * 0.3, wide * 1.02).moved(x, 0.2 + high * 0.7, 0), glass)
    b.add(box(long * 1.01, high * 0.35, wide * 0.8).moved(0, 0.2 + high * 0.68, 0), glass)
    _wheels(b, (long * 0.33, -long * 0.33), wide, d.between(0.2, 0.3))


def _plane(b: Build) -> None:
    """A plane, rocket or glider with its nose along +X."""
    d = b.draw
    paint, trim = b.finish("solid", "solid", "stripes", "emblem", "gradient"), b.finish("solid", "stripes", color=3)
    long, fat = d.between(2.2, 3.2), d.between(0.2, 0.4)
    girth = np.interp(np.linspace(0, 1, 18), [0, 0.3, 0.75, 0.92, 1], [0.3, 0.8, 1, 0.75, 0.25]) * fat
    path = np.stack([np.linspace(-long / 2, long / 2, 18), np.linspace(0.15, 0, 18), np.zeros(18)], axis=1)
    b.add(sweep(path, girth, outline=ring(18)), paint)
    span, sweep_back, chord = d.between(0.9, 1.7), d.between(0.0, 0.7), d.between(0.3, 0.6)
    wing = quadric((chord / 2, 0.05, span / 2), (0.6, 0.6), columns=20, rows=8)
    wing = wing.mapped(
        wing.vertices + np.outer(wing.vertices[:, 2] / span + 0.5, [-sweep_back, d.between(-0.1, 0.2), 0])
    )
    for part, x, y in ((wing, 0.15, d.between(-0.6, 0.6) * fat), (wing.scaled(0.5, 1, 0.42), -long * 0.44, 0.16)):
        reach = span / 2 if part is wing else span * 0.21
        b.add(part.moved(x, y, reach + 0.05), trim)
        b.add(part.moved(x, y, reach + 0.05).scaled(1, 1, -1), trim)
    b.add(quadric((0.2, 0.35, 0.04), (0.7, 1.0), columns=16, rows=8).moved(-long * 0.45, 0.4, 0), trim)
    b.add(
        quadric((0.32, 0.16, fat * 0.65), columns=16, rows=10).moved(long * 0.22, fat * 0.75, 0),
        b.finish("solid", color=5),
    )
    if d.chance(0.5):
        b.add(box(0.04, 0.9, 0.08, radius=0.01).turned(0, d.between(0, 90)).moved(long / 2 + 0.05, 0, 0), trim)


def _boat(b: Build) -> None:
    """A boat or ship with its bow along +X: a hull, a deck house, a mast or funnel."""
    d = b.draw
    hull, house = b.finish("solid", "gradient", "wood", "stripes"), b.finish("solid", "panels", "wood", color=4)
    t = np.linspace(0, 1, 16)
    half = d.between(0.3, 0.5) * np.interp(t, [0, 0.1, 0.5, 0.85, 1], [0.75, 0.9, 1, 0.6, 0.03])
    shape = ring(20, 3)
    rows = []
    for a, s in zip(half, t, strict=True):
        keel = 0.25 + 0.15 * s
        wide = a * np.where(shape[:, 1] < 0, 1 + 0.4 * shape[:, 1], 1)
        rows.append(
            np.column_stack(
                [np.full(20, (s - 0.5) * 2.4), np.maximum(shape[:, 1], -1) * keel + 0.1 * s, shape[:, 0] * wide]
            )
        )
    b.add(loft(np.stack(rows)), hull)
    y = 0.25
    for _ in range(d.whole(1, 3)):
        tall = d.between(0.15, 0.35)
        b.add(
            box(d.between(0.4, 1.0), tall, d.between(0.3, 0.45), radius=0.03).moved(
                d.between(-0.4, 0), y + tall / 2, 0
            ),
            house,
        )
        y += tall * 0.95
    if d.chance(0.6):
        mast = cylinder(d.between(0.04, 0.14), d.between(0.4, 1.2), sides=14)
        b.add(mast.moved(-0.2, y - 0.1, 0), b.finish("solid", "stripes", "metal"))
