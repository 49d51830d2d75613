"""The tables of the report as plain cells, which the page and the Markdown file both write out."""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from evolign.comparison.entries import ABSENT, Entry
from evolign.comparison.estimates import (
    Estimate,
    Reached,
    cost_over_seeds,
    metric_over_seeds,
    over_seeds,
    reach,
)

COSTS: dict[str, str] = {
    "completions": "completions",
    "validation_completions": "validation completions",
    "generated_tokens": "generated tokens",
    "seconds": "seconds",
    "peak_memory_bytes": "peak memory",
}
"""Fields of result.json and their columns; for each, less is better."""
CHOSEN = ("validation_completions",)
"""Costs that the user chose: no entry is marked for them."""
UNITS = ("generations", "steps")
TRAINED = ("dimensions", "trainable_parameters")


@dataclass(frozen=True)
class Cell:
    """A figure in a table, its detail, and whether it is the best of its column."""

    text: str
    detail: str = ""
    best: bool = False


@dataclass
class Table:
    """Columns, and one row of cells per entry."""

    columns: list[str]
    rows: list[list[Cell]]
    notes: list[str] = field(default_factory=list)
    mark: str = "best"
    """What the best cell of a column is called."""


def metric_names(entries: Sequence[Entry]) -> list[str]:
    """The metrics of the final tests that have intervals, those of the most entries first."""
    counts: dict[str, int] = {}
    for entry in entries:
        finals = [run.result["final"] for run in entry.runs]
        for name in dict.fromkeys(name for final in finals for name in final if f"{name}_low" in final):
            counts[name] = counts.get(name, 0) + 1
    return sorted(counts, key=lambda name: -counts[name])


def results_table(entries: Sequence[Entry], metrics: Sequence[str], may_mark: bool) -> Table:
    """Seeds, and the final value of every metric; more is better. The selected metric has its start too."""
    table = Table(["seeds"], [[Cell(str(len(entry.runs)))] for entry in entries])
    learnt = tuple(str(run.result.get("metric")) for entry in entries for run in entry.runs)
    kinds = set()
    for name in metrics:
        finals = [metric_over_seeds(entry.runs, "final", name) for entry in entries]
        best = _best(finals, max) if may_mark else None
        table.columns.append(f"{name}, final")
        for i, row in enumerate(table.rows):
            row.append(_final_cell(finals[i], len(entries[i].runs), i == best))
        if name.startswith(learnt) or len(metrics) == 1:
            table.columns.append(f"{name}, start")
            for entry, row in zip(entries, table.rows, strict=True):
                start = metric_over_seeds(entry.runs, "baseline", name)
                row.append(Cell(ABSENT if start is None else f"{start.mean:.3f}"))
        kinds |= {final.over for final in finals if final is not None}
    if "seeds" in kinds:
        table.notes.append("[low, high]: 95 % t interval of the mean over seeds.")
    if "prompts" in kinds:
        table.notes.append(
            "†: one seed, or the same value for all; [low, high] is a run's own 95 % interval, over prompts."
        )
    return table


def costs_table(entries: Sequence[Entry], may_mark: bool) -> Table:
    """How long every entry ran, what it trained, and what that cost."""
    rows = [[_length(entry), _trained(entry)] for entry in entries]
    table = Table(["length", "trained values"], rows, mark="least")
    for name, title in COSTS.items():
        values = [cost_over_seeds(entry.runs, name) for entry in entries]
        means = [over_seeds(each) if each else None for each in values]
        best = _best(means, min) if may_mark and name not in CHOSEN else None
        table.columns.append(title)
        for i, row in enumerate(table.rows):
            row.append(_range_cell(values[i], name, i == best))
    if any(len(entry.runs) > 1 for entry in entries):
        table.notes.append(
            "Mean over seeds, with the lowest and the highest seed beside it where they differ."
        )
    table.notes.append(
        "Completions, tokens and seconds are those of search or training, without warm start and final test."
    )
    return table


def target_table(entries: Sequence[Entry], metric: str, target: float) -> Table:
    """Seeds that reached the target, and what they had spent at the first validation that did."""
    table = Table(["seeds that reached it", "completions", "seconds"], [])
    for entry in entries:
        found = reach(entry.runs, metric, target)
        if found is None:
            table.rows.append([Cell(ABSENT, "no validation of this metric"), Cell(ABSENT), Cell(ABSENT)])
            continue
        table.rows.append(
            [
                Cell(f"{found.count} of {len(found.seconds)}"),
                _reached_cell(found, found.completions, found.spent_completions, "completions"),
                _reached_cell(found, found.seconds, found.spent_seconds, "seconds"),
            ]
        )
    return table


def amount(value: float, name: str) -> str:
    """A cost with its unit."""
    if name == "peak_memory_bytes":
        return f"{value / 2**30:,.1f} GiB" if value >= 2**30 else f"{value / 2**20:,.0f} MiB"
    if name == "seconds":
        return f"{value:,.0f} s" if value >= 10 else f"{value:.1f} s"
    return f"{value:,.0f}"


def _final_cell(estimate: Estimate | None, runs: int, best: bool) -> Cell:
    if estimate is None:
        return Cell(ABSENT)
    detail = ""
    if estimate.low is not None and estimate.high is not None:
        detail = f"[{estimate.low:.3f}, {estimate.high:.3f}]{'†' if estimate.over == 'prompts' else ''}"
    if estimate.count < runs:
        detail = f"{detail} ({estimate.count} of {runs} seeds)".strip()
    return Cell(f"{estimate.mean:.3f}", detail, best)


def _range_cell(values: Sequence[float], name: str, best: bool) -> Cell:
    if not values:
        return Cell(ABSENT)
    low, high = amount(min(values), name), amount(max(values), name)
    first = low.split()[0] if low.split()[1:] == high.split()[1:] else low  # one unit says it
    spread = "" if low == high else f"({first} to {high})"
    return Cell(amount(statistics.fmean(values), name), spread, best)


def _length(entry: Entry) -> Cell:
    for name in UNITS:
        values = cost_over_seeds(entry.runs, name)
        if values:
            low, high = f"{min(values):,.0f}", f"{max(values):,.0f}"
            return Cell(f"{low if low == high else f'{low} to {high}'} {name}")
    return Cell(ABSENT)


def _trained(entry: Entry) -> Cell:
    values = [value for name in TRAINED for value in cost_over_seeds(entry.runs, name)]
    return _range_cell(values, "trained", False)


def _reached_cell(found: Reached, at: Sequence[float | None], spent: Sequence[float], name: str) -> Cell:
    """The mean where every seed reached it; else the number that did, and what the others spent."""
    reached = [value for value in at if value is not None]
    if not spent:
        return _range_cell(reached, name, False)
    within = f"within {amount(max(spent), name)}"
    if not reached:
        return Cell("not reached", within)
    seeds = f"{len(spent)} seed{'s' if len(spent) > 1 else ''}"
    return Cell(" · ".join(amount(value, name) for value in sorted(reached)), f"({seeds} not {within})")


def _best(estimates: Sequence[Estimate | None], choose: Callable[..., Estimate]) -> int | None:
    """The index of the best estimate, if its interval touches no other one's; else None."""
    known = [estimate for estimate in estimates if estimate is not None]
    if len(known) < 2:
        return None
    first = choose(known, key=lambda estimate: estimate.mean)
    apart = all(first.is_apart(other) for other in known if other is not first)
    return next(i for i, estimate in enumerate(estimates) if estimate is first) if apart else None
