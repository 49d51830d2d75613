"""THE loop: evolve a policy by forward passes only (ESSA, arXiv 2507.04453v3, Algorithm 1).

    draw -> [ask -> fitness (prompts, completions, rewards) -> direction -> measure -> move] x steps
         -> validate -> record

The loop handles vectors and numbers. The fitness handles prompts and completions, the engine models, and the
run directory files. Every step is visible here; nothing calls back into the loop.
"""

import time
from dataclasses import dataclass
from typing import Any

import numpy as np

from evolign.evolution.fitness import Fitness
from evolign.evolution.search import Search, State


@dataclass(frozen=True)
class Outcome:
    """The result of a search."""

    theta_D: np.ndarray
    """The mean with the best validation score."""
    state: State
    stopped: str
    """Which limit ended the run."""


def evolve(fitness: Fitness[Any, Any], search: Search) -> Outcome:
    """Maximise `fitness` from where `search` stands: at a new start, or at the newest checkpoint.

    Raises ConfigError, RewardError, EngineError or RunError; checkpoints written before that stay intact.
    """
    search.start(fitness)
    state = search.state
    while not (stopped := search.stop_reason()):
        started = time.perf_counter()
        batch = fitness.draw(*search.begin())
        state.add(batch.cost)
        for _ in range(fitness.steps):
            population = search.ask()
            values = fitness.compute(population, batch)
            direction = search.direction(values)
            divergence = fitness.measure(direction, population, values, batch) if direction else None
            search.move(values, divergence)
        row = search.describe(values, batch.cost + values.cost)
        state.seconds += time.perf_counter() - started
        if search.validation_is_due():
            row |= search.validate()
        search.record(row)
    return Outcome(search.best_theta_D, state, stopped)
