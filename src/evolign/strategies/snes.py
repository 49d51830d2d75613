"""SNES: separable natural evolution strategy.

Schaul, Glasmachers and Schmidhuber, "High Dimensions and Heavy Tails for Natural Evolution
Strategies", GECCO 2011, Algorithm 2 and Table 1. Symbols: mu = mean, sigma = step sizes, s = noise,
u = utilities, lambda = N.

Differs from the paper: candidates of equal fitness share the average of their utilities, and a
generation of equal fitness changes nothing. The paper leaves ties open, but rewards of 0 and 1 make
them the rule.
"""

from collections.abc import Mapping

import numpy as np

from evolign.seeding import stream
from evolign.strategies import shaping
from evolign.strategies.base import check_state, check_told
from evolign.types import Direction, Jump


class Snes:
    """One step size per coordinate, adapted along the natural gradient; O(D) memory and time.

    >>> strategy = Snes(dim=3, population=8, sigma=0.5, seed=0)
    >>> theta_ND = strategy.ask()
    >>> move = strategy.tell(theta_ND, fitness_N=-(theta_ND**2).sum(axis=1))
    >>> strategy.mean.shape
    (3,)
    """

    subspace: int | None = None

    def __init__(
        self,
        dim: int,
        *,
        population: int,
        sigma: float,
        seed: int,
        learning_rate_mean: float = 1.0,
        learning_rate_sigma: float | None = None,
    ) -> None:
        self.population = population
        self._seed = seed
        self._eta_mu = learning_rate_mean
        if learning_rate_sigma is None:
            learning_rate_sigma = (3 + np.log(dim)) / (5 * np.sqrt(dim))  # Table 1
        self._eta_sigma = learning_rate_sigma
        self._mu_D = np.zeros(dim)
        self._sigma_D = np.full(dim, float(sigma))
        self._generation = 0

    @property
    def mean(self) -> np.ndarray:
        """mu, theta_D."""
        return self._mu_D.copy()

    @property
    def sigma(self) -> float:
        """The geometric mean of the step sizes."""
        return float(np.exp(np.log(self._sigma_D).mean()))

    def ask(self) -> np.ndarray:
        """theta_ND; the same candidates until the next tell."""
        result: np.ndarray = self._mu_D + self._sigma_D * self._noise()
        return result

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
        """Move mean and step sizes towards the better candidates."""
        fitness_N = check_told(self.ask(), theta_ND, fitness_N)
        differs = bool(np.ptp(fitness_N) > 0)
        if differs:
            s_ND = self._noise()
            u_N = shaping.by_rank(fitness_N, utilities(self.population))
            gradient_mu_D = u_N @ s_ND  # Algorithm 2, line 9
            gradient_sigma_D = u_N @ (s_ND**2 - 1)  # line 10
            self._mu_D = self._mu_D + self._eta_mu * self._sigma_D * gradient_mu_D  # line 11
            self._sigma_D = self._sigma_D * np.exp(self._eta_sigma / 2 * gradient_sigma_D)  # line 12
        self._sigma_D = self._sigma_D * step_scale
        self._generation += 1
        return Jump(self.mean) if differs else None

    def state_dict(self) -> dict[str, np.ndarray]:
        """Mean, step sizes and the number of generations."""
        return {
            "mean": self._mu_D.copy(),
            "sigma": self._sigma_D.copy(),
            "generation": np.array(self._generation),
        }

    def load_state_dict(self, state: Mapping[str, np.ndarray]) -> None:
        """Continue where `state` was taken."""
        state = check_state(state, self.state_dict())
        self._mu_D, self._sigma_D = state["mean"], state["sigma"]
        self._generation = int(state["generation"])

    def _noise(self) -> np.ndarray:
        """s_ND of this generation."""
        generator = stream(self._seed, "strategy", self._generation)
        return generator.standard_normal((self.population, len(self._mu_D)))


def utilities(population: int) -> np.ndarray:
    """u_N by rank, best first: positive for the better half, summing to zero (Table 1).

    >>> utilities(4).round(3).tolist()
    [0.48, 0.02, -0.25, -0.25]
    """
    raw_N = np.log(population / 2 + 1) - np.log(np.arange(1, population + 1))
    positive_N = np.maximum(0.0, raw_N)
    result: np.ndarray = positive_N / positive_N.sum() - 1 / population
    return result
