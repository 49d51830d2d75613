"""Reading one micro-batch: the log-probabilities of given completions, teacher-forced."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel

from evolign.engines.transformers.forward import hidden_states, left_pad, logits
from evolign.engines.transformers.head import LOGITS_AT_ONCE, head, is_apart, vocabulary
from evolign.engines.transformers.kv_cache import in_place_cache, is_recurrent, select_rows

Select = Callable[[Tensor], None]


@torch.inference_mode()
def read(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    completions: Sequence[Sequence[int]],
    prompt_B: Sequence[int],
    select: Select,
    temperature: float,
) -> Tensor:
    """log pi(token | prompt, tokens before it) of `completions[b]` after `prompts[prompt_B[b]]`.

    float32, (B, T), zero beyond the end. A prompt is read once for all completions that follow it, if the
    model can continue from its cache by several tokens. `select(prompt_R)` tells the adapter to which
    prompts the rows of the next forward pass belong.
    """
    row_B = torch.tensor(prompt_B, device=model.device)

    def select_rows_of(b_R: Tensor) -> None:
        select(row_B[b_R])

    if is_recurrent(in_place_cache(model.config)):
        return token_logprobs(model, [prompts[p] for p in prompt_B], completions, temperature, select_rows_of)
    labels = _Labels(model, completions, temperature, select_rows_of)
    return labels.logprobs(_continued(labels, prompts, row_B, select))


def token_logprobs(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    completions: Sequence[Sequence[int]],
    temperature: float,
    select: Select = lambda row_R: None,
) -> Tensor:
    """Like `read`, for one completion per prompt, in one pass and with gradients.

    Prompts are padded on the left and completions on the right, so that all completions begin in one column.
    """
    labels = _Labels(model, completions, temperature, select)
    length = labels.length
    prompt_BT, mask_BT, position_BT = left_pad(prompts, length, model.device)
    after_T = torch.arange(1, length + 1, device=model.device)
    position_BT = torch.cat([position_BT, position_BT[:, -1:] + after_T], 1)
    ids_BT = torch.cat([prompt_BT, labels.target_BT], 1)
    select(torch.arange(len(prompts), device=model.device))
    return labels.logprobs(labels.run(model, ids_BT, mask_BT, position_BT, last=length + 1)[:, :-1])


def _continued(labels: "_Labels", prompts: Sequence[Sequence[int]], row_B: Tensor, select: Select) -> Tensor:
    """What predicts every label, (B, T, X): prompts are read first, then the labels from their cache."""
    model, target_BT, length = labels.model, labels.target_BT, labels.length
    past = in_place_cache(model.config)
    ids_PT, mask_PT, position_PT = left_pad(prompts, length, model.device)
    select(torch.arange(len(prompts), device=model.device))
    seen_PT = None if mask_PT is None else mask_PT[:, : ids_PT.shape[1]]
    first_P1X = labels.run(model, ids_PT, seen_PT, position_PT, last=1, past=past)
    read_BTX = first_P1X[row_B]
    if length == 1:
        return read_BTX
    select_rows(past, row_B)
    select(row_B)
    seen_BT = None if mask_PT is None else mask_PT[row_B, :-1]
    position_BT = position_PT[row_B, -1:] + torch.arange(1, length, device=model.device)
    rest_BTX = labels.run(model, target_BT[:, :-1], seen_BT, position_BT, last=length - 1, past=past)
    return torch.cat([read_BTX, rest_BTX], 1)


class _Labels:
    """The tokens whose log-probabilities are wanted, and how they follow from a forward pass.

    `run` is the forward pass: it returns logits, or, where all of them are too many to hold, hidden states,
    whose logits are then computed at the labels alone, `LOGITS_AT_ONCE` at a time. Gradients need them all.
    `select(row_R)` tells the adapter which rows of the micro-batch the next forward pass holds.
    """

    def __init__(
        self, model: PreTrainedModel, completions: Sequence[Sequence[int]], temperature: float, select: Select
    ) -> None:
        self.model, self._temperature, self._select = model, temperature, select
        self.target_BT, self._inside_BT = _right_pad(completions, model.device)
        self.length = self.target_BT.shape[1]
        many = self.target_BT.numel() * vocabulary(model) > LOGITS_AT_ONCE
        self._in_parts = many and not torch.is_grad_enabled() and self._head_is_apart()
        self.run = hidden_states if self._in_parts else logits

    def logprobs(self, read_BTX: Tensor) -> Tensor:
        """Of the labels, (B, T), from what `run` has returned for them; zero outside."""
        if not self._in_parts:
            return _of_targets(read_BTX, self.target_BT, self._temperature) * self._inside_BT
        result_BT = torch.zeros(self.target_BT.shape, device=read_BTX.device)
        row_L, column_L = self._inside_BT.nonzero(as_tuple=True)
        size = max(1, LOGITS_AT_ONCE // vocabulary(self.model))
        for row_C, column_C in zip(row_L.split(size), column_L.split(size), strict=True):
            self._select(row_C)
            logits_C1V = head(self.model, read_BTX[row_C, column_C][:, None])
            target_C1 = self.target_BT[row_C, column_C][:, None]
            result_BT[row_C, column_C] = _of_targets(logits_C1V, target_C1, self._temperature)[:, 0]
        return result_BT

    def _head_is_apart(self) -> bool:
        self._select(torch.zeros(1, dtype=torch.long, device=self.model.device))
        return is_apart(self.model)


def _right_pad(completions: Sequence[Sequence[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    """Token ids (B, T), padded on the right, and which of them are tokens of a completion."""
    length_B = torch.tensor([len(ids) for ids in completions])
    longest = int(length_B.max())
    ids_BT = torch.tensor([[*ids, *[0] * (longest - len(ids))] for ids in completions])
    return ids_BT.to(device), (torch.arange(longest) < length_B[:, None]).to(device)


def _of_targets(logits_BTV: Tensor, target_BT: Tensor, temperature: float) -> Tensor:
    """log softmax(logits / temperature) of the targets."""
    logprob_BTV = (logits_BTV.float() / temperature).log_softmax(-1)
    return logprob_BTV.gather(2, target_BT[:, :, None])[:, :, 0]
