"""What a strategy in random subspaces promises."""

import numpy as np
import pytest

from evolign.errors import RunError
from evolign.strategies import OpenAiEs, RandomSubspaces
from evolign.types import Subspace

DIM, K, POPULATION = 60, 12, 8
OPTIMUM_D = np.random.default_rng(5).standard_normal(DIM)


def basis(subspace: Subspace) -> np.ndarray:
    """(K, D): orthogonal rows."""
    noise = np.random.default_rng(subspace.seed).standard_normal((DIM, K))
    return np.linalg.qr(noise)[0].T * np.sqrt(DIM / K)


def lift(subspace: Subspace, step_K: np.ndarray) -> np.ndarray:
    return step_K @ basis(subspace)


def build(seed: int = 0) -> RandomSubspaces:
    inner = OpenAiEs(
        K, population=POPULATION, sigma=0.1, seed=seed, optimizer="sgd", shaping="mean", learning_rate=0.05
    )
    return RandomSubspaces(inner, DIM, lift, seed)


def distance(theta_D: np.ndarray) -> float:
    return float(((theta_D - OPTIMUM_D) ** 2).sum())


def advance(strategy: RandomSubspaces, steps: int) -> list[np.ndarray]:
    asked = []
    for _ in range(steps):
        z_NK = strategy.ask()
        subspace = strategy.subspace
        fitness_N = [-distance(subspace.origin_D + lift(subspace, z_K)) for z_K in z_NK]
        strategy.tell(z_NK, np.array(fitness_N))
        asked.append(z_NK)
    return asked


def test_it_finds_an_optimum_that_lies_in_no_single_subspace() -> None:
    strategy = build()
    advance(strategy, 1)
    assert distance(strategy.mean) > 0.9 * distance(np.zeros(DIM)), "one subspace of 12 does not hold it"
    advance(strategy, 600)
    assert distance(strategy.mean) < 1e-3 * distance(np.zeros(DIM))


def test_a_step_is_that_of_the_inner_strategy_lifted_from_where_the_mean_is() -> None:
    strategy = build()
    advance(strategy, 3)
    before, subspace, z_NK = strategy.mean, strategy.subspace, strategy.ask()
    assert np.array_equal(subspace.origin_D, before)
    assert z_NK.shape == (POPULATION, K) and z_NK.mean(axis=0) == pytest.approx(np.zeros(K), abs=1e-12)
    fitness_N = np.arange(float(POPULATION))
    strategy.tell(z_NK, fitness_N)
    gradient_K = (fitness_N - fitness_N.mean()) @ z_NK / 0.1**2 / POPULATION
    assert strategy.mean == pytest.approx(before + lift(subspace, 0.05 * 0.1 * gradient_K))


def test_every_step_has_a_subspace_of_its_own_and_equal_fitness_moves_nothing() -> None:
    strategy = build()
    seeds = set()
    for _ in range(5):
        seeds.add(strategy.subspace.seed)
        strategy.tell(strategy.ask(), np.ones(POPULATION))
    assert len(seeds) == 5
    assert not strategy.mean.any()


def test_a_saved_state_goes_on_with_the_same_bits() -> None:
    whole, cut, again = build(), build(), build()
    advance(whole, 7)
    advance(cut, 3)
    again.load_state_dict(cut.state_dict())
    advance(again, 4)
    assert np.array_equal(again.mean, whole.mean)
    assert np.array_equal(advance(again, 1)[0], advance(whole, 1)[0])


def test_a_state_of_other_dimensions_is_refused() -> None:
    state = build().state_dict()
    with pytest.raises(RunError, match="checkpoint's strategy state"):
        build().load_state_dict({**state, "mean": np.zeros(DIM + 1)})
    with pytest.raises(RunError, match="checkpoint's strategy state"):
        build().load_state_dict({name: array for name, array in state.items() if name != "subspaces"})
