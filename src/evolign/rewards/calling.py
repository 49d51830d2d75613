"""One call of a task's rewards, as TRL's GRPOTrainer makes it: what they are given, and what they give back.

    reward(prompts, completions, completion_ids, trainer_state, log_metric, log_extra, **columns)

Functions run one after the other, and async ones side by side after them. This module is imported by the
processes of rewards, so it imports nothing heavy.
"""

import asyncio
import inspect
import json
import math
import numbers
import traceback
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from evolign.errors import RewardError, said, shown
from evolign.messages import LARGEST_REWARD

TRACEBACK_LINES = 30
LONGEST_LINE = 1000
"""Characters of a line of a traceback: its last one is whatever the reward's exception says."""
LARGEST_LOG = 2**22
"""Bytes of what one call hands to `log_extra`, as JSON."""
MOST_METRICS = 256
LONGEST_LABEL = 100
"""Characters of the name of a metric or a column."""
CONTRACT = (
    "a reward returns a list with one finite number (at most 1e15, so that squares fit into float32) or None "
    "per completion"
)
OFFERED = frozenset({"completion_ids", "trainer_state", "log_metric", "log_extra"})
"""What a reward gets beside prompts, completions and columns, if it takes arguments of these names."""

Function = Callable[..., Any]
Cell = str | int | float | bool | None


@dataclass(frozen=True)
class TrainerState:
    """Where the run stands, by the names of transformers' TrainerState."""

    global_step: int = 0
    """Generations, or optimiser steps, that are done."""
    max_steps: int = 1
    """How many there will be at most; 1 outside a run, so that it can be divided by."""
    epoch: float = 0.0
    """Passes over the training rows so far."""
    is_world_process_zero: bool = True
    is_local_process_zero: bool = True

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # Python's own questions, as those of copy and pickle
            raise AttributeError(name)
        raise AttributeError(f"trainer_state has {', '.join(asdict(self))} here, and no {name}")


@dataclass(frozen=True)
class Batch:
    """The completions of one call: lists of equal length."""

    prompts: list[Any]
    completions: list[Any]
    columns: dict[str, list[Any]] = field(default_factory=dict)
    completion_ids: list[list[int]] | None = None
    """None where only texts are known; then it is not passed."""
    state: TrainerState = TrainerState()


@dataclass(frozen=True)
class Answer:
    """What one call gave."""

    values: list[list[float | None]]
    """Of every reward, one value per completion."""
    metrics: dict[str, float] = field(default_factory=dict)
    """The mean of what was given to `log_metric`, by name."""
    columns: dict[str, list[Cell]] = field(default_factory=dict)
    """What was given to `log_extra`, by column."""


def call_rewards(rewards: Mapping[str, Function], batch: Batch) -> Answer:
    """Call the rewards, which are given by name; RewardError if one breaks its contract."""
    count, log = len(batch.completions), Log()
    returned: dict[str, Any] = {}
    try:
        for name, function in rewards.items():
            returned[name] = _called(function, name, batch, log)
    except RewardError:
        for value in filter(inspect.iscoroutine, returned.values()):  # or Python warns that it was forgotten
            value.close()
        raise
    if waiting := {name: value for name, value in returned.items() if inspect.isawaitable(value)}:
        try:
            returned |= asyncio.run(_gathered(waiting, batch))
        except RuntimeError as error:  # of a loop that a reward has left running
            raise _raised(error, ", ".join(waiting), batch) from error
    values = [_values(value, count, name) for name, value in returned.items()]
    return Answer(values, log.means(), log.of(count))


class Log:
    """What rewards hand to `log_metric` and `log_extra` in one call."""

    def __init__(self) -> None:
        self._metrics: dict[str, list[float]] = {}
        self._columns: dict[str, list[Cell]] = {}

    def metric(self, name: str, value: float) -> None:
        """TRL's log_metric; what is not finite is left out, as everywhere in metrics.jsonl."""
        plain = value.item() if hasattr(value, "item") else value
        if not isinstance(plain, numbers.Real):
            raise TypeError(f"log_metric({name!r}, {shown(value)}): the value must be a number")
        if math.isfinite(plain):
            self._metrics.setdefault(_label(name), []).append(float(plain))

    def extra(self, column: str, values: Iterable[Any]) -> None:
        """TRL's log_extra: values, one per completion of the call, in one piece or several."""
        self._columns.setdefault(_label(column), []).extend(map(_cell, values))

    def means(self) -> dict[str, float]:
        """The metrics; RewardError for too many."""
        if len(self._metrics) > MOST_METRICS:
            raise RewardError(f"rewards logged {len(self._metrics)} metrics; log at most {MOST_METRICS}")
        means = {name: math.fsum(values) / len(values) for name, values in self._metrics.items()}
        return {name: mean for name, mean in means.items() if math.isfinite(mean)}

    def of(self, count: int) -> dict[str, list[Cell]]:
        """The columns, which must have `count` values; else RewardError."""
        for column, values in self._columns.items():
            if len(values) != count:
                raise RewardError(
                    f"log_extra({column!r}, ...) was given {len(values)} values for {count} completions; "
                    "give one for each"
                )
        if self._columns and (size := len(json.dumps(self._columns))) > LARGEST_LOG:
            raise RewardError(
                f"log_extra was given {size:,} bytes for {count} completions; log at most "
                f"{LARGEST_LOG:,}, or lower scoring.chunk_size"
            )
        return self._columns


def checked_values(returned: Any, expected: int, name: str) -> list[float | None]:
    """`returned` as plain floats; RewardError if it is not what a reward must return.

    Arrays and tensors of one dimension pass for lists, as they do in TRL.
    """
    values = returned.tolist() if hasattr(returned, "tolist") else returned
    if not isinstance(values, Sequence) or isinstance(values, str | bytes):
        raise RewardError(f"the reward {name!r} returned {_shown(returned)}; {CONTRACT}")
    if len(values) != expected:
        raise RewardError(
            f"the reward {name!r} returned {len(values)} values for {expected} completions; {CONTRACT}"
        )
    return [_number(value, position, name) for position, value in enumerate(values)]


def _values(returned: Any, expected: int, name: str) -> list[float | None]:
    try:
        return checked_values(returned, expected, name)
    except RewardError:
        raise
    except BaseException as error:  # whatever the objects that it returned raise when they are looked at
        raise RewardError(
            f"the reward {name!r} returned {_shown(returned)}, which raised {type(error).__name__} when it "
            f"was read: {said(error)}; {CONTRACT}"
        ) from error


def _called(function: Function, name: str, batch: Batch, log: Log) -> Any:
    """What the function returns, which may have to be awaited."""
    offered = {
        "completion_ids": batch.completion_ids,
        "trainer_state": batch.state,
        "log_metric": log.metric,
        "log_extra": log.extra,
    }
    taken = _accepted(function) - ({"completion_ids"} if batch.completion_ids is None else set())
    given = batch.columns | {key: value for key, value in offered.items() if key in taken}
    try:
        return function(prompts=batch.prompts, completions=batch.completions, **given)
    except BaseException as error:  # sys.exit in a reward is the reward's failure, not the worker's
        raise _raised(error, name, batch) from error


def _accepted(function: Function) -> frozenset[str]:
    """Which of the arguments that are offered the function takes: TRL passes all, ours may do without."""
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError):  # of a function in C
        return OFFERED
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        return OFFERED
    return OFFERED & parameters.keys()


async def _gathered(waiting: Mapping[str, Awaitable[Any]], batch: Batch) -> dict[str, Any]:
    async def result(name: str, awaitable: Awaitable[Any]) -> Any:
        try:
            return await awaitable
        except BaseException as error:
            raise _raised(error, name, batch) from error

    values = await asyncio.gather(*(result(name, awaitable) for name, awaitable in waiting.items()))
    return dict(zip(waiting, values, strict=True))


def _raised(error: BaseException, name: str, batch: Batch) -> RewardError:
    shown = ", ".join(batch.columns) or "none"
    return RewardError(
        f"the reward {name!r} raised {type(error).__name__}: {said(error)}. It is called as"
        f" f(prompts=..., completions=..., **columns); the columns here: {shown}.\n" + _shown_traceback(error)
    )


def _number(value: Any, position: int, name: str) -> float | None:
    if value is None:
        return None
    plain = value.item() if hasattr(value, "item") else value
    try:
        number = float(plain) if isinstance(plain, numbers.Real) else math.nan
    except OverflowError:
        number = math.inf
    if not abs(number) <= LARGEST_REWARD:
        raise RewardError(
            f"the reward {name!r} returned {_shown(value)} for completion {position}; {CONTRACT}"
        )
    return number


def _label(name: Any) -> str:
    return _plain(str(name))[:LONGEST_LABEL]


def _cell(value: Any) -> Cell:
    """A value of a column: plain ones as they are, everything else as its text."""
    plain = value.item() if hasattr(value, "item") and getattr(value, "ndim", 0) == 0 else value
    if plain is None or isinstance(plain, bool | int):
        return plain
    if isinstance(plain, float):
        return plain if math.isfinite(plain) else None
    return _plain(str(plain))


def _plain(text: str) -> str:
    """A text that can be written: without halves of characters."""
    return text.encode(errors="replace").decode()


def _shown(value: Any) -> str:
    return f"{shown(value)} ({type(value).__name__})"


def _shown_traceback(error: BaseException) -> str:
    """The traceback from the reward's own frame on; of a long one the head and the error itself."""
    own = error.__traceback__.tb_next if error.__traceback__ else None
    try:
        lines = "".join(traceback.format_exception(type(error), error, own)).splitlines()
    except Exception:  # an exception that cannot be shown has a place all the same
        lines = "".join(traceback.format_tb(own)).splitlines()
    lines = [line if len(line) <= LONGEST_LINE else line[:LONGEST_LINE] + "..." for line in lines]
    if len(lines) > TRACEBACK_LINES:
        lines = [*lines[: TRACEBACK_LINES - 6], "  ...", *lines[-5:]]
    return "\n".join(lines)
