"""A reward of your own: TRL's signature, so it also runs in TRL's GRPOTrainer.

Name it in a recipe as `task.reward: examples/custom_reward.py:reward`. Columns of your rows arrive as
keyword arguments. It runs in a worker process: it may be slow, crash or hang without harm to the run.
"""


def reward(prompts, completions, answer, **columns):
    """1 for the right word, minus a little for every word too many."""
    scores = []
    for completion, gold in zip(completions, answer, strict=True):
        text = completion if isinstance(completion, str) else completion[-1]["content"]  # chat or plain
        words = text.lower().strip(" .!\n").split()
        right = bool(words) and words[0] == gold.lower()
        scores.append(float(right) - 0.02 * max(0, len(words) - 1))
    return scores
