"""TensorBoard: scalars and samples as event files in the run directory; `tensorboard --logdir runs`."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from evolign.errors import quoted
from evolign.tracking.base import Cell, Table, TrackedRun, cells

FOLDER = "tensorboard"


class TensorBoard:
    """One run's event files. TensorBoard stores no artifacts: the files lie beside its own."""

    def __init__(self, run: TrackedRun) -> None:
        """See `Tracker.__init__`."""
        from torch.utils.tensorboard import SummaryWriter

        self.held = None
        self.where = f"tensorboard --logdir {quoted(run.folder.resolve().parent)}"
        self._writer = SummaryWriter(run.folder / FOLDER)

    def log(self, step: int, metrics: Mapping[str, float], samples: Mapping[str, Table]) -> None:
        """See `Tracker.log`."""
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, step)
        for name, table in samples.items():
            self._writer.add_text(name, _markdown(table), step)
        self._writer.flush()

    def keep(self, files: Sequence[Path]) -> None:
        """See `Tracker.keep`."""

    def close(self, finished: bool) -> None:
        """See `Tracker.close`."""
        self._writer.close()


def _markdown(table: Table) -> str:
    """A table as TensorBoard shows texts."""
    names, data = cells(table)
    lines = [names, ["---"] * len(names), *([_cell(value) for value in row] for row in data)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(value: Cell) -> str:
    """A value that breaks no table."""
    text = "" if value is None else str(value)
    for sign, written in (("&", "&amp;"), ("<", "&lt;"), ("|", "&#124;"), ("\n", "<br>")):
        text = text.replace(sign, written)
    return text
