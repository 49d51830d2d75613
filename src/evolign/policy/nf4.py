"""4-bit NormalFloat (QLoRA, arXiv 2305.14314, section 3) on a CPU: torchao's tensor, loaded by transformers.

The format is that of bitsandbytes: blocks of 64 weights with a scale each, and the scales in 8 bits. The CPU
kernels of bitsandbytes 0.50 read wrong values where a layer's input width is no multiple of 64; these do not.
transformers knows neither how to ask torchao for this format nor that one can train an adapter over it: its
registry of quantisation methods is extended here.
"""

import math
from typing import Any

from torch import nn
from torchao.core.config import AOBaseConfig
from torchao.quantization import NF4Tensor
from torchao.quantization.transform_module import register_quantize_module_handler
from transformers import TorchAoConfig
from transformers.quantizers.auto import register_quantization_config, register_quantizer
from transformers.quantizers.quantizer_torchao import TorchAoHfQuantizer

METHOD = "evolign_nf4"
BLOCK = 64
"""Weights that share a scale."""
SCALES = 256
"""The most scales that share a scale of their own."""


class Nf4WeightOnly(AOBaseConfig):
    """Store the weight of a linear layer in NF4; activations and products keep their dtype."""


@register_quantize_module_handler(Nf4WeightOnly)  # type: ignore[untyped-decorator]
def _to_nf4(module: nn.Module, config: Nf4WeightOnly) -> nn.Module:
    """A layer whose weights do not fill whole blocks stays as it is."""
    weight: Any = module.weight
    blocks, rest = divmod(weight.numel(), BLOCK)
    if not rest:
        nf4 = NF4Tensor.from_tensor(weight.detach(), BLOCK, math.gcd(blocks, SCALES))
        module.weight = nn.Parameter(nf4, requires_grad=False)
    return module


@register_quantization_config(METHOD)
class Nf4Config(TorchAoConfig):
    """What `from_pretrained(quantization_config=...)` is given."""

    def __init__(self, **options: Any) -> None:
        super().__init__(quant_type=Nf4WeightOnly(), **options)
        self.quant_method = METHOD

    def to_dict(self) -> dict[str, Any]:
        return {"quant_method": METHOD}


@register_quantizer(METHOD)
class Nf4Quantizer(TorchAoHfQuantizer):
    """torchao's quantizer; the linear layer passes gradients on to an adapter below it."""

    @property
    def is_trainable(self) -> bool:
        return True
