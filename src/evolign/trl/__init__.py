"""A GRPO script with two lines changed: EvolutionTrainer in the shape of TRL's GRPOTrainer."""

from evolign.trl.config import EvolutionConfig
from evolign.trl.trainer import EvolutionTrainer

__all__ = ["EvolutionConfig", "EvolutionTrainer"]
