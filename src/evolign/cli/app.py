"""The command line. Each command checks its options and makes one public Python call.

Nothing heavy is imported before a command runs, so that `evolign --help` is instant.
"""

import importlib.metadata
import io
import os
import re
import signal
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from evolign.cli.last_resort import last_resort
from evolign.cli.show import echo, print_comparison, print_metrics, print_result, run_judge, warn
from evolign.errors import EvolignError, quoted, visible

app = typer.Typer(
    help="Align language models with evolution strategies: only forward passes, an ordinary PEFT adapter.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def show_version(wanted: bool) -> None:
    if wanted:
        echo(f"evolign {importlib.metadata.version('evolign')}")
        raise typer.Exit


Overrides = Annotated[list[str] | None, typer.Argument(help="Settings on top of the recipe, as a.b.c=value.")]
Out = Annotated[Path, typer.Option(help="Where to write; must not exist yet.")]
Trust = Annotated[bool, typer.Option("--trust", help="Run the code that the run directory names.")]
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
    from evolign.commands.quickstart import quickstart

    with interruptible(out):
        print_result(quickstart(out))


@app.command()
def run(
    recipe: Annotated[Path, typer.Argument(help="A YAML recipe, or the config.json of a run.")],
    overrides: Overrides = None,
    out: Annotated[Path | None, typer.Option(help="The run directory; default runs/RECIPE-seedN.")] = None,
    trust: Trust = False,
) -> None:
    """Run a recipe."""
    from evolign.commands.run import load_trusted, run

    config = load_trusted(recipe, overrides or [], trust)
    out = out or Path("runs") / f"{recipe.stem}-seed{config.seed}"
    with interruptible(out):
        print_result(run(config, out))


@app.command()
def resume(
    run_dir: Annotated[Path, typer.Argument(help="A run that was interrupted.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(help="Other limits, as evolution.generations=80.")
    ] = None,
    trust: Trust = False,
) -> None:
    """Resume an interrupted run, bit for bit where it stopped."""
    from evolign.commands.run import resume

    with interruptible(run_dir):
        print_result(resume(run_dir, overrides or [], trust=trust))


@app.command()
def evaluate(
    target: Annotated[str, typer.Argument(help="A run, a PEFT adapter folder, or a model.")],
    overrides: Overrides = None,
    task: Annotated[
        str | None, typer.Option(help="Task to evaluate on; default: the run's own, else arithmetic.")
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
    trust: Trust = False,
) -> None:
    """Evaluate a run, an adapter or a model on held-out prompts; with --judge, also its win rate."""
    from evolign.commands.evaluate import evaluate

    if judge is not None:
        from evolign.judging.contest import build_judge

        referee = build_judge(judge, url=judge_url)  # fail early if the judge cannot be built
    settings: dict[str, Any] = {
        "task": task, "split": split, "overrides": overrides or [], "trust": trust,
    }  # fmt: skip
    found = evaluate(target, **settings, out=out)
    print_metrics({"score": found.metrics}, all_of_them=True)
    if found.warning:
        warn(found.warning)
    if judge is None:
        return
    theirs: Any = against
    if against != "reference" and not against.endswith(".jsonl"):
        theirs = evaluate(against, **settings, like=target).samples
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
    from evolign.config.recipe import apply_override
    from evolign.judging.contest import build_judge

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
    overrides: Annotated[
        list[str] | None, typer.Argument(help="Where the base model lies now: model.name=FOLDER.")
    ] = None,
    *,
    out: Out,
    merge: Annotated[
        bool, typer.Option("--merge", help="Fold the adapter into the base model's weights.")
    ] = False,
    trust: Trust = False,
) -> None:
    """Write a run's result as a PEFT adapter, or as a merged model."""
    from evolign.commands.export import export

    difference = export(run_dir, out, merge=merge, overrides=overrides or [], trust=trust)
    echo(f"Wrote {'the merged model' if merge else 'the PEFT adapter'} to {out}")
    if difference is not None:
        echo(
            f"Read again, its logits differ from those of the adapter by {difference:.1g} of their standard "
            "deviation."
        )


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
    echo(f"Wrote {out}{f' and {markdown}' if markdown else ''}")


@app.command()
def check(
    recipe: Annotated[Path, typer.Argument(help="A YAML recipe, or the config.json of a run.")],
    overrides: Overrides = None,
    trust: Trust = False,
) -> None:
    """Check a recipe before spending on it: settings, data, reward, model, memory."""
    from evolign.commands.check import check
    from evolign.commands.run import load_trusted

    findings = check(load_trusted(recipe, overrides or [], trust))
    for finding in findings:
        echo(f"{finding.status:<8} {finding.what:<9} {finding.detail}")
    if any(finding.status == "FAILED" for finding in findings):
        raise typer.Exit(1)


@app.command()
def track(
    run_dir: Annotated[Path, typer.Argument(help="A run, finished or interrupted.")],
    to: Annotated[
        list[str] | None, typer.Option(help="trackio, wandb or tensorboard; default: the run's own.")
    ] = None,
    project: Annotated[str | None, typer.Option(help="Default: the run's own, else evolign.")] = None,
    name: Annotated[str | None, typer.Option(help="Default: the run's own, else its directory's.")] = None,
) -> None:
    """Send a run to trackers: what they lack of its figures, samples, result and report."""
    from evolign.commands.track import track
    from evolign.runs.progress import Spoken

    track(run_dir, to or [], project=project, name=name, progress=Spoken(typer.echo))


@app.command()
def schema() -> None:
    """Print the JSON schema of recipes, for editors."""
    from evolign.config.schema import schema, text

    typer.echo(text(schema()), nl=False)


@app.command("list")
def list_() -> None:
    """List methods, tasks, rewards, strategies, spaces, engines and trackers."""
    from evolign.commands.list import registries

    for kind, entries in registries().items():
        echo(f"{kind}:")
        for name, summary in entries.items():
            echo(f"  {name:<18} {summary}")


def main() -> None:
    """Run the command line. An error of the user prints one message, and the exit status is 1.

    Any other error is exit status 70, with the traceback in a log.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # what the terminal's encoding lacks is shown escaped
            stream.reconfigure(errors="backslashreplace")
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a cluster's notice is a Ctrl-C
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    warnings.filterwarnings("ignore", "`?\\w+`? is deprecated and will be removed in v6", FutureWarning)
    home = os.path.expanduser("~")
    sys.argv[1:] = [
        re.sub("(^|=)~/", rf"\1{home}/", word) for word in sys.argv[1:]
    ]  # shells do the first only
    try:
        app(prog_name="evolign")  # also where Python was started: shells ask by this name
    except EvolignError as error:
        sys.exit(f"evolign: {visible(error)}")
    except Exception as error:  # the last resort
        sys.exit(last_resort(error))


@contextmanager
def interruptible(path: Path) -> Iterator[None]:
    """On Ctrl-C, print where the run stands and how to resume it. Log unexpected errors."""
    try:
        yield
    except (EvolignError, typer.Exit):
        raise
    except Exception as error:
        raise typer.Exit(last_resort(error, path)) from error
    except KeyboardInterrupt:
        started = (path / "config.json").is_file()
        next_step = f"Resume it with: evolign resume {quoted(path)}" if started else "Nothing was written."
        echo(f"\nInterrupted. {next_step}", err=True)
        raise typer.Exit(130) from None
