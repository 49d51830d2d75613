"""The child process that runs a reward.

It is started by `scoring.py` and talks to it over one socket: first it learns which reward to
load and answers that it is ready, then it answers one batch of completions after another, in its
main thread, until the socket closes. The answers are JSON, so the driver unpickles nothing that a
reward made. This module imports nothing heavy: a worker is ready as fast as its reward is loaded.

It never outlives its parent. Its standard input is a pipe that the parent holds open and never
writes to; when that closes, the kernel ends this process and its children with SIGIO, even while
the reward holds Python's lock in C code.
"""

import asyncio
import contextlib
import fcntl
import inspect
import json
import math
import numbers
import os
import sys
import traceback
from collections.abc import Awaitable, Callable, Sequence
from multiprocessing.connection import Connection
from typing import Any

from evolign.errors import ConfigError, RewardError

TRACEBACK_LINES = 30
CONTRACT = "a reward returns a list with one finite number or None per completion"


def main(fd: int) -> None:
    """Serve the reward over the socket `fd` until it closes."""
    _die_with_parent()
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)  # a reward that reads its input gets its end
    connection = Connection(fd)
    # A fork of the reward's must not hold the socket open, nor answer in the worker's place.
    os.register_at_fork(after_in_child=connection.close)
    # Closed by the parent (EOFError), or killed halfway through an answer (the others).
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):
        _serve(connection)


def _serve(connection: Connection) -> None:
    load = connection.recv()
    sys.path[:] = load["sys_path"]
    try:
        reward = load_callable(load["reward"])
    except ConfigError as error:
        return _answer(connection, wrong_setting=str(error))
    _answer(connection, ready=True)
    while True:
        try:
            batch = connection.recv()
        except (AttributeError, ImportError, TypeError) as error:
            problem = f"a column of the rows cannot be rebuilt in the process of the reward: {error}"
            way_out = "use plain values, or classes of a module that can be imported"
            _answer(connection, wrong_setting=f"{problem}; {way_out}")
            continue
        try:
            values = call_reward(reward, load["name"], **batch)
        except RewardError as error:
            _answer(connection, broken=str(error))
        else:
            _answer(connection, values=values)


def load_callable(reward: str | bytes) -> Callable[..., Any]:
    """The reward that is named, or that was pickled by dill; ConfigError if that fails."""
    if isinstance(reward, str):
        from evolign.rewards.loading import load_reward

        return load_reward(reward)
    import dill

    try:
        loaded: Callable[..., Any] = dill.loads(reward)
    except Exception as error:  # anything can happen when a user's object is rebuilt
        raise ConfigError(
            f"the reward function cannot be rebuilt in a worker process: {type(error).__name__}:"
            f" {error}; define it in a file and name it 'file.py:function'"
        ) from error
    return loaded


def call_reward(
    reward: Callable[..., Any],
    name: str,
    prompts: list[Any],
    completions: list[Any],
    columns: dict[str, list[Any]],
) -> list[float | None]:
    """The rewards of the completions; RewardError if the function breaks its contract."""
    try:
        returned = reward(prompts=prompts, completions=completions, **columns)
        if inspect.isawaitable(returned):  # TRL accepts `async def` rewards
            returned = asyncio.run(_result(returned))
    except BaseException as error:  # sys.exit in a reward is the reward's failure, not the worker's
        shown = ", ".join(columns) or "none"
        raise RewardError(
            f"the reward {name!r} raised {type(error).__name__}: {error}. It is called as"
            f" f(prompts=..., completions=..., **columns); the columns here: {shown}.\n"
            + _shown_traceback(error)
        ) from error
    return checked_values(returned, len(completions), name)


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


def _number(value: Any, position: int, name: str) -> float | None:
    if value is None:
        return None
    plain = value.item() if hasattr(value, "item") else value
    try:
        number = float(plain) if isinstance(plain, numbers.Real) else math.nan
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise RewardError(
            f"the reward {name!r} returned {_shown(value)} for completion {position}; {CONTRACT}"
        )
    return number


async def _result(awaitable: Awaitable[Any]) -> Any:
    return await awaitable


def _shown(value: Any) -> str:
    text = repr(value)
    text = text if len(text) <= 80 else text[:77] + "..."
    return f"{text} ({type(value).__name__})"


def _shown_traceback(error: BaseException) -> str:
    """The traceback from the reward's own frame on; of a long one the head and the error itself."""
    own = error.__traceback__.tb_next if error.__traceback__ else None
    lines = "".join(traceback.format_exception(type(error), error, own)).splitlines()
    if len(lines) > TRACEBACK_LINES:
        lines = [*lines[: TRACEBACK_LINES - 6], "  ...", *lines[-5:]]
    return "\n".join(lines)


def _answer(connection: Connection, **answer: Any) -> None:
    connection.send_bytes(json.dumps(answer).encode())


def _die_with_parent() -> None:
    """Ask for SIGIO, whose default action is death, for this process group when stdin closes."""
    lifeline = os.dup(0)
    with contextlib.suppress(OSError):  # a system without this ends an idle worker all the same
        fcntl.fcntl(lifeline, fcntl.F_SETOWN, -os.getpgrp())
        flags = fcntl.fcntl(lifeline, fcntl.F_GETFL)
        fcntl.fcntl(lifeline, fcntl.F_SETFL, flags | os.O_ASYNC)
