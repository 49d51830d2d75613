"""Trackers: where a run's figures are shown beside its directory, while it goes on or afterwards.

`TRACKERS` maps a tracker's name in a recipe to its class. `follower.py` reads the files of a run and sends
each row once, so that no method knows of trackers.
"""

from collections.abc import Iterable
from importlib.util import find_spec
from pkgutil import resolve_name

from evolign.errors import ConfigError, unknown_name
from evolign.tracking.base import TrackedRun, Tracker

TRACKERS = {
    "trackio": "evolign.tracking.trackio:Trackio",
    "wandb": "evolign.tracking.wandb:Wandb",
    "tensorboard": "evolign.tracking.tensorboard:TensorBoard",
}


def build_tracker(name: str, run: TrackedRun) -> Tracker:
    """The tracker of this name, with `run` open in it."""
    tracker: Tracker = resolve_name(TRACKERS[name])(run)
    return tracker


def check_trackers(to: Iterable[str]) -> None:
    """Raise ConfigError for a tracker that does not exist or is not installed."""
    for name in to:
        if name not in TRACKERS:
            raise unknown_name("tracker", name, TRACKERS)
        if find_spec(name) is None:
            raise ConfigError(
                f"tracking.to: {name} is not installed: pip install 'evolign[trackers]' (or {name} alone)"
            )


__all__ = ["TRACKERS", "TrackedRun", "Tracker", "build_tracker", "check_trackers"]
