"""`strategy.sigma: auto`: the step size that changes a set share of completions.

The singular values of A and B differ in scale between models, ranks and warm starts by orders of magnitude
(the paper does not report its step size). What is comparable is how often a perturbation changes what the
model says under the same sampling noise, so that is what a user sets and what is measured here, once.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from evolign.config import EvolutionConfig
from evolign.engines import Engine
from evolign.errors import EngineError
from evolign.evolution.prompts import change_rate
from evolign.policy.spaces.base import SearchSpace
from evolign.seeding import key, stream
from evolign.types import Example, Population, Sampling, Subspace

FIRST_SIGMA = 0.05
FACTOR = 4.0
"""Ratio of neighbouring step sizes while the wanted one is being bracketed."""
TRIALS = 14
TOLERANCE = 0.15
"""Accepted relative error of what is measured."""


@dataclass(frozen=True)
class Calibration:
    """The step size found, what was measured there, and what finding it cost."""

    sigma: float
    value: float
    """What was measured at `sigma`: a change rate, or a divergence."""
    told: str
    """The same as words, for the terminal."""
    num_completions: int
    num_tokens: int
    seconds: float


def candidates_at(space: SearchSpace, config: EvolutionConfig) -> Callable[[float], Population]:
    """By step size: candidates around theta = 0 in the same random directions, and 0 as the last row."""
    dim, subspace = space.dim, None
    if space.subspaces is not None:
        dim = space.subspaces.dim
        subspace = Subspace(np.zeros(space.dim), key(config.seed, "calibration", "subspace"))
    direction_ND = stream(config.seed, "calibration").standard_normal((config.calibration.candidates, dim))
    return lambda sigma: Population(np.vstack([sigma * direction_ND, np.zeros(dim)]), subspace)


def calibrate(
    engine: Engine,
    population_at: Callable[[float], Population],
    examples: Sequence[Example],
    sampling: Sampling,
    config: EvolutionConfig,
) -> Calibration:
    """Find the sigma at which candidates around theta = 0 (`candidates_at`) change the wanted share.

    Raises EngineError where no step size changes completions, or every one does.
    """
    wanted = config.calibration.change_rate
    prompts = examples[: config.calibration.prompts]
    completions = tokens = 0

    def rate_at(sigma: float) -> float:
        nonlocal completions, tokens
        population = population_at(sigma)
        rollouts = engine.generate(population, [prompts] * len(population), sampling)
        completions += rollouts.num_completions
        tokens += rollouts.num_tokens
        return change_rate(rollouts.text_NPS)

    sigma, rate, seconds = bisect(rate_at, wanted, _change)
    if rate == 1.0:
        raise _no_step_size(wanted, sigma, rate, _change)
    return Calibration(sigma, rate, _change(rate), completions, tokens, seconds)


def bisect(
    measure: Callable[[float], float], wanted: float, tell: Callable[[float], str]
) -> tuple[float, float, float]:
    """The sigma at which the increasing function `measure` comes nearest to `wanted`: bisection in log sigma.

    Returns sigma, the value there, and the seconds taken. Raises EngineError, in the words of `tell(value)`,
    if `measure` is not finite, or never within a factor of four of `wanted`.
    """
    started = time.perf_counter()
    low, high = 0.0, math.inf
    sigma = FIRST_SIGMA
    trials: list[tuple[float, float]] = []
    for _ in range(TRIALS):
        value = measure(sigma)
        trials.append((value, sigma))
        if abs(value - wanted) <= TOLERANCE * wanted:
            break
        low, high = (sigma, high) if value < wanted else (low, sigma)
        sigma = _between(low, high)
    finite = [trial for trial in trials if math.isfinite(trial[0])] or trials
    value, sigma = min(finite, key=lambda trial: abs(trial[0] - wanted))
    if not wanted / 4 <= value <= wanted * 4:
        raise _no_step_size(wanted, sigma, value, tell)
    return sigma, value, time.perf_counter() - started


def _change(rate: float) -> str:
    return f"changes {rate:.0%} of completions"


def _no_step_size(wanted: float, sigma: float, value: float, tell: Callable[[float], str]) -> EngineError:
    return EngineError(
        f"strategy.sigma = auto: no step size was found that {tell(wanted)} (the nearest, "
        f"sigma = {sigma:.3g}, {tell(value)}); set strategy.sigma to a number"
    )


def _between(low: float, high: float) -> float:
    if low == 0.0:
        return high / FACTOR
    if math.isinf(high):
        return low * FACTOR
    return math.sqrt(low * high)
