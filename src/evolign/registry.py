"""Everything that can be named in a recipe, with one line about each."""

import ast
from importlib.util import find_spec
from pathlib import Path

from evolign.engines import ENGINES
from evolign.fitness import FITNESS
from evolign.methods import METHODS
from evolign.policy import SPACES
from evolign.strategies import STRATEGIES
from evolign.tasks import TASKS
from evolign.tasks.rewards import REWARDS

DEFINITIONS = (ast.ClassDef, ast.FunctionDef)


def registries() -> dict[str, dict[str, str]]:
    """Names by kind, each with the first line of its documentation."""
    return {
        "methods": {name: _about(target) for name, target in METHODS.items()},
        "tasks": {name: _about(target) for name, target in TASKS.items()},
        "rewards": {name: _about(target) for name, target in REWARDS.items()},
        "fitness": {name: _about(f"{made.__module__}:{made.__name__}") for name, made in FITNESS.items()},
        "strategies": {
            name: _about(f"{made.__module__}:{made.__name__}") for name, made in STRATEGIES.items()
        },
        "spaces": {name: _about(target) for name, target in SPACES.items()},
        "engines": {name: _about(target) for name, target in ENGINES.items()},
    }


def _about(target: str) -> str:
    """What `package.module:name` is: the first line of the function's or the class's module's docstring.

    It is read from the source, so that nothing heavy is imported.
    """
    module, name = target.split(":")
    source = find_spec(module)
    assert source is not None and source.origin is not None, target
    tree = ast.parse(Path(source.origin).read_text())
    node = next(n for n in tree.body if isinstance(n, DEFINITIONS) and n.name == name)
    return _first_line(ast.get_docstring(tree if isinstance(node, ast.ClassDef) else node))


def _first_line(docstring: str | None) -> str:
    return (docstring or "").strip().splitlines()[0]
