"""What a run shows while it works: a live line on a terminal, plain lines elsewhere, all of it in log.txt."""

import math
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

from evolign import disk
from evolign.errors import visible
from evolign.runs.phases import Phase, Phases, clock

SIGNALS = {"fitness_of_mean": "reward", "reward_mean": "reward", "loss": "loss"}
"""What the line of a generation or step shows: the first of these that its row holds."""

TICK = 1.0
FIRST_SILENCE, SILENCE = 10.0, 30.0
"""Without a terminal, a phase is reported after so many seconds in which nothing was said, and then again."""


ASKED = "the request of its progress"
"""Why a run has stopped whose `Progress.record` returned True. It has no result.json, and can be resumed."""


class Progress(Protocol):
    """Shows the progress of a run, on a terminal or elsewhere."""

    def say(self, text: str) -> None:
        """Show a message to the user."""
        ...

    def begin(self, total: int, max_minutes: float | None = None) -> None:
        """Announce the most generations or steps, and minutes, that the run will take."""
        ...

    def record(self, row: Mapping[str, Any]) -> bool | None:
        """Show the row that has just been appended to metrics.jsonl.

        True asks the run to stop at the checkpoint of this row. It exports its best policy so far, and
        `evolign resume` continues it.
        """
        ...

    def phase(self, name: str, total: int | None = None, unit: str = "") -> AbstractContextManager[Phase]:
        """Show that something of `total` units is under way in a `with` block, which advances it.

        A class that derives from this one and does not define it shows no phases.
        """
        return nullcontext(Phase(name, total, unit))


class Silent:
    """Shows nothing; keeps what was said."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)

    def begin(self, total: int, max_minutes: float | None = None) -> None:
        pass

    def record(self, row: Mapping[str, Any]) -> None:
        pass

    def phase(self, name: str, total: int | None = None, unit: str = "") -> AbstractContextManager[Phase]:
        return nullcontext(Phase(name, total, unit))


class Spoken(Silent):
    """Hands on what is said, and shows nothing else."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say

    def say(self, text: str) -> None:
        self._say(visible(text))


class Relay:
    """Shows everything through another progress: what comes between a run and its user derives from it."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress

    def say(self, text: str) -> None:
        """See `Progress.say`."""
        self._progress.say(text)

    def begin(self, total: int, max_minutes: float | None = None) -> None:
        """See `Progress.begin`."""
        self._progress.begin(total, max_minutes)

    def record(self, row: Mapping[str, Any]) -> bool | None:
        """See `Progress.record`."""
        return self._progress.record(row)

    def phase(self, name: str, total: int | None = None, unit: str = "") -> AbstractContextManager[Phase]:
        """See `Progress.phase`."""
        return self._progress.phase(name, total, unit)


class Terminal:
    """A rich progress bar over generations or steps, and the phases under way below it.

    Lines are printed above it and appended to `log`. Without a terminal, phases are printed as lines, by a
    thread: no phase has to end, or to advance, to be seen.
    """

    def __init__(self, log: Path) -> None:
        from rich.console import Console

        self._log = log
        self._console = Console(file=sys.stdout, highlight=False)  # a warm start silences sys.stdout
        self._phases = Phases()
        self.phase = self._phases.phase
        self._last, self._patience = time.monotonic(), FIRST_SILENCE
        self._ended = threading.Event()
        self._watch: threading.Thread | None = None
        self._done = ""
        self._bar = _bar(self._console, self._phases)
        self._task = self._bar.add_task("", status="", visible=False)
        self._total, self._max_minutes = 0, math.inf
        self._first: tuple[int, float] | None = None
        self._held_out = ""

    def say(self, text: str) -> None:
        """Print a line and log it."""
        text = visible(text)
        style = "bold red" if text.startswith("Warning:") else None
        self._console.print(text, markup=False, soft_wrap=True, style=style)
        self._last, self._patience = time.monotonic(), FIRST_SILENCE
        try:
            disk.append(self._log, f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}\n", flush=False)
        except OSError as error:
            print(visible(f"evolign: cannot write {self._log}: {error}"), file=sys.stderr)

    def begin(self, total: int, max_minutes: float | None = None) -> None:
        """Set the bar's length."""
        self._total, self._max_minutes = total, max_minutes or math.inf
        self._bar.update(self._task, total=total)

    def record(self, row: Mapping[str, Any]) -> None:
        """Move the bar; print a line when the row holds a validation."""
        unit = "generation" if "generation" in row else "step"
        self._done = f"{unit} {row[unit]}"
        held_out = {
            name.removeprefix("eval/"): row[name]
            for name in row
            if name.startswith("eval/") and f"{name}_low" in row
        }
        signal = next((f"{label} {row[name]:.3f}" for name, label in SIGNALS.items() if name in row), "")
        if held_out:  # the first is the task's own metric; ROUGE and the like are in metrics.jsonl
            shown = next(iter(held_out)).rpartition("_")[0]
            held_out = {name: held_out[name] for name in held_out if name.rpartition("_")[0] == shown}
            self._held_out = " ".join(
                f"{name.split('_')[-1]} {value:.3f}" for name, value in held_out.items()
            )
            metrics = "  ".join(f"{name} {value:.3f}" for name, value in held_out.items())
            self.say(f"{unit} {row[unit]:>4}{'  ' if signal else ''}{signal}  held-out: {metrics}")
        if signal:
            status = self._status(row, row[unit], signal)
            self._bar.update(self._task, completed=row[unit], visible=True, status=status)

    def _status(self, row: Mapping[str, Any], done: int, signal: str) -> str:
        now = time.monotonic()
        self._first = self._first or (done - 1, now - row.get("seconds_generate", 0.0))
        each = (now - self._first[1]) / (done - self._first[0])
        left = min((self._total - done) * each, max(0.0, 60 * self._max_minutes - row["seconds"]))
        rate = f" · {row['generated_tokens'] / row['seconds']:,.0f} tok/s" if row["generated_tokens"] else ""
        return f"{signal} · held-out {self._held_out}{rate} · ETA {clock(left)}"

    def _watch_silence(self) -> None:
        while not self._ended.wait(TICK):
            self._break_silence(time.monotonic())

    def _break_silence(self, now: float) -> None:
        """Print what is under way, unless something was printed lately."""
        phases = str(self._phases)
        if phases and now - self._last >= self._patience:
            done = f"{self._done}/{self._total} · " if self._done and self._total else ""
            self._console.print(f"  {done}{phases}", markup=False, soft_wrap=True)
            self._last, self._patience = now, SILENCE

    def __enter__(self) -> Self:
        self._bar.start()
        if not self._console.is_terminal:
            self._watch = threading.Thread(target=self._watch_silence, name="evolign-progress", daemon=True)
            self._watch.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._ended.set()
        if self._watch is not None:
            self._watch.join()
        self._bar.stop()


def _bar(console: Any, phases: Phases) -> Any:
    from rich.progress import BarColumn, Progress, TextColumn
    from rich.text import Text

    class Bar(Progress):
        def get_renderables(self) -> Iterable[Any]:
            yield from super().get_renderables()
            if text := str(phases):
                yield Text(text, no_wrap=True, overflow="ellipsis")

    return Bar(
        TextColumn("{task.completed:.0f}/{task.total:.0f}"),
        BarColumn(bar_width=12),
        TextColumn("{task.fields[status]}"),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
