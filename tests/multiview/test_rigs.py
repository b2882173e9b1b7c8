"""Views at the rigs of LGM and InstantMesh: whose cameras they are, what is asked of the model, and what they show."""

import math

import pytest
import torch

from obverse.cameras import Views, orbit
from obverse.errors import InputError
from obverse.feedforward import instantmesh, lgm
from obverse.multiview.rigs import at_rig, has_pose
from obverse.multiview.zero123_inputs import as_published, orbit_cameras, pose_embedding, prepared
from obverse.photo import read_photo
from obverse.render.triangles import render_mesh

from ..conftest import disc_photo
from ..parity.cases import read_case, same
from .test_agreement import framed_boot, seen

SIZE = 64


class TrueViews:
    """Pictures of a known object, as large as Zero-1-to-3 makes them, in place of a network's."""

    size = SIZE

    def __init__(self):
        self.asked = []

    def views(self, subject, cameras, *, seed, source_elevation_deg):
        self.asked.append((cameras, seed, source_elevation_deg))
        targets = as_published(cameras, self.size)
        near = orbit_cameras(0).positions.norm() / targets.positions[0].norm()
        targets.world_to_camera[:, :3, 3] *= near  # the object keeps its size, however far the rig's units are
        return Views(seen(targets, framed_boot()), targets)


def photo_of_boot(elevation):
    camera = orbit_cameras(0, elevation, size=256)
    return read_photo((render_mesh(framed_boot(), camera, background=None, shading="unlit")[0] * 255).byte().numpy())


def poses(cameras):
    """Camera to world with LGM's axes: y up, z backwards."""
    return torch.linalg.inv(cameras.world_to_camera) @ torch.diag(torch.tensor([1.0, -1, -1, 1]))


def test_lgm_is_handed_its_published_cameras_and_the_photo_as_the_first_view():
    maker, subject = TrueViews(), read_photo(disc_photo())
    views = at_rig(maker, subject, lgm.rig(), elevation_deg=0.0, seed=7)
    same(poses(views.cameras), read_case("lgm")["cam_poses"], atol=1e-6)
    focal = SIZE / 2 / math.tan(math.radians(49.1) / 2)
    same(views.cameras.intrinsics[0], torch.tensor([[focal, 0, SIZE / 2], [0, focal, SIZE / 2], [0, 0, 1]]), atol=1e-3)
    same(views.images[0], (prepared(subject, SIZE)[0] / 2 + 0.5).permute(1, 2, 0))
    (cameras, seed, elevation), *rest = maker.asked
    assert not rest and (len(cameras), seed, elevation) == (3, 7, 0.0)


def test_instantmesh_is_handed_its_published_cameras_and_no_photo():
    maker = TrueViews()
    views = at_rig(maker, read_photo(disc_photo()), instantmesh.rig(), elevation_deg=20.0, seed=0)
    same(instantmesh.described(views.cameras), read_case("instantmesh", "tiny_nerf")["cameras"][0])
    assert len(maker.asked[0][0]) == 6 and maker.asked[0][2] == 20.0


def test_zero123_is_told_how_the_rigs_stand_to_the_photo():
    """Its polar angle falls as the camera rises; the azimuth is counter-clockwise from above; no change of distance."""
    turned = torch.tensor([[0, 0, 1, 0], [0, 1, 0, 0], [0, 0, -1, 0], [0, -1, 0, 0]], dtype=torch.float32)
    same(pose_embedding(lgm.rig(), source_elevation_deg=0.0), turned, atol=1e-6)
    told = pose_embedding(instantmesh.rig(), source_elevation_deg=30.0)
    same(told[:, 0].rad2deg(), torch.tensor([10.0, 40, 10, 40, 10, 40]), atol=1e-3)
    azimuth = torch.atan2(told[:, 1], told[:, 2]).rad2deg() % 360
    same(azimuth, torch.tensor([30.0, 90, 150, 210, 270, 330]), atol=1e-3)
    same(told[:, 3], torch.zeros(6))


@pytest.mark.parametrize(
    ("rig", "elevation", "scale", "least"),
    [
        (lgm.rig(), 0.0, lgm.DISTANCE, 0.96),
        # The same picture through 30°: the object is larger, and nearer parts are not as much larger than farther ones.
        # With mirrored azimuths, others by 30°, or elevations upside down the least overlap is 0.42, 0.59 and 0.59.
        (instantmesh.rig(), 20.0, 1.08 * 4.0 * math.tan(math.radians(15)) * 35 / 16, 0.8),
    ],
    ids=["lgm", "instantmesh"],
)
def test_what_the_views_show_is_where_the_rigs_cameras_would_see_it(rig, elevation, scale, least):
    """The boot stands upright with its front to +Z in the reconstructor's frame, as it does in ours."""
    views = at_rig(TrueViews(), photo_of_boot(elevation), rig, elevation_deg=elevation, seed=0)
    placed = framed_boot()
    placed.apply_scale(scale / float(orbit_cameras(0).positions.norm()))
    expected = seen(views.cameras, placed)
    mine, theirs = views.images.amin(-1) < 0.9, expected.amin(-1) < 0.9
    overlap = (mine & theirs).sum((1, 2)) / (mine | theirs).sum((1, 2))
    assert float(overlap.min()) > least
    error = [(views.images[i] - expected[i])[mine[i] & theirs[i]].abs().mean() for i in range(len(rig))]
    assert float(max(error)) < 0.05  # red below, blue above


def test_a_camera_has_the_photos_pose_only_where_both_angles_agree():
    rig = orbit([0, 0, 0.2, 90, 360], [0, 20, 20.1, 20, 20], distance=2.0)
    assert has_pose(rig, 20.0).tolist() == [False, True, True, False, True]
    assert not has_pose(instantmesh.rig(), 20.0).any()
    assert has_pose(lgm.rig(), 0.0).tolist() == [True, False, False, False]


def test_a_photo_from_above_is_no_view_of_a_level_rig():
    maker = TrueViews()
    at_rig(maker, read_photo(disc_photo()), lgm.rig(), elevation_deg=30.0, seed=0)
    assert len(maker.asked[0][0]) == 4


def test_a_model_of_one_rig_may_refuse_another():
    class Joint:
        size = SIZE

        def views(self, subject, cameras, *, seed, source_elevation_deg):
            raise InputError("this model makes six views; ask for those of instantmesh.rig()")

    with pytest.raises(InputError, match="six views"):
        at_rig(Joint(), read_photo(disc_photo()), lgm.rig(), elevation_deg=0.0, seed=0)
