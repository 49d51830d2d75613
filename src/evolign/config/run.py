"""What every run is made of, whatever its method."""

from typing import Annotated

from pydantic import Field

from evolign.config.inference import EvaluationConfig, LengthConfig, TransformersConfig
from evolign.config.policy import AdapterConfig, ModelConfig
from evolign.config.section import Section
from evolign.config.tasks import ArithmeticConfig, ScoringConfig, TaskConfig


class Config(Section):
    """Everything that a run depends on: this, and what its method adds."""

    method: str
    """How to align: see `evolign list`."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Seed of everything random in the run except the data split."""
    model: ModelConfig = ModelConfig()
    adapter: AdapterConfig | None = AdapterConfig()
    task: TaskConfig = ArithmeticConfig()
    scoring: ScoringConfig = ScoringConfig()
    sampling: LengthConfig = LengthConfig()
    engine: TransformersConfig = TransformersConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
