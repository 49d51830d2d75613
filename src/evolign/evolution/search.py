"""The loop's memory: strategy, best mean and counters, kept in the run directory's checkpoints."""

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from evolign.config import EvolutionConfig
from evolign.engines import Engine
from evolign.evaluation.evaluate import evaluate_split, ranking
from evolign.evaluation.result import keep_samples
from evolign.evolution.fitness import Cost, Fitness, Judgement
from evolign.policy.spaces.base import SearchSpace
from evolign.rewards.scoring import Scorer
from evolign.runs.directory import RunDir
from evolign.runs.progress import Progress
from evolign.runs.provenance import peak_memory_bytes
from evolign.runs.tally import Tally
from evolign.strategies import build_strategy
from evolign.strategies.base import Strategy
from evolign.tasks.base import Task
from evolign.types import Population

FAILED_WARNING = 0.5
"""Share of a generation's rewards that hang or crash before the user is told, once."""
FLAT_WARNING = 5
"""Generations in a row without any difference in fitness before the user is told."""


@dataclass(kw_only=True)
class State(Tally):
    """What a checkpoint holds beside the strategy's own state: all of it is JSON."""

    initial_sigma: float
    """Initial step size, given or calibrated."""
    generation: int = 0
    """Generations that are done."""
    warned_of_failures: bool = False
    flat: int = 0
    """Generations in a row in which all candidates had the same fitness."""
    best_generation: int = 0
    best: dict[str, float] = field(default_factory=dict)
    """Validation metrics of the best mean so far."""


class Search:
    """The loop's memory: state, strategy and best mean, restored from and saved to the run directory."""

    def __init__(
        self,
        config: EvolutionConfig,
        run: RunDir,
        task: Task,
        engine: Engine,
        scorer: Scorer,
        fitness: Fitness,
        space: SearchSpace,
        progress: Progress,
    ) -> None:
        self._config, self._run, self._task = config, run, task
        self._engine, self._scorer, self._progress = engine, scorer, progress
        self._ranking = ranking(config.evaluation, task.metric)
        self._seconds_update = 0.0
        saved = run.restore()
        for warning in run.warnings:
            progress.say(f"Warning: {warning}")
        if saved:
            self.state = State(**saved[0])
        else:
            self.state = self._start(fitness, space)
        self.strategy: Strategy = build_strategy(
            config.strategy, space.dim, self.state.initial_sigma, config.seed, space.subspaces
        )
        self.best_theta_D = np.zeros(space.dim)
        if saved:
            arrays = saved[1]
            self.best_theta_D = arrays.pop("best_theta_D")
            self.strategy.load_state_dict(arrays)
            progress.say(f"Resuming after generation {self.state.generation}.")
        else:
            self.record(self.validate())

    def _start(self, fitness: Fitness, space: SearchSpace) -> State:
        sigma = self._config.strategy.sigma
        if sigma != "auto":
            return State(initial_sigma=sigma)
        found = fitness.calibrate(space)
        self._progress.say(f"sigma = {found.sigma:.3g} (calibrated: {found.told})")
        return State(
            initial_sigma=found.sigma,
            completions=found.num_completions,
            generated_tokens=found.num_tokens,
            seconds=found.seconds,
        )

    def stop_reason(self) -> str:
        """Which limit has been reached; empty while there is none. Costs end no run before its first step."""
        limits, state = self._config.evolution, self.state
        if state.generation >= limits.generations:
            return f"generations = {limits.generations}"
        if limits.target is not None and state.best[self._ranking[0]] >= limits.target:
            return f"target = {limits.target}"
        return state.reached(limits) if state.generation else ""  # whatever calibration has cost

    def count(self, cost: Cost) -> None:
        """Add up what completions have cost."""
        state = self.state
        state.completions += cost.num_completions
        state.generated_tokens += cost.num_tokens
        state.count_failures(cost)

    def ask(self) -> Population:
        """The candidates of a step, and the mean as the last row."""
        theta_ND, subspace = self.strategy.ask(), self.strategy.subspace
        mean = self.strategy.mean if subspace is None else np.zeros(theta_ND.shape[1])
        return Population(np.vstack([theta_ND, mean]), subspace)

    def tell(self, population: Population, judged: Judgement) -> None:
        """Hand the strategy what was found, and count what that has cost."""
        self.count(judged.cost)
        started = time.perf_counter()
        self.strategy.tell(population.theta_ND[:-1], judged.fitness_N, judged.step_scale, judged.divergence)
        self._seconds_update = time.perf_counter() - started

    def describe(self, judged: Judgement, cost: Cost) -> dict[str, Any]:
        """The row of a generation, by its last step; warns when it carries no information."""
        state = self.state
        failed = cost.timeouts + cost.crashes
        if failed >= FAILED_WARNING * cost.num_completions and not state.warned_of_failures:
            state.warned_of_failures = True
            self._progress.say(
                f"Warning: the reward hung or killed its process on {failed} of {cost.num_completions} "
                "completions, which score scoring.failure_score; try it with `evolign check`."
            )
        flat = judged.metrics["fitness_max"] == judged.metrics["fitness_min"]
        state.flat = state.flat + 1 if flat else 0
        if state.flat == FLAT_WARNING:
            self._progress.say(_flat_warning(judged.metrics["fitness_of_mean"]))
        return judged.metrics | {
            "sigma": self.strategy.sigma,
            "seconds_update": self._seconds_update,
            "reward_timeouts": cost.timeouts,
            "reward_crashes": cost.crashes,
            "peak_memory_bytes": peak_memory_bytes(),
        }

    def validation_is_due(self) -> bool:
        """Every few generations, and after the last one."""
        every = self._config.evaluation.every
        return self.state.generation % every == 0 or bool(self.stop_reason())

    def validate(self) -> dict[str, float]:
        """Judge the mean on the validation prompts and keep it if it is the best so far."""
        started = time.perf_counter()
        config, state, mean_D = self._config, self.state, self.strategy.mean
        found = evaluate_split(config, self._task, "validation", self._engine, self._scorer, mean_D)
        state.validation_completions += found.num_completions
        state.count_failures(found)
        if not state.best or self._rank(found.metrics) > self._rank(state.best):
            state.best, state.best_generation, self.best_theta_D = (
                found.metrics,
                state.generation,
                mean_D,
            )
        stamp = {"generation": state.generation, "split": "validation"}
        keep_samples(config, self._run, found, stamp, per_decoding=False)
        state.seconds += time.perf_counter() - started
        return {f"eval/{name}": value for name, value in found.metrics.items()}

    def record(self, row: Mapping[str, Any]) -> None:
        """Log the generation and write its checkpoint."""
        state = self.state
        totals = ("generation", "completions", "generated_tokens", "seconds")
        row = {name: getattr(state, name) for name in totals} | dict(row)
        self._run.append("metrics.jsonl", [row])
        arrays = self.strategy.state_dict() | {"best_theta_D": self.best_theta_D}
        self._run.save(state.generation, asdict(state), arrays)
        self._progress.record(row)

    def _rank(self, metrics: Mapping[str, float]) -> tuple[float, ...]:
        return tuple(metrics[name] for name in self._ranking)


def _flat_warning(fitness: float) -> str:
    cause = (
        "the task may be too hard for the model, sampling.max_new_tokens too small, or the reward may not "
        "read the answers (see samples.jsonl and `evolign check`)"
        if fitness <= 0
        else "the task may be solved already, or strategy.sigma too small to change any completion (see "
        "change_rate in metrics.jsonl)"
    )
    return (
        f"Warning: all candidates had the same fitness ({fitness:.3g}) for {FLAT_WARNING} generations, so "
        f"there is nothing to learn from: {cause}."
    )
