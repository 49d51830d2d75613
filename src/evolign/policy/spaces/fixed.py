"""The search space without a dimension: one adapter as it is, or the model alone."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from evolign.policy.adapter import Adapter
from evolign.policy.spaces.base import SharedFactors
from evolign.types import Population, Subspaces

NO_ADAPTER = Adapter({}, {})
"""What a model without an adapter is evaluated with."""


class Fixed:
    """`adapter` itself, whatever its singular values; candidates are vectors of length 0."""

    dim = 0
    subspaces: Subspaces | None = None

    def __init__(self, adapter: Adapter) -> None:
        self._adapter = adapter

    def shared_factors(self, population: Population) -> Iterator[SharedFactors]:
        """See `SearchSpace.shared_factors`: the factors themselves, scaled by ones."""
        for name, lora in self._adapter.modules.items():
            yield SharedFactors(name, lora.A.T, torch.eye(len(lora.A)), lora.B, lora.scaling)

    def scales(self, population: Population) -> tuple[Tensor, Tensor]:
        """See `SearchSpace.scales`."""
        ones = torch.ones(len(population), sum(len(lora.A) for lora in self._adapter.modules.values()))
        return ones, ones

    def decode(self, theta_D: np.ndarray) -> Adapter:
        """See `SearchSpace.decode`."""
        return self._adapter
