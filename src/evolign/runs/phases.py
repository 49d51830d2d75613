"""The phases of a run, such as a validation or the reading of completions: what is done, and how fast."""

import time
from collections.abc import Iterator
from contextlib import contextmanager


def clock(seconds: float) -> str:
    """Hours, minutes and seconds."""
    whole = int(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02}:{whole % 60:02}"


class Phase:
    """Work whose `total`, where it is known, is `done` unit by unit."""

    def __init__(self, name: str, total: int | None = None, unit: str = "") -> None:
        self.name, self.total, self.unit = name, total, unit
        self.done = 0
        self._started = time.monotonic()

    def advance(self, done: int = 1, dropped: int = 0) -> None:
        """Count units that are done, and others that turn out not to be needed."""
        self.done += done
        if self.total is not None:
            self.total -= dropped

    def __str__(self) -> str:
        seconds = time.monotonic() - self._started
        facts = [self.name]
        if self.total is not None or self.done:
            count = f"{self.done:,}" if self.total is None else f"{self.done:,}/{self.total:,}"
            facts[0] = f"{self.name} {count} {self.unit}".rstrip()
        if self.done and self.unit == "tokens":
            facts.append(f"{self.done / max(seconds, 1e-9):,.0f}/s")
        facts.append(clock(seconds))
        if self.total is not None and 0 < self.done < self.total:
            facts.append(f"{clock((self.total - self.done) * seconds / self.done)} left")
        return ", ".join(facts)


class Phases:
    """The phases that are under way, the outermost first."""

    def __init__(self) -> None:
        self._open: list[Phase] = []

    @contextmanager
    def phase(self, name: str, total: int | None = None, unit: str = "") -> Iterator[Phase]:
        """A phase that is under way in the `with` block."""
        phase = Phase(name, total, unit)
        self._open.append(phase)
        try:
            yield phase
        finally:
            self._open.remove(phase)

    def __str__(self) -> str:
        return " · ".join(map(str, list(self._open)))
