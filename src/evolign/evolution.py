"""THE loop: evolve a policy by forward passes alone (ESSA, arXiv 2507.04453v3, Algorithm 1).

    prompts -> ask -> generate -> score -> tell -> validate -> record

It knows vectors, examples and numbers: models are behind the engine, files behind the run directory.
"""

import time
from dataclasses import dataclass

import numpy as np

from evolign.config import Config
from evolign.display import Progress
from evolign.engines import Engine
from evolign.generation import (
    describe,
    draw_prompts,
    mean_score,
    sampling,
    score_completions,
    with_mean_row,
)
from evolign.rundir import RunDir
from evolign.search import Search, State
from evolign.tasks.base import Task
from evolign.tasks.scoring import Scorer
from evolign.types import Population


@dataclass(frozen=True)
class Outcome:
    """What evolution found."""

    theta_D: np.ndarray
    """The mean with the best validation score."""
    state: State
    stopped: str
    """Which limit ended the run."""


def evolve(
    config: Config,
    run: RunDir,
    task: Task,
    engine: Engine,
    scorer: Scorer,
    dim: int,
    progress: Progress,
) -> Outcome:
    """Maximise the task's reward over the D-dimensional search space behind `engine`.

    Goes on from the newest checkpoint in `run`. Raises ConfigError, RewardError, EngineError or RunError;
    what was checkpointed before is then intact.
    """
    search = Search(config, run, task, engine, scorer, dim, progress)
    state, strategy = search.state, search.strategy
    while not (stopped := search.stop_reason()):
        started = time.perf_counter()
        state.generation += 1
        examples_NP = with_mean_row(draw_prompts(config, task, state.generation))
        theta_ND = strategy.ask()
        rollouts = engine.generate(
            Population(np.vstack([theta_ND, strategy.mean])),
            examples_NP,
            sampling(config, state.generation),
        )
        score_NPS, scores = score_completions(scorer, examples_NP, rollouts)
        fitness_N = mean_score(score_NPS[:-1])
        updating = time.perf_counter()
        strategy.tell(theta_ND, fitness_N)
        seconds_update = time.perf_counter() - updating
        search.count(rollouts, scores, fitness_N)
        row = describe(rollouts, scores, score_NPS, search.shared) | {
            "sigma": strategy.sigma,
            "seconds_update": seconds_update,
        }
        state.seconds += time.perf_counter() - started
        if search.validation_is_due():
            row |= search.validate()
        search.record(row)
    return Outcome(search.best_theta_D, state, stopped)
