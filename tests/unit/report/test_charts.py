"""Charts: the axis covers the data, marks differ in shape, empty figures draw nothing, long curves are thinned."""

from __future__ import annotations

import re

import pytest

from steersman.report import charts
from steersman.report.blocks import Curve, Rate
from steersman.report.charts import SIGNS

FULL = Rate(value=0.5, low=0.25, high=1.0)
EMPTY = Rate(value=None, low=0.0, high=1.0)


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (2.31, 2.32), (3.0, 3.0), (0.0, 0.0), (-7, 1200), (1e-7, 3e-7)])
def test_ticks_cover_the_range(low: float, high: float) -> None:
    ticks = charts.ticks(low, high)
    assert ticks[0] <= low + 1e-9 * abs(low)
    assert ticks[-1] >= high - 1e-9 * abs(high)
    assert 2 <= len(ticks) <= 8
    assert ticks == sorted(set(ticks))


def test_dots_draw_each_condition_in_its_own_shape() -> None:
    drawn = charts.dots(dict.fromkeys(SIGNS, FULL))
    assert drawn.count("<circle") == 2
    assert len(re.findall(r'<path class="few"', drawn)) == 1
    assert drawn.count('class="whisker') == 3
    # From 25 % to 100 % of the 198 pixels between the paddings of 9.
    assert 'class="whisker raw" d="M58.5 9H207"' in drawn


def test_dots_without_data_draw_only_the_grid() -> None:
    assert charts.dots(dict.fromkeys(SIGNS, EMPTY)).count("<path") == 1


def test_thinning_keeps_the_mean_and_the_limit() -> None:
    points = [(float(i), float(i % 7)) for i in range(3000)]
    thin = charts.thinned(points)
    assert len(thin) == 300
    assert sum(y for _, y in thin) / 300 == pytest.approx(sum(y for _, y in points) / 3000)
    assert charts.thinned(points[:10]) == points[:10]


@pytest.mark.parametrize("points", [[(0.0, 2.5)], [(5.0, 0.0)], [(0.0, 1.0), (1.0, 1.0)]])
def test_lines_of_few_points_stay_inside_the_picture(points: list[tuple[float, float]]) -> None:
    drawn = charts.lines([Curve(name="loss", style="marked", points=tuple(points))], "Loss <1>", 310, "loss")
    assert 'aria-label="Loss &lt;1&gt;"' in drawn
    for x, y in re.findall(r'<circle class="point" cx="([\d.]+)" cy="([\d.]+)"', drawn):
        assert 0 <= float(x) <= 310
        assert 0 <= float(y) <= 300
