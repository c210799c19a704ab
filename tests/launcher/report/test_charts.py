from __future__ import annotations

import itertools
import math

from hypothesis import given
from hypothesis import strategies as st

from launcher.report import charts

reals = st.floats(-1e6, 1e6, allow_nan=False)


@given(reals, reals)
def test_ticks_cover_the_range_evenly_with_few_round_numbers(one: float, other: float) -> None:
    low, high = min(one, other), max(one, other)
    ticks = charts.nice_ticks(low, high)
    steps = [b - a for a, b in itertools.pairwise(ticks)]
    tolerance = 1e-6 * max(1.0, abs(low), abs(high))
    assert ticks[0] <= low + tolerance
    assert ticks[-1] >= high - tolerance
    assert 2 <= len(ticks) <= 8
    assert max(steps) - min(steps) <= tolerance


def test_tick_labels_differ_from_each_other() -> None:
    for low, high in [(0, 1), (0.62, 0.65), (0.0101, 0.0109), (0, 12), (0, 250_000)]:
        ticks = charts.nice_ticks(low, high)
        labels = [charts.label(value, ticks[1] - ticks[0]) for value in ticks]
        assert len(set(labels)) == len(labels), labels


@given(st.dictionaries(st.integers(1, 500), reals, min_size=1, max_size=60))
def test_lines_stay_inside_the_canvas(values: dict[int, float]) -> None:
    chart = charts.line_chart({"loss": sorted((float(x), y) for x, y in values.items())}, "step")
    assert chart is not None
    for pair in chart.lines[0].points.split():
        x, y = map(float, pair.split(","))
        assert charts.LEFT - 0.1 <= x <= charts.WIDTH - charts.RIGHT + 0.1
        assert charts.TOP - 0.1 <= y <= charts.HEIGHT - charts.BOTTOM + 0.1


def test_a_loss_that_is_no_number_leaves_the_rest_of_the_curve() -> None:
    chart = charts.line_chart({"loss": [(1.0, 2.0), (2.0, math.nan), (3.0, 1.0)]}, "step")
    assert chart is not None
    assert len(chart.lines[0].points.split()) == 2
    assert charts.line_chart({"loss": [(1.0, math.nan)]}, "step") is None


@given(st.lists(st.floats(-1, 1, allow_nan=False), min_size=1, max_size=200))
def test_a_histogram_counts_every_query_that_moved_on_its_own_side_of_zero(differences: list[float]) -> None:
    chart = charts.difference_histogram(differences, "difference")
    moved = [value for value in differences if value != 0]
    if chart is None:
        assert not moved
        return
    counted = {"win": 0, "loss": 0}
    for bar in chart.bars:
        counted[bar.style] += int(bar.tip.split()[0])
        assert (bar.x + bar.width / 2 > chart.zero) == (bar.style == "win")
    assert counted == {"win": sum(value > 0 for value in moved), "loss": sum(value < 0 for value in moved)}


@given(reals, st.floats(0, 1e3), st.floats(0, 1e3))
def test_an_interval_is_drawn_in_order_and_shows_zero(mean: float, below: float, above: float) -> None:
    plot = charts.interval_plot(mean - below, mean, mean + above)
    assert 0 <= plot.low <= plot.mean <= plot.high <= 100
    assert 0 <= plot.zero <= 100


@given(st.floats(-1, 1, allow_nan=False), st.floats(0, 0.5), st.floats(0, 0.5))
def test_labels_under_an_interval_stand_where_their_numbers_are(mean: float, below: float, above: float) -> None:
    """A label that is rounded to fewer decimals than its axis has would stand beside its place."""
    ticks = charts.interval_plot(mean - below, mean, mean + above).ticks
    scale = {(b.at - a.at) / (float(b.label) - float(a.label)) for a, b in itertools.pairwise(ticks)}
    assert not scale or max(scale) - min(scale) < 0.02 * max(scale)
