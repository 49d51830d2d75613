"""Putting a policy together: base model, warm-started adapter, search space."""

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from pkgutil import resolve_name

from evolign.config import AdapterConfig, EvolutionConfig
from evolign.policy.adapter import Adapter, read_adapter
from evolign.policy.base_model import BaseModel
from evolign.policy.spaces import SPACES
from evolign.policy.spaces.base import SearchSpace
from evolign.policy.spaces.fixed import NO_ADAPTER, Fixed
from evolign.policy.warm_start import warm_start
from evolign.types import Example


@dataclass(frozen=True)
class Policy:
    """A base model, the adapter that the search starts from, and the space of adapters around it."""

    base: BaseModel
    adapter: Adapter
    space: SearchSpace


def fixed_policy(base: BaseModel, folder: str | Path | None = None) -> Policy:
    """`base` with the adapter in `folder`, or without any: nothing to search, for evaluation and sampling."""
    adapter = NO_ADAPTER if folder is None else read_adapter(base.model, folder)
    return Policy(base, adapter, Fixed(adapter))


def load_policy(config: EvolutionConfig, base: BaseModel, rows: Sequence[Example], folder: Path) -> Policy:
    """The policy of a run; the adapter that it starts from lies in `folder` afterwards.

    An adapter already in `folder` is read, not trained again: so a resumed run starts from the same one.
    `rows` are the task's solved rows.
    """
    starting_adapter(config.adapter, config.seed, base, rows, folder)
    adapter = read_adapter(base.model, folder)
    space = resolve_name(SPACES[config.space.name])
    options = config.space.model_dump(exclude={"name"})
    return Policy(base, adapter, space(adapter, **options, seed=config.seed))


def starting_adapter(
    config: AdapterConfig, seed: int, base: BaseModel, rows: Sequence[Example], folder: Path
) -> None:
    """Train or copy the starting adapter, where `folder` does not hold it yet: all of it or nothing."""
    if folder.is_dir():
        return
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    if config.path is None:
        warm_start(base, config, rows, seed, partial)
    else:
        read_adapter(base.model, config.path).write(partial)
    os.replace(partial, folder)
