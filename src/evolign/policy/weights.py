"""Whether a model has the weights that it was made with: all of them, no others, and all of them numbers."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn

from evolign.errors import ConfigError
from evolign.policy.bytes import stored_tensors

SHOWN = 3
"""Names that a message lists."""


def check_keys(report: Mapping[str, Any], what: str) -> None:
    """Raise ConfigError for weights that are missing, have no place or another shape.

    transformers goes on with random weights in their place, or without them. `report` is what
    `from_pretrained` gives as `output_loading_info`, `what` names the model in the message.
    """
    sizes = [
        f"{name} of {_size(found)} for {_size(wanted)}" for name, found, wanted in report["mismatched_keys"]
    ]
    for names, problem in (
        (report["missing_keys"], "has no weights in its files for"),
        (sizes, "has weights of another size in its files:"),
        (report["unexpected_keys"], "has weights in its files that it would not use:"),
    ):
        if names:
            raise ConfigError(
                f"{what} {problem} {_some(names)}; is config.json that of these files (its architecture, "
                "number of layers and sizes)? Restore the folder, or write it anew by `save_pretrained` of "
                "the model that is meant"
            )


def check_finite(model: nn.Module, what: str) -> None:
    """Raise ConfigError where a weight is NaN or infinite. Weights on the meta device have no values."""
    broken = [
        name for name, weight in model.named_parameters() if not all(map(_finite, stored_tensors(weight)))
    ]
    if broken:
        raise ConfigError(
            f"{what} has weights that are NaN or infinite: {_some(broken)}; restore its files, or give "
            "another dtype if they overflow in this one"
        )


def _finite(tensor: Any) -> bool:
    if tensor.is_meta or not tensor.is_floating_point():
        return True
    if bool(tensor.detach().sum(dtype=torch.float32).isfinite()):  # one pass, and no copy
        return True
    return bool(tensor.detach().float().isfinite().all())


def _some(names: Iterable[str]) -> str:
    names = sorted(names)
    rest = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return f"{', '.join(names[:SHOWN])}{rest}"


def _size(shape: Iterable[int]) -> str:
    return "x".join(map(str, shape))
