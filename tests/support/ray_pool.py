"""What the tests of the Ray engine share: prompts, small recipes, and the processes of workers."""

import hashlib
from contextlib import suppress
from pathlib import Path
from typing import Any

from evolign.types import Example

EXAMPLES = [Example(str(i), f"{i}+{i}=") for i in range(6)]
SMALL = [
    "adapter.warm_start=null",
    "task.num_train=40",
    "task.num_validation=8",
    "task.num_test=8",
    "sampling.max_new_tokens=8",
    "strategy.sigma=0.1",
    "evaluation.every=2",
]
RECIPES: dict[str, list[str]] = {
    "recipes/embedded/essa.yaml": [
        *SMALL,
        "strategy.population=8",
        "evolution.generations=4",
        "evolution.prompts_per_generation=16",
    ],
    "recipes/quickstart.yaml": [
        *SMALL,
        "strategy.population=16",
        "evolution.generations=4",
        "evolution.prompts_per_generation=4",
        "fitness.steps=2",
    ],
}
"""Runs of seconds with either fitness and either space."""


def on_ray(workers: int, **more: Any) -> list[str]:
    """Overrides that spread a recipe over workers, in pieces that are many."""
    settings = {"name": "ray", "workers": workers, "piece_rows": 16, **more}
    return [f"engine.{name}={value}" for name, value in settings.items()]


def digest(run: Path) -> str:
    """A hash of the exported adapter."""
    return hashlib.sha256((run / "adapter" / "adapter_model.safetensors").read_bytes()).hexdigest()


def workers_of_ray() -> list[int]:
    """Processes of this machine that are actors of ours."""
    return [pid for pid, command in processes() if command.startswith("ray::Worker")]


def descendants(pid: int) -> set[int]:
    """All processes that a process has started, and those that they have started."""
    parents: dict[int, int] = {}
    for number, _ in processes():
        with suppress(OSError, ValueError):
            stat = Path(f"/proc/{number}/stat").read_text()
            parents[number] = int(stat.rpartition(")")[2].split()[1])
    found: set[int] = {pid}
    while new := {child for child, parent in parents.items() if parent in found} - found:
        found |= new
    return found - {pid}


def processes() -> list[tuple[int, str]]:
    """Number and command line of every process."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            found.append((int(path.name), (path / "cmdline").read_bytes().replace(b"\0", b" ").decode()))
    return found
