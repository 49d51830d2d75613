"""Replies kept on disk: a rerun costs nothing, and an interrupted one resumes where it stopped."""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from evolign import disk
from evolign.errors import JudgeError
from evolign.judging.base import Messages, Reply


def default_folder() -> Path:
    """$XDG_CACHE_HOME/evolign/judge, or ~/.cache/evolign/judge."""
    home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(home).expanduser() / "evolign" / "judge"


class Cache:
    """One small JSON file per reply, named by the hash of what it depends on.

    Several processes may share a folder: files are written whole or not at all, and a broken one counts as
    absent.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @staticmethod
    def key(identity: Mapping[str, Any], messages: Messages) -> str:
        """The hash of endpoint, model, parameters and messages."""
        text = json.dumps([dict(identity), messages], sort_keys=True)
        return hashlib.blake2b(text.encode(), digest_size=20).hexdigest()

    def get(self, key: str) -> Reply | None:
        try:
            found = json.loads(self._path(key).read_text())
            return Reply(str(found["text"]), tokens_in=found["in"], tokens_out=found["out"], cached=True)
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def put(self, key: str, reply: Reply) -> None:
        """Keep a reply. Raises JudgeError where the folder cannot be written."""
        path = self._path(key)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            text = json.dumps({"text": reply.text, "in": reply.tokens_in, "out": reply.tokens_out})
            disk.write(path, text, shared=True)
        except OSError as error:
            raise JudgeError(
                f"cannot write to the judge's cache {str(self._folder)!r}: {error.strerror or error}; free "
                "space or give another --cache"
            ) from error

    def _path(self, key: str) -> Path:
        return self._folder / key[:2] / f"{key}.json"
