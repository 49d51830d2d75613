"""The public test double: an engine whose completions are a function of the candidate, without a model.

    engine = FakeEngine(lambda theta_D, example: str(-(theta_D**2).sum()))

With a reward that reads the number back, the loop then maximises that function, exactly and in microseconds.
"""

from collections.abc import Callable, Sequence
from typing import Any, Self

import numpy as np

from evolign.errors import EngineError
from evolign.types import Example, Population, Rollouts, Sampling


class FakeEngine:
    """`respond(theta_D, example)` is the text of every completion, one token per character.

    `logprob(theta_D, example, token_ids)` is the log-probability of a completion, which its first token
    gets; without it the engine cannot read.
    """

    def __init__(
        self,
        respond: Callable[[np.ndarray, Example], str],
        logprob: Callable[[np.ndarray, Example, tuple[int, ...]], float] | None = None,
    ) -> None:
        self._respond, self._logprob = respond, logprob

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

    def logprobs(
        self,
        population: Population,
        candidates: Sequence[int],
        examples: Sequence[Example],
        token_ids: Sequence[tuple[int, ...]],
        temperature: float = 1.0,
    ) -> np.ndarray:
        """See `Engine.logprobs`; `temperature` is ignored."""
        if self._logprob is None:
            raise EngineError("this FakeEngine was made without `logprob`, so it cannot read completions")
        logprob_MT = np.zeros((len(examples), max(map(len, token_ids))))
        for m, reading in enumerate(zip(candidates, examples, token_ids, strict=True)):
            candidate, example, ids = reading
            logprob_MT[m, 0] = self._logprob(population.theta_ND[candidate].copy(), example, ids)
        return logprob_MT

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: Any) -> None:
        pass
