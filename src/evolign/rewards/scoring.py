"""Scoring: run the rewards of a task over completions in worker processes that can be killed.

    with Scorer("gsm8k_answer", workers=2, timeout_seconds=10) as scorer:
        scores = scorer.score(examples, texts)

Completions go to the workers in chunks. A chunk whose call hangs or kills its process is halved
and tried again, so that only the completions that cause it fail. All chunks of one round are
done before the next round starts, so the outcome does not depend on which worker was faster. Where
most chunks hang but their halves do not, the reward is slow, and later chunks are half as large.
"""

import math
import time
from collections import Counter, deque
from collections.abc import Sequence
from multiprocessing.connection import wait
from types import TracebackType
from typing import Any, Protocol, Self

import numpy as np

from evolign.errors import ConfigError, RewardError
from evolign.rewards.calling import Cell, TrainerState
from evolign.rewards.process import Item, Job, KilledAtStart, Outcome, RewardProcess
from evolign.rewards.scores import Scores, added
from evolign.rewards.weighted import WeightedRewards
from evolign.runs.phases import Phase
from evolign.runs.progress import Progress, Silent
from evolign.types import Cost, Example, Rewards

MAX_FAILED_RETRIES = 64  # per `score`; bounds its time, as every failed call may cost the timeout
MAX_STARTS = 3
"""Workers in a row that may be killed while they start, as happens when memory runs out for a moment."""

TokenIds = Sequence[Sequence[int]]
Key = tuple[str, str, tuple[int, ...] | None]


class Scoring(Protocol):
    """Whoever scores completions: a `Scorer`, or an engine whose workers have scored what they wrote."""

    def at(self, state: TrainerState) -> None:
        """Say where the run stands, which rewards are told. One that derives from this may do without."""
        return

    def score(
        self, examples: Sequence[Example], texts: Sequence[str], token_ids: TokenIds | None = None
    ) -> Scores:
        """See `Scorer.score`."""
        ...


def distinct_keys(examples: Sequence[Example], texts: Sequence[str], token_ids: TokenIds | None) -> list[Key]:
    """What tells completions apart, one key per completion; equal ones are scored once."""
    ids = [None] * len(texts) if token_ids is None else [tuple(it) for it in token_ids]
    return [(example.id, text, it) for example, text, it in zip(examples, texts, ids, strict=True)]


class Found:
    """What is known of distinct completions, by number, while they are scored."""

    def __init__(self, num_rewards: int, items: Sequence[Item], counts: Sequence[int]) -> None:
        self.items, self._counts = items, counts
        self.values_KB = np.full((num_rewards, len(items)), np.nan)
        self.logged: dict[str, tuple[float, float]] = {}
        self.columns: dict[str, list[Cell]] = {}

    def take(self, job: Job, numbers: Sequence[int], outcome: Outcome) -> None:
        """Keep the answer to a job about the completions `numbers`."""
        assert not isinstance(outcome, str)
        for k, values in zip(job.rewards, outcome.values, strict=True):
            self.values_KB[k, numbers] = [math.nan if value is None else value for value in values]
        count = sum(self._counts[i] for i in numbers)
        self.logged = added(
            [self.logged, {name: (mean * count, count) for name, mean in outcome.metrics.items()}]
        )
        for column, cells in outcome.columns.items():
            kept = self.columns.setdefault(column, [None] * len(self.items))
            for i, cell in zip(numbers, cells, strict=True):
                kept[i] = cell


class Scorer:
    """The rewards of a task and the worker processes that run them.

    `reward` is what `load_reward` takes, or a function, which travels by dill, or a weighted sum of such.
    One call of all rewards gets at most `chunk_size` completions and `timeout_seconds`; a completion for
    which it hangs or dies scores `failure_score`. Rewards of weight 0 are called apart, so that they change
    no score. A reward must be a pure function of its arguments: equal completions of one example are scored
    once. `progress` shows how many are scored.

    A `score` ends within about (number of chunks + 2 * 64) * timeout_seconds / workers: once 64 calls
    with halved chunks have failed, all completions of a failed chunk count as failed.

    Raises ConfigError where the reward does not exist, cannot be pickled or (on first use) cannot
    be imported.
    """

    def __init__(
        self,
        reward: Rewards,
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
        if not 0 < timeout_seconds < math.inf:
            raise ConfigError(f"timeout_seconds = {timeout_seconds} must be positive and finite")
        self._rewards = WeightedRewards(reward)
        self.name = self._rewards.name
        self._state = TrainerState()
        self.workers = workers
        self.timeout_seconds = timeout_seconds
        self.chunk_size = chunk_size
        self.failure_score = failure_score
        self.environment = environment
        self._progress = progress or Silent()
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
        calls *= 2 if self._rewards.watched else 1
        return calls * self.timeout_seconds / self.workers

    def at(self, state: TrainerState) -> None:
        """See `Scoring.at`."""
        self._state = state

    def score(
        self, examples: Sequence[Example], texts: Sequence[str], token_ids: TokenIds | None = None
    ) -> Scores:
        """Score `texts[i]` as a completion of `examples[i]`, which was written as `token_ids[i]`.

        Raises RewardError if the reward raises or returns anything but finite numbers (up to 1e15) and None,
        ConfigError if it cannot be loaded.
        """
        started = time.monotonic()
        keys = distinct_keys(examples, texts, token_ids)
        items = {key: Item(example, *key[1:]) for example, key in zip(examples, keys, strict=True)}
        counts = Counter(keys)
        found = Found(len(self._rewards.weights), list(items.values()), [counts[key] for key in items])
        with self._progress.phase("scoring", len(items), "completions") as phase:
            failures = self._call(self._rewards.weighed, found, phase)
            if self._rewards.watched:
                self._call(self._rewards.watched, found, Phase("watching"))
        number = {key: i for i, key in enumerate(items)}
        which = [number[key] for key in keys]
        scored = self._rewards.sum(found.values_KB)
        scored[list(failures)] = self.failure_score
        how = list(failures.values())
        return Scores(
            values=scored[which],
            cost=Cost(timeouts=how.count("timeout"), crashes=how.count("crash")),
            seconds=time.monotonic() - started,
            failures=[failures.get(i) for i in which],
            parts={
                label: values_B[which]
                for label, values_B in zip(self._rewards.labels, found.values_KB, strict=True)
            },
            logged=found.logged,
            columns={column: [cells[i] for i in which] for column, cells in found.columns.items()},
        )

    def __getstate__(self) -> dict[str, Any]:
        """What travels to another process: the reward and its settings, without running workers."""
        return self.__dict__ | {"_running": [], "_progress": Silent()}

    def _call(self, rewards: list[int], found: Found, phase: Phase) -> dict[int, str]:
        """Store what the rewards of these numbers give; return by number how completions failed that did."""

        def fails(chunks: list[list[int]]) -> list[tuple[list[int], str]]:
            """Store the values of the chunks; return the chunks that fail, and how."""
            failed = []
            jobs = [Job(rewards, [found.items[i] for i in chunk], self._state) for chunk in chunks]
            for chunk, job, outcome in zip(chunks, jobs, self._run(jobs, phase), strict=True):
                if isinstance(outcome, str):
                    failed.append((chunk, outcome))
                else:
                    found.take(job, chunk, outcome)
            return failed

        everything, size = range(len(found.items)), self.chunk_size
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
        return {i: how for chunk, how in failed for i in chunk}

    def _run(self, jobs: list[Job], phase: Phase) -> list[Outcome]:
        """The jobs, spread over the workers; those that succeed advance `phase`."""
        for worker in [worker for worker in self._running if worker.died_idle]:
            self._running.remove(worker)
            worker.kill()
        outcomes: dict[int, Outcome] = {}
        waiting = deque(enumerate(jobs))
        try:
            while len(outcomes) < len(jobs):
                while len(self._running) < min(self.workers, len(jobs) - len(outcomes)):
                    self._running.append(self._worker())
                for worker in self._running:
                    if waiting and worker.ready and worker.job is None:
                        worker.send(*waiting.popleft())
                before = set(outcomes)
                self._receive_news(self._running, outcomes)
                new = [i for i in outcomes.keys() - before if not isinstance(outcomes[i], str)]
                phase.advance(sum(len(jobs[i].items) for i in new))
        except BaseException:  # Ctrl-C too: what is under way must not answer a later call
            self.close()
            raise
        return [outcomes[i] for i in range(len(jobs))]

    def _worker(self) -> RewardProcess:
        rewards = self._rewards
        return RewardProcess(
            rewards.loadable, rewards.titles, self.name, self.timeout_seconds, self.environment
        )

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
