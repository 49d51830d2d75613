"""Calling a model of transformers for its logits, whatever its `forward` accepts."""

import inspect
from collections.abc import Callable
from functools import cache
from typing import Any

from torch import Tensor
from transformers import Cache, PreTrainedModel


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
    accepted = _accepted(type(model).forward)
    extra: dict[str, Any] = {"logits_to_keep": last} if "logits_to_keep" in accepted else {}
    if "position_ids" in accepted:
        extra["position_ids"] = position_BT
    output = model(
        input_ids=ids_BT, attention_mask=mask_BT, past_key_values=past, use_cache=past is not None, **extra
    )
    return output.logits[:, -last:]


@cache
def _accepted(function: Callable[..., Any]) -> frozenset[str]:
    return frozenset(inspect.signature(function).parameters)
