"""What the loop needs of a fitness: candidates in, one number each out."""

from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from evolign.evolution.step_size import Calibration
from evolign.policy.spaces.base import SearchSpace
from evolign.strategies.base import Divergence
from evolign.types import Population


@dataclass(frozen=True)
class Cost:
    """What completions have taken."""

    num_completions: int = 0
    num_tokens: int = 0
    timeouts: int = 0
    crashes: int = 0

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(
            self.num_completions + other.num_completions,
            self.num_tokens + other.num_tokens,
            self.timeouts + other.timeouts,
            self.crashes + other.crashes,
        )


NO_COST = Cost()


@dataclass(frozen=True)
class Judgement:
    """The fitness of candidates, and what finding it took."""

    fitness_N: np.ndarray
    """float64, shape (N,); to be maximised."""
    cost: Cost = NO_COST
    step_scale: float = 1.0
    """By how much the strategy's step size shall change on top of what the strategy does itself."""
    divergence: Divergence | None = None
    """How far a step of the mean would move the policy, where that can be told."""
    metrics: dict[str, Any] = field(default_factory=dict)
    """What metrics.jsonl gets."""


class Fitness(Protocol):
    """Judges candidates on the training prompts of a generation."""

    steps: int
    """Strategy steps per generation: how often candidates are asked for and judged on one batch."""

    def calibrate(self, space: SearchSpace) -> Calibration:
        """The initial step size of `strategy.sigma: auto`. Raises EngineError if there is none."""
        ...

    def draw(self, mean_D: np.ndarray, generation: int) -> Any:
        """The batch of a generation, which has a `cost`; a function of its arguments alone."""
        ...

    def judge(self, population: Population, batch: Any) -> Judgement:
        """The fitness of N candidates, the rows of `population` before the last, which is the mean around
        which they lie; a function of its arguments alone."""
        ...
