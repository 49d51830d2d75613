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
) -> None:
    """Judge a run, an adapter or a model on held-out prompts."""
    from evolign.assessment import assess

    found = assess(target, task=task, split=split, overrides=overrides or [], out=out)
    print_metrics({"score": found.metrics})


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
    typer.echo(
        f"{summary['completions']:,} completions, {summary['generated_tokens']:,} tokens, "
        f"{summary['seconds']:.0f} s, peak memory {summary['peak_memory_bytes'] / 2**20:,.0f} MiB.\n"
        f"Exported the mean of generation {summary['exported_generation']} of {summary['generations']} "
        f"(best on validation): {result.adapter}\nRun directory: {result.path}"
    )


def print_metrics(columns: dict[str, dict[str, float]]) -> None:
    """A table of metrics with their 95 % intervals."""
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
    Console().print(table)


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
