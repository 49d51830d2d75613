"""The rows of a run as transformers' callbacks know them: state, logs, and whether to stop."""

import math
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from transformers import DefaultFlowCallback, TrainerControl, TrainerState
from transformers.trainer_callback import CallbackHandler

from evolign.rewards.weighted import METRIC, SPREAD
from evolign.runs.directory import read_rows
from evolign.runs.phases import Phase
from evolign.runs.progress import Progress
from evolign.trl.config import EvolutionConfig

AS_IN_TRL = {
    "fitness_of_mean": "reward",
    "truncated": "completions/clipped_ratio",
    "generated_tokens": "num_tokens",
}
"""Metrics of a generation that GRPOTrainer logs under another name."""
EVALUATION = "eval/"
Logs = dict[str, Any]


def training_logs(row: Mapping[str, Any]) -> Logs:
    """What `on_log` gets of a generation: its row, with TRL's names where they mean the same."""
    logs = {_as_in_trl(name, row): value for name, value in row.items() if not name.startswith(EVALUATION)}
    if "informative" in logs:
        logs["frac_reward_zero_std"] = 1 - logs["informative"]
    return logs


def _as_in_trl(name: str, row: Mapping[str, Any]) -> str:
    """The name that TRL gives to a metric of a row."""
    if not name.startswith(METRIC):
        return AS_IN_TRL.get(name, name)
    reward = name.removeprefix(METRIC)
    if name + SPREAD in row:
        return f"rewards/{reward}/mean"
    return f"rewards/{reward.removesuffix(SPREAD)}/std"


def evaluation_logs(metrics: Mapping[str, float], best: str, prefix: str = "eval") -> Logs:
    """Metrics as `evaluate` returns them; `<prefix>_reward` is the metric that selects, named `best`."""
    logs: Logs = {f"{prefix}_{name}": value for name, value in metrics.items()}
    return logs | ({f"{prefix}_reward": metrics[best]} if best in metrics else {})


class Reporter:
    """The progress of a run for transformers' callbacks, and for `shown` too.

    One generation is one step: on_step_begin, on_step_end, then on_log, on_evaluate and on_save as due.
    A callback that sets `control.should_training_stop` ends the run at the checkpoint of that generation.
    """

    def __init__(
        self,
        args: EvolutionConfig,
        state: TrainerState,
        control: TrainerControl,
        handler: CallbackHandler,
        *,
        shown: Progress,
        best: str,
        per_epoch: int,
    ) -> None:
        self._args, self._state, self._control, self._handler = args, state, control, handler
        self._shown, self._best, self._per_epoch = shown, best, per_epoch
        self._begun = False

    def say(self, text: str) -> None:
        """See `Progress.say`."""
        self._shown.say(text)

    def begin(self, total: int, max_minutes: float | None = None) -> None:
        """See `Progress.begin`; the log of a resumed run begins with what it had logged before."""
        if not self._state.log_history:
            self._restore()
        self._start()
        self._shown.begin(total, max_minutes)

    def record(self, row: Mapping[str, Any]) -> bool:
        """See `Progress.record`."""
        self._start()
        self._shown.record(row)
        self._count(row)
        if self._state.global_step:
            self._call(self._handler.on_step_begin)
            self._call(self._handler.on_step_end)
            self._end_epoch()
            if self._control.should_log:
                self.log(training_logs(row))
        if evaluated := self._evaluated(row):
            self.log(evaluated)
            self._call(self._handler.on_evaluate, metrics=evaluated)
            self._remember_best(evaluated)
        if self._control.should_save:
            self._call(self._handler.on_save)
        return bool(self._control.should_training_stop)

    def phase(self, name: str, total: int | None = None, unit: str = "") -> AbstractContextManager[Phase]:
        """See `Progress.phase`."""
        return self._shown.phase(name, total, unit)

    def log(self, logs: Logs) -> None:
        """Append to the log, and call `on_log`."""
        self._note(logs)
        self._call(self._handler.on_log, logs=dict(self._state.log_history[-1]))

    def _restore(self) -> None:
        """Log once more what a resumed run had logged, without calling anyone."""
        for row in read_rows(Path(self._args.output_dir) / "metrics.jsonl"):
            self._count(row)
            flow = DefaultFlowCallback().on_step_end(self._args, self._state, TrainerControl())
            if flow.should_log and self._state.global_step:
                self._note(training_logs(row))
            if evaluated := self._evaluated(row):
                self._note(evaluated)
                self._remember_best(evaluated)

    def _start(self) -> None:
        """Call on_train_begin, once the run directory is there: trackers write into it."""
        if not self._begun:
            self._begun = True
            self._call(self._handler.on_train_begin)
            self._call(self._handler.on_epoch_begin)

    def _end_epoch(self) -> None:
        if self._state.global_step % self._per_epoch == 0:
            self._call(self._handler.on_epoch_end)
            if self._state.global_step < self._state.max_steps:
                self._call(self._handler.on_epoch_begin)

    def _count(self, row: Mapping[str, Any]) -> None:
        self._state.global_step = row["generation"]
        self._state.epoch = row["generation"] / self._per_epoch
        self._state.num_input_tokens_seen = row["generated_tokens"]

    def _evaluated(self, row: Mapping[str, Any]) -> Logs:
        metrics = {
            name.removeprefix(EVALUATION): row[name]
            for name in row
            if name.startswith(EVALUATION) and not isinstance(row[name], str)
        }
        return evaluation_logs(metrics, self._best) if metrics else {}

    def _remember_best(self, evaluated: Logs) -> None:
        score = evaluated.get("eval_reward", math.nan)
        if self._state.best_metric is None or score > self._state.best_metric:
            self._state.best_metric, self._state.best_global_step = score, self._state.global_step

    def _note(self, logs: Logs) -> None:
        self._state.log_history.append(logs | {"epoch": self._state.epoch, "step": self._state.global_step})

    def _call(self, event: Callable[..., TrainerControl], **more: Any) -> None:
        self._control = event(self._args, self._state, self._control, **more)
