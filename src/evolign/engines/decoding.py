"""Generating one micro-batch: prefill, then token by token; rows that have ended are dropped."""

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from evolign.engines.noise import choose

COMPACT_BELOW = 0.75
"""Rows are dropped when fewer than this share of them is still going."""


@torch.inference_mode()
def decode(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    key_B: Tensor,
    select: Callable[[Tensor], None],
    *,
    eos_token_ids: Sequence[int],
    max_new_tokens: int,
    temperature: float,
) -> list[tuple[int, ...]]:
    """Completions of `prompts` as token ids, each up to and including its end-of-sequence token.

    `key_B` int64 names the rows' sampling noise. `select(row_B)` tells the adapter which rows of the
    micro-batch the next forward pass holds.
    """
    device = model.device
    ids_BT, mask_BT = _left_pad(prompts, max_new_tokens, device)
    length = ids_BT.shape[1]
    forward = _forward(model)
    cache = DynamicCache(config=model.config)
    eos = torch.tensor(eos_token_ids, device=device)
    row_B = torch.arange(len(prompts), device=device)
    tokens_BT = torch.empty(len(prompts), max_new_tokens, dtype=torch.long, device=device)
    num_tokens_B = torch.full((len(prompts),), max_new_tokens, device=device)
    going_B = torch.ones(len(prompts), dtype=torch.bool, device=device)
    position_BT = (mask_BT[:, :length].cumsum(1) - 1).clamp(min=0)
    key_B = key_B.to(device)

    select(row_B)
    for step in range(max_new_tokens):
        logits_BV = forward(ids_BT, mask_BT[:, : length + step], position_BT, cache)
        token_B = choose(logits_BV, temperature, key_B, step)
        tokens_BT[row_B, step] = token_B
        ended_B = going_B & torch.isin(token_B, eos)
        num_tokens_B[row_B[ended_B]] = step + 1
        going_B = going_B & ~ended_B
        num_going = int(going_B.sum())
        if num_going == 0:
            break
        position_BT = position_BT[:, -1:] + 1
        if num_going < COMPACT_BELOW * len(going_B):
            kept = going_B.nonzero()[:, 0]
            cache.batch_select_indices(kept)
            row_B, key_B, token_B = row_B[kept], key_B[kept], token_B[kept]
            mask_BT, position_BT, going_B = mask_BT[kept], position_BT[kept], going_B[kept]
            select(row_B)
        ids_BT = token_B[:, None]
    return [tuple(row[:count]) for row, count in zip(tokens_BT.tolist(), num_tokens_B.tolist(), strict=True)]


def _left_pad(
    prompts: Sequence[Sequence[int]], max_new_tokens: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Token ids (B, T), padded on the left, and the mask of the whole run, (B, T + max_new_tokens)."""
    length = max(map(len, prompts))
    ids_BT = torch.zeros(len(prompts), length, dtype=torch.long)
    mask_BT = torch.ones(len(prompts), length + max_new_tokens, dtype=torch.long)
    for row, prompt in enumerate(prompts):
        ids_BT[row, length - len(prompt) :] = torch.tensor(prompt)
        mask_BT[row, : length - len(prompt)] = 0
    return ids_BT.to(device), mask_BT.to(device)


def _forward(model: PreTrainedModel) -> Callable[[Tensor, Tensor, Tensor, Any], Tensor]:
    """The model as a function to the logits of the last position, (B, V)."""
    accepted = inspect.signature(model.forward).parameters
    extra = {"logits_to_keep": 1} if "logits_to_keep" in accepted else {}
    takes_positions = "position_ids" in accepted

    def forward(ids_BT: Tensor, mask_BT: Tensor, position_BT: Tensor, cache: Any) -> Tensor:
        positions = {"position_ids": position_BT} if takes_positions else {}
        output = model(
            input_ids=ids_BT,
            attention_mask=mask_BT,
            past_key_values=cache,
            use_cache=True,
            **positions,
            **extra,
        )
        return output.logits[:, -1]

    return forward
