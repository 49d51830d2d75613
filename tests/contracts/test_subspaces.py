"""What a strategy promises in the random subspaces of a space too large for its candidates."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from evolign.errors import ConfigError, RunError
from evolign.strategies import OpenAiEs
from evolign.types import Subspace, Subspaces

DIM, K, POPULATION = 60, 12, 8
OPTIMUM_D = np.random.default_rng(5).standard_normal(DIM)


def basis(subspace: Subspace) -> np.ndarray:
    """(K, D): orthogonal rows."""
    noise = np.random.default_rng(subspace.seed).standard_normal((DIM, K))
    return np.linalg.qr(noise)[0].T * np.sqrt(DIM / K)


def lift(subspace: Subspace, step_K: np.ndarray) -> np.ndarray:
    return step_K @ basis(subspace)


def lift_to_one(subspace: Subspace, step_K: np.ndarray) -> np.ndarray:
    """As if every step had the same subspace."""
    return lift(replace(subspace, seed=0), step_K)


def build(lift: Any = lift, **options: Any) -> OpenAiEs:
    options = {"optimizer": "sgd", "shaping": "mean", "learning_rate": 0.05} | options
    return OpenAiEs(DIM, population=POPULATION, sigma=0.1, seed=0, subspaces=Subspaces(K, lift), **options)


def distance(theta_D: np.ndarray) -> float:
    return float(((theta_D - OPTIMUM_D) ** 2).sum())


def advance(strategy: OpenAiEs, steps: int, lift: Any = lift) -> list[np.ndarray]:
    asked = []
    for _ in range(steps):
        z_NK, subspace, mean_D = strategy.ask(), strategy.subspace, strategy.mean
        assert subspace is not None and np.array_equal(subspace.origin_D, mean_D)
        fitness_N = [-distance(mean_D + lift(subspace, z_K)) for z_K in z_NK]
        strategy.tell(
            z_NK, np.array(fitness_N), divergence=lambda step_D: float(step_D @ step_D), step_scale=0.999
        )
        asked.append(z_NK)
    return asked


@pytest.mark.parametrize(
    "options",
    [{}, {"optimizer": "adam", "learning_rate": 0.5}, {"optimizer": "trust_region", "beta2": 0.99}],
    ids=["sgd", "adam", "trust_region"],
)
def test_it_finds_an_optimum_that_lies_in_no_single_subspace(options: dict[str, Any]) -> None:
    strategy, confined = build(**options), build(lift_to_one, **options)
    advance(strategy, 1500)
    assert distance(strategy.mean) < 0.01 * distance(np.zeros(DIM))
    advance(confined, 1500, lift_to_one)
    assert distance(confined.mean) > 0.5 * distance(np.zeros(DIM)), "a single subspace does not hold it"


def test_a_step_is_the_lifted_estimate_and_candidates_lie_around_the_coordinates_0() -> None:
    strategy = build()
    advance(strategy, 3)
    before, sigma, subspace, z_NK = strategy.mean, strategy.sigma, strategy.subspace, strategy.ask()
    assert subspace is not None
    assert z_NK.shape == (POPULATION, K) and z_NK.mean(axis=0) == pytest.approx(np.zeros(K), abs=1e-12)
    fitness_N = np.arange(float(POPULATION))
    strategy.tell(z_NK, fitness_N)
    estimate_K = (fitness_N - fitness_N.mean()) @ z_NK / sigma**2 / POPULATION
    assert strategy.mean == pytest.approx(before + lift(subspace, 0.05 * sigma * estimate_K))


def test_momentum_is_that_of_the_whole_space() -> None:
    """After a first estimate, one that says nothing of its subspace still leaves nine tenths of momentum."""
    strategy = build(optimizer="adam", beta1=0.9)
    advance(strategy, 1)
    before, moment_D = strategy.mean, strategy.state_dict()["moment1"]
    z_NK = strategy.ask()
    fitness_N = np.zeros(POPULATION)
    fitness_N[[0, POPULATION // 2]] = 1.0, 1.0  # a pair: its halves cancel
    strategy.tell(z_NK, fitness_N)
    assert strategy.state_dict()["moment1"] == pytest.approx(0.9 * moment_D)
    moved_D = strategy.mean - before
    assert np.array_equal(np.sign(moved_D), np.sign(moment_D))


def test_every_step_has_a_subspace_of_its_own_and_equal_fitness_moves_nothing() -> None:
    strategy = build()
    seeds = set()
    for _ in range(5):
        assert strategy.subspace is not None
        seeds.add(strategy.subspace.seed)
        strategy.tell(strategy.ask(), np.ones(POPULATION))
    assert len(seeds) == 5
    assert not strategy.mean.any()


def test_a_saved_state_goes_on_with_the_same_bits() -> None:
    whole, cut, again = (build(optimizer="trust_region") for _ in range(3))
    advance(whole, 7)
    advance(cut, 3)
    again.load_state_dict(cut.state_dict())
    advance(again, 4)
    assert np.array_equal(again.mean, whole.mean)
    assert np.array_equal(advance(again, 1)[0], advance(whole, 1)[0])


def test_a_state_of_other_dimensions_is_refused() -> None:
    with pytest.raises(RunError, match="checkpoint's strategy state"):
        build().load_state_dict({**build().state_dict(), "mean": np.zeros(DIM + 1)})


def test_orthogonal_directions_have_to_fit_into_the_subspace() -> None:
    with pytest.raises(ConfigError, match="13 directions cannot be orthogonal in 12 dimensions"):
        OpenAiEs(DIM, population=26, sigma=0.1, seed=0, orthogonal=True, subspaces=Subspaces(K, lift))
