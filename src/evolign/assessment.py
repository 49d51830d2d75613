"""After a run: judge a run, an adapter or a bare model, and export what a run found."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from evolign.config import Config
from evolign.errors import ConfigError, RunError
from evolign.evaluation import Evaluation, evaluate_split
from evolign.recipe import load, parse
from evolign.rundir import RunDir
from evolign.tasks import build_task
from evolign.tasks.scoring import Scorer

NO_THETA = np.zeros(0)
SPLITS = ("train", "validation", "test")


def assess(
    target: str,
    *,
    task: str | None = None,
    split: str = "test",
    overrides: Sequence[str] = (),
    out: Path | None = None,
) -> Evaluation:
    """Judge `target` (a run directory, a PEFT adapter folder, or a model) on a split of a task.

    A run is judged by its own configuration; `task` and `overrides` change it. Every completion is written
    to `out`, one JSON object a line. Raises ConfigError for what does not exist.
    """
    from evolign.engines import build_engine
    from evolign.policy.base_model import load_base_model
    from evolign.policy.policy import fixed_policy
    from evolign.policy.threads import cpu_threads

    if out is not None and out.is_dir():
        raise ConfigError(f"--out {str(out)!r} is a folder; name a .jsonl file")
    if out is not None and not out.parent.is_dir():
        raise ConfigError(f"--out {str(out)!r}: there is no folder {str(out.parent)!r}; make it first")
    config = _configuration(target, task, overrides)
    if split not in SPLITS:
        raise ConfigError(f"split = {split!r} must be one of {', '.join(SPLITS)}")
    data = build_task(config.task)
    examples = getattr(data, split)
    if not examples:
        raise ConfigError(f"the task has no {split} rows; use another --split or set task.{split}")
    base = load_base_model(config.model)
    policy = fixed_policy(base, config.adapter.path if config.adapter else None)
    with (
        cpu_threads(base.model, config.engine.threads),
        build_engine(config.engine, policy) as engine,
        Scorer(data.reward, **config.reward.model_dump()) as scorer,
    ):
        found = evaluate_split(config, data, split, engine, scorer, NO_THETA)
    if out is not None:
        out.write_text("".join(json.dumps(sample) + "\n" for sample in found.samples))
    return found


def export(run: str | Path, out: str | Path, *, merge: bool = False) -> None:
    """Write the result of a finished run to `out`: its PEFT adapter, or the base model with it merged in."""
    from evolign.policy.base_model import load_base_model
    from evolign.policy.export import merge as merge_into

    path, out = Path(run), Path(out)
    if out.exists():
        raise RunError(f"{str(out)!r} exists already; give another --out or remove it")
    with RunDir.open(path) as run_dir:
        if not run_dir.finished:
            raise RunError(f"{str(path)!r} is not finished; first `evolign resume {path}`")
        if merge:
            merge_into(load_base_model(load(path / "config.json").model), run_dir.adapter, out)
        else:
            run_dir.copy_adapter(out)


def _configuration(target: str, task: str | None, overrides: Sequence[str]) -> Config:
    """The run's configuration, or the defaults, with the adapter or model that `target` is."""
    path = Path(target)
    tree: dict[str, Any] = {}
    if (path / "config.json").is_file() and (path / "adapter" / "adapter_config.json").is_file():
        tree = json.loads(load(path / "config.json").model_dump_json())
        tree["adapter"]["path"] = str(path / "adapter")
    elif (path / "provenance.json").is_file():
        raise RunError(f"{target!r} is a run that is not finished; first `evolign resume {target}`")
    elif (path / "adapter_config.json").is_file():
        from evolign.policy.adapter import adapter_settings

        name = adapter_settings(path).get("base_model_name_or_path")
        if name is None:
            raise ConfigError(
                f"{target!r}: adapter_config.json names no base_model_name_or_path; add it, or judge the "
                f"model with adapter.path={target}"
            )
        tree = {"model": {"name": name}, "adapter": {"path": target}}
    else:
        tree = {"model": {"name": target}}
    if task is not None:
        tree["task"] = {"name": task}
    return parse(tree, overrides, source=target)
