"""Reading one micro-batch: the log-probabilities of given completions, in one teacher-forced pass."""

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel

from evolign.engines.forward import logits


def token_logprobs(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    completions: Sequence[Sequence[int]],
    temperature: float,
) -> Tensor:
    """log pi(completion token | prompt, tokens before it), float32, shape (B, T), zero beyond the end.

    Prompts are padded on the left and completions on the right, so that all completions begin in one column.
    """
    device = model.device
    before, after = max(map(len, prompts)), max(map(len, completions))
    ids_BT = torch.zeros(len(prompts), before + after, dtype=torch.long)
    mask_BT = torch.zeros_like(ids_BT)
    for row, (prompt, completion) in enumerate(zip(prompts, completions, strict=True)):
        inside = slice(before - len(prompt), before + len(completion))
        ids_BT[row, inside] = torch.tensor([*prompt, *completion])
        mask_BT[row, inside] = 1
    ids_BT, mask_BT = ids_BT.to(device), mask_BT.to(device)
    position_BT = (mask_BT.cumsum(1) - 1).clamp(min=0)
    read_BTV = logits(model, ids_BT, mask_BT, position_BT, last=after + 1)[:, :-1].float() / temperature
    target_BT = ids_BT[:, before:]
    logprob_BT = read_BTV.log_softmax(-1).gather(2, target_BT[:, :, None])[:, :, 0]
    return logprob_BT * mask_BT[:, before:]


read = torch.inference_mode()(token_logprobs)
"""The same without gradients."""
