"""Several rewards as one."""

import asyncio
from typing import Any

import pytest

from evolign.errors import ConfigError, RewardError
from evolign.rewards.scoring import Scorer
from evolign.rewards.weighted import WeightedRewards
from evolign.types import Example


def half(completions: list[str], **columns: Any) -> list[float]:
    return [0.5] * len(completions)


def only_long(completions: list[str], **columns: Any) -> list[float | None]:
    return [1.0 if len(text) > 2 else None for text in completions]


async def slow_gold(completions: list[str], gold: list[str], **columns: Any) -> list[float]:
    await asyncio.sleep(0)
    return [float(text == right) for text, right in zip(completions, gold, strict=True)]


EXAMPLES = [Example(id=str(i), prompt="?", columns={"gold": "abc"}) for i in range(2)]


def test_weighted_rewards_are_summed_none_does_not_count_and_async_ones_are_awaited() -> None:
    reward = WeightedRewards([half, only_long, slow_gold], [2.0, 3.0, 0.25])
    assert reward.__name__ == "2 * half + 3 * only_long + 0.25 * slow_gold"
    with Scorer(reward, workers=1, timeout_seconds=60) as scorer:
        assert scorer.score(EXAMPLES, ["a", "abc"]).values.tolist() == [1.0, 4.25]


def test_a_named_reward_is_one_of_them() -> None:
    reward = WeightedRewards(["math_answer", only_long])
    assert reward([], [r"\boxed{7}", "1"], answer=["7", "7"]) == [2.0, 0.0]


def test_a_completion_that_no_reward_applies_to_has_none() -> None:
    assert WeightedRewards([only_long, only_long])([], ["a"]) == [None]


@pytest.mark.parametrize(("rewards", "weights"), [([half], [1, 2]), ([half, half], []), ([], None)])
def test_every_reward_has_one_weight(rewards: list[Any], weights: list[float] | None) -> None:
    with pytest.raises(ConfigError, match="give one weight to each, and at least one function"):
        WeightedRewards(rewards, weights)


def test_the_reward_that_breaks_the_contract_is_named() -> None:
    def too_few(completions: list[str], **columns: Any) -> list[float]:
        return []

    with pytest.raises(RewardError, match="'too_few' returned 0 values for 1 completions"):
        WeightedRewards([half, too_few])([], ["a"])
