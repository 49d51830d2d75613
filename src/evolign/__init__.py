"""Align language models with evolution strategies: only forward passes, and the
result is an ordinary PEFT adapter.

The public names below are imported when they are first used, so that `import evolign` is instant. What is
not in `__all__` may change without notice.
"""

from importlib.metadata import version
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from evolign.commands.check import Finding, check
    from evolign.commands.evaluate import evaluate
    from evolign.commands.evolve import evolve
    from evolign.commands.export import export
    from evolign.commands.list import registries
    from evolign.commands.quickstart import quickstart
    from evolign.commands.run import Result, resume, run
    from evolign.commands.track import track
    from evolign.comparison import compare
    from evolign.comparison.report import Comparison
    from evolign.config import Config
    from evolign.config.recipe import load as load_config
    from evolign.config.schema import schema
    from evolign.engines.base import Engine
    from evolign.engines.fake import FakeEngine
    from evolign.errors import (
        ConfigError,
        EngineError,
        EvolignError,
        JudgeError,
        RewardError,
        RunError,
        UnreachableError,
    )
    from evolign.evaluation.evaluate import Evaluation
    from evolign.evolution.fitness.base import Fitness, FitnessValues
    from evolign.judging.base import Judge
    from evolign.judging.contest import Judged, judge
    from evolign.policy.spaces.base import SearchSpace
    from evolign.runs.progress import Progress
    from evolign.strategies.base import Strategy
    from evolign.strategies.mean import Mean
    from evolign.tasks.base import Task
    from evolign.types import Abilities, Cost, Example, Jump, Population, Rollouts, Sampling, Step

_NAMES = {
    "Abilities": "evolign.types:Abilities",
    "Comparison": "evolign.comparison.report:Comparison",
    "Config": "evolign.config:Config",
    "ConfigError": "evolign.errors:ConfigError",
    "Cost": "evolign.types:Cost",
    "Engine": "evolign.engines.base:Engine",
    "EngineError": "evolign.errors:EngineError",
    "Evaluation": "evolign.evaluation.evaluate:Evaluation",
    "EvolignError": "evolign.errors:EvolignError",
    "Example": "evolign.types:Example",
    "FakeEngine": "evolign.engines.fake:FakeEngine",
    "Finding": "evolign.commands.check:Finding",
    "Fitness": "evolign.evolution.fitness.base:Fitness",
    "Judge": "evolign.judging.base:Judge",
    "JudgeError": "evolign.errors:JudgeError",
    "Judged": "evolign.judging.contest:Judged",
    "FitnessValues": "evolign.evolution.fitness.base:FitnessValues",
    "Jump": "evolign.types:Jump",
    "Mean": "evolign.strategies.mean:Mean",
    "Population": "evolign.types:Population",
    "Progress": "evolign.runs.progress:Progress",
    "Result": "evolign.commands.run:Result",
    "RewardError": "evolign.errors:RewardError",
    "Rollouts": "evolign.types:Rollouts",
    "RunError": "evolign.errors:RunError",
    "Sampling": "evolign.types:Sampling",
    "SearchSpace": "evolign.policy.spaces.base:SearchSpace",
    "Step": "evolign.types:Step",
    "Strategy": "evolign.strategies.base:Strategy",
    "Task": "evolign.tasks.base:Task",
    "UnreachableError": "evolign.errors:UnreachableError",
    "check": "evolign.commands.check:check",
    "compare": "evolign.comparison:compare",
    "evaluate": "evolign.commands.evaluate:evaluate",
    "evolve": "evolign.commands.evolve:evolve",
    "export": "evolign.commands.export:export",
    "judge": "evolign.judging.contest:judge",
    "load_config": "evolign.config.recipe:load",
    "quickstart": "evolign.commands.quickstart:quickstart",
    "registries": "evolign.commands.list:registries",
    "resume": "evolign.commands.run:resume",
    "run": "evolign.commands.run:run",
    "schema": "evolign.config.schema:schema",
    "track": "evolign.commands.track:track",
}
__version__ = version("evolign")
__all__ = [
    "Abilities",
    "Comparison",
    "Config",
    "ConfigError",
    "Cost",
    "Engine",
    "EngineError",
    "Evaluation",
    "EvolignError",
    "Example",
    "FakeEngine",
    "Finding",
    "Fitness",
    "FitnessValues",
    "Judge",
    "JudgeError",
    "Judged",
    "Jump",
    "Mean",
    "Population",
    "Progress",
    "Result",
    "RewardError",
    "Rollouts",
    "RunError",
    "Sampling",
    "SearchSpace",
    "Step",
    "Strategy",
    "Task",
    "UnreachableError",
    "__version__",
    "check",
    "compare",
    "evaluate",
    "evolve",
    "export",
    "judge",
    "load_config",
    "quickstart",
    "registries",
    "resume",
    "run",
    "schema",
    "track",
]


def __getattr__(name: str) -> Any:
    if name in _NAMES:
        return resolve_name(_NAMES[name])
    raise AttributeError(f"module 'evolign' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
