"""Workers that come and go, and pieces of work that are answered once whoever comes and goes.

Ray starts the workers, moves the data and notices the dead; here is what Ray leaves to its users: which
worker gets which piece, by when it has to answer, and what becomes of both if it does not.
"""

import math
import os
import pickle
import statistics
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from evolign.config.engines import RayConfig
from evolign.engines.base import EngineDeadError
from evolign.engines.ray.cluster import diagnosis, end, import_ray, last_words, room
from evolign.engines.ray.ledger import Known, Ledger
from evolign.engines.ray.probe import Answer, differences
from evolign.engines.ray.worker import Introduction, Worker
from evolign.errors import EngineError, EvolignError, first_line

TICK_SECONDS = 0.5
"""How often the pool looks for deadlines and for new nodes while it waits."""
SAY_AGAIN_SECONDS = 30.0
CLOSE_SECONDS = 10.0
MOST_FAILED_STARTS = 3
"""Workers that may fail to start one after the other while none is ready."""
MOST_LOSSES = 5
"""Workers that may be lost with the same piece."""
LATE = 1.5
"""A piece that takes so many times the median is asked of another worker that has nothing else to do."""
FIRST_PIECE_SECONDS, LEAST_PIECE_SECONDS, PIECE_FACTOR = 1800.0, 60.0, 10.0
CARRIED = ("HF_HOME", "HF_HUB_OFFLINE", "TRANSFORMERS_VERBOSITY", "TOKENIZERS_PARALLELISM")
"""Environment of this process that workers get too, and what is vLLM's, but for its addresses."""


@dataclass(eq=False)
class Member:
    """A worker as the pool sees it."""

    name: str
    actor: Any
    reference: Any
    """What it has been asked and has not answered yet."""
    deadline: float
    answers: Callable[["Member", Any], None]
    """What is done with its answer."""
    who: Introduction | None = None
    known: Known | None = None
    """What it has been told; None: it is not ready."""
    piece: int | None = None
    since: float = field(default_factory=time.monotonic)
    """When it became ready, or was started."""
    asked: float = 0.0
    busy: float = 0.0
    """Seconds of work since `since`."""

    @property
    def idle(self) -> bool:
        return self.known is not None and self.reference is None


class Pool:
    """Keeps as many workers as `config` says, and deals out pieces to them."""

    def __init__(
        self,
        config: RayConfig,
        building: bytes,
        expected: Answer,
        ledger: Ledger,
        say: Callable[[str], None],
    ) -> None:
        self._ray = import_ray()
        self._config, self._expected, self._ledger, self._say = config, expected, ledger, say
        self._building = self._ray.put(building)
        self._members: list[Member] = []
        self._started = 0
        self._hire_from = 0.0
        """When to look next whether workers are missing: each look asks the cluster."""
        self._failed_starts = 0
        self._refused = 0
        self._alone_since = time.monotonic()
        self._said_waiting = 0.0
        self._slowest = 0.0
        self._calls = 0
        self.piece_seconds: list[float] = []
        """What each piece of the last call has taken where it was worked on."""
        self.allowance = 0.0
        """Seconds that a piece may take beside its own, for rewards that hang."""
        self.figures: Counter[str] = Counter()
        """Sums since the start: bytes of numbers, bytes of pieces, pieces, pieces retried, pieces copied."""

    # ---------------------------------------------------------------- asking

    def run(
        self, shared: Any, pieces: Sequence[Any], advance: Callable[[], None] = lambda: None
    ) -> list[Any]:
        """The answers to `pieces`, in their order; `advance` hears of each of them.

        Of a late piece that two workers have been asked, the first answer counts: both are the same.

        Raises EngineError where no worker is left to ask.
        """
        self._calls += 1
        self.piece_seconds = []
        packed = pickle.dumps(shared)
        call = [self._ray.put(packed)]
        todo = deque(range(len(pieces)))
        answers: dict[int, Any] = {}
        losses: Counter[int] = Counter()
        told: set[int] = set()

        def place(member: Member, packed: bytes) -> None:
            piece, (seconds, answer) = member.piece, pickle.loads(packed)
            member.piece, member.busy = None, member.busy + seconds
            self._slowest = max(self._slowest, seconds)
            if piece is not None and piece not in answers:
                self.piece_seconds.append(seconds)
                answers[piece] = answer
                advance()

        def again(piece: int, reason: str) -> None:
            if piece in answers or any(member.piece == piece for member in self._members):
                return
            losses[piece] += 1
            self.figures["pieces_retried"] += 1
            if losses[piece] >= MOST_LOSSES:
                raise EngineError(
                    f"{MOST_LOSSES} workers were lost with the same piece of work, the last one because "
                    f"{reason}; resume the run once that is mended"
                )
            todo.appendleft(piece)

        try:
            while len(answers) < len(pieces):
                self._hire()
                for member in self._members:
                    if not member.idle or (piece := todo.popleft() if todo else self._late()) is None:
                        continue
                    self._send(member, piece, call, pieces, place)
                    if id(member) not in told:
                        told.add(id(member))
                        self.figures["bytes_numbers"] += len(packed)
                self._listen(again)
        finally:
            for member in self._members:
                member.piece = None  # a late answer is to nothing that is still asked
        return [answers[i] for i in range(len(pieces))]

    def _late(self) -> int | None:
        """The piece that one worker has been at for longest, if that is suspiciously long; it is copied."""
        asked = Counter(member.piece for member in self._members)
        alone = [m for m in self._members if m.piece is not None and asked[m.piece] == 1]
        if not alone or not self.piece_seconds:
            return None
        oldest = min(alone, key=lambda member: member.asked)
        if time.monotonic() - oldest.asked < LATE * statistics.median(self.piece_seconds):
            return None
        self.figures["pieces_copied"] += 1
        return oldest.piece

    def _send(
        self,
        member: Member,
        piece: int,
        call: list[Any],
        pieces: Sequence[Any],
        answers: Callable[[Member, Any], None],
    ) -> None:
        assert member.known is not None
        news, packed = self._ledger.news(member.known), pickle.dumps(pieces[piece])
        self.figures["pieces"] += 1
        self.figures["bytes_numbers"] += news.numbers
        self.figures["bytes_pieces"] += len(packed)
        member.known = self._ledger.known
        member.piece, member.asked, member.answers = piece, time.monotonic(), answers
        member.deadline = member.asked + self._piece_seconds() + self.allowance
        member.reference = member.actor.work.remote(news, self._calls, call, packed)

    def _piece_seconds(self) -> float:
        if self._config.piece_seconds != "auto":
            return self._config.piece_seconds
        if not self._slowest:
            return FIRST_PIECE_SECONDS
        return max(LEAST_PIECE_SECONDS, PIECE_FACTOR * self._slowest)

    def _listen(self, again: Callable[[int, str], None]) -> None:
        """Wait a moment for answers, and take leave of workers that are dead or too late."""
        waiting = [member for member in self._members if member.reference is not None]
        done = set(self._ready([member.reference for member in waiting]))
        for member in waiting:
            if member.reference in done:
                self._hear(member, again)
            elif time.monotonic() > member.deadline:
                seconds = member.deadline - member.asked
                if member.who is not None:
                    end(member.who)
                self._lose(member, f"it did not answer within {seconds:.0f} seconds", again)
        if self.ready:
            self._alone_since = time.monotonic()
        else:
            self._wait_or_stop()

    def _ready(self, references: list[Any]) -> list[Any]:
        if not references:
            time.sleep(TICK_SECONDS)
            return []
        done, rest = self._ray.wait(references, num_returns=1, timeout=TICK_SECONDS)
        if done and rest:
            done += self._ray.wait(rest, num_returns=len(rest), timeout=0)[0]
        result: list[Any] = done
        return result

    def _hear(self, member: Member, again: Callable[[int, str], None]) -> None:
        try:
            answer = self._ray.get(member.reference)
        except self._ray.exceptions.RayTaskError as error:
            theirs = isinstance(error.cause, EvolignError) and not isinstance(error.cause, EngineDeadError)
            if theirs and member.known is not None:
                member.reference = None
                if member.piece is None:
                    return  # of a call that an earlier error has ended
                raise error.cause from None
            self._lose(member, f"{type(error.cause).__name__}: {error.cause}", again)
        except self._ray.exceptions.RayError as error:
            self._lose(member, first_line(error, type(error).__name__) + last_words(member.who), again)
        else:
            member.reference = None
            member.answers(member, answer)

    # ---------------------------------------------------------------- hiring

    def _hire(self) -> None:
        """Start workers until there are as many as wanted; Ray places them as soon as it has room."""
        if (now := time.monotonic()) < self._hire_from:
            return
        self._hire_from = now + TICK_SECONDS
        for _ in range(self._wanted() - len(self._members)):
            self._started += 1
            seconds = self._config.start_seconds
            actor = self._actor_class().remote()
            member = Member(
                f"worker {self._started}", actor, actor.introduce.remote(), math.inf, self._introduced
            )
            if not self.ready:
                member.deadline = time.monotonic() + seconds
            member.asked = time.monotonic()
            self._members.append(member)

    def _wanted(self) -> int:
        wanted = room(self._config) if self._config.workers == "auto" else self._config.workers
        return max(0, wanted - self._refused)

    def _actor_class(self) -> Any:
        threads = str(self._config.cpus_per_worker)
        environment = {name: value for name, value in os.environ.items() if _carried(name)}
        environment |= {"OMP_NUM_THREADS": threads, "TQDM_DISABLE": "1"}  # bars are no last words
        return self._ray.remote(Worker).options(
            num_cpus=self._config.cpus_per_worker,
            num_gpus=self._config.gpus_per_worker,
            max_restarts=0,  # what a worker knows is in the ledger: a new one is told it
            max_task_retries=0,
            runtime_env={"env_vars": environment},
        )

    def _introduced(self, member: Member, who: Introduction) -> None:
        member.who = who
        member.asked = time.monotonic()
        member.deadline = member.asked + self._config.start_seconds
        member.answers = self._judged
        member.reference = member.actor.build.remote(self._building)

    def _judged(self, member: Member, answer: Answer) -> None:
        """Take up a worker that has answered the probe as it should."""
        wrong = list(differences(self._expected, answer, exact=self._config.abilities.exact))
        if wrong:
            self._refused += 1
            self._dismiss(member)
            where = f"{member.name} on {member.who.node if member.who else '?'}"
            text = f"{where} was refused: {'; '.join(wrong)}"
            if self._wanted() == 0:
                raise EngineError(f"{text}; install the same versions and the same model there")
            self._say(f"Warning: {text}.")
            return
        member.known, member.since, self._failed_starts = Known(), time.monotonic(), 0
        self._say(f"{member.name.capitalize()} is ready: {len(self.ready)} of {self._wanted()}.")

    # ---------------------------------------------------------------- losing

    def _lose(self, member: Member, reason: str, again: Callable[[int, str], None]) -> None:
        """Replace a worker; what it was working on is asked of another."""
        starting = member.known is None
        self._dismiss(member)
        left = len(self.ready)
        self._say(f"Warning: {member.name} is lost ({reason:.400}); {left} left.")
        if starting:
            self._failed_starts += 1
            if self._failed_starts >= MOST_FAILED_STARTS and left == 0:
                raise EngineError(
                    f"{self._failed_starts} workers could not start, the last one because {reason}; "
                    f"{diagnosis(self._config)}"
                )
        if member.piece is not None:
            again(member.piece, reason)

    def _dismiss(self, member: Member) -> None:
        self._members.remove(member)
        self._ray.kill(member.actor)

    def _wait_or_stop(self) -> None:
        """No worker is ready: say so now and then, and give up after `start_seconds`."""
        now = time.monotonic()
        alone = now - self._alone_since
        if alone > self._config.start_seconds:
            raise EngineError(
                f"no worker was ready within engine.start_seconds = {self._config.start_seconds:g}: "
                f"{diagnosis(self._config)}; free or add resources, then resume the run"
            )
        if self._started and now - max(self._said_waiting, self._alone_since) > SAY_AGAIN_SECONDS:
            self._said_waiting = now
            self._say(f"Waiting for a worker since {alone:.0f} seconds: {diagnosis(self._config)}.")

    # ---------------------------------------------------------------- the rest

    def wait_for_one(self) -> None:
        """Return once a worker is ready. Raises EngineError if none is in time."""
        self._alone_since = time.monotonic()
        while not self.ready:
            self._hire()
            self._listen(lambda piece, reason: None)

    @property
    def busy(self) -> float:
        """Mean share of their time that the workers of now have worked since they were ready."""
        now = time.monotonic()
        shares = [m.busy / max(now - m.since, 1e-9) for m in self._members if m.known is not None]
        return sum(shares) / len(shares) if shares else 0.0

    @property
    def ready(self) -> list[Introduction]:
        """Where the workers live that are ready."""
        return [m.who for m in self._members if m.known is not None and m.who is not None]

    def close(self) -> None:
        """End all workers; those that wait for work release first what their engines hold."""
        idle = [member.actor.close.remote() for member in self._members if member.idle]
        if idle:
            self._ray.wait(idle, num_returns=len(idle), timeout=CLOSE_SECONDS)
        for member in list(self._members):
            self._dismiss(member)


def _carried(name: str) -> bool:
    return name in CARRIED or (name.startswith("VLLM_") and name not in ("VLLM_HOST_IP", "VLLM_PORT"))
