"""What a run shows while it works: a live line on a terminal, plain lines elsewhere, all of it in log.txt."""

import math
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

from evolign import disk
from evolign.errors import visible

SIGNALS = {"fitness_of_mean": "reward", "reward_mean": "reward", "loss": "loss"}
"""What the line of a generation or step shows: the first of these that its row holds."""


class Progress(Protocol):
    """Shows the progress of a run, on a terminal or elsewhere."""

    def say(self, text: str) -> None:
        """Show a message to the user."""
        ...

    def begin(self, total: int, max_minutes: float | None = None) -> None:
        """Announce the most generations or steps, and minutes, that the run will take."""
        ...

    def record(self, row: Mapping[str, Any]) -> None:
        """Show the row that has just been appended to metrics.jsonl."""
        ...


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


class Terminal:
    """A rich progress bar over generations or steps; lines are printed above it and appended to `log`."""

    def __init__(self, log: Path) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn

        self._log = log
        self._console = Console(highlight=False)
        self._bar = Progress(
            TextColumn("{task.completed:.0f}/{task.total:.0f}"),
            BarColumn(bar_width=12),
            TextColumn("{task.fields[status]}"),
            console=self._console,
            transient=True,
            disable=not self._console.is_terminal,
        )
        self._task = self._bar.add_task("", status="", visible=False)
        self._total, self._max_minutes = 0, math.inf
        self._first: tuple[int, float] | None = None
        self._held_out = ""

    def say(self, text: str) -> None:
        """Print a line and log it."""
        text = visible(text)
        style = "bold red" if text.startswith("Warning:") else None
        self._console.print(text, markup=False, soft_wrap=True, style=style)
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
        return (
            f"{signal} · held-out {self._held_out}{rate} · "
            f"ETA {int(left) // 3600}:{int(left) // 60 % 60:02}:{int(left) % 60:02}"
        )

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.stop()
