"""The bytes of a tensor: a quantised weight is stored as several plain tensors."""

from collections.abc import Iterator
from typing import Any


def stored_tensors(tensor: Any) -> Iterator[Any]:
    """The plain tensors that hold `tensor`: itself, or codes and scales of torchao or bitsandbytes."""
    if hasattr(tensor, "__tensor_flatten__"):  # torchao: a tensor that wraps others
        for name in tensor.__tensor_flatten__()[0]:
            yield from stored_tensors(getattr(tensor, name))
        return
    yield tensor
    if getattr(tensor, "quant_state", None) is not None:  # bitsandbytes, 4 bits
        state = tensor.quant_state.as_dict()
        yield from (state[name] for name in sorted(state) if hasattr(state[name], "element_size"))
