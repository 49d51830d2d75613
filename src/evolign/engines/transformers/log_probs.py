"""Reading one micro-batch: the log-probabilities of given completions, teacher-forced."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel

from evolign.engines.transformers.forward import left_pad, logits
from evolign.engines.transformers.kv_cache import in_place_cache, is_recurrent, select_rows


@torch.inference_mode()
def read(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    completions: Sequence[Sequence[int]],
    prompt_B: Sequence[int],
    select: Callable[[Tensor], None],
    temperature: float,
) -> Tensor:
    """log pi(token | prompt, tokens before it) of `completions[b]` after `prompts[prompt_B[b]]`.

    float32, (B, T), zero beyond the end. A prompt is read once for all completions that follow it, if the
    model can continue from its cache by several tokens. `select(prompt_R)` tells the adapter to which
    prompts the rows of the next forward pass belong.
    """
    past = in_place_cache(model.config)
    row_B = torch.tensor(prompt_B, device=model.device)
    if is_recurrent(past):
        select(row_B)
        return token_logprobs(model, [prompts[p] for p in prompt_B], completions, temperature)
    target_BT, inside_BT = _right_pad(completions, model.device)
    length = target_BT.shape[1]
    ids_PT, mask_PT, position_PT = left_pad(prompts, length, model.device)
    select(torch.arange(len(prompts), device=model.device))
    seen_PT = None if mask_PT is None else mask_PT[:, : ids_PT.shape[1]]
    first_P1V = logits(model, ids_PT, seen_PT, position_PT, last=1, past=past)

    read_BTV = first_P1V[row_B]
    if length > 1:
        select_rows(past, row_B)
        select(row_B)
        seen_BT = None if mask_PT is None else mask_PT[row_B, :-1]
        position_BT = position_PT[row_B, -1:] + torch.arange(1, length, device=model.device)
        rest_BTV = logits(model, target_BT[:, :-1], seen_BT, position_BT, last=length - 1, past=past)
        read_BTV = torch.cat([read_BTV, rest_BTV], 1)
    return _of_targets(read_BTV, target_BT, inside_BT, temperature)


def token_logprobs(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    completions: Sequence[Sequence[int]],
    temperature: float,
) -> Tensor:
    """Like `read`, for one completion per prompt, in one pass and with gradients.

    Prompts are padded on the left and completions on the right, so that all completions begin in one column.
    """
    target_BT, inside_BT = _right_pad(completions, model.device)
    length = target_BT.shape[1]
    prompt_BT, mask_BT, position_BT = left_pad(prompts, length, model.device)
    after_T = torch.arange(1, length + 1, device=model.device)
    position_BT = torch.cat([position_BT, position_BT[:, -1:] + after_T], 1)
    read_BTV = logits(model, torch.cat([prompt_BT, target_BT], 1), mask_BT, position_BT, last=length + 1)
    return _of_targets(read_BTV[:, :-1], target_BT, inside_BT, temperature)


def _right_pad(completions: Sequence[Sequence[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    """Token ids (B, T), padded on the right, and which of them are tokens of a completion."""
    length_B = torch.tensor([len(ids) for ids in completions])
    longest = int(length_B.max())
    ids_BT = torch.tensor([[*ids, *[0] * (longest - len(ids))] for ids in completions])
    return ids_BT.to(device), (torch.arange(longest) < length_B[:, None]).to(device)


def _of_targets(read_BTV: Tensor, target_BT: Tensor, inside_BT: Tensor, temperature: float) -> Tensor:
    """log softmax(logits / temperature) of the targets, zero outside."""
    logprob_BTV = (read_BTV.float() / temperature).log_softmax(-1)
    return logprob_BTV.gather(2, target_BT[:, :, None])[:, :, 0] * inside_BT
