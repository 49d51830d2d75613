"""Weights & Biases; WANDB_MODE=offline keeps everything in files for `wandb sync`."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from evolign.errors import quoted
from evolign.tracking.base import Table, TrackedRun, cells


class Wandb:
    """One run in a wandb project, joined by its id."""

    def __init__(self, run: TrackedRun) -> None:
        """See `Tracker.__init__`."""
        import wandb

        self.held: int | None
        self._wandb = wandb
        self._run = wandb.init(
            project=run.project,
            name=run.name,
            id=run.id,
            resume="allow" if run.joins else None,
            config=dict(run.config),
            settings=wandb.Settings(console="off", silent=True, x_disable_stats=True),
        )
        if self._run.offline:  # a session that was killed lacks its end, so each one holds the whole run
            self.held, self.where = -1, f"wandb sync {quoted(Path(self._run.dir).parent)}"
        else:
            self.held = self._run.step - 1 if self._run.resumed else None
            self.where = str(self._run.url)

    def log(self, step: int, metrics: Mapping[str, float], samples: Mapping[str, Table]) -> None:
        """See `Tracker.log`."""
        made = {name: self._table(table) for name, table in samples.items()}
        self._run.log({**metrics, **made}, step=step)

    def keep(self, files: Sequence[Path]) -> None:
        """See `Tracker.keep`."""
        artifact = self._wandb.Artifact(f"run-{self._run.id}", type="result")
        for file in files:
            artifact.add_file(str(file))
        self._run.log_artifact(artifact)

    def close(self, finished: bool) -> None:
        """See `Tracker.close`."""
        self._run.finish(exit_code=0 if finished else 1)

    def _table(self, table: Table) -> Any:
        names, data = cells(table)
        return self._wandb.Table(columns=names, data=data)
