"""Fitness of ESSA: every candidate generates afresh, and its fitness is its mean reward (Algorithm 1).

The mean policy generates too: `change_rate` is the share of completions in which candidates differ from it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from evolign.config import EvolutionConfig
from evolign.engines import Engine
from evolign.errors import ConfigError
from evolign.evolution.fitness.base import FitnessValues
from evolign.evolution.prompts import (
    change_rate,
    draw_prompts,
    mean_score,
    reward_range,
    sampling,
    score_completions,
    with_mean_row,
)
from evolign.evolution.step_size import Calibration, calibrate, candidates_at
from evolign.policy.spaces.base import SearchSpace
from evolign.rewards.scores import averages, part_metrics
from evolign.rewards.scoring import Scoring
from evolign.runs.progress import Progress
from evolign.tasks.base import Task, ids
from evolign.types import NO_COST, Cost, Direction, Example, Population, Sampling


@dataclass(frozen=True)
class Batch:
    """The prompts of a generation, those of the mean policy last, and how they are sampled."""

    examples_NP: list[Sequence[Example]]
    sampling: Sampling
    cost: Cost = NO_COST


class RewardFitness:
    """F(theta) = mean reward of the candidate's own completions of the generation's prompts."""

    steps = 1

    def __init__(self, config: EvolutionConfig, task: Task, engine: Engine, scorer: Scoring) -> None:
        self._config, self._task, self._engine, self._scorer = config, task, engine, scorer

    def calibrate(self, space: SearchSpace, progress: Progress) -> Calibration:
        """See `evolign.evolution.step_size.calibrate`."""
        population_at = candidates_at(space, self._config)
        how = sampling(self._config, 0)
        return calibrate(self._engine, population_at, self._task.train, how, self._config, progress)

    def draw(self, version: int, generation: int) -> Batch:
        """See `Fitness.draw`."""
        examples_NP = with_mean_row(draw_prompts(self._config, self._task, generation))
        return Batch(examples_NP, sampling(self._config, generation))

    def compute(self, population: Population, batch: Batch) -> FitnessValues:
        """See `Fitness.compute`."""
        prompts_NP = [ids(examples) for examples in batch.examples_NP]
        rollouts = self._engine.generate(population, prompts_NP, batch.sampling)
        score_NPS, scores = score_completions(self._scorer, batch.examples_NP, rollouts)
        shared = self._config.evolution.prompt_sharing == "shared"
        metrics: dict[str, Any] = {
            "change_rate": change_rate(rollouts.text_NPS, shared),
            "truncated": float(rollouts.truncated_NPS.mean()),
            "seconds_generate": rollouts.seconds,
            "seconds_score": scores.seconds,
        }
        return FitnessValues(
            mean_score(score_NPS[:-1]),
            fitness_of_mean=float(mean_score(score_NPS[-1:])[0]),
            cost=rollouts.cost + scores.cost,
            metrics=metrics | part_metrics(scores.parts),
            logged=averages(scores.logged),
            reward_range=reward_range(score_NPS),
        )

    def measure(
        self, direction: Direction, population: Population, values: FitnessValues, batch: Batch
    ) -> float:
        """Raise ConfigError, because rewards do not measure likelihoods."""
        raise ConfigError(
            "fitness.name = 'reward' cannot measure how far a step moves the policy; use a strategy that "
            "sizes its steps itself, or fitness.name = likelihood"
        )
