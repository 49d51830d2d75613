"""What runs inside a Ray actor: a policy, an engine, and the processes that run the reward."""

import os
import pickle
import platform
import signal
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from evolign.config.engines import WorkerConfig
from evolign.engines.ray.ledger import News
from evolign.engines.ray.pieces import Piece, Reading, ReadPiece, WritePiece, Writing, part_of
from evolign.engines.ray.probe import Answer, ask
from evolign.policy.policy import PolicySpec
from evolign.rewards.scores import Scores
from evolign.types import Example


@dataclass(frozen=True)
class Introduction:
    """Where a worker lives."""

    node: str
    node_id: str
    """Ray's name of the node."""
    pid: int
    errors: str
    """The file that its standard error goes to, on its node."""


@dataclass(frozen=True)
class Building:
    """All that a worker is made of."""

    spec: PolicySpec
    adapter: Mapping[str, bytes]
    """The files of the starting adapter: a worker may not see the driver's disk."""
    engine: WorkerConfig
    threads: int


@dataclass(frozen=True)
class Written:
    """The completions of a piece, candidate by candidate, prompt by prompt, sample by sample."""

    texts: list[str]
    token_ids: list[tuple[int, ...]]
    truncated: list[bool]
    scores: Scores | None
    """None where the worker has no reward."""


def end_process(pid: int) -> None:
    """End a process of this node that may not listen any more."""
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


class Worker:
    """One engine and one policy. Its methods are called one after the other, by one driver."""

    def __init__(self) -> None:
        self._scorer: Any = None
        self._examples: dict[str, Example] = {}
        self._call: tuple[int, Any] = (-1, None)

    def introduce(self) -> Introduction:
        """Say where this is: quick, so that whatever goes wrong later can be looked up."""
        try:
            errors = os.readlink("/proc/self/fd/2")
        except OSError:
            errors = ""
        import ray

        node_id = ray.get_runtime_context().get_node_id()
        return Introduction(platform.node(), node_id, os.getpid(), errors)

    def build(self, packed: bytes) -> Answer:
        """Load the policy, start the engine, and answer the probe."""
        from evolign.engines import build_engine

        building: Building = pickle.loads(packed)
        with tempfile.TemporaryDirectory(prefix="evolign-") as folder:
            spec = building.spec
            if spec.adapter is not None:
                for name, content in building.adapter.items():
                    (Path(folder) / name).write_bytes(content)
                spec = replace(spec, adapter=folder)
            policy = spec.build()
        config = building.engine
        if config.threads == "auto":
            config = config.model_copy(update={"threads": building.threads})
        self._engine = build_engine(config, policy)
        self._engine.__enter__()
        return ask(policy, self._engine)

    def close(self) -> None:
        """Release what the engine holds beside this process: other processes, shared memory."""
        self._engine.__exit__(None, None, None)

    def work(self, news: News, number: int, call: list[Any], piece: bytes) -> bytes:
        """Seconds that a piece has taken, and the answer to it.

        `number` is that of the call, and `call` holds a reference to what its pieces share.
        """
        started = time.perf_counter()
        self._hear(news)
        if self._call[0] != number:
            import ray

            self._call = number, pickle.loads(ray.get(call[0]))
        answer = self._answer(self._call[1], pickle.loads(piece))
        return pickle.dumps((time.perf_counter() - started, answer))

    def _hear(self, news: News) -> None:
        for prompts in news.prompts:
            examples: list[Example] = pickle.loads(prompts)
            self._engine.add_prompts(examples)
            self._examples |= {example.id: example for example in examples}
        if news.reward is not None:
            if self._scorer is not None:
                self._scorer.close()
            self._scorer = pickle.loads(news.reward)
            self._scorer.start()
        if news.place is not None:
            self._engine.place(pickle.loads(news.place))
        for move in news.moves:
            self._engine.move(pickle.loads(move))

    def _answer(self, shared: Writing | Reading, piece: Piece) -> Any:
        if isinstance(piece, ReadPiece):
            assert isinstance(shared, Reading)
            return self._engine.logprobs(
                shared.population, piece.candidates, piece.prompts, piece.token_ids, shared.temperature
            )
        assert isinstance(shared, Writing)
        return self._write(shared, piece)

    def _write(self, shared: Writing, piece: WritePiece) -> Written:
        population = part_of(shared.population, piece.candidates)
        rollouts = self._engine.generate(population, piece.names_NP, shared.sampling)
        texts, token_ids = list(rollouts.text_NPS.flat), list(rollouts.token_ids_NPS.flat)
        scores = None
        if self._scorer is not None:
            samples = shared.sampling.samples_per_prompt
            examples = [
                self._examples[name] for row in piece.names_NP for name in row for _ in range(samples)
            ]
            self._scorer.at(shared.state)
            scores = self._scorer.score(examples, texts, token_ids)
        return Written(texts, token_ids, rollouts.truncated_NPS.ravel().tolist(), scores)
