"""A population inside one model: forward hooks that add each row's own low-rank update.

The outer factors are shared by all rows (`SharedFactors`); a row's candidate enters as two element-wise
scales between them. The base layers, quantised or not, are neither replaced nor changed.

Layers that read the same tensor (query, key and value; gate and up) are noticed in the first forward pass;
from the second on their V_A and Q are multiplied as one matrix.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from evolign.policy.space import SharedFactors


class ScaledLora:
    """Hooks on the adapted layers of `model`; `select` says which scales the next batch's rows have."""

    def __init__(self, model: nn.Module, factors: Iterable[SharedFactors]) -> None:
        like = next(model.parameters())
        begin = 0
        self._layers: list[_Layer] = []
        self._handles: list[Any] = []
        for shared in factors:
            layer = _Layer(shared, begin, like)
            begin += layer.rank
            self._layers.append(layer)
            hook = self._hook(layer)
            self._handles.append(model.get_submodule(shared.name).register_forward_hook(hook))
        self._groups = [_Group([layer]) for layer in self._layers]
        self._scales: tuple[Tensor, Tensor]
        self._noticed: list[list[_Layer]] | None = []
        self._last_input: Tensor | None = None

    def select(self, a_BK: Tensor, b_BK: Tensor) -> None:
        """Set the scales of a batch: K = the sum of the layers' ranks, in the layers' order."""
        self._scales = a_BK, b_BK
        for group in self._groups:
            group.select(a_BK, b_BK)

    def remove(self) -> None:
        """Take the hooks out: the model computes what it did before."""
        for handle in self._handles:
            handle.remove()

    def _hook(self, layer: "_Layer") -> Any:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
            if self._noticed is not None:
                self._notice(layer, inputs[0])
            return layer.add_to(output, inputs[0])

        return hook

    def _notice(self, layer: "_Layer", x: Tensor) -> None:
        """Put the layer with the one before it if they read the same tensor; the second pass ends this."""
        assert self._noticed is not None
        if any(layer in group for group in self._noticed):
            missing = set(self._layers).difference(*self._noticed)
            self._groups = [_Group(group) for group in [*self._noticed, *([layer] for layer in missing)]]
            self._noticed = self._last_input = None
            self.select(*self._scales)
        elif x is self._last_input:
            self._noticed[-1].append(layer)
        else:
            self._noticed.append([layer])
            self._last_input = x


class _Layer:
    """What one adapted layer adds to its output: scaling * core U_B^T."""

    def __init__(self, shared: SharedFactors, begin: int, like: Tensor) -> None:
        dtype = like.dtype if like.is_floating_point() else torch.float32
        self.rank, self.begin = shared.V_A.shape[1], begin
        self.V_A_t = shared.V_A.T.contiguous().to(like.device, dtype)
        self.Q = shared.Q.to(like.device)
        self.U_B_t = (shared.U_B.T * shared.scaling).contiguous().to(like.device, dtype)
        self.group: _Group
        self.part: slice

    def add_to(self, output: Tensor, x: Tensor) -> Tensor:
        core_MR = self.group.core(self, x)[self.part].T.to(self.U_B_t.dtype)
        if output.dtype == core_MR.dtype and output.is_contiguous():
            output.view(-1, output.shape[-1]).addmm_(core_MR, self.U_B_t)
            return output
        return output + (core_MR @ self.U_B_t).to(output.dtype).view_as(output)


class _Group:
    """Layers that read the same tensor x: the cores (((x V_A) * a) Q^T) * b of all of them at once.

    G is the sum of their ranks, and Q is block-diagonal. Everything here is transposed, G by rows and tokens:
    with a matrix of 8 columns MKL takes four times as long as with one of 8 rows. The middle is float32.
    """

    def __init__(self, layers: list[_Layer]) -> None:
        self._V_A_t = torch.cat([layer.V_A_t for layer in layers])
        self._Q = torch.block_diag(*(layer.Q for layer in layers))
        columns = [torch.arange(layer.begin, layer.begin + layer.rank) for layer in layers]
        self._columns_G = torch.cat(columns).to(self._Q.device)
        self._last = layers[-1]
        self._x: Tensor | None = None
        self._core_GM: Tensor
        end = 0
        for layer in layers:
            layer.group, layer.part = self, slice(end, end := end + layer.rank)

    def select(self, a_BK: Tensor, b_BK: Tensor) -> None:
        self._a_GB = a_BK[:, self._columns_G].T.contiguous()
        self._b_GB = b_BK[:, self._columns_G].T.contiguous()

    def core(self, layer: _Layer, x: Tensor) -> Tensor:
        """Shape (G, M) for M = rows x tokens, computed for the first layer and handed to the others."""
        if x is not self._x:
            self._x, self._core_GM = x, self._compute(x)
        if layer is self._last:
            self._x = None
        return self._core_GM

    def _compute(self, x: Tensor) -> Tensor:
        x_MI = x.reshape(
            -1, x.shape[-1]
        )  # OPT flattens rows and tokens itself before its feed-forward layers
        down_GM = (self._V_A_t @ x_MI.to(self._V_A_t.dtype).T).float()
        core_GM = self._Q @ self._scaled(down_GM, self._a_GB)
        return self._scaled(core_GM, self._b_GB)

    @staticmethod
    def _scaled(values_GM: Tensor, scale_GB: Tensor) -> Tensor:
        """`values_GM` times the scale of the row that each token is in, in place."""
        if values_GM.shape == scale_GB.shape:
            return values_GM.mul_(scale_GB)
        values_GM.view(*scale_GB.shape, -1).mul_(scale_GB[:, :, None])
        return values_GM
