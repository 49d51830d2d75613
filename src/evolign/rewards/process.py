"""The driver's end of one worker process: start it, send it jobs, receive outcomes, kill it.

`scoring.py` assigns the jobs; the child's end is `worker.py`.
"""

import contextlib
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from evolign.errors import ConfigError, RewardError
from evolign.messages import Completion
from evolign.types import Example

LOAD_SECONDS = 300.0  # a reward may import torch or read a model when it is loaded
SOCKET_SECONDS = 60  # for a worker that stops reading or writing halfway through a message
STDERR = 2
REFERENCE = "reference"
"""The column of reference completions, unless the task has one of its own by that name."""

Item = tuple[Example, str]
Outcome = list[float | None] | str
"""The values of a chunk, or how its call failed: "timeout" or "crash"."""


class RewardProcess:
    """One child process. It first loads the reward; once `ready` it has one job or none."""

    def __init__(self, reward: str | bytes, name: str, timeout_seconds: float) -> None:
        self.name = name
        self.timeout_seconds = timeout_seconds
        self.ready = False
        self.job: int | None = None
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
            self.process = subprocess.Popen(
                # -P: nothing in the working directory may pass for a standard module.
                [sys.executable, "-P", "-c", program],
                stdin=subprocess.PIPE,  # closes with this process: see worker.py
                stdout=STDERR,  # what a reward prints is not the program's output
                pass_fds=[theirs.fileno()],
                start_new_session=True,  # Ctrl-C is ours to handle; killpg reaches its children
                env={"PYTHONHASHSEED": "0", **os.environ},  # the order of sets is the same in all
            )
        self.connection = Connection(ours.detach())
        self._send({"sys_path": sys.path, "reward": reward, "name": name})

    @property
    def died_idle(self) -> bool:
        """Whether it ended without a job: an idle worker sends nothing else."""
        return self.ready and self.job is None and self.connection.poll()

    def send(self, job: int, items: list[Item]) -> None:
        """Send a job; `receive` returns its outcome."""
        self.job = job
        columns_of = [_columns(example) for example, _ in items]
        self._send(
            {
                "prompts": [example.prompt for example, _ in items],
                "completions": [_as_trl_passes_it(example, text) for example, text in items],
                "columns": {
                    name: [columns.get(name) for columns in columns_of]
                    for name in dict.fromkeys(name for columns in columns_of for name in columns)
                },
            }
        )
        self.deadline = time.monotonic() + self.timeout_seconds

    def receive(self) -> Outcome | None:
        """The outcome of the job, or None if the worker only reports that it is ready.

        Raises ConfigError where the reward cannot be loaded, RewardError where it is broken.
        """
        if not self.connection.poll():
            if not self.ready:
                raise ConfigError(f"loading the reward {self.name!r} took over {LOAD_SECONDS:g} s")
            return "timeout"
        try:
            answer = json.loads(self.connection.recv_bytes())
        except (EOFError, OSError):
            if not self.ready:
                raise ConfigError(
                    f"the process that loads the reward {self.name!r} ended; its file or module"
                    " must not exit or crash when it is imported"
                ) from None
            return "crash"
        if "wrong_setting" in answer:
            raise ConfigError(answer["wrong_setting"])
        if "broken" in answer:
            raise RewardError(answer["broken"])
        if "ready" in answer:
            self.ready = True
            return None
        self.job = None
        values: list[float | None] = answer["values"]
        return values

    def kill(self) -> None:
        """End the process and its children, whatever they are doing."""
        self.connection.close()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()

    def _send(self, message: dict[str, Any]) -> None:
        try:
            self.connection.send(message)
        except OSError:
            pass  # a dead worker; `receive` will find the same
        except Exception as error:  # whatever pickling a user's objects raises
            raise ConfigError(
                f"a column of the rows cannot be sent to the process of the reward {self.name!r}: {error}; "
                "use plain values"
            ) from error


def _columns(example: Example) -> dict[str, Any]:
    """The columns of a row for the reward, with its reference completion if it has one."""
    reference = {} if example.completion is None else {REFERENCE: example.completion}
    return {**reference, **example.columns}


def _as_trl_passes_it(example: Example, text: str) -> Completion:
    """A completion of chat messages is a list with one message, of plain text a string."""
    return text if isinstance(example.prompt, str) else [{"role": "assistant", "content": text}]
