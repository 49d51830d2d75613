"""Population inference: candidates x examples -> Rollouts.

`ENGINES` maps an engine's name in a recipe to its class; `fake` is a test double and takes no recipe.
"""

from pkgutil import resolve_name
from typing import TYPE_CHECKING

from evolign.config import TransformersConfig
from evolign.engines.base import Engine

if TYPE_CHECKING:
    from evolign.policy.policy import Policy

ENGINES = {
    "transformers": "evolign.engines.transformers.engine:TransformersEngine",
    "fake": "evolign.engines.fake:FakeEngine",
}


def build_engine(config: TransformersConfig, policy: "Policy") -> Engine:
    """The engine that `config.name` names, over `policy`."""
    engine = resolve_name(ENGINES[config.name])
    return engine(policy, **config.model_dump(exclude={"name", "threads"}))


__all__ = ["ENGINES", "Engine", "build_engine"]
