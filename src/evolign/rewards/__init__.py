"""Rewards: functions that score completions, and how they are named.

A reward has TRL's signature, so one that was written for TRL's GRPOTrainer runs unchanged:

    def reward(prompts, completions, completion_ids, trainer_state, log_metric, log_extra, **columns)
        -> list[float | None]

Prompts, completions and every column are lists of equal length; the result has one finite number
per completion, or None where the reward does not apply. A completion is a string, or, where the
prompt is chat messages, a list with the assistant's message. Where a row has a reference completion,
the column `reference` holds it (unless the row has a column of that name). The four arguments between are
passed to functions that take them (see `calling.py`). A reward must be a pure function of its arguments.
It runs in a worker process (see `scoring.py`). A task may have several, with weights (see `weighted.py`).

`REWARDS` maps a reward's name in a recipe to its function.
"""

REWARDS = {
    "arithmetic_answer": "evolign.rewards.named:arithmetic_answer",
    "gsm8k_answer": "evolign.rewards.named:gsm8k_answer",
    "math_answer": "evolign.rewards.named:math_answer",
    "rouge_l": "evolign.rewards.named:rouge_l",
}

CLASSIFIER = "classifier:"
"""What the name of a reward begins with that is a model: `classifier:FOLDER`, see `classifier.py`."""
