"""A small photo studio in code: shapes, paint, lights, a camera that frames its subject, and the shutter.

Everything the example photos share lives here; the objects themselves are in make_photos.py. Blender frame: +Z is up,
the camera stands towards -Y. One unit is about the size of the object. It needs Blender as a Python module (`bpy`).
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import bpy
import numpy as np
from mathutils import Matrix, Vector
from PIL import Image

Colour = tuple[float, float, float]  # linear RGB, 0-1

# ---------------------------------------------------------------------------------------------------------- shapes


def solid(name: str, vertices: np.ndarray, faces: Sequence[Sequence[int]]) -> bpy.types.Object:
    """A smooth-shaded mesh object from vertices [N, 3] and faces of any valence."""
    mesh = bpy.data.meshes.new(name)
    mesh.from_pydata(np.asarray(vertices, float).tolist(), [], [list(face) for face in faces])
    mesh.shade_smooth()
    made = bpy.data.objects.new(name, mesh)
    bpy.context.collection.objects.link(made)
    return made


def spline(knots: Sequence[Sequence[float]], per_span: int = 10) -> np.ndarray:
    """Catmull-Rom curve through knots [K, D]; returns [(K - 1) * per_span + 1, D]."""
    k = np.asarray(knots, float)
    k = np.vstack([2 * k[0] - k[1], k, 2 * k[-1] - k[-2]])
    t = np.linspace(0, 1, per_span, endpoint=False)[:, None]
    spans = [
        0.5 * (2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2 + (3 * b - a - 3 * c + d) * t**3)
        for a, b, c, d in zip(k[:-3], k[1:-2], k[2:-1], k[3:], strict=True)
    ]
    return np.vstack([*spans, k[-2:-1]])


def rounded(corners: Sequence[tuple[float, float, float]], steps: int = 8) -> np.ndarray:
    """Outline [N, 2] of a polygon given as (x, y, radius); each corner becomes a parabola that starts at the radius."""
    points = np.array([corner[:2] for corner in corners], float)
    outline = []
    for i, (_, _, radius) in enumerate(corners):
        here, before, after = points[i], points[i - 1], points[(i + 1) % len(points)]
        if radius == 0:
            outline.append(here)
            continue
        a = here + radius * (before - here) / np.linalg.norm(before - here)
        b = here + radius * (after - here) / np.linalg.norm(after - here)
        outline += [(1 - t) ** 2 * a + 2 * t * (1 - t) * here + t**2 * b for t in np.linspace(0, 1, steps)]
    return np.array(outline)


def rectangle(low: tuple[float, float], high: tuple[float, float], radius: float) -> np.ndarray:
    """Outline [N, 2] of a rectangle between two corners, its own corners rounded."""
    (x0, y0), (x1, y1) = low, high
    return rounded([(x0, y0, radius), (x1, y0, radius), (x1, y1, radius), (x0, y1, radius)])


def bridge(rings: int, around: int) -> list[list[int]]:
    """Quads between consecutive rings of `around` vertices each, outward for rings that climb counter-clockwise."""
    quads = []
    for i in range(rings - 1):
        for j in range(around):
            a, b = i * around + j, i * around + (j + 1) % around
            quads.append([a, b, b + around, a + around])
    return quads


def lathe(name: str, profile: np.ndarray, around: int = 128) -> bpy.types.Object:
    """The surface that profile [N, 2] of (radius, height) sweeps about +Z; ends on the axis close it."""
    turn = np.linspace(0, 2 * np.pi, around, endpoint=False)
    radius, height = np.maximum(profile[:, :1], 1e-4), np.repeat(profile[:, 1:], around, axis=1)
    rings = np.stack([radius * np.cos(turn), radius * np.sin(turn), height], axis=-1)
    return solid(name, rings.reshape(-1, 3), bridge(len(profile), around))


def tube(
    name: str, path: np.ndarray, radii: Sequence[float] | np.ndarray, *, widen: float = 1.0, around: int = 32
) -> bpy.types.Object:
    """A closed tube along path [N, 3] with one radius per point; `widen` stretches it across the plane of the path.

    The frame is carried along by projection, so it never twists.
    """
    along = np.gradient(path, axis=0)
    along /= np.linalg.norm(along, axis=1, keepdims=True)
    bend = np.cross(along[0], along[len(along) // 2])
    side = bend if np.linalg.norm(bend) > 1e-3 else np.cross(along[0], np.eye(3)[np.argmin(abs(along[0]))])
    turn = np.linspace(0, 2 * np.pi, around, endpoint=False)[:, None]
    rings = []
    for centre, tangent, radius in zip(path, along, radii, strict=True):
        side = side - tangent * (side @ tangent)
        side /= np.linalg.norm(side)
        rings.append(centre + radius * (np.cos(turn) * np.cross(side, tangent) + widen * np.sin(turn) * side))
    last = (len(path) - 1) * around
    caps = [list(range(around))[::-1], list(range(last, last + around))]
    return solid(name, np.concatenate(rings), bridge(len(path), around) + caps)


def capsule(name: str, knots: Sequence[Sequence[float]], radius: float) -> bpy.types.Object:
    """A tube of one radius through knots [K, 3], with round ends."""
    path = spline(knots)
    start, end = path[0] - path[1], path[-1] - path[-2]
    start, end = start / np.linalg.norm(start), end / np.linalg.norm(end)
    lift = np.linspace(0.05, np.pi / 2, 9)[:-1]
    head = path[0] + radius * np.cos(lift)[:, None] * start
    tail = path[-1] + radius * np.cos(lift)[::-1, None] * end
    radii = np.concatenate([np.sin(lift), np.ones(len(path)), np.sin(lift)[::-1]]) * radius
    return tube(name, np.vstack([head, path, tail]), radii)


def plate(name: str, outline: np.ndarray, depth: float, bevel: float, steps: int = 6) -> bpy.types.Object:
    """Outline [N, 2] in the XZ plane, counter-clockwise seen from -Y, made `depth` thick along Y with round edges."""
    step = np.roll(outline, -1, axis=0) - outline
    normal = np.stack([step[:, 1], -step[:, 0]], axis=1) / np.linalg.norm(step, axis=1, keepdims=True)
    outward = normal + np.roll(normal, 1, axis=0)
    outward /= np.maximum(np.sum(outward * normal, axis=1, keepdims=True), 0.3)
    rings = []
    for angle in np.concatenate([np.linspace(-np.pi / 2, 0, steps), np.linspace(0, np.pi / 2, steps)]):
        flat = outline - outward * bevel * (1 - math.cos(angle))
        y = math.copysign(depth / 2 - bevel, angle if angle else len(rings) - steps + 0.5) + bevel * math.sin(angle)
        rings.append(np.stack([flat[:, 0], np.full(len(flat), y), flat[:, 1]], axis=1))
    count = len(outline)
    last = (len(rings) - 1) * count
    caps = [list(range(count))[::-1], list(range(last, last + count))]
    made = solid(name, np.concatenate(rings), [*bridge(len(rings), count), *caps])
    made.data.flip_normals()
    made.data.set_sharp_from_angle(angle=math.radians(35))
    return made


def fuse(parts: Sequence[bpy.types.Object], voxel: float, smoothing: int) -> bpy.types.Object:
    """One skin over overlapping closed parts, its joints and edges melted by `smoothing` steps of `voxel` size."""
    if len(parts) > 1:
        with bpy.context.temp_override(active_object=parts[0], selected_editable_objects=list(parts)):
            bpy.ops.object.join()
    whole = parts[0]
    remesh = whole.modifiers.new("skin", "REMESH")
    remesh.mode, remesh.voxel_size = "VOXEL", voxel
    smooth = whole.modifiers.new("melt", "SMOOTH")
    smooth.factor, smooth.iterations = 0.5, smoothing
    evaluated = whole.evaluated_get(bpy.context.evaluated_depsgraph_get())
    whole.data, rough = bpy.data.meshes.new_from_object(evaluated), whole.data
    whole.modifiers.clear()
    bpy.data.meshes.remove(rough)
    whole.data.shade_smooth()
    return whole


def vertices_of(made: bpy.types.Object) -> np.ndarray:
    """The object's vertices [N, 3] in its own frame."""
    flat = np.empty(3 * len(made.data.vertices), np.float32)
    made.data.vertices.foreach_get("co", flat)
    return flat.reshape(-1, 3)


def deform(made: bpy.types.Object, move: Callable[[np.ndarray], np.ndarray]) -> bpy.types.Object:
    """Replace the object's vertices [N, 3] by move(vertices)."""
    moved = np.ascontiguousarray(move(vertices_of(made)), np.float32)
    made.data.vertices.foreach_set("co", moved.ravel())
    made.data.update()
    return made


def place(
    made: bpy.types.Object, at: Sequence[float] = (0, 0, 0), *, towards: Sequence[float] = (0, 0, 1)
) -> bpy.types.Object:
    """Put the object's origin at a point, its own +Z turned towards a direction."""
    made.matrix_world = Matrix.Translation(at) @ Vector(towards).to_track_quat("Z", "Y").to_matrix().to_4x4()
    return made


# ----------------------------------------------------------------------------------------------------------- paint


class Paint:
    """A material under construction: thin words over Blender's shader nodes. A value is a number or a node's output."""

    def __init__(self, name: str) -> None:
        self.material = bpy.data.materials.new(name)
        self.material.use_nodes = True
        self.nodes = self.material.node_tree.nodes
        self.surface = self.nodes["Principled BSDF"]

    def node(self, kind: str, inputs: Mapping, output: int | str = 0, **settings: object):
        """A new ShaderNode<kind> with settings and inputs; returns one of its outputs."""
        made = self.nodes.new(f"ShaderNode{kind}")
        for key, value in settings.items():
            setattr(made, key, value)
        for key, value in inputs.items():
            self.feed(made.inputs[key], value)
        return made.outputs[output]

    def feed(self, socket: bpy.types.NodeSocket, value) -> None:
        """Link or set one input; a colour given as three numbers gets alpha 1."""
        if isinstance(value, bpy.types.NodeSocket):
            self.material.node_tree.links.new(value, socket)
        elif socket.type == "RGBA":
            socket.default_value = (*value, 1.0)
        else:
            socket.default_value = value

    def math(self, operation: str, a, b=0.0):
        """One arithmetic operation by Blender's name for it."""
        return self.node("Math", {0: a, 1: b}, operation=operation)

    def hypot(self, a, b):
        """The length of (a, b)."""
        return self.math("SQRT", self.math("ADD", self.math("MULTIPLY", a, a), self.math("MULTIPLY", b, b)))

    def ramp(self, value, low: float, high: float):
        """Smoothly 0 below low, 1 above high."""
        return self.node("MapRange", {0: value, 1: low, 2: high}, interpolation_type="SMOOTHSTEP")

    def between(self, value, low: float, high: float, soft: float = 0.004):
        """1 inside low..high with soft edges."""
        return self.math("MULTIPLY", self.ramp(value, low, low + soft), self.ramp(value, high, high - soft))

    def mix(self, factor, a, b):
        """Colour a where factor is 0, b where it is 1."""
        return self.node("Mix", {0: factor, 6: a, 7: b}, 2, data_type="RGBA")

    def noise(self, vector, scale: float, detail: float = 3.0):
        """Smooth noise, roughly 0.3-0.7 about 0.5."""
        return self.node("TexNoise", {"Vector": vector, "Scale": scale, "Detail": detail})

    def specks(self, vector, scale: float, size: float):
        """1 in round specks: about half the cells of a 3D pattern hold one, up to `size` of a cell in radius."""
        distance = self.node("TexVoronoi", {"Vector": vector, "Scale": scale}, "Distance")
        chance = self.node("SeparateXYZ", {0: self.node("TexVoronoi", {"Vector": vector, "Scale": scale}, "Color")})
        allowed = self.math("MULTIPLY", self.math("SUBTRACT", chance, 0.5), 2.0 * size)
        return self.ramp(self.math("SUBTRACT", allowed, distance), -0.02, 0.01)

    def coordinates(self, scale: Sequence[float] = (1, 1, 1)):
        """The object's own coordinates, stretched, as a vector and as its x, y, z."""
        vector = self.node("TexCoord", {}, "Object")
        vector = self.node("VectorMath", {0: vector, 1: scale}, operation="MULTIPLY")
        split = self.node("SeparateXYZ", {0: vector}).node
        return vector, *(split.outputs[i] for i in range(3))

    def bump(self, height, strength: float, distance: float) -> None:
        """Let a height value, in units of `distance`, tilt the shading normal."""
        bumped = self.node("Bump", {"Height": height, "Strength": strength, "Distance": distance})
        self.feed(self.surface.inputs["Normal"], bumped)

    def finish(self, colour, roughness, **more) -> bpy.types.Material:
        """Set the surface and hand over the material; further inputs by name, with _ for a space."""
        inputs = {"Base Color": colour, "Roughness": roughness}
        inputs.update({key.replace("_", " "): value for key, value in more.items()})
        for key, value in inputs.items():
            self.feed(self.surface.inputs[key], value)
        return self.material


def plain(name: str, colour: Colour, roughness: float = 0.4, **more) -> bpy.types.Material:
    """A material of one colour."""
    return Paint(name).finish(colour, roughness, **more)


def wear(material: bpy.types.Material, *objects: bpy.types.Object) -> None:
    """Give the objects this one material."""
    for made in objects:
        made.data.materials.clear()
        made.data.materials.append(material)


# --------------------------------------------------------------------------------------------- light, camera, shutter


@dataclass(frozen=True)
class Shot:
    """How a picture is taken. Angles in degrees; azimuth 0 looks along +Y, positive walks to the right."""

    azimuth: float = 0.0
    elevation: float = 12.0
    field_of_view: float = 30.0
    fill: float = 0.72  # share of the frame that the object's longer side takes
    drop: float = 0.0  # how far below the centre of the frame the object sits, as a share of the frame
    aperture: float = 0.0  # diameter of the lens opening in units; 0 keeps everything sharp
    exposure: float = 0.0  # stops
    transparent: bool = False


def empty_stage(ambient: float) -> None:
    """Forget everything and light the void evenly."""
    bpy.ops.wm.read_factory_settings(use_empty=True)
    world = bpy.data.worlds.new("ambient")
    world.use_nodes = True
    world.node_tree.nodes["Background"].inputs["Color"].default_value = (1.0, 1.0, 1.0, 1.0)
    world.node_tree.nodes["Background"].inputs["Strength"].default_value = ambient
    bpy.context.scene.world = world


def softbox(at: Sequence[float], aim: Sequence[float], size: tuple[float, float], watts: float, colour: Colour) -> None:
    """A rectangular light standing at one point and shining at another."""
    light = bpy.data.lights.new("softbox", "AREA")
    light.shape, (light.size, light.size_y) = "RECTANGLE", size
    light.energy, light.color = watts, colour
    made = bpy.data.objects.new("softbox", light)
    bpy.context.collection.objects.link(made)
    place(made, at, towards=Vector(at) - Vector(aim))


def product_lights(key: float = 70.0) -> None:
    """Large key from the left, a dimmer fill from the right, a strip from behind for the edges. `key` in watts."""
    softbox((-2.6, -1.9, 2.8), (0, 0, 0.4), (2.4, 2.4), key, (1.0, 0.97, 0.93))
    softbox((3.0, -1.6, 1.4), (0, 0, 0.5), (1.6, 2.4), 0.28 * key, (0.93, 0.96, 1.0))
    softbox((0.9, 2.2, 2.9), (0, 0, 0.5), (2.6, 0.9), 0.5 * key, (1.0, 1.0, 1.0))


def sweep(colour: Colour) -> bpy.types.Object:
    """Seamless studio paper: a floor that bends up into a wall."""
    profile = rounded([(-8.0, 0.0, 0.0), (3.6, 0.0, 2.6), (3.6, 9.0, 0.0)], steps=32)
    vertices = np.array([[x, y, z] for y, z in profile for x in (-12.0, 12.0)])
    paper = solid("sweep", vertices, [[2 * i, 2 * i + 1, 2 * i + 3, 2 * i + 2] for i in range(len(profile) - 1)])
    wear(plain("paper", colour, 0.9), paper)
    return paper


def frame(subject: Sequence[bpy.types.Object], shot: Shot) -> None:
    """Add the camera: walk back along the shot's direction until the subject fills its share, centred."""
    bpy.context.view_layer.update()
    placed = [(vertices_of(made), np.array(made.matrix_world)) for made in subject]
    points = np.concatenate([own @ pose[:3, :3].T + pose[:3, 3] for own, pose in placed])
    turn, rise = math.radians(shot.azimuth), math.radians(shot.elevation)
    back = np.array([math.sin(turn) * math.cos(rise), -math.cos(turn) * math.cos(rise), math.sin(rise)])
    right = np.array([math.cos(turn), math.sin(turn), 0.0])
    axes = np.stack([right, np.cross(back, right)])
    half = math.tan(math.radians(shot.field_of_view) / 2)
    target, distance = points.mean(axis=0), 5.0
    for _ in range(12):
        local = points - target
        flat = local @ axes.T / (distance - local @ back)[:, None] / half
        low, high = flat.min(axis=0), flat.max(axis=0)
        centre = (low + high) / 2 + (0, 2 * shot.drop)
        target = target + distance * half * centre @ axes
        distance *= (high - low).max() / 2 / shot.fill
    lens = bpy.data.cameras.new("camera")
    lens.angle = math.radians(shot.field_of_view)
    if shot.aperture:
        lens.dof.use_dof, lens.dof.focus_distance = True, distance - 0.35
        lens.dof.aperture_fstop = lens.lens / 1000 / shot.aperture  # Blender reads one unit as one metre
    camera = bpy.data.objects.new("camera", lens)
    bpy.context.collection.objects.link(camera)
    place(camera, target + distance * back, towards=back)
    bpy.context.scene.camera = camera


def develop(path: Path, shot: Shot, *, side: int, samples: int) -> None:
    """Render the stage, `side` pixels square, with Cycles on the CPU; denoise; save without any metadata."""
    scene = bpy.context.scene
    scene.render.engine = "CYCLES"
    scene.cycles.samples, scene.cycles.seed = samples, 7
    scene.cycles.adaptive_threshold = 0.02  # plain paper needs few samples; the denoiser evens out the rest
    scene.cycles.use_denoising, scene.cycles.denoiser = True, "OPENIMAGEDENOISE"
    scene.cycles.max_bounces = 8
    scene.cycles.caustics_reflective = scene.cycles.caustics_refractive = False
    scene.render.resolution_x = scene.render.resolution_y = side
    scene.render.film_transparent = shot.transparent
    scene.view_settings.view_transform, scene.view_settings.look = "AgX", "AgX - Medium High Contrast"
    scene.view_settings.exposure = shot.exposure
    scene.render.image_settings.file_format = "PNG"
    scene.render.image_settings.color_mode = "RGBA" if shot.transparent else "RGB"
    with tempfile.TemporaryDirectory() as scratch:
        scene.render.filepath = str(Path(scratch) / "render.png")
        bpy.ops.render.render(write_still=True)
        with Image.open(scene.render.filepath) as picture:
            pixels = np.array(picture)  # nothing but pixels: Blender's text chunks name paths and dates
    if shot.transparent:
        pixels[pixels[..., 3] == 0] = 0  # the dither would leave noise in the colour of what is not there
    bare = Image.fromarray(pixels)
    if path.suffix == ".jpg":
        bare.save(path, quality=90, subsampling=0, optimize=True)
    else:
        bare.save(path, optimize=True)
