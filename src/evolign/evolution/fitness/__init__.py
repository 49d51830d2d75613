"""Fitness: one number per candidate, from the completions of a generation.

The keys below are the values of `fitness.name` and the names of the modules.
"""

from collections.abc import Callable
from typing import Any

from evolign.config import EvolutionConfig
from evolign.engines import Engine
from evolign.evolution.fitness.base import Fitness, FitnessValues
from evolign.evolution.fitness.likelihood import LikelihoodFitness
from evolign.evolution.fitness.reward import RewardFitness
from evolign.rewards.scoring import Scoring
from evolign.tasks.base import Task

__all__ = ["FITNESS", "Fitness", "FitnessValues", "LikelihoodFitness", "RewardFitness", "build_fitness"]

FITNESS: dict[str, Callable[..., Fitness[Any, Any]]] = {
    "reward": RewardFitness,
    "likelihood": LikelihoodFitness,
}


def build_fitness(config: EvolutionConfig, task: Task, engine: Engine, scorer: Scoring) -> Fitness[Any, Any]:
    """The fitness that `config.fitness` names, over the training prompts of `task`."""
    return FITNESS[config.fitness.name](config, task, engine, scorer)
