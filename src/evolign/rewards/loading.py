"""Loading the function of a reward by its name."""

import importlib
import importlib.util
import sys
from collections.abc import Callable
from functools import reduce
from pathlib import Path
from types import ModuleType

from evolign.errors import ConfigError, unknown_name
from evolign.rewards import CLASSIFIER, REWARDS
from evolign.tasks.files import expanded

Reward = Callable[..., list[float | None]]


def load_reward(spec: str, files: dict[str, ModuleType] | None = None) -> Reward:
    """The reward function that `spec` names.

    `spec` is a key of `REWARDS`, "classifier:FOLDER" (see `classifier.py`), a dotted path
    ("package.module:function" or "package.module.function"), or a file and a function
    ("rewards.py:function", relative to the working directory; the file's own directory is put on
    `sys.path` so that it can import its neighbours). `files` keeps the modules of files that were run, which
    are not run again. Raises ConfigError if there is no such function or its module cannot be imported.
    """
    if spec.startswith(CLASSIFIER):
        from evolign.rewards.classifier import load_classifier

        return load_classifier(spec)
    where, name = _split(REWARDS.get(spec, spec))
    if where.endswith(".py"):
        files = {} if files is None else files
        module = files.get(where) or files.setdefault(where, _import_file(spec, where))
    else:
        module = _import_module(spec, where)
    try:
        function = reduce(getattr, name.split("."), module)
    except AttributeError:
        known = [key for key, value in vars(module).items() if callable(value) and key[0] != "_"]
        raise unknown_name(f"function of {where} (reward = {spec!r})", name, known) from None
    if not callable(function):
        raise ConfigError(f"reward = {spec!r} is a {type(function).__name__}; it must be callable")
    return function


def absolute_spec(spec: str) -> str:
    """`spec` with a file's path made absolute: it still holds after a change of directory.

    Raises ConfigError, before anything is imported, for a name that can only be a wrong key, and
    for a file that does not exist.
    """
    if spec in REWARDS:
        return spec
    if spec.startswith(CLASSIFIER):
        from evolign.rewards.classifier import located

        return located(spec)
    where, name = _split(spec)
    if not where.endswith(".py"):
        return spec
    path = Path(expanded(where, "task.reward")).resolve()
    if not path.is_file():
        raise ConfigError(
            f"reward = {spec!r}: the file {str(path)!r} does not exist; give the path of a Python"
            " file, absolute or relative to the working directory"
        )
    return f"{path}:{name}"


def _split(spec: str) -> tuple[str, str]:
    """Where the function is (a module or a file), and its name."""
    where, _, name = spec.rpartition(":" if ":" in spec else ".")
    if where and name == "py" and ":" not in spec:
        raise ConfigError(f"reward = {spec!r} names a file; say which function: '{spec}:function'")
    if not where:
        raise unknown_name("reward", spec, REWARDS)
    if not name:
        raise ConfigError(f"reward = {spec!r} names no function; give '{where}:function'")
    return where, name


def _import_module(spec: str, name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise ConfigError(f"reward = {spec!r}: importing {name} failed: {error}") from error
        raise ConfigError(
            f"reward = {spec!r}: there is no module {error.name!r} on the Python path; give one of"
            f" {', '.join(REWARDS)}, 'package.module:function' or 'file.py:function'"
        ) from error
    except Exception as error:  # whatever the user's module raises is a wrong setting
        raise _import_failure(spec, name, error) from error


def _import_file(spec: str, where: str) -> ModuleType:
    path = Path(absolute_spec(f"{where}:_").removesuffix(":_"))
    name = f"_evolign_reward_{path.stem}"
    description = importlib.util.spec_from_file_location(name, path)
    assert description is not None and description.loader is not None  # it is so for every .py
    module = importlib.util.module_from_spec(description)
    sys.modules[name] = module  # before it runs, or its dataclasses and pickles fail
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))
    try:
        description.loader.exec_module(module)
    except Exception as error:
        raise _import_failure(spec, str(path), error) from error
    return module


def _import_failure(spec: str, where: str, error: Exception) -> ConfigError:
    return ConfigError(
        f"reward = {spec!r}: importing {where} raised {type(error).__name__}: {error}; it must be"
        " importable on its own"
    )
