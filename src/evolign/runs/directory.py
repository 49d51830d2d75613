"""The run directory: the files that every method writes and every reader relies on.

    config.json      resolved; `evolign run config.json` reproduces the run
    provenance.json  versions, hardware, fingerprints of model and data
    metrics.jsonl    one JSON object per generation or optimiser step
    samples.jsonl    a few prompts, completions and scores per evaluation
    checkpoints/     the newest two
    warm_start/      the adapter that the method started from, in PEFT's format
    adapter/         the result, in PEFT's format; or
    model/           the result, where all weights were trained
    result.json      baseline and final metrics, and what they cost
    log.txt          what the terminal showed

A run can be killed at any moment. Files that are replaced are written under a temporary name, flushed to the
disk and renamed; the two that grow are cut back to the last checkpoint when the run is resumed.
"""

import fcntl
import json
import os
import shutil
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import IO, Any, Self

import numpy as np

from evolign import disk, jsonl
from evolign.config import Config
from evolign.config.recipe import load
from evolign.config.run import FORMAT
from evolign.errors import RunError

KEPT_CHECKPOINTS = 2
GROWING = ("metrics.jsonl", "samples.jsonl")
STATE = "state_json"
UNREADABLE = (OSError, ValueError, KeyError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error)
"""What numpy, zipfile and json raise on a damaged file; RuntimeError: flags of zip that we never set."""


class RunDir:
    """One run's directory, locked against a second process while it is open.

    `RunDir.create` for a new run, `RunDir.open` for an existing one; both raise RunError with the way out.
    """

    def __init__(self, path: Path, lock: IO[str]) -> None:
        self.path = path
        self._lock = lock
        self.warnings: list[str] = []
        """What was repaired when a checkpoint was read."""

    @classmethod
    def create(cls, path: str | Path, config: str) -> Self:
        """A new directory that holds `config`, the text of config.json."""
        path = Path(path)
        check_new(path)
        try:
            (path / "checkpoints").mkdir(parents=True, exist_ok=True)
            run = cls(path, _locked(path))
        except OSError as error:
            raise RunError(
                f"cannot create the run directory {str(path)!r}: {error.strerror or error}; nothing has "
                "been run; give another --out"
            ) from error
        run.write_text("config.json", config)
        return run

    @classmethod
    def open(cls, path: str | Path) -> Self:
        """The directory of a run that was started before."""
        path = Path(path)
        if not (path / "config.json").is_file():
            raise RunError(f"{str(path)!r} is not a run directory: it holds no config.json")
        with writing(path):
            return cls(path, _locked(path))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: Any) -> None:
        self._lock.close()

    @property
    def warm_start(self) -> Path:
        return self.path / "warm_start"

    @property
    def adapter(self) -> Path:
        return self.path / "adapter"

    @property
    def model(self) -> Path:
        return self.path / "model"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def finished(self) -> bool:
        return (self.path / "result.json").is_file()

    def write_text(self, name: str, text: str) -> None:
        """Write a whole file: afterwards it holds all of `text`, or what it held before."""
        self._replace(self.path / name, text.encode())

    def write_json(self, name: str, value: Mapping[str, Any]) -> None:
        self.write_text(name, json.dumps(value, indent=2) + "\n")

    def read_json(self, name: str) -> dict[str, Any]:
        """A JSON file that evolign wrote. Raises RunError if it is missing or broken."""
        try:
            result: dict[str, Any] = json.loads((self.path / name).read_text())
            return result
        except (OSError, ValueError) as error:
            raise RunError(f"cannot read {str(self.path / name)!r}: {error}") from error

    def append(self, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Append JSON objects to a .jsonl file, one line each."""
        with writing(self.path), (self.path / name).open("a") as file:
            file.write(jsonl.dumps(rows))
            file.flush()
            os.fsync(file.fileno())

    def read_rows(self, name: str) -> list[dict[str, Any]]:
        """The objects of a .jsonl file; a last line that was cut off by a kill is left out."""
        return read_rows(self.path / name)

    def save(self, generation: int, state: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
        """Write the checkpoint of `generation`: JSON-able `state` and numeric `arrays`."""
        saved = {"format": FORMAT, "state": state, "sizes": self.sizes(), "arrays": sorted(arrays)}
        text = np.frombuffer(json.dumps(saved).encode(), dtype=np.uint8)
        buffer = BytesIO()
        np.savez(buffer, allow_pickle=False, **{STATE: text, **arrays})
        self._replace(self.path / "checkpoints" / f"{generation:08d}.npz", buffer.getvalue())
        for old in self._checkpoints()[KEPT_CHECKPOINTS:]:
            old.unlink(missing_ok=True)

    def restore(self) -> tuple[dict[str, Any], dict[str, np.ndarray]] | None:
        """State and arrays of the newest readable checkpoint, None where there is none yet.

        The files that grow are cut back to what they held at that moment.
        A corrupt one is set aside with a warning and the one before it is used. Raises RunError if all are
        corrupt.
        """
        found = self._checkpoints()
        for path in found:
            try:
                with np.load(BytesIO(path.read_bytes()), allow_pickle=False) as file:
                    arrays = {name: file[name] for name in file.files}
                saved = json.loads(arrays.pop(STATE).tobytes())
                if saved["arrays"] != sorted(arrays):
                    raise ValueError("arrays are missing")  # zip guards what it lists, not the list
            except UNREADABLE as error:
                self.warnings.append(
                    f"checkpoint {path.name} is corrupt ({type(error).__name__}); set aside as "
                    f"{path.name}.corrupt"
                )
                path.rename(path.with_name(path.name + ".corrupt"))
            else:
                check_format(saved.get("format"), path)
                self.rewind(saved["sizes"])
                return saved["state"], arrays
        if found:
            raise RunError(
                f"all {len(found)} checkpoints of {str(self.path)!r} are corrupt; start again with "
                f"`evolign run {self.path}/config.json --out NEW_DIR`"
            )
        self.rewind({})
        return None

    def sizes(self) -> dict[str, int]:
        """Bytes of the files that grow: what a checkpoint remembers of them."""
        return {name: _size(self.path / name) for name in GROWING}

    def rewind(self, sizes: Mapping[str, int]) -> None:
        """Cut the files that grow back to `sizes`: what came later will be made again."""
        for name in GROWING:
            path, size = self.path / name, sizes.get(name, 0)
            if path.is_file() and path.stat().st_size > size:
                os.truncate(path, size)

    def copy_weights(self, out: Path) -> None:
        """Copy the result: the folder of its adapter, or of its model."""
        weights = self.model if self.model.is_dir() else self.adapter
        try:
            shutil.copytree(weights, out)
        except OSError as error:
            raise RunError(f"cannot copy {str(weights)!r} to {str(out)!r}: {error}") from error

    def discard(self) -> None:
        """Remove a run that has not got anywhere: without a warm start and without a checkpoint."""
        if not self.warm_start.is_dir() and not any(self.checkpoints.iterdir()):
            shutil.rmtree(self.path, ignore_errors=True)

    @contextmanager
    def replacing(self, target: Path) -> Iterator[Path]:
        """A temporary folder that becomes `target` when the block ends without an error."""
        with writing(self.path), disk.replacing(target) as partial:
            yield partial

    def _checkpoints(self) -> list[Path]:
        """Newest first."""
        return sorted((self.path / "checkpoints").glob("*.npz"), reverse=True)

    def _replace(self, path: Path, data: bytes) -> None:
        with writing(self.path):
            disk.write(path, data)


def check_format(found: Any, path: Path) -> None:
    """Raise RunError if the file `path`, whose format number is `found`, is of another version."""
    if found == FORMAT:
        return
    if isinstance(found, int) and found > FORMAT:
        raise RunError(
            f"{str(path)!r} was written by a newer version of evolign (format {found}; this version reads "
            f"format {FORMAT}); install the version that provenance.json names"
        )
    raise RunError(
        f"{str(path)!r} has no format number that this version knows (format {found!r}; it reads format "
        f"{FORMAT}): it was written before there was one; use the version that wrote it, or start a new run"
    )


def read_config(path: Path) -> Config:
    """The configuration of the run in `path`. Raises RunError for one of another version."""
    file = path / "config.json"
    try:
        tree = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise RunError(f"cannot read {str(file)!r}: {error}") from error
    check_format(tree.get("format") if isinstance(tree, dict) else None, file)
    return load(file)


def check_new(path: Path) -> None:
    """Raise RunError if `path` holds something already."""
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise RunError(
            f"{str(path)!r} exists already; resume it with `evolign resume {path}`, give another --out, "
            "or remove it"
        )


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The objects of a .jsonl file; a last line that was cut off by a kill is left out.

    Raises RunError if the file cannot be read or another line is broken.
    """
    if not path.is_file():
        return []
    try:
        whole_lines = path.read_text().split("\n")[:-1]
        return [row for _, row in jsonl.loads(whole_lines)]
    except (OSError, ValueError) as error:
        raise RunError(f"cannot read {str(path)!r}: {error}") from error


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn an operating system's error into a sentence: what happened, what is safe, what to do."""
    try:
        yield
    except OSError as error:
        raise RunError(
            f"cannot write to the run directory {str(path)!r}: {error.strerror or error}. Everything up to "
            f"the last checkpoint is safe; free space or restore the directory, then `evolign resume {path}`"
        ) from error


def _locked(path: Path) -> IO[str]:
    """An open file that holds the directory's lock until it is closed or its process dies."""
    lock = (path / ".lock").open("w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        raise RunError(
            f"{str(path)!r} is in use by another evolign process; wait for it or stop it"
        ) from None
    return lock
