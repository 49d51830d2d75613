"""What every search space promises, and what the space of singular values is."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pkgutil import resolve_name
from typing import Any

import numpy as np
import pytest
import torch

from evolign.errors import ConfigError
from evolign.policy.adapter import Adapter, Lora
from evolign.policy.policy import Policy
from evolign.policy.spaces import SPACES
from evolign.policy.spaces.base import SearchSpace, SharedFactors, SharesFactors
from evolign.policy.spaces.lora import LoraFactors
from evolign.policy.spaces.singular_values import SingularValues
from evolign.types import Population

RANK = 6
SIDES = {"wide": (20, 9), "tall": (8, 31), "square": (12, 12), "square too": (12, 12), "smallest": (6, 6)}
"""Input and output width of each adapted layer; the last two sides equal the rank."""
FLOAT32 = 1e-5
"""Relative error of a product of five float32 matrices of these sizes: some tens of roundings of 6e-8."""


def adapter(seed: int = 0, *, trained: bool = True, rank: int = RANK) -> Adapter:
    generator = torch.Generator().manual_seed(seed)
    modules = {}
    for i, (name, (width_in, width_out)) in enumerate(SIDES.items()):
        A = torch.randn(rank, width_in, generator=generator)
        B = torch.randn(width_out, rank, generator=generator) if trained else torch.zeros(width_out, rank)
        modules[name] = Lora(A, B, 0.5 + i)
    return Adapter(modules, {"target_modules": list(SIDES)})


def update(lora: Lora) -> np.ndarray:
    result: np.ndarray = lora.scaling * lora.B.double().numpy() @ lora.A.double().numpy()
    return result


def shared_update(space: SearchSpace, theta_D: np.ndarray) -> dict[str, np.ndarray]:
    """What the engine adds to each layer, as a dense matrix (out, in)."""
    return shared_updates(space, Population(theta_D[None]), np.zeros(space.dim))[0]


def shared_updates(space: Any, population: Population, mean_D: np.ndarray) -> list[dict[str, np.ndarray]]:
    """The same of every candidate."""
    factors = list(space.shared_factors(population, mean_D))
    a_NK, b_NK = space.scales(population, mean_D)
    return [dense(factors, a.double().numpy(), b.double().numpy()) for a, b in zip(a_NK, b_NK, strict=True)]


def dense(factors: list[SharedFactors], a: np.ndarray, b: np.ndarray) -> dict[str, np.ndarray]:
    dense, start = {}, 0
    for layer in factors:
        stop = start + layer.V_A.shape[1]
        V_A, Q, U_B = (factor.double().numpy() for factor in (layer.V_A, layer.Q, layer.U_B))
        dense[layer.name] = layer.scaling * (U_B * b[start:stop]) @ Q @ (V_A * a[start:stop]).T
        start = stop
    assert start == len(a) == len(b)
    return dense


def assert_close(left: np.ndarray, right: np.ndarray, name: str) -> None:
    assert np.linalg.norm(left - right) <= FLOAT32 * np.linalg.norm(right), name


@pytest.fixture(params=SPACES)
def make(request: pytest.FixtureRequest) -> Callable[..., Any]:
    """The constructor of every registered space in turn."""
    made: Callable[..., Any] = resolve_name(SPACES[request.param])
    return made


@pytest.fixture
def sharing(make: Callable[..., Any]) -> Callable[..., Any]:
    """The same, of the spaces whose candidates share factors; the others only offer adapters."""
    if not isinstance(make(adapter()), SharesFactors):
        pytest.skip("this space only offers adapters")
    return make


# Every space


@pytest.mark.parametrize("trained", [True, False])
def test_the_origin_decodes_to_the_starting_adapter_bit_for_bit(
    make: Callable[..., Any], trained: bool
) -> None:
    start = adapter(trained=trained)
    space = make(start)
    decoded = space.decode(np.zeros(space.dim))
    assert decoded.config == start.config and list(decoded.modules) == list(start.modules)
    for name, lora in start.modules.items():
        found = decoded.modules[name]
        assert torch.equal(found.A.view(torch.int32), lora.A.view(torch.int32))
        assert torch.equal(found.B.view(torch.int32), lora.B.view(torch.int32))
        assert found.scaling == lora.scaling


@pytest.mark.parametrize("trained", [True, False])
def test_the_engines_factors_are_the_decoded_update(sharing: Callable[..., Any], trained: bool) -> None:
    space = sharing(adapter(trained=trained))
    rng = np.random.default_rng(1)
    for size in (0.1, 3.0, 30.0):  # 30 turns many singular values negative
        theta_D = size * rng.standard_normal(space.dim)
        dense = shared_update(space, theta_D)
        decoded = space.decode(theta_D)
        assert dense.keys() == decoded.modules.keys()
        for name, lora in decoded.modules.items():
            assert np.linalg.norm(dense[name]) > 0
            assert_close(dense[name], update(lora), name)


def population(space: SearchSpace, count: int, with_mean: bool = False) -> tuple[Population, np.ndarray]:
    """Random candidates where the space can hold several, and the mean around which they lie."""
    rng = np.random.default_rng(2)
    mean_D = 0.3 * rng.standard_normal(space.dim)
    if space.subspace_dim is None:
        return Population(rng.standard_normal((count, space.dim)), with_mean=with_mean), mean_D
    theta_NK = 0.1 * rng.standard_normal((count, space.subspace_dim))
    return Population(theta_NK, 7, with_mean=with_mean), mean_D


def test_candidates_do_not_depend_on_the_company_they_are_in(sharing: Callable[..., Any]) -> None:
    space = sharing(adapter())
    everyone, mean_D = population(space, 5)
    before = everyone.theta_NK.copy()
    together = space.scales(everyone, mean_D)
    for n in range(5):
        alone = space.scales(replace(everyone, theta_NK=everyone.theta_NK[n : n + 1]), mean_D)
        assert all(torch.equal(t[n : n + 1], a) for t, a in zip(together, alone, strict=True))
    assert np.array_equal(everyone.theta_NK, before)
    one, other = np.random.default_rng(3).standard_normal((2, space.dim))
    first = space.decode(one)
    space.decode(other)
    again = space.decode(one)
    assert all(torch.equal(first.modules[name].A, again.modules[name].A) for name in SIDES)


def test_the_adapters_of_a_population_are_what_its_factors_and_scales_say(
    sharing: Callable[..., Any],
) -> None:
    """The mean's is the last one where it takes part."""
    space = sharing(adapter())
    everyone, mean_D = population(space, 3, with_mean=True)
    adapters = list(space.adapters(everyone, mean_D))
    fast = shared_updates(space, everyone, mean_D)
    assert len(adapters) == len(fast) == len(everyone) == 4
    for found, dense in zip(adapters, fast, strict=True):
        for name, lora in found.modules.items():
            assert_close(dense[name], update(lora), name)
    for name, lora in space.decode(mean_D).modules.items():
        assert_close(update(adapters[-1].modules[name]), update(lora), name)


def test_coordinates_lift_linearly_to_steps_whose_adapter_is_the_candidates(make: Callable[..., Any]) -> None:
    space = make(adapter())
    everyone, mean_D = population(space, 2)
    x, y = everyone.theta_NK
    lifted = space.lift(mean_D, everyone.subspace, x)
    assert lifted.shape == (space.dim,)
    both = space.lift(mean_D, everyone.subspace, 2 * x - y)
    assert np.allclose(both, 2 * lifted - space.lift(mean_D, everyone.subspace, y))
    for row_K, found in zip(everyone.theta_NK, space.adapters(everyone, mean_D), strict=True):
        step_D = space.lift(mean_D, everyone.subspace, row_K)
        point_D = row_K if everyone.subspace is None else mean_D + step_D
        for name, lora in space.decode(point_D).modules.items():
            assert torch.equal(found.modules[name].A, lora.A) and torch.equal(found.modules[name].B, lora.B)


def coordinates(space: SingularValues) -> list[str]:
    """Layer, factor and number of the singular value of each coordinate, in the documented order."""
    return [f"{name}.{factor}[{i}]" for name in SIDES for factor in "AB" for i in range(RANK)]


def test_every_singular_value_moves_the_update_of_the_layer_it_names_and_of_no_other() -> None:
    space = SingularValues(adapter())
    assert len(coordinates(space)) == space.dim
    origin = space.decode(np.zeros(space.dim))
    for i, name in enumerate(coordinates(space)):
        moved = space.decode(0.5 * np.eye(space.dim)[i])
        changed = [
            layer
            for layer in SIDES
            if np.abs(update(moved.modules[layer]) - update(origin.modules[layer])).max() > 1e-3
        ]
        assert changed == [name.rpartition(".")[0]]


def test_a_vector_of_another_length_is_refused(make: Callable[..., Any]) -> None:
    space = make(adapter())
    dim: int = space.dim
    for shape in ((dim + 1,), (dim - 1,), (dim, 1), ()):
        with pytest.raises(ValueError, match=f"the space has {dim} dimensions"):
            space.decode(np.zeros(shape))
    if not isinstance(space, SharesFactors):
        return
    with pytest.raises(ValueError, match=f"the space has {dim} dimensions"):
        space.scales(Population(np.zeros((1, dim + 1))), np.zeros(dim))


# LoRA's weights, in subspaces


@pytest.mark.parametrize("trained", [True, False])
@pytest.mark.parametrize("terms", [1, 4, 6, 20])
def test_coordinates_of_a_subspace_are_the_lifted_step_to_the_engine_too(trained: bool, terms: int) -> None:
    """More terms than a factor has rows or columns as well."""
    space = LoraFactors(adapter(trained=trained), terms=terms)
    assert space.subspace_dim == 2 * (RANK + terms) * len(SIDES)
    everyone, mean_D = population(space, 4)
    for z_K, found in zip(everyone.theta_NK, shared_updates(space, everyone, mean_D), strict=True):
        theta_D = mean_D + space.lift(mean_D, everyone.subspace, z_K)
        for name, lora in space.decode(theta_D).modules.items():
            assert_close(found[name], update(lora), name)


def test_a_subspace_is_a_function_of_its_seed_and_lifts_linearly() -> None:
    space, again = LoraFactors(adapter()), LoraFactors(adapter())
    assert space.subspace_dim is not None
    origin_D = np.zeros(space.dim)
    x, y = np.random.default_rng(0).standard_normal((2, space.subspace_dim))
    lifted = space.lift(origin_D, 1, x)
    assert not np.allclose(space.lift(origin_D, 2, x), lifted)
    assert np.array_equal(again.lift(origin_D, 1, x), lifted)
    assert np.allclose(space.lift(origin_D, 1, 2 * x - y), 2 * lifted - space.lift(origin_D, 1, y))


@pytest.mark.parametrize("terms", [3, 8])
def test_the_random_terms_are_white_noise_on_all_weights_of_a_factor(terms: int) -> None:
    """Over many subspaces, the entries of their lifted standard normals have one variance per factor, and no
    correlations: w_A^2 and w_B^2, whose ratio is |A| / |B|."""
    lora = Lora(torch.full((2, 3), 4.0), torch.full((4, 2), 1.0), 1.0)
    space = LoraFactors(Adapter({"layer": lora}, {}), terms=terms)
    assert space.subspace_dim is not None
    rng, count = np.random.default_rng(0), 4000
    random = np.tile([False] * 2 + [True] * terms, 2)
    lifted = np.array(
        [space.lift(np.zeros(14), seed, random * rng.standard_normal(len(random))) for seed in range(count)]
    )
    covariance = lifted.T @ lifted / count
    expected = np.diag([2.0] * 6 + [0.5] * 8)  # w_A w_B = 1
    # five standard errors: products have variances of up to about 3 * 2**2
    assert np.abs(covariance - expected).max() < 5 * np.sqrt(12 / count)


def test_the_other_coordinates_are_the_singular_values_of_the_origin_wherever_it_is() -> None:
    start = adapter()
    space = LoraFactors(start, terms=2)
    assert space.subspace_dim is not None
    origin_D = np.random.default_rng(0).standard_normal(space.dim)
    at_origin = space.decode(origin_D)
    for layer, name in enumerate(SIDES):
        for factor, column in (("A", 0), ("B", RANK + 2)):
            step_K = np.zeros(space.subspace_dim)
            step_K[2 * (RANK + 2) * layer + column] = 1e-3
            moved = space.decode(origin_D + space.lift(origin_D, 0, step_K))
            before, after = (
                np.linalg.svd(getattr(adapter.modules[name], factor).double().numpy())
                for adapter in (at_origin, moved)
            )
            assert after.S[0] > before.S[0] + 1e-4
            assert after.S[1:] == pytest.approx(before.S[1:], abs=1e-5)
            assert np.abs((after.U[:, 0] * before.U[:, 0]).sum()) == pytest.approx(1, abs=1e-5)


def test_a_factor_of_zeros_has_random_directions_in_place_of_singular_vectors() -> None:
    space = LoraFactors(adapter(trained=False), terms=1)
    assert space.subspace_dim is not None
    step_K = np.zeros(space.subspace_dim)
    step_K[RANK + 1] = 1.0  # B of the first layer
    one, other = (space.lift(np.zeros(space.dim), seed, step_K) for seed in (1, 2))
    width, length = SIDES["wide"]
    for lifted in (one, other):
        B = lifted[RANK * width :][: length * RANK]
        assert np.count_nonzero(B) == length * RANK and np.count_nonzero(lifted) == length * RANK
    assert not np.allclose(one, other)


def test_several_candidates_without_a_subspace_are_refused() -> None:
    space = LoraFactors(adapter())
    with pytest.raises(ValueError, match="2 candidates in one subspace only"):
        space.scales(Population(np.zeros((2, space.dim))), np.zeros(space.dim))


# Singular values


@pytest.mark.parametrize("alpha", [0.25, 0.5, 0.75, 1.0])
def test_the_number_of_dimensions_is_the_papers(alpha: float, policy: Callable[..., Policy]) -> None:
    """num_layers * 4 * rank * 2 (* alpha): two layers, four attention projections, both factors."""
    chosen = policy("llama", "attention")
    space = SingularValues(chosen.adapter, alpha=alpha)
    assert space.dim == 2 * 4 * 4 * 2 * alpha


@pytest.mark.parametrize(
    ("alpha", "rank", "moving"), [(0.29, 100, 29), (0.7, 10, 7), (0.3, 10, 3), (0.99, 8, 7), (0.2, 5, 1)]
)
def test_alpha_is_rounded_down_as_written_not_as_stored(alpha: float, rank: int, moving: int) -> None:
    """0.29 * 100 is 28.999999999999996 in floating point; the reader of the recipe means 29."""
    rng = torch.Generator().manual_seed(0)
    lora = Lora(torch.randn(rank, 120, generator=rng), torch.randn(120, rank, generator=rng), 1.0)
    assert SingularValues(Adapter({"layer": lora}, {}), alpha=alpha).dim == 2 * moving


def test_one_coordinate_moves_one_singular_value_of_one_factor() -> None:
    start = adapter()
    space = SingularValues(start)
    step = 0.01
    for i, name in enumerate(coordinates(space)):
        layer, factor = name.rpartition(".")[0], name.rpartition(".")[2][0]
        index = int(name.rpartition("[")[2][:-1])
        moved = space.decode(step * np.eye(space.dim)[i]).modules[layer]
        still = "B" if factor == "A" else "A"
        assert torch.equal(getattr(moved, still), getattr(start.modules[layer], still))
        before = np.linalg.svd(getattr(start.modules[layer], factor).double().numpy(), compute_uv=False)
        after = np.linalg.svd(getattr(moved, factor).double().numpy(), compute_uv=False)
        before[index] += step
        assert after == pytest.approx(np.sort(before)[::-1], abs=1e-5)  # float32 of values up to 8


def test_the_share_alpha_moves_the_largest_values_and_keeps_the_rest() -> None:
    start = adapter()
    space = SingularValues(start, alpha=0.5)
    assert space.dim == len(SIDES) * 2 * 3
    moved = space.decode(np.full(space.dim, 50.0))
    for name, lora in start.modules.items():
        for factor in ("A", "B"):
            before = np.linalg.svd(getattr(lora, factor).double().numpy(), compute_uv=False)
            after = np.linalg.svd(getattr(moved.modules[name], factor).double().numpy(), compute_uv=False)
            expected = np.concatenate([before[:3] + 50, before[3:]])
            assert after == pytest.approx(expected, abs=1e-4)  # float32 of values up to 60


@pytest.mark.parametrize("rank", [1, 2, 3, 6, 7, 8, 9, 12])
def test_an_alpha_that_leaves_nothing_says_which_one_would_do(rank: int) -> None:
    lora = Lora(torch.ones(rank, 16), torch.ones(16, rank), 1.0)
    start = Adapter({"the layer": lora}, {})
    with pytest.raises(ConfigError, match=r"space\.alpha = 0\.01 .* 'the layer' .* use at least") as caught:
        SingularValues(start, alpha=0.01)
    advice = float(str(caught.value).split("use at least ")[1])
    assert SingularValues(start, alpha=advice).dim == 2


def random_orthogonal(seed: int) -> np.ndarray:
    return np.linalg.qr(np.random.default_rng(seed).standard_normal((RANK, RANK)))[0]


TURNS = {
    "negated": -np.eye(RANK),
    "signs flipped": np.diag([1.0, -1, -1, 1, -1, 1]),
    "ranks permuted": np.eye(RANK)[[3, 0, 5, 1, 4, 2]],
    "rotated": random_orthogonal(0),
}


@pytest.mark.parametrize("turn", TURNS)
def test_the_same_adapter_in_other_coordinates_spans_the_same_space(turn: str) -> None:
    """(P A, B P^T) is the same adapter for every orthogonal P; its candidates must be the same as well."""
    P = torch.tensor(TURNS[turn])
    start = adapter()
    modules = {
        name: Lora((P @ lora.A.double()).float(), (lora.B.double() @ P.T).float(), lora.scaling)
        for name, lora in start.modules.items()
    }
    space, turned = SingularValues(start), SingularValues(Adapter(modules, start.config))
    theta_D = np.random.default_rng(3).standard_normal(space.dim)
    left, right = space.decode(theta_D), turned.decode(theta_D)
    dense = shared_update(turned, theta_D)
    for name in SIDES:
        # ten times the tolerance: rounding the turned factors also moves close singular vectors
        error = np.linalg.norm(update(left.modules[name]) - update(right.modules[name]))
        assert error <= 10 * FLOAT32 * np.linalg.norm(update(left.modules[name])), name
        assert_close(dense[name], update(right.modules[name]), name)


def test_the_signs_that_a_decomposition_happens_to_choose_do_not_matter(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    start = adapter()
    theta_D = np.random.default_rng(4).standard_normal(SingularValues(start).dim)
    expected = SingularValues(start).decode(theta_D)
    svd, signs = np.linalg.svd, alternating_signs()

    def flipped(matrix: np.ndarray, full_matrices: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        u, s, v_t = svd(matrix, full_matrices=full_matrices)
        sign = next(signs)
        return u * sign, s, v_t * sign[:, None]

    monkeypatch.setattr(np.linalg, "svd", flipped)
    other = SingularValues(start)
    monkeypatch.undo()
    dense, decoded = shared_update(other, theta_D), other.decode(theta_D)
    for name, lora in expected.modules.items():
        assert_close(dense[name], update(lora), name)
        assert_close(update(decoded.modules[name]), update(lora), name)


def alternating_signs() -> Iterator[np.ndarray]:
    rng = np.random.default_rng(0)
    while True:
        yield rng.choice([-1.0, 1.0], RANK)


def test_an_untrained_adapter_gets_orthonormal_directions_from_the_runs_seed() -> None:
    start = adapter(trained=False)
    first, again, other = (
        list(SingularValues(start, seed=seed).shared_factors(Population.of_mean(), np.zeros(0)))
        for seed in (0, 0, 1)
    )
    for layer, same, different in zip(first, again, other, strict=True):
        identity = torch.eye(RANK)
        assert torch.allclose(layer.U_B.T @ layer.U_B, identity, atol=1e-6)
        assert torch.allclose(layer.Q.T @ layer.Q, identity, atol=1e-6)
        assert torch.equal(layer.U_B, same.U_B) and torch.equal(layer.Q, same.Q)
        assert not torch.allclose(layer.U_B, different.U_B, atol=1e-2)
    by_name = {layer.name: layer for layer in first}
    assert not torch.allclose(by_name["square"].U_B, by_name["square too"].U_B, atol=1e-2)
