"""How good one policy is: mean score with a 95 % interval, greedy and sampled at temperature 1."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from evolign.config import Config
from evolign.engines import Engine
from evolign.errors import RewardError
from evolign.seeding import key, stream
from evolign.tasks.base import Task
from evolign.tasks.scoring import Scorer
from evolign.types import Example, Population, Sampling

TEMPERATURE = {"greedy": 0.0, "sampled": 1.0}
Z = 1.959964
"""The 97.5 % quantile of the normal distribution."""
RESAMPLES = 2000


@dataclass(frozen=True)
class Evaluation:
    """Metrics named `<metric>_<decoding>` with `_low` and `_high`, and the completions behind them."""

    metrics: dict[str, float]
    samples: list[dict[str, Any]]
    """One per example and decoding: id, prompt, completion, score."""
    num_completions: int
    num_tokens: int
    timeouts: int
    crashes: int


def evaluate(
    engine: Engine,
    scorer: Scorer,
    theta_D: np.ndarray,
    examples: Sequence[Example],
    *,
    metric: str,
    decoding: Sequence[str],
    max_new_tokens: int,
    seed: int,
) -> Evaluation:
    """Judge the candidate `theta_D` on `examples`.

    The sampling noise depends on `seed` and the examples alone, so two policies are compared under the same
    noise. `metric` "accuracy" takes Wilson intervals, any other one a bootstrap over examples. Raises
    RewardError where the reward applies to none of the examples.
    """
    metrics: dict[str, float] = {}
    samples: list[dict[str, Any]] = []
    completions = tokens = timeouts = crashes = 0
    for name in decoding:
        sampling = Sampling(max_new_tokens, TEMPERATURE[name], noise_seed=key(seed, "evaluation"))
        rollouts = engine.generate(Population(theta_D[None]), [examples], sampling)
        text_P = rollouts.text_NPS[0, :, 0]
        scores = scorer.score(examples, list(text_P))
        score_P = scores.values
        if np.isnan(score_P).all():
            raise RewardError(
                f"the reward returned None (not applicable) for all {len(examples)} prompts of an "
                "evaluation; return a number for at least one"
            )
        low, high = interval(score_P, metric, seed)
        metrics |= {
            f"{metric}_{name}": float(np.nanmean(score_P)),
            f"{metric}_{name}_low": low,
            f"{metric}_{name}_high": high,
            f"tokens_{name}": rollouts.num_tokens / rollouts.num_completions,
            f"truncated_{name}": float(rollouts.truncated_NPS.mean()),
        }
        samples += [
            {
                "id": example.id,
                "decoding": name,
                "prompt": example.prompt,
                "completion": text,
                "score": None if np.isnan(score) else float(score),
            }
            for example, text, score in zip(examples, text_P, score_P, strict=True)
        ]
        completions += rollouts.num_completions
        tokens += rollouts.num_tokens
        timeouts += scores.timeouts
        crashes += scores.crashes
    return Evaluation(metrics, samples, completions, tokens, timeouts, crashes)


def evaluate_split(
    config: Config, task: Task, split: str, engine: Engine, scorer: Scorer, theta_D: np.ndarray
) -> Evaluation:
    """Judge the candidate `theta_D` as `config` says on a split of `task`: train, validation or test."""
    return evaluate(
        engine,
        scorer,
        theta_D,
        getattr(task, split),
        metric=task.metric,
        decoding=config.evaluation.decoding,
        max_new_tokens=config.sampling.max_new_tokens,
        seed=key(config.seed, split),
    )


def interval(score_P: np.ndarray, metric: str, seed: int = 0) -> tuple[float, float]:
    """The 95 % interval of the mean; NaN scores (reward not applicable) are left out.

    Wilson's is for shares: if a score is neither 0 nor 1 (a failure score, say), it is a bootstrap after all.
    """
    score_P = score_P[~np.isnan(score_P)]
    if metric == "accuracy" and np.isin(score_P, (0.0, 1.0)).all():
        return wilson(float(score_P.sum()), len(score_P))
    return bootstrap(score_P, seed)


def wilson(successes: float, trials: int) -> tuple[float, float]:
    """Wilson's 95 % score interval of a share (Wilson 1927)."""
    share = successes / trials
    centre = share + Z**2 / (2 * trials)
    spread = Z * np.sqrt(share * (1 - share) / trials + Z**2 / (4 * trials**2))
    scale = 1 + Z**2 / trials
    return max(0.0, float((centre - spread) / scale)), min(1.0, float((centre + spread) / scale))


def bootstrap(score_P: np.ndarray, seed: int) -> tuple[float, float]:
    """The percentile bootstrap's 95 % interval of a mean."""
    rng = stream(seed, "bootstrap")
    means = rng.choice(score_P, (RESAMPLES, len(score_P))).mean(axis=1)
    low, high = np.quantile(means, (0.025, 0.975))
    return float(low), float(high)
