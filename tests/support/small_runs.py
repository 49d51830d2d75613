"""Runs from files that take a second: their rewards are called in this process."""

import json
import resource
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from training_runs import write_recipe

from evolign.commands.run import Result, resume, run
from evolign.config.recipe import load
from evolign.rewards.loading import load_reward
from evolign.rewards.scores import Scores
from evolign.runs.progress import Silent
from evolign.types import Example

SMALL: dict[str, dict[str, Any]] = {
    "evolution": {
        "adapter": {"rank": 2, "warm_start": None},
        "strategy": {"name": "openai_es", "population": 4, "sigma": 0.05},
        "evolution": {"generations": 3, "prompts_per_generation": 4},
        "evaluation": {"every": 1},
    },
    "sft": {"training": {"max_steps": 4}},
}


class InProcess:
    """A scorer that calls its reward here."""

    def __init__(self, reward: str, **options: Any) -> None:
        self._reward = load_reward(reward)

    def __enter__(self) -> "InProcess":
        return self

    def __exit__(self, *error: object) -> None: ...

    def start(self) -> None: ...

    def at(self, state: object) -> None: ...

    def score(self, rows: Sequence[Example], texts: Sequence[str], token_ids: object = None) -> Scores:
        columns = {name: [row.columns.get(name) for row in rows] for row in rows for name in row.columns}
        values = self._reward([row.prompt for row in rows], list(texts), **columns)
        return Scores(np.array([np.nan if value is None else float(value) for value in values]))


def in_this_process(set_attribute: Callable[[Any, str, Any], None]) -> None:
    """Let methods and `evolign evaluate` call their rewards here, by `setattr` or a monkeypatch."""
    for user in ("evolution.method", "trainers.course", "commands.evaluate"):
        set_attribute(import_module(f"evolign.{user}"), "Scorer", InProcess)


def small_recipe(root: Path, method: str, **sections: Any) -> Path:
    """A recipe, with its model, rows and reward beside it."""
    path = write_recipe(root / f"{method}.json", method, **{**SMALL[method], **sections})
    tree = json.loads(path.read_text())
    if method == "evolution":
        del tree["training"]
    path.write_text(json.dumps(tree))
    return path


def small_run(recipe: Path, path: Path, *overrides: str) -> Result:
    return run(load(recipe, overrides), path, progress=Silent())


def small_resume(path: Path, *overrides: str, **options: Any) -> Result:
    return resume(path, overrides, progress=Silent(), **options)


def without_end(finished: Path, path: Path) -> Path:
    """A copy of a finished run as it was before its final test."""
    shutil.copytree(finished, path)
    (path / "result.json").unlink()
    shutil.rmtree(path / ("model" if (path / "model").is_dir() else "adapter"))
    return path


def contents(path: Path) -> dict[str, bytes | None]:
    """Everything in a folder but the lock: names, and what the files hold."""
    return {
        str(found.relative_to(path)): found.read_bytes() if found.is_file() else None
        for found in sorted(path.rglob("*"))
        if found.name != ".lock"
    }


@contextmanager
def full_disk(most: int) -> Iterator[None]:
    """No file can become longer than `most` bytes: it fails as on a full disk, whoever writes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
