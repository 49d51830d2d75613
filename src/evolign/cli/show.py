"""Printing results on the command line."""

import sys
from pathlib import Path
from typing import Any

import typer

from evolign.errors import visible


def echo(text: object, *, err: bool = False) -> None:
    """Print text that may hold names and words of others."""
    typer.echo(visible(text), err=err)


def print_result(result: Any) -> None:
    """Print the metrics before and after a run, and where its files are."""
    summary = result.summary
    print_metrics({"before": summary["baseline"], "after": summary["final"]})
    if "exported_generation" in summary:
        exported = f"the mean of generation {summary['exported_generation']} of {summary['generations']}"
    else:
        exported = f"step {summary['exported_step']} of {summary['steps']}"
    echo(
        f"{summary['completions']:,} completions, {summary['generated_tokens']:,} tokens, "
        f"{summary['seconds']:.0f} s, peak memory {summary['peak_memory_bytes'] / 2**20:,.0f} MiB.\n"
        f"Exported {exported} (best on validation): {result.weights}\nRun directory: {result.path}"
    )
    for warning in summary.get("warnings", ()):
        warn(warning)


def warn(text: str) -> None:
    """Something that the user must not miss."""
    typer.secho(visible(f"Warning: {text}."), err=True, fg="red", bold=True)


def print_comparison(comparison: Any) -> None:
    """Print one line per entry, and the notices."""
    from rich.console import Console
    from rich.table import Column, Table
    from rich.text import Text

    results, costs = comparison.results, comparison.costs
    shown = [costs.columns.index(name) for name in ("completions", "seconds", "peak memory")]
    table = Table(
        "entry",
        "seeds",
        Column(Text(visible(f"final {comparison.metric}"))),
        *(costs.columns[i] for i in shown),
    )
    for entry, result, cost in zip(comparison.entries, results.rows, costs.rows, strict=True):
        seeds, final = result[:2]
        cells = [entry.label, seeds.text, f"{final.text} {final.detail}", *(cost[i].text for i in shown)]
        table.add_row(*(Text(visible(cell)) for cell in cells))
    Console().print(table)
    for left in comparison.left_out:
        echo(f"Left out {left.path}: {left.reason}", err=True)
    for notice in comparison.notices:
        echo(f"Note: {notice.text}", err=True)


def print_metrics(columns: dict[str, dict[str, float]], *, all_of_them: bool = False) -> None:
    """Print metrics with their 95 % intervals; `all_of_them` adds those that have no interval."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table("metric", *columns)
    first = next(iter(columns.values()))
    for name in first:
        if f"{name}_low" in first:
            cells = [
                f"{c[name]:.3f} [{c[name + '_low']:.3f}, {c[name + '_high']:.3f}]" for c in columns.values()
            ]
            table.add_row(Text(visible(name)), *cells)
        elif all_of_them and not name.endswith(("_low", "_high")):
            table.add_row(Text(visible(name)), *(f"{c[name]:.3f}" for c in columns.values()))
    Console().print(table)


def run_judge(rows: Any, against: Any, *, by: Any, out: Path | None, yes: bool, **named: Any) -> None:
    """Print the cost, ask the judge under a progress bar, and print the win rate."""
    from rich.progress import Progress, TimeRemainingColumn

    from evolign.judging.contest import judge

    def before(estimate: Any) -> None:
        echo(f"Judge {by.name}: {estimate}.")
        if not yes and sys.stdin.isatty():
            typer.confirm("Continue?", default=True, abort=True)
        bar.start()

    quiet = not sys.stdout.isatty()
    bar = Progress(*Progress.get_default_columns()[:2], TimeRemainingColumn(), transient=True, disable=quiet)
    task = bar.add_task("verdicts", total=None)
    done = 0

    def progress(answered: int, total: int) -> None:
        nonlocal done
        done = answered
        bar.update(task, completed=answered, total=total)

    try:
        found = judge(rows, against, by=by, out=out, before=before, progress=progress, **named)
    except KeyboardInterrupt:
        bar.stop()
        echo(f"\nInterrupted after {done} verdicts. The same command resumes from there.", err=True)
        raise typer.Exit(130) from None
    finally:
        bar.stop()
    print_win_rate(found.summary)
    if problem := next((row["problem"] for row in found.verdicts if "problem" in row), None):
        echo(f"  the first failure: {problem}")
    if out is not None:
        echo(f"Wrote win_rate.json and verdicts.jsonl to {out}")


def print_win_rate(summary: dict[str, Any]) -> None:
    """Print the win rate, its counts, and how far the judge can be trusted."""

    def share(name: str) -> str:
        if summary[name] is None:
            return "not known (no verdict counts)"
        return f"{summary[name]:.3f} [{summary[name + '_low']:.3f}, {summary[name + '_high']:.3f}]"

    counts = ", ".join(
        f"{summary[name]:,} {name}" for name in ("wins", "ties", "losses", "invalid", "failed")
    )
    lines = [
        f"Win rate {share('win_rate')} against {summary['against']}, by {summary['judge']}",
        f"  {summary['pairs']:,} pairs in both orders: {counts}",
        f"  both orders agree: {share('agreement')}",
        f"  the answer shown first wins: {share('first_shown_wins')}",
        f"  the longer answer wins: {share('longer_wins')}",
    ]
    notes = {
        "identical": "pairs of equal completions, ties without a call",
        "unmatched": "rows without a partner, left out",
        "without_reference": "rows without a reference, left out",
        "empty_ours": "of our completions are empty",
        "empty_theirs": "of theirs are empty",
    }
    lines += [f"  {summary[name]:,} {text}" for name, text in notes.items() if summary[name]]
    if "calls" in summary:
        lines.append(
            f"  {summary['calls']:,} calls ({summary['cached']:,} replies from the cache, "
            f"{summary['retries']:,} retries), {summary['tokens_in']:,} tokens in, "
            f"{summary['tokens_out']:,} out"
        )
    echo("\n".join(lines))
