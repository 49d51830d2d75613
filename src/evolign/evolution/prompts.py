"""The prompts of a generation, and the scores of its completions."""

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

from evolign.config import EvolutionConfig
from evolign.errors import RewardError
from evolign.metrics import levelled
from evolign.rewards.scores import Scores
from evolign.rewards.scoring import Scoring
from evolign.seeding import key, stream
from evolign.tasks.base import Task
from evolign.types import Example, Rollouts, Sampling


def draw_batch(config: EvolutionConfig, task: Task, generation: int, *labels: object) -> list[Example]:
    """The P training prompts of a generation, without replacement; `labels` name one of several draws."""
    rng = stream(config.seed, "prompts", generation, *labels)
    size = config.evolution.prompts_per_generation
    return [task.train[i] for i in rng.choice(len(task.train), size, replace=False)]


def draw_prompts(config: EvolutionConfig, task: Task, generation: int) -> list[list[Example]]:
    """The prompts of all candidates, (N, P): the same for all of them unless `per_candidate`."""
    num_candidates = config.strategy.population
    if config.evolution.prompt_sharing == "shared":
        return [draw_batch(config, task, generation)] * num_candidates
    return [draw_batch(config, task, generation, candidate) for candidate in range(num_candidates)]


def with_mean_row(examples_NP: Sequence[Sequence[Example]]) -> list[Sequence[Example]]:
    """One more row of prompts, for the mean policy: its p-th prompt is that of candidate p mod N."""
    num_prompts = len(examples_NP[0])
    return [*examples_NP, [examples_NP[p % len(examples_NP)][p] for p in range(num_prompts)]]


def sampling(config: EvolutionConfig, generation: int) -> Sampling:
    """How the completions of a generation are drawn; noise differs between generations only."""
    return Sampling(
        config.sampling.max_new_tokens,
        config.sampling.temperature,
        config.sampling.samples_per_prompt,
        noise_seed=key(config.seed, "generation", generation),
    )


def score_completions(
    scorer: Scoring, examples_NP: Sequence[Sequence[Example]], rollouts: Rollouts
) -> tuple[np.ndarray, Scores]:
    """The reward of every completion, (N, P, S), and what scoring took."""
    samples = rollouts.text_NPS.shape[2]
    examples = [example for row in examples_NP for example in row for _ in range(samples)]
    scores = scorer.score(examples, list(rollouts.text_NPS.flat), list(rollouts.token_ids_NPS.flat))
    return scores.values.reshape(rollouts.text_NPS.shape), scores


def reward_range(score_NPS: np.ndarray) -> tuple[float, ...]:
    """The lowest and the highest reward of a generation; nothing where all are NaN."""
    applies = score_NPS[~np.isnan(score_NPS)]
    return (float(applies.min()), float(applies.max())) if len(applies) else ()


def mean_score(score_NPS: np.ndarray) -> np.ndarray:
    """The fitness of every candidate, (N,): the mean over its completions to which the reward applies.

    Means that differ by rounding alone are equal: a strategy that ranks or scales would blow it up. Raises
    RewardError if the reward applies to none of a candidate's completions.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # numpy's word for what is raised below
        fitness_N: np.ndarray = np.nanmean(score_NPS, axis=(1, 2))
    if np.isnan(fitness_N).any():
        raise RewardError(
            "the reward returned None (not applicable) for every completion of a candidate, which then has "
            "no fitness; return a number for at least one prompt of a generation"
        )
    return levelled(fitness_N)


def change_rate(text_NPS: np.ndarray, shared: bool = True) -> float:
    """Share of completions that differ from the mean policy's (the last row) under the same noise.

    Without shared prompts only those are compared that the mean has met: see `with_mean_row`.
    """
    differs_NPS = text_NPS[:-1] != text_NPS[-1:]
    if not shared:
        p = np.arange(differs_NPS.shape[1])
        differs_NPS = differs_NPS[p % len(differs_NPS), p]
    return float(differs_NPS.mean())


def spread(fitness_N: np.ndarray) -> dict[str, Any]:
    """How the fitness of a generation is spread over its candidates."""
    return {
        "fitness_mean": float(fitness_N.mean()),
        "fitness_max": float(fitness_N.max()),
        "fitness_min": float(fitness_N.min()),
        "fitness_std": float(fitness_N.std()),
    }
