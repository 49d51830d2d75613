"""Replies kept on disk: a rerun costs nothing, and an interrupted one resumes where it stopped."""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from evolign import disk, untrusted
from evolign.errors import JudgeError
from evolign.judging.base import Messages, Reply
from evolign.judging.bounded import MOST_OF_A_REPLY

ESCAPED = 8
"""Bytes of a character in JSON at most, and some for what is around the text."""


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
            found = untrusted.json_value(untrusted.text(self._path(key), ESCAPED * MOST_OF_A_REPLY))
            text, tokens = found["text"], (found["in"], found["out"])
        except (OSError, ValueError, KeyError, TypeError):
            return None
        if not isinstance(text, str) or not all(isinstance(count, int) for count in tokens):
            return None
        return Reply(text, tokens_in=tokens[0], tokens_out=tokens[1], cached=True)

    def put(self, key: str, reply: Reply) -> None:
        """Keep a reply, unless it is oversized. Raises JudgeError where the folder cannot be written."""
        if reply.text is not None and len(reply.text) > MOST_OF_A_REPLY:
            return
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
