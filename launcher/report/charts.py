"""Geometry of the report's charts: it turns numbers into coordinates; `templates/charts.html.j2` draws them as SVG.

All charts share one canvas of WIDTH × HEIGHT units, which a browser scales to its column.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

WIDTH, HEIGHT = 440, 236
LEFT, RIGHT, TOP, BOTTOM = 48, 12, 14, 34
MOST_POINTS = 400  # of a line; a screen cannot show more, so a longer line is thinned

Point = tuple[float, float]


@dataclass(frozen=True)
class Tick:
    """A mark on an axis: its coordinate and its label."""

    at: float
    label: str


@dataclass(frozen=True)
class Line:
    """One drawn series: the points as SVG takes them, and (x, y, tooltip) of each marker."""

    name: str
    style: str
    points: str
    markers: tuple[tuple[float, float, str], ...]


@dataclass(frozen=True)
class LineChart:
    """Lines over common axes; `best` is the marked point: x, y and its label."""

    lines: tuple[Line, ...]
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    x_label: str
    best: tuple[float, float, str] | None
    width: int = WIDTH
    height: int = HEIGHT


@dataclass(frozen=True)
class Bar:
    """One bar of a histogram."""

    x: float
    y: float
    width: float
    height: float
    style: str
    tip: str


@dataclass(frozen=True)
class Histogram:
    """Counts of per-query differences; bars left of zero are losses, bars right of zero are wins."""

    bars: tuple[Bar, ...]
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    zero: float
    x_label: str
    width: int = WIDTH
    height: int = HEIGHT


@dataclass(frozen=True)
class IntervalPlot:
    """A difference and its interval on an axis that shows zero; all positions in per cent of the width."""

    low: float
    mean: float
    high: float
    zero: float
    ticks: tuple[Tick, ...]


def nice_ticks(low: float, high: float, count: int = 5) -> list[float]:
    """About `count` round numbers that cover the range; the first and the last lie on its ends or outside of it."""
    if not (math.isfinite(low) and math.isfinite(high)):
        raise ValueError(f"axis from {low} to {high}")
    if high - low < 1e-9 * max(1.0, abs(low)):
        spread = abs(low) * 0.1 if abs(low) > 1e-6 else 1.0
        low, high = low - spread, high + spread
    raw = (high - low) / max(1, count - 1)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1.0, 2.0, 2.5, 5.0, 10.0) if factor * power >= raw * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(number * step, 12) for number in range(first, last + 1)]


def label(value: float, step: float) -> str:
    """The label of a tick, with as many decimals as its axis needs."""
    if abs(value) >= 10_000:
        return f"{value / 1000:,.0f}k"
    decimals = max(0, -math.floor(math.log10(step) + 1e-9)) if step else 0
    if decimals and abs(step * 10**decimals - round(step * 10**decimals)) > 1e-6:
        decimals += 1  # for a step such as 0.025
    return f"{value:,.{decimals}f}"


def _ticks(values: list[float], low: float, high: float, start: float, stop: float) -> tuple[Tick, ...]:
    step = values[1] - values[0] if len(values) > 1 else 1.0
    scale = (stop - start) / (high - low)
    return tuple(Tick(round(start + (value - low) * scale, 2), label(value, step)) for value in values)


def line_chart(
    series: Mapping[str, Sequence[Point]], x_label: str, *, best: str | None = None, from_zero: bool = False
) -> LineChart | None:
    """A chart of lines over training steps; None if there is nothing to draw.

    Args:
        series: name → (x, y) points in ascending x. The name becomes the line's CSS class too.
        x_label: written under the axis.
        best: name of the series whose highest point is marked.
        from_zero: the y axis starts at zero.
    """
    finite = {name: [(x, y) for x, y in points if math.isfinite(y)] for name, points in series.items()}
    finite = {name: points for name, points in finite.items() if points}
    if not finite:
        return None
    all_points = [point for points in finite.values() for point in points]
    x_low, x_high = min(x for x, _ in all_points), max(x for x, _ in all_points)
    if x_low == x_high:
        x_low, x_high = x_low - 1, x_high + 1
    y_values = nice_ticks(
        min(0.0, *(y for _, y in all_points)) if from_zero else min(y for _, y in all_points),
        max(y for _, y in all_points),
    )
    y_low, y_high = y_values[0], y_values[-1]
    x_values = [value for value in nice_ticks(x_low, x_high, 6) if x_low <= value <= x_high and value == int(value)]
    x_values = x_values or [x_low, x_high]

    def place(point: Point) -> Point:
        x = LEFT + (point[0] - x_low) / (x_high - x_low) * (WIDTH - LEFT - RIGHT)
        y = HEIGHT - BOTTOM - (point[1] - y_low) / (y_high - y_low) * (HEIGHT - TOP - BOTTOM)
        return round(x, 2), round(y, 2)

    lines = []
    best_point = None
    for name, points in finite.items():
        drawn = points[:: math.ceil(len(points) / MOST_POINTS)]
        placed = [place(point) for point in drawn]
        has_markers = len(points) <= 40
        markers = [(*xy, f"{name} {y:.4g} at step {x:g}") for xy, (x, y) in zip(placed, drawn, strict=True)]
        style = "".join(character if character.isalnum() else "-" for character in name.lower())
        lines.append(Line(name, style, " ".join(f"{x},{y}" for x, y in placed), tuple(markers if has_markers else ())))
        if name == best:
            top = max(points, key=lambda point: point[1])
            best_point = (*place(top), f"best {top[1]:.4f}, step {top[0]:g}")
    return LineChart(
        tuple(lines),
        _ticks(x_values, x_low, x_high, LEFT, WIDTH - RIGHT),
        _ticks(y_values, y_low, y_high, HEIGHT - BOTTOM, TOP),
        x_label,
        best_point,
    )


def difference_histogram(differences: Sequence[float], x_label: str, bins: int = 20) -> Histogram | None:
    """Histogram of per-query differences in -1…1; no bin spans zero. Ties are left out; None if there are only ties."""
    changed = [value for value in differences if value != 0 and math.isfinite(value)]
    if not changed:
        return None
    half = max(1, bins // 2)
    reach = nice_ticks(0, max(abs(value) for value in changed), 3)[-1]  # the axis runs from -reach to reach
    counts = [0] * (2 * half)
    for value in changed:
        position = int((value + reach) / reach * half)
        # Rounding must not move a loss across zero.
        position = min(position, half - 1) if value < 0 else max(position, half)
        counts[min(max(position, 0), 2 * half - 1)] += 1
    y_values = [value for value in nice_ticks(0, max(counts), 4) if value == int(value)]
    y_high = max(y_values[-1], *counts)
    width = (WIDTH - LEFT - RIGHT) / (2 * half)
    tallest = HEIGHT - TOP - BOTTOM
    bars = []
    for number, count in enumerate(counts):
        if count:
            height = max(1.0, count / y_high * tallest)
            low, high = -reach + number * reach / half, -reach + (number + 1) * reach / half
            queries = "query" if count == 1 else "queries"
            bars.append(
                Bar(
                    round(LEFT + number * width + 1, 2),
                    round(HEIGHT - BOTTOM - height, 2),
                    round(width - 2, 2),
                    round(height, 2),
                    "loss" if number < half else "win",
                    f"{count} {queries}: {low:+.2f} to {high:+.2f}",
                )
            )
    return Histogram(
        tuple(bars),
        _ticks([-reach, -reach / 2, 0, reach / 2, reach], -reach, reach, LEFT, WIDTH - RIGHT),
        _ticks(y_values, 0, y_high, HEIGHT - BOTTOM, TOP),
        LEFT + (WIDTH - LEFT - RIGHT) / 2,
        x_label,
    )


def interval_plot(low: float, mean: float, high: float) -> IntervalPlot:
    """A plot of a mean and its interval, on an axis that shows zero as well."""
    reach_low, reach_high = min(low, 0.0), max(high, 0.0)
    margin = (reach_high - reach_low) * 0.12 or 0.01
    start, stop = reach_low - margin, reach_high + margin

    def place(value: float) -> float:
        return round(100 * (value - start) / (stop - start), 2)

    inside = [value for value in nice_ticks(start, stop, 5) if start <= value <= stop]
    step = inside[1] - inside[0] if len(inside) > 1 else 0.01
    ticks = tuple(
        Tick(place(value), "0" if value == 0 else ("+" if value > 0 else "") + label(value, step)) for value in inside
    )
    return IntervalPlot(place(low), place(mean), place(high), place(0.0), ticks)
