"""OpenAI-ES: natural evolution strategy with isotropic Gaussian noise of fixed size.

The estimate is equations 5 to 7 of Huang et al., "When Evolution Strategy Meets Language Models
Tuning", COLING 2025: the score-function gradient of the expected fitness with the mean fitness
subtracted. Antithetic pairs, centred ranks and Adam follow Salimans et al., "Evolution Strategies
as a Scalable Alternative to Reinforcement Learning", arXiv 1703.03864.

Differs from the papers: perturbations are of the search vector theta, not of the network's weights
or of the sampled text; no weight decay; a generation of equal fitness changes nothing, while Adam
would still move by its momentum. Fitness is z-scored by default, so that neither learning rate nor
momentum depend on the scale of the reward.

In a large space, the candidates of a step lie in a random K-dimensional subspace: a basis and K numbers
each describe them. N antithetic candidates have N / 2 directions, so nothing is lost if K >= N / 2. Every
step draws a new basis, as in gradient-free optimisation by random subspaces (Nesterov and Spokoiny 2017;
Kozak et al. 2021). Mean and momentum are those of the whole space. `Mean` keeps them,
since the strategy needs neither for its next step.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Literal

import numpy as np

from evolign.errors import ConfigError
from evolign.seeding import key, stream
from evolign.strategies.base import check_state, check_told
from evolign.strategies.mean import Mean
from evolign.strategies.shaping import SHAPINGS
from evolign.types import Direction, Jump, Move, Step

LONGEST = 8.0
"""An estimate moves the policy by at most this many times the trust region."""


class OpenAiEs:
    """Gradient ascent on a smoothed fitness; O(D) memory and time.

    `learning_rate` is in units of `sigma`: under Adam a coordinate moves by at most about
    `learning_rate * sigma` per generation. The strategy itself never changes `sigma`, so the mean ends in a
    ball around the optimum whose radius follows from both. `orthogonal` perturbations have the variance of
    Gaussian ones and look in N different directions (Choromanski et al. 2018), as long as N <= D.

    `trust_region` follows the momentum itself: Adam's rule with one second moment for all coordinates, which
    is that of the divergence that a step along the estimate would cause. So a usual step moves the policy by
    that many nats. With momentum, steps become shorter where estimates disagree; without it, where estimates
    become smaller. An estimate moves the policy by at most `LONGEST` times the trust region.

    >>> strategy = OpenAiEs(dim=3, population=8, sigma=0.1, seed=0, learning_rate=0.5)
    >>> theta_ND = strategy.ask()
    >>> move = strategy.tell(theta_ND, fitness_N=-((theta_ND - 1) ** 2).sum(axis=1))
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
        subspaces: bool = False,
    ) -> None:
        if antithetic and population % 2:
            raise ConfigError(
                f"strategy.population = {population} must be even because sampling is antithetic; "
                f"use {population - 1} or {population + 1}, or set strategy.antithetic = false"
            )
        directions = population // 2 if antithetic else population
        if orthogonal and directions > dim:
            raise ConfigError(
                f"strategy.population = {population}: {directions} directions cannot be orthogonal in "
                f"{dim} dimensions; use at most {population * dim // directions}, or set "
                "strategy.orthogonal = false, or give the space more dimensions"
            )
        self.population = population
        self._sigma = float(sigma)
        self._seed = seed
        self._dim, self._subspaces = dim, subspaces
        self._learning_rate = learning_rate
        self._antithetic, self._orthogonal = antithetic, orthogonal
        self._shape = SHAPINGS[shaping]
        self._optimizer, self._trust_region = optimizer, trust_region
        self._beta1, self._beta2 = beta1, beta2
        self._mean = Mean(dim)
        self._usual = 0.0
        self._generation = 0
        self._steps = 0
        self._drawn: np.ndarray | None = None

    @property
    def mean(self) -> np.ndarray:
        """theta_D; in subspaces zeros, see `Strategy.mean`."""
        return self._mean.point.copy()

    @property
    def sigma(self) -> float:
        """The standard deviation of the perturbations; only `step_scale` changes it."""
        return self._sigma

    @property
    def subspace(self) -> int | None:
        """See `Strategy.subspace`."""
        return key(self._seed, "subspace", self._generation) if self._subspaces else None

    def ask(self) -> np.ndarray:
        """theta_NK; the same candidates until the next tell."""
        return self._mean.point + self._sigma * self._noise()

    def direction(self, theta_NK: np.ndarray, fitness_N: np.ndarray) -> Direction | None:
        """The gradient estimate, for a trust region; its divergence should be that of a usual step."""
        gradient_K = self._estimate(theta_NK, fitness_N)
        if self._optimizer != "trust_region" or gradient_K is None:
            return None
        usual = self._usual_divergence()
        scale = float(np.sqrt(self._trust_region / usual)) if usual else None
        return Direction(self.mean, gradient_K, self._trust_region, scale)

    def tell(
        self,
        theta_NK: np.ndarray,
        fitness_N: np.ndarray,
        step_scale: float = 1.0,
        divergence: float | None = None,
    ) -> Move | None:
        """Take one step of the optimiser along the estimate; a trust region needs `divergence`."""
        gradient_K = self._estimate(theta_NK, fitness_N)
        if self._optimizer == "trust_region" and gradient_K is not None and divergence is None:
            raise ValueError(
                "tell: optimizer = 'trust_region' needs the divergence of a step along direction()"
            )
        measured = divergence if self._optimizer == "trust_region" else None
        step = None if gradient_K is None else self._step(gradient_K, measured)
        self._sigma *= step_scale
        self._generation += 1
        self._drawn = None
        if step is None or self._subspaces:
            return step
        self._mean.follow(step)
        return Jump(self.mean)

    def state_dict(self) -> dict[str, np.ndarray]:
        """The mean with its moments (zeros in subspaces), the scalars, and the number of generations."""
        return self._mean.state_dict() | {
            "sigma": np.array(self._sigma),
            "usual": np.array(self._usual),
            "steps": np.array(self._steps),
            "generation": np.array(self._generation),
        }

    def load_state_dict(self, state: Mapping[str, np.ndarray]) -> None:
        """Continue where `state` was taken."""
        moments = {name: state[name] for name in ("first", "second") if name in state}
        state = check_state(state, self.state_dict() | {name: np.array(a) for name, a in moments.items()})
        self._mean.load_state_dict(state)
        self._sigma, self._usual = float(state["sigma"]), float(state["usual"])
        self._steps, self._generation = int(state["steps"]), int(state["generation"])
        self._drawn = None

    def _estimate(self, theta_NK: np.ndarray, fitness_N: np.ndarray) -> np.ndarray | None:
        """The gradient, (K,); None where all candidates have the same fitness."""
        fitness_N = check_told(self.ask(), theta_NK, fitness_N)
        if np.ptp(fitness_N) == 0:
            return None
        return estimate_gradient(self._shape(fitness_N), self._noise(), self._sigma)

    def _step(self, gradient_K: np.ndarray, divergence: float | None) -> Step | None:
        """Along the gradient, Adam's (Kingma and Ba 2015, Algorithm 1), or that of the trust region."""
        step = Step(gradient_K, self.subspace, self._learning_rate * self._sigma)
        if self._optimizer == "sgd":
            return step
        if divergence is not None and not 0 < divergence < np.inf:
            return None  # no step that could be measured moves the policy
        usual = self._usual_divergence()
        self._steps += 1
        step = replace(step, momentum=self._beta1, debias=1 - self._beta1**self._steps)
        if divergence is None:
            return replace(step, adam=(self._beta2, 1 - self._beta2**self._steps))
        square = min(divergence, LONGEST * usual) if usual else divergence
        self._usual = self._beta2 * self._usual + (1 - self._beta2) * square
        second = self._usual_divergence()
        scale = min(1.0, float(np.sqrt(LONGEST * second / divergence)))
        return replace(step, scale=scale, length=float(np.sqrt(self._trust_region / second)))

    def _usual_divergence(self) -> float:
        """Moving average of the divergence per square of estimates, without its bias; 0 before the first."""
        return self._usual / (1 - self._beta2**self._steps) if self._steps else 0.0

    def _noise(self) -> np.ndarray:
        """eps_ND of this generation; the second half mirrors the first if antithetic."""
        if self._drawn is None:
            generator = stream(self._seed, "strategy", self._generation)
            count = self.population // 2 if self._antithetic else self.population
            eps_ND = self._directions(generator, count)
            self._drawn = np.concatenate([eps_ND, -eps_ND]) if self._antithetic else eps_ND
        return self._drawn

    def _directions(self, generator: np.random.Generator, count: int) -> np.ndarray:
        """`count` standard normal vectors, or orthogonal ones of their mean length in random directions."""
        eps_ND = generator.standard_normal((count, self._dim))
        if not self._orthogonal:
            return eps_ND
        result: np.ndarray = np.linalg.qr(eps_ND.T)[0].T * np.sqrt(self._dim)
        return result


def estimate_gradient(weight_N: np.ndarray, eps_ND: np.ndarray, sigma: float) -> np.ndarray:
    """g_D = 1 / (N sigma) * sum_i weight_i eps_i, where weight_i = F_i - mean F (equations 5 to 7).

    >>> estimate_gradient(np.array([1.0, -1.0]), np.array([[2.0], [-2.0]]), sigma=0.5).tolist()
    [4.0]
    """
    result: np.ndarray = weight_N @ eps_ND / (len(weight_N) * sigma)
    return result
