"""The child process that runs a reward.

It is started by `scoring.py` and talks to it over one socket: first it learns which reward to
load and answers that it is ready, then it answers one batch of completions after another, in its
main thread, until the socket closes. The answers are JSON, so the driver unpickles nothing that a
reward made. This module imports nothing heavy: a worker is ready as fast as its reward is loaded.

An answer is one line that carries the token of its question, so that what a reward writes there itself is
not taken for one.

It never outlives its parent. Its standard input is a pipe that the parent holds open and never writes to; a
guard, a process of its own in a session of its own, waits for its end and then kills the worker and its
children, even while the reward holds Python's lock in C code or blocks all signals.
"""

import asyncio
import contextlib
import inspect
import json
import math
import numbers
import os
import pickle
import signal
import sys
import traceback
from collections.abc import Awaitable, Callable, Sequence
from multiprocessing.connection import Connection
from typing import Any

from evolign.errors import ConfigError, RewardError, said, shown
from evolign.messages import LARGEST_REWARD

TRACEBACK_LINES = 30
LONGEST_LINE = 1000
"""Characters of a line of a traceback: its last one is whatever the reward's exception says."""
CONTRACT = (
    "a reward returns a list with one finite number (at most 1e15, so that squares fit into float32) or None "
    "per completion"
)


def main(fd: int) -> None:
    """Serve the reward over the socket `fd` until it closes."""
    _guarded(fd)
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
        return _answer(connection, load["token"], wrong_setting=str(error))
    _answer(connection, load["token"], ready=True)
    while True:
        token, pickled = connection.recv(), connection.recv_bytes()
        try:
            batch = pickle.loads(pickled)  # from our parent
        except Exception as error:  # whatever the rebuilding of a user's objects raises
            problem = f"a column of the rows cannot be rebuilt in the process of the reward: {said(error)}"
            way_out = "use plain values, or classes of a module that can be imported"
            _answer(connection, token, wrong_setting=f"{problem}; {way_out}")
            continue
        try:
            values = call_reward(reward, load["name"], **batch)
        except RewardError as error:
            _answer(connection, token, broken=str(error))
        else:
            _answer(connection, token, values=values)


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
            f" {said(error)}; define it in a file and name it 'file.py:function'"
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
            f"the reward {name!r} raised {type(error).__name__}: {said(error)}. It is called as"
            f" f(prompts=..., completions=..., **columns); the columns here: {shown}.\n"
            + _shown_traceback(error)
        ) from error
    try:
        return checked_values(returned, len(completions), name)
    except RewardError:
        raise
    except BaseException as error:  # whatever the objects that it returned raise when they are looked at
        raise RewardError(
            f"the reward {name!r} returned {_shown(returned)}, which raised {type(error).__name__} when it "
            f"was read: {said(error)}; {CONTRACT}"
        ) from error


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
    if not abs(number) <= LARGEST_REWARD:
        raise RewardError(
            f"the reward {name!r} returned {_shown(value)} for completion {position}; {CONTRACT}"
        )
    return number


async def _result(awaitable: Awaitable[Any]) -> Any:
    return await awaitable


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


def _answer(connection: Connection, token: str, **answer: Any) -> None:
    line = memoryview(json.dumps({"token": token, **answer}).encode() + b"\n")
    while line:
        line = line[os.write(connection.fileno(), line) :]


def _guarded(fd: int) -> None:
    """Start the guard, which kills this process' group once standard input ends.

    It is nobody's child, so that a reward that waits for its children does not wait for it.
    """
    group = os.getpgrp()
    if child := os.fork():
        os.waitpid(child, 0)
        return
    if os.fork():
        os._exit(0)
    os.setsid()  # not of the group that it kills
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    os.close(fd)  # it must end with the worker
    os.closerange(1, 3)  # whoever reads what the program prints does not wait for the guard
    with contextlib.suppress(OSError):
        while os.read(0, 1):
            pass
    with contextlib.suppress(OSError):
        os.killpg(group, signal.SIGKILL)
    os._exit(0)
