"""How many rows fit into memory, estimated from the model's configuration.

The estimate is the same on every run on a machine.
"""

import os
from typing import Any

import torch
from transformers import PreTrainedModel

from evolign.engines.transformers.head import LOGITS_AT_ONCE, vocabulary
from evolign.policy.bytes import stored_tensors

GIB = 2**30
CPU_LIMIT_GB = 4.0
MOST_ROWS_ON_CPU = 512
"""More rows do not fit the processor's caches: 1,600 gave 0.8 of the tokens/s of 512."""
MOST_READINGS_ON_CPU = 96
"""The same limit for readings, which have many tokens at once: 512 gave 0.7 of the tokens/s of 96."""


def bytes_per_row(model: PreTrainedModel, prompt_tokens: int, new_tokens: int) -> int:
    """Memory of one generated sequence: key/value cache (twice where it grows), activations, logits."""
    config: Any = model.config.get_text_config()
    logits = config.vocab_size * (model.dtype.itemsize + 4 + 3 * 8)  # model dtype, float32, integer noise
    cache = (prompt_tokens + new_tokens) * _cached(model)
    result: int = 2 * cache + prompt_tokens * _activations(model) + logits
    return result


def bytes_per_reading(model: PreTrainedModel, tokens: int, new_tokens: int) -> int:
    """Memory of one sequence of `tokens` whose last `new_tokens` are scored, with a prompt of its own.

    A micro-batch holds `LOGITS_AT_ONCE` logits at most, of which this counts the share of one of many rows.
    """
    entries = min(new_tokens * vocabulary(model), LOGITS_AT_ONCE // MOST_READINGS_ON_CPU)
    logits = entries * (model.dtype.itemsize + 2 * 4)  # model dtype, float32 twice
    result: int = tokens * (2 * _cached(model) + _activations(model)) + logits
    return result


def _cached(model: PreTrainedModel) -> int:
    """Bytes of the keys and values of one token."""
    config: Any = model.config.get_text_config()
    heads = getattr(config, "num_attention_heads", None)
    if not heads:
        return 0  # a state space keeps no tokens
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // heads
    kv_heads = getattr(config, "num_key_value_heads", None) or heads
    return int(2 * config.num_hidden_layers * kv_heads * head_dim * model.dtype.itemsize)


def _activations(model: PreTrainedModel) -> int:
    """Activation bytes of one layer for one prompt token."""
    config: Any = model.config.get_text_config()
    inner = getattr(config, "intermediate_size", None) or 4 * config.hidden_size
    return int((3 * inner + 6 * config.hidden_size) * model.dtype.itemsize)


def budget_bytes(model: PreTrainedModel) -> float:
    """Half of what the model leaves of its device's whole memory; at most 4 GB on a CPU."""
    weights = weight_bytes(model)
    if model.device.type == "cuda":
        total = torch.cuda.get_device_properties(model.device).total_memory
        return max(total - weights, 0) / 2
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min(max(total - weights, 0) / 2, CPU_LIMIT_GB * GIB)


def weight_bytes(model: PreTrainedModel) -> int:
    """Memory of the parameters as they are stored, quantised or not."""
    stored = (tensor for parameter in model.parameters() for tensor in stored_tensors(parameter))
    return sum(tensor.numel() * tensor.element_size() for tensor in stored)
