"""Rewards that were written for TRL's GRPOTrainer run unchanged: what they get, and what they log."""

import asyncio
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from grpo_rewards import REWARDS

from evolign.errors import RewardError
from evolign.rewards.calling import LARGEST_LOG, TrainerState
from evolign.rewards.scores import Scores, added, averages, beside
from evolign.rewards.scoring import Scorer
from evolign.rewards.weighted import weighted
from evolign.types import Example

CHAT = [
    Example(id=str(i), prompt=[{"role": "user", "content": f"{i} + 1"}], columns={"answer": gold})
    for i, gold in enumerate(["1", None, "3"])
]
TEXTS = ["<think>a</think><answer>1</answer>", "<answer>2", "né"]
IDS = [(5,) * 10, (5,) * 54, (5, 6)]


def score(rewards: Any, count: int = 3, state: TrainerState | None = None, **options: Any) -> Scores:
    with Scorer(weighted(rewards), **{"workers": 1, "timeout_seconds": 60, **options}) as scorer:
        scorer.at(state or TrainerState(1, 2))
        return scorer.score(CHAT[:count], TEXTS[:count], IDS[:count])


@pytest.mark.parametrize("chunk_size", [1, 2, 16])
def test_five_rewards_of_grpo_scripts_run_unchanged(chunk_size: int) -> None:
    scores = score(REWARDS, chunk_size=chunk_size, workers=2)
    assert {name: values.tolist() for name, values in scores.parts.items()} == {
        "format_reward": [1.0, 0.0, 0.0],
        "answer_reward": pytest.approx([1.0, np.nan, 0.0], nan_ok=True),
        "length_reward": [-44.0, 0.0, -52.0],
        "language_reward": [1.0, 1.0, 0.5],
        "tag_count_reward": [1.0, 0.25, 0.0],
    }
    assert scores.values.tolist() == [-40.0, 1.25, -51.5]
    assert averages(scores.logged) == {"ascii_share": pytest.approx(2.5 / 3)}
    assert scores.columns == {"said": ["1", "2", "né"], "gold": ["1", None, "3"]}


@pytest.mark.parametrize("name", ["trl.rewards.think_format_reward", "trl.rewards:think_format_reward"])
def test_a_reward_of_trl_runs_by_its_dotted_path(name: str) -> None:
    assert score(name).values.tolist() == [1, 0, 0]


def test_trl_s_rewards_with_settings_run_as_objects() -> None:
    from trl.rewards import get_soft_overlong_punishment

    reward = get_soft_overlong_punishment(max_completion_len=20, soft_punish_cache=15)
    assert score(reward).values.tolist() == pytest.approx([-1 / 3, -1, 0])


def only_columns(prompts: Any, completions: Any, answer: Any) -> list[float]:
    return [1.0] * len(completions)


def asks_by_name(completions: Any, answer: Any, prompts: Any, trainer_state: Any) -> list[float]:
    return [float(trainer_state.epoch)] * len(completions)


class Counts:
    def __call__(self, completion_ids: Any, **columns: Any) -> list[float]:
        assert {"log_metric", "log_extra", "trainer_state"} <= columns.keys()
        return [len(ids) for ids in completion_ids]


@pytest.mark.parametrize(
    ("reward", "values"), [(only_columns, [1.0]), (asks_by_name, [0.5]), (Counts(), [10.0])]
)
def test_a_reward_without_columns_gets_only_the_arguments_that_it_names(
    reward: Callable[..., Any], values: list[float]
) -> None:
    assert score(reward, count=1, state=TrainerState(epoch=0.5)).values.tolist() == values


def test_async_rewards_run_side_by_side() -> None:
    def wait_for_each_other() -> list[Callable[..., Any]]:
        met: list[asyncio.Event] = []

        def one(position: int) -> Callable[..., Any]:
            async def reward(completions: Any, **columns: Any) -> list[float]:
                import evolign.rewards.calling as shared

                events = shared.__dict__.setdefault("events", [asyncio.Event(), asyncio.Event()])
                events[position].set()
                await events[1 - position].wait()
                return [1.0] * len(completions)

            return reward

        del met
        return [one(0), one(1)]

    assert score(wait_for_each_other(), timeout_seconds=10).values.tolist() == [2, 2, 2]


def logs(*calls: tuple[str, str, Any]) -> Callable[..., Any]:
    def reward(completions: Any, log_metric: Any, log_extra: Any, **columns: Any) -> list[float]:
        for kind, name, value in calls:
            {"metric": log_metric, "extra": log_extra}[kind](name, value)
        return [1.0] * len(completions)

    return reward


def test_what_is_logged_is_averaged_over_completions_and_cut_into_plain_values() -> None:
    mean = lambda completions, log_metric, **_: (  # noqa: E731
        log_metric("long", np.float32(np.mean([len(c[0]["content"]) for c in completions])))
        or [0] * len(completions)
    )
    lengths = [len(text) for text in TEXTS]
    assert averages(score(mean, chunk_size=2).logged)["long"] == pytest.approx(np.mean(lengths))
    several = logs(
        ("metric", "a", 1), ("metric", "a", 3.0), ("metric", "a", float("nan")),
        ("extra", "x", [1, float("inf")]), ("extra", "x", [{"k": (1,)}]),
        ("extra", "y", np.array([1.5, 2, 3])),
    )  # fmt: skip
    scores = score(several)
    assert averages(scores.logged) == {"a": 2.0}
    assert scores.columns == {"x": [1, None, "{'k': (1,)}"], "y": [1.5, 2.0, 3.0]}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (("metric", "a", "high"), r"log_metric\('a', 'high'\): the value must be a number"),
        (
            ("extra", "x", [1]),
            r"log_extra\('x', ...\) was given 1 values for 3 completions; give one for each",
        ),
        (
            ("extra", "x", ["x" * LARGEST_LOG] * 3),
            r"log_extra was given .* bytes for 3 completions; log at most",
        ),
    ],
)
def test_what_cannot_be_logged_is_told(call: tuple[str, str, Any], message: str) -> None:
    with pytest.raises(RewardError, match=message):
        score(logs(call))


def test_the_state_has_the_names_of_transformers_and_tells_which() -> None:
    from transformers import TrainerState as Theirs

    theirs = Theirs()
    assert all(hasattr(theirs, name) for name in vars(TrainerState()))
    with pytest.raises(RewardError, match=r"trainer_state has global_step, .* and no log_history"):
        score(lambda completions, trainer_state, **_: trainer_state.log_history)


def test_what_rewards_log_stands_beside_what_a_row_has_already() -> None:
    row = {"generation": 3, "sigma": 0.1}
    assert beside(row, {"sigma": 7.0, "a": 1.0}) == row | {"logged/sigma": 7.0, "a": 1.0}
    assert added([{"a": (1.0, 1)}, {"a": (5.0, 2), "b": (0.0, 1)}]) == {"a": (6.0, 3), "b": (0.0, 1)}
