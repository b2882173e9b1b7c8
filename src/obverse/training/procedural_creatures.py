"""Families of grown things: animals, dolls, fruit and food, plants, stones.

Each function puts one random object of its family on a ``Build``: +Y up, its front towards +Z, in any unit.
"""

from __future__ import annotations

import numpy as np

from .procedural_build import Build
from .procedural_shapes import (
    TURN,
    Array,
    Limb,
    lathe,
    loft,
    quadric,
    ring,
    ripple,
    spline,
    sweep,
)
from .procedural_textures import FOODS, hsv

COATS = ("", "spots", "bands", "belly", "patches", "back")


def limb(start: tuple[float, float, float], end: tuple[float, float, float], r0: float, r1: float, c: int = 0) -> Limb:
    """A limb from plain numbers."""
    return Limb(np.array(start, float), np.array(end, float), (r0, r1), c)


def shifted(point: Array, *offset: float) -> Array:
    """A point [3] moved by x, y, z."""
    return point + np.array(offset)


def coat(b: Build) -> Array:
    """Colours of a body [4, 3]: skin, a second, a light and a dark one; natural furs or toy colours."""
    d = b.draw
    fur = hsv(d.between(0.03, 0.13), d.between(0.1, 0.7), d.between(0.2, 0.9))
    skin = fur if d.chance(0.5) else b.palette[0]
    return np.array([skin, b.palette[3] if d.chance(0.4) else skin * 0.8, b.palette[4], b.palette[5]])


def quadruped(b: Build) -> None:
    """Dogs, horses, elephants, lizards, cows: four legs, a head on a neck, a tail."""
    d = b.draw
    long, fat, tall = d.between(0.5, 1.0), d.between(0.2, 0.42), d.between(0.25, 0.9)
    back = tall + fat * 0.8
    limbs = [limb((0, back, -long), (0, back + d.between(-0.1, 0.15), long), fat * d.between(0.8, 1.1), fat)]
    r = fat * d.between(0.3, 0.55)
    stance = fat * d.between(0.6, 1.0)
    splay = d.pick((0.0, 0.0, d.between(0.1, 0.4)))
    for z in (-0.85 * long, 0.85 * long):
        knee = d.between(-0.15, 0.15)
        limbs.append(limb((stance, back - 0.2 * fat, z), (stance + splay, tall * 0.5, z + knee), r * 1.2, r))
        limbs.append(
            limb(
                (stance + splay, tall * 0.5, z + knee), (stance + splay, r * 0.5, z + 0.05), r, r * d.between(0.8, 1.1)
            )
        )
    neck_up, neck_out = d.between(0.0, 1.0), d.between(0.1, 0.5)
    head = np.array([0, back + neck_up + 0.1, long + neck_out + 0.15])
    limbs.append(limb((0, back + 0.1 * fat, long), tuple(head), fat * 0.75, fat * d.between(0.4, 0.7)))
    size = fat * d.between(0.6, 1.25)
    snout = d.between(0.15, 0.6)
    limbs.append(Limb(head, shifted(head, 0, 0, 0.08), (size, size)))
    limbs.append(
        Limb(
            head,
            shifted(head, 0, -0.1 - 0.1 * d.between(0, 1), size * 0.6 + snout),
            (size * 0.6, size * d.between(0.25, 0.5)),
            1,
        )
    )
    ear = shifted(head, size * 0.6, size * 0.7, 0)
    limbs.append(
        Limb(
            ear,
            shifted(ear, d.between(0, 0.25), d.between(-0.3, 0.4), -0.05),
            (size * 0.25, size * d.between(0.08, 0.25)),
            1,
        )
    )
    up = d.between(-0.5, 0.6)
    tip = (0, back + up, -long - d.between(0.2, 0.8))
    limbs.append(
        limb((0, back + 0.1, -long), tip, fat * d.between(0.15, 0.5), fat * d.between(0.05, 0.25), d.pick((0, 1)))
    )
    if d.chance(0.15):
        limbs.append(
            Limb(shifted(head, 0, 0, size), shifted(head, 0, -0.7 * tall, size + 0.3), (size * 0.3, size * 0.15))
        )
    b.blob(limbs, fat * d.between(0.15, 0.6), coat(b), pattern=d.pick(COATS), faces=4600)
    b.eyes(shifted(head, size * 0.75, size * 0.35, size * 0.6), size * d.between(0.12, 0.2))


def dinosaur(b: Build) -> None:
    """Two-legged reptiles, kangaroos, dragons: a heavy tail, small arms, perhaps plates or wings."""
    d = b.draw
    hip, fat = d.between(0.7, 1.0), d.between(0.25, 0.4)
    chest = np.array([0, hip + d.between(0.1, 0.5), 0.6])
    head = shifted(chest, 0, d.between(0.2, 0.7), d.between(0.2, 0.5))
    size = d.between(0.16, 0.3)
    limbs = [
        Limb(np.array([0, hip, 0.0]), chest, (fat, fat * 0.85)),
        Limb(chest, head, (fat * 0.7, size * 0.8)),
        Limb(head, shifted(head, 0, -0.05, size * d.between(0.8, 2.0)), (size, size * 0.6)),
        limb((0, hip, -0.1), (0, hip * 0.7, -0.8), fat * 0.85, fat * 0.45),
        limb((0, hip * 0.7, -0.8), (0, hip * d.between(0.2, 0.9), -1.7), fat * 0.45, 0.05, 1),
        limb((fat * 0.8, hip - 0.05, 0.05), (fat, hip * 0.45, 0.2), fat * 0.65, fat * 0.35),
        limb((fat, hip * 0.45, 0.2), (fat, 0.08, 0.0), fat * 0.35, fat * 0.25),
        limb((fat, 0.08, 0.0), (fat, 0.07, 0.3), fat * 0.25, fat * 0.2, 1),
        Limb(shifted(chest, fat * 0.6, -0.1, 0.05), shifted(chest, fat * 0.9, -0.3, 0.3), (0.09, 0.06)),
    ]
    b.blob(limbs, fat * d.between(0.25, 0.6), coat(b), pattern=d.pick(COATS), faces=4600)
    b.eyes(shifted(head, size * 0.75, size * 0.5, size * 0.4), size * 0.2)
    if d.chance(0.4):
        f = b.finish("solid", color=3)
        for t in np.linspace(0, 1, 7):
            spot = (1 - t) * np.array([0, hip + fat, 0.5]) + t * np.array([0, hip * 0.75 + fat * 0.4, -0.9])
            s = 0.09 + 0.1 * np.sin(np.pi * t)
            b.add(lathe([(0, -s * 0.5), (s, -s * 0.5), (0, s * 1.4)], 8).scaled(0.35, 1, 1).moved(*spot), f)


def doll(b: Build) -> None:
    """Upright figures: teddy bears, dolls, robots, owls, penguins."""
    d = b.draw
    body, head = d.between(0.3, 0.5), d.between(0.28, 0.5)
    leg, tall = d.between(0.05, 0.6), d.between(0.4, 0.8)
    hip = leg + body * 0.7
    neck = hip + tall
    top = np.array([0, neck + head * 0.75, 0.03])
    arm = d.between(0.3, 0.7)
    drop = d.between(-0.6, 0.5)
    r = d.between(0.1, 0.18)
    limbs = [
        limb((0, hip, 0), (0, neck - 0.1, 0), body, body * d.between(0.6, 0.9), d.pick((0, 0, 1))),
        Limb(top, shifted(top, 0, 0.02, 0), (head, head), 0),
        limb((body * 0.5, hip, 0), (body * 0.55, leg * 0.5, d.pick((0.0, 0.4))), r * 1.3, r * 1.1),
        limb((body * 0.55, 0.12, 0.0), (body * 0.58, 0.12, 0.25), r * 1.1, r, d.pick((0, 1))),
        limb(
            (body * 0.6, neck - 0.15, 0),
            (body * 0.7 + arm, neck - 0.15 + drop * arm, d.between(0, 0.3)),
            r,
            r * d.between(0.7, 1.2),
        ),
    ]
    muzzle = shifted(top, 0, -head * 0.25, head * 0.85)
    if d.chance(0.6):
        limbs.append(Limb(muzzle, shifted(muzzle, 0, 0, 0.05), (head * 0.35, head * 0.3), 2))
    ear = d.between(0.1, 0.7)
    start = shifted(top, head * 0.6, head * 0.75, 0)
    if d.chance(0.75):
        limbs.append(
            Limb(
                start,
                shifted(start, ear * 0.3, ear * d.between(0.1, 1.0), 0),
                (head * 0.25, head * d.between(0.1, 0.3)),
                d.pick((0, 1)),
            )
        )
    if d.chance(0.3):
        limbs.append(limb((0, hip, -body), (0, hip + d.between(-0.2, 0.5), -body - 0.4), 0.12, 0.06))
    b.blob(limbs, d.between(0.03, 0.18), coat(b), pattern=d.pick(("", "", "belly", "patches", "back")), faces=4600)
    b.eyes(shifted(top, head * 0.38, head * 0.18, head * 0.88), head * d.between(0.08, 0.18))
    if d.chance(0.6):
        nose = quadric((head * 0.13, head * 0.1, head * 0.1), columns=10, rows=6)
        b.add(nose.moved(*(shifted(muzzle, 0, 0.04, head * 0.3))), b.finish("solid", color=5))
    if d.chance(0.3):
        rim = lathe(
            [(0, 0), (head * 1.1, 0), (head * 1.1, 0.05), (head * 0.7, 0.06), (head * 0.6, 0.35), (0, 0.36)], 24
        )
        b.add(rim.moved(*(shifted(top, 0, head * 0.72, 0))), b.finish("solid", "stripes", "cloth"))


def swimmer(b: Build) -> None:
    """Fish, whales, birds and insects: a tapering body with fins or wings."""
    d = b.draw
    long, deep, wide = d.between(0.7, 1.3), d.between(0.25, 0.6), d.between(0.18, 0.45)
    z = np.linspace(-1, 1, 26)
    girth = np.sqrt(np.maximum(1 - z**2, 0)) ** d.between(0.7, 1.2) * (1 + 0.35 * z)
    shape = ring(22)
    droop = d.between(-0.2, 0.3)
    rings = np.stack(
        [
            np.column_stack([shape[:, 0] * g * wide, shape[:, 1] * g * deep + droop * t * t, np.full(22, t * long)])
            for g, t in zip(girth, z, strict=True)
        ]
    )
    skin = b.finish("noise", "spots", "stripes", "gradient", "solid")
    fin = b.finish("stripes", "solid", "gradient", color=d.pick((0, 1, 3)))
    b.add(loft(rings), skin)
    tail = quadric((0.05, deep * d.between(0.6, 1.3), 0.28), (1.0, 1.0), columns=16, rows=10)
    flat_tail = d.chance(0.3)
    b.add((tail.turned(2, 90) if flat_tail else tail).moved(0, droop, -long * 1.05), fin)
    span = d.between(0.3, 1.3)
    wing = quadric((span, 0.05, d.between(0.15, 0.35)), columns=20, rows=8)
    lift = d.between(-0.3, 0.6)
    wing = wing.mapped(wing.vertices + np.outer(lift * (wing.vertices[:, 0] / span + 1) ** 2 * 0.3, [0, 1, -0.5]))
    b.pair(wing.moved(wide * 0.5 + span * 0.85, d.between(-0.1, 0.15) * deep, d.between(-0.1, 0.4)), fin)
    if d.chance(0.6):
        b.add(quadric((0.04, deep * 0.5, 0.3), columns=14, rows=8).moved(0, deep * 0.95, 0), fin)
    if d.chance(0.4):
        beak = lathe([(0, 0), (0.14, 0), (0.0, d.between(0.2, 0.6))], 12).turned(0, 90)
        b.add(beak.moved(0, droop * 0.8, long * 0.94), b.finish("solid", color=np.array([0.95, 0.65, 0.1])))
    if d.chance(0.4):
        b.pair(
            sweep(
                spline([(0.12, -deep * 0.8, 0), (0.14, -deep - 0.3, 0), (0.14, -deep - 0.32, 0.2)], 8),
                0.045,
                outline=ring(8),
            ),
            fin,
        )
    eye = quadric((0.06, 0.06, 0.06), columns=10, rows=6)
    b.pair(eye.moved(wide * 0.75, deep * 0.25 + droop * 0.4, long * 0.68), b.finish("solid", color=5))


def fruit(b: Build) -> None:
    """Apples, pears, lemons, bananas, peppers, eggs, bread rolls, doughnuts, cakes, grapes."""
    d = b.draw
    hue = d.pick((0.0, 0.03, 0.08, 0.13, 0.17, 0.25, 0.33, 0.8)) + d.between(-0.02, 0.02)
    b.palette[:4] = [hsv(hue + k, d.between(0.4, 0.95), d.between(0.45, 0.95)) for k in (0, 0.05, -0.04, 0.12)]
    skin = b.finish("noise", "gradient", "solid", "spots", color=0)
    kind = d.pick(("round", "round", "long", "bread", "ring", "cake", "bunch"))
    if kind == "round":
        _apple(b, skin)
    elif kind == "long":
        angle = np.linspace(-1, 1, 24) * d.between(0.1, 1.0)
        path = np.stack([np.sin(angle) * 1.5, 1 - np.cos(angle) * 1.5, 0 * angle], axis=1)
        ends = [0.15, 0.4, 0.9, 1, d.between(0.3, 0.8), 0.15]
        girth = d.between(0.25, 0.6) * np.interp(np.linspace(0, 1, 24), [0, 0.08, 0.25, 0.75, 0.93, 1], ends)
        b.add(sweep(path / max(float(np.abs(angle).max()), 0.2), girth, outline=ring(d.pick((6, 18)))), skin)
    elif kind == "bread":
        sizes = (d.between(0.6, 1.2), d.between(0.35, 0.6), d.between(0.45, 0.8))
        loaf = quadric(sizes, (d.between(0.5, 1.0), d.between(0.5, 1)))
        b.add(loaf.mapped(ripple(loaf.vertices, d, 0.04, 3)), b.finish("noise", color=np.array(d.pick(CRUSTS))))
    elif kind == "ring":
        angle = np.arange(36) * TURN / 36
        path = np.stack([np.cos(angle), 0 * angle, np.sin(angle)], axis=1)
        dough = sweep(path, d.between(0.3, 0.48), loop=True, outline=ring(18))
        b.add(dough.scaled(1, 0.8, 1), b.finish("noise", color=np.array(d.pick(CRUSTS))))
        b.add(dough.scaled(1.0, 0.72, 1.0).moved(0, 0.07, 0), b.finish("solid", "spots", "stripes"))
    elif kind == "cake":
        y, depth = 0.0, d.pick((1.0, 1.0, 0.6))
        for _ in range(d.whole(1, 4)):
            h = d.between(0.15, 0.4)
            layer = lathe([(0, 0), (0.97, 0), (1, 0.03), (1, h - 0.03), (0.97, h), (0, h)], 36)
            filling = b.finish("noise", "solid", "spots", color=np.array(d.pick((*FOODS, *CRUSTS, (0.95, 0.92, 0.86)))))
            b.add(layer.scaled(1 - 0.1 * y, 1, depth * (1 - 0.1 * y)).moved(0, y, 0), filling)
            y += h * 0.98
    else:
        places = [np.zeros(3)]
        for _ in range(d.whole(5, 14)):
            step = d.vector() * [1, 1.2, 1]
            places.append(places[d.whole(0, len(places) - 1)] + 0.55 * step / np.linalg.norm(step))
        for at in places:
            b.add(quadric((0.34, 0.37, 0.34), columns=12, rows=8).moved(*at), skin)


CRUSTS = ((0.72, 0.45, 0.2), (0.85, 0.65, 0.38), (0.5, 0.3, 0.14), (0.36, 0.2, 0.12))


def _apple(b: Build, skin: int) -> None:
    """A round fruit, smooth or lobed, with a stem and a leaf."""
    d = b.draw
    h = d.between(0.75, 1.4)
    low, top, dent = d.between(0.6, 0.95), d.between(0.45, 0.95), d.between(-0.1, 0.2)
    side = spline(
        [(0, -h + dent), (low * 0.5, -h), (low, -h * 0.4), (1, 0), (top, h * 0.55), (top * 0.4, h), (0, h - dent)], 26
    )
    side[:, 0] = np.maximum(side[:, 0], 0)
    side[[0, -1], 0] = 0
    b.add(lathe(side, 36), skin)
    if d.chance(0.4):
        n, deep = d.whole(3, 9), d.between(0.02, 0.1)
        b.deform(lambda p: p * (1 + deep * np.cos(n * np.arctan2(p[:, 2], p[:, 0])))[:, None] ** [1, 0, 1])
    if d.chance(0.7):
        path = [(0, h - dent - 0.05, 0), (0.02, h + 0.1, 0), (d.between(-0.2, 0.2), h + d.between(0.2, 0.4), 0)]
        b.add(sweep(spline(path, 8), 0.05, outline=ring(8)), b.finish("solid", color=np.array([0.35, 0.26, 0.13])))
    if d.chance(0.25):
        leaf = quadric((0.3, 0.03, 0.13), columns=12, rows=6)
        b.add(leaf.turned(2, 25).moved(0.25, h + 0.05, 0), b.finish("solid", color=np.array([0.25, 0.5, 0.15])))


def plant(b: Build) -> None:
    """Potted plants, flowers, cacti, mushrooms, small trees."""
    d = b.draw
    pot = b.finish("solid", "stripes", "noise", "wood")
    leaf = hsv(d.between(0.2, 0.38), d.between(0.35, 0.8), d.between(0.25, 0.7))
    b.palette[1] = leaf * d.between(0.6, 1.1)
    b.palette[2] = leaf * [1.2, 1.1, 0.8]
    green = b.finish("noise", "gradient", "solid", color=leaf)
    h = d.between(0.4, 0.8)
    kind = d.pick(("leaves", "cactus", "tree", "mushroom", "flower"))
    if kind == "mushroom":
        foot = np.concatenate([[(0, 0)], spline([(0.35, 0), (0.25, 0.5), (0.3, 1.0)], 8), [(0, 1.0)]])
        b.add(lathe(foot, 24), b.finish("noise", "solid", color=4))
        cap = spline([(d.between(0.7, 1.1), 0.85), (0.8, 1.2), (0.3, d.between(1.4, 1.6)), (0, 1.6)], 14)
        b.add(lathe(np.concatenate([[(0, 0.9)], cap]), 32), b.finish("spots", "solid", "noise"))
        return
    wall = [(0, 0), (d.between(0.3, 0.45), 0), (0.5, h * 0.8), (0.56, h * 0.8), (0.56, h), (0.5, h), (0.48, h - 0.08)]
    b.add(lathe([*wall, (0, h - 0.08)], 28), pot)
    if kind == "cactus":
        _cactus(b, h, green)
    elif kind == "leaves":
        for i in range(d.whole(7, 16)):
            a, rise, reach = i * 2.4 + d.between(0, 0.5), d.between(0.5, 1.5), d.between(0.2, 0.9)
            path = [(0, h - 0.1, 0), (reach * 0.3, h + rise * 0.6, 0), (reach, h + rise, 0)]
            path.append((reach * 1.4, h + rise * d.between(0.6, 1), 0))
            width = 0.16 * np.sin(np.linspace(0.25, 3.0, 9)) + 0.015
            blade = sweep(spline(path, 9), width, flatten=d.between(0.15, 0.36), outline=ring(8))
            b.add(blade.turned(1, float(np.degrees(a))), green)
    else:
        _stem(b, h, kind, green)


def _cactus(b: Build, h: float, green: int) -> None:
    """A ribbed column with up to two arms, out of a pot of this height."""
    d = b.draw
    n = d.whole(6, 12)
    angle = np.arange(n * 4) * TURN / (n * 4)
    shape = np.stack([np.cos(angle), np.sin(angle)], axis=1) * (1 + 0.1 * np.cos(n * angle))[:, None]
    tall = d.between(0.5, 1.6)
    path = spline([(0, h - 0.1, 0), (0, h + tall * 0.5, 0), (0.02, h + tall, 0)], 12)
    b.add(sweep(path, d.between(0.2, 0.36), outline=shape), green)
    for side in (1, -1):
        if d.chance(0.5):
            y = h + tall * d.between(0.3, 0.5)
            arm = spline([(0, y, 0), (side * 0.45, y + 0.05, 0), (side * 0.5, y + 0.5, 0)], 12)
            b.add(sweep(arm, 0.13, outline=shape), green)


def _stem(b: Build, h: float, kind: str, green: int) -> None:
    """A small tree or a flower out of a pot of this height."""
    d = b.draw
    tall = d.between(0.7, 1.6)
    bark = b.finish("wood") if kind == "tree" else green
    path = spline([(0, h - 0.1, 0), (d.between(-0.1, 0.1), h + tall * 0.5, 0), (0, h + tall, 0)], 10)
    b.add(sweep(path, 0.06, outline=ring(10)), bark)
    if kind == "tree":
        for _ in range(d.whole(1, 6)):
            r = d.between(0.3, 0.6)
            crown = quadric((r, r * d.between(0.8, 1.4), r), columns=18, rows=12)
            crown = crown.mapped(ripple(crown.vertices, d, 0.06, 2.5))
            b.add(crown.moved(*shifted(d.vector(0.2), 0, h + tall, 0)), green)
        return
    petal = b.finish("gradient", "solid", color=3)
    n = d.whole(5, 10)
    for k in range(n):
        leaf = quadric((0.3, 0.04, 0.14), columns=12, rows=6).turned(2, d.between(10, 40)).moved(0.32, 0.1, 0)
        b.add(leaf.turned(1, 360 * k / n).turned(0, 35).moved(0, h + tall, 0), petal)
    heart = quadric((0.14, 0.1, 0.14), columns=14, rows=8).turned(0, 35)
    b.add(heart.moved(0, h + tall + 0.06, 0.04), b.finish("solid", color=np.array([0.9, 0.7, 0.1])))
    b.add(quadric((0.3, 0.03, 0.1), columns=12, rows=6).turned(2, 35).moved(0.25, h + tall * 0.5, 0), green)


def lump(b: Build) -> None:
    """Stones, clay, melted blobs, masks of noise: unions of capsules of no particular kind."""
    d = b.draw
    limbs = []
    at = np.array([0.0, 0.0, 0.0])
    for _ in range(d.whole(2, 7)):
        start = at * [0, 1, 1] if d.chance(0.5) else np.abs(at) * [1, 0, 0] + at * [0, 1, 1]
        at = np.clip(at + d.vector(0.6), -1.3, 1.3)
        end = np.abs(at) * [1, 0, 0] + at * [0, 1, 1]
        limbs.append(Limb(start, end, (d.between(0.2, 0.5), d.between(0.1, 0.4)), d.whole(0, 2)))
    colors = b.palette[:4] if d.chance(0.5) else np.repeat(b.palette[:1], 4, axis=0)
    b.blob(limbs, d.between(0.05, 0.4), colors, pattern=d.pick(COATS), faces=4200)
    if d.chance(0.5):
        waves = d.between(2, 7)
        amount = d.between(0.02, 0.1) / waves
        b.deform(lambda p: ripple(p, d, amount, waves))
