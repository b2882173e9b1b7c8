"""Model and photograph the example objects: a mug, a toy car and a desk lamp, all from code.

    pip install "bpy==4.2.*" pillow        # Blender as a module; it wants exactly Python 3.11
    python examples/make_photos.py         # all three, full size
    python examples/make_photos.py mug --pixels 256 --samples 16 --out .

One function per object builds it and says how to photograph it; what they share is in studio.py.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable
from pathlib import Path

import bpy
import numpy as np
import studio
from mathutils import Matrix
from studio import (
    Paint,
    Shot,
    capsule,
    deform,
    fuse,
    lathe,
    place,
    plain,
    plate,
    rectangle,
    rounded,
    solid,
    spline,
    tube,
    wear,
)

CREAM = (0.80, 0.71, 0.55)
TEAL = (0.012, 0.165, 0.185)
CORAL = (0.70, 0.115, 0.045)
RED = (0.62, 0.035, 0.022)
MUSTARD = (0.80, 0.40, 0.025)
BRASS = (0.72, 0.48, 0.20)
WHITE = (0.85, 0.83, 0.79)
CLAY = (0.40, 0.235, 0.13)
RUBBER = (0.016, 0.016, 0.018)


# ------------------------------------------------------------------------------------------------------------- mug


def mug_glaze() -> bpy.types.Material:
    """Teal glaze over bare clay, a dotted cream belt between two thin lines, cream inside, fine specks.

    Painted in cylindrical coordinates about the mug's axis; a little noise moves the edges as a brush would.
    """
    paint = Paint("glaze")
    where, x, y, z = paint.coordinates()
    radius = paint.hypot(x, y)
    tremble = paint.math("MULTIPLY", paint.math("SUBTRACT", paint.noise(where, 5.0), 0.5), 0.03)
    height = paint.math("ADD", z, tremble)

    dots, belt = 14, 0.535
    turn = paint.math("MULTIPLY", paint.math("ARCTAN2", y, x), dots / (2 * math.pi))
    across = paint.math("MULTIPLY", paint.math("SUBTRACT", paint.math("FRACT", turn), 0.5), 2 * math.pi * 0.43 / dots)
    reach = paint.hypot(across, paint.math("SUBTRACT", z, belt))
    dot = paint.ramp(paint.math("ADD", reach, tremble), 0.060, 0.054)

    pool = paint.ramp(paint.noise(where, 2.2), 0.3, 0.7)  # glaze runs thicker in places
    glaze = paint.mix(pool, TEAL, tuple(1.5 * c for c in TEAL))
    belt_colour = paint.mix(dot, CREAM, CORAL)
    body = paint.mix(paint.between(height, belt - 0.125, belt + 0.125), glaze, belt_colour)
    for line in (belt - 0.165, belt + 0.165):
        body = paint.mix(paint.between(height, line - 0.014, line + 0.014), body, CREAM)
    clay = paint.ramp(height, 0.150, 0.142)
    body = paint.mix(clay, body, CLAY)
    body = paint.mix(paint.ramp(radius, 0.455, 0.462), body, glaze)  # the handle
    within = paint.math("MULTIPLY", paint.ramp(radius, 0.408, 0.402), paint.ramp(z, 0.135, 0.14))
    colour = paint.mix(within, body, CREAM)
    rim = paint.ramp(paint.math("ADD", z, paint.math("MULTIPLY", tremble, 0.4)), 0.968, 0.976)
    colour = paint.mix(rim, colour, CLAY)
    speckle = paint.specks(where, 30.0, 0.2)
    colour = paint.mix(paint.math("MULTIPLY", speckle, 0.6), colour, (0.10, 0.06, 0.035))

    paint.bump(paint.noise(where, 9.0), 0.12, 0.02)
    bare = paint.math("MAXIMUM", clay, rim)
    matt = paint.math("ADD", 0.16, paint.math("MULTIPLY", bare, 0.45))
    wet = paint.math("MULTIPLY", paint.math("SUBTRACT", 1.0, bare), 0.25)
    return paint.finish(colour, matt, Coat_Weight=wet, Coat_Roughness=0.08)


def mug() -> tuple[list[bpy.types.Object], Shot]:
    """A stoneware mug on grey studio paper, its handle turned so that the hole shows."""
    outside = [(0.0, 0.03), (0.29, 0.03), (0.305, 0.0), (0.345, 0.0), (0.372, 0.035), (0.408, 0.13), (0.425, 0.30)]
    lip = [(0.430, 0.60), (0.436, 0.97), (0.432, 0.995), (0.418, 1.003), (0.402, 0.99)]
    inside = [(0.392, 0.92), (0.386, 0.60), (0.382, 0.28), (0.350, 0.13), (0.22, 0.075), (0.0, 0.07)]
    body = lathe("mug", spline(outside + lip + inside, 6))
    ear = [(0.412, 0.79), (0.53, 0.825), (0.665, 0.79), (0.742, 0.665), (0.735, 0.50), (0.655, 0.35), (0.53, 0.265)]
    path = spline([(x, 0.0, z) for x, z in [*ear, (0.412, 0.25)]])
    flare = np.abs(np.linspace(-1, 1, len(path))) ** 4
    handle = tube("handle", path, 0.047 + 0.016 * flare, widen=1.45)
    whole = fuse([body, handle], voxel=0.005, smoothing=30)
    wear(mug_glaze(), whole)
    whole.rotation_euler.z = math.radians(-24)
    studio.sweep((0.74, 0.74, 0.75))
    studio.product_lights(105.0)
    return [whole], Shot(elevation=14.0, fill=0.70, exposure=0.1)


# --------------------------------------------------------------------------------------------------------- toy car


def arch(centre: float, axle: float, radius: float) -> list[tuple[float, float, float]]:
    """The wheel arch as outline corners, rear to front over the top."""
    return [(centre + radius * math.cos(a), axle + radius * math.sin(a), 0.0) for a in np.linspace(math.pi, 0.0, 24)]


def car_shell() -> tuple[bpy.types.Object, bpy.types.Object]:
    """Body and cabin: extruded side outlines, melted round, narrowed towards nose, tail and roof."""
    sill, axle = 0.20, 0.27
    corners = [(-1.06, sill, 0.1), (-0.86, sill, 0.05), *arch(-0.55, axle, 0.31), (-0.24, sill, 0.05)]
    corners += [(0.24, sill, 0.05), *arch(0.55, axle, 0.31), (0.86, sill, 0.05), (1.06, sill, 0.1)]
    corners += [(1.08, 0.62, 0.24), (0.45, 0.76, 0.2), (-1.0, 0.78, 0.26)]
    body = fuse([plate("body", rounded(corners), 1.02, 0.06)], voxel=0.012, smoothing=22)
    cabin_corners = [(-0.86, 0.66, 0.05), (0.46, 0.66, 0.05), (0.13, 1.17, 0.2), (-0.66, 1.17, 0.24)]
    cabin = fuse([plate("cabin", rounded(cabin_corners), 0.86, 0.07)], voxel=0.012, smoothing=22)
    return deform(body, narrowing), deform(cabin, roof_taper)


def narrowing(p: np.ndarray) -> np.ndarray:
    """Round the body [N, 3] in plan, towards nose and tail, and in section, towards the bonnet."""
    width = (1 - 0.13 * np.abs(p[:, 0]) ** 4) * (1 - 0.9 * np.maximum(p[:, 2] - 0.5, 0) ** 2)
    return p * np.stack([np.ones(len(p)), width, np.ones(len(p))], axis=1)


def roof_taper(p: np.ndarray) -> np.ndarray:
    """The cabin leans in towards the roof."""
    return p * np.stack([np.ones(len(p)), 1 - 0.42 * (p[:, 2] - 0.70), np.ones(len(p))], axis=1)


def car_glass() -> list[bpy.types.Object]:
    """Side windows as blocks through the cabin, windscreen and rear window as plates on its slopes."""
    rear = [(-0.70, 0.80, 0.06), (-0.27, 0.80, 0.05), (-0.27, 1.07, 0.05), (-0.58, 1.07, 0.1)]
    front = [(-0.17, 0.80, 0.05), (0.29, 0.80, 0.06), (0.11, 1.07, 0.07), (-0.17, 1.07, 0.05)]
    panes = [deform(plate("pane", rounded(corners), 0.885, 0.012), roof_taper) for corners in (rear, front)]
    for x, z, lean in ((0.305, 0.91, 0.33), (-0.77, 0.91, -0.20)):
        outline = [(-0.33, -0.14, 0.07), (0.33, -0.14, 0.07), (0.26, 0.155, 0.07), (-0.26, 0.155, 0.07)]
        pane = plate("pane", rounded(outline), 0.05, 0.012)
        pane.matrix_world = (
            Matrix.Translation((x, 0, z))
            @ Matrix.Rotation(-math.atan2(lean, 0.51), 4, "Y")
            @ Matrix.Rotation(math.pi / 2, 4, "Z")
        )
        panes.append(pane)
    return panes


def car_wheel(x: float, side: int, tyre_paint: bpy.types.Material, hub_paint: bpy.types.Material):
    """Tyre and domed hub, facing outwards on one side (+1 or -1 along Y)."""
    tread = [(0.10, -0.13), (0.22, -0.13), (0.262, -0.10), (0.27, 0.0), (0.262, 0.10), (0.235, 0.135), (0.19, 0.135)]
    tyre = lathe("tyre", spline([*tread, (0.165, 0.115), (0.0, 0.11)], 6), 96)
    dish = [(0.172, 0.10), (0.172, 0.128), (0.155, 0.136), (0.135, 0.115), (0.09, 0.112), (0.075, 0.145), (0.045, 0.17)]
    hub = lathe("hub", spline([*dish, (0.0, 0.177)], 6), 96)
    wear(tyre_paint, tyre)
    wear(hub_paint, hub)
    return [place(part, (x, 0.42 * side, 0.27), towards=(0, side, 0)) for part in (tyre, hub)]


def car_trim(cream: bpy.types.Material, dark: bpy.types.Material) -> list[bpy.types.Object]:
    """Bumpers, grille, head and tail lights, door handles, chassis."""
    parts = []
    for end, reach in ((1, 1.09), (-1, 1.08)):
        bow = [(0.98, -0.46), (reach, -0.3), (reach + 0.03, 0.0), (reach, 0.3), (0.98, 0.46)]
        bumper = capsule("bumper", [(end * x, y, 0.30) for x, y in bow], 0.062)
        wear(cream, bumper)
        parts.append(bumper)
    lamp, tail = plain("headlight", (0.90, 0.62, 0.16), 0.10, Coat_Weight=1.0), plain("tail", (0.75, 0.16, 0.02), 0.2)
    for y in (-0.29, 0.29):
        ring = [(0.0, -0.08), (0.120, -0.08), (0.125, 0.0), (0.118, 0.022), (0.104, 0.02), (0.0, 0.0)]
        rim = lathe("rim", spline(ring), 64)
        lens = lathe("lens", spline([(0.098, 0.0), (0.093, 0.02), (0.05, 0.042), (0.0, 0.048)]), 64)
        back = lathe("tail", spline([(0.07, -0.06), (0.07, 0.0), (0.045, 0.03), (0.0, 0.035)]), 48)
        wear(cream, rim)
        wear(lamp, lens)
        wear(tail, back)
        parts += [place(part, (1.055, y, 0.54), towards=(1, 0, 0.08)) for part in (rim, lens)]
        parts.append(place(back, (-1.04, 1.1 * y, 0.56), towards=(-1, 0, 0.05)))
    grille = plate("grille", rectangle((-0.13, -0.065), (0.13, 0.065), 0.06), 0.1, 0.02)
    grille.matrix_world = Matrix.Translation((1.045, 0, 0.54)) @ Matrix.Rotation(math.pi / 2, 4, "Z")
    handles = [
        capsule("handle", [(-0.12, s * 0.505, 0.62), (-0.05, s * 0.51, 0.62), (0.02, s * 0.505, 0.62)], 0.022)
        for s in (-1, 1)
    ]
    chassis = plate("chassis", rectangle((-0.95, 0.17), (0.95, 0.6), 0.05), 0.6, 0.03)
    wear(dark, grille, chassis)
    wear(cream, *handles)
    return [*parts, grille, chassis, *handles]


def toy_car() -> tuple[list[bpy.types.Object], Shot]:
    """A chunky red toy car with a cream cabin, on a wooden table by a window."""
    cream = plain("cream", CREAM, 0.3, Coat_Weight=0.4)
    tyre, dark = plain("rubber", RUBBER, 0.55), plain("dark", (0.02, 0.02, 0.022), 0.4)
    body, cabin = car_shell()
    wear(plain("red", RED, 0.28, Coat_Weight=0.5), body)
    wear(cream, cabin)
    glass = car_glass()
    wear(plain("glass", (0.022, 0.045, 0.06), 0.08), *glass)
    wheels = [part for x in (-0.55, 0.55) for side in (-1, 1) for part in car_wheel(x, side, tyre, cream)]
    parts = [body, cabin, *glass, *wheels, *car_trim(cream, dark)]
    bpy.context.view_layer.update()
    park = Matrix.Rotation(math.radians(-38), 4, "Z") @ Matrix.Scale(0.5, 4)
    for part in parts:
        part.matrix_world = park @ part.matrix_world
    room()
    return parts, Shot(elevation=14.0, fill=0.74, drop=0.04, aperture=0.07)


def table_wood() -> bpy.types.Material:
    """Oiled oak planks along X: rings cut lengthwise, fine pores, a thin dark seam between planks."""
    paint = Paint("oak")
    _, y, _ = paint.coordinates()[1:]
    plank = paint.math("FLOOR", paint.math("DIVIDE", y, 0.62))
    inside = paint.math("FRACT", paint.math("DIVIDE", y, 0.62))
    seam = paint.math("SUBTRACT", 1.0, paint.between(inside, 0.004, 0.996, 0.008))
    sx, sy, sz = paint.coordinates((0.32, 3.2, 1.0))[1:]
    shift = paint.math("MULTIPLY", plank, 7.31)
    where = paint.node("CombineXYZ", {0: paint.math("ADD", sx, shift), 1: sy, 2: paint.math("ADD", sz, shift)})
    rings = paint.math("FRACT", paint.math("MULTIPLY", paint.noise(where, 0.9, 2.0), 9.0))
    rings = paint.math("MULTIPLY", paint.ramp(rings, 0.0, 0.85), paint.ramp(rings, 1.0, 0.88))
    pores = paint.node("VectorMath", {0: where, 1: (3.0, 26.0, 1.0)}, operation="MULTIPLY")
    pores = paint.noise(pores, 1.6, 4.0)
    tone = paint.noise(paint.node("CombineXYZ", {0: shift}), 1.0, 0.0)
    colour = paint.mix(rings, (0.36, 0.195, 0.085), (0.25, 0.122, 0.048))
    colour = paint.mix(paint.math("MULTIPLY", paint.ramp(pores, 0.45, 0.75), 0.5), colour, (0.15, 0.070, 0.028))
    colour = paint.mix(paint.ramp(tone, 0.35, 0.65), colour, paint.mix(0.35, colour, (0.44, 0.26, 0.12)))
    colour = paint.mix(seam, colour, (0.03, 0.014, 0.006))
    paint.bump(paint.math("SUBTRACT", pores, paint.math("MULTIPLY", seam, 4.0)), 0.15, 0.01)
    return paint.finish(colour, paint.math("ADD", 0.33, paint.math("MULTIPLY", pores, 0.2)))


def block(
    name: str, low: tuple[float, float, float], high: tuple[float, float, float], paint: bpy.types.Material
) -> None:
    """A box between two corners."""
    (x0, y0, z0), (x1, y1, z1) = low, high
    made = plate(name, rectangle((x0, z0), (x1, z1), 0.02), y1 - y0, 0.01, 3)
    made.location.y = (y0 + y1) / 2
    wear(paint, made)


def room() -> None:
    """A table by a window on the left; behind it, out of focus, a wall with a shelf of books and a lamp."""
    top = solid("table", np.array([[-6, -6, 0], [6, -6, 0], [6, 2.6, 0], [-6, 2.6, 0]], float), [[0, 1, 2, 3]])
    wear(table_wood(), top)
    block("wall", (-9, 6.0, -4), (9, 6.2, 7), plain("wall", (0.46, 0.50, 0.48), 0.9))
    block("shelf", (-1.2, 5.2, 0.05), (7, 6.0, 0.15), plain("shelf", (0.30, 0.17, 0.08), 0.6))
    choose = np.random.default_rng(4)
    spines = [(0.10, 0.20, 0.28), (0.50, 0.20, 0.10), (0.62, 0.52, 0.34), (0.16, 0.25, 0.16), (0.60, 0.38, 0.12)]
    covers = [plain("cover", spine, 0.6) for spine in spines]
    x = -0.9
    while x < 3.2:
        width, height = choose.uniform(0.10, 0.24), choose.uniform(0.7, 1.15)
        block("book", (x, 5.35, 0.15), (x + width, 5.9, 0.15 + height), covers[choose.integers(len(covers))])
        x += width + 0.012
    pot = lathe("pot", spline([(0.0, 0.0), (0.22, 0.0), (0.34, 0.25), (0.30, 0.55), (0.16, 0.75), (0.18, 0.85)]), 48)
    wear(plain("pot", (0.55, 0.50, 0.42), 0.5), place(pot, (-2.2, 4.6, -0.5)))
    studio.softbox((-4.2, 0.2, 2.6), (0, 0, 0.3), (2.6, 2.8), 330, (0.96, 0.98, 1.0))
    studio.softbox((3.6, -3.6, 2.4), (0, 0, 0.3), (3.0, 2.4), 55, (1.0, 0.90, 0.78))
    studio.softbox((-2.0, 3.0, 5.0), (1.0, 6.0, 0.8), (2.0, 2.0), 190, (1.0, 0.93, 0.84))


# ------------------------------------------------------------------------------------------------------------ lamp


def lamp() -> tuple[list[bpy.types.Object], Shot]:
    """A mustard desk lamp: heavy foot, swan neck that thins as it climbs, tilted dome, lit bulb. No background."""
    enamel = plain("enamel", MUSTARD, 0.25, Coat_Weight=0.5)
    brass = plain("brass", BRASS, 0.24, Metallic=1.0)
    foot = lathe(
        "foot",
        spline(
            [
                (0.0, 0.0),
                (0.26, 0.0),
                (0.285, 0.012),
                (0.29, 0.04),
                (0.27, 0.075),
                (0.16, 0.10),
                (0.075, 0.125),
                (0.055, 0.17),
                (0.0, 0.175),
            ]
        ),
    )
    neck_path = spline(
        [(0, 0, 0.14), (-0.015, 0, 0.40), (-0.005, 0, 0.70), (0.07, 0, 0.93), (0.22, 0, 1.03), (0.38, 0, 0.985)]
    )
    neck = tube("neck", neck_path, np.linspace(0.036, 0.024, len(neck_path)))
    collar = lathe("collar", spline([(0.0, 0.0), (0.062, 0.0), (0.066, 0.015), (0.062, 0.03), (0.0, 0.031)]), 64)
    knob = lathe("knob", spline([(0.0, 0.0), (0.028, 0.0), (0.03, 0.03), (0.02, 0.042), (0.0, 0.045)]), 48)
    place(collar, (0, 0, 0.155))
    place(knob, (0.06, -0.19, 0.085), towards=(0.1, -0.35, 1))

    facing, hang = (0.50, -0.42, -0.76), np.array([0.40, -0.01, 0.97])
    outer = [
        (0.0, -0.085),
        (0.05, -0.08),
        (0.062, -0.03),
        (0.075, 0.0),
        (0.16, 0.05),
        (0.235, 0.14),
        (0.275, 0.27),
        (0.282, 0.31),
    ]
    inner = [(0.279, 0.316), (0.272, 0.31), (0.265, 0.27), (0.225, 0.145), (0.15, 0.06), (0.0, 0.02)]
    dome, lining = lathe("dome", spline(outer)), lathe("lining", spline([outer[-1], *inner]))
    bulb = lathe(
        "bulb",
        spline([(0.0, 0.02), (0.035, 0.03), (0.04, 0.08), (0.088, 0.18), (0.095, 0.225), (0.065, 0.28), (0.0, 0.297)]),
        64,
    )
    for part in (dome, lining, bulb):
        place(part, hang, towards=facing)
    joint = lathe("joint", spline([(0.0, -0.055), (0.04, -0.04), (0.056, 0.0), (0.04, 0.04), (0.0, 0.055)]), 48)
    place(joint, hang - 0.06 * np.array(facing))

    wear(enamel, foot, dome)
    wear(brass, neck, collar, knob, joint)
    wear(plain("lining", WHITE, 0.5), lining)
    wear(plain("bulb", (1.0, 0.9, 0.7), 0.3, Emission_Color=(1.0, 0.60, 0.26), Emission_Strength=5.0), bulb)
    paper = studio.sweep((0.6, 0.6, 0.6))
    paper.visible_camera = False  # it still bounces light up, as a table would
    studio.product_lights()
    return [foot, neck, collar, knob, dome, lining, bulb, joint], Shot(elevation=10.0, fill=0.86, transparent=True)


PHOTOS: dict[str, tuple[Callable[[], tuple[list[bpy.types.Object], Shot]], str]] = {
    "mug": (mug, "mug.jpg"),
    "toy_car": (toy_car, "toy_car.jpg"),
    "lamp": (lamp, "lamp.png"),
}


def main() -> None:
    """Make the photos named on the command line, or all of them."""
    parser = argparse.ArgumentParser(description="Model and photograph the example objects.")
    parser.add_argument("names", nargs="*", metavar="name", help=f"which of {', '.join(PHOTOS)} (default: all)")
    parser.add_argument("--pixels", type=int, default=1024, help="side of the square picture")
    parser.add_argument("--samples", type=int, default=64, help="Cycles samples per pixel")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, help="folder for the pictures")
    options = parser.parse_args()
    unknown = sorted(set(options.names) - set(PHOTOS))
    if unknown:
        parser.error(f"no photo is called {', '.join(unknown)}; choose from {', '.join(PHOTOS)}")
    for name in options.names or PHOTOS:
        build, file = PHOTOS[name]
        started = time.perf_counter()
        studio.empty_stage(ambient=0.2)
        subject, shot = build()
        studio.frame(subject, shot)
        studio.develop(options.out / file, shot, side=options.pixels, samples=options.samples)
        print(f"{file}: {time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    main()
