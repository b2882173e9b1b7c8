"""Posed images: every dialect leads to the same cameras, and what cannot be used is explained."""

import json
import math
import struct

import numpy as np
import pytest
import torch
from PIL import Image

from obverse.cameras import Cameras, Views, orbit
from obverse.errors import InputError, UsageError
from obverse.formats.datasets import look_at_point, read_views, write_transforms

CV = np.diag([1.0, -1.0, -1.0, 1.0])


def ball_views(azimuths=(0, 90, 200), size=24, distance=3.0, radius=0.4, alpha=True):
    """A coloured ball at the origin, seen from an orbit."""
    cameras = orbit(list(azimuths), 20.0, distance=distance, size=size)
    y, x = np.mgrid[0:size, 0:size] + 0.5
    focal = float(cameras.intrinsics[0, 0, 0])
    tangent = radius / math.sqrt(distance**2 - radius**2)
    inside = np.hypot(x - size / 2, y - size / 2) < focal * tangent
    image = np.zeros((size, size, 4), np.float32)
    image[..., 0], image[..., 1], image[..., 3] = x / size, y / size, inside
    images = torch.from_numpy(np.repeat(image[None], len(azimuths), 0))
    return Views(images if alpha else images[..., :3], cameras)


def save(folder, views, names):
    folder.mkdir(parents=True, exist_ok=True)
    for name, image in zip(names, views.images, strict=True):
        Image.fromarray((image.numpy() * 255 + 0.5).astype(np.uint8)).save(folder / name)


def nerf_synthetic(folder, views, turn=CV @ CV):
    """transforms.json as Blender's script writes it, in a world turned by ``turn``."""
    save(folder / "train", views, [f"r_{i}.png" for i in range(len(views))])
    to_world = [turn @ np.linalg.inv(m.double().numpy()) @ CV for m in views.cameras.world_to_camera]
    angle = 2 * math.atan(0.5 * views.cameras.width / float(views.cameras.intrinsics[0, 0, 0]))
    frames = [{"file_path": f"./train/r_{i}", "transform_matrix": m.tolist()} for i, m in enumerate(to_world)]
    (folder / "transforms.json").write_text(json.dumps({"camera_angle_x": angle, "frames": frames}))
    return folder


def colmap(folder, views, binary=False, model=(1, "PINHOLE"), extra=()):
    """A COLMAP model of the views, with one observed point per image."""
    from obverse.gaussians import quats_from_matrices

    save(folder / "images", views, [f"{i}.png" for i in range(len(views))])
    place = folder / "sparse" / "0"
    place.mkdir(parents=True)
    k, size = views.cameras.intrinsics[0].tolist(), views.cameras.width
    lens = [k[0][0], k[1][1], k[0][2], k[1][2]] if model[1] == "PINHOLE" else [k[0][0], k[0][2], k[1][2]]
    lens += extra
    matrices = views.cameras.world_to_camera.double()
    poses = [[*quats_from_matrices(m[:3, :3]).tolist(), *m[:3, 3].tolist()] for m in matrices]
    if binary:
        data = struct.pack("<QiiQQ", 1, 7, model[0], size, size) + struct.pack(f"<{len(lens)}d", *lens)
        (place / "cameras.bin").write_bytes(data)
        rows = [
            struct.pack("<i7di", i, *pose, 7) + f"{i}.png".encode() + b"\0" + struct.pack("<Qddq", 1, 3.0, 4.0, -1)
            for i, pose in enumerate(poses)
        ]
        (place / "images.bin").write_bytes(struct.pack("<Q", len(rows)) + b"".join(rows))
    else:
        (place / "cameras.txt").write_text(f"# a comment\n7 {model[1]} {size} {size} {' '.join(map(str, lens))}\n")
        lines = [f"{i} {' '.join(map(str, pose))} 7 {i}.png\n{'' if i else '3 4 -1'}\n" for i, pose in enumerate(poses)]
        (place / "images.txt").write_text("# a comment\n" + "".join(lines))
    return folder


def same_cameras(a, b, atol=1e-5):
    torch.testing.assert_close(a.world_to_camera, b.world_to_camera, atol=atol, rtol=0)
    torch.testing.assert_close(a.intrinsics, b.intrinsics, atol=1e-3, rtol=0)
    assert (a.width, a.height) == (b.width, b.height)


def test_written_views_read_back_the_same(tmp_path):
    views = ball_views()
    files = write_transforms(views, tmp_path, names=["a", "b", "c"])
    assert [f.name for f in files] == ["a.png", "b.png", "c.png", "transforms.json"]
    found = read_views(tmp_path, normalise=False)
    same_cameras(found.views.cameras, views.cameras)
    assert (found.views.images - views.images).abs().max() <= 0.5 / 255 + 1e-6
    assert found.names == ("a", "b", "c")
    assert torch.equal(found.transform, torch.eye(4, dtype=torch.float64))


def test_all_dialects_give_the_same_cameras(tmp_path):
    views = ball_views()
    folders = [
        nerf_synthetic(tmp_path / "nerf", views),
        colmap(tmp_path / "text", views),
        colmap(tmp_path / "binary", views, binary=True),
        colmap(tmp_path / "simple", views, model=(0, "SIMPLE_PINHOLE")),
        colmap(tmp_path / "straight", views, binary=True, model=(2, "SIMPLE_RADIAL"), extra=[0.0]),
    ]
    for folder in folders:
        same_cameras(read_views(folder, normalise=False).views.cameras, views.cameras)


def test_a_z_up_world_far_away_comes_back_to_ours(tmp_path):
    views = ball_views()
    to_blender = np.array([[1, 0, 0, 0], [0, 0, -1, 0], [0, 1, 0, 0], [0, 0, 0, 1.0]])
    to_blender[:3, 3] = [5, -7, 2]
    found = read_views(nerf_synthetic(tmp_path, views, turn=to_blender))
    scale = 0.5 / 0.4  # the ball has radius 0.4 and shall have diameter 1; pixels make it a little smaller
    positions = found.views.cameras.positions
    torch.testing.assert_close(positions, scale * views.cameras.positions, rtol=0.06, atol=0.05)
    rotations = [c.world_to_camera[:, :3, :3] for c in (found.views.cameras, views.cameras)]
    torch.testing.assert_close(*rotations, atol=1e-5, rtol=0)


def test_normalising_moves_points_and_cameras_alike(tmp_path):
    views = ball_views()
    turn = np.array([[0, 0, 1, 3], [1, 0, 0, -2], [0, 1, 0, 4], [0, 0, 0, 1.0]])
    folder = nerf_synthetic(tmp_path, views, turn=turn)
    raw, ours = read_views(folder, normalise=False), read_views(folder)
    points = torch.randn(20, 3, generator=torch.Generator().manual_seed(0)).double() * 0.3 + torch.tensor([3, -2, 4])
    moved = points @ ours.transform[:3, :3].T + ours.transform[:3, 3]
    before, after = raw.views.cameras.project(points.float())[0], ours.views.cameras.project(moved.float())[0]
    torch.testing.assert_close(before, after, atol=2e-3, rtol=0)


def test_the_silhouette_fits_a_unit_ball_after_normalising(tmp_path):
    found = read_views(nerf_synthetic(tmp_path, ball_views(radius=0.3, distance=4.0, size=96)))
    camera = found.views.cameras
    rows, columns = torch.nonzero(found.views.images[0, ..., 3] > 0.5, as_tuple=True)
    half = (columns.max() - columns.min() + 1) / 2
    distance = camera.positions[0].norm()
    assert float(half / camera.intrinsics[0, 0, 0] * distance) == pytest.approx(0.5, rel=0.05)
    assert len(rows)


def test_masks_become_alpha(tmp_path):
    views = ball_views(alpha=False)
    write_transforms(views, tmp_path)
    masks = tmp_path / "masks"
    save(masks, Views(ball_views().images[..., 3:].expand(-1, -1, -1, 3), views.cameras), ["0.png", "1.png", "2.png"])
    content = json.loads((tmp_path / "transforms.json").read_text())
    for i, frame in enumerate(content["frames"]):
        frame["mask_path"] = f"masks/{i}.png"
    (tmp_path / "transforms.json").write_text(json.dumps(content))
    assert torch.equal(read_views(tmp_path).views.images[..., 3], ball_views().images[..., 3])


def test_colmap_masks_are_found_beside_the_images(tmp_path):
    views = ball_views()
    opaque = Views(views.images[..., :3], views.cameras)
    masks = Views(views.images[..., 3:].expand(-1, -1, -1, 3), views.cameras)
    save(colmap(tmp_path, opaque) / "masks", masks, ["0.png.png", "1.png.png", "2.png.png"])
    assert torch.equal(read_views(tmp_path).views.images[..., 3], views.images[..., 3])


def test_opaque_pictures_have_three_channels(tmp_path):
    write_transforms(ball_views(alpha=False), tmp_path)
    assert read_views(tmp_path).views.images.shape == (3, 24, 24, 3)


def test_reduced_pictures_get_reduced_intrinsics(tmp_path):
    views = ball_views(size=24)
    write_transforms(views, tmp_path)
    for path in (tmp_path / "images").iterdir():
        Image.open(path).resize((12, 12)).save(path)
    found = read_views(tmp_path, normalise=False).views.cameras
    same_cameras(found, views.cameras.resized(12, 12))


def test_a_split_is_read_by_name(tmp_path):
    nerf_synthetic(tmp_path, ball_views())
    (tmp_path / "transforms.json").rename(tmp_path / "transforms_test.json")
    assert len(read_views(tmp_path, split="test").views) == 3
    with pytest.raises(InputError, match=r"no transforms_val\.json"):
        read_views(tmp_path, split="val")


def test_the_look_at_point_is_where_the_axes_meet():
    target = torch.tensor([1.0, 2.0, -3.0])
    cameras = orbit([0, 100, 230], [10, 40, -20], distance=4)
    matrices = cameras.world_to_camera.double().numpy().copy()
    matrices[:, :3, 3] -= matrices[:, :3, :3] @ target.numpy()
    np.testing.assert_allclose(look_at_point(matrices), target.numpy(), atol=1e-5)


def test_one_camera_alone_looks_at_the_origin_depth():
    np.testing.assert_allclose(look_at_point(orbit(0.0, distance=4).world_to_camera.double().numpy()), 0, atol=1e-6)


@pytest.mark.parametrize("binary", [False, True])
def test_distorted_colmap_lenses_are_refused_with_a_remedy(tmp_path, binary):
    folder = colmap(tmp_path, ball_views(), binary=binary, model=(2, "SIMPLE_RADIAL"), extra=[0.1])
    with pytest.raises(InputError, match="image_undistorter"):
        read_views(folder)


def edit(folder, change):
    content = json.loads((folder / "transforms.json").read_text())
    change(content)
    (folder / "transforms.json").write_text(json.dumps(content))
    return folder


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.update(k1=0.2), "undistort"),
        (lambda c: c.update(camera_model="OPENCV_FISHEYE"), "undistort"),
        (lambda c: c.update(frames=[]), "no entries"),
        (lambda c: c.pop("frames"), "transforms"),
        (lambda c: c["frames"][1].update(file_path="images/gone"), "1 of 3 pictures are missing, first 'gone'"),
        (lambda c: c["frames"][1].update(mask_path="gone.png"), "mask gone.png"),
        (lambda c: c["frames"][0]["transform_matrix"][0].__setitem__(3, math.nan), "not finite"),
        (lambda c: c["frames"][0].update(transform_matrix=(2 * np.eye(4)).tolist()), "not a rotation"),
        (lambda c: c["frames"][0].update(transform_matrix=np.diag([-1.0, 1, 1, 1]).tolist()), "not a rotation"),
        (lambda c: c["frames"][0].update(fl_x=-4.0), "positive"),
        (lambda c: [f.pop("fl_x") for f in c["frames"]], "camera_angle_x"),
        (lambda c: [f.update(w=48) for f in c["frames"]], "another shape"),
    ],
)
def test_unusable_files_are_explained(tmp_path, change, message):
    write_transforms(ball_views(), tmp_path)
    with pytest.raises(InputError, match=message):
        read_views(edit(tmp_path, change))


def test_mixed_sizes_are_refused(tmp_path):
    write_transforms(ball_views(), tmp_path)
    Image.new("RGBA", (12, 12)).save(tmp_path / "images" / "001.png")
    with pytest.raises(InputError, match="several sizes"):
        read_views(tmp_path)


def test_mixed_transparency_is_refused(tmp_path):
    write_transforms(ball_views(), tmp_path)
    Image.new("RGB", (24, 24)).save(tmp_path / "images" / "001.png")
    with pytest.raises(InputError, match="some have none"):
        read_views(tmp_path)


def test_a_folder_without_poses_says_what_is_read(tmp_path):
    with pytest.raises(InputError, match=r"transforms\.json.*COLMAP"):
        read_views(tmp_path)


def test_a_colmap_model_without_pictures_is_explained(tmp_path):
    colmap(tmp_path, ball_views())
    (tmp_path / "images").rename(tmp_path / "pictures")
    with pytest.raises(InputError, match="folder 'images'"):
        read_views(tmp_path)


@pytest.mark.parametrize("binary", [False, True])
def test_damaged_colmap_files_are_named(tmp_path, binary):
    colmap(tmp_path, ball_views(), binary=binary)
    path = tmp_path / "sparse" / "0" / ("images.bin" if binary else "images.txt")
    path.write_bytes(path.read_bytes()[:60] if binary else b"0 1 0 0 nonsense\n\n")
    with pytest.raises(InputError, match=path.name):
        read_views(tmp_path)


def test_a_broken_picture_is_named(tmp_path):
    write_transforms(ball_views(), tmp_path)
    (tmp_path / "images" / "002.png").write_bytes(b"not a picture")
    with pytest.raises(InputError, match=r"002\.png"):
        read_views(tmp_path)


def test_names_must_be_one_per_view(tmp_path):
    with pytest.raises(UsageError, match="2 names for 3 views"):
        write_transforms(ball_views(), tmp_path, names=["a", "b"])


def test_one_camera_without_a_batch_axis_is_written(tmp_path):
    views = ball_views()
    one = Views(
        views.images[:1], Cameras(*(t[0] for t in (views.cameras.world_to_camera, views.cameras.intrinsics)), 24, 24)
    )
    write_transforms(one, tmp_path)
    same_cameras(read_views(tmp_path, normalise=False).views.cameras, views.cameras[:1])


def with_depths(folder, views, depths, **common):
    """A nerfstudio folder whose frame i names ``depths[i]``: an array to be written, or a file's name."""
    write_transforms(views, folder)
    content = json.loads((folder / "transforms.json").read_text())
    for i, (frame, depth) in enumerate(zip(content["frames"], depths, strict=True)):
        if isinstance(depth, np.ndarray):
            name = f"depth_{i}.png" if depth.dtype == np.uint16 else f"depth_{i}.npy"
            if name.endswith("png"):
                Image.fromarray(depth).save(folder / name)
            else:
                np.save(folder / name, depth)
            depth = name
        if depth:
            frame["depth_file_path"] = depth
    (folder / "transforms.json").write_text(json.dumps({**content, **common}))
    return folder


def test_depths_are_read_from_millimetres_and_metres_alike(tmp_path):
    views = ball_views()
    metres = np.full((24, 24), 2.5, np.float32)
    metres[0] = 0  # unknown
    millimetres = np.round(metres * 1000).astype(np.uint16)
    found = read_views(with_depths(tmp_path, views, [millimetres, metres, None]), normalise=False).depths
    assert found.shape == (3, 24, 24) and torch.isinf(found[2]).all() and torch.isinf(found[:, 0]).all()
    torch.testing.assert_close(found[0, 1:], torch.full((23, 24), 2.5))
    torch.testing.assert_close(found[0], found[1])
    assert read_views(write_transforms(views, tmp_path / "bare")[-1]).depths is None


def test_depths_follow_the_unit_in_the_file_and_the_scale_of_the_world(tmp_path):
    views = ball_views(distance=4.0, size=96, radius=0.3)
    half = np.full((48, 48), 400, np.uint16)  # centimetres, half the picture's size
    found = read_views(with_depths(tmp_path, views, [half] * 3, depth_unit_scale_factor=0.01))
    scale = float(torch.linalg.det(found.transform[:3, :3])) ** (1 / 3)
    assert scale > 1.2
    torch.testing.assert_close(found.depths, torch.full((3, 96, 96), 4.0 * scale))
    middle = found.views.cameras[0].project(torch.zeros(1, 3))[1]
    torch.testing.assert_close(found.depths[0, 48, 48], middle[0].float(), atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("depth", "common", "message"),
    [
        ("gone.png", {}, "cannot be read"),
        ("images/000.png", {}, "8 bits"),
        (np.ones((24, 12), np.float32), {}, r"\[24, 12\]"),
        (np.ones((24, 24), np.float32), {"depth_unit_scale_factor": 0}, "above 0"),
    ],
)
def test_depths_that_cannot_be_meant_are_refused(tmp_path, depth, common, message):
    with pytest.raises(InputError, match=message):
        read_views(with_depths(tmp_path, ball_views(), [depth] * 3, **common))
