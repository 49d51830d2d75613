"""What a run has cost and seen so far: counted, limited and reported alike by evolution and by training."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Protocol

import numpy as np
from pydantic import ConfigDict, Field

from evolign.metrics import levelled
from evolign.types import Cost

Count = Annotated[int, Field(ge=0)]
EQUAL_WARNING = 3
"""Batches of completions whose rewards are all equal before the user is warned, once."""


class CostLimits(Protocol):
    """The costs at which a run ends."""

    max_completions: int | None
    max_minutes: float | None


@dataclass(kw_only=True)
class Tally:
    """Costs of search or training, without warm start and final test."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)
    """How a checkpoint's values are checked."""

    completions: Count = 0
    """Completions to learn from; those of validation are counted apart."""
    generated_tokens: Count = 0
    validation_completions: Count = 0
    seconds: Annotated[float, Field(ge=0)] = 0.0
    timeouts: Count = 0
    """Rewards that hung, validation included."""
    crashes: Count = 0
    """Rewards that killed their process, validation included."""

    rewards: Count = 0
    """Rewards so far, validation included."""
    batches: Count = 0
    """Batches that they came in."""
    lowest: float | None = None
    """Of all rewards so far."""
    highest: float | None = None

    def watch(self, rewards: Iterable[float], count: int | None = None) -> str:
        """Take note of a batch of rewards, NaN left out; a warning where the first few were all equal.

        `count`: how many there are, where `rewards` are their extremes.
        """
        values = np.array([value for value in rewards if not np.isnan(value)])
        if not len(values):
            return ""
        known = [value for value in (self.lowest, self.highest) if value is not None]
        extremes = levelled(np.array([values.min(), values.max(), *known]))
        self.lowest, self.highest = float(extremes.min()), float(extremes.max())
        self.rewards += len(values) if count is None else count
        self.batches += 1
        return self.all_equal if self.batches == EQUAL_WARNING else ""

    @property
    def all_equal(self) -> str:
        """What to tell of a run whose rewards have all been the same; empty where they differ."""
        return "" if self.lowest != self.highest else equal_rewards(self.rewards, self.lowest)

    def add(self, cost: Cost) -> None:
        """Count what completions to learn from have cost."""
        self.completions += cost.completions
        self.generated_tokens += cost.tokens
        self.add_failures(cost)

    def add_validation(self, cost: Cost) -> None:
        """Count what a validation has cost."""
        self.validation_completions += cost.completions
        self.add_failures(cost)

    def add_failures(self, cost: Cost) -> None:
        """Count the rewards that hung or crashed, and nothing else."""
        self.timeouts += cost.timeouts
        self.crashes += cost.crashes

    def reached(self, limits: CostLimits) -> str:
        """The cost limit that has been reached; empty if none."""
        if limits.max_completions and self.completions >= limits.max_completions:
            return f"max_completions = {limits.max_completions}"
        if limits.max_minutes and self.seconds >= 60 * limits.max_minutes:
            return f"max_minutes = {limits.max_minutes}"
        return ""

    def costs(self) -> dict[str, Any]:
        """The costs as result.json has them."""
        return {
            "completions": self.completions,
            "validation_completions": self.validation_completions,
            "generated_tokens": self.generated_tokens,
            "reward_timeouts": self.timeouts,
            "reward_crashes": self.crashes,
            "seconds": self.seconds,
            "warnings": [self.all_equal] if self.all_equal else [],
        }


def equal_rewards(count: int, value: float | None, where: str = "samples.jsonl") -> str:
    """The warning of `count` rewards that are all `value`, and lie in `where`; none of fewer than two."""
    if count < 2 or value is None:
        return ""
    cause = (
        "the task may be too hard for the model, sampling.max_new_tokens too small, or the reward may not "
        "read the answers"
        if value <= 0
        else "the task may be solved already, or the reward may not tell completions apart"
    )
    return (
        f"all {count} rewards so far are equal ({value:.3g}), so there is nothing to learn from: {cause}; "
        f"look at completions and scores in {where}, and run `evolign check`"
    )
