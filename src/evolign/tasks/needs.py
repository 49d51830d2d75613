"""Checking that a task has the rows that a method needs."""

from collections.abc import Sequence

from evolign.config.needs import Needs
from evolign.errors import ConfigError
from evolign.tasks.base import Task
from evolign.types import Example


def check_needs(needs: Needs, task: Task, method: str) -> None:
    """Raise ConfigError if the task lacks rows that the method needs."""
    if needs.rows == "solved":
        solved_rows(task, method)
    elif needs.rows == "pairs":
        pairs(task.train, method)
    if needs.prompts > len(task.train):
        raise ConfigError(
            f"{needs.setting} = {needs.prompts} exceeds the {len(task.train)} training prompts; use "
            f"{len(task.train)} or fewer, or give more rows"
        )


def solved_rows(task: Task, method: str) -> list[Example]:
    """What supervised fine-tuning learns from: training rows with a completion, else the warm-up rows.

    Raises ConfigError if there are none.
    """
    rows = [example for example in task.train if example.completion is not None] or list(task.warmup)
    if not rows:
        raise ConfigError(
            f"method = {method!r} learns from reference completions, but the task has neither training rows "
            "with one nor warm-up rows; set task.completion, or use a task that has them"
        )
    return rows


def pairs(examples: Sequence[Example], method: str, split: str = "train") -> list[Example]:
    """The rows of a split with a better and a worse completion. Raises ConfigError if there are none."""
    found = [
        example for example in examples if example.completion is not None and example.rejected is not None
    ]
    if not found:
        raise ConfigError(
            f"method = {method!r} learns from pairs, but no row of the task's {split} split has both a "
            "completion and a rejected one; set task.completion and task.rejected"
        )
    return found
