"""Checkpoints of gradient methods: the Trainer's folders, sealed with our own state.

A folder counts only with its seal, which is written last and holds the hash of every file, the best weights
so far among them: a run that is killed while a checkpoint is written resumes from the one before.
"""

import contextlib
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

from safetensors import SafetensorError
from transformers import TrainerState

from evolign import disk, untrusted
from evolign.runs.access import writing
from evolign.runs.directory import KEPT_CHECKPOINTS, RunDir
from evolign.runs.record import difference, fingerprints, foreign

SEAL = "evolign.json"
FOLDER = re.compile(r"checkpoint-\d+")
BROKEN = (
    OSError, ValueError, TypeError, KeyError, AttributeError, IndexError, EOFError, RuntimeError, MemoryError,
    UnpicklingError, SafetensorError,
)  # fmt: skip
"""What torch, json and the Trainer raise on a state that they did not write."""


def seal(run: RunDir, step: int, state: Mapping[str, Any]) -> None:
    """Make the Trainer's checkpoint of `step` count, and `prune`."""
    folder = run.checkpoints / f"checkpoint-{step}"
    with writing(run.path):
        best = best_file(run, state["best_step"])
        disk.settle(folder, best)
        files = fingerprints(run.checkpoints, [*folder.iterdir(), best])
        disk.write(folder / SEAL, json.dumps(run.sealed(state) | {"files": files}))
        disk.flush_folder(run.checkpoints)
    prune(run)


def prune(run: RunDir) -> None:
    """Remove the checkpoints that are not kept, and best weights that none of the others names."""
    with writing(run.path):
        for old in _folders(run)[KEPT_CHECKPOINTS:]:
            (old / SEAL).unlink(missing_ok=True)  # first: what is being removed does not count
            disk.remove(old)
        _drop_unused_bests(run)


def restore(run: RunDir) -> tuple[Path, dict[str, Any]] | None:
    """Folder and state of the newest whole checkpoint, None where there is none yet.

    A damaged checkpoint is set aside with a warning and the one before it is used. Raises RunError if all are
    damaged, and if it is not of this run, or the run is not what the checkpoint says.
    """
    damaged = 0
    for folder in _folders(run):
        if not (folder / SEAL).is_file():  # killed while it was written
            with writing(run.path):
                disk.remove(folder)
            continue
        saved = _read(folder)
        if saved is not None:
            run.follow(saved, folder, more={"files"})
            _check_trainer_state(folder)
            return folder, saved["state"]
        damaged += 1
        run.set_aside(folder, folder.with_name(f"corrupt-{folder.name}"))
    if damaged:
        raise run.all_corrupt(damaged)
    return None


def best_file(run: RunDir, step: int) -> Path:
    """Where the weights of the best step so far are kept."""
    return run.checkpoints / f"best-{step}.safetensors"


@contextmanager
def loading(folder: str | Path) -> Iterator[None]:
    """Refuse a state that the Trainer cannot load: a pickle, or one of something else."""
    try:
        yield
    except BROKEN as error:
        what = "a pickle, of which nothing is run" if isinstance(error, UnpicklingError) else "another state"
        raise foreign(Path(folder), f"it holds {what}: {' '.join(str(error).split())[:200]}") from error


def _check_trainer_state(folder: Path) -> None:
    with loading(folder):
        found = TrainerState.load_from_json(str(folder / "trainer_state.json"))
        if folder.name != f"checkpoint-{found.global_step}":
            raise ValueError(f"it is of step {found.global_step}")


def _read(folder: Path) -> Any:
    """What a seal holds; None where it, or a file that it names, is damaged."""
    try:
        saved = untrusted.json_value(disk.read(folder / SEAL))
        files = saved["files"] if isinstance(saved, dict) and "files" in saved else {}
        return None if difference(folder.parent, files) else saved
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _folders(run: RunDir) -> list[Path]:
    """Newest first, by their number: a clock that jumps changes nothing."""
    found = [path for path in run.checkpoints.iterdir() if FOLDER.fullmatch(path.name)]
    return sorted(found, key=lambda path: -int(path.name.removeprefix("checkpoint-")))


def _drop_unused_bests(run: RunDir) -> None:
    """Remove best weights that no checkpoint names any more."""
    used = set()
    for folder in _folders(run):
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):  # not sealed, or damaged
            saved = untrusted.json_value(disk.read(folder / SEAL))
            used.add(best_file(run, saved["state"]["best_step"]).name)
    for path in run.checkpoints.glob("best-*.safetensors"):
        if path.name not in used:
            path.unlink()
