"""The only place where seeds are made: every random stream is named by what it is for.

A stream depends only on the run's seed and its labels, so nothing has to be saved to resume a run,
and no stream depends on how many numbers another one has used.
"""

import contextlib
import hashlib
import random
from collections.abc import Iterator

import numpy as np


def key(seed: int, *labels: object) -> int:
    """A 63-bit integer that names the stream `labels` of the run `seed`."""
    text = "\x1f".join(map(str, (seed, *labels)))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest()) >> 1


def stream(seed: int, *labels: object) -> np.random.Generator:
    """The random generator of the stream `labels` of the run `seed`."""
    return np.random.default_rng(key(seed, *labels))


@contextlib.contextmanager
def random_states_kept() -> Iterator[None]:
    """Leave Python's, numpy's and torch's global random states as they are: trainers seed all of them."""
    import torch

    python, numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng():
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)
