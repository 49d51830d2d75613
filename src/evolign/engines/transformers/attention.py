"""Attention of one new token per row on a CPU, as two batched matrix products.

PyTorch's flash attention works in blocks of queries, of which a decoding step has one: two batched products
are faster on short rows (docs/performance.md). Everything else goes to PyTorch's attention as before.
"""

from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

NAME = "evolign_decoding"


class DecodingAttention:
    """Replaces `sdpa` by `attend` in a float32 model on a CPU, until `remove`."""

    def __init__(self, model: PreTrainedModel) -> None:
        self._config: Any = model.config
        self.active = (
            self._config._attn_implementation == "sdpa"
            and getattr(model, "_supports_attention_backend", False)  # others ask for sdpa by its name
            and model.device.type == "cpu"
            and model.dtype == torch.float32
        )
        if self.active:
            AttentionInterface.register(NAME, attend)
            AttentionMaskInterface.register(NAME, sdpa_mask)
            self._config._attn_implementation = NAME

    def remove(self) -> None:
        if self.active:
            self._config._attn_implementation = "sdpa"


def attend(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """`query` (B, H, T, D) over `key` and `value` (B, heads of the cache, L, D); returns (B, T, H, D).

    `attention_mask` (B, 1, T, L) is true where a position may be seen; None is everywhere.
    """
    rows, heads, tokens, size = query.shape
    plain = attention_mask is None or (attention_mask.dtype == torch.bool and attention_mask.shape[1] == 1)
    if tokens > 1 or not plain or options.get("position_bias") is not None:
        result: tuple[Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, **options
        )
        return result
    kept = key.shape[1]
    scaled = (query * (size**-0.5 if scaling is None else scaling)).reshape(rows * kept, heads // kept, size)
    scores = torch.bmm(scaled, key.flatten(0, 1).transpose(1, 2))
    if attention_mask is not None:
        scores.view(rows, heads, -1).masked_fill_(~attention_mask[:, 0], -torch.inf)
    mixed = torch.bmm(scores.softmax(-1), value.flatten(0, 1))
    return mixed.view(rows, 1, heads, value.shape[-1]), None
