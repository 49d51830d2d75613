"""The rewards of a task: one, or several with weights."""

from typing import Annotated, Any

from pydantic import Field, model_validator

from evolign.config.paths import RewardName
from evolign.config.section import Section, Weight
from evolign.errors import shown


class WeightedRewardConfig(Section):
    """One of several rewards."""

    name: RewardName
    """What `reward` can be."""
    weight: Annotated[float, Field(ge=-Weight.le), Weight] = 1.0
    """Factor of the reward in the sum; 0: it is only watched, as a metric."""


class RewardedConfig(Section):
    """A task whose reward can be chosen."""

    reward: RewardName | None = "rouge_l"
    """Registry key, `classifier:FOLDER`, `package.module:function`, or `file.py:function`."""
    rewards: Annotated[list[WeightedRewardConfig], Field(min_length=1)] | None = None
    """Several rewards in place of `reward`: their weighted sum is the score."""

    @model_validator(mode="before")
    @classmethod
    def _several_replace_the_default(cls, given: Any) -> Any:
        if isinstance(given, dict) and given.get("rewards") is not None:
            return {"reward": None, **given}
        return given

    @model_validator(mode="after")
    def _one_or_several(self) -> "RewardedConfig":
        if self.reward is not None and self.rewards is not None:
            names = ", ".join(term.name for term in self.rewards)
            raise ValueError(
                f"task.reward = {shown(self.reward)} and task.rewards ({names}) are both given, but a task "
                "has one of the two; add it to task.rewards, or set one of them to null"
            )
        if self.reward is None and self.rewards is None:
            raise ValueError("task.reward and task.rewards are both null; name a reward in one of the two")
        if self.rewards is not None and not any(term.weight for term in self.rewards):
            raise ValueError(
                "task.rewards: the weights of all rewards are 0, which only watches them, so that nothing is "
                "optimised; give one of them another weight"
            )
        return self
