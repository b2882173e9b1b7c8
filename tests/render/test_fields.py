"""Grid fields: exact at samples, linear between them, bounded."""

import torch

from obverse.render.fields import Field, GridField, insideness


def grid():
    x, y, z = torch.meshgrid(torch.arange(4.0), torch.arange(5.0), torch.arange(6.0), indexing="ij")
    values = x + 10 * y + 100 * z
    return GridField(values, (-1.0, 2.0, 0.5), 0.5, level=3.0, colors=torch.stack([x / 3, y / 4, z / 5], -1))


def test_a_grid_is_a_field_with_its_samples_as_bounds():
    field = grid()
    assert isinstance(field, Field)
    assert field.bounds == ((-1.0, 2.0, 0.5), (0.5, 4.0, 3.0))


def test_a_linear_function_is_interpolated_exactly():
    points = torch.tensor([[-1.0, 2.0, 0.5], [-0.5, 3.5, 2.5], [-0.6, 2.3, 1.9]])
    index = (points - torch.tensor([-1.0, 2.0, 0.5])) / 0.5
    expected = index @ torch.tensor([1.0, 10.0, 100.0])
    torch.testing.assert_close(grid().density_or_sdf(points), expected, atol=1e-3, rtol=0)
    torch.testing.assert_close(grid().color(points), index / torch.tensor([3.0, 4.0, 5.0]), atol=1e-5, rtol=0)
    torch.testing.assert_close(insideness(grid(), points), expected - 3, atol=1e-3, rtol=0)


def test_points_beyond_the_grid_get_its_border():
    far = torch.tensor([[-9.0, 2.0, 0.5], [9.0, 9.0, 9.0]])
    torch.testing.assert_close(grid().density_or_sdf(far), torch.tensor([0.0, 543.0]), atol=1e-3, rtol=0)


def test_a_grid_without_colours_is_grey():
    assert bool((GridField(torch.zeros(2, 2, 2), (0.0, 0.0, 0.0), 1.0).color(torch.zeros(3, 3)) == 0.5).all())
