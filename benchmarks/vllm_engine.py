"""The engine `vllm` beside the engine `transformers`: tokens per second, in one process each, one CPU thread.

    VLLM_PYTHON benchmarks/vllm_engine.py --models wide FOLDER_OF_SMOLLM2 --json

VLLM_PYTHON is that of `make test-vllm`: .venv-vllm/bin/python. `wide` is the embedded arithmetic model with
attention heads that vLLM's CPU kernels know. 16 candidates, 8 prompts, 32 new tokens, rank 8 on all linear
layers, greedy, float32; rows end where the model ends them, and tokens that were written are counted. Both
write in turn; medians of --repeats, of wall-clock and of CPU seconds. vLLM runs in this process, so that CPU
seconds count it all.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ |= {
    "HF_HUB_OFFLINE": "1",
    "OMP_NUM_THREADS": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_CPU_KVCACHE_SPACE": "2",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
}

import numpy as np
import torch

CANDIDATES, PROMPTS, TOKENS, RANK = 16, 8, 32, 8
ON_CPU = {
    "enforce_eager": True,
    "max_model_len": 128,
    "max_num_seqs": CANDIDATES * PROMPTS,
    "distributed_executor_backend": "uni",
}


def policies(folder: Path, root: Path) -> list[Any]:
    """The same policy twice."""
    from evolign.config import EvolutionConfig, ModelConfig
    from evolign.config.recipe import parse
    from evolign.policy.base_model import load_base_model
    from evolign.policy.policy import load_policy

    config = parse({"adapter": {"rank": RANK, "target_modules": "all-linear", "warm_start": None}})
    assert isinstance(config, EvolutionConfig)
    made: list[Any] = []
    for _ in range(2):
        base = load_base_model(ModelConfig(name=str(folder), device="cpu", dtype="float32"))
        made.append(load_policy(config, base, [], root / f"start-{len(made)}"))
    return made


def measure(folder: Path, repeats: int) -> dict[str, Any]:
    """Tokens per second of both engines, wall-clock and per CPU second."""
    from evolign.config import TransformersConfig, VllmConfig
    from evolign.engines import build_engine
    from evolign.types import Example, Population, Sampling

    rows = [Example(str(i), f"{11 + i} + {89 - i} = ?\n") for i in range(PROMPTS)]
    names = [[row.id for row in rows]] * CANDIDATES
    greedy = Sampling(max_new_tokens=TOKENS, temperature=0.0)
    with tempfile.TemporaryDirectory() as root:
        one, other = policies(folder, Path(root))
        theta_NK = 0.3 * np.random.default_rng(0).standard_normal((CANDIDATES, one.space.dim))
        population = Population(theta_NK)
        seconds: dict[str, list[tuple[float, float]]] = {"transformers": [], "vllm": []}
        with (
            build_engine(TransformersConfig(threads=1), one, rows) as ours,
            build_engine(VllmConfig(threads=1, max_loras=CANDIDATES, options=ON_CPU), other, rows) as theirs,
        ):
            engines = {"transformers": ours, "vllm": theirs}
            found = {}
            for repeat in range(repeats + 1):  # the first warms up
                for name, engine in engines.items():
                    torch.set_num_threads(1)
                    wall, cpu = time.perf_counter(), time.process_time()
                    found[name] = engine.generate(population, names, greedy)
                    taken = time.perf_counter() - wall, time.process_time() - cpu
                    if repeat:
                        seconds[name].append(taken)
            written = {name: rollouts.cost.tokens for name, rollouts in found.items()}
            equal = (found["vllm"].token_ids_NPS == found["transformers"].token_ids_NPS).mean()
    rates = {
        name: [written[name] / statistics.median(column) for column in zip(*taken, strict=True)]
        for name, taken in seconds.items()
    }
    wall, cpu = (a / b for a, b in zip(rates["vllm"], rates["transformers"], strict=True))
    return {"tokens_per_second": rates, "vllm_vs_transformers": wall, "per_cpu_second": cpu, "equal": equal}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", default=["wide"], help="`wide`, or folders of models")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", action="store_true", help="print one JSON object last")
    options = parser.parse_args()
    sys.path.append(str(Path(__file__).parents[1] / "tests" / "support"))
    from wide_heads import save_wide

    table = {}
    with tempfile.TemporaryDirectory() as root:
        for name in options.models:
            folder = save_wide(Path(root) / "wide") if name == "wide" else Path(name)
            row = table[folder.name] = measure(folder, options.repeats)
            rates = ", ".join(f"{n} {r[0]:.0f}" for n, r in row["tokens_per_second"].items())
            print(
                f"{folder.name}: {rates} tokens/s; vllm / transformers {row['vllm_vs_transformers']:.2f}, "
                f"by CPU seconds {row['per_cpu_second']:.2f}; {row['equal']:.0%} of rows equal",
                flush=True,
            )
    if options.json:
        print(json.dumps({"table": table}))


if __name__ == "__main__":
    main()
