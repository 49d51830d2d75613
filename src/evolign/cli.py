"""The command line: a thin table. Each command is one public Python call.

Nothing heavy is imported before a command runs, so that `evolign --help` is instant.
"""

import importlib.metadata
import os
import signal
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from evolign.errors import EvolignError

app = typer.Typer(
    help="Align language models by evolution: forward passes alone, an ordinary PEFT adapter out.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"evolign {importlib.metadata.version('evolign')}")
        raise typer.Exit


Overrides = Annotated[list[str] | None, typer.Argument(help="Settings on top of the recipe, as a.b.c=value.")]
Out = Annotated[Path, typer.Option(help="Where to write; must not exist yet.")]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask before calls that may cost money.")]
JUDGES = "an endpoint's model, local:MODEL, or file.py:function."


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=show_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    pass


@app.command()
def quickstart(
    out: Annotated[Path, typer.Option(help="The run directory; an earlier quickstart is replaced.")] = (
        Path("runs/quickstart")
    ),
) -> None:
    """Evolve the model that ships with evolign, and show it before and after (two minutes)."""
    from evolign.demo import quickstart

    with interruptible(out):
        print_result(quickstart(out))


@app.command()
def run(
    recipe: Annotated[Path, typer.Argument(help="A YAML recipe, or the config.json of a run.")],
    overrides: Overrides = None,
    out: Annotated[Path | None, typer.Option(help="The run directory; default runs/RECIPE-seedN.")] = None,
) -> None:
    """Run a recipe."""
    from evolign.methods import run
    from evolign.recipe import load

    config = load(recipe, overrides or [])
    out = out or Path("runs") / f"{recipe.stem}-seed{config.seed}"
    with interruptible(out):
        print_result(run(config, out))


@app.command()
def resume(run_dir: Annotated[Path, typer.Argument(help="A run that was interrupted.")]) -> None:
    """Go on with an interrupted run, bit for bit where it stopped."""
    from evolign.methods import resume

    with interruptible(run_dir):
        print_result(resume(run_dir))


@app.command()
def evaluate(
    target: Annotated[str, typer.Argument(help="A run, a PEFT adapter folder, or a model.")],
    overrides: Overrides = None,
    task: Annotated[
        str | None, typer.Option(help="Task to judge on; default: the run's own, else arithmetic.")
    ] = None,
    split: Annotated[str, typer.Option(help="train, validation or test.")] = "test",
    out: Annotated[Path | None, typer.Option(help="Write every completion to this .jsonl.")] = None,
    judge: Annotated[str | None, typer.Option(help=f"Win rate by a judge: {JUDGES}")] = None,
    judge_url: Annotated[
        str | None, typer.Option(help="An OpenAI-compatible endpoint, ending in /v1.")
    ] = None,
    judge_out: Annotated[
        Path | None, typer.Option(help="Folder for win_rate.json and verdicts.jsonl.")
    ] = None,
    against: Annotated[
        str, typer.Option(help="With --judge: reference, a .jsonl of --out, a run, an adapter or a model.")
    ] = "reference",
    yes: Yes = False,
) -> None:
    """Judge a run, an adapter or a model on held-out prompts; with --judge, against others by a judge."""
    from evolign.assessment import assess

    if judge is not None:
        from evolign.judging.contest import build_judge

        referee = build_judge(judge, url=judge_url)  # whatever is wrong with it is told before the work
    settings: dict[str, Any] = {"task": task, "split": split, "overrides": overrides or []}
    found = assess(target, **settings, out=out)
    print_metrics({"score": found.metrics}, all_of_them=True)
    if judge is None:
        return
    theirs: Any = against
    if against != "reference" and not against.endswith(".jsonl"):
        theirs = assess(against, **settings, like=target).samples
    decoding = "greedy" if any(row["decoding"] == "greedy" for row in found.samples) else "sampled"
    run_judge(found.samples, theirs, by=referee, decoding=decoding, name=against, out=judge_out, yes=yes)


@app.command("judge")
def judge_(
    rows: Annotated[Path, typer.Argument(help="Completions of `evolign evaluate --out`.")],
    against: Annotated[str, typer.Argument(help="Other completions, or reference.")] = "reference",
    *,
    by: Annotated[str, typer.Option(help=JUDGES)],
    url: Annotated[str | None, typer.Option(help="An OpenAI-compatible endpoint, ending in /v1.")] = None,
    key_env: Annotated[str, typer.Option(help="Environment variable with the key.")] = "OPENAI_API_KEY",
    template: Annotated[Path | None, typer.Option(help="YAML with user, system and verdict.")] = None,
    parameter: Annotated[
        list[str] | None, typer.Option(help="Sent with every call, as name=value; null takes one out.")
    ] = None,
    decoding: Annotated[str, typer.Option(help="Which completions: greedy or sampled.")] = "greedy",
    concurrency: Annotated[int, typer.Option(help="Calls at once.")] = 8,
    retries: Annotated[int, typer.Option(help="Further attempts at a call.")] = 5,
    timeout: Annotated[float, typer.Option(help="Seconds for one attempt.")] = 60.0,
    cache: Annotated[
        Path | None, typer.Option(help="Folder of replies; default ~/.cache/evolign/judge.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for win_rate.json and verdicts.jsonl.")] = None,
    yes: Yes = False,
) -> None:
    """Win rate of completions against others or their references, by a judge who sees both orders."""
    from evolign.judging.contest import build_judge
    from evolign.recipe import apply_override

    parameters: dict[str, Any] = {}
    for item in parameter or []:
        apply_override(parameters, item)
    referee = build_judge(
        by,
        url=url,
        key_env=key_env,
        template=template,
        parameters=parameters,
        concurrency=concurrency,
        retries=retries,
        timeout_seconds=timeout,
        cache=cache,
    )
    run_judge(rows, against, by=referee, decoding=decoding, name=against, out=out, yes=yes)


@app.command()
def export(
    run_dir: Annotated[Path, typer.Argument(help="A finished run.")],
    out: Out,
    merge: Annotated[
        bool, typer.Option("--merge", help="Fold the adapter into the base model's weights.")
    ] = False,
) -> None:
    """Write a run's result as a PEFT adapter, or as a merged model."""
    from evolign.assessment import export

    export(run_dir, out, merge=merge)
    typer.echo(f"Wrote {'the merged model' if merge else 'the PEFT adapter'} to {out}")


@app.command()
def compare(
    runs: Annotated[list[str], typer.Argument(help="Run directories, folders of them, or LABEL=RUN_DIR.")],
    out: Annotated[Path, typer.Option(help="The page to write, .html.")] = Path("report.html"),
    markdown: Annotated[Path | None, typer.Option(help="Write the tables to this .md too.")] = None,
    target: Annotated[
        float | None, typer.Option(help="Report what it took to get there; default: 95 % of the best.")
    ] = None,
    metric: Annotated[
        str | None, typer.Option(help="Metric of curves and target; default: what selected the runs.")
    ] = None,
) -> None:
    """Compare finished runs in one self-contained page."""
    from evolign.comparison import compare

    print_comparison(compare(runs, out, markdown=markdown, target=target, metric=metric))
    typer.echo(f"Wrote {out}{f' and {markdown}' if markdown else ''}")


@app.command()
def check(
    recipe: Annotated[Path, typer.Argument(help="A YAML recipe, or the config.json of a run.")],
    overrides: Overrides = None,
) -> None:
    """Prove a recipe before spending on it: settings, data, reward, model, memory."""
    from evolign.preflight import check
    from evolign.recipe import load

    findings = check(load(recipe, overrides or []))
    for finding in findings:
        typer.echo(f"{finding.status:<8} {finding.what:<9} {finding.detail}")
    if any(finding.status == "FAILED" for finding in findings):
        raise typer.Exit(1)


@app.command("list")
def list_() -> None:
    """List methods, tasks, rewards, strategies, spaces and engines."""
    from evolign.registry import registries

    for kind, entries in registries().items():
        typer.echo(f"{kind}:")
        for name, summary in entries.items():
            typer.echo(f"  {name:<18} {summary}")


def print_result(result: Any) -> None:
    """Before and after of a run, and where everything is."""
    summary = result.summary
    print_metrics({"before": summary["baseline"], "after": summary["final"]})
    if "exported_generation" in summary:
        exported = f"the mean of generation {summary['exported_generation']} of {summary['generations']}"
    else:
        exported = f"step {summary['exported_step']} of {summary['steps']}"
    typer.echo(
        f"{summary['completions']:,} completions, {summary['generated_tokens']:,} tokens, "
        f"{summary['seconds']:.0f} s, peak memory {summary['peak_memory_bytes'] / 2**20:,.0f} MiB.\n"
        f"Exported {exported} (best on validation): {result.weights}\nRun directory: {result.path}"
    )


def print_comparison(comparison: Any) -> None:
    """One line per entry, and what a reader must know."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    results, costs = comparison.results, comparison.costs
    shown = [costs.columns.index(name) for name in ("completions", "seconds", "peak memory")]
    table = Table("entry", "seeds", f"final {comparison.metric}", *(costs.columns[i] for i in shown))
    for entry, result, cost in zip(comparison.entries, results.rows, costs.rows, strict=True):
        seeds, final = result[:2]
        cells = [seeds.text, f"{final.text} {final.detail}", *(cost[i].text for i in shown)]
        table.add_row(Text(entry.label), *map(Text, cells))
    Console().print(table)
    for left in comparison.left_out:
        typer.echo(f"Left out {left.path}: {left.reason}", err=True)
    for notice in comparison.notices:
        typer.echo(f"Note: {notice.text}", err=True)


def print_metrics(columns: dict[str, dict[str, float]], *, all_of_them: bool = False) -> None:
    """A table of metrics with their 95 % intervals; those without one only where `all_of_them` are wanted."""
    from rich.console import Console
    from rich.table import Table

    table = Table("metric", *columns)
    first = next(iter(columns.values()))
    for name in first:
        if f"{name}_low" in first:
            cells = [
                f"{c[name]:.3f} [{c[name + '_low']:.3f}, {c[name + '_high']:.3f}]" for c in columns.values()
            ]
            table.add_row(name, *cells)
        elif all_of_them and not name.endswith(("_low", "_high")):
            table.add_row(name, *(f"{c[name]:.3f}" for c in columns.values()))
    Console().print(table)


def run_judge(rows: Any, against: Any, *, by: Any, out: Path | None, yes: bool, **named: Any) -> None:
    """Judge under a progress bar, after telling the cost, and print what was found."""
    from rich.progress import Progress, TimeRemainingColumn

    from evolign.judging.contest import judge

    def before(estimate: Any) -> None:
        typer.echo(f"Judge {by.name}: {estimate}.")
        if not yes and sys.stdin.isatty():
            typer.confirm("Go on?", default=True, abort=True)
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
        typer.echo(f"\nInterrupted after {done} verdicts. The same command goes on from there.", err=True)
        raise typer.Exit(130) from None
    finally:
        bar.stop()
    print_win_rate(found.summary)
    if problem := next((row["problem"] for row in found.verdicts if "problem" in row), None):
        typer.echo(f"  the first failure: {problem}")
    if out is not None:
        typer.echo(f"Wrote win_rate.json and verdicts.jsonl to {out}")


def print_win_rate(summary: dict[str, Any]) -> None:
    """The win rate, what it is made of, and how far the judge can be trusted."""

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
    typer.echo("\n".join(lines))


def main() -> None:
    """The console script: user errors are one message and exit status 1, never a traceback."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a cluster's notice is a Ctrl-C
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    warnings.filterwarnings("ignore", "`?\\w+`? is deprecated and will be removed in v6", FutureWarning)
    try:
        app()
    except EvolignError as error:
        sys.exit(f"evolign: {error}")


@contextmanager
def interruptible(path: Path) -> Iterator[None]:
    """Answer Ctrl-C with where the run stands and how to go on."""
    try:
        yield
    except KeyboardInterrupt:
        started = (path / "config.json").is_file()
        next_step = (
            f"Go on where it stopped with: evolign resume {path}" if started else "Nothing was written."
        )
        typer.echo(f"\nInterrupted. {next_step}", err=True)
        raise typer.Exit(130) from None
