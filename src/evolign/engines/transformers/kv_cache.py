"""Keys and values of a micro-batch, written in place.

`DynamicCache` of transformers makes a new, longer copy of all keys and values at every token. Here a step
writes its own token into memory with room for some more, and only every `GROWTH` tokens a copy is made.
"""

from typing import Any

import torch
from torch import Tensor
from transformers import Cache, DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

GROWTH = 16
"""Tokens by which the cache grows: attention is slower around larger gaps (docs/performance.md)."""


def in_place_cache(config: Any) -> Cache:
    """A cache for a model with `config`.

    Layers of other kinds than plain and sliding attention stay as transformers makes them.
    """
    cache = DynamicCache(config=config)
    for number, layer in enumerate(cache.layers):
        if type(layer) in (DynamicLayer, DynamicSlidingWindowLayer):
            cache.layers[number] = _InPlaceLayer(getattr(layer, "sliding_window", None))
    return cache


def is_recurrent(cache: Cache) -> bool:
    """Whether a layer (linear attention, state spaces) has a state that advances by one token only."""
    return any(map(_has_state, cache.layers))


def select_rows(cache: Cache, row_B: Tensor) -> None:
    """Keep these rows, in this order and as often as they are named."""
    for layer in cache.layers:
        if _has_state(layer):
            layer.reorder_cache(row_B)
        else:
            layer.batch_select_indices(row_B)


def _has_state(layer: Any) -> bool:
    return hasattr(layer, "recurrent_states")


class _InPlaceLayer(DynamicLayer):
    """Keys and values of one layer, (B, heads, room, head size), of which the first `_filled` tokens count.

    `update` returns views of them; of a sliding window, what the new tokens see.
    """

    def __init__(self, window: int | None) -> None:
        super().__init__()
        self.is_sliding = window is not None
        self._window = window
        self._filled = 0

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        self.dtype, self.device = key_states.dtype, key_states.device
        self.keys, self.values = key_states[:, :, :0], value_states[:, :, :0]
        self.is_initialized = True

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Append states of shape (B, heads, T, head size); returns all that these T tokens may see."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        begin, length = self._visible(key_states.shape[2])
        old, self._filled = self._filled, begin + length
        if self._filled > self.keys.shape[2]:
            self.keys = _with_room(self.keys, old, self._filled + GROWTH)
            self.values = _with_room(self.values, old, self._filled + GROWTH)
        self.keys[:, :, old : self._filled] = key_states
        self.values[:, :, old : self._filled] = value_states
        return self.keys.narrow(2, begin, length), self.values.narrow(2, begin, length)

    def _visible(self, new: int) -> tuple[int, int]:
        """First visible position and number of visible ones, once `new` tokens are added."""
        begin = 0 if self._window is None else max(0, self._filled - self._window + 1)
        return begin, self._filled + new - begin

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Length and offset of what `update` will return."""
        begin, length = self._visible(query_length)
        return length, begin

    def get_seq_length(self) -> int:
        return self._filled

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        """Keep these rows only."""
        self.keys, self.values = self.keys[indices], self.values[indices]


def _with_room(states: Tensor, filled: int, tokens: int) -> Tensor:
    """Allocate memory for `tokens` tokens and copy the first `filled` of `states` into it."""
    rows, heads, _, size = states.shape
    larger = states.new_empty(rows, heads, tokens, size)
    larger[:, :, :filled] = states[:, :, :filled]
    return larger
