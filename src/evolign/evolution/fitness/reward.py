"""Fitness of ESSA: every candidate generates afresh, and its fitness is its mean reward (Algorithm 1).

One more row is generated, the mean policy's: against it `change_rate` tells how far the candidates are apart.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from evolign.config import EvolutionConfig
from evolign.engines import Engine
from evolign.evolution.fitness.base import NO_COST, Cost, Judgement
from evolign.evolution.prompts import (
    change_rate,
    draw_prompts,
    mean_score,
    sampling,
    score_completions,
    spread,
    with_mean_row,
)
from evolign.evolution.step_size import Calibration, calibrate, candidates_at
from evolign.policy.spaces.base import SearchSpace
from evolign.rewards.scoring import Scorer
from evolign.tasks.base import Task
from evolign.types import Example, Population, Sampling


@dataclass(frozen=True)
class Batch:
    """The prompts of a generation, those of the mean policy last, and how they are sampled."""

    examples_NP: list[Sequence[Example]]
    sampling: Sampling
    cost: Cost = NO_COST


class RewardFitness:
    """F(theta) = mean reward of the candidate's own completions of the generation's prompts."""

    steps = 1

    def __init__(self, config: EvolutionConfig, task: Task, engine: Engine, scorer: Scorer) -> None:
        self._config, self._task, self._engine, self._scorer = config, task, engine, scorer

    def calibrate(self, space: SearchSpace) -> Calibration:
        """See `evolign.evolution.step_size.calibrate`."""
        population_at = candidates_at(space, self._config)
        return calibrate(
            self._engine, population_at, self._task.train, sampling(self._config, 0), self._config
        )

    def draw(self, mean_D: np.ndarray, generation: int) -> Batch:
        """See `Fitness.draw`."""
        examples_NP = with_mean_row(draw_prompts(self._config, self._task, generation))
        return Batch(examples_NP, sampling(self._config, generation))

    def judge(self, population: Population, batch: Batch) -> Judgement:
        """See `Fitness.judge`."""
        rollouts = self._engine.generate(population, batch.examples_NP, batch.sampling)
        score_NPS, scores = score_completions(self._scorer, batch.examples_NP, rollouts)
        fitness_N = mean_score(score_NPS[:-1])
        shared = self._config.evolution.prompt_sharing == "shared"
        metrics: dict[str, Any] = spread(fitness_N) | {
            "fitness_of_mean": float(mean_score(score_NPS[-1:])[0]),
            "change_rate": change_rate(rollouts.text_NPS, shared),
            "truncated": float(rollouts.truncated_NPS.mean()),
            "seconds_generate": rollouts.seconds,
            "seconds_score": scores.seconds,
        }
        cost = Cost(rollouts.num_completions, rollouts.num_tokens, scores.timeouts, scores.crashes)
        return Judgement(fitness_N, cost, metrics=metrics)
