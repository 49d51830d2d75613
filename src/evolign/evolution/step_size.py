"""`strategy.sigma: auto`: the step size that changes a set share of completions.

The singular values of A and B differ in scale between models, ranks and warm starts by orders of magnitude
(the paper does not report its step size). What models have in common is how often a perturbation changes a
completion under the same sampling noise. So users set this share, and it is measured here, once.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from evolign.config import EvolutionConfig
from evolign.engines import Engine
from evolign.errors import EngineError
from evolign.evolution.prompts import change_rate
from evolign.policy.spaces.base import SearchSpace
from evolign.runs.phases import Phase
from evolign.runs.progress import Progress
from evolign.seeding import key, stream
from evolign.tasks.base import ids
from evolign.types import Cost, Direction, Example, Population, Sampling

FIRST_SIGMA = 0.05
FACTOR = 4.0
"""Ratio of neighbouring step sizes while the wanted one is being bracketed."""
TRIALS = 14
EXTRAPOLATIONS = 4
"""Step sizes that are extrapolated before bisection takes over: no power law holds far from 0."""
FARTHEST = 100.0
"""No extrapolation goes beyond this factor."""
TOLERANCE = 0.15
"""Accepted relative error of what is measured."""
PROBE_RANGE = 4.0
"""The divergence of a step is measured on one whose divergence is within this factor of the wanted."""
PROBES = 12


class Found(NamedTuple):
    """A step size, the value that was measured there, and what it took to find them."""

    sigma: float
    value: float
    measurements: int
    seconds: float


@dataclass(frozen=True)
class Calibration:
    """The calibrated step size, the value measured there, and the cost."""

    found: Found
    """Its value is a change rate, or a divergence."""
    words: str
    """The value in words, for the terminal."""
    rows: int
    """Completions that candidates wrote or read, in all measurements."""
    cost: Cost

    def facts(self) -> dict[str, int | float]:
        """What result.json has of it."""
        return {**self.found._asdict(), "rows": self.rows, "completions": self.cost.completions}


def candidates_at(
    space: SearchSpace, config: EvolutionConfig, with_mean: bool = True
) -> Callable[[float], Population]:
    """By step size: candidates around theta = 0 in the same random directions, and the mean, which is 0."""
    dim, subspace = space.dim, None
    if space.subspace_dim is not None:
        dim, subspace = space.subspace_dim, key(config.seed, "calibration", "subspace")
    direction_NK = stream(config.seed, "calibration").standard_normal((config.calibration.candidates, dim))
    return lambda sigma: Population(sigma * direction_NK, subspace, with_mean)


def calibrate(
    engine: Engine,
    population_at: Callable[[float], Population],
    examples: Sequence[Example],
    sampling: Sampling,
    config: EvolutionConfig,
    progress: Progress,
) -> Calibration:
    """Find the sigma at which candidates around theta = 0 (`candidates_at`) change the wanted share.

    Raises EngineError where no step size changes completions, or every one does.
    """
    wanted = config.calibration.change_rate
    prompts = examples[: config.calibration.prompts]
    cost = Cost()
    progress.say(
        f"Calibrating sigma: {config.calibration.candidates} candidates write {len(prompts)} completions at "
        f"each step size that is tried, until {wanted:.0%} of them change."
    )

    def rate_at(sigma: float) -> float:
        nonlocal cost
        population = population_at(sigma)
        rollouts = engine.generate(population, [ids(prompts)] * len(population), sampling)
        cost += rollouts.cost
        return change_rate(rollouts.text_NPS)

    with progress.phase("calibrating sigma", unit="step sizes") as phase:
        found = bisect(counted(rate_at, phase), wanted, _change)
    if found.value == 1.0:
        raise _no_step_size(wanted, found, _change)
    return Calibration(found, _change(found.value), cost.completions, cost)


def bisect(
    measure: Callable[[float], float],
    wanted: float,
    tell: Callable[[float], str],
    power: float | None = None,
) -> Found:
    """The sigma at which the increasing function `measure` comes nearest to `wanted`: bisection in log sigma.

    Where `measure` is about proportional to sigma ** `power` near 0, the first step sizes are extrapolated:
    two or three measurements then do. Raises EngineError, in the words of `tell(value)`, if `measure` is not
    finite, or never within a factor of four of `wanted`.
    """
    started = time.perf_counter()
    low, high = 0.0, math.inf
    sigma = FIRST_SIGMA
    trials: list[tuple[float, float]] = []
    for trial in range(TRIALS):
        value = measure(sigma)
        trials.append((value, sigma))
        if abs(value - wanted) <= TOLERANCE * wanted:
            break
        low, high = (sigma, high) if value < wanted else (low, sigma)
        guess = math.nan
        if power is not None and trial < EXTRAPOLATIONS:
            guess = _extrapolated(sigma, value, wanted, power)
        sigma = guess if low < guess < high else _between(low, high)
    finite = [trial for trial in trials if math.isfinite(trial[0])] or trials
    value, sigma = min(finite, key=lambda trial: abs(trial[0] - wanted))
    found = Found(sigma, value, len(trials), time.perf_counter() - started)
    if not wanted / 4 <= value <= wanted * 4:
        raise _no_step_size(wanted, found, tell)
    return found


def _extrapolated(sigma: float, value: float, wanted: float, power: float) -> float:
    """Where sigma ** power, through what was measured, reaches `wanted`; not a number for such a value."""
    if not 0 <= value < math.inf:
        return math.nan
    factor = (wanted / value) ** (1 / power) if value > 0 else FARTHEST
    return sigma * min(max(factor, 1 / FARTHEST), FARTHEST)


def counted(measure: Callable[[float], float], phase: Phase) -> Callable[[float], float]:
    """`measure`, of which every call advances `phase`."""

    def measured(sigma: float) -> float:
        value = measure(sigma)
        phase.advance()
        return value

    return measured


def _change(rate: float) -> str:
    return f"changes {rate:.0%} of completions"


def _no_step_size(wanted: float, found: Found, tell: Callable[[float], str]) -> EngineError:
    return EngineError(
        f"strategy.sigma = auto: no step size was found that {tell(wanted)} (the nearest, "
        f"sigma = {found.sigma:.3g}, {tell(found.value)}); set strategy.sigma to a number"
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
