"""Likelihood fitness: candidates read completions instead of writing them.

Completions are sampled once, from the mean policy. A candidate is scored by how much more or less likely it
makes them. With ESO's signal, reward minus mean (Huang et al., COLING
2025, equation 12), and PPO's ratio (Schulman et al. 2017, equation 7):

    A_ps    = R_ps - mean_s R_ps                                    for the S samples of prompt p
    rho_ps  = pi_theta(a_ps | x_p) / pi_mean(a_ps | x_p)            one teacher-forced pass per candidate
    F(theta) = mean_ps min(rho A, clip(rho, 1 - eps, 1 + eps) A) - A

For small theta - mean the gradient of F is the policy gradient restricted to the search space, so a strategy
that follows F follows it by forward passes only. F is smooth in theta, unlike a mean of 0/1 rewards, and N
candidates cost S * P completions, not N * P. Prompts whose samples all have the same reward have advantages
of zero: they are not read, but count in the mean, so that F flattens as there is less to learn.

Completions that were sampled several times are read once and weighed by their number.

Under `evolution.prompt_sharing: per_candidate` every pair of candidates reads the samples of one prompt. With
P prompts, P times more candidates then cost the same. More candidates reduce the variance of the gradient
estimate more than more completions do (docs/methods/likelihood.md has the variance).

The completions of a generation serve `fitness.steps` strategy steps, each with fresh candidates around the
moved mean, so that they cover more of the D dimensions. Ratios are always to the policy that sampled, and
the clip keeps the mean near it.

Two sizes are set in nats per completion, a unit that means the same for every model. How far candidates are
from the mean, KL(mean || theta), follows from the same readings. After every step, sigma is scaled towards
`fitness.divergence`. How far a step moves the mean is measured by a few more readings of one candidate, for
strategies that ask for it (`openai_es`, `optimizer: trust_region`).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from evolign.config import EvolutionConfig, LikelihoodConfig
from evolign.engines import Engine
from evolign.evolution.fitness.base import FitnessValues
from evolign.evolution.prompts import draw_batch, mean_score, reward_range, sampling, score_completions
from evolign.evolution.step_size import Calibration, bisect, candidates_at, counted, divergence_per_square
from evolign.metrics import LOG_RATIO_BOUND, ROUNDING, levelled
from evolign.policy.spaces.base import SearchSpace
from evolign.rewards.scores import averages, part_metrics
from evolign.rewards.scoring import Scoring
from evolign.runs.progress import Progress
from evolign.tasks.base import Task, ids
from evolign.types import Cost, Direction, Example, Population, Rollouts

SCALE_BOUNDS = (0.25, 2.0)
"""The step size changes by no more than this in a step."""
TOO_FAR = 8.0
"""Beyond this multiple of the wanted divergence, candidates no longer estimate the gradient."""

CALIBRATION_READS = 32
"""Completions that a candidate reads to calibrate sigma. With 8 candidates, the standard error of what is
measured is some tenth of it, within the tolerance."""

Readings = tuple[np.ndarray, np.ndarray]
"""(reader_M, read_M): reading m is of the completion `read_M[m]` by the candidate `reader_M[m]`."""


@dataclass(frozen=True)
class Batch:
    """The informative completions of a generation, J distinct ones, and their advantages."""

    examples: list[Example]
    token_ids: list[tuple[int, ...]]
    advantage_J: np.ndarray
    count_J: np.ndarray
    """How often each was sampled: equal completions of a prompt are read once."""
    logprob_JT: np.ndarray
    """log pi of their tokens under the policy that sampled them; zero beyond a completion's end."""
    size: int
    """Completions (or tokens, where they have the ratios) to which the reward applies, informative or not."""
    cost: Cost
    fitness_of_mean: float
    """Mean reward of all completions, informative or not."""
    metrics: dict[str, float]
    """`informative`: share of prompts whose samples did not all have the same reward; and more."""
    logged: dict[str, float] = field(default_factory=dict)
    """See `FitnessValues`."""
    reward_range: tuple[float, ...] = ()
    """See `FitnessValues`."""


@dataclass(frozen=True)
class LikelihoodValues(FitnessValues):
    """The fitness of candidates, and the log-probabilities of the batch under the mean."""

    mean_J: np.ndarray = field(default_factory=lambda: np.zeros(0))
    """log pi of the batch's completions under the mean around which the candidates lie."""


class LikelihoodFitness:
    """F(theta) = mean advantage-weighted likelihood ratio of completions sampled from the mean policy."""

    def __init__(self, config: EvolutionConfig, task: Task, engine: Engine, scorer: Scoring) -> None:
        assert isinstance(config.fitness, LikelihoodConfig)
        self._config, self._options = config, config.fitness
        self.steps = config.fitness.steps
        self._task, self._engine, self._scorer = task, engine, scorer

    def calibrate(self, space: SearchSpace, progress: Progress) -> Calibration:
        """The step size at which candidates diverge from theta = 0 by `fitness.divergence` on average."""
        size = min(self._config.calibration.prompts, self._config.evolution.prompts_per_generation)
        drawn = self._task.train[:size]
        progress.say(
            f"Calibrating sigma: {self._config.calibration.candidates} candidates read some of the mean's "
            f"completions of {len(drawn)} prompts, until they diverge by {self._options.divergence:.2g} nats "
            "per completion."
        )
        with progress.phase("calibrating sigma", unit="step sizes") as phase:
            rollouts = self._sample(0, drawn, 0)
            read_SP = rollouts.token_ids_NPS[0].T  # a sample of every prompt, then another of each
            examples = [example for _ in read_SP for example in drawn][:CALIBRATION_READS]
            token_ids = list(read_SP.flat)[:CALIBRATION_READS]
            start_J = self._logprobs_of_mean(0, examples, token_ids).sum(1)
            population_at = candidates_at(space, self._config, with_mean=False)
            readings = everyone_reads_everything(len(population_at(0.0)), len(token_ids))

            def divergence_at(sigma: float) -> float:
                logprob_M = self._logprobs(population_at(sigma), readings, examples, token_ids).sum(1)
                return divergence((logprob_M.reshape(-1, len(token_ids)) - start_J).ravel())

            found = bisect(
                counted(divergence_at, phase), self._options.divergence, _divergence_in_words, power=2
            )
        rows = len(token_ids) + found.measurements * len(readings[0])
        return Calibration(found, _divergence_in_words(found.value), rows, rollouts.cost)

    def draw(self, version: int, generation: int) -> Batch:
        """Sample S completions of P prompts from the mean policy and centre their rewards per prompt."""
        drawn = draw_batch(self._config, self._task, generation)
        rollouts = self._sample(version, drawn, generation)
        score_NPS, scores = score_completions(self._scorer, [drawn], rollouts)
        advantage_PS, kept_PS = advantages(score_NPS[0], self._options.normalise)
        token_ids_PS = rollouts.token_ids_NPS[0]
        equal: dict[tuple[int, tuple[int, ...]], list[int]] = {}
        for p, sample in np.argwhere(kept_PS).tolist():
            equal.setdefault((p, token_ids_PS[p, sample]), []).append(sample)
        examples, token_ids = [drawn[p] for p, _ in equal], [tokens for _, tokens in equal]
        unit_PS = np.vectorize(len)(token_ids_PS) if self._options.ratio == "token" else 1
        return Batch(
            examples=examples,
            token_ids=token_ids,
            advantage_J=np.array([advantage_PS[p, same[0]] for (p, _), same in equal.items()]),
            count_J=np.array([len(same) for same in equal.values()]),
            logprob_JT=self._logprobs_of_mean(version, examples, token_ids),
            size=int((~np.isnan(score_NPS[0]) * unit_PS).sum()),
            cost=rollouts.cost + scores.cost,
            fitness_of_mean=float(mean_score(score_NPS)[0]),
            metrics={
                "informative": float(kept_PS.any(axis=1).mean()),
                "truncated": float(rollouts.truncated_NPS.mean()),
                "seconds_generate": rollouts.seconds,
                "seconds_score": scores.seconds,
                **part_metrics(scores.parts),
            },
            logged=averages(scores.logged),
            reward_range=reward_range(score_NPS),
        )

    def compute(self, population: Population, batch: Batch) -> LikelihoodValues:
        """See `Fitness.compute`."""
        num_candidates = len(population) - 1
        if not batch.examples:
            nothing = {"divergence": 0.0, "drift": 0.0, "clipped": 0.0}
            metrics = batch.metrics | nothing
            return LikelihoodValues(
                np.zeros(num_candidates),
                batch.fitness_of_mean,
                metrics=metrics,
                logged=batch.logged,
                reward_range=batch.reward_range,
            )
        (reader_M, read_M), weight_N = self._who_reads_what(num_candidates, batch)
        by_mean_J, everything_J = np.full(len(batch.examples), num_candidates), np.arange(len(batch.examples))
        all_MT = self._logprobs(
            population,
            (np.append(reader_M, by_mean_J), np.append(read_M, everything_J)),
            batch.examples,
            batch.token_ids,
        )
        logprob_MT, mean_JT = np.split(all_MT, [len(reader_M)])
        objective_M, clipped = self._surrogate(logprob_MT - batch.logprob_JT[read_M], read_M, batch)
        fitness_N = weight_N * np.bincount(reader_M, objective_M, num_candidates) / batch.size
        mean_J = mean_JT.sum(1)
        moved_M = logprob_MT.sum(1) - mean_J[read_M]
        measured = {
            "divergence": divergence(moved_M, batch.count_J[read_M]),
            "drift": divergence((mean_JT - batch.logprob_JT).sum(1), batch.count_J),
            "clipped": clipped,
        }
        too_far = measured["divergence"] / self._options.divergence
        return LikelihoodValues(
            fitness_N if too_far < TOO_FAR else np.zeros(num_candidates),
            batch.fitness_of_mean,
            step_scale=float(np.clip(max(too_far, 1e-12) ** -0.5, *SCALE_BOUNDS)),
            metrics=batch.metrics | measured,
            logged=batch.logged,
            reward_range=batch.reward_range,
            mean_J=mean_J,
        )

    def measure(
        self, direction: Direction, population: Population, values: LikelihoodValues, batch: Batch
    ) -> float:
        """See `Fitness.measure`: one candidate, a step of the mean, reads the batch."""
        readings = everyone_reads_everything(1, len(batch.examples))

        def divergence_at(scale: float) -> float:
            point_K = direction.origin_K + scale * direction.step_K
            moved = replace(population, theta_NK=point_K[None], with_mean=False)
            moved_J = self._logprobs(moved, readings, batch.examples, batch.token_ids).sum(1)
            return divergence(moved_J - values.mean_J, batch.count_J)

        return divergence_per_square(direction, divergence_at)

    def _who_reads_what(self, num_candidates: int, batch: Batch) -> tuple[Readings, np.ndarray]:
        """The readings of a population, and the weight of each candidate's readings, (N,).

        All candidates read everything, or every pair (n, n + N/2) a part of it: the samples of one prompt, or
        `fitness.reads` of them. The weights make up for what others read, so that all parts count alike.
        """
        if self._config.evolution.prompt_sharing == "shared":
            return everyone_reads_everything(num_candidates, len(batch.examples)), np.ones(num_candidates)
        part_J = parts(batch, self._options.reads)
        pair_N = np.arange(num_candidates) % (num_candidates // 2)
        part_N = pair_N % (part_J.max() + 1)
        reader_M, read_M = np.nonzero(part_N[:, None] == part_J)
        return (reader_M, read_M), num_candidates / np.bincount(part_N)[part_N]

    def _sample(self, version: int, examples: Sequence[Example], generation: int) -> Rollouts:
        how = sampling(self._config, generation)
        return self._engine.generate(Population.of_mean(version), [ids(examples)], how)

    def _logprobs_of_mean(
        self, version: int, examples: Sequence[Example], token_ids: Sequence[tuple[int, ...]]
    ) -> np.ndarray:
        """log pi of completions that the mean policy sampled, (J, T)."""
        if not examples:
            return np.zeros((0, 0))
        readings = everyone_reads_everything(1, len(examples))
        return self._logprobs(Population.of_mean(version), readings, examples, token_ids)

    def _logprobs(
        self,
        population: Population,
        readings: Readings,
        examples: Sequence[Example],
        token_ids: Sequence[tuple[int, ...]],
    ) -> np.ndarray:
        """log pi of every token of the readings, (M, T); zero beyond a completion's end."""
        reader_M, read_M = readings
        return self._engine.logprobs(
            population,
            reader_M.tolist(),
            [examples[j].id for j in read_M],
            [token_ids[j] for j in read_M],
            self._config.sampling.temperature,
        )

    def _surrogate(
        self, log_ratio_MT: np.ndarray, read_M: np.ndarray, batch: Batch
    ) -> tuple[np.ndarray, float]:
        """PPO's clipped objective of every reading, (M,), and the share of ratios beyond the clip.

        It is 0 for the policy that sampled, so that candidates who read different completions compare.
        """
        low, high = 1 - self._options.clip, 1 + self._options.clip
        weight_M = (batch.count_J * batch.advantage_J)[read_M]
        if self._options.ratio == "sequence":
            ratio = exp_ratio(log_ratio_MT.sum(1))
            objective_M = np.minimum(ratio * weight_M, np.clip(ratio, low, high) * weight_M)
            return objective_M - weight_M, float(((ratio < low) | (ratio > high)).mean())
        ratio = exp_ratio(log_ratio_MT)
        length_M = np.array([len(ids) for ids in batch.token_ids])[read_M]
        inside_MT = np.arange(ratio.shape[1]) < length_M[:, None]
        weight_MT = inside_MT * weight_M[:, None]
        objective_MT = np.minimum(ratio * weight_MT, np.clip(ratio, low, high) * weight_MT)
        return (objective_MT - weight_MT).sum(1), float(((ratio < low) | (ratio > high))[inside_MT].mean())


def _divergence_in_words(nats: float) -> str:
    return f"diverges by {nats:.2g} nats per completion"


def parts(batch: Batch, reads: int | None) -> np.ndarray:
    """The number of the part that a completion is in, (J,): its prompt's, or one of several of a prompt.

    Those have `reads` completions at most, the best together with the worst: what a prompt's completions
    have in common cancels.
    """
    part_J = np.zeros(len(batch.examples), dtype=int)
    number = 0
    for name in dict.fromkeys(example.id for example in batch.examples):
        rows = [j for j, example in enumerate(batch.examples) if example.id == name]
        worst_first = sorted(rows, key=lambda j: batch.advantage_J[j])
        pairs = zip(worst_first, reversed(worst_first), strict=True)
        best_and_worst = [row for pair in pairs for row in pair][: len(rows)]
        size = reads or len(rows)
        for begin in range(0, len(rows), size):
            part_J[best_and_worst[begin : begin + size]] = number
            number += 1
    return part_J


def everyone_reads_everything(num_candidates: int, num_completions: int) -> Readings:
    """Candidate by candidate, all completions in their order."""
    reader_M, read_M = np.indices((num_candidates, num_completions)).reshape(2, -1)
    return reader_M, read_M


def advantages(score_PS: np.ndarray, normalise: bool) -> tuple[np.ndarray, np.ndarray]:
    """Rewards minus their prompt's mean, (P, S), and which of them are informative.

    A completion is informative if the reward applies to it (is not NaN) and the rewards of its prompt differ.
    Rewards that differ from each other or from their mean by rounding alone are equal. `normalise` divides by
    the prompt's standard deviation.
    """
    score_PS = levelled(score_PS)
    applies_PS = ~np.isnan(score_PS)
    differ_P = np.where(applies_PS, score_PS, -np.inf).max(1) > np.where(applies_PS, score_PS, np.inf).min(1)
    kept_PS = applies_PS & differ_P[:, None]
    count_P = np.maximum(kept_PS.sum(axis=1), 1)
    mean_P = np.where(kept_PS, score_PS, 0.0).sum(axis=1) / count_P
    advantage_PS = np.where(kept_PS, score_PS - mean_P[:, None], 0.0)
    advantage_PS[np.abs(advantage_PS) <= ROUNDING * np.abs(np.nan_to_num(score_PS)).max()] = 0.0
    if normalise:
        deviation_P = np.sqrt((advantage_PS**2).sum(axis=1) / count_P)
        advantage_PS = advantage_PS / np.where(differ_P, deviation_P, 1.0)[:, None]
    return advantage_PS, kept_PS


def exp_ratio(log_ratio: np.ndarray) -> np.ndarray:
    """Likelihood ratios from log ratios, safe against overflow."""
    result: np.ndarray = np.exp(np.clip(log_ratio, -LOG_RATIO_BOUND, LOG_RATIO_BOUND))
    return result


def divergence(log_ratio_M: np.ndarray, count_M: np.ndarray | None = None) -> float:
    """KL(mean || candidate) per completion, from samples of the mean: E[rho - 1 - log rho] >= 0.

    The unbiased, non-negative estimator of Schulman ("Approximating KL divergence", 2020), log ratios cut
    at +-20. `count_M` says how often each was sampled.
    """
    bounded = np.clip(log_ratio_M, -LOG_RATIO_BOUND, LOG_RATIO_BOUND)
    return float(np.average(np.exp(bounded) - 1 - bounded, weights=count_M))
