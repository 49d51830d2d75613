"""A run that is killed at its n-th file operation, for every n: `make test-kills`.

Operations are what the run does to names and files below its directory: open to write, make, rename,
remove, flush. Each is a point before and a point after it. A kill before a flush also takes half of what
was written since the last one, as a power cut would. Then the run is resumed (where it had begun; else run
again), and must end as the run that nobody killed: same rows, samples, checkpoints, weights and result, bit
for bit. Every second run is killed once more while it is resumed.

Last run on 25 November 2026: evolution 106 kills at 203 points, sft 106 at 228, ppo 23 with
`--count 14`, all equal. An earlier run had found one mistake: a third checkpoint was
left, which is mended.
"""

import argparse
import builtins
import io
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from small_runs import in_this_process, small_run
from training_runs import write_recipe

METHODS: dict[str, dict[str, Any]] = {
    "evolution": {
        "adapter": {"rank": 2, "warm_start": {"max_steps": 1, "batch_size": 4}},
        "strategy": {"name": "openai_es", "population": 4, "sigma": 0.05},
        "evolution": {"generations": 3, "prompts_per_generation": 4},
    },
    "sft": {"training": {"max_steps": 4}},
    "ppo": {"adapter": None, "training": {"max_steps": 4}},
}
"""One of each kind: numbers in an archive, an adapter by a Trainer, all weights by a Trainer."""
CHANGING = ("mkdir", "rmdir", "unlink", "remove", "rename", "replace", "truncate")


def recipe_for(root: Path, method: str) -> Path:
    """The recipe of a method in `root`, with model, rows and reward beside it."""
    path = write_recipe(root / f"{method}.json", method, **METHODS[method])
    if method == "evolution":
        found = json.loads(path.read_text())
        del found["training"]
        found["task"] |= {"num_warmup": 4}
        path.write_text(json.dumps(found))
    return path


class Operations:
    """Counts the file operations of this process below `root`, and kills it at point `at`."""

    def __init__(self, root: Path, at: int) -> None:
        self._root, self._at, self.points = str(root), at, 0
        self._flushed: dict[int, int] = {}
        for name in CHANGING:
            setattr(os, name, self._counted(getattr(os, name)))
        builtins.open = io.open = self._opening(io.open)
        os.open = self._opening(os.open)
        os.fsync = self._flushing(os.fsync)

    def _point(self) -> None:
        self.points += 1
        if self.points == self._at:
            os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(60)

    def _below(self, path: Any, dir_fd: int | None = None) -> bool:
        if isinstance(path, int):
            return False
        if dir_fd is not None:
            path = os.path.join(os.readlink(f"/proc/self/fd/{dir_fd}"), path)
        return str(os.path.abspath(os.fspath(path))).startswith(self._root)

    def _counted(self, operation: Callable[..., Any]) -> Callable[..., Any]:
        def counted(path: Any, *args: Any, dir_fd: int | None = None, **kwargs: Any) -> Any:
            more = kwargs if dir_fd is None else kwargs | {"dir_fd": dir_fd}
            if not self._below(path, dir_fd):
                return operation(path, *args, **more)
            self._point()
            done = operation(path, *args, **more)
            self._point()
            return done

        return counted

    def _opening(self, operation: Callable[..., Any]) -> Callable[..., Any]:
        def opening(path: Any, mode: Any = "r", *args: Any, **kwargs: Any) -> Any:
            mode = kwargs.pop("flags", mode)
            writes = mode & (os.O_WRONLY | os.O_RDWR) if isinstance(mode, int) else set(mode) & set("wax+")
            if not writes or not self._below(path):
                return operation(path, mode, *args, **kwargs)
            self._point()
            file = operation(path, mode, *args, **kwargs)
            number = os.stat(path).st_ino
            self._flushed.setdefault(number, os.stat(path).st_size)
            self._point()
            return file

        return opening

    def _flushing(self, operation: Callable[..., Any]) -> Callable[..., Any]:
        def flushing(descriptor: int) -> None:
            found = os.fstat(descriptor)
            path = os.readlink(f"/proc/self/fd/{descriptor}")
            if not path.startswith(self._root):
                return
            if self.points + 1 == self._at and not os.path.isdir(path):
                kept = self._flushed.get(found.st_ino, 0)
                os.truncate(path, kept + (found.st_size - kept) // 2)
            self._point()
            self._flushed[found.st_ino] = found.st_size  # what the disk holds; the call itself takes long
            self._point()

        return flushing


def follow(recipe: Path, path: Path, at: int, told: Path) -> None:
    """Run or resume, and be killed at point `at` (0: not); for a process of its own."""
    from evolign.commands.export import export
    from evolign.commands.run import resume, run
    from evolign.config.recipe import load
    from evolign.runs.progress import Silent

    operations, progress = Operations(path, at), Silent()
    if (path / "config.json").is_file():
        resume(path, progress=progress)
    else:
        run(load(recipe), path, progress=progress)
    out = path.with_name(path.name + "-export")
    if not out.exists():
        export(path, out)
    told.write_text(json.dumps({"points": operations.points, "said": progress.said}))


def go(recipe: Path, path: Path, at: int = 0) -> dict[str, Any] | None:
    """`follow` in a child of this process, which has imported everything; None where it was killed."""
    told = path.with_name(path.name + "-told")
    told.unlink(missing_ok=True)
    with warnings.catch_warnings(action="ignore"):  # of forks beside threads: those of this process wait
        child = os.fork()
    if child == 0:
        try:
            follow(recipe, path, at, told)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code in (0, -signal.SIGKILL), f"exit code {code} at point {at}"
    return json.loads(told.read_text()) if code == 0 else None


def killed(recipe: Path, path: Path, at: int, again: int = 0) -> bool:
    """Kill the run at `at`, and its resumption at `again`, and let it end; whether the first kill came."""
    first = go(recipe, path, at)
    if again:
        go(recipe, path, again)
    last = go(recipe, path)
    assert last is not None and not any("Warning" in line for line in last["said"]), last
    return first is None


def substance(path: Path) -> dict[str, Any]:
    """All that two equal runs have in common: every file, but for times, memory and ids."""
    found: dict[str, Any] = {}
    for file in sorted([*path.rglob("*"), *path.with_name(path.name + "-export").rglob("*")]):
        name = str(file.relative_to(path.parent)).removeprefix(path.name)
        if file.is_dir() or file.name in (".lock", "provenance.json", "README.md", "training_args.bin"):
            continue
        if file.suffix == ".npz":
            with np.load(file) as arrays:
                found[name] = {key: arrays[key].tobytes() for key in arrays.files if key != "state_json"}
                found[name + " state"] = _lasting(json.loads(arrays["state_json"].tobytes())["state"])
        elif file.name == "trainer_state.json":
            found[name] = json.loads(file.read_text())["global_step"]
        elif file.name == "evolign.json":
            found[name] = _lasting(json.loads(file.read_text())["state"])
        elif file.suffix == ".jsonl":
            found[name] = [_lasting(json.loads(line)) for line in file.read_text().splitlines()]
        elif file.suffix == ".json":
            found[name] = _lasting(json.loads(file.read_text()))
        else:
            found[name] = file.read_bytes()
    return found


def _lasting(row: Any) -> Any:
    if not isinstance(row, dict):
        return row
    return {name: row[name] for name in row if not name.startswith(("seconds", "peak_memory"))}


def differences(path: Path, reference: dict[str, Any]) -> list[str]:
    """Names of what is not as in the reference."""
    now = substance(path)
    return sorted(name for name in now.keys() | reference.keys() if now.get(name) != reference.get(name))


def spread(points: int, count: int) -> Iterator[int]:
    """`count` of the points 1 ... `points`, evenly; all, where there are fewer."""
    step = max(1.0, points / count)
    yield from sorted({min(points, 1 + int(i * step)) for i in range(min(count, points))})


def main() -> None:
    os.environ |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1"}
    parser = argparse.ArgumentParser(description="Kill runs at their n-th file operation.")
    parser.add_argument("--count", type=int, default=70, help="points of each method; 0: all")
    parser.add_argument("--methods", nargs="*", default=list(METHODS))
    options = parser.parse_args()
    total, failed = 0, []
    in_this_process(setattr)
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as folder:
        root = Path(folder)
        for method in options.methods:
            recipe, reference = recipe_for(root, method), root / f"{method}-reference"
            small_run(recipe, root / f"{method}-first")  # imports what all others need
            points = go(recipe, reference)["points"]  # type: ignore[index]
            expected, done = substance(reference), 0
            for at in spread(points, options.count or points):
                path = root / f"{method}-{at}"
                try:
                    again = random.Random(at).randint(1, 40) if at % 2 else 0
                    came = killed(recipe, path, at, again)
                    wrong = differences(path, expected)
                except AssertionError as error:
                    came, wrong = True, [str(error)]
                done += came + bool(again)
                if wrong:
                    failed.append(f"{method}, point {at}: {wrong}")
                    print(failed[-1], flush=True)
                else:
                    shutil.rmtree(path)
                    shutil.rmtree(path.with_name(path.name + "-export"))
            total += done
            print(f"{method}: {points} points, {done} kills, {len(failed)} failures so far", flush=True)
    print(f"{total} kills over {len(options.methods)} methods, {len(failed)} failures")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
