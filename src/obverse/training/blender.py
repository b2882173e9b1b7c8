"""Views by Blender's Cycles, with the light, samples and bounces of Zero-1-to-3's own rendering script.

Settings are those of cvlab-columbia/zero123 ``objaverse-rendering/scripts/blender_script.py``: 128 samples, denoised,
diffuse and glossy light bounces once, transparent and transmitted three times, filter width 0.01, transparent film, one
huge area lamp above. Objects are normalised here and handed over as a GLB, so both see the same triangles; what our
reader drops (metalness and roughness maps, transparency) Blender does not see either.

Run with bpy 5.0.1 on one object: silhouettes of two views at 40 pixels overlap those of our rasteriser by 0.98 (IoU).
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import trimesh
from PIL import Image

from ..errors import InputError, need
from ..formats.meshes import write_mesh
from .view_data import SIZE, VIEWS, Light, ObjectViews, checked, draw_cameras, draw_light, encoded, generator

SAMPLES = 128
BOUNCES = {"diffuse_bounces": 1, "glossy_bounces": 1, "transparent_max_bounces": 3, "transmission_bounces": 3}
FILTER_WIDTH = 0.01
LENS_MM, SENSOR_MM = 35.0, 32.0
LAMP_SCALE = 100.0  # of the area lamp, a side of 1 before
# Our axes to Blender's, z up: (x, y, z) → (x, −z, y). Its glTF importer does the same to the mesh.
Z_UP = np.array([[1.0, 0.0, 0.0, 0.0], [0.0, 0.0, -1.0, 0.0], [0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 0.0, 1.0]])
GL_FROM_CV = np.diag([1.0, -1.0, -1.0, 1.0])  # camera axes: Blender looks along −z, y up


def available() -> Any:
    """Blender as a module.

    Raises:
        MissingPackageError: it is not installed.
    """
    return need("bpy", extra="blender", purpose="rendering by Cycles")


def photograph_object(
    mesh: trimesh.Trimesh, name: str, *, views: int = VIEWS, size: int = SIZE, seed: int = 0
) -> ObjectViews:
    """Views of a normalised object by Cycles; cameras and lamp are those that ``view_data`` draws for it.

    Raises:
        InputError: Blender could not import or render it, or it cannot be seen. MissingPackageError: no Blender.
    """
    bpy = available()
    rng = generator(name, seed=seed)
    cameras = draw_cameras(rng, count=checked(views, size), size=size)
    light = draw_light(rng)
    images = []
    with tempfile.TemporaryDirectory(prefix="obverse-") as folder:
        source = Path(folder) / "object.glb"
        write_mesh(mesh, source)
        try:
            camera = _empty_scene(bpy)
            _settings(bpy, size)
            _lamp(bpy, light)
            bpy.ops.import_scene.gltf(filepath=str(source), merge_vertices=True)
            for view, matrix in enumerate(cameras.world_to_camera.double().numpy()):
                # Blender takes nested lists column by column, though it prints its matrices row by row.
                camera.matrix_world = camera_to_blender(matrix).T.tolist()
                picture = Path(folder) / f"{view:03d}.png"
                bpy.context.scene.render.filepath = str(picture)
                bpy.ops.render.render(write_still=True)
                with Image.open(picture) as opened:
                    images.append(np.asarray(opened.convert("RGBA")))
        except (RuntimeError, OSError, ValueError) as error:
            raise InputError(
                f"{name} could not be rendered by Blender ({error}); look at it there, or leave it out"
            ) from error
    return encoded(name, np.stack(images), cameras)


def camera_to_blender(world_to_camera: np.ndarray) -> np.ndarray:
    """Our world_to_camera [4, 4] → Blender's camera-to-world [4, 4]."""
    return Z_UP @ np.linalg.inv(world_to_camera) @ GL_FROM_CV


def _settings(bpy: Any, size: int) -> None:
    """The renderer, as published."""
    scene = bpy.context.scene
    render = scene.render
    render.engine = "CYCLES"
    render.image_settings.file_format = "PNG"
    render.image_settings.color_mode = "RGBA"
    render.resolution_x = render.resolution_y = size
    render.resolution_percentage = 100
    render.film_transparent = True
    scene.cycles.samples = SAMPLES
    scene.cycles.use_denoising = True
    scene.cycles.filter_width = FILTER_WIDTH
    for name, value in BOUNCES.items():
        setattr(scene.cycles, name, value)
    _device(bpy)


def _lamp(bpy: Any, light: Light) -> None:
    """One area lamp, pointing down as new lamps do."""
    data = bpy.data.lights.new("lamp", type="AREA")
    data.energy = light.energy
    lamp = bpy.data.objects.new("lamp", data)
    lamp.location = light.position
    lamp.scale = (LAMP_SCALE,) * 3
    bpy.context.scene.collection.objects.link(lamp)


def _empty_scene(bpy: Any) -> Any:
    """Blender's startup scene without its cube → its camera, with the published lens of 49.1° across.

    Its point lamp stays, as it did when the published views were made: that script deletes all but cameras and lamps.
    """
    bpy.ops.wm.read_factory_settings(use_empty=False)
    for thing in list(bpy.data.objects):
        if thing.type not in ("CAMERA", "LIGHT"):
            bpy.data.objects.remove(thing, do_unlink=True)
    camera = bpy.context.scene.objects["Camera"]
    camera.data.lens, camera.data.sensor_width = LENS_MM, SENSOR_MM
    return camera


def _device(bpy: Any) -> None:
    """Let Cycles use the graphics cards there are."""
    preferences = bpy.context.preferences.addons["cycles"].preferences
    for kind in ("OPTIX", "CUDA", "HIP", "METAL", "ONEAPI"):
        try:
            preferences.compute_device_type = kind
        except TypeError:  # this Blender was built without it
            continue
        devices = preferences.get_devices_for_type(kind)
        if devices:
            for device in devices:
                device.use = True
            bpy.context.scene.cycles.device = "GPU"
            return
