"""A comparison as a value: its entries, notices and tables."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from evolign.comparison.entries import Entry, group
from evolign.comparison.estimates import default_target, last_validation
from evolign.comparison.fairness import Notice, notices
from evolign.comparison.loading import LeftOut, Run, Runs, read_runs
from evolign.comparison.tables import Table, costs_table, metric_names, results_table, target_table
from evolign.errors import ConfigError, RunError


@dataclass(frozen=True)
class Comparison:
    """What `evolign compare` found."""

    entries: list[Entry]
    left_out: list[LeftOut]
    """Paths that are not compared, and why."""
    notices: list[Notice]
    """Why entries cannot be compared directly."""
    metric: str
    """The metric of the curves and of the target, for example "accuracy_greedy"."""
    target: float | None
    """None where no run has a validation of the metric."""
    results: Table
    costs: Table
    reached: Table | None


def build(runs: Runs, metric: str | None = None, target: float | None = None) -> Comparison:
    """Read `runs` and compute everything that the report says.

    Raises RunError where none of them can be compared, ConfigError for a metric that none of them holds or a
    target that is not finite.
    """
    if target is not None and not math.isfinite(target):
        raise ConfigError(f"--target {target}: must be a finite number, for example 0.9")
    found, left_out = read_runs(runs)
    entries, twins = group(found)
    left_out = left_out + twins
    if not entries:
        reasons = "".join(f"\n  {left.path}: {left.reason}" for left in left_out)
        raise RunError(f"there is no finished run to compare; give run directories.{reasons}")
    names = metric_names(entries)
    metric = _chosen(metric, found, names)
    if target is None:
        last = [[last_validation(run, metric) for run in entry.runs] for entry in entries]
        target = default_target([[value for value in values if value is not None] for values in last])
    told = notices(entries, metric)
    spoilt = {notice.spoils for notice in told}
    return Comparison(
        entries,
        left_out,
        told,
        metric,
        target,
        results_table(entries, sorted(names, key=lambda name: name != metric), "metrics" not in spoilt),
        costs_table(entries, "costs" not in spoilt),
        None if target is None else target_table(entries, metric, target),
    )


def _chosen(metric: str | None, runs: Sequence[Run], names: Sequence[str]) -> str:
    """The metric that was asked for, else the one that most runs were selected by."""
    validated = {
        name.removeprefix("eval/")
        for run in runs
        for row in run.rows
        for name in row
        if name.startswith("eval/") and f"{name}_low" in row
    }
    known = list(dict.fromkeys([*names, *sorted(validated)]))
    if metric is not None:
        if metric not in known:
            raise ConfigError(f"--metric {metric!r}: no run holds it; known: {', '.join(known) or 'none'}")
        return metric
    if not known:
        raise RunError(
            "result.json of these runs holds no metric with an interval, so there is nothing to compare"
        )
    votes = Counter(wanted for run in runs if (wanted := _selected_by(run)) in known)
    return votes.most_common(1)[0][0] if votes else known[0]


def _selected_by(run: Run) -> str:
    evaluation = run.config.get("evaluation")
    decoding = evaluation.get("select_by", "greedy") if isinstance(evaluation, dict) else "greedy"
    suffixed = f"{run.result.get('metric')}_{decoding}"
    return suffixed if suffixed in run.result["final"] else str(run.result.get("metric"))
