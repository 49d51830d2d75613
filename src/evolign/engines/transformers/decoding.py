"""Generating one micro-batch: prefill, then token by token; rows that have ended are dropped."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel

from evolign.engines.transformers.forward import left_pad, logits
from evolign.engines.transformers.kv_cache import in_place_cache, select_rows
from evolign.engines.transformers.noise import Noise

COMPACT_BELOW = 0.75
"""Rows are dropped when fewer than this share of them is still going."""


@torch.inference_mode()
def decode(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    prompt_B: Sequence[int],
    key_B: Tensor,
    select: Callable[[Tensor], None],
    *,
    eos_token_ids: Sequence[int],
    max_new_tokens: int,
    temperature: float,
    advance: Callable[[int, int], None] = lambda written, dropped: None,
) -> list[tuple[int, ...]]:
    """Completions as token ids, each up to and including its end-of-sequence token.

    Row b follows `prompts[prompt_B[b]]`: a prompt is read once for all its rows. `key_B` int64 names the
    rows' sampling noise. `select(prompt_R)` tells the adapter to which prompts the rows of the next forward
    pass belong. `advance(written, dropped)` hears at every step how many tokens were written, and how many
    are not needed because rows have ended.
    """
    device, rows = model.device, len(prompt_B)
    ids_BT, mask_BT, position_BT = left_pad(prompts, max_new_tokens, device)
    length = ids_BT.shape[1]
    past = in_place_cache(model.config)
    eos_E = torch.tensor(eos_token_ids, device=device)
    row_B, of_prompt_B = torch.arange(rows, device=device), torch.tensor(prompt_B, device=device)
    tokens_BT = torch.empty(rows, max_new_tokens, dtype=torch.long, device=device)
    going_B = torch.ones(rows, dtype=torch.bool, device=device)
    noise, num_going = Noise(key_B.to(device), temperature), rows
    select(torch.arange(len(prompts), device=device))
    for step in range(max_new_tokens):
        seen_BT = None if mask_BT is None else mask_BT[:, : length + step]
        logits_BV = logits(model, ids_BT, seen_BT, position_BT, last=1, past=past)[:, 0]
        if step == 0 and len(prompts) < rows:
            select_rows(past, of_prompt_B)
            logits_BV, position_BT = logits_BV[of_prompt_B], position_BT[of_prompt_B]
            mask_BT = None if mask_BT is None else mask_BT[of_prompt_B]
            select(of_prompt_B)
        token_B = noise.choose(logits_BV, step)
        tokens_BT[row_B, step] = token_B
        going_B = going_B & (token_B[:, None] != eos_E).all(1)
        before, num_going = num_going, int(going_B.sum())
        advance(before, (before - num_going) * (max_new_tokens - step - 1))
        if num_going == 0:
            break
        position_BT = position_BT[:, -1:] + 1
        if num_going < COMPACT_BELOW * len(going_B):
            kept = going_B.nonzero()[:, 0]
            select_rows(past, kept)
            noise = noise.of_rows(kept)
            row_B, token_B, going_B, position_BT = (
                row_B[kept],
                token_B[kept],
                going_B[kept],
                position_BT[kept],
            )
            mask_BT = None if mask_BT is None else mask_BT[kept]
            select(of_prompt_B[row_B])
        ids_BT = token_B[:, None]
    return _until_end(tokens_BT.tolist(), eos_token_ids)


def _until_end(rows: list[list[int]], eos_token_ids: Sequence[int]) -> list[tuple[int, ...]]:
    """Cut every row after its first end-of-sequence token."""
    ends = set(eos_token_ids)
    found = []
    for row in rows:
        last = next((i for i, token in enumerate(row) if token in ends), len(row) - 1)
        found.append(tuple(row[: last + 1]))
    return found
