"""Compressed PLY: bits where PlayCanvas looks for them."""

import numpy as np
import pytest
import torch

from obverse.errors import InputError
from obverse.formats.ply import parse_ply, ply_bytes
from obverse.formats.splats import read_splats, splat_bytes, write_splats
from obverse.gaussians import Gaussians, covariances

from .shapes import gaussians


def nearest(found, before):
    """Order of ``found`` that matches ``before`` by position."""
    return torch.cdist(before.means, found.means).argmin(dim=1)


def test_everything_comes_back_within_its_quantisation(tmp_path):
    before = gaussians(count=700, degree=3)
    found = read_splats(write_splats(before, tmp_path / "a.ply", form="compressed")[0])
    found = found[nearest(found, before)]
    np.testing.assert_allclose(found.means, before.means, atol=0.5 / 1023)
    np.testing.assert_allclose(found.scales, before.scales, rtol=0.005)
    np.testing.assert_allclose(covariances(found), covariances(before), atol=5e-6)
    np.testing.assert_allclose(found.opacities, before.opacities, atol=0.5 / 255 + 1e-6)
    np.testing.assert_allclose(found.colors, before.colors, atol=0.5 / 255 + 1e-6)
    np.testing.assert_allclose(found.sh[:, 1:], before.sh[:, 1:], atol=8 / 256)


def test_chunks_are_256_and_splats_16_bytes():
    ply = parse_ply(splat_bytes(gaussians(count=700), "ply", form="compressed"))
    assert ply.elements["chunk"].count == 3  # 706 / 256, rounded up
    assert len(ply.elements["chunk"].columns) == 18
    assert list(ply.elements["vertex"].columns) == [f"packed_{n}" for n in ("position", "rotation", "scale", "color")]
    assert "sh" not in ply.elements


def test_the_fields_of_one_splat_lie_where_the_format_has_them():
    """Two splats span the chunk: one at its low end, one at its high end, in every field."""
    two = Gaussians(
        torch.tensor([[0.0, 0.0, 0.0], [1.0, 2.0, 3.0]]),
        torch.tensor([[1.0, 0.0, 0.0, 0.0], [0.6, 0.8, 0.0, 0.0]]),
        torch.tensor([[0.1, 0.1, 0.1], [0.2, 0.2, 0.2]]),
        torch.tensor([0.2, 1.0]),
        torch.tensor([[[0.0, 0.0, 0.0]], [[0.5, 0.5, 0.5]]]),
    )
    columns = parse_ply(splat_bytes(two, "ply", form="compressed", axes="gltf")).elements["vertex"].columns
    assert columns["packed_position"].tolist() == [0, 2**32 - 1]
    assert columns["packed_scale"].tolist() == [0, 2**32 - 1]
    assert columns["packed_color"].tolist() == [51, 2**32 - 1]  # opacity 0.2 · 255 in the low byte
    middle, other = 512, round((0.6 * 0.5**0.5 + 0.5) * 1023)
    assert columns["packed_rotation"].tolist() == [
        (middle << 20) | (middle << 10) | middle,  # w is the largest, number 0
        (1 << 30) | (other << 20) | (middle << 10) | middle,  # x is the largest; w comes first of the others
    ]


def test_splats_too_faint_to_see_are_left_out(tmp_path):
    g = gaussians(count=0)
    faint = Gaussians(g.means, g.quats, g.scales, torch.tensor([0.5, 0.003, 0.5, 0.5, 0.0, 0.5]), g.sh)
    assert len(read_splats(write_splats(faint, tmp_path / "a.ply", form="compressed")[0])) == 4
    with pytest.raises(InputError, match="nothing to write"):
        invisible = Gaussians(g.means, g.quats, g.scales, torch.zeros(6), g.sh)
        write_splats(invisible, tmp_path / "b.ply", form="compressed")


def test_too_few_chunks_are_refused(tmp_path):
    ply = parse_ply(splat_bytes(gaussians(), "ply", form="compressed"))
    chunk, vertex = ply.elements["chunk"], ply.elements["vertex"]
    rows = np.empty(vertex.count, [(name, "<u4") for name in vertex.columns])
    for name, values in vertex.columns.items():
        rows[name] = values
    table = np.stack(list(chunk.columns.values()), axis=1)[:1]
    path = tmp_path / "a.ply"
    path.write_bytes(b"".join(ply_bytes({"chunk": (list(chunk.columns), table), "vertex": rows}, [])))
    with pytest.raises(InputError, match="1 chunks for 306 splats"):
        read_splats(path)
