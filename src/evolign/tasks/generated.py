"""Drawing for generated tasks: options by a generator, splits by a hash."""

import zlib
from collections.abc import Sequence
from typing import TypeVar

import numpy as np

T = TypeVar("T")
TRAIN_PERCENT, VALIDATION_PERCENT = 70, 15  # of all keys; the rest is the test split


def pick(rng: np.random.Generator, options: Sequence[T]) -> T:
    """One of the options."""
    return options[int(rng.integers(len(options)))]


def split_of(key: str) -> str:
    """The split that everything with this key belongs to, whatever the seed."""
    percentile = zlib.crc32(key.encode()) % 100
    if percentile < TRAIN_PERCENT:
        return "train"
    return "validation" if percentile < TRAIN_PERCENT + VALIDATION_PERCENT else "test"
