"""Tasks: prompts and a reward, no models.

A task is any object with the attributes of `evolign.tasks.base.Task`. Its reward is a name or a function,
which `evolign.rewards` loads and runs.
"""

from typing import TYPE_CHECKING, Any

from evolign.errors import unknown_name

if TYPE_CHECKING:
    from evolign.tasks.base import Task

TASKS = {
    "arithmetic": "evolign.tasks.arithmetic:Arithmetic",
    "summaries": "evolign.tasks.summaries:Summaries",
    "rows": "evolign.tasks.rows:Rows",
    "gsm8k": "evolign.tasks.gsm8k:Gsm8k",
    "dolly": "evolign.tasks.presets:dolly",
    "self_instruct": "evolign.tasks.presets:self_instruct",
    "vicuna": "evolign.tasks.presets:vicuna",
    "xsum": "evolign.tasks.presets:xsum",
    "hh": "evolign.tasks.presets:hh",
}


def build_task(config: Any) -> "Task":
    """The task that `config` describes.

    `config` is a pydantic model with the field `name`, a key of `TASKS`; its other fields are the
    keyword arguments of the task's constructor; several `rewards` are its `reward`. Raises ConfigError
    for an unknown name, and what the constructor raises.
    """
    from pkgutil import resolve_name

    if config.name not in TASKS:
        raise unknown_name("task", config.name, TASKS)
    from evolign.types import WeightedReward  # numpy: the process of a reward does without

    options = config.model_dump(exclude={"name"})
    if several := options.pop("rewards", None):
        options["reward"] = [WeightedReward(term["name"], term["weight"]) for term in several]
    task: Task = resolve_name(TASKS[config.name])(**options)
    return task
