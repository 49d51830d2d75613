"""A population inside one model: forward hooks that add each row's own low-rank update.

The outer factors are shared by all rows (`SharedFactors`); a row's candidate enters as two element-wise
scales between them. The base layers, quantised or not, are neither replaced nor changed.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from evolign.policy.space import SharedFactors


class ScaledLora:
    """Hooks on the adapted layers of `model`; `select` says which scales the next batch's rows have."""

    def __init__(self, model: nn.Module, factors: Iterable[SharedFactors]) -> None:
        self._deltas: list[_Delta] = []
        self._handles: list[Any] = []
        for layer in factors:
            module = model.get_submodule(layer.name)
            delta = _Delta(layer, next(model.parameters()))
            self._deltas.append(delta)
            self._handles.append(module.register_forward_hook(delta))

    def select(self, a_BK: Tensor, b_BK: Tensor) -> None:
        """Set the scales of a batch: K = the sum of the layers' ranks, in the layers' order."""
        ranks = [delta.rank for delta in self._deltas]
        for delta, a, b in zip(self._deltas, a_BK.split(ranks, 1), b_BK.split(ranks, 1), strict=True):
            delta.a, delta.b = a[:, None], b[:, None]

    def remove(self) -> None:
        """Take the hooks out: the model computes what it did before."""
        for handle in self._handles:
            handle.remove()


class _Delta:
    """scaling * ((((x V_A) * a) Q^T) * b) U_B^T; the R-wide middle is computed in float32."""

    def __init__(self, layer: SharedFactors, like: Tensor) -> None:
        dtype = like.dtype if like.is_floating_point() else torch.float32
        self.rank = layer.V_A.shape[1]
        self.V_A = layer.V_A.to(like.device, dtype)
        self.Q_t = layer.Q.T.contiguous().to(like.device)
        self.U_B_t = (layer.U_B.T * layer.scaling).contiguous().to(like.device, dtype)
        self.a: Tensor
        self.b: Tensor

    def __call__(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        x = inputs[0]
        if x.ndim == 2:  # OPT flattens rows and tokens before its feed-forward layers
            x = x.view(len(self.a), -1, x.shape[-1])
        down = (x.to(self.V_A.dtype) @ self.V_A).float() * self.a
        core = (down @ self.Q_t) * self.b
        return output + (core.to(self.U_B_t.dtype) @ self.U_B_t).to(output.dtype).view_as(output)
