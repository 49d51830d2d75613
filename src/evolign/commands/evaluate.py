"""`evolign evaluate`: evaluate a run, an adapter or a bare model on held-out prompts."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evolign import disk, jsonl
from evolign.config import AdapterConfig, Config, EvolutionConfig, GradientConfig
from evolign.config.recipe import apply_override, as_tree, parse
from evolign.errors import ConfigError, RunError, quoted
from evolign.evaluation.evaluate import Evaluation, evaluate_split
from evolign.rewards.calling import TrainerState
from evolign.rewards.scoring import Scorer
from evolign.runs.access import check_run
from evolign.runs.code import require
from evolign.runs.directory import read_config
from evolign.runs.record import check_finished
from evolign.seeding import random_states_kept
from evolign.tasks import build_task
from evolign.tasks.base import Task
from evolign.types import Population

if TYPE_CHECKING:
    from evolign.policy.base_model import BaseModel

SPLITS = ("train", "validation", "test")


@random_states_kept()
def evaluate(
    target: str,
    *,
    task: str | None = None,
    split: str = "test",
    overrides: Sequence[str] = (),
    out: Path | None = None,
    like: str | None = None,
    trust: bool = False,
) -> Evaluation:
    """Evaluate `target` (a run directory, a PEFT adapter folder, or a model) on a split of a task.

    A run is evaluated by its own configuration, with its adapter or its trained weights; `task` and
    `overrides` change it. With `like`, another target, the configuration is that of the other target, so that
    the two can be compared. Every completion is written to `out`, one JSON object a line. `trust` lets code
    run that a run directory names and that was not run here before. Run directories are only read. Raises
    ConfigError for what does not exist, and RunError for a run that is not finished or not what its record
    says.
    """
    from evolign.policy.base_model import load_base_model

    out = None if out is None else out.expanduser()
    if out is not None and out.is_dir():
        raise ConfigError(f"--out {str(out)!r} is a folder; name a .jsonl file")
    if out is not None and not out.parent.is_dir():
        raise ConfigError(f"--out {str(out)!r}: there is no folder {str(out.parent)!r}; make it first")
    config = _configuration(target, task, overrides, like)
    require(like or target, as_tree(config), trust, [*overrides, *([f"task={task}"] if task else [])])
    if split not in SPLITS:
        raise ConfigError(f"split = {split!r} must be one of {', '.join(SPLITS)}")
    data = build_task(config.task)
    if not getattr(data, split):
        raise ConfigError(f"the task has no {split} rows; use another --split or set task.{split}")
    found = evaluate_adapter(config, data, split, load_base_model(config.model))
    if out is not None:
        _write(out, jsonl.dumps(found.samples))
    return found


def evaluate_adapter(config: Config, task: Task, split: str, base: "BaseModel") -> Evaluation:
    """Evaluate `base`, with the adapter in `config.adapter.path` if there is one, on a split of a task."""
    from evolign.engines import build_engine, scoring
    from evolign.engines.transformers.self_test import self_test
    from evolign.policy.policy import fixed_policy

    with_adapter = config.adapter is not None and config.adapter.path is not None
    if config.engine.abilities.exact:
        self_test(base, config.adapter if with_adapter else None)
    policy = fixed_policy(base, config.adapter.path if config.adapter else None)
    with (
        build_engine(config.engine, policy, getattr(task, split)) as engine,
        Scorer(task.reward, **config.scoring.model_dump()) as local,
    ):
        scorer = scoring(engine, local)
        scorer.at(_at_the_end(config))
        return evaluate_split(config, task, split, engine, scorer, Population.of_mean(), detailed=True)


def _at_the_end(config: Config) -> TrainerState:
    """Where a run of this configuration ends: its rewards see no difference."""
    steps = 1
    if isinstance(config, EvolutionConfig):
        steps = config.evolution.generations
    elif isinstance(config, GradientConfig):
        steps = config.training.max_steps or 1
    return TrainerState(steps, steps)


def _write(out: Path, text: str) -> None:
    """To what the user named, which may be a pipe or a device."""
    try:
        out.write_text(text)
    except OSError as error:
        raise ConfigError(
            f"--out {str(out)!r} cannot be written: {disk.reason(error)}; free space or name another file"
        ) from error


def _configuration(target: str, task: str | None, overrides: Sequence[str], like: str | None) -> Config:
    """The configuration of `like` or of `target` itself, with the adapter or model that `target` is."""
    config = _of_target(target)
    if like is not None:
        adapter = AdapterConfig(path=config.adapter.path if config.adapter else None)
        config = _of_target(like).model_copy(update={"model": config.model, "adapter": adapter})
    # Overrides are paths into a tree, and may change which class a section has: only parse knows which.
    tree: dict[str, Any] = config.model_dump(mode="json", exclude_unset=True)
    if task is not None:
        tree["task"] = {"name": task}
    for override in overrides:
        _check_keeps_target(override, tree, target)
        apply_override(tree, override)
    if not any(override.startswith("evaluation.select_by=") for override in overrides):
        _select_by_what_is_measured(tree)
    return parse(tree, source=target)


def _check_keeps_target(override: str, tree: Mapping[str, Any], target: str) -> None:
    """Raise ConfigError for an override that replaces what is evaluated.

    The model below an adapter may lie elsewhere now.
    """
    kept = "adapter.path" if (tree.get("adapter") or {}).get("path") else "model.name"
    field = override.partition("=")[0]
    if field in (kept, kept.partition(".")[0]):
        here = "" if Path(target).expanduser().exists() else " (there is no such folder here)"
        raise ConfigError(
            f"{override!r} would replace what is evaluated, {target!r}{here}; leave it out, or evaluate "
            "the other by its own name"
        )


def _of_target(target: str) -> Config:
    """The configuration of a run, or the default one with an adapter or a model."""
    path = Path(target).expanduser()
    if (path / "provenance.json").is_file() or _weights(path) is not None:
        return _of_run(path)
    if (path / "adapter_config.json").is_file():
        from evolign.policy.adapter import adapter_settings

        name = adapter_settings(path).get("base_model_name_or_path")
        if name is None:
            raise ConfigError(
                f"{target!r}: adapter_config.json names no base_model_name_or_path; add it, or evaluate the "
                f"model with adapter.path={target}"
            )
        return parse({"model": {"name": name}, "adapter": {"path": str(path)}}, source=target)
    return parse({"model": {"name": target}}, source=target)


def _weights(run: Path) -> Path | None:
    """The result of a run: adapter/ or model/; None where `run` is no finished run."""
    if (run / "config.json").is_file():
        for folder, file in (("adapter", "adapter_config.json"), ("model", "config.json")):
            if (run / folder / file).is_file():
                return run / folder
    return None


def _of_run(run: Path) -> Config:
    """The configuration of a finished run with its result in place of what it started from."""
    check_run(run)
    weights = _weights(run)
    if weights is None:
        raise RunError(f"{str(run)!r} is a run that is not finished; first `evolign resume {quoted(run)}`")
    if (run / "result.json").is_file():
        check_finished(run)
    config = read_config(run)
    if config.method == "reward_model":
        raise ConfigError(
            f"{str(run)!r} is a reward model, which scores completions and writes none; its accuracy is in "
            f"{str(run / 'result.json')!r}"
        )
    if weights.name == "model":
        model = config.model.model_copy(update={"name": str(weights), "revision": None})
        return config.model_copy(update={"model": model, "adapter": None})
    assert config.adapter is not None
    return config.model_copy(update={"adapter": config.adapter.model_copy(update={"path": str(weights)})})


def _select_by_what_is_measured(tree: dict[str, Any]) -> None:
    """Select by a decoding that is measured; nothing is selected here, but the configuration is checked."""
    evaluation = tree.get("evaluation") or {}
    decoding = evaluation.get("decoding")
    if isinstance(decoding, list) and decoding and evaluation.get("select_by", "greedy") not in decoding:
        evaluation["select_by"] = decoding[0]
