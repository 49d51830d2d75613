"""THE loop: evolve a policy by forward passes alone (ESSA, arXiv 2507.04453v3, Algorithm 1).

    draw -> [ask -> judge (prompts, completions, rewards) -> tell] x steps -> validate -> record

It knows vectors and numbers: prompts and completions are the fitness', models the engine's, files the run
directory's.
"""

import time
from dataclasses import dataclass

import numpy as np

from evolign.config import EvolutionConfig
from evolign.engines import Engine
from evolign.evolution.fitness import build_fitness
from evolign.evolution.search import Search, State
from evolign.policy.spaces.base import SearchSpace
from evolign.rewards.scoring import Scorer
from evolign.runs.directory import RunDir
from evolign.runs.progress import Progress
from evolign.tasks.base import Task


@dataclass(frozen=True)
class Outcome:
    """What evolution found."""

    theta_D: np.ndarray
    """The mean with the best validation score."""
    state: State
    stopped: str
    """Which limit ended the run."""


def evolve(
    config: EvolutionConfig,
    run: RunDir,
    task: Task,
    engine: Engine,
    scorer: Scorer,
    space: SearchSpace,
    progress: Progress,
) -> Outcome:
    """Maximise the task's reward over the search space behind `engine`.

    Goes on from the newest checkpoint in `run`. Raises ConfigError, RewardError, EngineError or RunError;
    what was checkpointed before is then intact.
    """
    fitness = build_fitness(config, task, engine, scorer)
    search = Search(config, run, task, engine, scorer, fitness, space, progress)
    progress.begin(config.evolution.generations, config.evolution.max_minutes)
    state, strategy = search.state, search.strategy
    while not (stopped := search.stop_reason()):
        started = time.perf_counter()
        state.generation += 1
        batch = fitness.draw(strategy.mean, state.generation)
        search.count(batch.cost)
        for _ in range(fitness.steps):
            population = search.ask()
            judged = fitness.judge(population, batch)
            search.tell(population, judged)
        row = search.describe(judged, batch.cost + judged.cost)
        state.seconds += time.perf_counter() - started
        if search.validation_is_due():
            row |= search.validate()
        search.record(row)
    return Outcome(search.best_theta_D, state, stopped)
