"""Families of other made things: tools, machines, furniture, vehicles, clothing, ornaments, bare shapes.

Each function puts one random object of its family on a ``Build``: +Y up, its front towards +Z, in any unit.
"""

from __future__ import annotations

import numpy as np

from .procedural_build import Build
from .procedural_shapes import (
    TURN,
    Part,
    bend,
    box,
    cylinder,
    extrude,
    lathe,
    loft,
    polygon,
    quadric,
    ring,
    ripple,
    spline,
    sweep,
    taper,
    torus,
    twist,
    wobbly,
)
from .procedural_textures import ANY

# ---------------------------------------------------------------------------------------------------------------------
# Tools and machines
# ---------------------------------------------------------------------------------------------------------------------


def rod(b: Build, radii: list[float], heights: list[float]) -> Part:
    """A turned rod with these radii at these heights, closed at both ends."""
    line = np.stack([radii, heights], axis=1)
    line = np.concatenate([[(0, heights[0])], spline(line, 20) if b.draw.chance(0.5) else line, [(0, heights[-1])]])
    return lathe(line, 22)


def tool(b: Build) -> None:
    """Hammers, screwdrivers, spoons, spatulas, brushes, pens, torches, wrenches, knives."""
    d = b.draw
    grip, steel = b.finish("solid", "solid", "wood", "stripes", "label"), b.finish("metal", "metal", "solid")
    kind = d.pick(("hammer", "driver", "spoon", "brush", "pen", "torch", "wrench", "knife"))
    r, long = d.between(0.1, 0.2), d.between(1.2, 2.2)
    stick = rod(b, [r, r * d.between(0.8, 1.2), r * d.between(0.7, 1.1), r], [0, long * 0.3, long * 0.7, long])
    b.add(stick, grip)
    if kind == "hammer":
        head = d.between(0.35, 0.6)
        b.add(cylinder(r * 1.6, head, bevel=0.03).turned(2, -90).moved(-0.1, long, 0), steel)
        b.add(
            box(head, r * 2, r * 1.6, radius=0.03)
            .mapped(box(head, r * 2, r * 1.6, radius=0.03).vertices)
            .moved(-head / 2, long, 0),
            steel,
        )
    elif kind == "driver":
        b.add(cylinder(r * 0.35, long * d.between(0.6, 1.2)).moved(0, long, 0), steel)
    elif kind == "spoon":
        w, h = d.between(0.25, 0.5), d.between(0.35, 0.7)
        bowl_part = quadric((w, h, 0.1), (1, 1))
        b.add(
            bowl_part.mapped(bowl_part.vertices + np.outer(0.4 * bowl_part.vertices[:, 1] ** 2, [0, 0, 1])).moved(
                0, long + h * 0.9, 0
            ),
            d.pick((grip, steel)),
        )
    elif kind == "brush":
        w = d.between(0.25, 0.6)
        b.add(box(w, 0.25, 0.2, radius=0.04).moved(0, long + 0.1, 0), steel)
        hair = box(w * 0.95, d.between(0.3, 0.7), 0.17, cuts=4)
        b.add(
            hair.mapped(ripple(hair.vertices, d, 0.05, 4)).moved(0, long + 0.45, 0),
            b.finish("stripes", "cloth", "solid"),
        )
    elif kind == "pen":
        b.add(cylinder(r * 1.08, long * 0.35, bevel=0.02).moved(0, long * 0.75, 0), b.finish("solid"))
        b.add(cylinder(r * 0.9, 0.25, top=0.03).scaled(1, -1, 1), steel)
    elif kind == "torch":
        b.add(rod(b, [r, r * 2, r * 2.2, r * 2.2], [0, 0.25, 0.4, 0.6]).moved(0, long - 0.05, 0), steel)
    elif kind == "wrench":
        angle = np.linspace(0.6, TURN - 0.6, 18) + np.pi / 2
        path = np.stack([np.cos(angle) * 0.28, np.sin(angle) * 0.28, 0 * angle], axis=1)
        b.add(sweep(path, 0.12, round_ends=False).moved(0, long + 0.25, 0), grip if d.chance(0.7) else steel)
        b.deform(lambda p: p * [1, 1, d.between(0.5, 0.9)])
    else:
        b.add(
            loft(
                np.stack(
                    [
                        np.column_stack([ring(4)[:, 0] * w, np.full(4, y), ring(4)[:, 1] * 0.05])
                        for w, y in ((0.2, long - 0.05), (0.22, long + 0.5), (0.15, long + 1.1), (0.02, long + 1.5))
                    ]
                ),
                caps=True,
            ),
            steel,
        )
    if d.chance(0.7):
        b.deform(lambda p: p @ np.array([[0, 0, 1], [1, 0, 0], [0, 1, 0.0]]))


def drill(b: Build) -> None:
    """Drills, hair dryers, water pistols, glue guns: a barrel, a grip, a nose."""
    d = b.draw
    f, dark = b.finish("solid", "emblem", "panels"), b.finish("solid", "panels", color=5)
    length, r = d.between(1.0, 1.6), d.between(0.22, 0.36)
    b.add(
        rod(b, [r * 0.8, r, r * d.between(0.9, 1.1), r * d.between(0.4, 0.9)], [0, 0.2, length * 0.6, length])
        .turned(2, 90)
        .moved(length / 2, 0, 0),
        f,
    )
    tall = d.between(0.8, 1.2)
    grip = sweep(
        spline([(0.15, 0, 0), (0.22, -tall * 0.5, 0), (0.3, -tall, 0)], 10),
        np.linspace(r * 0.7, r * 0.6, 10),
        flatten=0.75,
    )
    b.add(grip, d.pick((f, dark)))
    b.add(cylinder(r * 0.5, 0.3, top=r * 0.25).turned(2, 90).moved(-length / 2 + 0.03, 0, 0), dark)
    if d.chance(0.6):
        b.add(box(0.6, 0.22, 0.4, radius=0.05).moved(0.25, -tall - 0.05, 0), dark)
    b.add(box(0.12, 0.2, 0.1, radius=0.03).moved(-0.05, -r - 0.12, 0), dark)


def gadget(b: Build) -> None:
    """Keyboards, phones, remotes, cameras, speakers, routers, consoles: a rounded box with knobs, keys, lenses."""
    d = b.draw
    w, h, t = d.pick(
        ((2.4, 0.14, 0.8), (0.5, 1.0, 0.08), (1.0, 0.7, 0.4), (0.8, 1.3, 0.7), (1.2, 0.3, 0.9), (0.4, 1.4, 0.2))
    )
    w, h, t = w * d.between(0.8, 1.2), h * d.between(0.8, 1.2), t * d.between(0.8, 1.2)
    f = b.finish("solid", "panels", "metal", "emblem", boxed=True)
    b.add(box(w, h, t, radius=d.between(0.05, 0.48) * min(w, h, t), cuts=2), f)
    key = b.finish("solid", "printed", color=d.pick((3, 4, 5)))
    top = h < 0.5
    if top:
        columns, rows = d.whole(4, 12), d.whole(2, 4)
        pitch_x, pitch_z = w * 0.92 / columns, t * 0.85 / rows
        cap = box(pitch_x * 0.8, h * 0.5, pitch_z * 0.8)
        for i in range(columns):
            for j in range(rows):
                b.add(cap.moved((i - (columns - 1) / 2) * pitch_x, h * 0.5, (j - (rows - 1) / 2) * pitch_z), key)
        return
    for _ in range(d.whole(1, 5)):
        s = d.between(0.06, 0.3) * min(w, h)
        x, y = d.between(-0.5, 0.5) * (w - 2.4 * s), d.between(-0.5, 0.5) * (h - 2.4 * s)
        x = 0.0 if d.chance(0.5) else x
        lens = cylinder(s, t * d.between(0.1, 0.7), bevel=0.01, sides=20).turned(0, 90)
        plate = box(2 * s, 1.2 * s, t * 0.12, radius=0.01)
        b.add(d.pick((lens, plate)).moved(x, y, t * 0.48), b.finish("solid", "metal", "panels", "printed"))
    if d.chance(0.25):
        b.add(cylinder(0.03, h * 0.6, sides=10).moved(w * 0.35, h * 0.45, 0), key)


# ---------------------------------------------------------------------------------------------------------------------
# Furniture and vehicles
# ---------------------------------------------------------------------------------------------------------------------


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
                    back.mapped(
                        back.vertices - np.outer(curve * (back.vertices[:, 1] / tall + 0.5) ** 2, [0, 0, 1])
                    ).moved(0, h + tall / 2, -z / 2 + 0.05),
                    cover,
                )
            else:
                b.pair(box(0.07, tall, 0.07).moved(w / 2 - 0.06, h + tall / 2, -z / 2 + 0.05), frame_finish)
                for i in range(d.whole(1, 4)):
                    b.add(box(w - 0.1, 0.1, 0.05).moved(0, h + tall * (0.95 - 0.25 * i), -z / 2 + 0.05), frame_finish)
            if d.chance(0.3):
                b.pair(box(0.08, 0.06, z * 0.9).moved(w / 2, h + 0.35, 0), frame_finish)
                b.pair(box(0.06, 0.36, 0.06).moved(w / 2, h + 0.17, z * 0.35), frame_finish)
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


def vehicle(b: Build) -> None:
    """Cars, lorries, buses, trains and carts, seen with their nose along +X."""
    d = b.draw
    long, wide = d.between(1.8, 3.0), d.between(0.8, 1.1)
    paint, glass, rubber = (
        b.finish("solid", "solid", "emblem", "stripes", "panels"),
        b.finish("solid", color=5),
        b.finish("solid", color=np.array([0.07, 0.07, 0.08])),
    )
    kind = d.pick(("car", "lorry", "bus"), (0.55, 0.25, 0.2))
    low, roof = 0.2, d.between(0.75, 1.1)
    if kind == "car":
        hood = d.between(0.45, 0.65) * roof
        side = [
            (-1, 0.0),
            (1, 0.0),
            (1, hood * 0.8),
            (0.45, hood),
            (0.2, roof),
            (-0.55, roof * d.between(0.9, 1)),
            (-0.95, hood),
        ]
        section = spline([*side, side[0]], 44)[:-1] if d.chance(0.5) else polygon(np.array(side))
        body = extrude((section - [0, roof * 0.4]) * [long / 2, 1], wide, bevel=0.06)
        pinch = 1 - 0.22 * np.clip((body.vertices[:, 1] - 0.05) / roof, 0, 1)
        b.add(
            body.mapped(body.vertices * np.stack([np.ones_like(pinch), np.ones_like(pinch), pinch], axis=1)).moved(
                0, roof * 0.4 + low, 0
            ),
            paint,
        )
        cab = box(long * 0.34, roof * 0.32, wide * 0.93, radius=0.04).moved(-long * 0.09, low + roof * 0.78, 0)
        b.add(cab.mapped(cab.vertices), glass)
    else:
        b.add(
            box(long, roof * (1.2 if kind == "bus" else 0.25), wide, radius=0.06).moved(
                0, low + roof * (0.6 if kind == "bus" else 0.12), 0
            ),
            paint,
        )
        if kind == "lorry":
            b.add(box(long * 0.28, roof, wide, radius=0.06).moved(long * 0.36, low + roof * 0.5, 0), paint)
            b.add(box(long * 0.1, roof * 0.3, wide * 0.9).moved(long * 0.46, low + roof * 0.72, 0), glass)
            b.add(
                box(long * 0.68, roof * d.between(0.4, 1.2), wide, radius=0.02).moved(
                    -long * 0.15, low + roof * 0.6, 0
                ),
                b.finish("solid", "printed", "stripes", "wood", boxed=True),
            )
        else:
            b.add(box(long * 0.9, roof * 0.35, wide * 1.02).moved(0, low + roof * 0.85, 0), glass)
    r = d.between(0.2, 0.32)
    wheel = cylinder(r, 0.2, sides=22, bevel=0.03).turned(0, 90)
    hub = cylinder(r * 0.5, 0.22, sides=14).turned(0, 90)
    shine = b.finish("metal", "solid", color=4)
    for x in (long * 0.32, -long * 0.32) if long < 2.6 else (long * 0.35, -long * 0.2, -long * 0.38):
        for side in (1, -1):
            b.add(wheel.moved(x, r, side * wide * 0.48 - 0.1), rubber)
            b.add(hub.moved(x, r, side * wide * 0.48 - 0.11), shine)


# ---------------------------------------------------------------------------------------------------------------------
# Clothing, ornaments, and shapes for their own sake
# ---------------------------------------------------------------------------------------------------------------------


def shoe(b: Build) -> None:
    """Shoes and boots: a sole, a lofted upper with an opening, laces."""
    d = b.draw
    upper, sole = (
        b.finish("cloth", "solid", "stripes", "noise", "emblem"),
        b.finish("solid", "stripes", color=d.pick((1, 4, 5))),
    )
    long, tall = 2.6, d.pick((d.between(0.6, 0.9), d.between(1.0, 2.0)))
    z = np.linspace(0, 1, 20)
    half = (
        0.42
        * np.interp(z, [0, 0.03, 0.1, 0.35, 0.7, 0.9, 0.97, 1], [0.3, 0.55, 0.75, 0.75, 1.0, 0.85, 0.55, 0.2])
        * d.between(0.85, 1.15)
    )
    toe = d.between(0.3, 0.45)
    crest = np.interp(
        z,
        [0, 0.08, 0.3, 0.42, 0.6, 0.85, 1],
        [tall * 0.85, tall, tall * 0.92, tall * 0.7 if tall < 1 else 0.75, toe + 0.22, toe, toe * 0.4],
    )
    shape = ring(24, 2.4)
    rings = np.stack(
        [
            np.column_stack(
                [
                    shape[:, 0] * a * np.where(shape[:, 1] > 0, 1 - 0.35 * shape[:, 1] * min(c, 1), 1),
                    (shape[:, 1] + 1) / 2 * c,
                    np.full(24, (t - 0.5) * long),
                ]
            )
            for a, c, t in zip(half, crest, z, strict=True)
        ]
    )
    pieces = [(loft(rings), upper)]
    thick = d.between(0.12, 0.3)
    flat = np.stack(
        [
            np.column_stack(
                [shape[:, 0] * a * 1.08, (shape[:, 1] - 0.6) * thick / 2, np.full(24, (t - 0.5) * long * 1.04)]
            )
            for a, t in zip(half, z, strict=True)
        ]
    )
    pieces.append((loft(flat), sole))
    mouth = quadric((0.27, 0.05, 0.42), columns=20, rows=8).moved(0, tall * 0.97, -0.52 * long / 2 + 0.1)
    pieces.append((mouth, b.finish("solid", color=5)))
    lace = b.finish("solid", color=4)
    if d.chance(0.7):
        for i in range(4):
            t = 0.45 + 0.06 * i
            y = float(np.interp(t, z, crest))
            pieces.append(
                (
                    sweep(
                        spline([(-0.2, y - 0.06, 0), (0, y + 0.02, 0.0), (0.2, y - 0.06, 0)], 7), 0.03, outline=ring(8)
                    ).moved(0, 0, (t - 0.5) * long),
                    lace,
                )
            )
    if d.chance(0.15):
        b_parts = [(p.moved(0.5, 0, 0), f) for p, f in pieces] + [
            (p.scaled(-1, 1, 1).moved(-0.5, 0, 0), f) for p, f in pieces
        ]
        pieces = b_parts
    for part, finish in pieces:
        b.add(part, finish)


def hat(b: Build) -> None:
    """Hats, caps and helmets."""
    d = b.draw
    f, band = b.finish("cloth", "solid", "stripes", "emblem", "checks"), b.finish("solid", "stripes", color=3)
    tall, wide = d.between(0.5, 1.2), d.between(1.05, 1.9)
    top = d.between(0.55, 0.95)
    crown = spline(
        [(0.95, 0.05), (1.0, tall * 0.3), (top, tall * 0.85), (top * 0.5, tall), (0, tall * d.between(0.9, 1.05))], 18
    )
    b.add(lathe(np.concatenate([[(0, 0.0), (0.95, 0.0)], crown])), f)
    if d.chance(0.55):
        brim = lathe([(0, -0.03), (wide, -0.03), (wide, 0.03), (0, 0.05)], 40)
        lift = d.between(0.0, 0.35)
        b.add(brim.mapped(brim.vertices + np.outer(lift * np.abs(brim.vertices[:, 0]) ** 2 / wide, [0, 1, 0])), f)
        b.add(lathe([(1.02, 0.05), (1.02, 0.25), (0.9, 0.25)]), band)
    else:
        visor = quadric((0.75, 0.05, 0.6), (1.0, 1.0), columns=24, rows=8)
        b.add(
            visor.mapped(visor.vertices - np.outer(0.25 * visor.vertices[:, 0] ** 2, [0, 1, 0])).moved(0, 0.08, 1.0),
            band,
        )
    b.deform(lambda p: p * [0.88, 1, 1])


def cutout(b: Build) -> None:
    """Thick outlines: stars, hearts, gears, flowers, biscuits, letters, plaques."""
    d = b.draw
    kind = d.pick(("star", "wobbly", "gear", "heart", "letter", "frame"))
    depth = d.between(0.12, 0.6)
    f = b.finish(*ANY, "wood", "metal", "solid")
    angle = np.arange(64) * TURN / 64
    circle = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    if kind == "star":
        n, deep = d.whole(4, 9), d.between(0.35, 0.75)
        turn = np.arange(2 * n) * np.pi / n + np.pi / 2
        line = polygon(
            np.stack([np.cos(turn), np.sin(turn)], axis=1) * np.where(np.arange(2 * n) % 2, deep, 1)[:, None], 3
        )
    elif kind == "gear":
        line = circle * (1 + 0.13 * np.clip(2.5 * np.cos(d.whole(6, 14) * angle), -1, 1))[:, None]
    elif kind == "heart":
        line = np.stack(
            [
                np.sin(angle) ** 3,
                (13 * np.cos(angle) - 5 * np.cos(2 * angle) - 2 * np.cos(3 * angle) - np.cos(4 * angle)) / 15,
            ],
            axis=1,
        )[::-1]
    else:
        line = wobbly(d, 48, d.between(0.05, 0.4))
    if kind == "letter":
        bars = [box(0.25, 1.4, depth).moved(d.pick((-0.4, 0.0)), 0, 0)]
        bars += [box(1.0, 0.25, depth).moved(0, y, 0) for y in (0.58, 0.0, -0.58) if d.chance(0.6)]
        if d.chance(0.6):
            bars.append(
                box(0.25, d.pick((0.7, 1.4)), depth).moved(0.4, d.pick((0.0, 0.3, -0.3)) if len(bars) > 2 else 0, 0)
            )
        for bar in bars:
            b.add(bar, f)
    elif kind == "frame":
        w, h, t = d.between(0.6, 1.2), d.between(0.7, 1.3), d.between(0.08, 0.2)
        b.pair(box(t, h + t, 0.15).moved(w / 2, 0, 0), f)
        for s in (1, -1):
            b.add(box(w, t, 0.15).moved(0, s * h / 2, 0), f)
        b.add(box(w, h, 0.06).moved(0, 0, -0.03), b.finish("photo", "printed", "emblem", boxed=True))
        return
    else:
        b.add(extrude(line, depth, bevel=d.pick((0.0, 0.04, 0.1)) * depth * 2), f)
        if d.chance(0.5):
            b.add(extrude(line * d.between(0.4, 0.8), depth * 1.15, bevel=0.03), b.finish(*ANY))
    if d.chance(0.4):
        b.deform(lambda p: p[:, [0, 2, 1]] * [1, 1, -1])


def hose(b: Build) -> None:
    """Ropes, hoses, coils, rings, chains of beads, bent pipes."""
    d = b.draw
    f = b.finish("stripes", "solid", "metal", "noise", "gradient")
    kind = d.pick(("coil", "free", "rings", "beads"))
    if kind == "coil":
        turns, r = d.between(1.5, 4), d.between(0.08, 0.2)
        t = np.linspace(0, 1, int(turns * 20))
        rise = d.between(0.8, 2.4) * r * 2 * turns
        radius = 1 - t * d.pick((0.0, 0.5))
        path = np.stack([radius * np.cos(TURN * turns * t), rise * t, radius * np.sin(TURN * turns * t)], axis=1)
        b.add(sweep(path, r, outline=ring(12)), f)
    elif kind == "free":
        points = np.cumsum(d.rng.normal(0, 1, (d.whole(4, 6), 3)) * [1, 0.6, 0.7], axis=0)
        size = float(np.ptp(points, axis=0).max())
        radius = spline(np.array([[d.between(0.05, 0.16)] for _ in range(5)]), 44)[:, 0] * size
        b.add(sweep(spline(points, 44), np.maximum(radius, 0.03 * size), outline=ring(14)), f)
    elif kind == "rings":
        y = 0.0
        for _ in range(d.whole(1, 5)):
            r, t = d.between(0.5, 1.0), d.between(0.12, 0.3)
            b.add(torus(r, t, sides=28).moved(0, y + t, 0), b.finish(*ANY))
            y += 2 * t
    else:
        for i in range(d.whole(6, 14)):
            a, r = i * 0.5, 0.24
            b.add(
                quadric((r, r, r), columns=14, rows=8).moved(np.cos(a) * 1.0, 0.03 * i, np.sin(a) * 1.0),
                b.finish("solid", "stripes"),
            )


def assembly(b: Build) -> None:
    """Two to eight primitives that overlap, deformed together, sometimes mirrored or turned about an axis."""
    d = b.draw

    def primitive(size: float) -> Part:
        s = [size * d.between(0.5, 1.4) for _ in range(3)]
        kind = d.whole(0, 5)
        if kind == 0:
            return box(2 * s[0], 2 * s[1], 2 * s[2], radius=d.pick((0.0, 0.2)) * min(s), cuts=4)
        if kind == 1:
            return cylinder(s[0], 2 * s[1], top=s[0] * d.between(0.2, 1.1), bevel=0.05 * min(s[:2])).moved(0, -s[1], 0)
        if kind == 2:
            return torus(s[0], s[0] * d.between(0.15, 0.4), sides=24).turned(d.whole(0, 2), 90)
        if kind == 3:
            return extrude(wobbly(d, 32, 0.4) * s[0], s[1], bevel=0.1 * s[1])
        return quadric(s, (d.between(0.2, 1.6), d.between(0.2, 1.6)), columns=24, rows=14)

    b.add(primitive(1.0), b.finish(*ANY, "panels", "metal", "wood"))
    symmetry = d.pick(("none", "mirror", "turned"), (0.3, 0.45, 0.25))
    count = d.whole(1, 4)
    folds = d.whole(3, 5)
    for _ in range(count):
        host = b.parts[d.whole(0, len(b.parts) - 1)]
        at = host.vertices[d.whole(0, len(host.vertices) - 1)]
        part = primitive(d.between(0.25, 0.8)).turned(d.whole(0, 2), d.pick((0.0, 90.0, d.between(0, 90)))).moved(*at)
        f = b.finish(*ANY, "panels", "metal")
        if symmetry == "mirror":
            b.pair(part, f)
        elif symmetry == "turned" and count <= 2:
            for k in range(folds):
                b.add(part.turned(1, 360 * k / folds), f)
        else:
            b.add(part, f)
    if d.chance(0.3):
        turn = d.between(-60, 60)
        b.deform(lambda p: bend(p, turn))
    if d.chance(0.2):
        turn = d.between(-70, 70)
        b.deform(lambda p: twist(p, turn))
    if d.chance(0.3):
        amount = d.between(-0.4, 0.4)
        b.deform(lambda p: taper(p, amount))
