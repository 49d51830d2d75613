"""What every strategy promises, over the registry and the variants that change the arithmetic."""

import inspect
import io
import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import searching
from configs import evolution

from evolign.errors import ConfigError, RunError
from evolign.strategies import STRATEGIES, CmaEs, OpenAiEs, Snes, Strategy, build_strategy
from evolign.strategies.mean import Mean

DIM, POPULATION, SIGMA = 6, 8, 0.3
VARIANTS: list[tuple[str, dict[str, Any]]] = [
    *((name, {}) for name in STRATEGIES),
    ("cma_es", {"covariance": "full"}),
    ("cma_es", {"active": False}),
    ("openai_es", {"optimizer": "sgd", "antithetic": False, "shaping": "mean"}),
    ("openai_es", {"shaping": "centred_rank"}),
    ("openai_es", {"optimizer": "trust_region"}),
]
RANK_BASED = [variant for variant in VARIANTS if variant[0] != "openai_es" or "centred_rank" in str(variant)]
every_variant = pytest.mark.parametrize(
    ("name", "options"), VARIANTS, ids=lambda value: str(value).strip("{}")
)


def build(name: str, options: dict[str, Any] | None = None, seed: int = 0) -> Strategy:
    options = {"population": POPULATION, **(options or {})}
    return STRATEGIES[name](DIM, sigma=SIGMA, seed=seed, **options)


def fitness_of(theta_ND: np.ndarray) -> np.ndarray:
    return np.asarray(-(np.arange(1, DIM + 1) * (theta_ND - 0.5) ** 2).sum(axis=1))


def divergence_of(step_D: np.ndarray) -> float:
    return float(np.arange(1, DIM + 1) @ step_D**2)


def advance(
    strategy: Strategy, generations: int, fitness: Callable[[np.ndarray], np.ndarray] = fitness_of
) -> np.ndarray:
    """The populations of `generations` generations, shape (generations, N, D)."""
    asked = []
    for _ in range(generations):
        theta_ND = strategy.ask()
        searching.advance(strategy, fitness(theta_ND), divergence_of)
        asked.append(theta_ND)
    return np.array(asked)


def saved_and_loaded(state: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    file = io.BytesIO()
    np.savez(file, allow_pickle=False, **state)
    file.seek(0)
    with np.load(file, allow_pickle=False) as loaded:
        return dict(loaded)


@pytest.mark.parametrize("name", STRATEGIES)
def test_the_key_is_the_name_of_the_module(name: str) -> None:
    assert STRATEGIES[name].__module__ == f"evolign.strategies.{name}"


@pytest.mark.parametrize("name", STRATEGIES)
def test_config_fields_are_constructor_arguments_with_the_same_defaults(name: str) -> None:
    fields = type(evolution({"strategy": {"name": name}}).strategy).model_fields
    configured = {key: field.default for key, field in fields.items()}
    arguments = inspect.signature(STRATEGIES[name]).parameters
    options = {key: argument.default for key, argument in arguments.items()}
    assert list(configured)[1:3] == ["population", "sigma"]
    assert options.keys() - {"dim", "seed", "subspaces"} == configured.keys() - {"name"}
    for key in options.keys() - {"dim", "seed", "subspaces", "population", "sigma"}:
        assert options[key] == configured[key], key


@pytest.mark.parametrize("name", STRATEGIES)
def test_build_strategy_hands_the_options_of_the_config_on(name: str) -> None:
    config = evolution({"strategy": {"name": name, "population": 10}}).strategy
    built = build_strategy(config, DIM, sigma=0.2, seed=3)
    direct = STRATEGIES[name](DIM, population=10, sigma=0.2, seed=3)
    assert built.population == 10
    assert np.array_equal(advance(built, 3), advance(direct, 3))


@every_variant
def test_the_search_starts_at_the_origin_with_the_given_step_size(name: str, options: dict[str, Any]) -> None:
    strategy = build(name, options)
    assert np.array_equal(strategy.mean, np.zeros(DIM))
    assert strategy.sigma == pytest.approx(SIGMA, rel=1e-12)
    theta_ND = strategy.ask()
    assert theta_ND.shape == (strategy.population, DIM)
    assert theta_ND.dtype == strategy.mean.dtype == np.float64


@every_variant
def test_candidates_are_spread_by_sigma_around_the_origin(name: str, options: dict[str, Any]) -> None:
    strategy = build(name, {**options, "population": 5000})
    theta_ND = strategy.ask()
    # The standard error is sigma / sqrt(2 * 5000) = 1 % of sigma for a deviation, 1.4 % for a mean.
    assert theta_ND.std(axis=0) == pytest.approx(np.full(DIM, SIGMA), rel=0.05)
    assert np.abs(theta_ND.mean(axis=0)).max() < 0.07 * SIGMA


@every_variant
def test_the_same_seed_gives_the_same_run(name: str, options: dict[str, Any]) -> None:
    assert np.array_equal(advance(build(name, options), 6), advance(build(name, options), 6))


@every_variant
def test_different_seeds_give_different_candidates(name: str, options: dict[str, Any]) -> None:
    assert not np.isin(build(name, options, seed=1).ask(), build(name, options, seed=2).ask()).any()


@every_variant
def test_different_generations_have_different_noise(name: str, options: dict[str, Any]) -> None:
    strategy = build(name, options)
    noise_GND = []
    for _ in range(3):
        mean_D, theta_ND = strategy.mean, strategy.ask()
        noise_GND.append(theta_ND if name == "random_search" else theta_ND - mean_D)
        strategy.tell(theta_ND, np.zeros(POPULATION))
    assert len(np.unique(np.round(noise_GND, 12))) == 3 * POPULATION * DIM


@every_variant
def test_asking_twice_gives_the_same_population(name: str, options: dict[str, Any]) -> None:
    strategy = build(name, options)
    advance(strategy, 2)
    assert np.array_equal(strategy.ask(), strategy.ask())
    once = build(name, options)
    advance(once, 2)
    assert np.array_equal(advance(strategy, 2), advance(once, 2))


@every_variant
def test_arguments_are_not_changed_and_results_are_fresh_copies(name: str, options: dict[str, Any]) -> None:
    strategy, undisturbed = build(name, options), build(name, options)
    for _ in range(3):
        theta_ND = strategy.ask()
        fitness_N = fitness_of(theta_ND)
        told = theta_ND.copy(), fitness_N.copy()
        searching.advance(strategy, fitness_N, divergence_of)
        assert np.array_equal(theta_ND, told[0]) and np.array_equal(fitness_N, told[1])
        theta_ND[:] = fitness_N[:] = np.nan
        for array in (strategy.ask(), strategy.mean, *strategy.state_dict().values()):
            array[...] = 0
    advance(undisturbed, 3)
    assert np.array_equal(advance(strategy, 2), advance(undisturbed, 2))


@every_variant
def test_a_mean_that_follows_the_moves_is_where_the_strategy_is_bit_for_bit(
    name: str, options: dict[str, Any]
) -> None:
    strategy, undisturbed, mean, moves = build(name, options), build(name, options), Mean(DIM), 0
    for generation in range(12):
        theta_ND = strategy.ask()
        fitness_N = np.zeros(POPULATION) if generation == 4 else fitness_of(theta_ND)
        move = searching.advance(strategy, fitness_N, divergence_of)
        searching.advance(undisturbed, fitness_N, divergence_of)
        if move is not None:
            mean.follow(pickle.loads(pickle.dumps(move)))
            moves += 1
            for array in vars(move).values():
                if isinstance(array, np.ndarray):
                    array[:] = np.nan
        assert mean.point.tobytes() == strategy.mean.tobytes() == undisturbed.mean.tobytes()
    assert mean.version == moves and mean.point.any()


@every_variant
def test_asking_for_the_direction_changes_nothing(name: str, options: dict[str, Any]) -> None:
    strategy, undisturbed = build(name, options), build(name, options)
    for _ in range(4):
        theta_ND = strategy.ask()
        fitness_N = fitness_of(theta_ND)
        told = theta_ND.copy(), fitness_N.copy()
        before = strategy.state_dict()
        first, second = (strategy.direction(theta_ND, fitness_N) for _ in range(2))
        assert (first is not None) == (second is not None) == ("trust_region" in options.values())
        if first is not None and second is not None:
            assert np.array_equal(first.origin_K, strategy.mean)
            assert np.array_equal(first.step_K, second.step_K) and first.scale == second.scale
            for array in (first.origin_K, first.step_K):
                array[:] = np.nan
        assert np.array_equal(theta_ND, told[0]) and np.array_equal(fitness_N, told[1])
        after = strategy.state_dict()
        assert before.keys() == after.keys()
        assert all(np.array_equal(before[key], after[key]) for key in before)
        for each in (strategy, undisturbed):
            each.tell(theta_ND, fitness_N, divergence=None if second is None else 1.5)
        assert np.array_equal(strategy.mean, undisturbed.mean) and strategy.sigma == undisturbed.sigma
        assert np.array_equal(strategy.ask(), undisturbed.ask())


@every_variant
def test_a_loaded_state_continues_bit_for_bit(name: str, options: dict[str, Any]) -> None:
    strategy, fresh = build(name, options), build(name, options)
    advance(strategy, 4)
    advance(strategy, 1, fitness=lambda theta_ND: np.zeros(len(theta_ND)))
    advance(strategy, 2)
    strategy.ask()  # a run can be killed between ask and tell
    state = saved_and_loaded(strategy.state_dict())
    kept = {key: array.copy() for key, array in state.items()}
    fresh.load_state_dict(state)
    assert np.array_equal(fresh.mean, strategy.mean) and fresh.sigma == strategy.sigma
    assert np.array_equal(advance(fresh, 5), advance(strategy, 5))
    assert all(np.array_equal(state[key], kept[key]) for key in kept)
    assert np.array_equal(fresh.mean, strategy.mean) and fresh.sigma == strategy.sigma


@every_variant
def test_the_state_of_an_unused_strategy_loads(name: str, options: dict[str, Any]) -> None:
    strategy = build(name, options)
    advance(strategy, 2)
    strategy.load_state_dict(saved_and_loaded(build(name, options).state_dict()))
    assert np.array_equal(advance(strategy, 3), advance(build(name, options), 3))


@every_variant
def test_the_state_holds_numbers_only(name: str, options: dict[str, Any]) -> None:
    strategy = build(name, options)
    advance(strategy, 2)
    for array in strategy.state_dict().values():
        assert type(array) is np.ndarray and array.dtype.kind in "fiu"


@every_variant
def test_the_state_of_another_dimension_is_refused(name: str, options: dict[str, Any]) -> None:
    other = STRATEGIES[name](DIM + 1, population=POPULATION, sigma=SIGMA, seed=0, **options)
    with pytest.raises(RunError, match="search space of the run"):
        build(name, options).load_state_dict(other.state_dict())


@pytest.mark.parametrize("name", STRATEGIES)
def test_the_state_of_another_strategy_is_refused(name: str) -> None:
    for other in STRATEGIES.keys() - {name}:
        with pytest.raises(RunError, match="resume with the strategy"):
            build(name).load_state_dict(build(other).state_dict())


@every_variant
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda theta_ND, fitness_N: (theta_ND, fitness_N[:-1]), "one number per candidate"),
        (lambda theta_ND, fitness_N: (theta_ND, fitness_N[:, None]), "one number per candidate"),
        (lambda theta_ND, fitness_N: (theta_ND, [np.nan, *fitness_N[1:]]), r"\[0\] is not finite"),
        (lambda theta_ND, fitness_N: (theta_ND, [*fitness_N[1:], np.inf]), r"\[7\] is not finite"),
        (lambda theta_ND, fitness_N: (theta_ND[:-1], fitness_N[:-1]), "what ask"),
        (lambda theta_ND, fitness_N: (theta_ND + 1e-9, fitness_N), "what ask"),
        (lambda theta_ND, fitness_N: (theta_ND[::-1], fitness_N[::-1]), "in its order"),
    ],
)
def test_wrong_values_are_refused_and_leave_no_trace(
    name: str, options: dict[str, Any], change: Callable[..., Any], message: str
) -> None:
    strategy, undisturbed = build(name, options), build(name, options)
    theta_ND = strategy.ask()
    with pytest.raises(ValueError, match=message):
        strategy.tell(*change(theta_ND, fitness_of(theta_ND)))
    assert np.array_equal(advance(strategy, 2), advance(undisturbed, 2))


@every_variant
def test_equal_fitness_changes_neither_mean_nor_sigma_but_the_noise(
    name: str, options: dict[str, Any]
) -> None:
    strategy = build(name, options)
    advance(strategy, 3)
    mean_D, sigma, before_ND = strategy.mean, strategy.sigma, strategy.ask()
    advance(strategy, 30, fitness=lambda theta_ND: np.full(len(theta_ND), -7.25))
    assert np.array_equal(strategy.mean, mean_D) and strategy.sigma == sigma
    assert not np.isin(strategy.ask(), before_ND).any()


@every_variant
def test_nothing_outside_is_touched(
    name: str,
    options: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    before = np.random.get_state()
    strategy = build(name, options)
    advance(strategy, 3)
    build(name, options).load_state_dict(strategy.state_dict())
    after = np.random.get_state()
    assert all(np.array_equal(a, b) for a, b in zip(before, after, strict=True))
    assert list(tmp_path.iterdir()) == []
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(("name", "options"), RANK_BASED)
def test_a_rank_based_strategy_ignores_monotone_transformations(name: str, options: dict[str, Any]) -> None:
    plain = advance(build(name, options), 5)
    squashed = advance(
        build(name, options), 5, fitness=lambda theta_ND: np.arctan(fitness_of(theta_ND)) * 100 + 3
    )
    assert np.array_equal(plain, squashed)


@every_variant
def test_adding_a_constant_to_the_fitness_changes_nothing(name: str, options: dict[str, Any]) -> None:
    plain = advance(build(name, options), 5)
    shifted = advance(build(name, options), 5, fitness=lambda theta_ND: fitness_of(theta_ND) + 10.0)
    assert shifted == pytest.approx(plain, abs=1e-9)  # the shift costs a few of 16 digits


def test_z_scored_fitness_makes_the_scale_of_the_reward_irrelevant() -> None:
    plain = advance(build("openai_es"), 5)
    tiny = advance(build("openai_es"), 5, fitness=lambda theta_ND: fitness_of(theta_ND) * 1e-200)
    assert tiny == pytest.approx(plain, abs=1e-12)


def test_antithetic_candidates_mirror_each_other_in_the_mean() -> None:
    strategy = build("openai_es")
    advance(strategy, 3)
    offset_ND = strategy.ask() - strategy.mean
    assert offset_ND[:4] == pytest.approx(-offset_ND[4:], abs=1e-12)


def test_cma_es_refuses_a_state_that_does_not_replay() -> None:
    strategy = build("cma_es")
    advance(strategy, 3)
    state = strategy.state_dict()
    for tampered in ({"mean": np.nextafter(state["mean"], 1)}, {"sigma": state["sigma"] * 1.01}):
        with pytest.raises(RunError, match="3 generations of CMA-ES does not end bit for bit"):
            build("cma_es").load_state_dict({**state, **tampered})
    with pytest.raises(RunError, match="does not end bit for bit"):
        build("cma_es", seed=1).load_state_dict(state)


def test_an_odd_antithetic_population_is_a_config_error() -> None:
    with pytest.raises(ConfigError, match=r"strategy.population = 7 must be even .* use 6 or 8, or"):
        OpenAiEs(DIM, population=7, sigma=SIGMA, seed=0)
    assert OpenAiEs(DIM, population=7, sigma=SIGMA, seed=0, antithetic=False).population == 7


def test_cma_es_needs_three_candidates() -> None:
    with pytest.raises(ConfigError, match="at least 3 candidates"):
        CmaEs(DIM, population=2, sigma=SIGMA, seed=0)
    assert advance(CmaEs(DIM, population=3, sigma=SIGMA, seed=0), 2).shape == (2, 3, DIM)


def test_snes_treats_equal_fitness_alike_whatever_the_order() -> None:
    strategy = Snes(DIM, population=4, sigma=SIGMA, seed=0, learning_rate_sigma=1e-300)
    theta_ND = strategy.ask()
    strategy.tell(theta_ND, np.array([1.0, 0.0, 0.0, 1.0]))
    best_D, worst_D = theta_ND[[0, 3]].mean(axis=0), theta_ND[[1, 2]].mean(axis=0)
    # Utilities of rank 1 to 4 are 0.48, 0.02, -0.25, -0.25: pairs share 0.25 and -0.25.
    assert strategy.mean == pytest.approx(0.5 * best_D - 0.5 * worst_D, abs=1e-12)
