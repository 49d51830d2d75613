"""oneDNN in place of MKL for large float32 matrices on a CPU.

`torch.compile` calls the same kernel; eager PyTorch goes to MKL, which on the AMD machine measured here is 3
to 30 % slower for 64 rows and more (docs/performance.md). A matrix product stays a matrix product: results
differ in the last bits, as between any two such libraries.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

SMALLEST_MATRIX = 2**18
SMALLEST_ROWS = 32
"""Below these sizes oneDNN's set-up of a call costs more than it gains."""


class OneDnnLinear:
    """Lets oneDNN compute the large `nn.Linear` layers of `model`, until `remove`."""

    def __init__(self, model: nn.Module) -> None:
        self._modules = [module for module in model.modules() if _suits(module)] if _available() else []
        for module in self._modules:
            module.forward = _Forward(module)

    def remove(self) -> None:
        for module in self._modules:
            del module.forward


class _Forward:
    def __init__(self, module: Any) -> None:
        self._module = module
        self._product: Any = torch.ops.mkldnn._linear_pointwise

    def __call__(self, x: Tensor) -> Tensor:
        weight, bias = self._module.weight, self._module.bias
        learns = torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad)
        if learns or x.dtype != weight.dtype or x.numel() < SMALLEST_ROWS * x.shape[-1]:
            return linear(x, weight, bias)
        result: Tensor = self._product(x, weight, bias, "none", [], "")
        return result


def _suits(module: nn.Module) -> bool:
    """Whether it is an ordinary `nn.Linear` whose `forward` is unchanged."""
    if type(module) is not nn.Linear or "forward" in vars(module):
        return False
    weight = module.weight
    return (
        type(weight) is nn.Parameter
        and weight.dtype == torch.float32
        and weight.device.type == "cpu"
        and weight.numel() >= SMALLEST_MATRIX
    )


def _available() -> bool:
    try:
        identity = torch.eye(4)
        product = torch.ops.mkldnn._linear_pointwise(identity, identity, None, "none", [], "")
    except (AttributeError, RuntimeError, NotImplementedError):
        return False
    return torch.equal(product, identity)
