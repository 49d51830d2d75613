"""Putting a policy together: base model, warm-started adapter, search space."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

from evolign import disk
from evolign.config import (
    AdapterConfig,
    Config,
    EvolutionConfig,
    GradientConfig,
    ModelConfig,
    SpaceConfig,
)
from evolign.policy.adapter import Adapter, layers_of, new_adapter, read_adapter
from evolign.policy.base_model import BaseModel, load_base_model
from evolign.policy.restoring import given_back
from evolign.policy.search_memory import Layer
from evolign.policy.spaces import SPACES
from evolign.policy.spaces.base import SearchSpace
from evolign.policy.spaces.fixed import NO_ADAPTER, Fixed
from evolign.policy.targets import check_trainable
from evolign.policy.threads import cpu_threads
from evolign.policy.warm_start import warm_start
from evolign.runs.access import writing
from evolign.runs.progress import Progress
from evolign.types import Example


@dataclass(frozen=True)
class PolicySpec:
    """All that it takes to build a policy in any process: small, plain data that can be pickled."""

    model: ModelConfig
    adapter: str | None
    """Folder of the starting adapter, in PEFT's format; None: the model alone."""
    space: SpaceConfig | None
    """None: nothing is searched."""
    seed: int = 0

    def build(self, base: BaseModel | None = None) -> "Policy":
        """The policy. `base` stands in for loading `model`. Raises ConfigError where something is missing."""
        base = base or load_base_model(self.model)
        adapter = NO_ADAPTER if self.adapter is None else read_adapter(base.model, self.adapter)
        if self.space is None:
            return Policy(base, adapter, Fixed(adapter), self)
        space = resolve_name(SPACES[self.space.name])
        options = self.space.model_dump(exclude={"name"})
        return Policy(base, adapter, space(adapter, **options, seed=self.seed), self)


@dataclass(frozen=True)
class Policy:
    """A base model, the adapter that the search starts from, and the space of adapters around it."""

    base: BaseModel
    adapter: Adapter
    space: SearchSpace
    spec: PolicySpec | None = None
    """How another process builds the same policy; None: it is of objects of this process."""


def fixed_policy(base: BaseModel, folder: str | Path | None = None) -> Policy:
    """`base` with the adapter in `folder`, or without any: nothing to search, for evaluation and sampling."""
    path = None if folder is None else str(folder)
    model = base.loaded_from or ModelConfig(name=base.name)
    return PolicySpec(model, path, None).build(base)


def load_policy(
    config: EvolutionConfig,
    base: BaseModel,
    rows: Sequence[Example],
    folder: Path,
    progress: Progress | None = None,
) -> Policy:
    """The policy of a run; the adapter that it starts from lies in `folder` afterwards.

    An adapter already in `folder` is read, not trained again: so a resumed run starts from the same one.
    `rows` are the task's solved rows, and `progress` shows the steps of a warm start.
    """
    starting_adapter(config, config.adapter, base, rows, folder, progress)
    model = base.loaded_from or config.model
    return PolicySpec(model, str(folder), config.space, config.seed).build(base)


def adapted_layers(config: Config, model: Any) -> dict[str, Layer]:
    """The layers of `model`, which is left as it was, that the adapter of a run is on.

    Raises ConfigError where it does not fit them.
    """
    adapter = config.adapter
    if adapter is None:
        return {}
    if adapter.path is not None:
        modules = read_adapter(model, adapter.path).modules
        layers = {name: Layer(len(lora.A), lora.A.shape[1], len(lora.B)) for name, lora in modules.items()}
    else:
        with given_back(model):
            peft_model = new_adapter(model, adapter, config.seed, shapes_only=True)
            layers = layers_of(peft_model)
            peft_model.unload()
    if isinstance(config, GradientConfig) or (adapter.path is None and adapter.warm_start is not None):
        check_trainable(model, [*layers])
    return layers


def starting_adapter(
    config: Config,
    adapter: AdapterConfig,
    base: BaseModel,
    rows: Sequence[Example],
    folder: Path,
    progress: Progress | None = None,
) -> None:
    """Train or copy the starting adapter, where `folder` does not hold it yet: all of it or nothing."""
    if folder.is_dir():
        return
    with writing(folder.parent), disk.replacing(folder) as partial:
        if adapter.path is not None:
            given = read_adapter(base.model, adapter.path)
            over_this = {**given.config, "base_model_name_or_path": base.name}  # not where it once lay
            Adapter(given.modules, over_this).write(partial)
            return
        with cpu_threads(base.model, config.engine.threads):
            warm_start(base, adapter, rows, config.seed, partial, progress)
