"""Posed images: folders of pictures with known cameras, as NeRF-synthetic, nerfstudio and COLMAP lay them out.

``read_views`` finds out which of the three a folder is. Camera poses come in three dialects: NeRF-synthetic and
nerfstudio store camera-to-world matrices with OpenGL axes (+X right, +Y up, −Z forward; nerf.studio, "Data
conventions"), COLMAP world-to-camera quaternions with OpenCV axes (colmap.github.io, "Output format"; its files are
read by ``colmap.py``). Pixel centres are at (0.5, 0.5) in all of them, as here.

The world of such a folder is arbitrary, so it is moved into ours: the point the cameras look at becomes the origin,
up becomes +Y, and the object's silhouettes fit a ball of diameter 1.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from ..cameras import Cameras, Views
from ..errors import InputError, UsageError
from .colmap import find_model, read_model
from .files import atomic_write, read_bytes, reading
from .images import encode_png

GL_TO_CV = np.diag([1.0, -1.0, -1.0, 1.0])  # camera axes: OpenGL ↔ OpenCV
EXTENSIONS = (".png", ".jpg", ".jpeg", ".webp")
DISTORTION = ("k1", "k2", "k3", "k4", "p1", "p2")
DEPTH_UNIT = 1e-3  # of 16-bit depth pictures, in the folder's units: millimetres where poses are in metres (nerfstudio)
UPRIGHT_DEG = 45.0  # the cameras' mean up is taken to be the world axis nearest to it, if no farther than this


@dataclass(frozen=True)
class Frame:
    """One picture of a folder before it is read."""

    name: str
    image: Path
    mask: Path | None
    world_to_camera: np.ndarray  # [4, 4] float64, OpenCV axes
    intrinsics: np.ndarray | None  # [3, 3] pixels; None if only ``angle_x`` is known
    angle_x: float | None = None  # field of view across the width, radians
    size: tuple[int, int] | None = None  # width and height that the intrinsics are for
    depth: Path | None = None
    depth_unit: float | None = None  # of the depth file's numbers, in the folder's units


@dataclass(frozen=True)
class PosedImages:
    """What ``read_views`` found."""

    views: Views  # images [V, H, W, 3], or [V, H, W, 4] where the folder has masks or transparency
    names: tuple[str, ...]
    transform: Tensor  # [4, 4] float64: the folder's world → ours, a rotation, a shift and one scale
    depths: Tensor | None = None  # [V, H, W] along each camera's +Z, our units, inf where unknown; None without files


def read_views(folder: str | Path, *, split: str | None = None, normalise: bool = True) -> PosedImages:
    """Read a folder of pictures with known cameras.

    Args:
        folder: holds ``transforms.json`` (NeRF-synthetic or nerfstudio), or is (or holds) a COLMAP sparse model in
            text or binary beside a folder ``images``. The path of a ``transforms*.json`` itself is taken too. Masks are
            the pictures' own transparency, nerfstudio's ``mask_path``, or COLMAP's ``masks/NAME.png``. Depths are
            nerfstudio's ``depth_file_path``, along the optical axis, 0 where unknown: pictures of 16 bits or integer
            .npy in thousandths of the poses' unit, .npy of floats in that unit; ``depth_unit_scale_factor`` in the
            file, where it stands, is the unit of both.
        split: read ``transforms_SPLIT.json`` instead, as NeRF-synthetic has train, val and test.
        normalise: move the world into obverse's frame; otherwise cameras stay where the folder has them.

    Raises:
        InputError: no poses, pictures missing or of mixed sizes, a lens with distortion, matrices that are not finite
            or not rigid, depths that are missing or of another shape.
    """
    path = Path(folder)
    frames = _transforms_frames(path, split) or _colmap_frames(path)
    if not frames:
        raise InputError(
            f"{path} holds no camera poses; obverse reads transforms.json (NeRF-synthetic, nerfstudio) and COLMAP "
            "models (sparse/0/cameras and images, .txt or .bin). Solve the cameras first, for example with COLMAP"
        )
    images, intrinsics = _read_images(frames)
    matrices = np.stack([frame.world_to_camera for frame in frames])
    transform = world_transform(matrices, intrinsics, images) if normalise else np.eye(4)
    cameras = Cameras(
        torch.from_numpy(_moved(matrices, transform).astype(np.float32)),
        torch.from_numpy(intrinsics.astype(np.float32)),
        images.shape[2],
        images.shape[1],
    )
    names = tuple(frame.name for frame in frames)
    depths = None
    if any(frame.depth for frame in frames):
        scale = np.cbrt(np.linalg.det(transform[:3, :3]))
        every = [_depth(frame, images.shape[2], images.shape[1]) for frame in frames]
        depths = torch.from_numpy((np.stack(every) * scale).astype(np.float32))
    return PosedImages(Views(torch.from_numpy(images), cameras), names, torch.from_numpy(transform), depths)


def write_transforms(views: Views, folder: str | Path, *, names: Sequence[str] | None = None) -> list[Path]:
    """Write views as a nerfstudio folder: ``images/NAME.png`` and ``transforms.json`` → the files.

    Pictures become 8-bit PNG with their alpha; camera-to-world matrices are written in obverse's world, +Y up.

    Args:
        views: images [V, H, W, 3 or 4].
        folder: made if absent.
        names: one per view, without folder or extension; by default 000, 001, …

    Raises:
        UsageError: names are not one per view, or not distinct. OutputError: the folder cannot be written.
    """
    folder = Path(folder)
    names = [f"{i:03d}" for i in range(len(views))] if names is None else list(names)
    if len(names) != len(views) or len(set(names)) != len(names):
        raise UsageError(f"there are {len(names)} names for {len(views)} views; give one distinct name per view")
    cameras = views.cameras
    matrices = cameras.world_to_camera.reshape(-1, 4, 4).double().numpy()
    files, frames = [], []
    for name, image, matrix, k in zip(names, views.images, matrices, cameras.intrinsics.reshape(-1, 3, 3), strict=True):
        pixels = (image.clamp(0, 1) * 255 + 0.5).to(torch.uint8).numpy()
        files.append(atomic_write(folder / "images" / f"{name}.png", encode_png(Image.fromarray(pixels))))
        frames.append(
            {
                "file_path": f"images/{name}.png",
                **{key: float(k[at]) for key, at in _INTRINSICS.items()},
                "w": cameras.width,
                "h": cameras.height,
                "transform_matrix": (np.linalg.inv(matrix) @ GL_TO_CV).tolist(),
            }
        )
    text = json.dumps({"camera_model": "OPENCV", "frames": frames}, indent=1) + "\n"
    return [*files, atomic_write(folder / "transforms.json", text.encode())]


_INTRINSICS = {"fl_x": (0, 0), "fl_y": (1, 1), "cx": (0, 2), "cy": (1, 2)}


# --------------------------------------------------------------------------------------------- the world's frame


def world_transform(matrices: np.ndarray, intrinsics: np.ndarray, images: np.ndarray) -> np.ndarray:
    """The similarity [4, 4] that moves a folder's world into ours.

    Args:
        matrices: world_to_camera [V, 4, 4].
        intrinsics: [V, 3, 3] pixels.
        images: [V, H, W, 3 or 4]; without alpha the whole picture counts as object.

    The origin is the point nearest to all optical axes. Up is the mean of the cameras' up, or the world axis near it;
    a +Z-up world is turned as Blender's glTF export does, so that its −Y side faces +Z. The scale makes every
    silhouette fit a ball of diameter 1 around the origin.
    """
    center = look_at_point(matrices)
    rotation = _upright(-matrices[:, 1, :3].mean(0))
    radius = max(_reach(m, k, im, center) for m, k, im in zip(matrices, intrinsics, images, strict=True))
    scale = 0.5 / radius if radius > 0 else 1.0
    transform = np.eye(4)
    transform[:3, :3] = scale * rotation
    transform[:3, 3] = -scale * rotation @ center
    return transform


def look_at_point(matrices: np.ndarray) -> np.ndarray:
    """The point [3] with the least sum of squared distances to the optical axes of world_to_camera [V, 4, 4].

    If all axes are parallel, one camera included, no point is nearest; then the one on the first axis at the origin's
    depth is taken, or a unit ahead of the camera if the origin lies behind it.
    """
    forward = matrices[:, 2, :3]
    positions = -np.einsum("vji,vj->vi", matrices[:, :3, :3], matrices[:, :3, 3])
    across = np.eye(3) - forward[:, :, None] * forward[:, None, :]
    total = across.sum(0)
    if np.linalg.eigvalsh(total)[0] > 1e-4 * len(matrices):
        return np.linalg.solve(total, np.einsum("vij,vj->i", across, positions))
    ahead = float(-positions[0] @ forward[0])
    return positions[0] + forward[0] * (ahead if ahead > 0 else 1.0)


def _upright(up: np.ndarray) -> np.ndarray:
    """Rotation [3, 3] that takes ``up`` [3] to +Y; from a world axis by quarter turns, else by the shortest way."""
    length = np.linalg.norm(up)
    if length < 1e-6:
        return np.eye(3)
    up = up / length
    axis = int(np.abs(up).argmax())
    if abs(up[axis]) >= math.cos(math.radians(UPRIGHT_DEG)):
        up = np.sign(up[axis]) * np.eye(3)[axis]
    cross, cosine = np.cross(up, [0.0, 1.0, 0.0]), float(up[1])
    if cosine < -1 + 1e-9:
        return np.diag([1.0, -1.0, -1.0])
    k = np.array([[0, -cross[2], cross[1]], [cross[2], 0, -cross[0]], [-cross[1], cross[0], 0]])
    return np.eye(3) + k + k @ k / (1 + cosine)


def _reach(matrix: np.ndarray, intrinsics: np.ndarray, image: np.ndarray, center: np.ndarray) -> float:
    """Radius of the ball around ``center`` that covers one view's silhouette, in the folder's units."""
    local = matrix[:3, :3] @ center + matrix[:3, 3]
    inside = image[..., 3] >= 0.5 if image.shape[-1] == 4 else np.ones(image.shape[:2], np.bool_)
    if not inside.any() or local[2] <= 0:
        return 0.0
    v, u = np.nonzero(inside)
    pixels = np.stack([u + 0.5, v + 0.5, np.ones(len(u))])
    rays = np.linalg.inv(intrinsics) @ pixels
    rays /= np.linalg.norm(rays, axis=0)
    distance = float(np.linalg.norm(local))
    cosine = (local / distance) @ rays
    return distance * math.sqrt(max(0.0, 1 - float(cosine.min()) ** 2))


def _moved(matrices: np.ndarray, transform: np.ndarray) -> np.ndarray:
    """world_to_camera [V, 4, 4] for points that ``transform`` has moved; depths are scaled like the world."""
    scale = np.cbrt(np.linalg.det(transform[:3, :3]))
    moved = matrices @ np.linalg.inv(transform)
    moved[:, :3] *= scale
    return moved


# --------------------------------------------------------------------------------------------- the dialects


def _transforms_frames(path: Path, split: str | None) -> list[Frame]:
    """Frames of a NeRF-synthetic or nerfstudio file; empty if there is none."""
    if path.is_dir() or path.suffix != ".json":
        names = [f"transforms_{split}.json"] if split else ["transforms.json", "transforms_train.json"]
        found = [path / name for name in names if (path / name).is_file()]
        if not found and split:
            raise InputError(f"{path} holds no transforms_{split}.json; leave the split out, or name one that is there")
        if not found:
            return []
        path = found[0]
    with reading(path, "transforms"):
        content = json.loads(read_bytes(path))
        entries = content["frames"]
        if not isinstance(entries, list) or not entries:
            raise InputError("its list 'frames' has no entries; every picture needs one with a transform_matrix")
        return [_frame({**content, **entry}, path.parent) for entry in entries]


def _frame(entry: dict[str, Any], folder: Path) -> Frame:
    """One entry of ``frames``, with the file's common values filled in."""
    name = str(entry["file_path"])
    bent = [key for key in DISTORTION if abs(float(entry.get(key, 0) or 0)) > 1e-8]
    model = str(entry.get("camera_model", "OPENCV"))
    if bent or model not in ("OPENCV", "PINHOLE", "SIMPLE_PINHOLE"):
        what = f"distortion ({', '.join(bent)})" if bent else f"the camera model {model}"
        raise InputError(
            f"{name} has {what}, and obverse needs pinhole pictures; undistort them first, for example with "
            "colmap image_undistorter"
        )
    matrix = np.array(entry["transform_matrix"], np.float64)
    if matrix.shape == (3, 4):
        matrix = np.vstack([matrix, [0, 0, 0, 1]])
    matrix = np.linalg.inv(_rigid(matrix, name) @ GL_TO_CV)
    intrinsics, size = None, None
    if "fl_x" in entry:
        width, height = float(entry.get("w", 0)), float(entry.get("h", 0))
        size = (int(width), int(height)) if width and height else None
        if size is None and not ("cx" in entry and "cy" in entry):
            raise InputError(f"{name} has fl_x but neither w and h nor cx and cy; add the picture's size in pixels")
        fx = float(entry["fl_x"])
        intrinsics = np.eye(3)
        intrinsics[0, 0], intrinsics[1, 1] = fx, float(entry.get("fl_y", fx))
        intrinsics[0, 2], intrinsics[1, 2] = float(entry.get("cx", width / 2)), float(entry.get("cy", height / 2))
    elif "camera_angle_x" not in entry:
        raise InputError(f"{name} has neither fl_x nor camera_angle_x; add one, the lens must be known")
    mask, depth, unit = (entry.get(key) for key in ("mask_path", "depth_file_path", "depth_unit_scale_factor"))
    return Frame(
        name=Path(name).stem,
        image=_image_path(folder / name),
        mask=_image_path(folder / str(mask)) if mask else None,
        world_to_camera=matrix,
        intrinsics=intrinsics,
        angle_x=None if intrinsics is not None else float(entry["camera_angle_x"]),
        size=size,
        depth=folder / str(depth) if depth else None,
        depth_unit=None if unit is None else float(unit),
    )


def _colmap_frames(path: Path) -> list[Frame]:
    """Frames of a COLMAP model; empty if there is none."""
    model = find_model(path)
    if model is None:
        return []
    root = next((p for p in (path, *model.parents[:3]) if (p / "images").is_dir()), None)
    if root is None:
        raise InputError(f"{path} holds a COLMAP model but no folder 'images' beside it; put the pictures there")
    frames = []
    for picture in sorted(read_model(model), key=lambda p: p.name):
        masks = [root / "masks" / f"{picture.name}.png", (root / "masks" / picture.name).with_suffix(".png")]
        frames.append(
            Frame(
                name=picture.name.rsplit(".", 1)[0],
                image=root / "images" / picture.name,
                mask=next((mask for mask in masks if mask.is_file()), None),
                world_to_camera=_rigid(picture.world_to_camera, picture.name),
                intrinsics=picture.intrinsics,
                size=picture.size,
            )
        )
    return frames


def _rigid(matrix: np.ndarray, name: str) -> np.ndarray:
    """A pose [4, 4] whose rotation is exact, if it is one at all."""
    if matrix.shape != (4, 4) or not np.isfinite(matrix).all():
        raise InputError(f"the pose of {name} has shape {matrix.shape} or is not finite; it must be a 4 × 4 matrix")
    u, stretch, v = np.linalg.svd(matrix[:3, :3])
    rotation = u @ v
    if np.abs(stretch - 1).max() > 1e-2 or np.linalg.det(rotation) < 0:
        raise InputError(
            f"the pose of {name} is not a rotation and a shift (axes of length {np.round(stretch, 3).tolist()}); "
            "write camera-to-world matrices without scale or mirror"
        )
    out = matrix.copy()
    out[:3, :3], out[3] = rotation, [0, 0, 0, 1]
    return out


def _image_path(path: Path) -> Path:
    """The file itself, or with the extension that NeRF-synthetic leaves out."""
    if path.is_file():
        return path
    return next((p for e in EXTENSIONS if (p := path.with_name(path.name + e)).is_file()), path)


# --------------------------------------------------------------------------------------------- pictures


def _read_images(frames: list[Frame]) -> tuple[np.ndarray, np.ndarray]:
    """All pictures [V, H, W, C] float32 and intrinsics [V, 3, 3] for their size."""
    missing = [frame.image.name for frame in frames if not frame.image.is_file()]
    if missing:
        raise InputError(
            f"{len(missing)} of {len(frames)} pictures are missing, first {missing[0]!r}; put them where the poses "
            "name them, or remove their entries"
        )
    pictures = [_picture(frame) for frame in frames]
    shapes = {picture.shape for picture in pictures}
    if len({shape[:2] for shape in shapes}) > 1:
        sizes = ", ".join(sorted({f"{shape[1]} × {shape[0]}" for shape in shapes}))
        raise InputError(f"the pictures have several sizes ({sizes}); resize them, and their intrinsics, to one")
    if len(shapes) > 1:
        raise InputError("some pictures have a mask or transparency and some have none; give all of them one, or none")
    height, width = pictures[0].shape[:2]
    return np.stack(pictures), np.stack([_intrinsics(frame, width, height) for frame in frames])


def _picture(frame: Frame) -> np.ndarray:
    """One picture [H, W, 3 or 4] float32 0–1; the mask, where there is one, becomes its alpha."""
    pixels = _pixels(frame.image)
    if pixels.shape[-1] == 4 and (pixels[..., 3] >= 1).all():
        pixels = pixels[..., :3]
    if frame.mask is None:
        return pixels
    if not frame.mask.is_file():
        raise InputError(f"the mask {frame.mask.name} of {frame.name} is missing; add it, or remove its mask_path")
    mask = _pixels(frame.mask)
    if mask.shape[:2] != pixels.shape[:2]:
        raise InputError(
            f"the mask of {frame.name} is {mask.shape[1]} × {mask.shape[0]} and its picture {pixels.shape[1]} × "
            f"{pixels.shape[0]}; make them equal"
        )
    mask = mask[..., 3] if mask.shape[-1] == 4 and (mask[..., 3] < 1).any() else mask[..., 0]
    return np.dstack([pixels[..., :3], mask])


def _pixels(path: Path) -> np.ndarray:
    """A picture as it is stored [H, W, 3 or 4] float32; camera files refer to that, so it is not turned upright."""
    try:
        with Image.open(path) as image:
            clear = "A" in image.getbands() or "transparency" in image.info
            return np.asarray(image.convert("RGBA" if clear else "RGB"), np.float32) / np.float32(255)
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError, SyntaxError, ValueError) as error:
        raise InputError(f"{path} cannot be read as a picture ({error}); save it again as PNG or JPEG") from error


def _depth(frame: Frame, width: int, height: int) -> np.ndarray:
    """Depths [H, W] float64 in the folder's units, inf where unknown; of another size, the nearest are taken."""
    if frame.depth is None:
        return np.full((height, width), np.inf)
    try:
        if frame.depth.suffix.lower() == ".npy":
            stored = np.load(frame.depth, allow_pickle=False)
        else:
            with Image.open(frame.depth) as image:
                if image.mode in ("L", "LA", "P", "RGB", "RGBA", "1"):
                    raise InputError(f"it has 8 bits per value ({image.mode}); save depth as 16-bit PNG or as .npy")
                stored = np.asarray(image)
    except (OSError, EOFError, UnidentifiedImageError, Image.DecompressionBombError, SyntaxError, ValueError) as error:
        raise InputError(
            f"the depth {frame.depth.name} of {frame.name} cannot be read ({error}); correct it, or remove its "
            "depth_file_path"
        ) from error
    stored = stored[..., 0] if stored.ndim == 3 and stored.shape[-1] == 1 else stored
    if stored.ndim != 2 or abs(stored.shape[0] * width - stored.shape[1] * height) > 0.02 * stored.shape[0] * width:
        raise InputError(
            f"the depth of {frame.name} has shape {list(stored.shape)} and its picture {[height, width]}; give the "
            "depth of the same picture, as one number per pixel"
        )
    unit = frame.depth_unit
    if unit is None:
        unit = 1.0 if np.issubdtype(stored.dtype, np.floating) else DEPTH_UNIT
    if not (math.isfinite(unit) and unit > 0):
        raise InputError(f"depth_unit_scale_factor is {unit}, it must be above 0; 0.001 for millimetres and metres")
    rows = ((np.arange(height) + 0.5) * stored.shape[0] / height).astype(int)
    columns = ((np.arange(width) + 0.5) * stored.shape[1] / width).astype(int)
    depth = stored[rows[:, None], columns].astype(np.float64) * unit
    return np.where(np.isfinite(depth) & (depth > 0), depth, np.inf)


def _intrinsics(frame: Frame, width: int, height: int) -> np.ndarray:
    """Intrinsics [3, 3] for the picture's own size, refused where they are for another shape."""
    if frame.intrinsics is None:
        if frame.angle_x is None or not 0 < frame.angle_x < math.pi:
            raise InputError(f"camera_angle_x is {frame.angle_x}; it must lie between 0 and π, in radians")
        focal = 0.5 * width / math.tan(frame.angle_x / 2)
        return np.array([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]])
    if not (np.isfinite(frame.intrinsics).all() and frame.intrinsics[0, 0] > 0 and frame.intrinsics[1, 1] > 0):
        raise InputError(f"the focal length of {frame.name} is not a positive number; correct its fl_x and fl_y")
    if frame.size is None or frame.size == (width, height):
        return frame.intrinsics
    across, down = width / frame.size[0], height / frame.size[1]
    if abs(across - down) > 0.02 * across:
        raise InputError(
            f"{frame.name} is {width} × {height} pixels, but its intrinsics are for {frame.size[0]} × {frame.size[1]}, "
            "another shape; use the pictures the cameras were solved with"
        )
    return np.diag([across, down, 1.0]) @ frame.intrinsics
