"""The commands that make an entry's runs again."""

import shlex
from pathlib import Path

from evolign.comparison.entries import Entry
from evolign.config.tasks import LIVE_ROWS


def commands(entry: Entry) -> list[str]:
    """One command per run, from its own config.json into a new directory beside it."""
    lines = []
    for run in entry.runs:
        task = run.config.get("task")
        if isinstance(task, dict) and task.get("train") == LIVE_ROWS:
            lines.append(f"# {run.path}: started from Python with rows in memory, by evolign.evolve(...)")
            continue
        again = Path(f"{run.path}-again")
        lines.append(shlex.join(["evolign", "run", str(run.path / "config.json"), "--out", str(again)]))
    return lines
