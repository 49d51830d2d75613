"""Means over seeds with their intervals, curves over seeds, and what it took to reach a target."""

import math
import statistics
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from evolign.comparison.loading import Run, number

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Estimate:
    """A mean, and its 95 % interval where one can be given."""

    mean: float
    low: float | None
    high: float | None
    count: int
    """Seeds behind the mean."""
    over: Literal["seeds", "prompts", "nothing"]
    """What the interval is taken over; "prompts" if it is the interval of a single run."""

    def is_apart(self, other: "Estimate") -> bool:
        """Whether both have intervals, and the intervals do not overlap."""
        if self.low is None or self.high is None or other.low is None or other.high is None:
            return False
        return self.low > other.high or self.high < other.low


def over_seeds(values: Sequence[float], bounds: tuple[float, float] = (-math.inf, math.inf)) -> Estimate:
    """The mean of independent runs with Student's t interval, cut at the `bounds` of what is measured."""
    mean = statistics.fmean(values)
    if len(values) < 2:
        return Estimate(mean, None, None, len(values), "nothing")
    half = t_quantile(len(values) - 1) * statistics.stdev(values) / math.sqrt(len(values))
    return Estimate(mean, max(bounds[0], mean - half), min(bounds[1], mean + half), len(values), "seeds")


def metric_over_seeds(runs: Sequence[Run], stage: str, name: str) -> Estimate | None:
    """A metric of result.json over the runs that hold it.

    One run, or several runs with the same value, have no spread: their interval is a run's own, over prompts.
    """
    having = [(run, value) for run in runs if (value := run.metric(stage, name)) is not None]
    if not having:
        return None
    values = [value for _, value in having]
    if len(set(values)) > 1:
        return over_seeds(values, bounds(name))
    low, high = own_interval(having[0][0], stage, name)
    over: Literal["prompts", "nothing"] = "nothing" if low is None or high is None else "prompts"
    return Estimate(values[0], low, high, len(values), over)


def own_interval(run: Run, stage: str, name: str) -> tuple[float | None, float | None]:
    """The interval over prompts that the run itself states."""
    return run.metric(stage, f"{name}_low"), run.metric(stage, f"{name}_high")


def cost_over_seeds(runs: Sequence[Run], name: str) -> list[float]:
    """The mean of a cost over the runs that state it."""
    return [value for run in runs if (value := run.cost(name)) is not None]


def bounds(name: str) -> tuple[float, float]:
    """The range that a metric can take: shares and ROUGE lie in 0 to 1."""
    shares = ("accuracy", "rouge", "truncated", "pass", "exact")
    return (0.0, 1.0) if name.startswith(shares) else (-math.inf, math.inf)


def t_quantile(df: int, probability: float = (1 + CONFIDENCE) / 2) -> float:
    """The quantile of Student's t with `df` degrees of freedom, `probability` above a half; by bisection."""
    low, high = 0.0, 1.0
    while _t_cdf(high, df) < probability:
        high *= 2
    while high - low > 1e-12 * high:
        middle = (low + high) / 2
        low, high = (middle, high) if _t_cdf(middle, df) < probability else (low, middle)
    return high


def _t_cdf(t: float, df: int) -> float:
    """Student's distribution for a whole `df` and t >= 0: Abramowitz and Stegun 26.7.3 and 26.7.4."""
    theta = math.atan(t / math.sqrt(df))
    cos = math.cos(theta)
    if df % 2:
        term, total = cos, 0.0
        for k in range(1, df - 1, 2):
            total += term
            term *= cos**2 * (k + 1) / (k + 2)
        inside = 2 / math.pi * (theta + math.sin(theta) * total)
    else:
        term, total = 1.0, 0.0
        for k in range(0, df - 1, 2):
            total += term
            term *= cos**2 * (k + 1) / (k + 2)
        inside = math.sin(theta) * total
    return (1 + inside) / 2


@dataclass(frozen=True)
class Point:
    """One validation: what had been spent, and the metric with its interval."""

    x: float
    y: float
    low: float
    high: float


def validations(run: Run, metric: str, cost: str) -> list[Point]:
    """The run's validations of `metric` against `cost`, in order; rows that lack either are passed over."""
    points = []
    for row in run.rows:
        x, y = number(row.get(cost)), number(row.get(f"eval/{metric}"))
        if x is not None and y is not None:
            low, high = (number(row.get(f"eval/{metric}_{side}")) for side in ("low", "high"))
            points.append(Point(x, y, y if low is None else low, y if high is None else high))
    return sorted(points, key=lambda point: point.x)


def mean_curve(curves: Sequence[Sequence[Point]]) -> list[Point]:
    """The mean of several seeds' validations, with the range of the seeds as `low` and `high`.

    Each seed counts with its last validation so far (a step function: nothing is interpolated), also after
    it has ended: one that stopped at a target stays there, while the others go on. So the mean goes from the
    last of the seeds' starts to the last of their ends; there is none where a seed began after another's end.
    A single seed comes back as it is.
    """
    curves = [curve for curve in curves if curve]
    if len(curves) < 2:
        return list(curves[0]) if curves else []
    start = max(curve[0].x for curve in curves)
    if start > min(curve[-1].x for curve in curves):
        return []
    grid = sorted({point.x for curve in curves for point in curve if start <= point.x})
    points = []
    for x in grid:
        values = [curve[bisect_right(curve, x, key=lambda point: point.x) - 1].y for curve in curves]
        points.append(Point(x, statistics.fmean(values), min(values), max(values)))
    return points


def last_validation(run: Run, metric: str) -> float | None:
    """The metric of the run's last validation."""
    values = [value for row in run.rows if (value := number(row.get(f"eval/{metric}"))) is not None]
    return values[-1] if values else None


@dataclass(frozen=True)
class Reached:
    """Per seed, what had been spent at the first validation at or above the target; None: never."""

    completions: list[float | None]
    seconds: list[float | None]
    spent_completions: list[float]
    """What the seeds that never reached it had spent in all."""
    spent_seconds: list[float]

    @property
    def count(self) -> int:
        return sum(seconds is not None for seconds in self.seconds)


def reach(runs: Sequence[Run], metric: str, target: float) -> Reached | None:
    """When each of `runs` reached `target`; None where no run has a validation of `metric`."""
    found = Reached([], [], [], [])
    for run in runs:
        validations = [row for row in run.rows if number(row.get(f"eval/{metric}")) is not None]
        if not validations:
            continue
        hit = next((row for row in validations if row[f"eval/{metric}"] >= target), None)
        row = validations[-1] if hit is None else hit
        completions, seconds = number(row.get("completions")) or 0.0, number(row.get("seconds")) or 0.0
        found.completions.append(None if hit is None else completions)
        found.seconds.append(None if hit is None else seconds)
        if hit is None:
            found.spent_completions.append(completions)
            found.spent_seconds.append(seconds)
    return found if found.seconds else None


def default_target(last_values: Sequence[Sequence[float]]) -> float | None:
    """95 % of the best entry's mean last validation; 5 % of its size below it where that is negative."""
    means = [statistics.fmean(values) for values in last_values if values]
    if not means:
        return None
    best = max(means)
    return best - 0.05 * abs(best)
