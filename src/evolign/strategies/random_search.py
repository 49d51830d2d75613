"""Random search: keep the best of random candidates around the starting point. A baseline.

A strategy that does not beat it at an equal number of evaluations has learned nothing.

Fitness is assumed to be exact. If it is noisy, the highest value is partly luck: the incumbent is
worse than its recorded fitness, and hard to replace.
"""

from collections.abc import Mapping

import numpy as np

from evolign.seeding import stream
from evolign.strategies.base import check_state, check_told
from evolign.types import Direction, Jump


class RandomSearch:
    """Draws theta ~ N(0, sigma^2 I) every generation; `mean` is the incumbent, at first the origin.

    >>> strategy = RandomSearch(dim=3, population=8, sigma=0.5, seed=0)
    >>> theta_ND = strategy.ask()
    >>> move = strategy.tell(theta_ND, fitness_N=np.arange(8.0))
    >>> bool((strategy.mean == theta_ND[7]).all())
    True
    """

    subspace: int | None = None

    def __init__(self, dim: int, *, population: int, sigma: float, seed: int) -> None:
        self.population = population
        self._sigma = float(sigma)
        self._seed = seed
        self._incumbent_D = np.zeros(dim)
        self._best_fitness = -np.inf
        self._generation = 0

    @property
    def mean(self) -> np.ndarray:
        """theta_D: the best single candidate seen so far."""
        return self._incumbent_D.copy()

    @property
    def sigma(self) -> float:
        """The standard deviation of the candidates, constant."""
        return self._sigma

    def ask(self) -> np.ndarray:
        """theta_ND; the same candidates until the next tell."""
        generator = stream(self._seed, "strategy", self._generation)
        shape = (self.population, len(self._incumbent_D))
        return self._sigma * generator.standard_normal(shape)

    def direction(self, theta_ND: np.ndarray, fitness_N: np.ndarray) -> Direction | None:
        """None: the step size is the strategy's own."""
        check_told(self.ask(), theta_ND, fitness_N)
        return None

    def tell(
        self,
        theta_ND: np.ndarray,
        fitness_N: np.ndarray,
        step_scale: float = 1.0,
        divergence: float | None = None,
    ) -> Jump | None:
        """Keep the best candidate if it is better than the incumbent."""
        asked_ND = self.ask()
        fitness_N = check_told(asked_ND, theta_ND, fitness_N)
        better = bool(np.ptp(fitness_N) > 0 and fitness_N.max() > self._best_fitness)
        if better:
            self._incumbent_D = asked_ND[fitness_N.argmax()].copy()
            self._best_fitness = float(fitness_N.max())
        self._sigma *= step_scale
        self._generation += 1
        return Jump(self.mean) if better else None

    def state_dict(self) -> dict[str, np.ndarray]:
        """The incumbent, its fitness and the number of generations."""
        return {
            "mean": self._incumbent_D.copy(),
            "sigma": np.array(self._sigma),
            "best_fitness": np.array(self._best_fitness),
            "generation": np.array(self._generation),
        }

    def load_state_dict(self, state: Mapping[str, np.ndarray]) -> None:
        """Continue where `state` was taken."""
        state = check_state(state, self.state_dict())
        self._incumbent_D = state["mean"]
        self._sigma = float(state["sigma"])
        self._best_fitness = float(state["best_fitness"])
        self._generation = int(state["generation"])
