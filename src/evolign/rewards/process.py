"""The driver's end of one worker process: start it, send it jobs, receive outcomes, kill it.

`scoring.py` assigns the jobs; the child's end is `worker.py`. The child may do what it likes with the
socket: what comes is read as far as it has come, up to a size and until the deadline, and is checked like
anything else that somebody else wrote.
"""

import contextlib
import os
import secrets
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from evolign import untrusted
from evolign.errors import ConfigError, RewardError, shown
from evolign.messages import LARGEST_REWARD, Completion
from evolign.rewards.calling import LARGEST_LOG, Answer, Batch, TrainerState
from evolign.rewards.environment import handed_on, with_hint
from evolign.types import Example

LOAD_SECONDS = 300.0  # a reward may import torch or read a model when it is loaded
SOCKET_SECONDS = 60  # for a worker that stops reading halfway through a message
READ_AT_ONCE = 2**16
MOST_OF_AN_ANSWER = 2**18 + LARGEST_LOG
"""Bytes of an answer beside its values: a traceback of thirty lines, escaped, or what was logged."""
BYTES_PER_VALUE = 64
"""A number of JSON has 24 at most."""
STDERR = 2
REFERENCE = "reference"
"""The column of reference completions, unless the task has one of its own by that name."""

Outcome = Answer | str
"""What a call gave, or how it failed: "timeout" or "crash"."""


@dataclass(frozen=True)
class Item:
    """A completion to score."""

    example: Example
    text: str
    token_ids: tuple[int, ...] | None = None
    """None where they are not known."""


@dataclass(frozen=True)
class Job:
    """One call: of the rewards of these numbers, on these completions."""

    rewards: list[int]
    items: list[Item]
    state: TrainerState

    def batch(self) -> Batch:
        """What the rewards are given."""
        columns_of = [_columns(item.example) for item in self.items]
        ids = [list(item.token_ids) for item in self.items if item.token_ids is not None]
        return Batch(
            prompts=[item.example.prompt for item in self.items],
            completions=[_as_trl_passes_it(item.example, item.text) for item in self.items],
            columns={
                name: [columns.get(name) for columns in columns_of]
                for name in dict.fromkeys(name for columns in columns_of for name in columns)
            },
            completion_ids=ids if len(ids) == len(self.items) else None,
            state=self.state,
        )


class KilledAtStart(Exception):
    """The worker was killed by a signal before it had loaded its reward."""


class RewardProcess:
    """One child process. It first loads the rewards; once `ready` it has one job or none."""

    def __init__(
        self,
        rewards: Sequence[str | bytes],
        titles: Sequence[str],
        name: str,
        timeout_seconds: float,
        environment: Sequence[str] = (),
    ) -> None:
        self.name = name
        self.timeout_seconds = timeout_seconds
        self.ready = False
        self.job: int | None = None
        self._environment = handed_on(environment)
        self._count = (0, 0)
        """Rewards and completions of the job."""
        self._heard = bytearray()
        self._token = secrets.token_hex(8)
        self.deadline = time.monotonic() + LOAD_SECONDS
        ours, theirs = socket.socketpair()
        for option in (socket.SO_SNDTIMEO, socket.SO_RCVTIMEO):
            ours.setsockopt(socket.SOL_SOCKET, option, struct.pack("ll", SOCKET_SECONDS, 0))
        with theirs:
            package_root = str(Path(__file__).parents[2])
            program = (
                f"import sys; sys.path.append({package_root!r});"
                f" from evolign.rewards.worker import main; main({theirs.fileno()})"
            )
            try:
                self.process = subprocess.Popen(
                    # -P: nothing in the working directory may pass for a standard module.
                    [sys.executable, "-P", "-c", program],
                    stdin=subprocess.PIPE,  # closes with this process: see worker.py
                    stdout=STDERR,  # what a reward prints is not the program's output
                    pass_fds=[theirs.fileno()],
                    start_new_session=True,  # Ctrl-C is ours to handle; killpg reaches its children
                    env={"PYTHONHASHSEED": "0", **self._environment},  # sets have one order in all
                )
            except OSError as error:  # no memory, or too many processes
                ours.close()
                raise RewardError(
                    f"no process could be started for the reward {name!r}: {error}; use fewer "
                    "scoring.workers, or free memory"
                ) from error
        self.connection = Connection(ours.detach())
        self._send({"sys_path": sys.path, "rewards": rewards, "names": titles, "token": self._token})

    @property
    def died_idle(self) -> bool:
        """Whether it ended without a job: an idle worker sends nothing else."""
        return self.ready and self.job is None and self.connection.poll()

    def send(self, number: int, job: Job) -> None:
        """Send a job; `receive` returns its outcome."""
        self.job, self._token = number, secrets.token_hex(8)
        self._count = len(job.rewards), len(job.items)
        self._send((self._token, job.rewards))
        self._send(job.batch())
        self.deadline = time.monotonic() + self.timeout_seconds

    def receive(self) -> Outcome | None:
        """The outcome of the job, or None if it is not there yet or the worker only reports that it is ready.

        Raises ConfigError where the reward cannot be loaded, RewardError where it is broken, KilledAtStart.
        """
        if self.connection.poll():
            try:
                heard = os.read(self.connection.fileno(), READ_AT_ONCE)
            except OSError:
                heard = b""
            if not heard:
                return self._ended()
            self._heard += heard
        line, end, rest = self._heard.partition(b"\n")
        if end:
            self._heard = rest
            return self._read(bytes(line))
        if len(self._heard) > MOST_OF_AN_ANSWER + BYTES_PER_VALUE * self._count[0] * self._count[1]:
            raise self._garbage(f"{len(self._heard):,} bytes without an end")
        if time.monotonic() < self.deadline:
            return None
        if not self.ready:
            raise ConfigError(f"loading the reward {self.name!r} took over {LOAD_SECONDS:g} s")
        return "timeout"

    def _ended(self) -> str:
        """How a worker failed that is no more."""
        if self.ready:
            return "crash"
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(timeout=1)
        if (status := self.process.returncode) is not None and status < 0:
            raise KilledAtStart(signal.Signals(-status).name)
        raise ConfigError(
            f"the process that loads the reward {self.name!r} ended; its file or module must not exit or "
            "crash when it is imported"
        )

    def _read(self, line: bytes) -> Outcome | None:
        """What a line says."""
        try:
            answer = untrusted.json_value(line.decode())
        except ValueError:  # no text, or no JSON
            raise self._garbage(shown(line)) from None
        if not isinstance(answer, dict) or answer.get("token") != self._token:
            raise self._garbage(shown(answer))
        if "wrong_setting" in answer:
            raise ConfigError(with_hint(str(answer["wrong_setting"]), self._environment))
        if "broken" in answer:
            raise RewardError(with_hint(str(answer["broken"]), self._environment))
        if "ready" in answer:
            self.ready = True
            return None
        return self._answer(answer)

    def _answer(self, answer: dict[str, Any]) -> Answer:
        """The answer to the job, if it is one."""
        given = [answer.get(name) for name in ("values", "metrics", "columns")]
        values, metrics, columns = given
        count, length = self._count
        if not (isinstance(values, list) and len(values) == count):
            raise self._garbage(shown(values))
        if not all(
            isinstance(row, list) and len(row) == length and all(map(_is_value, row)) for row in values
        ):
            raise self._garbage(shown(values))
        if not isinstance(metrics, dict) or not all(map(_is_finite, metrics.values())):
            raise self._garbage(shown(metrics))
        if not isinstance(columns, dict) or not all(_is_column(cells, length) for cells in columns.values()):
            raise self._garbage(shown(columns))
        self.job = None
        rows = [[None if value is None else float(value) for value in row] for row in values]
        return Answer(rows, {name: float(value) for name, value in metrics.items()}, columns)

    def _garbage(self, what: str) -> RewardError:
        return RewardError(
            f"the process of the reward {self.name!r} sent {what} over the socket on which its worker "
            "answers; a reward returns its values and must not write to descriptors that it did not open"
        )

    def kill(self) -> None:
        """End the process and its children, whatever they are doing."""
        self.connection.close()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()

    def _send(self, message: object) -> None:
        try:
            self.connection.send(message)
        except OSError:
            pass  # a dead worker; `receive` will find the same
        except Exception as error:  # whatever pickling a user's objects raises
            raise ConfigError(
                f"a column of the rows cannot be sent to the process of the reward {self.name!r}: {error}; "
                "use plain values"
            ) from error


def _is_value(value: Any) -> bool:
    return value is None or (_is_finite(value) and abs(value) <= LARGEST_REWARD)


def _is_finite(value: Any) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and abs(value) <= sys.float_info.max


def _is_column(cells: Any, length: int) -> bool:
    plain = (str, int, float, bool, type(None))
    return isinstance(cells, list) and len(cells) == length and all(isinstance(cell, plain) for cell in cells)


def _columns(example: Example) -> dict[str, Any]:
    """The columns of a row for the reward, with its reference completion if it has one."""
    reference = {} if example.completion is None else {REFERENCE: example.completion}
    return {**reference, **example.columns}


def _as_trl_passes_it(example: Example, text: str) -> Completion:
    """A completion of chat messages is a list with one message, of plain text a string."""
    return text if isinstance(example.prompt, str) else [{"role": "assistant", "content": text}]
