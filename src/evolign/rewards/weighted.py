"""Several rewards as one: their weighted sum, as TRL's GRPOTrainer adds them. One reward is a sum of one."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from evolign.errors import LONGEST_NAME, ConfigError, RewardError, shown
from evolign.messages import LARGEST_REWARD
from evolign.rewards import CLASSIFIER
from evolign.rewards.loading import absolute_spec
from evolign.types import Reward, Rewards, WeightedReward

METRIC = "reward/"
"""What the name of a metric of a reward begins with."""
SPREAD = "_std"
"""What the name of its standard deviation ends with."""
LONGEST_LABEL = 40
LARGEST_WEIGHT = 1e6


class WeightedRewards:
    """The reward sum_k weight_k * reward_k; a reward that is None for a completion does not count for it.

    A reward of weight 0 is only watched. Raises ConfigError for a name that cannot exist, and for a function
    that cannot be pickled.
    """

    def __init__(self, given: Rewards) -> None:
        several = isinstance(given, Sequence) and not isinstance(given, str)
        terms = [*given] if several else [WeightedReward(given)]  # type: ignore[misc,arg-type]
        for term in terms:
            if not isinstance(term.reward, str) and not callable(term.reward):
                raise ConfigError(f"the reward is {term.reward!r}; it must be a function or the name of one")
        weights = [float(term.weight) for term in terms]
        if not any(weights):
            raise ConfigError(
                "the weights of all rewards are 0, which only watches them, so that nothing is optimised; "
                "give one of them another weight"
            )
        rewards = [term.reward for term in terms]
        self.weights = weights
        self.titles = distinct([_title(reward) for reward in rewards])
        """Their names in messages."""
        self.labels = metric_labels(rewards)
        """Their short names in metrics."""
        alone = len(terms) == 1 and weights == [1.0]
        sum_of = " + ".join(f"{w:g} * {name}" for w, name in zip(weights, self.titles, strict=True))
        self.name = self.titles[0] if alone else sum_of[:LONGEST_NAME]
        self.loadable = [absolute_spec(r) if isinstance(r, str) else _pickled(r) for r in rewards]

    @property
    def weighed(self) -> list[int]:
        """The numbers of the rewards that count."""
        return [k for k, weight in enumerate(self.weights) if weight]

    @property
    def watched(self) -> list[int]:
        """The numbers of those of weight 0."""
        return [k for k, weight in enumerate(self.weights) if not weight]

    def sum(self, values_KB: np.ndarray) -> np.ndarray:
        """The score of B completions, (B,); NaN where all rewards that count are NaN."""
        total_B = np.zeros(values_KB.shape[1])
        applies_B = np.zeros(values_KB.shape[1], dtype=bool)
        for k in self.weighed:
            known_B = ~np.isnan(values_KB[k])
            total_B[known_B] += self.weights[k] * values_KB[k][known_B]
            applies_B |= known_B
        if (np.abs(total_B) > LARGEST_REWARD).any():
            raise RewardError(
                f"{self.name}: the weighted sum of rewards is {np.abs(total_B).max():.3g} for a completion, "
                f"and must be at most {LARGEST_REWARD:g}; lower the weights"
            )
        return np.where(applies_B, total_B, np.nan)


def weighted(rewards: Reward | Sequence[Reward], weights: Sequence[float] | None = None) -> Rewards:
    """Rewards and their weights (default: 1) as a task holds them.

    Raises ConfigError for another number of weights than rewards, and for a weight that is no number.
    """
    several = [rewards] if isinstance(rewards, str) or not isinstance(rewards, Sequence) else [*rewards]
    if weights is None and len(several) == 1:
        return several[0]
    given = [1.0] * len(several) if weights is None else [*weights]
    if not several or len(given) != len(several):
        raise ConfigError(
            f"reward_weights: {len(given)} weights for {len(several)} reward functions; give one "
            "weight to each, and at least one function"
        )
    return [WeightedReward(reward, _weight(w)) for reward, w in zip(several, given, strict=True)]


def short_name(reward: Reward) -> str:
    """The name of a function, without its module or file."""
    if isinstance(reward, str):
        if reward.startswith(CLASSIFIER):
            return Path(reward.removeprefix(CLASSIFIER).partition("?")[0]).name or reward
        return reward.rpartition(":" if ":" in reward else ".")[2]
    while isinstance(reward, partial):
        reward = reward.func
    return str(getattr(reward, "__name__", type(reward).__name__))


def distinct(names: Sequence[str], taken: Callable[[str], set[str]] = lambda name: {name}) -> list[str]:
    """The names, those that come again with a number; `taken` are the names that one of them takes.

    >>> distinct(["length", "format", "length"])
    ['length', 'format', 'length_2']
    """
    found: list[str] = []
    used: set[str] = set()
    for name in names:
        candidates = (name if i == 1 else f"{name}_{i}" for i in range(1, len(names) + 2))
        found.append(next(it for it in candidates if not taken(it) & used))
        used |= taken(found[-1])
    return found


def metric_labels(rewards: Sequence[Reward]) -> list[str]:
    """Short names of rewards, of which no two metrics have the same."""
    return distinct([_label(reward) for reward in rewards], taken=_both)


def _both(label: str) -> set[str]:
    """The names of a reward's two metrics."""
    return {label, label + SPREAD}


def _title(reward: Reward) -> str:
    if isinstance(reward, str):
        return reward
    if isinstance(reward, partial):
        return short_name(reward)
    return str(getattr(reward, "__name__", repr(reward)))


def _label(reward: Reward) -> str:
    """A short name that can be one of a metric."""
    plain = "".join(c if c.isprintable() and c not in "/\\<> " else "_" for c in short_name(reward))
    return plain.strip("_")[:LONGEST_LABEL] or "reward"


def _weight(value: Any) -> float:
    is_number = isinstance(value, int | float | np.number) and not isinstance(value, bool)
    if not is_number or not abs(float(value)) <= LARGEST_WEIGHT:
        raise ConfigError(
            f"reward_weights: {shown(value)}: must be a number from -{LARGEST_WEIGHT:g} to "
            f"{LARGEST_WEIGHT:g}; 0 only watches a reward"
        )
    return float(value)


def _pickled(reward: Callable[..., Any]) -> bytes:
    import dill

    try:
        pickled: bytes = dill.dumps(reward, recurse=True)
    except Exception as error:  # whatever the objects that the function refers to raise
        raise ConfigError(
            f"the reward {reward!r} cannot be sent to a worker process: {type(error).__name__}:"
            f" {error}; define it in a file and name it 'file.py:function'"
        ) from error
    return pickled
