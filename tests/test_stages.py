import pytest

from obverse.stages import Stages, peak_memory_mb


def test_stages_are_recorded_in_order_and_told():
    heard = []
    stages = Stages(listener=lambda name, event: heard.append((name, event)))
    with stages("a"):
        pass
    with stages("b"):
        pass
    assert [row["name"] for row in stages.rows] == ["a", "b"]
    assert heard == [("a", "start"), ("a", "end"), ("b", "start"), ("b", "end")]
    assert stages.seconds == pytest.approx(sum(row["seconds"] for row in stages.rows))


def test_a_failing_stage_leaves_no_row():
    stages = Stages()
    with pytest.raises(ValueError), stages("a"):
        raise ValueError
    assert stages.rows == []


def test_peak_memory_is_plausible():
    peak = peak_memory_mb()
    assert peak is None or 5 < peak < 1e6
