"""The errors a user can meet. Each message says the field, the value, the rule and the way out.

EvolignError
├── ConfigError    a setting, a file or a data set is wrong; nothing has been run yet
│   └── UnreachableError   a hub name that cannot be fetched from here
├── RewardError    the user's reward function broke its contract
├── EngineError    the model could not generate
├── JudgeError     a judge of win rates could not be asked
└── RunError       a run directory cannot be created, read, written or resumed
"""

from collections.abc import Iterable
from difflib import get_close_matches


class EvolignError(Exception):
    """Base class: everything that the command line prints without a traceback."""


class ConfigError(EvolignError, ValueError):
    """A setting, a file or a data set is wrong."""


class UnreachableError(ConfigError):
    """A hub name that cannot be fetched from here: misspelt, gated, or there is no network."""


class RewardError(EvolignError, RuntimeError):
    """A reward function raised or returned something that is not a list of finite numbers."""


class EngineError(EvolignError, RuntimeError):
    """The model could not generate what was asked of it."""


class JudgeError(EvolignError, RuntimeError):
    """A judge of win rates could not be asked: unauthorised, down, or failing again and again."""


class RunError(EvolignError, RuntimeError):
    """A run directory cannot be created, read, written or resumed."""


def unknown_name(kind: str, name: object, known: Iterable[str]) -> ConfigError:
    """The error for a name that no registry holds: it lists what exists and the nearest match."""
    known = sorted(known)
    nearest = get_close_matches(str(name), known, n=1)
    hint = f" Did you mean {nearest[0]!r}?" if nearest else ""
    return ConfigError(f"unknown {kind} {name!r}; known: {', '.join(known)}.{hint}")
