"""What a tracker is: it opens a run, takes its rows, and closes it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

Cell = str | int | float | bool | None
Table = Sequence[Mapping[str, Cell]]
"""Rows that may differ in their columns."""


@dataclass(frozen=True)
class TrackedRun:
    """The run that a tracker opens."""

    project: str
    name: str
    id: str
    """The same whenever the run is opened, and another for every run directory."""
    joins: bool
    """Whether it was opened in this tracker before."""
    config: Mapping[str, Any]
    """config.json"""
    folder: Path
    """The run directory, for what a tracker keeps in files."""


class Tracker(Protocol):
    """One run, open in a tracker. A tracker raises whatever its library raises."""

    where: str
    """Where to look at the run, for the user."""
    held: int | None
    """The last step that the tracker held when it was opened, -1 for nothing; None: it does not say."""

    def __init__(self, run: TrackedRun) -> None:
        """Start `run`, or join it. Nothing that the tracker holds of it is lost or repeated."""
        ...

    def log(self, step: int, metrics: Mapping[str, float], samples: Mapping[str, Table]) -> None:
        """Add the figures of a step, and the completions that belong to it: tables by name, often none.

        Steps rise; only the last one may come again, with other figures.
        """
        ...

    def keep(self, files: Sequence[Path]) -> None:
        """Store files as an artifact of the run. Nothing happens where the tracker stores none."""
        ...

    def close(self, finished: bool) -> None:
        """End the connection; what was logged has arrived. `finished`: the run is at its end."""
        ...


def cells(table: Table) -> tuple[list[str], list[list[Cell]]]:
    """The columns of all rows, in the order in which they appear, and the cells of each row."""
    names = list(dict.fromkeys(name for row in table for name in row))
    return names, [[row.get(name) for name in names] for row in table]
