"""`evolign run` and `evolign resume`, and the table of methods."""

from collections.abc import Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from pathlib import Path
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from evolign.commands.track import follow, hand_over
from evolign.config import Config, EvolutionConfig
from evolign.config.recipe import as_tree, dump, load
from evolign.config.tasks import LIVE_ROWS
from evolign.errors import ConfigError, RunError
from evolign.runs.access import check_run, read_json
from evolign.runs.alarms import Alarms
from evolign.runs.code import remember, require, reward_hash
from evolign.runs.directory import RunDir, check_new, read_config
from evolign.runs.limits import raise_limits
from evolign.runs.progress import Progress, Terminal
from evolign.runs.provenance import data_fingerprint, provenance
from evolign.runs.record import PROVENANCE, changed, finished, new_run, provenance_of
from evolign.seeding import random_states_kept
from evolign.tasks import build_task
from evolign.tasks.base import Task, check_splits, examples
from evolign.tasks.leaks import leaks
from evolign.tasks.needs import check_needs
from evolign.tracking import check_trackers

if TYPE_CHECKING:
    from evolign.policy.base_model import BaseModel

METHODS = {
    "evolution": "evolign.evolution.method:evolution",
    "sft": "evolign.trainers.trl:sft",
    "eso": "evolign.trainers.eso:eso",
    "unlikelihood": "evolign.trainers.eso:unlikelihood",
    "self_critical": "evolign.trainers.eso:self_critical",
    "rrhf": "evolign.trainers.eso:rrhf",
    "ppo": "evolign.trainers.ppo:ppo",
    "dpo": "evolign.trainers.trl:dpo",
    "grpo": "evolign.trainers.trl:grpo",
    "reward_model": "evolign.trainers.reward_model:reward_model",
}


@dataclass(frozen=True)
class Result:
    """A finished run."""

    path: Path
    """The run directory."""
    summary: dict[str, Any]
    """The contents of result.json."""

    @property
    def adapter(self) -> Path:
        """The PEFT adapter folder."""
        return self.path / "adapter"

    @property
    def weights(self) -> Path:
        """The result: the PEFT adapter folder, or the model folder where all weights were trained."""
        model = self.path / "model"
        return model if model.is_dir() else self.adapter


@random_states_kept()
def run(
    config: Config,
    out: str | Path,
    *,
    task: Task | None = None,
    base: "BaseModel | None" = None,
    progress: Progress | None = None,
) -> Result:
    """Run `config` in the new directory `out`.

    `task` and `base` replace what `config.task` and `config.model` name. Raises EvolignError; after a
    ConfigError `out` is as it was before, since nothing has been run.
    """
    check_new(Path(out).expanduser())
    task_is_named = task is None
    task, base = _load(config, task, base)
    said = [check_model(config, base), *(f"Warning: {doubt}." for doubt in _doubts(task, base))]
    with RunDir.create(out, dump(config)) as run_dir:
        if task_is_named:
            remember(as_tree(config))
        try:
            return _execute(config, run_dir, task, base, progress, said)
        except ConfigError:
            run_dir.discard()
            raise


@random_states_kept()
def resume(
    path: str | Path,
    overrides: Sequence[str] = (),
    *,
    trust: bool = False,
    task: Task | None = None,
    base: "BaseModel | None" = None,
    progress: Progress | None = None,
) -> Result:
    """Resume the run in `path` from its newest checkpoint; a finished one is returned as it is.

    `overrides` may change its limits, and are recorded in raised.json. `trust` lets code run that config.json
    names and that was not run here before. Raises RunError if the run is not what its record says.
    """
    path = Path(path).expanduser()
    check_run(path)
    if not overrides and finished(path):
        read_config(path)
        return Result(path, read_json(path / "result.json"))
    with RunDir.open(path) as run_dir:
        config = raise_limits(run_dir, overrides)
        if task is None:
            require(path, as_tree(config), trust)
        if task is None and config.task.name == "rows" and config.task.train == LIVE_ROWS:
            raise RunError(
                f"the run in {str(path)!r} was started from Python with rows in memory; resume it with the "
                "same call of evolign.evolve"
            )
        task, base = _load(config, task, base)
        return _execute(config, run_dir, task, base, progress)


def load_trusted(recipe: Path, overrides: Sequence[str], trust: bool) -> Config:
    """The configuration in a recipe. Code that the config.json of a run directory names must be trusted."""
    config = load(recipe, overrides)
    if recipe.name == "config.json" and (recipe.parent / PROVENANCE).exists():
        require(recipe.parent, as_tree(config), trust, overrides)
    return config


def check_rows(config: Config, task: Task) -> None:
    """Raise ConfigError if the task lacks rows that the method needs, or that evaluation needs."""
    from evolign.evaluation.evaluate import check_options

    check_options(config.evaluation, task.metric, task.validation)
    check_needs(config.needs, task, config.method)


def check_model(config: Config, base: "BaseModel") -> str:
    """What is to be said of the model before a run. Raises ConfigError if the run could not trust it."""
    from evolign.engines.transformers.forward import check_cached
    from evolign.engines.transformers.self_test import self_test
    from evolign.policy.policy import adapted_layers
    from evolign.policy.search_memory import search_memory
    from evolign.policy.targets import left_out

    remarks = []
    generates = config.method != "reward_model" and config.engine.abilities.exact  # else it is vLLM's matter
    if generates:
        check_cached(base.model)
    layers = adapted_layers(config, base.model)
    if isinstance(config, EvolutionConfig):
        search_memory(config, layers.values())
    if generates and self_test(base, config.adapter):
        kind = base.model.config.model_type
        remarks.append(f"The self-test of the architecture {kind}, which our tests do not cover, has passed.")
    if config.adapter is not None and (passed_over := left_out(base.model, config.adapter)):
        remarks.append(f"adapter.target_modules = {config.adapter.target_modules}: {passed_over}.")
    return " ".join(remarks)


def _doubts(task: Task, base: "BaseModel") -> list[str]:
    """What `evolign check` warns of in rows, and in prompts as the model is shown them."""
    from evolign.policy.inspection import doubts

    return [*leaks(task), *doubts(base.encoder, examples(task))]


def _load(config: Config, task: Task | None, base: "BaseModel | None") -> tuple[Task, "BaseModel"]:
    """Task and model, checked against each other before anything is written."""
    from evolign.policy.base_model import load_base_model

    check_trackers(config.tracking.to)
    task = task or build_task(config.task)
    check_splits(task)
    check_rows(config, task)
    base = base or load_base_model(config.model)
    base.prompts.add(rows := examples(task))
    base.prompts.check_room((row.id for row in rows), config.sampling.max_new_tokens)
    return task, base


def _execute(
    config: Config,
    run_dir: RunDir,
    task: Task,
    base: "BaseModel",
    progress: Progress | None,
    said: Sequence[str] = (),
) -> Result:
    _check_provenance(config, run_dir, task, base)
    run_dir.check_warm_start()
    method = resolve_name(METHODS[config.method])
    with ExitStack() as stack:
        terminal = nullcontext(progress) if progress is not None else Terminal(run_dir.path / "log.txt")
        shown = Alarms(run_dir.path, stack.enter_context(terminal))
        for sentence in filter(None, said):
            shown.say(sentence)
        follower = stack.enter_context(follow(run_dir, config.tracking, shown))
        summary = method(config, run_dir, task, base, follower)
        hand_over(run_dir, follower)
    return Result(run_dir.path, summary)


def _check_provenance(config: Config, run_dir: RunDir, task: Task, base: "BaseModel") -> None:
    """Record what the run starts with; on resume, refuse another model, other data or another reward."""
    from evolign.policy.fingerprint import model_fingerprint

    rows = [*task.train, *task.validation, *task.test, *task.warmup]
    fingerprints = {
        "model": model_fingerprint(base.model),
        "data": data_fingerprint(rows),
        "reward": reward_hash(task.reward),
    }
    before = provenance_of(run_dir.path)
    if before is None:
        if run_dir.warm_start.is_dir() or any(run_dir.checkpoints.iterdir()):
            raise changed(run_dir.path, f"{PROVENANCE} is missing")
        run_dir.keep_record(
            run=uuid4().hex, **provenance(), fingerprints=fingerprints, config=as_tree(config)
        )
        return
    if not any(run_dir.checkpoints.iterdir()):  # nothing was scored yet: a reward that failed may be mended
        before["fingerprints"]["reward"] = fingerprints["reward"]
        run_dir.keep_record(fingerprints=before["fingerprints"])
    for name, value in fingerprints.items():
        if before["fingerprints"].get(name) != value:
            raise RunError(
                f"the {name} differs from what the run in {str(run_dir.path)!r} was started with; restore "
                f"it, or {new_run(run_dir.path)}"
            )
