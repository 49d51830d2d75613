"""A progress that keeps the phases of a run."""

from collections.abc import Iterator
from contextlib import contextmanager

from evolign.runs.phases import Phase
from evolign.runs.progress import Silent


class Watched(Silent):
    """Keeps what was said, and every phase, in the order in which they began."""

    def __init__(self) -> None:
        super().__init__()
        self.phases: list[Phase] = []

    @contextmanager
    def phase(self, name: str, total: int | None = None, unit: str = "") -> Iterator[Phase]:
        phase = Phase(name, total, unit)
        self.phases.append(phase)
        yield phase
