"""What the loop needs of a fitness: candidates in, one number each out."""

from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import numpy as np

from evolign.evolution.step_size import Calibration
from evolign.policy.spaces.base import SearchSpace
from evolign.types import NO_COST, Cost, Direction, Population


class Batch(Protocol):
    """What a generation is judged on. A fitness decides what else is in it."""

    @property
    def cost(self) -> Cost:
        """What making it has taken."""


@dataclass(frozen=True)
class Judgement:
    """The fitness of candidates, and what finding it took: numbers only."""

    fitness_N: np.ndarray
    """float64, shape (N,); to be maximised."""
    fitness_of_mean: float
    """The mean policy's, for those who watch."""
    cost: Cost = NO_COST
    step_scale: float = 1.0
    """By how much the strategy's step size shall change on top of what the strategy does itself."""
    metrics: dict[str, Any] = field(default_factory=dict)
    """What metrics.jsonl gets beside the fitness."""


B = TypeVar("B", bound=Batch)
J = TypeVar("J", bound=Judgement)


class Fitness(Protocol[B, J]):
    """Judges candidates on the training prompts of a generation."""

    steps: int
    """Strategy steps per generation: how often candidates are asked for and judged on one batch."""

    def calibrate(self, space: SearchSpace) -> Calibration:
        """The initial step size of `strategy.sigma: auto`. Raises EngineError if there is none."""
        ...

    def draw(self, version: int, generation: int) -> B:
        """The batch of a generation, for the mean after `version` moves; a function of its arguments only."""
        ...

    def judge(self, population: Population, batch: B) -> J:
        """The fitness of the N candidates of `population` beside its mean, which takes part; a function of
        its arguments only."""
        ...

    def measure(self, direction: Direction, population: Population, judged: J, batch: B) -> float:
        """The divergence of a step along `direction` from the mean, over the square of the step's scale, in
        nats per completion. Raises ConfigError where this fitness cannot measure it."""
        ...
