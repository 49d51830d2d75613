"""The trajectory of the loop on the fake engine, as recorded in evolution.json.

A change that should not alter results leaves the file as it is. One that should alters it in the
same commit and says so in the changelog:

    python tests/golden/test_evolution.py      rewrites evolution.json
"""

import json
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from evolign.config.recipe import dump, parse
from evolign.engines.fake import FakeEngine
from evolign.evolution.fitness import build_fitness
from evolign.evolution.loop import evolve
from evolign.evolution.search import Search
from evolign.rewards.scores import Scores
from evolign.rewards.scoring import Scoring
from evolign.runs.directory import RunDir
from evolign.runs.progress import Silent
from evolign.types import Example

GOLDEN = Path(__file__).with_name("evolution.json")
OPTIMUM = np.array([1.0, -2.0, 0.5])
SPACE = SimpleNamespace(dim=len(OPTIMUM), subspace_dim=None, lift=lambda mean_D, subspace, step_D: step_D)
VARIANTS: dict[str, dict[str, Any]] = {
    "cma_es": {"strategy": {"name": "cma_es"}},
    "snes per_candidate": {
        "strategy": {"name": "snes"},
        "evolution": {"prompt_sharing": "per_candidate"},
    },
    "calibrated sigma": {"strategy": {"name": "cma_es", "sigma": "auto"}},
}
ROUNDED = (
    "fitness_mean",
    "fitness_max",
    "fitness_min",
    "fitness_std",
    "fitness_of_mean",
    "sigma",
    "change_rate",
)
COUNTED = ("generation", "completions", "generated_tokens")


class NumberScorer(Scoring):
    """The reward reads the number back, without a process."""

    def score(self, examples: Any, texts: Any, token_ids: object = None) -> Scores:
        return Scores(np.array([float(text) for text in texts]))


def respond(theta_D: np.ndarray, example: Example) -> str:
    """The quadratic, seen through the prompt's own lens and in steps, so that not every text changes."""
    lens = 1.0 + example.columns["number"] / 10
    return str(round(-lens * float(((theta_D - OPTIMUM) ** 2).sum()), 1))


def trajectory(variant: str) -> tuple[dict[str, Any], set[str]]:
    """Metrics after each generation and the exported theta, rounded more coarsely than errors add up; and the
    names of all metrics that were logged."""
    shared = {
        "seed": 7,
        "strategy": {"population": 6, "sigma": 0.5},
        "evolution": {"generations": 5, "prompts_per_generation": 3},
        "evaluation": {"every": 2, "decoding": ["greedy"]},
    }
    sections = VARIANTS[variant]
    tree = {
        name: {**value, **sections.get(name, {})} if isinstance(value, dict) else value
        for name, value in shared.items()
    }
    config = parse(tree)
    prompts = [Example(f"p{i}", f"prompt {i}", columns={"number": i}) for i in range(12)]
    task = SimpleNamespace(train=prompts[:8], validation=prompts[8:], test=[], warmup=[], metric="reward")
    with tempfile.TemporaryDirectory() as folder, RunDir.create(Path(folder) / "run", dump(config)) as run:
        engine, scorer = FakeEngine(respond, dim=len(OPTIMUM)), NumberScorer()
        engine.add_prompts(prompts)
        fitness = build_fitness(config, task, engine, scorer)  # type: ignore[arg-type]
        outcome = evolve(fitness, Search(config, run, task, engine, scorer, SPACE, Silent()))  # type: ignore[arg-type]
        rows = run.read_rows("metrics.jsonl")
    names = (*ROUNDED, "eval/reward_greedy")
    found = {
        "generations": [
            {name: row[name] for name in COUNTED}
            | {name: round(row[name], 10) for name in names if name in row}
            for row in rows
        ],
        "theta": [round(value, 10) for value in outcome.theta_D.tolist()],
        "exported_generation": outcome.state.best_generation,
    }
    return found, {name for row in rows for name in row}


def recorded() -> dict[str, Any]:
    """What the file shall hold. Its `fields` are what docs/run_directory.md must explain."""
    trajectories = {variant: trajectory(variant) for variant in VARIANTS}
    fields = sorted(set().union(*(names for _, names in trajectories.values())))
    return {
        "fields": fields,
        "trajectories": {variant: found for variant, (found, _) in trajectories.items()},
    }


def test_the_file_holds_every_variant_and_field() -> None:
    golden = json.loads(GOLDEN.read_text())
    assert golden["trajectories"].keys() == VARIANTS.keys()
    assert golden["fields"] == recorded()["fields"]


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_trajectory_is_the_recorded_one(variant: str) -> None:
    assert trajectory(variant)[0] == json.loads(GOLDEN.read_text())["trajectories"][variant]


if __name__ == "__main__":
    GOLDEN.write_text(json.dumps(recorded(), indent=1) + "\n")
