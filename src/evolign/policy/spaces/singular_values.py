"""The search space of ESSA (arXiv 2507.04453v3, section 3): singular values of both LoRA factors.

The LoRA factors of the warm start are decomposed separately,

    A = U_A S_A V_A^T      B = U_B S_B V_B^T,

the orthogonal matrices are frozen, and a candidate adds offsets to the largest floor(alpha R) singular
values of A and of B in every adapted layer: S~ = S + theta. With Q = V_B^T U_A, frozen as well, its update is

    B~ A~ = U_B diag(s_B + theta_B) Q diag(s_A + theta_A) V_A^T.

Ours, where the paper is silent: offsets may make a singular value negative; an adapter that was never
trained has B = 0, whose singular vectors are undefined, so U_B and V_B are then drawn at random.
"""

import math
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from evolign.config.policy import values_that_move
from evolign.errors import ConfigError
from evolign.policy.adapter import Adapter, Lora
from evolign.policy.spaces.base import SharedFactors
from evolign.seeding import stream
from evolign.types import Population


class _Layer:
    """Both decompositions of one layer: u_A (R, R), v_A (in, R), u_B (out, R), v_B (R, R), float64."""

    def __init__(self, name: str, lora: Lora, rng: np.random.Generator) -> None:
        self.name, self.lora = name, lora
        self.u_A, self.s_A, v_A_t = np.linalg.svd(lora.A.double().numpy(), full_matrices=False)
        self.v_A = v_A_t.T
        B = lora.B.double().numpy()
        if B.any():
            self.u_B, self.s_B, v_B_t = np.linalg.svd(B, full_matrices=False)
            self.v_B = v_B_t.T
        else:
            self.u_B = np.linalg.qr(rng.standard_normal(B.shape))[0]
            self.v_B = np.linalg.qr(rng.standard_normal((B.shape[1], B.shape[1])))[0]
            self.s_B = np.zeros(B.shape[1])

    @property
    def rank(self) -> int:
        return len(self.s_A)


class SingularValues:
    """Additive offsets on the top `alpha` share of the singular values of A and B in every layer.

    `theta` holds, layer after layer, the offsets for A and then those for B, largest singular value first.
    Raises ConfigError if `alpha` leaves no value to move.
    """

    def __init__(self, adapter: Adapter, *, alpha: float = 1.0, seed: int = 0) -> None:
        self._adapter = adapter
        self._layers = [
            _Layer(name, lora, stream(seed, "singular_values", name))
            for name, lora in adapter.modules.items()
        ]
        self._moving = [values_that_move(alpha, layer.rank) for layer in self._layers]
        for layer, moving in zip(self._layers, self._moving, strict=True):
            if moving == 0:
                raise ConfigError(
                    f"space.alpha = {alpha} leaves none of the {layer.rank} singular values of "
                    f"{layer.name!r} to move, since floor(alpha * rank) = 0; use at least "
                    f"{math.ceil(1000 / layer.rank) / 1000}"
                )
        self.dim = 2 * sum(self._moving)
        self.subspace_dim: int | None = None

    def __str__(self) -> str:
        return f"{self.dim:,} singular values of {len(self._layers)} layers"

    def lift(self, mean_D: np.ndarray, subspace: int | None, step_K: np.ndarray) -> np.ndarray:
        """See `SearchSpace.lift`: the space is searched as a whole, K = D."""
        return step_K

    def adapters(self, population: Population, mean_D: np.ndarray) -> Iterator[Adapter]:
        """See `SearchSpace.adapters`."""
        return map(self.decode, population.candidates(mean_D))

    def shared_factors(self, population: Population, mean_D: np.ndarray) -> Iterator[SharedFactors]:
        """See `SharesFactors.shared_factors`; the same for every population."""
        for layer in self._layers:
            yield SharedFactors(
                layer.name,
                torch.tensor(layer.v_A, dtype=torch.float32),
                torch.tensor(layer.v_B.T @ layer.u_A, dtype=torch.float32),
                torch.tensor(layer.u_B, dtype=torch.float32),
                layer.lora.scaling,
            )

    def scales(self, population: Population, mean_D: np.ndarray) -> tuple[Tensor, Tensor]:
        """See `SharesFactors.scales`."""
        offsets_A, offsets_B = self._offsets(population.candidates(mean_D))
        a = np.concatenate([layer.s_A for layer in self._layers]) + np.concatenate(offsets_A, axis=1)
        b = np.concatenate([layer.s_B for layer in self._layers]) + np.concatenate(offsets_B, axis=1)
        return torch.tensor(a, dtype=torch.float32), torch.tensor(b, dtype=torch.float32)

    def decode(self, theta_D: np.ndarray) -> Adapter:
        """A + U_A diag(theta_A) V_A^T and the same for B: at theta = 0 the warm start bit for bit."""
        offsets_A, offsets_B = self._offsets(np.asarray(theta_D)[None])
        modules = {}
        for layer, (a,), (b,) in zip(self._layers, offsets_A, offsets_B, strict=True):
            A = layer.lora.A.double().numpy() + (layer.u_A * a) @ layer.v_A.T
            B = layer.lora.B.double().numpy() + (layer.u_B * b) @ layer.v_B.T
            modules[layer.name] = Lora(
                torch.tensor(A, dtype=torch.float32),
                torch.tensor(B, dtype=torch.float32),
                layer.lora.scaling,
            )
        return Adapter(modules, self._adapter.config)

    def _offsets(self, theta_ND: np.ndarray) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """Offsets per layer for A and for B, each (N, R), zero where a singular value is frozen."""
        if theta_ND.shape[1:] != (self.dim,):
            raise ValueError(f"theta has shape {theta_ND.shape}; the space has {self.dim} dimensions")
        offsets: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
        start = 0
        for layer, moving in zip(self._layers, self._moving, strict=True):
            for factor in (0, 1):
                padded = np.zeros((len(theta_ND), layer.rank))
                padded[:, :moving] = theta_ND[:, start : start + moving]
                offsets[factor].append(padded)
                start += moving
        return offsets
