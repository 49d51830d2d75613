"""`strategy.sigma: auto`: the step size that changes a set share of completions.

The singular values of A and B differ in scale between models, ranks and warm starts by orders of magnitude
(the paper does not report its step size). What models have in common is how often a perturbation changes a
completion under the same sampling noise. So users set this share, and it is measured here, once.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from evolign.config import EvolutionConfig
from evolign.engines import Engine
from evolign.errors import EngineError
from evolign.evolution.prompts import change_rate
from evolign.policy.spaces.base import SearchSpace
from evolign.seeding import key, stream
from evolign.tasks.base import ids
from evolign.types import Cost, Direction, Example, Population, Sampling

FIRST_SIGMA = 0.05
FACTOR = 4.0
"""Ratio of neighbouring step sizes while the wanted one is being bracketed."""
TRIALS = 14
TOLERANCE = 0.15
"""Accepted relative error of what is measured."""
PROBE_RANGE = 4.0
"""The divergence of a step is measured on one whose divergence is within this factor of the wanted."""
PROBES = 12


@dataclass(frozen=True)
class Calibration:
    """The calibrated step size, the value measured there, and the cost."""

    sigma: float
    value: float
    """What was measured at `sigma`: a change rate, or a divergence."""
    words: str
    """The value in words, for the terminal."""
    cost: Cost
    seconds: float


def candidates_at(space: SearchSpace, config: EvolutionConfig) -> Callable[[float], Population]:
    """By step size: candidates around theta = 0 in the same random directions, and the mean, which is 0."""
    dim, subspace = space.dim, None
    if space.subspace_dim is not None:
        dim, subspace = space.subspace_dim, key(config.seed, "calibration", "subspace")
    direction_NK = stream(config.seed, "calibration").standard_normal((config.calibration.candidates, dim))
    return lambda sigma: Population(sigma * direction_NK, subspace, with_mean=True)


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
    cost = Cost()

    def rate_at(sigma: float) -> float:
        nonlocal cost
        population = population_at(sigma)
        rollouts = engine.generate(population, [ids(prompts)] * len(population), sampling)
        cost += rollouts.cost
        return change_rate(rollouts.text_NPS)

    sigma, rate, seconds = bisect(rate_at, wanted, _change)
    if rate == 1.0:
        raise _no_step_size(wanted, sigma, rate, _change)
    return Calibration(sigma, rate, _change(rate), cost, seconds)


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


def divergence_per_square(direction: Direction, measure: Callable[[float], float]) -> float:
    """The divergence of a short step along `direction`, over the square of its scale.

    `measure(scale)` is the divergence of one step, in nats per completion. It is quadratic for short steps
    only, so it is taken from a step of about the wanted divergence, beginning at the first guess. If there is
    no such step, the first measurement is used: in bfloat16, rounding may keep the divergence of long
    completions above it. Raises ValueError for a direction without a guess.
    """
    if direction.scale is None:
        raise ValueError("direction.scale is None; give a first guess")
    scale, found = direction.scale, []
    for _ in range(PROBES):
        nats = measure(scale)
        found.append(nats / scale**2)
        if nats > PROBE_RANGE * direction.divergence:
            scale /= 2
        elif nats * PROBE_RANGE < direction.divergence:
            scale *= 2
        else:
            return found[-1]
    return found[0]
