"""`strategy.sigma: auto`: the step size that changes a set share of completions.

The singular values of A and B differ in scale between models, ranks and warm starts by orders of magnitude
(the paper does not report its step size). What is comparable is how often a perturbation changes what the
model says under the same sampling noise, so that is what a user sets and what is measured here, once.
"""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from evolign.config import Config
from evolign.engines import Engine
from evolign.errors import EngineError
from evolign.generation import change_rate
from evolign.seeding import stream
from evolign.types import Example, Population, Sampling

FIRST_SIGMA = 0.05
FACTOR = 4.0
"""Ratio of neighbouring step sizes while the wanted one is being bracketed."""
TRIALS = 14
TOLERANCE = 0.15
"""Accepted relative error of the change rate."""


@dataclass(frozen=True)
class Calibration:
    """The step size found, the change rate measured there, and what finding it cost."""

    sigma: float
    change_rate: float
    num_completions: int
    num_tokens: int
    seconds: float


def calibrate(
    engine: Engine, dim: int, examples: Sequence[Example], sampling: Sampling, config: Config
) -> Calibration:
    """Find sigma by bisection in log sigma, around theta = 0, along fixed random directions.

    Raises EngineError where no step size changes completions, or every one does.
    """
    started = time.perf_counter()
    wanted = config.calibration.change_rate
    direction_ND = stream(config.seed, "calibration").standard_normal((config.calibration.candidates, dim))
    prompts = examples[: config.calibration.prompts]
    low, high = 0.0, math.inf
    sigma, completions, tokens = FIRST_SIGMA, 0, 0
    trials: list[tuple[float, float]] = []
    for _ in range(TRIALS):
        theta_ND = np.vstack([sigma * direction_ND, np.zeros(dim)])
        rollouts = engine.generate(Population(theta_ND), [prompts] * len(theta_ND), sampling)
        completions += rollouts.num_completions
        tokens += rollouts.num_tokens
        rate = change_rate(rollouts.text_NPS)
        trials.append((rate, sigma))
        if abs(rate - wanted) <= TOLERANCE * wanted:
            break
        low, high = (sigma, high) if rate < wanted else (low, sigma)
        sigma = _between(low, high)
    rate, sigma = min(trials, key=lambda trial: abs(trial[0] - wanted))
    if rate in (0.0, 1.0):
        raise EngineError(
            f"strategy.sigma = auto: no step size was found that changes about {wanted:.0%} of completions "
            f"(the nearest, sigma = {sigma:.3g}, changes {rate:.0%}); set strategy.sigma to a number"
        )
    return Calibration(sigma, rate, completions, tokens, time.perf_counter() - started)


def _between(low: float, high: float) -> float:
    if low == 0.0:
        return high / FACTOR
    if math.isinf(high):
        return low * FACTOR
    return math.sqrt(low * high)
