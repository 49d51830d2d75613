"""The search space without dimensions: one adapter as it is, or only the model."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from evolign.policy.adapter import Adapter
from evolign.policy.spaces.base import SharedFactors
from evolign.types import Population

NO_ADAPTER = Adapter({}, {})
"""The adapter of a model without one."""


class Fixed:
    """`adapter` itself, whatever its singular values; candidates are vectors of length 0."""

    dim = 0
    subspace_dim: int | None = None

    def __init__(self, adapter: Adapter) -> None:
        self._adapter = adapter

    def shared_factors(self, population: Population, mean_D: np.ndarray) -> Iterator[SharedFactors]:
        """See `SharesFactors.shared_factors`: the factors themselves, scaled by ones."""
        for name, lora in self._adapter.modules.items():
            yield SharedFactors(name, lora.A.T, torch.eye(len(lora.A)), lora.B, lora.scaling)

    def scales(self, population: Population, mean_D: np.ndarray) -> tuple[Tensor, Tensor]:
        """See `SharesFactors.scales`."""
        ones = torch.ones(len(population), sum(len(lora.A) for lora in self._adapter.modules.values()))
        return ones, ones

    def decode(self, theta_D: np.ndarray) -> Adapter:
        """See `SearchSpace.decode`."""
        return self._adapter

    def lift(self, mean_D: np.ndarray, subspace: int | None, step_K: np.ndarray) -> np.ndarray:
        """See `SearchSpace.lift`."""
        return step_K

    def adapters(self, population: Population, mean_D: np.ndarray) -> Iterator[Adapter]:
        """See `SearchSpace.adapters`."""
        return (self._adapter for _ in range(len(population)))
