"""The number of CPU threads of a model, so that users need not set OMP_NUM_THREADS."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch
from torch import nn

SMALL_MODEL = 50_000_000
"""Below this many parameters more than one thread makes a model slower (4 to 18 times on a busy machine)."""


@contextmanager
def cpu_threads(model: nn.Module, threads: int | Literal["auto"]) -> Iterator[None]:
    """Run the block with `threads` CPU threads; auto: one for a small model, else all cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(default_threads(model) if threads == "auto" else threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def default_threads(model: nn.Module) -> int:
    """One thread for a small model, else the cores that this process may use."""
    if sum(parameter.numel() for parameter in model.parameters()) < SMALL_MODEL:
        return 1
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
