"""Following a run: the rows that it appends to its files go to the trackers, each row once."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from uuid import uuid4

from pydantic import TypeAdapter, ValidationError

from evolign.errors import ConfigError, RunError, quoted, said
from evolign.runs.directory import RunDir
from evolign.runs.progress import Progress, Relay
from evolign.tracking import build_tracker
from evolign.tracking.base import TrackedRun, Tracker
from evolign.tracking.rows import Appended, Row, numbers, step_of, tables

MARKS = "tracking.json"
"""In the run directory: where the run is in each tracker, and how much of it was sent."""


@dataclass
class Mark:
    """How far a tracker has got. Rows are counted, since a resumed run writes the same rows again."""

    project: str
    name: str
    id: str
    metrics: int = 0
    """Rows of metrics.jsonl that were sent."""
    samples: int = 0
    finished: bool = False
    """Whether the result was sent too."""


class Follower(Relay):
    """A run's progress, which also sends the rows of the run directory to its trackers.

    A tracker that fails is left with a warning: the run goes on, and `evolign track` sends what is missing.
    """

    def __init__(
        self, run: RunDir, to: Sequence[str], project: str, name: str | None, progress: Progress
    ) -> None:
        """Raises ConfigError if a tracker cannot be opened in which the run has never been."""
        super().__init__(progress)
        self._run = run
        self._metrics = Appended(run.path / "metrics.jsonl")
        self._samples = Appended(run.path / "samples.jsonl")
        self._waiting: list[tuple[int, Row]] = []
        """Samples that came after the last row."""
        self._last = 0
        self.failed: dict[str, str] = {}
        """What the trackers said that were left."""
        self._marks = self._read_marks()
        self._trackers: dict[str, Tracker] = {}
        for tracker in to:
            self._open(tracker, project, name or run.path.resolve().name)

    def record(self, row: Mapping[str, Any]) -> bool | None:
        """Show the row, and send what the run has written since the last one."""
        asked = super().record(row)
        self.send()
        return asked

    def send(self) -> None:
        """Send the rows that no tracker has got yet, and with each the samples up to its step."""
        if not self._trackers:
            return
        metrics = self._metrics.fresh()
        self._waiting += self._samples.fresh()
        for number, row in metrics:
            self._last = step = step_of(row)
            due = [(i, sample) for i, sample in self._waiting if step_of(sample) <= step]
            self._waiting = self._waiting[len(due) :]
            for name in [*self._trackers]:
                self._log(name, step, number, numbers(row), due)

    def finish(self, summary: Mapping[str, Any], files: Sequence[Path]) -> None:
        """Send what is left, the result, and the files that a tracker can store."""
        self.send()
        for name in self.unfinished:  # the samples of the final test: no row comes after them
            self._log(name, self._last, None, {}, self._waiting)
        result = {f"{stage}/{k}": v for stage in ("baseline", "final") for k, v in summary[stage].items()}
        for name in self.unfinished:
            tracker = self._trackers[name]

            def give(tracker: Tracker = tracker) -> None:
                tracker.log(self._last, numbers(result), {})
                tracker.keep(files)

            if self._try(name, give):
                self._write(name, finished=True)

    @property
    def unfinished(self) -> list[str]:
        """The open trackers that have not got the result."""
        return [name for name in self._trackers if not self._marks[name].finished]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for name, tracker in [*self._trackers.items()]:
            self._try(name, partial(tracker.close, error is None))

    def _open(self, name: str, project: str, run_name: str) -> None:
        joins = name in self._marks
        if joins and self._marks[name].finished:
            return self.say(f"Tracking: {name} holds all of the run.")
        mark = self._marks.get(name) or Mark(project, run_name, uuid4().hex[:8])
        config = self._run.read_json("config.json")
        run = TrackedRun(mark.project, mark.name, mark.id, joins, config, self._run.path)
        try:
            self._trackers[name] = tracker = build_tracker(name, run)
        except Exception as error:  # whatever the tracker's library raises
            if not joins:
                raise ConfigError(
                    f"tracking.to: {name} cannot be started ({type(error).__name__}: {said(error)}); mend "
                    "that, or leave it out and send the finished run with `evolign track`"
                ) from error
            return self._leave(name, error)
        self._marks[name] = mark
        self._write(name, **({"metrics": 0, "samples": 0} if tracker.held == -1 else {}))
        self.say(f"Tracking: {tracker.where}")

    def _log(
        self,
        name: str,
        step: int,
        number: int | None,
        metrics: Mapping[str, float],
        samples: Sequence[tuple[int, Row]],
    ) -> None:
        """Send row `number` of the metrics and these samples, if the tracker lacks them.

        They are marked before they are sent: a kill in between loses a row rather than repeat it.
        """
        tracker, mark = self._trackers[name], self._marks[name]
        if number is None or tracker.held in (None, -1):
            lacked = number is None or number >= mark.metrics
            lacking = [row for i, row in samples if i >= mark.samples]
        else:
            lacked = step > tracker.held
            lacking = [row for _, row in samples if lacked]
        if not lacking and not (lacked and metrics):
            return
        before = {"metrics": mark.metrics, "samples": mark.samples}
        self._write(
            name,
            metrics=max(mark.metrics, 0 if number is None else number + 1),
            samples=max([mark.samples, *(i + 1 for i, _ in samples)]),
        )
        if not self._try(name, partial(tracker.log, step, metrics if lacked else {}, tables(lacking))):
            self._write(name, **before)

    def _try(self, name: str, act: Callable[[], None]) -> bool:
        """Do something with a tracker; False if it failed, now or before."""
        if name not in self._trackers:
            return False
        try:
            act()
        except Exception as error:  # whatever the tracker's library raises: no run is lost for it
            self._leave(name, error)
            return False
        return True

    def _leave(self, name: str, error: Exception) -> None:
        self._trackers.pop(name, None)
        self.failed[name] = f"{type(error).__name__}: {said(error)}"
        self.say(
            f"Warning: {name} failed ({self.failed[name]}), and the run goes on without it; afterwards, "
            f"`evolign track {quoted(self._run.path)} --to {name}` sends what is missing."
        )

    def _read_marks(self) -> dict[str, Mark]:
        if not (self._run.path / MARKS).is_file():
            return {}
        try:
            return TypeAdapter(dict[str, Mark]).validate_python(self._run.read_json(MARKS))
        except ValidationError as error:
            raise RunError(
                f"cannot read {str(self._run.path / MARKS)!r}: {said(error, 200)}; remove it, and the run is "
                "sent anew"
            ) from error

    def _write(self, name: str, **changes: Any) -> None:
        mark = self._marks[name]
        for field, value in changes.items():
            setattr(mark, field, value)
        self._run.write_json(MARKS, {name: asdict(mark) for name, mark in self._marks.items()})
