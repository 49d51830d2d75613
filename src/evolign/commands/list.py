"""`evolign list`: everything that a recipe can name, with one line about each."""

import ast
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from evolign.commands.run import METHODS
from evolign.engines import ENGINES
from evolign.evolution.fitness import FITNESS
from evolign.policy.spaces import SPACES
from evolign.rewards import REWARDS
from evolign.strategies import STRATEGIES
from evolign.tasks import TASKS
from evolign.tracking import TRACKERS

DEFINITIONS = (ast.ClassDef, ast.FunctionDef)


def registries() -> dict[str, dict[str, str]]:
    """Names by kind, each with the first line of its documentation."""
    kinds: dict[str, Mapping[str, Any]] = {
        "methods": METHODS,
        "tasks": TASKS,
        "rewards": REWARDS,
        "fitness": FITNESS,
        "strategies": STRATEGIES,
        "spaces": SPACES,
        "engines": ENGINES,
        "trackers": TRACKERS,
    }
    return {kind: {name: _about(made) for name, made in entries.items()} for kind, entries in kinds.items()}


def _about(made: Any) -> str:
    """What a class, or `package.module:name`, is: the first line of its function's or its module's docstring.

    It is read from the source, so that nothing heavy is imported.
    """
    target = made if isinstance(made, str) else f"{made.__module__}:{made.__name__}"
    module, name = target.split(":")
    source = find_spec(module)
    assert source is not None and source.origin is not None, target
    tree = ast.parse(Path(source.origin).read_text())
    node = next(n for n in tree.body if isinstance(n, DEFINITIONS) and n.name == name)
    return _first_line(ast.get_docstring(tree if isinstance(node, ast.ClassDef) else node))


def _first_line(docstring: str | None) -> str:
    return (docstring or "").strip().splitlines()[0]
