"""The public test double: an engine whose completions are a function of the candidate, without a model.

    engine = FakeEngine(lambda theta_D, example: str(-(theta_D**2).sum()), dim=3)

With a reward that reads the number back, the loop then maximises that function, exactly and in microseconds.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Self

import numpy as np

from evolign.engines.base import check_known, check_version
from evolign.errors import EngineError
from evolign.strategies.mean import Lift, Mean, identity
from evolign.types import Abilities, Example, Move, Population, Rollouts, Sampling


class FakeEngine:
    """`respond(theta_D, example)` is the text of every completion, one token per character.

    `logprob(theta_D, example, token_ids)` is the log-probability of a completion, which its first token
    gets; without it the engine cannot read. `dim` is D; `lift` maps coordinates of subspaces, as that of a
    search space does.
    """

    def __init__(
        self,
        respond: Callable[[np.ndarray, Example], str],
        logprob: Callable[[np.ndarray, Example, tuple[int, ...]], float] | None = None,
        *,
        dim: int,
        lift: Lift = identity,
    ) -> None:
        self._respond, self._logprob, self._lift = respond, logprob, lift
        self._mean = Mean(dim)
        self._examples: dict[str, Example] = {}
        self.abilities = Abilities(exact=True, reads=logprob is not None, live_weights=False)

    def add_prompts(self, examples: Iterable[Example]) -> None:
        """See `Engine.add_prompts`."""
        self._examples |= {example.id: example for example in examples}

    def move(self, move: Move) -> None:
        """See `Engine.move`."""
        self._mean.follow(move, self._lift)

    def place(self, mean: Mapping[str, np.ndarray]) -> None:
        """See `Engine.place`."""
        self._mean.load_state_dict(mean)

    def generate(
        self, population: Population, prompts_NP: Sequence[Sequence[str]], sampling: Sampling
    ) -> Rollouts:
        """See `Engine.generate`. Samples of one prompt are all equal."""
        check_known((name for row in prompts_NP for name in row), self._examples)
        theta_ND = self._points(population)
        shape = (len(population), len(prompts_NP[0]), sampling.samples_per_prompt)
        text_NPS, token_ids_NPS = np.empty(shape, dtype=object), np.empty(shape, dtype=object)
        for n, p, s in np.ndindex(shape):
            text = self._respond(theta_ND[n].copy(), self._examples[prompts_NP[n][p]])
            text_NPS[n, p, s], token_ids_NPS[n, p, s] = text, tuple(map(ord, text))
        return Rollouts(text_NPS, token_ids_NPS, np.zeros(shape, dtype=bool), seconds=0.0)

    def logprobs(
        self,
        population: Population,
        candidates: Sequence[int],
        prompts: Sequence[str],
        token_ids: Sequence[tuple[int, ...]],
        temperature: float = 1.0,
    ) -> np.ndarray:
        """See `Engine.logprobs`; `temperature` is ignored."""
        if self._logprob is None:
            raise EngineError("this FakeEngine was made without `logprob`, so it cannot read completions")
        check_known(prompts, self._examples)
        theta_ND = self._points(population)
        logprob_MT = np.zeros((len(prompts), max(map(len, token_ids))))
        for m, reading in enumerate(zip(candidates, prompts, token_ids, strict=True)):
            candidate, name, ids = reading
            logprob_MT[m, 0] = self._logprob(theta_ND[candidate].copy(), self._examples[name], ids)
        return logprob_MT

    def _points(self, population: Population) -> np.ndarray:
        """The candidates as points of the whole space, (N, D)."""
        check_version(population, self._mean.version)
        mean_D, seed = self._mean.point, population.subspace
        rows = population.candidates(mean_D)
        return rows if seed is None else np.array([mean_D + self._lift(mean_D, seed, row) for row in rows])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: Any) -> None:
        pass
