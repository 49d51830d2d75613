"""Peak memory of whole runs on a 33M model, each in its own process: ESSA with 8 and 800 candidates, GRPO.

    python benchmarks/memory.py --json            # some minutes, most of them for 800 candidates

`base` only generates with our engine and no adapter, as many rows as the smaller run. GRPO is TRL's, from the
same starting adapter, one step on 64 completions, beside an ESSA generation on 64: all rows at once, and 8.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

CLI = "import sys; from evolign.cli.app import main; sys.exit(main())"
PROMPTS, SAMPLES, TOKENS = 64, 8, 8
FEW = 8
"""Prompts of a step of GRPO, whose 512 rows would not fit the machine."""


def common(model: str) -> dict[str, Any]:
    return {
        "model": {"name": model},
        "adapter": {"rank": 8, "target_modules": "all-linear", "warm_start": None},
        "task": {"name": "arithmetic", "num_train": 500, "num_validation": 16, "num_test": 16},
        "sampling": {"max_new_tokens": TOKENS},
    }


def essa_recipe(model: str) -> dict[str, Any]:
    return common(model) | {
        "method": "evolution",
        "strategy": {"name": "cma_es", "population": SAMPLES, "sigma": 0.1},
        "evolution": {"generations": 1, "prompts_per_generation": PROMPTS},
    }


def grpo_recipe(model: str) -> dict[str, Any]:
    return common(model) | {
        "method": "grpo",
        "sampling": {"max_new_tokens": TOKENS, "samples_per_prompt": SAMPLES},
        "training": {"max_steps": 1, "batch_size": FEW},
    }


def run(code: list[str]) -> str:
    """Standard output of a process that runs `code` with this Python."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-W", "ignore", *code]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment).stdout


def peak_of(recipe: dict[str, Any], out: Path, changes: Sequence[str] = ()) -> int:
    """Peak memory of a whole run of `recipe` in the new directory `out`."""
    config = out.with_suffix(".yaml")
    config.write_text(json.dumps(recipe))  # JSON is YAML
    run(["-c", CLI, "run", str(config), *changes, "--out", str(out)])
    return int(json.loads((out / "result.json").read_text())["peak_memory_bytes"])


def base(model: str) -> None:
    """Generate the rows of one generation of 8 candidates and the mean, without an adapter."""
    import numpy as np
    from engine import NoSpace

    from evolign.config import ModelConfig
    from evolign.config.recipe import parse
    from evolign.engines.transformers.engine import TransformersEngine
    from evolign.policy.adapter import Adapter
    from evolign.policy.base_model import load_base_model
    from evolign.policy.policy import Policy
    from evolign.tasks import build_task
    from evolign.types import Population, Sampling

    no_space: Any = NoSpace()
    config = parse(essa_recipe(model))
    task = build_task(config.task)
    policy = Policy(load_base_model(ModelConfig(name=model)), Adapter({}, {}), no_space)
    population = Population(np.zeros((SAMPLES + 1, 0)))
    with TransformersEngine(policy) as engine:
        engine.add_prompts(task.train[:PROMPTS])
        names = [example.id for example in task.train[:PROMPTS]]
        engine.generate(population, [names] * len(population), Sampling(TOKENS))
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object last")
    parser.add_argument("--base", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.base:
        return base(options.base)
    from engine import random_model, saved

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = saved(random_model(), folder / "model")
        many = ["strategy.population=800", "evolution.prompts_per_generation=2"]
        contenders: dict[str, Callable[[], int]] = {
            "base": lambda: int(run([__file__, "--base", model]).split()[-1]),
            "essa, population 8": lambda: peak_of(essa_recipe(model), folder / "few"),
            "essa, population 800": lambda: peak_of(essa_recipe(model), folder / "many", many),
        }
        few = f"evolution.prompts_per_generation={FEW}"
        for rows in (FEW * SAMPLES, 8):
            at_once = [few, f"engine.micro_batch_size={rows}"]
            contenders[f"essa, {rows} rows at once"] = partial(
                peak_of, essa_recipe(model), folder / f"essa{rows}", at_once
            )
            contenders[f"grpo, {rows} rows at once"] = partial(
                peak_of, grpo_recipe(model), folder / f"grpo{rows}", [f"training.micro_batch_size={rows}"]
            )
        peak = {}
        for what, measure in contenders.items():
            peak[what] = measure()
            print(
                f"{what:22} {peak[what] / 2**20:7.0f} MiB  {peak[what] / peak['base']:.2f} x base", flush=True
            )
    if options.json:
        print(json.dumps({"peak_memory_bytes": peak}))


if __name__ == "__main__":
    main()
