"""The state of a search: strategy, best mean and counters, saved in the run directory's checkpoints."""

import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from evolign.config import EvolutionConfig
from evolign.engines import Engine, Reports
from evolign.evaluation.evaluate import evaluate_split, ranking
from evolign.evaluation.result import keep_samples
from evolign.evolution.fitness import Fitness, FitnessValues
from evolign.evolution.prompts import spread
from evolign.policy.spaces.base import SearchSpace
from evolign.rewards.calling import TrainerState
from evolign.rewards.scores import beside
from evolign.rewards.scoring import Scoring
from evolign.runs.directory import RunDir
from evolign.runs.progress import ASKED, Progress
from evolign.runs.provenance import peak_memory_bytes
from evolign.runs.record import foreign, typed
from evolign.runs.tally import Count, Tally
from evolign.strategies import build_strategy
from evolign.strategies.base import Strategy
from evolign.strategies.mean import Mean
from evolign.tasks.base import Task
from evolign.types import Cost, Direction, Population

FAILED_WARNING = 0.5
"""Share of a generation's rewards that hang or crash before the user is warned, once."""
FLAT_WARNING = 5
"""Generations in a row without any difference in fitness before the user is warned."""


@dataclass(kw_only=True)
class State(Tally):
    """What a checkpoint holds beside the strategy's own state: all of it is JSON."""

    initial_sigma: Annotated[float, Field(gt=0)]
    """Initial step size, given or calibrated."""
    calibration: dict[str, int | float] | None = None
    """How it was calibrated; None where it was given."""
    generation: Count = 0
    """Generations that are done."""
    warned_of_failures: bool = False
    flat: Count = 0
    """Generations in a row in which all candidates had the same fitness."""
    best_generation: Count = 0
    best: dict[str, float] = field(default_factory=dict)
    """Validation metrics of the best mean so far."""


class Search:
    """The state of a search, which the loop advances: strategy, mean, best mean and counters."""

    def __init__(
        self,
        config: EvolutionConfig,
        run: RunDir,
        task: Task,
        engine: Engine,
        scorer: Scoring,
        space: SearchSpace,
        progress: Progress,
    ) -> None:
        self._config, self._run, self._task = config, run, task
        self._engine, self._scorer, self._space, self._progress = engine, scorer, space, progress
        self._ranking = ranking(config.evaluation, task.metric)
        self._seconds_update = 0.0
        self._asked_to_stop = False
        self._logged: dict[str, float] = {}
        self._population = Population.of_mean()
        self.mean = Mean(space.dim)
        self.best_theta_D = np.zeros(space.dim)
        self.state: State
        self.strategy: Strategy

    def start(self, fitness: Fitness[Any, Any]) -> None:
        """Resume from the newest checkpoint, or calibrate and validate the starting point."""
        saved = self._run.restore()
        for warning in self._run.warnings:
            self._progress.say(f"Warning: {warning}")
        if not saved:
            self._run.rewind()
        self.state = typed(State, saved[1], saved[0]) if saved else self._calibrated(fitness)
        self.strategy = build_strategy(
            self._config.strategy,
            self._space.subspace_dim or self._space.dim,
            self.state.initial_sigma,
            self._config.seed,
            self._space.subspace_dim is not None,
        )
        if saved:
            self._restore(*saved[::2])
            self._run.rewind()
            self._progress.say(f"Resuming after generation {self.state.generation}.")
        else:
            self.record(self.validate())
        limits = self._config.evolution
        self._progress.begin(limits.generations, limits.max_minutes)

    def _calibrated(self, fitness: Fitness[Any, Any]) -> State:
        sigma = self._config.strategy.sigma
        if sigma != "auto":
            return State(initial_sigma=sigma)
        calibration = fitness.calibrate(self._space, self._progress)
        found = calibration.found
        self._progress.say(
            f"sigma = {found.sigma:.3g} (calibrated: {calibration.words}; {found.measurements} step sizes, "
            f"{calibration.rows:,} rows, {found.seconds:.0f} s)"
        )
        state = State(initial_sigma=found.sigma, calibration=calibration.facts(), seconds=found.seconds)
        state.add(calibration.cost)
        return state

    def _restore(self, path: Path, arrays: dict[str, np.ndarray]) -> None:
        """Set strategy, mean and best mean to those of the checkpoint `path`, here and in the engine."""
        state = self.state
        if path.name != f"{state.generation:08d}.npz" or state.best_generation > state.generation:
            raise foreign(path, f"it is of generation {state.generation}, best {state.best_generation}")
        new = self.arrays()
        for name, array in arrays.items():
            if array.dtype.kind not in "iuf":
                raise foreign(path, f"{name} holds no numbers")
            if name not in new or (not np.isfinite(array).all() and np.isfinite(new[name]).all()):
                raise foreign(path, f"{name} is not finite" if name in new else f"there is no {name}")
        if arrays.keys() != new.keys() or arrays["best_theta_D"].shape != new["best_theta_D"].shape:
            raise foreign(path, "it is of another search space or strategy")
        self.best_theta_D = arrays.pop("best_theta_D")
        mean = {name: arrays.pop(f"mean/{name}") for name in self.mean.state_dict()}
        self.mean.load_state_dict(mean)
        self._engine.place(mean)
        self.strategy.load_state_dict(arrays)

    def arrays(self) -> dict[str, np.ndarray]:
        """What a checkpoint holds beside the state."""
        arrays = self.strategy.state_dict() | {"best_theta_D": self.best_theta_D}
        return arrays | {f"mean/{name}": array for name, array in self.mean.state_dict().items()}

    def begin(self) -> tuple[int, int]:
        """Begin the next generation: the version of the mean, and the generation's number."""
        self._tell_rewards()
        self.state.generation += 1
        return self.mean.version, self.state.generation

    def stop_reason(self) -> str:
        """The limit that has been reached, or `ASKED`; empty if none.

        Costs end no run before its first step.
        """
        limits, state = self._config.evolution, self.state
        if state.generation >= limits.generations:
            return f"generations = {limits.generations}"
        if limits.target is not None and state.best[self._ranking[0]] >= limits.target:
            return f"target = {limits.target}"
        reached = state.reached(limits) if state.generation else ""  # whatever calibration has cost
        return reached or (ASKED if self._asked_to_stop else "")

    def ask(self) -> Population:
        """The candidates of a step, and the mean beside them."""
        strategy = self.strategy
        self._population = Population(
            strategy.ask(), strategy.subspace, with_mean=True, version=self.mean.version
        )
        return self._population

    def direction(self, values: FitnessValues) -> Direction | None:
        """Where the strategy would move the mean, if it has to know how far a step goes; else None."""
        direction = self.strategy.direction(self._population.theta_NK, values.fitness_N)
        if direction is None or direction.scale is not None:
            return direction
        step_D = self._space.lift(self.mean.point, self._population.subspace, direction.step_K)
        as_long_as_a_candidate = self.strategy.sigma * np.sqrt(len(step_D)) / np.linalg.norm(step_D)
        return replace(direction, scale=float(as_long_as_a_candidate))

    def move(self, values: FitnessValues, divergence: float | None) -> None:
        """Let the strategy learn, and move the mean here and in the engine; count what the fitness cost."""
        self.state.add(values.cost)
        started = time.perf_counter()
        move = self.strategy.tell(self._population.theta_NK, values.fitness_N, values.step_scale, divergence)
        if move is not None:
            self.mean.follow(move, self._space.lift)
            self._engine.move(move)
        self._seconds_update = time.perf_counter() - started

    def describe(self, values: FitnessValues, cost: Cost) -> dict[str, Any]:
        """The row of metrics.jsonl for a generation, from its last step. Warns if fitness was flat."""
        state = self.state
        failed = cost.timeouts + cost.crashes
        if failed >= FAILED_WARNING * cost.completions and not state.warned_of_failures:
            state.warned_of_failures = True
            self._progress.say(
                f"Warning: the reward hung or killed its process on {failed} of {cost.completions} "
                "completions, which score scoring.failure_score; try it with `evolign check`."
            )
        state.flat = state.flat + 1 if np.ptp(values.fitness_N) == 0 else 0
        self._watch(values.reward_range, cost.completions)
        self._logged = values.logged
        if state.flat == FLAT_WARNING and not state.all_equal:
            self._progress.say(_flat_warning(values.fitness_of_mean))
        return (
            values.metrics
            | spread(values.fitness_N)
            | {
                "fitness_of_mean": values.fitness_of_mean,
                "sigma": self.strategy.sigma,
                "seconds_update": self._seconds_update,
                "reward_timeouts": cost.timeouts,
                "reward_crashes": cost.crashes,
                "peak_memory_bytes": peak_memory_bytes(),
            }
            | dict(self._engine.report() if isinstance(self._engine, Reports) else {})
        )

    def _tell_rewards(self) -> None:
        """Tell them where the run stands."""
        limits, done = self._config.evolution, self.state.generation
        epoch = done * limits.prompts_per_generation / len(self._task.train)
        self._scorer.at(TrainerState(done, limits.generations, epoch))

    def _watch(self, rewards: Iterable[float], count: int | None = None) -> None:
        """Warn, once, where the first rewards of the run are all equal."""
        if warning := self.state.watch(rewards, count):
            self._progress.say(f"Warning: {warning}.")

    def validation_is_due(self) -> bool:
        """Every few generations, and after the last one."""
        every = self._config.evaluation.every
        return self.state.generation % every == 0 or bool(self.stop_reason())

    def validate(self) -> dict[str, float]:
        """Evaluate the mean on the validation prompts and keep it if it is the best so far."""
        started = time.perf_counter()
        config, state = self._config, self.state
        self._tell_rewards()
        mean = Population.of_mean(self.mean.version)
        with self._progress.phase("validation"):
            found = evaluate_split(config, self._task, "validation", self._engine, self._scorer, mean)
        state.add_validation(found.cost)
        self._watch(found.scores)
        if not state.best or self._rank(found.metrics) > self._rank(state.best):
            state.best, state.best_generation, self.best_theta_D = (
                found.metrics,
                state.generation,
                self.mean.point.copy(),
            )
        stamp = {"generation": state.generation, "split": "validation"}
        keep_samples(config, self._run, found, stamp, per_decoding=False)
        state.seconds += time.perf_counter() - started
        return {f"eval/{name}": value for name, value in found.metrics.items()}

    def record(self, row: Mapping[str, Any]) -> None:
        """Log the generation and write its checkpoint."""
        state = self.state
        totals = ("generation", "completions", "generated_tokens", "seconds")
        row = beside({name: getattr(state, name) for name in totals} | dict(row), self._logged)
        self._logged = {}
        self._run.append("metrics.jsonl", [row])
        self._run.save(state.generation, asdict(state), self.arrays())
        self._asked_to_stop = bool(self._progress.record(row))

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
