"""`evolign track`: send a run to trackers afterwards; and what a run hands to them at its end."""

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from evolign.config import TrackingConfig
from evolign.config.recipe import parse
from evolign.errors import RunError
from evolign.runs.directory import RunDir, read_config
from evolign.runs.progress import Progress, Silent
from evolign.runs.record import finished
from evolign.tracking import TRACKERS, check_trackers
from evolign.tracking.follower import Follower

FILES = ("config.json", "provenance.json", "result.json")
REPORT = "report.html"


def track(
    run: str | Path,
    to: Sequence[str] = (),
    *,
    project: str | None = None,
    name: str | None = None,
    progress: Progress | None = None,
) -> None:
    """Send to trackers what they lack of a run: its rows, samples, result and report.

        evolign.track("runs/mine", ["tensorboard"])

    `to`, `project` and `name` stand for those of the run's configuration; a tracker that knows the run keeps
    its own. Each row is sent once, however often this is called, and an unfinished run as far as it has got.
    Raises ConfigError for a tracker that is not installed or cannot be started, RunError if one failed.
    """
    with RunDir.open(run) as run_dir:
        settings = read_config(run_dir.path).tracking
        wanted = {
            "to": [*to] or settings.to,
            "project": project or settings.project,
            "name": name or settings.name,
        }
        if not wanted["to"]:
            raise RunError(
                f"the run in {str(run)!r} names no tracker; say which with --to: {', '.join(TRACKERS)}"
            )
        check_trackers(wanted["to"])
        asked = parse({"tracking": wanted}, source="track()").tracking
        with follow(run_dir, asked, progress or Silent()) as follower:
            follower.send()
            hand_over(run_dir, follower)
    if follower.failed:
        failures = "; ".join(f"{tracker}: {what}" for tracker, what in follower.failed.items())
        raise RunError(f"not all of {str(run)!r} was sent ({failures}); the same command sends the rest")


def follow(run_dir: RunDir, settings: TrackingConfig, progress: Progress) -> Follower:
    """`progress`, and the trackers of `settings` behind it."""
    return Follower(run_dir, settings.to, settings.project, settings.name, progress)


def hand_over(run_dir: RunDir, follower: Follower) -> None:
    """Send the result of a finished run to its trackers, with a report of it."""
    if not follower.unfinished or not finished(run_dir.path):
        return
    with TemporaryDirectory() as folder:
        files = [run_dir.path / name for name in FILES]
        report = Path(folder, REPORT)
        if _reported(run_dir.path, report):
            files.append(report)
        follower.finish(run_dir.read_json("result.json"), files)


def _reported(run: Path, out: Path) -> bool:
    """Write the page of `evolign compare` about one run; False where it cannot be compared."""
    from evolign.comparison import compare

    try:
        compare([run], out)
    except RunError:
        return False
    return True
