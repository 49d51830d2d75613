"""What evolution needs to know of a search space: a protocol, so that spaces can be added."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from evolign.types import Population, Subspaces

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
    """A family of adapters; theta = 0 is the adapter that the search starts from."""

    dim: int
    """D."""
    subspaces: Subspaces | None
    """Where the candidates of a population lie in one random subspace; None: anywhere."""

    def shared_factors(self, population: Population) -> Iterator[SharedFactors]:
        """What the candidates share, one per adapted layer, in a fixed order."""
        ...

    def scales(self, population: Population) -> "tuple[Tensor, Tensor]":
        """The scales a and b of every candidate, float32, each (N, sum of R over layers)."""
        ...

    def decode(self, theta_D: np.ndarray) -> "Adapter":
        """The LoRA adapter that a candidate stands for."""
        ...
