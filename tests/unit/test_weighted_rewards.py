"""Several rewards as one."""

import asyncio
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import pytest

from evolign.config.recipe import parse
from evolign.errors import ConfigError, RewardError
from evolign.rewards.scores import Scores, part_metrics
from evolign.rewards.scoring import Scorer
from evolign.rewards.weighted import WeightedRewards, metric_labels, weighted
from evolign.tasks import build_task
from evolign.types import Example, Reward, WeightedReward


def half(completions: list[str], **columns: Any) -> list[float]:
    return [0.5] * len(completions)


def only_long(completions: list[str], **columns: Any) -> list[float | None]:
    return [1.0 if len(text) > 2 else None for text in completions]


async def slow_gold(completions: list[str], gold: list[str], **columns: Any) -> list[float]:
    await asyncio.sleep(0)
    return [float(text == right) for text, right in zip(completions, gold, strict=True)]


EXAMPLES = [Example(id=str(i), prompt="?", columns={"gold": "abc"}) for i in range(2)]


def score(
    rewards: Sequence[Any], weights: Sequence[float], texts: Sequence[str] = ("a", "abc"), **options: Any
) -> Scores:
    with Scorer(weighted(rewards, weights), **{"workers": 1, "timeout_seconds": 60, **options}) as scorer:
        return scorer.score(EXAMPLES[: len(texts)], list(texts))


def test_weighted_rewards_are_summed_none_does_not_count_and_async_ones_are_awaited() -> None:
    rewards: list[Reward] = [half, only_long, slow_gold, "math_answer"]
    weights = [2.0, 3.0, 0.25, 1.0]
    assert WeightedRewards(weighted(rewards, weights)).name == (
        "2 * half + 3 * only_long + 0.25 * slow_gold + 1 * math_answer"
    )
    with Scorer(weighted(rewards, weights), workers=1, timeout_seconds=60) as scorer:
        rows = [Example(e.id, e.prompt, columns={**e.columns, "answer": "abc"}) for e in EXAMPLES]
        scores = scorer.score(rows, ["a", "abc"])
    assert scores.values.tolist() == [1.0, 5.25]
    assert {name: values.tolist() for name, values in scores.parts.items()} == {
        "half": [0.5, 0.5],
        "only_long": pytest.approx([np.nan, 1.0], nan_ok=True),
        "slow_gold": [0.0, 1.0],
        "math_answer": [0.0, 1.0],
    }


def test_a_metric_of_a_reward_is_over_those_to_which_it_applies() -> None:
    values = np.array([np.nan, 1.0, 3.0])
    assert part_metrics({"x": values, "never": values[:1]}) == {"reward/x": 2.0, "reward/x_std": 1.0}


def test_a_completion_that_no_reward_applies_to_has_no_score() -> None:
    assert np.isnan(score([only_long, only_long], [1, 2], ["a"]).values).tolist() == [True]


def hangs_on_a(completions: list[str], **columns: Any) -> list[float]:
    while "a" in completions:
        pass
    return [7.0] * len(completions)


@pytest.mark.parametrize("watched", [half, only_long, hangs_on_a])
def test_a_reward_of_weight_0_is_watched_and_changes_no_score(watched: Any) -> None:
    alone = score([only_long], [1.0])
    both = score([only_long, watched], [1.0, 0.0], timeout_seconds=1.0)
    np.testing.assert_array_equal(both.values, alone.values)
    assert both.cost == alone.cost and len(both.parts) == 2
    assert not np.isnan(both.parts[WeightedRewards(weighted([only_long, watched])).labels[1]]).all()


@pytest.mark.parametrize(("rewards", "weights"), [([half], [1, 2]), ([half, half], []), ([], None)])
def test_every_reward_has_one_weight(rewards: list[Any], weights: list[float] | None) -> None:
    with pytest.raises(ConfigError, match="give one weight to each, and at least one function"):
        weighted(rewards, weights)


@pytest.mark.parametrize("weight", [True, "1", float("nan"), float("inf"), 1e7, None])
def test_a_weight_is_a_number_of_bounded_size(weight: Any) -> None:
    with pytest.raises(ConfigError, match=r"reward_weights: .* must be a number from -1e\+06 to 1e\+06"):
        weighted([half], [weight])


def test_weights_that_only_watch_or_that_overflow_are_refused() -> None:
    with pytest.raises(ConfigError, match="the weights of all rewards are 0"):
        score([half, half], [0, 0])
    with pytest.raises(RewardError, match=r"the weighted sum of rewards is 1e\+16 .* lower the weights"):
        score([lambda completions, **_: [1e10] * len(completions)], [1e6])


@pytest.mark.parametrize(
    ("rewards", "labels"),
    [
        (["my.py:length", "pkg.mod.length", half], ["length", "length_2", "half"]),
        (["math_answer", "classifier:runs/judge?label=A"], ["math_answer", "judge"]),
        ([partial(half, x=1), half, lambda **_: []], ["half", "half_2", "lambda"]),
        (["m.a", "m.a_std", "n.a"], ["a", "a_std_2", "a_2"]),
    ],
)
def test_names_in_metrics_are_short_and_distinct_with_their_spreads(
    rewards: list[Any], labels: list[str]
) -> None:
    assert metric_labels(rewards) == labels


def test_the_reward_that_breaks_the_contract_is_named() -> None:
    def too_few(completions: list[str], **columns: Any) -> list[float]:
        return []

    with pytest.raises(RewardError, match="'too_few' returned 0 values for 2 completions"):
        score([half, too_few], [1, 1])


ROWS: dict[str, Any] = {"name": "rows", "train": "x.jsonl"}
TWO = [{"name": "math_answer"}, {"name": "rouge_l", "weight": 0.5}]


@pytest.mark.parametrize("task", ["rows", "summaries", "dolly", "hh"])
def test_a_recipe_names_one_reward_or_several_with_weights(task: str) -> None:
    section = parse({"task": {"name": task, "rewards": TWO}}).task.model_dump()
    assert section["reward"] is None
    assert section["rewards"] == [
        {"name": "math_answer", "weight": 1.0},
        {"name": "rouge_l", "weight": 0.5},
    ]


def test_a_task_holds_several_rewards_as_its_reward() -> None:
    small = {"num_train": 2, "num_validation": 1, "num_test": 1, "num_warmup": 1}
    task = build_task(parse({"task": {"name": "summaries", "rewards": TWO, **small}}).task)
    assert task.reward == [WeightedReward("math_answer"), WeightedReward("rouge_l", 0.5)]


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ({"reward": "rouge_l", "rewards": TWO}, r"task.reward = 'rouge_l' and task.rewards \(.*\) are both"),
        ({"reward": None}, "task.reward and task.rewards are both null; name a reward"),
        ({"rewards": []}, r"task.rewards = \[\]: .* at least 1 item"),
        ({"rewards": [{"nam": "x"}]}, r"task.rewards.0.nam: unknown key; known here: name, weight"),
        ({"rewards": [{"weight": 1}]}, "task.rewards.0.name: field required"),
        (
            {"rewards": [{"name": "x", "weight": 1e9}]},
            "task.rewards.0.weight = 1000000000.0: must be at most",
        ),
        ({"rewards": [{"name": "x", "weight": 0}]}, "the weights of all rewards are 0"),
    ],
)
def test_what_is_wrong_with_rewards_is_told(task: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse({"task": {**ROWS, **task}})
