"""Paths in a recipe: made absolute, so that a run can be read, resumed and evaluated from any folder.

What exists here is made absolute and `~` is replaced; everything else may be the name of something on a hub.
The path of a file with an environment variable stays as it is written, if the variable holds an absolute
path.
"""

import os
from collections.abc import Callable
from typing import Annotated

from pydantic import AfterValidator

from evolign.config.section import Name

CLASSIFIER = "classifier:"


def absolute(path: str, exists: Callable[[str], bool] = os.path.isfile) -> str:
    """The absolute path of a file, or of what else `exists` tells; other names as they are.

    >>> absolute("openai/gsm8k:main")
    'openai/gsm8k:main'
    """
    home = os.path.expanduser(path)
    expanded = os.path.expandvars(home)
    if expanded != home and os.path.isabs(expanded):
        return home
    return os.path.abspath(expanded) if exists(expanded) else home


def absolute_folder(name: str) -> str:
    """The absolute path of a folder, with `~` and environment variables replaced; a hub name stays.

    >>> absolute_folder("Qwen/Qwen2.5-0.5B")
    'Qwen/Qwen2.5-0.5B'
    """
    return absolute(os.path.expandvars(name), os.path.isdir)


def absolute_reward(spec: str) -> str:
    """A reward with the path in it made absolute: `file.py:function`, `classifier:FOLDER?label=NAME`."""
    if spec.startswith(CLASSIFIER):
        folder, mark, query = spec.removeprefix(CLASSIFIER).partition("?")
        return f"{CLASSIFIER}{absolute(folder, os.path.isdir)}{mark}{query}"
    where, colon, function = spec.rpartition(":")
    return f"{absolute(where)}{colon}{function}" if where.endswith(".py") else spec


FolderOrName = Annotated[Name, AfterValidator(absolute_folder)]
Source = Annotated[Name, AfterValidator(absolute)]
"""A file of rows, or the name of a data set."""
RewardName = Annotated[Name, AfterValidator(absolute_reward)]
"""The name of a reward, or where it is."""
