"""Keys and values of a micro-batch, written in place.

`DynamicCache` of transformers makes a new, longer copy of all keys and values at every token. Here a step
writes its own token into memory that was taken once, and one micro-batch after another is served by the same:
a tenth more tokens/s for 64 new tokens of a 33M model, more for longer ones (docs/performance.md).
"""

from typing import Any

import torch
from torch import Tensor
from transformers import Cache, DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer


class KeyValueStore:
    """Memory for the keys and values of all layers, kept from one micro-batch to the next."""

    def __init__(self) -> None:
        self._flat: dict[tuple[int, str], Tensor] = {}

    def tensor(self, layer: int, what: str, shape: tuple[int, ...], like: Tensor) -> Tensor:
        """Uninitialised memory of `shape`, in the dtype and on the device of `like`."""
        size = torch.Size(shape).numel()
        flat = self._flat.get((layer, what))
        if flat is None or len(flat) < size or flat.dtype != like.dtype or flat.device != like.device:
            self._flat.pop((layer, what), None)
            flat = None  # given back before more is taken
            flat = self._flat[layer, what] = like.new_empty(size)
        return flat[:size].view(shape)


def in_place_cache(config: Any, capacity: int, store: KeyValueStore) -> Cache:
    """A cache for up to `capacity` tokens of a model with `config`.

    Layers of other kinds than plain and sliding attention stay as transformers makes them.
    """
    cache = DynamicCache(config=config)
    for number, layer in enumerate(cache.layers):
        window = getattr(layer, "sliding_window", None)
        if type(layer) in (DynamicLayer, DynamicSlidingWindowLayer):
            cache.layers[number] = _InPlaceLayer(number, capacity, window, store)
    return cache


class _InPlaceLayer(DynamicLayer):
    """Keys and values of one layer, (B, heads, capacity, head size).

    On a CPU the positions of one entry of a head lie side by side, so that they are read without gaps
    (`attention.py`). `update` returns views of what is filled; of a sliding window, what the new tokens see.
    """

    def __init__(self, number: int, capacity: int, window: int | None, store: KeyValueStore) -> None:
        super().__init__()
        self.is_sliding = window is not None
        self._number, self._capacity, self._window, self._store = number, capacity, window, store
        self._filled = 0

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        self.dtype, self.device = key_states.dtype, key_states.device
        self.keys = self._memory("keys", key_states)
        self.values = self._memory("values", value_states)
        self.is_initialized = True

    def _memory(self, what: str, states: Tensor) -> Tensor:
        rows, heads, _, size = states.shape
        if states.device.type == "cpu":
            shape = (rows, heads, size, self._capacity)
            return self._store.tensor(self._number, what, shape, states).transpose(2, 3)
        return self._store.tensor(self._number, what, (rows, heads, self._capacity, size), states)

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Append states of shape (B, heads, T, head size); returns all that these T tokens may see."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        begin, length = self._visible(key_states.shape[2])
        old, self._filled = self._filled, begin + length
        self.keys[:, :, old : self._filled] = key_states
        self.values[:, :, old : self._filled] = value_states
        if old == 0:
            return key_states, value_states
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

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep these rows, given in ascending order, and move them to the front of the memory."""
        count = len(indices)
        for memory in (self.keys, self.values):
            filled = memory[:, :, : self._filled]
            filled[:count] = filled[indices]
        self.keys, self.values = self.keys[:count], self.values[:count]
