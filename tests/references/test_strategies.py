"""Strategies against the `cmaes` package, and against formulas worked out independently."""

import math
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import pytest
from searching import advance

from evolign.errors import ConfigError
from evolign.strategies import CmaEs, OpenAiEs, Snes, shaping
from evolign.strategies.openai_es import LONGEST, estimate_gradient


def ellipsoid(theta_D: np.ndarray) -> float:
    return float((np.logspace(0, 2, len(theta_D)) * (theta_D - 0.7) ** 2).sum())


class Cmaes:
    """An optimiser of the `cmaes` package, which asks for one candidate at a time and minimises."""

    def __init__(self, optimiser: Any) -> None:
        self.optimiser = optimiser

    @property
    def mean(self) -> np.ndarray:
        mean: np.ndarray = self.optimiser.mean if hasattr(self.optimiser, "mean") else self.optimiser._mean
        return mean

    def ask(self) -> np.ndarray:
        return np.array([self.optimiser.ask() for _ in range(self.optimiser.population_size)])

    def tell(self, theta_ND: np.ndarray, fitness_N: np.ndarray) -> None:
        self.optimiser.tell(list(zip(theta_ND, -fitness_N, strict=True)))


def generations_to_target(strategy: CmaEs | Cmaes, target: float = 1e-6, limit: int = 500) -> int:
    for generation in range(limit):
        if ellipsoid(strategy.mean) < target:
            return generation
        theta_ND = strategy.ask()
        strategy.tell(theta_ND, -np.array([ellipsoid(theta_D) for theta_D in theta_ND]))
    return limit


@pytest.mark.parametrize("covariance", ["full", "diagonal"])
def test_cma_es_needs_as_many_generations_as_the_cmaes_package(
    covariance: Literal["full", "diagonal"],
) -> None:
    import cmaes

    dim, population = 8, 12
    ours, theirs = [], []
    for seed in range(7):
        # cmaes has negative weights in its full variant and none in its separable one.
        strategy = CmaEs(
            dim,
            population=population,
            sigma=0.3,
            seed=seed,
            covariance=covariance,
            active=covariance == "full",
        )
        ours.append(generations_to_target(strategy))
        kind = cmaes.CMA if covariance == "full" else cmaes.SepCMA
        theirs.append(
            generations_to_target(Cmaes(kind(np.zeros(dim), 0.3, population_size=population, seed=seed)))
        )
    # Measured: 1.02 full, 1.13 diagonal. Seeds differ by about 10 %, and the packages differ in
    # learning rates and damping by design.
    assert 1 / 1.4 < np.median(ours) / np.median(theirs) < 1.4


@pytest.mark.parametrize("covariance", ["full", "diagonal"])
@pytest.mark.parametrize("population", [6, 7, 24])
def test_the_first_mean_of_cma_es_is_hansens_weighted_sum(
    covariance: Literal["full", "diagonal"], population: int
) -> None:
    strategy = CmaEs(5, population=population, sigma=0.3, seed=4, covariance=covariance)
    theta_ND = strategy.ask()
    fitness_N = [-ellipsoid(theta_D) for theta_D in theta_ND]
    strategy.tell(theta_ND, np.array(fitness_N))
    # Hansen's tutorial, arXiv 1604.00772, equations 49 to 53: the better half, log weights, sum 1.
    best_first = sorted(range(population), key=lambda i: fitness_N[i], reverse=True)
    weights = [math.log((population + 1) / 2) - math.log(i) for i in range(1, population // 2 + 1)]
    expected_D = [
        sum(w / sum(weights) * theta_ND[i, d] for w, i in zip(weights, best_first, strict=False))
        for d in range(5)
    ]
    assert strategy.mean == pytest.approx(expected_D, rel=1e-12, abs=1e-15)


def test_one_step_of_snes_is_the_papers_arithmetic() -> None:
    strategy = Snes(3, population=5, sigma=0.3, seed=2, learning_rate_mean=0.9)
    theta_ND = strategy.ask()
    fitness_N = np.array([0.1, -2.0, 5.0, 0.3, 0.2])  # best first: 2, 3, 4, 0, 1
    strategy.tell(theta_ND, fitness_N)
    raw = [math.log(3.5) - math.log(k) for k in (1, 2, 3)]  # 4 and 5 exceed lambda / 2 + 1 = 3.5
    utility = {2: raw[0] / sum(raw), 3: raw[1] / sum(raw), 4: raw[2] / sum(raw), 0: 0.0, 1: 0.0}
    eta_sigma = (3 + math.log(3)) / (5 * math.sqrt(3))
    log_sigma = []
    for d in range(3):
        s = [theta_ND[i, d] / 0.3 for i in range(5)]
        gradient_mu = sum((utility[i] - 0.2) * s[i] for i in range(5))
        gradient_sigma = sum((utility[i] - 0.2) * (s[i] ** 2 - 1) for i in range(5))
        assert strategy.mean[d] == pytest.approx(0.9 * 0.3 * gradient_mu, rel=1e-12)
        log_sigma.append(math.log(0.3) + eta_sigma / 2 * gradient_sigma)
    assert strategy.state_dict()["sigma"] == pytest.approx(np.exp(log_sigma), rel=1e-12)
    assert strategy.sigma == pytest.approx(math.exp(sum(log_sigma) / 3), rel=1e-12)


@pytest.mark.parametrize("antithetic", [True, False])
def test_openai_es_estimates_the_gradient_of_a_linear_function(antithetic: bool) -> None:
    slope_D = np.array([3.0, -1.0, 0.0, 0.5])
    population = 40_000
    strategy = OpenAiEs(
        4,
        population=population,
        sigma=0.1,
        seed=0,
        learning_rate=10.0,  # in units of sigma: the mean moves by the gradient itself
        antithetic=antithetic,
        shaping="mean",
        optimizer="sgd",
    )
    theta_ND = strategy.ask()
    strategy.tell(theta_ND, theta_ND @ slope_D + 7.0)
    # Var(g_j) = (|c|^2 + c_j^2) / independent samples; within 5 standard errors.
    samples = population // 2 if antithetic else population
    error_D = np.sqrt((slope_D @ slope_D + slope_D**2) / samples)
    assert (np.abs(strategy.mean - slope_D) < 5 * error_D).all()


def test_openai_es_follows_equations_5_to_7_and_adam_by_hand() -> None:
    options: dict[str, Any] = {
        "population": 4,
        "sigma": 0.5,
        "seed": 1,
        "learning_rate": 0.2,
        "shaping": "mean",
    }
    strategy = OpenAiEs(2, beta1=0.8, beta2=0.95, **options)
    mean, moment1, moment2 = [0.0, 0.0], [0.0, 0.0], [0.0, 0.0]
    for step, fitness in enumerate([[3.0, 1.0, -2.0, 0.0], [0.0, 5.0, 1.0, 2.0]], start=1):
        theta_ND = strategy.ask()
        strategy.tell(theta_ND, np.array(fitness))
        for d in range(2):
            eps = [(theta_ND[i, d] - mean[d]) / 0.5 for i in range(4)]
            g = sum((fitness[i] - sum(fitness) / 4) * eps[i] for i in range(4)) / (4 * 0.5)
            moment1[d] = 0.8 * moment1[d] + 0.2 * g
            moment2[d] = 0.95 * moment2[d] + 0.05 * g * g
            root = math.sqrt(moment2[d] / (1 - 0.95**step))
            mean[d] += 0.2 * 0.5 * moment1[d] / (1 - 0.8**step) / (root + 1e-8)
        assert strategy.mean == pytest.approx(mean, rel=1e-9)


def test_the_gradient_of_one_pair_is_the_slope_between_its_ends() -> None:
    assert estimate_gradient(np.array([2.0, -2.0]), np.array([[1.0], [-1.0]]), 0.5) == [4.0]


def test_z_scores_are_those_of_the_textbook() -> None:
    # Mean 2.5, population variance 1.25.
    expected = np.array([-1.5, -0.5, 0.5, 1.5]) / math.sqrt(1.25)
    assert shaping.z_score(np.array([1.0, 2.0, 3.0, 4.0])) == pytest.approx(expected, rel=1e-12)
    assert shaping.z_score(np.full(3, 0.1)).tolist() == [0.0, 0.0, 0.0]


def test_the_mean_is_subtracted() -> None:
    assert shaping.mean_subtracted(np.array([1.0, 2.0, 6.0])).tolist() == [-2.0, -1.0, 3.0]


def test_centred_ranks_of_equal_fitness_are_their_average() -> None:
    fitness_N = np.array([10.0, -1.0, 10.0, 3.0, 10.0])
    # Ranks 0 (worst) to 4, over 4, minus 1/2; the three best share (2 + 3 + 4) / 3 = 3.
    assert shaping.centred_rank(fitness_N).tolist() == [0.25, -0.5, 0.25, -0.25, 0.25]
    assert shaping.centred_rank(np.array([0.0, -0.0])).tolist() == [0.0, 0.0]


Slope = np.ndarray | tuple[float, ...]
SENSITIVITY_D = np.array([0.5, 100.0, 3.0])


def nats(step_D: np.ndarray) -> float:
    return float(SENSITIVITY_D @ step_D**2 / 2)


def trust_region(
    slope_D: Slope | Callable[[int], np.ndarray] = (1.0, -2.0, 0.5),
    generations: int = 1,
    divergence: Callable[[np.ndarray], float] | None = None,
    **options: Any,
) -> np.ndarray:
    """The steps of the mean up a linear slope, (generations, D)."""
    options = {"population": 8, "sigma": 0.1, "seed": 0, "shaping": "mean", **options}
    strategy = OpenAiEs(3, optimizer="trust_region", **options)
    means = [strategy.mean]
    for generation in range(generations):
        theta_ND = strategy.ask()
        slope = slope_D(generation) if callable(slope_D) else np.array(slope_D)
        advance(strategy, theta_ND @ slope, divergence or nats)
        means.append(strategy.mean)
    return np.diff(means, axis=0)


@pytest.mark.parametrize("sigma", [0.01, 1.0])
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_a_first_step_moves_by_the_trust_region_whatever_the_scale_of_fitness_and_sigma(
    sigma: float, scale: float
) -> None:
    [step_D] = trust_region(np.array([1.0, -2.0, 0.5]) * scale, sigma=sigma, trust_region=0.02)
    assert nats(step_D) == pytest.approx(0.02, rel=1e-9)


def test_a_first_step_goes_along_the_estimate_whatever_the_divergence_is() -> None:
    """Unlike Adam's, which goes along its signs."""
    [step_D] = trust_region(orthogonal=True, population=6)
    assert step_D / np.linalg.norm(step_D) == pytest.approx(np.array([1.0, -2.0, 0.5]) / np.sqrt(5.25))


def test_more_orthogonal_directions_than_dimensions_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"population = 8: 4 directions .* in 3 .* most 6,"):
        trust_region(orthogonal=True, population=8)


def test_steps_follow_momentum_over_the_root_of_the_mean_divergence_by_hand() -> None:
    moment1, moment2, expected = np.zeros(3), 0.0, []
    options: dict[str, Any] = {"population": 6, "orthogonal": True, "beta1": 0.8, "beta2": 0.95}
    slopes = [np.array([1.0, -2.0, 0.5]), np.array([0.2, 0.1, 3.0])]
    for step, g in enumerate(slopes, start=1):  # six orthogonal pairs of three dimensions see all of it
        moment1 = 0.8 * moment1 + 0.2 * g
        moment2 = 0.95 * moment2 + 0.05 * nats(g)
        expected.append(0.1 * moment1 / (1 - 0.8**step) / math.sqrt(moment2 / (1 - 0.95**step)))
    found = trust_region(slopes.__getitem__, 2, trust_region=0.01, **options)
    assert found == pytest.approx(np.array(expected), rel=1e-9)


def test_steps_shrink_where_estimates_disagree() -> None:
    agreeing = trust_region(generations=20, beta2=0.99)
    torn = trust_region(lambda generation: np.array([1.0, -2.0, 0.5]) * (-1) ** generation, 20, beta2=0.99)
    assert nats(torn[-1]) < 0.05 * nats(agreeing[-1])


@pytest.mark.parametrize("beta1", [0.0, 0.5, 0.9])
def test_an_estimate_far_beyond_those_before_it_moves_by_eight_trust_regions_at_most(beta1: float) -> None:
    """Uncut, it would move by 10,000 times the trust region, and momentum would go on with it for long."""
    slopes = [np.array([1.0, -2.0, 0.5])] * 3 + [np.array([100.0, -200.0, 50.0])]
    slopes += [np.array([1.0, -2.0, 0.5])] * 16
    options: dict[str, Any] = {"population": 6, "orthogonal": True, "beta1": beta1, "trust_region": 0.01}
    steps = trust_region(slopes.__getitem__, 20, **options)
    assert max(map(nats, steps)) <= LONGEST * 0.01 * (1 + 1e-9)


@pytest.mark.parametrize("nothing", [0.0, math.inf])
def test_a_divergence_that_cannot_be_measured_moves_nothing(nothing: float) -> None:
    strategy = OpenAiEs(3, population=6, sigma=0.1, seed=0, optimizer="trust_region")
    for _ in range(2):
        theta_ND = strategy.ask()
        advance(strategy, theta_ND.sum(1), lambda step_D: nothing)
        assert not strategy.mean.any()


def test_where_rounding_hides_short_steps_the_first_measurement_stands() -> None:
    """No step of the size wanted diverges by less than 0.3 nats here: the next is not shrunk to nothing."""
    steps = trust_region(generations=3, trust_region=0.01, divergence=lambda step_D: max(nats(step_D), 0.3))
    assert all(1e-4 < nats(step_D) < 0.1 for step_D in steps)


def test_a_step_far_beyond_those_before_it_is_cut_and_soon_forgotten() -> None:
    """The fourth slope is 100 times the others."""
    slopes = [np.array([1.0, -2.0, 0.5])] * 3 + [np.array([100.0, -200.0, 50.0])]
    options: dict[str, Any] = {
        "population": 6,
        "orthogonal": True,
        "beta1": 0.0,
        "beta2": 0.9,
        "trust_region": 0.01,
    }
    steps = trust_region(lambda generation: slopes[generation % 4], 8, **options)
    assert nats(steps[2]) == pytest.approx(0.01)
    assert nats(steps[3]) == pytest.approx(LONGEST * 0.01)
    assert (
        nats(steps[4]) > 0.01 / LONGEST
    )  # of its square, 10,000 times the usual, at most eight are remembered


def test_the_divergence_of_a_step_is_taken_where_it_is_quadratic() -> None:
    """Beyond 0.1 nats it grows no more here; a probe as long as a candidate would be twenty times as long."""
    probes: list[float] = []

    def saturating(step_D: np.ndarray) -> float:
        probes.append(nats(step_D))
        return min(nats(step_D), 0.1)

    options: dict[str, Any] = {
        "shaping": "mean",
        "optimizer": "trust_region",
        "trust_region": 0.01,
        "orthogonal": True,
    }
    strategy = OpenAiEs(3, population=6, sigma=10.0, seed=0, **options)
    theta_ND = strategy.ask()
    advance(strategy, theta_ND @ np.array([1.0, -2.0, 0.5]), saturating)
    assert probes[0] > 1.0 and probes[-1] < 0.1
    assert nats(strategy.mean) == pytest.approx(0.01)
