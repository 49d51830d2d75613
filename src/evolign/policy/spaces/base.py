"""The protocol of a search space."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np

from evolign.types import Population

if TYPE_CHECKING:  # the loop names search spaces, and `evolign list` loads it without torch
    from torch import Tensor

    from evolign.policy.adapter import Adapter


@dataclass(frozen=True)
class SharedFactors:
    """What all candidates share in one adapted layer.

    A candidate with the scales a_R and b_R adds to the layer's output

        scaling * ((((x @ V_A) * a_R) @ Q^T) * b_R) @ U_B^T

    so that a batch may mix any number of candidates at the cost of one adapter.
    """

    name: str
    """The module of the base model."""
    V_A: "Tensor"
    """float32, shape (in, R)."""
    Q: "Tensor"
    """float32, shape (R, R)."""
    U_B: "Tensor"
    """float32, shape (out, R)."""
    scaling: float


class SearchSpace(Protocol):
    """A family of adapters; theta = 0 is the adapter that the search starts from.

    A space is immutable: the mean of the search, `mean_D`, is an argument.
    """

    dim: int
    """D, the number of dimensions."""
    subspace_dim: int | None
    """K, where the candidates of a population lie in one random subspace around the mean; None: anywhere."""

    def lift(self, mean_D: np.ndarray, subspace: int | None, step_K: np.ndarray) -> np.ndarray:
        """Map coordinates in a subspace around `mean_D` to a step of the whole space, shape (D,). Linear."""
        ...

    def decode(self, theta_D: np.ndarray) -> "Adapter":
        """The LoRA adapter of a point of the space."""
        ...

    def adapters(self, population: Population, mean_D: np.ndarray) -> "Iterator[Adapter]":
        """The adapter of every candidate in turn; the mean's comes last if it takes part."""
        ...


@runtime_checkable
class SharesFactors(Protocol):
    """An optional part of a space beside `adapters`, which lets a batch mix candidates."""

    def shared_factors(self, population: Population, mean_D: np.ndarray) -> Iterator[SharedFactors]:
        """What the candidates share, one per adapted layer, in a fixed order."""
        ...

    def scales(self, population: Population, mean_D: np.ndarray) -> "tuple[Tensor, Tensor]":
        """The scales a and b of every candidate, float32, each (N, sum of R over layers)."""
        ...
