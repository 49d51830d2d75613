"""The protocol of a strategy: ask for candidates, tell their fitness.

Contract tests check these rules for every strategy:

- Fitness is maximised, and the search starts at theta = 0.
- All randomness is that of `seeding.stream(seed, "strategy", generation)`.
- A generation of equal fitness carries no information: mean and sigma stay as they are, and the next
  ask draws new noise.
- Arguments are never changed, returned arrays are fresh copies.
"""

from collections.abc import Mapping
from typing import Protocol

import numpy as np

from evolign.errors import RunError
from evolign.types import Direction, Move


class Strategy(Protocol):
    """Ask/tell over a search space of D dimensions, N candidates at a time.

    >>> from evolign.strategies import Snes
    >>> strategy = Snes(dim=2, population=8, sigma=0.5, seed=0)
    >>> for _ in range(50):
    ...     theta_ND = strategy.ask()
    ...     move = strategy.tell(theta_ND, -((theta_ND - 1.0) ** 2).sum(axis=1))
    >>> bool(abs(strategy.mean - 1.0).max() < 0.01)
    True
    """

    population: int
    """N, the number of candidates per generation."""

    @property
    def subspace(self) -> int | None:
        """Seed of the subspace of this step, in whose coordinates `ask` answers; None: the whole space."""

    @property
    def mean(self) -> np.ndarray:
        """theta_D, float64: the mean of the search. In subspaces it is 0, shape (K,), because coordinates are
        those of a step of the mean; `Mean` follows the moves to the point itself."""

    @property
    def sigma(self) -> float:
        """The overall step size, in the units of theta."""

    def ask(self) -> np.ndarray:
        """theta_NK: the candidates of this generation, the same until the next tell. K = D, or the dimensions
        of a subspace."""

    def direction(self, theta_NK: np.ndarray, fitness_N: np.ndarray) -> Direction | None:
        """Where `tell` would move the mean, if `tell` needs the divergence of a step; else None.

        Changes nothing. Raises what `tell` raises.
        """

    def tell(
        self,
        theta_NK: np.ndarray,
        fitness_N: np.ndarray,
        step_scale: float = 1.0,
        divergence: float | None = None,
    ) -> Move | None:
        """End the generation and return how the mean moves; None: it stays where it is.

        `theta_NK` is what ask returned; the higher the fitness the better. The step size of the next
        generation is `step_scale` times the strategy's own. `divergence` is that of a step along
        `direction`, in nats per completion and per square of its scale. Raises ValueError, and changes
        nothing, where `theta_NK` is something else or `fitness_N` is not N finite numbers.
        """

    def state_dict(self) -> dict[str, np.ndarray]:
        """All state that changes during a run, as arrays of numbers that `np.savez` stores without pickle."""

    def load_state_dict(self, state: Mapping[str, np.ndarray]) -> None:
        """Continue bit for bit where `state` was taken; `self` was built with the same arguments.

        Raises RunError where the state is another strategy's or cannot be continued exactly.
        """


def check_told(asked_ND: np.ndarray, theta_ND: np.ndarray, fitness_N: np.ndarray) -> np.ndarray:
    """`fitness_N` as a float64 copy, after the checks of `Strategy.tell`."""
    if not np.array_equal(asked_ND, theta_ND):
        raise ValueError(
            f"tell: theta_ND, shape {np.shape(theta_ND)}, is not the population of this "
            f"generation, shape {asked_ND.shape}; pass what ask() returned, in its order"
        )
    fitness_N = np.array(fitness_N, dtype=np.float64)
    if fitness_N.shape != asked_ND.shape[:1]:
        raise ValueError(
            f"tell: fitness_N has shape {fitness_N.shape}; it must hold one number per "
            f"candidate, shape {asked_ND.shape[:1]}"
        )
    if not np.isfinite(fitness_N).all():
        candidates = np.flatnonzero(~np.isfinite(fitness_N)).tolist()
        raise ValueError(f"tell: the fitness of candidates {candidates} is not finite")
    return fitness_N


def check_state(state: Mapping[str, np.ndarray], current: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Copies of the arrays in `state`, after checking names and shapes against `current`."""
    shapes = {name: np.shape(array) for name, array in state.items()}
    expected = {name: array.shape for name, array in current.items()}
    if shapes != expected:
        raise RunError(
            f"the checkpoint's strategy state holds arrays of shape {shapes}, but this strategy "
            f"has {expected}; resume with the strategy and the search space of the run"
        )
    return {name: np.array(array) for name, array in state.items()}
