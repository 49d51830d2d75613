"""Population inference: candidates and prompts in, completions out.

`ENGINES` maps an engine's name in a recipe to its class. `FakeEngine`, the test double, needs no recipe.
"""

from collections.abc import Iterable
from pkgutil import resolve_name
from typing import TYPE_CHECKING

from evolign.config import EngineConfig
from evolign.engines.base import Engine, Reports, scoring
from evolign.runs.progress import Progress
from evolign.types import Example

if TYPE_CHECKING:
    from evolign.policy.policy import Policy

ENGINES = {
    "transformers": "evolign.engines.transformers.engine:TransformersEngine",
    "vllm": "evolign.engines.vllm:make",
    "ray": "evolign.engines.ray.engine:RayEngine",
}


def build_engine(
    config: EngineConfig,
    policy: "Policy",
    examples: Iterable[Example] = (),
    progress: Progress | None = None,
) -> Engine:
    """The engine that `config.name` names, over `policy`, which knows the prompts of `examples`.

    `progress` hears what a user should know while it works, and shows what it writes and reads.
    """
    options = {name: getattr(config, name) for name in type(config).model_fields if name != "name"}
    engine: Engine = resolve_name(ENGINES[config.name])(policy, progress=progress, **options)
    engine.add_prompts(examples)
    return engine


__all__ = ["ENGINES", "Engine", "Reports", "build_engine", "scoring"]
