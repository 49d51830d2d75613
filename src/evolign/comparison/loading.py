"""Run directories as `evolign compare` reads them: files only, nothing is written or locked."""

import glob
import math
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evolign import disk, untrusted
from evolign.errors import RunError, quoted
from evolign.runs.directory import read_rows
from evolign.runs.record import check_format

Runs = Iterable[str | Path] | Mapping[str, str | Path | Sequence[str | Path]]
"""Run directories; `LABEL=PATH` or a mapping from labels names the entries."""


@dataclass(frozen=True)
class Run:
    """One finished run."""

    path: Path
    """As the user gave it."""
    label: str | None
    """The entry's name, where the user gave one."""
    config: dict[str, Any]
    """config.json, without where the run is tracked."""
    result: dict[str, Any]
    provenance: dict[str, Any]
    rows: list[dict[str, Any]]
    """metrics.jsonl"""
    samples: list[dict[str, Any]]
    """samples.jsonl"""

    @property
    def method(self) -> str:
        return str(self.result.get("method") or self.config.get("method") or "unknown")

    @property
    def seed(self) -> Any:
        return self.result.get("seed", self.config.get("seed"))

    def metric(self, stage: str, name: str) -> float | None:
        """A metric of result.json's "baseline" or "final"."""
        metrics = self.result.get(stage)
        return number(metrics.get(name)) if isinstance(metrics, dict) else None

    def cost(self, name: str) -> float | None:
        """What result.json says it took: completions, seconds, ..."""
        return number(self.result.get(name))


@dataclass(frozen=True)
class LeftOut:
    """A path that is not compared, and the sentence that says why."""

    path: str
    reason: str


def number(value: object) -> float | None:
    """A finite number as a float; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        found = float(value)
    except OverflowError:  # JSON has integers of any length
        return None
    return found if math.isfinite(found) else None


def read_runs(runs: Runs) -> tuple[list[Run], list[LeftOut]]:
    """The finished runs among `runs`, each once, and what is left out.

    A path may be a run directory, a folder of run directories, or a pattern such as `runs/essa-*`.
    """
    found: list[Run] = []
    left_out: list[LeftOut] = []
    seen: set[Path] = set()
    for label, text in _arguments(runs):
        paths = _expand(text)
        if not paths:
            left_out.append(LeftOut(text, "there is no such folder; check the spelling"))
        for path in paths:
            if path.resolve() in seen:
                continue
            seen.add(path.resolve())
            try:
                found.append(_read_run(path, label))
            except RunError as error:
                left_out.append(LeftOut(str(path), str(error)))
    return found, left_out


def _arguments(runs: Runs) -> list[tuple[str | None, str]]:
    """Label and path of every argument."""
    if isinstance(runs, str | Path):
        runs = [runs]
    if isinstance(runs, Mapping):
        named = {label: [at] if isinstance(at, str | Path) else at for label, at in runs.items()}
        return [(label, os.path.expanduser(path)) for label, paths in named.items() for path in paths]
    return [_split_label(os.path.expanduser(run)) for run in runs]


def _split_label(text: str) -> tuple[str | None, str]:
    """LABEL=PATH at the first sign after which a path exists; a path that exists has no label."""
    if glob.glob(text) or Path(text).exists():
        return None, text
    for sign in re.finditer("=", text):
        label, path = text[: sign.start()], text[sign.end() :]
        if label and (glob.glob(path) or Path(path).exists()):
            return label, path
    return None, text


def _expand(text: str) -> list[Path]:
    """The run directories that an argument stands for; a folder without any stands for itself."""
    matches = [Path(text)] if Path(text).exists() else [Path(match) for match in sorted(glob.glob(text))]
    paths = []
    for path in matches:
        inner = [] if _looks_like_run(path) else sorted(filter(_looks_like_run, path.glob("*")))
        paths += inner or [path]
    return paths


def _looks_like_run(path: Path) -> bool:
    return (path / "config.json").is_file() or (path / "result.json").is_file()


def _read_run(path: Path, label: str | None) -> Run:
    """A finished run. Raises RunError with the reason why it cannot be compared."""
    if not path.is_dir():
        raise RunError("it is a file; name its run directory")
    if not (path / "config.json").is_file():
        raise RunError("it is not a run directory: it holds no config.json")
    config = _object(path / "config.json")
    if "format" in config:  # earlier runs and those of other programs have none
        check_format(config["format"], path / "config.json")
    config.pop("tracking", None)  # where a run is shown changes nothing of it
    rows = _rows(path / "metrics.jsonl")
    if not (path / "result.json").is_file():
        raise RunError(
            f"it is not finished ({_progress(rows)}); resume it with `evolign resume {quoted(path)}`"
        )
    result = _object(path / "result.json")
    final = result.get("final")
    if not isinstance(final, dict) or all(number(value) is None for value in final.values()):
        raise RunError("result.json holds no final metrics")
    provenance = path / "provenance.json"
    return Run(
        path,
        label,
        config,
        result,
        _object(provenance) if provenance.is_file() else {},
        rows,
        _rows(path / "samples.jsonl"),
    )


def _object(path: Path) -> dict[str, Any]:
    try:
        return untrusted.json_object(disk.read(path))
    except (OSError, ValueError) as error:
        raise RunError(f"{path.name} cannot be read: {error}") from error


def _rows(path: Path) -> list[dict[str, Any]]:
    """The objects of a .jsonl file, none where it is missing."""
    rows: list[Any] = read_rows(path)
    if not all(isinstance(row, dict) for row in rows):
        raise RunError(f"{path.name} holds a line that is not a JSON object")
    return rows


def _progress(rows: list[dict[str, Any]]) -> str:
    for unit in ("generation", "step"):
        done = max((number(row.get(unit)) or 0 for row in rows), default=0)
        if done:
            return f"{done:.0f} {unit}{'s' if done > 1 else ''} done"
    return "nothing done yet"
