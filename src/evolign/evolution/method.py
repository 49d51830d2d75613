"""`method: evolution` from end to end: warm start, evolution of the adapter, test, export.

ESSA (arXiv 2507.04453v3) is a recipe of it.
"""

from typing import Any

import numpy as np

from evolign.config import EvolutionConfig
from evolign.engines import Engine, build_engine, scoring
from evolign.evaluation.evaluate import Evaluation, evaluate_split
from evolign.evaluation.result import keep_samples, reported_split, summarise
from evolign.evolution.fitness import build_fitness
from evolign.evolution.loop import Outcome, evolve
from evolign.evolution.search import Search
from evolign.policy.base_model import BaseModel
from evolign.policy.export import write_adapter
from evolign.policy.policy import load_policy
from evolign.rewards.scoring import Scorer, Scoring
from evolign.runs.directory import RunDir
from evolign.runs.progress import ASKED, Progress
from evolign.tasks.base import Task, examples
from evolign.types import Population


def evolution(
    config: EvolutionConfig, run: RunDir, task: Task, base: BaseModel, progress: Progress
) -> dict[str, Any]:
    """Evolution of a LoRA adapter after a short supervised warm start; ESSA is a recipe of it.

    Runs or resumes the method in `run`; returns what result.json holds.
    """
    with Scorer(task.reward, **config.scoring.model_dump(), progress=progress) as local:
        local.start()  # fail early if the reward cannot be loaded
        if not run.warm_start.is_dir():
            progress.say(_starting_point(config, task))
        policy = load_policy(config, base, task.warmup, run.warm_start, progress)
        run.record_warm_start()
        progress.say(
            f"Searching {policy.space} with {config.strategy.name}, population {config.strategy.population}."
        )
        with build_engine(config.engine, policy, examples(task), progress) as engine:
            scorer = scoring(engine, local)
            fitness = build_fitness(config, task, engine, scorer)
            search = Search(config, run, task, engine, scorer, policy.space, progress)
            outcome = evolve(fitness, search)
            summary = final_test(config, run, task, engine, scorer, outcome, progress)
    with run.replacing(run.adapter) as folder:
        write_adapter(policy.space.decode(outcome.theta_D), folder, summary)
    return summary if outcome.stopped == ASKED else run.finish(summary)


def final_test(
    config: EvolutionConfig,
    run: RunDir,
    task: Task,
    engine: Engine,
    scorer: Scoring,
    outcome: Outcome,
    progress: Progress,
) -> dict[str, Any]:
    """Evaluate the starting point and the exported policy on prompts that nothing else has used."""
    split = reported_split(task)
    progress.say(f"Stopped at {outcome.stopped}. Testing on {len(getattr(task, split))} {split} prompts.")

    def evaluation_at(theta_D: np.ndarray) -> Evaluation:
        return evaluate_split(config, task, split, engine, scorer, Population(theta_D[None]))

    with progress.phase("final test", 2, "policies") as phase:
        found = {}
        for stage, theta_D in (("baseline", np.zeros_like(outcome.theta_D)), ("final", outcome.theta_D)):
            found[stage] = evaluation_at(theta_D)
            phase.advance()
    state = outcome.state
    for stage, evaluation in found.items():
        state.add_failures(evaluation.cost)
        keep_samples(
            config, run, evaluation, {"generation": state.generation, "split": split, "stage": stage}
        )
    return summarise(
        config,
        task,
        {stage: evaluation.metrics for stage, evaluation in found.items()},
        task.metric,
        exported_generation=state.best_generation,
        validation=state.best,
        stopped=outcome.stopped,
        fitness=config.fitness.name,
        strategy=config.strategy.name,
        dimensions=len(outcome.theta_D),
        initial_sigma=state.initial_sigma,
        calibration=state.calibration,
        generations=state.generation,
        **state.costs(),
    )


def _starting_point(config: EvolutionConfig, task: Task) -> str:
    adapter = config.adapter
    if adapter.path is not None:
        return f"Starting from the adapter {adapter.path}."
    if adapter.warm_start is None:
        return "Starting from an untrained adapter (B = 0): random directions; expect less from it."
    return f"Warm start: supervised fine-tuning on {len(task.warmup)} solved rows."
