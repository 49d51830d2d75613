"""Checkpoints of gradient methods: the Trainer's folders, sealed with our own state.

A folder counts only with its seal, which is written last and holds the hash of every file, the best weights
so far among them: a run that is killed while a checkpoint is written resumes from the one before.
"""

import contextlib
import hashlib
import json
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from evolign import disk
from evolign.config.run import FORMAT
from evolign.errors import RunError
from evolign.runs.directory import RunDir, check_format, writing

SEAL = "evolign.json"
FOLDER = re.compile(r"checkpoint-\d+")


def seal(run: RunDir, step: int, state: Mapping[str, Any]) -> None:
    """Make the Trainer's checkpoint of `step` count."""
    folder = run.checkpoints / f"checkpoint-{step}"
    with writing(run.path):
        files = [*sorted(folder.iterdir()), best_file(run, state["best_step"])]
        for path in files:
            with path.open("rb+") as file:
                os.fsync(file.fileno())
        hashes = {str(path.relative_to(run.checkpoints)): _hash(path) for path in files}
        saved = {"format": FORMAT, "state": state, "sizes": run.sizes(), "files": hashes}
        disk.write(folder / SEAL, json.dumps(saved))
    _drop_unused_bests(run)


def restore(run: RunDir) -> tuple[Path, dict[str, Any]] | None:
    """Folder and state of the newest whole checkpoint, None where there is none yet.

    The files that grow are cut back to that moment. A damaged checkpoint is set aside with a warning and the
    one before it is used. Raises RunError if all are damaged.
    """
    damaged = 0
    for folder in _folders(run):
        if not (folder / SEAL).is_file():  # killed while it was written
            shutil.rmtree(folder)
            continue
        saved = _read(folder)
        if saved is not None:
            check_format(saved.get("format"), folder / SEAL)
            run.rewind(saved["sizes"])
            return folder, saved["state"]
        damaged += 1
        run.warnings.append(f"checkpoint {folder.name} is corrupt; set aside as corrupt-{folder.name}")
        folder.rename(folder.with_name(f"corrupt-{folder.name}"))
    if damaged:
        raise RunError(
            f"all {damaged} checkpoints of {str(run.path)!r} are corrupt; start again with "
            f"`evolign run {run.path}/config.json --out NEW_DIR`"
        )
    run.rewind({})
    return None


def best_file(run: RunDir, step: int) -> Path:
    """Where the weights of the best step so far are kept."""
    return run.checkpoints / f"best-{step}.safetensors"


def _read(folder: Path) -> dict[str, Any] | None:
    try:
        saved = json.loads((folder / SEAL).read_text())
        whole = all(_hash(folder.parent / name) == value for name, value in saved["files"].items())
    except (OSError, ValueError, KeyError):
        return None
    return saved if whole else None


def _folders(run: RunDir) -> list[Path]:
    """Newest first."""
    found = [path for path in run.checkpoints.iterdir() if FOLDER.fullmatch(path.name)]
    return sorted(found, key=lambda path: -int(path.name.removeprefix("checkpoint-")))


def _drop_unused_bests(run: RunDir) -> None:
    """Remove best weights that no checkpoint names any more."""
    used = set()
    for folder in _folders(run):
        with contextlib.suppress(OSError, ValueError, KeyError):  # not sealed, or damaged: it names none
            saved = json.loads((folder / SEAL).read_text())
            used.add(best_file(run, saved["state"]["best_step"]).name)
    for path in run.checkpoints.glob("best-*.safetensors"):
        if path.name not in used:
            path.unlink()


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, hashlib.blake2b).hexdigest()
