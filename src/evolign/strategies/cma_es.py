"""CMA-ES by pycma.

Hansen and Ostermeier, "Completely Derandomized Self-Adaptation in Evolution Strategies", 2001, in
the form of Hansen's tutorial, arXiv 1604.00772; diagonal covariance after Ros and Hansen, "A Simple
Modification in CMA-ES Achieving Linear Time and Space Complexity", 2008. ESSA (arXiv 2507.04453)
uses it with a full covariance and names no library.

Differs from pycma as it comes: our own noise, no stopping criteria, no mirrors, fitness passed as
ranks, and a generation of equal fitness skipped.
"""

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np

from evolign.errors import ConfigError, RunError
from evolign.seeding import stream
from evolign.strategies.base import check_told
from evolign.types import Direction, Jump


class CmaEs:
    """Adapts step size and covariance to the ranking of the candidates.

    `covariance="diagonal"` needs O(D) memory and time, `"full"` O(D^2) memory and now and then
    O(D^3) time. CMA-ES sees ranks only; equal fitness is ranked by position in the population.

    The state is the fitness of all generations: loading it replays the run, because pycma's own state can
    only be stored as a pickle, and loading a pickle runs code.

    >>> strategy = CmaEs(dim=3, population=8, sigma=0.5, seed=0)
    >>> theta_ND = strategy.ask()
    >>> move = strategy.tell(theta_ND, fitness_N=-(theta_ND**2).sum(axis=1))
    >>> strategy.state_dict()["fitness"].shape
    (1, 8)
    """

    subspace: int | None = None

    def __init__(
        self,
        dim: int,
        *,
        population: int,
        sigma: float,
        seed: int,
        covariance: Literal["diagonal", "full"] = "diagonal",
        active: bool = True,
    ) -> None:
        if population < 3:
            raise ConfigError(
                f"strategy.population = {population} is too small: cma_es needs at least 3 "
                "candidates; use 3 or more, or another strategy"
            )
        self.population = population
        self._dim = dim
        self._initial_sigma = float(sigma)
        self._seed = seed
        self._covariance = covariance
        self._active = active
        self._es = self._new_optimizer()
        self._candidates: list[np.ndarray] = []
        self._history: list[np.ndarray] = []
        self._scales: list[float] = []

    @property
    def mean(self) -> np.ndarray:
        """m, theta_D."""
        return np.array(self._es.gp.pheno(self._es.mean))

    @property
    def sigma(self) -> float:
        """CMA-ES's sigma, which multiplies the square root of the covariance."""
        return float(self._es.sigma)

    def ask(self) -> np.ndarray:
        """theta_ND; the same candidates until the next tell."""
        if not self._candidates:
            self._generator = stream(self._seed, "strategy", len(self._history))
            self._candidates = self._es.ask()
        return np.array(self._candidates)

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
        """Update mean, step size and covariance from the ranking of the candidates."""
        fitness_N = check_told(self.ask(), theta_ND, fitness_N)
        differs = bool(np.ptp(fitness_N) > 0)
        if differs:
            # pycma minimises: here, and only here, the sign flips. It uses only the ranking, but
            # sorts unstably: ranks make the order of equal candidates the same on every machine.
            rank_N = np.argsort(np.argsort(-fitness_N, kind="stable"))
            self._es.tell(self._candidates, rank_N.astype(float).tolist())
        self._es.sigma *= step_scale
        self._candidates = []
        self._history.append(fitness_N)
        self._scales.append(step_scale)
        return Jump(self.mean) if differs else None

    def state_dict(self) -> dict[str, np.ndarray]:
        """Fitness, (generations, N), and step scale of all generations; mean and sigma to check by."""
        return {
            "fitness": np.array(self._history).reshape(-1, self.population),
            "step_scale": np.array(self._scales, dtype=float),
            "mean": self.mean,
            "sigma": np.array(self.sigma),
        }

    def load_state_dict(self, state: Mapping[str, np.ndarray]) -> None:
        """Replay the run, and check that it ends where it did bit for bit.

        Replaying 300 generations of 24 candidates took 2.3 s at D = 448 with full covariance, and
        2.4 s at D = 8192 with diagonal covariance (one CPU core, pycma 4.5): as long as the
        strategy's share of the run itself.
        """
        shapes = {name: np.shape(array) for name, array in state.items()}
        fitness_GN = np.atleast_1d(state.get("fitness", ()))
        expected = {
            "fitness": (len(fitness_GN), self.population),
            "step_scale": (len(fitness_GN),),
            "mean": (self._dim,),
            "sigma": (),
        }
        if shapes != expected:
            raise RunError(
                f"the checkpoint's strategy state holds arrays of shape {shapes}, but cma_es here "
                f"has {expected}; resume with the strategy and the search space of the run"
            )
        self._es, self._candidates, self._history, self._scales = self._new_optimizer(), [], [], []
        for fitness_N, step_scale in zip(fitness_GN, state["step_scale"], strict=True):
            self.tell(self.ask(), fitness_N, float(step_scale))
        if not np.array_equal(self.mean, state["mean"]) or self.sigma != float(state["sigma"]):
            raise RunError(
                f"replaying {len(fitness_GN)} generations of CMA-ES does not end bit for bit where "
                "the checkpoint was written. Resume with the numpy and pycma versions, the kind of "
                "machine, the number of BLAS threads (OMP_NUM_THREADS) and the strategy settings of "
                "the run (see its provenance.json and config.json), or start a new run"
            )

    def _new_optimizer(self) -> Any:
        """pycma at the origin."""
        import cma

        options = {
            "popsize": self.population,
            "CMA_diagonal": self._covariance == "diagonal",
            "CMA_active": self._active,
            "CMA_mirrors": 0,  # on below 6 candidates, but `ask` alone never draws them
            "randn": self._randn,
            "seed": np.nan,  # leaves numpy's global generator alone
            "verbose": -10,  # silent, and blind to the options file `cma_signals.in` in the folder
            "verb_log": 0,
        }
        return cma.CMAEvolutionStrategy(np.zeros(self._dim), self._initial_sigma, options)

    def _randn(self, *shape: int) -> np.ndarray:
        """Standard normal noise of this generation, for pycma."""
        return self._generator.standard_normal(shape)
