"""What every run is made of, whatever its method."""

from typing import Literal

from evolign.config.engines import EngineConfig, TransformersConfig
from evolign.config.inference import EvaluationConfig, LengthConfig
from evolign.config.needs import Needs
from evolign.config.policy import AdapterConfig, ModelConfig
from evolign.config.section import Section, Seed
from evolign.config.tasks import ArithmeticConfig, ScoringConfig, TaskConfig
from evolign.config.tracking import TrackingConfig

FORMAT: Literal[1] = 1
"""Version of run directories and checkpoints. A run of another version is not read."""


class Config(Section):
    """Everything that a run depends on: this, and what its method adds."""

    method: str
    """How to align: see `evolign list`."""
    seed: Seed = 0
    """Seed of everything random in the run except the data split."""
    model: ModelConfig = ModelConfig()
    adapter: AdapterConfig | None = AdapterConfig()
    task: TaskConfig = ArithmeticConfig()
    scoring: ScoringConfig = ScoringConfig()
    sampling: LengthConfig = LengthConfig()
    engine: EngineConfig = TransformersConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    tracking: TrackingConfig = TrackingConfig()
    format: Literal[1] = FORMAT
    """Version of run directories, written into config.json; a recipe may leave it out."""

    @property
    def needs(self) -> Needs:
        """What the method asks of a task."""
        raise NotImplementedError
