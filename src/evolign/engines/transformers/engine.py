"""The engine `transformers`: a whole population in one model, in this process.

All candidates x prompts x samples become rows, sorted by length and generated in micro-batches that fit the
memory. Any decoder-only model of transformers with a key/value cache works, hybrids included.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import Any, Literal, Self, TypeVar

import numpy as np
import torch

from evolign.engines.base import check_call
from evolign.engines.rows import as_rollouts, noise_keys
from evolign.engines.transformers.attention import DecodingAttention
from evolign.engines.transformers.batches import MicroBatches, reading_lengths
from evolign.engines.transformers.decoding import decode
from evolign.engines.transformers.forward import check_cached
from evolign.engines.transformers.linear import OneDnnLinear
from evolign.engines.transformers.log_probs import read
from evolign.engines.transformers.scaled_lora import ScaledLora
from evolign.policy.adapter import Adapter
from evolign.policy.policy import Policy
from evolign.policy.spaces.base import SharesFactors
from evolign.policy.spaces.fixed import Fixed
from evolign.policy.threads import cpu_threads
from evolign.runs.progress import Progress, Silent
from evolign.strategies.mean import Mean
from evolign.types import Abilities, Example, Move, Population, Rollouts, Sampling

T = TypeVar("T")
Cut = Callable[[Sequence[int]], Iterator[list[int]]]
"""Micro-batches of rows, by number."""


@dataclass(frozen=True)
class _Row:
    candidate: int
    prompt: str
    noise_key: int


class TransformersEngine:
    """Generates with a transformers model whose rows belong to different candidates.

    `micro_batch_size` rows at a time, or as many as `memory_gb` holds, on `threads` CPU threads while the
    engine is entered. "auto" is explained at `TransformersConfig`. `progress` hears what a user should know,
    and shows the tokens of a call.

    Where the search space shares factors (`SharesFactors`), a batch mixes candidates; otherwise the engine
    runs one candidate's adapter after another.
    """

    abilities = Abilities(exact=True, reads=True, live_weights=True)

    def __init__(
        self,
        policy: Policy,
        *,
        micro_batch_size: int | Literal["auto"] = "auto",
        memory_gb: float | Literal["auto"] = "auto",
        threads: int | Literal["auto"] = "auto",
        progress: Progress | None = None,
    ) -> None:
        model = policy.base.model
        check_cached(model)
        self._base, self._space, self._threads = policy.base, policy.space, threads
        self._progress = progress or Silent()
        self.mean = Mean(policy.space.dim)
        """Where the mean is: the moves that were followed."""
        self._entered = ExitStack()
        self._batches = MicroBatches(model, micro_batch_size, memory_gb, self._progress.say)
        self._attention = DecodingAttention(model)
        self._linear = OneDnnLinear(model)
        start = Population.of_mean()
        first = policy.space if isinstance(policy.space, SharesFactors) else Fixed(policy.adapter)
        self._lora = ScaledLora(model, first.shared_factors(start, self.mean.point))

    def add_prompts(self, examples: Iterable[Example]) -> None:
        """See `Engine.add_prompts`."""
        self._base.prompts.add(examples)

    def move(self, move: Move) -> None:
        """See `Engine.move`."""
        self.mean.follow(move, self._space.lift)

    def place(self, mean: Mapping[str, np.ndarray]) -> None:
        """See `Engine.place`."""
        self.mean.load_state_dict(mean)

    def generate(
        self, population: Population, prompts_NP: Sequence[Sequence[str]], sampling: Sampling
    ) -> Rollouts:
        """See `Engine.generate`."""
        started = time.perf_counter()
        version, known = self.mean.version, self._base.prompts
        asked = (name for row in prompts_NP for name in row)
        check_call(population, version, asked, known, sampling.max_new_tokens)
        rows = list(self._rows(prompts_NP, sampling))

        def generate(batch: list[int], slots: list[int]) -> list[tuple[int, ...]]:
            prompts, prompt_B, candidate_P = self._distinct(
                [(rows[i].candidate, rows[i].prompt) for i in batch], slots
            )
            return decode(
                self._base.model,
                prompts,
                prompt_B,
                torch.tensor([rows[i].noise_key for i in batch]),
                lambda prompt_R: self._lora.select(candidate_P[prompt_R]),
                eos_token_ids=self._base.eos_token_ids,
                max_new_tokens=sampling.max_new_tokens,
                temperature=sampling.temperature,
                advance=phase.advance,
            )

        length_M = [len(known[row.prompt]) for row in rows]
        with self._progress.phase("writing", len(rows) * sampling.max_new_tokens, "tokens") as phase:
            tokens = self._run(
                generate,
                population,
                [row.candidate for row in rows],
                lambda numbers: self._batches.of_writing(numbers, length_M, sampling.max_new_tokens),
            )
        shape = (len(population), len(prompts_NP[0]), sampling.samples_per_prompt)
        return as_rollouts(self._base, tokens, shape, time.perf_counter() - started)

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
        encoded = self._base.prompts
        check_call(population, self.mean.version, prompts, encoded, most_new)
        prompt_M = list(zip(candidates, prompts, strict=True))
        prompt_tokens = [len(encoded[name]) for name in prompts]
        length_M = reading_lengths(prompt_tokens, candidates, prompts, token_ids)

        def score(batch: list[int], slots: list[int]) -> list[np.ndarray]:
            tokens, prompt_B, candidate_P = self._distinct([prompt_M[m] for m in batch], slots)
            logprob_BT = read(
                self._base.model,
                tokens,
                [token_ids[m] for m in batch],
                prompt_B,
                lambda prompt_R: self._lora.select(candidate_P[prompt_R]),
                temperature,
            )
            phase.advance(sum(len(token_ids[m]) for m in batch))
            return list(logprob_BT.cpu().double().numpy())

        with self._progress.phase("reading", sum(map(len, token_ids)), "tokens") as phase:
            logprob_MT = self._run(
                score,
                population,
                candidates,
                lambda numbers: self._batches.of_reading(numbers, length_M, most_new),
            )
        return np.array([np.pad(row_T, (0, most_new - len(row_T))) for row_T in logprob_MT])

    def _rows(self, prompts_NP: Sequence[Sequence[str]], sampling: Sampling) -> Iterator[_Row]:
        """One row per candidate, prompt and sample, in this order."""
        keys = noise_keys((name for row in prompts_NP for name in row), sampling)
        for candidate, names in enumerate(prompts_NP):
            for name in names:
                for noise_key in keys[name]:
                    yield _Row(candidate, name, noise_key)

    def _run(
        self,
        work: Callable[[list[int], list[int]], list[T]],
        population: Population,
        candidate_M: Sequence[int],
        cut: Cut,
    ) -> list[T]:
        """Call `work(rows, whose)` on all M rows, with the adapters of their candidates in the model."""
        results: dict[int, T] = {}
        for numbers, slot in self._adapted(population, candidate_M):

            def batch(rows: list[int], slot: Mapping[int, int] = slot) -> list[T]:
                return work(rows, [slot[candidate_M[row]] for row in rows])

            results |= self._in_micro_batches(batch, numbers, cut)
        return [results[row] for row in range(len(candidate_M))]

    def _adapted(
        self, population: Population, candidate_M: Sequence[int]
    ) -> Iterator[tuple[list[int], dict[int, int]]]:
        """Groups of rows that run together, each with the number of every candidate's adapter."""
        space, mean_D = self._space, self.mean.point
        if isinstance(space, SharesFactors):
            if space.subspace_dim is not None:
                self._lora.set_factors(space.shared_factors(population, mean_D))
            self._set_scales(space, population, mean_D)
            yield list(range(len(candidate_M))), {n: n for n in range(len(population))}
            return
        for n, adapter in enumerate(space.adapters(population, mean_D)):
            rows = [row for row, candidate in enumerate(candidate_M) if candidate == n]
            if rows:
                self._set_alone(adapter)
                yield rows, {n: 0}

    def _set_scales(self, space: SharesFactors, population: Population, mean_D: np.ndarray) -> None:
        a_NK, b_NK = space.scales(population, mean_D)
        self._lora.set_population(a_NK.to(self._base.model.device), b_NK.to(self._base.model.device))

    def _set_alone(self, adapter: Adapter) -> None:
        alone, nowhere = Fixed(adapter), np.zeros(0)
        self._lora.set_factors(alone.shared_factors(Population.of_mean(), nowhere))
        self._set_scales(alone, Population.of_mean(), nowhere)

    def _distinct(
        self, asked_B: Sequence[tuple[int, str]], slots: Sequence[int]
    ) -> tuple[list[list[int]], list[int], torch.Tensor]:
        """The distinct prompts of a micro-batch, each read once for all its rows.

        `asked_B` are the candidates and prompts of its rows, `slots` the numbers of their adapters. Returns
        the tokens of P prompts, the prompt of every row, and the adapter of every prompt.
        """
        slot = dict(zip(asked_B, slots, strict=True))
        number = {asked: p for p, asked in enumerate(slot)}
        tokens = [self._base.prompts[name] for _, name in slot]
        adapter_P = torch.tensor(list(slot.values()), device=self._base.model.device)
        return tokens, [number[asked] for asked in asked_B], adapter_P

    def _in_micro_batches(
        self, work: Callable[[list[int]], list[T]], rows: Sequence[int], cut: Cut
    ) -> dict[int, T]:
        """Call `work` on `rows` by number; a micro-batch for which the device has no memory is cut again."""
        results: dict[int, T] = {}
        for batch in cut(rows):
            done: list[T] | None = None
            with suppress(torch.OutOfMemoryError):
                done = work(batch)
            if done is None:
                self._batches.halve(len(batch))
                results |= self._in_micro_batches(work, batch, cut)
            else:
                results |= zip(batch, done, strict=True)
        return results

    def __enter__(self) -> Self:
        self._entered.enter_context(cpu_threads(self._base.model, self._threads))
        return self

    def __exit__(self, *error: Any) -> None:
        self._entered.close()
        self._lora.remove()
        self._linear.remove()
        self._attention.remove()
