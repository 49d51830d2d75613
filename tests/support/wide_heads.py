"""The embedded arithmetic model with attention heads of 32 in place of 24: vLLM's CPU kernels know no 24.

The wider heads hold zeros, so that the function is the same up to rounding. What depends on a head's width is
undone: the scale of its scores in the query, and the frequencies of its rotations in their base.
"""

from pathlib import Path

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from evolign import embedded

WIDTH = 32


def save_wide(folder: Path) -> Path:
    """Write the model into `folder`."""
    narrow = AutoModelForCausalLM.from_pretrained(embedded.path("arithmetic"))
    config = narrow.config
    old, heads = config.head_dim, config.num_attention_heads
    weights = narrow.state_dict()
    for name, tensor in weights.items():
        if name.endswith(("q_proj.weight", "k_proj.weight", "v_proj.weight")):
            wide = _wider(tensor, heads, old)
            weights[name] = wide * (WIDTH / old) ** 0.5 if "q_proj" in name else wide
        if name.endswith("o_proj.weight"):
            weights[name] = _wider(tensor.T, heads, old).T.contiguous()
    config.head_dim = WIDTH
    config.rope_parameters["rope_theta"] **= WIDTH / old
    wide = type(narrow)(config)
    wide.load_state_dict(weights)
    wide.generation_config = narrow.generation_config
    wide.save_pretrained(folder)
    AutoTokenizer.from_pretrained(embedded.path("arithmetic")).save_pretrained(folder)
    return folder


def _wider(weight: Tensor, heads: int, old: int) -> Tensor:
    """Rows of heads, whose two halves rotate together, with zeros at the end of each half."""
    halves = weight.reshape(heads, 2, old // 2, -1)
    zeros = torch.zeros(heads, 2, (WIDTH - old) // 2, halves.shape[-1])
    return torch.cat([halves, zeros], dim=2).reshape(heads * WIDTH, -1)
