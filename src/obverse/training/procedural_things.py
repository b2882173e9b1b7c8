"""Families of other made things: tools, machines, furniture, vehicles, clothing, ornaments, bare shapes.

Each function puts one random object of its family on a ``Build``: +Y up, its front towards +Z, in any unit.
"""

from __future__ import annotations

import numpy as np

from .procedural_build import Build
from .procedural_shapes import (
    TURN,
    Array,
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
    """Hammers, screwdrivers, spoons, brushes, pens, torches, wrenches, knives, scissors."""
    d = b.draw
    grip, steel = b.finish("solid", "solid", "wood", "stripes", "label"), b.finish("metal", "metal", "solid")
    kind = d.pick(("hammer", "driver", "spoon", "brush", "pen", "torch", "wrench", "knife", "scissors"))
    r, long = d.between(0.1, 0.2), d.between(1.2, 2.2)
    stick = rod(b, [r, r * d.between(0.8, 1.2), r * d.between(0.7, 1.1), r], [0, long * 0.3, long * 0.7, long])
    if kind == "scissors":
        _scissors(b, grip, steel)
    else:
        b.add(stick, grip)
        _head(b, kind, (r, long), (grip, steel))
    if d.chance(0.7):
        b.deform(lambda p: p @ np.array([[0, 0, 1], [1, 0, 0], [0, 1, 0.0]]))


def _scissors(b: Build, grip: int, steel: int) -> None:
    """Two blades that cross, each with a ring to hold."""
    d = b.draw
    spread, long = d.between(5, 22), d.between(0.9, 1.6)
    outline = np.array([(-0.09, 0), (0.09, 0), (0.09, long * 0.6), (0.0, long), (-0.09, long * 0.6)])
    blade = extrude(polygon(outline - [0, long * 0.4]), 0.05).moved(0, long * 0.4, 0)
    hold = sweep(np.array([(0, 0.05, 0), (0, -0.3, 0), (0.03, -0.55, 0)]), 0.06, outline=ring(10))
    eye = (
        torus(d.between(0.18, 0.26), 0.06, sides=22).turned(0, 90).scaled(1, d.between(1, 1.4), 1).moved(0.08, -0.8, 0)
    )
    for side in (1, -1):
        for part, finish in ((blade, steel), (hold, grip), (eye, grip)):
            b.add(part.turned(2, spread).scaled(side, 1, 1).moved(0, 0, 0.03 * side), finish)
    b.add(cylinder(0.06, 0.14, sides=14).turned(0, 90).moved(0, 0, -0.07), steel)


def _head(b: Build, kind: str, size: tuple[float, float], finishes: tuple[int, int]) -> None:
    """The working end of a tool whose stick has this radius and length; the finishes of its grip and of its metal."""
    d = b.draw
    (r, long), (grip, steel) = size, finishes
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
# Clothing, ornaments, and shapes for their own sake
# ---------------------------------------------------------------------------------------------------------------------


def shoe(b: Build) -> None:
    """Shoes and boots, alone or as a pair: a sole, an upper with an opening, laces, a cap over the toe, stripes."""
    d = b.draw
    upper = b.finish("cloth", "cloth", "solid", "stripes", "noise", "emblem", "checks")
    sole = b.finish("solid", "stripes", color=d.pick((1, 4, 4, 5)))
    dark = b.finish("solid", color=5)
    tall = d.pick((d.between(0.6, 0.9), d.between(0.6, 0.9), d.between(1.0, 2.0)))
    wide, toe = 0.42 * d.between(0.85, 1.15), d.between(0.3, 0.45)
    z = np.linspace(0, 1, 20)
    half = wide * np.interp(
        z, [0, 0.03, 0.1, 0.35, 0.7, 0.9, 0.97, 1], [0.3, 0.55, 0.75, 0.75, 1.0, d.between(0.7, 0.9), 0.55, 0.2]
    )
    instep = tall * 0.75 if tall < 1 else 0.75
    crest = np.interp(
        z, [0, 0.08, 0.3, 0.42, 0.6, 0.85, 1], [tall * 0.9, tall, tall * 0.95, instep, toe + 0.2, toe, toe * 0.4]
    )
    pieces = [(_upper(half, crest, z), upper)]
    thick, shape = d.between(0.12, 0.3), ring(24, 2.4)
    flat = [
        np.column_stack([shape[:, 0] * a * 1.08, (shape[:, 1] - 0.6) * thick / 2, np.full(24, (t - 0.5) * LAST * 1.04)])
        for a, t in zip(half, z, strict=True)
    ]
    pieces.append((loft(np.stack(flat)), sole))
    top = wide * 0.75 * (1 - 0.35 * min(tall, 1.0))
    mouth = quadric((top * 0.8, 0.06, 0.3), columns=20, rows=8)
    collar = torus(1.0, 0.14, sides=22).scaled(top, 0.35, 0.36)
    opening = (0, tall * 0.985, -0.31 * LAST)
    pieces += [(mouth.turned(0, 4).moved(*opening), dark), (collar.turned(0, 4).moved(*opening), d.pick((upper, sole)))]
    if d.chance(0.7):
        lace = b.finish("solid", color=4)
        for i in range(4):
            t = 0.45 + 0.06 * i
            y = float(np.interp(t, z, crest))
            path = spline([(-0.2, y - 0.06, 0), (0, y + 0.02, 0.0), (0.2, y - 0.06, 0)], 7)
            pieces.append((sweep(path, 0.03, outline=ring(8)).moved(0, 0, (t - 0.5) * LAST), lace))
    if d.chance(0.5):
        front = np.linspace(d.between(0.75, 0.85), 1, 8)
        pieces.append((_upper(np.interp(front, z, half) * 1.04, np.interp(front, z, crest) * 1.04, front), sole))
    if d.chance(0.4):
        back = np.linspace(0, d.between(0.12, 0.25), 6)
        cap = _upper(np.interp(back, z, half) * 1.05, np.interp(back, z, crest) * d.between(0.5, 0.9), back)
        pieces.append((cap.moved(0, 0, -0.02), sole))
    if d.chance(0.15):
        right = [(part.moved(0.5, 0, 0), finish) for part, finish in pieces]
        pieces = right + [(part.scaled(-1, 1, 1), finish) for part, finish in right]
    for part, finish in pieces:
        b.add(part, finish)


LAST = 2.6  # length of a shoe


def _upper(half: Array, crest: Array, along: Array) -> Part:
    """The upper of a shoe from its half widths and heights at shares of its length, heel to toe."""
    shape = ring(24, 2.4)
    rows = []
    for a, c, t in zip(half, crest, along, strict=True):
        narrow = np.where(shape[:, 1] > 0, 1 - 0.35 * shape[:, 1] * min(c, 1), 1)
        rows.append(
            np.column_stack([shape[:, 0] * a * narrow, (shape[:, 1] + 1) / 2 * c, np.full(24, (t - 0.5) * LAST)])
        )
    return loft(np.stack(rows))


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


def ball(b: Build) -> None:
    """Balls, eggs, marbles, globes on a foot: printed, dimpled, ribbed or with seams."""
    d = b.draw
    part = quadric((1, d.pick((1.0, 1.0, 1.0, d.between(0.7, 1.4))), 1), columns=44, rows=26)
    f = b.finish(*ANY, "solid", "emblem", "metal", "printed")
    relief = d.pick(("smooth", "dimples", "ribs"), (0.7, 0.15, 0.15))
    if relief == "dimples":
        count = d.whole(6, 12)
        waves = np.prod(np.sin(part.vertices * count), axis=1)
        part = part.mapped(part.vertices * (1 + 0.05 * waves)[:, None])
    elif relief == "ribs":
        count, turn = d.whole(4, 12), np.arctan2(part.vertices[:, 2], part.vertices[:, 0])
        part = part.mapped(part.vertices * (1 - 0.04 * np.abs(np.cos(count * turn)) ** 8)[:, None])
    b.add(part.turned(0, d.between(0, 90)), f)
    if d.chance(0.3):
        tilt = d.between(0, 90)
        seam = torus(1.0, 0.025, sides=40)
        for angle in d.pick(((tilt,), (tilt, tilt + 90), (0, 60, 120))):
            b.add(seam.turned(0, angle), b.finish("solid", color=d.pick((3, 4, 5))))
    if d.chance(0.15):
        b.add(cylinder(0.5, 0.35, top=0.25, bevel=0.02).moved(0, -1.3, 0), b.finish("wood", "metal", "solid"))


def figure(b: Build) -> None:
    """Robots and figurines of separate round or square parts: body, head, arms, legs, antennas."""
    d = b.draw
    main = b.finish("solid", "emblem", "emblem", "panels", "metal")
    second = b.finish("solid", "solid", "metal", color=d.pick((0, 0, 3, 4, 5)))
    square = d.chance(0.4)

    def block(w: float, h: float, t: float) -> Part:
        if square:
            return box(w, h, t, radius=0.2 * min(w, h, t), cuts=2)
        r = min(0.1, h * 0.3)
        return cylinder(w / 2, h, bevel=r, sides=26).moved(0, -h / 2, 0).scaled(1, 1, t / w)

    w, h, deep = d.between(0.7, 1.1), d.between(0.7, 1.2), d.between(0.6, 0.95)
    leg, thick = d.between(0.2, 0.8), d.between(0.2, 0.32)
    b.add(block(w, h, w * deep).moved(0, leg + h / 2, 0), main)
    b.pair(block(thick, leg + 0.1, thick).moved(w * 0.25, leg / 2 + 0.05, 0), second)
    if d.chance(0.4):
        b.pair(block(thick * 1.2, 0.15, thick * 1.7).moved(w * 0.25, 0.075, thick * 0.25), main)
    arm = sweep(spline([(0, 0, 0), (0.04, -h * 0.35, 0), (0.02, -h * 0.65, d.between(0, 0.3))], 8), thick * 0.42)
    b.pair(arm.turned(0, d.pick((0.0, 0.0, -90.0, -160.0))).moved(w / 2 + thick * 0.3, leg + h * 0.85, 0), second)
    top, size = leg + h, w * d.between(0.35, 0.55)
    if d.chance(0.5):
        b.add(quadric((size, size * 0.85, size * deep), columns=26, rows=16).moved(0, top + size * 0.5, 0), main)
    else:
        b.add(block(size * 1.7, size * 1.4, size * 1.6).moved(0, top + size * 0.7, 0), main)
    eye = quadric((size * 0.14,) * 3, columns=12, rows=8).moved(size * 0.4, top + size * 0.75, size * deep * 0.78)
    b.pair(eye, b.finish("solid", color=d.pick((4, 5))))
    if d.chance(0.4):
        antenna = sweep(
            np.array([(0, 0, 0), (0.05, 0.2, 0), (0.12, 0.4, 0)]) * size * 1.5, size * 0.06, outline=ring(8)
        )
        b.pair(antenna.moved(size * 0.4, top + size * 1.05, 0), second)
    elif d.chance(0.3):
        b.add(cylinder(size * 1.05, size * 0.3, bevel=0.04).moved(0, top + size * 1.1, 0), second)


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
        points = np.cumsum(d.rng.normal(0, 1, (d.whole(5, 9), 3)) * [1, 0.5, 0.8], axis=0)
        size = float(np.ptp(points, axis=0).max())
        radius = spline(np.array([[d.between(0.03, 0.09)] for _ in range(5)]), 44)[:, 0] * size
        b.add(sweep(spline(points, 44), np.maximum(radius, 0.02 * size), outline=ring(14)), f)
    elif kind == "rings":
        y = 0.0
        for _ in range(d.whole(1, 5)):
            wide, tube = d.between(0.7, 1.0), d.between(0.12, 0.3)
            b.add(torus(wide, tube, sides=28).moved(0, y + tube, 0), b.finish(*ANY))
            y += 1.9 * tube
    else:
        for i in range(d.whole(6, 14)):
            a, r = i * 0.5, 0.26
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
