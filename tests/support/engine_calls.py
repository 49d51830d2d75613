"""Calls of an engine with examples in place of their names."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from evolign.types import Example, Population, Rollouts, Sampling


def generate(
    engine: Any, population: Population, examples_NP: Sequence[Sequence[Example]], sampling: Sampling
) -> Rollouts:
    """Make the examples known and generate."""
    engine.add_prompts([example for row in examples_NP for example in row])
    rollouts: Rollouts = engine.generate(population, [[e.id for e in row] for row in examples_NP], sampling)
    return rollouts


def logprobs(
    engine: Any,
    population: Population,
    candidates: Sequence[int],
    examples: Sequence[Example],
    token_ids: Sequence[tuple[int, ...]],
    temperature: float = 1.0,
) -> np.ndarray:
    """Make the examples known and read."""
    engine.add_prompts(examples)
    names = [example.id for example in examples]
    logprob_MT: np.ndarray = engine.logprobs(population, candidates, names, token_ids, temperature)
    return logprob_MT
