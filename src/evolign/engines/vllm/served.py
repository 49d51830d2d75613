"""The engine `vllm` with a url: candidates are LoRA adapters of servers that run already, loaded from files.

A candidate's adapter is written into a folder that the servers see, loaded by one of them under a name that
was never used before, and unloaded and deleted once its prompts are answered. Servers take candidates as they
get done with theirs. Seeds are those of the engine in this process: one per prompt and sample.
"""

import shutil
import tempfile
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, Self

import numpy as np

from evolign import disk
from evolign.config.engines import VllmConfig
from evolign.engines.base import check_call
from evolign.engines.rows import as_rollouts, noise_keys
from evolign.engines.vllm.client import Server
from evolign.engines.vllm.engine import LARGEST_SEED
from evolign.engines.vllm.introduction import introduce
from evolign.errors import EngineError
from evolign.policy.adapter import Adapter
from evolign.policy.policy import Policy
from evolign.runs.progress import Progress, Silent
from evolign.strategies.mean import Mean
from evolign.types import Example, Move, Population, Rollouts, Sampling

Answers = dict[tuple[int, int], list[tuple[int, ...]]]
"""What a candidate has written to its p-th prompt, sample by sample."""


class ServedEngine:
    """Generates with the servers of `engine.url`, which are checked when the engine is entered."""

    def __init__(self, policy: Policy, *, progress: Progress | None = None, **settings: Any) -> None:
        self._config = VllmConfig(**settings)
        self.abilities = self._config.abilities
        self._policy, self._base, self._space = policy, policy.base, policy.space
        self._progress = progress or Silent()
        self._mean = Mean(policy.space.dim)
        self._entered = ExitStack()
        self._servers: list[Server] = []
        self._folder: Path
        self._numbers = 0
        self._counting = threading.Lock()

    def add_prompts(self, examples: Iterable[Example]) -> None:
        """See `Engine.add_prompts`."""
        self._base.prompts.add(examples)

    def move(self, move: Move) -> None:
        """See `Engine.move`."""
        self._mean.follow(move, self._space.lift)

    def place(self, mean: Mapping[str, np.ndarray]) -> None:
        """See `Engine.place`."""
        self._mean.load_state_dict(mean)

    def generate(
        self, population: Population, prompts_NP: Sequence[Sequence[str]], sampling: Sampling
    ) -> Rollouts:
        """See `Engine.generate`."""
        started = time.perf_counter()
        names = [name for row in prompts_NP for name in row]
        check_call(population, self._mean.version, names, self._base.prompts, sampling.max_new_tokens)
        self._check_room(names, sampling.max_new_tokens)
        keys = noise_keys(names, sampling)
        todo = deque(enumerate(self._space.adapters(population, self._mean.point)))
        share = -(-len(todo) // len(self._servers))
        lock, stop = threading.Lock(), threading.Event()
        found: Answers = {}

        def work(server: Server) -> None:
            """Take up candidates, as many as the server holds at once, until none is left."""
            while not stop.is_set():
                with lock:
                    wave = [todo.popleft() for _ in range(min(share, self._config.max_loras, len(todo)))]
                if not wave:
                    return
                answers = self._write(server, wave, prompts_NP, sampling, keys)
                with lock:
                    found.update(answers)
                    phase.advance(len(wave))

        count = len(population)
        with (
            self._progress.phase("writing", count, "candidates") as phase,
            ThreadPoolExecutor(len(self._servers)) as pool,
        ):
            try:
                _all(pool.submit(work, server) for server in self._servers)
            finally:
                stop.set()
        tokens = [ids for n in range(count) for p in range(len(prompts_NP[n])) for ids in found[n, p]]
        shape = (count, len(prompts_NP[0]), sampling.samples_per_prompt)
        return as_rollouts(self._base, tokens, shape, time.perf_counter() - started)

    def logprobs(
        self,
        population: Population,
        candidates: Sequence[int],
        prompts: Sequence[str],
        token_ids: Sequence[tuple[int, ...]],
        temperature: float = 1.0,
    ) -> np.ndarray:
        """See `Engine.logprobs`: it is not among this engine's abilities."""
        raise EngineError(
            "engine.url: servers of vLLM write, and cannot read completions; leave engine.url out, or use "
            "engine.name = transformers"
        )

    def _write(
        self,
        server: Server,
        wave: Sequence[tuple[int, Adapter]],
        prompts_NP: Sequence[Sequence[str]],
        sampling: Sampling,
        keys: Mapping[str, Sequence[int]],
    ) -> Answers:
        """What some candidates write on one server, all at once."""
        greedy = sampling.temperature == 0  # then vLLM writes one completion only, and all are the same
        copies = sampling.samples_per_prompt if greedy else 1

        def ask(model: str, prompt: str) -> list[tuple[int, ...]]:
            written = server.complete(
                model,
                self._base.prompts[prompt],
                stop=self._base.eos_token_ids,
                most=sampling.max_new_tokens,
                temperature=sampling.temperature,
                seed=keys[prompt][0] % LARGEST_SEED,
                samples=sampling.samples_per_prompt // copies,
            )
            return [completion.token_ids for completion in written] * copies

        with ExitStack() as loaded:
            asked = {}
            for n, adapter in wave:
                model = loaded.enter_context(self._loaded(server, adapter))
                for p, prompt in enumerate(prompts_NP[n]):
                    asked[n, p] = server.writing.submit(ask, model, prompt)
            _all(asked.values())
            return {place: future.result() for place, future in asked.items()}

    @contextmanager
    def _loaded(self, server: Server, adapter: Adapter) -> Iterator[str]:
        """The name of the model that has the adapter, for as long as the context lasts."""
        if not adapter.modules:
            yield server.base.name
            return
        with self._counting:
            self._numbers += 1
            folder = self._folder / f"{self._folder.name}-{self._numbers}"
        adapter.write(folder)
        try:
            server.load(folder.name, str(folder))
            try:
                yield folder.name
            finally:
                with suppress(EngineError):  # what went wrong before is told
                    server.unload(folder.name)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _check_room(self, names: Iterable[str], new_tokens: int) -> None:
        longest = max(len(self._base.prompts[name]) for name in names)
        for server in self._servers:
            limit = server.base.longest
            if limit is not None and longest + new_tokens > limit:
                raise EngineError(
                    f"engine.url = {server.url!r} was started with --max-model-len {limit}, but a prompt of "
                    f"{longest} tokens and sampling.max_new_tokens = {new_tokens} need {longest + new_tokens}"
                )

    def __enter__(self) -> Self:
        try:
            self._folder = self._make_folder()
            for url in self._config.urls:
                server = Server(url, self._config.request_seconds, self._config.requests)
                self._entered.callback(server.close)
                self._servers.append(server)
            [start] = self._space.adapters(Population.of_mean(), Mean(self._space.dim).point)
            for server in self._servers:
                introduce(
                    self._policy, server, lambda server: self._loaded(server, start), self._progress.say
                )
        except BaseException:
            self._entered.close()
            raise
        return self

    def _make_folder(self) -> Path:
        """A new folder, which all servers see: that of the recipe may be on a disk that they share."""
        inside = self._config.adapters
        try:
            if inside is not None:
                Path(inside).mkdir(parents=True, exist_ok=True)
            folder = self._entered.enter_context(tempfile.TemporaryDirectory(prefix="evolign-", dir=inside))
            Path(folder).chmod(0o755)  # servers may run as other users
        except OSError as error:
            raise EngineError(
                f"engine.adapters = {inside!r} cannot be written: {disk.reason(error)}; name another folder, "
                "which the servers see"
            ) from error
        return Path(folder).resolve()

    def __exit__(self, *error: Any) -> None:
        self._entered.close()
        self._servers.clear()


def _all(futures: Iterable[Future[Any]]) -> None:
    """Wait until all are done. Raises what the first that fails raises, and cancels the others."""
    waited = list(futures)
    try:
        done, _ = wait(waited, return_when=FIRST_EXCEPTION)
        for future in done:
            future.result()
    finally:
        for future in waited:
            future.cancel()
