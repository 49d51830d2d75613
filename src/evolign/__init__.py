"""Evolign aligns language models by evolution: forward passes alone, an ordinary PEFT adapter out.

The public names below are imported when they are first used, so that `import evolign` is instant.
"""

from pkgutil import resolve_name
from typing import Any

_NAMES = {
    "Config": "evolign.config:Config",
    "Result": "evolign.methods:Result",
    "assess": "evolign.assessment:assess",
    "check": "evolign.preflight:check",
    "compare": "evolign.comparison:compare",
    "evolve": "evolign.api:evolve",
    "export": "evolign.assessment:export",
    "judge": "evolign.judging.contest:judge",
    "load_config": "evolign.recipe:load",
    "quickstart": "evolign.demo:quickstart",
    "registries": "evolign.registry:registries",
    "resume": "evolign.methods:resume",
    "run": "evolign.methods:run",
}
__all__ = sorted(_NAMES)


def __getattr__(name: str) -> Any:
    if name in _NAMES:
        return resolve_name(_NAMES[name])
    raise AttributeError(f"module 'evolign' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
