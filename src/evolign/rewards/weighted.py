"""Several rewards as one: their weighted sum, as TRL's GRPOTrainer adds them.

This module is imported by the processes of a reward, so it imports nothing heavy.
"""

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Sequence
from functools import cached_property
from typing import Any

from evolign.errors import LONGEST_NAME, ConfigError
from evolign.rewards.loading import absolute_spec, load_reward
from evolign.rewards.worker import checked_values

Reward = str | Callable[..., Any]


class WeightedRewards:
    """The reward sum_k weight_k * reward_k; a reward that is None for a completion does not count for it.

    Rewards are functions or names, as everywhere; async functions run side by side. Raises ConfigError for
    another number of weights than rewards, and for a name that cannot exist.
    """

    def __init__(self, rewards: Sequence[Reward], weights: Sequence[float] | None = None) -> None:
        self._weights = [float(weight) for weight in ([1.0] * len(rewards) if weights is None else weights)]
        if not rewards or len(self._weights) != len(rewards):
            raise ConfigError(
                f"reward_weights: {len(self._weights)} weights for {len(rewards)} reward functions; give one "
                "weight to each, and at least one function"
            )
        self._rewards = [absolute_spec(reward) if isinstance(reward, str) else reward for reward in rewards]
        self._names = [
            reward if isinstance(reward, str) else getattr(reward, "__name__", type(reward).__name__)
            for reward in rewards
        ]
        terms = [f"{weight:g} * {name}" for weight, name in zip(self._weights, self._names, strict=True)]
        self.__name__ = " + ".join(terms)[:LONGEST_NAME]

    @cached_property
    def _functions(self) -> list[Callable[..., Any]]:
        return [load_reward(reward) if isinstance(reward, str) else reward for reward in self._rewards]

    def __call__(
        self, prompts: list[Any], completions: list[Any], **columns: Any
    ) -> list[float | None] | Awaitable[list[float | None]]:
        returned = [
            function(prompts=prompts, completions=completions, **columns) for function in self._functions
        ]
        if any(map(inspect.isawaitable, returned)):
            return self._awaited(returned, len(completions))
        return self._sum(returned, len(completions))

    async def _awaited(self, returned: list[Any], count: int) -> list[float | None]:
        waiting = [i for i, values in enumerate(returned) if inspect.isawaitable(values)]
        for i, values in zip(waiting, await asyncio.gather(*(returned[i] for i in waiting)), strict=True):
            returned[i] = values
        return self._sum(returned, count)

    def _sum(self, returned: list[Any], count: int) -> list[float | None]:
        columns = [
            checked_values(values, count, name) for values, name in zip(returned, self._names, strict=True)
        ]
        sums: list[float | None] = []
        for values in zip(*columns, strict=True):
            parts = [w * value for w, value in zip(self._weights, values, strict=True) if value is not None]
            sums.append(sum(parts) if parts else None)
        return sums
