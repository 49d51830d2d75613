"""Trackers that a run's figures go to."""

import re
from typing import Literal

from pydantic import field_validator

from evolign.config.section import Section
from evolign.errors import shown

TrackerName = Literal["trackio", "wandb", "tensorboard"]
"""The trackers that a recipe can name."""
LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._ -]{0,127}")
"""Names that every tracker takes."""


class TrackingConfig(Section):
    """Trackers that show a run while it goes on. They change nothing of it."""

    to: list[TrackerName] = []
    """Where the rows of metrics.jsonl go, beside the run directory."""
    project: str = "evolign"
    """The tracker's project."""
    name: str | None = None
    """The run's name there; null: that of the run directory."""

    @field_validator("to")
    @classmethod
    def _each_once(cls, value: list[str]) -> list[str]:
        if len(set(value)) < len(value):
            raise ValueError(f"tracking.to = {shown(value)} names a tracker twice; name each once")
        return value

    @field_validator("project", "name")
    @classmethod
    def _every_tracker_takes_it(cls, value: str | None) -> str | None:
        if value is not None and not LABEL.fullmatch(value):
            raise ValueError(
                f"tracking.project and tracking.name: {shown(value)} must have at most 128 letters, digits, "
                "dots, spaces, _ or -, and begin with a letter or digit; trackers take no other names"
            )
        return value
