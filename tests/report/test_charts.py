"""Axes of the report's charts."""

import pytest

from famba.report.charts import Scale, tick_label, ticks


@pytest.mark.parametrize(("low", "high"), [(0, 1), (0, 8.2), (71.3, 78.1), (0, 40000), (0.99, 1.01), (-0.5, 299.5)])
def test_ticks_are_round_and_inside(low, high):
    found = ticks(low, high)
    assert 2 <= len(found) <= 11
    assert all(low - 1e-9 <= value <= high + 1e-9 for value in found)
    labels = [tick_label(value, found) for value in found]
    assert len(set(labels)) == len(labels)
    assert [float(label.replace(",", "")) for label in labels] == pytest.approx(found)


def test_a_scale_maps_its_ends():
    scale = Scale(10, 20, 100, 300)
    assert (scale(10), scale(15), scale(20)) == (100, 200, 300)
