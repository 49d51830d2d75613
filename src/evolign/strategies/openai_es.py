"""OpenAI-ES: natural evolution strategy with isotropic Gaussian noise of fixed size.

The estimate is equations 5 to 7 of Huang et al., "When Evolution Strategy Meets Language Models
Tuning", COLING 2025: the score-function gradient of the expected fitness with the mean fitness
subtracted. Antithetic pairs, centred ranks and Adam follow Salimans et al., "Evolution Strategies
as a Scalable Alternative to Reinforcement Learning", arXiv 1703.03864.

Differs from the papers: perturbations are of the search vector theta, not of the network's weights
or of the sampled text; no weight decay; a generation of equal fitness changes nothing, while Adam's
momentum alone would move on. Fitness is z-scored by default, so that neither learning rate nor
momentum depend on the scale of the reward.

In a space too large for candidates of their own, those of a step share a random K-dimensional subspace. An
estimate needs of N candidates only what they differ in, which is less than N dimensions; so with K >= N / 2
nothing is lost: their directions are as random, but one basis and K numbers each describe them. The next step
draws the next basis (as random subspaces do in gradient-free optimisation: Nesterov and Spokoiny 2017; Kozak
et al. 2021). Mean and momentum are those of the whole space.
"""

from collections.abc import Mapping
from typing import Literal

import numpy as np

from evolign.errors import ConfigError
from evolign.seeding import key, stream
from evolign.strategies.base import Divergence, check_state, check_told
from evolign.strategies.shaping import SHAPINGS
from evolign.types import Subspace, Subspaces

LONGEST = 8.0
"""An estimate moves the policy by no more than so many times the trust region."""
PROBE_RANGE = 4.0
"""The divergence of a step is measured on one within this factor of the trust region."""
PROBES = 12


class OpenAiEs:
    """Gradient ascent on a smoothed fitness; O(D) memory and time.

    `learning_rate` is in units of `sigma`: under Adam a coordinate moves by at most about
    `learning_rate * sigma` per generation. The strategy itself never changes `sigma`, so the mean ends in a
    ball around the optimum whose radius follows from both. `orthogonal` perturbations have the variance of
    Gaussian ones and look in N different directions (Choromanski et al. 2018), as long as N <= D.

    `trust_region` follows the momentum itself: Adam's rule with one second moment for all coordinates, which
    is that of the divergence a step along the estimate would cause. So a usual step moves the policy by that
    many nats; with momentum by less the more estimates disagree, without it by less the smaller they become.
    An estimate far beyond those before it counts as one that moves by `LONGEST` times as much.

    >>> strategy = OpenAiEs(dim=3, population=8, sigma=0.1, seed=0, learning_rate=0.5)
    >>> theta_ND = strategy.ask()
    >>> strategy.tell(theta_ND, fitness_N=-((theta_ND - 1) ** 2).sum(axis=1))
    >>> strategy.mean.round(6).tolist()
    [0.05, 0.05, 0.05]
    """

    def __init__(
        self,
        dim: int,
        *,
        population: int,
        sigma: float,
        seed: int,
        learning_rate: float = 0.5,
        antithetic: bool = True,
        orthogonal: bool = False,
        shaping: Literal["mean", "z_score", "centred_rank"] = "z_score",
        optimizer: Literal["sgd", "adam", "trust_region"] = "adam",
        trust_region: float = 0.0025,
        beta1: float = 0.9,
        beta2: float = 0.999,
        subspaces: Subspaces | None = None,
    ) -> None:
        if antithetic and population % 2:
            raise ConfigError(
                f"strategy.population = {population} must be even because sampling is antithetic; "
                f"use {population - 1} or {population + 1}, or set strategy.antithetic = false"
            )
        directions = population // 2 if antithetic else population
        width = dim if subspaces is None else subspaces.dim
        if orthogonal and directions > width:
            raise ConfigError(
                f"strategy.population = {population}: {directions} directions cannot be orthogonal in "
                f"{width} dimensions; use at most {population * width // directions}, or set "
                "strategy.orthogonal = false, or give the space more dimensions"
            )
        self.population = population
        self._sigma = float(sigma)
        self._seed = seed
        self._subspaces, self._width = subspaces, width
        self._learning_rate = learning_rate
        self._antithetic, self._orthogonal = antithetic, orthogonal
        self._shape = SHAPINGS[shaping]
        self._optimizer, self._trust_region = optimizer, trust_region
        self._beta1, self._beta2 = beta1, beta2
        self._mean_D = np.zeros(dim)
        self._moment1_D = np.zeros(dim)
        self._moment2_D = np.zeros(1 if optimizer == "trust_region" else dim)
        self._generation = 0
        self._steps = 0

    @property
    def mean(self) -> np.ndarray:
        """theta_D."""
        return self._mean_D.copy()

    @property
    def sigma(self) -> float:
        """The standard deviation of the perturbations; only `step_scale` changes it."""
        return self._sigma

    @property
    def subspace(self) -> Subspace | None:
        """See `Strategy.subspace`."""
        if self._subspaces is None:
            return None
        return Subspace(self.mean, key(self._seed, "subspace", self._generation))

    def ask(self) -> np.ndarray:
        """theta_ND, or coordinates in the subspace, (N, K); the same candidates until the next tell."""
        around = self._mean_D if self._subspaces is None else 0.0
        return around + self._sigma * self._noise()

    def tell(
        self,
        theta_ND: np.ndarray,
        fitness_N: np.ndarray,
        step_scale: float = 1.0,
        divergence: Divergence | None = None,
    ) -> None:
        """One step of the optimiser along the estimated gradient; a trust region needs `divergence`."""
        fitness_N = check_told(self.ask(), theta_ND, fitness_N)
        if np.ptp(fitness_N) > 0:
            gradient_D = estimate_gradient(self._shape(fitness_N), self._noise(), self._sigma)
            if self._subspaces and (subspace := self.subspace):
                gradient_D = self._subspaces.lift(subspace, gradient_D)
            self._mean_D = self._mean_D + self._step(gradient_D, divergence)
        self._sigma *= step_scale
        self._generation += 1

    def state_dict(self) -> dict[str, np.ndarray]:
        """Mean, Adam's moments and step count (zero under sgd), and the generations told."""
        return {
            "mean": self._mean_D.copy(),
            "sigma": np.array(self._sigma),
            "moment1": self._moment1_D.copy(),
            "moment2": self._moment2_D.copy(),
            "steps": np.array(self._steps),
            "generation": np.array(self._generation),
        }

    def load_state_dict(self, state: Mapping[str, np.ndarray]) -> None:
        """Continue where `state` was taken."""
        state = check_state(state, self.state_dict())
        self._mean_D, self._sigma = state["mean"], float(state["sigma"])
        self._moment1_D, self._moment2_D = state["moment1"], state["moment2"]
        self._steps, self._generation = int(state["steps"]), int(state["generation"])

    def _step(self, gradient_D: np.ndarray, divergence: Divergence | None) -> np.ndarray:
        """Along the gradient, Adam's (Kingma and Ba 2015, Algorithm 1), or that of the trust region."""
        learning_rate = self._learning_rate * self._sigma
        if self._optimizer == "sgd":
            return learning_rate * gradient_D
        if self._optimizer == "adam":
            second_D = self._second_moment(gradient_D**2)
            return learning_rate * self._first_moment(gradient_D) / (np.sqrt(second_D) + 1e-8)
        assert divergence is not None, "the configuration pairs trust regions with fitness that has one"
        usual = self._moment2_D[0] / (1 - self._beta2**self._steps) if self._steps else 0.0
        scale = np.sqrt(self._trust_region / usual) if usual else 0.0
        nats = self._nats_per_square(
            gradient_D, divergence, scale or self._as_long_as_a_candidate(gradient_D)
        )
        if not 0 < nats < np.inf:
            return np.zeros_like(gradient_D)
        (second,) = self._second_moment(np.array([min(nats, LONGEST * usual) if usual else nats]))
        first_D = self._first_moment(gradient_D * min(1.0, np.sqrt(LONGEST * second / nats)))
        return np.sqrt(self._trust_region / second) * first_D

    def _nats_per_square(self, gradient_D: np.ndarray, divergence: Divergence, scale: float) -> float:
        """The divergence of a short step along the gradient, over the square of its scale.

        Divergence is quadratic for short steps only, so it is measured on one of about the trust region;
        `scale` is a first guess. It stands where no such step is found: in bfloat16 the divergence of long
        completions may not fall below what rounding makes of it.
        """
        measured = []
        for _ in range(PROBES):
            nats = divergence(scale * gradient_D)
            measured.append(nats / scale**2)
            if nats > PROBE_RANGE * self._trust_region:
                scale /= 2
            elif nats * PROBE_RANGE < self._trust_region:
                scale *= 2
            else:
                return measured[-1]
        return measured[0]

    def _as_long_as_a_candidate(self, gradient_D: np.ndarray) -> float:
        return float(self._sigma * np.sqrt(len(gradient_D)) / np.linalg.norm(gradient_D))

    def _second_moment(self, square: np.ndarray) -> np.ndarray:
        """Moving average of the gradient's square, in whatever sense, without its bias; begins a step."""
        self._steps += 1
        self._moment2_D = self._beta2 * self._moment2_D + (1 - self._beta2) * square
        return self._moment2_D / (1 - self._beta2**self._steps)

    def _first_moment(self, gradient_D: np.ndarray) -> np.ndarray:
        """The same of the gradient itself, after `_second_moment`."""
        self._moment1_D = self._beta1 * self._moment1_D + (1 - self._beta1) * gradient_D
        return self._moment1_D / (1 - self._beta1**self._steps)

    def _noise(self) -> np.ndarray:
        """eps_ND of this generation; the second half mirrors the first if antithetic."""
        generator = stream(self._seed, "strategy", self._generation)
        if not self._antithetic:
            return self._directions(generator, self.population)
        eps_ND = self._directions(generator, self.population // 2)
        return np.concatenate([eps_ND, -eps_ND])

    def _directions(self, generator: np.random.Generator, count: int) -> np.ndarray:
        """`count` standard normal vectors, or orthogonal ones of their mean length in random directions."""
        eps_ND = generator.standard_normal((count, self._width))
        if not self._orthogonal:
            return eps_ND
        return np.linalg.qr(eps_ND.T)[0].T * np.sqrt(self._width)


def estimate_gradient(weight_N: np.ndarray, eps_ND: np.ndarray, sigma: float) -> np.ndarray:
    """g_D = 1 / (N sigma) * sum_i weight_i eps_i, where weight_i = F_i - mean F (equations 5 to 7).

    >>> estimate_gradient(np.array([1.0, -1.0]), np.array([[2.0], [-2.0]]), sigma=0.5).tolist()
    [4.0]
    """
    return weight_N @ eps_ND / (len(weight_N) * sigma)
