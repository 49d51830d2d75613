"""What the loop needs of a fitness: candidates in, one number each out."""

from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from evolign.calibration import Calibration


@dataclass(frozen=True)
class Judgement:
    """The fitness of one generation's candidates, and what finding it took."""

    fitness_N: np.ndarray
    """float64, shape (N,); to be maximised."""
    num_completions: int
    num_tokens: int
    timeouts: int
    crashes: int
    step_scale: float = 1.0
    """By how much the strategy's step size shall change on top of what the strategy does itself."""
    metrics: dict[str, Any] = field(default_factory=dict)
    """What metrics.jsonl gets."""


class Fitness(Protocol):
    """Judges candidates on training prompts."""

    def calibrate(self, dim: int) -> Calibration:
        """The initial step size of `strategy.sigma: auto`. Raises EngineError if there is none."""
        ...

    def judge(self, theta_ND: np.ndarray, mean_D: np.ndarray, generation: int) -> Judgement:
        """The fitness of the candidates `theta_ND` around `mean_D`; a function of its arguments alone."""
        ...
