"""The mean of a search. It applies moves, with the same bits in every process."""

from collections.abc import Callable, Mapping

import numpy as np

from evolign.errors import RunError
from evolign.types import Jump, Move, Step

Lift = Callable[[np.ndarray, int | None, np.ndarray], np.ndarray]
"""`lift(mean_D, subspace, step_K)` maps coordinates in a subspace to a step of the whole space."""


def identity(mean_D: np.ndarray, subspace: int | None, step_K: np.ndarray) -> np.ndarray:
    """The `Lift` of a space that is searched as a whole."""
    return step_K


class Mean:
    """A point of the search space, its momentum, and how many moves have led to it.

    >>> mean = Mean(2)
    >>> mean.follow(Step(np.array([1.0, 0.0]), subspace=None, length=0.5))
    >>> mean.point.tolist(), mean.version
    ([0.5, 0.0], 1)
    """

    def __init__(self, dim: int) -> None:
        self._point_D = np.zeros(dim)
        self._first_D = np.zeros(0)
        self._second_D = np.zeros(0)
        self.version = 0
        """Number of moves that were followed."""

    @property
    def point(self) -> np.ndarray:
        """theta_D, float64, not to be changed."""
        return self._point_D

    @property
    def nbytes(self) -> int:
        """Size of the arrays of `state_dict`."""
        return self._point_D.nbytes + self._first_D.nbytes + self._second_D.nbytes + np.array(0).nbytes

    def follow(self, move: Move, lift: Lift = identity) -> None:
        """Apply `move`. See `Step` for the arithmetic, whose order is part of the contract."""
        self._point_D = move.point_D.copy() if isinstance(move, Jump) else self._moved(move, lift)
        self.version += 1

    def _moved(self, step: Step, lift: Lift) -> np.ndarray:
        gradient_D = lift(self._point_D, step.subspace, step.step_K)
        if step.scale != 1.0:
            gradient_D = gradient_D * step.scale
        first_D = gradient_D
        if step.momentum:
            before_D = self._first_D if len(self._first_D) else np.zeros(len(gradient_D))
            self._first_D = step.momentum * before_D + (1 - step.momentum) * gradient_D
            first_D = self._first_D / step.debias
        if step.adam is None:
            return self._point_D + step.length * first_D
        beta2, debias2 = step.adam
        before_D = self._second_D if len(self._second_D) else np.zeros(len(gradient_D))
        self._second_D = beta2 * before_D + (1 - beta2) * gradient_D**2
        return self._point_D + step.length * first_D / (np.sqrt(self._second_D / debias2) + 1e-8)

    def place(self, point_D: np.ndarray, version: int) -> None:
        """Set the mean to another point, without momentum."""
        self.load_state_dict(Mean.at(point_D, version).state_dict())

    @classmethod
    def at(cls, point_D: np.ndarray, version: int = 0) -> "Mean":
        """A mean at `point_D` without momentum."""
        mean = cls(0)
        mean._point_D, mean.version = point_D.copy(), version
        return mean

    def state_dict(self) -> dict[str, np.ndarray]:
        """Point, moments (empty before they are needed) and version."""
        return {
            "point": self._point_D.copy(),
            "first": self._first_D.copy(),
            "second": self._second_D.copy(),
            "version": np.array(self.version),
        }

    def load_state_dict(self, state: Mapping[str, np.ndarray]) -> None:
        """Continue where `state` was taken. Raises RunError where it is of another space."""
        dim = len(self._point_D)
        shapes = {name: np.shape(state[name]) for name in ("point", "first", "second", "version")}
        if shapes["point"] != (dim,) or not {shapes["first"], shapes["second"]} <= {(0,), (dim,)}:
            raise RunError(
                f"the checkpoint's mean holds arrays of shape {shapes}, but the search space has {dim} "
                "dimensions; resume with the search space of the run"
            )
        self._point_D, self._first_D, self._second_D = (
            np.array(state[name]) for name in ("point", "first", "second")
        )
        self.version = int(state["version"])
