"""The search space `lora`: all entries of both LoRA factors, in a subspace of their own at every step.

ESSA freezes the singular vectors of A and B, which bounds what it can learn (docs/results.md). Here they
may rotate. theta is a step of every entry, as in LoRA's own training, while the candidates of a step still
differ in few shared directions: in the singular values of the current factors, where much of the gradient
lies, and in `terms` random pairs of unit vectors, new at every step, which rotate the singular vectors:

    A = U_A diag(s_A) V_A^T        A~ = U_A diag(s_A + c_A z_A) V_A^T + P_A diag(d_A y_A) Q_A^T

and the same for B. With A~ = [U_A P_A] diag(a) [V_A Q_A]^T and B~ = [U_B P_B] diag(b) [V_B Q_B]^T a
candidate is again two scales, a and b, between factors that all share, of rank R + terms.

Where y is standard normal, the terms move every entry of their factor with variance w^2, and a standard
normal z moves the singular values by as much in all; w_A w_B = 1 and w_A / w_B = sqrt(|A| / |B|).
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from evolign.policy.adapter import Adapter, Lora
from evolign.policy.spaces.base import SharedFactors
from evolign.policy.spaces.fixed import Fixed
from evolign.seeding import stream
from evolign.types import Population


@dataclass(frozen=True)
class _Directions:
    """The directions of one factor: sum_k coordinate_k size_k left_k right_k^T."""

    left: np.ndarray
    """(rows, R + terms): U and P."""
    right: np.ndarray
    """(columns, R + terms): V and Q."""
    start: np.ndarray
    """(R + terms,): the singular values of the origin, then zeros."""
    size: np.ndarray
    """(R + terms,): c and d."""

    def scales(self, coordinates_NK: np.ndarray) -> np.ndarray:
        result: np.ndarray = self.start + self.size * coordinates_NK
        return result

    def lift(self, coordinates_K: np.ndarray) -> np.ndarray:
        result: np.ndarray = (self.left * (self.size * coordinates_K)) @ self.right.T
        return result


class LoraFactors:
    """Additive steps of all entries of A and B; candidates differ in R + `terms` ways per factor.

    `theta` holds, layer after layer, the step of A and then that of B, row by row.
    """

    def __init__(self, adapter: Adapter, *, terms: int = 4, seed: int = 0) -> None:
        self._adapter, self._terms = adapter, terms
        self._loras = list(adapter.modules.values())
        self._widths = [len(lora.A) + terms for lora in self._loras for _ in "AB"]
        self.dim = sum(lora.A.numel() + lora.B.numel() for lora in self._loras)
        self._width = sum(self._widths)
        self.subspace_dim: int | None = self._width
        self._weights = [weight for lora in self._loras for weight in _weights(lora)]
        self._drawn: tuple[int, np.ndarray, list[_Directions]] | None = None

    def __str__(self) -> str:
        return f"{self.dim:,} LoRA weights of {len(self._loras)} layers in subspaces of {self._width:,}"

    def shared_factors(self, population: Population, mean_D: np.ndarray) -> Iterator[SharedFactors]:
        """See `SharesFactors.shared_factors`."""
        if population.subspace is None:
            _check_alone(population)
            yield from Fixed(self.decode(population.candidates(mean_D)[0])).shared_factors(population, mean_D)
            return
        drawn = self._directions(mean_D, population.subspace)
        for (name, lora), of_A, of_B in zip(
            self._adapter.modules.items(), drawn[::2], drawn[1::2], strict=True
        ):
            factors = _tensor(of_A.right), _tensor(of_B.right.T @ of_A.left), _tensor(of_B.left)
            yield SharedFactors(name, *factors, lora.scaling)

    def scales(self, population: Population, mean_D: np.ndarray) -> tuple[Tensor, Tensor]:
        """See `SharesFactors.scales`."""
        rows_NK = population.candidates(mean_D)
        if population.subspace is None:
            _check_alone(population)
            _check(rows_NK[0], self.dim)
            return Fixed(self._adapter).scales(population, mean_D)
        _check(rows_NK[0], self._width)
        drawn = self._directions(mean_D, population.subspace)
        pieces = self._per_factor(rows_NK)
        scales = [factor.scales(piece) for factor, piece in zip(drawn, pieces, strict=True)]
        return _tensor(np.concatenate(scales[::2], axis=1)), _tensor(np.concatenate(scales[1::2], axis=1))

    def adapters(self, population: Population, mean_D: np.ndarray) -> Iterator[Adapter]:
        """See `SearchSpace.adapters`."""
        for row_K in population.candidates(mean_D):
            inside = population.subspace is not None
            yield self.decode(mean_D + self.lift(mean_D, population.subspace, row_K) if inside else row_K)

    def decode(self, theta_D: np.ndarray) -> Adapter:
        """A and B plus their steps: at theta = 0 the starting adapter bit for bit."""
        A_and_B = map(_tensor, self._factors(np.asarray(theta_D)))
        modules = {
            name: Lora(next(A_and_B), next(A_and_B), lora.scaling)
            for name, lora in self._adapter.modules.items()
        }
        return Adapter(modules, self._adapter.config)

    def lift(self, mean_D: np.ndarray, subspace: int | None, step_K: np.ndarray) -> np.ndarray:
        """See `SearchSpace.lift`."""
        if subspace is None:
            return step_K
        drawn, pieces = self._directions(mean_D, subspace), self._per_factor(step_K)
        return np.concatenate([factor.lift(z).ravel() for factor, z in zip(drawn, pieces, strict=True)])

    def _per_factor(self, coordinates: np.ndarray) -> list[np.ndarray]:
        """Coordinates, (..., K), of A and of B of every layer in turn."""
        return np.split(coordinates, np.cumsum(self._widths)[:-1], axis=-1)

    def _factors(self, theta_D: np.ndarray) -> Iterator[np.ndarray]:
        """A and B of every layer in turn, float64."""
        _check(theta_D, self.dim)
        begin = 0
        for lora in self._loras:
            for factor in (lora.A, lora.B):
                end = begin + factor.numel()
                yield factor.double().numpy() + theta_D[begin:end].reshape(factor.shape)
                begin = end

    def _directions(self, mean_D: np.ndarray, subspace: int) -> list[_Directions]:
        """The directions of A and of B of every layer in turn; those of the last subspace are cached."""
        if self._drawn is None or self._drawn[0] != subspace or (self._drawn[1] != mean_D).any():
            generator = stream(subspace, "directions")
            factors = zip(self._factors(mean_D), self._weights, strict=True)
            drawn = [self._draw(generator, factor, weight) for factor, weight in factors]
            self._drawn = subspace, mean_D.copy(), drawn
        return self._drawn[2]

    def _draw(self, generator: np.random.Generator, factor: np.ndarray, weight: float) -> _Directions:
        rows, columns = factor.shape
        u, s, v_t = np.linalg.svd(factor, full_matrices=False)
        if not s.any():  # the singular vectors of a zero matrix are arbitrary
            u, v_t = (_orthonormal(generator, length, len(s)) for length in (rows, columns))
            v_t = v_t.T
        size = [weight * np.sqrt(factor.size / len(s))] * len(s)
        size += [weight * np.sqrt(factor.size / self._terms)] * self._terms
        return _Directions(
            np.concatenate([u, _orthonormal(generator, rows, self._terms)], axis=1),
            np.concatenate([v_t.T, _orthonormal(generator, columns, self._terms)], axis=1),
            np.concatenate([s, np.zeros(self._terms)]),
            np.array(size),
        )


def _weights(lora: Lora) -> tuple[float, float]:
    """w_A and w_B. An untrained B = 0 gives 1 and 1.

    Half way between noise of one size for both factors, of which B would amplify little where it is small,
    and noise in proportion to each.
    """
    size_A, size_B = (float(factor.double().square().mean().sqrt()) for factor in (lora.A, lora.B))
    weight = (size_A / size_B) ** 0.25 if size_A and size_B else 1.0
    return weight, 1 / weight


def _orthonormal(generator: np.random.Generator, length: int, count: int) -> np.ndarray:
    """`count` random unit vectors as columns, orthogonal as far as there is room: (length, count)."""
    blocks = generator.standard_normal((-(-count // length), length, min(length, count)))
    return np.concatenate([np.linalg.qr(block)[0] for block in blocks], axis=1)[:, :count]


def _check_alone(population: Population) -> None:
    if len(population) != 1:
        raise ValueError(
            f"the space `lora` describes {len(population)} candidates in one subspace only; "
            "Population.subspace is None"
        )


def _check(theta: np.ndarray, dim: int) -> None:
    if theta.shape != (dim,):
        raise ValueError(f"theta has shape {theta.shape}; the space has {dim} dimensions")


def _tensor(array: np.ndarray) -> Tensor:
    return torch.tensor(array, dtype=torch.float32)
