"""Search of a space too large for its candidates: a fresh random subspace at every step.

An evolution strategy needs of its N candidates only what they differ in, and N of them differ in less than N
dimensions. So those of one step may share a random K-dimensional subspace, K >= N / 2, and lose nothing by
it: their directions are as random as directions of their own would be, but one basis and K numbers each
describe them. The next step draws the next basis (as random subspaces do in gradient-free optimisation:
Nesterov and Spokoiny 2017; Kozak et al. 2021). Only the mean is as long as the space, once.
"""

from collections.abc import Callable, Mapping

import numpy as np

from evolign.seeding import key
from evolign.strategies.base import Divergence, Strategy, check_state
from evolign.types import Subspace

Lift = Callable[[Subspace, np.ndarray], np.ndarray]
"""The step_D that coordinates of a subspace stand for."""


class RandomSubspaces:
    """`inner`, a strategy of K dimensions that remembers no direction, in subspaces of D dimensions.

    Every step begins with `inner` at the coordinates 0 of a new subspace, and ends with the mean of `inner`
    lifted and added to the mean here.
    """

    def __init__(self, inner: Strategy, dim: int, lift: Lift, seed: int) -> None:
        self.population = inner.population
        self._inner, self._lift, self._seed = inner, lift, seed
        self._mean_D = np.zeros(dim)
        self._steps = 0

    @property
    def mean(self) -> np.ndarray:
        """theta_D."""
        return self._mean_D.copy()

    @property
    def sigma(self) -> float:
        """The standard deviation of a coordinate."""
        return self._inner.sigma

    @property
    def subspace(self) -> Subspace:
        """See `Strategy.subspace`."""
        return Subspace(self.mean, key(self._seed, "subspace", self._steps))

    def ask(self) -> np.ndarray:
        """Coordinates, (N, K), around 0; the same until the next tell."""
        return self._inner.ask()

    def tell(
        self,
        theta_ND: np.ndarray,
        fitness_N: np.ndarray,
        step_scale: float = 1.0,
        divergence: Divergence | None = None,
    ) -> None:
        """See `Strategy.tell`; `divergence` takes coordinates too."""
        self._inner.tell(theta_ND, fitness_N, step_scale, divergence)
        self._mean_D = self._mean_D + self._lift(self.subspace, self._inner.mean)
        self._steps += 1
        state = self._inner.state_dict()
        self._inner.load_state_dict({**state, "mean": np.zeros_like(state["mean"])})

    def state_dict(self) -> dict[str, np.ndarray]:
        """The state of `inner`, the mean and the number of steps."""
        inner = self._inner.state_dict()
        return {**inner, "mean": self.mean, "subspaces": np.array(self._steps)}

    def load_state_dict(self, state: Mapping[str, np.ndarray]) -> None:
        """Continue where `state` was taken."""
        found = check_state(state, self.state_dict())
        self._mean_D, self._steps = found.pop("mean"), int(found.pop("subspaces"))
        self._inner.load_state_dict({**found, "mean": self._inner.mean})
