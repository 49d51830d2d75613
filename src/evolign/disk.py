"""Files and folders that are replaced as a whole: they hold all of the new content, or all of the old."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4


def write(path: Path, data: bytes | str, *, shared: bool = False) -> None:
    """Write a file under a temporary name, flush it to the disk, and rename it. Raises OSError.

    With `shared`, several processes or threads may write the same file: the last one to rename it wins.
    """
    name = f"{path.name}.{uuid4().hex}" if shared else path.name
    partial = path.with_name(name + ".partial")
    with partial.open("wb") as file:
        file.write(data.encode() if isinstance(data, str) else data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)
    flush_folder(path.parent)


@contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """A temporary folder that becomes `target` when the block ends without an error. Raises OSError."""
    partial = target.with_name(target.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    yield partial
    shutil.rmtree(target, ignore_errors=True)
    os.replace(partial, target)
    flush_folder(target.parent)


def flush_folder(folder: Path) -> None:
    """Flush the names in a folder to the disk, so that a rename survives a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
