"""Scoring: run a reward over completions in worker processes that can be killed.

    with Scorer("gsm8k_answer", workers=2, timeout_seconds=10) as scorer:
        scores = scorer.score(examples, texts)

Completions go to the workers in chunks. A chunk whose call hangs or kills its process is halved
and tried again, so that only the completions that cause it fail. All chunks of one round are
done before the next round starts, so the outcome does not depend on which worker was faster. Where
most chunks hang but their halves do not, the reward is slow, and later chunks are half as large.
"""

import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import wait
from types import TracebackType
from typing import Any, Protocol, Self

import numpy as np

from evolign.errors import ConfigError, RewardError
from evolign.rewards.loading import absolute_spec
from evolign.rewards.process import Item, KilledAtStart, Outcome, RewardProcess
from evolign.runs.phases import Phase
from evolign.runs.progress import Progress, Silent
from evolign.types import NO_COST, Cost, Example

MAX_FAILED_RETRIES = 64  # per `score`; bounds its time, as every failed call may cost the timeout
MAX_STARTS = 3
"""Workers in a row that may be killed while they start, as happens when memory runs out for a moment."""


@dataclass(frozen=True)
class Scores:
    """The scores of completions, and what scoring them took."""

    values: np.ndarray
    """float64, one per completion; NaN where the reward returned None (not applicable)."""
    cost: Cost = NO_COST
    """Distinct completions whose scoring was ended after `timeout_seconds`, or killed the worker process."""
    seconds: float = 0.0
    failures: Sequence[str | None] = ()
    """One per completion: None, or "timeout" or "crash" where it scores `failure_score`."""


class Scoring(Protocol):
    """Whoever scores completions: a `Scorer`, or an engine whose workers have scored what they wrote."""

    def score(self, examples: Sequence[Example], texts: Sequence[str]) -> Scores:
        """See `Scorer.score`."""
        ...


class Scorer:
    """A reward and the worker processes that run it.

    `reward` is what `load_reward` takes, or a function, which travels by dill. One call of the
    reward gets at most `chunk_size` completions and `timeout_seconds`; a completion for which it
    hangs or dies scores `failure_score`. The reward must be a pure function of its arguments:
    equal completions of one example are scored once. `progress` shows how many are scored.

    A `score` ends within about (number of chunks + 2 * 64) * timeout_seconds / workers: once 64 calls
    with halved chunks have failed, all completions of a failed chunk count as failed.

    Raises ConfigError where the reward does not exist, cannot be pickled or (on first use) cannot
    be imported.
    """

    def __init__(
        self,
        reward: str | Callable[..., Any],
        *,
        workers: int,
        timeout_seconds: float,
        chunk_size: int = 16,
        failure_score: float = 0.0,
        environment: Sequence[str] = (),
        progress: Progress | None = None,
    ) -> None:
        for field, value in (("workers", workers), ("chunk_size", chunk_size)):
            if value < 1:
                raise ConfigError(f"{field} = {value} must be at least 1")
        if not isinstance(reward, str) and not callable(reward):
            raise ConfigError(f"the reward is {reward!r}; it must be a function or the name of one")
        if not 0 < timeout_seconds < math.inf:
            raise ConfigError(f"timeout_seconds = {timeout_seconds} must be positive and finite")
        self.name = reward if isinstance(reward, str) else getattr(reward, "__name__", repr(reward))
        self.workers = workers
        self.timeout_seconds = timeout_seconds
        self.chunk_size = chunk_size
        self.failure_score = failure_score
        self.environment = environment
        self._progress = progress or Silent()
        self._reward = absolute_spec(reward) if isinstance(reward, str) else _pickled(reward)
        self._running: list[RewardProcess] = []
        self._killed = 0
        """Workers in a row that were killed while they started."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Kill the workers and their children. A later `score` starts new ones."""
        while self._running:
            self._running.pop().kill()

    def start(self) -> None:
        """Start one worker and wait until it has loaded the reward; ConfigError if it cannot."""
        try:
            while not self._running or not self._running[0].ready:
                if not self._running:
                    self._running.append(self._worker())
                self._receive_news(self._running[:1], {})
        except BaseException:
            self.close()
            raise

    def most_seconds(self, completions: int) -> float:
        """What scoring takes at most, about, if the reward hangs."""
        calls = math.ceil(completions / self.chunk_size) + 2 * MAX_FAILED_RETRIES
        return calls * self.timeout_seconds / self.workers

    def score(self, examples: Sequence[Example], texts: Sequence[str]) -> Scores:
        """Score `texts[i]` as a completion of `examples[i]`.

        Raises RewardError if the reward raises or returns anything but finite numbers (up to 1e15) and None,
        ConfigError if it cannot be loaded.
        """
        started = time.monotonic()
        items = {(example.id, text): (example, text) for example, text in zip(examples, texts, strict=True)}
        with self._progress.phase("scoring", len(items), "completions") as phase:
            scored, failures = self._score_distinct(list(items.values()), phase)
        number = {item: i for i, item in enumerate(items)}
        which = [number[example.id, text] for example, text in zip(examples, texts, strict=True)]
        how = list(failures.values())
        return Scores(
            values=np.array([scored[i] for i in which], dtype=np.float64),
            cost=Cost(timeouts=how.count("timeout"), crashes=how.count("crash")),
            seconds=time.monotonic() - started,
            failures=[failures.get(i) for i in which],
        )

    def __getstate__(self) -> dict[str, Any]:
        """What travels to another process: the reward and its settings, without running workers."""
        return self.__dict__ | {"_running": [], "_progress": Silent()}

    def _score_distinct(self, items: list[Item], phase: Phase) -> tuple[list[float], dict[int, str]]:
        """The values of the items, and by number how those failed that did."""
        scored = [self.failure_score] * len(items)

        def fails(chunks: list[list[int]]) -> list[tuple[list[int], str]]:
            """Store the values of the chunks; return the chunks that fail, and how."""
            failed = []
            outcomes = self._run([[items[i] for i in chunk] for chunk in chunks], phase)
            for chunk, outcome in zip(chunks, outcomes, strict=True):
                if isinstance(outcome, str):
                    failed.append((chunk, outcome))
                else:
                    for i, value in zip(chunk, outcome, strict=True):
                        scored[i] = math.nan if value is None else value
            return failed

        everything, size = range(len(items)), self.chunk_size
        chunks = [list(everything[i : i + size]) for i in everything[::size]]
        failed = fails(chunks)
        too_slow = sum(how == "timeout" for _, how in failed) > len(chunks) / 2
        budget = MAX_FAILED_RETRIES
        while budget > 0 and (large := [chunk for chunk, _ in failed if len(chunk) > 1][: budget // 2 or 1]):
            halves = [half for c in large for half in (c[: len(c) // 2], c[len(c) // 2 :])]
            again = fails(halves)
            budget -= len(again)
            failed = [(chunk, how) for chunk, how in failed if chunk not in large] + again
        if too_slow and budget > 0:
            self.chunk_size = max(1, size // 2)
        return scored, {i: how for chunk, how in failed for i in chunk}

    def _run(self, chunks: list[list[Item]], phase: Phase) -> list[Outcome]:
        """One call of the reward per chunk, spread over the workers; those that succeed advance `phase`."""
        for worker in [worker for worker in self._running if worker.died_idle]:
            self._running.remove(worker)
            worker.kill()
        outcomes: dict[int, Outcome] = {}
        waiting = deque(enumerate(chunks))
        try:
            while len(outcomes) < len(chunks):
                while len(self._running) < min(self.workers, len(chunks) - len(outcomes)):
                    self._running.append(self._worker())
                for worker in self._running:
                    if waiting and worker.ready and worker.job is None:
                        worker.send(*waiting.popleft())
                before = set(outcomes)
                self._receive_news(self._running, outcomes)
                phase.advance(
                    sum(
                        len(outcomes[i]) for i in outcomes.keys() - before if not isinstance(outcomes[i], str)
                    )
                )
        except BaseException:  # Ctrl-C too: what is under way must not answer a later call
            self.close()
            raise
        return [outcomes[i] for i in range(len(chunks))]

    def _worker(self) -> RewardProcess:
        return RewardProcess(self._reward, self.name, self.timeout_seconds, self.environment)

    def _receive_news(self, workers: Sequence[RewardProcess], outcomes: dict[int, Outcome]) -> None:
        """Wait until a worker answers, dies or runs out of time, and store the outcome of its job."""
        busy = [worker for worker in workers if not worker.ready or worker.job is not None]
        nearest = min(worker.deadline for worker in busy)
        readable = wait([worker.connection for worker in busy], max(0.0, nearest - time.monotonic()))
        for worker in busy:
            if worker.connection in readable or worker.deadline <= time.monotonic():
                job = worker.job
                try:
                    outcome = worker.receive()
                except KilledAtStart as error:
                    self._start_again(worker, str(error))
                    continue
                if worker.ready:
                    self._killed = 0
                if isinstance(outcome, str):
                    self._running.remove(worker)
                    worker.kill()
                if job is not None and outcome is not None:
                    outcomes[job] = outcome

    def _start_again(self, worker: RewardProcess, killed_by: str) -> None:
        """Make room for another worker after one was killed while it started; RewardError if all are."""
        self._running.remove(worker)
        worker.kill()
        self._killed += 1
        if self._killed >= MAX_STARTS:
            raise RewardError(
                f"{self._killed} processes in a row were killed by {killed_by} while they loaded the reward "
                f"{self.name!r}. SIGKILL mostly means that the system ran out of memory: use fewer "
                "scoring.workers or a smaller reward; any other signal is a crash of its file or module"
            )


def _pickled(reward: Callable[..., Any]) -> bytes:
    import dill

    try:
        pickled: bytes = dill.dumps(reward, recurse=True)
    except Exception as error:  # whatever the objects that the function refers to raise
        raise ConfigError(
            f"the reward {reward!r} cannot be sent to a worker process: {type(error).__name__}:"
            f" {error}; define it in a file and name it 'file.py:function'"
        ) from error
    return pickled
