"""The mean follows moves to the same bits wherever they are applied."""

from typing import Any

import numpy as np
import pytest

from evolign.errors import RunError
from evolign.strategies.mean import Mean
from evolign.types import Jump, Step

DIM, K = 7, 3


def lift(mean_D: np.ndarray, seed: int | None, step_K: np.ndarray) -> np.ndarray:
    """Directions that depend on the mean as well, as those of LoRA's weights do."""
    basis_KD = np.random.default_rng(seed).standard_normal((K, DIM)) + 0.1 * mean_D
    result: np.ndarray = step_K @ basis_KD
    return result


def moves(kind: str, count: int = 20) -> list[Step]:
    rng, found = np.random.default_rng(0), []
    for t in range(1, count + 1):
        step: dict[str, Any] = {
            "step_K": rng.standard_normal(K),
            "subspace": t,
            "length": 0.1 * t,
            "scale": 1.0 / t,
        }
        if kind != "plain":
            step |= {"momentum": 0.9, "debias": 1 - 0.9**t}
        if kind == "adam":
            step |= {"adam": (0.99, 1 - 0.99**t)}
        found.append(Step(**step))
    return found


@pytest.mark.parametrize("kind", ["plain", "momentum", "adam"])
def test_the_arithmetic_of_a_step_is_the_documented_one(kind: str) -> None:
    mean, theta_D, first_D, second_D = Mean(DIM), np.zeros(DIM), np.zeros(DIM), np.zeros(DIM)
    for step in moves(kind):
        g_D = step.scale * lift(theta_D, step.subspace, step.step_K)
        first_D = step.momentum * first_D + (1 - step.momentum) * g_D
        change_D = step.length * first_D / step.debias
        if step.adam is not None:
            beta2, debias2 = step.adam
            second_D = beta2 * second_D + (1 - beta2) * g_D**2
            change_D = change_D / (np.sqrt(second_D / debias2) + 1e-8)
        theta_D = theta_D + change_D
        mean.follow(step, lift)
        np.testing.assert_allclose(mean.point, theta_D, rtol=1e-12)
    assert mean.version == 20


@pytest.mark.parametrize("kind", ["plain", "momentum", "adam"])
def test_a_saved_mean_continues_to_the_same_bits(kind: str) -> None:
    whole, cut, again = Mean(DIM), Mean(DIM), Mean(DIM)
    for step in moves(kind):
        whole.follow(step, lift)
    for step in moves(kind)[:8]:
        cut.follow(step, lift)
    again.load_state_dict(cut.state_dict())
    for step in moves(kind)[8:]:
        again.follow(step, lift)
    assert again.point.tobytes() == whole.point.tobytes() and again.version == whole.version


def test_a_jump_leads_to_its_point_and_keeps_no_hold_of_it() -> None:
    mean, point_D = Mean(DIM), np.arange(float(DIM))
    mean.follow(Jump(point_D))
    point_D[0] = 99.0
    assert mean.point.tolist() == list(range(DIM)) and mean.version == 1


def test_a_placed_mean_stands_without_momentum() -> None:
    mean = Mean(DIM)
    for step in moves("momentum", 3):
        mean.follow(step, lift)
    mean.place(np.ones(DIM), version=9)
    assert mean.point.tolist() == [1.0] * DIM and mean.version == 9
    assert len(mean.state_dict()["first"]) == 0


@pytest.mark.parametrize("name", ["point", "first", "second"])
def test_a_mean_of_another_space_is_refused(name: str) -> None:
    state = Mean(DIM).state_dict() | {name: np.zeros(DIM + 1)}
    with pytest.raises(
        RunError, match=r"checkpoint's mean holds .* has 7 dimensions; resume with the search"
    ):
        Mean(DIM).load_state_dict(state)
