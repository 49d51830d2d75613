"""A model's head apart from its decoder: the logits of chosen positions only, some at a time.

The logits of all positions of a micro-batch are its largest tensor by far: 96 readings of 40 tokens with a
vocabulary of 152k are 2.3 GB in float32, before softmax. What the decoder returns is a hundredth of that.
"""

from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from transformers import PreTrainedModel

LOGITS_AT_ONCE = 2**24
"""Logits of a micro-batch that are held at a time: 64 MB in float32, and as much again for the softmax."""

_apart: "WeakKeyDictionary[PreTrainedModel, bool]" = WeakKeyDictionary()


def vocabulary(model: PreTrainedModel) -> int:
    """The number of logits of a position."""
    size: int = model.config.get_text_config().vocab_size
    return size


def head(model: PreTrainedModel, hidden_BTH: Tensor) -> Tensor:
    """Logits, (B, T, V), of what the decoder has returned at some positions.

    The model's own `forward` computes them, with this in the place of its decoder's output: so a scale, a
    multiplier or a soft cap before or behind the matrix is applied, whatever the architecture calls it.
    """
    decoder = model.get_decoder()
    output = _Output(hidden_BTH)
    before = vars(decoder).get("forward")
    decoder.forward = lambda *args, **kwargs: output
    try:
        ids_BT = torch.zeros(hidden_BTH.shape[:2], dtype=torch.long, device=hidden_BTH.device)
        result: Tensor = model(input_ids=ids_BT, use_cache=False).logits
        return result
    finally:
        if before is None:
            del decoder.forward
        else:
            decoder.forward = before


class _Output:
    """What a decoder returns: hidden states, and None for whatever else is asked of it."""

    def __init__(self, hidden_BTH: Tensor) -> None:
        self.last_hidden_state = hidden_BTH

    def __getitem__(self, number: int) -> Tensor:
        return (self.last_hidden_state,)[number]

    def __getattr__(self, name: str) -> None:
        return None


def is_apart(model: PreTrainedModel) -> bool:
    """Whether `head` of the decoder's output is what `model` computes. It is tried once, on one token."""
    if model not in _apart:
        _apart[model] = _agrees(model)
    return _apart[model]


def _agrees(model: PreTrainedModel) -> bool:
    decoder = model.get_decoder()
    if decoder is model:
        return False
    ids_BT = torch.ones((1, 1), dtype=torch.long, device=model.device)
    expected: Tensor = model(input_ids=ids_BT, use_cache=False).logits
    hidden = getattr(decoder(input_ids=ids_BT, use_cache=False), "last_hidden_state", None)
    if hidden is None:
        return False
    found = head(model, hidden)
    return found.shape == expected.shape and torch.allclose(found, expected, rtol=1e-3, atol=1e-3)
