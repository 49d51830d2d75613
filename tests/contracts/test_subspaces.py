"""What a strategy promises in the random subspaces of a space too large for its candidates."""

from typing import Any

import numpy as np
import pytest
from searching import advance

from evolign.errors import ConfigError, RunError
from evolign.strategies import OpenAiEs
from evolign.strategies.mean import Mean

DIM, K, POPULATION = 60, 12, 8
OPTIMUM_D = np.random.default_rng(5).standard_normal(DIM)


def basis(seed: int) -> np.ndarray:
    """(K, D): orthogonal rows."""
    noise = np.random.default_rng(seed).standard_normal((DIM, K))
    result: np.ndarray = np.linalg.qr(noise)[0].T * np.sqrt(DIM / K)
    return result


def lift(mean_D: np.ndarray, seed: int | None, step_K: np.ndarray) -> np.ndarray:
    assert seed is not None
    result: np.ndarray = step_K @ basis(seed)
    return result


def lift_to_one(mean_D: np.ndarray, seed: int | None, step_K: np.ndarray) -> np.ndarray:
    """As if every step had the same subspace."""
    return lift(mean_D, 0, step_K)


def build(**options: Any) -> tuple[OpenAiEs, Mean]:
    """A strategy in subspaces, and the mean that follows its moves."""
    options = {"optimizer": "sgd", "shaping": "mean", "learning_rate": 0.05, **options}
    return OpenAiEs(K, population=POPULATION, sigma=0.1, seed=0, subspaces=True, **options), Mean(DIM)


def distance(theta_D: np.ndarray) -> float:
    return float(((theta_D - OPTIMUM_D) ** 2).sum())


def search(strategy: OpenAiEs, mean: Mean, steps: int, lift: Any = lift) -> list[np.ndarray]:
    asked = []
    for _ in range(steps):
        z_NK = strategy.ask()
        assert not strategy.mean.any(), "coordinates are those of a step of the mean"
        fitness_N = [-distance(mean.point + lift(mean.point, strategy.subspace, z_K)) for z_K in z_NK]
        advance(
            strategy,
            np.array(fitness_N),
            lambda step_D: float(step_D @ step_D),
            mean=mean,
            lift=lift,
            step_scale=0.999,
        )
        asked.append(z_NK)
    return asked


@pytest.mark.parametrize(
    "options",
    [{}, {"optimizer": "adam", "learning_rate": 0.5}, {"optimizer": "trust_region", "beta2": 0.99}],
    ids=["sgd", "adam", "trust_region"],
)
def test_it_finds_an_optimum_that_lies_in_no_single_subspace(options: dict[str, Any]) -> None:
    strategy, mean = build(**options)
    search(strategy, mean, 1500)
    assert distance(mean.point) < 0.01 * distance(np.zeros(DIM))
    confined, stuck = build(**options)
    search(confined, stuck, 1500, lift_to_one)
    assert distance(stuck.point) > 0.5 * distance(np.zeros(DIM)), "a single subspace does not hold it"


def test_a_step_is_the_lifted_estimate_and_candidates_lie_around_the_coordinates_0() -> None:
    strategy, mean = build()
    search(strategy, mean, 3)
    before, sigma, subspace, z_NK = mean.point, strategy.sigma, strategy.subspace, strategy.ask()
    assert z_NK.shape == (POPULATION, K) and z_NK.mean(axis=0) == pytest.approx(np.zeros(K), abs=1e-12)
    fitness_N = np.arange(float(POPULATION))
    advance(strategy, fitness_N, mean=mean, lift=lift)
    estimate_K = (fitness_N - fitness_N.mean()) @ z_NK / sigma**2 / POPULATION
    assert mean.point == pytest.approx(before + lift(before, subspace, 0.05 * sigma * estimate_K))


def test_momentum_is_that_of_the_whole_space() -> None:
    """After a first estimate, one that says nothing of its subspace still leaves nine tenths of momentum."""
    strategy, mean = build(optimizer="adam", beta1=0.9)
    search(strategy, mean, 1)
    before, moment_D = mean.point, mean.state_dict()["first"]
    fitness_N = np.zeros(POPULATION)
    fitness_N[[0, POPULATION // 2]] = 1.0, 1.0  # a pair: its halves cancel
    advance(strategy, fitness_N, mean=mean, lift=lift)
    assert mean.state_dict()["first"] == pytest.approx(0.9 * moment_D)
    moved_D = mean.point - before
    assert np.array_equal(np.sign(moved_D), np.sign(moment_D))


def test_every_step_has_a_subspace_of_its_own_and_equal_fitness_moves_nothing() -> None:
    strategy, mean = build()
    seeds = set()
    for _ in range(5):
        assert strategy.subspace is not None
        seeds.add(strategy.subspace)
        assert advance(strategy, np.ones(POPULATION), mean=mean, lift=lift) is None
    assert len(seeds) == 5
    assert not mean.point.any() and mean.version == 0


def test_a_saved_state_goes_on_with_the_same_bits() -> None:
    (whole, there), (cut, here), (again, later) = (build(optimizer="trust_region") for _ in range(3))
    search(whole, there, 7)
    search(cut, here, 3)
    again.load_state_dict(cut.state_dict())
    later.load_state_dict(here.state_dict())
    search(again, later, 4)
    assert np.array_equal(later.point, there.point) and later.version == there.version == 7
    assert np.array_equal(search(again, later, 1)[0], search(whole, there, 1)[0])


def test_a_state_of_other_dimensions_is_refused() -> None:
    strategy, mean = build()
    with pytest.raises(RunError, match="checkpoint's strategy state"):
        strategy.load_state_dict({**strategy.state_dict(), "point": np.zeros(K + 1)})
    with pytest.raises(RunError, match="checkpoint's mean"):
        mean.load_state_dict({**mean.state_dict(), "point": np.zeros(DIM + 1)})


def test_orthogonal_directions_have_to_fit_into_the_subspace() -> None:
    with pytest.raises(ConfigError, match="13 directions cannot be orthogonal in 12 dimensions"):
        OpenAiEs(K, population=26, sigma=0.1, seed=0, orthogonal=True, subspaces=True)
