"""How good one policy is: score, ROUGE, pass@k and length with 95 % intervals, greedy and sampled."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from evolign.config import Config, EvaluationConfig
from evolign.engines import Engine
from evolign.errors import ConfigError, RewardError
from evolign.metrics import ROUGE, bootstrap, has_words, interval, pass_at_k, rouge
from evolign.rewards.scores import Scores, averages, beside
from evolign.rewards.scoring import Scoring
from evolign.rewards.weighted import METRIC
from evolign.runs.tally import equal_rewards
from evolign.seeding import key
from evolign.tasks.base import Task, ids
from evolign.types import NO_COST, Cost, Example, Population, Rollouts, Sampling

TEMPERATURE = {"greedy": 0.0, "sampled": 1.0}
Metrics = dict[str, float]


@dataclass(frozen=True)
class Evaluation:
    """Metrics named `<metric>_<decoding>` with `_low` and `_high`, and the completions behind them."""

    metrics: Metrics
    samples: list[dict[str, Any]]
    """One per decoding, sample and example: id, decoding, prompt, completion, score; `sample` where there are
    several; `reference` and its ROUGE where there is one."""
    cost: Cost = NO_COST

    @property
    def scores(self) -> list[float]:
        """The rewards of the completions to which the reward applies."""
        return [sample["score"] for sample in self.samples if sample.get("score") is not None]

    @property
    def warning(self) -> str:
        """What to tell where all rewards are equal, else empty."""
        if len({*self.scores}) != 1:
            return ""
        return equal_rewards(len(self.scores), self.scores[0], "the file that --out writes")


def evaluate(
    engine: Engine,
    scorer: Scoring,
    policy: Population,
    examples: Sequence[Example],
    *,
    metric: str,
    options: EvaluationConfig,
    max_new_tokens: int,
    seed: int,
    detailed: bool = False,
) -> Evaluation:
    """Evaluate `policy`, a population of one, on `examples`, which are known to the engine.

    The sampling noise depends only on `seed` and the examples, so two policies are compared under the same
    noise. All means are over prompts, of the mean over a prompt's samples. `metric` "accuracy" takes Wilson
    intervals where scores are 0 or 1, everything else a bootstrap over prompts. `detailed` adds the interval
    of the length, and the share of empty completions where it is 0; where the reward applies to none of the
    examples it leaves the reward out, which is else a RewardError. Raises ConfigError where `options` ask
    for what the task cannot give.
    """
    check_options(options, metric, examples)
    metrics: Metrics = {}
    samples: list[dict[str, Any]] = []
    cost = Cost()
    for name in options.decoding:
        count = options.samples if TEMPERATURE[name] > 0 else 1
        sampling = Sampling(max_new_tokens, TEMPERATURE[name], count, noise_seed=key(seed, "evaluation"))
        rollouts = engine.generate(policy, [ids(examples)], sampling)
        text_PS = rollouts.text_NPS[0]
        repeated = [example for example in examples for _ in range(count)]
        scores = scorer.score(repeated, list(text_PS.flat), list(rollouts.token_ids_NPS[0].flat))
        score_PS = scores.values.reshape(text_PS.shape)
        applies = not np.isnan(score_PS).all()
        if not applies and not detailed:
            raise RewardError(
                f"the reward returned None (not applicable) for all {len(examples)} prompts of an "
                "evaluation; return a number for at least one"
            )
        rouge_PS = _rouge(options, examples, text_PS)
        if applies:
            metrics |= _score_metrics(score_PS, metric, name, options, seed)
        metrics |= _length_metrics(rollouts, name, seed, detailed)
        metrics |= _rouge_metrics(rouge_PS, name, seed)
        rows = _samples(examples, name, text_PS, score_PS, rouge_PS)
        samples += _with_rewards(rows, scores, text_PS.shape)
        metrics |= _reward_metrics(metrics, scores, name)
        cost += rollouts.cost + scores.cost
    return Evaluation(metrics, samples, cost)


def evaluate_split(
    config: Config,
    task: Task,
    split: str,
    engine: Engine,
    scorer: Scoring,
    policy: Population,
    detailed: bool = False,
) -> Evaluation:
    """Evaluate `policy`, a population of one, on the `split` of `task`, as `config` says."""
    return evaluate(
        engine,
        scorer,
        policy,
        getattr(task, split),
        metric=task.metric,
        options=config.evaluation,
        max_new_tokens=config.sampling.max_new_tokens,
        seed=key(config.seed, split),
        detailed=detailed,
    )


def ranking(options: EvaluationConfig, metric: str) -> list[str]:
    """The metrics that say which policy is better, the deciding one first."""
    return [f"{metric}_{name}" for name in (options.select_by, *sorted(options.decoding))]


def check_options(options: EvaluationConfig, metric: str, examples: Sequence[Example]) -> None:
    """Raise ConfigError where `options` ask for what the task's metric or its examples cannot give."""
    if options.pass_at and metric != "accuracy":
        raise ConfigError(
            f"evaluation.pass_at = {options.pass_at} counts correct samples, but the task's metric is "
            f"{metric!r}; set evaluation.pass_at=[], or task.metric=accuracy where the reward is 0 or 1"
        )
    if options.rouge is True and not any(_referenced(example) for example in examples):
        raise ConfigError(
            f"evaluation.rouge = true, but none of the {len(examples)} examples has a reference completion "
            "with letters or digits, which ROUGE reads; set task.completion or evaluation.rouge=auto"
        )


def _referenced(example: Example) -> bool:
    return example.completion is not None and has_words(example.completion)


def _estimate(name: str, value_P: np.ndarray, ends: tuple[float, float]) -> Metrics:
    """A mean over prompts, NaN left out, with the ends of its interval."""
    return {name: float(np.nanmean(value_P)), f"{name}_low": ends[0], f"{name}_high": ends[1]}


def _mean_of_samples(value_PS: np.ndarray) -> np.ndarray:
    """The mean over a prompt's samples, (P,), NaN left out; NaN where all are."""
    counted_PS = ~np.isnan(value_PS)
    total_P = np.where(counted_PS, value_PS, 0.0).sum(axis=1)
    count_P = counted_PS.sum(axis=1)
    return np.where(count_P > 0, total_P / np.maximum(count_P, 1), np.nan)


def _score_metrics(
    score_PS: np.ndarray, metric: str, decoding: str, options: EvaluationConfig, seed: int
) -> Metrics:
    score_P = _mean_of_samples(score_PS)
    found = _estimate(f"{metric}_{decoding}", score_P, interval(score_P, metric, seed))
    if decoding != "sampled":
        return found
    for k in options.pass_at:
        known = [row[~np.isnan(row)] for row in score_PS]
        pass_P = np.array([pass_at_k(len(row), int((row == 1).sum()), k) for row in known if len(row) >= k])
        if len(pass_P):
            found |= _estimate(f"pass@{k}_{decoding}", pass_P, interval(pass_P, "accuracy", seed))
    return found


def _length_metrics(rollouts: Rollouts, decoding: str, seed: int, detailed: bool) -> Metrics:
    """Mean length in tokens, and the shares of completions that were cut off and that are empty."""
    length_PS = np.vectorize(len)(rollouts.token_ids_NPS[0])
    truncated_PS = rollouts.truncated_NPS[0]
    empty_PS = (rollouts.text_NPS[0] == "") & (length_PS <= 1) & ~truncated_PS
    found = {
        f"tokens_{decoding}": rollouts.cost.tokens / rollouts.cost.completions,
        f"truncated_{decoding}": float(truncated_PS.mean()),
    }
    if detailed:
        low, high = bootstrap(length_PS.mean(axis=1), seed)
        found |= {f"tokens_{decoding}_low": low, f"tokens_{decoding}_high": high}
    if detailed or empty_PS.any():
        found[f"empty_{decoding}"] = float(empty_PS.mean())
    return found


def _rouge(
    options: EvaluationConfig, examples: Sequence[Example], text_PS: np.ndarray
) -> dict[str, np.ndarray]:
    """ROUGE by name, each (P, S), NaN without a reference; nothing where no example has one."""
    if options.rouge is False or not any(map(_referenced, examples)):
        return {}
    found = {name: np.full(text_PS.shape, np.nan) for name in ROUGE}
    for p, example in enumerate(examples):
        if example.completion is not None and _referenced(example):
            for s, text in enumerate(text_PS[p]):
                for name, value in rouge(example.completion, text).items():
                    found[name][p, s] = value
    return found


def _rouge_metrics(rouge_PS: dict[str, np.ndarray], decoding: str, seed: int) -> Metrics:
    found: Metrics = {}
    for name, value_PS in rouge_PS.items():
        value_P = _mean_of_samples(value_PS)
        found |= _estimate(f"{name}_{decoding}", value_P, interval(value_P, name, seed))
        found[f"referenced_{decoding}"] = float(1 - np.isnan(value_P).mean())
    return found


def _reward_metrics(metrics: Metrics, scores: Scores, decoding: str) -> Metrics:
    """The mean of each of several rewards, where it applies, and what rewards logged."""
    found = {
        f"{METRIC}{name}_{decoding}": float(np.nanmean(values))
        for name, values in scores.several.items()
        if not np.isnan(values).all()
    }
    logged = {f"{name}_{decoding}": value for name, value in averages(scores.logged).items()}
    return beside(metrics | found, logged)


def _with_rewards(rows: list[dict[str, Any]], scores: Scores, shape: tuple[int, ...]) -> list[dict[str, Any]]:
    """The rows of `_samples` with the values of several rewards, and what rewards logged of completions."""
    found = []
    for row, i in zip(rows, np.arange(len(rows)).reshape(shape).T.ravel().tolist(), strict=True):
        values = {
            METRIC + name: None if np.isnan(v[i]) else float(v[i]) for name, v in scores.several.items()
        }
        found.append(beside(row | values, {name: cells[i] for name, cells in scores.columns.items()}))
    return found


def _samples(
    examples: Sequence[Example],
    decoding: str,
    text_PS: np.ndarray,
    score_PS: np.ndarray,
    rouge_PS: dict[str, np.ndarray],
) -> list[dict[str, Any]]:
    """The rows of one decoding, sample by sample: the first P rows are one of every example."""
    rows = []
    for s in range(text_PS.shape[1]):
        for p, example in enumerate(examples):
            score = score_PS[p, s]
            row: dict[str, Any] = {"id": example.id, "decoding": decoding}
            if text_PS.shape[1] > 1:
                row["sample"] = s
            row |= {
                "prompt": example.prompt,
                "completion": text_PS[p, s],
                "score": None if np.isnan(score) else float(score),
            }
            if example.completion is not None:
                row["reference"] = example.completion
                row |= {
                    name: float(value[p, s]) for name, value in rouge_PS.items() if not np.isnan(value[p, s])
                }
            rows.append(row)
    return rows
