"""The protocol of a task, and the checks that hold for every task."""

import json
from collections.abc import Iterable, Sequence
from typing import Protocol

from evolign.errors import ConfigError
from evolign.messages import Prompt
from evolign.types import Example, Rewards


class Task(Protocol):
    """Prompts in disjoint splits, and the reward that scores their completions."""

    train: list[Example]
    """Rows to evolve or train on."""
    validation: list[Example]
    """Rows that select the exported policy; none of their prompts is in `train`."""
    test: list[Example]
    """Rows that the result is reported on; may be empty."""
    warmup: list[Example]
    """Examples with a `completion`, for the supervised warm start; may be empty."""

    @property
    def metric(self) -> str:
        """ "accuracy" when the reward is 1 for a correct completion and else 0; else "reward"."""

    @property
    def reward(self) -> Rewards:
        """A name or a function, or several of them with weights."""


def examples(task: Task) -> list[Example]:
    """The rows that a run samples completions for: those of train, validation and test."""
    return [*task.train, *task.validation, *task.test]


def ids(examples: Iterable[Example]) -> list[str]:
    """The ids by which an engine knows the prompts of `examples`."""
    return [example.id for example in examples]


def prompt_key(prompt: Prompt) -> str:
    """A string that is equal for equal prompts, whether they are text or chat messages."""
    return prompt if isinstance(prompt, str) else json.dumps(prompt, sort_keys=True)


def check_splits(task: Task) -> None:
    """Raise ConfigError if a split that a run needs is empty, or for what `check_disjoint` finds."""
    for name in ("train", "validation"):
        if not getattr(task, name):
            raise ConfigError(
                f"the task's {name} split is empty, so it can be evaluated on but not learnt from; give it"
                " at least one example"
            )
    check_disjoint(task)


def check_disjoint(task: Task) -> None:
    """Raise ConfigError if a prompt repeats, or if a warm-up example has no completion.

    `train`, `validation` and `test` share no prompt, and none of them holds a prompt twice;
    `warmup` shares none with `validation` and `test`.
    """
    if incomplete := [example.id for example in task.warmup if example.completion is None]:
        raise ConfigError(
            f"{len(incomplete)} warm-up examples have no completion (the first: {incomplete[0]!r});"
            " the warm start is trained on completions"
        )
    for name in ("train", "validation", "test"):
        check_no_repeats(name, getattr(task, name))
    for one, other in (
        ("train", "validation"),
        ("train", "test"),
        ("validation", "test"),
        ("warmup", "validation"),
        ("warmup", "test"),
    ):
        _check_none_shared(one, getattr(task, one), other, getattr(task, other))


def check_no_repeats(name: str, examples: Sequence[Example]) -> None:
    """Raise ConfigError if two examples of the split `name` have the same prompt or the same id."""
    first_with: dict[str, Example] = {}
    for example in examples:
        key = prompt_key(example.prompt)
        if (earlier := first_with.get(key)) is not None:
            raise ConfigError(
                f"the {name} split holds a prompt twice (examples {earlier.id!r} and"
                f" {example.id!r}): {_shortened(example)}; keep one of them"
            )
        first_with[key] = example
    if len({example.id for example in examples}) < len(examples):
        raise ConfigError(f"the {name} split holds two examples with one id; make the ids unique")


def _check_none_shared(one: str, examples: Sequence[Example], other: str, others: Sequence[Example]) -> None:
    keys = {prompt_key(example.prompt) for example in examples}
    shared = [example for example in others if prompt_key(example.prompt) in keys]
    if shared:
        raise ConfigError(
            f"{len(shared)} prompts of {other} are also in {one} (the first:"
            f" {_shortened(shared[0])}); the splits must be disjoint: remove them from {one}"
        )


def _shortened(example: Example) -> str:
    key = prompt_key(example.prompt)
    return repr(key if len(key) <= 80 else key[:77] + "...")
