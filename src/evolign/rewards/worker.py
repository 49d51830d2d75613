"""The child process that runs the rewards of a task.

It is started by `scoring.py` and talks to it over one socket: first it learns which rewards to
load and answers that it is ready, then it answers one batch of completions after another, in its
main thread, until the socket closes. The answers are JSON, so the driver unpickles nothing that a
reward made. This module imports nothing heavy: a worker is ready as fast as its rewards are loaded.

An answer is one line that carries the token of its question, so that what a reward writes there itself is
not taken for one.

It never outlives its parent. Its standard input is a pipe that the parent holds open and never writes to; a
guard, a process of its own in a session of its own, waits for its end and then kills the worker and its
children, even while the reward holds Python's lock in C code or blocks all signals.
"""

import contextlib
import json
import os
import pickle
import signal
import sys
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from types import ModuleType
from typing import Any

from evolign.errors import ConfigError, RewardError, said
from evolign.rewards.calling import call_rewards


def main(fd: int) -> None:
    """Serve the rewards over the socket `fd` until it closes."""
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
        rewards = load_rewards(load["rewards"])
    except ConfigError as error:
        return _answer(connection, load["token"], wrong_setting=str(error))
    _answer(connection, load["token"], ready=True)
    while True:
        (token, which), pickled = connection.recv(), connection.recv_bytes()
        try:
            batch = pickle.loads(pickled)  # from our parent
        except Exception as error:  # whatever the rebuilding of a user's objects raises
            problem = f"a column of the rows cannot be rebuilt in the process of the reward: {said(error)}"
            way_out = "use plain values, or classes of a module that can be imported"
            _answer(connection, token, wrong_setting=f"{problem}; {way_out}")
            continue
        try:
            answer = call_rewards({load["names"][k]: rewards[k] for k in which}, batch)
        except RewardError as error:
            _answer(connection, token, broken=str(error))
        else:
            _answer(connection, token, **vars(answer))


def load_rewards(rewards: Sequence[str | bytes]) -> list[Callable[..., Any]]:
    """The rewards that are named, or that were pickled by dill; ConfigError if that fails.

    A file that holds several of them is run once.
    """
    files: dict[str, ModuleType] = {}
    return [_loaded(reward, files) for reward in rewards]


def _loaded(reward: str | bytes, files: dict[str, ModuleType]) -> Callable[..., Any]:
    if isinstance(reward, str):
        from evolign.rewards.loading import load_reward

        return load_reward(reward, files)
    import dill

    try:
        loaded: Callable[..., Any] = dill.loads(reward)
    except Exception as error:  # anything can happen when a user's object is rebuilt
        raise ConfigError(
            f"the reward function cannot be rebuilt in a worker process: {type(error).__name__}:"
            f" {said(error)}; define it in a file and name it 'file.py:function'"
        ) from error
    return loaded


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
