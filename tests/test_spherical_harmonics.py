"""Spherical harmonics: orthonormality, and the order and signs splat files use."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from obverse.errors import InputError
from obverse.gaussians import SH_C0, evaluate_sh, sh_basis


def test_basis_is_orthonormal_on_the_sphere() -> None:
    # 16-point Gauss–Legendre in z times 32 equal angles integrates degree-6 products exactly.
    nodes, weights = (torch.from_numpy(a) for a in np.polynomial.legendre.leggauss(16))
    phi = torch.arange(32, dtype=torch.float64) * (2 * math.pi / 32)
    z, angle = torch.meshgrid(nodes, phi, indexing="ij")
    r = torch.sqrt(1 - z * z)
    directions = torch.stack([r * angle.cos(), r * angle.sin(), z], -1)
    basis = sh_basis(directions, 3).reshape(-1, 16)
    gram = (basis * (weights[:, None] * 2 * math.pi / 32).expand(16, 32).reshape(-1, 1)).T @ basis
    torch.testing.assert_close(gram, torch.eye(16, dtype=torch.float64), atol=1e-12, rtol=0)


def test_signs_along_the_axes_are_those_of_splat_files() -> None:
    c1 = 0.4886025119029199
    x, y, z = sh_basis(torch.eye(3), 2)
    torch.testing.assert_close(x[1:4], torch.tensor([0.0, 0.0, -c1]))
    torch.testing.assert_close(y[1:4], torch.tensor([-c1, 0.0, 0.0]))
    torch.testing.assert_close(z[1:4], torch.tensor([0.0, c1, 0.0]))
    torch.testing.assert_close(z[6], torch.tensor(2 * 0.31539156525252005))
    torch.testing.assert_close(x[8], torch.tensor(0.5462742152960396))


def test_every_degree_begins_with_the_lower_ones() -> None:
    directions = torch.nn.functional.normalize(torch.randn(5, 3, generator=torch.Generator().manual_seed(0)), dim=-1)
    for degree in range(3):
        lower, higher = sh_basis(directions, degree), sh_basis(directions, degree + 1)
        torch.testing.assert_close(higher[:, : lower.shape[-1]], lower)


def test_colour_is_half_plus_the_sum_and_never_negative() -> None:
    sh = torch.zeros(2, 1, 3)
    sh[0] = 0.25 / SH_C0
    sh[1] = -9.0
    colors = evaluate_sh(sh, torch.tensor([[0.0, 0.0, 1.0]]).expand(2, 3))
    torch.testing.assert_close(colors, torch.tensor([[0.75] * 3, [0.0] * 3]))


def test_impossible_number_of_coefficients_is_explained() -> None:
    with pytest.raises(InputError, match="1, 4, 9 or 16"):
        evaluate_sh(torch.zeros(2, 5, 3), torch.zeros(2, 3))
