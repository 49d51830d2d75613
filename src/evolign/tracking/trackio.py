"""Trackio: a local dashboard, or one in a Space (environment variable TRACKIO_SPACE_ID)."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from evolign.tracking.base import Table, TrackedRun, cells


class Trackio:
    """One run in a trackio project. Trackio joins runs by name, so the name carries the id."""

    def __init__(self, run: TrackedRun) -> None:
        """See `Tracker.__init__`."""
        import trackio

        self._trackio = trackio
        self._name = f"{run.name}-{run.id}"
        self._run = trackio.init(
            project=run.project,
            name=self._name,
            resume="allow" if run.joins else "never",
            config=dict(run.config),
            embed=False,
            auto_log_cpu=False,
            auto_log_gpu=False,
        )
        # It writes twice a second, so a run that was killed may lack its last rows; only it knows which.
        following = getattr(self._run, "_next_step", None)
        self.held = following - 1 if run.joins and following is not None else None
        self.where = f'trackio show --project "{run.project}"'

    def log(self, step: int, metrics: Mapping[str, float], samples: Mapping[str, Table]) -> None:
        """See `Tracker.log`."""
        made = {name: self._table(table) for name, table in samples.items()}
        self._run.log({**metrics, **made}, step=step)

    def keep(self, files: Sequence[Path]) -> None:
        """See `Tracker.keep`."""
        artifact = self._trackio.Artifact(name=self._name, type="result")
        for file in files:
            artifact.add_file(file)
        self._run.log_artifact(artifact)

    def close(self, finished: bool) -> None:
        """See `Tracker.close`."""
        self._run.finish()

    def _table(self, table: Table) -> Any:
        names, data = cells(table)
        return self._trackio.Table(columns=names, data=data)
