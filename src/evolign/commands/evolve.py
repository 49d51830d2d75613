"""`evolign.evolve`: evolve a model, on rows and a reward, that are Python objects."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from evolign.commands.run import Result, resume, run
from evolign.config import Config, ModelConfig
from evolign.config.recipe import parse
from evolign.config.tasks import LIVE_ROWS
from evolign.errors import ConfigError, RunError
from evolign.policy.base_model import BaseModel, source
from evolign.policy.restoring import given_back
from evolign.rewards.weighted import weighted
from evolign.runs.directory import read_config
from evolign.runs.progress import Progress
from evolign.tasks.rows import Rows
from evolign.types import Reward, Rewards


def evolve(
    *,
    model: Any,
    train: Iterable[Mapping[str, Any]],
    reward: Reward | Sequence[Reward],
    out: str | Path,
    reward_weights: Sequence[float] | None = None,
    tokenizer: Any = None,
    model_settings: Mapping[str, Any] | None = None,
    validation: Iterable[Mapping[str, Any]] | None = None,
    test: Iterable[Mapping[str, Any]] | None = None,
    task: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
    **sections: Mapping[str, Any] | int,
) -> Result:
    """Evolve a live model on live rows and return the finished run; `model` is given back as it was.

        result = evolign.evolve(
            model=model, tokenizer=tokenizer,                  # or model="Qwen/Qwen2.5-0.5B-Instruct"
            train=rows, reward=reward, out="runs/mine",        # TRL's reward signature
            task={"prompt": "{question}", "completion": "solution", "num_warmup": 64},
            strategy={"population": 48}, evolution={"generations": 50}, seed=1,
        )
        tuned = PeftModel.from_pretrained(model, result.adapter)

    `reward` may also be a list of functions and names: their sum is the score, weighed by `reward_weights`,
    of which 0 only watches. `train`, `validation` and `test` are lists of dicts, `datasets.Dataset`s or
    files. `model_settings` holds further fields of the section `model`, and `task` those of the task `rows`;
    `sections` are the other sections of the configuration. If `out` holds an unfinished run of the same
    settings, it is resumed. Raises EvolignError.
    """
    config, rows = prepare(
        model=model,
        train=train,
        reward=reward,
        reward_weights=reward_weights,
        tokenizer=tokenizer,
        model_settings=model_settings,
        validation=validation,
        test=test,
        task=task,
        **sections,
    )
    with borrowed(model, tokenizer, config.model) as base:
        if _continues(Path(out).expanduser(), config):
            return resume(out, task=rows, base=base, progress=progress)
        return run(config, out, task=rows, base=base, progress=progress)


def prepare(
    *,
    model: Any,
    train: Iterable[Mapping[str, Any]],
    reward: Reward | Sequence[Reward],
    reward_weights: Sequence[float] | None = None,
    tokenizer: Any = None,
    model_settings: Mapping[str, Any] | None = None,
    validation: Iterable[Mapping[str, Any]] | None = None,
    test: Iterable[Mapping[str, Any]] | None = None,
    task: Mapping[str, Any] | None = None,
    **sections: Mapping[str, Any] | int,
) -> tuple[Config, Rows]:
    """The configuration and the task of a call of `evolve` with these arguments. Raises ConfigError."""
    named = isinstance(model, str | Path)
    if not named and tokenizer is None:
        raise ConfigError("evolve() needs the tokenizer of a live model; pass tokenizer=")
    ours = {"task": {"name", "train", "reward", "rewards", "validation", "test"}, "model_settings": {"name"}}
    for argument, given in (("task", task), ("model_settings", model_settings)):
        if taken := ours[argument] & {*(given or {})}:
            raise ConfigError(
                f"evolve({argument}=...) must not hold {sorted(taken)}; pass them as arguments of evolve()"
            )
    rewards = weighted(reward, reward_weights)
    tree: dict[str, Any] = {
        **sections,
        "task": {**(task or {}), "name": "rows", "train": LIVE_ROWS, **_scored_by(rewards)},
        "model": {**(model_settings or {}), "name": str(model) if named else model.name_or_path},
    }
    config = parse(tree, source="evolve()")
    fields = config.task.model_dump(exclude={"name", "train", "validation", "test", "reward", "rewards"})
    return config, Rows(train=train, validation=validation, test=test, reward=rewards, **fields)


def _scored_by(rewards: Rewards) -> dict[str, Any]:
    """What config.json says of the rewards."""
    if isinstance(rewards, str) or callable(rewards):
        return {"reward": _named(rewards)}
    return {"rewards": [{"name": _named(term.reward), "weight": term.weight} for term in rewards]}


def _named(reward: Reward) -> str:
    return reward if isinstance(reward, str) else f"(live function {getattr(reward, '__name__', reward)})"


@contextmanager
def borrowed(model: Any, tokenizer: Any, settings: ModelConfig) -> Iterator[BaseModel | None]:
    """A live model as a base model, given back as it was; None for the name of one.

    `settings` say how it is prompted.
    """
    if isinstance(model, str | Path):
        yield None
        return
    with _given_back(model, tokenizer):
        yield BaseModel(model, tokenizer, source(model.name_or_path), prompting=settings)


@contextmanager
def _given_back(model: Any, tokenizer: Any) -> Iterator[None]:
    """Restore what loading as a base model and training change in a model and its tokenizer."""
    pad_token = tokenizer.pad_token
    try:
        with given_back(model):
            yield
    finally:
        tokenizer.pad_token = pad_token


def _continues(out: Path, config: Config) -> bool:
    """Whether `out` holds an unfinished run of `config`. Raises RunError for any other run."""
    if not (out / "config.json").is_file():
        return False
    if read_config(out) != config:
        raise RunError(
            f"{str(out)!r} holds a run of other settings; give another `out`, or resume that one with "
            "evolign.resume"
        )
    if (out / "result.json").is_file():
        raise RunError(
            f"{str(out)!r} holds a finished run, and whether it used this reward is not known; "
            "load its adapter folder, or give another `out`"
        )
    return True
