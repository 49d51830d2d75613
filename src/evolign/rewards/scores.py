"""What scoring gives: the scores, each reward's values, and what rewards logged."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from evolign.rewards.calling import Cell
from evolign.rewards.weighted import METRIC, SPREAD
from evolign.types import NO_COST, Cost

Logged = Mapping[str, tuple[float, float]]
"""Metrics that rewards logged, by name: the sum over completions, and how many these are."""
LOGGED = "logged/"
"""What stands before the name of a metric or a column of rewards that another one has already."""


@dataclass(frozen=True)
class Scores:
    """The scores of completions, and what scoring them took."""

    values: np.ndarray
    """float64, one per completion; NaN where the reward returned None (not applicable)."""
    cost: Cost = NO_COST
    """Distinct completions whose scoring was ended after `timeout_seconds`, or killed the worker process."""
    seconds: float = 0.0
    failures: Sequence[str | None] = ()
    """One per completion: None, or "timeout" or "crash" where it scores `failure_score`."""
    parts: Mapping[str, np.ndarray] = field(default_factory=dict)
    """The values of each reward by its short name, as `values`, without the weight; NaN where it failed."""
    logged: Logged = field(default_factory=dict)
    columns: Mapping[str, Sequence[Cell]] = field(default_factory=dict)
    """What rewards gave to `log_extra`, one value per completion."""

    @property
    def several(self) -> Mapping[str, np.ndarray]:
        """`parts`; empty where the only reward is the score."""
        return self.parts if len(self.parts) > 1 else {}


def part_metrics(parts: Mapping[str, np.ndarray]) -> dict[str, float]:
    """The mean and the standard deviation of each reward, where it applies to any completion."""
    found: dict[str, float] = {}
    for name, values in parts.items():
        applicable = values[~np.isnan(values)]
        if len(applicable):
            found[METRIC + name] = float(applicable.mean())
            found[METRIC + name + SPREAD] = float(applicable.std())
    return found


def added(logs: Iterable[Logged]) -> dict[str, tuple[float, float]]:
    """Several logs as one."""
    found: dict[str, tuple[float, float]] = {}
    for log in logs:
        for name, (total, count) in log.items():
            before = found.get(name, (0.0, 0.0))
            found[name] = before[0] + total, before[1] + count
    return found


def averages(logged: Logged) -> dict[str, float]:
    """The logged metrics: means over completions, as TRL's of a batch."""
    return {name: total / count for name, (total, count) in logged.items()}


def beside(row: Mapping[str, Any], logged: Mapping[str, Any]) -> dict[str, Any]:
    """A row with what rewards logged: under `logged/` where the row has something of that name."""
    return dict(row) | {f"{LOGGED}{name}" if name in row else name: value for name, value in logged.items()}
