"""One step of a search as the loop makes it: ask, direction, measure, tell, follow."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from evolign.evolution.step_size import divergence_per_square
from evolign.strategies.mean import Lift, Mean, identity
from evolign.types import Move


def advance(
    strategy: Any,
    fitness_N: np.ndarray,
    nats: Callable[[np.ndarray], float] | None = None,
    *,
    mean: Mean | None = None,
    lift: Lift = identity,
    step_scale: float = 1.0,
) -> Move | None:
    """End a generation; `nats(step_D)` is the divergence of a step of the mean. `mean` follows the move."""
    theta_NK, subspace = strategy.ask(), strategy.subspace
    direction = strategy.direction(theta_NK, fitness_N)
    divergence = None
    if direction is not None:
        point_D = strategy.mean if mean is None else mean.point

        def step(scale: float) -> np.ndarray:
            return lift(point_D, subspace, scale * direction.step_K)

        if direction.scale is None:
            as_long = strategy.sigma * np.sqrt(len(step(1.0))) / np.linalg.norm(step(1.0))
            direction = replace(direction, scale=float(as_long))
        assert nats is not None
        divergence = divergence_per_square(direction, lambda scale: nats(step(scale)))
    move: Move | None = strategy.tell(theta_NK, fitness_N, step_scale, divergence)
    if move is not None and mean is not None:
        mean.follow(move, lift)
    return move
