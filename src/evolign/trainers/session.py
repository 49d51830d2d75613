"""The state of a training run: its costs, its best weights, and their checkpoints."""

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from evolign.config import GradientConfig
from evolign.engines import Engine
from evolign.evaluation.evaluate import Evaluation, evaluate_split, ranking
from evolign.evaluation.result import keep_samples, reported_split, summarise
from evolign.rewards.calling import TrainerState
from evolign.rewards.scores import Scores, added, averages, beside, part_metrics
from evolign.rewards.scoring import Scorer, TokenIds
from evolign.runs.access import writing
from evolign.runs.directory import RunDir
from evolign.runs.progress import ASKED, Progress
from evolign.runs.provenance import peak_memory_bytes
from evolign.runs.record import foreign, typed
from evolign.runs.tally import Count, Tally
from evolign.tasks.base import Task, ids
from evolign.trainers.checkpoints import best_file, prune, restore, seal
from evolign.trainers.trainable import Trainable
from evolign.types import Example, Population, Rollouts, Sampling

POLICY = Population.of_mean()
"""The live model: a population of one."""


@dataclass(kw_only=True)
class State(Tally):
    """What a checkpoint holds beside weights and optimiser: all of it is JSON."""

    baseline: dict[str, float] = field(default_factory=dict)
    """Metrics of the starting point on the reported split."""
    step: Count = 0
    """Optimiser steps that are done."""
    best_step: Count = 0
    best: dict[str, float] = field(default_factory=dict)
    """Validation metrics of the best step so far."""
    stopped: str = ""
    """Which limit has ended training."""


RAISABLE = ("max_completions", "max_minutes", "target")
"""Limits that do not shape the learning rate."""


class Session(ABC):
    """State and records of one training run, restored from and saved to the run directory."""

    def __init__(
        self, config: GradientConfig, run: RunDir, task: Task, trainable: Trainable, progress: Progress
    ) -> None:
        self.config, self.run, self.task = config, run, task
        self.trainable, self.progress = trainable, progress
        saved = restore(run)
        for warning in run.warnings:
            progress.say(f"Warning: {warning}")
        self.checkpoint = saved[0] if saved else None
        """The Trainer's folder to resume from."""
        self.state = self._state(*saved) if saved else State()
        run.rewind()
        prune(run)
        self.steps_in_all = 0
        self.epoch = 0.0
        """Passes over the rows so far, as the Trainer counts them."""
        self.asked_to_stop = False
        """Whether the progress has asked the run to stop: it ends, but it is not finished."""
        self._clock = 0.0
        self._row: dict[str, Any] = {}
        self._logged: dict[str, float] = {}
        """What rewards logged in the current step."""

    def _state(self, folder: Path, values: dict[str, Any]) -> State:
        """The state in a checkpoint, which must be of its step."""
        state = typed(State, values, folder)
        if folder.name != f"checkpoint-{state.step}" or state.best_step > state.step:
            raise foreign(folder, f"it is of step {state.step}, the best {state.best_step}")
        return state

    @abstractmethod
    def evaluate(self, split: str) -> Evaluation:
        """Evaluate the model on a split of the task."""

    @property
    @abstractmethod
    def metric(self) -> str:
        """The name of the metric in result.json."""

    @property
    @abstractmethod
    def ranking(self) -> list[str]:
        """The metrics that select the exported weights, the deciding one first."""

    def start(self, steps_in_all: int) -> None:
        """Evaluate the starting point of a new run, or say where a resumed one continues."""
        self.steps_in_all = steps_in_all
        self.progress.begin(steps_in_all, self.config.training.max_minutes)
        if self.checkpoint is not None:
            self.progress.say(f"Resuming after step {self.state.step}.")
        else:
            self.state.baseline = self._test("baseline").metrics
            self._clock = time.perf_counter()
            first = self.validate()
            self._tick()
            self._record(first)
        self._clock = time.perf_counter()

    def note(self, **metrics: float) -> None:
        """Add to the row of the current step."""
        self._row |= metrics

    def add(self, **parts: float) -> None:
        """Sum metrics of the current step over its micro-batches."""
        self.note(**{name: self._row.get(name, 0.0) + value for name, value in parts.items()})

    def end_step(self, step: int) -> None:
        """Count a step and evaluate the model if due; `state.stopped` names the limit that was reached."""
        state = self.state
        state.step = step
        self._tick()
        state.stopped = self._reached_limit()
        if step % self.config.evaluation.every == 0 or state.stopped:
            self._row |= self.validate()
            state.stopped = state.stopped or self._reached_target()
            self._tick()

    def log(self, logs: dict[str, float]) -> None:
        """Write the row of the step that has just ended."""
        named = ("loss", "grad_norm", "learning_rate", "epoch")
        row = {name: float(logs[name]) for name in named if name in logs} | self._row
        self._row = {}
        self._record({name: value for name, value in row.items() if math.isfinite(value)})

    def save(self, step: int) -> None:
        """Seal the Trainer's checkpoint of `step`."""
        seal(self.run, step, asdict(self.state))

    def resume(self) -> None:
        """Go on where a cost limit or the target ended training, and was raised since."""
        state, limits = self.state, self.config.training
        if state.stopped.startswith(tuple(f"{name} = " for name in RAISABLE)):
            state.stopped = state.reached(limits) or self._reached_target()

    def _reached_limit(self) -> str:
        limits, state = self.config.training, self.state
        if state.step >= self.steps_in_all:
            return f"max_steps = {limits.max_steps}" if limits.max_steps else f"epochs = {limits.epochs:g}"
        return state.reached(limits)

    def validate(self) -> dict[str, float]:
        """Evaluate the model on the validation prompts and keep its weights if it is the best so far."""
        state = self.state
        with self.progress.phase("validation"):
            found = self.evaluate("validation")
        state.validation_completions += found.cost.completions
        if not state.best or self._rank(found.metrics) > self._rank(state.best):
            state.best, state.best_step = found.metrics, state.step
            with writing(self.run.path):
                self.trainable.save(best_file(self.run, state.step))
        keep_samples(
            self.config, self.run, found, {"step": state.step, "split": "validation"}, per_decoding=False
        )
        return {f"eval/{name}": value for name, value in found.metrics.items()}

    def finish(self) -> dict[str, Any]:
        """Restore the best weights and evaluate them; return the fields of result.json."""
        state = self.state
        stopped = state.stopped or ASKED
        self.trainable.load(best_file(self.run, state.best_step))
        split = reported_split(self.task)
        self.progress.say(
            f"Stopped at {stopped}. Testing on {len(getattr(self.task, split))} {split} prompts."
        )
        final = self._test("final")
        return summarise(
            self.config,
            self.task,
            {"baseline": state.baseline, "final": final.metrics},
            self.metric,
            exported_step=state.best_step,
            validation=state.best,
            stopped=stopped,
            trainable_parameters=sum(p.numel() for p in self.trainable.parameters().values()),
            steps=state.step,
            **state.costs(),
        )

    def _test(self, stage: str) -> Evaluation:
        with self.progress.phase(f"{stage} test"):
            found = self.evaluate(reported_split(self.task))
        stamp = {"step": self.state.step, "split": reported_split(self.task), "stage": stage}
        keep_samples(self.config, self.run, found, stamp)
        return found

    def _record(self, row: dict[str, Any]) -> None:
        totals = ("step", "completions", "generated_tokens", "seconds")
        row = {name: getattr(self.state, name) for name in totals} | row
        row["peak_memory_bytes"] = peak_memory_bytes()
        row, self._logged = beside(row, self._logged), {}
        self.run.append("metrics.jsonl", [row])
        self.asked_to_stop = bool(self.progress.record(row)) or self.asked_to_stop

    def _tick(self) -> None:
        """Count the time since the last tick."""
        now = time.perf_counter()
        self.state.seconds += now - self._clock
        self._clock = now

    def _reached_target(self) -> str:
        target = self.config.training.target
        reached = target is not None and self.state.best[self.ranking[0]] >= target
        return f"target = {target}" if reached else ""

    def _rank(self, metrics: dict[str, float]) -> tuple[float, ...]:
        return tuple(metrics[name] for name in self.ranking)


class PolicySession(Session):
    """The session of a method that trains a policy; the engine samples from it, also to evaluate it."""

    def __init__(
        self,
        config: GradientConfig,
        run: RunDir,
        task: Task,
        trainable: Trainable,
        progress: Progress,
        *,
        engine: Engine,
        scorer: Scorer,
    ) -> None:
        super().__init__(config, run, task, trainable, progress)
        self._engine, self._scorer = engine, scorer
        self._step_scores: list[Scores] = []

    def sample(self, examples: Sequence[Example], sampling: Sampling) -> Rollouts:
        """Completions of `examples` by the model as it stands, counted: shape (1, P, S)."""
        with self.trainable.inference():
            rollouts = self._engine.generate(POLICY, [ids(examples)], sampling)
        self.state.add(rollouts.cost)
        return rollouts

    def score(
        self, examples: Sequence[Example], completions: Sequence[str], token_ids: TokenIds
    ) -> np.ndarray:
        """The reward of every completion, NaN where it does not apply; goes into the step's row."""
        self._tell_rewards()
        scores = self._scorer.score(examples, completions, token_ids)
        self.state.add_failures(scores.cost)
        self._step_scores.append(scores)
        self._watch(scores.values)
        return scores.values

    def log(self, logs: dict[str, float]) -> None:
        """See `Session.log`."""
        rewards = np.concatenate([*(scores.values for scores in self._step_scores), [np.nan]])
        if not np.isnan(rewards).all():
            self.note(reward_mean=float(np.nanmean(rewards)))
        if self._step_scores:
            parts = {
                name: np.concatenate([scores.parts[name] for scores in self._step_scores])
                for name in self._step_scores[0].parts
            }
            self.note(**part_metrics(parts))
        self._logged = averages(added(scores.logged for scores in self._step_scores))
        self._step_scores = []
        super().log(logs)

    def evaluate(self, split: str) -> Evaluation:
        """See `Session.evaluate`."""
        self._tell_rewards()
        with self.trainable.inference():
            found = evaluate_split(self.config, self.task, split, self._engine, self._scorer, POLICY)
        self.state.add_failures(found.cost)
        self._watch(found.scores)
        return found

    def _tell_rewards(self) -> None:
        """Tell them where the run stands."""
        self._scorer.at(TrainerState(self.state.step, self.steps_in_all, self.epoch))

    def _watch(self, rewards: Iterable[float]) -> None:
        """Warn, once, where the first rewards of the run are all equal."""
        if warning := self.state.watch(rewards):
            self.progress.say(f"Warning: {warning}.")

    @property
    def metric(self) -> str:
        """See `Session.metric`."""
        return self.task.metric

    @property
    def ranking(self) -> list[str]:
        """See `Session.ranking`."""
        return ranking(self.config.evaluation, self.task.metric)
