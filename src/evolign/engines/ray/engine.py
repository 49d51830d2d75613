"""The engine `ray`: what an engine in this process does, done in pieces by workers on any machines.

What crosses per step is the population, N K numbers, and the move of the mean, K numbers. Answers are placed
by their number, so they do not depend on who answered first, or how often. On a CPU they are those of the
engine in this process, to the last bit.
"""

import pickle
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

import numpy as np

from evolign.config.engines import RayConfig, TransformersConfig
from evolign.engines.base import check_call, live_model
from evolign.engines.ray.cluster import connected, import_ray
from evolign.engines.ray.ledger import Ledger
from evolign.engines.ray.pieces import Reading, Writing, cut_reading, cut_writing
from evolign.engines.ray.pool import Pool
from evolign.engines.ray.probe import Answer, ask
from evolign.engines.ray.scorer import PoolScorer
from evolign.engines.ray.worker import Building, Introduction, Written
from evolign.engines.transformers.batches import MicroBatches, reading_lengths
from evolign.engines.transformers.engine import TransformersEngine
from evolign.policy.policy import Policy
from evolign.policy.spaces.base import SharesFactors
from evolign.rewards.calling import TrainerState
from evolign.rewards.scoring import Scorer
from evolign.runs.progress import Progress, Silent
from evolign.strategies.mean import Mean
from evolign.types import Example, Move, Population, Rollouts, Sampling


class RayEngine:
    """Runs candidates on the workers of a Ray cluster while it is entered.

    `policy` is what the workers build too: its model must come from a name or a folder that they see.
    `progress` hears of workers that come and go, and shows the pieces of a call. Raises ConfigError where Ray
    is not installed.
    """

    def __init__(self, policy: Policy, *, progress: Progress | None = None, **settings: Any) -> None:
        import_ray()
        if policy.base.loaded_from is None or policy.spec is None:
            raise live_model("ray", "workers")
        self._config = RayConfig(**settings)
        self.abilities = self._config.abilities
        self._policy, self._spec, self._progress = policy, policy.spec, progress or Silent()
        self._prompts = policy.base.prompts
        self._mean = Mean(policy.space.dim)
        self._ledger = Ledger()
        worker = self._config.worker
        exact = worker if isinstance(worker, TransformersConfig) else TransformersConfig()
        self._batches = MicroBatches(policy.base.model, exact.micro_batch_size, exact.memory_gb)
        self._entered = ExitStack()
        self._pool: Pool
        self._scorer: PoolScorer | None = None
        self._reported: dict[str, int] = {}

    def add_prompts(self, examples: Iterable[Example]) -> None:
        """See `Engine.add_prompts`."""
        known = list(examples)
        self._prompts.add(known)
        self._ledger.add_prompts(known)

    def move(self, move: Move) -> None:
        """See `Engine.move`."""
        self._mean.follow(move, self._policy.space.lift)
        self._ledger.move(move, self._mean)

    def place(self, mean: Mapping[str, np.ndarray]) -> None:
        """See `Engine.place`."""
        self._mean.load_state_dict(mean)
        self._ledger.place(mean)

    def generate(
        self, population: Population, prompts_NP: Sequence[Sequence[str]], sampling: Sampling
    ) -> Rollouts:
        """See `Engine.generate`."""
        started = time.perf_counter()
        asked = (name for row in prompts_NP for name in row)
        check_call(population, self._mean.version, asked, self._prompts, sampling.max_new_tokens)
        samples = sampling.samples_per_prompt
        pieces = list(cut_writing(prompts_NP, samples, self._config.piece_rows))
        with self._progress.phase("writing", len(pieces), "pieces") as phase:
            writing = Writing(population, sampling, self._scorer.state if self._scorer else TrainerState())
            answers: list[Written] = self._pool.run(writing, pieces, phase.advance)
        shape = (len(population), len(prompts_NP[0]), samples)
        text_NPS, token_ids_NPS = np.empty(shape, dtype=object), np.empty(shape, dtype=object)
        truncated_NPS = np.empty(shape, dtype=bool)
        for piece, answer in zip(pieces, answers, strict=True):
            places = ((n, p, s) for n in piece.candidates for p in piece.prompts for s in range(samples))
            for place, text, ids, cut_off in zip(
                places, answer.texts, answer.token_ids, answer.truncated, strict=True
            ):
                text_NPS[place], token_ids_NPS[place], truncated_NPS[place] = text, ids, cut_off
        if self._scorer is not None:
            self._scorer.keep(pieces, answers, samples)
        return Rollouts(text_NPS, token_ids_NPS, truncated_NPS, time.perf_counter() - started)

    def logprobs(
        self,
        population: Population,
        candidates: Sequence[int],
        prompts: Sequence[str],
        token_ids: Sequence[tuple[int, ...]],
        temperature: float = 1.0,
    ) -> np.ndarray:
        """See `Engine.logprobs`."""
        most_new = max(map(len, token_ids))
        check_call(population, self._mean.version, prompts, self._prompts, most_new)
        prompt_tokens = [len(self._prompts[name]) for name in prompts]
        length_M = reading_lengths(prompt_tokens, candidates, prompts, token_ids)
        pieces = list(
            cut_reading(
                self._read_together(population, candidates),
                lambda rows: self._batches.of_reading(rows, length_M, most_new),
                candidates,
                prompts,
                token_ids,
            )
        )
        logprob_MT = np.zeros((len(prompts), most_new))
        with self._progress.phase("reading", len(pieces), "pieces") as phase:
            answers = self._pool.run(Reading(population, temperature), pieces, phase.advance)
        for piece, answer in zip(pieces, answers, strict=True):
            logprob_MT[piece.rows, : answer.shape[1]] = answer
        return logprob_MT

    def scorer(self, local: Scorer) -> PoolScorer:
        """See `ScoresItself.scorer`: workers run the reward on what they have written."""
        self._ledger.set_reward(local)
        self._pool.allowance = local.most_seconds(self._config.piece_rows)
        self._scorer = PoolScorer(local)
        return self._scorer

    @property
    def workers(self) -> list[Introduction]:
        """Where the workers live that are ready."""
        return self._pool.ready

    @property
    def piece_seconds(self) -> list[float]:
        """What each piece of the last call has taken where it was worked on."""
        return self._pool.piece_seconds

    def report(self) -> dict[str, float]:
        """See `Reports.report`: workers, their busy share, and bytes and pieces since the last report."""
        now = dict(self._pool.figures)
        new = {name: value - self._reported.get(name, 0) for name, value in now.items()}
        self._reported = now
        none = {"pieces_retried": 0, "pieces_copied": 0}
        return {"workers": len(self._pool.ready), "busy": self._pool.busy, **none, **new}

    def _read_together(self, population: Population, candidates: Sequence[int]) -> list[list[int]]:
        """Readings that may share a batch: all, or those of one candidate, as in `TransformersEngine`."""
        if isinstance(self._policy.space, SharesFactors):
            return [list(range(len(candidates)))]
        groups = ([m for m, c in enumerate(candidates) if c == n] for n in range(len(population)))
        return [group for group in groups if group]

    def __enter__(self) -> Self:
        try:
            self._entered.enter_context(connected(self._config))
            self._pool = Pool(
                self._config, self._building(), self._expected(), self._ledger, self._progress.say
            )
            self._entered.callback(self._pool.close)
            self._pool.wait_for_one()
        except BaseException:
            self._entered.close()
            raise
        return self

    def __exit__(self, *error: Any) -> None:
        self._entered.close()

    def _building(self) -> bytes:
        spec = self._spec
        folder = spec.adapter
        files = (
            {} if folder is None else {p.name: p.read_bytes() for p in Path(folder).iterdir() if p.is_file()}
        )
        return pickle.dumps(Building(spec, files, self._config.worker, self._config.cpus_per_worker))

    def _expected(self) -> Answer:
        """What this process itself answers to the probe."""
        with TransformersEngine(self._policy) as engine:
            return ask(self._policy, engine)
