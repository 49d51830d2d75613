"""What a run shows while it works: a live line on a terminal, plain lines elsewhere, all of it in log.txt."""

import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

from evolign.config import EvolutionConfig


class Progress(Protocol):
    """Who watches a run: a terminal, a notebook, a test."""

    def say(self, text: str) -> None:
        """Something that the user should read."""
        ...

    def generation(self, row: Mapping[str, Any]) -> None:
        """The row that has just been appended to metrics.jsonl."""
        ...


class Silent:
    """Shows nothing; keeps what was said."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)

    def generation(self, row: Mapping[str, Any]) -> None:
        pass


class Terminal:
    """A rich progress bar over the generations; lines are printed above it and appended to `log`."""

    def __init__(self, limits: EvolutionConfig, log: Path) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn

        self._limits = limits
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
        self._task = self._bar.add_task("", total=limits.generations, status="", visible=False)
        self._first: tuple[int, float] | None = None
        self._held_out = ""

    def say(self, text: str) -> None:
        """Print a line and log it."""
        self._console.print(text, markup=False, soft_wrap=True)
        try:
            with self._log.open("a") as file:
                file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}\n")
        except OSError as error:
            print(f"evolign: cannot write {self._log}: {error}", file=sys.stderr)

    def generation(self, row: Mapping[str, Any]) -> None:
        """Move the bar; print a line when the row holds a validation."""
        held_out = {
            name.removeprefix("eval/"): row[name]
            for name in row
            if name.startswith("eval/") and f"{name}_low" in row
        }
        if held_out:
            self._held_out = " ".join(
                f"{name.split('_')[-1]} {value:.3f}" for name, value in held_out.items()
            )
            fitness = f"  fitness {row['fitness_mean']:.3f}" if "fitness_mean" in row else ""
            metrics = "  ".join(f"{name} {value:.3f}" for name, value in held_out.items())
            self.say(f"generation {row['generation']:>4}{fitness}  held-out: {metrics}")
        if "fitness_mean" in row:
            self._bar.update(self._task, completed=row["generation"], visible=True, status=self._status(row))

    def _status(self, row: Mapping[str, Any]) -> str:
        now = time.monotonic()
        self._first = self._first or (row["generation"] - 1, now - row["seconds_generate"])
        per_generation = (now - self._first[1]) / (row["generation"] - self._first[0])
        left = (self._limits.generations - row["generation"]) * per_generation
        if self._limits.max_minutes:
            left = min(left, max(0.0, 60 * self._limits.max_minutes - row["seconds"]))
        rate = row["generated_tokens"] / row["seconds"]
        return (
            f"fitness {row['fitness_mean']:.3f} · held-out {self._held_out} · {rate:,.0f} tok/s · "
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
