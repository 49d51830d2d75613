"""Frozen base models in 8 or 4 bits, loaded by quantisation configurations of transformers.

    int8   torchao, weights only: one scale per row. The LLM.int8() of bitsandbytes rounds activations too,
           and which of their columns it spares depends on all rows of a batch: a completion would depend on
           its neighbours.
    int4   NF4 with quantised scales (QLoRA): bitsandbytes on a GPU, torchao on a CPU (see nf4.py).

Linear layers are quantised, except the output head; embeddings, norms and the head keep `model.dtype`, in
which everything is computed.
"""

from importlib.util import find_spec
from typing import Any

import torch
from torch import nn
from transformers.quantizers.base import get_keys_to_not_convert

from evolign.config import ModelConfig
from evolign.errors import ConfigError
from evolign.policy.bytes import stored_tensors

BITS = {"int8": 8.0, "int4": 4 + 8 / 64}
"""Bits of storage per weight: the code and, for int4, its share of the block's scale."""
BYTES_PER_ROW = {"int8": 5, "int4": 0}
"""The scale of a row and its zero point."""


def quantization_config(
    config: ModelConfig, architecture: Any, device: torch.device, dtype: torch.dtype
) -> Any:
    """What `from_pretrained` is given as `quantization_config`.

    Raises ConfigError where the library is missing or the model is quantised already.
    """
    if getattr(architecture, "quantization_config", None) is not None:
        raise ConfigError(
            f"model.quantization = {config.quantization!r}: the weights of model.name = {config.name!r} are "
            "quantised already; leave model.quantization out, or name the original model"
        )
    if config.quantization == "int4" and device.type == "cuda":
        _require("bitsandbytes", config)
        from transformers import BitsAndBytesConfig

        return BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=dtype,
        )
    _require("torchao", config)
    if config.quantization == "int4":
        from evolign.policy.nf4 import Nf4Config

        return Nf4Config()
    from torchao.quantization import Int8WeightOnlyConfig
    from transformers import TorchAoConfig

    return TorchAoConfig(Int8WeightOnlyConfig(set_inductor_config=False))


def is_quantised(model: nn.Module) -> bool:
    """Whether transformers has loaded `model` quantised, by this module or from such a checkpoint."""
    return bool(getattr(model, "is_quantized", False))


def check_quantised(model: nn.Module, config: ModelConfig) -> None:
    """Raise ConfigError if loading has left every layer as it was."""
    if all(len(list(stored_tensors(parameter))) == 1 for parameter in model.parameters()):
        raise ConfigError(_nothing_to_quantise(config))


def estimated_weight_bytes(model: Any, config: ModelConfig) -> int:
    """Memory that the weights of `model`, which may be on the meta device, take once quantised.

    Raises ConfigError if it has no layer to quantise.
    """
    names = quantisable(model)
    if not names:
        raise ConfigError(_nothing_to_quantise(config))
    assert config.quantization is not None
    total: int = sum(p.numel() * p.element_size() for p in model.parameters())
    for name in names:
        weight = model.get_submodule(name).weight
        total -= weight.numel() * weight.element_size()
        total += int(weight.numel() * BITS[config.quantization] / 8)
        total += len(weight) * BYTES_PER_ROW[config.quantization]
    return total


def quantisable(model: Any) -> list[str]:
    """Names of the layers that are quantised: what `nn.Linear` is and transformers does not except."""
    kept = get_keys_to_not_convert(model)
    return [
        name for name, module in model.named_modules() if isinstance(module, nn.Linear) and name not in kept
    ]


def _nothing_to_quantise(config: ModelConfig) -> str:
    return (
        f"model.quantization = {config.quantization!r}: model.name = {config.name!r} has no linear layer "
        "that can be quantised (GPT-2 has none of that kind); leave model.quantization out"
    )


def _require(library: str, config: ModelConfig) -> None:
    if find_spec(library) is None:
        raise ConfigError(
            f"model.quantization = {config.quantization!r} needs {library}, which is not installed: "
            "pip install 'evolign[quant]'"
        )
