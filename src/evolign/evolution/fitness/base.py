"""The protocol of a fitness: it gives every candidate one number."""

from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import numpy as np

from evolign.evolution.step_size import Calibration
from evolign.policy.spaces.base import SearchSpace
from evolign.runs.progress import Progress
from evolign.types import NO_COST, Cost, Direction, Population


class Batch(Protocol):
    """What the fitness of a generation is computed on. A fitness decides what else is in it."""

    @property
    def cost(self) -> Cost:
        """What it took to make the batch."""


@dataclass(frozen=True)
class FitnessValues:
    """The fitness of candidates, and what it took to compute it: numbers only."""

    fitness_N: np.ndarray
    """float64, shape (N,); to be maximised."""
    fitness_of_mean: float
    """The fitness of the mean policy, which is only recorded."""
    cost: Cost = NO_COST
    step_scale: float = 1.0
    """Factor of the strategy's step size, beside what the strategy does to it."""
    metrics: dict[str, Any] = field(default_factory=dict)
    """More figures for metrics.jsonl."""
    logged: dict[str, float] = field(default_factory=dict)
    """What rewards logged, beside these."""
    reward_range: tuple[float, ...] = ()
    """The lowest and the highest reward of a completion; a run warns where all are equal."""


B = TypeVar("B", bound=Batch)
V = TypeVar("V", bound=FitnessValues)


class Fitness(Protocol[B, V]):
    """Gives candidates their fitness on the training prompts of a generation."""

    steps: int
    """Strategy steps per generation, all on one batch."""

    def calibrate(self, space: SearchSpace, progress: Progress) -> Calibration:
        """The initial step size of `strategy.sigma: auto`. Raises EngineError if there is none.

        `progress` hears what is measured before it is, and every measurement.
        """
        ...

    def draw(self, version: int, generation: int) -> B:
        """The batch of a generation, for the mean after `version` moves; a function of its arguments only."""
        ...

    def compute(self, population: Population, batch: B) -> V:
        """The fitness of the N candidates of `population`, whose mean takes part as candidate N.

        It is a function of its arguments only."""
        ...

    def measure(self, direction: Direction, population: Population, values: V, batch: B) -> float:
        """Divergence of a step along `direction` from the mean, in nats per completion, divided by the square
        of the step's scale. Raises ConfigError if this fitness cannot measure it."""
        ...
