"""The public test double: an engine whose completions are a function of the candidate, without a model.

    engine = FakeEngine(lambda theta_D, example: str(-(theta_D**2).sum()))

With a reward that reads the number back, the loop then maximises that function, exactly and in microseconds.
"""

from collections.abc import Callable, Sequence
from typing import Any, Self

import numpy as np

from evolign.types import Example, Population, Rollouts, Sampling


class FakeEngine:
    """`respond(theta_D, example)` is the text of every completion, one token per character."""

    def __init__(self, respond: Callable[[np.ndarray, Example], str]) -> None:
        self._respond = respond

    def generate(
        self,
        population: Population,
        examples_NP: Sequence[Sequence[Example]],
        sampling: Sampling,
    ) -> Rollouts:
        """See `Engine.generate`. Samples of one prompt are all equal."""
        shape = (len(population), len(examples_NP[0]), sampling.samples_per_prompt)
        text_NPS, token_ids_NPS = np.empty(shape, dtype=object), np.empty(shape, dtype=object)
        for n, p, s in np.ndindex(shape):
            text = self._respond(population.theta_ND[n].copy(), examples_NP[n][p])
            text_NPS[n, p, s], token_ids_NPS[n, p, s] = text, tuple(map(ord, text))
        return Rollouts(text_NPS, token_ids_NPS, np.zeros(shape, dtype=bool), seconds=0.0)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: Any) -> None:
        pass
