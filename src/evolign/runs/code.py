"""Code that a run directory names: a reward's file, and the code that comes with a model.

A run directory is data, which may come from somebody else. What it names runs only if this user ran the same
code before, or says that it is trusted: `remember` keeps the hashes of the code that a recipe of the user
named, and `require` looks them up. A recipe is a program, and what is typed is the user's.
"""

import contextlib
import hashlib
import importlib.util
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evolign import disk
from evolign.config.paths import CLASSIFIER
from evolign.errors import RunError
from evolign.runs.record import fingerprint
from evolign.types import Reward, Rewards

TYPED = {
    "task.reward": ("task.reward=", "task="),
    "task.rewards": ("task.rewards=", "task="),
    "model.trust_remote_code": ("model.trust_remote_code=",),
}
"""Overrides with which a user names the code."""


@dataclass(frozen=True)
class Code:
    """Something that would run."""

    field: str
    words: str
    digest: str
    """By where it is, what it is called, and what it holds."""


def remember(tree: Mapping[str, Any]) -> None:
    """Keep that the user ran the code that the configuration `tree` names, where the home can be written."""
    for code in _named(tree):
        with contextlib.suppress(OSError):
            _folder().mkdir(parents=True, exist_ok=True)
            disk.write(_folder() / code.digest, code.words + "\n")


def require(path: str | Path, tree: Mapping[str, Any], trust: bool, typed: Sequence[str] = ()) -> None:
    """Raise RunError if the configuration `tree` of the run in `path` names code that this user never ran.

    `trust` lets it run, and remembers it; so does an override among `typed` that names the code itself.
    """
    for code in _named(tree):
        if trust or any(item.startswith(TYPED[code.field]) for item in typed):
            continue
        if not (_folder() / code.digest).is_file():
            raise RunError(
                f"the run in {str(path)!r} names code, {code.words}, that was not run here before in this "
                "form; read it, and if you trust it, add --trust (in Python: trust=True)"
            )
    if trust:
        remember(tree)


def reward_hash(reward: Rewards) -> str | list[str | None] | None:
    """A hash of the file or folder that holds a reward; None where it has none, as a reward of evolign.

    Of several rewards, the hash of each.
    """
    if isinstance(reward, Sequence) and not isinstance(reward, str):
        return [_hash(term.reward) for term in reward]
    return _hash(reward)


def _hash(spec: Reward) -> str | None:
    if not isinstance(spec, str):
        return None
    if spec.startswith(CLASSIFIER):
        folder = _path(spec.removeprefix(CLASSIFIER).partition("?")[0])
        run = folder / "model"
        files = sorted((run if run.is_dir() else folder).glob("*")) if folder.is_dir() else []
        prints = [[path.name, fingerprint(path)] for path in files if path.is_file()]
        return _digest(prints) if prints else None
    found = _file(spec) if _is_code(spec) else None
    return fingerprint(found)["hash"] if found else None


def _named(tree: Mapping[str, Any]) -> Iterator[Code]:
    task, model = tree.get("task") or {}, tree.get("model") or {}
    several = [("task.rewards", term.get("name")) for term in task.get("rewards") or ()]
    for field, spec in (("task.reward", task.get("reward")), *several):
        if isinstance(spec, str) and _is_code(spec):
            file = _file(spec)
            content = fingerprint(file)["hash"] if file else None
            yield Code(field, f"{field} = {spec!r:.200}", _digest([str(file), spec, content]))
    if model.get("trust_remote_code"):
        name = str(model.get("name"))
        folder = _path(name)
        files = sorted(folder.resolve().rglob("*.py")) if folder.is_dir() else []
        prints = [[str(path), fingerprint(path)] for path in files]
        words = f"model.trust_remote_code = true for {name!r:.200}"
        yield Code("model.trust_remote_code", words, _digest([name, model.get("revision"), prints]))


def _is_code(spec: str) -> bool:
    return not spec.startswith((CLASSIFIER, "(")) and (":" in spec or "." in spec)


def _file(spec: str) -> Path | None:
    """The file of a reward, found without importing anything; None where it cannot be told."""
    where = spec.rpartition(":" if ":" in spec else ".")[0]
    path = _path(where)
    if where.endswith(".py"):
        return path.resolve() if path.is_file() else None
    top, *inner = where.split(".")
    with contextlib.suppress(ImportError, ValueError):
        found = importlib.util.find_spec(top) if top else None
        for root in (found.submodule_search_locations or ()) if found else ():
            for candidate in (Path(root, *inner).with_suffix(".py"), Path(root, *inner, "__init__.py")):
                if candidate.is_file():
                    return candidate
        if found and found.origin and not inner and Path(found.origin).is_file():
            return Path(found.origin)
    return None


def _path(text: str) -> Path:
    return Path(os.path.expandvars(os.path.expanduser(text)))


def _digest(value: Any) -> str:
    return hashlib.blake2b(json.dumps(value).encode(), digest_size=16).hexdigest()


def _folder() -> Path:
    """$XDG_STATE_HOME/evolign/trusted, or ~/.local/state/evolign/trusted."""
    home = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
    return Path(home).expanduser() / "evolign" / "trusted"
