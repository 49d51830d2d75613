"""What a run has cost so far: counted, limited and reported alike by evolution and by training."""

from dataclasses import dataclass
from typing import Any, Protocol

from evolign.types import Cost


class CostLimits(Protocol):
    """The costs at which a run ends."""

    max_completions: int | None
    max_minutes: float | None


@dataclass(kw_only=True)
class Tally:
    """Costs of search or training, without warm start and final test."""

    completions: int = 0
    """Completions to learn from; those of validation are counted apart."""
    generated_tokens: int = 0
    validation_completions: int = 0
    seconds: float = 0.0
    timeouts: int = 0
    """Rewards that hung, validation included."""
    crashes: int = 0
    """Rewards that killed their process, validation included."""

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
        }
