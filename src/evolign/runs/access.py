"""Who may use a run directory: one process that writes, or readers; and only what lies in it."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from evolign import disk, untrusted
from evolign.errors import RunError, quoted


def check_run(path: Path) -> None:
    """Raise RunError if `path` is no run directory, or holds a link, a pipe or a device."""
    if not (path / "config.json").is_file():
        raise RunError(f"{str(path)!r} is not a run directory: it holds no config.json")
    check_plain(path)


def check_plain(path: Path) -> None:
    """Raise RunError if the run directory `path` holds what is neither a file nor a folder."""
    if special := disk.first_special(path):
        raise RunError(
            f"the run directory {str(path)!r} holds {str(special.relative_to(path))!r}, which is neither a "
            "file nor a folder; evolign follows no links out of a run directory: put a copy of what it "
            "stands for in its place, or remove it"
        )


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn the error of a write that failed, by whichever library, into a sentence with the way out."""
    try:
        yield
    except Exception as error:
        if (reason := disk.reason(error)) is None:
            raise
        raise RunError(
            f"cannot write to the run directory {str(path)!r}: {reason}. Everything up to the last "
            f"checkpoint is safe; free space or restore the directory, then `evolign resume {quoted(path)}`"
        ) from error


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Keep a run directory that is only read from being changed. Raises RunError while a run writes to it."""
    try:
        lock = disk.lock(path / ".lock", create=False)
    except OSError:  # there is none, or it may not be read: nothing is made, since nothing is written
        yield
        return
    try:
        _take(lock, path, fcntl.LOCK_SH)
        yield
    finally:
        os.close(lock)


def locked(path: Path) -> int:
    """A descriptor that holds the directory's lock until it is closed or its process dies."""
    lock = disk.lock(path / ".lock")
    try:
        _take(lock, path, fcntl.LOCK_EX)
    except BaseException:
        os.close(lock)
        raise
    return lock


def _take(lock: int, path: Path, kind: int) -> None:
    try:
        fcntl.flock(lock, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        raise RunError(
            f"{str(path)!r} is in use by another evolign process; wait for it or stop it"
        ) from None


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object that evolign wrote. Raises RunError if it is missing or broken."""
    try:
        return untrusted.json_object(disk.read(path))
    except (OSError, ValueError) as error:
        raise RunError(f"cannot read {str(path)!r}: {error}") from error
