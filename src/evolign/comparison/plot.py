"""The picture of a run, from its metrics.jsonl only: accuracy and reward against completions."""

from pathlib import Path
from typing import Any

from evolign.runs.directory import read_rows

BLUE, ORANGE, GREY = "#2563eb", "#ea580c", "#9ca3af"
COLOURS = {"greedy": BLUE, "sampled": ORANGE}


def plot(run: Path, out: Path, metric: str) -> None:
    """Draw the held-out curves of the run in `run` with their 95 % intervals, and save them to `out`."""
    from matplotlib.figure import Figure

    rows = read_rows(run / "metrics.jsonl")
    figure = Figure(figsize=(7.2, 4.2), dpi=160, layout="constrained")
    axes = figure.add_subplot()
    searched = [row for row in rows if "fitness_of_mean" in row]
    reward = [row["fitness_of_mean"] for row in searched]
    axes.plot(_x(searched), reward, color=GREY, lw=1, label="training prompts, mean reward")
    for decoding, colour in COLOURS.items():
        name = f"eval/{metric}_{decoding}"
        evaluated = [row for row in rows if name in row]
        if evaluated:
            y = [row[name] for row in evaluated]
            low = [row[f"{name}_low"] for row in evaluated]
            high = [row[f"{name}_high"] for row in evaluated]
            axes.fill_between(_x(evaluated), low, high, color=colour, alpha=0.15, lw=0)
            axes.plot(_x(evaluated), y, color=colour, marker="o", ms=3, label=f"held-out, {decoding}")
    axes.set(xlabel="completions generated (thousands)", ylabel=metric)
    if metric == "accuracy":
        axes.set_ylim(0, 1.02)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="lower right")
    figure.savefig(out)


def _x(rows: list[dict[str, Any]]) -> list[float]:
    return [row["completions"] / 1000 for row in rows]
