"""The errors a user can meet. Each message says the field, the value, the rule and the way out.

EvolignError
├── ConfigError    a setting, a file or a data set is wrong; nothing has been run yet
│   └── UnreachableError   a hub name that cannot be fetched from here
├── RewardError    the user's reward function broke its contract
├── EngineError    the model could not generate
├── JudgeError     a judge of win rates could not be asked
└── RunError       a run directory cannot be created, read, written or resumed
"""

import shlex
import unicodedata
from collections.abc import Iterable
from difflib import get_close_matches
from reprlib import Repr

LONGEST_NAME = 200
"""Characters of a name that is compared with known ones: the comparison takes time in their square."""
_SHORT = Repr()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 80

STEERING = ("Cc", "Cf", "Cs", "Zl", "Zp")
"""Kinds of characters that steer a terminal or turn its text around, and halves of surrogate pairs."""


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
    """A judge of win rates could not be asked: unauthorised, down, or failing repeatedly."""


class RunError(EvolignError, RuntimeError):
    """A run directory cannot be created, read, written or resumed."""


def quoted(path: object) -> str:
    """A path for a command that a message shows: as a shell takes it."""
    return shlex.quote(str(path))


def visible(text: object) -> str:
    """Text of somebody else for a terminal: what would steer it, or is no character, becomes an escape.

    >>> visible("red\\x1b[31m \\u202e")
    'red\\\\x1b[31m \\\\u202e'
    """
    return "".join(
        character
        if character in "\n\t\u200c\u200d" or unicodedata.category(character) not in STEERING
        else character.encode("unicode_escape").decode()
        for character in str(text)
    )


def first_line(error: BaseException, otherwise: str = "") -> str:
    """The first line of what `error` says; `otherwise` where it says nothing."""
    return (str(error).strip().splitlines() or [otherwise])[0]


def unknown_name(kind: str, name: object, known: Iterable[str]) -> ConfigError:
    """The error for a name that no registry holds: it lists what exists and the nearest match."""
    known = sorted(known)
    return ConfigError(f"unknown {kind} {shown(name)}; known: {', '.join(known)}.{did_you_mean(name, known)}")


def did_you_mean(name: object, known: Iterable[str]) -> str:
    """A sentence with the nearest known name, empty where none is near."""
    if not isinstance(name, str) or len(name) > LONGEST_NAME:
        return ""
    nearest = get_close_matches(name, list(known), n=1)
    return f" Did you mean {nearest[0]!r}?" if nearest else ""


def shown(value: object, width: int = 80) -> str:
    """A value for a message: its repr, cut to `width`, whatever the value is.

    Strings are cut before they are escaped, and containers are shown with their first items, so that neither
    takes long; an object whose text raises is named by its type.
    """
    try:
        text = (
            repr(value[:width] if isinstance(value, str | bytes) else value)
            if (isinstance(value, str | bytes | int | float | None))
            else _SHORT.repr(value)
        )
    except Exception:  # a user's object, or an integer of more digits than Python prints
        return f"({type(value).__name__} that cannot be shown)"
    return text if len(text) <= width else text[: width - 3] + "..."


def said(error: BaseException, width: int = 2000) -> str:
    """What an exception says, cut to `width`; some say nothing but raise again."""
    try:
        text = str(error)
    except Exception:
        return "(its text cannot be shown)"
    return text if len(text) <= width else text[: width - 3] + "..."
