"""Rows of an engine that writes: the noise that each of them gets, and what they become."""

from collections.abc import Iterable, Sequence

import numpy as np

from evolign.policy.base_model import BaseModel
from evolign.seeding import key
from evolign.types import Rollouts, Sampling


def noise_keys(prompts: Iterable[str], sampling: Sampling) -> dict[str, list[int]]:
    """The noise of every sample of a prompt: that of all candidates (common random numbers)."""
    samples = range(sampling.samples_per_prompt)
    return {
        name: [key(sampling.noise_seed, "token", name, s) for s in samples] for name in dict.fromkeys(prompts)
    }


def as_rollouts(
    base: BaseModel, tokens: Sequence[tuple[int, ...]], shape: tuple[int, int, int], seconds: float
) -> Rollouts:
    """Completions as token ids, in the order of candidate, prompt and sample, with their texts."""
    ended = set(base.eos_token_ids)
    text = {ids: base.encoder.decode(ids) for ids in set(tokens)}
    return Rollouts(
        text_NPS=objects([text[ids] for ids in tokens], shape),
        token_ids_NPS=objects(tokens, shape),
        truncated_NPS=np.array([ids[-1] not in ended for ids in tokens]).reshape(shape),
        seconds=seconds,
    )


def objects(values: Sequence[object], shape: tuple[int, int, int]) -> np.ndarray:
    """An object array of `shape`; numpy would otherwise make tuples a further axis."""
    array = np.empty(len(values), dtype=object)
    for i, value in enumerate(values):
        array[i] = value
    return array.reshape(shape)
