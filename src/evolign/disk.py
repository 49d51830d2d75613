"""Files and folders as a run needs them: written as a whole or not at all, flushed, never through a link.

Functions raise OSError. `reason` says what it means in words, also where a library hides it.
"""

import errno
import os
import re
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Literal
from uuid import uuid4

APPEND = os.O_WRONLY | os.O_APPEND | os.O_CREAT
NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL
TORCH = ("inline_container", "PytorchStreamWriter", "iostream error")
"""What torch names when it could not write; it raises RuntimeError."""


def write(path: Path, data: bytes | str, *, shared: bool = False) -> None:
    """Write a file under a temporary name, flush it to the disk, and rename it.

    With `shared`, several processes or threads may write the same file: the last one to rename it wins.
    """
    name = f"{path.name}.{uuid4().hex}" if shared else path.name
    partial = path.with_name(name + ".partial")
    remove(partial)
    with _open(partial, NEW, "wb") as file:
        file.write(encoded(data))
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)
    flush_folder(path.parent)


def append(path: Path, data: bytes | str, *, flush: bool = True) -> None:
    """Add to the end of a file, which is made if there is none."""
    new = not path.exists()
    if not new and path.stat().st_nlink > 1:
        write(path, read(path))  # the other name of the file keeps what it holds
    with _open(path, APPEND, "ab") as file:
        file.write(encoded(data))
        if flush:
            file.flush()
            os.fsync(file.fileno())
    if new and flush:
        flush_folder(path.parent)


def read(path: Path, size: int = -1) -> bytes:
    """What a file holds, or its first `size` bytes."""
    with _open(path, os.O_RDONLY, "rb") as file:
        return file.read(size)


def lock(path: Path, *, create: bool = True) -> int:
    """A descriptor of a file to lock; what the file holds is left alone."""
    return _descriptor(path, os.O_RDWR | os.O_CREAT if create else os.O_RDONLY)


@contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """A temporary folder that becomes `target` when the block ends without an error."""
    partial = target.with_name(target.name + ".partial")
    remove(partial)
    partial.mkdir()
    try:
        yield partial
        settle(partial)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    remove(target)
    os.replace(partial, target)
    flush_folder(target.parent)


def settle(*paths: Path) -> None:
    """Give files and folders the modes that the umask asks for, and flush them and their names to the disk.

    Libraries choose other modes: safetensors keeps its files to their owner.
    """
    kept = ~_umask()
    for path in paths:
        for found in (*(path.rglob("*") if path.is_dir() else ()), path):
            descriptor = _descriptor(found, os.O_RDONLY)
            try:
                os.fchmod(descriptor, (0o777 if found.is_dir() else 0o666) & kept)
                os.fsync(descriptor)
            finally:
                os.close(descriptor)


def remove(path: Path) -> None:
    """Remove a file, a link or a whole folder, if there is one."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def flush_folder(folder: Path) -> None:
    """Flush the names in a folder to the disk, so that a rename survives a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def first_special(folder: Path) -> Path | None:
    """The first of what lies in `folder` that is neither a file nor a folder: a link, a pipe, a device."""
    for inside, folders, files in os.walk(folder):
        for name in sorted(folders + files):
            mode = os.lstat(os.path.join(inside, name)).st_mode
            if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
                return Path(inside, name)
    return None


def encoded(data: bytes | str) -> bytes:
    """As UTF-8; half a surrogate pair, which UTF-8 does not know, is written as its escape."""
    return data if isinstance(data, bytes) else data.encode(errors="backslashreplace")


def reason(error: BaseException) -> str | None:
    """Why a file could not be written or read, if `error` tells that; None for any other error."""
    if isinstance(error, OSError):
        return error.strerror or str(error)
    if type(error).__name__ == "SafetensorError":
        number = re.search(r"\(os error (\d+)\)", str(error))
        return os.strerror(int(number[1])) if number else str(error)
    if isinstance(error, RuntimeError) and any(name in str(error) for name in TORCH):
        return "the disk took only a part of a file"
    return None


def _open(path: Path, flags: int, mode: Literal["rb", "wb", "ab"]) -> BinaryIO:
    return os.fdopen(_descriptor(path, flags), mode)


def _descriptor(path: Path, flags: int) -> int:
    """An open file or folder, not a link to one, not a pipe that would be waited for, and not a device."""
    try:
        descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
    except OSError as error:
        if error.errno == errno.ELOOP:
            error.strerror = "it is a link, which evolign does not follow here"
        raise
    mode = os.fstat(descriptor).st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "it is neither a file nor a folder", str(path))
    return descriptor


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask
