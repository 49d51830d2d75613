"""The rows of a run's files: each read once, and in the form that trackers take."""

import json
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from evolign import jsonl
from evolign.errors import RunError, said, shown
from evolign.tracking.base import Cell, Table

UNITS = ("generation", "step")
Row = dict[str, Any]
ROWS = TypeAdapter(list[Row])


class Appended:
    """A .jsonl file that a run appends to."""

    def __init__(self, path: Path) -> None:
        self._path, self._offset, self._count = path, 0, 0

    def fresh(self) -> list[tuple[int, Row]]:
        """The whole lines that have been appended since the last call, with their numbers from 0."""
        if not self._path.is_file():
            return []
        with self._path.open("rb") as file:
            file.seek(self._offset)
            data = file.read()
        whole = data[: data.rfind(b"\n") + 1]
        self._offset += len(whole)
        try:
            rows = ROWS.validate_python([row for _, row in jsonl.loads(whole.decode().split("\n"))])
        except ValueError as error:
            raise RunError(f"cannot read {str(self._path)!r}: {said(error)}") from error
        self._count += len(rows)
        return list(enumerate(rows, start=self._count - len(rows)))


def step_of(row: Mapping[str, Any]) -> int:
    """The generation or optimiser step of a row."""
    found = next((row[unit] for unit in UNITS if unit in row), 0)
    if not isinstance(found, int) or found < 0:
        raise RunError(
            f"a row is of the generation or step {shown(found)}, which is no count; restore the run"
        )
    return found


def numbers(row: Mapping[str, Any]) -> dict[str, float]:
    """The finite figures of a row, without its step."""
    return {
        name: float(value)
        for name, value in row.items()
        if isinstance(value, int | float)
        and not isinstance(value, bool)
        and name not in UNITS
        and abs(value) <= sys.float_info.max  # NaN is no figure either
    }


def tables(samples: Iterable[Mapping[str, Any]]) -> dict[str, Table]:
    """Rows of samples.jsonl as tables: one for validation, and those of the final test."""
    found: dict[str, list[dict[str, Cell]]] = {}
    for row in samples:
        found.setdefault(f"samples/{row.get('stage', row.get('split'))}", []).append(_cells(row))
    return {**found}


def _cells(row: Mapping[str, Any]) -> dict[str, Cell]:
    """What is no plain value is shown as JSON."""
    return {
        name: value if isinstance(value, str | int | float | None) else json.dumps(value)
        for name, value in row.items()
    }
