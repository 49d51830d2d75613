"""How rows are cut into micro-batches that fit the memory: longest first, the same cut on every run."""

import sys
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import Literal

import torch
from transformers import PreTrainedModel

from evolign.engines.transformers.memory import (
    GIB,
    MOST_READINGS_ON_CPU,
    MOST_ROWS_ON_CPU,
    budget_bytes,
    bytes_per_reading,
    bytes_per_row,
)
from evolign.errors import EngineError


class MicroBatches:
    """Rows that run at once: `micro_batch_size` of them, or as many as `memory_gb` holds."""

    def __init__(
        self,
        model: PreTrainedModel,
        micro_batch_size: int | Literal["auto"] = "auto",
        memory_gb: float | Literal["auto"] = "auto",
        say: Callable[[str], None] | None = None,
    ) -> None:
        self._model, self._size = model, micro_batch_size
        self._budget = budget_bytes(model) if memory_gb == "auto" else memory_gb * GIB
        self._say = say

    def of_writing(
        self, rows: Sequence[int], prompt_tokens: Sequence[int], max_new_tokens: int
    ) -> Iterator[list[int]]:
        """Micro-batches of `rows`, by number: row i has a prompt of `prompt_tokens[i]`."""

        def need(length: int) -> int:
            return bytes_per_row(self._model, length, max_new_tokens)

        return self._cut(rows, prompt_tokens, need, MOST_ROWS_ON_CPU)

    def of_reading(self, rows: Sequence[int], tokens: Sequence[int], most_new: int) -> Iterator[list[int]]:
        """The same of rows that are read: row i has `tokens[i]`, of which the last `most_new` are scored."""

        def need(length: int) -> int:
            return bytes_per_reading(self._model, length, most_new)

        return self._cut(rows, tokens, need, MOST_READINGS_ON_CPU)

    def _cut(
        self,
        rows: Sequence[int],
        length: Sequence[int],
        need: Callable[[int], int],
        most_on_cpu: int,
    ) -> Iterator[list[int]]:
        """A batch is cut when the one before it is done: `halve` counts for those that follow.

        Rows that fit at once keep their order: what is one batch here is the same batch elsewhere.
        """
        order = sorted(rows, key=lambda i: -length[i])
        if len(order) <= self._rows_at_once(need(length[order[0]]), most_on_cpu):
            yield list(rows)
            return
        while order:
            size = self._rows_at_once(need(length[order[0]]), most_on_cpu)
            yield order[:size]
            order = order[size:]

    def _rows_at_once(self, bytes_of_a_row: int, most_on_cpu: int) -> int:
        if self._size != "auto":
            return self._size
        most = most_on_cpu if self._model.device.type == "cpu" else sys.maxsize
        return max(1, min(most, int(self._budget // bytes_of_a_row)))

    def halve(self, rows: int) -> None:
        """Continue with half of `rows` at once, for good. Raises EngineError if there is one only."""
        if rows == 1:
            raise EngineError(
                "the device has no memory for a single completion; lower sampling.max_new_tokens or use "
                "a smaller or quantised model"
            )
        torch.cuda.empty_cache()
        self._size = rows // 2
        if self._say is not None:
            self._say(f"The device ran out of memory for {rows} rows at once; continuing with {rows // 2}.")


def reading_lengths(
    prompt_tokens: Sequence[int],
    candidates: Sequence[int],
    prompts: Sequence[str],
    token_ids: Sequence[tuple[int, ...]],
) -> list[int]:
    """Tokens of the longest reading with the same candidate and prompt, by reading.

    Sorting by it keeps together what follows one prompt, which is read once for all of it.
    """
    prompt_M = list(zip(candidates, prompts, strict=True))
    longest: dict[tuple[int, str], int] = defaultdict(int)
    for prompt, tokens, ids in zip(prompt_M, prompt_tokens, token_ids, strict=True):
        longest[prompt] = max(longest[prompt], tokens + len(ids))
    return [longest[prompt] for prompt in prompt_M]
