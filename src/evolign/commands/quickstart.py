"""`evolign quickstart`: evolve the model that ships with evolign and show what changed."""

import shutil
from pathlib import Path

from evolign import embedded
from evolign.commands.run import Result, resume, run
from evolign.comparison.plot import plot
from evolign.config.recipe import dump, load
from evolign.errors import RunError, visible
from evolign.runs.access import check_run, writing
from evolign.runs.directory import read_rows

SHOWN = 4


def quickstart(out: Path) -> Result:
    """Run the quickstart recipe in `out`, plot it, and print completions before and after.

    An unfinished quickstart in `out` is resumed, a finished one replaced; anything else is left alone.
    """
    config = load(embedded.QUICKSTART)
    started = (out / "config.json").is_file()
    if started and (out / "config.json").read_text() != dump(config):
        raise RunError(f"{str(out)!r} holds another run; give another --out or remove it")
    finished = (out / "result.json").is_file()
    if finished:
        check_run(out)
        with writing(out):
            shutil.rmtree(out)
    result = resume(out) if started and not finished else run(config, out)
    picture = out / "plot.png"
    with writing(out):
        plot(out, picture, result.summary["metric"])
    show_samples(out)
    print(visible(f"Plot: {picture}"))
    return result


def show_samples(run_dir: Path) -> None:
    """Completions of the same test prompts under the same noise, before and after, side by side."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    rows = [row for row in read_rows(run_dir / "samples.jsonl") if row.get("stage")]
    rows = [row for row in rows if row["decoding"] == "sampled"]
    after = {row["id"]: row for row in rows if row["stage"] == "final"}
    table = Table("prompt", "before evolution", "after evolution", show_lines=True)
    for row in [row for row in rows if row["stage"] == "baseline"][:SHOWN]:
        cells = [
            Text(visible(sample["completion"]), style="green" if sample["score"] else "red")
            for sample in (row, after[row["id"]])
        ]
        table.add_row(Text(visible(row["prompt"].strip())), *cells)
    Console().print(table)
