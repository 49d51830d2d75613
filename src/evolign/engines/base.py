"""What the loop needs of an engine: vectors in, completions out."""

from collections.abc import Sequence
from types import TracebackType
from typing import Protocol, Self

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

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...
