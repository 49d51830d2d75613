"""What the loop needs of an engine: vectors in, completions out."""

from collections.abc import Sequence
from types import TracebackType
from typing import Protocol, Self

import numpy as np

from evolign.types import Example, Population, Rollouts, Sampling


class Engine(Protocol):
    """Runs candidates by inference. A context manager, so that models and workers are let go."""

    def generate(
        self,
        population: Population,
        examples_NP: Sequence[Sequence[Example]],
        sampling: Sampling,
    ) -> Rollouts:
        """Completions of every candidate on its own P prompts.

        The result depends on the candidate, the example and `sampling` alone: not on the order of
        candidates or prompts, nor on how rows are batched. Raises ConfigError if a prompt does not
        fit the model's context, EngineError if the device has no memory for a single row.
        """
        ...

    def logprobs(
        self,
        population: Population,
        candidates: Sequence[int],
        examples: Sequence[Example],
        token_ids: Sequence[tuple[int, ...]],
        temperature: float = 1.0,
    ) -> np.ndarray:
        """Log-probability of every token of the completion `token_ids[m]` of `examples[m]`, for M readings.

        Under the candidate `candidates[m]`, by one teacher-forced pass; logits are divided by `temperature`
        as in sampling. Shape (M, T), zero beyond the end of a completion. Raises what `generate` raises.
        """
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...
