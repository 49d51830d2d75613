"""Population inference: candidates and prompts in, completions out.

`ENGINES` maps an engine's name in a recipe to its class. `FakeEngine`, the test double, needs no recipe.
"""

from collections.abc import Iterable
from pkgutil import resolve_name
from typing import TYPE_CHECKING

from evolign.config import EngineConfig
from evolign.engines.base import Engine
from evolign.types import Example

if TYPE_CHECKING:
    from evolign.policy.policy import Policy

ENGINES = {
    "transformers": "evolign.engines.transformers.engine:TransformersEngine",
}


def build_engine(config: EngineConfig, policy: "Policy", examples: Iterable[Example] = ()) -> Engine:
    """The engine that `config.name` names, over `policy`, which knows the prompts of `examples`."""
    engine: Engine = resolve_name(ENGINES[config.name])(policy, **config.model_dump(exclude={"name"}))
    engine.add_prompts(examples)
    return engine


__all__ = ["ENGINES", "Engine", "build_engine"]
