"""A custom reward with TRL's signature, so it also runs in TRL's GRPOTrainer.

Name it in a recipe as `task.reward: examples/custom_reward.py:reward`.
The columns of your rows are passed as keyword arguments.
The reward runs in a worker process, so it may be slow, crash or hang without harm to the run.
"""

from typing import Any


def reward(prompts: list[Any], completions: list[Any], answer: list[str], **columns: Any) -> list[float]:
    """Return 1 for the right word, minus a small penalty for every extra word."""
    scores = []
    for completion, gold in zip(completions, answer, strict=True):
        text = completion if isinstance(completion, str) else completion[-1]["content"]  # chat or plain
        words = text.lower().strip(" .!\n").split()
        right = bool(words) and words[0] == gold.lower()
        scores.append(float(right) - 0.02 * max(0, len(words) - 1))
    return scores
