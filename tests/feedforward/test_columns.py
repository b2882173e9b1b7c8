import numpy as np
import pytest
import torch

from obverse.feedforward.columns import attached, column_thresholds, committed, cut, local_width, solid_of_columns


def test_a_column_is_as_full_as_expected_and_never_empty():
    column = torch.tensor([-9.0, 2.0, 3.0, 1.0, -9.0])[:, None, None]  # 0.88 + 0.95 + 0.73 = 2.56: three cells
    threshold = column_thresholds(column)
    assert threshold.item() == pytest.approx((1 - 9) / 2)
    assert (column > threshold).sum() == 3
    unsure = torch.full((8, 1, 1), -3.0)
    unsure[5] = -2.5
    assert (unsure > column_thresholds(unsure)).flatten().nonzero().tolist() == [[5]]


def test_an_unsure_thick_column_is_filled_to_its_expected_thickness():
    column = torch.linspace(-0.1, -0.9, 20)[:, None, None]  # all below one half, seven or eight of them by count
    full = (column > column_thresholds(column)).sum()
    assert full == column.sigmoid().sum().round()


def test_the_cut_leans_towards_full_and_empties_no_column():
    sure = torch.tensor([-9.0, 9.0, 9.0, -9.0])[:, None, None]
    assert (sure > cut(sure)).flatten().tolist() == [False, True, True, False]
    torn = torch.full((10, 1, 1), -0.5)  # 3.8 cells expected among ten alike
    assert (torn > cut(torn)).all()
    denied = torch.linspace(-9, -6, 8)[:, None, None]
    assert (denied > cut(denied)).any()


def test_the_width_of_a_part_is_that_of_the_largest_disc_in_it():
    mask = np.zeros((40, 40), bool)
    mask[5:35, 5:25] = True  # a body 20 wide
    mask[18:22, 25:38] = True  # and a handle 4 wide
    width = local_width(mask)
    assert width[20, 15] == pytest.approx(20, abs=1.5)
    assert width[20, 33] == pytest.approx(4, abs=1.0)
    assert width[0, 0] == 0


def columns_of(logits, size=12):
    """A bar 4 wide whose columns all say the same [D] → logits [D, size, size], columns covered, widths."""
    inside = torch.zeros(size, size, dtype=torch.bool)
    inside[4:8] = True
    width = torch.where(inside, 4.0, 0.0)
    return logits[:, None, None].expand(-1, size, size).clone(), inside, width


def test_a_narrow_part_of_unsure_depth_is_put_into_the_middle_of_where_it_may_be():
    unsure = torch.full((40,), -6.0)
    unsure[5:35] = -0.4
    logits, inside, width = columns_of(unsure)
    full = committed(logits - cut(logits), logits, inside, width)[:, 5, 6] > 0
    assert (logits > cut(logits))[:, 5, 6].sum() == 30
    assert full.sum() == 6  # one and a half times its width
    assert full.nonzero().float().mean() == pytest.approx(19.5, abs=0.5)


def test_a_narrow_part_that_is_known_to_be_deep_stays_deep():
    sure = torch.full((40,), -6.0)
    sure[5:35] = 3.0
    logits, inside, width = columns_of(sure)
    values = logits - cut(logits)
    assert torch.equal(committed(values, logits, inside, width)[:, 4:8], values[:, 4:8])


def test_a_handle_of_unsure_depth_comes_out_round_and_in_one_piece():
    logits, inside, _ = columns_of(torch.linspace(-0.3, -0.9, 48), size=48)
    logits[:, ~inside] = -6.0
    at = (np.arange(192) + 0.5) / 4
    outline = 4 * (2 - np.abs(at - 6))[:, None].repeat(192, 1).astype(np.float32)
    full = solid_of_columns(logits, inside, outline).numpy()[:, :, 40] > 0
    depths = full.sum(0)  # over fine rows 8 to 16 of the bar
    assert depths[12] == pytest.approx(2 * 1.5 * 4, abs=2)
    assert depths[8] <= 0.75 * depths[12] and depths[:7].max() == 0
    middle = [column.nonzero()[0].mean() for column in full.T if column.any()]
    assert max(middle) - min(middle) < 2


def head_and_ear():
    """A head of 12 × 12 columns, 10 cells deep, and an ear of 3 × 3 beside it that stands 20 cells farther back."""
    values = torch.full((40, 20, 20), -2.0)
    values[5:15, 4:16, 2:14] = 2.0
    values[33:36, 4:7, 14:17] = 2.0
    inside = (values > 0).any(0)
    return values, inside, torch.where(inside, 3.0, 0.0)


def test_an_ear_that_floats_is_put_back_to_the_head():
    values, inside, width = head_and_ear()
    found = attached(values, inside, width) > 0
    assert not found[25:].any()
    assert found[:, 5, 15].nonzero().float().mean() == pytest.approx(9.5, abs=0.6)
    assert found.any(0).equal(inside)


def test_things_that_the_photo_shows_apart_stay_where_they_are():
    values, inside, width = head_and_ear()
    values[:, :, 14] = -2.0  # a gap between the two
    inside[:, 14] = False
    assert attached(values, inside, width).equal(values)


def test_a_crumb_behind_something_larger_goes():
    values, inside, width = head_and_ear()
    values[33:36, 4:7, 14:17] = -2.0
    inside = (values > 0).any(0)
    values[30:32, 8:10, 8:10] = 2.0
    found = attached(values, inside, width) > 0
    assert not found[20:].any() and found[5:15, 4:16, 2:14].all()
