"""A population inside one model: adapted layers add each row's own low-rank update to their output.

The outer factors are shared by all rows (`SharedFactors`); a row's candidate enters as two element-wise
scales between them. The base layers, quantised or not, compute what they did before, called by a `forward` of
ours (forward hooks make every call of a module slower).

Layers that read the same tensor (query, key and value; gate and up) are noticed in the first forward pass;
from the second on their V_A and Q are multiplied as one matrix.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from evolign.policy.spaces.base import SharedFactors


class ScaledLora:
    """Adds updates to the adapted layers of `model`; `select` assigns a candidate to each row."""

    def __init__(self, model: nn.Module, factors: Iterable[SharedFactors]) -> None:
        like = next(model.parameters())
        everything = list(factors)
        self._layers = [_Layer(model.get_submodule(shared.name), like, self._notice) for shared in everything]
        self._groups = [_Group([layer]) for layer in self._layers]
        self.set_factors(everything)
        self._scales: tuple[Tensor, Tensor]
        self._candidate_B: Tensor
        self._noticed: list[list[_Layer]] = []
        self._last_input: Tensor | None = None

    def set_factors(self, factors: Iterable[SharedFactors]) -> None:
        """Set the factors that candidates share, for the same layers. Call `set_population` next."""
        begin = 0
        for layer, shared in zip(self._layers, factors, strict=True):
            layer.set_factors(shared, begin)
            begin += layer.rank
        for group in self._groups:
            group.set_factors()

    def set_population(self, a_NK: Tensor, b_NK: Tensor) -> None:
        """Set the scales of all candidates: K = the sum of the layers' ranks, in the layers' order."""
        self._scales = a_NK, b_NK
        for group in self._groups:
            group.set_population(a_NK, b_NK)

    def select(self, candidate_B: Tensor) -> None:
        """Assign a candidate to each row of the next forward passes."""
        self._candidate_B = candidate_B
        for group in self._groups:
            group.select(candidate_B)

    def remove(self) -> None:
        """Give the layers their own `forward` back."""
        for layer in self._layers:
            layer.remove()

    def _notice(self, layer: "_Layer", x: Tensor) -> None:
        """Group a layer with the one before it if they read the same tensor; the second pass ends this."""
        if any(layer in group for group in self._noticed):
            missing = set(self._layers).difference(*self._noticed)
            self._groups = [_Group(group) for group in [*self._noticed, *([layer] for layer in missing)]]
            for group in self._groups:
                group.set_factors()
            self._last_input = None
            for known in self._layers:
                known.notice = None
            self.set_population(*self._scales)
            self.select(self._candidate_B)
        elif x is self._last_input:
            self._noticed[-1].append(layer)
        else:
            self._noticed.append([layer])
            self._last_input = x


class _Layer:
    """The `forward` of one adapted layer: base(x) + scaling * core U_B^T."""

    rank: int
    begin: int
    """The first of its columns among those of all layers."""
    V_A_t: Tensor
    Q: Tensor
    U_B_t: Tensor

    def __init__(self, module: nn.Module, like: Tensor, notice: Any) -> None:
        self._device = like.device
        self._dtype = like.dtype if like.is_floating_point() else torch.float32
        self.group: _Group
        self.number: int
        self.notice: Any = notice
        self._module: Any = module
        self._before = vars(module).get("forward")
        self._base = module.forward
        self._module.forward = self

    def set_factors(self, shared: SharedFactors, begin: int) -> None:
        self.rank, self.begin = shared.V_A.shape[1], begin
        self.V_A_t = shared.V_A.T.contiguous().to(self._device, self._dtype)
        self.Q = shared.Q.to(self._device)
        self.U_B_t = (shared.U_B.T * shared.scaling).contiguous().to(self._device, self._dtype)

    def remove(self) -> None:
        if self._before is None:
            del self._module.forward
        else:
            self._module.forward = self._before

    def __call__(self, x: Tensor) -> Tensor:
        if self.notice is not None:
            self.notice(self, x)
        output: Tensor = self._base(x)
        core_MR, U_B_t = self.group.core(self.number, x), self.U_B_t
        if output.dtype == U_B_t.dtype and output.is_contiguous():
            output.view(-1, output.shape[-1]).addmm_(core_MR, U_B_t)
            return output
        result: Tensor = output + (core_MR @ U_B_t).to(output.dtype).view_as(output)
        return result


class _Group:
    """Layers that read the same tensor x: the cores (((x V_A) * a) Q^T) * b of all of them at once.

    G is the sum of their ranks, and Q is block-diagonal. Everything here is transposed, G by rows and tokens:
    with a matrix of 8 columns MKL takes four times as long as with one of 8 rows. The middle is float32.
    """

    def __init__(self, layers: list[_Layer]) -> None:
        self._layers, self._last = layers, len(layers) - 1
        self._x: Tensor | None = None
        self._cores: tuple[Tensor, ...] = ()
        for number, layer in enumerate(layers):
            layer.group, layer.number = self, number

    def set_factors(self) -> None:
        """Stack the factors of the layers."""
        layers = self._layers
        self._V_A_t = torch.cat([layer.V_A_t for layer in layers])
        self._Q = torch.block_diag(*(layer.Q for layer in layers))
        self._ranks = [layer.rank for layer in layers]
        columns = [torch.arange(layer.begin, layer.begin + layer.rank) for layer in layers]
        self._columns_G = torch.cat(columns).to(self._Q.device)

    def set_population(self, a_NK: Tensor, b_NK: Tensor) -> None:
        self._a_GN = a_NK[:, self._columns_G].T.contiguous()
        self._b_GN = b_NK[:, self._columns_G].T.contiguous()

    def select(self, candidate_B: Tensor) -> None:
        self._a_GB, self._b_GB = self._a_GN[:, candidate_B], self._b_GN[:, candidate_B]

    def core(self, number: int, x: Tensor) -> Tensor:
        """The core of the layer `number`, (rows x tokens, R); computed once for all layers that read x."""
        if x is not self._x:
            self._x, self._cores = x, self._compute(x)
        if number == self._last:
            self._x = None
        return self._cores[number]

    def _compute(self, x: Tensor) -> tuple[Tensor, ...]:
        V_A_t, a_GB, b_GB = self._V_A_t, self._a_GB, self._b_GB
        x_MI = x.reshape(
            -1, x.shape[-1]
        )  # OPT flattens rows and tokens itself before its feed-forward layers
        low = V_A_t.dtype
        if x.dtype != low:
            x_MI = x_MI.to(low)
        down_GM = torch.mm(V_A_t, x_MI.t())
        if low != torch.float32:
            down_GM = down_GM.float()
        if len(x_MI) == a_GB.shape[1]:
            core_GM = torch.mm(self._Q, down_GM.mul_(a_GB)).mul_(b_GB)
        else:  # several tokens of each row
            by_row = (*a_GB.shape, -1)
            down_GM.view(by_row).mul_(a_GB[:, :, None])
            core_GM = torch.mm(self._Q, down_GM)
            core_GM.view(by_row).mul_(b_GB[:, :, None])
        core_MG = core_GM.t() if low == torch.float32 else core_GM.t().to(low)
        return (core_MG,) if self._last == 0 else core_MG.split(self._ranks, 1)
