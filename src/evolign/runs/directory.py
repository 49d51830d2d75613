"""The run directory: the files that every method writes and every reader relies on.

    config.json      resolved; `evolign run config.json` reproduces the run
    provenance.json  what it was started with, and on: see `record.py`
    metrics.jsonl    one JSON object per generation or optimiser step
    samples.jsonl    a few prompts, completions and scores per evaluation
    checkpoints/     the newest two
    warm_start/      the adapter that the method started from, in PEFT's format
    adapter/         the result, in PEFT's format; or
    model/           the result, where all weights were trained
    result.json      baseline and final metrics, what they cost, and the files of the result
    raised.json      limits that `evolign resume` was given
    log.txt          what the terminal showed

A run can be killed at any moment. Files that are replaced are written under a temporary name, flushed to the
disk and renamed; the two that grow are cut back to the last checkpoint when the run is resumed. A run
directory may come from somebody else: no link in it is followed.
"""

import contextlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import numpy as np

from evolign import disk, jsonl, untrusted
from evolign.config import Config
from evolign.config.recipe import load
from evolign.config.run import FORMAT
from evolign.errors import RunError, quoted
from evolign.runs.access import check_plain, check_run, locked, read_json, writing
from evolign.runs.arrays import UNREADABLE, pack, unpack
from evolign.runs.record import (
    PROVENANCE,
    Growing,
    changed,
    check_config,
    check_format,
    check_keys,
    difference,
    fingerprint,
    fingerprints,
    foreign,
    new_run,
    provenance_of,
)

KEPT_CHECKPOINTS = 2
GROWING = ("metrics.jsonl", "samples.jsonl")
SEALED = {"format", "run", "provenance", "grown", "state"}
"""What every checkpoint says of its run, and the state of its method."""
LEFTOVERS = {".lock", "checkpoints", "config.json.partial"}
"""What a run leaves that was killed before it was one."""


class RunDir:
    """One run's directory, locked against a second process while it is open.

    `RunDir.create` for a new run, `RunDir.open` for an existing one; both raise RunError with the way out.
    """

    def __init__(self, path: Path, lock: int) -> None:
        self.path = path
        self._lock = lock
        self._grown: dict[str, Growing] = {}
        self._moment: Mapping[str, Mapping[str, Any]] = {}
        self.warnings: list[str] = []
        """What was repaired when a checkpoint was read."""

    @classmethod
    def create(cls, path: str | Path, config: str) -> Self:
        """A new directory that holds `config`, the text of config.json."""
        path = Path(path).expanduser()
        check_new(path)
        made = not path.exists()
        try:
            (path / "checkpoints").mkdir(parents=True, exist_ok=True)
            run = cls(path, locked(path))
            disk.write(path / "config.json", config)
            disk.flush_folder(path.parent)
        except OSError as error:
            with contextlib.suppress(OSError):
                for name in LEFTOVERS:
                    disk.remove(path / name)
                if made:
                    path.rmdir()
            raise RunError(
                f"cannot create the run directory {str(path)!r}: {disk.reason(error)}; nothing has "
                "been run; give another --out"
            ) from error
        return run

    @classmethod
    def open(cls, path: str | Path) -> Self:
        """The directory of a run that was started before."""
        path = Path(path).expanduser()
        check_run(path)
        with writing(path):
            return cls(path, locked(path))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: Any) -> None:
        if self._lock >= 0:
            os.close(self._lock)
        self._lock = -1

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

    def write_text(self, name: str, text: str) -> None:
        """Write a whole file: afterwards it holds all of `text`, or what it held before."""
        self._replace(self.path / name, text.encode())

    def write_json(self, name: str, value: Any) -> None:
        self.write_text(name, json.dumps(value, indent=2) + "\n")

    def read_json(self, name: str) -> dict[str, Any]:
        """A JSON file that evolign wrote. Raises RunError if it is missing or broken."""
        return read_json(self.path / name)

    def append(self, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Append JSON objects to a .jsonl file, one line each."""
        data = jsonl.dumps(rows).encode()
        with writing(self.path):
            grown = self._growing(name)
            disk.append(self.path / name, data)
            grown.add(data)

    def read_rows(self, name: str) -> list[dict[str, Any]]:
        """The objects of a .jsonl file; a last line that was cut off by a kill is left out."""
        return read_rows(self.path / name)

    def save(self, generation: int, state: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
        """Write the checkpoint of `generation`: JSON-able `state` and numeric `arrays`."""
        data = pack(self.sealed(state), arrays)
        with writing(self.path):
            disk.write(self.checkpoints / f"{generation:08d}.npz", data)
            self._prune()

    def restore(self) -> tuple[Path, dict[str, Any], dict[str, np.ndarray]] | None:
        """File, state and arrays of the newest readable checkpoint, None where there is none yet.

        A corrupt one is set aside with a warning and the one before it is used. Raises RunError if all are
        corrupt, and if it is not of this run, or the run is not what the checkpoint says. Whoever can go on
        from what it holds calls `rewind`.
        """
        found = self._checkpoints()
        for path in found:
            try:
                saved, arrays = unpack(disk.read(path))
            except UNREADABLE as error:
                self.set_aside(path, path.with_name(path.name + ".corrupt"), type(error).__name__)
            else:
                self.follow(saved, path)
                return path, saved["state"], arrays
        if found:
            raise self.all_corrupt(len(found))
        return None

    def set_aside(self, path: Path, aside: Path, why: str = "") -> None:
        """Rename a corrupt checkpoint, and warn."""
        reason = f" ({why})" if why else ""
        self.warnings.append(f"checkpoint {path.name} is corrupt{reason}; set aside as {aside.name}")
        with writing(self.path):
            disk.remove(aside)
            path.rename(aside)

    def all_corrupt(self, count: int) -> RunError:
        return RunError(f"all {count} checkpoints of {str(self.path)!r} are corrupt; {new_run(self.path)}")

    def sealed(self, state: Mapping[str, Any]) -> dict[str, Any]:
        """What a checkpoint holds: `state`, and what the run is at this moment."""
        provenance = provenance_of(self.path)
        return {
            "run": provenance.get("run") if provenance else None,
            "provenance": fingerprint(self.path / PROVENANCE)["hash"] if provenance else None,
            "format": FORMAT,
            "grown": {name: self._growing(name).fingerprint() for name in GROWING},
            "state": state,
        }

    def follow(self, saved: Mapping[str, Any], path: Path, more: Set[str] = frozenset()) -> None:
        """Make the moment of the checkpoint `path`, which holds `saved`, that of `rewind`.

        It holds SEALED, and `more`. Raises RunError if the checkpoint is of another run or version, or if the
        run was changed since.
        """
        check_keys(saved, SEALED | more, path)
        provenance = provenance_of(self.path)
        if saved["provenance"] is not None:
            if provenance is None:
                raise changed(self.path, f"{PROVENANCE} is missing")
            if saved["run"] != provenance.get("run"):
                raise foreign(path, f"it is of the run {saved['run']!r:.80}", "by another run")
            if saved["provenance"] != fingerprint(self.path / PROVENANCE)["hash"]:
                raise changed(self.path, f"{PROVENANCE} was changed")
        try:
            what = difference(self.path, {name: saved["grown"][name] for name in GROWING})
        except (KeyError, TypeError) as error:
            raise foreign(path, "it does not say what the run held") from error
        if what:
            raise changed(self.path, what)
        self._moment = saved["grown"]

    def rewind(self) -> None:
        """Cut the files that grow back to the checkpoint: what came later will be made again.

        What a kill has left beside it is removed.
        """
        self._grown = {}
        with writing(self.path):
            for name in GROWING:
                path, size = self.path / name, self._moment[name]["size"] if self._moment else 0
                if path.is_file() and path.stat().st_size > size:
                    disk.write(path, disk.read(path, size))
            self._prune()
            for partial in [*self.path.rglob("*.partial")]:
                disk.remove(partial)

    def keep_record(self, **facts: Any) -> None:
        """Add to provenance.json, which makes it where there is none."""
        self.write_json(PROVENANCE, (provenance_of(self.path) or {}) | facts)

    def check_warm_start(self) -> None:
        """Raise RunError if warm_start/ is not what it was; remove one that a kill left unrecorded."""
        if not self.warm_start.is_dir():
            return
        recorded = (provenance_of(self.path) or {}).get("warm_start")
        if recorded is None:
            with writing(self.path):
                disk.remove(self.warm_start)
        elif what := difference(self.path, recorded):
            raise changed(self.path, what)

    def record_warm_start(self) -> None:
        """Record the files of warm_start/, where the method has one and they are not recorded yet."""
        provenance = provenance_of(self.path)
        if provenance is not None and "warm_start" not in provenance and self.warm_start.is_dir():
            self.keep_record(warm_start=fingerprints(self.path, self.warm_start.iterdir()))

    def finish(self, summary: Mapping[str, Any]) -> dict[str, Any]:
        """Write result.json, which is the end of a run: `summary`, and the files of the result."""
        weights = self.model if self.model.is_dir() else self.adapter
        files = [path for path in weights.iterdir() if path.suffix in (".json", ".safetensors")]
        result = {**summary, "files": fingerprints(self.path, files)}
        self.write_json("result.json", result)
        return result

    def discard(self) -> None:
        """Remove a run that has not got anywhere: without a warm start and without a checkpoint."""
        if not self.warm_start.is_dir() and not any(self.checkpoints.iterdir()):
            shutil.rmtree(self.path, ignore_errors=True)

    @contextmanager
    def replacing(self, target: Path) -> Iterator[Path]:
        """A temporary folder that becomes `target` when the block ends without an error."""
        with writing(self.path), disk.replacing(target) as partial:
            yield partial

    def _growing(self, name: str) -> Growing:
        if name not in self._grown:
            self._grown[name] = Growing(disk.read(self.path / name) if (self.path / name).exists() else b"")
        return self._grown[name]

    def _prune(self) -> None:
        for old in self._checkpoints()[KEPT_CHECKPOINTS:]:
            old.unlink(missing_ok=True)

    def _checkpoints(self) -> list[Path]:
        """Newest first."""
        return sorted((self.path / "checkpoints").glob("*.npz"), reverse=True)

    def _replace(self, path: Path, data: bytes) -> None:
        with writing(self.path):
            disk.write(path, data)


def read_config(path: Path) -> Config:
    """The configuration of the run in `path`.

    Raises RunError for one of another version, and for one that is not what the run was started with.
    """
    file = path / "config.json"
    try:
        tree = untrusted.json_object(disk.read(file))
    except (OSError, ValueError) as error:
        raise RunError(
            f"cannot read {str(file)!r}: {error}; restore it: {PROVENANCE} beside it holds it under config"
        ) from error
    check_format(tree.get("format"), file)
    check_config(path, tree)
    return load(file)


def check_new(path: Path) -> None:
    """Raise RunError if `path` holds something already; what a run left that never began does not count."""
    if not path.exists() or (path.is_dir() and not any(path.iterdir())):
        return
    if path.is_dir() and not {found.name for found in path.iterdir()} - LEFTOVERS:
        check_plain(path)
        if not any((path / "checkpoints").glob("*")):
            return
    resume = f"resume it with `evolign resume {quoted(path)}`, " if (path / "config.json").is_file() else ""
    raise RunError(f"{str(path)!r} exists already; {resume}give another --out, or remove it")


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The objects of a .jsonl file; a last line that was cut off by a kill is left out.

    Raises RunError if the file cannot be read or another line is broken.
    """
    if not path.is_file():
        return []
    try:
        whole_lines = disk.read(path).decode().split("\n")[:-1]
        return [row for _, row in jsonl.loads(whole_lines)]
    except (OSError, ValueError) as error:
        raise RunError(f"cannot read {str(path)!r}: {error}") from error
