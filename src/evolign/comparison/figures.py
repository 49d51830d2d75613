"""The figures as SVG geometry, computed here and drawn by the template."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from evolign.comparison.entries import Entry
from evolign.comparison.estimates import Point, bounds, mean_curve, metric_over_seeds, validations

COLOURS = (
    ("#0b62b8", "#6cb2ff"), ("#c4500a", "#ff9a4d"), ("#0b7a55", "#3fd0a0"), ("#b0307f", "#f08cc8"),
    ("#6b4fc0", "#b7a2ff"), ("#8a6500", "#e6bf3c"), ("#0f7c8f", "#5bd3e6"), ("#a3262a", "#ff8080"),
    ("#55606e", "#b4bfcc"), ("#5d7a00", "#b5d94a"),
)  # fmt: skip
"""One per entry, on light and on dark ground; each has a contrast of at least 4 to 1 with its ground."""
DASHES = ("", "7 4", "2 3")
"""Lines of the first ten entries, of the next ten, and of the ten after."""
WIDTH, HEIGHT = 520, 330
LEFT, RIGHT, TOP, BOTTOM = 60, 56, 12, 46
"""Margins: their texts, among them the target's on the right, have a height of up to 17."""
MARKS = 7
"""Approximate maximum of markers on a line; the steps show the other points."""
UNEQUAL = 6
"""Ratio between the longest and the shortest entry from which on the axis of a cost is logarithmic."""
COST_AXES = {
    "completions": "completions generated to learn from",
    "generated_tokens": "tokens generated to learn from",
    "seconds": "seconds",
}


@dataclass(frozen=True)
class Tick:
    at: float
    text: str


@dataclass(frozen=True)
class Mark:
    """A marker of an entry's shape, with the text that a pointer on it shows."""

    x: float
    y: float
    path: str
    title: str


@dataclass
class Line:
    """One entry in a figure."""

    index: int
    label: str
    dash: str
    mean: str = ""
    band: str = ""
    seeds: list[str] = field(default_factory=list)
    marks: list[Mark] = field(default_factory=list)
    level: float | None = None
    """Where the entry spends nothing on this axis: the height of its last validation."""


@dataclass
class Chart:
    """One figure of curves."""

    title: str
    x_label: str
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    lines: list[Line]
    target: float | None
    width: int = WIDTH
    height: int = HEIGHT
    left: int = LEFT
    right: int = WIDTH - RIGHT
    top: int = TOP
    bottom: int = HEIGHT - BOTTOM

    @property
    def has_levels(self) -> bool:
        return any(line.level is not None for line in self.lines)


@dataclass(frozen=True)
class Scale:
    """Maps the values of an axis to the picture."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low)
        return round(self.start + share * (self.end - self.start), 1)


@dataclass(frozen=True)
class LogScale:
    """A logarithmic axis from `low` on, with the start of the runs, 0, at its left end."""

    low: float
    high: float
    start: float
    end: float
    gap: float = 26.0
    """Between 0 and `low`; what lies between them is drawn at `low`."""

    def __call__(self, value: float) -> float:
        if value <= 0:
            return self.start
        share = math.log(max(value, self.low) / self.low) / math.log(self.high / self.low)
        return round(self.start + self.gap + share * (self.end - self.start - self.gap), 1)


def curves(entries: Sequence[Entry], metric: str, target: float | None) -> list[Chart]:
    """The metric against completions, tokens and seconds. A cost that no run states has no figure."""
    charts = []
    for cost, x_label in COST_AXES.items():
        by_entry = [
            [points for run in entry.runs if (points := validations(run, metric, cost))] for entry in entries
        ]
        if max((seed[-1].x for seeds in by_entry for seed in seeds), default=0) > 0:
            charts.append(_chart(entries, by_entry, metric, cost, x_label, target))
    return charts


def _chart(
    entries: Sequence[Entry],
    by_entry: Sequence[Sequence[Sequence[Point]]],
    metric: str,
    cost: str,
    x_label: str,
    target: float | None,
) -> Chart:
    means = [mean_curve(seeds) for seeds in by_entry]
    drawn = [point for seeds in by_entry for seed in seeds for point in seed]
    alone = [point for seeds, mean in zip(by_entry, means, strict=True) if len(seeds) == 1 for point in mean]
    heights = [point.y for point in drawn] + [side for point in alone for side in (point.low, point.high)]
    x, x_values = _cost_axis([[point.x for seed in seeds for point in seed] for seeds in by_entry])
    y_values = ticks(*_span(heights + ([] if target is None else [target]), bounds(metric)))
    y = Scale(y_values[0], y_values[-1], HEIGHT - BOTTOM, TOP)
    lines = [
        _line(i, entry.label, seeds, mean, x, y, cost)
        for i, (entry, seeds, mean) in enumerate(zip(entries, by_entry, means, strict=True))
        if seeds
    ]
    return Chart(
        f"{metric} against {cost.replace('_', ' ')}",
        f"{x_label} (log scale)" if isinstance(x, LogScale) else x_label,
        [Tick(x(value), compact(value)) for value in x_values],
        [Tick(y(value), f"{value:.6g}") for value in y_values],
        lines,
        None if target is None or not y.low <= target <= y.high else y(target),
    )


def _cost_axis(spent: Sequence[Sequence[float]]) -> tuple[Scale | LogScale, list[float]]:
    """The axis of a cost and its ticks: logarithmic if one entry ran much longer than another."""
    ends = [max(each) for each in spent if each and max(each) > 0]
    longest = max(ends)
    if longest < UNEQUAL * min(ends):
        values = ticks(0, longest)
        return Scale(0, values[-1], LEFT, WIDTH - RIGHT), values
    first = min(value for each in spent for value in each if value > 0)
    low = max(first, min(ends) / 20)
    steps = [m * 10.0**e for e in range(-3, 16) for m in (1, 2, 5)]
    inside = [value for value in steps if low <= value <= longest]
    if len(inside) > 7:
        inside = [value for value in inside if f"{value:e}".startswith("1.0")]
    return LogScale(low, longest, LEFT, WIDTH - RIGHT - 8), [0, *inside]


def _line(
    index: int,
    label: str,
    seeds: Sequence[Sequence[Point]],
    mean: Sequence[Point],
    x: Scale | LogScale,
    y: Scale,
    cost: str,
) -> Line:
    line = Line(index, label, DASHES[index // len(COLOURS) % len(DASHES)])
    if max(seed[-1].x for seed in seeds) == 0:
        last = sum(seed[-1].y for seed in seeds) / len(seeds)
        line.level = y(last)
        line.marks = [Mark(x(0), y(last), marker(index, x(0), y(last)), f"{label}: {last:.3f}, spends none")]
        return line
    if len(seeds) > 1:
        line.seeds = [stairs([(x(point.x), y(point.y)) for point in seed]) for seed in seeds]
    line.mean = stairs([(x(point.x), y(point.y)) for point in mean])
    upper = [(x(point.x), y(point.high)) for point in mean]
    lower = [(x(point.x), y(point.low)) for point in mean]
    if len(mean) > 1:
        line.band = f"{stairs(upper)} L{_reversed_stairs(lower)} Z"
    every = max(1, -(-len(mean) // MARKS))  # no mean where the seeds have no cost in common
    shown = [*mean[:-1:every], *mean[-1:]]
    line.marks = [
        Mark(
            x(point.x),
            y(point.y),
            marker(index, x(point.x), y(point.y)),
            f"{label}: {point.y:.3f} at {compact(point.x)} {cost.replace('_', ' ')}",
        )
        for point in shown
    ]
    return line


def stairs(points: Sequence[tuple[float, float]]) -> str:
    """An SVG path that keeps each height until the next point."""
    if not points:
        return ""
    (x, y), *rest = points
    return " ".join([f"M{x} {y}", *(f"H{x} V{y}" for x, y in rest)])


def _reversed_stairs(points: Sequence[tuple[float, float]]) -> str:
    """The same steps walked backwards, from the last point to the first."""
    corners = [
        corner
        for (x, y), (_, before) in zip(points[1:], points, strict=False)
        for corner in ((x, before), (x, y))
    ]
    walked = [points[0], *corners]
    return " ".join(f"{x} {y}" for x, y in reversed(walked))


def marker(index: int, x: float, y: float, r: float = 3.8) -> str:
    """The path of an entry's marker: circle, square, triangle, diamond, triangle upside down, in turn."""
    shape = index % 5
    if shape == 0:
        return f"M{x - r:.1f} {y:.1f} a{r} {r} 0 1 0 {2 * r} 0 a{r} {r} 0 1 0 {-2 * r} 0 Z"
    corners = {
        1: [(-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)],
        2: [(0, -1.2), (1.1, 0.9), (-1.1, 0.9)],
        3: [(0, -1.3), (1.3, 0), (0, 1.3), (-1.3, 0)],
        4: [(0, 1.2), (1.1, -0.9), (-1.1, -0.9)],
    }[shape]
    return "M" + " L".join(f"{x + r * dx:.1f} {y + r * dy:.1f}" for dx, dy in corners) + " Z"


@dataclass(frozen=True)
class Bar:
    """One entry in the figure of final values: its start, its result, and the result's interval."""

    index: int
    label: str
    y: float
    start: float | None
    final: float
    low: float | None
    high: float | None
    seeds: list[float]
    marker: str
    title: str


@dataclass(frozen=True)
class Forest:
    """Final values with intervals, one line per entry."""

    bars: list[Bar]
    x_ticks: list[Tick]
    width: int
    height: int


def forest(entries: Sequence[Entry], metric: str) -> Forest | None:
    """Start and final value of the metric; None where no entry holds it."""
    row, first, left, width = 46, 30, 44, 640
    found = [
        (i, entry, metric_over_seeds(entry.runs, "baseline", metric), final)
        for i, entry in enumerate(entries)
        if (final := metric_over_seeds(entry.runs, "final", metric)) is not None
    ]
    if not found:
        return None
    values = [
        value
        for _, _, start, final in found
        for value in (start.mean if start else None, final.mean, final.low, final.high)
        if value is not None
    ] + [
        value for entry in entries for run in entry.runs if (value := run.metric("final", metric)) is not None
    ]
    at = ticks(*_span(values, bounds(metric)), count=6)
    x = Scale(at[0], at[-1], left, width - left)
    bars = []
    for line, (i, entry, start, final) in enumerate(found):
        y = first + line * row
        low, high = (None if side is None else x(side) for side in (final.low, final.high))
        seeds = [x(value) for run in entry.runs if (value := run.metric("final", metric)) is not None]
        told = f"{entry.label}: {final.mean:.3f}" + (f", from {start.mean:.3f}" if start else "")
        at_start = x(start.mean) if start else None
        sign = marker(i, x(final.mean), y, 5.4)
        strokes = seeds if len(seeds) > 1 else []
        bars.append(Bar(i, entry.label, y, at_start, x(final.mean), low, high, strokes, sign, told))
    height = first + (len(found) - 1) * row + 20
    return Forest(bars, [Tick(x(value), f"{value:.6g}") for value in at], width, height + 22)


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round numbers from at or below `low` to at or above `high`."""
    from matplotlib.ticker import MaxNLocator

    found = MaxNLocator(nbins=count, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high)
    return [round(float(value), 12) for value in found]


def compact(value: float) -> str:
    """A count in few characters: 1500 -> 1.5k."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.4g}{letter}"
    return f"{value:.4g}"


def _span(values: Sequence[float], limits: tuple[float, float]) -> tuple[float, float]:
    """The range that shows all `values`, some room around a single one; within what the metric can take."""
    low, high = min(values), max(values)
    room = 0.0 if high > low else 0.1 * (abs(low) or 1.0)
    return max(limits[0], low - room), min(limits[1], high + room)
