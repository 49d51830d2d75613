"""Evolign aligns language models by evolution: forward passes alone, an ordinary PEFT adapter out.

The public names below are imported when they are first used, so that `import evolign` is instant.
"""

from pkgutil import resolve_name
from typing import Any

_NAMES = {
    "Config": "evolign.config:Config",
    "Result": "evolign.commands.run:Result",
    "evaluate": "evolign.commands.evaluate:evaluate",
    "check": "evolign.commands.check:check",
    "compare": "evolign.comparison:compare",
    "evolve": "evolign.commands.evolve:evolve",
    "export": "evolign.commands.export:export",
    "judge": "evolign.judging.contest:judge",
    "load_config": "evolign.config.recipe:load",
    "quickstart": "evolign.commands.quickstart:quickstart",
    "registries": "evolign.commands.list:registries",
    "resume": "evolign.commands.run:resume",
    "run": "evolign.commands.run:run",
}
__all__ = sorted(_NAMES)


def __getattr__(name: str) -> Any:
    if name in _NAMES:
        return resolve_name(_NAMES[name])
    raise AttributeError(f"module 'evolign' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
