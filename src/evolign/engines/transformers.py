"""The engine `transformers`: a whole population in one model, in this process.

All candidates x prompts x samples become rows, sorted by length and generated in micro-batches that fit the
memory. Any decoder-only model of transformers works.
"""

import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self

import numpy as np
import torch

from evolign.engines.decoding import decode
from evolign.engines.memory import GIB, MOST_ROWS_ON_CPU, budget_bytes, bytes_per_row
from evolign.engines.scaled_lora import ScaledLora
from evolign.errors import EngineError
from evolign.policy.policy import Policy
from evolign.seeding import key
from evolign.types import Example, Population, Rollouts, Sampling


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
        self._base, self._space = policy.base, policy.space
        self._micro_batch_size = micro_batch_size
        model = policy.base.model
        self._budget = budget_bytes(model) if memory_gb == "auto" else memory_gb * GIB
        self._lora = ScaledLora(model, policy.space.shared_factors())

    def generate(
        self,
        population: Population,
        examples_NP: Sequence[Sequence[Example]],
        sampling: Sampling,
    ) -> Rollouts:
        """See `Engine.generate`."""
        started = time.perf_counter()
        rows = list(self._rows(examples_NP, sampling))
        scales = [scale.to(self._base.model.device) for scale in self._space.scales(population)]
        order = sorted(range(len(rows)), key=lambda i: -len(rows[i].prompt))
        tokens: list[tuple[int, ...]] = [()] * len(rows)
        while order:
            size = self._rows_at_once(len(rows[order[0]].prompt), sampling.max_new_tokens)
            batch, rest = order[:size], order[size:]
            decoded = self._decode([rows[i] for i in batch], scales, sampling)
            if decoded is None:
                self._halve(len(batch))
                continue
            for i, completion in zip(batch, decoded, strict=True):
                tokens[i] = completion
            order = rest
        shape = (len(population), len(examples_NP[0]), sampling.samples_per_prompt)
        return self._rollouts(tokens, shape, time.perf_counter() - started)

    def _rows(self, examples_NP: Sequence[Sequence[Example]], sampling: Sampling) -> Iterator[_Row]:
        """One row per candidate, prompt and sample, in this order."""
        distinct = {example.id: example for row in examples_NP for example in row}
        encoded = self._base.encode_prompts(distinct.values(), sampling.max_new_tokens)
        for candidate, examples in enumerate(examples_NP):
            for example in examples:
                for sample in range(sampling.samples_per_prompt):
                    noise_key = key(sampling.noise_seed, "token", example.id, sample)
                    yield _Row(candidate, encoded[example.id], noise_key)

    def _decode(
        self, rows: Sequence[_Row], scales: Sequence[torch.Tensor], sampling: Sampling
    ) -> list[tuple[int, ...]] | None:
        """Completions of a micro-batch; None if the device ran out of memory."""
        device = self._base.model.device
        candidate_B = torch.tensor([row.candidate for row in rows], device=device)
        a_BK, b_BK = (scale[candidate_B] for scale in scales)
        try:
            return decode(
                self._base.model,
                [row.prompt for row in rows],
                torch.tensor([row.noise_key for row in rows]),
                lambda row_B: self._lora.select(a_BK[row_B], b_BK[row_B]),
                eos_token_ids=self._base.eos_token_ids,
                max_new_tokens=sampling.max_new_tokens,
                temperature=sampling.temperature,
            )
        except torch.OutOfMemoryError:
            return None

    def _rows_at_once(self, prompt_tokens: int, new_tokens: int) -> int:
        if self._micro_batch_size != "auto":
            return self._micro_batch_size
        row = bytes_per_row(self._base.model, prompt_tokens, new_tokens)
        most = MOST_ROWS_ON_CPU if self._base.model.device.type == "cpu" else sys.maxsize
        return max(1, min(most, int(self._budget // row)))

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


def _objects(values: Sequence[Any], shape: tuple[int, int, int]) -> np.ndarray:
    """An object array of `shape`; numpy would otherwise make tuples a further axis."""
    array = np.empty(len(values), dtype=object)
    for i, value in enumerate(values):
        array[i] = value
    return array.reshape(shape)
