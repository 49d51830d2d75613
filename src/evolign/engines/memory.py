"""How many rows fit: an estimate from the model's configuration, the same on every run of a machine."""

import os
from typing import Any

import torch
from transformers import PreTrainedModel

from evolign.storage import stored_tensors

GIB = 2**30
CPU_LIMIT_GB = 4.0
MOST_ROWS_ON_CPU = 512
"""More rows at once fall out of the processor's caches: 1,600 gave 0.8 of the tokens/s of 512."""


def bytes_per_row(model: PreTrainedModel, prompt_tokens: int, new_tokens: int) -> int:
    """Memory of one generated sequence: key/value cache (twice where it grows), activations, logits."""
    config: Any = model.config.get_text_config()
    hidden = config.hidden_size
    heads = config.num_attention_heads
    head_dim = getattr(config, "head_dim", None) or hidden // heads
    kv_heads = getattr(config, "num_key_value_heads", None) or heads
    size = model.dtype.itemsize
    cache = 2 * config.num_hidden_layers * kv_heads * head_dim * (prompt_tokens + new_tokens) * size
    inner = getattr(config, "intermediate_size", None) or 4 * hidden
    activations = prompt_tokens * (3 * inner + 6 * hidden) * size
    logits = config.vocab_size * (size + 4 + 3 * 8)  # model dtype, float32, integer noise
    return 2 * cache + activations + logits


def bytes_per_reading(model: PreTrainedModel, tokens: int, new_tokens: int) -> int:
    """Memory of one sequence of `tokens` whose last `new_tokens` are scored: activations, logits."""
    config: Any = model.config.get_text_config()
    size = model.dtype.itemsize
    inner = getattr(config, "intermediate_size", None) or 4 * config.hidden_size
    activations = tokens * (3 * inner + 6 * config.hidden_size) * size
    logits = (new_tokens + 1) * config.vocab_size * (size + 2 * 4)  # model dtype, float32 twice
    return activations + logits


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
