"""Calling a model of transformers, or its decoder alone, with padding and the arguments that it accepts."""

import inspect
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor
from transformers import Cache, PreTrainedModel

from evolign.errors import ConfigError


def logits(
    model: PreTrainedModel,
    ids_BT: Tensor,
    mask_BT: Tensor | None,
    position_BT: Tensor,
    *,
    last: int,
    past: Cache | None = None,
) -> Tensor:
    """Logits of the last `last` positions, (B, last, V).

    `mask_BT` covers what is in `past` as well; None is no padding anywhere.
    """
    extra = {"logits_to_keep": last} if "logits_to_keep" in _accepted(type(model).forward) else {}
    result: Tensor = _call(model, ids_BT, mask_BT, position_BT, past, **extra).logits[:, -last:]
    return result


def hidden_states(
    model: PreTrainedModel,
    ids_BT: Tensor,
    mask_BT: Tensor | None,
    position_BT: Tensor,
    *,
    last: int,
    past: Cache | None = None,
) -> Tensor:
    """What the decoder of `model` returns at the last `last` positions, (B, last, H); see `head`."""
    output = _call(model.get_decoder(), ids_BT, mask_BT, position_BT, past)
    result: Tensor = output.last_hidden_state[:, -last:]
    return result


def _call(
    module: Any, ids_BT: Tensor, mask_BT: Tensor | None, position_BT: Tensor, past: Cache | None, **extra: Any
) -> Any:
    if "position_ids" in _accepted(type(module).forward):
        extra["position_ids"] = position_BT
    return module(
        input_ids=ids_BT, attention_mask=mask_BT, past_key_values=past, use_cache=past is not None, **extra
    )


def left_pad(
    prompts: Sequence[Sequence[int]], new_tokens: int, device: torch.device
) -> tuple[Tensor, Tensor | None, Tensor]:
    """Token ids (B, T), padded on the left; the mask with room for what follows, (B, T + new_tokens), or None
    where nothing is padded; positions (B, T).
    """
    length = max(map(len, prompts))
    pads = torch.tensor([length - len(prompt) for prompt in prompts])
    ids_BT = torch.tensor([[0] * (length - len(prompt)) + list(prompt) for prompt in prompts])
    position_BT = torch.arange(length) - pads[:, None]
    mask_BT = (torch.arange(length + new_tokens) >= pads[:, None]).long().to(device) if pads.any() else None
    return ids_BT.to(device), mask_BT, position_BT.clamp(min=0).to(device)


def check_cached(model: PreTrainedModel) -> None:
    """Raise ConfigError for a model whose `forward` knows no `past_key_values`, such as Mamba's."""
    if "past_key_values" not in _accepted(type(model).forward):
        raise ConfigError(
            f"model.name: {type(model).__name__} does not continue from `past_key_values`, so the engine "
            "cannot "
            "generate with it; use a model of attention, or of attention and recurrent layers"
        )


@cache
def _accepted(function: Callable[..., Any]) -> frozenset[str]:
    return frozenset(inspect.signature(function).parameters)
