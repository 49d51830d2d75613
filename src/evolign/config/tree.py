"""The tree of plain values that a recipe is before its types are known."""

import os
from collections.abc import Mapping
from typing import Any

from evolign.errors import ConfigError, said, shown
from evolign.untrusted import DEEPEST, LONGEST_NUMBER, TOO_DEEP, TOO_LONG

MOST_VALUES = 10_000
"""Values of a tree, aliases unfolded: a hundred times the longest recipe, and a second for PyYAML. Nine lines
of aliases of aliases would be a thousand million."""
TOO_MANY = f"it holds more than {MOST_VALUES:,} values, aliases unfolded; leave some out"


def copied(tree: Any, source: str) -> Any:
    """A copy of plain values; what is none (paths, NumPy's numbers) becomes its text.

    Raises ConfigError for what no recipe can hold: keys that are no texts, circles, endless trees or numbers.
    """
    left = MOST_VALUES

    def copy(value: Any, depth: int) -> Any:
        nonlocal left
        left -= 1
        if left < 0:
            raise ConfigError(f"{source}: {TOO_MANY}")
        if depth > DEEPEST:
            raise ConfigError(f"{source}: {TOO_DEEP}")
        if isinstance(value, Mapping):
            for key in value:
                if not isinstance(key, str):
                    raise ConfigError(f"{source}: the key {shown(key)} is no text; quote it, or remove it")
            return {key: copy(child, depth + 1) for key, child in value.items()}
        if isinstance(value, list | tuple):
            return [copy(child, depth + 1) for child in value]
        if isinstance(value, int) and abs(value) >= 10**LONGEST_NUMBER:
            raise ConfigError(f"{source}: {TOO_LONG}")
        if value is None or isinstance(value, str | int | float):
            return value
        try:
            return os.fspath(value) if isinstance(value, os.PathLike) else str(value)
        except Exception as error:  # whatever a user's object raises
            raise ConfigError(
                f"{source}: a {type(value).__name__} is no plain value ({said(error)}); give text or a number"
            ) from error

    return copy(tree, 0)
