"""What a generation costs outside `generate`: ask, tell, score, log and checkpoint at D = 8,192.

    python benchmarks/overhead.py --json            # full covariance, five generations of CMA-ES; ten minutes

The strategy is asked and told with random fitness. The eigendecomposition, which pycma does once in many
generations, is timed by itself and shared out among them. One generation of a 33M model (attention, rank
128: 8,192 values) is generated and scored for real. Times are wall clock.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from engine import random_model

from evolign.config import EvolutionConfig
from evolign.config.recipe import parse
from evolign.engines.transformers.engine import TransformersEngine
from evolign.evolution.prompts import score_completions
from evolign.policy.policy import load_policy
from evolign.rewards.scoring import Scorer
from evolign.runs.directory import RunDir
from evolign.strategies.cma_es import CmaEs
from evolign.tasks import build_task
from evolign.tasks.base import ids
from evolign.types import Population, Sampling

RANK, DIMENSIONS = 128, 8192


def timed(run: Callable[[], Any]) -> tuple[float, Any]:
    started = time.perf_counter()
    value = run()
    return time.perf_counter() - started, value


def strategy_seconds(options: argparse.Namespace, folder: Path) -> dict[str, list[float]]:
    """Seconds of ask, tell, and log and checkpoint, generation by generation."""
    strategy = CmaEs(
        DIMENSIONS, population=options.population, sigma=0.1, seed=0, covariance=options.covariance
    )
    noise = np.random.default_rng(0)
    seconds: dict[str, list[float]] = {"ask": [], "tell": [], "record": []}
    with RunDir.create(folder / "run", "{}") as run:
        for generation in range(1, options.generations + 1):
            taken, theta_ND = timed(strategy.ask)
            seconds["ask"].append(taken)
            fitness_N = noise.normal(size=options.population)
            seconds["tell"].append(timed(lambda: strategy.tell(theta_ND, fitness_N))[0])  # noqa: B023
            seconds["record"].append(timed(lambda: record(run, strategy, generation))[0])  # noqa: B023
    if options.covariance == "full":
        sampler = strategy._es.sm
        taken, _ = timed(lambda: np.linalg.eigh(sampler.C))
        print(f"eigendecomposition: {taken:.1f} s, once in {sampler.lazy_update_gap:.0f} generations")
        seconds["eigendecomposition"] = [taken / sampler.lazy_update_gap]
    return seconds


def record(run: RunDir, strategy: CmaEs, generation: int) -> None:
    run.append("metrics.jsonl", [{"generation": generation, "fitness_mean": 0.0}])
    run.save(generation, {"generation": generation}, strategy.state_dict() | {"best": strategy.mean})


def generation_seconds(options: argparse.Namespace, folder: Path) -> tuple[float, float]:
    """Seconds to generate and to score one generation."""
    config = parse(
        {
            "adapter": {"rank": RANK, "target_modules": "attention", "warm_start": None},
            "task": {"name": "arithmetic"},
        }
    )
    assert isinstance(config, EvolutionConfig)
    base, task = random_model(), build_task(config.task)
    policy = load_policy(config, base, [], folder / "start")
    assert policy.space.dim == DIMENSIONS, policy.space.dim
    candidates = options.population + 1  # and the mean
    theta_ND = 0.05 * np.random.default_rng(1).normal(size=(candidates, DIMENSIONS))
    examples_NP = [task.train[: options.prompts]] * candidates
    sampling = Sampling(options.tokens)
    with TransformersEngine(policy) as engine, Scorer(task.reward, **config.scoring.model_dump()) as scorer:
        scorer.start()
        engine.add_prompts(task.train)
        prompts_NP = [ids(examples) for examples in examples_NP]
        generate, rollouts = timed(lambda: engine.generate(Population(theta_ND), prompts_NP, sampling))
        score, _ = timed(lambda: score_completions(scorer, examples_NP, rollouts))
    print(f"generated {rollouts.cost.completions} completions, {rollouts.cost.tokens} tokens")
    return generate, score


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--covariance", choices=["full", "diagonal"], default="full")
    parser.add_argument("--population", type=int, default=24)
    parser.add_argument("--generations", type=int, default=5)
    parser.add_argument("--prompts", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", action="store_true", help="print one JSON object last")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        seconds = strategy_seconds(options, Path(folder))
        means = {name: float(np.mean(taken)) for name, taken in seconds.items()}
        print(
            {name: f"{np.median(taken):.3f} s, longest {max(taken):.1f}" for name, taken in seconds.items()}
        )
        generate, score = generation_seconds(options, Path(folder))
    means |= {"score": score}
    share = sum(means.values()) / generate
    print(
        {name: f"{value:.3f} s" for name, value in means.items()}, f"generate {generate:.1f} s, {share:.1%}"
    )
    if options.json:
        print(json.dumps({"seconds": means | {"generate": generate}, "overhead": share}))


if __name__ == "__main__":
    main()
