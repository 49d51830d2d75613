"""Training rows as token ids, exactly as the engine sees prompts and writes completions."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from evolign.errors import ConfigError
from evolign.runs.progress import Progress
from evolign.tasks.base import Task
from evolign.types import Example

if TYPE_CHECKING:
    from evolign.policy.base_model import BaseModel


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


def with_something_to_learn(
    rows: list[dict[str, Any]], completion: str, max_length: int, progress: Progress
) -> list[dict[str, Any]]:
    """The rows whose column `completion` holds anything but zeros after the cut; the others are told.

    Raises ConfigError if there are none.
    """
    kept = [row for row in rows if any(row[completion])]
    if not kept:
        raise ConfigError(
            f"training.max_length = {max_length} cuts all {len(rows)} rows off before their completion; use "
            "a larger one"
        )
    if len(kept) < len(rows):
        progress.say(
            f"Warning: {len(rows) - len(kept)} of {len(rows)} rows are left out, since training.max_length = "
            f"{max_length} cuts them off before their completion."
        )
    return kept


def dpo_row(base: "BaseModel", example: Example, max_length: int) -> dict[str, Any]:
    """Prompt, better and worse completion; completions are cut where the whole is too long."""
    prompt = base.encode(example.prompt)[-max_length:]
    room = max_length - len(prompt)
    return {
        "prompt_ids": prompt,
        "chosen_ids": base.encode_completion(example.completion or "")[:room],
        "rejected_ids": base.encode_completion(example.rejected or "")[:room],
    }


def ranked_row(base: "BaseModel", example: Example, max_length: int) -> dict[str, Any]:
    """The prompt with its better and with its worse completion; the end is kept where they are too long."""
    prompt = base.encode(example.prompt)
    return {
        "chosen_ids": [*prompt, *base.encode_completion(example.completion or "")][-max_length:],
        "rejected_ids": [*prompt, *base.encode_completion(example.rejected or "")][-max_length:],
    }
