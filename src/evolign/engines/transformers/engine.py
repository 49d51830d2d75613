"""The engine `transformers`: a whole population in one model, in this process.

All candidates x prompts x samples become rows, sorted by length and generated in micro-batches that fit the
memory. Any decoder-only model of transformers with a key/value cache works, hybrids included.
"""

import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal, Self, TypeVar

import numpy as np
import torch

from evolign.engines.transformers.attention import DecodingAttention
from evolign.engines.transformers.decoding import decode
from evolign.engines.transformers.forward import check_cached
from evolign.engines.transformers.linear import OneDnnLinear
from evolign.engines.transformers.log_probs import read
from evolign.engines.transformers.memory import (
    GIB,
    MOST_READINGS_ON_CPU,
    MOST_ROWS_ON_CPU,
    budget_bytes,
    bytes_per_reading,
    bytes_per_row,
)
from evolign.engines.transformers.scaled_lora import ScaledLora
from evolign.errors import EngineError
from evolign.policy.policy import Policy
from evolign.policy.spaces.base import SearchSpace
from evolign.seeding import key
from evolign.types import Example, Population, Rollouts, Sampling

T = TypeVar("T")


@dataclass(frozen=True)
class _Row:
    candidate: int
    prompt: list[int]
    noise_key: int


class TransformersEngine:
    """Generates with a transformers model whose rows belong to different candidates.

    `micro_batch_size` rows at a time, or as many as `memory_gb` holds. "auto" is explained at
    `TransformersConfig`.
    """

    def __init__(
        self,
        policy: Policy,
        *,
        micro_batch_size: int | Literal["auto"] = "auto",
        memory_gb: float | Literal["auto"] = "auto",
    ) -> None:
        check_cached(policy.base.model)
        self._base, self._space = policy.base, policy.space
        self._micro_batch_size = micro_batch_size
        model = policy.base.model
        self._budget = budget_bytes(model) if memory_gb == "auto" else memory_gb * GIB
        self._attention = DecodingAttention(model)
        self._linear = OneDnnLinear(model)
        self._lora = ScaledLora(model, policy.space.shared_factors(_start(policy.space)))

    def generate(
        self,
        population: Population,
        examples_NP: Sequence[Sequence[Example]],
        sampling: Sampling,
    ) -> Rollouts:
        """See `Engine.generate`."""
        started = time.perf_counter()
        rows = list(self._rows(examples_NP, sampling))
        self._set_population(population)

        def generate(batch: list[int]) -> list[tuple[int, ...]]:
            candidate_B = self._candidates(rows[i].candidate for i in batch)
            return decode(
                self._base.model,
                [rows[i].prompt for i in batch],
                torch.tensor([rows[i].noise_key for i in batch]),
                lambda row_B: self._lora.select(candidate_B[row_B]),
                eos_token_ids=self._base.eos_token_ids,
                max_new_tokens=sampling.max_new_tokens,
                temperature=sampling.temperature,
            )

        new_tokens = sampling.max_new_tokens
        tokens = self._in_micro_batches(
            generate,
            [len(row.prompt) for row in rows],
            lambda length: bytes_per_row(self._base.model, length, new_tokens),
            MOST_ROWS_ON_CPU,
        )
        shape = (len(population), len(examples_NP[0]), sampling.samples_per_prompt)
        return self._rollouts(tokens, shape, time.perf_counter() - started)

    def logprobs(
        self,
        population: Population,
        candidates: Sequence[int],
        examples: Sequence[Example],
        token_ids: Sequence[tuple[int, ...]],
        temperature: float = 1.0,
    ) -> np.ndarray:
        """See `Engine.logprobs`."""
        most_new = max(map(len, token_ids))
        encoded = self._base.encode_prompts(examples, most_new)
        prompt_M = [(n, example.id) for n, example in zip(candidates, examples, strict=True)]
        longest: dict[tuple[int, str], int] = defaultdict(int)
        for (n, name), ids in zip(prompt_M, token_ids, strict=True):
            longest[n, name] = max(longest[n, name], len(encoded[name]) + len(ids))
        self._set_population(population)

        def score(batch: list[int]) -> list[np.ndarray]:
            row = {prompt: p for p, prompt in enumerate(dict.fromkeys(prompt_M[m] for m in batch))}
            candidate_P = self._candidates(n for n, _ in row)
            logprob_BT = read(
                self._base.model,
                [encoded[name] for _, name in row],
                [token_ids[m] for m in batch],
                [row[prompt_M[m]] for m in batch],
                lambda prompt_R: self._lora.select(candidate_P[prompt_R]),
                temperature,
            )
            return list(logprob_BT.cpu().double().numpy())

        logprob_MT = self._in_micro_batches(
            score,
            [longest[prompt] for prompt in prompt_M],  # keeps together what follows one prompt
            lambda length: bytes_per_reading(self._base.model, length, most_new),
            MOST_READINGS_ON_CPU,
        )
        return np.array([np.pad(row_T, (0, most_new - len(row_T))) for row_T in logprob_MT])

    def _rows(self, examples_NP: Sequence[Sequence[Example]], sampling: Sampling) -> Iterator[_Row]:
        """One row per candidate, prompt and sample, in this order."""
        everyone = (example for row in examples_NP for example in row)
        encoded = self._base.encode_prompts(everyone, sampling.max_new_tokens)
        noise_keys = {
            name: [key(sampling.noise_seed, "token", name, s) for s in range(sampling.samples_per_prompt)]
            for name in encoded
        }
        for candidate, examples in enumerate(examples_NP):
            for example in examples:
                for noise_key in noise_keys[example.id]:
                    yield _Row(candidate, encoded[example.id], noise_key)

    def _set_population(self, population: Population) -> None:
        if self._space.subspaces is not None:
            self._lora.set_factors(self._space.shared_factors(population))
        a_NK, b_NK = self._space.scales(population)
        self._lora.set_population(a_NK.to(self._base.model.device), b_NK.to(self._base.model.device))

    def _candidates(self, numbers: Iterable[int]) -> torch.Tensor:
        return torch.tensor(list(numbers), device=self._base.model.device)

    def _in_micro_batches(
        self,
        work: Callable[[list[int]], list[T]],
        length: Sequence[int],
        need: Callable[[int], int],
        most_on_cpu: int,
    ) -> list[T]:
        """`work` on all rows by number, longest first, in micro-batches that fit the memory.

        `need(length)` estimates the bytes of a row. A batch for which the device has no memory is halved.
        """
        order = sorted(range(len(length)), key=lambda i: -length[i])
        results: dict[int, T] = {}
        while order:
            size = self._rows_at_once(need(length[order[0]]), most_on_cpu)
            batch, rest = order[:size], order[size:]
            done: list[T] | None = None
            with suppress(torch.OutOfMemoryError):
                done = work(batch)
            if done is None:
                self._halve(len(batch))
            else:
                results |= zip(batch, done, strict=True)
                order = rest
        return [results[i] for i in range(len(length))]

    def _rows_at_once(self, bytes_of_a_row: int, most_on_cpu: int) -> int:
        if self._micro_batch_size != "auto":
            return self._micro_batch_size
        most = most_on_cpu if self._base.model.device.type == "cpu" else sys.maxsize
        return max(1, min(most, int(self._budget // bytes_of_a_row)))

    def _halve(self, size: int) -> None:
        """Go on with half the rows, for good, after the device ran out of memory."""
        if size == 1:
            raise EngineError(
                "the device has no memory for a single completion; lower sampling.max_new_tokens or use "
                "a smaller or quantised model"
            )
        torch.cuda.empty_cache()
        self._micro_batch_size = size // 2

    def _rollouts(
        self, tokens: list[tuple[int, ...]], shape: tuple[int, int, int], seconds: float
    ) -> Rollouts:
        ended = set(self._base.eos_token_ids)
        text: dict[tuple[int, ...], str] = {ids: "" for ids in tokens}
        text = {ids: self._base.decode(ids) for ids in text}
        return Rollouts(
            text_NPS=_objects([text[ids] for ids in tokens], shape),
            token_ids_NPS=_objects(tokens, shape),
            truncated_NPS=np.array([ids[-1] not in ended for ids in tokens]).reshape(shape),
            seconds=seconds,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: Any) -> None:
        self._lora.remove()
        self._linear.remove()
        self._attention.remove()


def _start(space: SearchSpace) -> Population:
    return Population(np.zeros((1, space.dim)))


def _objects(values: Sequence[Any], shape: tuple[int, int, int]) -> np.ndarray:
    """An object array of `shape`; numpy would otherwise make tuples a further axis."""
    array = np.empty(len(values), dtype=object)
    for i, value in enumerate(values):
        array[i] = value
    return array.reshape(shape)
