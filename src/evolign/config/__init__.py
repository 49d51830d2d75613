"""The whole configuration as one typed tree. A recipe is a YAML file of these fields.

`CONFIGS` maps a recipe's `method` to its type. Nothing here imports torch, so that a recipe is checked in
milliseconds. Files are read and written by `recipe.py`.
"""

from evolign.config.engines import EngineConfig, RayConfig, TransformersConfig, VllmConfig
from evolign.config.evolution import (
    CalibrationConfig,
    EvolutionConfig,
    FitnessConfig,
    LikelihoodConfig,
    LoopConfig,
    RewardFitnessConfig,
    SpaceConfig,
)
from evolign.config.inference import EvaluationConfig, LengthConfig, SamplingConfig
from evolign.config.policy import (
    AdapterConfig,
    LoraSpaceConfig,
    ModelConfig,
    SingularValuesConfig,
    TrainedAdapterConfig,
    WarmStartConfig,
)
from evolign.config.presets import DollyConfig, HhConfig, SelfInstructConfig, VicunaConfig, XsumConfig
from evolign.config.run import Config
from evolign.config.section import Section
from evolign.config.strategies import (
    CmaEsConfig,
    OpenAiEsConfig,
    RandomSearchConfig,
    SnesConfig,
    StrategyConfig,
)
from evolign.config.tasks import (
    ArithmeticConfig,
    Gsm8kConfig,
    RowsConfig,
    ScoringConfig,
    SummariesConfig,
    TaskConfig,
)
from evolign.config.tracking import TrackingConfig
from evolign.config.training import (
    DpoConfig,
    DpoObjectiveConfig,
    EsoConfig,
    GradientConfig,
    GrpoConfig,
    GrpoObjectiveConfig,
    OnPolicyObjectiveConfig,
    PpoConfig,
    PpoObjectiveConfig,
    RewardModelConfig,
    RrhfConfig,
    RrhfObjectiveConfig,
    SelfCriticalConfig,
    SftConfig,
    TrainingConfig,
    UnlikelihoodConfig,
)

CONFIGS: dict[str, type[Config]] = {
    "evolution": EvolutionConfig,
    "sft": SftConfig,
    "eso": EsoConfig,
    "unlikelihood": UnlikelihoodConfig,
    "self_critical": SelfCriticalConfig,
    "rrhf": RrhfConfig,
    "ppo": PpoConfig,
    "dpo": DpoConfig,
    "grpo": GrpoConfig,
    "reward_model": RewardModelConfig,
}

__all__ = [
    "CONFIGS",
    "AdapterConfig",
    "ArithmeticConfig",
    "CalibrationConfig",
    "CmaEsConfig",
    "Config",
    "DollyConfig",
    "DpoConfig",
    "DpoObjectiveConfig",
    "EngineConfig",
    "EsoConfig",
    "EvaluationConfig",
    "EvolutionConfig",
    "FitnessConfig",
    "GradientConfig",
    "GrpoConfig",
    "GrpoObjectiveConfig",
    "Gsm8kConfig",
    "HhConfig",
    "LengthConfig",
    "LikelihoodConfig",
    "LoopConfig",
    "LoraSpaceConfig",
    "ModelConfig",
    "OnPolicyObjectiveConfig",
    "OpenAiEsConfig",
    "PpoConfig",
    "PpoObjectiveConfig",
    "RandomSearchConfig",
    "RayConfig",
    "RewardFitnessConfig",
    "RewardModelConfig",
    "RowsConfig",
    "RrhfConfig",
    "RrhfObjectiveConfig",
    "SamplingConfig",
    "ScoringConfig",
    "Section",
    "SelfCriticalConfig",
    "SelfInstructConfig",
    "SftConfig",
    "SingularValuesConfig",
    "SnesConfig",
    "SpaceConfig",
    "StrategyConfig",
    "SummariesConfig",
    "TaskConfig",
    "TrackingConfig",
    "TrainedAdapterConfig",
    "TrainingConfig",
    "TransformersConfig",
    "UnlikelihoodConfig",
    "VicunaConfig",
    "VllmConfig",
    "WarmStartConfig",
    "XsumConfig",
]
